//! The layers under test.

use crate::Double;
use crate::case::{Layer, Run};
use crate::shelf::{D, H, Shelf, T, Tuning, part, rotary};
use kernels::tampered::Fault;
use kernels::{Dst, Mat};
use nn::{Ask, Block, Context, Dropout, Grads, Kept, Linear, Mlp, Norm, SelfAttention};

const LINEAR: [Fault; 2] = [Fault::LinearDx, Fault::LinearDw];
const NORM: [Fault; 2] = [Fault::RmsNormDx, Fault::RmsNormDw];
const ATTENTION: [Fault; 4] = [Fault::AttentionDq, Fault::AttentionDk, Fault::AttentionDv, Fault::RopeInverse];
const GLU: [Fault; 2] = [Fault::GluDgate, Fault::GluDup];

/// Every layer in every way it is used.
pub(crate) fn all<B: Double + Make>() -> Vec<Layer<B>> {
    let backend = B::make();
    let b = &backend;
    let full = Tuning::Full { bias: true };
    let adapter = Tuning::Adapter { rank: 2 };
    let mut layers = vec![
        linear(b, "frozen linear", Tuning::Frozen, &[Fault::LinearDx]),
        linear(b, "trained linear", Tuning::Full { bias: false }, &LINEAR),
        linear(b, "trained linear with bias", full, &[&LINEAR[..], &[Fault::BiasBack]].concat()),
        linear(b, "linear with an adapter", adapter, &LINEAR),
        Layer { adapters: false, ..linear(b, "linear with its adapter off", adapter, &[Fault::LinearDx]) },
        Layer {
            dropout: Some(Dropout { p: 0.4, key: 17 }),
            ..linear(b, "linear with an adapter and dropout", adapter, &[&LINEAR[..], &[Fault::DropoutAdd]].concat())
        },
        norm(b, "norm of rows", D, true, &NORM),
        norm(b, "frozen norm", D, false, &[Fault::RmsNormDx]),
        norm(b, "norm of heads", H, true, &NORM),
    ];
    let operators = [&LINEAR[..], &ATTENTION].concat();
    layers.push(attention(b, "attention", Tuning::Full { bias: false }, (false, None), &operators));
    layers.push(attention(b, "attention with adapters", adapter, (false, Some(3)), &operators));
    let operators = [&operators[..], &NORM, &[Fault::BiasBack]].concat();
    layers.push(attention(b, "attention with norms, biases and a window", full, (true, Some(3)), &operators));
    let operators = [&LINEAR[..], &GLU].concat();
    layers.push(mlp(b, "feed-forward layer", Tuning::Full { bias: false }, &operators));
    layers.push(mlp(b, "feed-forward layer with adapters", adapter, &operators));
    let operators = [&LINEAR[..], &ATTENTION, &GLU, &NORM, &[Fault::BiasBack]].concat();
    // Not in order, one of them twice.
    let again = Way { keep: false, ..KEPT };
    let (some, some_again) = (Way { rows: Some(&[9, 2, 6, 6]), ..KEPT }, Way { rows: Some(&[9, 2, 6, 6]), ..again });
    layers.push(block(b, "block, kept", full, KEPT, &operators));
    layers.push(block(b, "block, recomputed", full, again, &operators));
    let with_rows = [&operators[..], &[Fault::ScatterAdd]].concat();
    layers.push(block(b, "block of which some rows are wanted, kept", full, some, &with_rows));
    layers.push(block(b, "block of which some rows are wanted, recomputed", full, some_again, &with_rows));
    let operators = [&LINEAR[..], &ATTENTION, &GLU, &[Fault::RmsNormDx]].concat();
    layers.push(block(b, "block with adapters, kept", adapter, KEPT, &operators));
    layers.push(block(b, "block with adapters, recomputed", adapter, again, &operators));
    layers.extend(crate::special::all(b));
    layers
}

/// A backend of its own for the layers' frozen weights.
pub(crate) trait Make {
    fn make() -> Self;
}

impl Make for kernels::Cpu<f64> {
    fn make() -> Self {
        kernels::Cpu::new(1)
    }
}

impl Make for kernels::tampered::Tampered<kernels::Cpu<f64>> {
    fn make() -> Self {
        kernels::tampered::Tampered::new(kernels::Cpu::new(1), Fault::LinearDx, 1.0)
    }
}

pub(crate) fn layer<B: Double>(
    name: &'static str,
    operators: &[Fault],
    shelf: Shelf,
    cols: usize,
    run: Run<B>,
) -> Layer<B> {
    Layer {
        name,
        operators: operators.to_vec(),
        table: shelf.table,
        start: shelf.values,
        shape: (T, cols),
        adapters: true,
        dropout: None,
        run,
    }
}

pub(crate) fn host<B: Double>(ctx: &Context<B>, m: &Mat<B>) -> Vec<f64> {
    ctx.backend.to_host(m.view())
}

pub(crate) fn device<B: Double>(ctx: &Context<B>, cols: usize, values: &[f64]) -> Mat<B> {
    ctx.backend.from_host(values.len() / cols, cols, values)
}

