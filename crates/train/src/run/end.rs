//! How a run ends: stopped and to be resumed, or done, with `final/`, plots and card.

use super::{Ended, Event, Run};
use crate::{Error, report, state};
use config::{Interval, Loaded};
use dist::World;
use kernels::Backend;
use rundir::RunFolder;
use serde_json::json;
use std::path::Path;

/// Does a run's work, and records in its folder how and at which step it ended. No rank is gone before that.
pub(crate) fn recorded(
    world: &World,
    folder: &RunFolder,
    work: impl FnOnce(&mut u64) -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    let mut step = 0;
    let result = work(&mut step);
    let (code, error) = match &result {
        Ok(ended) => (ended.exit_code(), None),
        Err(e) => (e.exit_code(), Some(e.to_string())),
    };
    let recorded = folder.end(code, step, error.as_deref());
    let ended = result?;
    recorded?;
    world.barrier()?;
    Ok(ended)
}

/// Writes down what was asked for.
pub(crate) fn keep_request(folder: &RunFolder, loaded: &Loaded, inputs: &[&Path]) -> Result<(), Error> {
    folder.write("config.yaml", loaded.resolved_yaml.as_bytes())?;
    folder.write(config::SCHEMA_FILE, config::schema().to_string().as_bytes())?;
    folder.keep_inputs(inputs)?;
    Ok(())
}

impl<B: Backend> Run<'_, B> {
    /// Ends before the end: saves what the last whole step left.
    pub(super) fn stop(&mut self, observe: &mut dyn FnMut(Event)) -> Result<Ended, Error> {
        // Without a step there is nothing that an earlier run in the folder had to go for.
        if self.step == 0 && self.job.config.saving.overwrite {
            return Ok(self.ended(true));
        }
        self.save(observe)?;
        observe(Event::Note(format!("stopped after step {}; saved, to be resumed", self.step)));
        Ok(self.ended(true))
    }

    pub(super) fn ended(&self, stopped: bool) -> Ended {
        let (values, folder) = (self.last_values.clone(), self.folder.path().to_owned());
        Ended { step: self.step, stopped, values, folder, begun: true }
    }

    pub(super) fn finish(&mut self, observe: &mut dyn FnMut(Event)) -> Result<Ended, Error> {
        self.take_folder()?;
        if self.window.state().next().is_some() {
            self.log_window(observe)?;
        }
        if self.job.config.saving.every != Interval::Never {
            self.save(observe)?;
        }
        if let Some((_, step)) =
            self.best.filter(|(_, step)| self.job.config.evaluation.load_best_at_end && *step != self.step)
        {
            let best = self.folder.path().join(format!("checkpoint-{step}"));
            let held = self.spread.held(&self.policy.table);
            state::read_weights(self.backend, self.job, (&mut self.policy, &held), &best)?;
            observe(Event::Note(format!("final/ holds the best checkpoint, of step {step}")));
        }
        self.write_final()?;
        let ended = self.ended(false);
        for line in self.traffic()? {
            self.text.line(&line)?;
        }
        if self.one_class_steps > 0 {
            self.text.line(&format!("{} steps had rows of one class only", self.one_class_steps))?;
        }
        self.text.line("Training complete")?;
        self.text.line(&report::line(&ended.values))?;
        if self.ranks.world.leads() {
            let plots = report::plots(self.folder)?;
            report::card(self.folder, self.job, &ended.values, plots)?;
        }
        Ok(ended)
    }

    fn write_final(&self) -> Result<(), Error> {
        self.spread.reading(self.backend, &self.policy, |read| {
            let staging = self.folder.begin_final(self.step)?;
            let dir = staging.path().to_owned();
            state::write_weights(self.job, &self.policy.table, read, &dir)?;
            if self.job.adapter.is_some() {
                crate::companions::write(self.job, &dir)?;
            }
            self.working()?;
            staging.commit(json!({"step": self.step}))?;
            Ok(())
        })
    }
}
