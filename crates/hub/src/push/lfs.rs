//! Large files, by git-lfs: ask where to, send in one piece or in parts, have it verified.

use super::{Content, Measured, Push, report_done};
use crate::Error;
use crate::address::Address;
use crate::http::{Call, Client, Payload, Reply};
use crate::pull::in_parallel;
use crate::watch::{Event, Watch};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use ureq::http::Method;

const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// Sends what the large storage does not have yet.
pub(super) fn upload(
    client: &Client,
    request: &Push,
    mut files: Vec<&Measured<'_>>,
    watch: &dyn Watch,
) -> Result<(), Error> {
    // Equal contents are one object.
    files.sort_by_key(|file| (file.size, file.sha256));
    files.dedup_by_key(|file| (file.size, file.sha256));
    watch.event(Event::Begin { files: files.len(), bytes: files.iter().map(|file| file.size).sum() });
    in_parallel(client.settings.limits.parallel, files, watch, |file, watch| {
        let upload = Upload { client, request, file, watch };
        match upload.run() {
            // The address is signed for a limited time; a second question gives a fresh one.
            Err(Error::Denied { .. }) => upload.run()?,
            answer => answer?,
        }
        report_done(watch, file);
        Ok(())
    })
}

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Option<Map<String, Value>>,
}

struct Upload<'a> {
    client: &'a Client,
    request: &'a Push,
    file: &'a Measured<'a>,
    watch: &'a dyn Watch,
}

impl Upload<'_> {
    fn run(&self) -> Result<(), Error> {
        let Some(actions) = self.ask()? else { return Ok(()) };
        let Some(upload) = &actions.upload else { return Ok(()) };
        match upload.header.as_ref().and_then(|header| header.get("chunk_size")) {
            Some(size) => self.send_parts(upload, size)?,
            None => {
                let mut headers = Vec::new();
                for (name, value) in upload.header.iter().flatten() {
                    let ours = ["host", "content-length", "transfer-encoding", "content-type", "connection"];
                    if let Some(value) = value.as_str().filter(|_| !ours.contains(&name.to_lowercase().as_str())) {
                        headers.push((name.clone(), value.to_owned()));
                    }
                }
                self.put(&upload.href, headers, 0, self.file.size)?;
            }
        }
        self.progress(self.file.size);
        match &actions.verify {
            Some(verify) => {
                let body = json!({"oid": self.file.sha256.to_string(), "size": self.file.size});
                self.post(&verify.href, &body)
            }
            None => Ok(()),
        }
    }

    /// Where to send the object; `None` if it is there.
    fn ask(&self) -> Result<Option<Actions>, Error> {
        let oid = self.file.sha256.to_string();
        let question = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": oid, "size": self.file.size}],
            "hash_algo": "sha256",
            "ref": {"name": self.request.revision.as_str()},
        });
        let bytes = question.to_string().into_bytes();
        let page = self.request.repo.page();
        let address = self.client.endpoint.with(&format!("{page}.git/info/lfs/objects/batch"));
        let mut call = Call::post(address.clone(), LFS_JSON, &bytes);
        call.headers.push(("accept".into(), LFS_JSON.into()));
        let batch: Batch = self.client.send(&call, self.watch, |reply| reply.json())?;
        let protocol = |why: String| Error::Protocol { url: address.to_string(), why };
        let object = batch.objects.into_iter().find(|object| object.oid == oid);
        let object = object.ok_or_else(|| protocol(format!("it says nothing about the object {oid}")))?;
        match object.error {
            Some(error) => {
                let said: String = error["message"].as_str().unwrap_or("no reason given").chars().take(300).collect();
                Err(protocol(format!("it refuses {}: {said:?}", self.file.file.path)))
            }
            None => Ok(object.actions),
        }
    }

    /// Sends the parts one after the other, and says that they are one object.
    fn send_parts(&self, upload: &Action, size: &Value) -> Result<(), Error> {
        let wrong = |why: String| Error::Protocol { url: self.shown(&upload.href), why };
        let text = size.as_str().map_or_else(|| size.to_string(), str::to_owned);
        let size = text.parse().ok().filter(|size| *size > 0);
        let size: u64 = size.ok_or_else(|| wrong(format!("expected a chunk_size in bytes, found {text:?}")))?;
        let mut parts = Vec::new();
        for (name, href) in upload.header.iter().flatten() {
            if let (Ok(number), Some(href)) = (name.parse::<u32>(), href.as_str()) {
                parts.push((number, href));
            }
        }
        parts.sort_unstable();
        let needed = self.file.size.div_ceil(size);
        if parts.len() as u64 != needed {
            return Err(wrong(format!("expected {needed} addresses for parts, found {}", parts.len())));
        }
        let mut done = Vec::new();
        for (i, (_, href)) in parts.iter().enumerate() {
            let from = i as u64 * size;
            let etag = self.put(href, Vec::new(), from, size.min(self.file.size - from))?;
            let etag = etag.ok_or_else(|| wrong(format!("part {} was taken without an ETag", i + 1)))?;
            done.push(json!({"partNumber": i + 1, "etag": etag}));
            self.progress(from + size.min(self.file.size - from));
        }
        self.post(&upload.href, &json!({"oid": self.file.sha256.to_string(), "parts": done}))
    }

    /// Sends a range of the file and gives the answer's `ETag`.
    fn put(&self, href: &str, headers: Vec<(String, String)>, from: u64, length: u64) -> Result<Option<String>, Error> {
        let body = match &self.file.file.content {
            Content::File(path) => Payload::Range { path, from, length },
            Content::Bytes(bytes) => {
                let bytes = &bytes[from as usize..(from + length) as usize];
                Payload::Bytes { content_type: "application/octet-stream", bytes }
            }
        };
        let call = Call { method: Method::PUT, address: self.address(href)?, headers, body, leave: false };
        let etag = |reply: Reply| Ok(reply.header("etag").map(str::to_owned));
        self.client.send(&call, self.watch, etag)
    }

    fn post(&self, href: &str, body: &Value) -> Result<(), Error> {
        let bytes = body.to_string().into_bytes();
        let mut call = Call::post(self.address(href)?, LFS_JSON, &bytes);
        call.headers.push(("accept".into(), LFS_JSON.into()));
        self.client.send(&call, self.watch, |_| Ok(()))
    }

    /// An address that the Hub gave; never less protected than the endpoint.
    fn address(&self, href: &str) -> Result<Address, Error> {
        let wrong = |why: &str| Error::Protocol {
            url: self.client.endpoint.to_string(),
            why: format!("the address for an upload cannot be used: {why}"),
        };
        let address = self.client.at_endpoint(Address::parse(href).map_err(wrong)?);
        match self.client.endpoint.is_https() && !address.is_https() {
            true => Err(wrong("it is http://")),
            false => Ok(address),
        }
    }

    fn shown(&self, href: &str) -> String {
        Address::parse(href).unwrap_or_else(|_| self.client.endpoint.clone()).to_string()
    }

    fn progress(&self, done: u64) {
        self.watch.event(Event::Progress { path: &self.file.file.path, done, size: self.file.size });
    }
}
