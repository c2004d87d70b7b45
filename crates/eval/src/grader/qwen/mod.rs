//! The harness's equivalence of two normalised answers, leniencies included.
//!
//! The harness hands what its text rules leave open to sympy. Here sympy's three parsers are followed as far as answers
//! need: its LaTeX grammar, which reads the longest prefix that makes sense ([`latex`]), Python expressions ([`python`])
//! and matrices and lists ([`object`]).

mod functions;
mod latex;
mod object;
mod python;
mod tokens;

use super::extract::choice_letter_of;
use super::math::expr::{Expr, Func};
use super::math::identity::{Budget, Domain, agree_within, constant, identity};
use super::normalise::{compiled, trim};
use super::verdict::Rule;
use object::{Object, parse};
use regex::Regex;
use std::sync::LazyLock;

static BRACED_LIST: LazyLock<Regex> = LazyLock::new(|| compiled(r"\{.*,.*\}"));
static BRACKETED: LazyLock<Regex> = LazyLock::new(|| compiled(r"^[(\[].+[)\]]"));

/// How close two numbers must be, relative to the larger.
const TOLERANCE: f64 = 1e-4;

/// Comparisons of parts may nest this deep.
const MAX_DEPTH: usize = 12;

/// Whether `pred` equals `gold`, both normalised, and by which rule.
pub(super) fn equal(pred: &str, gold: &str) -> (bool, Rule) {
    match rule(pred, gold, &Budget::new(), 0) {
        Some(rule) => (true, rule),
        None if number(pred).is_some() && number(gold).is_some() => (false, Rule::Number),
        None => (false, Rule::Nothing),
    }
}

/// The rule that finds the two equal.
fn rule(pred: &str, gold: &str, budget: &Budget, depth: usize) -> Option<Rule> {
    if trim(pred).to_lowercase() == trim(gold).to_lowercase() {
        return Some(Rule::SameText);
    }
    if matches!(gold, "A" | "B" | "C" | "D" | "E") && choice_letter_of(pred) == gold {
        return Some(Rule::Choice);
    }
    if let (Some(pred), Some(gold)) = (number(pred), number(gold)) {
        return [gold / 100.0, gold, gold * 100.0].iter().any(|gold| close(pred, *gold)).then_some(Rule::Number);
    }
    if pred.is_empty() || depth > MAX_DEPTH {
        return None;
    }
    let (pred, mut gold) = (trim(pred), trim(gold).to_owned());
    if pred.contains("pmatrix") && !gold.contains("pmatrix") {
        gold = as_matrices(&gold);
    }
    let gold = gold.as_str();
    if same_without_brackets(pred, gold) {
        return Some(Rule::WithoutBrackets);
    }
    let part = |pred: &str, gold: &str| rule(pred, gold, budget, depth + 1);
    let same_parts = |pred: &str, gold: &str, separator: &str| {
        let (pred, gold): (Vec<_>, Vec<_>) = (pred.split(separator).collect(), gold.split(separator).collect());
        pred.len() == gold.len() && pred.iter().zip(&gold).all(|(pred, gold)| part(pred, gold).is_some())
    };
    if BRACKETED.is_match(pred) && BRACKETED.is_match(gold) && same_parts(inner(pred), inner(gold), ",") {
        return Some(Rule::Tuple);
    }
    if let (Some(pred), Some(gold)) = (rows(pred), rows(gold))
        && pred.len() == gold.len()
        && pred.iter().zip(&gold).all(|(pred, gold)| same_parts(pred, gold, "&"))
    {
        return Some(Rule::Matrix);
    }
    match (one_equation(pred), one_equation(gold)) {
        (Some(pred), Some(gold)) => {
            let difference = |(left, right): (&str, &str)| format!("{} - ({})", trim(left), trim(right));
            let (pred, gold) = (difference(pred), difference(gold));
            if symbolic(&pred, &gold, budget) || symbolic(&format!("-({pred})"), &gold, budget) {
                return Some(Rule::Equation);
            }
        }
        (Some((left, right)), None) if is_short(left) && !gold.contains('=') && part(right, gold).is_some() => {
            return Some(Rule::Equation);
        }
        (None, Some((left, right))) if is_short(left) && !pred.contains('=') && part(pred, right).is_some() => {
            return Some(Rule::Equation);
        }
        _ => {}
    }
    symbolic(pred, gold, budget).then_some(Rule::Symbolic)
}

/// What Python's `float` reads once the commas are out; of a percentage, a hundredth.
fn number(text: &str) -> Option<f64> {
    let text = text.replace(',', "");
    let float = |text: &str| trim(text).parse::<f64>().ok();
    float(&text).or_else(|| {
        let text = text.strip_suffix('%')?;
        float(text.strip_suffix('\\').unwrap_or(text)).map(|value| value / 100.0)
    })
}

/// Python's `math.isclose` with the harness's tolerance.
fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_finite() && b.is_finite() && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()))
}

/// Every `{a,b}` of a gold answer as a matrix, as the harness writes it: with one backslash between the cells.
fn as_matrices(gold: &str) -> String {
    let matrix = |found: regex::Match<'_>| {
        let cells = found.as_str().trim_matches(['{', '}']).replace(',', "\\");
        format!("\\begin{{pmatrix}}{cells}\\end{{pmatrix}}")
    };
    BRACED_LIST.find_iter(gold).map(matrix).collect::<Vec<_>>().join(", ")
}

