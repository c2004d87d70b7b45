//! Sequences and numbers as Python expressions: what sympy's `parse_expr` reads where its LaTeX parser gives up.

use super::object::Object;
use crate::grader::math::expr::{Expr, Func, Rational};
use dashu_int::{IBig, UBig};

const MAX_DEPTH: usize = 30;

/// The object that `text` writes in Python; `None` where it is no such text.
pub(super) fn parse(text: &str) -> Option<Object> {
    // `a or b` is `a`, unless that is empty.
    let text = match text.split_once(")or(") {
        Some((first, _)) => format!("{first})"),
        None => text.to_owned(),
    };
    let mut parser = Parser { rest: text.trim(), depth: 0 };
    let value = parser.items('(', "")?;
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Entries up to `close`; one entry without a comma is itself, unless in a list or a set.
    fn items(&mut self, open: char, close: &str) -> Option<Object> {
        let mut items = Vec::new();
        let mut commas = false;
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.is_empty() || (!close.is_empty() && self.rest.starts_with(close)) {
                break;
            }
            items.push(self.sum()?);
            if !self.eat(",") {
                break;
            }
            commas = true;
        }
        if !close.is_empty() && !self.eat(close) {
            return None;
        }
        match items.len() {
            0 if close.is_empty() => None,
            1 if open == '(' && !commas => items.pop(),
            _ => Some(Object::Sequence(open, items)),
        }
    }

    fn sum(&mut self) -> Option<Object> {
        if self.depth > MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let mut value = self.product()?;
        loop {
            let minus = if self.eat("+") {
                false
            } else if self.eat("-") {
                true
            } else {
                break;
            };
            let (left, right) = (expr(value)?, expr(self.product()?)?);
            value = Object::Expr(if minus { left.sub(right) } else { Expr::Add(vec![left, right]) });
        }
        self.depth -= 1;
        Some(value)
    }

    fn product(&mut self) -> Option<Object> {
        let mut value = self.factor()?;
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with("**") || self.rest.starts_with("//") {
                return None;
            }
            let divides = if self.eat("*") {
                false
            } else if self.eat("/") {
                true
            } else {
                return Some(value);
            };
            let (left, right) = (expr(value)?, expr(self.factor()?)?);
            value = Object::Expr(if divides { left.div(right) } else { Expr::Mul(vec![left, right]) });
        }
    }

    fn factor(&mut self) -> Option<Object> {
        let mut minus = false;
        loop {
            if self.eat("-") {
                minus = !minus;
            } else if !self.eat("+") {
                break;
            }
        }
        let value = self.power()?;
        if minus { Some(Object::Expr(expr(value)?.neg())) } else { Some(value) }
    }

    fn power(&mut self) -> Option<Object> {
        let mut base = self.atom()?;
        while self.rest.starts_with('!') && self.eat("!") {
            base = Object::Expr(Expr::Call(Func::Factorial, vec![expr(base)?]));
        }
        if !self.eat("**") {
            return Some(base);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let exponent = expr(self.factor()?)?;
        self.depth -= 1;
        Some(Object::Expr(expr(base)?.pow(exponent)))
    }

    fn atom(&mut self) -> Option<Object> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = if self.eat("(") {
            self.items('(', ")")
        } else if self.eat("[") {
            self.items('[', "]")
        } else if self.eat("{") {
            self.items('{', "}")
        } else {
            self.rest = self.rest.trim_start();
            match self.rest.chars().next()? {
                '0'..='9' | '.' => self.number().map(Object::Expr),
                c if c.is_alphabetic() || c == '_' => self.name().map(Object::Expr),
                _ => None,
            }
        };
        self.depth -= 1;
        value
    }

    fn number(&mut self) -> Option<Expr> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = &self.rest[..digits(self.rest)];
        let mut rest = &self.rest[whole.len()..];
        let mut fraction = "";
        let mut is_float = false;
        if let Some(after) = rest.strip_prefix('.') {
            is_float = true;
            fraction = &after[..digits(after)];
            rest = &after[fraction.len()..];
        }
        let mut exponent = 0i32;
        if let Some(after) = rest.strip_prefix(['e', 'E']) {
            let unsigned = after.strip_prefix(['+', '-']).unwrap_or(after);
            let count = digits(unsigned);
            if count > 0 && count < 4 {
                exponent = after[..after.len() - unsigned.len() + count].parse().ok()?;
                rest = &unsigned[count..];
                is_float = true;
            }
        }
        let malformed = whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 400;
        // A leading zero is a syntax error of Python, a letter after a number too.
        let octal = !is_float && whole.len() > 1 && whole.starts_with('0');
        if malformed || octal || rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(') {
            return None;
        }
        self.rest = rest;
        let top = UBig::from_str_radix(&format!("{whole}{fraction}"), 10).ok()?;
        let ten = UBig::from(10u8);
        let shift = ten.pow(exponent.unsigned_abs() as usize);
        let scale = ten.pow(fraction.len());
        let (top, bottom) = if exponent >= 0 { (top * shift, scale) } else { (top, scale * shift) };
        Some(Expr::Num(Rational::from_parts(IBig::from(top), bottom)))
    }

    fn name(&mut self) -> Option<Expr> {
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let name = &self.rest[..end];
        self.rest = &self.rest[end..];
        if self.rest.starts_with('(') {
            self.eat("(");
            let argument = expr(self.items('(', ")")?)?;
            return match name {
                "sqrt" => Some(argument.pow(Expr::ratio(1, 2))),
                _ => Some(Expr::Apply(name.into(), vec![argument])),
            };
        }
        Some(match name {
            "pi" => Expr::Pi,
            "E" => Expr::E,
            "I" => Expr::I,
            "oo" => Expr::Infinity,
            "or" | "and" | "not" | "in" | "is" | "if" | "else" | "for" | "lambda" | "None" | "True" | "False" => {
                return None;
            }
            _ => Expr::var(name),
        })
    }
}

fn expr(object: Object) -> Option<Expr> {
    match object {
        Object::Expr(expr) => Some(expr),
        _ => None,
    }
}
