//! What stands between brackets, braces and bars, and in matrices.

use super::arithmetic::expr;
use super::lex::{Tok, Token};
use super::parse::Parser;
use super::units::canonical;
use super::value::Value;
use crate::grader::math::expr::{Expr, Func};

impl Parser {
    /// After an opening bracket: a grouped value, a point, a vector or an interval.
    pub(super) fn bracketed(&mut self, open: char) -> Option<Value> {
        let bars = std::mem::take(&mut self.bars);
        let value = self.list(&|parser| parser.is_sym(')') || parser.is_sym(']'))?;
        self.bars = bars;
        let Some(Tok::Sym(close)) = self.next() else { return None };
        match value {
            Value::List(_, items) => Some(Value::Tuple { open, close, items }),
            value if (open == '(') == (close == ')') => Some(value),
            _ => None,
        }
    }

    /// A group in braces: a value, or a set.
    pub(super) fn group(&mut self) -> Option<Value> {
        if self.eat('}') {
            return Some(Value::Set(Vec::new()));
        }
        let value = self.list(&|parser| parser.is_sym('}'))?;
        self.expect('}')?;
        Some(match value {
            Value::List(_, items) => Value::Set(items),
            value => value,
        })
    }

    /// After `\{`: a set by its elements or by a condition.
    pub(super) fn set(&mut self) -> Option<Value> {
        if self.eat_cmd("}") {
            return Some(Value::Set(Vec::new()));
        }
        self.bars += 1;
        let value = if self.has_condition() {
            self.power()?;
            self.next()?;
            self.bars -= 1;
            Value::Builder(Box::new(self.list(&|parser| parser.is_cmd("}"))?))
        } else {
            self.bars -= 1;
            match self.list(&|parser| parser.is_cmd("}"))? {
                Value::List(_, items) => Value::Set(items),
                value => Value::Set(vec![value]),
            }
        };
        self.eat_cmd("}").then_some(value)
    }

    /// Whether one element and a bar come before anything else that could end them.
    fn has_condition(&self) -> bool {
        let ends = |token: &&Token| match &token.tok {
            Tok::Sym(c) => matches!(c, '|' | ':' | ',' | ';' | '(' | '='),
            Tok::Cmd(name) => matches!(name.as_str(), "mid" | "{" | "}"),
            _ => false,
        };
        let before = self.tokens[self.at..].iter().take_while(|token| !ends(token)).count();
        let bar = self.tokens.get(self.at + before).map(|token| &token.tok);
        before > 0 && matches!(bar, Some(Tok::Sym('|' | ':'))) || bar == Some(&Tok::Cmd("mid".to_owned()))
    }

    pub(super) fn absolute(&mut self) -> Option<Value> {
        self.bars += 1;
        let value = expr(self.sum()?);
        self.bars -= 1;
        self.expect('|')?;
        Some(Value::Expr(Expr::Call(Func::Abs, vec![value?])))
    }

    /// The value between a command just read and the command that closes it.
    pub(super) fn until(&mut self, close: &str) -> Option<Expr> {
        self.bars += usize::from(close == "vert");
        let value = expr(self.sum()?);
        self.bars -= usize::from(close == "vert");
        let value = value?;
        self.eat_cmd(close).then_some(value)
    }

    /// The rows of a matrix whose beginning was read.
    pub(super) fn matrix(&mut self, kind: &str) -> Option<Value> {
        let mut rows = vec![Vec::new()];
        let end = format!("end {kind}");
        loop {
            if self.eat_cmd(&end) {
                break;
            }
            if self.eat_cmd("\\") {
                rows.push(Vec::new());
                continue;
            }
            if self.eat('&') || self.eat_cmd("hline") {
                continue;
            }
            let item = self.item()?;
            rows.last_mut()?.push(item);
        }
        if rows.last().is_some_and(Vec::is_empty) {
            rows.pop();
        }
        Some(Value::Matrix(rows))
    }

    /// `parse` with the variable `name` bound.
    pub(super) fn binding<T>(&mut self, name: &str, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.bound.push(name.to_owned());
        let result = parse(self);
        self.bound.pop();
        result
    }

    pub(super) fn product(&mut self) -> Option<Expr> {
        expr(self.deeper(Self::term)?)
    }

    pub(super) fn whole_sum(&mut self) -> Option<Expr> {
        expr(self.deeper(Self::sum)?)
    }

    pub(super) fn currency(&mut self) -> Option<Value> {
        if self.unit.is_empty() {
            self.unit = canonical("dollar");
        }
        self.power()
    }
}
