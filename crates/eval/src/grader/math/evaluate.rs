//! The value of an expression at a point.

use super::complex::Complex;
use super::expr::{Expr, Fold, Func};
use super::real::{self, Constants, Real, from_int, from_integer};
use dashu_base::{BitTest, Gcd, UnsignedAbs};
use dashu_int::{IBig, UBig};

/// What is known while an expression is evaluated: its variables' values and the work that may still be done.
pub(in crate::grader) struct Point<'a> {
    constants: &'a Constants,
    values: Vec<(Box<str>, Complex)>,
    fuel: u32,
}

/// The cost of an elementary function, a multiplication being one.
const FUNCTION: u32 = 40;

impl<'a> Point<'a> {
    pub(in crate::grader) fn new(constants: &'a Constants, values: Vec<(Box<str>, Complex)>, fuel: u32) -> Self {
        Self { constants, values, fuel }
    }

    /// The work not done.
    pub(in crate::grader) fn fuel(&self) -> u32 {
        self.fuel
    }

    fn burn(&mut self, cost: u32) -> Option<()> {
        self.fuel = self.fuel.checked_sub(cost)?;
        Some(())
    }

    /// The value of `expr`; `None` where it has none, is not known, or is too long to compute.
    pub(in crate::grader) fn value(&mut self, expr: &Expr) -> Option<Complex> {
        self.burn(1)?;
        match expr {
            Expr::Num(value) => Some(Complex::real(real::from_rational(value))),
            Expr::Pi => Some(Complex::real(self.constants.pi.clone())),
            Expr::E => Some(Complex::real(real::exp(&from_int(1), self.constants)?)),
            Expr::I => Some(Complex::i()),
            Expr::Infinity => None,
            Expr::Var(name) => {
                self.values.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            Expr::Add(parts) => {
                let mut sum = Complex::int(0);
                for part in parts {
                    sum = sum.add(&self.value(part)?);
                }
                Some(sum)
            }
            Expr::Mul(parts) => {
                let mut product = Complex::int(1);
                for part in parts {
                    product = product.mul(&self.value(part)?)?;
                }
                Some(product)
            }
            Expr::Pow(base, exponent) => self.power(base, exponent),
            Expr::Call(func, args) => {
                let values = args.iter().map(|arg| self.value(arg)).collect::<Option<Vec<_>>>()?;
                self.burn(FUNCTION)?;
                self.call(*func, &values)
            }
            Expr::Apply(name, args) => {
                let values = args.iter().map(|arg| self.value(arg)).collect::<Option<Vec<_>>>()?;
                unknown_function(name, &values)
            }
            Expr::Fold { fold, var, range, body } => self.fold(*fold, var, range, body),
            Expr::Limit { var, to, body } => self.limit(var, to, body),
            Expr::Derivative { .. } => None,
        }
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Option<Complex> {
        let exponent = self.value(exponent)?;
        if matches!(base, Expr::E) {
            self.burn(FUNCTION)?;
            return exponent.exp(self.constants);
        }
        let base = self.value(base)?;
        self.burn(FUNCTION)?;
        base.pow(&exponent, self.constants)
    }

    fn with(&mut self, var: &str, value: Complex, body: &Expr) -> Option<Complex> {
        self.values.push((var.into(), value));
        let result = self.value(body);
        self.values.pop();
        result
    }

    fn fold(&mut self, fold: Fold, var: &str, range: &[Expr; 2], body: &Expr) -> Option<Complex> {
        let from = i64::try_from(&integer(&self.value(&range[0])?)?).ok()?;
        let to = i64::try_from(&integer(&self.value(&range[1])?)?).ok()?;
        let mut result = Complex::int(i64::from(fold == Fold::Product));
        for k in from..=to {
            let term = self.with(var, Complex::int(k), body)?;
            result = match fold {
                Fold::Sum => result.add(&term),
                Fold::Product => result.mul(&term)?,
            };
        }
        Some(result)
    }

    /// A limit at a number or at infinity, by extrapolation from three points each near it: right where the body is smooth.
    fn limit(&mut self, var: &str, to: &Expr, body: &Expr) -> Option<Complex> {
        let at = match to {
            Expr::Infinity => return None,
            to => self.value(to)?,
        };
        let h = from_int(1) >> 40;
        let mut samples = Vec::with_capacity(4);
        for step in [-2i64, -1, 1, 2] {
            let offset = Complex::real(&h * from_int(step));
            samples.push(self.with(var, at.add(&offset), body)?);
        }
        // Fourth-order: (4 (f(-h) + f(h)) - f(-2h) - f(2h)) / 6.
        let near = samples[1].add(&samples[2]).mul(&Complex::int(4))?;
        near.sub(&samples[0].add(&samples[3])).div(&Complex::int(6))
    }

    fn call(&mut self, func: Func, args: &[Complex]) -> Option<Complex> {
        let c = self.constants;
        let one = Complex::int(1);
        let (x, y) = (args.first()?, args.get(1));
        match func {
            Func::Sin => Some(x.sin_cos(c)?.0),
            Func::Cos => Some(x.sin_cos(c)?.1),
            Func::Tan => ratio(x.sin_cos(c)?),
            Func::Cot => ratio(swap(x.sin_cos(c)?)),
            Func::Csc => ratio((one, x.sin_cos(c)?.0)),
            Func::Sec => ratio((one, x.sin_cos(c)?.1)),
            Func::Asin => x.asin(c),
            Func::Acos => x.acos(c),
            Func::Atan => x.atan(c),
            Func::Acsc => one.div(x)?.asin(c),
            Func::Asec => one.div(x)?.acos(c),
            Func::Acot => one.div(x)?.atan(c),
            Func::Sinh => Some(x.sinh_cosh(c)?.0),
            Func::Cosh => Some(x.sinh_cosh(c)?.1),
            Func::Tanh => ratio(x.sinh_cosh(c)?),
            Func::Asinh => x.asinh(c),
            Func::Acosh => x.acosh(c),
            Func::Atanh => x.atanh(c),
            Func::Ln => x.ln(c),
            Func::Abs => Some(Complex::real(x.abs()?)),
            Func::Conjugate => Some(Complex { re: x.re.clone(), im: -x.im.clone() }),
            Func::Floor => Some(Complex::real(from_integer(&real::floor(only_real(x)?)?))),
            Func::Ceil => Some(Complex::real(-from_integer(&real::floor(&-only_real(x)?.clone())?))),
            Func::Factorial => self.factorial(x),
            Func::Binomial => self.binomial(x, y?),
            Func::Root => self.root(x, y?),
            Func::Mod => {
                let (a, b) = (only_real(x)?, only_real(y?)?);
                let turns = real::floor(&real::div(a, b)?)?;
                Some(Complex::real(a - from_integer(&turns) * b))
            }
            Func::Gcd | Func::Lcm => {
                let mut result = UBig::from(u8::from(func == Func::Lcm));
                for arg in args {
                    let value = integer(arg)?.unsigned_abs();
                    result = match func {
                        _ if value.is_zero() || result.is_zero() => {
                            if func == Func::Lcm {
                                UBig::ZERO
                            } else {
                                value + result
                            }
                        }
                        Func::Gcd => value.gcd(result),
                        _ => &value * &result / (&value).gcd(&result),
                    };
                }
                Some(Complex::real(from_integer(&IBig::from(result))))
            }
            Func::Max | Func::Min => {
                let mut best = only_real(x)?.clone();
                for arg in args {
                    let value = only_real(arg)?;
                    if (*value > best) == (func == Func::Max) {
                        best = value.clone();
                    }
                }
                Some(Complex::real(best))
            }
        }
    }

    fn factorial(&mut self, x: &Complex) -> Option<Complex> {
        let n = u32::try_from(&integer(x)?).ok().filter(|n| *n <= 4000)?;
        self.burn(n)?;
        let mut product = from_int(1);
        for k in 2..=i64::from(n) {
            product *= from_int(k);
        }
        Some(Complex::real(product))
    }

    fn binomial(&mut self, n: &Complex, k: &Complex) -> Option<Complex> {
        let mut k = integer(k)?;
        if let Some(n) = integer(n)
            && n >= IBig::ZERO
        {
            if k > n {
                return Some(Complex::int(0));
            }
            k = k.clone().min(n - k);
        }
        let k = match i64::try_from(&k).ok()? {
            k if k < 0 => return Some(Complex::int(0)),
            k => k,
        };
        self.burn(u32::try_from(k).ok()?.checked_mul(4)?)?;
        let mut product = Complex::int(1);
        for j in 0..k {
            product = product.mul(&n.sub(&Complex::int(j)))?.div(&Complex::int(j + 1))?;
        }
        Some(product)
    }

    fn root(&mut self, x: &Complex, n: &Complex) -> Option<Complex> {
        let c = self.constants;
        let odd = integer(n).is_some_and(|n| n.bit(0));
        if odd && x.is_real() && real::is_negative(&x.re) {
            return Some(x.neg().pow(&Complex::int(1).div(n)?, c)?.neg());
        }
        if n.is_real() && n.re == from_int(2) {
            return x.sqrt(c);
        }
        x.pow(&Complex::int(1).div(n)?, c)
    }
}

fn swap((a, b): (Complex, Complex)) -> (Complex, Complex) {
    (b, a)
}

/// `a / b`, with no value where `b` is zero up to rounding.
fn ratio((a, b): (Complex, Complex)) -> Option<Complex> {
    if b.magnitude() < -180 { None } else { a.div(&b) }
}

fn only_real(x: &Complex) -> Option<&Real> {
    (x.is_real() || real::magnitude(&x.im) < -150).then_some(&x.re)
}

fn integer(x: &Complex) -> Option<IBig> {
    real::as_integer(only_real(x)?)
}

/// A fixed polynomial that depends on the function's name: it satisfies no identity by chance.
fn unknown_function(name: &str, args: &[Complex]) -> Option<Complex> {
    let mut seed = hash(name);
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        Complex::real(from_int((seed >> 54) as i64 + 1) / from_int(512))
    };
    let mut result = next();
    for arg in args {
        let square = arg.mul(arg)?;
        let cubic = square.mul(arg)?.mul(&next())?.add(&square.mul(&next())?).add(&arg.mul(&next())?);
        result = result.mul(&next())?.add(&cubic);
    }
    Some(result)
}

/// FNV-1a of a name.
pub(in crate::grader) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf29ce484222325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}
