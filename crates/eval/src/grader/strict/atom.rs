//! Factors of an answer: numbers, names, what stands behind them (powers, degrees, percent signs), arguments of functions.

use super::arithmetic::{expr, primed, transpose};
use super::lex::Tok;
use super::parse::Parser;
use super::value::Value;
use crate::grader::math::expr::{Expr, Func, Rational};

impl Parser {
    /// `3\frac{1}{2}` and `3 1/2`: an integer and a proper fraction of integers.
    pub(super) fn mixed_number(&mut self) -> Option<Value> {
        let mark = self.at;
        let mixed = self.read_mixed();
        if mixed.is_none() {
            self.at = mark;
        }
        mixed
    }

    pub(super) fn integer(&mut self) -> Option<Rational> {
        match self.next()? {
            Tok::Num(written, value) if written.bytes().all(|byte| byte.is_ascii_digit()) => Some(value),
            _ => None,
        }
    }

    /// The arguments of a `\frac` of two integers: in braces or one digit each.
    fn small_fraction(&mut self) -> Option<(Rational, Rational)> {
        if let Some(Tok::Num(written, _)) = self.peek()
            && let [top, bottom] = written.as_bytes()
            && top.is_ascii_digit()
            && bottom.is_ascii_digit()
        {
            let (top, bottom) = (top - b'0', bottom - b'0');
            self.at += 1;
            return Some((Rational::from(top), Rational::from(bottom)));
        }
        let mut part = || {
            let braced = self.eat('{');
            let from = self.at;
            let value = self.integer()?;
            let one_digit = matches!(&self.tokens[from].tok, Tok::Num(written, _) if written.len() == 1);
            (if braced { self.eat('}') } else { one_digit }).then_some(value)
        };
        Some((part()?, part()?))
    }

    pub(super) fn read_mixed(&mut self) -> Option<Value> {
        let whole = self.integer()?;
        let spaced = self.peek_spaced();
        let (top, bottom) = if ["frac", "dfrac", "tfrac"].iter().any(|name| self.is_cmd(name)) {
            self.at += 1;
            self.small_fraction()?
        } else {
            let top = spaced.then(|| self.integer())??;
            self.expect('/')?;
            (top, self.integer()?)
        };
        if top.is_zero() || top >= bottom || top < Rational::ZERO || self.is_sym('^') || self.is_sym('!') {
            return None;
        }
        let mut value = Expr::Num(whole + top / bottom);
        value = self.suffix(value)?;
        Some(Value::Expr(value))
    }

    /// An atom with its powers, subscripts, factorials, degrees and percent signs.
    pub(super) fn power(&mut self) -> Option<Value> {
        let base = self.atom()?;
        if let Value::Matrix(rows) = base {
            let transposed = self.is_sym('^')
                && matches!(self.tokens.get(self.at + 1).map(|t| &t.tok), Some(Tok::Letter('T')) | Some(Tok::Cmd(_)));
            if transposed {
                self.at += 2;
                return Some(Value::Matrix(transpose(&rows)));
            }
            return Some(Value::Matrix(rows));
        }
        let Value::Expr(base) = base else { return Some(base) };
        let base = self.suffix(base)?;
        Some(Value::Expr(base))
    }

    pub(super) fn suffix(&mut self, mut base: Expr) -> Option<Expr> {
        loop {
            if self.eat('^') {
                if self.eat_cmd("circ") || self.eat_cmd("degree") || self.braced_cmd("circ") {
                    base = self.degrees(base);
                } else if self.eat('\'') || self.eat_cmd("prime") || self.braced_cmd("prime") {
                    base = primed(base)?;
                } else {
                    base = base.pow(self.exponent()?);
                }
            } else if self.is_cmd("degree") || self.is_cmd("circ") {
                self.at += 1;
                base = self.degrees(base);
            } else if self.is_sym('!') && self.tokens.get(self.at + 1).map(|token| &token.tok) != Some(&Tok::Sym('=')) {
                self.at += 1;
                base = if self.eat('!') {
                    Expr::Apply("!!".into(), vec![base])
                } else {
                    Expr::Call(Func::Factorial, vec![base])
                };
            } else if self.eat('%') {
                self.percent = true;
                base = base.div(Expr::int(100));
            } else if self.eat('\'') {
                base = primed(base)?;
            } else {
                return Some(base);
            }
        }
    }

    pub(super) fn braced_cmd(&mut self, name: &str) -> bool {
        let found = self.is_sym('{')
            && matches!(self.tokens.get(self.at + 1).map(|t| &t.tok), Some(Tok::Cmd(found)) if found == name)
            && self.tokens.get(self.at + 2).map(|t| &t.tok) == Some(&Tok::Sym('}'));
        self.at += if found { 3 } else { 0 };
        found
    }

    pub(super) fn degrees(&mut self, base: Expr) -> Expr {
        if self.in_trig > 0 { Expr::Mul(vec![base, Expr::Pi, Expr::ratio(1, 180)]) } else { base }
    }

