//! The layers of one block.

use super::Builder;
use crate::{Blueprint, Error, LatentSpec, Projection};
use kernels::{AttentionShape, Backend};
use nn::{Attention, Block, FeedForward, LatentAttention, LatentQuery, Linear, Lora, Mlp, Norm, SelfAttention, Tensor};
use std::ops::Range;

/// The inner norms of latent attention have this, whatever the configuration says: the class passes none to them.
const LATENT_EPS: f64 = 1e-6;

/// Consecutive runs of rows of the given lengths.
pub(super) fn runs(lengths: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    let run = |n| {
        end += n;
        end - n..end
    };
    lengths.into_iter().map(run).collect()
}

/// The layer from the latent to keys and values: whole, and head by head.
type UpLayers<B> = (Linear<B>, Vec<[Linear<B>; 2]>);

impl<B: Backend> Builder<'_, B> {
    pub(super) fn block(&mut self, b: &Blueprint, i: usize) -> Result<Block<B>, Error> {
        let at = |leaf: &str| format!("model.layers.{i}.{leaf}.weight");
        let attention_norm = self.norm(b, &at("input_layernorm"), b.hidden)?;
        let attention = match &b.latent {
            None => Attention::Grouped(self.grouped_attention(b, i)?),
            Some(spec) => Attention::Latent(self.latent_attention(b, spec, i)?),
        };
        // With norms on both sides the name that others give to the norm before the feed-forward layer is the one after attention.
        let (attention_out, before, mlp_out) = match b.out_norms {
            false => (None, "post_attention_layernorm", None),
            true => (
                Some(self.norm(b, &at("post_attention_layernorm"), b.hidden)?),
                "pre_feedforward_layernorm",
                Some(self.norm(b, &at("post_feedforward_layernorm"), b.hidden)?),
            ),
        };
        let mlp_norm = self.norm(b, &at(before), b.hidden)?;
        let mlp = match b.experts_of(i) {
            None => FeedForward::Dense(self.gated(b, b.feed_forward_projections(i))?),
            Some(spec) => FeedForward::Experts(self.experts(b, spec, i)?),
        };
        Ok(Block { attention_norm, attention, attention_out, mlp_norm, mlp, mlp_out })
    }

    fn grouped_attention(&mut self, b: &Blueprint, i: usize) -> Result<SelfAttention<B>, Error> {
        let at = |leaf: &str| format!("model.layers.{i}.self_attn.{leaf}");
        let mut projections = b.attention_projections(i);
        let o = projections.pop().expect("o is the last");
        let [q, k, v] = match b.fused {
            false => three(projections, |p| self.linear(p))?,
            true => {
                let (q, kv) = (b.heads * b.head_width, b.kv_heads * b.head_width);
                let whole = projections.pop().expect("q, k, v in one");
                <[_; 3]>::try_from(self.split(whole, [q, kv, kv])?).unwrap_or_else(|_| unreachable!("three runs"))
            }
        };
        let o = self.linear(o)?;
        let qk_norm = match b.qk_norm {
            false => None,
            true => {
                let q = self.norm(b, &at("q_norm.weight"), b.head_width)?;
                Some((q, self.norm(b, &at("k_norm.weight"), b.head_width)?))
            }
        };
        let sinks = if b.sinks { Some(self.vector(&at("sinks"), b.heads)?) } else { None };
        let shape = AttentionShape {
            query_heads: b.heads,
            kv_heads: b.kv_heads,
            qk_width: b.head_width,
            v_width: b.head_width,
            scale: b.score_scale,
            window: b.layers[i].window,
            cap: b.score_cap,
        };
        Ok(SelfAttention { q, k, v, o, qk_norm, sinks, shape })
    }

    /// A linear layer whose outputs are those of several, as these.
    fn split(&mut self, p: Projection, lengths: impl IntoIterator<Item = usize>) -> Result<Vec<Linear<B>>, Error> {
        let runs = runs(lengths);
        let weights = self.cut(&format!("{}.weight", p.path), &[p.outputs, p.inputs], &runs)?;
        let lora = self.lora(&p);
        let part = |(weight, run): (Tensor<B>, &Range<usize>)| {
            let lora = lora.map(|lora| Lora { first: run.start, ..lora });
            Linear { weight, bias: None, lora, inputs: p.inputs, outputs: run.len() }
        };
        let parts: Vec<Linear<B>> = weights.into_iter().zip(&runs).map(part).collect();
        parts.iter().for_each(|part| self.note_lengths(part));
        Ok(parts)
    }

    /// A gated feed-forward layer of two or three projections.
    pub(super) fn gated(&mut self, b: &Blueprint, mut projections: Vec<Projection>) -> Result<Mlp<B>, Error> {
        let down = projections.pop().expect("down is the last");
        let [gate, up] = match b.fused {
            false => {
                let up = projections.pop().expect("up");
                let gate = projections.pop().expect("gate");
                [self.linear(gate)?, self.linear(up)?]
            }
            true => {
                let whole = projections.pop().expect("gate and up in one");
                let f = whole.outputs / 2;
                <[_; 2]>::try_from(self.split(whole, [f, f])?).unwrap_or_else(|_| unreachable!("two runs"))
            }
        };
        Ok(Mlp { gate, up, down: self.linear(down)?, activation: b.gate })
    }

    fn latent_attention(&mut self, b: &Blueprint, spec: &LatentSpec, i: usize) -> Result<LatentAttention<B>, Error> {
        let at = |leaf: &str| format!("model.layers.{i}.self_attn.{leaf}.weight");
        let mut projections = b.attention_projections(i).into_iter();
        let mut next = || projections.next().expect("as many as a latent attention has");
        let q = match spec.query {
            None => LatentQuery::Direct(self.linear(next())?),
            Some(c) => LatentQuery::LowRank {
                down: self.linear(next())?,
                norm: Norm { eps: LATENT_EPS, ..self.norm(b, &at("q_a_layernorm"), c)? },
                up: self.linear(next())?,
            },
        };
        let down = self.linear(next())?;
        let norm = Norm { eps: LATENT_EPS, ..self.norm(b, &at("kv_a_layernorm"), spec.width)? };
        let (up, heads) = self.up(b, spec, next())?;
        let o = self.linear(next())?;
        let shape = AttentionShape {
            query_heads: b.heads,
            kv_heads: b.heads,
            qk_width: spec.unrotated + spec.rotated,
            v_width: spec.value,
            scale: b.score_scale,
            window: b.layers[i].window,
            cap: None,
        };
        Ok(LatentAttention { q, down, norm, up, heads, o, shape, latent: spec.width })
    }

    /// From the latent to keys and values: whole, and head by head.
    fn up(&mut self, b: &Blueprint, spec: &LatentSpec, p: Projection) -> Result<UpLayers<B>, Error> {
        let widths = (0..b.heads).flat_map(|_| [spec.unrotated, spec.value]);
        let runs: Vec<Range<usize>> = std::iter::once(0..p.outputs).chain(runs(widths)).collect();
        let weights = self.cut(&format!("{}.weight", p.path), &[p.outputs, p.inputs], &runs)?;
        let lora = self.lora(&p);
        let mut layers = weights.into_iter().zip(&runs).map(|(weight, run)| {
            let lora = lora.map(|lora| Lora { first: run.start, ..lora });
            Linear { weight, bias: None, lora, inputs: p.inputs, outputs: run.len() }
        });
        let mut next = || layers.next().expect("one layer per run");
        let whole = next();
        self.note_lengths(&whole);
        Ok((whole, (0..b.heads).map(|_| [next(), next()]).collect()))
    }
}

/// Three of three.
fn three<T, E>(projections: Vec<Projection>, mut make: impl FnMut(Projection) -> Result<T, E>) -> Result<[T; 3], E> {
    let [a, b, c] =
        <[Projection; 3]>::try_from(projections).unwrap_or_else(|p| panic!("expected q, k, v, found {p:?}"));
    Ok([make(a)?, make(b)?, make(c)?])
}
