//! A few thousand elements at a time are unpacked, updated and packed again.

use super::code::{SIGNED, UNSIGNED, encode};
use super::{Adamw8, BLOCK, MomentCodes, Moments, Rounding, Values};
use crate::adamw::AdamwStep;
use crate::cpu::simd::loops;
use crate::{Cpu, Out, Real, View};
use half::bf16;

/// Elements handed to a thread at a time; whole blocks.
const CHUNK: usize = 16 * BLOCK;

loops! {
    /// One block with codes.
    trait Adamw8Loops {
        /// In the order, and with the fused additions, of torch's `add_`, `addcmul_` and `addcdiv_` on the CPU.
        fn adamw8_block(s: &AdamwStep, p: &mut [E], g: &[E], m: &mut [E], v: &mut [E]) {
            let root = E::of((1.0 - s.beta2.powf(s.step as f64)).sqrt());
            let (b1, b2) = (E::of(s.beta1), E::of(s.beta2));
            let (c1, c2) = (E::of(1.0 - s.beta1), E::of(1.0 - s.beta2));
            let decay = E::of(1.0 - s.learning_rate * s.weight_decay);
            let rate = E::of(-s.learning_rate / (1.0 - s.beta1.powf(s.step as f64)));
            let (eps, scale) = (E::of(s.epsilon), E::of(s.grad_scale));
            for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = *g * scale;
                *m = g.mul_add(c1, *m * b1);
                *v = (c2 * g).mul_add(g, *v * b2);
                *p = *p * decay + rate * *m / (v.sqrt() / root + eps);
            }
        }
        /// Adds 16 random bits below the last kept one, and cuts.
        fn round_halves(src: &[E], key: u64, first: usize, dst: &mut [bf16]) {
            for (i, (y, x)) in dst.iter_mut().zip(src).enumerate() {
                let bits = (x.f64() as f32).to_bits();
                let random = crate::rows::cpu::mix(key.wrapping_add((first + i) as u64)) as u32 & 0xffff;
                // Infinite values and those that are none stay what they are.
                let carried = if bits & 0x7f80_0000 == 0x7f80_0000 { bits } else { bits.wrapping_add(random) };
                *y = bf16::from_bits((carried >> 16) as u16);
            }
        }
        fn largest(x: &[E]) -> E {
            x.iter().fold(E::ZERO, |m, x| m.max((*x).max(-*x)))
        }
    }
}

/// Values of a moment's codes.
fn decode<E: Real>(map: &[f32; 256], codes: &[u8], absmax: &[E], dst: &mut [E]) {
    for ((codes, dst), absmax) in codes.chunks(BLOCK).zip(dst.chunks_mut(BLOCK)).zip(absmax) {
        dst.iter_mut().zip(codes).for_each(|(y, c)| *y = E::of(f64::from(map[usize::from(*c)])) * *absmax);
    }
}

/// The inverse of [`decode`].
fn requantise<E: Real>(map: &[f32; 256], rounding: Rounding, src: &[E], codes: &mut [u8], absmax: &mut [E]) {
    for ((codes, src), absmax) in codes.chunks_mut(BLOCK).zip(src.chunks(BLOCK)).zip(absmax) {
        *absmax = E::largest(src);
        let unit = if *absmax == E::ZERO { E::ONE } else { *absmax };
        codes.iter_mut().zip(src).for_each(|(c, x)| *c = encode(map, rounding, (*x / unit).f64() as f32));
    }
}

/// A range cut into chunks, first element and piece.
type Chunks<'a, E, T> = std::vec::IntoIter<(usize, Out<'a, Cpu<E>, T>)>;

/// Codes of whole blocks, and their largest amounts.
type CodesPiece<'a, E> = (Out<'a, Cpu<E>, u8>, Out<'a, Cpu<E>, E>);

enum StateChunks<'a, E: Real> {
    Real(Chunks<'a, E, E>, Chunks<'a, E, E>),
    Codes([(Chunks<'a, E, u8>, Chunks<'a, E, E>); 2], Rounding),
}

