//! Reference log-probabilities that are taken once, before the first step, and kept in the run folder.

use super::{Control, Event, Run, mix};
use crate::evaluate::preference;
use crate::policy::{AdapterPlan, Policy, Reference, copy_of};
use crate::step::{Interrupted, reference_logps};
use crate::{Error, Job, Rows};
use kernels::{Backend, Mat};
use mapped::Room;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

/// Of the training and of the evaluation rows.
pub(super) type Cached = [Pairs; 2];

/// `[matched, mismatched]` by row; not a number where no step needs it.
pub(super) enum Pairs {
    Memory(Vec<[f64; 2]>),
    /// So many, where the optimiser's moments are.
    Disk(Room, usize),
}

impl Pairs {
    pub(super) fn none() -> Pairs {
        Pairs::Memory(Vec::new())
    }

    fn unknown(job: &Job, rows: usize) -> Result<Pairs, Error> {
        const UNKNOWN: [f64; 2] = [f64::NAN; 2];
        let Some(folder) = &job.config.optimizer.on_disk else { return Ok(Pairs::Memory(vec![UNKNOWN; rows])) };
        let failed = |source| Error::Io {
            doing: "keep reference log-probabilities on the disk of",
            path: folder.clone(),
            source,
        };
        let mut pairs = Pairs::Disk(Room::zeros(folder, rows * size_of_val(&UNKNOWN)).map_err(failed)?, rows);
        pairs.fill(UNKNOWN);
        Ok(pairs)
    }

    /// Lets go of the memory behind those on a disk.
    pub(super) fn rest(&self) {
        if let Pairs::Disk(room, _) = self {
            room.release(0..room.len());
        }
    }
}

impl Deref for Pairs {
    type Target = [[f64; 2]];

    fn deref(&self) -> &[[f64; 2]] {
        match self {
            Pairs::Memory(pairs) => pairs,
            Pairs::Disk(room, rows) => room.numbers(*rows),
        }
    }
}

impl DerefMut for Pairs {
    fn deref_mut(&mut self) -> &mut [[f64; 2]] {
        match self {
            Pairs::Memory(pairs) => pairs,
            Pairs::Disk(room, rows) => room.numbers_mut(*rows),
        }
    }
}

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
        let kept = if resume && self.ranks.world.leads() { std::fs::read(&file).ok() } else { None };
        // Rank 0 decides, and all have what it has.
        let kept = kept.filter(|bytes| is_whole(bytes, counts) && self.covers(&pairs(bytes)[..counts[0]]));
        let kept = self.ranks.world.broadcast(&kept.unwrap_or_default())?;
        let mut cached = [Pairs::unknown(self.job, counts[0])?, Pairs::unknown(self.job, counts[1])?];
        if is_whole(&kept, counts) {
            let pairs = pairs(&kept);
            let (train, eval) = pairs.split_at(counts[0]);
            cached[0].copy_from_slice(train);
            cached[1].copy_from_slice(eval);
            self.cached = cached;
            return Ok(true);
        }
        let interrupted = || control.stop.load(Ordering::SeqCst);
        let Ok(()) = self.reference_values(&mut cached, &interrupted, observe) else {
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
    fn covers(&self, train: &[[f64; 2]]) -> bool {
        let epoch = self.job.order.epoch(0);
        (0..self.first_steps()).flat_map(|s| epoch.step(s).rows()).all(|&r| !train[r as usize][0].is_nan())
    }

    fn reference_values(
        &self,
        cached: &mut Cached,
        interrupted: &(dyn Fn() -> bool + Sync),
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), Interrupted> {
        let job = self.job;
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
        Ok(())
    }
}

/// The values, then a checksum: what a disk changed is taken anew instead of being trained against.
fn sealed(cached: &Cached) -> Vec<u8> {
    let values = || cached.iter().flat_map(|pairs| pairs.iter().flatten());
    let mut bytes: Vec<u8> = values().flat_map(|x| x.to_le_bytes()).collect();
    bytes.extend(checksum(values().map(|x| x.to_bits())).to_le_bytes());
    bytes
}

fn checksum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, |sum, x| mix(sum ^ x))
}

/// Whether this is what [`sealed`] makes of so many rows.
fn is_whole(bytes: &[u8], counts: [usize; 2]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let Some((sum, values)) = words.split_last() else { return false };
    rest.is_empty()
        && values.len() == 2 * (counts[0] + counts[1])
        && u64::from_le_bytes(*sum) == checksum(values.iter().map(|w| u64::from_le_bytes(*w)))
}

/// What it says.
fn pairs(sealed: &[u8]) -> Vec<[f64; 2]> {
    let pairs = sealed.as_chunks::<16>().0.iter().map(|pair| pair.as_chunks::<8>().0);
    pairs.map(|two| [f64::from_le_bytes(two[0]), f64::from_le_bytes(two[1])]).collect()
}
