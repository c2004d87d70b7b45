//! The normal form: a quotient of polynomials with rational coefficients in variables, radicals of primes, pi, e and i.
//!
//! Two expressions of these alone are equal exactly if the cross products of their normal forms are: the radicals of
//! distinct primes are linearly independent over the rationals (Besicovitch 1940). Whatever else stands in an expression
//! becomes an indeterminate of its own; then equal forms still mean equal expressions, but different ones decide nothing.

use super::expr::{Expr, Func, Rational};
use dashu_base::{Abs, BitTest, Sign, UnsignedAbs};
use dashu_int::{IBig, UBig};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// What a monomial is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    /// A prime under a root: exponents between 0 and 1.
    Prime(UBig),
    /// The imaginary unit: exponent 1.
    I,
    Pi,
    E,
    Var(Box<str>),
    /// Something opaque, by the number of its name in [`Work`].
    Other(usize),
}

/// Atoms with their exponents, none of which is zero.
type Monomial = BTreeMap<Atom, Rational>;

/// A sum of monomials with non-zero coefficients.
#[derive(Clone, Debug, PartialEq, Default)]
struct Poly(BTreeMap<Monomial, Rational>);

/// A quotient.
#[derive(Clone, Debug)]
pub(in crate::grader) struct Normal {
    top: Poly,
    bottom: Poly,
}

/// Why there is no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grader) enum Trouble {
    /// A division by zero.
    Undefined,
    /// Too many terms, or infinity.
    TooLarge,
}

const MAX_TERMS: usize = 300;
const MAX_BITS: usize = 12_000;
/// Term products that one comparison may make: some ten milliseconds.
const WORK: u32 = 6_000;

/// The work that may still be done, and the names of opaque atoms.
pub(in crate::grader) struct Work {
    left: Cell<u32>,
    names: RefCell<Vec<String>>,
}

impl Work {
    pub(in crate::grader) fn new() -> Self {
        Self { left: Cell::new(WORK), names: RefCell::new(Vec::new()) }
    }

    fn charge(&self, cost: usize) -> Result<(), Trouble> {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        self.left.set(self.left.get().checked_sub(cost).ok_or(Trouble::TooLarge)?);
        Ok(())
    }

    /// The atom of that name.
    fn named(&self, name: String) -> Atom {
        let mut names = self.names.borrow_mut();
        let known = names.iter().position(|known| *known == name);
        Atom::Other(known.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        }))
    }
}
/// Primes up to here are divided out of a radicand; a larger cofactor is kept whole.
const TRIAL: u32 = 20_000;

fn one() -> Rational {
    Rational::ONE
}

fn bits(value: &Rational) -> usize {
    value.numerator().bit_len() + value.denominator().bit_len()
}

impl Poly {
    fn constant(value: Rational) -> Self {
        let mut terms = BTreeMap::new();
        if !value.is_zero() {
            terms.insert(Monomial::new(), value);
        }
        Self(terms)
    }

    fn term(monomial: Monomial, coefficient: Rational) -> Self {
        Self(BTreeMap::from([(monomial, coefficient)]))
    }

    fn atom(atom: Atom) -> Self {
        Self::term(Monomial::from([(atom, one())]), one())
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn single(&self) -> Option<(&Monomial, &Rational)> {
        let mut terms = self.0.iter();
        terms.next().filter(|_| terms.next().is_none())
    }

    fn as_constant(&self) -> Option<Rational> {
        match self.single() {
            None if self.is_zero() => Some(Rational::ZERO),
            Some((monomial, value)) if monomial.is_empty() => Some(value.clone()),
            _ => None,
        }
    }

    fn add_term(&mut self, monomial: Monomial, coefficient: Rational) {
        let sum = self.0.get(&monomial).map_or(coefficient.clone(), |old| old + &coefficient);
        if sum.is_zero() {
            self.0.remove(&monomial);
        } else {
            self.0.insert(monomial, sum);
        }
    }

    fn add(mut self, other: Self) -> Result<Self, Trouble> {
        for (monomial, coefficient) in other.0 {
            self.add_term(monomial, coefficient);
        }
        self.checked()
    }

    fn checked(self) -> Result<Self, Trouble> {
        if self.0.len() > MAX_TERMS || self.0.values().any(|value| bits(value) > MAX_BITS) {
            return Err(Trouble::TooLarge);
        }
        Ok(self)
    }

    fn mul(&self, other: &Self, work: &Work) -> Result<Self, Trouble> {
        if self.0.len() * other.0.len() > 4 * MAX_TERMS {
            return Err(Trouble::TooLarge);
        }
        let mut out = Self::default();
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                let (monomial, factor) = product(a, b)?;
                work.charge(1 + (bits(x) + bits(y)) / 100)?;
                out.add_term(monomial, x * y * factor);
            }
        }
        out.checked()
    }

    fn negated(mut self) -> Self {
        for value in self.0.values_mut() {
            *value = -std::mem::take(value);
        }
        self
    }
}

