//! A decoder's forward and backward over one pack: the whole of it in one screen each.

mod units;
mod waiting;

use crate::Blueprint;
use kernels::{Backend, ForBackward, HEAD_ROWS, HeadExtra, HeadSaved, HeadScores, Mat, Out, Real, View, Weight};
use nn::{
    Ask, Balancing, Block, Context, Grads, Kept, LayerCache, Norm, NormSaved, Params, Part, Rotary, RouterLoad, Step,
    Tensor,
};
use pack::Pack;
use waiting::{Waiting, prefetch, taken};

/// Embedding, blocks, norm, head.
pub struct Decoder<B: Backend> {
    /// Its shapes.
    pub blueprint: Blueprint,
    embed: Tensor<B>,
    blocks: Vec<Block<B>>,
    norm: Norm<B>,
    /// `None`: the embedding.
    head: Option<Tensor<B>>,
    /// Rotation of positions, and that of local layers.
    rotaries: Vec<Rotary<B>>,
    /// The lowest block with something trained in or below it; everything below needs no gradient.
    lowest_trained: usize,
}

/// What of the forward pass is kept for backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: no backward will come.
    Nothing,
    /// Block inputs; blocks are computed again.
    Inputs,
    /// Everything backward reads.
    All,
    /// By block, from the last one, which backward comes to first: so what they keep is gone when others are computed again.
    Mixed {
        /// So many keep everything.
        whole: usize,
        /// So many below them keep everything but what the feed-forward layer saved; the others keep their inputs.
        lean: usize,
    },
}

impl Keep {
    /// Whether a block keeps more than its input, and whether everything, when so many are above it.
    fn of(self, above: usize) -> [bool; 2] {
        match self {
            Keep::Nothing | Keep::Inputs => [false; 2],
            Keep::All => [true; 2],
            Keep::Mixed { whole, lean } => [above < whole + lean, above < whole],
        }
    }
}

/// A pack's rows on the device.
pub struct Parts<B: Backend> {
    base: Part<B>,
    tail: Part<B>,
    /// Added to the embeddings of the base, `[t, d]`.
    noise: Option<Mat<B, B::Real>>,
}

impl<B: Backend> Parts<B> {
    /// Copies a pack's rows.
    pub fn new(backend: &B, pack: &Pack) -> Parts<B> {
        Parts { base: Part::new(backend, &pack.base), tail: Part::new(backend, &pack.tail), noise: None }
    }

    /// Adds `noise`, `[t, d]`, to the embeddings of the base rows; nothing is differentiated through it.
    pub fn with_noise(self, noise: Mat<B, B::Real>) -> Parts<B> {
        assert!(noise.rows() == self.base.len(), "{} rows of noise for {}", noise.rows(), self.base.len());
        Parts { noise: Some(noise), ..self }
    }

    /// As [`Parts::new`], and forward passes measure how routers distribute the rows that graded sequences have.
    pub fn balanced(backend: &B, pack: &Pack) -> Parts<B> {
        let mut parts = Parts::new(backend, pack);
        let counts = pack.base_counts().into_iter().map(|n| B::Real::of(f64::from(n))).collect();
        parts.base.balancing = Some(Balancing { counts, push: Vec::new() });
        parts
    }

    /// Gives backward the derivative of the load-balancing loss by each expert's summed probability
    /// ([`RouterLoad::push`]); the parts must be [`Parts::balanced`].
    pub fn set_push(&mut self, push: &[f64]) {
        let balancing = self.base.balancing.as_mut().expect("parts that are balanced");
        balancing.push = push.iter().map(|x| B::Real::of(*x)).collect();
    }
}

/// How [`Decoder::score_backward`] goes about it.
#[derive(Clone, Copy, Debug)]
pub struct HeadPlan {
    /// Statistics of the distributions too.
    pub extra: bool,
    /// Logits for which there is room; the others are computed twice.
    pub kept_logits: usize,
}

/// Gives log-probabilities of tokens their coefficients in the loss.
pub type Coefficients<'a, R> = dyn FnMut(&[R]) -> Vec<R> + 'a;

