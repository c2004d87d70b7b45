//! LaTeX as sympy's ANTLR grammar reads it.
//!
//! That grammar has no end of input: it reads the longest prefix that makes sense. Where a repetition (another term, factor
//! or power) cannot be read to its end it is not begun; what must follow and does not is an error, and so is any character
//! that is no token. No name is a constant: `\pi`, `e` and `i` are symbols like any other, and a letter before a bracket is
//! a function.

use super::object::{Object, Relation};
use crate::grader::math::derive::derivative;
use crate::grader::math::expr::{Expr, Fold, Func, Rational};
use dashu_int::{IBig, UBig};

#[derive(Clone, Debug, PartialEq)]
enum Tok {
    Digit(char),
    Letter(char),
    /// A command without its backslash.
    Symbol(String),
    /// `d` and the name after it.
    Differential(String),
    Quotes(usize),
    /// An operator or bracket; `\{` is `"\\{"`.
    Sym(&'static str),
    /// A character that is no token.
    Bad,
}

/// A text does not follow the grammar; `Fatal` where that cannot be undone by reading less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Mismatch,
    Fatal,
}

type Parsed<T> = Result<T, Failure>;

const MAX_TOKENS: usize = 1500;
const MAX_DEPTH: usize = 100;
const MAX_STEPS: usize = 20_000;

/// What `text` begins with; `None` where sympy's parser would raise an error.
pub(super) fn parse(text: &str) -> Option<Object> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, at: 0, depth: 0, steps: 0, bars: 0, digits_end: 0 };
    parser.relation().ok()
}

