//! How a command fails: what is said, and the exit code.

use crate::screen::Screen;
use std::alloc::Layout;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A configuration that is wrong; shown with its lines.
    Config(config::Errors),
    /// Anything else that can be said in a sentence.
    Said {
        /// The sentence.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// Whoever read stdout has had enough; that is no error.
    Closed,
}

impl Failure {
    /// A failure of usage.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::Said { message: message.into(), code: 2 }
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(action: &str, path: &std::path::Path, source: &io::Error) -> Failure {
        Failure::Said { message: format!("cannot {action} {}: {source}", path.display()), code: 6 }
    }

    /// A failure to write to stdout.
    pub(crate) fn stdout(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Said { message: format!("cannot write to stdout: {error}"), code: 6 },
        }
    }

    /// It in a sentence, and its exit code.
    pub(crate) fn said(&self) -> (String, u8) {
        match self {
            Failure::Closed => (String::new(), 0),
            Failure::Said { message, code } => (message.clone(), *code),
            Failure::Config(errors) => (errors.to_string(), errors.exit_code()),
        }
    }

    /// Says what there is to say and returns the exit code.
    pub(crate) fn report(&self, screen: &Screen) -> u8 {
        match self {
            Failure::Closed => 0,
            Failure::Said { message, code } => {
                screen.error(message);
                *code
            }
            Failure::Config(errors) => {
                screen.problems(errors);
                errors.exit_code()
            }
        }
    }
}

impl From<config::Errors> for Failure {
    fn from(errors: config::Errors) -> Failure {
        Failure::Config(errors)
    }
}

impl From<train::Error> for Failure {
    fn from(e: train::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<dist::Error> for Failure {
    fn from(e: dist::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<rundir::Error> for Failure {
    fn from(e: rundir::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<data::Error> for Failure {
    fn from(e: data::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<hub::Error> for Failure {
    fn from(e: hub::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<infer::Error> for Failure {
    fn from(e: infer::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<eval::Error> for Failure {
    fn from(e: eval::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<gguf::Error> for Failure {
    fn from(e: gguf::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

impl From<demo::Error> for Failure {
    fn from(e: demo::Error) -> Failure {
        Failure::Said { message: e.to_string(), code: e.exit_code() }
    }
}

/// From now on a panic says in one line that it is our mistake, and ends the process with 101; but for those of decoders, which
/// are caught, and of devices without memory.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        // A damaged table, which is refused where it is read.
        if data::source::is_decoding() {
            return;
        }
        if let Some(found) = info.payload().downcast_ref::<train::OutOfMemory>() {
            // A device's threads hand it on to the one that waits for them, which is caught.
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            if name == "main" || name.starts_with("cpu-") {
                return;
            }
            let _ = writeln!(io::stderr(), "{}", memory_line(found));
            std::process::exit(MEMORY);
        }
        if info.payload_as_str().is_some_and(is_for_want_of_memory) {
            without_memory();
        }
        let _ = writeln!(io::stderr(), "{}", panic_line(info));
        std::process::exit(101);
    }));
}

/// Where memory was the reason.
const MEMORY: i32 = 4;

/// Runs a command; a device without memory ends it as any other failure does.
pub(crate) fn within_memory(run: impl FnOnce() -> Result<u8, Failure>) -> Result<u8, Failure> {
    // What the command was working on is gone with it.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| match train::OutOfMemory::of(&*payload) {
        Some(found) => Err(Failure::Said { message: memory_line(&found), code: MEMORY as u8 }),
        None => resume_unwind(payload),
    })
}

fn memory_line(found: &train::OutOfMemory) -> String {
    format!(
        "not enough memory: {} MB more for matrices that take {} MB; fewer or shorter sequences at a time take less",
        found.wanted.div_ceil(1 << 20),
        found.alive >> 20
    )
}

/// Whether a panic of the standard library says that the system refused memory: of threads it wants some for their stacks
/// (`ENOMEM`, and `EAGAIN` from what begins a thread), and has no error to return it as.
fn is_for_want_of_memory(said: &str) -> bool {
    said.contains("(os error 12)") || said.contains("code: 12,") || said.starts_with("failed to spawn thread")
}

/// The heap has no more.
pub(crate) fn exhausted(_: Layout) -> ! {
    without_memory()
}

/// Says so without taking any, and ends the process.
fn without_memory() -> ! {
    let said =
        "error: not enough memory: the system gave no more; `prospect plan` says what a run takes and what to change\n";
    let _ = io::stderr().write_all(said.as_bytes());
    std::process::exit(MEMORY)
}

fn panic_line(info: &PanicHookInfo) -> String {
    let said = info.payload_as_str().unwrap_or("no message").replace('\n', " ");
    let place = info.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "internal error: {said} ({place}, version {version}); this is a mistake in prospect, please report this line"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_for_want_of_memory_are_told_from_mistakes() {
        let [again, none] = [11, 12].map(io::Error::from_raw_os_error);
        assert!(is_for_want_of_memory(&format!("failed to allocate an alternative stack: {none}")));
        assert!(is_for_want_of_memory(&format!("called `Result::unwrap()` on an `Err` value: {none:?}")));
        assert!(is_for_want_of_memory(&format!("failed to spawn thread: {again:?}")));
        assert!(!is_for_want_of_memory("index out of bounds: the len is 12 but the index is 12"));
    }
}
