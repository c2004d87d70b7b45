//! Uploads, to a Hub that means well and through everything that may go wrong on the way.

use crate::fake_hub::{FakeHub, sha256};
use crate::lab::{CANARY, Lab, noise, said, tiny};
use crate::server::{HostileServer, Manner, Reply, Request};
use hub::{Content, Error, NewFile, Push, Pushed, Revision, SafeRelPath, files_of};
use std::fs;

fn file(name: &str, content: Content) -> NewFile {
    NewFile { path: SafeRelPath::new(name).unwrap(), content }
}

fn request(files: Vec<NewFile>) -> Push {
    let revision = Revision::new("main").unwrap();
    Push { repo: tiny(), private: true, revision, files, message: "Add results".into() }
}

pub(crate) fn small(card: &[u8]) -> Push {
    request(vec![file("README.md", Content::Bytes(card.to_vec()))])
}

/// A card, weights in a file, and something that the Hub ignores.
fn results(lab: &Lab) -> Push {
    let folder = lab.folder.join("results");
    fs::create_dir_all(folder.join(".git")).unwrap();
    fs::create_dir_all(folder.join("adapter")).unwrap();
    fs::write(folder.join(".git/config"), "x").unwrap();
    fs::write(folder.join("adapter/adapter_model.safetensors"), noise(5, 100_000)).unwrap();
    fs::write(folder.join("notes.ignored"), "x").unwrap();
    fs::write(folder.join("empty.txt"), "").unwrap();
    let mut files = files_of(&folder, &[], &[]).unwrap();
    assert_eq!(files.len(), 3);
    files.push(file("README.md", Content::Bytes(b"# Results".to_vec())));
    request(files)
}

fn push(lab: &Lab, request: &Push) -> Result<Pushed, Error> {
    hub::push(&lab.client(), request, &lab.ear)
}

fn serve(hub: &FakeHub, word: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> HostileServer {
    let hub = hub.clone();
    HostileServer::start(move |request| word(request).unwrap_or_else(|| hub.answer(request)))
}

/// The repository has the results, made in so many commits.
fn holds(hub: &FakeHub, commits: usize) {
    let state = hub.state.lock().unwrap();
    assert_eq!(state.commits, commits);
    let names: Vec<_> = state.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["README.md", "adapter/adapter_model.safetensors", "empty.txt"]);
    assert_eq!(state.files["README.md"], (b"# Results".to_vec(), false));
    assert!(state.files["adapter/adapter_model.safetensors"] == (noise(5, 100_000), true));
}

#[test]
fn results_go_up_in_one_commit_and_only_once() {
    let hub = FakeHub::default();
    let server = serve(&hub, |_| None);
    let lab = Lab::at(&server);
    let request = results(&lab);
    let pushed = push(&lab, &request).unwrap();
    assert_eq!(pushed.commit.unwrap().as_str(), hub.commit());
    assert_eq!((pushed.changed, pushed.url), (3, format!("{}/org/tiny", server.url())));
    holds(&hub, 1);
    assert!(hub.state.lock().unwrap().private);

    let again = push(&lab, &request).unwrap();
    assert_eq!((again.commit, again.changed, again.unchanged), (None, 0, 4));
    holds(&hub, 1);
    assert_eq!(server.requests_for("/storage/").len(), 1);
}

#[test]
fn the_token_does_not_go_to_the_storage() {
    let hub = FakeHub::default();
    let storage = serve(&hub, |_| None);
    hub.state.lock().unwrap().storage = storage.url();
    let server = serve(&hub, |_| None);
    let lab = Lab::at(&server);
    push(&lab, &results(&lab)).unwrap();
    holds(&hub, 1);
    let requests = storage.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].method.as_str(), requests[0].header("x-amz-test")), ("PUT", Some("1")));
    assert!(!format!("{:?}", requests[0].headers).contains(CANARY));
    assert!(server.requests_for("/verify").iter().all(|request| request.header("authorization").is_some()));
}

#[test]
fn large_objects_go_in_parts_and_a_part_that_drops_is_sent_again() {
    let hub = FakeHub::default();
    hub.state.lock().unwrap().part = Some(30_000);
    let drop = |request: &Request| {
        (request.target.contains("part=2") && request.nth == 0).then(|| Reply::new(200, "").sent(Manner::Silence))
    };
    let server = serve(&hub, drop);
    let lab = Lab::at(&server);
    let mut request = results(&lab);
    request.files.push(file("bytes.bin", Content::Bytes(noise(6, 70_000))));
    push(&lab, &request).unwrap();
    assert!(hub.state.lock().unwrap().files["bytes.bin"].0 == noise(6, 70_000));
    assert!(hub.state.lock().unwrap().files["adapter/adapter_model.safetensors"].0 == noise(5, 100_000));
    // Four and three parts, each dropped once at its second.
    assert_eq!(server.requests_for("?part=").len(), 4 + 3 + 2);
}

