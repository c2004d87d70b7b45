//! The export: a model folder to one GGUF file for each type, each tested before it is called done.

use crate::check::{Agreement, check};
use crate::mix::Shape;
use crate::quant::Kind;
use crate::tensors::{divisors, sources};
use crate::value::{Metadata, Value};
use crate::write::{Planned, Writer};
use crate::{Error, Mix, metadata, modelfile, vocab};
use infer::ModelFolder;
use model::RopeScaling;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// What happens on the way.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something worth saying once.
    Note(String),
    /// Values written to a file, of all.
    Progress {
        /// The type's name.
        mix: &'static str,
        /// Values done.
        done: u64,
        /// Values of the file.
        total: u64,
    },
}

/// A file that was written, read back and found to agree with its model.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// Its type.
    pub mix: Mix,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Storage types and the tensors that have each.
    pub kinds: Vec<(Kind, usize)>,
    /// How its logits agree with the model's.
    pub agreement: Agreement,
}

/// A model to export, with what its files are compared with.
pub(crate) struct Source {
    pub(crate) folder: ModelFolder,
    /// The chat template's text.
    pub(crate) template: Option<String>,
    /// Of the probes.
    pub(crate) logits: Vec<f32>,
    stop: Vec<u32>,
    defaults: Json,
    config: serde_json::Map<String, Json>,
    name: String,
}

