//! What is uploaded: the adapter, the merged model and its GGUF files, made where they are not there yet.

use crate::export;
use crate::failure::Failure;
use crate::first_use::MODEL_FILES;
use crate::hub_name::HubName;
use crate::score::threads;
use crate::screen::Screen;
use gguf::Mix;
use hub::{Content, NewFile, RepoKind, SafeRelPath, files_of};
use rundir::lock::Lock;
use rundir::published::{Published, hub_name};
use std::path::{Path, PathBuf};

/// Unfinished and finished work, inside the folder that is pushed.
const WORK: &str = ".cache";
/// What belongs to a tokenizer and to a licence, for adapters and models alike.
const COMPANIONS: [&str; 11] = [
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY.md",
    "README.md",
];

/// A folder with a result.
pub(super) struct Source {
    /// The run it is of.
    pub(super) run: Option<PathBuf>,
    /// The adapter or the model.
    pub(super) folder: PathBuf,
    /// Whether it is an adapter.
    pub(super) adapter: bool,
}

impl Source {
    /// What a path stands for: a run (its result), a checkpoint of a run, an adapter or a model.
    pub(super) fn at(path: &Path) -> Result<Source, Failure> {
        let holds = |folder: &Path, name: &str| folder.join(name).is_file();
        let is_result = |folder: &Path| holds(folder, "config.json") || holds(folder, "adapter_config.json");
        let is_run = |folder: &Path| holds(folder, "status.json");
        let (folder, run) = match path.join("final") {
            last if !is_result(path) && is_result(&last) => (last, Some(path.to_owned())),
            _ => (path.to_owned(), std::path::absolute(path).ok().and_then(|p| p.parent().map(Path::to_owned))),
        };
        if !is_result(&folder) {
            let what = "expected a run with its result in final/, or a folder with config.json or adapter_config.json";
            return Err(Failure::usage(format!("{}: {what}", path.display())));
        }
        let adapter = holds(&folder, "adapter_config.json") && !holds(&folder, "config.json");
        Ok(Source { run: run.filter(|run| is_run(run)), folder, adapter })
    }
}

/// What is asked for.
pub(super) struct Wanted {
    pub(super) adapter: bool,
    pub(super) merged: bool,
    pub(super) gguf: bool,
}

/// What there is to upload.
pub(super) struct Parts<'a> {
    found: &'a Source,
    base: Option<PathBuf>,
    adapter: Option<PathBuf>,
    model: Option<PathBuf>,
    gguf: Vec<PathBuf>,
    work: PathBuf,
}

