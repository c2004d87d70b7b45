//! Up: files into a repository, in one commit.

mod commit;
mod lfs;

use crate::Error;
use crate::digest::{Digest, Hasher};
use crate::error::At;
use crate::glob::selected;
use crate::http::{Call, Client};
use crate::path::SafeRelPath;
use crate::pull::in_parallel;
use crate::repo::{Commit, Repo, RepoKind, Revision};
use crate::watch::{Event, Watch};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How many files the Hub takes in one question.
const FILES_PER_QUESTION: usize = 256;
/// The first bytes of a file, by which the Hub judges whether it is text.
const SAMPLE: usize = 512;

/// What to upload.
#[derive(Debug, Clone)]
pub struct Push {
    /// The repository; it is created if it is not there.
    pub repo: Repo,
    /// Whether a new repository is private; one that is there stays as it is.
    pub private: bool,
    /// The branch.
    pub revision: Revision,
    /// The files; they replace those of the same names, and all others stay.
    pub files: Vec<NewFile>,
    /// The first line of the commit's message.
    pub message: String,
}

/// A file to upload.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Its name in the repository.
    pub path: SafeRelPath,
    /// Its contents.
    pub content: Content,
}

/// Where the contents of a file are.
#[derive(Debug, Clone)]
pub enum Content {
    /// In a file.
    File(PathBuf),
    /// Here (a model card, say).
    Bytes(Vec<u8>),
}

/// What was uploaded.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The new commit, or `None` where all files were there already.
    pub commit: Option<Commit>,
    /// The repository's page.
    pub url: String,
    /// Files in the commit.
    pub changed: usize,
    /// Files that were there already, with these contents.
    pub unchanged: usize,
}

/// The files of a folder by their names in it, in order; without `.git`, `.cache` and partial files.
///
/// Links to files are followed, links to folders are not.
///
/// # Errors
/// A folder that cannot be read; a name that the Hub's users could not pull.
pub fn files_of(folder: &Path, include: &[String], exclude: &[String]) -> Result<Vec<NewFile>, Error> {
    let mut files = Vec::new();
    walk(folder, "", &mut |name, path| {
        if selected(&name, include, exclude) {
            files.push(NewFile { path: SafeRelPath::new(&name)?, content: Content::File(path) });
        }
        Ok(())
    })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, take: &mut dyn FnMut(String, PathBuf) -> Result<(), Error>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).at("read the folder", folder)? {
        let entry = entry.at("read the folder", folder)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().ok_or_else(|| Error::UnsafeName {
            name: format!("{prefix}{}", name.to_string_lossy()),
            why: "it is not UTF-8",
        })?;
        if matches!(name, ".git" | ".cache") || name.starts_with(".tmp-") || name.ends_with(".incomplete") {
            continue;
        }
        let name = format!("{prefix}{name}");
        if entry.file_type().at("read", &path)?.is_dir() {
            walk(&path, &format!("{name}/"), take)?;
        } else if fs::metadata(&path).is_ok_and(|found| found.is_file()) {
            take(name, path)?;
        }
    }
    Ok(())
}

/// Uploads files in one commit. What the Hub has already is not sent again, so the same call goes on after a crash.
///
/// # Errors
/// No token or too few rights; a network that fails longer than the limits allow; a file that holds the token.
pub fn push(client: &Client, request: &Push, watch: &dyn Watch) -> Result<Pushed, Error> {
    if client.is_offline() {
        return Err(Error::Offline { needed: format!("an upload to {} was asked for", request.repo) });
    }
    if client.settings.token.is_none() {
        let hint = "set HF_TOKEN, give --token-file or log in";
        return Err(Error::Denied { what: request.repo.to_string(), answer: "no token".into(), hint });
    }
    let files = measure(client, &request.files, watch)?;
    client.create(&request.repo, request.private, watch)?;
    let changes = client.changes(request, &files, watch)?;
    let url = client.endpoint.with(&request.repo.page()).to_string();
    let unchanged = files.len() - changes.len();
    if changes.is_empty() {
        return Ok(Pushed { commit: None, url, changed: 0, unchanged });
    }
    let large: Vec<_> = changes.iter().filter(|change| change.is_lfs).map(|change| change.file).collect();
    lfs::upload(client, request, large, watch)?;
    let commit = commit::commit(client, request, &changes, watch)?;
    Ok(Pushed { commit: Some(commit), url, changed: changes.len(), unchanged })
}

/// A file with its length and hashes.
struct Measured<'a> {
    file: &'a NewFile,
    size: u64,
    sha256: Digest,
    git: Digest,
    sample: Vec<u8>,
}

/// A file that the commit has to hold.
struct Change<'a> {
    file: &'a Measured<'a>,
    is_lfs: bool,
}

impl Change<'_> {
    /// The hash by which the Hub will list it.
    fn digest(&self) -> Digest {
        if self.is_lfs { self.file.sha256 } else { self.file.git }
    }
}

