//! LaTeX as sympy's ANTLR grammar reads it.
//!
//! That grammar has no end of input: it reads the longest prefix that makes sense. Where a repetition (another term, factor
//! or power) cannot be read to its end it is not begun; what must follow and does not is an error, and so is any character
//! that is no token. No name is a constant: `\pi`, `e` and `i` are symbols like any other, and a letter before a bracket is
//! a function.

use super::functions::{FUNCTION_NAMES, KEYWORDS};
use super::object::{Object, Relation};
use super::tokens::{Tok, lex};
use crate::grader::math::derive::derivative;
use crate::grader::math::expr::{Expr, Func, Rational};
use dashu_int::{IBig, UBig};

/// A text does not follow the grammar; `Fatal` where that cannot be undone by reading less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Mismatch,
    Fatal,
}

pub(super) type Parsed<T> = Result<T, Failure>;

const MAX_DEPTH: usize = 200;
const MAX_STEPS: usize = 20_000;

/// What `text` begins with; `None` where sympy's parser would raise an error.
pub(super) fn parse(text: &str) -> Option<Object> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, at: 0, depth: 0, steps: 0, bars: 0, digits_end: 0 };
    parser.relation().ok()
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Tok>,
    pub(super) at: usize,
    depth: usize,
    steps: usize,
    /// How many `|` are open.
    pub(super) bars: usize,
    /// Where a number that began before must end; 0 for nowhere.
    pub(super) digits_end: usize,
}

/// A factor: an expression, or `d/dx` that applies to what follows.
pub(super) enum Factor {
    Expr(Expr),
    Derivative(Box<str>),
}

impl Parser {
    /// The next token; one that is none ends the parse.
    pub(super) fn peek(&mut self) -> Parsed<Option<&Tok>> {
        self.steps += 1;
        match self.tokens.get(self.at) {
            Some(Tok::Bad) => Err(Failure::Fatal),
            _ if self.steps > MAX_STEPS => Err(Failure::Fatal),
            tok => Ok(tok),
        }
    }

    pub(super) fn is(&mut self, sym: &str) -> Parsed<bool> {
        Ok(matches!(self.peek()?, Some(Tok::Sym(found)) if *found == sym))
    }

    pub(super) fn is_symbol(&mut self, name: &str) -> Parsed<bool> {
        Ok(matches!(self.peek()?, Some(Tok::Symbol(found)) if found == name))
    }

    pub(super) fn eat(&mut self, sym: &str) -> Parsed<bool> {
        let found = self.is(sym)?;
        self.at += usize::from(found);
        Ok(found)
    }

    pub(super) fn expect(&mut self, sym: &str) -> Parsed<()> {
        if self.eat(sym)? { Ok(()) } else { Err(Failure::Mismatch) }
    }

