//! The strict grader: whether two answers mean the same.
//!
//! Conventions: an answer may come with or without its unit, its currency sign or its `x =`; a percent sign divides by 100;
//! the order of a list does not matter, the kind of a bracket does.

mod arithmetic;
mod atom;
mod brackets;
mod functions;
mod lex;
mod parse;
mod sets;
mod units;
mod value;

use super::math::expr::{Expr, Func, Rational};
use super::math::identity::{Budget, Domain, Identity, agree, identity, values_at};
use super::verdict::Rule;
use parse::{Parsed, parse};
use sets::{infinity, is_set_like, real_set};
use value::{Op, SetOp, Value};

/// Whether `pred` means what `gold` means, and by which rule. Bounded in time; malformed text equals itself only.
pub(super) fn equal(pred: &str, gold: &str) -> (bool, Rule) {
    let (pred_text, gold_text) = (plain(pred), plain(gold));
    if gold_text.is_empty() || pred_text.is_empty() {
        return (false, Rule::Empty);
    }
    if pred_text == gold_text {
        return (true, Rule::SameText);
    }
    if let Some(letter) = choice(&gold_text) {
        return (choice(&pred_text) == Some(letter), Rule::Choice);
    }
    let (Some(pred), Some(gold)) = (parse(pred), parse(gold)) else {
        return (words(&pred_text) == words(&gold_text), Rule::Text);
    };
    if matches!(gold.value, Value::Words(_)) || matches!(pred.value, Value::Words(_)) {
        return (words(&pred_text) == words(&gold_text), Rule::Text);
    }
    if !pred.unit.is_empty() && !gold.unit.is_empty() && pred.unit != gold.unit {
        return (false, Rule::Unit);
    }
    let budget = Budget::new();
    let comparison = Comparison { budget: &budget };
    let (same, rule) = comparison.answers(&pred.value, &gold.value);
    if !same && gold.percent && !pred.percent {
        return comparison.without_percent(&pred, &gold).unwrap_or((same, rule));
    }
    (same, rule)
}

/// The text without dollars, spacing and final dots.
fn plain(text: &str) -> String {
    let mut text = text.trim().to_owned();
    for mark in ["\\left", "\\right", "\\!", "\\,", "\\;", "\\(", "\\)", "\\[", "\\]", "$"] {
        text = text.replace(mark, "");
    }
    let text: String = text.split_whitespace().collect();
    text.trim_end_matches('.').to_owned()
}

/// The words of a text, without commands for text, punctuation and case.
fn words(text: &str) -> String {
    let mut text = text.to_owned();
    for command in ["\\textbf", "\\textit", "\\textrm", "\\text", "\\mathrm", "\\mathbf", "\\mbox", "\\operatorname"] {
        text = text.replace(command, "");
    }
    text.chars().filter(|c| !matches!(c, '{' | '}' | '~' | '\'' | '"' | ' ')).flat_map(char::to_lowercase).collect()
}

/// The letter A to E of a multiple-choice answer: `B`, `(B)`, `\text{(B)} 12`.
fn choice(text: &str) -> Option<char> {
    let mut text = text.to_owned();
    for command in ["\\textbf", "\\text", "\\mathrm", "\\mathbf", "\\mbox"] {
        text = text.replace(command, "");
    }
    let text: String = text.chars().filter(|c| !matches!(c, '{' | '}' | '~' | ' ')).collect();
    let bracketed = text.strip_prefix('(').filter(|rest| rest.chars().nth(1) == Some(')'));
    let letter = bracketed.or(Some(&text).filter(|text| text.len() == 1).map(|text| text.as_str()))?.chars().next()?;
    ('A'..='E').contains(&letter).then_some(letter)
}

struct Comparison<'a> {
    budget: &'a Budget,
}

/// How many entries lists may have to be matched in any order.
const MAX_ENTRIES: usize = 64;

