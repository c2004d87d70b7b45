//! Signals that whoever started ranks passes on to them, so that they save and end.

use crate::failure::Failure;
use std::process::Child;

/// Between two looks at what was started.
pub(super) const AGAIN: std::time::Duration = std::time::Duration::from_millis(20);

/// SIGTERM, SIGINT and SIGUSR1 to this process, from the time when it began to listen.
#[cfg(unix)]
pub(super) struct Signals(signal_hook::iterator::Signals);

#[cfg(unix)]
impl Signals {
    /// From before there are ranks: a signal that came in between would end this process, and leave them alone.
    pub(super) fn listen() -> Result<Signals, Failure> {
        use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
        let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGUSR1]);
        signals.map(Signals).map_err(|e| Failure::usage(format!("cannot listen to signals: {e}")))
    }

    /// To ranks. A terminal's, or Slurm's, have reached them anyway, which does not harm: two at once are one to them.
    pub(super) fn pass_to_ranks<'a>(&mut self, ranks: impl Iterator<Item = &'a Child> + Clone) {
        use rustix::process::Signal;
        use signal_hook::consts::{SIGINT, SIGTERM};
        for signal in self.0.pending() {
            let signal = match signal {
                SIGTERM => Signal::TERM,
                SIGINT => Signal::INT,
                _ => Signal::USR1,
            };
            ranks.clone().for_each(|rank| send(rank, signal));
        }
    }

    /// To mpirun, which kills its ranks where it is told to end, and hands on only the signals that mean nothing to it.
    #[cfg(feature = "mpi")]
    pub(super) fn pass_to_mpirun(&mut self, mpirun: &Child) {
        use rustix::process::Signal;
        for signal in self.0.pending() {
            send(mpirun, if signal == signal_hook::consts::SIGUSR1 { Signal::USR1 } else { Signal::USR2 });
        }
    }
}

#[cfg(unix)]
fn send(to: &Child, signal: rustix::process::Signal) {
    // One that has just ended needs none.
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(to), signal);
}

/// Ctrl-C reaches what was started by itself.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn listen() -> Result<Signals, Failure> {
        Ok(Signals)
    }

    pub(super) fn pass_to_ranks<'a>(&mut self, _: impl Iterator<Item = &'a Child> + Clone) {}

    #[cfg(feature = "mpi")]
    pub(super) fn pass_to_mpirun(&mut self, _: &Child) {}
}