/// The product of two monomials, reduced: integer powers of primes and squares of i go into the factor.
fn product(a: &Monomial, b: &Monomial) -> Result<(Monomial, Rational), Trouble> {
    let mut out = a.clone();
    for (atom, exponent) in b {
        let sum = out.get(atom).map_or(exponent.clone(), |old| old + exponent);
        out.insert(atom.clone(), sum);
    }
    let mut factor = one();
    let mut reduced = Monomial::new();
    for (atom, exponent) in out {
        let (exponent, by) = reduce(&atom, exponent)?;
        factor *= by;
        if !exponent.is_zero() {
            reduced.insert(atom, exponent);
        }
    }
    Ok((reduced, factor))
}

/// The part of `atom^exponent` that is rational, and the exponent that remains.
fn reduce(atom: &Atom, exponent: Rational) -> Result<(Rational, Rational), Trouble> {
    match atom {
        Atom::Prime(prime) => {
            let whole = exponent.floor();
            let rest = exponent - Rational::from(whole.clone());
            Ok((rest, integer_power(&Rational::from(prime.clone()), &whole)?))
        }
        Atom::I => {
            let turns = i64::try_from(&exponent.floor()).map_err(|_| Trouble::TooLarge)?.rem_euclid(4);
            let sign = if turns >= 2 { -one() } else { one() };
            Ok((Rational::from(IBig::from(turns % 2)), sign))
        }
        _ => Ok((exponent, one())),
    }
}

fn integer_power(base: &Rational, exponent: &IBig) -> Result<Rational, Trouble> {
    let n = i64::try_from(exponent).map_err(|_| Trouble::TooLarge)?;
    let size = usize::try_from(n.unsigned_abs()).map_err(|_| Trouble::TooLarge)?;
    if *base == Rational::ZERO {
        return if n < 0 { Err(Trouble::Undefined) } else { Ok(if n == 0 { one() } else { Rational::ZERO }) };
    }
    if *base == Rational::ONE {
        return Ok(one());
    }
    if size.checked_mul(bits(base)).is_none_or(|bits| bits > MAX_BITS) {
        return Err(Trouble::TooLarge);
    }
    let (top, bottom) = (base.numerator().pow(size), base.denominator().pow(size));
    if n >= 0 {
        return Ok(Rational::from_parts(top, bottom));
    }
    let (sign, top) = top.into_parts();
    Ok(Rational::from_parts(IBig::from_parts(sign, bottom), top))
}

/// The normal form of `expr`.
pub(in crate::grader) fn normal(expr: &Expr, work: &Work) -> Result<Normal, Trouble> {
    work.charge(1)?;
    let atom = |atom| Ok(Normal::poly(Poly::atom(atom)));
    match expr {
        Expr::Num(value) => Ok(Normal::constant(value.clone())),
        Expr::Pi => atom(Atom::Pi),
        Expr::E => atom(Atom::E),
        Expr::I => atom(Atom::I),
        Expr::Infinity => Err(Trouble::TooLarge),
        Expr::Var(name) => atom(Atom::Var(name.clone())),
        Expr::Add(parts) => {
            parts.iter().try_fold(Normal::constant(Rational::ZERO), |sum, part| sum.add(normal(part, work)?, work))
        }
        Expr::Mul(parts) => {
            let mut product = Normal::constant(one());
            for part in parts {
                product = product.mul(&normal(part, work)?, work)?;
            }
            Ok(product)
        }
        Expr::Pow(base, exponent) => {
            let exponent = normal(exponent, work)?;
            match exponent.as_constant() {
                Some(exponent) => normal(base, work)?.rational_power(&exponent, work),
                None => symbolic_power(normal(base, work)?, exponent, work),
            }
        }
        Expr::Call(func, args) => call(*func, all(args, work)?, work),
        Expr::Apply(name, args) => Ok(opaque(name, &all(args, work)?, work)),
        Expr::Fold { .. } | Expr::Limit { .. } | Expr::Derivative { .. } => atom(work.named(format!("{expr:?}"))),
    }
}

