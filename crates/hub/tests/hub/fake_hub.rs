//! An honest Hub, as far as the client uses it; tests put a hostile word in front of it.

use crate::server::{Reply, Request};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A repository `org/tiny` of models, or `org/rows` of data.
#[derive(Clone, Default)]
pub(crate) struct FakeHub {
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// By name: contents, and whether they are in the large storage.
    pub(crate) files: BTreeMap<String, (Vec<u8>, bool)>,
    /// The large storage, by hash.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    pub(crate) commits: usize,
    pub(crate) created: bool,
    pub(crate) private: bool,
    /// Where the large storage takes objects; the hub itself by default.
    pub(crate) storage: String,
    /// Bytes per part, if objects are taken in parts.
    pub(crate) part: Option<usize>,
    /// The parts that came, by object and number.
    pub(crate) parts: BTreeMap<(String, usize), Vec<u8>>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(crate) fn git_blob(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", bytes.len()).as_bytes());
    context.update(bytes);
    hex(context.finish().as_ref())
}

impl FakeHub {
    /// Files of more than 1,000 bytes are in the large storage.
    pub(crate) fn with(files: &[(&str, Vec<u8>)]) -> FakeHub {
        let hub = FakeHub::default();
        {
            let mut state = hub.state.lock().unwrap();
            let entry = |(name, bytes): &(&str, Vec<u8>)| (name.to_string(), (bytes.clone(), bytes.len() > 1000));
            state.files = files.iter().map(entry).collect();
            state.created = true;
        }
        hub
    }

    pub(crate) fn commit(&self) -> String {
        format!("{:040x}", self.state.lock().unwrap().commits + 10)
    }

    pub(crate) fn entry(name: &str, bytes: &[u8], is_lfs: bool) -> Value {
        let mut entry = json!({"type": "file", "path": name, "size": bytes.len(), "oid": git_blob(bytes)});
        if is_lfs {
            entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
        }
        entry
    }

    pub(crate) fn tree(&self) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let mut tree = vec![json!({"type": "directory", "path": "a", "size": 0, "oid": "0".repeat(40)})];
        tree.extend(state.files.iter().map(|(name, (bytes, is_lfs))| FakeHub::entry(name, bytes, *is_lfs)));
        tree
    }

