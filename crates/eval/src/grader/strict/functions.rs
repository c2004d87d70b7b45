//! LaTeX commands: functions, fractions, roots, sums, matrices, Greek letters.

use super::arithmetic::expr;
use super::lex::Tok;
use super::parse::Parser;
use super::value::Value;
use crate::grader::math::derive::derivative;
use crate::grader::math::expr::{Expr, Fold, Func};

const FUNCTIONS: [(&str, Func); 32] = [
    ("sin", Func::Sin),
    ("cos", Func::Cos),
    ("tan", Func::Tan),
    ("csc", Func::Csc),
    ("sec", Func::Sec),
    ("cot", Func::Cot),
    ("arcsin", Func::Asin),
    ("arccos", Func::Acos),
    ("arctan", Func::Atan),
    ("arccsc", Func::Acsc),
    ("arcsec", Func::Asec),
    ("arccot", Func::Acot),
    ("sinh", Func::Sinh),
    ("cosh", Func::Cosh),
    ("tanh", Func::Tanh),
    ("arcsinh", Func::Asinh),
    ("arccosh", Func::Acosh),
    ("arctanh", Func::Atanh),
    ("arsinh", Func::Asinh),
    ("arcosh", Func::Acosh),
    ("artanh", Func::Atanh),
    ("asinh", Func::Asinh),
    ("acosh", Func::Acosh),
    ("atanh", Func::Atanh),
    ("ln", Func::Ln),
    ("floor", Func::Floor),
    ("ceil", Func::Ceil),
    ("gcd", Func::Gcd),
    ("lcm", Func::Lcm),
    ("max", Func::Max),
    ("min", Func::Min),
    ("abs", Func::Abs),
];

fn function(name: &str) -> Option<Func> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|&(_, func)| func)
}

/// Whether the command takes an argument without brackets.
pub(super) fn is_function(name: &str) -> bool {
    function(name).is_some() || matches!(name, "log" | "lg" | "exp" | "sum" | "prod" | "lim" | "int")
}

/// Whether a command begins a value.
pub(super) fn starts_value(name: &str) -> bool {
    const STARTS: [&str; 24] = [
        "frac", "dfrac", "tfrac", "cfrac", "sqrt", "pi", "infty", "binom", "dbinom", "tbinom", "lfloor", "lceil",
        "lvert", "vert", "overline", "bar", "hat", "vec", "dot", "ddot", "tilde", "{", "$", "widehat",
    ];
    is_function(name) || STARTS.contains(&name) || name.starts_with("begin ") || is_symbol(name)
}

/// Greek letters and other symbols that stand for variables.
fn is_symbol(name: &str) -> bool {
    const SYMBOLS: [&str; 46] = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "varrho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Upsilon",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
        "angle",
        "triangle",
        "odot",
        "partial",
        "nabla",
        "mho",
        "ldots",
    ];
    SYMBOLS.contains(&name) || matches!(name, "cdots" | "dots" | "star" | "oplus" | "Re" | "Im" | "imath")
}

impl Parser {
    /// The value that begins with the command `name`, just read.
    pub(super) fn command(&mut self, name: &str) -> Option<Value> {
        let simple = match name {
            "pi" => Some(Expr::Pi),
            "infty" => Some(Expr::Infinity),
            "frac" | "dfrac" | "tfrac" | "cfrac" => Some(self.fraction()?),
            "sqrt" => Some(self.root()?),
            "binom" | "dbinom" | "tbinom" => {
                let (n, k) = (self.argument()?, self.argument()?);
                Some(Expr::Call(Func::Binomial, vec![n, k]))
            }
            "lfloor" => Some(Expr::Call(Func::Floor, vec![self.until("rfloor")?])),
            "lceil" => Some(Expr::Call(Func::Ceil, vec![self.until("rceil")?])),
            "lvert" => Some(Expr::Call(Func::Abs, vec![self.until("rvert")?])),
            "vert" => Some(Expr::Call(Func::Abs, vec![self.until("vert")?])),
            "sum" | "prod" => Some(self.fold(name)?),
            "lim" => Some(self.limit()?),
            "log" | "lg" | "exp" => Some(self.logarithm(name)?),
            "overline" | "bar" | "hat" | "vec" | "dot" | "ddot" | "tilde" | "widehat" | "overrightarrow" => {
                Some(self.accent(name)?)
            }
            _ => None,
        };
        if let Some(simple) = simple {
            return Some(Value::Expr(simple));
        }
        match name {
            "{" => self.set(),
            "$" => self.currency(),
            "emptyset" | "varnothing" => Some(Value::Set(Vec::new())),
            "mathbb R" => Some(Value::Reals),
            "begin vmatrix" => self.matrix("vmatrix").and_then(determinant),
            _ => {
                if let Some(kind) = name.strip_prefix("begin ") {
                    return matches!(kind, "pmatrix" | "bmatrix" | "matrix" | "array" | "Bmatrix" | "smallmatrix")
                        .then(|| self.matrix(kind))?;
                }
                if let Some(func) = function(name) {
                    return self.call(func).map(Value::Expr);
                }
                if is_symbol(name) || name.starts_with("mathbb ") {
                    let name = self.subscripted(format!("\\{name}"))?;
                    return Some(Value::Expr(Expr::var(&name)));
                }
                None
            }
        }
    }

