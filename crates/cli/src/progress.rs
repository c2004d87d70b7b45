//! Progress on stderr: bars on a terminal, plain lines elsewhere.

use crate::meter::{Meter, Unit};
use crate::output::number;
use crate::screen::Screen;
use crate::watchdog::Watchdog;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use train::Event;

/// Work shorter than this needs no bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// A bar for work of known size, drawn once the work has taken two seconds.
pub(crate) struct Bar {
    what: String,
    draws: bool,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// A bar for work whose results do not go to the same terminal.
    pub(crate) fn new(screen: &Screen, what: &str) -> Bar {
        let draws = screen.draws() && !std::io::stdout().is_terminal();
        Bar { what: what.to_owned(), draws, since: Instant::now(), bar: None }
    }

    /// `done` of `total` units are done.
    pub(crate) fn set(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && self.draws && self.since.elapsed() >= PATIENCE && done < total {
            let style = ProgressStyle::with_template("{msg} {wide_bar:.cyan/dim} {pos}/{len} {eta}");
            let bar = ProgressBar::new(total).with_style(style.expect("the template is right"));
            self.bar = Some(bar.with_message(self.what.clone()).with_elapsed(self.since.elapsed()));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A run as it is watched.
pub(crate) struct Watch {
    screen: Screen,
    /// Chat templates that are rendered.
    watchdog: Option<Watchdog>,
    /// Tokenising that is under way.
    tokenising: Option<Meter>,
    /// Preparation that is under way.
    preparing: Option<Bar>,
    /// The steps, on a terminal.
    steps: Option<ProgressBar>,
    /// Steps in all, once one was made, and when the first of this process was.
    total: u64,
    began: Option<(u64, Instant)>,
}

impl Watch {
    /// Watches a run.
    pub(crate) fn new(screen: &Screen) -> Watch {
        Watch { screen: *screen, watchdog: None, tokenising: None, preparing: None, steps: None, total: 0, began: None }
    }

    /// Shows what happened.
    pub(crate) fn event(&mut self, event: Event) {
        match event {
            Event::Note(text) => self.say(|screen| screen.note(&text)),
            Event::Opening(text) => self.say(|screen| screen.line(&text)),
            Event::Progress { what, done, total } => self.prepare(&what, done, total),
            Event::Tokenising { what, done, total } => {
                self.watchdog =
                    (done < total).then(|| self.watchdog.take().unwrap_or_else(|| Watchdog::new(&self.screen)));
                self.watchdog.iter().for_each(Watchdog::word);
                let new = || Meter::unheard(&self.screen, format!("tokenising {what}"), Unit::Bytes);
                let mut meter = self.tokenising.take().unwrap_or_else(new);
                // A stop is asked for where it is looked for.
                let _ = meter.tell(done, total);
                self.tokenising = (done < total).then_some(meter);
            }
            Event::Step { step, total, values } => self.step(step, total, &values),
            Event::Logged(values) => self.logged(&values),
            Event::Saved(path) => self.say(|screen| screen.line(format_args!("saved {}", path.display()))),
        }
    }

    /// A part of a longer story begins, with steps of its own.
    pub(crate) fn stage(&mut self, name: &str) {
        if let Some(bar) = self.steps.take() {
            bar.finish_and_clear();
        }
        (self.preparing, self.began) = (None, None);
        self.screen.line(format_args!("\n{name}"));
    }

    /// Says something above the bar.
    fn say(&self, write: impl FnOnce(&Screen)) {
        match &self.steps {
            Some(bar) => bar.suspend(|| write(&self.screen)),
            None => write(&self.screen),
        }
    }

    fn prepare(&mut self, what: &str, done: u64, total: u64) {
        if self.preparing.as_ref().is_none_or(|bar| bar.what != what) {
            self.preparing = Some(Bar::new(&self.screen, what));
        }
        if let Some(bar) = &mut self.preparing {
            bar.set(done, total);
        }
    }

    fn step(&mut self, step: u64, total: u64, values: &[(String, f64)]) {
        self.preparing = None;
        self.total = total;
        self.began.get_or_insert_with(|| (step, Instant::now()));
        if !self.screen.draws() {
            return;
        }
        let bar = self.steps.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{pos}/{len} {bar:20.cyan/dim} eta {eta}  {wide_msg}");
            let bar = ProgressBar::new(total).with_style(style.expect("the template is right"));
            // Steps of an earlier process say nothing about the speed of this one.
            bar.set_position(step.saturating_sub(1));
            bar.reset_eta();
            bar
        });
        bar.set_message(short(values, &STEP[..3], |v| format!("{v:.3}")));
        bar.set_position(step);
        if step == total {
            bar.finish_and_clear();
        }
    }

    fn logged(&mut self, values: &[(String, f64)]) {
        let evaluation = values.iter().any(|(name, _)| name.starts_with("eval_"));
        if self.steps.is_some() && !evaluation {
            return;
        }
        let step = value(values, "step").unwrap_or(0.0);
        let text = if evaluation {
            let shown = values.iter().filter(|(name, _)| EVALUATION.contains(&name.as_str()));
            shown.map(|(name, value)| format!("{name} {}", number(*value))).collect::<Vec<_>>().join("  ")
        } else {
            short(values, &STEP, number) + &self.eta(step as u64).map_or(String::new(), |eta| format!("  eta {eta}"))
        };
        self.say(|screen| screen.line(format_args!("step {step}/{}  {text}", self.total)));
    }

    /// Time that is left at the speed so far.
    fn eta(&self, step: u64) -> Option<String> {
        let (first, since) = self.began?;
        let made = step.checked_sub(first).filter(|made| *made > 0)?;
        let seconds = since.elapsed().as_secs_f64() / made as f64 * self.total.saturating_sub(step) as f64;
        Some(indicatif::HumanDuration(Duration::from_secs_f64(seconds.round())).to_string())
    }

    /// Clears the bar.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.steps {
            bar.finish_and_clear();
        }
    }
}

/// What of an evaluation is shown; the log has all.
const EVALUATION: [&str; 4] = ["eval_loss", "eval_kl", "eval_rewards/margins", "eval_rewards/accuracies"];

fn value(values: &[(String, f64)], name: &str) -> Option<f64> {
    values.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
}

/// What of a step is shown in a line; the log has all.
const STEP: [&str; 5] = ["loss", "kl", "rewards/margins", "grad_norm", "learning_rate"];

/// The values of some metrics, as far as they are there, and the speed.
fn short(values: &[(String, f64)], names: &[&str], show: impl Fn(f64) -> String) -> String {
    let part = |&name: &&str| value(values, name).map(|v| format!("{} {}", short_name(name), show(v)));
    let mut parts: Vec<String> = names.iter().filter_map(part).collect();
    parts.extend(value(values, "tokens_per_second").map(|v| format!("{v:.0} tok/s")));
    parts.join("  ")
}

fn short_name(name: &str) -> &str {
    match name {
        "rewards/margins" => "margin",
        "grad_norm" => "grad",
        "learning_rate" => "lr",
        other => other,
    }
}
