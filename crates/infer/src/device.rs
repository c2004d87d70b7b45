//! Where a model is asked: by the processor, or by a GPU.

use crate::{Drawn, Engine, Error, Limits, Model, ModelFolder, Output, Request, StopTexts};
use kernels::cuda::{Cuda, Options};
use kernels::{Backend, bf16};
use weights::DType;

/// What computes.
#[derive(Clone, Debug)]
pub enum Device {
    /// So many threads of the processor.
    Cpu(usize),
    /// A GPU.
    Gpu(Options),
}

/// A model in the memory of what computes.
pub enum Placed {
    /// On the processor.
    Cpu(Model),
    /// On a GPU, activations in float32.
    Single(Model<Cuda<f32>>),
    /// On a GPU, activations in bfloat16.
    Half(Model<Cuda<bf16>>),
}

/// Does something with the model, whatever computes.
macro_rules! each {
    ($placed:expr, $model:ident => $work:expr) => {
        match $placed {
            Placed::Cpu($model) => $work,
            Placed::Single($model) => $work,
            Placed::Half($model) => $work,
        }
    };
}

/// An [`Engine`], whatever computes.
pub trait Draw {
    /// See [`Engine::submit`].
    ///
    /// # Errors
    /// As there.
    fn submit(&mut self, number: usize, request: Request) -> Result<(), Error>;
    /// See [`Engine::cancel`].
    fn cancel(&mut self, number: usize);
    /// See [`Engine::is_idle`].
    fn is_idle(&self) -> bool;
    /// See [`Engine::step`].
    ///
    /// # Errors
    /// As there.
    fn step(&mut self) -> Result<Vec<Drawn>, Error>;
}

impl<B: Backend> Draw for Engine<'_, B> {
    fn submit(&mut self, number: usize, request: Request) -> Result<(), Error> {
        Engine::submit(self, number, request)
    }
    fn cancel(&mut self, number: usize) {
        Engine::cancel(self, number);
    }
    fn is_idle(&self) -> bool {
        Engine::is_idle(self)
    }
    fn step(&mut self) -> Result<Vec<Drawn>, Error> {
        Engine::step(self)
    }
}

impl ModelFolder {
    /// As [`ModelFolder::load`], on any device. On a GPU activations are bfloat16 where the checkpoint's matrices have 16 bits or
    /// fewer, else float32; what a sequence gets may there differ in its rounding by what is asked beside it.
    ///
    /// # Errors
    /// As there; a GPU that is not there, lacks a library, or has too little memory.
    pub fn place(&self, positions: usize, device: &Device) -> Result<Placed, Error> {
        let (checkpoint, blueprint, adapter) = (&self.checkpoint, self.blueprint.clone(), self.adapter.as_ref());
        let gpu = match device {
            Device::Cpu(threads) => return Ok(Placed::Cpu(self.load(positions, *threads)?)),
            Device::Gpu(options) => Cuda::<f32>::open(options)?,
        };
        let single =
            checkpoint.infos().any(|t| t.shape.len() > 1 && t.dtype == DType::F32) && !checkpoint.is_quantised();
        if single {
            let model = Model::on(gpu.clone(), gpu, checkpoint, blueprint, adapter, positions)?;
            return Ok(Placed::Single(model));
        }
        let gpu = gpu.with_activations::<bf16>();
        Ok(Placed::Half(Model::on(gpu.clone(), gpu, checkpoint, blueprint, adapter, positions)?))
    }
}

impl Placed {
    /// Positions it was loaded for.
    pub fn positions(&self) -> usize {
        each!(self, model => model.positions)
    }

    /// Things worth saying to the user.
    pub fn notes(&self) -> &[String] {
        each!(self, model => &model.notes)
    }

    /// See [`Model::generate`].
    ///
    /// # Errors
    /// As there.
    pub fn generate(
        &self,
        requests: &[Request],
        stop: (&[u32], Option<StopTexts<'_>>),
        rows: (usize, usize),
        on_finished: &mut (dyn FnMut(usize, &Output) + Send),
    ) -> Result<Vec<Output>, Error> {
        each!(self, model => model.generate(requests, stop, rows, on_finished))
    }

    /// Does something with an engine of the model; answers end with one of the tokens `stop`.
    pub fn with_engine<R>(&self, limits: Limits, stop: &[u32], work: impl FnOnce(&mut dyn Draw) -> R) -> R {
        each!(self, model => {
            let ctx = model.generation();
            work(&mut Engine::new(&ctx, &model.decoder, limits, stop))
        })
    }

    /// As [`Placed::with_engine`], on the model's own threads, where operators start soonest.
    pub fn within_engine<R: Send>(
        &self,
        limits: Limits,
        stop: &[u32],
        work: impl FnOnce(&mut dyn Draw) -> R + Send,
    ) -> R {
        each!(self, model => {
            let ctx = model.generation();
            model.install(|| work(&mut Engine::new(&ctx, &model.decoder, limits, stop)))
        })
    }
}