fn all(exprs: &[Expr], work: &Work) -> Result<Vec<Normal>, Trouble> {
    exprs.iter().map(|expr| normal(expr, work)).collect()
}

fn opaque(name: &str, args: &[Normal], work: &Work) -> Normal {
    let args: Vec<String> = args.iter().map(Normal::written).collect();
    Normal::poly(Poly::atom(work.named(format!("{name}({})", args.join(";")))))
}

fn call(func: Func, args: Vec<Normal>, work: &Work) -> Result<Normal, Trouble> {
    let constant = |at: usize| args.get(at).and_then(Normal::as_constant);
    match (func, constant(0), constant(1)) {
        (Func::Root, value, Some(n)) if n.denominator().is_one() && !n.is_zero() => {
            let inverse = one() / &n;
            match value {
                // The real root of a negative number.
                Some(value) if value < Rational::ZERO && n.numerator().bit(0) => {
                    Normal::constant(-value).rational_power(&inverse, work).map(Normal::negated)
                }
                _ => args[0].clone().rational_power(&inverse, work),
            }
        }
        (Func::Abs, Some(value), _) => Ok(Normal::constant(value.abs())),
        (Func::Floor, Some(value), _) => Ok(Normal::constant(Rational::from(value.floor()))),
        (Func::Ceil, Some(value), _) => Ok(Normal::constant(Rational::from(value.ceil()))),
        (Func::Factorial, Some(n), _) if n.denominator().is_one() => {
            let n = u32::try_from(n.numerator()).map_err(|_| Trouble::Undefined)?;
            if n > 1200 {
                return Ok(opaque("Factorial", &args, work));
            }
            let product = (2..=n).fold(UBig::ONE, |product, k| product * UBig::from(k));
            Ok(Normal::constant(Rational::from(product)))
        }
        _ => Ok(opaque(&format!("{func:?}"), &args, work)),
    }
}

/// `base^exponent` for an exponent with variables or irrational numbers: of a positive rational or e, the exponent's sum is
/// taken apart, `2^(n+3) = 8 * 2^n`.
fn symbolic_power(base: Normal, exponent: Normal, work: &Work) -> Result<Normal, Trouble> {
    let mut roots: Vec<(Box<str>, Poly, Rational)> = Vec::new();
    let value = base.as_constant();
    match (&value, base.is_e()) {
        (Some(value), _) if *value > Rational::ZERO => {
            for (prime, power) in factors(value) {
                let power = Rational::from(IBig::from(power));
                roots.push((prime.to_string().into(), Poly::constant(Rational::from(prime)), power));
            }
        }
        (_, true) => roots.push(("e".into(), Poly::atom(Atom::E), one())),
        _ => {}
    }
    if exponent.bottom.as_constant().is_none() || (roots.is_empty() && value != Some(one())) {
        let written = format!("({})^({})", base.written(), exponent.written());
        return Ok(Normal::poly(Poly::atom(work.named(written))));
    }
    let scale = exponent.bottom.as_constant().unwrap_or_else(one);
    let mut result = Normal::constant(one());
    for (name, root, power) in roots {
        for (monomial, coefficient) in &exponent.top.0 {
            let coefficient = coefficient * &power / &scale;
            let factor = if monomial.is_empty() {
                Normal::poly(root.clone()).rational_power(&coefficient, work)?
            } else {
                let written = format!("{name}^{}", write_monomial(monomial));
                Normal::poly(Poly::term(Monomial::from([(work.named(written), coefficient)]), one()))
            };
            result = result.mul(&factor, work)?;
        }
    }
    Ok(result)
}

