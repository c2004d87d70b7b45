//! What is known of a repository without asking anybody.

use crate::Error;
use crate::digest::{Digest, Hasher};
use crate::error::At;
use crate::layout::Layout;
use crate::listing::Listed;
use crate::lockfile::Pin;
use crate::pull::Pull;
use crate::repo::Commit;
use std::fs::{self, File};
use std::path::Path;

/// The commit and its files as an earlier pull, ours or that of `huggingface_hub`, left them.
pub(crate) fn listing(layout: &Layout, request: &Pull, pin: Option<&Pin>) -> Result<(Commit, Vec<Listed>), Error> {
    let known = pin.map(|pin| pin.commit.clone());
    let known = known.or(request.revision.as_commit()).or_else(|| layout.read_ref(&request.revision));
    let Some(commit) = known else {
        let needed = format!("{} at {} was never pulled", request.repo, request.revision.as_str());
        return Err(Error::Offline { needed });
    };
    if let Some(listed) = layout.read_tree(&commit) {
        return Ok((commit, listed));
    }
    // Without a listing, what is there has to be all; a plain folder may hold anything, so it says nothing.
    let mut listed = Vec::new();
    if request.to == crate::pull::Destination::Cache {
        walk(&layout.root(&commit), "", &mut listed)?;
    }
    match listed.is_empty() {
        true => Err(Error::Offline { needed: format!("{} at {commit} is not there", request.repo) }),
        false => Ok((commit, listed)),
    }
}

fn walk(folder: &Path, prefix: &str, listed: &mut Vec<Listed>) -> Result<(), Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.at("read the folder", folder)?,
    };
    for entry in entries {
        let path = entry.at("read the folder", folder)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            walk(&path, &format!("{name}/"), listed)?;
        } else if let Ok(found) = fs::metadata(&path) {
            // The blob that a link leads to is named by its hash; a copy has to be hashed.
            let target = fs::read_link(&path).ok();
            let named = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            let digest = match named.and_then(Digest::parse) {
                Some(digest) => digest,
                None => sha256(&path)?,
            };
            listed.push(Listed { name, size: found.len(), digest, blob_id: String::new(), xet_hash: None });
        }
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<Digest, Error> {
    let mut hasher = Hasher::sha256();
    hasher.read_from(&mut File::open(path).at("open", path)?, path)?;
    Ok(hasher.finish())
}