#[test]
fn an_upload_goes_on_after_a_failure_without_sending_again() {
    let hub = FakeHub::default();
    let fail = |request: &Request| {
        let first = request.target.contains("/commit/") && request.nth == 0;
        first.then(|| Reply::new(400, r#"{"error": "not today"}"#))
    };
    let server = serve(&hub, fail);
    let lab = Lab::at(&server);
    let request = results(&lab);
    let error = push(&lab, &request).unwrap_err();
    assert!(said(&error).contains("not today"), "{error}");
    push(&lab, &request).unwrap();
    holds(&hub, 1);
    assert_eq!(server.requests_for("/storage/").len(), 1);
}

#[test]
fn a_storage_that_fails_for_a_while_or_forgets_its_signature_is_asked_again() {
    for status in [500, 503, 403] {
        let hub = FakeHub::default();
        let fail = move |request: &Request| {
            (request.target.contains("/storage/") && request.nth == 0).then(|| Reply::new(status, "try again"))
        };
        let server = serve(&hub, fail);
        let lab = Lab::at(&server);
        push(&lab, &results(&lab)).unwrap();
        holds(&hub, 1);
    }
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let hub = FakeHub::default();
    let inner = hub.clone();
    let lose = move |request: &Request| {
        (request.target.contains("/commit/") && request.nth == 0).then(|| {
            let reply = inner.answer(request);
            assert_eq!(reply.status, 200);
            reply.sent(Manner::Silence)
        })
    };
    let server = serve(&hub, lose);
    let lab = Lab::at(&server);
    let pushed = push(&lab, &results(&lab)).unwrap();
    holds(&hub, 1);
    assert_eq!(pushed.commit.unwrap().as_str(), hub.commit());
    assert_eq!(server.requests_for("/commit/").len(), 1);
}

#[test]
fn a_branch_that_moved_meanwhile_is_built_upon() {
    let hub = FakeHub::default();
    let inner = hub.clone();
    let meddle = move |request: &Request| {
        if request.target.contains("/commit/") && request.nth == 0 {
            inner.state.lock().unwrap().commits += 1;
        }
        None
    };
    let server = serve(&hub, meddle);
    let lab = Lab::at(&server);
    push(&lab, &results(&lab)).unwrap();
    holds(&hub, 2);
}

#[test]
fn a_file_that_holds_the_token_is_not_published() {
    let hub = FakeHub::default();
    let server = serve(&hub, |_| None);
    let lab = Lab::at(&server);
    let error = push(&lab, &small(format!("my token is {CANARY}.").as_bytes())).unwrap_err();
    assert!(said(&error).contains("it holds your access token"), "{error}");
    assert_eq!(hub.state.lock().unwrap().commits, 0);
    assert!(server.requests_for("/commit/").is_empty());
}

#[test]
fn without_a_token_nothing_is_sent() {
    let server = serve(&FakeHub::default(), |_| None);
    let mut lab = Lab::at(&server);
    lab.settings.token = None;
    let error = push(&lab, &small(b"x")).unwrap_err();
    assert!(said(&error).contains("set HF_TOKEN"), "{error}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_token_that_may_write_but_not_create_is_enough_for_what_is_there() {
    let hub = FakeHub::with(&[]);
    let deny = |request: &Request| request.target.contains("/create").then(|| Reply::new(403, "{}"));
    let server = serve(&hub, deny);
    let lab = Lab::at(&server);
    push(&lab, &small(b"x")).unwrap();
    assert_eq!(hub.state.lock().unwrap().commits, 1);
    let hub = FakeHub::default();
    let server = serve(&hub, deny);
    let lab = Lab::at(&server);
    assert!(matches!(push(&lab, &small(b"x")), Err(Error::Denied { .. })));
}

#[test]
fn a_server_that_redirects_an_upload_away_is_not_followed() {
    let hub = FakeHub::default();
    let elsewhere = HostileServer::start(|_| Reply::new(200, "{}"));
    let to = elsewhere.url();
    let away = move |request: &Request| {
        let hit = request.target.contains("/commit/") || request.target.contains("/storage/");
        hit.then(|| Reply::new(307, "").with("Location", &to))
    };
    let server = serve(&hub, away);
    let lab = Lab::at(&server);
    for request in [results(&lab), small(b"x")] {
        assert!(matches!(push(&lab, &request), Err(Error::Protocol { .. })));
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn addresses_and_parts_that_make_no_sense_are_refused() {
    let oid = sha256(&noise(5, 100_000));
    let offers = [
        r#"{"upload": {"href": "file:///etc/passwd"}}"#,
        r#"{"upload": {"href": "http://HOST/complete/x", "header": {"chunk_size": "0"}}}"#,
        r#"{"upload": {"href": "http://HOST/complete/x", "header": {"chunk_size": 1, "00001": "http://HOST/y"}}}"#,
        r#"{"upload": {"href": "http://HOST/x", "header": {"bad name": "x\r\ny"}}}"#,
    ];
    for offer in offers {
        let hub = FakeHub::default();
        let text = format!(r#"{{"objects": [{{"oid": "{oid}", "size": 100000, "actions": {offer}}}]}}"#);
        let lie = move |request: &Request| {
            let host = request.header("host").unwrap();
            request.target.contains("/batch").then(|| Reply::new(200, text.replace("HOST", host)))
        };
        let server = serve(&hub, lie);
        let lab = Lab::at(&server);
        let error = push(&lab, &results(&lab)).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{offer}: {error:?}");
        assert_eq!(hub.state.lock().unwrap().commits, 0);
    }
}