    /// `parse`, or nothing and no step taken.
    pub(super) fn attempt<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<Option<T>> {
        let (at, depth, bars) = (self.at, self.depth, self.bars);
        match parse(self) {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Mismatch) => {
                (self.at, self.depth, self.bars) = (at, depth, bars);
                Ok(None)
            }
            Err(Failure::Fatal) => Err(Failure::Fatal),
        }
    }

    pub(super) fn relation(&mut self) -> Parsed<Object> {
        let left = self.expr()?;
        let Some(kind) = self.relation_sign()? else { return Ok(Object::Expr(left)) };
        self.at += 1;
        let right = self.expr()?;
        if self.relation_sign()?.is_some() {
            // A chain: sympy refuses to order a relation, and an equation of an equation equals nothing else.
            return Err(Failure::Fatal);
        }
        if let (Expr::Num(a), Expr::Num(b)) = (&left, &right) {
            return Ok(Object::Bool(match kind {
                Relation::Eq => a == b,
                Relation::Ne => a != b,
                Relation::Lt => a < b,
                Relation::Le => a <= b,
                Relation::Gt => a > b,
                Relation::Ge => a >= b,
            }));
        }
        Ok(if left == right { Object::Bool(true) } else { Object::Relation(kind, left, right) })
    }

    pub(super) fn relation_sign(&mut self) -> Parsed<Option<Relation>> {
        Ok(match self.peek()? {
            Some(Tok::Sym("=")) => Some(Relation::Eq),
            Some(Tok::Sym("<")) => Some(Relation::Lt),
            Some(Tok::Sym(">")) => Some(Relation::Gt),
            Some(Tok::Symbol(name)) => match name.as_str() {
                "neq" => Some(Relation::Ne),
                "le" | "leq" | "leqq" | "leqslant" => Some(Relation::Le),
                "ge" | "geq" | "geqq" | "geqslant" => Some(Relation::Ge),
                _ => None,
            },
            _ => None,
        })
    }

    pub(super) fn expr(&mut self) -> Parsed<Expr> {
        if self.depth > MAX_DEPTH {
            return Err(Failure::Fatal);
        }
        self.depth += 1;
        let mut terms = vec![self.mp(true)?];
        loop {
            let next = self.attempt(|parser| {
                let minus = match parser.peek()? {
                    Some(Tok::Sym("+")) => false,
                    Some(Tok::Sym("-")) => true,
                    _ => return Err(Failure::Mismatch),
                };
                parser.at += 1;
                let right = parser.mp(true)?;
                Ok(if minus { right.neg() } else { right })
            })?;
            match next {
                Some(right) => terms.push(right),
                None => break,
            }
        }
        self.depth -= 1;
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expr::Add(terms) })
    }

    /// Products and quotients; without `functions` no function may follow a factor directly.
    pub(super) fn mp(&mut self, functions: bool) -> Parsed<Expr> {
        let mut factors = vec![self.unary(functions)?];
        loop {
            let next = self.attempt(|parser| {
                let divides = match parser.peek()? {
                    Some(Tok::Sym("*")) => false,
                    Some(Tok::Sym("/" | ":")) => true,
                    Some(Tok::Symbol(name)) if name == "times" || name == "cdot" => false,
                    Some(Tok::Symbol(name)) if name == "div" => true,
                    _ => return Err(Failure::Mismatch),
                };
                parser.at += 1;
                let right = parser.unary(functions)?;
                Ok(if divides { right.inverse() } else { right })
            })?;
            match next {
                Some(right) => factors.push(right),
                None => return Ok(if factors.len() == 1 { factors.remove(0) } else { Expr::Mul(factors) }),
            }
        }
    }

    pub(super) fn unary(&mut self, functions: bool) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Failure::Fatal);
        }
        let value = if self.eat("+")? {
            self.unary(functions)?
        } else if self.eat("-")? {
            self.unary(functions)?.neg()
        } else {
            let mut factors = vec![self.postfix(true)?];
            while let Some(factor) = self.attempt(|parser| parser.postfix(functions))? {
                factors.push(factor);
            }
            multiply(factors)?
        };
        self.depth -= 1;
        Ok(value)
    }

    pub(super) fn postfix(&mut self, functions: bool) -> Parsed<Factor> {
        let mut base = match self.comp(functions)? {
            Factor::Expr(base) => base,
            operator => return Ok(operator),
        };
        while self.is("^")? {
            let next = self.attempt(|parser| {
                parser.expect("^")?;
                if parser.eat("{")? { parser.closed("}") } else { plain(parser.atom()?) }
            })?;
            let Some(exponent) = next else { return Ok(Factor::Expr(base)) };
            base = base.pow(exponent);
            // A subscript after a power is read and forgotten.
            if self.is("_")? {
                self.subscript()?;
            }
        }
        while self.eat("!")? {
            base = Expr::Call(Func::Factorial, vec![base]);
        }
        Ok(Factor::Expr(base))
    }

    /// An expression and what closes it.
    pub(super) fn closed(&mut self, close: &str) -> Parsed<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let value = self.expr()?;
        self.bars = bars;
        self.expect(close)?;
        Ok(value)
    }

    pub(super) fn comp(&mut self, functions: bool) -> Parsed<Factor> {
        for (open, close) in [("(", ")"), ("[", "]"), ("{", "}"), ("\\{", "\\}")] {
            if self.eat(open)? {
                return self.closed(close).map(Factor::Expr);
            }
        }
        if self.is("|")? {
            return self.absolute().map(Factor::Expr);
        }
        if functions && let Some(value) = self.func()? {
            return Ok(Factor::Expr(value));
        }
        self.atom()
    }

    pub(super) fn absolute(&mut self) -> Parsed<Expr> {
        let inner = self.bars > 0;
        self.expect("|")?;
        self.bars += 1;
        let value = self.expr()?;
        self.expect("|")?;
        self.bars -= 1;
        // Within bars another pair may open only if one more is left to close them.
        if inner && !self.tokens[self.at..].contains(&Tok::Sym("|")) {
            return Err(Failure::Mismatch);
        }
        Ok(Expr::Call(Func::Abs, vec![value]))
    }

    /// A name with its subscript, as sympy's symbols are called.
    pub(super) fn name(&mut self, letter: String, quotes_count: bool) -> Parsed<String> {
        let mut name = letter;
        let mut quotes = 0;
        for _ in 0..2 {
            match self.peek()? {
                Some(&Tok::Quotes(count)) if quotes == 0 => {
                    quotes = count;
                    self.at += 1;
                }
                Some(Tok::Sym("_")) if !name.contains("_{") => name.push_str(&self.subscript()?),
                _ => break,
            }
        }
        if quotes_count {
            name.push_str(&"'".repeat(quotes));
        }
        Ok(name)
    }

    pub(super) fn subscript(&mut self) -> Parsed<String> {
        self.expect("_")?;
        let value = if self.eat("{")? { self.closed("}")? } else { plain(self.atom()?)? };
        Ok(format!("_{{{value:?}}}"))
    }

    pub(super) fn atom(&mut self) -> Parsed<Factor> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Failure::Fatal);
        }
        let tok = self.peek()?.cloned().ok_or(Failure::Mismatch)?;
        let value = match tok {
            Tok::Letter(c) => {
                self.at += 1;
                Expr::var(&self.name(c.to_string(), true)?)
            }
            Tok::Digit(_) => self.number()?,
            Tok::Differential(name) => {
                self.at += 1;
                Expr::var(&format!("d{name}"))
            }
            Tok::Symbol(name) => {
                self.depth -= 1;
                return self.symbol(name);
            }
            Tok::Quotes(_) | Tok::Sym(_) | Tok::Bad => return Err(Failure::Mismatch),
        };
        self.depth -= 1;
        Ok(Factor::Expr(value))
    }

    pub(super) fn number(&mut self) -> Parsed<Expr> {
        let (mut digits, mut places) = (String::new(), 0);
        let end = if self.digits_end > self.at { self.digits_end } else { usize::MAX };
        let digit_at = |parser: &Self, at: usize| match parser.tokens.get(at) {
            Some(Tok::Digit(c)) if at < end => Some(*c),
            _ => None,
        };
        let run = |parser: &mut Self, digits: &mut String, limit: usize| {
            let mut count = 0;
            while count < limit
                && let Some(c) = digit_at(parser, parser.at)
            {
                digits.push(c);
                parser.at += 1;
                count += 1;
            }
            count
        };
        run(self, &mut digits, usize::MAX);
        while self.is(",")? && (1..=3).all(|step| digit_at(self, self.at + step).is_some()) {
            self.at += 1;
            run(self, &mut digits, 3);
        }
        if self.is(".")? {
            if digit_at(self, self.at + 1).is_none() {
                return Err(Failure::Mismatch);
            }
            self.at += 1;
            places = run(self, &mut digits, usize::MAX);
        }
        self.peek()?;
        if places == 0 && digits.len() > 1 && digits.starts_with('0') {
            // sympy makes no number of "05".
            return Err(Failure::Fatal);
        }
        let top = UBig::from_str_radix(&digits, 10).map_err(|_| Failure::Fatal)?;
        Ok(Expr::Num(Rational::from_parts(IBig::from(top), UBig::from(10u8).pow(places))))
    }

    pub(super) fn symbol(&mut self, name: String) -> Parsed<Factor> {
        if FUNCTION_NAMES.contains(&name.as_str()) || KEYWORDS.contains(&name.as_str()) {
            return Err(Failure::Mismatch);
        }
        self.at += 1;
        Ok(Factor::Expr(match name.as_str() {
            "frac" | "dfrac" | "tfrac" => return self.fraction(),
            "binom" | "dbinom" | "tbinom" => {
                self.expect("{")?;
                let n = self.closed("}")?;
                self.expect("{")?;
                Expr::Call(Func::Binomial, vec![n, self.closed("}")?])
            }
            "lfloor" => self.between(Func::Floor, "rfloor")?,
            "lceil" => self.between(Func::Ceil, "rceil")?,
            "mathit" => {
                self.expect("{")?;
                let mut text = String::new();
                while let Some(Tok::Letter(c)) = self.peek()? {
                    text.push(*c);
                    self.at += 1;
                }
                self.expect("}")?;
                Expr::var(&text)
            }
            _ => {
                let name = self.name(name, false)?;
                if name == "infty" { Expr::Infinity } else { Expr::var(&name) }
            }
        }))
    }

    pub(super) fn between(&mut self, func: Func, close: &str) -> Parsed<Expr> {
        let value = self.expr()?;
        if !self.is_symbol(close)? {
            return Err(Failure::Mismatch);
        }
        self.at += 1;
        Ok(Expr::Call(func, vec![value]))
    }

    pub(super) fn fraction(&mut self) -> Parsed<Factor> {
        let top_at = self.at;
        let top = self.fraction_part()?;
        let bottom_at = self.at;
        let bottom = self.fraction_part()?;
        // \frac{d}{dx} and \frac{df}{dx} are derivatives.
        if let [Tok::Sym("{"), Tok::Differential(var), Tok::Sym("}")] = &self.tokens[bottom_at..self.at] {
            let var: Box<str> = var.as_str().into();
            match &self.tokens[top_at..bottom_at] {
                [Tok::Sym("{"), Tok::Letter('d'), Tok::Sym("}")] => return Ok(Factor::Derivative(var)),
                [Tok::Sym("{"), Tok::Differential(_), ..] => {
                    let mut inner = self.tokens[top_at + 1..bottom_at - 1].to_vec();
                    if let Tok::Differential(name) = &inner[0] {
                        let mut chars = name.chars();
                        inner[0] = match (chars.next(), chars.next()) {
                            (Some(c), None) => Tok::Letter(c),
                            _ => Tok::Symbol(name.clone()),
                        };
                    }
                    let mut parser =
                        Self { tokens: inner, at: 0, depth: self.depth, steps: self.steps, bars: 0, digits_end: 0 };
                    return Ok(Factor::Expr(derivative(&parser.expr()?, &var)));
                }
                _ => {}
            }
        }
        Ok(Factor::Expr(top.div(bottom)))
    }

    pub(super) fn fraction_part(&mut self) -> Parsed<Expr> {
        if let Some(&Tok::Digit(c)) = self.peek()? {
            self.at += 1;
            return Ok(Expr::int(i64::from(c as u8 - b'0')));
        }
        self.expect("{")?;
        self.closed("}")
    }
}

