//! Sets of real numbers: intervals, points and what joins them, in one canonical form.

use super::value::{Joint, Op, SetOp, Value};
use crate::grader::math::expr::Expr;
use crate::grader::math::identity::{Budget, constant};
use crate::grader::math::real::{Real, from_int, magnitude};
use std::cmp::Ordering;

/// Boundaries in rising order; whether each belongs to the set, and whether each gap between them does (one gap more).
#[derive(Clone, Debug)]
pub(super) struct RealSet {
    points: Vec<(Real, bool)>,
    gaps: Vec<bool>,
}

/// An end of an interval.
enum End {
    Infinite,
    At(Real),
}

fn compare(a: &Real, b: &Real) -> Ordering {
    let off = a - b;
    let scale = magnitude(a).max(magnitude(b)).max(0);
    if magnitude(&off) < scale - 100 { Ordering::Equal } else { a.cmp(b) }
}

impl RealSet {
    fn everything(inside: bool) -> Self {
        Self { points: Vec::new(), gaps: vec![inside] }
    }

    fn point(at: Real) -> Self {
        Self { points: vec![(at, true)], gaps: vec![false, false] }
    }

    /// The numbers below (or above) `at`, with or without it.
    fn half(at: Real, below: bool, closed: bool) -> Self {
        Self { points: vec![(at, closed)], gaps: vec![below, !below] }
    }

    /// Whether a point, or the gap before it, belongs to the set.
    fn holds(&self, at: &Real, gap_before: bool) -> bool {
        for (index, (point, inside)) in self.points.iter().enumerate() {
            match compare(at, point) {
                Ordering::Less => return self.gaps[index],
                Ordering::Equal => return if gap_before { self.gaps[index] } else { *inside },
                Ordering::Greater => {}
            }
        }
        self.gaps[self.points.len()]
    }

    fn join(&self, other: &Self, join: &dyn Fn(bool, bool) -> bool) -> Self {
        let mut all: Vec<Real> = self.points.iter().chain(&other.points).map(|(at, _)| at.clone()).collect();
        all.sort_by(compare);
        all.dedup_by(|a, b| compare(a, b) == Ordering::Equal);
        let mut out = Self { points: Vec::new(), gaps: Vec::new() };
        for at in all {
            let before = join(self.holds(&at, true), other.holds(&at, true));
            let inside = join(self.holds(&at, false), other.holds(&at, false));
            out.gaps.push(before);
            out.points.push((at, inside));
        }
        out.gaps.push(join(self.gaps[self.points.len()], other.gaps[other.points.len()]));
        out.canonical()
    }

    /// Without the boundaries where nothing changes.
    fn canonical(self) -> Self {
        let mut out = Self { points: Vec::new(), gaps: vec![self.gaps[0]] };
        for ((at, inside), after) in self.points.into_iter().zip(self.gaps.into_iter().skip(1)) {
            if out.gaps[out.points.len()] != inside || inside != after {
                out.points.push((at, inside));
                out.gaps.push(after);
            }
        }
        out
    }

    fn union(&self, other: &Self) -> Self {
        self.join(other, &|a, b| a || b)
    }

    fn intersection(&self, other: &Self) -> Self {
        self.join(other, &|a, b| a && b)
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        let same_points = self.points.len() == other.points.len()
            && self.points.iter().zip(&other.points).all(|(a, b)| a.1 == b.1 && compare(&a.0, &b.0) == Ordering::Equal);
        same_points && self.gaps == other.gaps
    }
}

/// Whether an answer is a set of reals by its form, not a point or list that could be meant as one.
pub(super) fn is_set_like(value: &Value) -> bool {
    match value {
        Value::Join(..) | Value::Reals | Value::Builder(_) => true,
        Value::Tuple { open, close, .. } => (*open == '(') != (*close == ')'),
        Value::Relation(_, ops) => ops.iter().any(|op| *op != Op::Eq),
        Value::List(Joint::Or | Joint::And, items) => items.iter().all(is_set_like),
        _ => false,
    }
}

