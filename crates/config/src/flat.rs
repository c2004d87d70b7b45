//! Other small YAML files: `key: value` lines with keys that the caller knows.

use crate::problem::{Code, Errors, Problem, Source};
use crate::yaml::{self, Content};

/// Reads `key: value` lines: each key one of `keys`, each value one text or number. Values in the order of `keys`.
///
/// `path` names the text in messages. Errors: every unknown key and every value that is a list or a mapping.
pub fn flat<const N: usize>(path: &str, text: &str, keys: [&str; N]) -> Result<[Option<String>; N], Errors> {
    let mut values = [const { None }; N];
    let mut problems = Vec::new();
    let pairs = match yaml::parse(&Source::File(path.into()), text)? {
        Some(yaml::Node { content: Content::Map(pairs), .. }) => pairs,
        None => Vec::new(),
        Some(node) if node.is_null() => Vec::new(),
        Some(node) => {
            let message = format!("expected `key: value` lines, found {}", node.describe());
            return Err(Problem::new(Code::Shape, &node.place, message).into());
        }
    };
    for pair in pairs {
        let Some(slot) = keys.iter().position(|key| *key == pair.key) else {
            let message = format!("`{}` is no key of this file", pair.key);
            let help = format!("the keys are {}", keys.join(", "));
            problems.push(Problem::new(Code::UnknownKey, &pair.key_place, message).help(help));
            continue;
        };
        match &pair.value.content {
            _ if pair.value.is_null() => {}
            Content::Scalar { text, .. } => values[slot] = Some(text.clone()),
            _ => {
                let message = format!("`{}`: expected a text, found {}", pair.key, pair.value.describe());
                problems.push(Problem::new(Code::WrongType, &pair.value.place, message));
            }
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(Errors { problems }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_the_order_of_the_keys() {
        let values =
            flat("b.yaml", "file: rows.jsonl\nname: mine # a comment\nboxed: true\n", ["name", "file", "gold"]);
        assert!(values.unwrap_err().to_string().contains("boxed"));
        let values = flat("b.yaml", "file: rows.jsonl\nname: mine # a comment\n", ["name", "file", "gold"]).unwrap();
        assert_eq!(values, [Some("mine".to_owned()), Some("rows.jsonl".to_owned()), None]);
        assert!(flat("b.yaml", "name: [a]\n", ["name"]).is_err());
    }
}
