//! Downloads from servers and networks that lie, break, stall and lead astray.

use crate::fake_hub::FakeHub;
use crate::lab::{CANARY, Lab, noise, said, secret, tiny};
use crate::server::{HostileServer, Manner, Reply, Request};
use hub::{Error, Pull};
use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SIZE: usize = 200_000;

fn contents() -> Vec<u8> {
    noise(7, SIZE)
}

/// An honest Hub with one file, for which `file` answers instead.
fn serve(file: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HostileServer {
    let hub = FakeHub::with(&[("big.bin", contents())]);
    HostileServer::start(move |request| match request.target.contains("/resolve/") {
        true => file(request),
        false => hub.answer(request),
    })
}

/// An honest Hub that lists `tree`.
fn serve_tree(tree: Vec<Value>) -> HostileServer {
    let hub = FakeHub::with(&[("config.json", b"{}".to_vec())]);
    HostileServer::start(move |request| match request.target.contains("/tree/") {
        true => Reply::json(&tree.clone().into()),
        false => hub.answer(request),
    })
}

fn arrives(lab: &Lab) {
    lab.pull(&lab.to_folder()).unwrap();
    assert!(fs::read(lab.out().join("big.bin")).unwrap() == contents());
}

fn fails(lab: &Lab) -> Error {
    let error = lab.pull(&lab.to_folder()).unwrap_err();
    assert!(!lab.out().join("big.bin").exists());
    said(&error);
    error
}

#[test]
fn a_connection_that_drops_is_gone_on_with_by_range() {
    let server = serve(|request| {
        let reply = Reply::file(request, &contents());
        if request.nth < 8 { reply.sent(Manner::Cut(20_000)) } else { reply }
    });
    let lab = Lab::at(&server);
    arrives(&lab);
    let starts: Vec<_> = server.requests_for("/resolve/").iter().map(Request::range_start).collect();
    // More drops than attempts are allowed in a row: each of them got further.
    assert_eq!(starts, (0..9).map(|i| i * 20_000).collect::<Vec<_>>());
    assert_eq!(lab.ear.count("Retry"), 8);
}

#[test]
fn a_server_that_never_speaks_is_given_up_after_the_attempts() {
    let server = serve(|_| Reply::new(200, "").sent(Manner::Silence));
    let lab = Lab::at(&server);
    let error = fails(&lab);
    assert!(matches!(error, Error::Network { .. }) && error.exit_code() == 7, "{error:?}");
    assert_eq!(server.requests_for("/resolve/").len(), 6);
    // 1, 2, 4, 8 and 16 s, times 0.75 for a chance of one half.
    assert_eq!(lab.slept(), Duration::from_millis(23_250));
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let server = serve(|request| {
        let reply = Reply::new(200, contents());
        if request.nth == 0 { reply.sent(Manner::Cut(50_000)) } else { reply }
    });
    let lab = Lab::at(&server);
    arrives(&lab);
    assert_eq!(server.requests_for("/resolve/")[1].range_start(), 50_000);
}

#[test]
fn a_range_that_is_not_the_one_asked_for_is_not_glued_on() {
    let server = serve(|request| match request.nth {
        0 => Reply::new(200, contents()).sent(Manner::Cut(50_000)),
        1 => Reply::new(206, &contents()[40_000..190_000]).with("Content-Range", format!("bytes 40000-189999/{SIZE}")),
        _ => Reply::file(request, &contents()),
    });
    let lab = Lab::at(&server);
    arrives(&lab);
    assert!(lab.ear.heard.lock().unwrap().iter().any(|line| line.contains("asked for bytes from 50000, found")));
}

#[test]
fn a_partial_file_that_is_too_long_or_wrong_is_started_over() {
    let server = serve(|request| Reply::file(request, &contents()));
    for partial in [noise(8, SIZE + 1), noise(9, SIZE), noise(9, 1000)] {
        let lab = Lab::at(&server);
        let folder = lab.out().join(".cache/huggingface/download");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(crate::fake_hub::sha256(&contents())).with_extension("incomplete"), partial).unwrap();
        arrives(&lab);
    }
}

