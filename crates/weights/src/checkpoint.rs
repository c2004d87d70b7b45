//! The weights of a Hugging Face model folder: one safetensors file, or shards behind an index.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::dtype::TensorInfo;
use crate::error::Error;
use crate::json::{StringMap, read_json};
use crate::safetensors::{Mapped, SafeTensors};

/// The file of an unsharded model.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// All tensors of a model folder, mapped.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<SafeTensors>,
    /// Name to file and place in it.
    tensors: BTreeMap<String, (usize, usize)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: StringMap,
}

impl Checkpoint {
    /// Opens the folder's `model.safetensors` or, where there is none, the shards that its index names (the order of
    /// precedence of transformers). Every header is checked, no tensor is read.
    pub fn open(dir: &Path) -> Result<Checkpoint, Error> {
        let single = dir.join(SINGLE_FILE);
        let index = dir.join(INDEX_FILE);
        let files = if single.exists() {
            vec![SafeTensors::open(&single)?]
        } else if index.exists() {
            open_shards(dir, &index)?
        } else {
            return Err(no_weights(dir));
        };
        let mut tensors = BTreeMap::new();
        for (f, file) in files.iter().enumerate() {
            for (t, info) in file.infos().enumerate() {
                if let Some((first, _)) = tensors.insert(info.name.clone(), (f, t)) {
                    return Err(Error::DuplicateTensor {
                        name: info.name.clone(),
                        first: files[first].path().to_owned(),
                        second: file.path().to_owned(),
                    });
                }
            }
        }
        Ok(Checkpoint { dir: dir.to_owned(), files, tensors })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The weight files, as for hashing them.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(SafeTensors::path)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names in sorted order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Name, type and shape of every tensor, sorted by name.
    pub fn infos(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.values().map(|&(f, t)| self.files[f].info(t))
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of that name, or an error that names the most similar one.
    pub fn get(&self, name: &str) -> Result<Mapped, Error> {
        match self.tensors.get(name) {
            Some(&(f, t)) => Ok(self.files[f].at(t)),
            None => Err(Error::MissingTensor {
                path: self.dir.clone(),
                name: name.to_owned(),
                nearest: nearest(name, self.names()).map(str::to_owned),
            }),
        }
    }

    /// The tensor of that name, which must have that shape.
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<Mapped, Error> {
        let tensor = self.get(name)?;
        tensor.expect_shape(shape)?;
        Ok(tensor)
    }
}

fn open_shards(dir: &Path, index: &Path) -> Result<Vec<SafeTensors>, Error> {
    let Index { weight_map: StringMap(weight_map) } = read_json(index)?;
    // Shard to one of its tensors, for the message where the shard is missing.
    let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
    for (tensor, shard) in &weight_map {
        shards.entry(shard).or_insert(tensor);
    }
    let mut opened: BTreeMap<&str, SafeTensors> = BTreeMap::new();
    for (&shard, &tensor) in &shards {
        if let Some(why) = unsafe_name(shard) {
            return Err(Error::ShardName { index: index.to_owned(), name: shard.to_owned(), why });
        }
        let path = dir.join(shard);
        let file = SafeTensors::open(&path).map_err(|e| match e {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Error::MissingShard { path, tensor: tensor.to_owned() }
            }
            other => other,
        })?;
        opened.insert(shard, file);
    }
    for (tensor, shard) in &weight_map {
        let file = &opened[shard.as_str()];
        if file.find(tensor).is_none() {
            return Err(Error::MissingTensor {
                path: file.path().to_owned(),
                name: tensor.clone(),
                nearest: nearest(tensor, file.infos().map(|i| i.name.as_str())).map(str::to_owned),
            });
        }
    }
    Ok(opened.into_values().collect())
}

/// Why `name` is not the plain name of a safetensors file beside its index, on any operating system.
fn unsafe_name(name: &str) -> Option<&'static str> {
    if name.contains(['/', '\\']) {
        Some("holds a path separator")
    } else if name.contains(':') {
        Some("holds a colon")
    } else if name.contains(char::is_control) {
        Some("holds a control character")
    } else if name.starts_with('.') {
        Some("starts with a dot")
    } else if name.len() > 255 {
        Some("is longer than 255 bytes")
    } else if !name.ends_with(".safetensors") {
        Some("does not end in .safetensors")
    } else {
        None
    }
}

/// Says what the folder holds in place of safetensors.
fn no_weights(dir: &Path) -> Error {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(source) => return Error::io("open model folder", dir)(source),
    };
    let names: Vec<_> = listing.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let ends = |ending: &str| names.iter().any(|n| n.ends_with(ending));
    let what = if ends(".bin") || ends(".pt") || ends(".pth") {
        "only pickled PyTorch files, which can run code and are not read; convert them to safetensors".to_owned()
    } else if ends(".gguf") {
        "only GGUF files; training needs the Hugging Face folder with safetensors".to_owned()
    } else {
        format!("neither {SINGLE_FILE} nor {INDEX_FILE} is there; is the download complete?")
    };
    Error::NoWeights { dir: dir.to_owned(), what }
}

