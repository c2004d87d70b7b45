//! The GPU of this machine: what the environment says of it.

use crate::screen::Screen;
use train::{GpuOptions, Job};

/// As the environment says: [`GpuOptions::of_variables`].
pub(crate) fn options() -> GpuOptions {
    GpuOptions::of_variables(|name| std::env::var_os(name))
}

/// Asks the GPU that a job would run on for its memory; where it is not there, says what its plan goes by.
pub(crate) fn ask(job: &mut Job, screen: &Screen) {
    if let Err(error) = train::ask_gpu(job, &options()) {
        let goes_by = if job.config.engine.max_memory.is_some() { "max_memory" } else { "a GPU with enough memory" };
        screen.note(format_args!("{error}; planned for {goes_by}"));
    }
}
