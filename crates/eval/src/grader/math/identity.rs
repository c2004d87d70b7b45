//! Identity of two expressions: by normal form, else by their values at many points in high precision.

use super::complex::Complex;
use super::evaluate::{Point, hash};
use super::expr::{Expr, Func};
use super::normal::{Trouble, Work, normal};
use super::real::{Constants, abs, from_f64, from_int};
use std::cell::Cell;

/// What one grading may spend, however many comparisons it makes.
pub(in crate::grader) struct Budget {
    constants: Constants,
    work: Work,
    fuel: Cell<u32>,
}

impl Budget {
    pub(in crate::grader) fn new() -> Self {
        Self { constants: Constants::new(), work: Work::new(), fuel: Cell::new(FUEL) }
    }
}

/// What a comparison of two expressions found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grader) enum Identity {
    /// Equal by normal form.
    Normal,
    /// Equal at every point tried.
    Numeric,
    /// Different, by normal form or at a point.
    Different,
    /// Not decided: no value at enough points, or too long to compute.
    Unknown,
}

impl Identity {
    pub(in crate::grader) fn holds(self) -> bool {
        matches!(self, Self::Normal | Self::Numeric)
    }
}

/// Which values the variables take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grader) enum Domain {
    /// Real numbers of either sign.
    Real,
    /// Complex numbers.
    Complex,
}

/// Points tried where there are variables, and points needed.
const POINTS: u64 = 9;
const NEEDED: usize = 3;
/// Work in evaluations, in multiplications: some ten milliseconds.
const FUEL: u32 = 12_000;
/// Binary places on which two values must agree, and the size under which a difference is rounding.
const AGREEMENT: isize = 100;
const NOISE: isize = -165;

/// Whether `a` and `b` are the same function.
pub(in crate::grader) fn identity(a: &Expr, b: &Expr, domain: Domain, budget: &Budget) -> Identity {
    let work = &budget.work;
    match normal(a, work).and_then(|a| normal(b, work).and_then(|b| a.equals(&b, work))) {
        Ok(Some(true)) => return Identity::Normal,
        Ok(Some(false)) => return Identity::Different,
        Err(Trouble::Undefined) => return Identity::Unknown,
        Ok(None) | Err(Trouble::TooLarge) => {}
    }
    let mut names = a.variables();
    names.extend(b.variables());
    names.sort();
    names.dedup();
    let discrete = |name: &str| is_discrete(a, name) || is_discrete(b, name);
    let needed = if names.is_empty() { 1 } else { NEEDED };
    let mut agreed = 0;
    for point in 0..if names.is_empty() { 1 } else { POINTS } {
        let values: Vec<_> =
            names.iter().map(|name| (name.clone(), sample(name, point, domain, discrete(name)))).collect();
        let mut at = Point::new(&budget.constants, values, budget.fuel.get());
        let pair = (at.value(a), at.value(b));
        budget.fuel.set(at.fuel());
        match pair {
            (Some(x), Some(y)) if agree(&x, &y) => agreed += 1,
            (Some(_), Some(_)) => return Identity::Different,
            _ => {}
        }
        if agreed >= needed + 2 {
            break;
        }
    }
    if agreed >= needed { Identity::Numeric } else { Identity::Unknown }
}

/// The value of a constant expression.
pub(in crate::grader) fn constant(expr: &Expr, budget: &Budget) -> Option<Complex> {
    if !expr.is_constant() {
        return None;
    }
    let mut at = Point::new(&budget.constants, Vec::new(), budget.fuel.get());
    let value = at.value(expr);
    budget.fuel.set(at.fuel());
    value
}

/// The values of `a` and `b` where the variables take values at random: as many pairs as there are of `points`.
pub(in crate::grader) fn values_at(a: &Expr, b: &Expr, points: u64, budget: &Budget) -> Vec<(Complex, Complex)> {
    let mut names = a.variables();
    names.extend(b.variables());
    names.sort();
    names.dedup();
    let pair = |point: u64| {
        let values = names.iter().map(|name| (name.clone(), sample(name, point, Domain::Real, false))).collect();
        let mut at = Point::new(&budget.constants, values, budget.fuel.get());
        let pair = at.value(a).zip(at.value(b));
        budget.fuel.set(at.fuel());
        pair
    };
    (0..points).filter_map(pair).collect()
}

/// Whether two values are the same number.
pub(in crate::grader) fn agree(x: &Complex, y: &Complex) -> bool {
    let off = x.sub(y).magnitude();
    off < NOISE || off < x.magnitude().max(y.magnitude()) - AGREEMENT
}

/// Whether two real numbers differ by no more than `tolerance` of the larger.
pub(in crate::grader) fn agree_within(x: &Complex, y: &Complex, tolerance: f64) -> bool {
    let Some(tolerance) = from_f64(tolerance) else { return false };
    let larger = abs(&x.re).max(abs(&y.re));
    abs(&(&x.re - &y.re)) <= larger * tolerance
}

