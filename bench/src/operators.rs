//! Every operator of the CPU by itself: time, bytes, operations, and how near it comes to what the machine can do.
//!
//! Operations are those of the operator's contract; bytes are each operand once, and a destination that is added into
//! twice. The nearest that an operator could come to is the longer of its operations at the rate of large products and its
//! bytes at that of large copies. Operands that stay in a cache can do better than that.

use crate::arithmetic::median;
use crate::machine::{Rates, threads};
use crate::noise::{floats, tokens};
use kernels::{
    Acc, Adamw, AdamwStep, Attention, AttentionGrads, AttentionSaved, AttentionShape, Cpu, Embed, ForBackward, Gate,
    Gemm, Glu, Head, HeadSaved, HostTensor, KeyValue, Mat, Memory, RmsNorm, RmsNormSaved, Rope, RopeLayout, RopeTable,
    RowOps, Span, StoredDtype, Weight,
};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// One operator on one shape.
#[derive(Serialize)]
pub(crate) struct Operator {
    /// Of the model.
    pub(crate) model: &'static str,
    pub(crate) operator: String,
    /// Rows and columns.
    pub(crate) shape: String,
    /// Median of a call.
    pub(crate) seconds: f64,
    pub(crate) flops: f64,
    pub(crate) bytes: f64,
}

impl Operator {
    /// What limits it at best, and the share of that which it reaches.
    pub(crate) fn bound(&self, rates: Rates) -> (&'static str, f64) {
        let (products, copies) = (self.flops / rates.flops, self.bytes / rates.bytes);
        if products > copies { ("products", products / self.seconds) } else { ("copies", copies / self.seconds) }
    }
}

/// The shapes of a model.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    name: &'static str,
    d: usize,
    f: usize,
    /// Query and key/value heads.
    n: usize,
    k: usize,
    /// Width of a head.
    h: usize,
    v: usize,
}

/// The models whose shapes are measured.
pub(crate) const SHAPES: [Shape; 2] = [
    Shape { name: "small-105m", d: 512, f: 1408, n: 8, k: 4, h: 64, v: 151_665 },
    Shape { name: "qwen2.5-0.5b", d: 896, f: 4864, n: 14, k: 2, h: 64, v: 151_936 },
];

impl Shape {
    /// The model's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

/// Rows, in four segments of 256.
const T: usize = 1024;
/// Scored rows.
const S: usize = 512;
/// Adapter rank.
const R: usize = crate::args::RANK;
/// Elements of the optimiser's ranges.
const P: usize = 1 << 24;

/// An operator is called for about this long, and at least [`CALLS`] times.
const SECONDS: f64 = 0.25;
const CALLS: usize = 5;

struct Table<'a> {
    cpu: &'a Cpu<f32>,
    shape: Shape,
    rows: Vec<Operator>,
}

/// Measures every operator on one shape.
pub(crate) fn measure(shape: Shape) -> Vec<Operator> {
    let cpu = Cpu::<f32>::new(threads());
    let mut table = Table { cpu: &cpu, shape, rows: Vec::new() };
    table.products();
    table.adapters();
    table.norms_and_activation();
    table.attention();
    table.embedding();
    table.head();
    table.rows();
    table.optimiser();
    table.rows
}

/// Bytes of `n` floats.
fn floats_of(n: usize) -> f64 {
    4.0 * n as f64
}

impl<'a> Table<'a> {
    /// Calls `work` until its median is known. `elements` are floats read and written.
    fn add(&mut self, operator: &str, shape: String, flops: usize, elements: usize, mut work: impl FnMut()) {
        work();
        let begin = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < CALLS || (begin.elapsed().as_secs_f64() < SECONDS && seconds.len() < 1000) {
            let begin = Instant::now();
            work();
            seconds.push(begin.elapsed().as_secs_f64());
        }
        self.rows.push(Operator {
            model: self.shape.name,
            operator: operator.to_owned(),
            shape,
            seconds: median(seconds),
            flops: flops as f64,
            bytes: floats_of(elements),
        });
    }

    fn mat(&self, rows: usize, cols: usize) -> Mat<Cpu<f32>, f32> {
        self.cpu.from_host(rows, cols, &floats(rows * cols, (rows + cols) as u64))
    }

