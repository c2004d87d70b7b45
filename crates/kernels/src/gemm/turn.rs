//! Turning rows of a weight into columns, in registers: an exact copy, so every instruction set gives the same bits.

use crate::cpu::simd::{Isa, isa};

/// Rows of a weight that are turned together: a cache line of f32.
pub(crate) const TURNED: usize = 16;

/// Floats that can be turned.
pub trait Turn: Sized + Copy {
    /// `dst[c * ld + r] = src[r][c]` for the columns that all rows have.
    fn turn_rows(src: &[&[Self]; TURNED], dst: &mut [Self], ld: usize);
}

impl Turn for f32 {
    fn turn_rows(src: &[&[f32]; TURNED], dst: &mut [f32], ld: usize) {
        let width = src[0].len();
        assert!(src.iter().all(|row| row.len() == width) && ld >= TURNED, "rows of one length into rows {ld} apart");
        assert!(width == 0 || dst.len() >= (width - 1) * ld + TURNED, "{width} rows {ld} apart in {}", dst.len());
        let turned = match isa() {
            // SAFETY: the features were detected, and the assertions above are what the functions ask for.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::turn_512(src, dst, ld) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::turn_256(src, dst, ld) },
            Isa::Plain => 0,
        };
        turn_from(turned, src, dst, ld);
    }
}

impl Turn for f64 {
    fn turn_rows(src: &[&[f64]; TURNED], dst: &mut [f64], ld: usize) {
        turn_from(0, src, dst, ld);
    }
}

/// The columns from `first` on, one by one.
fn turn_from<E: Copy>(first: usize, src: &[&[E]; TURNED], dst: &mut [E], ld: usize) {
    let width = src[0].len();
    let src = src.map(|row| &row[..width]);
    for (c, dst) in dst.chunks_mut(ld).enumerate().take(width).skip(first) {
        let column: [E; TURNED] = std::array::from_fn(|r| src[r][c]);
        dst[..TURNED].copy_from_slice(&column);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::TURNED;
    use std::arch::x86_64::*;

    /// Turns the columns up to the last whole four of them, and says how many those are. Four columns of four rows at a time:
    /// 128-bit loads put rows `r`, `r + 4`, `r + 8` and `r + 12` beside each other, and two rounds of unpacking turn each quarter.
    ///
    /// # Safety
    /// AVX-512F and DQ; all rows of `src` are as long as the first, and `dst` holds `ld` times their length (the last row needs
    /// [`TURNED`] only).
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2")]
    pub(super) unsafe fn turn_512(src: &[&[f32]; TURNED], dst: &mut [f32], ld: usize) -> usize {
        let width = src[0].len() & !3;
        for c in (0..width).step_by(4) {
            // SAFETY: `c + 4 <= width`, which the caller has compared with rows and destination.
            unsafe {
                let four = |r: usize| _mm_loadu_ps(src[r].as_ptr().add(c));
                let rows = |r: usize| {
                    let x = _mm512_insertf32x4::<1>(_mm512_castps128_ps512(four(r)), four(r + 4));
                    _mm512_insertf32x4::<3>(_mm512_insertf32x4::<2>(x, four(r + 8)), four(r + 12))
                };
                let [a, b, c4, d] = [rows(0), rows(1), rows(2), rows(3)];
                let low = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c4, d)].map(|x| _mm512_castps_pd(x));
                let high = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c4, d)].map(|x| _mm512_castps_pd(x));
                let at = dst.as_mut_ptr().add(c * ld);
                _mm512_storeu_ps(at, _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1])));
                _mm512_storeu_ps(at.add(ld), _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1])));
                _mm512_storeu_ps(at.add(2 * ld), _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1])));
                _mm512_storeu_ps(at.add(3 * ld), _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1])));
            }
        }
        width
    }

    /// As [`turn_512`], eight rows at a time.
    ///
    /// # Safety
    /// AVX2; lengths as for [`turn_512`].
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn turn_256(src: &[&[f32]; TURNED], dst: &mut [f32], ld: usize) -> usize {
        let width = src[0].len() & !3;
        for c in (0..width).step_by(4) {
            for half in [0, 8] {
                // SAFETY: as above.
                unsafe {
                    let four = |r: usize| _mm_loadu_ps(src[half + r].as_ptr().add(c));
                    let rows = |r: usize| _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(four(r)), four(r + 4));
                    let [a, b, c4, d] = [rows(0), rows(1), rows(2), rows(3)];
                    let low = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c4, d)].map(|x| _mm256_castps_pd(x));
                    let high = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c4, d)].map(|x| _mm256_castps_pd(x));
                    let at = dst.as_mut_ptr().add(c * ld + half);
                    _mm256_storeu_ps(at, _mm256_castpd_ps(_mm256_unpacklo_pd(low[0], low[1])));
                    _mm256_storeu_ps(at.add(ld), _mm256_castpd_ps(_mm256_unpackhi_pd(low[0], low[1])));
                    _mm256_storeu_ps(at.add(2 * ld), _mm256_castpd_ps(_mm256_unpacklo_pd(high[0], high[1])));
                    _mm256_storeu_ps(at.add(3 * ld), _mm256_castpd_ps(_mm256_unpackhi_pd(high[0], high[1])));
                }
            }
        }
        width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one instruction set made of some rows.
    type Turned = (&'static str, usize, Vec<f32>);

    fn all(width: usize, ld: usize, rows: &[&[f32]; TURNED]) -> Vec<Turned> {
        let len = if width == 0 { 0 } else { (width - 1) * ld + TURNED };
        let mut found = Vec::new();
        let mut plain = vec![-1.0; len];
        turn_from(0, rows, &mut plain, ld);
        found.push(("plain", 0, plain));
        #[cfg(target_arch = "x86_64")]
        {
            if isa() == Isa::Avx512 {
                let mut dst = vec![-1.0; len];
                // SAFETY: detected; lengths as asked for.
                let turned = unsafe { x86::turn_512(rows, &mut dst, ld) };
                turn_from(turned, rows, &mut dst, ld);
                found.push(("512", turned, dst));
            }
            if isa() != Isa::Plain {
                let mut dst = vec![-1.0; len];
                // SAFETY: detected; lengths as asked for.
                let turned = unsafe { x86::turn_256(rows, &mut dst, ld) };
                turn_from(turned, rows, &mut dst, ld);
                found.push(("256", turned, dst));
            }
        }
        found
    }

    #[test]
    fn every_instruction_set_turns_alike_at_awkward_widths() {
        for (width, ld) in [(0, 16), (1, 16), (3, 17), (4, 16), (5, 40), (16, 16), (63, 33), (64, 64)] {
            let values: Vec<Vec<f32>> =
                (0..TURNED).map(|r| (0..width).map(|c| (r * 1000 + c) as f32).collect()).collect();
            let rows: [&[f32]; TURNED] = std::array::from_fn(|r| &values[r][..]);
            for (name, turned, dst) in all(width, ld, &rows) {
                assert!(
                    turned <= width && (name == "plain" || turned == width & !3),
                    "{name} turned {turned} of {width}"
                );
                for (c, line) in dst.chunks(ld).enumerate().take(width) {
                    for (r, &x) in line.iter().enumerate() {
                        let expected = if r < TURNED { (r * 1000 + c) as f32 } else { -1.0 };
                        assert_eq!(x, expected, "{name}: row {r}, column {c} of {width}, {ld} apart");
                    }
                }
            }
        }
    }
}
