//! What a repository holds at a commit: names, sizes and hashes.

use crate::Error;
use crate::address::{Address, encode};
use crate::digest::Digest;
use crate::glob::selected;
use crate::http::{Call, Client};
use crate::path::SafeRelPath;
use crate::repo::{Commit, Repo, Revision};
use crate::watch::Watch;
use serde::Deserialize;
use std::collections::HashSet;
use ureq::http::Method;

/// The most pages of a listing that are asked for; a page has up to 1,000 entries.
const PAGES: usize = 2_000;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name.
    pub path: SafeRelPath,
    /// Bytes.
    pub size: u64,
    /// The hash of its contents.
    pub digest: Digest,
}

/// The file of a listing as it came, its name not yet checked: a bad name is an error only if the file is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    /// The git blob id, of the pointer where the file is in LFS; empty if unknown.
    pub(crate) blob_id: String,
    /// The hash of the newer storage, kept for `huggingface_hub`, which reads our listings.
    pub(crate) xet_hash: Option<String>,
}

/// The wanted files of a listing, with safe names.
pub(crate) fn choose(
    repo: &Repo,
    listed: &[Listed],
    include: &[String],
    exclude: &[String],
) -> Result<Vec<RemoteFile>, Error> {
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for file in listed.iter().filter(|file| selected(&file.name, include, exclude)) {
        let path = SafeRelPath::new(&file.name)?;
        if !seen.insert(path.clone()) {
            return Err(Error::UnsafeName { name: file.name.clone(), why: "the listing has it twice" });
        }
        files.push(RemoteFile { path, size: file.size, digest: file.digest });
    }
    match files.is_empty() {
        true => Err(Error::NothingSelected { repo: repo.to_string(), of: listed.len() }),
        false => Ok(files),
    }
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
    #[serde(rename = "xetHash")]
    xet_hash: Option<String>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Client {
    /// The commit that a revision stands for now.
    pub(crate) fn resolve(&self, repo: &Repo, revision: &Revision, watch: &dyn Watch) -> Result<Commit, Error> {
        self.info(repo, revision.as_str(), watch).map(|(commit, _)| commit)
    }

    fn info(&self, repo: &Repo, revision: &str, watch: &dyn Watch) -> Result<(Commit, Vec<String>), Error> {
        let address = self.endpoint.with(&format!("{}/revision/{}", repo.api(), encode(revision, false)));
        let shown = address.to_string();
        let info: Info = self.send(&Call::get(address), watch, |reply| reply.json())?;
        let commit = Commit::parse(&info.sha).ok_or_else(|| Error::Protocol {
            url: shown,
            why: format!("expected a commit id of 40 digits, found {:?}", info.sha),
        })?;
        Ok((commit, info.siblings.into_iter().map(|sibling| sibling.rfilename).collect()))
    }

    /// All files at a commit.
    pub(crate) fn list(&self, repo: &Repo, commit: &Commit, watch: &dyn Watch) -> Result<Vec<Listed>, Error> {
        let tree = self.endpoint.with(&format!("{}/tree/{commit}", repo.api()));
        let mut next = Some(self.endpoint.with(&format!("{}/tree/{commit}?recursive=true&expand=false", repo.api())));
        let mut files = Vec::new();
        for page in 0.. {
            let Some(address) = next else { break };
            if page == PAGES {
                return Err(Error::Protocol { url: tree.to_string(), why: format!("more than {PAGES} pages") });
            }
            let answer = self.send(&Call::get(address), watch, |reply| {
                let next = self.next_page(reply.header("link"), &reply.address);
                Ok((next.map_err(|why| reply.protocol(why))?, reply.json::<Vec<Entry>>()?))
            });
            let (following, entries) = match answer {
                // A mirror may lack this part of the API.
                Err(Error::NotFound { .. }) if page == 0 => return self.list_by_headers(repo, commit, watch),
                answer => answer?,
            };
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                files.push(listed(entry, &tree)?);
            }
            next = following;
        }
        Ok(files)
    }

    /// The address after `rel="next"`, on the endpoint's own server.
    fn next_page(&self, link: Option<&str>, from: &Address) -> Result<Option<Address>, &'static str> {
        let Some(item) = link.and_then(|link| link.split(',').find(|item| item.contains("rel=\"next\""))) else {
            return Ok(None);
        };
        let inner = item.split_once('<').and_then(|(_, rest)| rest.split_once('>')).ok_or("a broken Link")?.0;
        let next = self.at_endpoint(from.join(inner)?);
        match next.same_server(&self.endpoint) {
            true => Ok(Some(next)),
            false => Err("the next page is on another server"),
        }
    }

    /// The same address on our endpoint, if it names the Hub itself: mirrors pass such addresses on unchanged.
    pub(crate) fn at_endpoint(&self, address: Address) -> Address {
        let hub = Address::parse("https://huggingface.co").expect("a good address");
        match address.same_server(&hub) {
            true => self.endpoint.with(address.uri().path_and_query().map_or("", |path| path.as_str())),
            false => address,
        }
    }

    /// The listing of a mirror without `tree`: names from the repository's page, size and hash from each file's headers.
    fn list_by_headers(&self, repo: &Repo, commit: &Commit, watch: &dyn Watch) -> Result<Vec<Listed>, Error> {
        let (_, names) = self.info(repo, commit.as_str(), watch)?;
        names.into_iter().map(|name| self.head(repo, commit, name, watch)).collect()
    }

    fn head(&self, repo: &Repo, commit: &Commit, name: String, watch: &dyn Watch) -> Result<Listed, Error> {
        SafeRelPath::new(&name)?;
        let address = self.file_address(repo, commit, &name);
        let call = Call { method: Method::HEAD, leave: false, ..Call::get(address) };
        self.send(&call, watch, |reply| {
            let etag = reply.header("x-linked-etag").or(reply.header("etag")).unwrap_or_default();
            let digest = Digest::parse(etag.trim_start_matches("W/").trim_matches('"'));
            let size = reply.header("x-linked-size").or(reply.header("content-length"));
            match (digest, size.and_then(|size| size.parse().ok())) {
                (Some(digest), Some(size)) => {
                    Ok(Listed { name: name.clone(), size, digest, blob_id: String::new(), xet_hash: None })
                }
                _ => Err(reply.protocol("neither listing nor headers give size and hash of the file").into()),
            }
        })
    }

    pub(crate) fn file_address(&self, repo: &Repo, commit: &Commit, name: &str) -> Address {
        self.endpoint.with(&format!("{}/resolve/{commit}/{}", repo.page(), encode(name, true)))
    }
}

fn listed(entry: Entry, tree: &Address) -> Result<Listed, Error> {
    let (hex, size) = match &entry.lfs {
        Some(lfs) => (lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid), lfs.size),
        None => (entry.oid.as_str(), entry.size),
    };
    match Digest::parse(hex) {
        Some(digest) => Ok(Listed { name: entry.path, size, digest, blob_id: entry.oid, xet_hash: entry.xet_hash }),
        None => {
            let why = format!("the hash of {:?} is {hex:?}, expected 40 or 64 hexadecimal digits", entry.path);
            Err(Error::Protocol { url: tree.to_string(), why })
        }
    }
}