fn lex(text: &str) -> Option<Vec<Tok>> {
    const IGNORED: [&str; 22] = [
        "thinspace", "medspace", "thickspace", "quad", "qquad", "negthinspace", "negmedspace", "negthickspace", "left",
        "right", "vrule", "vcenter", "vbox", "vskip", "vspace", "hfil", ",", ":", ";", "!", "(", "=",
    ];
    const SYMS: [(&str, &str); 21] = [
        ("+", "+"),
        ("-", "-"),
        ("*", "*"),
        ("/", "/"),
        ("(", "("),
        (")", ")"),
        ("{", "{"),
        ("}", "}"),
        ("[", "["),
        ("]", "]"),
        ("|", "|"),
        ("_", "_"),
        ("^", "^"),
        (":", ":"),
        ("<", "<"),
        (">", ">"),
        ("!", "!"),
        (",", ","),
        (".", "."),
        ("=", "="),
        ("&=", "="),
    ];
    let mut out = Vec::new();
    let mut rest = text.trim();
    while let Some(c) = rest.chars().next() {
        if out.len() > MAX_TOKENS {
            return None;
        }
        if matches!(c, ' ' | '\t' | '\r' | '\n') {
            rest = &rest[1..];
        } else if let Some(after) = rest.strip_prefix('\\') {
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let length = if letters > 0 { letters } else { after.chars().next().map_or(0, char::len_utf8) };
            let name = &after[..length];
            rest = &after[length..];
            match name {
                "{" => out.push(Tok::Sym("\\{")),
                "}" => out.push(Tok::Sym("\\}")),
                _ if IGNORED.contains(&name) || matches!(name, "*" | "-" | "." | "/" | "\"") => {}
                _ if letters > 0 => out.push(Tok::Symbol(name.to_owned())),
                _ => out.push(Tok::Bad),
            }
        } else if let Some((tok, after)) = differential(rest) {
            out.push(tok);
            rest = after;
        } else if c.is_ascii_alphanumeric() {
            out.push(if c.is_ascii_digit() { Tok::Digit(c) } else { Tok::Letter(c) });
            rest = &rest[1..];
        } else if c == '\'' {
            let count = rest.bytes().take_while(|byte| *byte == b'\'').count();
            out.push(Tok::Quotes(count));
            rest = &rest[count..];
        } else if let Some((written, sym)) = SYMS.iter().find(|(written, _)| rest.starts_with(written)) {
            out.push(Tok::Sym(sym));
            rest = &rest[written.len()..];
            if *sym == "=" {
                rest = rest.strip_prefix('&').unwrap_or(rest);
            }
        } else {
            out.push(Tok::Bad);
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(out)
}

/// `dx`, `d x` or `d\theta`.
fn differential(text: &str) -> Option<(Tok, &str)> {
    let after = text.strip_prefix('d')?.trim_start_matches([' ', '\t', '\r', '\n']);
    let (name, command) = match after.strip_prefix('\\') {
        Some(name) => (name, true),
        None => (after, false),
    };
    let letters = name.bytes().take_while(u8::is_ascii_alphabetic).count();
    let length = if command { letters } else { letters.min(1) };
    (length > 0).then(|| (Tok::Differential(name[..length].to_owned()), &name[length..]))
}

struct Parser {
    tokens: Vec<Tok>,
    at: usize,
    depth: usize,
    steps: usize,
    /// How many `|` are open.
    bars: usize,
    /// Where a number that began before must end; 0 for nowhere.
    digits_end: usize,
}

/// A factor: an expression, or `d/dx` that applies to what follows.
enum Factor {
    Expr(Expr),
    Derivative(Box<str>),
}

impl Parser {
    /// The next token; one that is none ends the parse.
    fn peek(&mut self) -> Parsed<Option<&Tok>> {
        self.steps += 1;
        match self.tokens.get(self.at) {
            Some(Tok::Bad) => Err(Failure::Fatal),
            _ if self.steps > MAX_STEPS => Err(Failure::Fatal),
            tok => Ok(tok),
        }
    }

    fn is(&mut self, sym: &str) -> Parsed<bool> {
        Ok(matches!(self.peek()?, Some(Tok::Sym(found)) if *found == sym))
    }

    fn is_symbol(&mut self, name: &str) -> Parsed<bool> {
        Ok(matches!(self.peek()?, Some(Tok::Symbol(found)) if found == name))
    }

    fn eat(&mut self, sym: &str) -> Parsed<bool> {
        let found = self.is(sym)?;
        self.at += usize::from(found);
        Ok(found)
    }

    fn expect(&mut self, sym: &str) -> Parsed<()> {
        if self.eat(sym)? { Ok(()) } else { Err(Failure::Mismatch) }
    }

    /// `parse`, or nothing and no step taken.
    fn attempt<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<Option<T>> {
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

    fn relation(&mut self) -> Parsed<Object> {
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

    fn relation_sign(&mut self) -> Parsed<Option<Relation>> {
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

    fn expr(&mut self) -> Parsed<Expr> {
        if self.depth > MAX_DEPTH {
            return Err(Failure::Fatal);
        }
        self.depth += 1;
        let mut value = self.mp(true)?;
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
                Some(right) => value = Expr::Add(vec![value, right]),
                None => break,
            }
        }
        self.depth -= 1;
        Ok(value)
    }

    /// Products and quotients; without `functions` no function may follow a factor directly.
    fn mp(&mut self, functions: bool) -> Parsed<Expr> {
        let mut value = self.unary(functions)?;
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
                Some(right) => value = Expr::Mul(vec![value, right]),
                None => return Ok(value),
            }
        }
    }

    fn unary(&mut self, functions: bool) -> Parsed<Expr> {
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

    fn postfix(&mut self, functions: bool) -> Parsed<Factor> {
        let mut base = match self.comp(functions)? {
            Factor::Expr(base) => base,
            operator => return Ok(operator),
        };
        while self.is("^")? {
            let next = self.attempt(|parser| {
                parser.expect("^")?;
                let exponent = if parser.eat("{")? { parser.closed("}")? } else { plain(parser.atom()?)? };
                // A subscript after a power is read and forgotten.
                if parser.is("_")? {
                    parser.subscript()?;
                }
                Ok(exponent)
            })?;
            match next {
                Some(exponent) => base = base.pow(exponent),
                None => return Ok(Factor::Expr(base)),
            }
        }
        while self.eat("!")? {
            base = Expr::Call(Func::Factorial, vec![base]);
        }
        Ok(Factor::Expr(base))
    }

    /// An expression and what closes it.
    fn closed(&mut self, close: &str) -> Parsed<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let value = self.expr()?;
        self.bars = bars;
        self.expect(close)?;
        Ok(value)
    }

    fn comp(&mut self, functions: bool) -> Parsed<Factor> {
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

    fn absolute(&mut self) -> Parsed<Expr> {
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
    fn name(&mut self, letter: String, quotes_count: bool) -> Parsed<String> {
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

    fn subscript(&mut self) -> Parsed<String> {
        self.expect("_")?;
        let value = if self.eat("{")? { self.closed("}")? } else { plain(self.atom()?)? };
        Ok(format!("_{{{value:?}}}"))
    }

    fn atom(&mut self) -> Parsed<Factor> {
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

    fn number(&mut self) -> Parsed<Expr> {
        let (mut digits, mut places) = (String::new(), 0);
        let end = if self.digits_end > self.at { self.digits_end } else { usize::MAX };
        let digit_at = |parser: &Self, at: usize| match parser.tokens.get(at) {
            Some(Tok::Digit(c)) if at < end => Some(*c),
            _ => None,
        };
        let run = |parser: &mut Self, digits: &mut String, limit: usize| {
            let mut count = 0;
            while count < limit && let Some(c) = digit_at(parser, parser.at) {
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
        if self.is(".")? && digit_at(self, self.at + 1).is_some() {
            self.at += 1;
            places = run(self, &mut digits, usize::MAX);
        }
        self.peek()?;
        let top = UBig::from_str_radix(&digits, 10).map_err(|_| Failure::Fatal)?;
        Ok(Expr::Num(Rational::from_parts(IBig::from(top), UBig::from(10u8).pow(places))))
    }

    fn symbol(&mut self, name: String) -> Parsed<Factor> {
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

    fn between(&mut self, func: Func, close: &str) -> Parsed<Expr> {
        let value = self.expr()?;
        if !self.is_symbol(close)? {
            return Err(Failure::Mismatch);
        }
        self.at += 1;
        Ok(Expr::Call(func, vec![value]))
    }

    fn fraction(&mut self) -> Parsed<Factor> {
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
                    let mut parser = Self { tokens: inner, at: 0, depth: self.depth, steps: self.steps, bars: 0, digits_end: 0 };
                    return Ok(Factor::Expr(derivative(&parser.expr()?, &var)));
                }
                _ => {}
            }
        }
        Ok(Factor::Expr(top.div(bottom)))
    }

    fn fraction_part(&mut self) -> Parsed<Expr> {
        if let Some(&Tok::Digit(c)) = self.peek()? {
            self.at += 1;
            return Ok(Expr::int(i64::from(c as u8 - b'0')));
        }
        self.expect("{")?;
        self.closed("}")
    }

    /// A function and its argument; `None` where the next token begins none.
    fn func(&mut self) -> Parsed<Option<Expr>> {
        match self.peek()?.cloned() {
            Some(Tok::Symbol(name)) if FUNCTION_NAMES.contains(&name.as_str()) => {
                self.at += 1;
                self.normal_function(&name).map(Some)
            }
            Some(Tok::Symbol(name)) if matches!(name.as_str(), "sqrt" | "overline" | "sum" | "prod" | "lim") => {
                self.at += 1;
                match name.as_str() {
                    "sqrt" => self.root(),
                    "overline" => {
                        self.expect("{")?;
                        Ok(Expr::Call(Func::Conjugate, vec![self.closed("}")?]))
                    }
                    "lim" => self.limit(),
                    _ => self.fold(if name == "sum" { Fold::Sum } else { Fold::Product }),
                }
                .map(Some)
            }
            Some(Tok::Letter(_)) => self.applied(),
            Some(Tok::Symbol(name)) if !KEYWORDS.contains(&name.as_str()) && !ATOM_COMMANDS.contains(&name.as_str()) => {
                self.applied()
            }
            _ => Ok(None),
        }
    }

    /// `f(x, y)`; `None` where no bracket closes after the first argument, so that the name is a symbol. A comma after the
    /// first argument decides for the function.
    fn applied(&mut self) -> Parsed<Option<Expr>> {
        let first = self.attempt(|parser| {
            let name = match parser.peek()?.cloned() {
                Some(Tok::Letter(c)) => c.to_string(),
                Some(Tok::Symbol(name)) => name,
                _ => return Err(Failure::Mismatch),
            };
            parser.at += 1;
            let name = parser.name(name, true)?;
            parser.expect("(")?;
            let bars = std::mem::take(&mut parser.bars);
            let first = parser.expr()?;
            parser.bars = bars;
            if !parser.is(",")? && !parser.is(")")? {
                return Err(Failure::Mismatch);
            }
            Ok((name, first))
        })?;
        let Some((name, first)) = first else { return Ok(None) };
        let mut args = vec![first];
        while self.eat(",")? {
            args.push(self.expr()?);
        }
        self.expect(")")?;
        Ok(Some(Expr::Apply(name.into(), args)))
    }

    /// A function with its base, power and argument. Digits after `_` or `^` are shared with an argument that would be
    /// missing otherwise: `\log_28` is the logarithm of 8 to base 2.
    fn normal_function(&mut self, name: &str) -> Parsed<Expr> {
        if let Some(value) = self.attempt(|parser| parser.function_of(name))? {
            return Ok(value);
        }
        let from = self.at + 1;
        let digits = self.tokens.iter().skip(from).take_while(|tok| matches!(tok, Tok::Digit(_))).count();
        for given in (1..digits).rev() {
            self.digits_end = from + given;
            let value = self.attempt(|parser| parser.function_of(name));
            self.digits_end = 0;
            if let Some(value) = value? {
                return Ok(value);
            }
        }
        Err(Failure::Mismatch)
    }

    fn function_of(&mut self, name: &str) -> Parsed<Expr> {
        let (mut base, mut power) = (None, None);
        for _ in 0..2 {
            if base.is_none() && self.eat("_")? {
                base = Some(if self.eat("{")? { self.closed("}")? } else { plain(self.atom()?)? });
            } else if power.is_none() && self.eat("^")? {
                power = Some(if self.eat("{")? { self.closed("}")? } else { plain(self.atom()?)? });
            }
        }
        let bracketed = self.attempt(|parser| {
            parser.expect("(")?;
            let bars = std::mem::take(&mut parser.bars);
            let value = parser.expr()?;
            // Of several arguments only the first counts.
            while parser.eat(",")? {
                parser.expr()?;
            }
            parser.bars = bars;
            parser.expect(")")?;
            Ok(value)
        })?;
        let argument = match bracketed {
            Some(argument) => argument,
            None => self.mp(false)?,
        };
        let call = |func| Expr::Call(func, vec![argument.clone()]);
        let logarithm = |base: Expr| call(Func::Ln).div(Expr::Call(Func::Ln, vec![base]));
        let value = match (name, base) {
            ("exp", _) => Expr::E.pow(argument.clone()),
            ("log" | "ln" | "lg", Some(base)) => logarithm(base),
            ("lg", None) => logarithm(Expr::int(10)),
            ("log" | "ln", None) => call(Func::Ln),
            _ => match function(name).ok_or(Failure::Fatal)? {
                (_, Some(inverse)) if power == Some(Expr::int(-1)) => return Ok(call(inverse)),
                (direct, _) => call(direct),
            },
        };
        Ok(match power {
            Some(power) => value.pow(power),
            None => value,
        })
    }

    fn root(&mut self) -> Parsed<Expr> {
        let index = if self.eat("[")? { Some(self.closed("]")?) } else { None };
        self.expect("{")?;
        let radicand = self.closed("}")?;
        Ok(radicand.pow(index.map_or(Expr::ratio(1, 2), Expr::inverse)))
    }

    fn fold(&mut self, fold: Fold) -> Parsed<Expr> {
        let (mut lower, mut upper) = (None, None);
        for _ in 0..2 {
            if lower.is_none() && self.eat("_")? {
                self.expect("{")?;
                let Expr::Var(var) = self.expr()? else { return Err(Failure::Fatal) };
                self.expect("=")?;
                lower = Some((var, self.closed("}")?));
            } else {
                self.expect("^")?;
                upper = Some(if self.eat("{")? { self.closed("}")? } else { plain(self.atom()?)? });
            }
        }
        let body = Box::new(self.mp(true)?);
        match (lower, upper) {
            (Some((var, from)), Some(to)) => Ok(Expr::Fold { fold, var, range: Box::new([from, to]), body }),
            _ => Err(Failure::Mismatch),
        }
    }

    fn limit(&mut self) -> Parsed<Expr> {
        self.expect("_")?;
        self.expect("{")?;
        let var = match self.peek()?.cloned() {
            Some(Tok::Letter(c)) => c.to_string(),
            Some(Tok::Symbol(name)) => name,
            _ => return Err(Failure::Mismatch),
        };
        self.at += 1;
        match self.peek()? {
            Some(Tok::Symbol(arrow)) if ARROWS.contains(&arrow.as_str()) => self.at += 1,
            _ => return Err(Failure::Mismatch),
        }
        let to = self.expr()?;
        if self.eat("^")? {
            let braced = self.eat("{")?;
            let _sign = self.eat("+")? || self.eat("-")?;
            if braced {
                self.expect("}")?;
            }
        }
        self.expect("}")?;
        let body = self.mp(true)?;
        Ok(Expr::Limit { var: var.into(), to: Box::new(to), body: Box::new(body) })
    }
}

const ARROWS: [&str; 5] = ["to", "rightarrow", "Rightarrow", "longrightarrow", "Longrightarrow"];

const FUNCTION_NAMES: [&str; 22] = [
    "exp", "log", "lg", "ln", "sin", "cos", "tan", "csc", "sec", "cot", "arcsin", "arccos", "arctan", "arccsc", "arcsec",
    "arccot", "sinh", "cosh", "tanh", "arsinh", "arcosh", "artanh",
];

/// Commands that are tokens of their own and begin neither an atom nor a function of a name.
const KEYWORDS: [&str; 31] = [
    "times", "cdot", "div", "neq", "le", "leq", "leqq", "leqslant", "ge", "geq", "geqq", "geqslant", "rfloor", "rceil",
    "langle", "rangle", "int", "sqrt", "overline", "sum", "prod", "lim", "to", "rightarrow", "Rightarrow", "longrightarrow",
    "Longrightarrow", "thinspace", "medspace", "quad", "qquad",
];

/// Commands with an argument of their own.
const ATOM_COMMANDS: [&str; 9] = ["frac", "dfrac", "tfrac", "binom", "dbinom", "tbinom", "lfloor", "lceil", "mathit"];

/// A function, and what its power -1 means.
fn function(name: &str) -> Option<(Func, Option<Func>)> {
    Some(match name {
        "sin" => (Func::Sin, Some(Func::Asin)),
        "cos" => (Func::Cos, Some(Func::Acos)),
        "tan" => (Func::Tan, Some(Func::Atan)),
        "csc" => (Func::Csc, Some(Func::Acsc)),
        "sec" => (Func::Sec, Some(Func::Asec)),
        "cot" => (Func::Cot, Some(Func::Acot)),
        "sinh" => (Func::Sinh, Some(Func::Asinh)),
        "cosh" => (Func::Cosh, Some(Func::Acosh)),
        "tanh" => (Func::Tanh, Some(Func::Atanh)),
        "arcsin" => (Func::Asin, None),
        "arccos" => (Func::Acos, None),
        "arctan" => (Func::Atan, None),
        "arccsc" => (Func::Acsc, None),
        "arcsec" => (Func::Asec, None),
        "arccot" => (Func::Acot, None),
        "arsinh" => (Func::Asinh, None),
        "arcosh" => (Func::Acosh, None),
        "artanh" => (Func::Atanh, None),
        _ => return None,
    })
}

fn plain(factor: Factor) -> Parsed<Expr> {
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
    let mut out: Option<Expr> = None;
    for at in (0..factors.len()).rev() {
        out = match (&factors[at], out) {
            (_, rest @ Some(_)) if is_times(at) => rest,
            (Factor::Derivative(var), Some(rest)) => Some(derivative(&rest, var)),
            (Factor::Derivative(_), None) => return Err(Failure::Fatal),
            (Factor::Expr(expr), Some(rest)) => Some(Expr::Mul(vec![expr.clone(), rest])),
            (Factor::Expr(expr), None) => Some(expr.clone()),
        };
    }
    out.ok_or(Failure::Fatal)
}
