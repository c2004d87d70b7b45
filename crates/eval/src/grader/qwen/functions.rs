//! Functions, roots, sums and limits of sympy's LaTeX grammar.

use super::latex::{Failure, Parsed, Parser, plain};
use super::tokens::Tok;
use crate::grader::math::expr::{Expr, Fold, Func};

const ARROWS: [&str; 5] = ["to", "rightarrow", "Rightarrow", "longrightarrow", "Longrightarrow"];

pub(super) const FUNCTION_NAMES: [&str; 22] = [
    "exp", "log", "lg", "ln", "sin", "cos", "tan", "csc", "sec", "cot", "arcsin", "arccos", "arctan", "arccsc",
    "arcsec", "arccot", "sinh", "cosh", "tanh", "arsinh", "arcosh", "artanh",
];

/// Commands that are tokens of their own and begin neither an atom nor a function of a name.
pub(super) const KEYWORDS: [&str; 31] = [
    "times",
    "cdot",
    "div",
    "neq",
    "le",
    "leq",
    "leqq",
    "leqslant",
    "ge",
    "geq",
    "geqq",
    "geqslant",
    "rfloor",
    "rceil",
    "langle",
    "rangle",
    "int",
    "sqrt",
    "overline",
    "sum",
    "prod",
    "lim",
    "to",
    "rightarrow",
    "Rightarrow",
    "longrightarrow",
    "Longrightarrow",
    "thinspace",
    "medspace",
    "quad",
    "qquad",
];

/// Commands with an argument of their own.
pub(super) const ATOM_COMMANDS: [&str; 9] =
    ["frac", "dfrac", "tfrac", "binom", "dbinom", "tbinom", "lfloor", "lceil", "mathit"];

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

impl Parser {
    /// A function and its argument; `None` where the next token begins none.
    pub(super) fn func(&mut self) -> Parsed<Option<Expr>> {
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
            Some(Tok::Symbol(name))
                if !KEYWORDS.contains(&name.as_str()) && !ATOM_COMMANDS.contains(&name.as_str()) =>
            {
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
