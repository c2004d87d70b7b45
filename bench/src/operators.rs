//! Every operator by itself: time, bytes, operations, and how near it comes to what the machine can do.
//!
//! Operations are those of the operator's contract; bytes are each operand once, and a destination that is added into
//! twice. The nearest that an operator could come to is the longer of its operations at the rate of large products and its
//! bytes at that of large copies. Operands that stay in a cache can do better than that.

use crate::arithmetic::median;
use crate::device::{Device, Held, Measured, Sizes, on, stored};
use crate::error::Error;
use crate::machine::{Rates, noisy};
use crate::noise::{cycled, tokens};
use kernels::{
    Acc, AdamwStep, AttentionGrads, AttentionSaved, AttentionShape, ForBackward, Gate, HeadSaved, KeyValue, Mark, Mat,
    RmsNormSaved, RopeLayout, RopeTable, Span, Weight,
};
use serde::Serialize;
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
    pub(crate) name: &'static str,
    pub(crate) d: usize,
    pub(crate) f: usize,
    /// Query and key/value heads.
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Width of a head.
    pub(crate) h: usize,
    pub(crate) v: usize,
}

/// Adapter rank.
const R: usize = crate::args::RANK;

/// An operator is called for about this long, and at least [`CALLS`] times.
const SECONDS: f64 = 0.25;
const CALLS: usize = 5;

struct Table<'a, B> {
    backend: &'a B,
    shape: Shape,
    sizes: &'a Sizes,
    rows: Vec<Operator>,
}

/// Measures every operator on one shape.
pub(crate) fn measure(shape: Shape, device: &Device) -> Result<Vec<Operator>, Error> {
    on!(device, backend => {
        let mut table = Table { backend: &backend, shape, sizes: device.sizes(), rows: Vec::new() };
        table.products();
        table.adapters();
        table.norms_and_activation();
        table.rope();
        table.attention();
        table.embedding();
        table.head();
        table.rows();
        table.optimiser();
        table.found()
    })
}

/// Measures attention alone: forward and backward of each length in turn.
pub(crate) fn attention(shape: Shape, device: &Device) -> Result<Vec<Operator>, Error> {
    on!(device, backend => {
        let mut table = Table { backend: &backend, shape, sizes: device.sizes(), rows: Vec::new() };
        table.attention();
        table.found()
    })
}