/// Rows that a head has scored: its inputs, `[s, d]`, tokens and log-sum-exps.
struct ScoredRows<'a, B: Backend> {
    h_sd: View<'a, B, B::Act>,
    tokens: &'a [u32],
    lse: &'a [B::Real],
}

/// What backward needs of a forward pass.
pub struct Trace<B: Backend> {
    kept: Vec<Waiting<B>>,
    /// Rows of the last block's output that predict graded targets, and how many rows it has.
    rows: Vec<u32>,
    outputs: usize,
    /// Those rows before the final norm, `[s, d]`.
    x_sd: Mat<B>,
    norm: NormSaved<B>,
    /// Those rows after it.
    h_sd: Mat<B>,
}

/// A forward pass: hidden rows of the targets, in target order.
pub struct Forward<B: Backend> {
    /// Rows of graded targets; with them, when kept, what backward needs.
    graded: Trace<B>,
    /// Rows of the other targets, after the final norm.
    ungraded_sd: Mat<B>,
    /// How routers distributed the base rows, summed over layers; empty unless the parts are [`Parts::balanced`].
    pub load: RouterLoad,
}

/// Scores of a pack's targets, in target order.
pub struct Scores<B: Backend> {
    /// Log-probability of each target, nats.
    pub logp: Vec<B::Real>,
    /// Statistics of the graded targets' distributions, when asked for.
    pub extra: Option<HeadExtra<B::Real>>,
    /// Of graded targets.
    lse: Vec<B::Real>,
    /// Of graded targets, where backward will come.
    kept: HeadKept<B>,
}

/// What backward through the head needs beside the hidden rows.
enum HeadKept<B: Backend> {
    /// No backward, or logits that are computed again.
    Nothing,
    /// `d logp / d h`, where the head is frozen.
    Unit(Mat<B>),
    /// Logits of the first entries of the vocabulary, where it is trained.
    Logits(Mat<B>),
    /// Nothing: backward has been through the head, and this is the gradient of its input.
    Gradient(Mat<B>),
}

impl<B: Backend> Scores<B> {
    fn new(extra: bool, kept: HeadKept<B>) -> Scores<B> {
        Scores { logp: Vec::new(), extra: extra.then(HeadExtra::default), lse: Vec::new(), kept }
    }

    fn append(&mut self, found: HeadScores<B::Real>) {
        self.logp.extend(found.logp);
        self.lse.extend(found.lse);
        if let (Some(extra), Some(found)) = (&mut self.extra, found.extra) {
            extra.entropy.extend(found.entropy);
            extra.mean_logit.extend(found.mean_logit);
            extra.argmax.extend(found.argmax);
        }
    }
}

impl<B: Backend> HeadKept<B> {
    fn receive(&mut self) -> ForBackward<'_, B> {
        match self {
            HeadKept::Nothing | HeadKept::Gradient(_) => ForBackward::Nothing,
            HeadKept::Unit(unit_sd) => ForBackward::Unit(unit_sd.out()),
            HeadKept::Logits(logits_vs) => ForBackward::Logits(logits_vs.out()),
        }
    }
}

/// Rows that go through a trained head and back at a time, of which so many have room for all their logits: whole lines of them, but so
/// few only where the products stay large.
fn rows_at_once(fit: usize) -> usize {
    if fit < HEAD_ROWS / 4 { HEAD_ROWS } else { (fit / 16 * 16).min(HEAD_ROWS) }
}

