//! Finding a field again in the text of a row, so that an error can point at it.

use std::fmt;

/// One step from a JSON value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A field of an object.
    Key(String),
    /// An element of an array, from 0.
    Index(usize),
}

/// A path such as `messages[1].content`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// The path of a top-level field.
    pub fn key(name: &str) -> Self {
        FieldPath(vec![Step::Key(name.to_owned())])
    }

    /// The path of field `name` of this.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.then(Step::Key(name.to_owned()))
    }

    /// The path of element `n` of this, from 0.
    #[must_use]
    pub fn element(&self, n: usize) -> Self {
        self.then(Step::Index(n))
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        FieldPath(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if i == 0 => write!(f, "{name}")?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::Index(n) => write!(f, "[{n}]")?,
            }
        }
        Ok(())
    }
}

/// Line and column (from 1, relative to `text`) of the value at `path`, or of the deepest part of the path that exists.
pub fn locate(text: &str, path: &FieldPath) -> (u64, u64) {
    let mut at = skip_space(text, 0);
    for step in &path.0 {
        match descend(text, at, step) {
            Some(next) => at = next,
            None => break,
        }
    }
    position(text, at)
}

/// Line and column of byte `at`, from 1.
pub fn position(text: &str, at: usize) -> (u64, u64) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    (line, column)
}

fn descend(text: &str, at: usize, step: &Step) -> Option<usize> {
    let open = match step {
        Step::Key(_) => b'{',
        Step::Index(_) => b'[',
    };
    if *text.as_bytes().get(at)? != open {
        return None;
    }
    let (mut i, mut count) = (skip_space(text, at + 1), 0);
    let mut found = None;
    while !matches!(text.as_bytes().get(i), None | Some(b']' | b'}')) {
        let key_end = skip_value(text, i);
        match step {
            Step::Key(name) => {
                let key: Option<String> = serde_json::from_str(&text[i..key_end]).ok();
                i = skip_space(text, key_end);
                i = skip_space(text, i + usize::from(text.as_bytes().get(i) == Some(&b':')));
                if key.as_ref() == Some(name) {
                    // The parser keeps the last of several equal keys.
                    found = Some(i);
                }
                i = skip_value(text, i);
            }
            Step::Index(n) if count == *n => return Some(i),
            Step::Index(_) => i = key_end,
        }
        count += 1;
        i = skip_space(text, i);
        if text.as_bytes().get(i) == Some(&b',') {
            i = skip_space(text, i + 1);
        }
    }
    found
}

fn skip_space(text: &str, from: usize) -> usize {
    text.as_bytes()[from..].iter().position(|c| !c.is_ascii_whitespace()).map_or(text.len(), |n| from + n)
}

/// End of the value that starts at `from`; at least one byte on, so that a scan always ends.
fn skip_value(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut i, mut depth, mut in_string) = (from, 0_i32, false);
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if in_string => i += 1,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return i + 1;
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' | b':' if depth == 0 => return i.max(from + 1),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            c if depth == 0 && c.is_ascii_whitespace() => return i,
            _ => {}
        }
        i += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_where_it_stands() {
        let text = "{\"né\": \"a\\\"{\", \"messages\": [{\"role\": \"user\"},\n  {\"role\": 3}], \"label\": \"yes\"}";
        assert_eq!(locate(text, &FieldPath::key("label")), (2, 26));
        let role = FieldPath::key("messages").element(1).field("role");
        assert_eq!(locate(text, &role), (2, 12));
        assert_eq!(role.to_string(), "messages[1].role");
        // A missing field points at what should hold it.
        assert_eq!(locate(text, &FieldPath::key("messages").element(0).field("content")), (1, 29));
        assert_eq!(locate(text, &FieldPath::default()), (1, 1));
    }
}