/// The primes of a positive rational and their powers; what is left after trial division counts as one prime.
fn factors(value: &Rational) -> Vec<(UBig, i64)> {
    let mut out = Vec::new();
    for (number, sign) in [(value.numerator().clone().unsigned_abs(), 1), (value.denominator().clone(), -1)] {
        let mut rest = number;
        let mut prime = 2u32;
        while prime <= TRIAL && UBig::from(prime) * UBig::from(prime) <= rest {
            let mut power = 0;
            while (&rest % prime) == 0 {
                rest /= prime;
                power += sign;
            }
            if power != 0 {
                out.push((UBig::from(prime), power));
            }
            prime += if prime == 2 { 1 } else { 2 };
        }
        if !rest.is_one() {
            out.push((rest, sign));
        }
    }
    out
}

impl Normal {
    fn constant(value: Rational) -> Self {
        Self::poly(Poly::constant(value))
    }

    fn poly(top: Poly) -> Self {
        Self { top, bottom: Poly::constant(one()) }
    }

    /// Its value, where it is a rational number.
    pub(in crate::grader) fn as_constant(&self) -> Option<Rational> {
        let bottom = self.bottom.as_constant().filter(|value| !value.is_zero())?;
        Some(self.top.as_constant()? / bottom)
    }

    fn is_e(&self) -> bool {
        self.bottom == Poly::constant(one()) && self.top == Poly::atom(Atom::E)
    }

    fn negated(self) -> Self {
        Self { top: self.top.negated(), bottom: self.bottom }
    }

    fn add(self, other: Self, work: &Work) -> Result<Self, Trouble> {
        work.charge(self.top.0.len() / 8)?;
        if self.bottom == other.bottom {
            return Ok(Self { top: self.top.add(other.top)?, bottom: self.bottom });
        }
        let top = self.top.mul(&other.bottom, work)?.add(other.top.mul(&self.bottom, work)?)?;
        Ok(Self { top, bottom: self.bottom.mul(&other.bottom, work)? })
    }

    fn mul(&self, other: &Self, work: &Work) -> Result<Self, Trouble> {
        Ok(Self { top: self.top.mul(&other.top, work)?, bottom: self.bottom.mul(&other.bottom, work)? })
    }

    fn inverse(self, work: &Work) -> Result<Self, Trouble> {
        if self.top.is_zero() {
            return Err(Trouble::Undefined);
        }
        // A single term goes up with its exponents negated, so that bottoms stay short.
        let Some((monomial, coefficient)) = self.top.single() else {
            return Ok(Self { top: self.bottom, bottom: self.top });
        };
        let turned: Monomial = monomial.iter().map(|(atom, exponent)| (atom.clone(), -exponent.clone())).collect();
        let (monomial, factor) = product(&turned, &Monomial::new())?;
        let inverse = Poly::term(monomial, factor / coefficient);
        Ok(Self::poly(self.bottom.mul(&inverse, work)?))
    }

    fn rational_power(self, exponent: &Rational, work: &Work) -> Result<Self, Trouble> {
        if exponent.denominator().is_one() {
            return self.integer_power(exponent.numerator(), work);
        }
        if *exponent < Rational::ZERO {
            return self.rational_power(&-exponent.clone(), work)?.inverse(work);
        }
        if self.top.is_zero() {
            return Ok(Self::constant(Rational::ZERO));
        }
        if self.bottom.single().is_some() {
            let folded = Self::poly(self.top.clone()).mul(&Self::poly(self.bottom.clone()).inverse(work)?, work)?;
            if let Some((monomial, coefficient)) = folded.top.single()
                && let Some(root) = single_power(monomial, coefficient, exponent)?
            {
                return Ok(root);
            }
        }
        let atom = work.named(format!("({})", self.written()));
        Ok(Self::poly(Poly::term(Monomial::from([(atom, exponent.clone())]), one())))
    }