    fn stored(&self, rows: usize, cols: usize, dtype: StoredDtype) -> <Cpu<f32> as Memory>::Stored {
        let values = floats(rows * cols, (rows ^ cols) as u64);
        // The upper half of a float is the nearest bf16 towards zero.
        let first = 4 - dtype.bytes(1);
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()[first..].to_vec()).collect();
        self.cpu.store(HostTensor::new(Arc::new(bytes), dtype), rows, cols)
    }

    fn products(&mut self) {
        let (cpu, Shape { d, f, n, k, h, .. }) = (self.cpu, self.shape);
        for (name, o, i) in [("q", n * h, d), ("k", k * h, d), ("gate", f, d), ("down", d, f)] {
            let (x, mut y, mut dw) = (self.mat(T, i), self.mat(T, o), cpu.zeros::<f32>(o, i));
            let mut dx = self.mat(T, i);
            let (flops, all, shape) = (2 * T * o * i, T * i + T * o + o * i, format!("{T} x {i} -> {o}"));
            let w = self.mat(o, i);
            let w = Weight::Param(w.view());
            self.add(&format!("linear {name}"), shape.clone(), flops, all, || cpu.linear(1.0, x.view(), w, y.out()));
            self.add(&format!("linear_dx {name}"), shape.clone(), flops, all, || {
                cpu.linear_dx(1.0, y.view(), w, dx.out());
            });
            self.add(&format!("linear_dw {name}"), shape.clone(), flops, all + o * i, || {
                cpu.linear_dw(1.0, y.view(), x.view(), dw.acc());
            });
            if name != "gate" {
                continue;
            }
            for (dtype, of, size) in [(StoredDtype::F32, "f32", 2), (StoredDtype::Bf16, "bf16", 1)] {
                let w = self.stored(o, i, dtype);
                let (w, all) = (Weight::Stored(&w), T * i + T * o + o * i * size / 2);
                self.add(&format!("linear {name}, stored {of}"), shape.clone(), flops, all, || {
                    cpu.linear(1.0, x.view(), w, y.out());
                });
                self.add(&format!("linear_dx {name}, stored {of}"), shape.clone(), flops, all, || {
                    cpu.linear_dx(1.0, y.view(), w, dx.out());
                });
            }
        }
    }

    /// The five products of a low-rank addition to `gate`.
    fn adapters(&mut self) {
        let (cpu, Shape { d, f, .. }) = (self.cpu, self.shape);
        let (x, mut y, mut u) = (self.mat(T, d), self.mat(T, f), self.mat(T, R));
        let (a, b) = (self.mat(R, d), self.mat(f, R));
        let (mut da, mut db, mut du, mut dx) = (self.mat(R, d), self.mat(f, R), self.mat(T, R), self.mat(T, d));
        let (wa, wb) = (Weight::Param(a.view()), Weight::Param(b.view()));
        let (narrow, wide) = (2 * T * R * d, 2 * T * R * f);
        let (low, high) = (format!("{T} x {d} -> {R}"), format!("{T} x {R} -> {f}"));
        let (all_low, all_high) = (T * d + R * d + T * R, T * f + R * f + T * R);
        self.add("adapter x A", low.clone(), narrow, all_low, || cpu.linear(1.0, x.view(), wa, u.out()));
        self.add("adapter += u B", high.clone(), wide, all_high + T * f, || cpu.linear(2.0, u.view(), wb, y.acc()));
        self.add("adapter du = dy B", high.clone(), wide, all_high, || cpu.linear_dx(2.0, y.view(), wb, du.out()));
        self.add("adapter dB", high, wide, all_high + R * f, || cpu.linear_dw(2.0, y.view(), u.view(), db.acc()));
        self.add("adapter dA", low.clone(), narrow, all_low + R * d, || {
            cpu.linear_dw(1.0, du.view(), x.view(), da.acc());
        });
        self.add("adapter dx += du A", low, narrow, all_low + T * d, || cpu.linear_dx(1.0, du.view(), wa, dx.acc()));
    }

    fn norms_and_activation(&mut self) {
        let (cpu, Shape { d, f, .. }) = (self.cpu, self.shape);
        let (x, dy, mut y, w) = (self.mat(T, d), self.mat(T, d), self.mat(T, d), self.mat(1, d));
        let (mut rstd, mut dw) = (self.mat(T, 1), self.mat(1, d));
        let (td, shape) = (T * d, format!("{T} x {d}"));
        self.add("rmsnorm", shape.clone(), 4 * td, 2 * td, || {
            cpu.rmsnorm(x.view(), w.view(), 1e-6, y.out(), rstd.out());
        });
        self.add("rmsnorm_again", shape.clone(), 2 * td, 2 * td, || {
            cpu.rmsnorm_again(x.view(), w.view(), rstd.view(), y.out());
        });
        let saved = || RmsNormSaved { x: x.view(), w: w.view(), rstd: rstd.view() };
        self.add("rmsnorm_back, frozen", shape.clone(), 8 * td, 4 * td, || {
            cpu.rmsnorm_back(saved(), dy.view(), y.acc(), None);
        });
        self.add("rmsnorm_back", shape, 10 * td, 4 * td, || {
            cpu.rmsnorm_back(saved(), dy.view(), y.acc(), Some(dw.acc()));
        });
        let (gate, up) = (self.mat(T, f), self.mat(T, f));
        let (mut a, mut d) = (self.mat(T, f), self.mat(T, f));
        let (tf, shape) = (T * f, format!("{T} x {f}"));
        let silu = Gate::Silu;
        self.add("swiglu", shape.clone(), 5 * tf, 3 * tf, || cpu.glu(silu, gate.view(), up.view(), a.out()));
        self.add("swiglu_back", shape, 10 * tf, 5 * tf, || {
            cpu.glu_back(silu, [gate.view(), up.view()], a.out(), d.out());
        });
    }

    fn attention(&mut self) {
        let (cpu, Shape { n, k, h, .. }) = (self.cpu, self.shape);
        let positions: Vec<u32> = (0..T as u32).map(|i| i % 256).collect();
        let positions = cpu.from_host(T, 1, &positions);
        let (cos, sin) = (self.mat(256, h / 2), self.mat(256, h / 2));
        let table = RopeTable { cos: cos.view(), sin: sin.view(), layout: RopeLayout::HalfSplit, offset: 0 };
        let (mut q, key, value) = (self.mat(T, n * h), self.mat(T, k * h), self.mat(T, k * h));
        let (tq, tkv) = (T * n * h, T * k * h);
        self.add("rope", format!("{T} x {n} x {h}"), 3 * tq, 2 * tq, || {
            cpu.rope(q.out(), positions.view(), &table, h, false);
        });
        let q = self.mat(T, n * h);
        for length in [256, T] {
            let spans: Vec<Span> = (0..T / length)
                .map(|i| Span { rows: i * length..(i + 1) * length, context: i * length..i * length })
                .collect();
            let shape = AttentionShape {
                query_heads: n,
                kv_heads: k,
                qk_width: h,
                v_width: h,
                scale: (h as f64).powf(-0.5),
                window: None,
                cap: None,
            };
            let pairs = T / length * (length * (length + 1) / 2);
            let (mut o, mut lse, d_o) = (self.mat(T, n * h), self.mat(T, n), self.mat(T, n * h));
            let kv = KeyValue { k: key.view(), v: value.view() };
            let of = format!("{} x {length}, {n}/{k} heads", T / length);
            self.add("attention", of.clone(), 4 * n * h * pairs, 2 * tq + 2 * tkv, || {
                cpu.attention(&shape, &spans, q.view(), kv, kv, o.out(), Some(lse.out()));
            });
            let (mut dq, mut dk, mut dv) = (self.mat(T, n * h), self.mat(T, k * h), self.mat(T, k * h));
            self.add("attention_back", of, 10 * n * h * pairs, 4 * tq + 4 * tkv, || {
                let saved = AttentionSaved { q: q.view(), kv, o: o.view(), lse: lse.view() };
                let grads = AttentionGrads { dq: dq.out(), dk: dk.out(), dv: dv.out() };
                cpu.attention_back(&shape, &spans, saved, d_o.view(), grads);
            });
        }
    }

    fn embedding(&mut self) {
        let (cpu, Shape { d, v, .. }) = (self.cpu, self.shape);
        let (w, mut dw, mut x) = (self.mat(v, d), cpu.zeros::<f32>(v, d), self.mat(T, d));
        let ids = cpu.from_host(T, 1, &tokens(T, v, 5));
        let shape = format!("{T} of {v} x {d}");
        self.add("embed", shape.clone(), 0, 2 * T * d, || cpu.embed(ids.view(), Weight::Param(w.view()), x.out()));
        self.add("embed_back", shape, T * d, 3 * T * d, || cpu.embed_back(ids.view(), x.view(), dw.acc()));
    }

    fn head(&mut self) {
        let (cpu, Shape { d, v, .. }) = (self.cpu, self.shape);
        let (h, mut unit, ids) = (self.mat(S, d), self.mat(S, d), tokens(S, v, 6));
        let w = self.mat(v, d);
        let w = Weight::Param(w.view());
        let (product, all, shape) = (2 * S * v * d, v * d + S * d, format!("{S} x {d} -> {v}"));
        self.add("head", shape.clone(), product, all, || {
            drop(cpu.head(h.view(), w, &ids, false, ForBackward::Nothing))
        });
        self.add("head, extra", shape.clone(), product, all, || {
            drop(cpu.head(h.view(), w, &ids, true, ForBackward::Nothing))
        });
        self.add("head, unit gradient", shape.clone(), 2 * product, all + S * d, || {
            drop(cpu.head(h.view(), w, &ids, false, ForBackward::Unit(unit.out())));
        });
        self.add("head, extra, unit gradient", shape.clone(), 2 * product, all + S * d, || {
            drop(cpu.head(h.view(), w, &ids, true, ForBackward::Unit(unit.out())));
        });
        let lse = cpu.head(h.view(), w, &ids, false, ForBackward::Nothing).lse;
        let coefficient = vec![1e-3; S];
        let mut dw = cpu.zeros::<f32>(v, d);
        self.add("head_back", shape, 3 * product, all + 2 * v * d + S * d, || {
            let saved = HeadSaved { tokens: &ids, lse: &lse, coefficient: &coefficient, logits: None };
            cpu.head_back(h.view(), w, saved, unit.out(), dw.acc());
        });
    }

    fn rows(&mut self) {
        let (cpu, Shape { d, f, .. }) = (self.cpu, self.shape);
        let (x, mut y, td) = (self.mat(T, d), self.mat(T, d), T * d);
        let shape = format!("{T} x {d}");
        self.add("add", shape.clone(), td, 3 * td, || cpu.add(x.view(), y.acc()));
        self.add("copy", shape.clone(), 0, 2 * td, || cpu.copy(x.view(), y.out()));
        self.add("fill_zero", shape.clone(), 0, td, || cpu.fill_zero(y.out()));
        self.add("dropout", shape.clone(), td, 2 * td, || cpu.dropout(x.view(), 0.1, 7, y.out()));
        self.add("dropout_add", shape, 2 * td, 3 * td, || cpu.dropout_add(x.view(), 0.1, 7, y.acc()));
        let picked: Vec<u32> = (0..S as u32).map(|i| 2 * i).collect();
        let (mut few, scale, shape) = (self.mat(S, d), vec![0.5; S], format!("{S} of {T} x {d}"));
        self.add("gather", shape.clone(), 0, 2 * S * d, || cpu.gather(x.view(), &picked, few.out()));
        self.add("scatter", shape.clone(), 0, 2 * S * d, || cpu.scatter(few.view(), &picked, y.out()));
        self.add("scatter_add", shape, 2 * S * d, 3 * S * d, || {
            cpu.scatter_add(few.view(), &picked, &scale, y.acc());
        });
        let (mut y, bias, mut db) = (self.mat(T, f), self.mat(1, f), self.mat(1, f));
        let shape = format!("{T} x {f}");
        self.add("add_bias", shape.clone(), T * f, 2 * T * f, || cpu.add_bias(bias.view(), y.acc()));
        self.add("bias_back", shape, T * f, T * f, || cpu.bias_back(y.view(), db.acc()));
    }

    fn optimiser(&mut self) {
        let cpu = self.cpu;
        let (mut p, g) = (self.mat(1, P), self.mat(1, P));
        let (mut m, mut v) = (cpu.zeros::<f32>(1, P), cpu.zeros::<f32>(1, P));
        let shape = format!("{P}");
        let mut step = AdamwStep {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            step: 0,
            grad_scale: 0.5,
        };
        self.add("adamw", shape.clone(), 14 * P, 7 * P, || {
            step.step += 1;
            let [p, m, v]: [Acc<_, _>; 3] = [p.acc(), m.acc(), v.acc()];
            cpu.adamw(&step, p, g.view(), m, v);
        });
        self.add("square_norm", shape, 2 * P, P, || {
            std::hint::black_box(cpu.square_norm(g.view()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_compared_with_what_limits_it() {
        let operator = |flops, bytes| Operator {
            model: "m",
            operator: String::new(),
            shape: String::new(),
            seconds: 2.0,
            flops,
            bytes,
        };
        let rates = Rates { flops: 100.0, bytes: 10.0 };
        assert_eq!(operator(100.0, 5.0).bound(rates), ("products", 0.5));
        assert_eq!(operator(100.0, 15.0).bound(rates), ("copies", 0.75));
    }
}