    fn root(&mut self) -> Option<Expr> {
        let index = if self.eat('[') {
            let index = self.whole_sum()?;
            self.eat(']').then_some(index)?
        } else {
            Expr::int(2)
        };
        let radicand = match self.peek() {
            // `\sqrt13` is meant for the root of 13, whatever TeX makes of it.
            Some(Tok::Num(_, value)) => {
                let value = Expr::Num(value.clone());
                self.next();
                value
            }
            Some(Tok::Sym('(')) => self.bare_argument(false)?,
            _ => self.argument()?,
        };
        Some(Expr::Call(Func::Root, vec![radicand, index]))
    }

    /// A fraction; of a lone differential below, a derivative of what follows.
    fn fraction(&mut self) -> Option<Expr> {
        if let Some(var) = self.derivative() {
            return Some(derivative(&self.product()?, &var));
        }
        let top = self.argument()?;
        Some(top.div(self.argument()?))
    }

    /// The variable of `\frac{d}{dx}`, whose `\frac` was read; nothing is consumed where it is no such thing.
    fn derivative(&mut self) -> Option<String> {
        let (open, close) = (Tok::Sym('{'), Tok::Sym('}'));
        let shape: Vec<&Tok> = self.tokens.iter().skip(self.at).take(7).map(|token| &token.tok).collect();
        let [a, Tok::Letter('d'), b, c, Tok::Letter('d'), Tok::Letter(var), d] = shape[..] else { return None };
        let var = var.to_string();
        let braced = *a == open && *b == close && *c == open && *d == close;
        self.at += if braced { 7 } else { 0 };
        braced.then_some(var)
    }

    fn call(&mut self, func: Func) -> Option<Expr> {
        let is_trig = matches!(func, Func::Sin | Func::Cos | Func::Tan | Func::Csc | Func::Sec | Func::Cot);
        let power = self.function_power()?;
        if matches!(func, Func::Gcd | Func::Lcm | Func::Max | Func::Min) {
            return Some(Expr::Call(func, self.arguments()?));
        }
        let argument = self.bare_argument(is_trig)?;
        let inverse = match func {
            Func::Sin => Some(Func::Asin),
            Func::Cos => Some(Func::Acos),
            Func::Tan => Some(Func::Atan),
            Func::Csc => Some(Func::Acsc),
            Func::Sec => Some(Func::Asec),
            Func::Cot => Some(Func::Acot),
            Func::Sinh => Some(Func::Asinh),
            Func::Cosh => Some(Func::Acosh),
            Func::Tanh => Some(Func::Atanh),
            _ => None,
        };
        Some(match (power, inverse) {
            (Some(power), Some(inverse)) if power == Expr::int(-1) => Expr::Call(inverse, vec![argument]),
            (Some(power), _) => Expr::Call(func, vec![argument]).pow(power),
            (None, _) => Expr::Call(func, vec![argument]),
        })
    }

    /// The power between a function's name and its argument.
    fn function_power(&mut self) -> Option<Option<Expr>> {
        if !self.eat('^') {
            return Some(None);
        }
        if self.is_sym('{') { self.braced().map(Some) } else { self.argument().map(Some) }
    }