    fn integer_power(self, exponent: &IBig, work: &Work) -> Result<Self, Trouble> {
        if *exponent < IBig::ZERO {
            return self.inverse(work)?.integer_power(&-exponent.clone(), work);
        }
        if let (Some((monomial, coefficient)), Some(bottom)) = (self.top.single(), self.bottom.as_constant()) {
            let times = Rational::from(exponent.clone());
            let raised: Monomial = monomial.iter().map(|(atom, e)| (atom.clone(), e * &times)).collect();
            let (raised, factor) = product(&raised, &Monomial::new())?;
            let coefficient = integer_power(&(coefficient / bottom), exponent)?;
            return Ok(Self::poly(Poly::term(raised, coefficient * factor)));
        }
        let mut n = u32::try_from(exponent).map_err(|_| Trouble::TooLarge)?;
        let (mut result, mut square) = (Self::constant(one()), self);
        while n > 0 {
            if n & 1 == 1 {
                result = result.mul(&square, work)?;
            }
            n >>= 1;
            if n > 0 {
                square = square.mul(&square, work)?;
            }
        }
        Ok(result)
    }

    /// One spelling, for use as a name; equal forms may still differ in it.
    fn written(&self) -> String {
        let scale = self.bottom.0.values().next().cloned().unwrap_or_else(one);
        let write = |poly: &Poly| {
            let terms: Vec<String> = poly
                .0
                .iter()
                .map(|(monomial, value)| format!("{}{}", value / &scale, write_monomial(monomial)))
                .collect();
            terms.join("+")
        };
        format!("{}/{}", write(&self.top), write(&self.bottom))
    }

    /// Whether the two are equal: `None` where the forms differ but hold something opaque.
    pub(in crate::grader) fn equals(&self, other: &Self, work: &Work) -> Result<Option<bool>, Trouble> {
        if self.bottom.is_zero() || other.bottom.is_zero() {
            return Err(Trouble::Undefined);
        }
        let left = self.top.mul(&other.bottom, work)?;
        let difference = left.add(other.top.mul(&self.bottom, work)?.negated())?;
        if difference.is_zero() {
            return Ok(Some(true));
        }
        let opaque = difference.0.keys().flat_map(|monomial| monomial.iter()).any(|(atom, exponent)| match atom {
            Atom::Other(_) => true,
            // A large cofactor may not be prime, a root of a variable has branches.
            Atom::Prime(prime) => *prime > UBig::from(TRIAL) * UBig::from(TRIAL),
            Atom::Var(_) | Atom::Pi | Atom::E => !exponent.denominator().is_one(),
            Atom::I => false,
        });
        Ok(if opaque { None } else { Some(false) })
    }
}

/// A rational power of one term; `None` where branches make it opaque.
fn single_power(monomial: &Monomial, coefficient: &Rational, exponent: &Rational) -> Result<Option<Normal>, Trouble> {
    let mut out = Monomial::new();
    for (atom, e) in monomial {
        match atom {
            Atom::Prime(_) | Atom::Pi | Atom::E => out.insert(atom.clone(), e * exponent),
            Atom::Var(_) if *e == one() && monomial.len() == 1 && *coefficient > Rational::ZERO => {
                out.insert(atom.clone(), exponent.clone())
            }
            _ => return Ok(None),
        };
    }
    if coefficient.sign() == Sign::Negative {
        if *exponent.denominator() != UBig::from(2u8) {
            return Ok(None);
        }
        out.insert(Atom::I, Rational::from(exponent.numerator().clone()));
    }
    let mut factor = one();
    for (prime, power) in factors(&coefficient.clone().abs()) {
        let atom = Atom::Prime(prime);
        let power = Rational::from(IBig::from(power)) * exponent;
        let sum = out.get(&atom).map_or(power.clone(), |old| old + &power);
        out.insert(atom, sum);
    }
    let (monomial, by) = product(&out, &Monomial::new())?;
    factor *= by;
    Ok(Some(Normal::poly(Poly::term(monomial, factor))))
}

fn write_monomial(monomial: &Monomial) -> String {
    monomial.iter().map(|(atom, exponent)| format!("*{atom:?}^{exponent}")).collect()
}