fn linear<B: Double>(backend: &B, name: &'static str, tuning: Tuning, operators: &[Fault]) -> Layer<B> {
    let mut shelf = Shelf::default();
    let l: Linear<B> = shelf.linear(backend, (D, 5), tuning);
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        let mut y = ctx.backend.mat(T, 5);
        let saved = l.forward(ctx, x.view(), y.out());
        let dx = back.map(|(dy, grads)| {
            let (dy, mut dx) = (device(ctx, 5, dy), ctx.backend.mat(T, D));
            l.backward(ctx, grads, x.view(), &saved, dy.view(), Some(dx.out().into()));
            host(ctx, &dx)
        });
        (host(ctx, &y), dx)
    };
    layer(name, operators, shelf, D, Box::new(run))
}

/// Over groups of `h` of three times as many columns. The gradient is added to that of an identity beside it.
fn norm<B: Double>(backend: &B, name: &'static str, h: usize, trained: bool, operators: &[Fault]) -> Layer<B> {
    let mut shelf = Shelf::default();
    let l: Norm<B> = shelf.norm(backend, h, trained);
    let cols = 3 * h;
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        let (mut y, saved) = l.forward(ctx, x.view());
        let same = l.again(ctx, x.view(), &saved);
        assert!(host(ctx, &y) == host(ctx, &same), "the output once more is not the output");
        ctx.backend.add(x.view(), y.acc());
        let dx = back.map(|(dy, grads)| {
            let (dy, mut dx) = (device(ctx, cols, dy), device(ctx, cols, dy));
            l.backward(ctx, grads, x.view(), &saved, dy.view(), Dst::from(dx.acc()));
            host(ctx, &dx)
        });
        (host(ctx, &y), dx)
    };
    layer(name, operators, shelf, cols, Box::new(run))
}

fn attention<B: Double>(
    backend: &B,
    name: &'static str,
    tuning: Tuning,
    (qk_norm, window): (bool, Option<usize>),
    operators: &[Fault],
) -> Layer<B> {
    let mut shelf = Shelf::default();
    let l: SelfAttention<B> = shelf.attention(backend, tuning, qk_norm, window);
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

fn mlp<B: Double>(backend: &B, name: &'static str, tuning: Tuning, operators: &[Fault]) -> Layer<B> {
    let mut shelf = Shelf::default();
    let l: Mlp<B> = shelf.mlp(backend, tuning);
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        let mut y = ctx.backend.mat(T, D);
        let saved = l.forward(ctx, x.view(), y.out());
        let dx = back.map(|(dy, grads)| {
            let (dy, mut dx) = (device(ctx, D, dy), ctx.backend.mat(T, D));
            l.backward(ctx, grads, x.view(), &saved, dy.view(), dx.out());
            host(ctx, &dx)
        });
        (host(ctx, &y), dx)
    };
    layer(name, operators, shelf, D, Box::new(run))
}

/// How a block is gone through.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// Rows of the output.
    pub(crate) rows: Option<&'static [u32]>,
    /// Whether backward finds what forward saved.
    pub(crate) keep: bool,
    /// Whether there is something below.
    pub(crate) below: bool,
}

/// Backward finds everything and goes on below.
pub(crate) const KEPT: Way = Way { rows: None, keep: true, below: true };

/// A block's output and the gradient of its input.
pub(crate) fn through<B: Double>(
    block: &Block<B>,
    ctx: &Context<B>,
    x: &Mat<B>,
    back: Option<(&[f64], &mut Grads<B>)>,
    way: Way,
) -> (Vec<f64>, Option<Vec<f64>>) {
    let (part, rotary) = (part(ctx.backend), rotary(ctx.backend));
    let Way { rows, keep, below } = way;
    let (at, ask) = ((&rotary, &part), Ask { rows, whole: true });
    let (y, saved) = block.forward(ctx, at, x, None, ask);
    let lean = block.forward(ctx, at, x, None, Ask { whole: false, ..ask }).0;
    assert!(host(ctx, &lean) == host(ctx, &y), "what is saved changes the output");
    let dx = back.and_then(|(dy, grads)| {
        let kept =
            Kept { x_td: device(ctx, D, &host(ctx, x)), rows: rows.map(<[u32]>::to_vec), saved: keep.then_some(saved) };
        let dx = block.backward(ctx, grads, &rotary, &part, kept, device(ctx, D, dy), below);
        assert_eq!(dx.is_some(), below);
        dx.map(|dx| host(ctx, &dx))
    });
    (host(ctx, &y), dx)
}

fn block<B: Double>(backend: &B, name: &'static str, tuning: Tuning, way: Way, operators: &[Fault]) -> Layer<B> {
    let mut shelf = Shelf::default();
    let l: Block<B> = shelf.block(backend, tuning);
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| through(&l, ctx, x, back, way);
    layer(name, operators, shelf, D, Box::new(run))
}

/// The parameters' gradients of a block that has, or has not, something below it.
pub(crate) fn block_parameters<B: Double>(backend: &B, below: bool) -> Vec<f64> {
    let mut shelf = Shelf::default();
    let l: Block<B> = shelf.block(backend, Tuning::Full { bias: true });
    let run = move |ctx: &Context<B>, x: &Mat<B>, back: Option<(&[f64], &mut Grads<B>)>| {
        through(&l, ctx, x, back, Way { below, ..KEPT })
    };
    layer("block", &[], shelf, D, Box::new(run)).gradient(backend).0
}
