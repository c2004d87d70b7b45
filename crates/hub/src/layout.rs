//! Where files go: the cache that `huggingface_hub` shares, or a plain folder; and how they get there whole.

use crate::Error;
use crate::digest::Digest;
use crate::error::At;
use crate::listing::{Listed, RemoteFile};
use crate::path::SafeRelPath;
use crate::repo::{Commit, Repo, Revision};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folders of one repository in one destination.
#[derive(Debug)]
pub(crate) struct Layout {
    /// `HF_HUB_CACHE/models--org--name`, or the plain folder's `.cache/huggingface`.
    own: PathBuf,
    locks: PathBuf,
    /// The plain folder; `None` for the cache.
    folder: Option<PathBuf>,
}

impl Layout {
    /// `models--org--name/{blobs,refs,snapshots,trees}` below `cache`.
    pub(crate) fn cache(cache: &Path, repo: &Repo) -> Layout {
        let name = repo.folder();
        Layout { own: cache.join(&name), locks: cache.join(".locks").join(&name), folder: None }
    }

    /// Files by their names in `folder`, and what we need ourselves in its `.cache/huggingface`.
    pub(crate) fn folder(folder: &Path) -> Layout {
        let own = folder.join(".cache").join("huggingface");
        Layout { locks: own.join("download"), own, folder: Some(folder.to_path_buf()) }
    }

    /// The folder that the caller reads from.
    pub(crate) fn root(&self, commit: &Commit) -> PathBuf {
        match &self.folder {
            Some(folder) => folder.clone(),
            None => self.own.join("snapshots").join(commit.as_str()),
        }
    }

    /// The place of a file.
    ///
    /// # Errors
    /// [`Error::UnsafeName`] if a folder on its way is a link, or the name is one of our own.
    pub(crate) fn place_of(&self, commit: &Commit, path: &SafeRelPath) -> Result<PathBuf, Error> {
        let lower = path.as_str().to_lowercase();
        if self.folder.is_some() && (lower == ".cache" || lower.starts_with(".cache/")) {
            return Err(Error::UnsafeName { name: path.to_string(), why: "it is where downloads are kept" });
        }
        path.below_without_links(&self.root(commit))
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.own.join(if self.folder.is_some() { "download" } else { "blobs" }).join(digest.to_string())
    }

    /// Where the bytes of a file gather until all are there.
    pub(crate) fn partial(&self, digest: Digest) -> PathBuf {
        self.blob(digest).with_extension("incomplete")
    }

    /// The lock that whoever downloads the file holds.
    pub(crate) fn lock(&self, digest: Digest) -> PathBuf {
        self.locks.join(digest.to_string()).with_extension("lock")
    }

