//! What a configuration leaves to the machine it runs on: names on the Hub, fetched on first use, and the cache of tokens.

use crate::failure::Failure;
use crate::screen::Screen;
use config::{Config, Loaded};
use hub::{Client, Lockfile, Pull, Repo, RepoKind, Secret, Settings, Silent};
use std::path::{Path, PathBuf};

/// Where commits are pinned, in the current folder.
const LOCK: &str = "prospect.lock";
/// What a model folder is read from.
const MODEL_FILES: [&str; 5] = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md"];
/// Endings that mean a file and not a repository.
const DATA_FILES: [&str; 9] = ["jsonl", "json", "ndjson", "csv", "tsv", "parquet", "arrow", "gz", "zst"];

/// Fetches what is named `org/name` and is no path here, and says where tokens are kept where the configuration does not.
pub(crate) fn prepare(loaded: &mut Loaded, token: Option<&str>, screen: &Screen) -> Result<(), Failure> {
    let cache = cache_folder(|name| std::env::var(name).ok());
    let stages = loaded.stages.iter_mut().map(|stage| &mut stage.config);
    for config in std::iter::once(&mut loaded.config).chain(stages) {
        if config.data.token_cache.is_none() {
            config.data.token_cache.clone_from(&cache);
        }
        fetch_all(config, token, screen)?;
    }
    Ok(())
}

/// The user's cache folder for tokens.
fn cache_folder(lookup: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let get = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = get("XDG_CACHE_HOME").or_else(|| Some(get("HOME")?.join(".cache")))?;
    Some(caches.join("prospect/tokens"))
}

fn fetch_all(config: &mut Config, token: Option<&str>, screen: &Screen) -> Result<(), Failure> {
    // The folder of an earlier stage is no name.
    if let Some(found) = Named::of(RepoKind::Model, &config.model.path, &config.saving.output_dir) {
        config.model.path = found.fetch(token, screen)?;
    }
    let registered = config.data.registry.as_ref().is_some_and(|folder| folder.exists());
    for path in config.data.train.iter_mut().chain(&mut config.data.eval) {
        if let Some(found) = Named::of(RepoKind::Dataset, path, &config.saving.output_dir).filter(|_| !registered) {
            *path = found.fetch(token, screen)?;
        }
    }
    Ok(())
}

/// A name of the Hub: `org/name`, of a data set also `org/name/file`.
struct Named {
    repo: Repo,
    file: Option<String>,
}

impl Named {
    /// `None` for what is a path here, or looks like one.
    fn of(kind: RepoKind, path: &Path, run: &Path) -> Option<Named> {
        let text = path.to_str().filter(|_| !path.exists() && path.is_relative() && !path.starts_with("."))?;
        let under_run = run.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && path.starts_with(folder));
        if text.contains(['*', '?', '[', '\\']) || under_run {
            return None;
        }
        let mut parts = text.splitn(3, '/');
        let id = format!("{}/{}", parts.next()?, parts.next()?);
        let file = parts.next().map(str::to_owned);
        // A folder that is there says that a path was meant.
        let local = Path::new(text.split('/').next()?).exists();
        let ending = |name: &str| name.rsplit_once('.').is_some_and(|(_, ending)| DATA_FILES.contains(&ending));
        let bare_file = kind == RepoKind::Dataset && file.is_none() && ending(text);
        if local || bare_file || (kind == RepoKind::Model && file.is_some()) || id.starts_with("..") {
            return None;
        }
        Some(Named { repo: Repo::new(kind, &id).ok()?, file })
    }

    /// The path of the file or folder, fetched as far as it is not there yet; the commit is pinned.
    fn fetch(&self, token: Option<&str>, screen: &Screen) -> Result<PathBuf, Failure> {
        let mut settings = Settings::from_env(|name| std::env::var(name).ok()).map_err(failed)?;
        match token {
            Some(token) => settings.token = Some(Secret::new("--hf-token", token).map_err(failed)?),
            None => settings.find_token(None).map_err(failed)?,
        }
        screen.note(format_args!("{} is no path here: taken from {}", self.repo, settings.endpoint));
        let mut lock = Lockfile::read(Path::new(LOCK)).map_err(failed)?;
        let include = match (&self.file, self.repo.kind()) {
            (Some(file), _) => vec![file.clone()],
            (None, RepoKind::Model) => MODEL_FILES.map(str::to_owned).to_vec(),
            (None, _) => Vec::new(),
        };
        let request = Pull { include, ..Pull::new(self.repo.clone()) };
        let client = Client::new(settings).map_err(failed)?;
        let pulled = hub::pull(&client, &request, Some(&lock), &Silent).map_err(failed)?;
        lock.record(&pulled);
        lock.write(Path::new(LOCK)).map_err(failed)?;
        screen.note(format_args!("{} at {}, {} files, pinned in {LOCK}", self.repo, pulled.commit, pulled.files.len()));
        Ok(self.file.as_ref().map_or(pulled.root.clone(), |file| pulled.root.join(file)))
    }
}

fn failed(e: hub::Error) -> Failure {
    Failure::Said { message: e.to_string(), code: e.exit_code() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: RepoKind, text: &str) -> Option<(String, Option<String>)> {
        let found = Named::of(kind, Path::new(text), Path::new("runs/a"))?;
        Some((found.repo.id().to_owned(), found.file))
    }

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let some = |id: &str, file: Option<&str>| Some((id.to_owned(), file.map(str::to_owned)));
        assert_eq!(named(RepoKind::Model, "org/name"), some("org/name", None));
        assert_eq!(named(RepoKind::Dataset, "org/name"), some("org/name", None));
        assert_eq!(named(RepoKind::Dataset, "org/name/a/train.jsonl"), some("org/name", Some("a/train.jsonl")));
        for path in
            ["./org/name", "../org/name", "/org/name", "name", "src/name", "data/rows.jsonl", "a/*", "runs/b/final"]
        {
            assert_eq!(named(RepoKind::Dataset, path), None, "{path}");
        }
        assert_eq!(named(RepoKind::Model, "org/name/final"), None);
    }

    #[test]
    fn tokens_are_kept_in_the_user_s_cache_folder() {
        let of = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            cache_folder(find).map(|path| path.display().to_string())
        };
        assert_eq!(of(&[("HOME", "/h")]).as_deref(), Some("/h/.cache/prospect/tokens"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).as_deref(), Some("/x/prospect/tokens"));
        assert_eq!(of(&[]), None);
    }
}
