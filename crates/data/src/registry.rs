//! LLaMA-Factory's `dataset_info.json`: names of data sets, where they are, and what their columns and roles are called.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::format::Shape;
use crate::format::mapping::{Mapping, STANDARD, Tags};
use crate::source::resolve;

/// Data sets registered by name.
#[derive(Clone, Debug)]
pub struct Registry {
    path: PathBuf,
    entries: Map<String, Json>,
}

/// A registered data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// How its rows are read; for [`Options::mappings`](crate::Options::mappings), under each of the files.
    pub mapping: Mapping,
    /// Rows to take, if the entry says so.
    pub num_samples: Option<usize>,
}

/// Columns: LLaMA-Factory's key, the name our shapes know, and the column that is meant where the entry names none.
const COLUMNS: [(&str, &str, Option<&str>); 10] = [
    ("prompt", "instruction", Some("instruction")),
    ("query", "input", Some("input")),
    ("response", "output", Some("output")),
    ("history", "history", None),
    ("messages", "conversations", Some("conversations")),
    ("system", "system", None),
    ("tools", "tools", None),
    ("chosen", "chosen", None),
    ("rejected", "rejected", None),
    ("kto_tag", "label", None),
];
/// Columns that are no text.
const MEDIA: [&str; 3] = ["images", "videos", "audios"];
/// Tags of the parties, in the order of [`Tags::parties`].
const PARTIES: [&str; 5] = ["user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"];

impl Registry {
    /// Reads `dataset_info.json`, given itself or by its folder.
    ///
    /// # Errors
    /// `Io`; `NoFiles` if it is no JSON object.
    pub fn read(path: &Path) -> Result<Registry> {
        let path = if path.is_dir() { path.join("dataset_info.json") } else { path.to_owned() };
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        match serde_json::from_slice(&bytes) {
            Ok(Json::Object(entries)) => Ok(Registry { path, entries }),
            Ok(_) => Err(Error::NoFiles { path, reason: "expected an object of data sets by name".into() }),
            Err(e) => Err(Error::NoFiles { path, reason: format!("not valid JSON: {e}") }),
        }
    }

    /// Whether a registry can be read there: the file itself, or its folder.
    pub fn is_at(path: &Path) -> bool {
        path.is_file() || path.join("dataset_info.json").is_file()
    }

