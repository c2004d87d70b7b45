//! Expressions: what an answer says, as a tree.

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

/// An exact rational number.
pub(in crate::grader) type Rational = RBig;

/// A function with a fixed meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::grader) enum Func {
    Sin,
    Cos,
    Tan,
    Csc,
    Sec,
    Cot,
    Asin,
    Acos,
    Atan,
    Acsc,
    Asec,
    Acot,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    /// Natural logarithm.
    Ln,
    Abs,
    Floor,
    Ceil,
    Factorial,
    /// `Binomial(n, k)`.
    Binomial,
    Gcd,
    Lcm,
    Max,
    Min,
    Conjugate,
    /// `Root(x, n)`: the n-th root, real for a negative `x` and an odd `n`.
    Root,
    /// `Mod(a, b)`: the remainder with the sign of `b`.
    Mod,
}

/// A sum or a product over a range of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grader) enum Fold {
    Sum,
    Product,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::grader) enum Expr {
    Num(Rational),
    Pi,
    E,
    I,
    Infinity,
    /// A variable, by name.
    Var(Box<str>),
    Add(Vec<Expr>),
    Mul(Vec<Expr>),
    Pow(Box<Expr>, Box<Expr>),
    Call(Func, Vec<Expr>),
    /// A function of unknown meaning: `f(x)`.
    Apply(Box<str>, Vec<Expr>),
    /// `body` folded over `var` from `range[0]` to `range[1]`.
    Fold {
        fold: Fold,
        var: Box<str>,
        range: Box<[Expr; 2]>,
        body: Box<Expr>,
    },
    /// The limit of `body` as `var` goes to `to`.
    Limit {
        var: Box<str>,
        to: Box<Expr>,
        body: Box<Expr>,
    },
    /// The derivative of `body` after `var`.
    Derivative {
        var: Box<str>,
        body: Box<Expr>,
    },
}

/// Levels that an expression may have: recursion over it must fit a thread's stack.
pub(in crate::grader) const MAX_LEVELS: usize = 150;

impl Expr {
    pub(in crate::grader) fn int(value: i64) -> Self {
        Self::Num(Rational::from(IBig::from(value)))
    }

    pub(in crate::grader) fn ratio(numerator: i64, denominator: u32) -> Self {
        Self::Num(Rational::from_parts(IBig::from(numerator), UBig::from(denominator)))
    }

    pub(in crate::grader) fn var(name: &str) -> Self {
        Self::Var(name.into())
    }

    pub(in crate::grader) fn pow(self, exponent: Self) -> Self {
        Self::Pow(Box::new(self), Box::new(exponent))
    }

    pub(in crate::grader) fn inverse(self) -> Self {
        self.pow(Self::int(-1))
    }

    pub(in crate::grader) fn neg(self) -> Self {
        match self {
            Self::Num(value) => Self::Num(-value),
            other => Self::Mul(vec![Self::int(-1), other]),
        }
    }

    pub(in crate::grader) fn sub(self, other: Self) -> Self {
        Self::Add(vec![self, other.neg()])
    }

    pub(in crate::grader) fn div(self, other: Self) -> Self {
        Self::Mul(vec![self, other.inverse()])
    }

    /// Its direct parts.
    fn parts(&self) -> Vec<&Expr> {
        match self {
            Self::Num(_) | Self::Pi | Self::E | Self::I | Self::Infinity | Self::Var(_) => Vec::new(),
            Self::Add(parts) | Self::Mul(parts) | Self::Call(_, parts) | Self::Apply(_, parts) => {
                parts.iter().collect()
            }
            Self::Pow(base, exponent) => vec![base, exponent],
            Self::Fold { range, body, .. } => vec![&range[0], &range[1], body],
            Self::Limit { to, body, .. } => vec![to, body],
            Self::Derivative { body, .. } => vec![body],
        }
    }

    /// Whether some node of the tree satisfies `test`.
    pub(in crate::grader) fn any(&self, test: &dyn Fn(&Expr) -> bool) -> bool {
        test(self) || self.parts().into_iter().any(|part| part.any(test))
    }

    /// How many nodes the tree has.
    pub(in crate::grader) fn nodes(&self) -> usize {
        1 + self.parts().into_iter().map(Self::nodes).sum::<usize>()
    }

    /// Whether the tree has more levels than recursion over it should have.
    pub(in crate::grader) fn is_deeper_than(&self, levels: usize) -> bool {
        levels == 0 || self.parts().into_iter().any(|part| part.is_deeper_than(levels - 1))
    }

    /// Whether it holds no variable and no unknown function.
    pub(in crate::grader) fn is_constant(&self) -> bool {
        !self.any(&|e| matches!(e, Self::Var(_) | Self::Apply(..) | Self::Derivative { .. }))
    }

    /// The variables in it, without those bound by a sum or a limit, sorted.
    pub(in crate::grader) fn variables(&self) -> Vec<Box<str>> {
        let mut names = Vec::new();
        self.collect_variables(&mut names);
        names.sort();
        names.dedup();
        names
    }

    fn collect_variables(&self, names: &mut Vec<Box<str>>) {
        let before = names.len();
        match self {
            Self::Var(name) => names.push(name.clone()),
            Self::Fold { var, range, body, .. } => {
                body.collect_variables(names);
                remove_from(names, before, var);
                range.iter().for_each(|end| end.collect_variables(names));
            }
            Self::Limit { var, to, body } => {
                body.collect_variables(names);
                remove_from(names, before, var);
                to.collect_variables(names);
            }
            other => other.parts().into_iter().for_each(|part| part.collect_variables(names)),
        }
    }
}

fn remove_from(names: &mut Vec<Box<str>>, from: usize, name: &str) {
    let mut at = 0;
    names.retain(|found| {
        at += 1;
        at <= from || **found != *name
    });
}