/// Whether `name` stands where only integers make sense: in a factorial, a binomial, the ends of a sum, an exponent of -1.
fn is_discrete(expr: &Expr, name: &str) -> bool {
    let names_it = |part: &Expr| part.any(&|e| matches!(e, Expr::Var(found) if **found == *name));
    expr.any(&|e| match e {
        Expr::Call(Func::Factorial | Func::Binomial | Func::Gcd | Func::Lcm, args) => args.iter().any(names_it),
        Expr::Fold { range, .. } => range.iter().any(names_it),
        Expr::Pow(base, exponent) => {
            matches!(&**base, Expr::Num(value) if *value < super::expr::Rational::ZERO) && names_it(exponent)
        }
        _ => false,
    })
}

/// The value of a variable at a point: fixed by its name, small, with no simple relation to another's.
fn sample(name: &str, point: u64, domain: Domain, discrete: bool) -> Complex {
    let mut seed = hash(name) ^ point.wrapping_mul(0x9e3779b97f4a7c15);
    let mut next = |range: i64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as i64 % range
    };
    next(2);
    if discrete {
        return Complex::int(3 + next(9));
    }
    let part = |value: i64| from_int(value) / from_int(1009);
    match domain {
        Domain::Complex => Complex { re: part(next(4001) - 2000), im: part(next(4001) - 2000) },
        // The first points are positive, where roots and logarithms are real; the others are of either sign.
        Domain::Real if point < 4 => Complex::real(part(next(2500) + 40)),
        Domain::Real => Complex::real(part(next(5001) - 2500)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: Expr, b: Expr, expected: Identity) {
        assert_eq!(identity(&a, &b, Domain::Real, &Budget::new()), expected, "{a:?} {b:?}");
    }

    fn sqrt(n: i64) -> Expr {
        Expr::Call(Func::Root, vec![Expr::int(n), Expr::int(2)])
    }

    fn x() -> Expr {
        Expr::var("x")
    }

    #[test]
    fn radicals_have_a_normal_form() {
        check(sqrt(12), Expr::Mul(vec![Expr::int(2), sqrt(3)]), Identity::Normal);
        check(Expr::int(1).div(sqrt(2)), sqrt(2).div(Expr::int(2)), Identity::Normal);
        check(sqrt(-4), Expr::Mul(vec![Expr::int(2), Expr::I]), Identity::Normal);
        check(sqrt(2), sqrt(3), Identity::Different);
        let left = Expr::int(1).div(sqrt(2).sub(Expr::int(1)));
        check(left, Expr::Add(vec![sqrt(2), Expr::int(1)]), Identity::Normal);
    }

    #[test]
    fn large_integers_differ_by_one() {
        let power = Expr::int(2).pow(Expr::int(400));
        check(power.clone(), Expr::Add(vec![power, Expr::int(1)]), Identity::Different);
    }

    #[test]
    fn polynomials_and_quotients_are_expanded() {
        let square = Expr::Add(vec![x(), Expr::int(1)]).pow(Expr::int(2));
        let expanded = Expr::Add(vec![x().pow(Expr::int(2)), Expr::Mul(vec![Expr::int(2), x()]), Expr::int(1)]);
        check(square, expanded, Identity::Normal);
        let quotient = x().pow(Expr::int(2)).sub(Expr::int(1)).div(x().sub(Expr::int(1)));
        check(quotient, Expr::Add(vec![x(), Expr::int(1)]), Identity::Normal);
    }

    #[test]
    fn functions_are_compared_at_points() {
        let sin = |e: Expr| Expr::Call(Func::Sin, vec![e]);
        let cos = |e: Expr| Expr::Call(Func::Cos, vec![e]);
        let double = Expr::Mul(vec![Expr::int(2), sin(x()), cos(x())]);
        check(sin(Expr::Mul(vec![Expr::int(2), x()])), double, Identity::Numeric);
        check(sin(x()), cos(x()), Identity::Different);
        let root = Expr::Call(Func::Root, vec![x().pow(Expr::int(2)), Expr::int(2)]);
        check(root.clone(), Expr::Call(Func::Abs, vec![x()]), Identity::Numeric);
        check(root, x(), Identity::Different);
    }

    #[test]
    fn exponentials_split_their_sums() {
        let two = || Expr::int(2);
        check(Expr::int(4).pow(x()), two().pow(Expr::Mul(vec![two(), x()])), Identity::Normal);
        check(two().pow(Expr::Add(vec![x(), two()])), Expr::Mul(vec![Expr::int(4), two().pow(x())]), Identity::Normal);
    }

    #[test]
    fn what_has_no_value_equals_nothing() {
        let pole = Expr::int(1).div(Expr::int(0));
        check(pole.clone(), pole, Identity::Unknown);
        let tower = Expr::int(9).pow(Expr::int(9).pow(Expr::int(9).pow(Expr::int(9))));
        check(tower, Expr::int(1), Identity::Unknown);
    }
}
