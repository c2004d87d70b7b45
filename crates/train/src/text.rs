//! SFT steps beyond the plain likelihood: tokens weighted by their probability (DFT), noise on the embeddings (NEFTune).

use crate::Job;
use crate::run::mix;
use crate::step::{
    Balanced, Interrupted, Pass, Sequence, StepContext, StepReport, TextRow, Who, accumulate, text_packs,
};
use config::Objective;
use kernels::{Backend, Mat, Memory, Real};
use model::Scores;
use nn::{Grads, RouterLoad};
use objective::metrics::{TokenSums, sft_values};
use objective::{dft, sft};
use pack::Pack;

/// What the loss of a step is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextLoss {
    /// Each token's loss is weighted by its probability.
    pub dft: bool,
    /// Noise on the embeddings.
    pub noise: Option<Noise>,
}

/// Uniform noise on embeddings (NEFTune; Jain et al. 2023, arXiv 2310.05914).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Entries lie within `alpha / sqrt(tokens * width)`, by the tokens of the entry's own sequence.
    pub alpha: f64,
    /// Key of the step.
    pub key: u64,
}

impl TextLoss {
    /// What a job asks for in the step of that key.
    pub(crate) fn of(job: &Job, key: u64) -> TextLoss {
        let Objective::Sft(sft) = &job.config.objective else { return TextLoss::default() };
        TextLoss { dft: sft.dft, noise: sft.neftune_alpha.map(|alpha| Noise { alpha, key }) }
    }

    /// Whether it is the likelihood and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        *self == TextLoss::default()
    }
}

impl Noise {
    /// Entry `column` of the embedding of token `position` of sequence `sequence`, which has `tokens` tokens: a pure function,
    /// whatever pack the sequence is in.
    fn at(&self, sequence: u32, position: usize, column: usize, scale: f64) -> f64 {
        let row = mix(self.key ^ mix(u64::from(sequence) << 32 | position as u64));
        let uniform = (mix(row ^ column as u64) >> 11) as f64 / (1u64 << 53) as f64;
        (2.0 * uniform - 1.0) * scale
    }

    /// The noise of a pack's base rows, `[t, d]`; every segment is one sequence, the first of `rows` being row `row` of the
    /// step.
    fn of_pack<B: Backend>(
        &self,
        backend: &B,
        pack: &Pack,
        (rows, row): (&[TextRow], usize),
        width: usize,
    ) -> Mat<B, B::Real> {
        let mut noise = Vec::with_capacity(pack.base.len() * width);
        for segment in &pack.base.segments {
            assert!(segment.context.is_empty(), "with noise no prompt is shared");
            let first = pack.targets.partition_point(|t| (t.row as usize) < segment.rows.start);
            // A sequence without targets is seen by none that has some.
            let sequence = pack.targets.get(first).map_or(0, |t| t.sequence);
            let tokens = rows[sequence as usize].prompt.len() + rows[sequence as usize].tokens.len();
            let scale = self.alpha / ((tokens * width) as f64).sqrt();
            for position in 0..segment.rows.len() {
                let sequence = sequence + row as u32;
                noise.extend((0..width).map(|c| B::Real::of(self.at(sequence, position, c, scale))));
            }
        }
        backend.from_host(pack.base.len(), width, &noise)
    }
}

impl TextLoss {
    /// Derivatives of a step's loss by the log-probabilities of a pack's targets, each target weighing `each` of the step; adds
    /// what DFT's loss is to `loss`.
    fn coefficients<B: Backend>(self, pack: &Pack, scores: &Scores<B>, each: f64, loss: &mut f64) -> Vec<B::Real> {
        let graded = &scores.logp[..pack.num_grad_targets];
        if !self.dft {
            return vec![B::Real::of(-each); graded.len()];
        }
        let mut token = |logp: &B::Real| {
            let (own, slope) = dft::token(logp.f64());
            *loss += own * each;
            B::Real::of(slope * each)
        };
        graded.iter().map(&mut token).collect()
    }
}

/// A pack that goes backward once its group is through: its number, its forward pass, derivatives by log-probability.
type Waiting<B> = (usize, Pack, Pass<B>, Vec<<B as Memory>::Real>);

