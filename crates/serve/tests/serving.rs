//! A server on a port of this machine: two hundred requests at once, clients that are slow, wrong or gone, and its end.

use infer::{Defaults, Device, Limits, ModelFolder, Sampling};
use serde_json::{Value, json};
use serve::{Server, Settings};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

fn folder() -> ModelFolder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
    ModelFolder::open(&path, None).unwrap()
}

fn settings() -> Settings {
    Settings {
        name: "tiny".into(),
        api_key: None,
        defaults: Defaults { sampling: Sampling::GREEDY, max_new_tokens: Some(16) },
        queue: 256,
        connections: 1100,
        body_bytes: 1 << 16,
        limits: Limits { positions: 512, cache_rows: 2048, step_rows: 128 },
    }
}

/// Runs `work` against a server, then stops it.
fn with_server(settings: Settings, work: impl FnOnce(SocketAddr) + Send) {
    let folder = folder();
    let model = folder.place(512, &Device::Cpu(2)).unwrap();
    let server = Server::bind("127.0.0.1:0", settings).unwrap();
    let (address, stop) = (server.address(), server.stop());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.run(&folder, &model));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(address)));
        stop.stop();
        running.join().unwrap().unwrap();
        outcome.unwrap();
    });
}

fn send(stream: &mut TcpStream, method: &str, path: &str, headers: &str, body: &str) {
    let request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).unwrap();
}

/// The next answer on a connection: its status and its body, chunks put together.
fn receive(reader: &mut impl BufRead) -> (u16, String) {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(n) = header.strip_prefix("content-length: ") {
            length = n.parse().unwrap();
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    while chunked {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let n = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; n + 2];
        reader.read_exact(&mut chunk).unwrap();
        body.extend_from_slice(&chunk[..n]);
        chunked = n > 0;
    }
    (status, String::from_utf8(body).unwrap())
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    send(&mut stream, method, path, headers, body);
    receive(&mut BufReader::new(stream))
}

fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, String) {
    ask(address, "POST", path, "", &body.to_string())
}

/// The texts of an answer's choices, whether it came whole or in events.
fn texts(body: &str) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut add = |choice: &Value, text: &str| {
        let index = choice["index"].as_u64().unwrap() as usize;
        texts.resize(texts.len().max(index + 1), String::new());
        texts[index].push_str(text);
    };
    let events: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    if events.is_empty() {
        let whole: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
        for choice in whole["choices"].as_array().unwrap_or_else(|| panic!("{body}")) {
            let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
            add(choice, text.unwrap());
        }
        return texts;
    }
    assert_eq!(events.last(), Some(&"[DONE]"));
    for event in &events[..events.len() - 1] {
        let part: Value = serde_json::from_str(event).unwrap();
        for choice in part["choices"].as_array().unwrap() {
            let text = choice["delta"]["content"].as_str().or(choice["text"].as_str());
            add(choice, text.unwrap_or_default());
        }
    }
    texts
}

/// Request `i` of many kinds, and where it goes.
fn mixed(i: usize) -> (&'static str, Value) {
    let words = ["one", "two plus", "What is 7 + 5?", "Once upon a time, there"];
    let content = format!("{} {}", words[i % 4], i / 8);
    let temperature = [0.0, 1.0, 0.7][i % 3];
    let mut body = json!({"model": "tiny", "max_tokens": 3 + i % 9, "seed": i, "temperature": temperature});
    body["stream"] = json!(i % 5 == 1);
    if i % 7 == 2 {
        body["n"] = json!(2);
    }
    if i % 11 == 3 {
        body["stop"] = json!(["e", "zz"]);
    }
    if i.is_multiple_of(2) {
        body["messages"] = json!([{"role": "user", "content": content}]);
        body["logprobs"] = json!(i.is_multiple_of(6));
        ("/v1/chat/completions", body)
    } else {
        body["prompt"] = json!(content);
        ("/v1/completions", body)
    }
}

