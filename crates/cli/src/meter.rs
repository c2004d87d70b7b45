//! Progress of work on files: a bar on a terminal, a plain line now and then elsewhere; and the way to stop it.

use crate::failure::Failure;
use crate::screen::Screen;
use crate::signals;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use train::Control;

/// Work shorter than this needs no progress.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two plain lines.
const EVERY: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Rows,
}

/// Work under way.
pub(crate) struct Meter {
    screen: Screen,
    what: String,
    unit: Unit,
    since: Instant,
    said: Instant,
    /// Done when the first word came: what an earlier process did says nothing about the speed of this one.
    first: Option<u64>,
    /// Done when the last word came: where it falls, the work goes through everything once more.
    last: u64,
    bar: Option<ProgressBar>,
    control: Arc<Control>,
}

impl Meter {
    /// Begins; Ctrl-C from now on asks the work to stop, and a second one ends the process with 130.
    pub(crate) fn new(screen: &Screen, what: &'static str, unit: Unit) -> Result<Meter, Failure> {
        let control = Arc::new(Control::default());
        signals::listen(&control, screen, "stopping; once more to exit at once")?;
        let mut meter = Meter::unheard(screen, what.to_owned(), unit);
        meter.control = control;
        Ok(meter)
    }

    /// Begins work that is stopped elsewhere.
    pub(crate) fn unheard(screen: &Screen, what: String, unit: Unit) -> Meter {
        let (now, control) = (Instant::now(), Arc::default());
        Meter { screen: *screen, what, unit, since: now, said: now, first: None, last: 0, bar: None, control }
    }

    /// Whether the work is to stop.
    pub(crate) fn stops(&self) -> bool {
        self.control.stop.load(Ordering::SeqCst)
    }

    /// `done` of `total` units are done; of no `total`, nothing is known.
    pub(crate) fn tell(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        if self.stops() {
            return ControlFlow::Break(());
        }
        if done < self.last {
            self.finish();
            (self.what, self.since, self.first) = ("second pass".to_owned(), Instant::now(), None);
            self.said = self.since;
        }
        self.last = done;
        let first = *self.first.get_or_insert(done);
        if total == 0 || done >= total || self.since.elapsed() < PATIENCE {
            return ControlFlow::Continue(());
        }
        if self.screen.draws() {
            self.draw(done, total, first);
        } else if self.said == self.since || self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            self.screen.line(self.plain(done, total, first));
        }
        ControlFlow::Continue(())
    }

    fn draw(&mut self, done: u64, total: u64, first: u64) {
        let (what, unit, since) = (self.what.clone(), self.unit, self.since);
        let bar = self.bar.get_or_insert_with(|| {
            let counts = match unit {
                Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec}",
                Unit::Rows => "{pos}/{len}",
            };
            let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar:.cyan/dim}} {counts} eta {{eta}}"));
            let bar = ProgressBar::new(total).with_style(style.expect("the template is right"));
            bar.set_position(first);
            bar.reset_eta();
            bar.with_message(what).with_elapsed(since.elapsed())
        });
        bar.set_position(done);
    }

    fn plain(&self, done: u64, total: u64, first: u64) -> String {
        let show = |units: u64| match self.unit {
            Unit::Bytes => HumanBytes(units).to_string(),
            Unit::Rows => format!("{units} rows"),
        };
        let speed = (done - first.min(done)) as f64 / self.since.elapsed().as_secs_f64();
        let left = (total - done) as f64 / speed.max(f64::MIN_POSITIVE);
        let eta = match speed > 0.0 {
            true => format!(
                ", {}/s, eta {}",
                show(speed as u64),
                HumanDuration(Duration::from_secs_f64(left.min(1e9).round()))
            ),
            false => String::new(),
        };
        format!("{} {} of {} ({} %){eta}", self.what, show(done), show(total), done * 100 / total)
    }

    /// Says something beside the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.screen.line(text)),
            None => self.screen.line(text),
        }
    }
}

impl Meter {
    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finish();
    }
}