pub(super) fn plain(factor: Factor) -> Parsed<Expr> {
    match factor {
        Factor::Expr(expr) => Ok(expr),
        Factor::Derivative(_) => Err(Failure::Fatal),
    }
}

/// Factors side by side: an `x` between two numbers is a sign of multiplication, `d/dx` applies to the rest.
fn multiply(factors: Vec<Factor>) -> Parsed<Expr> {
    let free = |factor: Option<&Factor>| matches!(factor, Some(Factor::Expr(expr)) if expr.variables().is_empty());
    let is_times = |at: usize| {
        at > 0
            && matches!(&factors[at], Factor::Expr(Expr::Var(name)) if **name == *"x")
            && free(factors.get(at - 1))
            && free(factors.get(at + 1))
    };
    let mut rest = Vec::new();
    for at in (0..factors.len()).rev() {
        match &factors[at] {
            _ if is_times(at) => {}
            Factor::Expr(expr) => rest.push(expr.clone()),
            Factor::Derivative(_) if rest.is_empty() => return Err(Failure::Fatal),
            Factor::Derivative(var) => {
                rest.reverse();
                rest = vec![derivative(&Expr::Mul(rest), var)];
            }
        }
    }
    rest.reverse();
    Ok(if rest.len() == 1 { rest.remove(0) } else { Expr::Mul(rest) })
}
