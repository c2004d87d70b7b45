//! A pre-norm decoder block over both parts of a pack, and its backward with or without recomputation.

use crate::{
    Attention, AttentionKept, Context, FeedForward, FeedForwardSaved, Grads, LayerCache, Norm, NormSaved, Part, Rotary,
    RouterLoad, Step,
};
use kernels::{Backend, KeyValue, Mat};

/// `x += attention(norm(x)); x += mlp(norm(x))`, with a norm over what is added where there is one.
pub struct Block<B: Backend> {
    /// Before attention.
    pub attention_norm: Norm<B>,
    /// Attention.
    pub attention: Attention<B>,
    /// Over attention's output.
    pub attention_out: Option<Norm<B>>,
    /// Before the feed-forward layer.
    pub mlp_norm: Norm<B>,
    /// Feed-forward layer.
    pub mlp: FeedForward<B>,
    /// Over the feed-forward layer's output.
    pub mlp_out: Option<Norm<B>>,
}

/// What a norm over an output needs for backward: the output as it was.
type OutSaved<B> = Option<(Mat<B>, NormSaved<B>)>;

/// What backward needs beside the block's input; normalised inputs are computed again.
pub struct BlockSaved<B: Backend> {
    attention_norm: NormSaved<B>,
    attention: AttentionKept<B>,
    attention_out: OutSaved<B>,
    /// Input of the second half, whose rows are those that were wanted.
    mid_sd: Mat<B>,
    /// Of the second half; `None`: computed again from `mid_sd`.
    second: Option<SecondSaved<B>>,
    load: Option<RouterLoad>,
}

/// What is asked of a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The rows whose output is wanted, in the order of the output; `None`: all. The others give their keys and values, and
    /// their second half is never computed.
    pub rows: Option<&'a [u32]>,
    /// Whether backward is to find all that it reads; or else all but what the second half would save: most of it, and quickly
    /// computed again.
    pub whole: bool,
}

/// What backward needs of a block's second half beside its input.
struct SecondSaved<B: Backend> {
    norm: NormSaved<B>,
    mlp: FeedForwardSaved<B>,
    out: OutSaved<B>,
}

impl<B: Backend> BlockSaved<B> {
    /// Keys and values of these rows.
    pub fn key_value(&self) -> KeyValue<'_, B> {
        self.attention.key_value()
    }

    /// How rows were routed, where there are experts and it was to be measured.
    pub fn load(&self) -> Option<&RouterLoad> {
        self.load.as_ref()
    }
}

/// A block's memory of its forward pass over the base rows.
pub struct Kept<B: Backend> {
    /// Input, `[t, d]`.
    pub x_td: Mat<B>,
    /// The rows whose output was wanted ([`Ask::rows`]).
    pub rows: Option<Vec<u32>>,
    /// Everything else; `None`: computed again from the input.
    pub saved: Option<BlockSaved<B>>,
}

/// These rows, in this order.
fn picked<B: Backend>(ctx: &Context<B>, x_td: Mat<B>, rows: Option<&[u32]>) -> Mat<B> {
    let Some(rows) = rows else { return x_td };
    let mut x_sd = ctx.backend.mat(rows.len(), x_td.cols());
    ctx.backend.gather(x_td.view(), rows, x_sd.out());
    x_sd
}

/// From the gradient of picked rows to that of all: zero for those which were not.
fn unpicked<B: Backend>(ctx: &Context<B>, d_sd: Mat<B>, rows: Option<&[u32]>, all: usize) -> Mat<B> {
    let Some(rows) = rows else { return d_sd };
    let mut d_td = ctx.backend.zeros(all, d_sd.cols());
    ctx.backend.scatter_add(d_sd.view(), rows, &[], d_td.acc());
    d_td
}

/// Puts a norm over `y` where there is one.
fn over<B: Backend>(norm: Option<&Norm<B>>, ctx: &Context<B>, y: &mut Mat<B>) -> OutSaved<B> {
    let (normed, saved) = norm?.forward(ctx, y.view());
    Some((std::mem::replace(y, normed), saved))
}

/// From the gradient of what was added to that of the output before its norm; `None`: they are the same.
fn under<B: Backend>(
    norm: Option<&Norm<B>>,
    ctx: &Context<B>,
    grads: &mut Grads<B>,
    saved: &OutSaved<B>,
    dy: &Mat<B>,
) -> Option<Mat<B>> {
    let (norm, (raw, rstd)) = norm.zip(saved.as_ref())?;
    let mut draw = ctx.backend.mat(raw.rows(), raw.cols());
    norm.backward(ctx, grads, raw.view(), rstd, dy.view(), draw.out());
    Some(draw)
}

impl<B: Backend> Block<B> {
    /// Whether some parameter of it is trained.
    pub fn is_trained(&self) -> bool {
        let norms =
            [Some(&self.attention_norm), Some(&self.mlp_norm), self.attention_out.as_ref(), self.mlp_out.as_ref()];
        self.attention.is_trained()
            || self.mlp.is_trained()
            || norms.into_iter().flatten().any(|norm| norm.weight.trained().is_some())
    }

