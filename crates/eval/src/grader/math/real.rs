//! Real numbers of fixed high precision and their elementary functions, which never panic: `None` where there is no value.

use super::expr::Rational;
use dashu_float::{FBig, round::mode::HalfEven};
use dashu_int::IBig;

/// A binary floating-point number of [`BITS`] bits.
pub(in crate::grader) type Real = FBig<HalfEven>;

/// Working precision. A comparison trusts 100 bits, so an evaluation may lose more than half.
pub(in crate::grader) const BITS: usize = 224;

/// Numbers beyond `2^±LIMIT` have no value here: it keeps every operation short.
const LIMIT: isize = 1 << 22;

/// Constants at working precision.
pub(in crate::grader) struct Constants {
    pub(in crate::grader) pi: Real,
    pub(in crate::grader) ln2: Real,
}

impl Constants {
    pub(in crate::grader) fn new() -> Self {
        Self { pi: pi(), ln2: ln2() }
    }
}

pub(in crate::grader) fn from_rational(value: &Rational) -> Real {
    value.to_float::<HalfEven, 2>(BITS).value()
}

pub(in crate::grader) fn from_int(value: i64) -> Real {
    Real::from(IBig::from(value)).with_precision(BITS).value()
}

pub(in crate::grader) fn from_f64(value: f64) -> Option<Real> {
    Real::try_from(value).ok().filter(|_| value.is_finite()).map(|real| real.with_precision(BITS).value())
}

pub(in crate::grader) fn is_zero(x: &Real) -> bool {
    x.repr().significand().is_zero()
}

/// `floor(log2 |x|)`, up to one; very negative for zero.
pub(in crate::grader) fn magnitude(x: &Real) -> isize {
    if is_zero(x) {
        return isize::MIN / 2;
    }
    x.repr().exponent() + x.repr().digits() as isize - 1
}

/// `x` if its magnitude is within bounds; what is too small is 0.
pub(in crate::grader) fn bounded(x: Real) -> Option<Real> {
    match magnitude(&x) {
        m if m > LIMIT => None,
        m if m < -LIMIT => Some(from_int(0)),
        _ => Some(x),
    }
}

pub(in crate::grader) fn is_negative(x: &Real) -> bool {
    *x < Real::ZERO
}

pub(in crate::grader) fn abs(x: &Real) -> Real {
    if is_negative(x) { -x.clone() } else { x.clone() }
}

pub(in crate::grader) fn div(a: &Real, b: &Real) -> Option<Real> {
    if is_zero(b) { None } else { bounded(a / b) }
}

pub(in crate::grader) fn sqrt(x: &Real) -> Option<Real> {
    if is_negative(x) {
        return None;
    }
    if is_zero(x) {
        return Some(from_int(0));
    }
    // An even scale brings `x` near 1, where Newton's iteration for 1/sqrt starts from the f64 value.
    let half = magnitude(x).div_euclid(2);
    let m = x.clone() >> (2 * half);
    let mut y = from_f64(m.to_f64().value().sqrt())?;
    for _ in 0..3 {
        y = (&y + &m / &y) >> 1;
    }
    Some(y << half)
}

/// The nearest integer.
pub(in crate::grader) fn round(x: &Real) -> Option<IBig> {
    if magnitude(x) > 4096 {
        return None;
    }
    Some(floor_int(&(x + (from_int(1) >> 1))))
}

/// The integer that `x` is up to the precision trusted.
pub(in crate::grader) fn as_integer(x: &Real) -> Option<IBig> {
    let nearest = round(x)?;
    let off = x - Real::from(nearest.clone()).with_precision(BITS).value();
    (magnitude(&off) < -100).then_some(nearest)
}

pub(in crate::grader) fn floor(x: &Real) -> Option<IBig> {
    match as_integer(x) {
        Some(integer) => Some(integer),
        None => round(x).map(|_| floor_int(x)),
    }
}

