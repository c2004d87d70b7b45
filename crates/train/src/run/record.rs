//! What a step leaves behind: log lines, evaluations, and when a checkpoint is due.

use super::{Control, Event, Run};
use crate::evaluate::evaluate_rows;
use crate::{Error, report};
use config::Interval;
use kernels::Backend;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

impl<B: Backend> Run<'_, B> {
    fn due(&self, interval: Interval, ends_epoch: bool) -> bool {
        let share = |s: f64| ((s * self.job.total_steps as f64).ceil() as u64).max(1);
        match interval {
            Interval::Never => false,
            Interval::Epoch => ends_epoch,
            Interval::Steps(n) => self.step.is_multiple_of(n as u64),
            Interval::Share(s) => self.step.is_multiple_of(share(s)),
        }
    }

    /// Logs, evaluates, saves, in this order: a checkpoint holds all that its step did. An evaluation that was stopped
    /// stays due, and nothing is saved here.
    pub(super) fn after_step(
        &mut self,
        ends_epoch: bool,
        control: &Control,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), Error> {
        let config = &self.job.config;
        if self.due(config.logging.every, ends_epoch) || (config.logging.first_step && self.step == 1) {
            self.log_window(observe)?;
        }
        if self.due(config.evaluation.every, ends_epoch) {
            self.evaluate(control, observe)?;
        }
        if config.evaluation.samples.as_ref().is_some_and(|samples| self.due(samples.every, ends_epoch)) {
            self.answer_samples(observe)?;
        }
        if !self.evaluation_due && self.due(config.saving.every, ends_epoch) {
            self.save_beside(observe)?;
        }
        Ok(())
    }

    pub(super) fn log_window(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let values: Vec<(String, f64)> = self.window.take().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        self.record(values, observe)
    }

    pub(super) fn record(&mut self, values: Vec<(String, f64)>, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        self.take_folder()?;
        let record: Map<String, Value> = values.iter().map(|(k, v)| (k.clone(), number(k, *v))).collect();
        self.log.record(&record)?;
        self.text.line(&report::line(&values))?;
        if let Some(events) = &mut self.events {
            events.record(self.step, &record)?;
        }
        observe(Event::Logged(values.clone()));
        self.remember(values);
        Ok(())
    }

    /// Keeps the newest value of each metric for the end of the run.
    pub(super) fn remember(&mut self, values: Vec<(String, f64)>) {
        self.last_values.retain(|(k, _)| values.iter().all(|(n, _)| n != k));
        self.last_values.extend(values);
    }

    pub(super) fn evaluate(&mut self, control: &Control, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let Some(eval) = &self.job.eval else { return Ok(()) };
        let interrupted = || control.stop.load(Ordering::SeqCst);
        let cx = self.context(eval, 1, false, &interrupted);
        let found = self.backend.within(|| evaluate_rows(self.job, eval, &cx));
        self.evaluation_due = found.is_err();
        let Ok(mut values) = found else { return Ok(()) };
        values.push(("step".to_owned(), self.step as f64));
        if let Some(best) = &self.job.config.evaluation.best {
            let found = values.iter().find(|(k, _)| *k == best.metric).map(|(_, v)| *v);
            let Some(found) = found else {
                let known: Vec<&str> = values.iter().map(|(k, _)| k.as_str()).collect();
                return Err(Error::Mismatch {
                    what: format!("metric_for_best_model: {} is not among {}", best.metric, known.join(", ")),
                });
            };
            self.compare(found, best.greater_is_better);
        }
        self.record(values, observe)?;
        let config = &self.job.config;
        let keep_best = config.saving.when_best || config.evaluation.load_best_at_end;
        if keep_best && self.best.is_some_and(|(_, step)| step == self.step) {
            self.save(observe)?;
        }
        Ok(())
    }

    /// Holds an evaluation's value against the best so far.
    fn compare(&mut self, found: f64, greater_is_better: bool) {
        let threshold = self.job.config.evaluation.early_stopping.map_or(0.0, |e| e.threshold);
        let gain = gain(found, self.best.map(|(best, _)| best), greater_is_better);
        self.stale_evaluations = if gain > threshold { 0 } else { self.stale_evaluations + 1 };
        if gain > 0.0 {
            self.best = Some((found, self.step));
        }
    }

    pub(super) fn give_up(&self) -> bool {
        self.job.config.evaluation.early_stopping.is_some_and(|e| self.stale_evaluations >= e.patience)
    }
}

/// How much better `found` is than the best so far. What is not finite is never better: nothing would beat it.
fn gain(found: f64, best: Option<f64>, greater_is_better: bool) -> f64 {
    match best {
        _ if !found.is_finite() => f64::NEG_INFINITY,
        None => f64::INFINITY,
        Some(best) if greater_is_better => found - best,
        Some(best) => best - found,
    }
}

/// Whole numbers are written without a fraction where they are counts.
fn number(name: &str, value: f64) -> Value {
    match name.strip_prefix("eval_").unwrap_or(name) {
        "step" | "num_tokens" | "n_chosen" | "n_rejected" => json!(value as u64),
        _ => serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::gain;

    #[test]
    fn an_evaluation_that_is_not_a_number_is_never_the_best() {
        for found in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(gain(found, None, false) < 0.0 && gain(found, Some(1.0), true) < 0.0);
        }
        assert!(gain(9.0, None, false) > 0.0);
        assert_eq!((gain(2.0, Some(3.0), false), gain(2.0, Some(3.0), true)), (1.0, -1.0));
    }
}