    /// One part through the block: the output of the rows asked for. `context` holds keys and values that spans refer to, unless
    /// they are rows of the part. Where routers measure their load every row must be asked for.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        (rotary, part): (&Rotary<B>, &Part<B>),
        x_td: &Mat<B>,
        context: Option<KeyValue<B>>,
        ask: Ask,
    ) -> (Mat<B>, BlockSaved<B>) {
        let k = ctx.backend;
        let (rows, cols) = (x_td.rows(), x_td.cols());
        let (n_td, attention_norm) = self.attention_norm.forward(ctx, x_td.view());
        let mut mid_td = k.mat(rows, cols);
        let attention = self.attention.forward(ctx, rotary, part, n_td.view(), context, mid_td.out());
        let attention_out = over(self.attention_out.as_ref(), ctx, &mut mid_td);
        k.add(x_td.view(), mid_td.acc());
        drop(n_td);
        let mid_sd = picked(ctx, mid_td, ask.rows);
        let (y_sd, second, load) = if ask.whole {
            let (y_sd, second) = self.second_half(ctx, part, &mid_sd);
            let load = second.mlp.load().cloned();
            (y_sd, Some(second), load)
        } else {
            let (y_sd, load) = self.second_applied(ctx, part, &mid_sd);
            (y_sd, None, load)
        };
        (y_sd, BlockSaved { attention_norm, attention, attention_out, mid_sd, second, load })
    }

    /// The second half of rows that nothing is saved of.
    fn second_applied(&self, ctx: &Context<B>, part: &Part<B>, mid_td: &Mat<B>) -> (Mat<B>, Option<RouterLoad>) {
        let k = ctx.backend;
        let n_td = self.mlp_norm.forward(ctx, mid_td.view()).0;
        let mut y_td = k.mat(mid_td.rows(), mid_td.cols());
        let load = self.mlp.apply(ctx, part, n_td.view(), y_td.out());
        over(self.mlp_out.as_ref(), ctx, &mut y_td);
        k.add(mid_td.view(), y_td.acc());
        (y_td, load)
    }

    fn second_half(&self, ctx: &Context<B>, part: &Part<B>, mid_td: &Mat<B>) -> (Mat<B>, SecondSaved<B>) {
        let k = ctx.backend;
        let (n_td, norm) = self.mlp_norm.forward(ctx, mid_td.view());
        let mut y_td = k.mat(mid_td.rows(), mid_td.cols());
        let mlp = self.mlp.forward(ctx, part, n_td.view(), y_td.out());
        let out = over(self.mlp_out.as_ref(), ctx, &mut y_td);
        k.add(mid_td.view(), y_td.acc());
        (y_td, SecondSaved { norm, mlp, out })
    }

    /// What the second half saved, computed again.
    fn second_again(&self, ctx: &Context<B>, part: &Part<B>, mid_td: &Mat<B>) -> SecondSaved<B> {
        if self.mlp_out.is_some() {
            return self.second_half(ctx, part, mid_td).1;
        }
        let (n_td, norm) = self.mlp_norm.forward(ctx, mid_td.view());
        SecondSaved { norm, mlp: self.mlp.again(ctx, part, n_td.view()), out: None }
    }

    /// New rows: their keys and values are added to the cache, then they attend to it. Returns the output of `rows`; `None`: of
    /// all.
    pub fn step(
        &self,
        ctx: &Context<B>,
        at: (&Rotary<B>, &Step<B>),
        x_td: &Mat<B>,
        cache: &mut LayerCache<B>,
        rows: Option<&[u32]>,
    ) -> Mat<B> {
        let n_td = self.attention_norm.forward(ctx, x_td.view()).0;
        let mut mid_td = ctx.backend.mat(x_td.rows(), x_td.cols());
        self.attention.step(ctx, at, n_td.view(), cache, mid_td.out());
        over(self.attention_out.as_ref(), ctx, &mut mid_td);
        ctx.backend.add(x_td.view(), mid_td.acc());
        drop(n_td);
        self.second_applied(ctx, &at.1.part, &picked(ctx, mid_td, rows)).0
    }

    /// From `dy` of the rows that were wanted (consumed) to `dx` of all, which is computed only when `below` needs it.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        rotary: &Rotary<B>,
        part: &Part<B>,
        kept: Kept<B>,
        dy_sd: Mat<B>,
        below: bool,
    ) -> Option<Mat<B>> {
        let Kept { x_td, rows, saved } = kept;
        let ask = Ask { rows: rows.as_deref(), whole: true };
        let mut saved = saved.unwrap_or_else(|| self.forward(ctx, (rotary, part), &x_td, None, ask).1);
        let k = ctx.backend;
        let mut dmid_td = {
            let (mut dmid_sd, mid) = (dy_sd, saved.mid_sd.view());
            let mut dn_sd = k.mat(mid.rows, mid.cols);
            let second = saved.second.take().unwrap_or_else(|| self.second_again(ctx, part, &saved.mid_sd));
            let n_sd = self.mlp_norm.again(ctx, mid, &second.norm);
            let dout = under(self.mlp_out.as_ref(), ctx, grads, &second.out, &dmid_sd);
            let dout = dout.as_ref().unwrap_or(&dmid_sd).view();
            self.mlp.backward(ctx, grads, (part, n_sd.view()), &second.mlp, dout, dn_sd.out());
            self.mlp_norm.backward(ctx, grads, mid, &second.norm, dn_sd.view(), dmid_sd.acc());
            unpicked(ctx, dmid_sd, rows.as_deref(), x_td.rows())
        };
        let mut dn_td = k.mat(x_td.rows(), x_td.cols());
        let n_td = self.attention_norm.again(ctx, x_td.view(), &saved.attention_norm);
        let need = below || self.attention_norm.weight.trained().is_some();
        let into = need.then(|| dn_td.out());
        let dout = under(self.attention_out.as_ref(), ctx, grads, &saved.attention_out, &dmid_td);
        let dout = dout.as_ref().unwrap_or(&dmid_td).view();
        self.attention.backward(ctx, grads, (rotary, part), n_td.view(), &saved.attention, dout, into);
        if need {
            self.attention_norm.backward(ctx, grads, x_td.view(), &saved.attention_norm, dn_td.view(), dmid_td.acc());
        }
        below.then_some(dmid_td)
    }
}