#[test]
fn a_wrong_length_is_never_accepted() {
    let server = serve(|request| match request.nth {
        0 => Reply::new(200, &contents()[..SIZE - 1]),
        1 => Reply::new(200, contents()).with("Content-Length", SIZE + 1),
        // Without a length, more than there should be.
        2 => Reply::new(200, contents()).sent(Manner::Endless),
        _ => Reply::file(request, &contents()),
    });
    arrives(&Lab::at(&server));
    let server = serve(|_| Reply::new(200, [contents(), vec![0]].concat()));
    let error = fails(&Lab::at(&server));
    assert!(matches!(error, Error::Corrupt { .. }) && error.exit_code() == 3, "{error:?}");
}

#[test]
fn a_wrong_hash_is_never_accepted() {
    let wrong = |request: &Request| {
        let mut bytes = contents();
        bytes[SIZE / 2] ^= 1;
        Reply::file(request, &bytes)
    };
    let server =
        serve(move |request| if request.nth == 0 { wrong(request) } else { Reply::file(request, &contents()) });
    arrives(&Lab::at(&server));
    let server = serve(wrong);
    let lab = Lab::at(&server);
    let error = fails(&lab);
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert!(lab.files().iter().all(|(_, bytes)| bytes.len() < 1000), "wrong bytes are not kept");
}

#[test]
fn a_server_that_asks_to_wait_is_waited_for() {
    let server = serve(|request| match request.nth {
        0 => Reply::new(429, "slow down").with("Retry-After", 7),
        1 => Reply::new(503, "").with("Retry-After", "Sun, 09 Sep 2001 01:47:00 GMT"),
        2 => Reply::new(429, "").with("RateLimit", "\"resolvers\";r=0;t=3"),
        _ => Reply::file(request, &contents()),
    });
    let lab = Lab::at(&server);
    arrives(&lab);
    // 7 s, 20 s until that date, 3 s, and a little chance on top of each.
    let slept = lab.slept();
    assert!(slept >= Duration::from_secs(30) && slept <= Duration::from_secs(33), "{slept:?}");
}

#[test]
fn a_pause_without_end_is_said_and_not_waited_for() {
    let server = serve(|_| Reply::new(429, "come back tomorrow").with("Retry-After", 86_400));
    let lab = Lab::at(&server);
    let error = fails(&lab);
    assert!(matches!(error, Error::Wait { pause, .. } if pause.as_secs() == 86_400), "{error:?}");
    assert_eq!(lab.slept(), Duration::ZERO);
}

#[test]
fn the_token_does_not_go_to_another_server() {
    let cdn = HostileServer::start(|request| Reply::file(request, &contents()));
    let to = format!("{}/signed?X-Amz-Signature=s", cdn.url());
    let server = serve(move |request| match request.target.ends_with("/home") {
        true => Reply::new(302, "").with("Location", &to),
        false => Reply::new(307, "").with("Location", "/x/resolve/home"),
    });
    arrives(&Lab::at(&server));
    let token = format!("Bearer {CANARY}");
    assert!(server.requests_for("/resolve/").iter().all(|request| request.header("authorization") == Some(&token)));
    assert_eq!(cdn.requests().len(), 1);
    for request in cdn.requests() {
        assert!(!format!("{request:?}").contains(CANARY), "{request:?}");
    }
}

#[test]
fn a_server_that_leads_back_home_does_not_get_the_token_sent() {
    let back = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let home = back.clone();
    let cdn = HostileServer::start(move |_| Reply::new(302, "").with("Location", home.get().unwrap()));
    let to = cdn.url();
    let server = serve(move |request| match request.target.ends_with("/back") {
        true => Reply::file(request, &contents()),
        false => Reply::new(302, "").with("Location", &to),
    });
    back.set(format!("{}/x/resolve/back", server.url())).unwrap();
    arrives(&Lab::at(&server));
    assert_eq!(server.requests_for("/back")[0].header("authorization"), None);
}