enum State<'a, E: Real> {
    Real([Out<'a, Cpu<E>, E>; 2]),
    Codes([CodesPiece<'a, E>; 2], Rounding),
}

enum Piece<'a, E: Real> {
    Real(Out<'a, Cpu<E>, E>),
    Half(Out<'a, Cpu<E>, bf16>, u64),
}

fn cut<E: Real, T>(out: Out<Cpu<E>, T>, chunk: usize) -> Chunks<E, T> {
    out.col_chunks(chunk).into_iter()
}

impl<'a, E: Real> StateChunks<'a, E> {
    fn new(moments: Moments<'a, Cpu<E>>, n: usize) -> StateChunks<'a, E> {
        match moments {
            Moments::Real { m, v } => {
                assert!(m.shape() == (1, n) && v.shape() == (1, n));
                StateChunks::Real(cut(m.inner(), CHUNK), cut(v.inner(), CHUNK))
            }
            Moments::Codes { m, v, rounding } => {
                let cut = |MomentCodes { codes, absmax }: MomentCodes<'a, Cpu<E>>| {
                    assert!(codes.shape() == (1, n) && absmax.shape() == (1, n.div_ceil(BLOCK)));
                    (cut(codes.inner(), CHUNK), cut(absmax.inner(), CHUNK / BLOCK))
                };
                StateChunks::Codes([m, v].map(cut), rounding)
            }
        }
    }

    fn next(&mut self) -> State<'a, E> {
        fn piece<'a, E: Real, T>(chunks: &mut Chunks<'a, E, T>) -> Out<'a, Cpu<E>, T> {
            chunks.next().expect("as many pieces as the gradient has").1
        }
        match self {
            StateChunks::Real(m, v) => State::Real([piece(m), piece(v)]),
            StateChunks::Codes([m, v], rounding) => {
                State::Codes([(piece(&mut m.0), piece(&mut m.1)), (piece(&mut v.0), piece(&mut v.1))], *rounding)
            }
        }
    }
}

fn update<E: Real>(s: &AdamwStep, p: &mut [E], g: &[E], state: State<E>) {
    match state {
        State::Real([mut m, mut v]) => E::adamw_block(s, p, g, m.row_mut(0), v.row_mut(0)),
        State::Codes([(mut mc, mut ma), (mut vc, mut va)], rounding) => {
            let mut moments = vec![E::ZERO; 2 * g.len()];
            let (m, v) = moments.split_at_mut(g.len());
            decode(&SIGNED, mc.row_mut(0), ma.row_mut(0), m);
            decode(&UNSIGNED, vc.row_mut(0), va.row_mut(0), v);
            E::adamw8_block(s, p, g, m, v);
            requantise(&SIGNED, rounding, m, mc.row_mut(0), ma.row_mut(0));
            requantise(&UNSIGNED, rounding, v, vc.row_mut(0), va.row_mut(0));
        }
    }
}

impl<E: Real> Adamw8 for Cpu<E> {
    fn adamw8(&self, s: &AdamwStep, p: Values<Self>, g: View<Self, E>, moments: Moments<Self>) {
        let n = g.cols;
        assert!(g.rows == 1);
        let pieces: Vec<(usize, Piece<E>)> = match p {
            Values::Real(p) => {
                assert!(p.shape() == (1, n));
                cut(p.inner(), CHUNK).map(|(first, p)| (first, Piece::Real(p))).collect()
            }
            Values::Half { values, key } => {
                assert!(values.shape() == (1, n));
                cut(values.inner(), CHUNK).map(|(first, p)| (first, Piece::Half(p, key))).collect()
            }
        };
        let mut state = StateChunks::new(moments, n);
        let tasks = pieces.into_iter().map(|(first, p)| (first, p, state.next())).collect();
        self.each(tasks, |(first, p, state)| match p {
            Piece::Real(mut p) => {
                let n = p.cols;
                update(s, p.row_mut(0), &g.row(0)[first..][..n], state);
            }
            Piece::Half(mut half, key) => {
                let mut p = vec![E::ZERO; half.cols];
                E::unpack_halves(half.row_mut(0), &mut p);
                update(s, &mut p, &g.row(0)[first..][..half.cols], state);
                E::round_halves(&p, key, first, half.row_mut(0));
            }
        });
    }
}
