//! SFT steps beyond the plain likelihood: tokens weighted by their probability (DFT), noise on the embeddings (NEFTune).

use crate::Job;
use crate::gradient::Gradient;
use crate::run::mix;
use crate::step::{Interrupted, Sequence, StepContext, StepReport, TextRow, text_packs};
use config::Objective;
use kernels::{Backend, Mat, Real};
use model::Parts;
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

    /// The noise of a pack's base rows, `[t, d]`; every segment is one sequence.
    fn of_pack<B: Backend>(&self, backend: &B, pack: &Pack, rows: &[TextRow], width: usize) -> Mat<B, B::Real> {
        let mut noise = Vec::with_capacity(pack.base.len() * width);
        for segment in &pack.base.segments {
            assert!(segment.context.is_empty(), "with noise no prompt is shared");
            let first = pack.targets.partition_point(|t| (t.row as usize) < segment.rows.start);
            // A sequence without targets is seen by none that has some.
            let sequence = pack.targets.get(first).map_or(0, |t| t.sequence);
            let tokens = rows[sequence as usize].prompt.len() + rows[sequence as usize].tokens.len();
            let scale = self.alpha / ((tokens * width) as f64).sqrt();
            for position in 0..segment.rows.len() {
                noise.extend((0..width).map(|c| B::Real::of(self.at(sequence, position, c, scale))));
            }
        }
        backend.from_host(pack.base.len(), width, &noise)
    }
}

/// Adds the gradient of one SFT step whose loss is `shape`: [`text_step`](crate::step::text_step) with another loss or noise.
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
    let packs = text_packs(&unshared, rows);
    // The loss of each pack, where it is not that of its sums.
    let mut losses = Vec::new();
    for turn in cx.turns(&packs) {
        if cx.stopping() {
            return Err(Interrupted);
        }
        if let Some(i) = turn {
            let pack = &packs[i];
            let mut parts = Parts::new(cx.backend, pack);
            if let Some(noise) = shape.noise {
                parts = parts.with_noise(noise.of_pack(cx.backend, pack, rows, cx.policy.decoder.blueprint.hidden));
            }
            let mut loss = 0.0;
            let mut coefficients = |logp: &[B::Real]| match shape.dft {
                false => vec![B::Real::of(sft::coefficient(targets)); logp.len()],
                true => {
                    let tokens = logp.iter().map(|logp| dft::token(logp.f64()));
                    let weighted = tokens.map(|(value, slope)| {
                        loss += value * each;
                        B::Real::of(slope * each)
                    });
                    weighted.collect()
                }
            };
            unshared.whole_pass(i, pack, &parts, &mut coefficients, grads, &mut sums);
            losses.push(vec![loss]);
        }
        grads.end_turn(cx.backend, cx.team, turn);
    }
    cx.share(&packs, &mut sums, &mut losses)?;
    report.loss = losses.iter().flatten().sum();
    if !shape.dft {
        report.loss = sft::loss(sums.iter().map(|s| s.logp).sum(), targets);
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
