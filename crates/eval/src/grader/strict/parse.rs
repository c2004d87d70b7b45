//! The parser of answers: LaTeX as people and models write it, with implicit multiplication and few brackets.

use super::lex::{Tok, Token, lex};
use super::units::canonical;
use super::value::{Joint, Op, PLUS_MINUS, SetOp, Value};
use crate::grader::math::expr::{Expr, Func, Rational};

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
const MAX_DEPTH: usize = 60;

/// The answer that `text` states; `None` where it is no mathematics of the kinds known here.
pub(super) fn parse(text: &str) -> Option<Parsed> {
    let tokens = lex(text)?;
    let mut parser =
        Parser { tokens, at: 0, depth: 0, unit: String::new(), percent: false, in_trig: 0, bars: 0, bound: Vec::new() };
    let value = parser.list(&|_| false)?;
    if parser.at < parser.tokens.len() {
        return None;
    }
    Some(Parsed { value: expand_signs(value), unit: parser.unit, percent: parser.percent })
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    depth: usize,
    unit: String,
    percent: bool,
    /// How many trigonometric arguments are open: within them a degree is an angle.
    in_trig: usize,
    /// How many `|` are open.
    bars: usize,
    /// Variables bound by sums, which may be called `i` or `e`.
    bound: Vec<String>,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Tok> {
        self.tokens.get(self.at).map(|token| &token.tok)
    }

    fn peek_spaced(&self) -> bool {
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

    fn eat_cmd(&mut self, name: &str) -> bool {
        let found = self.is_cmd(name);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: char) -> Option<()> {
        self.eat(c).then_some(())
    }

    /// `parse`, one level deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
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

    fn joint(&mut self) -> Option<Joint> {
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

    fn relation(&mut self) -> Option<Op> {
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
    fn joined(&mut self) -> Option<Value> {
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
    fn read_unit(&mut self) {
        let mut unit = String::new();
        loop {
            match self.peek() {
                Some(Tok::Word(word)) if !matches!(word.as_str(), "or" | "and") => unit.push_str(&canonical(word)),
                Some(Tok::Letter(c)) if unit.is_empty() && self.is_bare_unit() => unit.push_str(&canonical(&c.to_string())),
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
                Some(Tok::Sym('/')) if matches!(self.tokens.get(self.at + 1), Some(Token { tok: Tok::Word(_), .. })) => {
                    unit.push('/');
                }
                Some(Tok::Cmd(name))
                    if name == "cdot" && matches!(self.tokens.get(self.at + 1), Some(Token { tok: Tok::Word(_), .. })) =>
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

    fn sum(&mut self) -> Option<Value> {
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
    fn term(&mut self) -> Option<Value> {
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

    fn juxtaposed(&mut self) -> Option<Value> {
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
    fn starts_factor(&self) -> bool {
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
    fn is_bare_unit(&self) -> bool {
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

    /// `3\frac{1}{2}` and `3 1/2`: an integer and a proper fraction of integers.
    fn mixed_number(&mut self) -> Option<Value> {
        let mark = self.at;
        let mixed = self.read_mixed();
        if mixed.is_none() {
            self.at = mark;
        }
        mixed
    }

    fn integer(&mut self) -> Option<Rational> {
        match self.next()? {
            Tok::Num(written, value) if written.bytes().all(|byte| byte.is_ascii_digit()) => Some(value),
            _ => None,
        }
    }

    fn read_mixed(&mut self) -> Option<Value> {
        let whole = self.integer()?;
        let spaced = self.peek_spaced();
        let (top, bottom) = if ["frac", "dfrac", "tfrac"].iter().any(|name| self.is_cmd(name)) {
            self.at += 1;
            let (top, bottom) = (self.argument()?, self.argument()?);
            match (top, bottom) {
                (Expr::Num(top), Expr::Num(bottom)) => (top, bottom),
                _ => return None,
            }
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
    fn power(&mut self) -> Option<Value> {
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

    fn suffix(&mut self, mut base: Expr) -> Option<Expr> {
        loop {
            if self.eat('^') {
                if self.eat_cmd("circ") || self.eat_cmd("degree") || self.braced_cmd("circ") {
                    base = self.degrees(base);
                } else if self.eat('\'') {
                    base = primed(base)?;
                } else if self.eat_cmd("prime") || self.braced_cmd("prime") {
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

    fn braced_cmd(&mut self, name: &str) -> bool {
        let found = self.is_sym('{')
            && matches!(self.tokens.get(self.at + 1).map(|t| &t.tok), Some(Tok::Cmd(found)) if found == name)
            && self.tokens.get(self.at + 2).map(|t| &t.tok) == Some(&Tok::Sym('}'));
        self.at += if found { 3 } else { 0 };
        found
    }

    fn degrees(&mut self, base: Expr) -> Expr {
        if self.in_trig > 0 { Expr::Mul(vec![base, Expr::Pi, Expr::ratio(1, 180)]) } else { base }
    }

    /// What stands after `^`: a group, a number with all its digits, or one atom, each with a sign.
    fn exponent(&mut self) -> Option<Expr> {
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

    fn is_function(&self) -> bool {
        matches!(self.peek(), Some(Tok::Cmd(name)) if super::functions::is_function(name))
    }

    fn atom(&mut self) -> Option<Value> {
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

    fn word(&mut self, word: String) -> Option<Value> {
        match word.as_str() {
            "e" => Some(Value::Expr(Expr::E)),
            "i" => Some(Value::Expr(Expr::I)),
            "or" | "and" => None,
            "d" => Some(Value::Expr(Expr::var("d"))),
            _ => Some(Value::Words(word)),
        }
    }

    /// A number with its base as subscript is worth what its digits say.
    fn based(&mut self, written: String, value: Rational) -> Option<Expr> {
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
    fn applied(&mut self, name: Expr) -> Option<Expr> {
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

    /// After an opening bracket: a grouped value, a point, a vector or an interval.
    fn bracketed(&mut self, open: char) -> Option<Value> {
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
    fn group(&mut self) -> Option<Value> {
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
        let is_bar = |parser: &Parser| parser.is_sym('|') || parser.is_cmd("mid") || parser.is_sym(':');
        self.bars += 1;
        let mark = self.at;
        let element = self.power();
        let value = if element.is_some() && is_bar(self) {
            self.at += 1;
            self.bars -= 1;
            Value::Builder(Box::new(self.list(&|parser| parser.is_cmd("}"))?))
        } else {
            self.bars -= 1;
            self.at = mark;
            match self.list(&|parser| parser.is_cmd("}"))? {
                Value::List(_, items) => Value::Set(items),
                value => Value::Set(vec![value]),
            }
        };
        self.eat_cmd("}").then_some(value)
    }

    fn absolute(&mut self) -> Option<Value> {
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

pub(super) fn expr(value: Value) -> Option<Expr> {
    match value {
        Value::Expr(expr) => Some(expr),
        _ => None,
    }
}

fn primed(base: Expr) -> Option<Expr> {
    match base {
        Expr::Var(name) => Some(Expr::var(&format!("{name}'"))),
        _ => None,
    }
}

fn transpose(rows: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..columns).map(|column| rows.iter().filter_map(|row| row.get(column).cloned()).collect()).collect()
}

/// `factor * value`, entry by entry of a matrix.
fn scale(factor: Expr, value: Value) -> Option<Value> {
    match value {
        Value::Expr(expr) => Some(Value::Expr(match (&factor, expr) {
            (Expr::Num(one), expr) if *one == Rational::ONE => expr,
            (Expr::Num(minus), expr) if *minus == -Rational::ONE => expr.neg(),
            (_, expr) => Expr::Mul(vec![factor.clone(), expr]),
        })),
        Value::Matrix(rows) => {
            let row = |row: Vec<Value>| row.into_iter().map(|cell| scale(factor.clone(), cell)).collect::<Option<Vec<_>>>();
            Some(Value::Matrix(rows.into_iter().map(row).collect::<Option<Vec<_>>>()?))
        }
        other if factor == Expr::int(1) => Some(other),
        _ => None,
    }
}

fn multiply(left: Value, right: Value) -> Option<Value> {
    match (left, right) {
        (Value::Expr(Expr::Mul(mut parts)), Value::Expr(right)) if parts.len() > 1 => {
            parts.push(right);
            Some(Value::Expr(Expr::Mul(parts)))
        }
        (Value::Expr(left), right) => match right {
            Value::Expr(right) => Some(Value::Expr(Expr::Mul(vec![left, right]))),
            right => scale(left, right),
        },
        (Value::Matrix(rows), Value::Expr(right)) => scale(right, Value::Matrix(rows)),
        _ => None,
    }
}

fn add(left: Value, right: Value) -> Option<Value> {
    match (left, right) {
        (Value::Expr(Expr::Add(mut parts)), Value::Expr(right)) => {
            parts.push(right);
            Some(Value::Expr(Expr::Add(parts)))
        }
        (Value::Expr(left), Value::Expr(right)) => Some(Value::Expr(Expr::Add(vec![left, right]))),
        (Value::Matrix(left), Value::Matrix(right)) if left.len() == right.len() => {
            let row = |(left, right): (Vec<Value>, Vec<Value>)| {
                (left.len() == right.len()).then(|| left.into_iter().zip(right).map(|(a, b)| add(a, b)).collect())?
            };
            Some(Value::Matrix(left.into_iter().zip(right).map(row).collect::<Option<Vec<_>>>()?))
        }
        _ => None,
    }
}

/// Every entry with `±` as its two values.
fn expand_signs(value: Value) -> Value {
    let is_sign = |expr: &Expr| matches!(expr, Expr::Var(name) if **name == *PLUS_MINUS);
    if !value.any(&is_sign) {
        return value;
    }
    let both = |value: &Value| {
        if value.any(&is_sign) { vec![with_sign(value, 1), with_sign(value, -1)] } else { vec![value.clone()] }
    };
    match value {
        Value::List(joint, items) => Value::List(joint, items.iter().flat_map(both).collect()),
        Value::Set(items) => Value::Set(items.iter().flat_map(both).collect()),
        value => Value::List(Joint::Comma, both(&value)),
    }
}

fn with_sign(value: &Value, sign: i64) -> Value {
    value.map(&|expr| replace_sign(expr, sign))
}

fn replace_sign(expr: &Expr, sign: i64) -> Expr {
    let all = |parts: &[Expr]| parts.iter().map(|part| replace_sign(part, sign)).collect::<Vec<_>>();
    match expr {
        Expr::Var(name) if **name == *PLUS_MINUS => Expr::int(sign),
        Expr::Add(parts) => Expr::Add(all(parts)),
        Expr::Mul(parts) => Expr::Mul(all(parts)),
        Expr::Pow(base, exponent) => replace_sign(base, sign).pow(replace_sign(exponent, sign)),
        Expr::Call(func, args) => Expr::Call(*func, all(args)),
        Expr::Apply(name, args) => Expr::Apply(name.clone(), all(args)),
        other => other.clone(),
    }
}
