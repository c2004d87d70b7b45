//! What sympy makes of a text: an expression, a relation, a sequence, a matrix, or nothing.

use super::{latex, python};
use crate::grader::math::complex::Complex;
use crate::grader::math::expr::{Expr, MAX_LEVELS};
use crate::grader::math::real::{floor, from_int};
use dashu_int::IBig;

/// A parsed text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Expr(Expr),
    /// Two sides; the kind of relation does not enter the comparison.
    Relation(Relation, Expr, Expr),
    /// A relation between numbers, decided.
    Bool(bool),
    /// Entries in `(`, `[` or `{`.
    Sequence(char, Vec<Object>),
    Matrix(Vec<Vec<Expr>>),
    /// A text that no parser reads.
    Text(String),
}

impl Object {
    fn is_deep(&self) -> bool {
        match self {
            Self::Expr(expr) => expr.is_deeper_than(MAX_LEVELS),
            Self::Relation(_, left, right) => left.is_deeper_than(MAX_LEVELS) || right.is_deeper_than(MAX_LEVELS),
            Self::Sequence(_, items) => items.iter().any(Self::is_deep),
            Self::Matrix(rows) => rows.iter().flatten().any(|cell| cell.is_deeper_than(MAX_LEVELS)),
            Self::Bool(_) | Self::Text(_) => false,
        }
    }
}

/// The kinds of relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Tries each parser, on the text with double backslashes made single and on the text as it is.
pub(super) fn parse(text: &str) -> Object {
    let single = text.replace("\\\\", "\\");
    let texts = [single.as_str(), text];
    texts
        .iter()
        .find_map(|text| latex::parse(text))
        .or_else(|| texts.iter().find_map(|text| python::parse(text)))
        .or_else(|| texts.iter().find_map(|text| matrix(text).or_else(|| list(text))))
        .filter(|object| !object.is_deep())
        .unwrap_or_else(|| Object::Text(text.to_owned()))
}

/// A number to three places.
pub(super) fn rounded(value: &Complex) -> Option<IBig> {
    if !value.is_real() {
        return None;
    }
    floor(&(&value.re * from_int(1000) + (from_int(1) >> 1)))
}

fn cell(text: &str) -> Option<Expr> {
    match latex::parse(text)? {
        Object::Expr(expr) => Some(expr),
        _ => None,
    }
}

/// A text that is one matrix, in brackets or not.
fn matrix(text: &str) -> Option<Object> {
    let text = text.trim();
    let text = text.strip_prefix(['(', '[']).and_then(|text| text.strip_suffix([')', ']'])).unwrap_or(text);
    for kind in ["pmatrix", "bmatrix", "matrix"] {
        let Some(inside) = text.strip_prefix(&format!("\\begin{{{kind}}}")) else { continue };
        let inside = inside.strip_suffix(&format!("\\end{{{kind}}}"))?;
        let rows = inside.strip_suffix("\\\\").unwrap_or(inside).split("\\\\");
        let cells = |row: &str| row.split('&').map(cell).collect::<Option<Vec<_>>>();
        return rows.map(cells).collect::<Option<Vec<_>>>().map(Object::Matrix);
    }
    None
}

/// Entries between commas or semicolons, of which at least one is LaTeX.
fn list(text: &str) -> Option<Object> {
    let text = text.trim();
    let inside = [('[', ']'), ('{', '}')]
        .iter()
        .find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close))
        .unwrap_or(text);
    let separator = if inside.contains(';') { ';' } else { ',' };
    let items: Option<Vec<Object>> =
        split(inside, separator).into_iter().map(|item| cell(item).map(Object::Expr)).collect();
    items.filter(|items| items.len() > 1).map(|items| Object::Sequence('[', items))
}

/// Splits outside of brackets.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut depth, mut from, mut out) = (0i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ if c == separator && depth == 0 => {
                out.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    out
}
