//! Other names for columns and roles: rows are renamed to the names that the shapes know before they are read.

use serde_json::{Map, Value as Json};

use super::{BadField, Shape};
use crate::locate::Step;

/// Names by which a data set calls what the shapes know under names of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The shape of every row, if it is stated.
    pub shape: Option<Shape>,
    /// `(name in the shape, column of the data set)`. With any, a column that is not listed is not read; without, all are.
    pub columns: Vec<(String, String)>,
    /// The data set's names inside a turn and for the parties; `None`: as they come.
    pub tags: Option<Tags>,
}

/// LLaMA-Factory's `tags`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    /// Field of a turn that says who speaks.
    pub role: String,
    /// Field of a turn that holds the text.
    pub content: String,
    /// What the parties are called: user, assistant, observation, function call, system.
    pub parties: [Option<String>; 5],
}

impl Default for Tags {
    fn default() -> Self {
        let parties = STANDARD.map(|name| Some(name.to_owned()));
        Tags { role: "from".into(), content: "value".into(), parties }
    }
}

/// ShareGPT's names of the parties, in the order of [`Tags::parties`].
pub(crate) const STANDARD: [&str; 5] = ["human", "gpt", "observation", "function_call", "system"];
/// Fields that hold turns.
const TURNS: [&str; 5] = ["conversations", "messages", "prompt", "chosen", "rejected"];

impl Mapping {
    /// The row under the names that its shape knows.
    pub fn apply(&self, row: Json) -> Json {
        let Json::Object(mut fields) = row else { return row };
        if !self.columns.is_empty() {
            fields = self
                .columns
                .iter()
                .filter_map(|(name, column)| Some((name.clone(), fields.get(column)?.clone())))
                .collect();
        }
        if let Some(tags) = &self.tags {
            for name in TURNS {
                match fields.get_mut(name) {
                    Some(Json::Array(turns)) => turns.iter_mut().for_each(|turn| tags.apply(turn)),
                    Some(turn @ Json::Object(_)) => tags.apply(turn),
                    _ => {}
                }
            }
        }
        Json::Object(fields)
    }

    /// A complaint about a renamed row in the names of the data set.
    pub fn unapply(&self, mut bad: BadField) -> BadField {
        for (depth, step) in bad.path.0.iter_mut().enumerate() {
            let Step::Key(name) = step else { continue };
            let original = match (depth, &self.tags) {
                (0, _) => self.columns.iter().find(|(ours, _)| ours == name).map(|(_, theirs)| theirs),
                (_, Some(tags)) if name == "from" => Some(&tags.role),
                (_, Some(tags)) if name == "value" => Some(&tags.content),
                _ => None,
            };
            if let Some(original) = original {
                name.clone_from(original);
            }
        }
        bad
    }

    /// The data set's name of a field of ours, for lists of fields.
    pub fn column<'a>(&'a self, name: &'a str) -> &'a str {
        self.columns.iter().find(|(ours, _)| ours == name).map_or(name, |(_, theirs)| theirs)
    }
}

impl Tags {
    fn apply(&self, turn: &mut Json) {
        let Json::Object(fields) = turn else { return };
        let mut renamed = Map::with_capacity(fields.len());
        for (name, value) in std::mem::take(fields) {
            if name == self.role {
                let party = self
                    .parties
                    .iter()
                    .position(|party| value.as_str().is_some() && party.as_deref() == value.as_str());
                renamed.insert("from".into(), party.map_or(value, |n| STANDARD[n].into()));
            } else if name == self.content {
                renamed.insert("value".into(), value);
            } else {
                renamed.insert(name, value);
            }
        }
        *fields = renamed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locate::FieldPath;
    use serde_json::json;

    fn path(text: &str) -> FieldPath {
        FieldPath(text.split('.').map(|name| Step::Key(name.into())).collect())
    }

    #[test]
    fn columns_and_tags_are_renamed_and_complaints_are_not() {
        let mapping = Mapping {
            shape: None,
            columns: vec![("conversations".into(), "talk".into()), ("label".into(), "good".into())],
            tags: Some(Tags {
                role: "who".into(),
                content: "says".into(),
                parties: [Some("q".into()), Some("a".into()), None, None, None],
            }),
        };
        let row = json!({"talk": [{"who": "q", "says": "hi"}, {"who": "a", "says": "yo", "id": 3}], "good": true, "system": "no"});
        let expected = json!({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo", "id": 3}], "label": true});
        assert_eq!(mapping.apply(row), expected);
        let bad = mapping.unapply(BadField::new(path("conversations.value"), ""));
        assert_eq!(bad.path.to_string(), "talk.says");
        assert_eq!(mapping.unapply(BadField::new(path("label"), "")).path.to_string(), "good");
        assert_eq!(mapping.apply(json!([1])), json!([1]));
    }
}
