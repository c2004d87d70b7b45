//! Complex numbers over [`Real`]: principal values, `None` where there is no value.

use super::real::{self, Constants, Real, from_int, is_zero};

/// A complex number.
#[derive(Clone, Debug)]
pub(in crate::grader) struct Complex {
    pub(in crate::grader) re: Real,
    pub(in crate::grader) im: Real,
}

impl Complex {
    pub(in crate::grader) fn real(re: Real) -> Self {
        Self { re, im: from_int(0) }
    }

    pub(in crate::grader) fn int(value: i64) -> Self {
        Self::real(from_int(value))
    }

    pub(in crate::grader) fn i() -> Self {
        Self { re: from_int(0), im: from_int(1) }
    }

    pub(in crate::grader) fn is_real(&self) -> bool {
        is_zero(&self.im)
    }

    pub(in crate::grader) fn is_zero(&self) -> bool {
        is_zero(&self.re) && is_zero(&self.im)
    }

    /// `floor(log2)` of the larger part.
    pub(in crate::grader) fn magnitude(&self) -> isize {
        real::magnitude(&self.re).max(real::magnitude(&self.im))
    }

    pub(in crate::grader) fn add(&self, other: &Self) -> Self {
        Self { re: &self.re + &other.re, im: &self.im + &other.im }
    }

    pub(in crate::grader) fn sub(&self, other: &Self) -> Self {
        Self { re: &self.re - &other.re, im: &self.im - &other.im }
    }

    pub(in crate::grader) fn neg(&self) -> Self {
        Self { re: -self.re.clone(), im: -self.im.clone() }
    }

    fn bounded(re: Real, im: Real) -> Option<Self> {
        Some(Self { re: real::bounded(re)?, im: real::bounded(im)? })
    }

    pub(in crate::grader) fn mul(&self, other: &Self) -> Option<Self> {
        match (self.is_real(), other.is_real()) {
            (true, true) => Self::bounded(&self.re * &other.re, from_int(0)),
            (true, false) => Self::bounded(&self.re * &other.re, &self.re * &other.im),
            (false, true) => Self::bounded(&self.re * &other.re, &self.im * &other.re),
            _ => {
                Self::bounded(&self.re * &other.re - &self.im * &other.im, &self.re * &other.im + &self.im * &other.re)
            }
        }
    }

    pub(in crate::grader) fn div(&self, other: &Self) -> Option<Self> {
        if other.is_real() {
            return Some(Self { re: real::div(&self.re, &other.re)?, im: real::div(&self.im, &other.re)? });
        }
        let norm = &other.re * &other.re + &other.im * &other.im;
        let conjugate = Self { re: other.re.clone(), im: -other.im.clone() };
        let top = self.mul(&conjugate)?;
        Some(Self { re: real::div(&top.re, &norm)?, im: real::div(&top.im, &norm)? })
    }

    pub(in crate::grader) fn abs(&self) -> Option<Real> {
        if self.is_real() {
            return Some(real::abs(&self.re));
        }
        real::sqrt(&(&self.re * &self.re + &self.im * &self.im))
    }

    pub(in crate::grader) fn exp(&self, c: &Constants) -> Option<Self> {
        let size = real::exp(&self.re, c)?;
        if self.is_real() {
            return Some(Self::real(size));
        }
        let (sin, cos) = real::sin_cos(&self.im, c)?;
        Self::bounded(&size * cos, size * sin)
    }

    pub(in crate::grader) fn ln(&self, c: &Constants) -> Option<Self> {
        if self.is_real() && !real::is_negative(&self.re) {
            return Some(Self::real(real::ln(&self.re, c)?));
        }
        Some(Self { re: real::ln(&self.abs()?, c)?, im: real::angle(&self.re, &self.im, c)? })
    }

    pub(in crate::grader) fn sqrt(&self, c: &Constants) -> Option<Self> {
        if self.is_real() {
            let root = real::sqrt(&real::abs(&self.re))?;
            return Some(if real::is_negative(&self.re) {
                Self { re: from_int(0), im: root }
            } else {
                Self::real(root)
            });
        }
        Self::exp(&self.ln(c)?.div(&Self::int(2))?, c)
    }