/// The floor of the number as stored: its significand shifted by its exponent.
fn floor_int(x: &Real) -> IBig {
    let (significand, exponent) = (x.repr().significand().clone(), x.repr().exponent());
    if exponent >= 0 { significand << exponent as usize } else { significand >> (-exponent) as usize }
}

pub(in crate::grader) fn from_integer(value: &IBig) -> Real {
    Real::from(value.clone()).with_precision(BITS).value()
}

/// `e^x`: halved eight times into Taylor's series, squared back.
pub(in crate::grader) fn exp(x: &Real, constants: &Constants) -> Option<Real> {
    if magnitude(x) > 20 {
        return if is_negative(x) { Some(from_int(0)) } else { None };
    }
    let k = round(&(x / &constants.ln2))?;
    let r = (x - from_integer(&k) * &constants.ln2) >> 8;
    let mut sum = from_int(1);
    let mut term = from_int(1);
    for n in 1..40 {
        term = term * &r / from_int(n);
        sum += &term;
        if magnitude(&term) < -(BITS as isize) - 16 {
            break;
        }
    }
    for _ in 0..8 {
        sum = &sum * &sum;
    }
    let k = isize::try_from(&k).ok()?;
    bounded(sum << k)
}

/// The natural logarithm of a positive number: Halley's iteration on [`exp`] from the f64 value.
pub(in crate::grader) fn ln(x: &Real, constants: &Constants) -> Option<Real> {
    if is_zero(x) || is_negative(x) {
        return None;
    }
    let k = magnitude(x);
    let m = x.clone() >> k;
    let mut y = from_f64(m.to_f64().value().ln())?;
    for _ in 0..2 {
        let e = exp(&y, constants)?;
        y += ((&m - &e) << 1) / (&m + &e);
    }
    Some(y + from_int(k as i64) * &constants.ln2)
}

/// Sine and cosine: a quarter turn is taken off until Taylor's series is short.
pub(in crate::grader) fn sin_cos(x: &Real, constants: &Constants) -> Option<(Real, Real)> {
    if magnitude(x) > 40 {
        return None;
    }
    let half_pi = constants.pi.clone() >> 1;
    let quarters = round(&(x / &half_pi))?;
    let r = x - from_integer(&quarters) * &half_pi;
    let (mut sin, mut cos) = (from_int(0), from_int(1));
    let mut term = from_int(1);
    for n in 1..80 {
        term = term * &r / from_int(n);
        match n % 4 {
            0 => cos += &term,
            1 => sin += &term,
            2 => cos -= &term,
            _ => sin -= &term,
        }
        if magnitude(&term) < -(BITS as isize) - 8 {
            break;
        }
    }
    let turn = i64::try_from(&quarters).ok()?.rem_euclid(4);
    Some(match turn {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    })
}

/// The arctangent: `y + t - t^3/3` with `t = tan(atan x - y)` and `y` the f64 value.
pub(in crate::grader) fn atan(x: &Real, constants: &Constants) -> Option<Real> {
    if magnitude(x) >= 0 {
        // At exactly one the reciprocal is no smaller.
        let quarter = constants.pi.clone() >> 2;
        if *x == Real::ONE {
            return Some(quarter);
        }
        if *x == Real::NEG_ONE {
            return Some(-quarter);
        }
        let half_pi = constants.pi.clone() >> 1;
        let rest = atan(&div(&from_int(1), x)?, constants);
        return rest.map(|rest| if is_negative(x) { -half_pi - rest } else { half_pi - rest });
    }
    if magnitude(x) < -60 {
        let cube = x * x * x / from_int(3);
        let fifth = x * x * x * x * x / from_int(5);
        return Some(x - cube + fifth);
    }
    let y = from_f64(x.to_f64().value().atan())?;
    let (sin, cos) = sin_cos(&y, constants)?;
    let t = div(&(x * &cos - &sin), &(&cos + x * &sin))?;
    let cube = &t * &t * &t / from_int(3);
    Some(y + t - cube)
}

