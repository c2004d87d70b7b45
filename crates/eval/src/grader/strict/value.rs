//! What an answer can be: a number or formula, a list, a tuple, a set, a relation, a matrix, words.

use crate::grader::math::expr::Expr;

/// How two sides of a relation stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
}

impl Op {
    /// The relation with its sides exchanged.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            same => same,
        }
    }
}

/// How sets are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetOp {
    Union,
    Intersection,
    Difference,
}

/// What joins the entries of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    Comma,
    Or,
    And,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Expr(Expr),
    /// Entries side by side.
    List(Joint, Vec<Value>),
    /// Entries in round or square brackets: a point, a vector or an interval.
    Tuple {
        open: char,
        close: char,
        items: Vec<Value>,
    },
    Set(Vec<Value>),
    /// `{x | condition}`.
    Builder(Box<Value>),
    Join(SetOp, Box<[Value; 2]>),
    Reals,
    /// A chain: one value more than relations.
    Relation(Vec<Value>, Vec<Op>),
    Matrix(Vec<Vec<Value>>),
    /// Words in a place of a value.
    Words(String),
}

/// The name under which `±` stands in an expression until it is expanded.
pub(super) const PLUS_MINUS: &str = "±";

impl Value {
    /// The same with `change` applied to every expression.
    pub(super) fn map(&self, change: &dyn Fn(&Expr) -> Expr) -> Value {
        let all = |values: &[Value]| values.iter().map(|value| value.map(change)).collect::<Vec<_>>();
        match self {
            Self::Expr(expr) => Self::Expr(change(expr)),
            Self::List(joint, items) => Self::List(*joint, all(items)),
            Self::Tuple { open, close, items } => Self::Tuple { open: *open, close: *close, items: all(items) },
            Self::Set(items) => Self::Set(all(items)),
            Self::Builder(value) => Self::Builder(Box::new(value.map(change))),
            Self::Join(op, sides) => Self::Join(*op, Box::new([sides[0].map(change), sides[1].map(change)])),
            Self::Relation(sides, ops) => Self::Relation(all(sides), ops.clone()),
            Self::Matrix(rows) => Self::Matrix(rows.iter().map(|row| all(row)).collect()),
            Self::Reals | Self::Words(_) => self.clone(),
        }
    }

    /// Whether some expression in it satisfies `test`.
    pub(super) fn any(&self, test: &dyn Fn(&Expr) -> bool) -> bool {
        let any_of = |values: &[Value]| values.iter().any(|value| value.any(test));
        match self {
            Self::Expr(expr) => expr.any(test),
            Self::List(_, items) | Self::Tuple { items, .. } | Self::Set(items) | Self::Relation(items, _) => {
                any_of(items)
            }
            Self::Builder(value) => value.any(test),
            Self::Join(_, sides) => any_of(&sides[..]),
            Self::Matrix(rows) => rows.iter().any(|row| any_of(row)),
            Self::Reals | Self::Words(_) => false,
        }
    }
}
