//! Downloads from a Hub that means well.

use crate::fake_hub::{FakeHub, git_blob, sha256};
use crate::lab::{CANARY, Lab, noise, said, tiny};
use crate::server::{HostileServer, Reply};
use hub::{Destination, Error, Lockfile, Pull, Repo, RepoKind, Revision, SafeRelPath};
use serde_json::json;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

fn model() -> FakeHub {
    let weights = noise(1, 300_000);
    FakeHub::with(&[
        ("config.json", b"{}\n".to_vec()),
        ("a/b c.txt", b"text".to_vec()),
        ("model.safetensors", weights.clone()),
        ("a/again.bin", weights),
    ])
}

fn serve(hub: &FakeHub) -> HostileServer {
    let hub = hub.clone();
    HostileServer::start(move |request| hub.answer(request))
}

#[test]
fn a_model_comes_into_the_shared_cache_and_is_not_fetched_twice() {
    let hub = model();
    let server = serve(&hub);
    let lab = Lab::at(&server);
    let pulled = lab.pull(&Pull::new(tiny())).unwrap();
    let cache = lab.folder.join("home/hub/models--org--tiny");
    assert_eq!(pulled.root, cache.join("snapshots").join(hub.commit()));
    assert_eq!((pulled.files.len(), pulled.fetched), (4, 4));
    assert!(fs::read(pulled.root.join("a/again.bin")).unwrap() == noise(1, 300_000));
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), hub.commit());
    let link = fs::read_link(pulled.root.join("a/b c.txt")).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(git_blob(b"text")));
    assert!(cache.join("blobs").join(sha256(&noise(1, 300_000))).is_file());
    assert!(cache.join("trees").join(hub.commit()).with_extension("json").is_file());
    // Equal contents are fetched once.
    assert_eq!(server.requests_for("/resolve/").len(), 3);
    assert!(
        server.requests().iter().all(|request| request.header("authorization") == Some(&format!("Bearer {CANARY}")))
    );

    let before = server.requests().len();
    assert_eq!(lab.pull(&Pull::new(tiny())).unwrap().fetched, 0);
    assert_eq!(server.requests().len(), before + 1);
}

#[test]
fn a_dataset_comes_into_a_plain_folder_by_patterns() {
    let server = serve(&model());
    let lab = Lab::at(&server);
    let repo = Repo::new(RepoKind::Dataset, "org/rows").unwrap();
    let of = |patterns: &[&str]| patterns.iter().map(|p| p.to_string()).collect();
    let request = Pull { repo, include: of(&["a/*"]), exclude: of(&["*.txt"]), ..lab.to_folder() };
    let pulled = lab.pull(&request).unwrap();
    assert_eq!(pulled.root, lab.out());
    assert!(fs::read(lab.out().join("a/again.bin")).unwrap() == noise(1, 300_000));
    assert!(!lab.out().join("config.json").exists() && !lab.out().join("a/b c.txt").exists());
    assert!(server.requests().iter().all(|request| request.target.contains("/datasets/org/rows/")));

    // A file that somebody changed is fetched again, and only that.
    fs::write(lab.out().join("a/again.bin"), noise(2, 300_000)).unwrap();
    assert_eq!(lab.pull(&request).unwrap().fetched, 1);
    assert!(fs::read(lab.out().join("a/again.bin")).unwrap() == noise(1, 300_000));

    let error = lab.pull(&Pull { include: of(&["*.gguf"]), ..request }).unwrap_err();
    assert!(matches!(error, Error::NothingSelected { of: 4, .. }), "{error:?}");
}

#[test]
fn equal_contents_in_a_folder_are_fetched_once_and_are_separate_files() {
    let server = serve(&model());
    let lab = Lab::at(&server);
    lab.pull(&lab.to_folder()).unwrap();
    assert_eq!(server.requests_for("/resolve/").len(), 3);
    for name in ["model.safetensors", "a/again.bin"] {
        let path = lab.out().join(name);
        assert!(!path.is_symlink());
        assert!(fs::read(path).unwrap() == noise(1, 300_000));
    }
    let left = lab.files().into_iter().find(|(path, _)| path.to_string_lossy().contains(".incomplete"));
    assert!(left.is_none());
}

