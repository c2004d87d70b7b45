//! Elementwise over rows.

use super::{Gate, Glu};
use crate::cpu::simd::loops;
use crate::{Cpu, Out, Real, View};

/// An activation: its value and its derivative. A trait and no closure: closures are not compiled for the wider
/// instructions of the loop around them.
trait Curve {
    fn at<E: Real>(x: E) -> (E, E);
}

struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn at<E: Real>(x: E) -> (E, E) {
        let s = E::ONE / (E::ONE + (-x).exp());
        (x * s, s * (E::ONE + x * (E::ONE - s)))
    }
}

/// `tanh` by way of the exponential, which vectorises.
struct Gelu;

impl Curve for Gelu {
    #[inline(always)]
    fn at<E: Real>(x: E) -> (E, E) {
        let (c, k) = (E::of((2.0 / std::f64::consts::PI).sqrt()), E::of(0.044_715));
        let (one, two) = (E::ONE, E::of(2.0));
        let square = x * x;
        // (1 + tanh z / 2) / 2 is the logistic function of z. Of the amount of z, so that one minus it loses no digits.
        let z = two * c * x * (one + k * square);
        let e = (-z.max(-z)).exp();
        let share = one / (one + e);
        let s = if z < E::ZERO { e * share } else { share };
        let slope = two * c * (one + E::of(3.0) * k * square);
        (x * s, s + x * (e * share * share) * slope)
    }
}

#[inline(always)]
fn forward<C: Curve, E: Real>(gate: &[E], up: &[E], a: &mut [E]) {
    for ((a, g), u) in a.iter_mut().zip(gate).zip(up) {
        *a = C::at(*g).0 * *u;
    }
}

#[inline(always)]
fn over<C: Curve, E: Real>(up: &[E], gate_to_a: &mut [E]) {
    for (g, u) in gate_to_a.iter_mut().zip(up) {
        *g = C::at(*g).0 * *u;
    }
}

#[inline(always)]
fn backward<C: Curve, E: Real>([gate, up]: [&[E]; 2], dgate: &mut [E], da_to_dup: &mut [E]) {
    for (((dg, d), g), u) in dgate.iter_mut().zip(da_to_dup).zip(gate).zip(up) {
        let (value, slope) = C::at(*g);
        *dg = *d * *u * slope;
        *d *= value;
    }
}

loops! {
    /// One row.
    trait GluLoops {
        fn glu_row(g: Gate, gate: &[E], up: &[E], a: &mut [E]) {
            match g {
                Gate::Silu => forward::<Silu, E>(gate, up, a),
                Gate::Gelu => forward::<Gelu, E>(gate, up, a),
            }
        }
        fn glu_over_row(g: Gate, up: &[E], gate_to_a: &mut [E]) {
            match g {
                Gate::Silu => over::<Silu, E>(up, gate_to_a),
                Gate::Gelu => over::<Gelu, E>(up, gate_to_a),
            }
        }
        fn glu_back_row(g: Gate, inputs: [&[E]; 2], dgate: &mut [E], da_to_dup: &mut [E]) {
            match g {
                Gate::Silu => backward::<Silu, E>(inputs, dgate, da_to_dup),
                Gate::Gelu => backward::<Gelu, E>(inputs, dgate, da_to_dup),
            }
        }
    }
}

impl<E: Real> Glu for Cpu<E> {
    fn glu(&self, g: Gate, gate: View<Self, E>, up: View<Self, E>, a: Out<Self, E>) {
        assert!(gate.shape() == a.shape() && up.shape() == a.shape());
        self.each(a.row_chunks(16), |(first, mut a)| {
            for t in 0..a.rows {
                E::glu_row(g, gate.row(first + t), up.row(first + t), a.row_mut(t));
            }
        });
    }

    fn glu_over(&self, g: Gate, up: View<Self, E>, gate_to_a: Out<Self, E>) {
        assert!(up.shape() == gate_to_a.shape());
        self.each(gate_to_a.row_chunks(16), |(first, mut gate)| {
            for t in 0..gate.rows {
                E::glu_over_row(g, up.row(first + t), gate.row_mut(t));
            }
        });
    }

    fn glu_back(&self, g: Gate, inputs: [View<Self, E>; 2], dgate: Out<Self, E>, da_to_dup: Out<Self, E>) {
        assert!(inputs.iter().map(View::shape).chain([dgate.shape()]).all(|s| s == da_to_dup.shape()));
        let tasks = dgate.row_chunks(16).into_iter().zip(da_to_dup.row_chunks(16)).collect();
        self.each(tasks, |((first, mut dgate), (_, mut d))| {
            for t in 0..dgate.rows {
                E::glu_back_row(g, inputs.map(|m| m.row(first + t)), dgate.row_mut(t), d.row_mut(t));
            }
        });
    }
}
