//! Steps in this process: seconds by part, and the step against its floor.

use crate::arithmetic::median;
use crate::device::{Device, Measured, Sizes};
use crate::error::Error;
use crate::job::{Case, Stepper, work_of};
use crate::machine::{self, Yardstick};
use kernels::cuda::Cuda;
use kernels::timed::{Operator, Timed};
use kernels::{Memory, bf16};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use train::work::Work;
use train::{Job, Plan};

/// Parts of a step, in the order of tables. The last is what no operator accounts for: packs, objective, metrics.
pub(crate) const PARTS: [&str; 8] =
    ["embed", "attention", "linear", "norm, activation", "head", "optimiser", "rows moved", "data and other"];

/// The part that an operator belongs to, by its place in [`PARTS`].
fn part_of(operator: Operator) -> usize {
    use Operator as O;
    match operator {
        O::Embed | O::EmbedBack => 0,
        O::Attention | O::AttentionBack | O::Rope => 1,
        O::Linear | O::LinearDx | O::LinearDw | O::AddBias | O::BiasBack | O::Dropout => 2,
        O::Grouped | O::GroupedBack | O::Route => 2,
        O::RmsNorm | O::RmsNormBack | O::Glu | O::GluBack | O::Add | O::Scale => 3,
        O::Head | O::HeadBack => 4,
        O::Adamw | O::SquareNorm | O::FillZero => 5,
        O::MoveRows | O::Transfer | O::Alloc => 6,
    }
}

/// Seconds by part of `wall` seconds in which operators took `times`.
pub(crate) fn by_part(times: &[(Operator, Duration)], wall: f64) -> [f64; PARTS.len()] {
    let mut parts = [0.0; PARTS.len()];
    times.iter().for_each(|(operator, time)| parts[part_of(*operator)] += time.as_secs_f64());
    parts[PARTS.len() - 1] = wall - parts.iter().sum::<f64>();
    parts
}

/// A series of steps.
#[derive(Serialize)]
pub(crate) struct Steps {
    pub(crate) model: String,
    pub(crate) objective: &'static str,
    pub(crate) tuning: &'static str,
    /// Rows of a step.
    pub(crate) batch: usize,
    /// Loading model, tokenizer and rows, seconds.
    pub(crate) prepare_seconds: f64,
    /// The reference's log-probabilities before the first step, seconds per step of rows.
    pub(crate) reference_seconds: f64,
    /// Of each step that counts.
    pub(crate) seconds: Vec<f64>,
    /// Operations per second of a large product just before or just after each, the better.
    pub(crate) flops: Vec<f64>,
    /// Operations that the mathematics of each needs.
    pub(crate) work: Vec<Work>,
    /// Mean seconds of a step by part.
    pub(crate) parts: Vec<(&'static str, f64)>,
    /// Mean tokens of a step's rows.
    pub(crate) tokens: f64,
    /// Loss of the last step: finite, or the figures mean nothing.
    pub(crate) last_loss: f64,
}

impl Steps {
    /// The floor of each step, seconds.
    pub(crate) fn floors(&self) -> impl Iterator<Item = f64> {
        self.work.iter().zip(&self.flops).map(|(work, rate)| work.total() / rate)
    }

    /// Median over steps of the floor as a share of the time.
    pub(crate) fn fraction(&self) -> f64 {
        median(self.floors().zip(&self.seconds).map(|(floor, seconds)| floor / seconds))
    }

    /// Rows per second of the steps.
    pub(crate) fn rows_per_second(&self) -> f64 {
        (self.batch * self.seconds.len()) as f64 / self.seconds.iter().sum::<f64>()
    }
}

/// Makes one step that does not count, and `count` that do, with a large product before and after each.
pub(crate) fn measure(case: &Case, count: usize, scratch: &Path, device: &Device) -> Result<Steps, Error> {
    let begin = Instant::now();
    let mut job = case.load(count + 1, &scratch.join("steps"))?;
    if let Device::Gpu(options) = device {
        train::ask_gpu(&mut job, options)?;
    }
    let plan = Plan::new(&job)?;
    let loaded = begin.elapsed().as_secs_f64();
    match device {
        Device::Cpu { bf16 } => series(case, count, (&job, &plan), machine::cpu(*bf16), (loaded, device.sizes())),
        Device::Gpu(options) => {
            let gpu = Cuda::<bf16>::open(options)?;
            // As a run does.
            let planned = plan.total() as usize;
            gpu.reserve((planned + planned / 16).min(gpu.free_memory()? / 20 * 19));
            gpu.reserve_host(plan.host as usize)?;
            series(case, count, (&job, &plan), gpu, (loaded, device.sizes()))
        }
    }
}

fn series<B: Measured>(
    case: &Case,
    count: usize,
    (job, plan): (&Job, &Plan),
    backend: B,
    (loaded, sizes): (f64, &Sizes),
) -> Result<Steps, Error> {
    let backend = Timed::new(backend);
    let mut yardstick = Yardstick::new(&backend.inner, sizes);
    let begin = Instant::now();
    let mut stepper = Stepper::new(&backend, job, plan)?;
    let working = || backend.trouble().map_or(Ok(()), Err);
    working()?;
    let prepare_seconds = loaded + begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    stepper.cache_reference();
    let reference_seconds = begin.elapsed().as_secs_f64() / (count + 1) as f64;
    stepper.step();
    working()?;
    backend.take();
    let (mut seconds, mut tokens, mut last_loss) = (Vec::new(), 0, f64::NAN);
    let mut rates = vec![yardstick.rate()];
    for _ in 0..count {
        let begin = Instant::now();
        let (loss, rows) = stepper.step();
        // A GPU may have the update still before it.
        working()?;
        seconds.push(begin.elapsed().as_secs_f64());
        rates.push(yardstick.rate());
        (last_loss, tokens) = (loss, tokens + rows);
    }
    let parts = by_part(&backend.take(), seconds.iter().sum());
    Ok(Steps {
        model: case.name.to_owned(),
        objective: case.objective.name(),
        tuning: case.tuning.name(),
        batch: case.batch,
        prepare_seconds,
        reference_seconds,
        work: (1..=count).map(|step| work_of(job, step)).collect(),
        parts: PARTS.into_iter().zip(parts.map(|s| s / count as f64)).collect(),
        tokens: tokens as f64 / count as f64,
        seconds,
        flops: rates.windows(2).map(|around| around[0].max(around[1])).collect(),
        last_loss,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_wall_clock() {
        let times: Vec<_> = Operator::ALL.into_iter().map(|o| (o, Duration::from_millis(250))).collect();
        let parts = by_part(&times, 10.0);
        assert_eq!(parts, [0.5, 0.75, 2.25, 1.5, 0.5, 0.75, 0.75, 3.0]);
        assert_eq!(parts.iter().sum::<f64>(), 10.0);
    }

    #[test]
    fn the_fraction_is_the_median_of_the_steps() {
        let work = |linear| Work { linear, ..Work::default() };
        let steps = Steps {
            model: String::new(),
            objective: "kto",
            tuning: "lora",
            batch: 4,
            prepare_seconds: 0.0,
            reference_seconds: 0.0,
            seconds: vec![2.0, 4.0, 2.0],
            flops: vec![10.0, 20.0, 10.0],
            work: vec![work(10.0), work(40.0), work(16.0)],
            parts: Vec::new(),
            tokens: 0.0,
            last_loss: 0.0,
        };
        assert_eq!((steps.fraction(), steps.rows_per_second()), (0.5, 1.5));
    }
}