#[test]
fn two_hundred_mixed_requests_at_once_get_what_each_gets_alone() {
    with_server(settings(), |address| {
        let all: Vec<(u16, String)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..200)
                .map(|i| {
                    scope.spawn(move || {
                        let (path, body) = mixed(i);
                        post(address, path, &body)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (i, (status, body)) in all.iter().enumerate() {
            assert_eq!(*status, 200, "request {i}: {body}");
            let (path, asked) = mixed(i);
            let found = texts(body);
            assert_eq!(found.len() as u64, asked["n"].as_u64().unwrap_or(1), "request {i}");
            if i.is_multiple_of(4) {
                let (_, alone) = post(address, path, &asked);
                assert_eq!(found, texts(&alone), "request {i}");
            }
        }
    });
}

#[test]
fn answers_say_what_was_used_and_how_sure_the_model_is() {
    with_server(settings(), |address| {
        let mut body = json!({"messages": [{"role": "user", "content": "2 + 3?"}], "max_tokens": 4, "logprobs": true});
        body["top_logprobs"] = json!(3);
        let (_, text) = post(address, "/v1/chat/completions", &body);
        let whole: Value = serde_json::from_str(&text).unwrap();
        let usage = &whole["usage"];
        assert_eq!(usage["completion_tokens"], 4);
        assert_eq!(usage["total_tokens"].as_u64(), usage["prompt_tokens"].as_u64().map(|n| n + 4));
        assert_eq!(
            (&whole["choices"][0]["finish_reason"], &whole["object"]),
            (&json!("length"), &json!("chat.completion"))
        );
        let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
        assert_eq!(tokens.len(), 4);
        for token in tokens {
            let top = token["top_logprobs"].as_array().unwrap();
            assert!(top.len() == 3 && top[0]["logprob"] == token["logprob"], "greedy takes the most likely: {token}");
        }
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let (_, events) = post(address, "/v1/chat/completions", &body);
        let last = events.lines().filter_map(|line| line.strip_prefix("data: {")).next_back().unwrap();
        let last: Value = serde_json::from_str(&format!("{{{last}")).unwrap();
        assert_eq!(&last["usage"], usage);
        let models: Value = serde_json::from_str(&ask(address, "GET", "/v1/models", "", "").1).unwrap();
        assert_eq!(models["data"][0]["id"], "tiny");
        assert_eq!(ask(address, "GET", "/v1/models/tiny", "", "").0, 200);
        assert_eq!(ask(address, "GET", "/health", "", "").0, 200);
    });
}

#[test]
fn what_is_wrong_gets_its_status_and_the_connection_goes_on() {
    with_server(settings(), |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let long = json!({"prompt": vec![5; 512]}).to_string();
        let cases = [
            ("POST", "/v1/completions", "{", 400),
            ("POST", "/v1/completions", "[]", 400),
            ("POST", "/v1/completions", "{\"prompt\": [99999]}", 400),
            ("POST", "/v1/completions", "{\"prompt\": [99999], \"stream\": true}", 400),
            ("POST", "/v1/completions", "{\"prompt\": \"a\", \"max_tokens\": 0}", 400),
            ("POST", "/v1/completions", &long, 400),
            ("GET", "/v1/completions", "", 405),
            ("POST", "/nowhere", "{}", 404),
            ("GET", "/v1/models/other", "", 404),
            ("GET", "/health", "", 200),
        ];
        for (method, path, body, expected) in cases {
            send(&mut stream, method, path, "", body);
            let (status, body) = receive(&mut reader);
            assert_eq!(status, expected, "{method} {path}: {body}");
            assert!(status == 200 || body.contains("\"error\""), "{body}");
        }
        send(&mut stream, "POST", "/v1/completions", "", &"x".repeat(1 << 17)[..1]);
        assert_eq!(receive(&mut reader).0, 400);
        let huge = "POST /v1/completions HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n";
        stream.write_all(huge.as_bytes()).unwrap();
        assert_eq!(receive(&mut reader).0, 413);
        assert_eq!(ask(address, "GET", "/v1/models", "Origin: http://example.org\r\n", "").0, 403);
    });
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let key = Settings { api_key: Some("secret".into()), ..settings() };
    with_server(key, |address| {
        assert_eq!(ask(address, "GET", "/v1/models", "", "").0, 401);
        assert_eq!(ask(address, "GET", "/v1/models", "Authorization: Bearer secreT\r\n", "").0, 401);
        assert_eq!(ask(address, "GET", "/v1/models", "Authorization: Bearer secret\r\n", "").0, 200);
        assert_eq!(ask(address, "GET", "/health", "", "").0, 200);
    });
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    with_server(Settings { queue: 2, ..settings() }, |address| {
        let body = json!({"prompt": "a", "max_tokens": 200, "stream": true, "n": 2}).to_string();
        let mut first = TcpStream::connect(address).unwrap();
        send(&mut first, "POST", "/v1/completions", "", &body);
        // Its first bytes mean that it is being answered.
        first.read_exact(&mut [0; 12]).unwrap();
        let mut second = TcpStream::connect(address).unwrap();
        send(&mut second, "POST", "/v1/completions", "", "{\"prompt\": \"a\"}");
        let mut answer = String::new();
        BufReader::new(&second).take(200).read_to_string(&mut answer).unwrap_or(0);
        assert!(answer.contains(" 429 ") && answer.contains("Retry-After"), "{answer}");
        // Who goes away makes room.
        drop(first);
        let again = || post(address, "/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).0;
        assert!((0..10_000).any(|_| again() == 200), "the room of a client that has gone is never free");
    });
}

#[test]
fn hundreds_of_connections_that_say_nothing_keep_nobody_from_being_served() {
    with_server(settings(), |address| {
        // Both ends are in this process, which may open a thousand files where nobody has raised the limit.
        let idle: Vec<TcpStream> = (0..400).map_while(|_| TcpStream::connect(address).ok()).collect();
        assert_eq!(idle.len(), 400);
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"POST /v1/completions HTTP/1.1\r\nContent-Le").unwrap();
        let (status, body) = post(address, "/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
        assert_eq!(status, 200, "{body}");
    });
}

#[test]
fn a_connection_too_many_is_told_so() {
    with_server(Settings { connections: 1, ..settings() }, |address| {
        let held = TcpStream::connect(address).unwrap();
        let (status, body) = post(address, "/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
        assert_eq!(status, 503, "{body}");
        drop(held);
    });
}

#[test]
fn a_server_that_is_stopped_finishes_what_it_began() {
    let folder = folder();
    let model = folder.place(512, &Device::Cpu(2)).unwrap();
    let server = Server::bind("127.0.0.1:0", settings()).unwrap();
    let (address, stop) = (server.address(), server.stop());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.run(&folder, &model));
        let mut stream = TcpStream::connect(address).unwrap();
        let idle = TcpStream::connect(address).unwrap();
        let body = json!({"prompt": "a", "max_tokens": 60, "stream": true, "temperature": 1, "seed": 3});
        send(&mut stream, "POST", "/v1/completions", "", &body.to_string());
        let mut reader = BufReader::new(stream);
        // The first bytes have come: it has begun.
        reader.fill_buf().unwrap();
        stop.stop();
        let (status, events) = receive(&mut reader);
        assert!(status == 200 && events.contains("[DONE]"), "{status}: {events}");
        running.join().unwrap().unwrap();
        drop(idle);
    });
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}