/// The angle of the point `(re, im)`, in `(-pi, pi]`; `None` at the origin.
pub(in crate::grader) fn angle(re: &Real, im: &Real, constants: &Constants) -> Option<Real> {
    match (is_zero(re), is_zero(im)) {
        (true, true) => None,
        (true, false) => {
            let half_pi = constants.pi.clone() >> 1;
            Some(if is_negative(im) { -half_pi } else { half_pi })
        }
        _ => {
            let slope = atan(&div(im, re)?, constants)?;
            Some(match (is_negative(re), is_negative(im)) {
                (false, _) => slope,
                (true, false) => slope + &constants.pi,
                (true, true) => slope - &constants.pi,
            })
        }
    }
}

/// `atan(1/n)` by its series.
fn atan_inverse(n: i64) -> Real {
    let (step, mut power) = (from_int(n * n), from_int(1) / from_int(n));
    let mut sum = power.clone();
    for k in 1..200 {
        power /= &step;
        let term = &power / from_int(2 * k + 1);
        if k % 2 == 0 {
            sum += &term;
        } else {
            sum -= &term;
        }
        if magnitude(&term) < -(BITS as isize) - 8 {
            break;
        }
    }
    sum
}

/// Machin: `pi/4 = 4 atan(1/5) - atan(1/239)`.
fn pi() -> Real {
    (atan_inverse(5) << 4) - (atan_inverse(239) << 2)
}

/// `ln 2 = 2 atanh(1/3)`.
fn ln2() -> Real {
    let mut power = from_int(1) / from_int(3);
    let mut sum = power.clone();
    for k in 1..200 {
        power /= from_int(9);
        sum += &power / from_int(2 * k + 1);
        if magnitude(&power) < -(BITS as isize) - 8 {
            break;
        }
    }
    sum << 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &Real, b: &Real) -> bool {
        magnitude(&(a - b)) < magnitude(b).max(0) - 200
    }

    #[test]
    fn the_elementary_functions_invert_each_other() {
        let c = Constants::new();
        for (numerator, denominator) in [(1, 7), (22, 7), (-5, 3), (1001, 13), (1, 1_000_003)] {
            let x = from_int(numerator) / from_int(denominator);
            assert!(close(&ln(&exp(&x, &c).unwrap(), &c).unwrap(), &x), "ln exp {numerator}/{denominator}");
            let (sin, cos) = sin_cos(&x, &c).unwrap();
            assert!(close(&(&sin * &sin + &cos * &cos), &from_int(1)));
            let y = atan(&x, &c).unwrap();
            let (sin, cos) = sin_cos(&y, &c).unwrap();
            assert!(close(&(sin / cos), &x), "tan atan {numerator}/{denominator}");
            let root = sqrt(&abs(&x)).unwrap();
            assert!(close(&(&root * &root), &abs(&x)));
        }
    }

    #[test]
    fn known_values_come_out() {
        let c = Constants::new();
        assert_eq!(c.pi.to_f64().value(), std::f64::consts::PI);
        assert_eq!(c.ln2.to_f64().value(), std::f64::consts::LN_2);
        assert_eq!(exp(&from_int(1), &c).unwrap().to_f64().value(), std::f64::consts::E);
        let half_pi = c.pi.clone() >> 1;
        assert!(magnitude(&sin_cos(&half_pi, &c).unwrap().1) < -200);
        assert_eq!(floor(&(from_int(-7) / from_int(2))), Some(IBig::from(-4)));
        assert_eq!(round(&(from_int(7) / from_int(2))), Some(IBig::from(4)));
    }

    #[test]
    fn what_has_no_value_is_none() {
        let c = Constants::new();
        assert!(ln(&from_int(0), &c).is_none() && ln(&from_int(-1), &c).is_none());
        assert!(div(&from_int(1), &from_int(0)).is_none());
        assert!(exp(&(from_int(1) << 60), &c).is_none());
        assert!(sin_cos(&(from_int(1) << 60), &c).is_none());
        assert!(angle(&from_int(0), &from_int(0), &c).is_none());
    }
}
