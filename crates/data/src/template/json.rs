//! The `tojson` filter as `transformers` defines it.

use std::fmt::Write as _;

use minijinja::ErrorKind;
use minijinja::value::{Kwargs, Value, ValueKind};

use super::SAFE;

/// Python's `json.dumps` with `ensure_ascii=False` as the default: no HTML escapes, `", "` and `": "` between items.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, minijinja::Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        Some(v) if v.kind() == ValueKind::String => Some(v.as_str().unwrap_or_default().to_owned()),
        Some(v) if !v.is_none() => Some(" ".repeat(usize::try_from(v)?.min(64))),
        _ => None,
    };
    let separators = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "tojson: `separators` is a pair")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let dump = Dump {
        indent,
        separators,
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    dump.value(value, 0, &mut out)?;
    Ok(out)
}

/// Settings of one `tojson` call.
struct Dump {
    indent: Option<String>,
    separators: (String, String),
    ascii: bool,
    sort: bool,
}

impl Dump {
    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), minijinja::Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    entries.push((key.to_string(), value.get_item(&key)?));
                }
                if self.sort {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.items(entries.iter(), "{}", depth, out, |(key, item), out| {
                    self.string(key, out);
                    out.push_str(&self.separators.1);
                    self.value(item, depth + 1, out)
                })?;
            }
            ValueKind::Seq => {
                self.items(value.try_iter()?, "[]", depth, out, |item, out| self.value(&item, depth + 1, out))?;
            }
            kind => {
                let reason = format!("tojson: a value of type {kind} has no JSON form");
                return Err(minijinja::Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    fn items<T>(
        &self,
        items: impl Iterator<Item = T>,
        brackets: &str,
        depth: usize,
        out: &mut String,
        mut each: impl FnMut(T, &mut String) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        let (open, close) = brackets.split_at(1);
        out.push_str(open);
        let mut any = false;
        for item in items {
            if any {
                out.push_str(&self.separators.0);
            }
            any = true;
            self.newline(depth + 1, out);
            each(item, out)?;
        }
        if any {
            self.newline(depth, out);
        }
        out.push_str(close);
        Ok(())
    }

    fn newline(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("writing to a string");
                    }
                }
                c if SAFE.contains(&c) => {}
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits, an exponent outside `1e-4 <= |x| < 1e16`.
fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let size = x.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').expect("an exponent was asked for");
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{x:?}")
}