impl Comparison<'_> {
    /// Compares as they are, then with logarithms to base ten where `\log` may mean that.
    fn answers(&self, a: &Value, b: &Value) -> (bool, Rule) {
        self.values(&tidy(a), &tidy(b))
    }

    /// The gold is a percentage and the answer a bare number: the sign was left out.
    fn without_percent(&self, pred: &Parsed, gold: &Parsed) -> Option<(bool, Rule)> {
        let (Value::Expr(pred), Value::Expr(gold)) = (&pred.value, &gold.value) else { return None };
        let whole = Expr::Mul(vec![gold.clone(), Expr::int(100)]);
        let found = identity(pred, &whole, Domain::Real, self.budget);
        found.holds().then_some((true, Rule::Unit))
    }

    fn values(&self, a: &Value, b: &Value) -> (bool, Rule) {
        match (a, b) {
            (Value::Expr(a), Value::Expr(b)) => self.exprs(a, b),
            (Value::Words(a), Value::Words(b)) => (words(a) == words(b), Rule::Text),
            (Value::Relation(a, a_ops), Value::Relation(b, b_ops)) => self.relations((a, a_ops), (b, b_ops)),
            (relation @ Value::Relation(..), other) | (other, relation @ Value::Relation(..)) => {
                self.relation_and_value(relation, other)
            }
            (Value::Matrix(a), Value::Matrix(b)) => {
                let same_shape = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len());
                let mut cells = a.iter().flatten().zip(b.iter().flatten());
                (same_shape && cells.all(|(a, b)| self.values(a, b).0), Rule::Matrix)
            }
            _ if is_set_like(a) || is_set_like(b) => self.sets(a, b),
            (Value::Tuple { open, close, items }, Value::Tuple { open: o, close: c, items: others }) => {
                (open == o && close == c && self.in_order(items, others), Rule::Tuple)
            }
            (Value::List(_, a) | Value::Set(a), Value::List(_, b) | Value::Set(b)) => (self.any_order(a, b), Rule::Set),
            (Value::Set(a), b) | (b, Value::Set(a)) => match &a[..] {
                [a] => self.values(a, b),
                _ => (false, Rule::Kind),
            },
            _ => (false, Rule::Kind),
        }
    }

    fn exprs(&self, a: &Expr, b: &Expr) -> (bool, Rule) {
        if let (Some(a), Some(b)) = (infinity(a), infinity(b)) {
            return (a == b, Rule::Normal);
        }
        match identity(a, b, Domain::Real, self.budget) {
            Identity::Normal => (true, Rule::Normal),
            Identity::Numeric => (true, Rule::Numeric),
            Identity::Different => (false, Rule::Different),
            Identity::Unknown => (false, Rule::Undecided),
        }
    }

    fn in_order(&self, a: &[Value], b: &[Value]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.values(a, b).0)
    }

    fn any_order(&self, a: &[Value], b: &[Value]) -> bool {
        if a.len() != b.len() || a.len() > MAX_ENTRIES {
            return self.in_order(a, b);
        }
        let mut left: Vec<&Value> = b.iter().collect();
        a.iter().all(|a| match left.iter().position(|b| self.values(a, b).0) {
            Some(at) => {
                left.swap_remove(at);
                true
            }
            None => false,
        })
    }

    /// Sets of reals by their canonical form, others part by part.
    fn sets(&self, a: &Value, b: &Value) -> (bool, Rule) {
        if let (Some(a), Some(b)) = (real_set(a, self.budget), real_set(b, self.budget)) {
            return (a.same(&b), Rule::RealSet);
        }
        match (a, b) {
            (Value::Join(op, a), Value::Join(other, b)) if op == other => {
                if *op == SetOp::Difference {
                    return (self.in_order(&a[..], &b[..]), Rule::RealSet);
                }
                let (a, b) = (joined(*op, &a[..]), joined(*op, &b[..]));
                (self.any_order(&a, &b), Rule::RealSet)
            }
            (Value::Tuple { open, close, items }, Value::Tuple { open: o, close: c, items: others }) => {
                (open == o && close == c && self.in_order(items, others), Rule::Tuple)
            }
            (Value::Reals, Value::Reals) => (true, Rule::RealSet),
            (Value::List(_, a), Value::List(_, b)) => (self.any_order(a, b), Rule::Set),
            (Value::Builder(a), Value::Builder(b)) => self.values(a, b),
            _ => (false, Rule::Kind),
        }
    }

    fn relations(&self, a: (&[Value], &[Op]), b: (&[Value], &[Op])) -> (bool, Rule) {
        let same = |flipped: bool| {
            let sides = |at: usize| if flipped { &b.0[b.0.len() - 1 - at] } else { &b.0[at] };
            let op = |at: usize| if flipped { b.1[b.1.len() - 1 - at].flipped() } else { b.1[at] };
            a.1.len() == b.1.len()
                && (0..a.1.len()).all(|at| a.1[at] == op(at))
                && (0..a.0.len()).all(|at| self.values(&a.0[at], sides(at)).0)
        };
        if same(false) || same(true) {
            return (true, Rule::Equation);
        }
        if let ([Op::Eq], [Op::Eq]) = (a.1, b.1) {
            return (self.equations(a.0, b.0), Rule::Equation);
        }
        let value = |relation: (&[Value], &[Op])| Value::Relation(relation.0.to_vec(), relation.1.to_vec());
        if let (Some(a), Some(b)) = (real_set(&value(a), self.budget), real_set(&value(b), self.budget)) {
            return (a.same(&b), Rule::RealSet);
        }
        if let ([op], [other]) = (a.1, b.1) {
            return (self.inequalities((a.0, *op), (b.0, *other)), Rule::Equation);
        }
        (false, Rule::Equation)
    }

    /// Whether one equation's difference of sides is a non-zero multiple of the other's.
    fn equations(&self, a: &[Value], b: &[Value]) -> bool {
        match (difference(a), difference(b)) {
            (Some(a), Some(b)) => self.proportional(&a, &b).is_some(),
            // Equations between tuples: `(x, y) = (1, 2)`.
            _ => self.in_order(a, b),
        }
    }

    fn inequalities(&self, (a, op): (&[Value], Op), (b, other): (&[Value], Op)) -> bool {
        let (Some(a), Some(b)) = (difference(a), difference(b)) else { return false };
        match self.proportional(&a, &b) {
            Some(true) => op == other,
            Some(false) => op == other.flipped(),
            None => false,
        }
    }

    /// Whether `a = c b` for a constant `c` other than 0: whether `c` is positive.
    fn proportional(&self, a: &Expr, b: &Expr) -> Option<bool> {
        let pairs = values_at(a, b, 5, self.budget);
        let mut ratios = pairs.iter().map(|(a, b)| a.div(b));
        let first = ratios.next()??;
        if first.is_zero() || pairs.len() < 3 {
            return None;
        }
        let constant = ratios.all(|ratio| ratio.is_some_and(|ratio| agree(&ratio, &first)));
        (constant && first.is_real()).then(|| sets::is_positive(&first.re))
    }

    /// `x = 5` and `5`, `x > 2` and `(2, oo)`.
    fn relation_and_value(&self, relation: &Value, other: &Value) -> (bool, Rule) {
        if let Some(value) = assigned(relation) {
            return self.values(value, other);
        }
        self.sets(relation, other)
    }
}