    fn arguments(&mut self) -> Option<Vec<Expr>> {
        let close = if self.eat('(') {
            ')'
        } else {
            self.eat_open_brace()?;
            '}'
        };
        let is_end = move |parser: &Parser| parser.is_sym(close) || (close == '}' && parser.is_cmd("}"));
        let value = self.list(&is_end)?;
        self.next()?;
        match value {
            Value::List(_, items) => items.into_iter().map(expr).collect(),
            Value::Set(items) => items.into_iter().map(expr).collect(),
            value => Some(vec![expr(value)?]),
        }
    }

    fn eat_open_brace(&mut self) -> Option<()> {
        if self.eat('{') || self.is_cmd("{") && self.next().is_some() { Some(()) } else { None }
    }

    fn logarithm(&mut self, name: &str) -> Option<Expr> {
        let base = if self.eat('_') {
            Some(match self.peek() {
                Some(Tok::Num(_, value)) => {
                    let base = Expr::Num(value.clone());
                    self.next();
                    base
                }
                _ => self.argument()?,
            })
        } else if name == "lg" {
            Some(Expr::int(10))
        } else {
            None
        };
        let power = self.function_power()?;
        let argument = self.bare_argument(false)?;
        let value = match (name, base) {
            ("exp", _) => Expr::E.pow(argument),
            (_, Some(base)) => Expr::Call(Func::Ln, vec![argument]).div(Expr::Call(Func::Ln, vec![base])),
            _ => Expr::Call(Func::Ln, vec![argument]),
        };
        Some(match power {
            Some(power) => value.pow(power),
            None => value,
        })
    }

    fn fold(&mut self, name: &str) -> Option<Expr> {
        self.eat('_').then_some(())?;
        self.eat('{').then_some(())?;
        let Tok::Letter(var) = self.next()? else { return None };
        let var = var.to_string();
        self.eat('=').then_some(())?;
        let from = self.whole_sum()?;
        self.eat('}').then_some(())?;
        self.eat('^').then_some(())?;
        let to = self.argument()?;
        let body = self.binding(&var, Self::product)?;
        let fold = if name == "sum" { Fold::Sum } else { Fold::Product };
        Some(Expr::Fold { fold, var: var.into(), range: Box::new([from, to]), body: Box::new(body) })
    }

    fn limit(&mut self) -> Option<Expr> {
        self.eat('_').then_some(())?;
        self.eat('{').then_some(())?;
        let Tok::Letter(var) = self.next()? else { return None };
        match self.next()? {
            Tok::Cmd(arrow) if matches!(arrow.as_str(), "to" | "rightarrow") => {}
            _ => return None,
        }
        let to = self.whole_sum()?;
        self.eat('}').then_some(())?;
        let body = self.product()?;
        Some(Expr::Limit { var: var.to_string().into(), to: Box::new(to), body: Box::new(body) })
    }

    /// An accented name is a name of its own; over anything else the accent is an unknown function.
    fn accent(&mut self, name: &str) -> Option<Expr> {
        Some(match self.argument()? {
            Expr::Var(inner) => Expr::var(&self.subscripted(format!("{name} {inner}"))?),
            other => Expr::Apply(name.into(), vec![other]),
        })
    }
}

/// The determinant of a matrix of expressions, up to four rows.
fn determinant(matrix: Value) -> Option<Value> {
    let Value::Matrix(rows) = matrix else { return None };
    let rows: Vec<Vec<Expr>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(expr).collect::<Option<Vec<_>>>())
        .collect::<Option<Vec<_>>>()?;
    if rows.len() > 4 || rows.iter().any(|row| row.len() != rows.len()) {
        return None;
    }
    Some(Value::Expr(minor(&rows)))
}

fn minor(rows: &[Vec<Expr>]) -> Expr {
    let Some((first, rest)) = rows.split_first() else { return Expr::int(1) };
    let terms = first.iter().enumerate().map(|(column, cell)| {
        let without = |row: &Vec<Expr>| {
            row.iter().enumerate().filter(|(at, _)| *at != column).map(|(_, cell)| cell.clone()).collect()
        };
        let rest: Vec<Vec<Expr>> = rest.iter().map(without).collect();
        let sign = if column % 2 == 0 { 1 } else { -1 };
        Expr::Mul(vec![Expr::int(sign), cell.clone(), minor(&rest)])
    });
    Expr::Add(terms.collect())
}
