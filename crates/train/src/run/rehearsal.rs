//! The heaviest step of a run, made before the first one and thrown away: memory that will not do is known at once, and not
//! hundreds of steps later.

use super::{Control, Event, Run};
use crate::{Error, plan};
use kernels::Backend;
use std::sync::atomic::Ordering;

/// Steps of a run whose heaviest is rehearsed. A shorter one comes to it soon enough, and would be longer by more than a
/// fiftieth.
const LONG: usize = 50;

impl<B: Backend> Run<'_, B> {
    /// Makes the gradient of the heaviest step of the first pass, if that is not the first step of all. Nothing that a run
    /// computes with is changed. `false`: stopped on the way.
    pub(super) fn rehearse(&mut self, control: &Control, observe: &mut dyn FnMut(Event)) -> Result<bool, Error> {
        if self.step > 0 || self.evaluation_due || self.job.total_steps < LONG {
            return Ok(true);
        }
        let (heaviest, rows) = plan::heaviest_step(self.job, self.execution);
        if heaviest == 0 {
            return Ok(true);
        }
        let epoch = self.job.order.epoch(0);
        let mut grads = self.ranks.gradient(self.backend, &self.spread, self.policy.table.len());
        grads.begin(self.backend);
        let interrupted = || control.stop.load(Ordering::SeqCst);
        let made = self.backend.within(|| self.gradient(epoch.step(heaviest), &interrupted, &mut grads));
        self.working()?;
        if made.is_err() {
            return self.ranks.world.failure().map_or(Ok(false), |e| Err(e.into()));
        }
        observe(Event::Note(format!("rehearsed step {}, the heaviest with {rows} tokens: it fits", heaviest + 1)));
        Ok(true)
    }
}
