//! Bounds on what a template may ask for in one step: fuel counts instructions, and one instruction can nest a value once more, ask
//! for any width, or be an expression as long as the file.
//!
//! The engine walks expressions, values that it prints, compares or drops, by calling itself; so how deep they are is bounded where
//! they are made. Lists grow from step to step only through `{% set %}`, whose values go through [`kept`].

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::BOUND;
use super::rewrite::pieces;
use crate::error::{TemplateError, TemplateErrorKind};

/// Operators, names and brackets around one another in an expression, or branches of one `if`; published templates reach 31.
const EXPRESSION: usize = 400;
/// Lists in lists; JSON itself is read to 127.
const DEPTH: usize = 256;
/// Lists and objects in one value that is kept.
const NODES: usize = 1_000_000;
/// Columns to which a text may be filled up.
const WIDTH: u64 = 65_535;

/// Refuses a template whose expressions are too long to be walked.
///
/// # Errors
/// `Limit`, with the line.
pub(super) fn check_source(source: &str) -> Result<(), TemplateError> {
    let (mut line, mut branches) = (1, 0);
    for (text, token) in pieces(source) {
        line += newlines(text);
        let word = token.trim_start_matches(['{', '%', '-', '+']).split_whitespace().next();
        branches += usize::from(word == Some("elif"));
        let is_comment = token.starts_with("{#");
        if branches > EXPRESSION || (!is_comment && depth(token) > EXPRESSION) {
            let reason = format!("an expression or `if` of more than {EXPRESSION} parts");
            return Err(TemplateError { kind: TemplateErrorKind::Limit, line, reason });
        }
        line += newlines(token);
    }
    Ok(())
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|&c| c == b'\n').count()
}

/// At most how deep the tree of an expression is: its words and signs, of things between commas the longest.
fn depth(expression: &str) -> usize {
    // Of each open bracket: parts since the last comma, and the most before it.
    let mut open = vec![(0_usize, 0_usize)];
    let (mut quote, mut escaped, mut in_word) = (None, false, false);
    for c in expression.bytes() {
        if let Some(end) = quote {
            (quote, escaped) = (quote.filter(|_| escaped || c != end), !escaped && c == b'\\');
            continue;
        }
        let is_word = c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80;
        let new = !(c.is_ascii_whitespace() || is_word && in_word);
        in_word = is_word;
        let nested = open.len() > 1;
        let (here, most) = open.last_mut().expect("the outermost stays");
        match c {
            b'(' | b'[' | b'{' => open.push((0, 0)),
            b',' => (*here, *most) = (0, (*here).max(*most)),
            b')' | b']' | b'}' if nested => {
                let (here, most) = open.pop().expect("there are two");
                open.last_mut().expect("the outermost stays").0 += here.max(most) + 1;
            }
            b'"' | b'\'' => (*here, quote) = (*here + 1, Some(c)),
            _ => *here += usize::from(new),
        }
    }
    open.iter().map(|(here, most)| here.max(most)).sum()
}

/// A value that a variable is to keep, if it is not nested past all reason. An attribute of a namespace outlives a loop's round, so
/// it keeps no namespace, which could be itself, and no generator, which hides what it holds.
pub(super) fn kept(value: Value, by_attribute: bool) -> Result<Value, Error> {
    let mut nodes = NODES;
    walk(&value, DEPTH, by_attribute, &mut nodes)?;
    Ok(value)
}

fn walk(value: &Value, depth: usize, by_attribute: bool, nodes: &mut usize) -> Result<(), Error> {
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    *nodes = nodes.saturating_sub(1);
    if depth == 0 || *nodes == 0 {
        return Err(refused(format!("a value nested more than {DEPTH} deep, or of more than {NODES} lists")));
    }
    let inner = depth < DEPTH;
    match kind {
        ValueKind::Iterable if inner || by_attribute => {
            Err(refused("a generator kept in a list or a namespace; make it a list with `| list`".to_owned()))
        }
        ValueKind::Iterable => Ok(()),
        ValueKind::Map => {
            if by_attribute && value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
                return Err(refused("a namespace kept in a namespace".to_owned()));
            }
            value.try_iter()?.try_for_each(|key| walk(&value.get_item(&key)?, depth - 1, by_attribute, nodes))
        }
        _ => value.try_iter()?.try_for_each(|item| walk(&item, depth - 1, by_attribute, nodes)),
    }
}

/// Refuses a number of columns that nobody means.
pub(super) fn width(columns: &Value) -> Result<(), Error> {
    let wide = columns.kind() == ValueKind::Number && u64::try_from(columns.clone()).is_ok_and(|n| n > WIDTH);
    if wide { Err(too_wide()) } else { Ok(()) }
}

/// Refuses a format string, of `%` or of braces, with such a width or precision.
pub(super) fn widths(format: &str) -> Result<(), Error> {
    let digits = |text: &str| {
        let runs = text.split(|c: char| !c.is_ascii_digit());
        runs.filter(|run| !run.is_empty()).any(|run| run.parse::<u64>().map_or(true, |n| n > WIDTH))
    };
    let percent = format.split('%').skip(1).any(|spec| {
        let spec = spec.strip_prefix('(').and_then(|named| named.split_once(')')).map_or(spec, |(_, spec)| spec);
        digits(spec.split(|c: char| c.is_ascii_alphabetic()).next().unwrap_or_default())
    });
    let braces = format.split('{').skip(1).filter_map(|field| field.split('}').next()?.split_once(':'));
    if percent || braces.into_iter().any(|(_, spec)| digits(spec)) { Err(too_wide()) } else { Ok(()) }
}

fn too_wide() -> Error {
    refused(format!("more than {WIDTH} columns"))
}

fn refused(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{BOUND}{reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_as_deep_as_its_longest_chain() {
        let deep = |text: &str| depth(&format!("{{{{ {text} }}}}")) - depth("{{ }}");
        assert_eq!(deep("a.b | c"), 5);
        assert_eq!(deep("[a, a.b, 'x, (y' ]"), 4);
        assert_eq!(deep("f(a, b)(a.b.c)"), 1 + 2 + 6);
        assert!(deep(&"1, ".repeat(1000)) < 3);
        assert!(deep(&format!("[{}]", "'it\\'s', ".repeat(1000))) < 3);
        assert!(check_source(&format!("{{{{ 1{} }}}}", "+1".repeat(190))).is_ok());
        assert_eq!(check_source(&format!("\n{{{{ 1{} }}}}", "+1".repeat(400))).unwrap_err().line, 2);
    }

    #[test]
    fn widths_are_read_where_a_format_has_them() {
        for fine in ["call 5551234567: %s", "%05d", "{:>80}", "{0}: 99999999", "%(id1234567)s", "100000 %"] {
            assert!(widths(fine).is_ok(), "{fine}");
        }
        for wide in ["%1000000d", "%.1000000f", "%(n)99999999999999999999999d", "{:>1000000}", "{n:*^70000}"] {
            assert!(widths(wide).is_err(), "{wide}");
        }
    }
}
