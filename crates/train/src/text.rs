//! SFT steps beyond the plain likelihood: tokens weighted by their probability (DFT), noise on the embeddings (NEFTune).

use crate::Job;
use crate::gradient::Gradient;
use crate::run::mix;
use crate::step::{
    Balanced, Interrupted, Pass, Sequence, StepContext, StepReport, TextRow, Who, accumulate, text_packs,
};
use config::Objective;
use kernels::{Backend, Mat, Memory, Real};
use model::Parts;
use objective::metrics::{Metric, TokenSums, sft_values};
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
    /// Derivatives of a step's loss by log-probabilities of targets, each target weighing `each` of the step; adds
    /// what DFT's loss is to `loss`.
    fn coefficients<R: Real>(self, logp: &[R], each: f64, loss: &mut f64) -> Vec<R> {
        if !self.dft {
            return vec![R::of(-each); logp.len()];
        }
        let token = |logp: &R| {
            let (own, slope) = dft::token(logp.f64());
            *loss += own * each;
            R::of(slope * each)
        };
        logp.iter().map(token).collect()
    }
}

/// Rows that go forward before any of them goes backward, if there is a load-balancing loss.
struct Window<'s> {
    packs: &'s [Pack],
    rows: &'s [TextRow],
    /// The first row's number in the step.
    first: usize,
    /// The first pack's.
    number: usize,
    shape: TextLoss,
    /// What a target weighs of the step.
    each: f64,
}

/// A pass that goes backward once its window is through, and derivatives by log-probability.
type Waiting<B> = (Pass<B>, Vec<<B as Memory>::Real>);

/// Adds the gradient of one SFT step whose loss is `shape`: [`text_step`](crate::step::text_step) with another loss or noise.
///
/// With a load-balancing loss of routers each micro-batch goes forward as a whole before it goes backward, as that loss is one
/// number of all its rows.
pub fn shaped_text_step<B: Backend>(
    cx: &StepContext<B>,
    rows: &[TextRow],
    micro_batches: &[usize],
    shape: TextLoss,
    grads: &mut Gradient<B>,
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
    grads.of_groups(windows.len());
    for &n in &windows {
        let part = &rows[first..first + n];
        let packs = text_packs(&unshared, part);
        let window = Window { packs: &packs, rows: part, first, number, shape, each };
        report.loss +=
            unshared.shaped_window(&window, &mut sums[first..first + n], windows.len(), grads, &mut report.groups)?;
        grads.next_group(packs.len());
        number += packs.len();
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
    /// One window forward and backward; returns its loss beyond that of the sums, and adds what routers did to `groups`.
    fn shaped_window(
        &self,
        window: &Window,
        sums: &mut [Sequence],
        windows: usize,
        grads: &mut Gradient<B>,
        groups: &mut Vec<Vec<(Metric, f64)>>,
    ) -> Result<f64, Interrupted> {
        let packs = window.packs;
        let (mut loads, mut losses) = (Vec::new(), Vec::new());
        let mut waiting: Vec<Option<Waiting<B>>> = packs.iter().map(|_| None).collect();
        for turn in self.turns(packs) {
            if self.stopping() {
                return Err(Interrupted);
            }
            if self.balance.is_none() {
                grads.begin_turn(&turn);
            }
            if let Some(i) = turn.pack {
                let (pack, mut loss) = (&packs[i], 0.0);
                let mut coefficients = |logp: &[B::Real]| window.shape.coefficients(logp, window.each, &mut loss);
                let parts = self.shaped_parts(window, i);
                if self.balance.is_none() {
                    self.whole_pass(window.number + i, pack, &parts, &mut coefficients, grads, sums);
                } else {
                    let mut pass = self.shaped(window, i, parts);
                    accumulate(pack, &pass.2, sums);
                    loads.push(std::mem::take(&mut pass.1.load));
                    let coefficient = coefficients(&pass.2.logp[..pack.num_grad_targets]);
                    waiting[i] = Some((pass, coefficient));
                }
                losses.push(vec![loss]);
            } else {
                self.attend_forward(Who::Policy);
                if self.balance.is_none() {
                    self.attend_backward(grads, false);
                }
            }
        }
        self.share(packs, sums, &mut losses)?;
        let loss = losses.iter().flatten().sum();
        if self.balance.is_none() {
            return Ok(loss);
        }
        let load = self.share_load(packs, sums, &loads)?;
        let balanced = Balanced::new(self.balance, &load, 1.0 / windows as f64);
        for turn in self.turns(packs) {
            grads.begin_turn(&turn);
            match turn.pack.and_then(|i| Some((i, waiting[i].take()?))) {
                Some((i, (mut pass, coefficient))) => {
                    balanced.prepare(&mut pass);
                    self.shaped_back(window, i, (pass, coefficient), grads);
                }
                None => self.attend_backward(grads, true),
            }
        }
        groups.push(balanced.values);
        Ok(loss + balanced.loss)
    }

    /// Rows of pack `i` of a window, with the noise of a loss that has some.
    fn shaped_parts(&self, window: &Window, i: usize) -> Parts<B> {
        let (pack, width) = (&window.packs[i], self.policy.decoder.blueprint.hidden);
        let parts = self.parts(pack, Who::Policy);
        match window.shape.noise {
            None => parts,
            Some(noise) => parts.with_noise(noise.of_pack(self.backend, pack, (window.rows, window.first), width)),
        }
    }

    /// Forward over pack `i` of a window whose passes all wait.
    fn shaped(&self, window: &Window, i: usize, parts: Parts<B>) -> Pass<B> {
        let (pack, decoder, passes) = (&window.packs[i], &self.policy.decoder, window.packs.len());
        let ctx = self.context(Who::Policy, window.number + i);
        let forward = decoder.forward(&ctx, pack, &parts, self.execution.keep);
        let scores = decoder.score(&ctx, pack, &forward, self.extra, Some(self.execution.kept_entries(pack, passes)));
        (parts, forward, scores)
    }

    fn shaped_back(&self, window: &Window, i: usize, (pass, coefficient): Waiting<B>, grads: &mut Gradient<B>) {
        let (parts, forward, scores) = pass;
        let (ctx, pack) = (self.context(Who::Policy, window.number + i), &window.packs[i]);
        grads.add(self, |grads| {
            self.policy.decoder.backward(&ctx, grads, pack, &parts, forward, scores, &coefficient);
        });
    }
}
