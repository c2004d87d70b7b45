//! Other programs, measured from outside: how long they take and how much memory they hold.

use crate::device::Meter;
use crate::error::Error;
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A program that ended well.
pub(crate) struct Finished {
    /// From start to end, seconds.
    pub(crate) seconds: f64,
    /// Most memory that it had at one time, as the meter looks at it, bytes; not a number where that cannot be told.
    pub(crate) peak: f64,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said beside that.
    pub(crate) stderr: String,
}

impl Finished {
    /// The last line of stdout as JSON.
    pub(crate) fn json(&self, command: &str) -> Result<Value, Error> {
        let line = self.stdout.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        serde_json::from_str(line)
            .map_err(|e| Error::Child { command: command.to_owned(), what: format!("its last line is no JSON: {e}") })
    }
}

/// How often a program's memory is looked at. The kernel keeps the high-water mark, so only a rise in the very last
/// interval of its life can be missed.
const LOOK: Duration = Duration::from_millis(5);

/// Memory of a GPU is asked for less often: nobody who takes it there gives it back before the end.
const LOOK_AT_GPU: Duration = Duration::from_millis(50);

/// The memory of a program, looked at again and again.
struct Watch<'m> {
    meter: &'m Meter,
    process: u32,
    /// Bytes of the GPU that were taken before.
    before: usize,
    peak: f64,
}

impl Watch<'_> {
    fn interval(&self) -> Duration {
        if matches!(self.meter, Meter::Resident) { LOOK } else { LOOK_AT_GPU }
    }

    fn look(&mut self) -> Result<(), Error> {
        match self.meter {
            // The kernel's `VmHWM`: unlike `ru_maxrss` it starts anew with the program, and does not begin at the size of the
            // process that started it.
            Meter::Resident => {
                let status = Path::new("/proc").join(self.process.to_string()).join("status");
                self.peak = high_water(&status).unwrap_or(self.peak);
            }
            Meter::Gpu { nvml, by_process } => {
                let held = match by_process {
                    true => nvml.held_by(self.process)?,
                    false => Some(nvml.held()?.saturating_sub(self.before)),
                };
                self.peak = self.peak.max(held.map_or(f64::NAN, |bytes| bytes as f64));
            }
        }
        Ok(())
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command, meter: &Meter) -> Result<Finished, Error> {
    let name = name_of(command);
    let fault = |what: String| Error::Child { command: name.clone(), what };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = if let Meter::Gpu { nvml, .. } = meter { nvml.held()? } else { 0 };
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|e| fault(format!("cannot be started: {e}")))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut watch = Watch { meter, process: child.id(), before, peak: f64::NAN };
    let ended = loop {
        let looked = watch.look();
        match child.try_wait().map_err(|e| fault(e.to_string()))? {
            Some(ended) => break ended,
            None => looked?,
        }
        thread::sleep(watch.interval());
    };
    let peak = watch.peak;
    let seconds = begin.elapsed().as_secs_f64();
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if ended.success() {
        return Ok(Finished { seconds, peak, stdout, stderr });
    }
    let last: Vec<&str> = stderr.lines().rev().take(20).collect();
    Err(fault(format!("{ended}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))))
}

/// Runs a short program `times` times and returns the seconds of each, without looking at its memory meanwhile.
pub(crate) fn time(command: &mut Command, times: usize) -> Result<Vec<f64>, Error> {
    let name = name_of(command);
    let once = |_| {
        let begin = Instant::now();
        let output = command.stdin(Stdio::null()).output();
        let seconds = begin.elapsed().as_secs_f64();
        match output {
            Ok(output) if output.status.success() => Ok(seconds),
            Ok(output) => {
                let what = format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
                Err(Error::Child { command: name.clone(), what })
            }
            Err(e) => Err(Error::Child { command: name.clone(), what: format!("cannot be started: {e}") }),
        }
    };
    (0..times).map(once).collect()
}

fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Reads a pipe to its end beside the program, so that it never fills.
fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is all there is to show.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `VmHWM` of a process, bytes; none for one that has ended.
fn high_water(status: &Path) -> Option<f64> {
    marked(&std::fs::read_to_string(status).ok()?)
}

fn marked(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(marked("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n"), Some(2_097_152.0));
        assert_eq!(marked("State:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let Err(error) = run(Command::new("cargo").arg("no-such-command"), &Meter::Resident) else {
            panic!("it cannot succeed")
        };
        let text = error.to_string();
        assert!(text.starts_with("cargo no-such-command: ") && text.contains("no such command"), "{text}");
    }
}
