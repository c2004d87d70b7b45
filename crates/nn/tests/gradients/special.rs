//! Layers that only some architectures have: sinks and caps, norms over outputs, latent attention, experts.

use crate::Double;
use crate::case::Layer;
use crate::layers::{KEPT, device, host, layer, through};
use crate::shelf::{D, F, Shelf, T, Tuning, part, rotary};
use kernels::tampered::Fault;
use kernels::{AttentionShape, Clamp, Gate, Gating, Mat, RouteShape};
use nn::{
    Activation, Attention, Balancing, Block, Context, Experts, FeedForward, Grads, LatentAttention, LatentQuery,
    Linear, Norm, Router, SharedExpert, Tensor, Vector,
};

const LINEAR: [Fault; 2] = [Fault::LinearDx, Fault::LinearDw];
const ATTENTION: [Fault; 4] = [Fault::AttentionDq, Fault::AttentionDk, Fault::AttentionDv, Fault::RopeInverse];
const NORM: [Fault; 2] = [Fault::RmsNormDx, Fault::RmsNormDw];
const EXPERTS: [Fault; 4] = [Fault::GroupedDx, Fault::RouteBack, Fault::RowDots, Fault::ScatterAdd];
const FULL: Tuning = Tuning::Full { bias: false };

/// Every one of them.
pub(crate) fn all<B: Double>(backend: &B) -> Vec<Layer<B>> {
    let glu = [Fault::GluDgate, Fault::GluDup];
    let adapter = Tuning::Adapter { rank: 2 };
    let latent = [&LINEAR[..], &ATTENTION, &[Fault::LatentDup, Fault::LatentDrotated]].concat();
    let frozen_norms = [&latent[..], &[Fault::RmsNormDx]].concat();
    let latent = [&latent[..], &NORM].concat();
    let gated = [&LINEAR[..], &EXPERTS, &glu].concat();
    let clamped = [&LINEAR[..], &EXPERTS, &[Fault::ClampedBack, Fault::GroupedBiasBack]].concat();
    let sigmoid = Gating::Sigmoid { groups: 2, kept_groups: 1, normalise: true, scale: 1.7 };
    vec![
        sandwich(backend, [&LINEAR[..], &ATTENTION, &NORM, &glu].concat()),
        sinks(backend, [&LINEAR[..], &ATTENTION, &[Fault::SinkBack]].concat()),
        latent_attention(backend, "latent attention", FULL, false, &latent),
        latent_attention(backend, "latent attention with a narrow query", FULL, true, &latent),
        latent_attention(backend, "latent attention with adapters", adapter, true, &frozen_norms),
        experts(backend, "experts", FULL, Gating::Softmax, false, &gated),
        experts(backend, "experts, weights of the chosen", FULL, Gating::SoftmaxOfChosen, false, &gated),
        experts(backend, "experts in groups", FULL, sigmoid, true, &gated),
        experts(backend, "experts with adapters", adapter, Gating::Softmax, true, &gated),
        clamped_experts(backend, &clamped),
    ]
}

/// A block with norms over outputs whose weights are around zero, GELU, and capped scores.
fn sandwich<B: Double>(backend: &B, operators: Vec<Fault>) -> Layer<B> {
    let mut shelf = Shelf::default();
    let mut block: Block<B> = shelf.block(backend, FULL);
    let around_zero = |norm: Norm<B>| Norm { one_plus: true, ..norm };
    block.attention_out = Some(around_zero(shelf.norm(backend, D, true)));
    block.mlp_out = Some(around_zero(shelf.norm(backend, D, true)));
    if let (Attention::Grouped(a), FeedForward::Dense(m)) = (&mut block.attention, &mut block.mlp) {
        a.shape.cap = Some(0.9);
        m.activation = Gate::Gelu;
    }
    let run =
        move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| through(&block, ctx, x, back, KEPT);
    layer("block with norms over outputs", &operators, shelf, D, Box::new(run))
}

fn sinks<B: Double>(backend: &B, operators: Vec<Fault>) -> Layer<B> {
    let mut shelf = Shelf::default();
    let mut l = shelf.attention(backend, FULL, false, Some(3));
    l.sinks = Some(Vector::Trained(shelf.param(1, l.shape.query_heads)));
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        let (part, rotary) = (part(ctx.backend), rotary(ctx.backend));
        let mut y = ctx.backend.mat(T, D);
        let saved = l.forward(ctx, &rotary, &part, x.view(), None, y.out());
        let dx = back.map(|(dy, grads)| {
            let (dy, mut dx) = (device(ctx, D, dy), ctx.backend.mat(T, D));
            l.backward(ctx, grads, (&rotary, &part), x.view(), &saved, dy.view(), Some(dx.out()));
            host(ctx, &dx)
        });
        (host(ctx, &y), dx)
    };
    layer("attention with sinks", &operators, shelf, D, Box::new(run))
}