fn measure<'a>(client: &Client, files: &'a [NewFile], watch: &dyn Watch) -> Result<Vec<Measured<'a>>, Error> {
    let measured = Mutex::new(Vec::with_capacity(files.len()));
    in_parallel(client.settings.limits.parallel, files.iter().collect(), watch, |file, watch| {
        let one = measure_one(file, watch)?;
        measured.lock().expect("no job panics").push(one);
        Ok(())
    })?;
    let mut measured = measured.into_inner().expect("no job panics");
    measured.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    match measured.windows(2).find(|pair| pair[0].file.path == pair[1].file.path) {
        Some(pair) => Err(Error::invalid("files to upload", pair[0].file.path.as_str(), "it is there twice")),
        None => Ok(measured),
    }
}

fn measure_one<'a>(file: &'a NewFile, watch: &dyn Watch) -> Result<Measured<'a>, Error> {
    let (mut sha256, mut sample) = (Hasher::sha256(), Vec::new());
    let mut git;
    let size = match &file.content {
        Content::Bytes(bytes) => {
            git = Hasher::git_blob(bytes.len() as u64);
            sha256.update(bytes);
            git.update(bytes);
            sample.extend(bytes.iter().take(SAMPLE));
            bytes.len() as u64
        }
        Content::File(path) => {
            let mut input = File::open(path).at("open", path)?;
            let size = input.metadata().at("read", path)?.len();
            git = Hasher::git_blob(size);
            let mut buffer = vec![0; 1 << 18];
            loop {
                let count = input.read(&mut buffer).at("read", path)?;
                if count == 0 {
                    break;
                }
                if watch.stop() {
                    return Err(Error::Stopped);
                }
                sha256.update(&buffer[..count]);
                git.update(&buffer[..count]);
                let room = SAMPLE - sample.len();
                sample.extend(buffer[..count].iter().take(room));
            }
            size
        }
    };
    Ok(Measured { file, size, sha256: sha256.finish(), git: git.finish(), sample })
}

#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
    oid: Option<String>,
}

impl Client {
    /// Creates a repository, or finds that it is there.
    fn create(&self, repo: &Repo, private: bool, watch: &dyn Watch) -> Result<(), Error> {
        let (owner, name) = repo.split();
        let mut body = json!({"name": name, "private": private});
        if let Some(owner) = owner {
            body["organization"] = owner.into();
        }
        if repo.kind() == RepoKind::Dataset {
            body["type"] = "dataset".into();
        }
        let bytes = body.to_string().into_bytes();
        let call = Call::post(self.endpoint.with("/api/repos/create"), "application/json", &bytes);
        match self.send(&call, watch, |_| Ok(())) {
            Err(Error::Refused { status: 409, .. }) => Ok(()),
            // A token for one repository may write to it, but may not create any.
            Err(error @ Error::Denied { .. }) => {
                let main = Revision::new("main").expect("a good name");
                self.resolve(repo, &main, watch).map(|_| ()).map_err(|_| error)
            }
            answer => answer,
        }
    }

    /// Asks which files go where, and leaves out those that are ignored or there already.
    fn changes<'a>(
        &self,
        request: &Push,
        files: &'a [Measured<'a>],
        watch: &dyn Watch,
    ) -> Result<Vec<Change<'a>>, Error> {
        let revision = crate::address::encode(request.revision.as_str(), false);
        let address = self.endpoint.with(&format!("{}/preupload/{revision}", request.repo.api()));
        let mut changes = Vec::new();
        for files in files.chunks(FILES_PER_QUESTION) {
            let described = |file: &Measured<'_>| {
                let sample = BASE64_STANDARD.encode(&file.sample);
                json!({"path": file.file.path.as_str(), "size": file.size, "sample": sample})
            };
            let question: Vec<Value> = files.iter().map(described).collect();
            let bytes = json!({"files": question}).to_string().into_bytes();
            let call = Call::post(address.clone(), "application/json", &bytes);
            let modes: Modes = self.send(&call, watch, |reply| reply.json())?;
            let modes: HashMap<_, _> = modes.files.iter().map(|mode| (mode.path.as_str(), mode)).collect();
            for file in files {
                let Some(mode) = modes.get(file.file.path.as_str()) else {
                    let why = format!("it says nothing about {}", file.file.path);
                    return Err(Error::Protocol { url: address.to_string(), why });
                };
                // The large storage takes no empty files.
                let change = Change { file, is_lfs: mode.upload_mode == "lfs" && file.size > 0 };
                let is_there = mode.oid.as_deref() == Some(change.digest().to_string().as_str());
                if !mode.should_ignore && !is_there {
                    changes.push(change);
                }
            }
        }
        Ok(changes)
    }
}

fn report_done(watch: &dyn Watch, file: &Measured<'_>) {
    watch.event(Event::Done { path: &file.file.path });
}