impl<'a> Parts<'a> {
    /// Merges and converts as far as that was not done before.
    pub(super) fn make(
        found: &'a Source,
        wanted: &Wanted,
        types: &[Mix],
        base: Option<&Path>,
        name: &str,
        screen: &Screen,
    ) -> Result<Parts<'a>, Failure> {
        let work = found.folder.join(WORK).join(format!("push-{}", fingerprint(found, base)?));
        let mut parts = Parts { found, base: None, adapter: None, model: None, gguf: Vec::new(), work };
        if found.adapter {
            parts.base = base.map(Path::to_owned).or(base_of(&found.folder)?);
        }
        if wanted.adapter {
            parts.adapter = Some(found.folder.clone());
        }
        if !wanted.merged && !wanted.gguf {
            return Ok(parts);
        }
        let model = if found.adapter { parts.merge(screen)? } else { found.folder.clone() };
        if wanted.gguf {
            for &mix in types {
                parts.gguf.push(parts.convert(&model, name, mix, screen)?);
            }
        }
        parts.model = wanted.merged.then_some(model);
        Ok(parts)
    }

    fn merge(&self, screen: &Screen) -> Result<PathBuf, Failure> {
        let to = self.work.join("merged");
        if to.is_dir() {
            screen.note("merged before: taken from there");
            return Ok(to);
        }
        let Some(base) = &self.base else {
            return Err(Failure::usage("the adapter does not say what its base model is; give --base"));
        };
        let base = HubName::local(RepoKind::Model, base, &MODEL_FILES, screen)?;
        let begun = self.fresh("merged.partial")?;
        let merged = train::merge(&base, &self.found.folder, &begun, None, threads())?;
        merged.notes.iter().for_each(|note| screen.note(note));
        screen.line(format_args!(
            "merged {} modules; read back: logits differ by at most {:.3e}",
            merged.report.modules.len(),
            merged.difference
        ));
        std::fs::rename(&begun, &to).map_err(|e| Failure::file("rename to", &to, &e))?;
        Ok(to)
    }

    fn convert(&self, model: &Path, name: &str, mix: Mix, screen: &Screen) -> Result<PathBuf, Failure> {
        let to = self.work.join(format!("gguf-{}", mix.name()));
        if !to.is_dir() {
            let begun = self.fresh(&format!("gguf-{}.partial", mix.name()))?;
            for file in export::write_gguf(model, Some(name), &[mix], &begun, screen)? {
                screen.line(format_args!(
                    "{}: {:.1} MB; read back: logits differ by {:.2} % of their size",
                    mix.name(),
                    file.bytes as f64 / 1e6,
                    100.0 * file.agreement.relative
                ));
            }
            std::fs::rename(&begun, &to).map_err(|e| Failure::file("rename to", &to, &e))?;
        }
        Ok(to)
    }

    /// An empty folder for work that is begun.
    fn fresh(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.work.join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&self.work).map_err(|e| Failure::file("create", &self.work, &e))?;
        Ok(folder)
    }

    /// Where the adapter is in the repository: beside a model it has a folder of its own.
    fn adapter_place(&self) -> Option<&'static str> {
        self.adapter.as_ref().map(|_| if self.model.is_some() { "adapter" } else { "" })
    }

    /// The files, by their names in the repository.
    pub(super) fn files(&self) -> Result<Vec<NewFile>, Failure> {
        let mut files = Vec::new();
        let mut add = |folder: &Path, include: &[&str], below: &str| -> Result<(), Failure> {
            let include: Vec<String> = include.iter().map(|pattern| (*pattern).to_owned()).collect();
            for file in files_of(folder, &include, &["optimizer*".to_owned(), "checkpoint-*".to_owned()])? {
                let path = match below {
                    "" => file.path,
                    _ => SafeRelPath::new(&format!("{below}/{}", file.path))?,
                };
                files.push(NewFile { path, content: file.content });
            }
            Ok(())
        };
        if let (Some(adapter), Some(place)) = (&self.adapter, self.adapter_place()) {
            let own = ["adapter_config.json", "adapter_model.safetensors"];
            let companions = if place.is_empty() { &COMPANIONS[..] } else { &[] };
            add(adapter, &[&own, companions].concat(), place)?;
        }
        if let Some(model) = &self.model {
            let own = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"];
            add(model, &[&own, &COMPANIONS[..]].concat(), "")?;
        }
        for (i, folder) in self.gguf.iter().enumerate() {
            add(folder, if i + 1 == self.gguf.len() { &["*.gguf", "Modelfile"] } else { &["*.gguf"] }, "")?;
        }
        if let Some(plots) = self.found.run.as_ref().map(|run| run.join("plots")).filter(|plots| plots.is_dir()) {
            add(&plots, &["*.png"], "plots")?;
        }
        Ok(files)
    }

    /// The card, unless the folder is of no run and brings its own.
    pub(super) fn card(&self, repository: &str, license: Option<&str>) -> Result<Option<String>, Failure> {
        if self.found.run.is_none() && self.found.folder.join("README.md").is_file() {
            return Ok(None);
        }
        let files = self.files()?;
        let named = |ending: &str| files.iter().filter(|f| f.path.as_str().ends_with(ending)).collect::<Vec<_>>();
        let size = |file: &NewFile| match &file.content {
            Content::File(path) => std::fs::metadata(path).map_or(0, |found| found.len()),
            Content::Bytes(bytes) => bytes.len() as u64,
        };
        let run = match &self.found.run {
            Some(run) => Some((rundir::runs::show(run)?, Lock::read(run)?)),
            None => None,
        };
        let trained_on = run.as_ref().and_then(|(details, _)| details.summary.model.as_ref()).map(PathBuf::from);
        let base = self.base.clone().or(trained_on);
        let published = Published {
            repository: repository.to_owned(),
            base_model: base.as_deref().and_then(hub_name),
            license: license.map(str::to_owned).or_else(|| base.as_deref().and_then(license_of)),
            adapter: self.adapter_place().map(str::to_owned),
            model: self.model.is_some(),
            gguf: named(".gguf").into_iter().map(|file| (file.path.as_str().to_owned(), size(file))).collect(),
            plots: named(".png").into_iter().map(|file| file.path.as_str().to_owned()).collect(),
        };
        Ok(Some(published.to_markdown(run.as_ref().map(|(details, lock)| (details, lock)))))
    }

    /// Removes what was made to be uploaded.
    pub(super) fn clear(&self) {
        let _ = std::fs::remove_dir_all(&self.work);
        // Only where nothing else is in it.
        let _ = std::fs::remove_dir(self.found.folder.join(WORK));
    }
}

/// Names the work by the adapter or model and the name of its base, so that going on is never going on with another one.
fn fingerprint(found: &Source, base: Option<&Path>) -> Result<String, Failure> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(&found.folder)
        .map_err(|e| Failure::file("read", &found.folder, &e))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors" || e == "json" || e == "jinja"))
        .collect();
    names.sort();
    let mut all = base.map_or(String::new(), |base| base.display().to_string());
    for name in &names {
        all.push_str(&rundir::hash::hash_file(name)?.blake3);
    }
    Ok(rundir::hash::of_bytes(all.as_bytes())[..16].to_owned())
}

/// The base model that an adapter names.
fn base_of(adapter: &Path) -> Result<Option<PathBuf>, Failure> {
    let config = weights::AdapterConfig::read(adapter).map_err(train::Error::from)?;
    Ok(config.base_model_name_or_path.map(PathBuf::from))
}

/// `license:` of the front matter of a model's card.
fn license_of(model: &Path) -> Option<String> {
    let text = std::fs::read_to_string(model.join("README.md")).ok()?;
    let front = text.strip_prefix("---\n")?.split("\n---").next()?;
    let value = front.lines().find_map(|line| line.strip_prefix("license:"))?.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}