    /// `self^n` by repeated squaring.
    pub(in crate::grader) fn powi(&self, n: i64) -> Option<Self> {
        if n < 0 {
            return Self::int(1).div(&self.powi(n.checked_neg()?)?);
        }
        let (mut result, mut square, mut n) = (Self::int(1), self.clone(), n);
        while n > 0 {
            if n & 1 == 1 {
                result = result.mul(&square)?;
            }
            n >>= 1;
            if n > 0 {
                square = square.mul(&square)?;
            }
        }
        Some(result)
    }

    /// The principal power.
    pub(in crate::grader) fn pow(&self, exponent: &Self, c: &Constants) -> Option<Self> {
        if exponent.is_real()
            && let Some(n) = real::as_integer(&exponent.re).and_then(|n| i64::try_from(&n).ok())
            && n.unsigned_abs() <= 1 << 20
        {
            return self.powi(n);
        }
        if self.is_zero() {
            return (exponent.is_real() && !real::is_negative(&exponent.re)).then(|| Self::int(0));
        }
        if exponent.is_real() && exponent.re == (from_int(1) >> 1) {
            return self.sqrt(c);
        }
        self.ln(c)?.mul(exponent)?.exp(c)
    }

    /// `i * self`.
    fn turned(&self) -> Self {
        Self { re: -self.im.clone(), im: self.re.clone() }
    }

    /// Sine and cosine.
    pub(in crate::grader) fn sin_cos(&self, c: &Constants) -> Option<(Self, Self)> {
        if self.is_real() {
            let (sin, cos) = real::sin_cos(&self.re, c)?;
            return Some((Self::real(sin), Self::real(cos)));
        }
        let forth = self.turned().exp(c)?;
        let back = self.turned().neg().exp(c)?;
        let half = Self::real(from_int(1) >> 1);
        Some((forth.sub(&back).turned().neg().mul(&half)?, forth.add(&back).mul(&half)?))
    }

    /// Hyperbolic sine and cosine.
    pub(in crate::grader) fn sinh_cosh(&self, c: &Constants) -> Option<(Self, Self)> {
        let (forth, back) = (self.exp(c)?, self.neg().exp(c)?);
        let half = Self::real(from_int(1) >> 1);
        Some((forth.sub(&back).mul(&half)?, forth.add(&back).mul(&half)?))
    }

    pub(in crate::grader) fn asin(&self, c: &Constants) -> Option<Self> {
        let root = Self::int(1).sub(&self.mul(self)?).sqrt(c)?;
        if self.is_real() && root.is_real() {
            return Some(Self::real(real::angle(&root.re, &self.re, c)?));
        }
        Some(self.turned().add(&root).ln(c)?.turned().neg())
    }

    pub(in crate::grader) fn acos(&self, c: &Constants) -> Option<Self> {
        Some(Self::real(c.pi.clone() >> 1).sub(&self.asin(c)?))
    }

    pub(in crate::grader) fn atan(&self, c: &Constants) -> Option<Self> {
        if self.is_real() {
            return Some(Self::real(real::atan(&self.re, c)?));
        }
        let one = Self::int(1);
        let difference = one.sub(&self.turned()).ln(c)?.sub(&one.add(&self.turned()).ln(c)?);
        difference.turned().div(&Self::int(2))
    }

    pub(in crate::grader) fn asinh(&self, c: &Constants) -> Option<Self> {
        self.add(&self.mul(self)?.add(&Self::int(1)).sqrt(c)?).ln(c)
    }

    pub(in crate::grader) fn acosh(&self, c: &Constants) -> Option<Self> {
        let one = Self::int(1);
        let root = self.sub(&one).sqrt(c)?.mul(&self.add(&one).sqrt(c)?)?;
        self.add(&root).ln(c)
    }

    pub(in crate::grader) fn atanh(&self, c: &Constants) -> Option<Self> {
        let one = Self::int(1);
        one.add(self).ln(c)?.sub(&one.sub(self).ln(c)?).div(&Self::int(2))
    }
}