#[test]
fn verify_finds_damage_in_the_cache() {
    let server = serve(&model());
    let lab = Lab::at(&server);
    let pulled = lab.pull(&Pull::new(tiny())).unwrap();
    fs::write(pulled.root.join("model.safetensors"), noise(3, 300_000)).unwrap();
    assert_eq!(lab.pull(&Pull::new(tiny())).unwrap().fetched, 0);
    // Both names lead to the same damaged blob.
    assert_eq!(lab.pull(&Pull { verify: true, ..Pull::new(tiny()) }).unwrap().fetched, 2);
    assert!(fs::read(pulled.root.join("a/again.bin")).unwrap() == noise(1, 300_000));
}

#[test]
fn a_lock_file_pins_the_commit_and_the_contents() {
    let hub = model();
    let server = serve(&hub);
    let lab = Lab::at(&server);
    let path = lab.folder.join("prospect.lock");
    let pulled = lab.pull(&Pull::new(tiny())).unwrap();
    let mut lock = Lockfile::read(&path).unwrap();
    lock.record(&pulled);
    lock.write(&path).unwrap();
    let lock = Lockfile::read(&path).unwrap();

    let old = hub.commit();
    hub.state.lock().unwrap().commits += 1;
    let client = lab.client();
    assert_eq!(hub::pull(&client, &Pull::new(tiny()), Some(&lock), &lab.ear).unwrap().commit.as_str(), old);
    assert_eq!(lab.pull(&Pull::new(tiny())).unwrap().commit.as_str(), hub.commit());

    // The same commit with other contents: the Hub, or somebody between, is lying.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&git_blob(b"text"), &git_blob(b"txet"))).unwrap();
    let lock = Lockfile::read(&path).unwrap();
    let error = hub::pull(&client, &Pull::new(tiny()), Some(&lock), &lab.ear).unwrap_err();
    assert!(matches!(&error, Error::Pinned { file, .. } if file == "a/b c.txt"), "{error}");
}

#[test]
fn offline_no_socket_is_opened() {
    let hub = model();
    let server = serve(&hub);
    let mut lab = Lab::at(&server);
    lab.pull(&Pull::new(tiny())).unwrap();
    lab.pull(&lab.to_folder()).unwrap();
    drop(server);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    lab.settings.endpoint = format!("http://{}", listener.local_addr().unwrap());
    lab.settings.offline = true;
    // Whoever asks all the same learns it soon.
    lab.settings.limits.attempts = 1;
    lab.settings.limits.idle = std::time::Duration::from_millis(100);
    for request in [Pull::new(tiny()), lab.to_folder()] {
        let pulled = lab.pull(&request).unwrap();
        assert_eq!((pulled.files.len(), pulled.commit.as_str()), (4, hub.commit().as_str()));
    }
    fs::remove_file(lab.out().join("config.json")).unwrap();
    let other = Repo::new(RepoKind::Model, "org/other").unwrap();
    let branch = Pull { revision: Revision::new("dev").unwrap(), ..Pull::new(tiny()) };
    for request in [lab.to_folder(), Pull::new(other), branch] {
        let error = lab.pull(&request).unwrap_err();
        assert!(matches!(error, Error::Offline { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 2);
    }
    let push = crate::push::small(b"x");
    assert!(matches!(hub::push(&lab.client(), &push, &lab.ear), Err(Error::Offline { .. })));
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn offline_a_cache_without_a_listing_is_taken_as_it_is() {
    let hub = model();
    let server = serve(&hub);
    let mut lab = Lab::at(&server);
    let first = lab.pull(&Pull::new(tiny())).unwrap();
    fs::remove_dir_all(lab.folder.join("home/hub/models--org--tiny/trees")).unwrap();
    lab.settings.offline = true;
    let mut again = lab.pull(&Pull::new(tiny())).unwrap();
    again.files.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(again.files, first.files);
}

#[test]
fn a_mirror_without_listings_is_read_by_headers() {
    let hub = model();
    let honest = hub.clone();
    let server = HostileServer::start(move |request| {
        if request.target.contains("/tree/") {
            return Reply::new(404, "no such page");
        }
        if request.method != "HEAD" {
            return honest.answer(request);
        }
        let name = request.target.split_once(&honest.commit()).unwrap().1[1..].replace("%20", " ");
        let (bytes, is_lfs) = honest.state.lock().unwrap().files[&name].clone();
        match is_lfs {
            true => Reply::new(302, "")
                .with("Location", "https://cdn.example/x")
                .with("X-Linked-Etag", format!("\"{}\"", sha256(&bytes)))
                .with("X-Linked-Size", bytes.len()),
            false => Reply::new(200, bytes.clone()).with("ETag", format!("W/\"{}\"", git_blob(&bytes))),
        }
    });
    let lab = Lab::at(&server);
    assert_eq!(lab.pull(&Pull::new(tiny())).unwrap().fetched, 4);
}

#[test]
fn a_listing_of_several_pages_is_read_to_its_end() {
    let hub = model();
    let honest = hub.clone();
    let server = HostileServer::start(move |request| match request.target.contains("/tree/") {
        true => {
            let page: usize = request.target.split_once("cursor=").map_or(0, |(_, page)| page.parse().unwrap());
            let tree = honest.tree();
            let reply = Reply::json(&json!([tree[page]]));
            let next = format!("</api/models/org/tiny/tree/x?cursor={}>; rel=\"next\"", page + 1);
            if page + 1 < tree.len() { reply.with("Link", next) } else { reply }
        }
        false => honest.answer(request),
    });
    let lab = Lab::at(&server);
    assert_eq!(lab.pull(&Pull::new(tiny())).unwrap().files.len(), 4);
    assert_eq!(server.requests_for("/tree/").len(), 5);
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let server = serve(&model());
    let lab = Lab::at(&server);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| lab.pull(&Pull::new(tiny())).unwrap());
        }
    });
    assert_eq!(server.requests_for("/resolve/").len(), 3);
}