/// The rows of the last block's output that predict a pack's targets, in target order; with them, when `only` these are asked of
/// it, which rows of either part they are, each once.
fn target_rows(pack: &Pack, only: bool) -> (Vec<u32>, Option<[Vec<u32>; 2]>) {
    let mut rows: Vec<u32> = pack.targets.iter().map(|t| t.row).collect();
    if !only {
        return (rows, None);
    }
    let base = pack.base.len() as u32;
    let mut places = vec![None; pack.num_rows()];
    // Those of the base first. A prompt's last row predicts the first token of all its answers.
    let mut pick = |in_base: bool, first: u32| {
        let mut picked = Vec::new();
        for &row in rows.iter().filter(|&&row| (row < base) == in_base) {
            if places[row as usize].is_none() {
                places[row as usize] = Some(first + picked.len() as u32);
                picked.push(if in_base { row } else { row - base });
            }
        }
        picked
    };
    let in_base = pick(true, 0);
    let in_tail = pick(false, in_base.len() as u32);
    rows.iter_mut().for_each(|row| *row = places[*row as usize].expect("picked above"));
    (rows, Some([in_base, in_tail]))
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn new(
        blueprint: Blueprint,
        embed: Tensor<B>,
        blocks: Vec<Block<B>>,
        norm: Norm<B>,
        head: Option<Tensor<B>>,
        rotaries: Vec<Rotary<B>>,
    ) -> Decoder<B> {
        let lowest_trained = match &embed {
            Tensor::Frozen(_) | Tensor::Lent(_) => blocks.iter().position(Block::is_trained).unwrap_or(blocks.len()),
            // The gradient has to come down to it, whatever is between.
            Tensor::Trained(_) | Tensor::Part { .. } => 0,
        };
        Decoder { blueprint, embed, blocks, norm, head, rotaries, lowest_trained }
    }

    /// The rotation of block `i`.
    fn rotary(&self, i: usize) -> &Rotary<B> {
        &self.rotaries[usize::from(self.blueprint.layers[i].local)]
    }

    fn head<'a>(&'a self, params: &Params<'a, B>) -> Weight<'a, B> {
        self.head.as_ref().unwrap_or(&self.embed).weight(params)
    }

    fn embedded(&self, ctx: &Context<B>, part: &Part<B>) -> Mat<B> {
        let mut x_td = ctx.backend.mat(part.len(), self.blueprint.hidden);
        ctx.backend.embed(part.tokens.view(), self.embed.weight(&ctx.params), x_td.out());
        if let Some(scale) = self.blueprint.embed_scale {
            ctx.backend.scale(scale, x_td.out());
        }
        x_td
    }

    /// Runs both parts of a pack through all blocks, layer by layer, so that the tail finds the base's keys and values. In the last
    /// one only rows that predict a target go beyond attention, unless there are experts: their load is that of all rows.
    pub fn forward(&self, ctx: &Context<B>, pack: &Pack, parts: &Parts<B>, keep: Keep) -> Forward<B> {
        let Parts { base, tail, noise } = parts;
        let embedded = |ctx: &Context<B>| (self.embedded(ctx, base), self.embedded(ctx, tail));
        let (mut x_td, mut tail_td) = units::before(ctx, units::EMBEDDING, Some(units::block(0)), embedded);
        if let Some(noise) = noise {
            let rows: Vec<u32> = (0..base.len() as u32).collect();
            let (ids, mut n_td) =
                (ctx.backend.from_host(rows.len(), 1, &rows), ctx.backend.mat(rows.len(), x_td.cols()));
            ctx.backend.embed(ids.view(), Weight::Param(noise.view()), n_td.out());
            ctx.backend.scatter_add(n_td.view(), &rows, &[], x_td.acc());
        }
        let mut kept = Vec::with_capacity(self.blocks.len());
        let mut load = RouterLoad::default();
        let (mut rows, wanted) = target_rows(pack, self.blueprint.experts.is_none());
        for (i, block) in self.blocks.iter().enumerate() {
            let above = self.blocks.len() - 1 - i;
            let [more, whole] = if i < self.lowest_trained { [false; 2] } else { keep.of(above) };
            let wanted = wanted.as_ref().filter(|_| above == 0);
            let [base_rows, tail_rows] = [0, 1].map(|part| wanted.map(|rows| &rows[part][..]));
            let (y_td, saved) = units::before(ctx, units::block(i), Some(units::block(i + 1)), |ctx| {
                let ask = Ask { rows: base_rows, whole };
                let (y_td, saved) = block.forward(ctx, (self.rotary(i), base), &x_td, None, ask);
                if !tail.is_empty() {
                    let (at, ask) = ((self.rotary(i), tail), Ask { rows: tail_rows, whole: false });
                    tail_td = block.forward(ctx, at, &tail_td, Some(saved.key_value()), ask).0;
                }
                (y_td, saved)
            });
            if let Some(more) = saved.load() {
                load.add(more);
            }
            let x_td = std::mem::replace(&mut x_td, y_td);
            if keep != Keep::Nothing && i >= self.lowest_trained {
                let of_block = Kept { x_td, rows: base_rows.map(<[u32]>::to_vec), saved: more.then_some(saved) };
                kept.push(Waiting::new(ctx.backend, of_block));
            }
        }
        let others = rows.split_off(pack.num_grad_targets);
        let x_sd = self.gathered(ctx, &rows, &x_td, &tail_td);
        let others_sd = self.gathered(ctx, &others, &x_td, &tail_td);
        let outputs = x_td.rows();
        let ((h_sd, norm), ungraded_sd) = units::at(ctx, self.norm_unit(), |ctx| {
            (self.norm.forward(ctx, x_sd.view()), self.norm.forward(ctx, others_sd.view()).0)
        });
        Forward { graded: Trace { kept, rows, outputs, x_sd, norm, h_sd }, ungraded_sd, load }
    }

    /// Rows of the pack (base first, then tail), `rows` ascending across that border.
    fn gathered(&self, ctx: &Context<B>, rows: &[u32], base_td: &Mat<B>, tail_td: &Mat<B>) -> Mat<B> {
        let base = base_td.rows() as u32;
        let in_base = rows.partition_point(|&r| r < base);
        let mut out = ctx.backend.mat(rows.len(), self.blueprint.hidden);
        ctx.backend.gather(base_td.view(), &rows[..in_base], out.out().rows(0..in_base));
        let in_tail: Vec<u32> = rows[in_base..].iter().map(|r| r - base).collect();
        ctx.backend.gather(tail_td.view(), &in_tail, out.out().rows(in_base..rows.len()));
        out
    }

    /// Scores the targets of a forward pass. `backward` says that [`Decoder::backward`] will follow, and of how many entries of
    /// the vocabulary a trained head's logits are kept until then.
    pub fn score(
        &self,
        ctx: &Context<B>,
        pack: &Pack,
        forward: &Forward<B>,
        extra: bool,
        backward: Option<usize>,
    ) -> Scores<B> {
        units::at(ctx, self.head_unit(), |ctx| {
            let tokens: Vec<u32> = pack.targets.iter().map(|t| t.token).collect();
            let (graded, ungraded) = tokens.split_at(pack.num_grad_targets);
            let h_sd = forward.graded.h_sd.view();
            let mut kept = backward.map_or(HeadKept::Nothing, |entries| self.head_kept(ctx, h_sd, entries));
            let found = self.head_scores(ctx, h_sd, graded, extra, kept.receive());
            let others = self.head_scores(ctx, forward.ungraded_sd.view(), ungraded, false, ForBackward::Nothing);
            let mut scores = Scores::new(extra, kept);
            scores.append(found);
            scores.logp.extend(others.logp);
            scores
        })
    }

    /// As [`Decoder::score`] and at once backward through the head, for a loss in which a token's log-probability alone decides
    /// its coefficient: some rows at a time, so that the logits of no more than these must be kept or computed again.
    /// [`Decoder::backward`] goes on below the head, without coefficients. Every target is graded.
    pub fn score_backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        pack: &Pack,
        forward: &Forward<B>,
        plan: HeadPlan,
        coefficient: &mut Coefficients<'_, B::Real>,
    ) -> Scores<B> {
        assert!(pack.num_grad_targets == pack.targets.len(), "a target without gradient");
        let h_sd = forward.graded.h_sd.view();
        let tokens: Vec<u32> = pack.targets.iter().map(|t| t.token).collect();
        let mut scores = Scores::new(plan.extra, HeadKept::Gradient(ctx.backend.mat(h_sd.rows, h_sd.cols)));
        let step = rows_at_once(plan.kept_logits / self.blueprint.vocab);
        units::at(ctx, self.head_unit(), |ctx| {
            for first in (0..tokens.len()).step_by(step) {
                let rows = first..(first + step).min(tokens.len());
                let (h_sd, tokens) = (h_sd.rows(rows.clone()), &tokens[rows.clone()]);
                let mut kept = self.head_kept(ctx, h_sd, plan.kept_logits / rows.len());
                let found = self.head_scores(ctx, h_sd, tokens, plan.extra, kept.receive());
                let coefficient = coefficient(&found.logp);
                let HeadKept::Gradient(dh_sd) = &mut scores.kept else { unreachable!("made above") };
                let scored = ScoredRows { h_sd, tokens, lse: &found.lse };
                self.head_backward(ctx, grads, kept, scored, &coefficient, dh_sd.out().rows(rows));
                scores.append(found);
            }
        });
        self.end_head(ctx, grads);
        scores
    }

    /// What scores of rows keep for backward, with room for the logits of so many entries of the vocabulary.
    fn head_kept(&self, ctx: &Context<B>, h_sd: View<B, B::Act>, entries: usize) -> HeadKept<B> {
        let entries = entries.min(self.blueprint.vocab);
        match self.head(&ctx.params) {
            Weight::Stored(_) => HeadKept::Unit(ctx.backend.mat(h_sd.rows, h_sd.cols)),
            _ if entries > 0 && self.blueprint.logit_cap.is_none() => {
                HeadKept::Logits(ctx.backend.mat(entries, h_sd.rows))
            }
            _ => HeadKept::Nothing,
        }
    }

    fn head_scores(
        &self,
        ctx: &Context<B>,
        h_sd: View<B, B::Act>,
        tokens: &[u32],
        extra: bool,
        backward: ForBackward<B>,
    ) -> HeadScores<B::Real> {
        let w_vd = self.head(&ctx.params);
        let Some(cap) = self.blueprint.logit_cap else {
            return ctx.backend.head(h_sd, w_vd, tokens, extra, backward);
        };
        let unit = if let ForBackward::Unit(unit) = backward { Some(unit) } else { None };
        ctx.backend.capped_head(cap, h_sd, w_vd, tokens, extra, unit)
    }

    /// All logits of every target's row, `[targets, v]` (sampling, comparisons).
    pub fn logits(&self, ctx: &Context<B>, forward: &Forward<B>) -> Vec<B::Real> {
        let mut logits = self.head_logits(ctx, &forward.graded.h_sd);
        logits.extend(self.head_logits(ctx, &forward.ungraded_sd));
        logits
    }

    /// Adds the gradient of `sum_s coefficient_s * logp_s` over graded targets.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        pack: &Pack,
        parts: &Parts<B>,
        forward: Forward<B>,
        scores: Scores<B>,
        coefficient: &[B::Real],
    ) {
        let k = ctx.backend;
        let Trace { mut kept, rows, outputs, x_sd, norm, h_sd } = forward.graded;
        prefetch(&mut kept);
        let tokens: Vec<u32> = pack.targets[..rows.len()].iter().map(|t| t.token).collect();
        let mut dh_sd = match scores.kept {
            HeadKept::Gradient(dh_sd) => dh_sd,
            kept => {
                assert!(coefficient.len() == rows.len(), "{} coefficients, {} targets", coefficient.len(), rows.len());
                let mut dh_sd = k.mat(h_sd.rows(), h_sd.cols());
                let scored = ScoredRows { h_sd: h_sd.view(), tokens: &tokens, lse: &scores.lse };
                let through = |ctx: &Context<B>| self.head_backward(ctx, grads, kept, scored, coefficient, dh_sd.out());
                if self.head_is_trained() {
                    units::at(ctx, self.head_unit(), through)
                } else {
                    through(ctx)
                }
                self.end_head(ctx, grads);
                dh_sd
            }
        };
        drop(h_sd);
        let mut dx_sd = k.mat(x_sd.rows(), x_sd.cols());
        units::back(ctx, grads, (self.norm_unit(), self.below(self.blocks.len())), |ctx, grads| {
            self.norm.backward(ctx, grads, x_sd.view(), &norm, dh_sd.view(), dx_sd.out());
        });
        dh_sd = k.zeros(outputs, self.blueprint.hidden);
        k.scatter_add(dx_sd.view(), &rows, &[], dh_sd.acc());
        let mut dx_td = Some(dh_sd);
        let below_all = matches!(self.embed, Tensor::Trained(_));
        for (i, block) in self.blocks.iter().enumerate().skip(self.lowest_trained).rev() {
            let below = below_all || i > self.lowest_trained;
            let kept = taken(k, &mut kept);
            let dy_td = dx_td.take().expect("every block but the lowest hands a gradient down");
            dx_td = units::back(ctx, grads, (units::block(i), self.below(i)), |ctx, grads| {
                block.backward(ctx, grads, self.rotary(i), &parts.base, kept, dy_td, below)
            });
        }
        if let (Tensor::Trained(id), Some(mut dx_td)) = (&self.embed, dx_td) {
            if let Some(scale) = self.blueprint.embed_scale {
                k.scale(scale, dx_td.out());
            }
            k.embed_back(parts.base.tokens.view(), dx_td.view(), grads.unit(units::EMBEDDING).acc(*id));
        }
        grads.end_unit(k, units::EMBEDDING);
    }

    /// Backward of scored rows: their gradient into `dh_sd`, that of a trained head added to its own.
    fn head_backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        kept: HeadKept<B>,
        ScoredRows { h_sd, tokens, lse }: ScoredRows<B>,
        coefficient: &[B::Real],
        mut dh_sd: Out<B, B::Act>,
    ) {
        let mut logits_vs = match kept {
            HeadKept::Unit(unit_sd) => {
                let all: Vec<u32> = (0..tokens.len() as u32).collect();
                ctx.backend.fill_zero(dh_sd.again());
                return ctx.backend.scatter_add(unit_sd.view(), &all, coefficient, dh_sd.into_acc());
            }
            HeadKept::Logits(logits_vs) => Some(logits_vs),
            HeadKept::Nothing | HeadKept::Gradient(_) => None,
        };
        let Tensor::Trained(id) = self.head.as_ref().unwrap_or(&self.embed) else {
            panic!("backward of a pass that was scored without it");
        };
        let saved = HeadSaved { tokens, lse, coefficient, logits: logits_vs.as_mut().map(Mat::out) };
        let mut grads = grads.unit(self.head_unit());
        let (w_vd, dw_vd) = (self.head(&ctx.params), grads.acc(*id));
        match self.blueprint.logit_cap {
            None => ctx.backend.head_back(h_sd, w_vd, saved, dh_sd, dw_vd),
            Some(cap) => ctx.backend.capped_head_back(cap, h_sd, w_vd, saved, dh_sd, dw_vd),
        }
    }

    /// Runs rows whose earlier keys and values lie in `cache`, and writes their own there. Returns rows `wanted` after the final
    /// norm.
    pub fn step(&self, ctx: &Context<B>, step: &Step<B>, cache: &mut Cache<B>, wanted: &[u32]) -> Mat<B> {
        let mut x_td = units::at(ctx, units::EMBEDDING, |ctx| self.embedded(ctx, &step.part));
        for (i, (block, layer)) in self.blocks.iter().zip(&mut cache.layers).enumerate() {
            let rows = (i + 1 == self.blocks.len()).then_some(wanted);
            x_td = units::at(ctx, units::block(i), |ctx| block.step(ctx, (self.rotary(i), step), &x_td, layer, rows));
        }
        units::at(ctx, self.norm_unit(), |ctx| self.norm.forward(ctx, x_td.view()).0)
    }

    /// Logits of hidden rows, `[rows, v]`.
    pub fn head_logits(&self, ctx: &Context<B>, h_sd: &Mat<B>) -> Vec<B::Real> {
        units::at(ctx, self.head_unit(), |ctx| {
            let w_vd = self.head(&ctx.params);
            match self.blueprint.logit_cap {
                None => ctx.backend.logits(h_sd.view(), w_vd),
                Some(cap) => ctx.backend.capped_logits(cap, h_sd.view(), w_vd),
            }
        })
    }

    /// An empty cache of `slots` rows.
    pub fn cache(&self, backend: &B, slots: usize) -> Cache<B> {
        Cache { layers: self.blocks.iter().map(|block| block.attention.cache(backend, slots)).collect() }
    }
}

/// What the blocks remember of tokens seen so far, a row per token.
pub struct Cache<B: Backend> {
    layers: Vec<LayerCache<B>>,
}

impl<B: Backend> Cache<B> {
    /// Copies what is remembered in the rows `from` to the rows `to`, one for one; the two have no row in common.
    pub fn copy_rows(&mut self, backend: &B, from: &[u32], to: &[u32]) {
        self.layers.iter_mut().for_each(|layer| layer.copy_rows(backend, from, to));
    }
}