#[test]
fn the_token_does_not_travel_in_the_clear() {
    let server = HostileServer::start(|_| Reply::new(401, "{}"));
    // This address is the same machine, but does not say so, as any other host's.
    let lab = Lab::new(&server.url().replace("127.0.0.1", "0.0.0.0"));
    let error = fails(&lab);
    assert!(said(&error).contains("not sent over http://"), "{error}");
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[test]
fn a_proxy_is_asked_unless_the_host_is_exempt() {
    let proxy = HostileServer::start(|_| Reply::new(502, ""));
    let server = serve(|request| Reply::file(request, &contents()));
    let mut lab = Lab::new(&server.url().replace("127.0.0.1", "0.0.0.0"));
    lab.settings.proxy = Some(secret(&proxy.url().replace("http://", "http://user:proxypassword@")));
    let error = fails(&lab);
    assert!(matches!(error, Error::Network { .. }) && !said(&error).contains("proxypassword"), "{error:?}");
    assert!(!format!("{:?}", lab.settings).contains("proxypassword"));
    assert!(server.requests().is_empty());
    assert_eq!(proxy.requests()[0].method, "CONNECT");
    lab.settings.no_proxy = "example.com, 0.0.0.0".into();
    arrives(&lab);
}

#[test]
fn redirects_come_to_an_end() {
    let server = serve(|request| Reply::new(302, "").with("Location", &request.target));
    let lab = Lab::at(&server);
    let error = fails(&lab);
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert_eq!(server.requests_for("/resolve/").len(), 9);
}

#[test]
fn redirects_lead_to_web_servers_only() {
    for location in ["file:///etc/passwd", "ftp://x/y", "https://user:pw@host/", "http://", ""] {
        let server = serve(move |_| Reply::new(302, "").with("Location", location));
        let error = fails(&Lab::at(&server));
        assert!(!said(&error).contains("pw@"), "{error}");
        assert!(matches!(error, Error::Protocol { .. }), "{location}: {error:?}");
    }
}

#[test]
fn names_that_escape_are_refused_before_anything_is_written() {
    for name in ["../../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt", ".git/hooks/post-checkout", "x\0y"] {
        let entries = vec![FakeHub::entry("config.json", b"{}", false), FakeHub::entry(name, b"evil", false)];
        let server = serve_tree(entries);
        let lab = Lab::at(&server);
        for request in [lab.to_folder(), Pull::new(tiny())] {
            let error = lab.pull(&request).unwrap_err();
            assert!(matches!(error, Error::UnsafeName { .. }) && error.exit_code() == 3, "{error:?}");
        }
        assert!(server.requests_for("/resolve/").is_empty());
        assert!(lab.files().iter().all(|(path, bytes)| bytes != b"evil" && path.extension().unwrap() == "json"));
        // Whoever leaves it out gets the rest.
        let exclude = vec![name.to_owned()];
        assert_eq!(lab.pull(&Pull { exclude, ..lab.to_folder() }).unwrap().files.len(), 1);
    }
}

#[test]
fn names_of_our_own_files_and_twins_are_refused() {
    let entry = |name: &str| FakeHub::entry(name, b"{}", false);
    for tree in [vec![entry("config.json"), entry("config.json")], vec![entry(".cache/huggingface/trees/x.json")]] {
        let server = serve_tree(tree);
        let lab = Lab::at(&server);
        let error = lab.pull(&lab.to_folder()).unwrap_err();
        assert!(matches!(error, Error::UnsafeName { .. }), "{error:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_link_in_the_folder_is_not_followed_out_of_it() {
    let server = serve_tree(vec![FakeHub::entry("sub/config.json", b"{}", false)]);
    let lab = Lab::at(&server);
    let outside = lab.folder.join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(lab.out()).unwrap();
    std::os::unix::fs::symlink(&outside, lab.out().join("sub")).unwrap();
    let error = lab.pull(&lab.to_folder()).unwrap_err();
    assert!(said(&error).contains("symbolic link"), "{error}");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn hashes_that_are_no_hashes_are_refused() {
    for oid in ["../../../etc/cron.d/x", "", "zz"] {
        let mut entry = FakeHub::entry("config.json", b"{}", false);
        entry["oid"] = oid.into();
        let server = serve_tree(vec![entry]);
        let lab = Lab::at(&server);
        let error = lab.pull(&lab.to_folder()).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    }
    let server = HostileServer::start(|_| Reply::json(&json!({"sha": "../../main", "siblings": []})));
    let lab = Lab::at(&server);
    assert!(matches!(lab.pull(&lab.to_folder()), Err(Error::Protocol { .. })));
}

#[test]
fn a_body_that_stalls_is_left_and_gone_on_with() {
    let server = serve(|request| {
        let reply = Reply::file(request, &contents());
        if request.range_start() == 0 { reply.sent(Manner::Stall(30_000)) } else { reply }
    });
    let mut lab = Lab::at(&server);
    lab.settings.limits.idle = Duration::from_millis(300);
    arrives(&lab);
    assert!(server.requests_for("/resolve/").len() > 1);
}

#[test]
fn a_body_that_trickles_is_left_and_gone_on_with() {
    let server = serve(|request| {
        let reply = Reply::file(request, &contents());
        if request.nth == 0 { reply.sent(Manner::Trickle) } else { reply }
    });
    let mut lab = Lab::at(&server);
    // A minute per look at the clock: whatever came, it came too slowly.
    lab.clock.tick.store(61_000, Ordering::SeqCst);
    lab.settings.limits.slow_bytes = 150_000;
    lab.pull(&lab.to_folder()).unwrap();
    assert!(lab.ear.heard.lock().unwrap().iter().any(|line| line.contains("too slow")));
    assert!(server.requests_for("/resolve/")[1].range_start() > 0);
}

#[test]
fn a_compressed_bomb_does_not_go_off() {
    // 1,000 zeros as one gzip member; a bomb is the same with more of them.
    let bomb = [
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14, 0x0c, 0x3d, 0x00][..],
        &[0x5c, 0xb1, 0xc4, 0x6b, 0xe8, 0x03, 0, 0],
    ];
    let bomb = bomb.concat();
    let zipped = bomb.clone();
    let server = serve(move |_| Reply::new(200, zipped.clone()).with("Content-Encoding", "gzip"));
    let error = fails(&Lab::at(&server));
    assert!(said(&error).contains("compressed"), "{error}");
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
    let server = HostileServer::start(move |_| Reply::new(200, bomb.clone()).with("Content-Encoding", "gzip"));
    assert!(said(&fails(&Lab::at(&server))).contains("compressed"));
}

#[test]
fn a_listing_without_end_is_cut_off() {
    let server = HostileServer::start(|_| Reply::new(200, vec![b' '; 1 << 20]).sent(Manner::Endless));
    let error = fails(&Lab::at(&server));
    assert!(said(&error).contains("longer than"), "{error}");
    let server = HostileServer::start(|request| match request.target.contains("/tree/") {
        true => Reply::new(200, "[]").with("Link", "<https://elsewhere.example/x>; rel=\"next\""),
        false => Reply::json(&json!({"sha": "a".repeat(40)})),
    });
    let error = fails(&Lab::at(&server));
    assert!(said(&error).contains("another server"), "{error}");
}

#[test]
fn a_token_that_the_server_repeats_is_not_shown() {
    let server = HostileServer::start(|request| {
        let sent = request.header("authorization").unwrap().to_owned();
        match request.nth {
            0 => Reply::new(500, "{}").with("X-Error-Message", format!("cannot use {sent}")),
            _ => Reply::new(400, json!({"error": format!("bad header {sent} \u{1b}[31m")}).to_string()),
        }
    });
    let lab = Lab::at(&server);
    let error = fails(&lab);
    assert!(said(&error).contains("bad header Bearer ***"), "{error}");
    assert!(!error.to_string().contains('\u{1b}'));
    assert_eq!(lab.ear.count("Retry"), 1);
}