    pub(crate) fn file(&self, request: &Request) -> Reply {
        let name = request.target.split_once("/resolve/").unwrap().1.split_once('/').unwrap().1;
        match self.state.lock().unwrap().files.get(&name.replace("%20", " ")) {
            Some((bytes, _)) => Reply::file(request, bytes),
            None => Reply::new(404, r#"{"error": "Entry not found"}"#),
        }
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap();
        let created = self.state.lock().unwrap().created;
        if path.contains("/resolve/") {
            self.file(request)
        } else if !created && path != "/api/repos/create" {
            Reply::new(404, r#"{"error": "Repository not found"}"#)
        } else if path.contains("/revision/") {
            let names: Vec<_> = self.tree().iter().map(|entry| json!({"rfilename": entry["path"]})).collect();
            Reply::json(&json!({"sha": self.commit(), "siblings": names[1..]}))
        } else if path.contains("/tree/") {
            Reply::json(&self.tree().into())
        } else {
            self.take(request, path)
        }
    }

    fn take(&self, request: &Request, path: &str) -> Reply {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let mut state = self.state.lock().unwrap();
        if path == "/api/repos/create" {
            let status = if state.created { 409 } else { 200 };
            (state.created, state.private) = (true, body["private"] == true);
            Reply::new(status, r#"{"error": "You already created this model repo"}"#)
        } else if path.contains("/preupload/") {
            let mode = |file: &Value| {
                let name = file["path"].as_str().unwrap();
                let is_lfs = file["size"].as_u64().unwrap() > 1000;
                let there = state.files.get(name).map(|(b, l)| if *l { sha256(b) } else { git_blob(b) });
                let mode = if is_lfs { "lfs" } else { "regular" };
                json!({"path": name, "uploadMode": mode, "shouldIgnore": name.ends_with(".ignored"), "oid": there})
            };
            let files: Vec<_> = body["files"].as_array().unwrap().iter().map(mode).collect();
            Reply::json(&json!({"files": files}))
        } else if path.ends_with("/objects/batch") {
            let objects: Vec<_> = body["objects"].as_array().unwrap().iter().map(|o| state.offer(o, request)).collect();
            Reply::json(&json!({"transfer": "basic", "objects": objects}))
        } else if let Some(oid) = path.strip_prefix("/storage/") {
            state.store(oid, request)
        } else if let Some(oid) = path.strip_prefix("/complete/") {
            let parts = body["parts"].as_array().unwrap();
            let bytes = parts.iter().map(|part| {
                let number = part["partNumber"].as_u64().unwrap() as usize;
                assert_eq!(part["etag"], format!("\"part-{number}\""));
                state.parts[&(oid.to_owned(), number)].clone()
            });
            let bytes: Vec<u8> = bytes.flatten().collect();
            state.objects.insert(oid.to_owned(), bytes);
            Reply::new(200, "{}")
        } else if path.ends_with("/verify") {
            let there = state.objects.get(body["oid"].as_str().unwrap()).map(Vec::len);
            Reply::new(if there == body["size"].as_u64().map(|n| n as usize) { 200 } else { 400 }, "{}")
        } else if path.contains("/commit/") {
            state.commit(&request.body)
        } else {
            Reply::new(404, "{}")
        }
    }
}

impl State {
    fn offer(&self, object: &Value, request: &Request) -> Value {
        let oid = object["oid"].as_str().unwrap();
        if self.objects.contains_key(oid) {
            return json!({"oid": oid, "size": object["size"]});
        }
        let home = format!("http://{}", request.header("host").unwrap());
        let storage = if self.storage.is_empty() { home.clone() } else { self.storage.clone() };
        let verify = json!({"href": format!("{home}/verify")});
        let upload = match self.part {
            None => {
                json!({"href": format!("{storage}/storage/{oid}?X-Amz-Signature=s"), "header": {"x-amz-test": "1"}})
            }
            Some(part) => {
                let mut header = json!({"chunk_size": part.to_string()});
                for number in 1..=object["size"].as_u64().unwrap().div_ceil(part as u64) {
                    header[format!("{number:05}")] = format!("{storage}/storage/{oid}?part={number}").into();
                }
                json!({"href": format!("{home}/complete/{oid}"), "header": header})
            }
        };
        json!({"oid": oid, "size": object["size"], "actions": {"upload": upload, "verify": verify}})
    }

    /// Takes an object, or a part of one.
    pub(crate) fn store(&mut self, oid: &str, request: &Request) -> Reply {
        match request.target.split_once("?part=") {
            Some((_, number)) => {
                self.parts.insert((oid.to_owned(), number.parse().unwrap()), request.body.clone());
                Reply::new(200, "").with("ETag", format!("\"part-{number}\""))
            }
            None if sha256(&request.body) == oid => {
                self.objects.insert(oid.to_owned(), request.body.clone());
                Reply::new(200, "")
            }
            None => Reply::new(400, "the hash is wrong"),
        }
    }

    pub(crate) fn commit(&mut self, lines: &[u8]) -> Reply {
        let lines: Vec<Value> = lines.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
        if lines[0]["value"]["parentCommit"] != format!("{:040x}", self.commits + 10) {
            return Reply::new(412, r#"{"error": "A commit has happened since. Please refresh and try again."}"#);
        }
        for line in &lines[1..] {
            let value = &line["value"];
            let name = value["path"].as_str().unwrap().to_owned();
            let content = match line["key"].as_str().unwrap() {
                "file" => (BASE64_STANDARD.decode(value["content"].as_str().unwrap()).unwrap(), false),
                "lfsFile" => (self.objects[value["oid"].as_str().unwrap()].clone(), true),
                other => panic!("{other}"),
            };
            self.files.insert(name, content);
        }
        self.commits += 1;
        Reply::json(&json!({"commitUrl": "x", "commitOid": format!("{:040x}", self.commits + 10)}))
    }
}
