//! The loops of products whose rows stand apart, in plain Rust; [`super::x86`] and [`super::avx2`] have the same sums in registers.

use super::{Apart, Held, Rows, row_of};
use crate::cpu::simd::{Isa, isa};
use crate::{Cpu, Dst, Out, Real};

/// Running sums of a dot product.
pub(crate) const SUMS: usize = 16;
/// Columns of a mix that are added up together.
const STRIP: usize = 256;

/// `a * b + c`, rounded once where `FUSED`.
#[inline(always)]
fn times_plus<E: Real, const FUSED: bool>(a: E, b: E, c: E) -> E {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// A dot product: sum `l` takes the entries `l`, `l + 16`, ..; then halves are joined.
#[inline(always)]
fn dot<E: Real, const FUSED: bool>(x: &[E], w: &[E]) -> E {
    let mut sums = [E::ZERO; SUMS];
    let full = x.len() - x.len() % SUMS;
    let (x, w) = (x.split_at(full), w.split_at(full));
    for (x, w) in x.0.chunks_exact(SUMS).zip(w.0.chunks_exact(SUMS)) {
        for l in 0..SUMS {
            sums[l] = times_plus::<E, FUSED>(x[l], w[l], sums[l]);
        }
    }
    for (l, (x, w)) in x.1.iter().zip(w.1).enumerate() {
        sums[l] = times_plus::<E, FUSED>(*x, *w, sums[l]);
    }
    let sums = std::hint::black_box(sums);
    let eight: [E; 8] = std::array::from_fn(|l| sums[l] + sums[l + 8]);
    let four: [E; 4] = std::array::from_fn(|l| eight[l] + eight[l + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

#[inline(always)]
fn dots<E: Real, const FUSED: bool>(x: &[&[E]], w: &Held<'_, E>, out: &mut Out<'_, Cpu<E>, E>, add: bool) {
    let mut scratch = vec![E::ZERO; w.cols];
    for j in 0..w.rows {
        let row = w.read(j, 0..w.cols, &mut scratch);
        for (t, x) in x.iter().enumerate() {
            let (y, sum) = (&mut row_of(out, t, j..j + 1)[0], dot::<E, FUSED>(x, row));
            *y = if add { *y + sum } else { sum };
        }
    }
}

#[inline(always)]
fn mix<E: Real, const FUSED: bool>(p: &[&[E]], w: &Held<'_, E>, out: &mut Out<'_, Cpu<E>, E>, add: bool) {
    let mut scratch = [E::ZERO; STRIP];
    for first in (0..w.cols).step_by(STRIP) {
        let cols = first..(first + STRIP).min(w.cols);
        if !add {
            (0..p.len()).for_each(|t| row_of(out, t, cols.clone()).fill(E::ZERO));
        }
        for j in 0..w.rows {
            let row = w.read(j, cols.clone(), &mut scratch);
            for (t, p) in p.iter().enumerate() {
                for (y, w) in row_of(out, t, cols.clone()).iter_mut().zip(row) {
                    *y = times_plus::<E, FUSED>(p[j], *w, *y);
                }
            }
        }
    }
}

/// Compiles both loops for each instruction set.
macro_rules! plain {
    ($float:ty, $module:ident) => {
        pub(crate) mod $module {
            use super::*;
            /// # Safety
            /// The processor has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn dots_fused(x: &[&[$float]], w: &Held<$float>, out: &mut Out<Cpu<$float>, $float>, add: bool) {
                dots::<$float, true>(x, w, out, add);
            }
            /// # Safety
            /// The processor has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn mix_fused(p: &[&[$float]], w: &Held<$float>, out: &mut Out<Cpu<$float>, $float>, add: bool) {
                mix::<$float, true>(p, w, out, add);
            }
            pub(crate) fn dots_plain(x: &[&[$float]], w: &Held<$float>, mut y: Dst<Cpu<$float>, $float>) {
                #[cfg(target_arch = "x86_64")]
                if isa() != Isa::Plain && is_x86_feature_detected!("fma") {
                    // SAFETY: just detected.
                    return unsafe { dots_fused(x, w, &mut y.out, y.add) };
                }
                dots::<$float, { cfg!(not(target_arch = "x86_64")) }>(x, w, &mut y.out, y.add)
            }
            pub(crate) fn mix_plain(p: &[&[$float]], w: &Held<$float>, mut y: Dst<Cpu<$float>, $float>) {
                #[cfg(target_arch = "x86_64")]
                if isa() != Isa::Plain && is_x86_feature_detected!("fma") {
                    // SAFETY: just detected.
                    return unsafe { mix_fused(p, w, &mut y.out, y.add) };
                }
                mix::<$float, { cfg!(not(target_arch = "x86_64")) }>(p, w, &mut y.out, y.add)
            }
        }
    };
}
plain!(f32, single);
plain!(f64, double);

/// Panics on what the loops may not be given.
fn check<E: Real>(x: &[&[E]], inner: usize, w: &Held<E>, out: &Out<Cpu<E>, E>, cols: usize) {
    assert!(x.iter().all(|x| x.len() == inner), "rows of another length than {inner}");
    assert!(out.rows == x.len() && out.cols == cols, "{} x {cols} into {} x {}", x.len(), out.rows, out.cols);
    assert!(w.rows > 0 || out.rows == 0 || cols == 0 || inner == 0);
}

impl Apart for f32 {
    fn dots(x: &[&[f32]], Rows(w): Rows<'_, f32>, out: Dst<'_, Cpu<f32>, f32>) {
        check(x, w.cols, &w, &out.out, w.rows);
        #[cfg(target_arch = "x86_64")]
        if isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bw") {
            // SAFETY: detected; shapes were checked above.
            return unsafe { super::x86::dots(x, &w, out) };
        }
        #[cfg(target_arch = "x86_64")]
        if isa() != Isa::Plain && is_x86_feature_detected!("fma") {
            // SAFETY: detected, AVX2 as well; shapes were checked above.
            return unsafe { super::avx2::dots(x, &w, out) };
        }
        single::dots_plain(x, &w, out);
    }
    fn mix(p: &[&[f32]], Rows(w): Rows<'_, f32>, out: Dst<'_, Cpu<f32>, f32>) {
        check(p, w.rows, &w, &out.out, w.cols);
        #[cfg(target_arch = "x86_64")]
        if isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bw") {
            // SAFETY: detected; shapes were checked above.
            return unsafe { super::x86::mix(p, &w, out) };
        }
        #[cfg(target_arch = "x86_64")]
        if isa() != Isa::Plain && w.kind == super::Kind::Own && is_x86_feature_detected!("fma") {
            // SAFETY: detected, AVX2 as well; shapes were checked above.
            return unsafe { super::avx2::mix(p, &w, out) };
        }
        single::mix_plain(p, &w, out);
    }
}

