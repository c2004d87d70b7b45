//! Mixtures of experts, in every layout that checkpoints have them.

use super::layers::runs;
use super::storage::Held;
use super::{Builder, mxfp4};
use crate::{Blueprint, Error, ExpertLayout, ExpertSpec, Projection};
use kernels::{Backend, Clamp};
use nn::{Activation, Experts, Linear, Router, SharedExpert, Tensor};
use std::ops::Range;

/// The linear layers of all experts, projection by projection.
type Banks<B> = Vec<Vec<Linear<B>>>;

impl<B: Backend> Builder<'_, B> {
    pub(super) fn experts(&mut self, b: &Blueprint, spec: &ExpertSpec, i: usize) -> Result<Experts<B>, Error> {
        let (router, at) = (self.router(b, spec, i)?, format!("model.layers.{i}.mlp.experts"));
        if let ExpertLayout::Turned(clamp) = spec.layout {
            return self.turned_experts(b, spec, (i, &at), router, clamp);
        }
        let by_expert = b.expert_projections(i);
        let single = format!("{}.weight", by_expert[0][0].path);
        let stacked = !self.checkpoint.contains(&single) && self.checkpoint.contains(&format!("{at}.gate_up_proj"));
        let mut banks = if stacked { self.stacked(spec, b.hidden, &at, by_expert)? } else { self.single(by_expert)? };
        let [down, up, gate] = [(); 3].map(|()| banks.pop().expect("gate, up, down"));
        let activation = Activation::Gated { gate, up, kind: b.gate };
        let shared = self.shared(b, spec, i)?;
        Ok(Experts { router, activation, down, down_bias: None, turned: false, shared })
    }

    fn router(&mut self, b: &Blueprint, spec: &ExpertSpec, i: usize) -> Result<Router<B>, Error> {
        let (e, d) = (spec.route.experts, b.hidden);
        let at = |leaf: &str| format!("model.layers.{i}.{leaf}");
        let older = at("block_sparse_moe.gate");
        let path = match spec.layout {
            ExpertLayout::Turned(_) => at("mlp.router"),
            ExpertLayout::Mixtral if self.checkpoint.contains(&format!("{older}.weight")) => older,
            _ => at("mlp.gate"),
        };
        let bias = matches!(spec.layout, ExpertLayout::Turned(_));
        let correction = match spec.layout {
            ExpertLayout::Corrected => {
                let source = self.source(&at("mlp.gate.e_score_correction_bias"), &[e])?;
                Some(self.values(&source, &[e]))
            }
            _ => None,
        };
        let linear = self.linear(Projection { path, outputs: e, inputs: d, bias })?;
        Ok(Router { linear, correction, shape: spec.route })
    }

    fn shared(&mut self, b: &Blueprint, spec: &ExpertSpec, i: usize) -> Result<Option<SharedExpert<B>>, Error> {
        let Some(shared) = &spec.shared else { return Ok(None) };
        let mut projections = b.feed_forward_projections(i);
        let gate = if shared.gated { projections.pop() } else { None };
        let mlp = self.gated(b, projections)?;
        Ok(Some(SharedExpert { mlp, gate: gate.map(|p| self.linear(p)).transpose()? }))
    }

    /// One tensor per expert and projection.
    fn single(&mut self, by_expert: Vec<Vec<Projection>>) -> Result<Banks<B>, Error> {
        let mut banks: Banks<B> = by_expert[0].iter().map(|_| Vec::with_capacity(by_expert.len())).collect();
        for expert in by_expert {
            for (bank, p) in banks.iter_mut().zip(expert) {
                bank.push(self.linear(p)?);
            }
        }
        Ok(banks)
    }

    /// All experts of a projection in one tensor, gate above up.
    fn stacked(
        &mut self,
        spec: &ExpertSpec,
        d: usize,
        at: &str,
        by_expert: Vec<Vec<Projection>>,
    ) -> Result<Banks<B>, Error> {
        let (e, f) = (spec.route.experts, spec.width);
        let gate_up = self.cut(&format!("{at}.gate_up_proj"), &[e, 2 * f, d], &runs(vec![f; 2 * e]))?;
        let down = self.cut(&format!("{at}.down_proj"), &[e, d, f], &runs(vec![d; e]))?;
        let (mut gate_up, mut down) = (gate_up.into_iter(), down.into_iter());
        let mut banks: Banks<B> = vec![Vec::new(), Vec::new(), Vec::new()];
        for expert in by_expert {
            let weights = [gate_up.next(), gate_up.next(), down.next()].map(|w| w.expect("one per expert"));
            for ((bank, p), weight) in banks.iter_mut().zip(expert).zip(weights) {
                bank.push(self.around(weight, &p));
            }
        }
        Ok(banks)
    }

    /// A linear layer without bias around a weight, with its adapter.
    fn around(&mut self, weight: Tensor<B>, p: &Projection) -> Linear<B> {
        Linear { weight, bias: None, lora: self.lora(p), inputs: p.inputs, outputs: p.outputs }
    }

    /// GPT-OSS: weights as `[e, in, out]`, or as blocks of four bits, which lie as `[e, out, in]`.
    fn turned_experts(
        &mut self,
        b: &Blueprint,
        spec: &ExpertSpec,
        (i, at): (usize, &str),
        router: Router<B>,
        clamp: Clamp,
    ) -> Result<Experts<B>, Error> {
        let (e, d, f) = (spec.route.experts, b.hidden, spec.width);
        let packed = self.checkpoint.contains(&format!("{at}.gate_up_proj_blocks"));
        let (gate_up, down) = if packed {
            (
                self.packed(&format!("{at}.gate_up_proj"), [e, 2 * f, d])?,
                self.packed(&format!("{at}.down_proj"), [e, d, f])?,
            )
        } else {
            let rows = |n: usize| -> Vec<Range<usize>> { runs(vec![n; e]) };
            (
                self.cut(&format!("{at}.gate_up_proj"), &[e, d, 2 * f], &rows(d))?,
                self.cut(&format!("{at}.down_proj"), &[e, f, d], &rows(f))?,
            )
        };
        let mut banks = [Vec::with_capacity(e), Vec::with_capacity(e)];
        for (expert, weights) in b.expert_projections(i).into_iter().zip(gate_up.into_iter().zip(down)) {
            let [p, q] = <[Projection; 2]>::try_from(expert).unwrap_or_else(|_| unreachable!("two projections"));
            banks[0].push(self.around(weights.0, &p));
            banks[1].push(self.around(weights.1, &q));
        }
        let [gate_up, down] = banks;
        let bias = self.vectors(&format!("{at}.gate_up_proj_bias"), &[e, 2 * f])?;
        let down_bias = Some(self.vectors(&format!("{at}.down_proj_bias"), &[e, d])?);
        let activation = Activation::Clamped { gate_up, bias, clamp };
        Ok(Experts { router, activation, down, down_bias, turned: !packed, shared: None })
    }

    /// Experts' weights of `[out, in]` in blocks of four bits, which they stay.
    fn packed(&mut self, name: &str, [e, outputs, inputs]: [usize; 3]) -> Result<Vec<Tensor<B>>, Error> {
        if self.trains(name) {
            let what = "the checkpoint holds its experts as mxfp4, which an adapter can be trained on, but not the \
                        weights themselves; set use_peft, or give a checkpoint in bf16";
            return Err(Error::config("quantization_config", what));
        }
        if inputs % mxfp4::BLOCK != 0 {
            let what = format!("expected widths that are multiples of {} for mxfp4, found {inputs}", mxfp4::BLOCK);
            return Err(Error::config("quantization_config", what));
        }
        let groups = inputs / mxfp4::BLOCK;
        let blocks = self.checkpoint.get_shaped(&format!("{name}_blocks"), &[e, outputs, groups, mxfp4::BLOCK / 2])?;
        let scales = self.checkpoint.get_shaped(&format!("{name}_scales"), &[e, outputs, groups])?;
        let held = Held { tensor: mxfp4::joined(&blocks, &scales)?, mapped: false };
        scales.release();
        Ok(self.frozen(held, &runs(vec![outputs; e]), inputs))
    }
}