fn same_without_brackets(pred: &str, gold: &str) -> bool {
    let within = |text: &str, open: char, close: char| text.starts_with(open) && text.ends_with(close);
    let outer =
        (within(pred, '[', ']') && !gold.starts_with('(')) || (within(pred, '(', ')') && !gold.starts_with('['));
    let bare = |text: &str| {
        let text = if outer { text.trim_matches(['[', ']', '(', ')']) } else { text };
        text.replace(['{', '}', '(', ')'], "").to_lowercase()
    };
    bare(pred) == bare(gold)
}

/// Without the first and the last character.
fn inner(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.next_back();
    chars.as_str()
}

/// The rows of a text that is one matrix.
fn rows(text: &str) -> Option<Vec<&str>> {
    let text = text.strip_prefix("\\begin{pmatrix}").or_else(|| text.strip_prefix("\\begin{bmatrix}"))?;
    let text = text.strip_suffix("\\end{pmatrix}").or_else(|| text.strip_suffix("\\end{bmatrix}"))?;
    Some(text.split("\\\\").map(trim).filter(|row| !row.is_empty()).collect())
}

/// The sides of a text with exactly one `=`.
fn one_equation(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(_, right)| !right.contains('='))
}

fn is_short(left: &str) -> bool {
    trim(left).chars().count() <= 2
}

/// What the harness asks sympy: equal as objects, by simplification, in value, as equations, as rounded matrices.
fn symbolic(a: &str, b: &str, budget: &Budget) -> bool {
    let (a, b) = (parse(a), parse(b));
    a == b || objects(&a, &b, budget)
}

fn objects(a: &Object, b: &Object, budget: &Budget) -> bool {
    match (a, b) {
        (Object::Expr(a), Object::Expr(b)) => {
            a == b || identity(a, b, Domain::Complex, budget).holds() || same_value(a, b, budget)
        }
        (Object::Relation(_, left, right), Object::Relation(_, other_left, other_right)) => {
            let size = |left: &Expr, right: &Expr| Expr::Call(Func::Abs, vec![left.clone().sub(right.clone())]);
            identity(&size(left, right), &size(other_left, other_right), Domain::Complex, budget).holds()
        }
        (Object::Sequence(open, a), Object::Sequence(other, b)) => open == other && same_items(*open, a, b, budget),
        (Object::Matrix(a), Object::Matrix(b)) => {
            let same_shape = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len());
            let cells = || a.iter().flatten().zip(b.iter().flatten());
            let rounded = |(a, b): (&Expr, &Expr)| match (constant(a, budget), constant(b, budget)) {
                (Some(a), Some(b)) => object::rounded(&a).is_some_and(|a| object::rounded(&b) == Some(a)),
                _ => false,
            };
            same_shape
                && (cells().all(|(a, b)| identity(a, b, Domain::Complex, budget).holds()) || cells().all(rounded))
        }
        _ => false,
    }
}

/// Entries are compared as sympy objects, which evaluates numbers but simplifies nothing.
fn same_items(open: char, a: &[Object], b: &[Object], budget: &Budget) -> bool {
    let same = |a: &Object, b: &Object| match (a, b) {
        (Object::Expr(x), Object::Expr(y)) if x.is_constant() && y.is_constant() => {
            identity(x, y, Domain::Complex, budget) == super::math::identity::Identity::Normal
        }
        (Object::Sequence(open, a), Object::Sequence(other, b)) => open == other && same_items(*open, a, b, budget),
        (a, b) => a == b,
    };
    if open != '{' {
        return a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
    }
    a.iter().all(|a| b.iter().any(|b| same(a, b))) && b.iter().all(|b| a.iter().any(|a| same(a, b)))
}

/// Whether both are real numbers within the tolerance.
fn same_value(a: &Expr, b: &Expr, budget: &Budget) -> bool {
    match (constant(a, budget), constant(b, budget)) {
        (Some(a), Some(b)) => a.is_real() && b.is_real() && agree_within(&a, &b, TOLERANCE),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn the_harness_and_its_leniencies() {
        let right = [
            ("0.5", "\\frac{1}{2}"),
            ("5", "500"),
            ("[1,2]", "(1,2)"),
            ("2^{n+1}", "2^n+1"),
            ("x+1=0", "0=-x-1"),
            ("\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}"),
            ("x>2", "x\\ge2"),
            ("E_{1}", "E_{1},E_{2}"),
            ("k=3", "3"),
            ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1.0&\\frac{4}{2}\\end{pmatrix}"),
            ("\\tan^2(y)+1", "\\sec^2(y)"),
            ("33.3333", "\\frac{100}{3}"),
            ("{2,1}", "{1,2}"),
        ];
        for (pred, gold) in right {
            assert!(equal(pred, gold).0, "{pred} | {gold}");
        }
        let wrong = [
            ("", "5"),
            ("1.001", "1"),
            ("i^2", "-1"),
            ("x(x+1)", "x^2+x"),
            ("(2,1)", "(1,2)"),
            ("x+y", "x+z"),
            ("\\cos\\frac{\\pi}{3}", "\\frac{1}{2}"),
        ];
        for (pred, gold) in wrong {
            assert!(!equal(pred, gold).0, "{pred} | {gold}");
        }
    }
}
