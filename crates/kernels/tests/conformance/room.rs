//! Matrices with or without gaps, filled with noise, and the comparison of what an operator left in them.

use kernels::{Acc, Coded, Codes, Elem, HostTensor, Mat, Memory, Out, Scales, StoredDtype, View};
use std::sync::Arc;
use testkit::{Float, noise, slope, to, tolerance};

/// A matrix inside a wider one whose other columns hold NaN and must go on doing so.
pub(crate) struct Framed<B: Memory, T: Elem> {
    mat: Mat<B, T>,
    cols: usize,
    gap: usize,
    /// The values it was made with, as the device holds them.
    pub(crate) at: Vec<f64>,
}

impl<B: Memory, T: Elem + Float> Framed<B, T> {
    pub(crate) fn view(&self) -> View<'_, B, T> {
        self.mat.view().cols(self.gap..self.gap + self.cols)
    }
    pub(crate) fn out(&mut self) -> Out<'_, B, T> {
        self.mat.out().cols(self.gap..self.gap + self.cols)
    }
    pub(crate) fn acc(&mut self) -> Acc<'_, B, T> {
        self.out().into_acc()
    }
}

/// What a check works with.
pub(crate) struct Room<'a, B> {
    pub(crate) backend: &'a B,
    /// Columns before and after every matrix that belong to nobody.
    pub(crate) gap: usize,
    /// Everything that was compared.
    pub(crate) computed: Vec<f64>,
}

impl<'a, B: Memory> Room<'a, B> {
    pub(crate) fn new(backend: &'a B, gap: usize) -> Self {
        Room { backend, gap, computed: Vec::new() }
    }

    /// A matrix of the given values, rounded.
    pub(crate) fn of<T: Elem + Float>(&self, rows: usize, cols: usize, values: &[f64]) -> Framed<B, T> {
        assert_eq!(values.len(), rows * cols);
        let (gap, wide) = (self.gap, cols + 2 * self.gap);
        let held: Vec<T> = to(values);
        let mut host = vec![T::of(f64::NAN); rows * wide];
        for i in 0..rows {
            host[i * wide + gap..i * wide + gap + cols].copy_from_slice(&held[i * cols..(i + 1) * cols]);
        }
        Framed { mat: self.backend.from_host(rows, wide, &host), cols, gap, at: to(&held) }
    }

    /// A matrix of noise in [-1, 1).
    pub(crate) fn noise<T: Elem + Float>(&self, rows: usize, cols: usize, seed: u64) -> Framed<B, T> {
        self.of(rows, cols, &noise(rows * cols, seed))
    }

    /// A matrix to be overwritten: what is in it is NaN.
    pub(crate) fn blank<T: Elem + Float>(&self, rows: usize, cols: usize) -> Framed<B, T> {
        self.of(rows, cols, &vec![f64::NAN; rows * cols])
    }

    /// Row numbers or tokens, `[n, 1]`, one of several columns.
    pub(crate) fn ids(&self, ids: &[u32]) -> Mat<B, u32> {
        let wide: Vec<u32> = ids.iter().flat_map(|&id| std::iter::repeat_n(u32::MAX, self.gap).chain([id])).collect();
        self.backend.from_host(ids.len(), self.gap + 1, &wide)
    }

    /// The column of [`Room::ids`] that counts.
    pub(crate) fn column<'m>(&self, ids: &'m Mat<B, u32>) -> View<'m, B, u32> {
        ids.view().cols(self.gap..self.gap + 1)
    }

    /// A frozen weight of the given values, and the values that its storage can hold.
    pub(crate) fn stored(&self, dtype: StoredDtype, rows: usize, cols: usize, values: &[f64]) -> (B::Stored, Vec<f64>) {
        if matches!(dtype, StoredDtype::Code4 | StoredDtype::Code8) {
            let (tensor, held) = coded(dtype, values);
            return (self.backend.store(tensor, rows, cols), held);
        }
        let (bytes, held): (Vec<u8>, Vec<f64>) = match dtype {
            StoredDtype::F32 => {
                let held: Vec<f32> = to(values);
                (held.iter().flat_map(|v| v.to_le_bytes()).collect(), to(&held))
            }
            StoredDtype::Bf16 => {
                let held: Vec<half::bf16> = to(values);
                (held.iter().flat_map(|v| v.to_le_bytes()).collect(), to(&held))
            }
            StoredDtype::Mxfp4 => mxfp4(values),
            StoredDtype::Code4 | StoredDtype::Code8 => unreachable!("above"),
            StoredDtype::F16 => {
                let held: Vec<half::f16> = to(values);
                (held.iter().flat_map(|v| v.to_le_bytes()).collect(), to(&held))
            }
        };
        (self.backend.store(HostTensor::new(Arc::new(bytes), dtype), rows, cols), held)
    }

    /// The matrix on the host; panics if an operator wrote beside it.
    pub(crate) fn read<T: Elem + Float>(&self, what: &str, m: &Framed<B, T>) -> Vec<T> {
        let wide = m.cols + 2 * m.gap;
        let all = self.backend.to_host(m.mat.view());
        let inside = |i: usize| (m.gap..m.gap + m.cols).contains(&(i % wide));
        assert!((0..all.len()).all(|i| inside(i) || all[i].f64().is_nan()), "{what}: wrote between the rows");
        (0..all.len()).filter(|&i| inside(i)).map(|i| all[i]).collect()
    }

    /// Compares numbers on the host with the definition, entries of which are sums of `length` terms.
    pub(crate) fn expect_host<T: Float>(&mut self, what: &str, got: &[T], want: &[f64], length: usize) {
        testkit::assert_close(what, got, want, length);
        self.computed.extend(got.iter().map(|g| g.f64()));
    }

    /// Compares a matrix with the definition.
    pub(crate) fn expect<T: Elem + Float>(&mut self, what: &str, got: &Framed<B, T>, want: &[f64], length: usize) {
        let got = self.read(what, got);
        self.expect_host(what, &got, want, length);
    }

    /// Requires exact equality.
    pub(crate) fn expect_exactly<T: Elem + Float>(&mut self, what: &str, got: &Framed<B, T>, want: &[f64]) {
        let got: Vec<f64> = to(&self.read(what, got));
        assert!(got == want, "{what}: not the same bits");
        self.computed.extend(got);
    }

    /// Compares a gradient with the slopes of `loss` at `at`, in up to a dozen entries.
    pub(crate) fn expect_slopes<T: Elem + Float>(
        &mut self,
        what: &str,
        got: &Framed<B, T>,
        at: &[f64],
        mut loss: impl FnMut(&[f64]) -> f64,
        length: usize,
    ) {
        let got: Vec<f64> = to(&self.read(what, got));
        assert_eq!(got.len(), at.len(), "{what}: number of entries");
        let largest = got.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        // Inputs are of size one, and so are the terms that cancel in a small gradient; differences are good for nine digits.
        let allowed = (tolerance(T::DTYPE, length) + 1e-9) * (1.0 + largest);
        let mut moved = at.to_vec();
        for i in (0..at.len()).step_by((at.len() / 12).max(1)) {
            let want = slope(|h| {
                moved[i] = at[i] + h;
                loss(&moved)
            });
            moved[i] = at[i];
            let apart = (got[i] - want).abs();
            assert!(apart <= allowed, "{what} entry {i}: {} for a slope of {want}, {allowed:.1e} allowed", got[i]);
        }
        self.computed.extend(got);
    }
}