/// Exports the model folder to `output`, one file `NAME-TYPE.gguf` for each type, and a Modelfile for the last of them. `name` is
/// the folder's where none is given.
///
/// # Errors
/// A model or tokenizer that GGUF cannot hold, files, and a file that does not agree with its model (it is removed, and one of an earlier
/// export stays).
pub fn export(
    model: &Path,
    name: Option<&str>,
    mixes: &[Mix],
    output: &Path,
    threads: usize,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Exported>, Error> {
    let source = Source::open(model, name, threads)?;
    let blueprint = &source.folder.blueprint;
    let mut vocab = vocab::read(model, &source.folder.tokenizer, blueprint.vocab, &source.stop)?;
    vocab.notes.drain(..).for_each(|note| observe(Event::Note(note)));
    let slides = matches!(blueprint.model_type.as_str(), "gpt_oss" | "gemma2" | "gemma3_text");
    if let Some(window) = blueprint.layers.iter().find_map(|layer| layer.window).filter(|_| !slides) {
        let note = format!(
            "llama.cpp has no sliding window for this architecture: answers differ from the model's beyond {window} tokens"
        );
        observe(Event::Note(note));
    }
    if let Some(template) = &source.template {
        vocab.metadata.push(("tokenizer.chat_template".into(), Value::Text(template.clone())));
    }
    std::fs::create_dir_all(output).map_err(Error::io("create", output))?;
    if rounds_yarn(&source) {
        let note = "llama.cpp rounds the bounds between which YaRN divides frequencies, and this model says truncate: false; \
                    its answers there are not quite the model's";
        observe(Event::Note(note.to_owned()));
    }
    let mut exported = Vec::new();
    for &mix in mixes {
        let name = format!("{}-{}.gguf", source.name, mix.name().to_uppercase());
        let path = output.join(&name);
        // A file that an earlier export left stays until this one is known to be the model.
        let unread = output.join(format!(".{name}.unread"));
        let kinds = source.write(&unread, mix, &vocab.metadata, observe)?;
        let agreement = check(&unread, &source, mix, threads).map_err(|error| {
            let _ = std::fs::remove_file(&unread);
            match error {
                Error::SelfTest { reason, .. } => Error::SelfTest { path: path.clone(), reason },
                other => other,
            }
        })?;
        std::fs::rename(&unread, &path).map_err(Error::io("write", &path))?;
        let bytes = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        let text = modelfile::text(&name, &source.folder.tokenizer, &source.stop, &source.defaults);
        weights::write_atomic(&output.join("Modelfile"), text.as_bytes())?;
        exported.push(Exported { mix, path, bytes, kinds, agreement });
    }
    Ok(exported)
}

/// Whether llama.cpp's YaRN is another than the model's.
fn rounds_yarn(source: &Source) -> bool {
    let yarn = matches!(source.folder.blueprint.rope.scaling, RopeScaling::Yarn { .. });
    let whole = |key: &str| source.config.get(key).is_some_and(|rope| rope["truncate"] == Json::Bool(false));
    yarn && (whole("rope_parameters") || whole("rope_scaling"))
}

impl Source {
    fn open(path: &Path, name: Option<&str>, threads: usize) -> Result<Self, Error> {
        let folder = ModelFolder::open(path, None)?;
        crate::tensors::check(&folder.blueprint)?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let own = || absolute.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
        let name = name.map_or_else(own, str::to_owned);
        let logits = train::probe_logits(&folder, threads)?;
        let defaults = json_or_null(&path.join("generation_config.json"))?;
        let mut stop: Vec<u32> = folder.tokenizer.eos_id().into_iter().collect();
        stop.extend(folder.stop_tokens()?.into_iter().filter(|id| Some(*id) != folder.tokenizer.eos_id()));
        let (template, config) = (template(path)?, weights::read_config(path)?);
        Ok(Self { config, folder, template, logits, stop, defaults, name })
    }

    /// Writes the file and returns how many tensors have which type.
    fn write(
        &self,
        path: &Path,
        mix: Mix,
        vocab: &Metadata,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Vec<(Kind, usize)>, Error> {
        let blueprint = &self.folder.blueprint;
        let sources = sources(blueprint, &self.folder.checkpoint)?;
        let layers = blueprint.layers.len();
        let shape = Shape {
            layers,
            is_70b: layers == 80 && blueprint.kv_heads < blueprint.heads && blueprint.model_type != "qwen3",
            has_output: !blueprint.tied,
            is_8x: blueprint.experts.as_ref().is_some_and(|spec| spec.route.experts == 8),
        };
        let divisors = divisors(blueprint);
        let mut planned: Vec<Planned> = sources
            .iter()
            .map(|source| {
                let kind = mix.kind_of(&source.name, &source.shape, &shape);
                Planned { name: source.name.clone(), shape: source.shape.clone(), kind }
            })
            .collect();
        for (name, values) in &divisors {
            planned.push(Planned { name: (*name).into(), shape: vec![values.len()], kind: Kind::F32 });
        }
        let mut all = metadata::of_model(blueprint, &self.config, &self.name, mix)?;
        all.extend(vocab.iter().cloned());
        let total = planned.iter().map(|tensor| tensor.values() as u64).sum();
        let mut done = 0;
        let mut writer = Writer::create(path, &all, &planned)?;
        for source in &sources {
            let (tensors, width) = (source.open(&self.folder.checkpoint)?, source.width());
            // A vector is one row of the file; its entries are its rows here.
            let rows_of_one = source.shape.last().unwrap_or(&1) / width;
            writer.tensor(&source.name, |from, out| {
                for (row, out) in (from * rows_of_one..).zip(out.chunks_exact_mut(width)) {
                    source.read(&tensors, row, out)?;
                }
                done += out.len() as u64;
                observe(Event::Progress { mix: mix.name(), done, total });
                Ok(())
            })?;
            tensors.iter().for_each(weights::Values::release);
        }
        for (name, values) in &divisors {
            writer.tensor(name, |_, out| {
                let _: () = out.copy_from_slice(values);
                Ok(())
            })?;
        }
        writer.finish()?;
        let mut kinds: Vec<(Kind, usize)> = Vec::new();
        for tensor in &planned {
            match kinds.iter_mut().find(|(kind, _)| *kind == tensor.kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((tensor.kind, 1)),
            }
        }
        Ok(kinds)
    }
}

fn json_or_null(path: &Path) -> Result<Json, Error> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::Tokenizer { path: path.to_owned(), reason: format!("not JSON: {e}") }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Json::Null),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// The template's text, where transformers looks for it.
fn template(folder: &Path) -> Result<Option<String>, Error> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("read", &path)(e)),
    }
    let config = json_or_null(&folder.join("tokenizer_config.json"))?;
    Ok(match &config["chat_template"] {
        Json::String(text) => Some(text.clone()),
        Json::Array(named) => {
            let default = named.iter().find(|template| template["name"] == "default");
            default.and_then(|template| template["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of two letters, for reference models that have none.
    const LETTERS: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0, "b": 1}, "merges": []}}"#;

    /// The model's folder, with a tokenizer in `to` where it has none.
    fn with_tokenizer(folder: PathBuf, to: &Path) -> PathBuf {
        if folder.join("tokenizer.json").is_file() {
            return folder;
        }
        std::fs::create_dir_all(to).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(folder.join(name), to.join(name)).unwrap();
        }
        std::fs::write(to.join("tokenizer.json"), LETTERS).unwrap();
        std::fs::write(to.join("tokenizer_config.json"), "{}").unwrap();
        to.to_owned()
    }

    #[test]
    fn an_earlier_file_stays_until_the_new_one_is_read_back() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        let out = std::env::temp_dir().join(format!("prospect-gguf-earlier-{}", std::process::id()));
        std::fs::create_dir_all(&out).unwrap();
        let (file, unread) = (out.join("tiny-F32.gguf"), out.join(".tiny-F32.gguf.unread"));
        std::fs::write(&file, "of an earlier export").unwrap();
        // Where it is to be read back to is a file: it is written, and cannot be looked at.
        let taken = ["..tiny-F32.gguf.unread.check", ".tiny-F32.gguf.check"].map(|name| out.join(name));
        taken.iter().for_each(|path| std::fs::write(path, "").unwrap());
        let again = || export(&model, Some("tiny"), &[Mix::F32], &out, 1, &mut |_| {});
        assert!(again().is_err(), "a folder that cannot be made");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "of an earlier export");
        assert!(!unread.exists());
        taken.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        again().unwrap();
        assert!(std::fs::read(&file).unwrap().starts_with(b"GGUF") && !unread.exists());
        std::fs::remove_dir_all(&out).unwrap();
    }

    /// With `PROSPECT_GOLDEN` the reference models of that folder, and the files are kept for other readers.
    #[test]
    fn experts_latents_and_norms_around_zero_come_back_as_they_were() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        let given = std::env::var_os("PROSPECT_GOLDEN").map(PathBuf::from);
        let out = std::env::temp_dir().join(match given {
            Some(_) => "prospect-gguf".to_owned(),
            None => format!("prospect-gguf-{}", std::process::id()),
        });
        let mut models = vec!["qwen2_moe", "deepseek_v3", "gpt_oss", "gemma2"];
        if given.is_none() {
            models.extend(["oss_mxfp4", "phi3_long_partial"]);
        }
        models.extend(given.iter().flat_map(|_| ["mixtral", "deepseek_v3_qlora"]));
        for model in models {
            let to = out.join(model);
            let folder = with_tokenizer(given.as_ref().unwrap_or(&own).join("models").join(model), &to.join("source"));
            let coarse = if model == "oss_mxfp4" { Mix::Mxfp4Moe } else { Mix::Q8_0 };
            let exported = export(&folder, Some(model), &[Mix::F32, coarse], &to, 1, &mut |_| {});
            let exported = exported.unwrap_or_else(|e| panic!("{model}: {e}"));
            let [exact, coarse] = &exported[..] else { panic!("two files") };
            assert!(exact.agreement.relative < 1e-5, "{model}: {:?}", exact.agreement);
            assert!(coarse.agreement.relative > 0.0 && coarse.bytes < exact.bytes, "{model}: {:?}", coarse.agreement);
        }
        if given.is_none() {
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
}
