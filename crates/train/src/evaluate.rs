//! Loss and metrics of rows without any update.

use crate::prepare::loss_of;
use crate::step::{
    Interrupted, Preference, Scored, Sequence, StepContext, TextRow, Who, accumulate, score_preference, text_packs,
};
use crate::text::TextLoss;
use crate::{Job, Rows};
use config::Z0Scope;
use kernels::{Backend, Real};
use objective::metrics::{Metric, Window, sft_values};
use objective::{Settings, evaluate};

/// The preference settings of a job's rows.
pub(crate) fn preference<'a>(job: &Job, rows: &'a Rows) -> Option<Preference<'a>> {
    let kto = job.kto()?;
    let (desirable_weight, undesirable_weight) = job.weights;
    let settings = Settings { beta: kto.beta, desirable_weight, undesirable_weight };
    Some(Preference { loss: loss_of(kto), settings, partners: &rows.partners, ftx: kto.ftx })
}

/// Evaluates `rows`; the keys of the result begin with `eval_`.
pub(crate) fn evaluate_rows<B: Backend>(
    job: &Job,
    rows: &Rows,
    cx: &StepContext<B>,
) -> Result<Vec<(String, f64)>, Interrupted> {
    let mut window = Window::default();
    match preference(job, rows) {
        Some(preference) => preference_values(job, rows, cx, &preference, &mut window)?,
        None => text_values(job, rows, cx, &mut window)?,
    }
    Ok(window.take().into_iter().map(|(name, value)| (format!("eval_{name}"), value)).collect())
}

fn preference_values<B: Backend>(
    job: &Job,
    rows: &Rows,
    cx: &StepContext<B>,
    preference: &Preference,
    window: &mut Window,
) -> Result<(), Interrupted> {
    let all: Vec<u32> = (0..rows.data.len() as u32).collect();
    let one_z0 = job.kto().is_some_and(|k| k.z0_scope == Z0Scope::Step);
    let mut whole: Option<Scored> = None;
    let add = |scored: &Scored, window: &mut Window| {
        let mut losses = evaluate(preference.loss, &preference.settings, &scored.outcomes, scored.kl.z0, 1.0);
        objective::ftx::add(preference.ftx, &scored.outcomes, &scored.sums, &mut losses);
        let mean = losses.iter().map(|l| l.loss).sum::<f64>() / losses.len() as f64;
        window.add(&[(Metric::Loss, mean)]);
        window.add(&scored.metrics(preference.settings.beta, cx.extra));
    };
    for chunk in all.chunks(job.config.batch.eval_rows) {
        let scored = score_preference(cx, preference, chunk)?;
        match (&mut whole, one_z0) {
            (_, false) => add(&scored, window),
            (None, true) => whole = Some(scored),
            (Some(whole), true) => whole.extend(scored),
        }
    }
    whole.iter().for_each(|scored| add(scored, window));
    Ok(())
}

fn text_values<B: Backend>(
    job: &Job,
    rows: &Rows,
    cx: &StepContext<B>,
    window: &mut Window,
) -> Result<(), Interrupted> {
    let units: Vec<u32> = (0..rows.len() as u32).collect();
    let weighted = TextLoss::of(job, 0).dft;
    let (mut logp, mut loss, mut sums) = (0.0, 0.0, Vec::new());
    for chunk in units.chunks(job.config.batch.eval_rows) {
        let texts: Vec<TextRow> = chunk.iter().flat_map(|&u| rows.texts(u)).collect();
        let mut sequences = vec![Sequence::default(); texts.len()];
        cx.visit(&text_packs(cx, &texts), Who::Policy, cx.extra, &mut |pack, scores| {
            accumulate(pack, scores, &mut sequences);
            if weighted {
                let graded = &scores.logp[..pack.num_grad_targets];
                loss += graded.iter().map(|logp| objective::dft::token(logp.f64()).0).sum::<f64>();
            }
        })?;
        for s in sequences {
            logp += s.logp;
            sums.push(s.sums);
        }
    }
    let targets: usize = sums.iter().map(|s| s.tokens).sum();
    let mean = if weighted { loss / targets.max(1) as f64 } else { objective::sft::loss(logp, targets) };
    window.add(&[(Metric::Loss, mean)]);
    if cx.extra {
        window.add(&sft_values(&sums));
    }
    Ok(())
}
