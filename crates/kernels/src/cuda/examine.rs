//! Whether a GPU computes what it should, and how fast: for whoever looks at a machine before training on it.

use super::{About, Cuda, Error, Options};
use crate::{Attention, AttentionShape, Cpu, Gemm, KeyValue, Memory, Span};
use half::bf16;
use std::time::Instant;

/// What an examination found.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The device and its libraries.
    pub about: About,
    /// Bytes of memory that nobody has.
    pub free: usize,
    /// A product of square matrices in bfloat16.
    pub product: Measured,
    /// Causal attention in bfloat16, four heads that share two of keys and values.
    pub attention: Measured,
}

/// An operator's speed, and how far it is from what it should give.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Rows.
    pub rows: usize,
    /// Additions and multiplications per second, 10^12.
    pub rate: f64,
    /// Largest difference from what is right.
    pub gap: f64,
    /// As large as rounding makes it.
    pub allowed: f64,
}

impl Measured {
    /// Whether the operator gives what it should.
    pub fn is_right(&self) -> bool {
        self.gap <= self.allowed
    }
}

/// Opens a GPU, has it multiply and attend, and compares with the CPU.
///
/// # Errors
/// A library or the GPU is not there, or too old; the GPU fails.
pub fn examine(options: &Options) -> Result<Examination, Error> {
    let cuda = Cuda::<bf16>::open(options)?;
    let free = cuda.free_memory()?;
    // A played GPU takes minutes for what a real one does in a millisecond.
    let (square, length) = if options.played.is_some() { (48, 70) } else { (4096, 2048) };
    let (product, attention) = (product(&cuda, square), attention(&cuda, length));
    let found = Examination { about: cuda.about(), free, product, attention };
    cuda.trouble().map_or(Ok(found), Err)
}

/// Seconds of `work`, once it was done before.
fn seconds(cuda: &Cuda<bf16>, mut work: impl FnMut()) -> f64 {
    const TIMES: u32 = 4;
    work();
    cuda.trouble();
    let begin = Instant::now();
    (0..TIMES).for_each(|_| work());
    cuda.trouble();
    begin.elapsed().as_secs_f64() / f64::from(TIMES)
}

/// `[n, n]` by `[n, n]`, of whole numbers whose sums are exact.
fn product(cuda: &Cuda<bf16>, n: usize) -> Measured {
    let [left, right] = [3, 5].map(|by| move |i: usize, j: usize| ((by * i + 7 * j) % 5) as f32 - 2.0);
    let upload = |of: &dyn Fn(usize, usize) -> f32| {
        let values: Vec<bf16> = (0..n * n).map(|e| bf16::from_f32(of(e / n, e % n))).collect();
        cuda.from_host(n, n, &values)
    };
    let (a, b) = (upload(&left), upload(&right));
    let mut sums = cuda.zeros::<f32>(n, n);
    let seconds = seconds(cuda, || cuda.linear_dw(1.0, a.view(), b.view(), sums.acc()));
    let mut found = cuda.zeros::<f32>(n, n);
    cuda.linear_dw(1.0, a.view(), b.view(), found.acc());
    let found = cuda.to_host(found.view());
    let gap = |e: usize| {
        let (i, j) = (e * 31 % n, e * 17 % n);
        let right: f32 = (0..n).map(|l| left(l, i) * right(l, j)).sum();
        f64::from((found[i * n + j] - right).abs())
    };
    let gap = (0..256).map(gap).fold(0.0, f64::max);
    Measured { rows: n, rate: 2e-12 * (n as f64).powi(3) / seconds, gap, allowed: 0.0 }
}

/// One sequence of `t` rows by itself.
fn attention(cuda: &Cuda<bf16>, t: usize) -> Measured {
    const WIDTH: usize = 64;
    let shape = AttentionShape {
        query_heads: 4,
        kv_heads: 2,
        qk_width: WIDTH,
        v_width: WIDTH,
        scale: (WIDTH as f64).powf(-0.5),
        window: None,
        cap: None,
    };
    let spans = [Span { rows: 0..t, context: 0..0 }];
    let (wide, narrow) = (4 * WIDTH, 2 * WIDTH);
    let of = |cols: usize, seed: usize| -> Vec<bf16> {
        let value = |e: usize| ((e * 2_654_435_761 + seed * 40_503) >> 7) % 2001;
        (0..t * cols).map(|e| bf16::from_f32(value(e) as f32 / 1000.0 - 1.0)).collect()
    };
    let (q, k, v) = (of(wide, 1), of(narrow, 2), of(narrow, 3));
    let mut o = cuda.mat::<bf16>(t, wide);
    let [device_q, device_k, device_v] = [(&q, wide), (&k, narrow), (&v, narrow)].map(|(x, n)| cuda.from_host(t, n, x));
    let kv = KeyValue { k: device_k.view(), v: device_v.view() };
    let seconds = seconds(cuda, || cuda.attention(&shape, &spans, device_q.view(), kv, kv, o.out(), None));
    let found = cuda.to_host(o.view());

    let cpu = Cpu::<f32>::new(1);
    let [q, k, v] = [(&q, wide), (&k, narrow), (&v, narrow)].map(|(x, n)| {
        let values: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        cpu.from_host(t, n, &values)
    });
    let (kv, mut right) = (KeyValue { k: k.view(), v: v.view() }, cpu.mat::<f32>(t, wide));
    cpu.attention(&shape, &spans, q.view(), kv, kv, right.out(), None);
    let gaps = found.iter().zip(cpu.to_host(right.view())).map(|(a, b)| f64::from((a.to_f32() - b).abs()));
    // Probabilities and the result are rounded to bfloat16; values are at most 1.
    let (gap, allowed) = (gaps.fold(0.0, |gap, g| if g.is_nan() { f64::INFINITY } else { g.max(gap) }), 2f64.powi(-7));
    let operations = 4.0 * WIDTH as f64 * 4.0 * (t as f64).powi(2) / 2.0;
    Measured { rows: t, rate: 1e-12 * operations / seconds, gap, allowed }
}
