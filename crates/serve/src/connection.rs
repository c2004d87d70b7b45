//! One client: its requests one after the other, each answered before the next is read.

use crate::answers::{Choice, Heading};
use crate::api::{Ask, Refusal};
use crate::http::{self, Request, Trouble};
use crate::server::Shared;
use crate::worker::{Job, News, Refused};
use infer::Sampling;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time a client has to begin and to finish its next request.
const REQUEST: Duration = Duration::from_secs(30);
/// Time a client has to take what is written.
const TAKING: Duration = Duration::from_secs(10);

/// A connection whose reads end at a moment, however slowly they trickle.
struct Timed<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        (&mut &*self.stream).read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (&mut &*self.stream).write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        (&mut &*self.stream).flush()
    }
}

/// Serves a client until it goes, or says what cannot be understood.
pub(crate) fn serve(stream: &TcpStream, shared: &Shared<'_>) {
    // Without these a slow client could hold the thread; a system that has no such timeouts is not one we know.
    if stream.set_write_timeout(Some(TAKING)).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let mut rest = Vec::new();
    loop {
        let mut timed = Timed { stream, until: Instant::now() + REQUEST };
        let outcome = match http::read(&mut timed, &mut rest, shared.settings.body_bytes) {
            Ok(Some(request)) => {
                let keep_alive = request.keep_alive && !shared.stop.is_set();
                answer(&mut timed, &request, keep_alive, shared).map(|()| keep_alive)
            }
            Ok(None) | Err(Trouble::Gone) => return,
            Err(Trouble::Bad(status, why)) => {
                return refuse(stream, &Refusal::new(status, why), Duration::from_secs(1));
            }
        };
        if !matches!(outcome, Ok(true)) {
            return;
        }
    }
}

/// Says why a client is not served. What it still sends is read away for a moment, or else the answer is lost on its way.
pub(crate) fn refuse(stream: &TcpStream, refusal: &Refusal, patience: Duration) {
    let mut timed = Timed { stream, until: Instant::now() + patience };
    let said = http::respond(&mut timed, refusal.status, &refusal.body(), false);
    // Fails where the client is gone, which ends the reading as well.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut sink = [0; 4096];
    while said.is_ok() && matches!(timed.read(&mut sink), Ok(n) if n > 0) {}
}

/// Answers one request.
fn answer(stream: &mut impl Write, request: &Request, keep_alive: bool, shared: &Shared<'_>) -> std::io::Result<()> {
    match route(request, shared) {
        Ok(Routed::Said(body)) => http::respond(stream, 200, &body, keep_alive),
        Ok(Routed::Asked(ask)) => generate(stream, &ask, keep_alive, shared),
        Err(refusal) => http::respond(stream, refusal.status, &refusal.body(), keep_alive),
    }
}

enum Routed {
    Said(String),
    Asked(Box<Ask>),
}

