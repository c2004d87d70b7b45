//! The commit: one request, made exactly once even where its answer is lost.

use super::{Change, Content, Push};
use crate::Error;
use crate::address::encode;
use crate::error::At;
use crate::http::{Call, Client, Failure, Patience};
use crate::repo::Commit;
use crate::watch::Watch;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::fs;

/// The largest file that goes into the commit itself; the Hub draws the line at 10 MB.
const LARGEST_INLINE: u64 = 20 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    commit_oid: String,
}

/// Commits on top of the branch's head.
///
/// The head is named in the request, so that the Hub refuses it when the branch has moved; and when an answer is lost or
/// refused, the branch is looked at before another attempt: if it holds our files, the first attempt was the commit.
pub(super) fn commit(
    client: &Client,
    request: &Push,
    changes: &[Change<'_>],
    watch: &dyn Watch,
) -> Result<Commit, Error> {
    let lines = lines(client, changes)?;
    let revision = encode(request.revision.as_str(), false);
    let address = client.endpoint.with(&format!("{}/commit/{revision}", request.repo.api()));
    let mut parent = client.resolve(&request.repo, &request.revision, watch)?;
    let mut patience = Patience::default();
    loop {
        let header = json!({"summary": request.message, "description": "", "parentCommit": parent.as_str()});
        let mut body = json!({"key": "header", "value": header}).to_string().into_bytes();
        body.push(b'\n');
        body.extend_from_slice(&lines);
        let call = Call::post(address.clone(), "application/x-ndjson", &body);
        let failure = match client.once(&call).and_then(|reply| reply.json::<Made>()) {
            Ok(made) => {
                return Commit::parse(&made.commit_oid).ok_or_else(|| Error::Protocol {
                    url: address.to_string(),
                    why: format!("expected a commit id of 40 digits, found {:?}", made.commit_oid),
                });
            }
            Err(failure) => failure,
        };
        let moved = matches!(failure.error, Error::Refused { status: 409 | 412, .. });
        let failure = if moved { Failure::again(failure.error) } else { failure };
        client.wait(failure, &mut patience, watch)?;
        let head = client.resolve(&request.repo, &request.revision, watch)?;
        if head != parent && holds(client, request, &head, changes, watch)? {
            return Ok(head);
        }
        parent = head;
    }
}

/// Whether a commit has all our files with our contents.
fn holds(
    client: &Client,
    request: &Push,
    head: &Commit,
    changes: &[Change<'_>],
    watch: &dyn Watch,
) -> Result<bool, Error> {
    let listed = client.list(&request.repo, head, watch)?;
    let listed: HashMap<_, _> = listed.iter().map(|file| (file.name.as_str(), file.digest)).collect();
    Ok(changes.iter().all(|change| listed.get(change.file.file.path.as_str()) == Some(&change.digest())))
}

/// The operations, a JSON object per line.
fn lines(client: &Client, changes: &[Change<'_>]) -> Result<Vec<u8>, Error> {
    let mut lines = Vec::new();
    for change in changes {
        let path = change.file.file.path.as_str();
        let line = match change.is_lfs {
            true => {
                let oid = change.file.sha256.to_string();
                let value = json!({"path": path, "algo": "sha256", "oid": oid, "size": change.file.size});
                json!({"key": "lfsFile", "value": value})
            }
            false => {
                let content = BASE64_STANDARD.encode(inline(client, change)?);
                json!({"key": "file", "value": {"content": content, "path": path, "encoding": "base64"}})
            }
        };
        lines.extend_from_slice(line.to_string().as_bytes());
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The contents of a small file, unless the token is in them: what is published cannot be taken back.
fn inline(client: &Client, change: &Change<'_>) -> Result<Vec<u8>, Error> {
    let path = &change.file.file.path;
    if change.file.size > LARGEST_INLINE {
        let why = format!("it wants {path} of {} bytes inside the commit", change.file.size);
        return Err(Error::Protocol { url: client.endpoint.to_string(), why });
    }
    let bytes = match &change.file.file.content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::File(path) => fs::read(path).at("read", path)?,
    };
    let token = client.settings.token.as_ref().map(|token| token.expose().as_bytes());
    if token.is_some_and(|token| bytes.windows(token.len()).any(|window| window == token)) {
        return Err(Error::invalid(
            "file to upload",
            path.as_str(),
            "it holds your access token; remove it from there",
        ));
    }
    Ok(bytes)
}
