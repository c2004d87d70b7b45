//! Reference log-probabilities that are taken once, before the first step, and kept in the run folder.

use super::{Control, Event, Run, mix};
use crate::evaluate::preference;
use crate::policy::{AdapterPlan, Policy, Reference, copy_of};
use crate::step::{Interrupted, reference_logps};
use crate::{Error, Job, Rows};
use kernels::{Backend, Mat};
use std::path::Path;
use std::sync::atomic::Ordering;

/// `[matched, mismatched]` by row of the training and of the evaluation rows; not a number where no step needs it.
pub(super) type Cached = [Vec<[f64; 2]>; 2];

const FILE: &str = "reference.bin";

/// Where a run's reference log-probabilities come from.
pub(super) fn reference_of<B: Backend>(backend: &B, job: &Job, values: &Mat<B, B::Real>) -> Reference<B> {
    let Some(kto) = job.kto() else { return Reference::None };
    match &job.adapter {
        None => Reference::Cached,
        Some(_) if kto.precompute_ref_log_probs => Reference::Cached,
        Some(adapter) if AdapterPlan::starts_at_zero(adapter) => Reference::AdaptersOff,
        Some(_) => Reference::Initial(copy_of(backend, values)),
    }
}

impl<B: Backend> Run<'_, B> {
    /// Takes the reference's log-probabilities in the packs that the steps will use, or, in a run that is resumed, reads them
    /// back. The policy is still in its initial state. `false`: the run was stopped on the way.
    pub(super) fn cache_reference(
        &mut self,
        resume: bool,
        control: &Control,
        observe: &mut dyn FnMut(Event),
    ) -> Result<bool, Error> {
        if !matches!(self.policy, Policy { reference: Reference::Cached, .. }) {
            return Ok(true);
        }
        let counts = [self.job.train.data.len(), self.job.eval.as_ref().map_or(0, |e| e.data.len())];
        let file = self.folder.path().join(FILE);
        let kept = if resume && self.ranks.world.leads() { read(&file, counts) } else { None };
        // Rank 0 decides, and all have what it has.
        let kept = kept.filter(|k| self.covers(k)).map_or_else(Vec::new, |k| sealed(&k));
        if let Some(kept) = unsealed(&self.ranks.world.broadcast(&kept)?, counts) {
            self.cached = kept;
            return Ok(true);
        }
        let interrupted = || control.stop.load(Ordering::SeqCst);
        let Ok(cached) = self.reference_values(counts, &interrupted, observe) else {
            if let Some(e) = self.ranks.world.failure() {
                return Err(e.into());
            }
            let what = "stopped while the reference's log-probabilities were taken; a resumed run takes them again";
            observe(Event::Note(what.to_owned()));
            return Ok(false);
        };
        self.folder.write(FILE, &sealed(&cached))?;
        self.cached = cached;
        Ok(true)
    }

    /// Steps that meet every row that the run will meet.
    fn first_steps(&self) -> usize {
        self.job.order.steps_per_epoch().min(self.job.total_steps)
    }

    /// Whether every row of the run is there: an earlier, shorter run may have left some out.
    fn covers(&self, cached: &Cached) -> bool {
        let epoch = self.job.order.epoch(0);
        (0..self.first_steps()).flat_map(|s| epoch.step(s).rows()).all(|&r| !cached[0][r as usize][0].is_nan())
    }

    fn reference_values(
        &self,
        counts: [usize; 2],
        interrupted: &(dyn Fn() -> bool + Sync),
        observe: &mut dyn FnMut(Event),
    ) -> Result<Cached, Interrupted> {
        let job = self.job;
        let mut cached = counts.map(|n| vec![[f64::NAN; 2]; n]);
        let mut take = |set: &Rows, which: usize, rows: &[u32]| {
            let cx = self.context(set, which, false, interrupted);
            let preference = preference(job, set).expect("a reference is for a preference loss");
            let pairs = self.backend.within(|| reference_logps(&cx, &preference, rows))?;
            rows.iter().zip(pairs).for_each(|(&r, p)| cached[which][r as usize] = p);
            Ok(())
        };
        let (epoch, steps) = (job.order.epoch(0), self.first_steps());
        for s in 0..steps {
            let (what, done, total) = ("reference log-probabilities".to_owned(), s as u64 + 1, steps as u64);
            observe(Event::Progress { what, done, total });
            self.groups(epoch.step(s)).iter().try_for_each(|group| take(&job.train, 0, &group.rows))?;
        }
        if let Some(eval) = &job.eval {
            let rows: Vec<u32> = (0..eval.data.len() as u32).collect();
            rows.chunks(job.config.batch.eval_rows).try_for_each(|chunk| take(eval, 1, chunk))?;
        }
        Ok(cached)
    }
}

/// The values, then a checksum: what a disk changed is taken anew instead of being trained against.
fn sealed(cached: &Cached) -> Vec<u8> {
    let values = || cached.iter().flatten().flatten();
    let mut bytes: Vec<u8> = values().flat_map(|x| x.to_le_bytes()).collect();
    bytes.extend(checksum(values()).to_le_bytes());
    bytes
}

fn checksum<'a>(values: impl Iterator<Item = &'a f64>) -> u64 {
    values.fold(0, |sum, x| mix(sum ^ x.to_bits()))
}

fn read(path: &Path, counts: [usize; 2]) -> Option<Cached> {
    unsealed(&std::fs::read(path).ok()?, counts)
}

fn unsealed(bytes: &[u8], counts: [usize; 2]) -> Option<Cached> {
    let (words, rest) = bytes.as_chunks::<8>();
    let (sum, values) = words.split_last()?;
    let values: Vec<f64> = values.iter().map(|w| f64::from_le_bytes(*w)).collect();
    let whole = rest.is_empty() && values.len() == 2 * (counts[0] + counts[1]);
    if !whole || u64::from_le_bytes(*sum) != checksum(values.iter()) {
        return None;
    }
    let mut pairs: Vec<[f64; 2]> = values.as_chunks::<2>().0.to_vec();
    let eval = pairs.split_off(counts[0]);
    Some([pairs, eval])
}
