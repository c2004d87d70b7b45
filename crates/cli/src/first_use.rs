//! What a configuration leaves to the machine it runs on: names on the Hub, fetched on first use, and the cache of tokens.

use crate::failure::Failure;
use crate::hub_name::HubName;
use crate::screen::Screen;
use config::{Config, Loaded};
use data::Registry;
use hub::RepoKind;
use std::path::{Path, PathBuf};

/// What a model folder is read from.
pub(crate) const MODEL_FILES: [&str; 5] = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md"];

/// What could not be fetched: the part of a run, its name, and why.
pub(crate) type Unfetched = (&'static str, PathBuf, Failure);

/// Fetches what a name says, or those files of it.
type Fetch<'a> = dyn Fn(&HubName, &[&str]) -> Result<PathBuf, Failure> + 'a;

/// Fetches what is named `org/name` and is no path here, and says where tokens are kept where the configuration does not.
pub(crate) fn prepare(loaded: &mut Loaded, token: Option<&str>, screen: &Screen) -> Result<(), Failure> {
    prepare_but(loaded, token, screen, &mut |(_, _, failure)| Err(failure))
}

/// As [`prepare`]; what cannot be fetched is left as it is named where `unfetched` lets it pass.
pub(crate) fn prepare_but(
    loaded: &mut Loaded,
    token: Option<&str>,
    screen: &Screen,
    unfetched: &mut dyn FnMut(Unfetched) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let cache = cache_folder(|name| std::env::var(name).ok());
    let stages = loaded.stages.iter_mut().map(|stage| &mut stage.config);
    for config in std::iter::once(&mut loaded.config).chain(stages) {
        if config.data.token_cache.is_none() {
            config.data.token_cache.clone_from(&cache);
        }
        fetch_all(config, unfetched, &|name: &HubName, include: &[&str]| name.fetch(include, token, screen))?;
    }
    Ok(())
}

/// The user's cache folder for tokens.
fn cache_folder(lookup: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let get = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = get("XDG_CACHE_HOME").or_else(|| Some(get("HOME")?.join(".cache")))?;
    Some(caches.join("prospect/tokens"))
}

fn fetch_all(
    config: &mut Config,
    unfetched: &mut dyn FnMut(Unfetched) -> Result<(), Failure>,
    fetch: &Fetch,
) -> Result<(), Failure> {
    let run = config.saving.output_dir.clone();
    let found = HubName::of(RepoKind::Model, &config.model.path).filter(|_| not_of_the_run(&config.model.path, &run));
    if let Some(found) = found {
        match fetch(&found, &MODEL_FILES) {
            Ok(path) => config.model.path = path,
            Err(failure) => unfetched(("model", config.model.path.clone(), failure))?,
        }
    }
    let registry = match config.data.registry.as_deref().filter(|place| Registry::is_at(place)) {
        Some(place) => Some(Registry::read(place)?),
        None => None,
    };
    for path in config.data.train.iter_mut().chain(&mut config.data.eval) {
        let name = path.to_string_lossy().into_owned();
        let known = registry.as_ref().filter(|registry| registry.knows(&name));
        let elsewhere = known.and_then(|registry| registry.on_the_hub(&name));
        let found = match known {
            Some(_) => elsewhere.as_deref().and_then(|id| HubName::of(RepoKind::Dataset, Path::new(id))),
            None => HubName::of(RepoKind::Dataset, path).filter(|_| not_of_the_run(path, &run)),
        };
        match (found.map(|found| fetch(&found, &[])), known) {
            (None, _) => {}
            (Some(Ok(folder)), Some(_)) => _ = config.data.fetched.insert(name, folder),
            (Some(Ok(folder)), None) => *path = folder,
            (Some(Err(failure)), _) => unfetched(("data", path.clone(), failure))?,
        }
    }
    Ok(())
}

/// Whether a path lies elsewhere than beside the run's folder: the folder of an earlier stage is no name.
fn not_of_the_run(path: &Path, run: &Path) -> bool {
    !run.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_run_is_no_name() {
        let outside = |path: &str| not_of_the_run(Path::new(path), Path::new("runs/a"));
        assert!(outside("org/name") && !outside("runs/b/final"));
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
