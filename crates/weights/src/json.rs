//! Bounded reading of the JSON files of a model folder.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::Error;

/// The largest JSON file that is parsed, in bytes; the indices of the largest public models have a few megabytes.
const MAX_FILE: u64 = 100_000_000;

/// Reads and parses a file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    parse_json(path, &read_bounded(path)?)
}

/// Parses the bytes of the file `path`.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| {
        let message = e.to_string();
        let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what).to_owned();
        Error::Json { path: path.to_owned(), line: e.line(), column: e.column(), what }
    })
}

/// Reads a file that is to be parsed as JSON.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::json(path, format!("more than {MAX_FILE} bytes of JSON; this is no file of a model")));
    }
    Ok(bytes)
}

/// A string of at most `max` bytes, refused before it is copied.
pub(crate) fn short_string<'de, D: Deserializer<'de>>(deserializer: D, max: usize) -> Result<String, D::Error> {
    struct ShortVisitor(usize);
    impl Visitor<'_> for ShortVisitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a string of at most {} bytes", self.0)
        }

        fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<String, E> {
            if s.len() > self.0 {
                return Err(E::custom(format_args!("a name of {} bytes, at most {} are allowed", s.len(), self.0)));
            }
            Ok(s.to_owned())
        }
    }
    deserializer.deserialize_str(ShortVisitor(max))
}

/// A map from strings to strings in which no key comes twice.
#[derive(Debug, Default)]
pub(crate) struct StringMap(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StringMap, D::Error> {
        struct StringMapVisitor;
        impl<'de> Visitor<'de> for StringMapVisitor {
            type Value = StringMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if let Some(first) = out.insert(key, value) {
                        return Err(A::Error::custom(format_args!("a key is there twice, first with {first:?}")));
                    }
                }
                Ok(StringMap(out))
            }
        }
        deserializer.deserialize_map(StringMapVisitor)
    }
}