impl<B: Measured> Table<'_, B> {
    /// What was measured, unless the device has failed.
    fn found(self) -> Result<Vec<Operator>, Error> {
        let Table { backend, rows, .. } = self;
        kernels::Memory::trouble(backend).map_or(Ok(rows), |error| Err(error.into()))
    }

    /// Calls `work` until its median is known. Activations and other floats are read and written.
    fn add(&mut self, operator: &str, shape: String, flops: usize, [acts, reals]: [usize; 2], mut work: impl FnMut()) {
        work();
        let (begin, backend) = (Instant::now(), self.backend);
        let mut seconds = Vec::new();
        while seconds.len() < CALLS || (begin.elapsed().as_secs_f64() < SECONDS && seconds.len() < 1000) {
            // One after the other: a GPU is not to wait for the host between them.
            let mut marks: Vec<Mark> = vec![backend.mark()];
            for _ in 0..self.sizes.queued {
                work();
                marks.push(backend.mark());
            }
            seconds.extend(marks.windows(2).map(|pair| backend.seconds(&pair[0], &pair[1])));
        }
        self.rows.push(Operator {
            model: self.shape.name,
            operator: operator.to_owned(),
            shape,
            seconds: median(seconds),
            flops: flops as f64,
            bytes: (size_of::<B::Act>() * acts + 4 * reals) as f64,
        });
    }

    fn mat(&self, rows: usize, cols: usize) -> Mat<B> {
        noisy(self.backend, rows, cols, (rows + cols) as u64)
    }

    fn real(&self, rows: usize, cols: usize) -> Mat<B, f32> {
        self.backend.from_host(rows, cols, &cycled(rows * cols, (rows + cols) as u64))
    }

    fn held(&self, rows: usize, cols: usize) -> Held<B> {
        self.backend.held(rows, cols, &cycled(rows * cols, (rows + cols) as u64))
    }

    fn products(&mut self) {
        let (backend, sizes, Shape { d, f, n, k, h, .. }) = (self.backend, self.sizes, self.shape);
        let t = sizes.rows;
        for (name, o, i) in [("q", n * h, d), ("k", k * h, d), ("gate", f, d), ("down", d, f)] {
            let (x, mut y, mut dw) = (self.mat(t, i), self.mat(t, o), backend.zeros::<f32>(o, i));
            let mut dx = self.mat(t, i);
            let (flops, acts, shape) = (2 * t * o * i, t * i + t * o, format!("{t} x {i} -> {o}"));
            let w = self.real(o, i);
            let w = Weight::Param(w.view());
            self.add(&format!("linear {name}"), shape.clone(), flops, [acts, o * i], || {
                backend.linear(1.0, x.view(), w, y.out());
            });
            self.add(&format!("linear_dx {name}"), shape.clone(), flops, [acts, o * i], || {
                backend.linear_dx(1.0, y.view(), w, dx.out());
            });
            self.add(&format!("linear_dw {name}"), shape.clone(), flops, [acts, 2 * o * i], || {
                backend.linear_dw(1.0, y.view(), x.view(), dw.acc());
            });
            if name != "gate" && !sizes.all_stored {
                continue;
            }
            for &(dtype, of) in sizes.stored {
                let w = stored(backend, o, i, &cycled(o * i, (o ^ i) as u64), dtype);
                let (w, bytes) = (Weight::Stored(&w), [acts, dtype.bytes(o * i) / 4]);
                self.add(&format!("linear {name}, stored {of}"), shape.clone(), flops, bytes, || {
                    backend.linear(1.0, x.view(), w, y.out());
                });
                self.add(&format!("linear_dx {name}, stored {of}"), shape.clone(), flops, bytes, || {
                    backend.linear_dx(1.0, y.view(), w, dx.out());
                });
            }
        }
    }

    /// The five products of a low-rank addition to `gate`.
    fn adapters(&mut self) {
        let (backend, t, Shape { d, f, .. }) = (self.backend, self.sizes.rows, self.shape);
        let (x, mut y, mut u) = (self.mat(t, d), self.mat(t, f), self.mat(t, R));
        let (a, b) = (self.real(R, d), self.real(f, R));
        let (mut da, mut db, mut du, mut dx) = (self.real(R, d), self.real(f, R), self.mat(t, R), self.mat(t, d));
        let (wa, wb) = (Weight::Param(a.view()), Weight::Param(b.view()));
        let (narrow, wide) = (2 * t * R * d, 2 * t * R * f);
        let (low, high) = (format!("{t} x {d} -> {R}"), format!("{t} x {R} -> {f}"));
        let (acts_low, acts_high) = (t * d + t * R, t * f + t * R);
        self.add("adapter x A", low.clone(), narrow, [acts_low, R * d], || {
            backend.linear(1.0, x.view(), wa, u.out());
        });
        self.add("adapter += u B", high.clone(), wide, [acts_high + t * f, R * f], || {
            backend.linear(2.0, u.view(), wb, y.acc());
        });
        self.add("adapter du = dy B", high.clone(), wide, [acts_high, R * f], || {
            backend.linear_dx(2.0, y.view(), wb, du.out());
        });
        self.add("adapter dB", high, wide, [acts_high, 2 * R * f], || {
            backend.linear_dw(2.0, y.view(), u.view(), db.acc());
        });
        self.add("adapter dA", low.clone(), narrow, [acts_low, 2 * R * d], || {
            backend.linear_dw(1.0, du.view(), x.view(), da.acc());
        });
        self.add("adapter dx += du A", low, narrow, [acts_low + t * d, R * d], || {
            backend.linear_dx(1.0, du.view(), wa, dx.acc());
        });
    }

    fn norms_and_activation(&mut self) {
        let (backend, t, Shape { d, f, .. }) = (self.backend, self.sizes.rows, self.shape);
        let (x, dy, mut y, w) = (self.mat(t, d), self.mat(t, d), self.mat(t, d), self.real(1, d));
        let (mut rstd, mut dw) = (self.real(t, 1), self.real(1, d));
        let (td, shape) = (t * d, format!("{t} x {d}"));
        self.add("rmsnorm", shape.clone(), 4 * td, [2 * td, 0], || {
            backend.rmsnorm(x.view(), w.view(), 1e-6, y.out(), rstd.out());
        });
        self.add("rmsnorm_again", shape.clone(), 2 * td, [2 * td, 0], || {
            backend.rmsnorm_again(x.view(), w.view(), rstd.view(), y.out());
        });
        let saved = || RmsNormSaved { x: x.view(), w: w.view(), rstd: rstd.view() };
        self.add("rmsnorm_back, frozen", shape.clone(), 8 * td, [4 * td, 0], || {
            backend.rmsnorm_back(saved(), dy.view(), y.acc(), None);
        });
        self.add("rmsnorm_back", shape, 10 * td, [4 * td, 0], || {
            backend.rmsnorm_back(saved(), dy.view(), y.acc(), Some(dw.acc()));
        });
        let (gate, up) = (self.mat(t, f), self.mat(t, f));
        let (mut a, mut d) = (self.mat(t, f), self.mat(t, f));
        let (tf, shape) = (t * f, format!("{t} x {f}"));
        let silu = Gate::Silu;
        self.add("swiglu", shape.clone(), 5 * tf, [3 * tf, 0], || {
            backend.glu(silu, gate.view(), up.view(), a.out());
        });
        self.add("swiglu_back", shape, 10 * tf, [5 * tf, 0], || {
            backend.glu_back(silu, [gate.view(), up.view()], a.out(), d.out());
        });
    }

    fn rope(&mut self) {
        let (backend, t, Shape { n, h, .. }) = (self.backend, self.sizes.rows, self.shape);
        let positions: Vec<u32> = (0..t as u32).map(|i| i % 256).collect();
        let positions = backend.from_host(t, 1, &positions);
        let (cos, sin) = (self.real(256, h / 2), self.real(256, h / 2));
        let table = RopeTable { cos: cos.view(), sin: sin.view(), layout: RopeLayout::HalfSplit, offset: 0 };
        let (mut q, tq) = (self.mat(t, n * h), t * n * h);
        self.add("rope", format!("{t} x {n} x {h}"), 3 * tq, [2 * tq, 0], || {
            backend.rope(q.out(), positions.view(), &table, h, false);
        });
    }

    fn attention(&mut self) {
        let (backend, sizes, Shape { n, k, h, .. }) = (self.backend, self.sizes, self.shape);
        for &length in sizes.lengths {
            let t = length.max(sizes.attention_rows);
            let (q, key, value) = (self.mat(t, n * h), self.mat(t, k * h), self.mat(t, k * h));
            let (tq, tkv) = (t * n * h, t * k * h);
            let spans: Vec<Span> = (0..t / length)
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
            let pairs = t / length * (length * (length + 1) / 2);
            let (mut o, mut lse, d_o) = (self.mat(t, n * h), self.real(t, n), self.mat(t, n * h));
            let kv = KeyValue { k: key.view(), v: value.view() };
            let of = format!("{} x {length}, {n}/{k} heads", t / length);
            self.add("attention", of.clone(), 4 * n * h * pairs, [2 * tq + 2 * tkv, 0], || {
                backend.attention(&shape, &spans, q.view(), kv, kv, o.out(), Some(lse.out()));
            });
            let (mut dq, mut dk, mut dv) = (self.mat(t, n * h), self.mat(t, k * h), self.mat(t, k * h));
            self.add("attention_back", of, 10 * n * h * pairs, [4 * tq + 4 * tkv, 0], || {
                let saved = AttentionSaved { q: q.view(), kv, o: o.view(), lse: lse.view() };
                let grads = AttentionGrads { dq: dq.out(), dk: dk.out(), dv: dv.out() };
                backend.attention_back(&shape, &spans, saved, d_o.view(), grads);
            });
        }
    }

    fn embedding(&mut self) {
        let (backend, t, Shape { d, v, .. }) = (self.backend, self.sizes.rows, self.shape);
        let (w, mut dw, mut x) = (self.held(v, d), backend.zeros::<f32>(v, d), self.mat(t, d));
        let ids = backend.from_host(t, 1, &tokens(t, v, 5));
        let shape = format!("{t} of {v} x {d}");
        self.add("embed", shape.clone(), 0, [2 * t * d, 0], || backend.embed(ids.view(), w.weight(), x.out()));
        self.add("embed_back", shape, t * d, [t * d, 2 * t * d], || {
            backend.embed_back(ids.view(), x.view(), dw.acc());
        });
    }

    fn head(&mut self) {
        let (backend, s, Shape { d, v, .. }) = (self.backend, self.sizes.scored, self.shape);
        let (h, mut unit, ids) = (self.mat(s, d), self.mat(s, d), tokens(s, v, 6));
        let w = self.held(v, d);
        let w = w.weight();
        let weight = match w {
            Weight::Stored(_) => v * d * size_of::<B::Act>() / 4,
            _ => v * d,
        };
        let (product, shape) = (2 * s * v * d, format!("{s} x {d} -> {v}"));
        self.add("head", shape.clone(), product, [s * d, weight], || {
            drop(backend.head(h.view(), w, &ids, false, ForBackward::Nothing))
        });
        self.add("head, extra", shape.clone(), product, [s * d, weight], || {
            drop(backend.head(h.view(), w, &ids, true, ForBackward::Nothing))
        });
        self.add("head, unit gradient", shape.clone(), 2 * product, [2 * s * d, weight], || {
            drop(backend.head(h.view(), w, &ids, false, ForBackward::Unit(unit.out())));
        });
        self.add("head, extra, unit gradient", shape.clone(), 2 * product, [2 * s * d, weight], || {
            drop(backend.head(h.view(), w, &ids, true, ForBackward::Unit(unit.out())));
        });
        let lse = backend.head(h.view(), w, &ids, false, ForBackward::Nothing).lse;
        let coefficient = vec![1e-3; s];
        let mut dw = backend.zeros::<f32>(v, d);
        self.add("head_back", shape, 3 * product, [2 * s * d, weight + 2 * v * d], || {
            let saved = HeadSaved { tokens: &ids, lse: &lse, coefficient: &coefficient, logits: None };
            backend.head_back(h.view(), w, saved, unit.out(), dw.acc());
        });
    }

    fn rows(&mut self) {
        let (backend, sizes, Shape { d, f, .. }) = (self.backend, self.sizes, self.shape);
        let (t, s) = (sizes.rows, sizes.scored);
        let (x, mut y, td) = (self.mat(t, d), self.mat(t, d), t * d);
        let shape = format!("{t} x {d}");
        self.add("add", shape.clone(), td, [3 * td, 0], || backend.add(x.view(), y.acc()));
        self.add("copy", shape.clone(), 0, [2 * td, 0], || backend.copy(x.view(), y.out()));
        self.add("fill_zero", shape.clone(), 0, [td, 0], || backend.fill_zero(y.out()));
        self.add("dropout", shape.clone(), td, [2 * td, 0], || backend.dropout(x.view(), 0.1, 7, y.out()));
        self.add("dropout_add", shape, 2 * td, [3 * td, 0], || backend.dropout_add(x.view(), 0.1, 7, y.acc()));
        let picked: Vec<u32> = (0..s as u32).map(|i| 2 * i).collect();
        let (mut few, scale, shape) = (self.mat(s, d), vec![0.5; s], format!("{s} of {t} x {d}"));
        self.add("gather", shape.clone(), 0, [2 * s * d, 0], || backend.gather(x.view(), &picked, few.out()));
        self.add("scatter", shape.clone(), 0, [2 * s * d, 0], || backend.scatter(few.view(), &picked, y.out()));
        self.add("scatter_add", shape, 2 * s * d, [3 * s * d, 0], || {
            backend.scatter_add(few.view(), &picked, &scale, y.acc());
        });
        let (mut y, bias, mut db) = (self.mat(t, f), self.real(1, f), self.real(1, f));
        let shape = format!("{t} x {f}");
        self.add("add_bias", shape.clone(), t * f, [2 * t * f, 0], || backend.add_bias(bias.view(), y.acc()));
        self.add("bias_back", shape, t * f, [t * f, 0], || backend.bias_back(y.view(), db.acc()));
    }

    fn optimiser(&mut self) {
        let (backend, p) = (self.backend, self.sizes.parameters);
        let (mut values, g) = (self.real(1, p), self.real(1, p));
        let (mut m, mut v) = (backend.zeros::<f32>(1, p), backend.zeros::<f32>(1, p));
        let shape = format!("{p}");
        let mut step = AdamwStep {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            step: 0,
            grad_scale: 0.5,
        };
        self.add("adamw", shape.clone(), 14 * p, [0, 7 * p], || {
            step.step += 1;
            let [values, m, v]: [Acc<_, _>; 3] = [values.acc(), m.acc(), v.acc()];
            backend.adamw(&step, values, g.view(), m, v);
        });
        self.add("square_norm", shape, 2 * p, [0, p], || {
            std::hint::black_box(backend.square_norm(g.view()));
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