    /// Whether the file is in its place; in the cache it is put there if only the link is missing.
    ///
    /// The cache names contents by their hash and is believed unless `verify`; a plain folder is anybody's, so its files
    /// are hashed.
    pub(crate) fn has(&self, commit: &Commit, file: &RemoteFile, verify: bool) -> Result<bool, Error> {
        let place = self.place_of(commit, &file.path)?;
        let good = |path: &Path| -> Result<bool, Error> {
            let right_size = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == file.size);
            let hashed = verify || self.folder.is_some();
            Ok(right_size && (!hashed || file.digest.of_same_kind(path)? == file.digest))
        };
        if good(&place)? {
            return Ok(true);
        }
        if self.folder.is_some() || !good(&self.blob(file.digest))? {
            return Ok(false);
        }
        self.link(commit, file)?;
        Ok(true)
    }

    /// Gives a complete and verified partial file its name, and puts it in the place of each of `files`, which all have
    /// its contents.
    pub(crate) fn finish(&self, commit: &Commit, files: &[&RemoteFile]) -> Result<(), Error> {
        let first = files[0];
        let partial = self.partial(first.digest);
        if self.folder.is_none() {
            let blob = self.blob(first.digest);
            fs::rename(&partial, &blob).at("rename the download to", &blob)?;
            return files.iter().try_for_each(|file| self.link(commit, file));
        }
        for file in &files[1..] {
            let place = self.place_of(commit, &file.path)?;
            make_parent(&place)?;
            let temporary = temporary(&self.own)?;
            fs::copy(&partial, &temporary).at("write", &temporary)?;
            fs::rename(&temporary, &place).at("rename the download to", &place)?;
        }
        let place = self.place_of(commit, &first.path)?;
        make_parent(&place)?;
        fs::rename(&partial, &place).at("rename the download to", &place)
    }

    /// Links a snapshot's name to its blob.
    fn link(&self, commit: &Commit, file: &RemoteFile) -> Result<(), Error> {
        let place = self.place_of(commit, &file.path)?;
        make_parent(&place)?;
        let temporary = temporary(&self.own)?;
        let mut target = PathBuf::new();
        // Out of the folders of the name, the commit and `snapshots`.
        target.extend(std::iter::repeat_n("..", file.path.parts().count() + 1));
        target.extend(["blobs", &file.digest.to_string()]);
        symlink(&target, &self.blob(file.digest), &temporary).at("link", &temporary)?;
        fs::rename(&temporary, &place).at("link", &place)
    }

    /// The commit that a branch or tag had at the last complete pull.
    pub(crate) fn read_ref(&self, revision: &Revision) -> Option<Commit> {
        let text = fs::read_to_string(revision.path().below(&self.own.join("refs"))).ok()?;
        Commit::parse(text.trim())
    }

    /// Remembers what a branch or tag stands for.
    pub(crate) fn write_ref(&self, revision: &Revision, commit: &Commit) -> Result<(), Error> {
        if revision.as_commit().is_some() {
            return Ok(());
        }
        write_whole(&revision.path().below_without_links(&self.own.join("refs"))?, commit.as_str().as_bytes())
    }

    fn tree(&self, commit: &Commit) -> PathBuf {
        self.own.join("trees").join(commit.as_str()).with_extension("json")
    }

    /// A listing that was kept; `None` also for one that cannot be read, which is then asked for again.
    pub(crate) fn read_tree(&self, commit: &Commit) -> Option<Vec<Listed>> {
        let tree: Value = serde_json::from_slice(&fs::read(self.tree(commit)).ok()?).ok()?;
        (tree["format_version"] == 1).then_some(())?;
        let listed = |(name, info): (&String, &Value)| {
            let blob_id = info["blob_id"].as_str()?.to_owned();
            let digest = Digest::parse(info["lfs_sha256"].as_str().unwrap_or(&blob_id))?;
            let size = info["lfs_size"].as_u64().or(info["size"].as_u64())?;
            let xet_hash = info["xet_hash"].as_str().map(str::to_owned);
            Some(Listed { name: name.clone(), size, digest, blob_id, xet_hash })
        };
        tree["files"].as_object()?.iter().map(listed).collect()
    }

    /// Keeps a listing, in the format of `huggingface_hub`, for the next pull and for offline work.
    pub(crate) fn write_tree(&self, commit: &Commit, files: &[Listed]) -> Result<(), Error> {
        if files.iter().any(|file| file.blob_id.is_empty()) {
            return Ok(());
        }
        let mut map = Map::new();
        for file in files {
            let mut info = json!({"size": file.size, "blob_id": file.blob_id});
            if let Digest::Sha256(_) = file.digest {
                info["lfs_sha256"] = file.digest.to_string().into();
                info["lfs_size"] = file.size.into();
            }
            if let Some(hash) = &file.xet_hash {
                info["xet_hash"] = hash.as_str().into();
            }
            map.insert(file.name.clone(), info);
        }
        let tree = json!({"format_version": 1, "files": map});
        write_whole(&self.tree(commit), tree.to_string().as_bytes())
    }
}

/// Creates the folder that `path` is to be in.
pub(crate) fn make_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).at("create the folder", parent)
}

/// A free name in `folder` that nobody can guess, for something that is then renamed to its place.
fn temporary(folder: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(folder).at("create the folder", folder)?;
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"));
    filled.at("name a file in", folder)?;
    Ok(folder.join(format!(".tmp-{:016x}", u64::from_le_bytes(bytes))))
}

/// Writes a file so that it is either there as a whole, and on the disk, or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = temporary(folder)?;
    let mut file = File::create_new(&temporary).at("create", &temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).at("write", &temporary)?;
    fs::rename(&temporary, path).at("write", path)
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Without symbolic links for everybody, a second name for the blob, or else a copy of it.
#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}
