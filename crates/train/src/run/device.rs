//! Which device a run computes on: the one place where it is chosen.

use super::{Control, Ended, Event, Ranks, Run};
use crate::{Error, Job, Plan};
use config::{Config, Device};
use kernels::cuda::{Cuda, Error as GpuError, Options};
use kernels::{Backend, Cpu, OutOfMemory, bf16};
use rundir::{Checkpoint, RunFolder};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A run with all decided that can be without a device.
#[derive(Clone, Copy)]
pub(super) struct Planned<'a> {
    pub(super) ranks: Ranks<'a>,
    pub(super) job: &'a Job,
    pub(super) plan: &'a Plan,
    pub(super) folder: &'a RunFolder,
    pub(super) found: Option<&'a Checkpoint>,
    /// Whether the run is one that goes on.
    pub(super) resume: bool,
    /// Where it computes; none: on the processor.
    pub(super) gpu: Option<&'a Cuda<f32>>,
}

/// The GPU that a configuration names, if it names one.
pub(super) fn gpu_of(config: &Config, control: &Control) -> Result<Option<Cuda<f32>>, Error> {
    let Device::Cuda(number) = config.engine.device else { return Ok(None) };
    let gpu = Cuda::open(&Options { number, tf32: config.engine.tf32, ..control.gpu.clone() })?;
    Ok(Some(gpu.with_limit(config.engine.max_memory.map(|bytes| bytes as usize))))
}

/// A GPU in a line.
fn said(number: usize, gpu: &Cuda<f32>) -> String {
    let about = gpu.about();
    let libraries = about.libraries.iter().map(|(name, version)| format!(", {name} {version}"));
    format!(
        "device         cuda:{number}, {}, {:.1} GiB{}",
        about.name,
        about.memory as f64 / (1u64 << 30) as f64,
        libraries.collect::<String>()
    )
}

impl Planned<'_> {
    /// Runs on the device that the configuration names; `step` is kept up to date.
    pub(super) fn run(
        self,
        threads: usize,
        control: &Control,
        step: &mut u64,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ended, Error> {
        let (Device::Cuda(number), Some(gpu)) = (self.job.config.engine.device, self.gpu) else {
            let cpu = processor(self.job, threads).with_limit(Some(self.plan.limit(self.job)));
            return self.within_memory(|| self.on(&cpu, control, step, observe));
        };
        observe(Event::Opening(said(number, gpu)));
        // A little more than planned, for the gaps between matrices; never all that is free, as the driver itself needs some.
        let planned = self.plan.total() as usize;
        gpu.reserve((planned + planned / 16).min(gpu.free_memory()? / 20 * 19));
        let pinned = gpu.reserve_host(self.plan.host as usize).map_err(Error::from);
        let ended = pinned.and_then(|()| match self.job.config.engine.bf16 {
            true => self.on(&gpu.with_activations::<bf16>(), control, step, observe),
            false => self.on(gpu, control, step, observe),
        });
        ended.map_err(|error| match error {
            Error::Device(found @ (GpuError::Memory { .. } | GpuError::Pinned { .. })) => {
                Error::GpuMemory { found, table: self.plan.advised(self.job) }
            }
            other => other,
        })
    }

    /// Where the device runs out of memory, the failure says what was planned.
    fn within_memory(self, work: impl FnOnce() -> Result<Ended, Error>) -> Result<Ended, Error> {
        // Nothing of a run that ended so is looked at again.
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| match OutOfMemory::of(&*payload) {
            Some(found) => Err(Error::OutOfMemory { found, table: self.plan.advised(self.job) }),
            None => resume_unwind(payload),
        })
    }

    fn on<B: Backend>(
        self,
        backend: &B,
        control: &Control,
        step: &mut u64,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ended, Error> {
        let Planned { ranks, job, plan, folder, found, resume, .. } = self;
        let mut run = Run::new(backend, ranks, job, plan, folder, found, observe)?;
        run.working()?;
        let begun = run.begin(found, resume, control, observe);
        *step = run.step;
        let ready = begun? && run.rehearse(control, observe)?;
        let ended = if ready { run.train(control, observe) } else { Ok(run.ended(true)) };
        *step = run.step;
        ended
    }
}

/// The processor as a job wants it.
pub(crate) fn processor(job: &Job, threads: usize) -> Cpu<f32> {
    let cpu = Cpu::new(threads);
    if job.config.engine.bf16 { cpu.mixed() } else { cpu }
}

impl<B: Backend> Run<'_, B> {
    /// Whether the device works; after a failure its numbers are none.
    pub(super) fn working(&self) -> Result<(), Error> {
        self.backend.trouble().map_or(Ok(()), |e| Err(e.into()))
    }
}
