//! A pre-norm decoder block over both parts of a pack, and its backward with or without recomputation.

use crate::{Context, Grads, Mlp, MlpSaved, Norm, NormSaved, Part, Rotary, SelfAttention, SelfAttentionSaved};
use kernels::{Backend, KeyValue, Mat};

/// `x += attention(norm(x)); x += mlp(norm(x))`.
pub struct Block<B: Backend> {
    /// Before attention.
    pub attention_norm: Norm<B>,
    /// Attention.
    pub attention: SelfAttention<B>,
    /// Before the feed-forward layer.
    pub mlp_norm: Norm<B>,
    /// Feed-forward layer.
    pub mlp: Mlp<B>,
}

/// What backward needs beside the block's input; normalised inputs are computed again.
pub struct BlockSaved<B: Backend> {
    attention_norm: NormSaved<B>,
    attention: SelfAttentionSaved<B>,
    mid_td: Mat<B>,
    mlp_norm: NormSaved<B>,
    mlp: MlpSaved<B>,
}

impl<B: Backend> BlockSaved<B> {
    /// Keys and values of these rows.
    pub fn key_value(&self) -> KeyValue<'_, B> {
        self.attention.key_value()
    }
}

/// A block's memory of its forward pass over the base rows.
pub struct Kept<B: Backend> {
    /// Input, `[t, d]`.
    pub x_td: Mat<B>,
    /// Everything else; `None`: computed again from the input.
    pub saved: Option<BlockSaved<B>>,
}

impl<B: Backend> Block<B> {
    /// One part through the block. `context` holds keys and values that spans refer to, unless they are rows of the part.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        rotary: &Rotary<B>,
        part: &Part<B>,
        x_td: &Mat<B>,
        context: Option<KeyValue<B>>,
    ) -> (Mat<B>, BlockSaved<B>) {
        let k = ctx.backend;
        let (rows, cols) = (x_td.rows(), x_td.cols());
        let (n_td, attention_norm) = self.attention_norm.forward(ctx, x_td.view());
        let mut mid_td = k.mat(rows, cols);
        let attention = self.attention.forward(ctx, rotary, part, n_td.view(), context, mid_td.out());
        k.add(x_td.view(), mid_td.acc());
        drop(n_td);
        let (n_td, mlp_norm) = self.mlp_norm.forward(ctx, mid_td.view());
        let mut y_td = k.mat(rows, cols);
        let mlp = self.mlp.forward(ctx, n_td.view(), y_td.out());
        k.add(mid_td.view(), y_td.acc());
        (y_td, BlockSaved { attention_norm, attention, mid_td, mlp_norm, mlp })
    }

    /// From `dy` (consumed) to `dx`, which is computed only when `below` needs it.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        rotary: &Rotary<B>,
        part: &Part<B>,
        kept: Kept<B>,
        dy_td: Mat<B>,
        below: bool,
    ) -> Option<Mat<B>> {
        let Kept { x_td, saved } = kept;
        let saved = saved.unwrap_or_else(|| self.forward(ctx, rotary, part, &x_td, None).1);
        let k = ctx.backend;
        let mut dmid_td = dy_td;
        let mut dn_td = k.mat(x_td.rows(), x_td.cols());
        {
            let n_td = self.mlp_norm.again(ctx, saved.mid_td.view(), &saved.mlp_norm);
            self.mlp.backward(ctx, grads, n_td.view(), &saved.mlp, dmid_td.view(), dn_td.out());
            self.mlp_norm.backward(ctx, grads, saved.mid_td.view(), &saved.mlp_norm, dn_td.view(), dmid_td.acc());
        }
        let n_td = self.attention_norm.again(ctx, x_td.view(), &saved.attention_norm);
        let need = below || self.attention_norm.weight.trained().is_some();
        let into = need.then(|| dn_td.out());
        self.attention.backward(ctx, grads, (rotary, part), n_td.view(), &saved.attention, dmid_td.view(), into);
        if need {
            self.attention_norm.backward(ctx, grads, x_td.view(), &saved.attention_norm, dn_td.view(), dmid_td.acc());
        }
        below.then_some(dmid_td)
    }
}
