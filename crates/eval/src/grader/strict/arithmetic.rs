//! Sums and products of values, and the two values of `±`.

use super::value::{Joint, PLUS_MINUS, Value};
use crate::grader::math::expr::{Expr, Rational};

pub(super) fn expr(value: Value) -> Option<Expr> {
    match value {
        Value::Expr(expr) => Some(expr),
        _ => None,
    }
}

pub(super) fn primed(base: Expr) -> Option<Expr> {
    match base {
        Expr::Var(name) => Some(Expr::var(&format!("{name}'"))),
        _ => None,
    }
}

pub(super) fn transpose(rows: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..columns).map(|column| rows.iter().filter_map(|row| row.get(column).cloned()).collect()).collect()
}

/// `factor * value`, entry by entry of a matrix.
pub(super) fn scale(factor: Expr, value: Value) -> Option<Value> {
    match value {
        Value::Expr(expr) => Some(Value::Expr(match (&factor, expr) {
            (Expr::Num(one), expr) if *one == Rational::ONE => expr,
            (Expr::Num(minus), expr) if *minus == -Rational::ONE => expr.neg(),
            (_, expr) => Expr::Mul(vec![factor.clone(), expr]),
        })),
        Value::Matrix(rows) => {
            let row =
                |row: Vec<Value>| row.into_iter().map(|cell| scale(factor.clone(), cell)).collect::<Option<Vec<_>>>();
            Some(Value::Matrix(rows.into_iter().map(row).collect::<Option<Vec<_>>>()?))
        }
        other if factor == Expr::int(1) => Some(other),
        _ => None,
    }
}

pub(super) fn multiply(left: Value, right: Value) -> Option<Value> {
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

pub(super) fn add(left: Value, right: Value) -> Option<Value> {
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
pub(super) fn expand_signs(value: Value) -> Value {
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