    /// What stands after `^`: a group, a number with all its digits, or one atom, each with a sign.
    pub(super) fn exponent(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            if parser.eat('-') {
                return Some(parser.exponent()?.neg());
            }
            if parser.eat('+') {
                return parser.exponent();
            }
            if parser.is_sym('{') {
                return parser.braced();
            }
            expr(parser.atom()?)
        })
    }

    /// An expression in braces.
    pub(super) fn braced(&mut self) -> Option<Expr> {
        self.expect('{')?;
        let value = self.deeper(Self::sum)?;
        self.read_unit();
        self.expect('}')?;
        expr(value)
    }

    /// A TeX argument: a group, or one token; of a number, its first digit.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        if self.is_sym('{') {
            return self.braced();
        }
        if let Some(Tok::Num(written, _)) = self.peek() {
            let (first, rest) = written.split_at_checked(1)?;
            let (first, rest) = (first.parse::<u8>().ok()?, rest.to_owned());
            if rest.is_empty() {
                self.at += 1;
            } else {
                let value = Rational::from(dashu_int::UBig::from_str_radix(&rest, 10).ok()?);
                self.tokens[self.at].tok = Tok::Num(rest, value);
            }
            return Some(Expr::int(i64::from(first)));
        }
        self.deeper(|parser| expr(parser.atom()?))
    }

    /// The argument of a function written without brackets: factors up to the next function or sign.
    pub(super) fn bare_argument(&mut self, is_trig: bool) -> Option<Expr> {
        self.in_trig += usize::from(is_trig);
        let result = self.deeper(|parser| {
            if parser.eat('-') {
                return Some(parser.bare_argument(false)?.neg());
            }
            let grouped = parser.is_sym('(') || parser.is_sym('{') || parser.is_sym('[');
            let mut value = expr(parser.power()?)?;
            while !grouped && parser.starts_factor() && !parser.is_function() && !parser.is_sym('(') {
                value = Expr::Mul(vec![value, expr(parser.power()?)?]);
            }
            Some(value)
        });
        self.in_trig -= usize::from(is_trig);
        result
    }

    pub(super) fn is_function(&self) -> bool {
        matches!(self.peek(), Some(Tok::Cmd(name)) if super::functions::is_function(name))
    }

    pub(super) fn atom(&mut self) -> Option<Value> {
        self.deeper(|parser| match parser.next()? {
            Tok::Num(written, value) => Some(Value::Expr(parser.based(written, value)?)),
            Tok::Letter(c) => parser.letter(c).map(Value::Expr),
            Tok::Cmd(name) => parser.command(&name),
            Tok::Word(word) => parser.word(word),
            Tok::Sym('(') => parser.bracketed('('),
            Tok::Sym('[') => parser.bracketed('['),
            Tok::Sym('{') => parser.group(),
            Tok::Sym('|') => parser.absolute(),
            Tok::Sym(_) => None,
        })
    }

    pub(super) fn word(&mut self, word: String) -> Option<Value> {
        match word.as_str() {
            "e" => Some(Value::Expr(Expr::E)),
            "i" => Some(Value::Expr(Expr::I)),
            "or" | "and" => None,
            "d" => Some(Value::Expr(Expr::var("d"))),
            _ => Some(Value::Words(word)),
        }
    }

    /// A number with its base as subscript is worth what its digits say.
    pub(super) fn based(&mut self, written: String, value: Rational) -> Option<Expr> {
        if !self.eat('_') {
            return Some(Expr::Num(value));
        }
        let base = match self.argument()? {
            Expr::Num(base) => u32::try_from(base.numerator()).ok().filter(|base| (2..=36).contains(base))?,
            _ => return None,
        };
        let value = dashu_int::UBig::from_str_radix(&written, base).ok()?;
        Some(Expr::Num(Rational::from(value)))
    }

    pub(super) fn letter(&mut self, c: char) -> Option<Expr> {
        let name = self.subscripted(c.to_string())?;
        let bound = self.bound.contains(&name);
        match name.as_str() {
            "e" if !bound => return Some(Expr::E),
            "i" if !bound => return Some(Expr::I),
            _ => {}
        }
        let mut base = Expr::var(&name);
        while self.eat('\'') {
            base = primed(base)?;
        }
        if matches!(c, 'f' | 'g' | 'F' | 'G') && self.is_sym('(') {
            return self.applied(base);
        }
        Some(base)
    }

    /// `f(x, y)`.
    pub(super) fn applied(&mut self, name: Expr) -> Option<Expr> {
        let Expr::Var(name) = name else { return None };
        self.expect('(')?;
        let args = match self.list(&|parser| parser.is_sym(')'))? {
            Value::List(_, items) => items.into_iter().map(expr).collect::<Option<Vec<_>>>()?,
            value => vec![expr(value)?],
        };
        self.expect(')')?;
        Some(Expr::Apply(name, args))
    }

    /// The name with its subscript as text.
    pub(super) fn subscripted(&mut self, mut name: String) -> Option<String> {
        if self.eat('_') {
            let from = self.at;
            if self.eat('{') {
                let mut open = 1;
                while open > 0 {
                    match self.next()? {
                        Tok::Sym('{') => open += 1,
                        Tok::Sym('}') => open -= 1,
                        _ => {}
                    }
                }
            } else {
                self.next()?;
            }
            name.push('_');
            for token in &self.tokens[from..self.at] {
                match &token.tok {
                    Tok::Num(written, _) => name.push_str(written),
                    Tok::Letter(c) | Tok::Sym(c) if !matches!(c, '{' | '}') => name.push(*c),
                    Tok::Cmd(text) | Tok::Word(text) => name.push_str(text),
                    _ => {}
                }
            }
        }
        Some(name)
    }
}