    /// Whether it knows a data set of that name.
    pub fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The name on the Hugging Face Hub of a data set that is there and not on this machine.
    pub fn on_the_hub(&self, name: &str) -> Option<String> {
        let entry = self.entries.get(name)?;
        let text = |key: &str| entry.get(key).and_then(Json::as_str);
        let id = text("hf_hub_url").filter(|id| text("file_name").is_none() && !Path::new(id).exists())?;
        Some(id.to_owned())
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The data set of that name; `fetched` is the folder of one that is [`on_the_hub`](Self::on_the_hub).
    ///
    /// # Errors
    /// `NoFiles` when there is none, when it is not on this machine, or when it is something that is not read.
    pub fn find(&self, name: &str, fetched: Option<&Path>) -> Result<Registered> {
        let bad =
            |reason: String| Error::NoFiles { path: self.path.clone(), reason: format!("data set `{name}`: {reason}") };
        let Some(entry) = self.entries.get(name) else {
            let known: Vec<&str> = self.names().take(20).collect();
            return Err(bad(format!("not registered; the first names are {}", known.join(", "))));
        };
        let text = |key: &str| entry.get(key).and_then(Json::as_str);
        let columns = entry.get("columns").and_then(Json::as_object);
        if let Some(key) = MEDIA.iter().find(|key| columns.is_some_and(|c| c.get(**key).is_some_and(|v| !v.is_null())))
        {
            return Err(bad(format!("it has `{key}`; rows are text")));
        }
        let formatting = text("formatting");
        if formatting.is_some_and(|f| !["alpaca", "sharegpt", "openai"].contains(&f)) {
            return Err(bad(format!(
                "expected formatting \"alpaca\", \"sharegpt\" or \"openai\", found {formatting:?}"
            )));
        }
        let mapping = self.mapping(entry, formatting, columns);
        let num_samples = entry.get("num_samples").and_then(Json::as_u64).map(|n| n as usize);
        Ok(Registered { files: self.files(entry, fetched, &bad)?, mapping, num_samples })
    }

    fn files(&self, entry: &Json, fetched: Option<&Path>, bad: &dyn Fn(String) -> Error) -> Result<Vec<PathBuf>> {
        let text = |key: &str| entry.get(key).and_then(Json::as_str);
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let split = text("split").unwrap_or("train");
        if let Some(file) = text("file_name") {
            return resolve(&folder.join(file), split);
        }
        if let Some(fetched) = fetched {
            // A subset of a repository is a folder in it, as `folder` is.
            let inner =
                [text("folder"), text("subset")].into_iter().flatten().fold(fetched.to_owned(), |p, f| p.join(f));
            return resolve(&inner, split);
        }
        // A path of this machine may stand where the name of a repository does.
        let hub = ["hf_hub_url", "ms_hub_url", "om_hub_url"].into_iter().find_map(text);
        if let Some(path) = hub.map(Path::new).filter(|p| p.exists()) {
            return resolve(path, split);
        }
        Err(bad(match (hub, text("script_url"), text("cloud_file_name")) {
            (Some(hub), ..) => format!("it is on the Hub ({hub}): fetch it and name the files as `file_name`"),
            (None, Some(_), _) => "it is a script, and nothing from a data set is ever executed".into(),
            (None, None, Some(_)) => "it is in a cloud: fetch it and name the file as `file_name`".into(),
            _ => "expected `file_name`, found no place".into(),
        }))
    }

    fn mapping(&self, entry: &Json, formatting: Option<&str>, columns: Option<&Map<String, Json>>) -> Mapping {
        let ranking = entry.get("ranking").and_then(Json::as_bool).unwrap_or(false);
        if formatting.is_none() && columns.is_none() && !ranking {
            return Mapping::default();
        }
        let sharegpt = matches!(formatting, Some("sharegpt" | "openai"));
        // With `columns`, those not listed are not read; without, they have their usual names.
        let column = |key: &str, usual: Option<&str>| match columns {
            Some(columns) => columns.get(key).and_then(Json::as_str).map(str::to_owned),
            None => usual.map(str::to_owned),
        };
        let mut listed: Vec<(String, String)> = COLUMNS
            .iter()
            .filter(|(key, ..)| {
                if sharegpt { !["prompt", "query", "response", "history"].contains(key) } else { *key != "messages" }
            })
            .filter_map(|(key, ours, usual)| Some(((*ours).to_owned(), column(key, *usual)?)))
            .collect();
        if ranking && columns.is_none() {
            listed.extend(["chosen", "rejected"].map(|name| (name.to_owned(), name.to_owned())));
        }
        let shape = match (ranking, sharegpt) {
            (true, _) => Shape::Pair,
            (false, true) => Shape::Conversations,
            (false, false) => Shape::Alpaca,
        };
        let tags = sharegpt.then(|| {
            let given = entry.get("tags").and_then(Json::as_object);
            let usual = if formatting == Some("openai") { ["role", "content"] } else { ["from", "value"] };
            let tag = |key: &str, usual: &str| match given {
                Some(given) => given.get(key).and_then(Json::as_str).map(str::to_owned),
                None => Some(usual.to_owned()),
            };
            let names = if formatting == Some("openai") { OPENAI } else { STANDARD };
            Tags {
                role: tag("role_tag", usual[0]).unwrap_or_else(|| usual[0].into()),
                content: tag("content_tag", usual[1]).unwrap_or_else(|| usual[1].into()),
                parties: std::array::from_fn(|n| tag(PARTIES[n], names[n])),
            }
        });
        Mapping { shape: Some(shape), columns: listed, tags }
    }
}

/// The parties in OpenAI's words.
const OPENAI: [&str; 5] = ["user", "assistant", "tool", "function_call", "system"];
