//! A GPU through NVIDIA's driver, whose libraries are looked for when one is asked for: nothing of CUDA is needed to build.

mod api;
mod blaslt;
mod cache;
mod event;
mod graph;
mod library;
mod nvml;
mod nvrtc;
mod places;
mod transfers;

pub use nvml::Nvml;
pub use nvrtc::{Nvrtc, Usage};

use super::driver::{About, Arg, Driver, Grid, Kernel, Plane, Product, Program, Stream, Transfer};
use super::{Call, Error, Graph, locked};
use api::{Api, Copy2d};
use blaslt::BlasLt;
use cache::Cache;
use nvrtc::Target;
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::Mutex;
use transfers::Transfers;

/// Compute capability of the oldest GPUs with bf16: Ampere.
const LOWEST_CAPABILITY: u32 = 80;
/// The oldest driver: that of CUDA 11.8.
const LOWEST_DRIVER: c_int = 11_080;

/// How a GPU is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Its number.
    pub number: usize,
    /// Folders in which NVRTC and cuBLASLt may lie, beside where the system finds libraries.
    pub folders: Vec<PathBuf>,
    /// Where compiled kernels are kept; none: they are compiled in every process.
    pub cache: Option<PathBuf>,
    /// Whether products of f32 round their factors to tf32.
    pub tf32: bool,
    /// What is taken for a GPU where one is to be played by the CPU, for tests.
    pub played: Option<Played>,
}

/// A GPU played by the CPU.
#[derive(Clone, Debug)]
pub struct Played {
    /// Where its compiled kernels are kept.
    pub folder: PathBuf,
    /// Bytes of its memory.
    pub memory: usize,
}

/// A GPU.
pub struct Real {
    api: Api,
    device: c_int,
    context: usize,
    stream: usize,
    transfers: Transfers,
    nvrtc: Nvrtc,
    blas: BlasLt,
    workspace: u64,
    about: About,
    architecture: (String, Target),
    cache: Cache,
    loaded: Mutex<Loaded>,
    graphs: Mutex<Graphs>,
}

/// The newest graph's number, and all with the places of their bytes.
type Graphs = (u64, HashMap<u64, (graph::Captured, Vec<usize>)>);

#[derive(Default)]
struct Loaded {
    modules: HashMap<Program, usize>,
    functions: Vec<usize>,
}

/// A CUDA version as it is written, from 1000 times the major and 10 times the minor number.
fn written(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What to compile for: the GPU's own machine code, with all of its architecture's features, where NVRTC knows it; else code
/// that the driver translates, of the newest architecture that both know.
fn architecture(capability: u32, known: &[u32]) -> Option<(String, Target)> {
    if known.contains(&capability) {
        let features = if capability >= 90 { "a" } else { "" };
        return Some((format!("sm_{capability}{features}"), Target::Cubin));
    }
    let newest = known.iter().filter(|&&k| k <= capability).max()?;
    Some((format!("compute_{newest}"), Target::Ptx))
}

impl Real {
    /// Opens a GPU. Errors: a library or the GPU is not there, or too old.
    pub fn open(options: &Options) -> Result<Real, Error> {
        let api = Api::open()?;
        let driver = api.version()?;
        if driver < LOWEST_DRIVER {
            let (what, found) = ("NVIDIA's driver, made for CUDA".into(), written(driver));
            return Err(Error::Old { what, found, lowest: written(LOWEST_DRIVER) });
        }
        let found = api.count()?;
        if options.number >= found {
            return Err(Error::NoDevice { number: options.number, found });
        }
        let device = api.device(options.number)?;
        let (name, memory, capability) = api.describe(device)?;
        if capability < LOWEST_CAPABILITY {
            let (what, found) = (format!("{name}, of compute capability"), written(capability as c_int * 100));
            return Err(Error::Old { what, found, lowest: "8.0".into() });
        }
        let context = api.retain(device)?;
        api.enter(context)?;
        let (stream, transfers) = (api.stream()?, Transfers::new(&api)?);
        let newest = (driver / 1000) as u32;
        let nvrtc = Nvrtc::open(newest, &options.folders)?;
        let architecture = architecture(capability, &nvrtc.capabilities()?).ok_or_else(|| Error::Old {
            what: "NVRTC".into(),
            found: format!("{}.{}", nvrtc.version().0, nvrtc.version().1),
            lowest: format!("one that knows {name}"),
        })?;
        let blas = BlasLt::open(newest, &options.folders, options.tf32)?;
        let workspace = api.alloc(blaslt::WORKSPACE)?;
        let (major, minor) = nvrtc.version();
        let libraries = [
            ("driver", written(driver)),
            ("NVRTC", format!("{major}.{minor}")),
            ("cuBLASLt", blaslt::written(blas.version)),
        ];
        let libraries = libraries.map(|(name, version)| (name.to_owned(), version)).into();
        let about = About { name, memory, capability, libraries };
        let cache = Cache::new(options.cache.clone());
        let (loaded, graphs) = (Mutex::default(), Mutex::default());
        Ok(Real {
            api,
            device,
            context,
            stream,
            transfers,
            nvrtc,
            blas,
            workspace,
            about,
            architecture,
            cache,
            loaded,
            graphs,
        })
    }

    /// Calls come from any thread: each makes the context its own.
    fn enter(&self) -> Result<(), Error> {
        self.api.enter(self.context)
    }

    fn module(&self, program: &Program) -> Result<usize, Error> {
        let mut loaded = locked(&self.loaded);
        if let Some(module) = loaded.modules.get(program) {
            return Ok(*module);
        }
        let (name, target) = &self.architecture;
        let key = [program.whole(), name.clone(), format!("{:?}", self.nvrtc.version())];
        let mut image = self.cache.get(program.name, &key, || self.nvrtc.compiled(program, name, target))?;
        image.push(0); // intermediate code ends with NUL
        let module = self.api.load(&image)?;
        loaded.modules.insert(program.clone(), module);
        Ok(module)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            self.api.synchronize(self.stream).ok();
            self.api.free(self.workspace).ok();
            self.transfers.end(&self.api);
            self.api.end(self.stream, self.device);
        }
    }
}