impl Apart for f64 {
    fn dots(x: &[&[f64]], Rows(w): Rows<'_, f64>, out: Dst<'_, Cpu<f64>, f64>) {
        check(x, w.cols, &w, &out.out, w.rows);
        double::dots_plain(x, &w, out);
    }
    fn mix(p: &[&[f64]], Rows(w): Rows<'_, f64>, out: Dst<'_, Cpu<f64>, f64>) {
        check(p, w.rows, &w, &out.out, w.cols);
        double::mix_plain(p, &w, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostTensor, Memory, StoredDtype, Weight};
    use std::sync::Arc;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            // A multiple of 2^-6 below 2, so that bf16 and f16 hold it.
            (state >> 25) as f32 / 64.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn stored(cpu: &Cpu<f32>, dtype: StoredDtype, rows: usize, cols: usize, values: &[f32]) -> crate::cpu::CpuStored {
        let bytes: Vec<u8> = match dtype {
            StoredDtype::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            StoredDtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        cpu.store(HostTensor::new(Arc::new(bytes), dtype), rows, cols)
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company_and_storage() {
        const T: usize = 19;
        let cpu = Cpu::<f32>::new(2);
        for (k, o) in [(1, 1), (16, 4), (17, 5), (24, 6), (33, 70), (100, 130), (515, 37), (896, 19), (1039, 13)] {
            let (x, values) = (noise(T * k, 1), noise(k * o, 2));
            let all = cpu.from_host(T, k, &x);
            let exact = |t: usize, j: usize| -> f64 {
                (0..k).map(|i| f64::from(x[t * k + i]) * f64::from(values[j * k + i])).sum()
            };
            let mut bits: Option<Vec<u32>> = None;
            for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
                let w = stored(&cpu, dtype, o, k, &values);
                for rows in [1, 2, 3, 4, 5, 9, T] {
                    let mut y = cpu.mat::<f32>(T, o);
                    for first in (0..T).step_by(rows) {
                        let some = first..(first + rows).min(T);
                        let dst = y.out().rows(some.clone()).into();
                        super::super::linear(&cpu, 1.0, all.view().rows(some), Weight::Stored(&w), dst);
                    }
                    let y = cpu.to_host(y.view());
                    let off = (0..T * o).map(|i| (f64::from(y[i]) - exact(i / o, i % o)).abs()).fold(0.0, f64::max);
                    assert!(off < 1e-4, "{off} at {k} x {o}");
                    let now: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                    assert!(
                        *bits.get_or_insert_with(|| now.clone()) == now,
                        "{k} x {o}, {dtype:?}, {rows} rows at a time"
                    );
                }
                let mut twice = cpu.mat::<f32>(T, o);
                super::super::linear(&cpu, 1.0, all.view(), Weight::Stored(&w), twice.out().into());
                super::super::linear(&cpu, 1.0, all.view(), Weight::Stored(&w), twice.out().into_acc().into());
                let twice: Vec<u32> = cpu.to_host(twice.view()).iter().map(|y| (y / 2.0).to_bits()).collect();
                assert!(bits.as_ref() == Some(&twice), "{k} x {o}, {dtype:?}: added");
                // The same with every instruction set that fuses.
                let (x, mut y) = (super::super::slices(all.view()), cpu.mat::<f32>(T, o));
                let held = Held::weight(Weight::Stored(&w)).unwrap_or_else(|_| panic!("read as it is"));
                if isa() != Isa::Plain {
                    single::dots_plain(&x, &held, y.out().into());
                    let now: Vec<u32> = cpu.to_host(y.view()).iter().map(|y| y.to_bits()).collect();
                    assert!(bits.as_ref() == Some(&now), "{k} x {o}, {dtype:?}: plain loops");
                }
            }
        }
    }

    #[test]
    fn a_mix_has_the_same_bits_in_any_company_and_storage() {
        let cpu = Cpu::<f32>::new(2);
        for (k, n) in [(1, 1), (16, 64), (17, 5), (33, 70), (40, 130), (7, 515)] {
            let (p, values) = (noise(9 * k, 3), noise(k * n, 4));
            let all = cpu.from_host(9, k, &p);
            let exact = |t: usize, c: usize| -> f64 {
                (0..k).map(|j| f64::from(p[t * k + j]) * f64::from(values[j * n + c])).sum()
            };
            let mut bits: Option<Vec<u32>> = None;
            for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
                let w = stored(&cpu, dtype, k, n, &values);
                for rows in [1, 2, 3, 4, 5, 9] {
                    let mut y = cpu.mat::<f32>(9, n);
                    for first in (0..9).step_by(rows) {
                        let some = first..(first + rows).min(9);
                        let dst = y.out().rows(some.clone()).into();
                        super::super::linear_turned(&cpu, 1.0, all.view().rows(some), Weight::Stored(&w), dst);
                    }
                    let y = cpu.to_host(y.view());
                    let off = (0..9 * n).map(|i| (f64::from(y[i]) - exact(i / n, i % n)).abs()).fold(0.0, f64::max);
                    assert!(off < 1e-4, "{off} at {k} x {n}");
                    let now: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                    assert!(
                        *bits.get_or_insert_with(|| now.clone()) == now,
                        "{k} x {n}, {dtype:?}, {rows} rows at a time"
                    );
                }
                let (p, mut y) = (super::super::slices(all.view()), cpu.mat::<f32>(9, n));
                let held = Held::weight(Weight::Stored(&w)).unwrap_or_else(|_| panic!("read as it is"));
                if isa() != Isa::Plain {
                    single::mix_plain(&p, &held, y.out().into());
                    let now: Vec<u32> = cpu.to_host(y.view()).iter().map(|y| y.to_bits()).collect();
                    assert!(bits.as_ref() == Some(&now), "{k} x {n}, {dtype:?}: plain loops");
                }
            }
        }
    }
}