#[test]
fn a_stop_keeps_what_came_and_the_next_pull_goes_on() {
    let hub = FakeHub::with(&[("big.bin", noise(4, 3_000_000))]);
    let server = serve(&hub);
    let lab = Lab::at(&server);
    lab.ear.stop_after.store(1_000_000, std::sync::atomic::Ordering::SeqCst);
    let error = lab.pull(&lab.to_folder()).unwrap_err();
    assert!(matches!(error, Error::Stopped) && error.exit_code() == 130, "{error:?}");
    lab.ear.go_on();
    lab.pull(&lab.to_folder()).unwrap();
    let requests = server.requests_for("/resolve/");
    assert!(requests[1].range_start() >= 1_000_000, "{:?}", requests[1]);
    assert!(fs::read(lab.out().join("big.bin")).unwrap() == noise(4, 3_000_000));
}

#[test]
fn a_pull_by_commit_asks_only_for_that_commit() {
    let hub = model();
    let server = serve(&hub);
    let lab = Lab::at(&server);
    let request = Pull { revision: Revision::new(&hub.commit()).unwrap(), ..Pull::new(tiny()) };
    lab.pull(&request).unwrap();
    assert!(server.requests_for("/revision/").is_empty());
    let before = server.requests().len();
    let pulled = lab.pull(&request).unwrap();
    assert_eq!(server.requests().len(), before);
    let config = SafeRelPath::new("config.json").unwrap();
    assert_eq!(fs::read(pulled.path_of(&config)).unwrap(), b"{}\n");
}

#[test]
fn a_repository_that_is_missing_or_closed_is_said_with_what_to_do() {
    let status = |status: u16| {
        HostileServer::start(move |_| Reply::new(status, "{}").with("X-Error-Message", "Access to it is restricted."))
    };
    let server = status(404);
    let lab = Lab::at(&server);
    let error = lab.pull(&Pull::new(tiny())).unwrap_err();
    assert!(said(&error).contains("check the spelling and the revision"), "{error}");
    let server = status(403);
    let lab = Lab::at(&server);
    let error = lab.pull(&Pull::new(tiny())).unwrap_err();
    assert!(said(&error).contains("Access to it is restricted.") && said(&error).contains("accept the conditions"));
    let mut lab = Lab::at(&server);
    lab.settings.token = None;
    let error = lab.pull(&Pull { to: Destination::Cache, ..Pull::new(tiny()) }).unwrap_err();
    assert!(said(&error).contains("set HF_TOKEN"), "{error}");
    assert_eq!(error.exit_code(), 2);
}
