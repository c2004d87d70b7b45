//! The parser of answers: LaTeX as people and models write it, with implicit multiplication and few brackets.

use super::arithmetic::{add, expand_signs, expr, multiply, scale};
use super::lex::{Tok, Token, lex};
use super::units::canonical;
use super::value::{Joint, Op, PLUS_MINUS, SetOp, Value};
use crate::grader::math::expr::{Expr, Func, MAX_LEVELS};

/// An answer with what stands around it.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) value: Value,
    /// The unit in one spelling; empty where there is none.
    pub(super) unit: String,
    /// Whether a percent sign was read, which divides by 100.
    pub(super) percent: bool,
}

/// How deep brackets and fractions may nest.
const MAX_DEPTH: usize = 160;

/// The answer that `text` states; `None` where it is no mathematics of the kinds known here.
pub(super) fn parse(text: &str) -> Option<Parsed> {
    let tokens = lex(text)?;
    let mut parser =
        Parser { tokens, at: 0, depth: 0, unit: String::new(), percent: false, in_trig: 0, bars: 0, bound: Vec::new() };
    let value = parser.list(&|_| false)?;
    if parser.at < parser.tokens.len() || value.any(&|expr| expr.is_deeper_than(MAX_LEVELS)) {
        return None;
    }
    Some(Parsed { value: expand_signs(value), unit: parser.unit, percent: parser.percent })
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    pub(super) depth: usize,
    pub(super) unit: String,
    pub(super) percent: bool,
    /// How many trigonometric arguments are open: within them a degree is an angle.
    pub(super) in_trig: usize,
    /// How many `|` are open.
    pub(super) bars: usize,
    /// Variables bound by sums, which may be called `i` or `e`.
    pub(super) bound: Vec<String>,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Tok> {
        self.tokens.get(self.at).map(|token| &token.tok)
    }

    pub(super) fn peek_spaced(&self) -> bool {
        self.tokens.get(self.at).is_some_and(|token| token.spaced)
    }

    pub(super) fn next(&mut self) -> Option<Tok> {
        let tok = self.tokens.get(self.at)?.tok.clone();
        self.at += 1;
        Some(tok)
    }

    pub(super) fn is_sym(&self, c: char) -> bool {
        self.peek() == Some(&Tok::Sym(c))
    }

    pub(super) fn is_cmd(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Tok::Cmd(found)) if found == name)
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let found = self.is_sym(c);
        self.at += usize::from(found);
        found
    }

    pub(super) fn eat_cmd(&mut self, name: &str) -> bool {
        let found = self.is_cmd(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, c: char) -> Option<()> {
        self.eat(c).then_some(())
    }

    /// `parse`, one level deeper.
    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Entries up to the end or to a token that `ends`; one entry is itself.
    pub(super) fn list(&mut self, ends: &dyn Fn(&Parser) -> bool) -> Option<Value> {
        let mut items = vec![self.item()?];
        let mut joint = Joint::Comma;
        while self.at < self.tokens.len() && !ends(self) {
            let mut found = None;
            while let Some(next) = self.joint() {
                found = Some(if next == Joint::Comma { found.unwrap_or(next) } else { next });
            }
            let found = found?;
            if found != Joint::Comma {
                joint = found;
            }
            if self.at == self.tokens.len() || ends(self) {
                return None;
            }
            items.push(self.item()?);
        }
        Some(if items.len() == 1 { items.remove(0) } else { Value::List(joint, items) })
    }

    pub(super) fn joint(&mut self) -> Option<Joint> {
        let joint = match self.peek()? {
            Tok::Sym(',' | ';') => Joint::Comma,
            Tok::Word(word) => match word.trim_matches(',').trim() {
                "or" | "Or" | "OR" => Joint::Or,
                "and" | "And" | "AND" => Joint::And,
                _ => return None,
            },
            Tok::Cmd(name) => match name.as_str() {
                "vee" | "lor" => Joint::Or,
                "wedge" | "land" => Joint::And,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        Some(joint)
    }

    /// A relation or a value, with its unit.
    pub(super) fn item(&mut self) -> Option<Value> {
        self.deeper(|parser| {
            let mut sides = vec![parser.joined()?];
            let mut ops = Vec::new();
            while let Some(op) = parser.relation() {
                ops.push(op);
                sides.push(parser.joined()?);
            }
            Some(if ops.is_empty() { sides.remove(0) } else { Value::Relation(sides, ops) })
        })
    }

    pub(super) fn relation(&mut self) -> Option<Op> {
        let op = match self.peek()? {
            Tok::Sym('=' | '≈') => Op::Eq,
            Tok::Sym('!') if self.tokens.get(self.at + 1).map(|token| &token.tok) == Some(&Tok::Sym('=')) => Op::Ne,
            Tok::Sym('<') => Op::Lt,
            Tok::Sym('>') => Op::Gt,
            Tok::Cmd(name) => match name.as_str() {
                "approx" | "equiv" | "coloneqq" => Op::Eq,
                "ne" | "neq" => Op::Ne,
                "lt" => Op::Lt,
                "gt" => Op::Gt,
                "le" | "leq" | "leqslant" | "leqq" => Op::Le,
                "ge" | "geq" | "geqslant" | "geqq" => Op::Ge,
                "in" => Op::In,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        Some(match op {
            Op::Lt if self.eat('=') => Op::Le,
            Op::Gt if self.eat('=') => Op::Ge,
            Op::Eq | Op::Ne => {
                self.eat('=');
                op
            }
            op => op,
        })
    }

    /// Sets joined by union, intersection or difference.
    pub(super) fn joined(&mut self) -> Option<Value> {
        let mut value = self.sum()?;
        self.read_unit();
        loop {
            let op = match self.peek() {
                Some(Tok::Cmd(name)) => match name.as_str() {
                    "cup" => SetOp::Union,
                    "cap" => SetOp::Intersection,
                    "setminus" | "backslash" | "smallsetminus" => SetOp::Difference,
                    _ => return Some(value),
                },
                _ => return Some(value),
            };
            self.at += 1;
            value = Value::Join(op, Box::new([value, self.sum()?]));
        }
    }

    /// A unit in words after a value: `\text{ cm}^2`, `m/s`.
    pub(super) fn read_unit(&mut self) {
        let mut unit = String::new();
        loop {
            match self.peek() {
                Some(Tok::Word(word)) if !matches!(word.as_str(), "or" | "and") => unit.push_str(&canonical(word)),
                Some(Tok::Letter(c)) if unit.is_empty() && self.is_bare_unit() => {
                    unit.push_str(&canonical(&c.to_string()))
                }
                Some(Tok::Sym('^')) if !unit.is_empty() => {
                    let mark = self.at;
                    self.at += 1;
                    match self.exponent() {
                        Some(Expr::Num(power)) => unit.push_str(&format!("^{power}")),
                        _ => {
                            self.at = mark;
                            break;
                        }
                    }
                    continue;
                }
                Some(Tok::Sym('/'))
                    if matches!(self.tokens.get(self.at + 1), Some(Token { tok: Tok::Word(_), .. })) =>
                {
                    unit.push('/');
                }
                Some(Tok::Cmd(name))
                    if name == "cdot"
                        && matches!(self.tokens.get(self.at + 1), Some(Token { tok: Tok::Word(_), .. })) =>
                {
                    unit.push('*');
                }
                _ => break,
            }
            self.at += 1;
        }
        if self.unit.is_empty() {
            self.unit = unit;
        }
    }

    pub(super) fn sum(&mut self) -> Option<Value> {
        self.deeper(|parser| {
            let mut value = parser.term()?;
            loop {
                let tok = parser.peek().cloned();
                let sign = match tok {
                    Some(Tok::Sym('+')) => Expr::int(1),
                    Some(Tok::Sym('-')) => Expr::int(-1),
                    Some(Tok::Cmd(name)) if name == "pm" => Expr::var(PLUS_MINUS),
                    Some(Tok::Cmd(name)) if name == "mp" => Expr::var(PLUS_MINUS).neg(),
                    _ => return Some(value),
                };
                parser.at += 1;
                let right = parser.term()?;
                value = add(value, scale(sign, right)?)?;
            }
        })
    }

    /// Factors joined by signs or side by side. A product by juxtaposition binds tighter than a division: `1/2x` is `1/(2x)`.
    pub(super) fn term(&mut self) -> Option<Value> {
        let mut value = self.juxtaposed()?;
        loop {
            let divides = match self.peek() {
                Some(Tok::Sym('*' | '⋆')) => false,
                Some(Tok::Sym('/')) => true,
                Some(Tok::Sym(':')) => true,
                Some(Tok::Cmd(name)) => match name.as_str() {
                    "cdot" | "times" | "ast" | "bullet" => false,
                    "div" | "over" => true,
                    "bmod" | "mod" | "%" => {
                        self.at += 1;
                        let right = self.juxtaposed()?;
                        value = Value::Expr(Expr::Call(Func::Mod, vec![expr(value)?, expr(right)?]));
                        continue;
                    }
                    "choose" => {
                        self.at += 1;
                        let right = self.term()?;
                        return Some(Value::Expr(Expr::Call(Func::Binomial, vec![expr(value)?, expr(right)?])));
                    }
                    _ => return Some(value),
                },
                _ => return Some(value),
            };
            let is_unit = matches!(self.tokens.get(self.at + 1), Some(Token { tok: Tok::Word(_), .. }));
            if is_unit {
                return Some(value);
            }
            self.at += 1;
            let right = self.juxtaposed()?;
            value = if divides { Value::Expr(expr(value)?.div(expr(right)?)) } else { multiply(value, right)? };
        }
    }

    pub(super) fn juxtaposed(&mut self) -> Option<Value> {
        if self.eat('-') {
            return self.deeper(|parser| scale(Expr::int(-1), parser.juxtaposed()?));
        }
        if self.eat('+') {
            return self.deeper(Self::juxtaposed);
        }
        if self.eat_cmd("pm") {
            return self.deeper(|parser| scale(Expr::var(PLUS_MINUS), parser.juxtaposed()?));
        }
        if self.eat_cmd("mp") {
            return self.deeper(|parser| scale(Expr::var(PLUS_MINUS).neg(), parser.juxtaposed()?));
        }
        if let Some(mixed) = self.mixed_number() {
            return Some(mixed);
        }
        let mut value = self.power()?;
        while self.starts_factor() {
            let right = self.power()?;
            value = multiply(value, right)?;
        }
        Some(value)
    }

    /// Whether the next token can stand beside a factor as another one.
    pub(super) fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Tok::Num(..) | Tok::Letter(_)) => !self.is_bare_unit(),
            Some(Tok::Word(word)) => matches!(word.as_str(), "e" | "i" | "d"),
            Some(Tok::Sym(c)) => matches!(c, '(' | '[' | '{') || (*c == '|' && self.bars == 0),
            Some(Tok::Cmd(name)) if name == "vert" => self.bars == 0,
            Some(Tok::Cmd(name)) => super::functions::starts_value(name),
            None => false,
        }
    }

    /// One letter after a space at the end of a number is a unit: `1.25 J`.
    pub(super) fn is_bare_unit(&self) -> bool {
        let Some(Token { tok: Tok::Letter(c), spaced: true }) = self.tokens.get(self.at) else { return false };
        let ends = matches!(
            self.tokens.get(self.at + 1).map(|token| &token.tok),
            None | Some(Tok::Sym(',' | ';' | '^' | '/') | Tok::Word(_))
        );
        let numeric = self.tokens[..self.at].iter().all(|token| match &token.tok {
            Tok::Num(..) | Tok::Sym(_) => true,
            Tok::Cmd(name) => matches!(name.as_str(), "times" | "cdot" | "frac" | "sqrt" | "pi" | "$"),
            _ => false,
        });
        self.at > 0 && ends && numeric && c.is_ascii_uppercase() && super::units::is_unit(&c.to_string())
    }
}
