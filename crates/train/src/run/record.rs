//! What a step leaves behind: log lines, evaluations, and when a checkpoint is due.

use super::{Event, Run};
use crate::evaluate::evaluate_rows;
use crate::{Error, report};
use config::Interval;
use kernels::Backend;
use serde_json::{Map, Value, json};

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

    /// Logs, evaluates, saves, in this order: a checkpoint holds all that its step did.
    pub(super) fn after_step(&mut self, ends_epoch: bool, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let config = &self.job.config;
        if self.due(config.logging.every, ends_epoch) || (config.logging.first_step && self.step == 1) {
            self.log_window(observe)?;
        }
        if self.due(config.evaluation.every, ends_epoch) {
            self.evaluate(observe)?;
        }
        if config.evaluation.samples.as_ref().is_some_and(|samples| self.due(samples.every, ends_epoch)) {
            self.answer_samples(observe)?;
        }
        if self.due(config.saving.every, ends_epoch) {
            self.save(observe)?;
        }
        Ok(())
    }

    pub(super) fn log_window(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let values: Vec<(String, f64)> = self.window.take().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        self.record(values, observe)
    }

    pub(super) fn record(&mut self, values: Vec<(String, f64)>, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
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

    pub(super) fn evaluate(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let Some(eval) = &self.job.eval else { return Ok(()) };
        let never = || false;
        let mut values = evaluate_rows(self.job, eval, &self.context(eval, 1, false, &never)).unwrap_or_default();
        values.push(("step".to_owned(), self.step as f64));
        if let Some(best) = &self.job.config.evaluation.best {
            let found = values.iter().find(|(k, _)| *k == best.metric).map(|(_, v)| *v);
            let Some(found) = found else {
                let known: Vec<&str> = values.iter().map(|(k, _)| k.as_str()).collect();
                return Err(Error::Mismatch {
                    what: format!("metric_for_best_model: {} is not among {}", best.metric, known.join(", ")),
                });
            };
            let threshold = self.job.config.evaluation.early_stopping.map_or(0.0, |e| e.threshold);
            let gain = self.best.map(|(old, _)| if best.greater_is_better { found - old } else { old - found });
            self.stale_evaluations = if gain.is_none_or(|g| g > threshold) { 0 } else { self.stale_evaluations + 1 };
            if gain.is_none_or(|g| g > 0.0) {
                self.best = Some((found, self.step));
            }
        }
        self.record(values, observe)?;
        let config = &self.job.config;
        let keep_best = config.saving.when_best || config.evaluation.load_best_at_end;
        if keep_best && self.best.is_some_and(|(_, step)| step == self.step) {
            self.save(observe)?;
        }
        Ok(())
    }

    pub(super) fn give_up(&self) -> bool {
        self.job.config.evaluation.early_stopping.is_some_and(|e| self.stale_evaluations >= e.patience)
    }
}

/// Whole numbers are written without a fraction where they are counts.
fn number(name: &str, value: f64) -> Value {
    match name.strip_prefix("eval_").unwrap_or(name) {
        "step" | "num_tokens" | "n_chosen" | "n_rejected" => json!(value as u64),
        _ => serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number),
    }
}