fn route(request: &Request, shared: &Shared<'_>) -> Result<Routed, Refusal> {
    let settings = &shared.settings;
    let path = request.path.strip_prefix("/v1").unwrap_or(&request.path);
    let post = match path {
        "/health" | "/models" => false,
        "/chat/completions" | "/completions" => true,
        path if path.strip_prefix("/models/").is_some_and(|name| name == settings.name) => false,
        _ => return Err(Refusal::new(404, format!("there is no {}", request.path))),
    };
    if (request.method == "POST") != post || !(post || request.method == "GET") {
        let method = if post { "POST" } else { "GET" };
        return Err(Refusal::new(405, format!("{}: expected {method}, found {}", request.path, request.method)));
    }
    if path == "/health" {
        return Ok(Routed::Said(json!({"status": "ok", "open": shared.queue.open()}).to_string()));
    }
    match &settings.api_key {
        Some(key) if !request.bearer.as_ref().is_some_and(|given| same(given, key)) => {
            return Err(Refusal::new(401, "the API key is missing or wrong: send it as `Authorization: Bearer KEY`"));
        }
        // Without a key any page that is open in a browser of this machine could ask.
        None if request.origin.is_some() => {
            return Err(Refusal::new(403, "requests of pages in a browser need an API key on this server"));
        }
        _ => {}
    }
    let model = || json!({"id": settings.name, "object": "model", "created": shared.began, "owned_by": "prospect"});
    match path {
        "/models" => Ok(Routed::Said(json!({"object": "list", "data": [model()]}).to_string())),
        "/chat/completions" | "/completions" => {
            // Different for every request, and no secret.
            let seed = shared.began.wrapping_add(shared.requests.fetch_add(1, Ordering::Relaxed) << 20);
            let tokenizer = &shared.folder.tokenizer;
            let ask = Ask::read(&request.body, path != "/completions", tokenizer, &settings.defaults, seed)?;
            fits(&ask, shared)?;
            Ok(Routed::Asked(Box::new(ask)))
        }
        _ => Ok(Routed::Said(model().to_string())),
    }
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn fits(ask: &Ask, shared: &Shared<'_>) -> Result<(), Refusal> {
    let refuse = |message: String, param| Err(Refusal { status: 400, message, param: Some(param) });
    let param = if ask.chat { "messages" } else { "prompt" };
    for prompt in &ask.prompts {
        if prompt.is_empty() {
            return refuse("expected at least one token to continue, found none".to_owned(), param);
        }
        if prompt.len() >= shared.room() {
            let (tokens, room) = (prompt.len(), shared.room());
            return refuse(
                format!("{tokens} tokens leave no room for an answer: this server has room for {room}"),
                param,
            );
        }
    }
    if ask.max_tokens == Some(0) {
        return refuse("max_tokens: expected at least 1, found 0".to_owned(), "max_tokens");
    }
    Ok(())
}

fn generate(stream: &mut impl Write, ask: &Ask, keep_alive: bool, shared: &Shared<'_>) -> std::io::Result<()> {
    let (reply, news) = channel::<News>();
    let mut jobs = Vec::new();
    for (prompt, i) in ask.prompts.iter().zip(0..) {
        for choice in 0..ask.choices {
            let room = shared.room() - prompt.len();
            let most = ask.max_tokens.or(shared.settings.defaults.max_new_tokens).unwrap_or(room).min(room);
            let sampling = Sampling { seed: ask.sampling.seed.wrapping_add(choice), ..ask.sampling };
            let request =
                infer::Request { logprobs: ask.logprobs, ..infer::Request::new(prompt.clone(), most, sampling) };
            let choice = (i * ask.choices + choice) as usize;
            jobs.push(Job { request, choice, reply: reply.clone() });
        }
    }
    drop(reply);
    let numbers = match shared.queue.offer(jobs) {
        Ok(numbers) => numbers,
        Err(refused) => {
            let refusal = match refused {
                Refused::Full => Refusal::new(429, "there are enough requests waiting; try again in a moment"),
                Refused::Closed => Refusal::new(503, "the server is stopping"),
            };
            return http::respond(stream, refusal.status, &refusal.body(), keep_alive);
        }
    };
    let id = shared.requests.fetch_add(1, Ordering::Relaxed);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let kind = if ask.chat { "chatcmpl" } else { "cmpl" };
    let heading = Heading { id: format!("{kind}-{:x}-{id}", shared.began), created, model: &shared.settings.name };
    let choices = numbers.iter().map(|_| Choice::new(&shared.folder.tokenizer, ask)).collect();
    let mut room = Room { ask, heading, choices, numbers, shared };
    let written =
        if ask.stream { room.stream(stream, &news, keep_alive) } else { room.whole(stream, &news, keep_alive) };
    let open = room.choices.iter().zip(&room.numbers).filter(|(choice, _)| choice.finish.is_none());
    let left: Vec<usize> = open.map(|(_, number)| *number).collect();
    shared.queue.cancel(&left);
    written
}

/// An answer under way.
struct Room<'a> {
    ask: &'a Ask,
    heading: Heading<'a>,
    choices: Vec<Choice<'a>>,
    numbers: Vec<usize>,
    shared: &'a Shared<'a>,
}

impl Room<'_> {
    /// Takes the next token in; returns its choice and the text it has added. `None`: all are finished.
    fn next(&mut self, news: &Receiver<News>) -> Option<Result<(usize, String), Refusal>> {
        while self.choices.iter().any(|choice| choice.finish.is_none()) {
            let Ok((index, drawn)) = news.recv() else {
                return Some(Err(Refusal::new(500, "the answer was given up")));
            };
            let choice = &mut self.choices[index];
            if choice.finish.is_some() {
                // What was drawn before the worker heard that the answer had ended.
                continue;
            }
            let piece = match drawn.and_then(|drawn| choice.push(drawn)) {
                Ok(piece) => piece,
                Err(e) => {
                    let status = if matches!(e, infer::Error::NotFinite { .. }) { 500 } else { 400 };
                    return Some(Err(Refusal::new(status, e.to_string())));
                }
            };
            if piece.cut {
                self.shared.queue.cancel(&[self.numbers[index]]);
            }
            return Some(Ok((index, piece.text)));
        }
        None
    }

    fn whole(&mut self, stream: &mut impl Write, news: &Receiver<News>, keep_alive: bool) -> std::io::Result<()> {
        while let Some(next) = self.next(news) {
            if let Err(refusal) = next {
                return http::respond(stream, refusal.status, &refusal.body(), keep_alive);
            }
        }
        let body = self.heading.whole(self.ask, &mut self.choices);
        http::respond(stream, 200, &body, keep_alive)
    }

    fn stream(&mut self, stream: &mut impl Write, news: &Receiver<News>, keep_alive: bool) -> std::io::Result<()> {
        let mut begun = vec![false; self.choices.len()];
        while let Some(next) = self.next(news) {
            let (index, text) = match next {
                Ok(next) => next,
                // Nothing was said yet: the status can still say what is wrong.
                Err(refusal) if begun.iter().all(|begun| !begun) => {
                    return http::respond(stream, refusal.status, &refusal.body(), keep_alive);
                }
                Err(refusal) => {
                    http::event(stream, Some(&refusal.body()))?;
                    return http::event(stream, None);
                }
            };
            if begun.iter().all(|begun| !begun) {
                http::begin_events(stream, keep_alive)?;
            }
            let choice = &mut self.choices[index];
            if !begun[index] || !text.is_empty() || choice.finish.is_some() {
                let part = self.heading.part(self.ask, index, choice, &text, !begun[index]);
                begun[index] = true;
                http::event(stream, Some(&part))?;
            }
        }
        if self.ask.usage {
            http::event(stream, Some(&self.heading.usage(self.ask, &self.choices)))?;
        }
        http::event(stream, Some("[DONE]"))?;
        http::event(stream, None)
    }
}