/// Removes what carries no meaning: the name before a list of values, `x \in` before a set.
fn tidy(value: &Value) -> Value {
    match value {
        Value::List(joint, items) if items.len() > 1 => {
            let named = |item: &Value| assigned(item).is_some();
            let same_name = items.iter().all(|item| name_of(item).is_some() && name_of(item) == name_of(&items[0]));
            if same_name || (named(&items[0]) && !items[1..].iter().any(|item| matches!(item, Value::Relation(..)))) {
                let items = items.iter().map(|item| assigned(item).unwrap_or(item).clone()).collect();
                return Value::List(*joint, items);
            }
            value.clone()
        }
        Value::Relation(sides, ops) => match (&sides[..], &ops[..]) {
            ([Value::Expr(name), set], [Op::In]) if is_name(name) => set.clone(),
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

/// The written name to which a relation assigns.
fn name_of(value: &Value) -> Option<String> {
    match value {
        Value::Relation(sides, ops) if ops[..] == [Op::Eq] => match &sides[0] {
            Value::Expr(name @ Expr::Var(_)) => Some(format!("{name:?}")),
            _ => None,
        },
        _ => None,
    }
}

/// The value that `name = value` or `value = name` gives; the last of a chain.
fn assigned(value: &Value) -> Option<&Value> {
    let Value::Relation(sides, ops) = value else { return None };
    if ops.iter().any(|op| *op != Op::Eq) {
        return None;
    }
    let (first, last) = (sides.first()?, sides.last()?);
    if names(first) {
        Some(last)
    } else if names(last) && sides.len() == 2 {
        Some(first)
    } else {
        None
    }
}

fn names(value: &Value) -> bool {
    match value {
        Value::Expr(expr) => is_name(expr),
        Value::Tuple { items, .. } => items.iter().all(names),
        Value::Words(_) => true,
        _ => false,
    }
}

/// Whether an expression can be what a value is called: `x`, `f(x)`, `P(A)`, `\angle ABC`, `|AB|`.
fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Var(_) | Expr::Apply(..) => true,
        Expr::Mul(parts) => parts.iter().all(|part| is_name(part) || matches!(part, Expr::E | Expr::I)),
        Expr::Call(Func::Abs | Func::Max | Func::Min, args) => args.iter().all(is_name),
        _ => false,
    }
}

fn difference(sides: &[Value]) -> Option<Expr> {
    match sides {
        [Value::Expr(left), Value::Expr(right)] => Some(left.clone().sub(right.clone())),
        _ => None,
    }
}

/// The parts of nested joins by the same operation.
fn joined(op: SetOp, sides: &[Value]) -> Vec<Value> {
    let mut out = Vec::new();
    for side in sides {
        match side {
            Value::Join(inner, sides) if *inner == op => out.extend(joined(op, &sides[..])),
            side => out.push(side.clone()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::equal;

    fn check(pairs: &[(&str, &str)], expected: bool) {
        for (pred, gold) in pairs {
            let (found, rule) = equal(pred, gold);
            assert_eq!(found, expected, "{pred} | {gold} by {}", rule.name());
        }
    }

    #[test]
    fn numbers_in_many_spellings_are_equal() {
        check(
            &[
                ("0.5", "\\frac{1}{2}"),
                ("\\dfrac12", "1/2"),
                ("3\\frac{1}{2}", "\\frac{7}{2}"),
                ("-1 1/2", "-1.5"),
                ("1{,}000", "1000"),
                ("10,\\!080", "10080"),
                ("1.5 \\times 10^3", "1500"),
                ("1.5e3", "1500"),
                ("4*10^33", "4e33"),
                ("0.\\overline{3}", "\\frac13"),
                ("75\\%", "\\frac34"),
                ("\\sqrt{12}", "2\\sqrt3"),
                ("\\frac{10}{\\sqrt5}", "2\\sqrt{5}"),
                ("\\sqrt[3]{-8}", "-2"),
                ("11_2", "3"),
                ("\\binom{5}{2}", "10"),
                ("{5 \\choose 2}", "10"),
                ("\\log_2 8", "3"),
                ("\\sin 30^\\circ", "\\frac12"),
                ("e^{i\\pi}", "-1"),
                ("\\sum_{k=1}^{10} k", "55"),
                ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "-2"),
            ],
            true,
        );
        check(
            &[
                ("0.333", "\\frac13"),
                ("5", "500"),
                ("5000", "50\\%"),
                ("1.0001", "1"),
                ("22/7", "\\pi"),
                ("1,2", "12"),
                ("2^{400}+1", "2^{400}"),
                ("\\frac{1}{0}", "1"),
                ("9^{9^{9^{9}}}", "1"),
            ],
            false,
        );
    }

    #[test]
    fn formulas_are_compared_as_functions() {
        check(
            &[
                ("x(x+6)", "x^2+6x"),
                ("\\frac{x^2-1}{x-1}", "x+1"),
                ("\\sin(2x)", "2\\sin x\\cos x"),
                ("\\frac{n!}{(n-2)!}", "n(n-1)"),
                ("\\sum_{i=1}^{n} i^2", "\\frac{n(n+1)(2n+1)}{6}"),
                ("\\frac{d}{dx}x^2", "2x"),
                ("\\lim_{x\\to 0}\\frac{\\sin x}{x}", "1"),
                ("4^x", "2^{2x}"),
                ("|a-b|", "|b-a|"),
                ("x_{1}", "x_1"),
            ],
            true,
        );
        check(
            &[
                ("x(x+1)", "x^2+1"),
                ("2^{n+1}", "2^n+1"),
                ("-x^2", "(-x)^2"),
                ("x_1", "x_2"),
                ("\\theta", "t"),
                ("\\sqrt{x^2}", "x"),
            ],
            false,
        );
    }

    #[test]
    fn lists_sets_and_intervals_follow_their_own_rules() {
        check(
            &[
                ("3,2,1", "1,2,3"),
                ("\\{2,1\\}", "1,2"),
                ("1\\pm\\sqrt2", "1+\\sqrt2, 1-\\sqrt2"),
                ("x=2,3", "x=3 \\text{ or } x=2"),
                ("(1,2),(3,4)", "(3,4),(1,2)"),
                ("0<x\\le 1", "(0,1]"),
                ("(0,2)\\cup(1,3)", "(0,3)"),
                ("\\mathbb{R}\\setminus\\{0\\}", "x\\ne 0"),
                ("\\{x\\mid x>0\\}", "(0,\\infty)"),
                ("(x,y)=(2,3)", "(2,3)"),
                ("\\emptyset", "\\{\\}"),
            ],
            true,
        );
        check(
            &[
                ("(1,2)", "(2,1)"),
                ("[1,2]", "(1,2)"),
                ("1,2", "1,2,3"),
                ("\\pm 3", "3"),
                ("x>2", "x\\ge 2"),
                ("(0,1)\\cap(2,3)", "(0,1)\\cup(2,3)"),
                ("[-\\infty,2)", "(-\\infty,2)"),
            ],
            false,
        );
    }

    #[test]
    fn equations_are_equal_up_to_a_factor() {
        check(
            &[
                ("2y=4x+6", "y=2x+3"),
                ("9x^2+4y^2=36", "\\frac{x^2}{4}+\\frac{y^2}{9}=1"),
                ("f(x)=2x+3", "2x+3"),
                ("5=x", "5"),
                ("\\angle ABC=60^\\circ", "60"),
                ("-x>-1", "x<1"),
            ],
            true,
        );
        check(&[("y=2x-3", "y=2x+3"), ("x^2=4", "4"), ("x>1", "x<1")], false);
    }

    #[test]
    fn matrices_units_and_words_are_known() {
        check(
            &[
                ("2\\begin{pmatrix}\\frac12&1\\\\0&2\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\0&4\\end{bmatrix}"),
                ("5\\text{ cm}", "5"),
                ("5\\mathrm{~cm}", "5\\text{ centimeters}"),
                ("864", "864 \\mbox{ inches}^2"),
                ("1.25 J", "1.25"),
                ("5 dollars", "\\$5"),
                ("\\text{(B)}", "B"),
                ("\\textbf{east}", "\\text{East}"),
                ("infinity", "+\\infty"),
            ],
            true,
        );
        check(
            &[
                ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}"),
                ("5\\text{ cm}", "5\\text{ m}"),
                ("24x", "24"),
                ("\\text{odd}", "\\text{even}"),
                ("A", "B"),
                ("", "5"),
            ],
            false,
        );
    }

    #[test]
    fn malformed_texts_equal_nothing_and_break_nothing() {
        let broken = [
            "((((",
            "\\frac{",
            "x^^2",
            "\\",
            "{",
            "}",
            "_",
            "1+",
            "\\sqrt{}",
            "\\left(",
            "&",
            "===",
            "(,)",
            "\\frac{}{}",
        ];
        for text in broken {
            check(&[(text, "1"), ("1", text)], false);
        }
        for part in
            ["(", "{", "\\frac{1}{1+", "-", "x!", "^2", "|", "\\sin ", "\\frac{d}{dx}x^", "\\sqrt{", "1/", "\\pm "]
        {
            let long = part.repeat(400);
            check(&[(&long, "x+1"), ("x+1", &long)], false);
        }
    }
}