/// The name that shares the longest beginning and end with `wanted`.
fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let shared = |name: &str| {
        let front = wanted.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let back = wanted.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
        (front + back, usize::MAX - name.len())
    };
    names.max_by_key(|name| shared(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{DType, Tensor};
    use crate::testdir::TestDir;
    use crate::write::write_tensors;

    fn shard(dir: &TestDir, file: &str, names: &[&str]) {
        let tensors: Vec<_> =
            names.iter().map(|name| Tensor { name, dtype: DType::U8, shape: &[2], bytes: &[1, 2] }).collect();
        write_tensors(&dir.join(file), &tensors).unwrap();
    }

    fn index(dir: &TestDir, rows: &[(&str, &str)]) {
        let rows: Vec<_> = rows.iter().map(|(t, f)| format!("{t:?}: {}", serde_json::Value::from(*f))).collect();
        dir.file(INDEX_FILE, format!("{{\"metadata\": {{}}, \"weight_map\": {{{}}}}}", rows.join(", ")));
    }

    #[test]
    fn shards_are_one_model() {
        let dir = TestDir::new();
        shard(&dir, "model-00001-of-00002.safetensors", &["b", "c"]);
        shard(&dir, "model-00002-of-00002.safetensors", &["a"]);
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        index(&dir, &[("a", two), ("b", one), ("c", one)]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(checkpoint.infos().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(checkpoint.get("a").unwrap().path(), dir.join(two));
        assert_eq!(checkpoint.files().len(), 2);
        assert!(checkpoint.contains("c") && !checkpoint.contains("d"));
        assert_eq!(checkpoint.get_shaped("c", &[2]).unwrap().bytes(), [1, 2]);
        assert!(matches!(checkpoint.get_shaped("c", &[3]), Err(Error::Shape { .. })));
    }

    #[test]
    fn a_shard_name_never_leaves_the_folder() {
        let outside = TestDir::new();
        shard(&outside, "x.safetensors", &["a"]);
        let dir = TestDir::new();
        let up = format!("../{}/x.safetensors", outside.path().file_name().unwrap().to_str().unwrap());
        let absolute = outside.join("x.safetensors").to_str().unwrap().to_owned();
        let names = [
            up.as_str(),
            absolute.as_str(),
            "../x",
            "..",
            "",
            "sub/x.safetensors",
            "..\\x.safetensors",
            "C:x.safetensors",
            "\\\\host\\x.safetensors",
            "x.safetensors\0",
            ".hidden.safetensors",
            "weights.bin",
        ];
        for name in names {
            index(&dir, &[("a", name)]);
            let error = Checkpoint::open(dir.path()).unwrap_err();
            assert!(matches!(error, Error::ShardName { .. }), "{name:?}: {error}");
        }
    }

    #[test]
    fn a_missing_shard_or_tensor_is_named() {
        let dir = TestDir::new();
        shard(&dir, "one.safetensors", &["a"]);
        index(&dir, &[("a", "one.safetensors"), ("b", "two.safetensors")]);
        let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("two.safetensors: shard is missing") && message.contains("\"b\""), "{message}");
        index(&dir, &[("a", "one.safetensors"), ("b", "one.safetensors")]);
        let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("one.safetensors: no tensor \"b\""), "{message}");
    }

    #[test]
    fn a_tensor_in_two_shards_is_refused() {
        let dir = TestDir::new();
        shard(&dir, "one.safetensors", &["a", "b"]);
        shard(&dir, "two.safetensors", &["b"]);
        index(&dir, &[("a", "one.safetensors"), ("b", "two.safetensors")]);
        assert!(matches!(Checkpoint::open(dir.path()), Err(Error::DuplicateTensor { .. })));
    }

    #[test]
    fn the_most_similar_name_is_offered() {
        let dir = TestDir::new();
        shard(&dir, SINGLE_FILE, &["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]);
        let message = Checkpoint::open(dir.path()).unwrap().get("layers.0.mlp.up_proj.weight").unwrap_err().to_string();
        assert!(message.ends_with("the most similar name there is \"model.layers.0.mlp.up_proj.weight\""), "{message}");
    }

    #[test]
    fn a_folder_without_safetensors_says_what_it_has() {
        let dir = TestDir::new();
        let message = || Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(message().contains("is the download complete?"));
        dir.file("pytorch_model.bin", "");
        assert!(message().contains("pickled"));
        let absent = Checkpoint::open(&dir.join("absent")).unwrap_err();
        assert!(absent.to_string().contains("check the path"), "{absent}");
    }

    #[test]
    fn a_damaged_index_is_named_with_its_place() {
        let dir = TestDir::new();
        dir.file(INDEX_FILE, "{\"weight_map\": {\n  \"a\": 1}}");
        let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("index.json:2:8: invalid type: integer `1`"), "{message}");
        dir.file(INDEX_FILE, r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#);
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("a key is there twice"));
    }
}