/// The set of reals that an answer describes; `None` where it is none, or one with variables in its ends.
pub(super) fn real_set(value: &Value, budget: &Budget) -> Option<RealSet> {
    match value {
        Value::Reals => Some(RealSet::everything(true)),
        Value::Expr(expr) => Some(RealSet::point(number(expr, budget)?)),
        Value::Set(items) => {
            let empty = RealSet::everything(false);
            items.iter().try_fold(empty, |set, item| match item {
                Value::Expr(expr) => Some(set.union(&RealSet::point(number(expr, budget)?))),
                _ => None,
            })
        }
        Value::Tuple { open, close, items } => interval(*open, *close, items, budget),
        Value::Join(op, sides) => {
            let (a, b) = (real_set(&sides[0], budget)?, real_set(&sides[1], budget)?);
            Some(match op {
                SetOp::Union => a.union(&b),
                SetOp::Intersection => a.intersection(&b),
                SetOp::Difference => a.join(&b, &|a, b| a && !b),
            })
        }
        Value::Builder(condition) => real_set(condition, budget),
        Value::List(joint @ (Joint::Or | Joint::And), items) => {
            let mut sets = items.iter().map(|item| real_set(item, budget));
            let first = sets.next()??;
            sets.try_fold(first, |all, set| {
                let set = set?;
                Some(if *joint == Joint::Or { all.union(&set) } else { all.intersection(&set) })
            })
        }
        Value::Relation(sides, ops) => relation(sides, ops, budget),
        _ => None,
    }
}

fn number(expr: &Expr, budget: &Budget) -> Option<Real> {
    constant(expr, budget).filter(|value| value.is_real()).map(|value| value.re)
}

fn interval(open: char, close: char, items: &[Value], budget: &Budget) -> Option<RealSet> {
    let [Value::Expr(from), Value::Expr(to)] = items else { return None };
    let above = match end(from, false, budget)? {
        End::Infinite if open == '(' => RealSet::everything(true),
        End::Infinite => return None,
        End::At(at) => RealSet::half(at, false, open == '['),
    };
    let below = match end(to, true, budget)? {
        End::Infinite if close == ')' => RealSet::everything(true),
        End::Infinite => return None,
        End::At(at) => RealSet::half(at, true, close == ']'),
    };
    if let (Some(from), Some(to)) = (above.points.first(), below.points.first())
        && compare(&from.0, &to.0) == Ordering::Greater
    {
        return None;
    }
    Some(above.intersection(&below))
}

fn end(expr: &Expr, upper: bool, budget: &Budget) -> Option<End> {
    match infinity(expr) {
        Some(positive) => (positive == upper).then_some(End::Infinite),
        None => number(expr, budget).map(End::At),
    }
}

/// Whether an expression is infinity, and whether it is the positive one.
pub(super) fn infinity(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Infinity => Some(true),
        Expr::Mul(parts) => match &parts[..] {
            [Expr::Num(factor), Expr::Infinity] => Some(*factor > super::Rational::ZERO),
            _ => None,
        },
        _ => None,
    }
}

/// `a < x <= b`, `x != c`, `x in S` for one variable.
fn relation(sides: &[Value], ops: &[Op], budget: &Budget) -> Option<RealSet> {
    if let ([Value::Expr(Expr::Var(_)), set], [Op::In]) = (sides, ops) {
        return real_set(set, budget);
    }
    let mut all = RealSet::everything(true);
    let mut variable: Option<&str> = None;
    for (pair, op) in sides.windows(2).zip(ops) {
        let (name, bound, op) = match (&pair[0], &pair[1]) {
            (Value::Expr(Expr::Var(name)), Value::Expr(bound)) => (name, bound, *op),
            (Value::Expr(bound), Value::Expr(Expr::Var(name))) => (name, bound, op.flipped()),
            _ => return None,
        };
        if variable.is_some_and(|known| *known != **name) {
            return None;
        }
        variable = Some(name);
        let set = match infinity(bound) {
            Some(_) if matches!(op, Op::Lt | Op::Gt) => RealSet::everything(true),
            Some(_) => return None,
            None => {
                let at = number(bound, budget)?;
                match op {
                    Op::Eq => RealSet::point(at),
                    Op::Ne => RealSet { points: vec![(at, false)], gaps: vec![true, true] },
                    Op::Lt | Op::Le => RealSet::half(at, true, op == Op::Le),
                    Op::Gt | Op::Ge => RealSet::half(at, false, op == Op::Ge),
                    Op::In => return None,
                }
            }
        };
        all = all.intersection(&set);
    }
    variable.map(|_| all)
}

/// Zero, for callers that compare signs.
pub(super) fn is_positive(x: &Real) -> bool {
    *x > from_int(0)
}
