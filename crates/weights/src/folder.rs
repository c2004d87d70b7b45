//! The files of a model folder beside its weights: config.json with what changed, the rest copied.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::dtype::DType;
use crate::error::Error;
use crate::json::read_json;
use crate::write::{copy_atomic, pretty_json, write_atomic};

/// The model's configuration file.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Files that belong to a model whatever its weights are: tokenizer, generation defaults, licence.
const COMPANIONS: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "qwen.tiktoken",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
    "USE_POLICY.md",
];

/// A folder of further chat templates, each a `.jinja` file.
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// What an export changes in config.json; the default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct ConfigChanges {
    /// The type that the weights are stored in now. Goes to `dtype` or `torch_dtype`, whichever the file has.
    pub dtype: Option<DType>,
    /// Whether `quantization_config` goes: the weights are not quantised any more.
    pub unquantized: bool,
    /// Further keys and their new values, as `vocab_size`.
    pub set: Vec<(String, Value)>,
}

impl ConfigChanges {
    fn apply(&self, config: &mut Map<String, Value>) {
        if let Some(name) = self.dtype.and_then(DType::torch_name) {
            let present: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|k| config.contains_key(*k)).collect();
            // Every reader knows the older key; a file of the newer dialect (transformers 5) gets the newer one.
            let absent = [if config.contains_key("rope_parameters") { "dtype" } else { "torch_dtype" }];
            for key in if present.is_empty() { &absent[..] } else { &present[..] } {
                config.insert((*key).to_owned(), name.into());
            }
        }
        if self.unquantized {
            config.shift_remove("quantization_config");
        }
        for (key, value) in &self.set {
            config.insert(key.clone(), value.clone());
        }
    }
}

/// Reads a folder's config.json, keys in the order of the file.
pub fn read_config(dir: &Path) -> Result<Map<String, Value>, Error> {
    read_json(&dir.join(CONFIG_FILE))
}

/// Writes config.json of `from` to `to` with `changes`; every other key keeps its value and place. Where nothing
/// changes, the file is copied byte for byte.
pub fn write_config(from: &Path, to: &Path, changes: &ConfigChanges) -> Result<(), Error> {
    let original = read_config(from)?;
    let mut config = original.clone();
    changes.apply(&mut config);
    if config == original {
        return copy_atomic(&from.join(CONFIG_FILE), &to.join(CONFIG_FILE));
    }
    write_atomic(&to.join(CONFIG_FILE), &pretty_json(&config))
}

/// Copies tokenizer, chat templates, generation defaults and licence from one model folder to another, as far as they
/// are there. Returns the names copied, `/` between folder and file.
pub fn copy_companions(from: &Path, to: &Path) -> Result<Vec<String>, Error> {
    let mut copied = Vec::new();
    for &name in COMPANIONS {
        if from.join(name).is_file() {
            copy_atomic(&from.join(name), &to.join(name))?;
            copied.push(name.to_owned());
        }
    }
    let templates = from.join(TEMPLATE_FOLDER);
    if templates.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(&templates).map_err(Error::io("list", &templates))? {
            let path = entry.map_err(Error::io("list", &templates))?.path();
            if path.is_file() && path.extension().is_some_and(|e| e == "jinja") {
                names.extend(path.file_name().map(|n| n.to_owned()));
            }
        }
        names.sort();
        let target = to.join(TEMPLATE_FOLDER);
        fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
        for name in names {
            copy_atomic(&templates.join(&name), &target.join(&name))?;
            copied.push(format!("{TEMPLATE_FOLDER}/{}", name.to_string_lossy()));
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn exported(config: &str, changes: &ConfigChanges) -> String {
        let (from, to) = (TestDir::new(), TestDir::new());
        from.file(CONFIG_FILE, config);
        write_config(from.path(), to.path(), changes).unwrap();
        fs::read_to_string(to.join(CONFIG_FILE)).unwrap()
    }

    #[test]
    fn keys_keep_their_order_and_what_is_unknown_stays() {
        let config = r#"{"z": 1, "torch_dtype": "float32", "odd": {"b": [null], "a": 1e-06}, "vocab_size": 8}"#;
        let changes = ConfigChanges { dtype: Some(DType::BF16), ..ConfigChanges::default() };
        let expected = r#"{
  "z": 1,
  "torch_dtype": "bfloat16",
  "odd": {
    "b": [
      null
    ],
    "a": 1e-6
  },
  "vocab_size": 8
}
"#;
        assert_eq!(exported(config, &changes), expected);
    }

    #[test]
    fn the_type_goes_where_the_files_dialect_has_it() {
        let changes = ConfigChanges { dtype: Some(DType::F16), ..ConfigChanges::default() };
        let keys = |config| exported(config, &changes).replace(['\n', ' '], "");
        assert_eq!(keys(r#"{"dtype": "x"}"#), r#"{"dtype":"float16"}"#);
        assert_eq!(keys(r#"{"dtype": "x", "torch_dtype": "x"}"#), r#"{"dtype":"float16","torch_dtype":"float16"}"#);
        assert_eq!(keys("{}"), r#"{"torch_dtype":"float16"}"#);
        assert_eq!(keys(r#"{"rope_parameters": {}}"#), r#"{"rope_parameters":{},"dtype":"float16"}"#);
    }

    #[test]
    fn quantisation_goes_and_values_change_in_place_as_asked() {
        let config = r#"{"vocab_size": 8, "quantization_config": {"bits": 4}, "x": 1, "a": 2}"#;
        let set = vec![("vocab_size".to_owned(), 16.into())];
        let changes = ConfigChanges { unquantized: true, set, dtype: None };
        assert_eq!(exported(config, &changes).replace(['\n', ' '], ""), r#"{"vocab_size":16,"x":1,"a":2}"#);
    }

    #[test]
    fn an_unchanged_configuration_is_copied_byte_for_byte() {
        let config = "{\"rms_norm_eps\": 1e-06,\t\"dtype\": \"float32\"}";
        let changes = ConfigChanges { dtype: Some(DType::F32), unquantized: true, set: vec![] };
        assert_eq!(exported(config, &changes), config);
    }

    #[test]
    fn companions_are_copied_and_weights_are_not() {
        let (from, to) = (TestDir::new(), TestDir::new());
        for name in ["tokenizer.json", "LICENSE", "chat_template.jinja", "model.safetensors", "code.py", "config.json"]
        {
            from.file(name, name);
        }
        fs::create_dir(from.join(TEMPLATE_FOLDER)).unwrap();
        from.file("additional_chat_templates/rag.jinja", "rag");
        from.file("additional_chat_templates/rag.py", "rag");
        let copied = copy_companions(from.path(), to.path()).unwrap();
        let expected = ["tokenizer.json", "chat_template.jinja", "LICENSE", "additional_chat_templates/rag.jinja"];
        assert_eq!(copied, expected);
        assert!(expected.iter().all(|name| fs::read(to.join(name)).unwrap() == fs::read(from.join(name)).unwrap()));
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_damaged_configuration_is_named_with_its_place() {
        let dir = TestDir::new();
        dir.file(CONFIG_FILE, "{\n  \"a\": NaN}");
        let message = read_config(dir.path()).unwrap_err().to_string();
        assert!(message.contains("config.json:2:8: expected value"), "{message}");
    }
}