/// Two heads; the rotated columns are as wide as the shelf's rotary table.
fn latent_attention<B: Double>(
    backend: &B,
    name: &'static str,
    tuning: Tuning,
    narrow: bool,
    operators: &[Fault],
) -> Layer<B> {
    let (mut shelf, trained) = (Shelf::default(), matches!(tuning, Tuning::Full { .. }));
    let (n, latent, p, r, w) = (2, 5, 3, 4, 2);
    let q = match narrow {
        false => LatentQuery::Direct(shelf.linear(backend, (D, n * (p + r)), tuning)),
        true => LatentQuery::LowRank {
            down: shelf.linear(backend, (D, 3), tuning),
            norm: shelf.norm(backend, 3, trained),
            up: shelf.linear(backend, (3, n * (p + r)), tuning),
        },
    };
    let l: LatentAttention<B> = LatentAttention {
        q,
        down: shelf.linear(backend, (D, latent + r), tuning),
        norm: shelf.norm(backend, latent, trained),
        up: shelf.linear(backend, (latent, n * (p + w)), tuning),
        heads: Vec::new(),
        o: shelf.linear(backend, (n * w, D), tuning),
        shape: AttentionShape {
            query_heads: n,
            kv_heads: n,
            qk_width: p + r,
            v_width: w,
            scale: 0.5,
            window: None,
            cap: None,
        },
        latent,
    };
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        let (part, rotary) = (part(ctx.backend), rotary(ctx.backend));
        let mut y = ctx.backend.mat(T, D);
        let saved = l.forward(ctx, &rotary, &part, x.view(), None, y.out());
        let dx = back.map(|(dy, grads)| {
            let (dy, mut dx) = (device(ctx, D, dy), ctx.backend.mat(T, D));
            l.backward(ctx, grads, (&rotary, &part), x.view(), &saved, dy.view(), Some(dx.out()));
            host(ctx, &dx)
        });
        (host(ctx, &y), dx)
    };
    layer(name, operators, shelf, D, Box::new(run))
}

fn router<B: Double>(shelf: &mut Shelf, backend: &B, gating: Gating) -> Router<B> {
    let correction = matches!(gating, Gating::Sigmoid { .. }).then(|| backend.from_host(1, 4, &shelf.noise(4)));
    let linear = shelf.linear(backend, (D, 4), FULL);
    Router { linear, correction, shape: RouteShape { experts: 4, chosen: 2, gating } }
}

/// Four experts; with a shared one, it has a gate.
fn experts<B: Double>(
    backend: &B,
    name: &'static str,
    tuning: Tuning,
    gating: Gating,
    shared: bool,
    operators: &[Fault],
) -> Layer<B> {
    let mut shelf = Shelf::default();
    let router = router(&mut shelf, backend, gating);
    let mut bank = |shape| -> Vec<Linear<B>> { (0..4).map(|_| shelf.linear(backend, shape, tuning)).collect() };
    let activation = Activation::Gated { gate: bank((D, F)), up: bank((D, F)), kind: Gate::Silu };
    let down = bank((F, D));
    let shared = shared
        .then(|| SharedExpert { mlp: shelf.mlp(backend, tuning), gate: Some(shelf.linear(backend, (D, 1), tuning)) });
    run_experts(name, operators, shelf, Experts { router, activation, down, down_bias: None, turned: false, shared })
}

/// Experts as GPT-OSS has them, all in two tensors.
fn clamped_experts<B: Double>(backend: &B, operators: &[Fault]) -> Layer<B> {
    let mut shelf = Shelf::default();
    let router = router(&mut shelf, backend, Gating::SoftmaxOfChosen);
    let mut bank = |inputs: usize, outputs: usize| -> Vec<Linear<B>> {
        let id = shelf.param(4 * inputs, outputs);
        let weight = |e: usize| Tensor::Part { id, rows: e * inputs..(e + 1) * inputs };
        (0..4).map(|e| Linear { weight: weight(e), bias: None, lora: None, inputs, outputs }).collect()
    };
    let (gate_up, down) = (bank(D, 2 * F), bank(F, D));
    let bias = Vector::Trained(shelf.param(4, 2 * F));
    let down_bias = Some(Vector::Trained(shelf.param(4, D)));
    let activation = Activation::Clamped { gate_up, bias, clamp: Clamp { alpha: 1.702, limit: 1.3 } };
    let experts = Experts { router, activation, down, down_bias, turned: true, shared: None };
    run_experts("clamped experts", operators, shelf, experts)
}

/// The rows count differently for the load-balancing loss, whose gradient is part of what is checked.
fn run_experts<B: Double>(name: &'static str, operators: &[Fault], shelf: Shelf, l: Experts<B>) -> Layer<B> {
    let push = [0.3, -0.7, 0.2, 0.5];
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        let mut part = part(ctx.backend);
        let counts = (0..T).map(|t| (t % 3) as f64).collect();
        // The last entry of the output is the balancing loss for a given push, and the check gives it a factor like any other.
        let factor = back.as_ref().map_or(1.0, |(dy, _)| dy[T * D]);
        part.balancing = Some(Balancing { counts, push: push.map(|v| factor * v).to_vec() });
        let mut y = ctx.backend.mat(T, D);
        let saved = l.forward(ctx, &part, x.view(), y.out());
        let load = saved.load().expect("the part is balanced");
        let balance = load.probability.iter().zip(push).map(|(p, v)| p * v).sum::<f64>();
        let dx = back.map(|(dy, grads)| {
            let (dy, mut dx) = (device(ctx, D, &dy[..T * D]), ctx.backend.mat(T, D));
            l.backward(ctx, grads, (&part, x.view()), &saved, dy.view(), dx.out());
            host(ctx, &dx)
        });
        let mut out = host(ctx, &y);
        out.push(balance);
        (out, dx)
    };
    layer(name, operators, shelf, D, Box::new(run))
}