impl Driver for Real {
    fn about(&self) -> About {
        self.about.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        self.enter()?;
        self.api.alloc(bytes)
    }

    fn free(&self, address: u64) {
        // Fails only after a failure that is known already.
        self.enter().and_then(|()| self.api.free(address)).ok();
    }

    fn free_memory(&self) -> Result<usize, Error> {
        self.enter()?;
        self.api.free_memory()
    }

    fn copy_in(&self, from: &[u8], to: Plane) -> Result<(), Error> {
        assert_eq!(from.len(), to.rows * to.width, "bytes for a plane");
        self.enter()?;
        if to.width == to.pitch || to.rows == 1 {
            // From memory that is not pinned the driver has read everything when this returns.
            return self.api.copy_in(to.address, from, self.stream);
        }
        self.api.copy_2d(&Copy2d::to_device(from.as_ptr(), to), self.stream)?;
        self.api.synchronize(self.stream)
    }

    fn copy_out(&self, from: Plane, to: &mut [u8]) -> Result<(), Error> {
        assert_eq!(to.len(), from.rows * from.width, "bytes of a plane");
        self.enter()?;
        if from.width == from.pitch || from.rows == 1 {
            self.api.copy_out(to, from.address, self.stream)?;
        } else {
            self.api.copy_2d(&Copy2d::to_host(from, to.as_mut_ptr()), self.stream)?;
        }
        self.api.synchronize(self.stream)
    }

    fn copy_along(&self, from: u64, to: u64, bytes: usize) -> Result<(), Error> {
        self.enter()?;
        self.api.copy_along(from, to, bytes, self.stream)
    }

    fn zero(&self, at: Plane) -> Result<(), Error> {
        self.enter()?;
        if at.width == at.pitch || at.rows == 1 {
            return self.api.zero(at.address, at.rows * at.width, self.stream);
        }
        self.api.zero_2d(at, self.stream)
    }

    fn kernel(&self, program: &Program, name: &str) -> Result<Kernel, Error> {
        self.enter()?;
        let module = self.module(program)?;
        let symbol = CString::new(name).expect("names hold no NUL");
        let function = self.api.function(module, &symbol)?;
        let functions = &mut locked(&self.loaded).functions;
        functions.push(function);
        Ok(Kernel(functions.len() - 1))
    }

    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<(), Error> {
        self.enter()?;
        let function = locked(&self.loaded).functions[kernel.0];
        let mut pointers: Vec<*mut c_void> = args.iter().map(|a| std::ptr::from_ref(a).cast_mut().cast()).collect();
        let Grid { blocks, threads, shared } = grid;
        if shared > 48 << 10 {
            self.api.allow_shared(function, shared as c_int)?;
        }
        // SAFETY: as the caller says.
        unsafe { self.api.launch(function, blocks, threads as c_uint, shared, self.stream, pointers.as_mut_ptr()) }
    }

    unsafe fn product(&self, product: &Product) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: as the caller says; the workspace is this stream's alone.
        unsafe { self.blas.product(product, self.workspace, self.stream) }
    }

    fn pin(&self, bytes: usize) -> Result<u64, Error> {
        self.enter()?;
        self.api.pinned(bytes).map(|address| address as u64)
    }

    fn unpin(&self, address: u64) {
        if self.enter().is_ok() {
            self.api.unpin(address as usize);
        }
    }

    unsafe fn transfer(&self, transfer: &Transfer) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: as the caller says.
        unsafe { self.transfers.queue(&self.api, transfer) }
    }

    fn follow(&self, stream: Stream) -> Result<(), Error> {
        self.enter()?;
        self.transfers.order(&self.api, stream, self.stream)
    }

    fn wait(&self) -> Result<(), Error> {
        self.enter()?;
        self.api.synchronize(self.stream)
    }

    fn mark(&self) -> Result<u64, Error> {
        self.enter()?;
        self.api.event(self.stream)
    }

    fn between(&self, from: u64, to: u64) -> Result<f64, Error> {
        self.enter()?;
        self.api.between(from, to)
    }

    fn forget(&self, mark: u64) {
        if self.enter().is_ok() {
            self.api.end_event(mark);
        }
    }

    unsafe fn capture(&self, calls: &[Call]) -> Result<Graph, Error> {
        self.enter()?;
        // SAFETY: as the caller says.
        unsafe { self.captured(calls) }
    }

    unsafe fn replay(&self, graph: Graph, given: &[Vec<u8>]) -> Result<(), Error> {
        self.enter()?;
        self.replayed(graph, given)
    }

    fn release(&self, graph: Graph) {
        if self.enter().is_ok() {
            self.released(graph);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_made_for_the_gpu_or_for_the_newest_architecture_before_it() {
        let made = |capability| architecture(capability, &[75, 80, 86, 89, 90, 100]).map(|(name, _)| name);
        assert_eq!(made(80).as_deref(), Some("sm_80"));
        assert_eq!(made(90).as_deref(), Some("sm_90a"));
        assert_eq!(made(120).as_deref(), Some("compute_100"));
        assert_eq!(made(70), None);
    }
}