/// Sum of products.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Entry by entry.
pub(crate) fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Blocks of 32 values, rounded to the nearest code under the scale that fits the largest of them.
fn mxfp4(values: &[f64]) -> (Vec<u8>, Vec<f64>) {
    const CODES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (mut bytes, mut held) = (Vec::new(), Vec::new());
    for block in values.chunks_exact(32) {
        let largest = block.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
        let exponent = (largest / 6.0).log2().ceil();
        let code = |x: f64| {
            let near = |a: &&usize, b: &&usize| {
                let gap = |i: usize| (CODES[i] - (x / exponent.exp2()).abs()).abs();
                gap(**a).total_cmp(&gap(**b))
            };
            let best = *[0, 1, 2, 3, 4, 5, 6, 7].iter().min_by(near).unwrap();
            (best as u8) | if x < 0.0 { 8 } else { 0 }
        };
        let codes: Vec<u8> = block.iter().map(|x| code(*x)).collect();
        bytes.push((exponent + 127.0) as u8);
        bytes.extend(codes.chunks(2).map(|c| c[0] | c[1] << 4));
        let value = |c: &u8| CODES[usize::from(c & 7)] * exponent.exp2() * if c & 8 == 0 { 1.0 } else { -1.0 };
        held.extend(codes.iter().map(value));
    }
    (bytes, held)
}

/// Codes in blocks of 64, each with a scale that is quantised itself; three elements of something else come first. Values of four
/// bits are rounded to bf16. The nearest codes need not be found: any are codes of something.
fn coded(dtype: StoredDtype, values: &[f64]) -> (HostTensor, Vec<f64>) {
    const FIRST: usize = 3;
    const BLOCK: usize = 64;
    let (n, four) = (FIRST + values.len(), dtype == StoredDtype::Code4);
    let table: [f32; 16] = std::array::from_fn(|i| (i as f32 - 7.3) / 8.0);
    let own = |i: usize| if i < FIRST { 0.7 } else { values[i - FIRST] };
    let bytes: Vec<u8> = match four {
        true => {
            let code = |i: usize| if i < n { (own(i) * 8.0 + 7.3).round().clamp(0.0, 15.0) as u8 } else { 9 };
            (0..n.div_ceil(2)).map(|i| code(2 * i) << 4 | code(2 * i + 1)).collect()
        }
        false => (0..n).map(|i| (own(i) * 90.0).round().clamp(-127.0, 127.0) as i8 as u8).collect(),
    };
    let scales = Scales::Nested {
        codes: (0..n.div_ceil(BLOCK)).map(|b| (b * 37 % 256) as u8).collect(),
        table: Box::new(std::array::from_fn(|i| i as f32 / 300.0)),
        block: 5,
        scales: (0..n.div_ceil(5 * BLOCK)).map(|b| 0.5 + b as f32 / 9.0).collect(),
        offset: 0.25,
    };
    let scale = |i: usize| scales.at(i / BLOCK);
    let held = (FIRST..n).map(|i| match four {
        true => {
            let code = if i % 2 == 0 { bytes[i / 2] >> 4 } else { bytes[i / 2] & 15 };
            half::bf16::from_f32(table[usize::from(code)] * scale(i)).to_f64()
        }
        false => f64::from(f32::from(bytes[i] as i8) * scale(i) * (1.0 / 127.0)),
    });
    let held = held.collect();
    let codes = Arc::new(Codes { table, block: BLOCK, scales, rounded: StoredDtype::Bf16 });
    (HostTensor { bytes: Arc::new(bytes), dtype, coded: Some(Coded { codes, first: FIRST }) }, held)
}