/// Adds the gradient of one SFT step whose loss is `shape`: [`text_step`](crate::step::text_step) with another loss or noise.
///
/// With a load-balancing loss of routers each micro-batch goes forward as a whole before it goes backward, as that loss is one
/// number of all its rows.
pub fn shaped_text_step<B: Backend>(
    cx: &StepContext<B>,
    rows: &[TextRow],
    micro_batches: &[usize],
    shape: TextLoss,
    grads: &mut Mat<B, B::Real>,
) -> Result<StepReport, Interrupted> {
    let targets: usize = rows.iter().map(TextRow::num_targets).sum();
    let each = 1.0 / targets.max(1) as f64;
    let mut sums = vec![Sequence::default(); rows.len()];
    let mut report = StepReport::default();
    let mut execution = cx.execution;
    // Every answer has noise of its own, its prompt included.
    execution.share_prompts &= shape.noise.is_none();
    let unshared = StepContext { execution, ..*cx };
    let windows: Vec<usize> = if cx.balance.is_some() { micro_batches.to_vec() } else { vec![rows.len()] };
    let (mut first, mut number) = (0, 0);
    for &n in &windows {
        let (part, mut load) = (&rows[first..first + n], RouterLoad::default());
        let mut waiting: Vec<Waiting<B>> = Vec::new();
        let packs = text_packs(&unshared, part);
        let together = if cx.balance.is_some() { packs.len() } else { 1 };
        for pack in packs {
            if (cx.interrupted)() {
                return Err(Interrupted);
            }
            let (parts, forward, scores) = unshared.shaped((number, together), &pack, part, (shape, first));
            accumulate(&pack, &scores, &mut sums[first..first + n]);
            load.add(&forward.load);
            let coefficient = shape.coefficients(&pack, &scores, each, &mut report.loss);
            waiting.push((number, pack, (parts, forward, scores), coefficient));
            number += 1;
            if cx.balance.is_none() {
                waiting.drain(..).for_each(|(i, pack, pass, c)| unshared.shaped_back(i, &pack, pass, &c, grads));
            }
        }
        let balanced = Balanced::new(cx.balance, &load, 1.0 / windows.len() as f64);
        for (i, pack, mut pass, coefficient) in waiting {
            balanced.prepare(&mut pass);
            unshared.shaped_back(i, &pack, pass, &coefficient, grads);
        }
        report.loss += balanced.loss;
        if cx.balance.is_some() {
            report.groups.push(balanced.values);
        }
        first += n;
    }
    if !shape.dft {
        report.loss += sft::loss(sums.iter().map(|s| s.logp).sum(), targets);
    }
    report.tokens = rows.iter().map(|r| (r.prompt.len() + r.tokens.len()) as u64).sum();
    report.not_finite = rows.iter().zip(&sums).filter(|(_, s)| !s.logp.is_finite()).map(|(r, _)| r.row).collect();
    let mut first = 0;
    for &n in micro_batches {
        let tokens: Vec<TokenSums> = sums[first..first + n].iter().map(|s| s.sums).collect();
        report.groups.push(if cx.extra { sft_values(&tokens) } else { Vec::new() });
        first += n;
    }
    Ok(report)
}

impl<B: Backend> StepContext<'_, B> {
    /// Forward over pack `i`, of `rows`, with the noise of a loss that has some, and `passes - 1` others in memory; the first
    /// row is row `first` of the step.
    fn shaped(
        &self,
        (i, passes): (usize, usize),
        pack: &Pack,
        rows: &[TextRow],
        (shape, first): (TextLoss, usize),
    ) -> Pass<B> {
        let (ctx, decoder) = (self.context(Who::Policy, i), &self.policy.decoder);
        let mut parts = self.parts(pack, Who::Policy);
        if let Some(noise) = shape.noise {
            let noise = noise.of_pack(self.backend, pack, (rows, first), decoder.blueprint.hidden);
            parts = parts.with_noise(noise);
        }
        let forward = decoder.forward(&ctx, pack, &parts, self.execution.keep);
        let scores = decoder.score(&ctx, pack, &forward, self.extra, Some(self.execution.kept_entries(pack, passes)));
        (parts, forward, scores)
    }

    fn shaped_back(
        &self,
        i: usize,
        pack: &Pack,
        (parts, forward, scores): Pass<B>,
        coefficient: &[B::Real],
        grads: &mut Mat<B, B::Real>,
    ) {
        let mut grads = Grads { table: &self.policy.table, values: grads };
        let ctx = self.context(Who::Policy, i);
        self.policy.decoder.backward(&ctx, &mut grads, pack, &parts, forward, scores, coefficient);
    }
}
