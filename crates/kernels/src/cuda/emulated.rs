//! A GPU played by the CPU, for tests: kernels are compiled as C++ beside a small stand-in for CUDA, and run one thread after another.

use super::driver::{About, Arg, Driver, Dtype, Factor, Grid, Kernel, Plane, Product, Program, Stream, Transfer};
use super::{Call, Error, Graph, queue};
use libloading::Library;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Runs a kernel: parameters, their number, blocks, threads, bytes of shared memory, order of the threads.
type Launch = unsafe extern "C" fn(*mut *mut c_void, c_uint, *const c_uint, *const c_uint, c_uint, c_int) -> c_int;

/// Of the C++ compiler. Hidden, or programs that run side by side would share the memory of what they define alike.
const OPTIONS: [&str; 8] = [
    "-std=c++17",
    "-O1",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-shared",
    "-fPIC",
    "-Wno-attributes",
    "-Wno-psabi",
];

/// In which order the threads of a block run between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first one first.
    Ascending,
    /// The last one first.
    Descending,
}

/// A GPU played by the CPU.
pub struct Emulated {
    compiler: PathBuf,
    folder: PathBuf,
    order: Order,
    memory: usize,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    programs: HashMap<Program, Library>,
    kernels: Vec<Loaded>,
    memory: HashMap<u64, Layout>,
    taken: usize,
    pinned: HashMap<u64, Layout>,
    /// Copies that nothing has waited for yet.
    transfers: Vec<Transfer>,
    graphs: HashMap<u64, Arc<[Call]>>,
    captured: u64,
}

struct Loaded {
    name: String,
    launch: Launch,
}

impl Emulated {
    /// With the system's C++ compiler; none where there is none.
    pub fn found(folder: &Path, order: Order) -> Option<Emulated> {
        let compiler = Path::new("c++");
        let answers = Command::new(compiler).arg("--version").output().is_ok_and(|o| o.status.success());
        let there = answers && cfg!(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")));
        there.then(|| Emulated::new(compiler, folder, order))
    }

    /// Compiles with the C++ compiler `compiler` into `folder`, where it looks for what is compiled already.
    pub fn new(compiler: &Path, folder: &Path, order: Order) -> Emulated {
        let (compiler, folder, state) = (compiler.into(), folder.into(), Mutex::default());
        Emulated { compiler, folder, order, memory: 1 << 30, begun: Instant::now(), state }
    }

    /// With so many bytes of memory.
    pub fn with_memory(mut self, memory: usize) -> Emulated {
        self.memory = memory;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared object of a program.
    fn compiled(&self, program: &Program) -> Result<PathBuf, Error> {
        let exports: String = program.kernels().iter().map(|kernel| format!("SHIM_EXPORT({kernel})\n")).collect();
        let text = format!("{}\n{}\n{exports}", include_str!("shim.h"), program.whole());
        let mut hasher = DefaultHasher::new();
        (&text, &self.compiler, OPTIONS).hash(&mut hasher);
        let stem = format!("{}-{:016x}", program.name, hasher.finish());
        let done = self.folder.join(format!("{stem}.so"));
        if done.exists() {
            return Ok(done);
        }
        let failed = |what: String| Error::Compile { program: program.name.into(), log: what };
        let own = format!("{stem}-{}-{:?}", std::process::id(), std::thread::current().id());
        let (source, fresh) = (self.folder.join(format!("{own}.cc")), self.folder.join(format!("{own}.so")));
        std::fs::create_dir_all(&self.folder).map_err(|e| failed(e.to_string()))?;
        std::fs::write(&source, text).map_err(|e| failed(e.to_string()))?;
        let output = Command::new(&self.compiler).args(OPTIONS).arg("-o").arg(&fresh).arg(&source).output();
        let output = output.map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        std::fs::rename(&fresh, &done).map_err(|e| failed(e.to_string()))?;
        // The source is only of use to whoever looks for a mistake in it.
        std::fs::remove_file(&source).ok();
        Ok(done)
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let mut state = self.state();
        let State { memory, pinned, .. } = &mut *state;
        for (address, layout) in memory.drain().chain(pinned.drain()) {
            // SAFETY: allocated with this layout and not freed since.
            unsafe { dealloc(address as *mut u8, layout) }
        }
    }
}

/// New memory of a layout whose size is not zero; `None`: the system has no more.
fn filled(layout: Layout) -> Option<u64> {
    // SAFETY: the size is not zero.
    let address = unsafe { alloc(layout) };
    if address.is_null() {
        return None;
    }
    // SAFETY: just allocated. What was never written is NaN, which tests notice.
    unsafe { address.write_bytes(0xff, layout.size()) };
    Some(address as u64)
}

/// Bytes of device memory, which are the host's.
///
/// # Safety
/// The plane lies in memory that is alive.
unsafe fn row<'a>(plane: &Plane, i: usize) -> &'a mut [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts_mut((plane.address as usize + i * plane.pitch) as *mut u8, plane.width) }
}

impl Driver for Emulated {
    fn about(&self) -> About {
        About { name: "a GPU played by the CPU".into(), memory: self.memory, capability: 80, libraries: Vec::new() }
    }

    fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        let layout = Layout::from_size_align(bytes.max(1), 256).map_err(|_| Error::Memory { bytes, free: 0 })?;
        let mut state = self.state();
        let free = self.memory - state.taken;
        if layout.size() > free {
            return Err(Error::Memory { bytes, free });
        }
        let address = filled(layout).ok_or(Error::Memory { bytes, free: 0 })?;
        state.taken += layout.size();
        state.memory.insert(address, layout);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let mut state = self.state();
        if let Some(layout) = state.memory.remove(&address) {
            state.taken = state.taken.saturating_sub(layout.size());
            // SAFETY: allocated with this layout, freed once.
            unsafe { dealloc(address as *mut u8, layout) }
        }
    }

    fn free_memory(&self) -> Result<usize, Error> {
        Ok(self.memory - self.state().taken)
    }

    fn copy_in(&self, from: &[u8], to: Plane) -> Result<(), Error> {
        // SAFETY: planes come from matrices that are alive.
        (0..to.rows).for_each(|i| unsafe { row(&to, i) }.copy_from_slice(&from[i * to.width..][..to.width]));
        Ok(())
    }

    fn copy_out(&self, from: Plane, to: &mut [u8]) -> Result<(), Error> {
        // SAFETY: as above.
        (0..from.rows).for_each(|i| to[i * from.width..][..from.width].copy_from_slice(unsafe { row(&from, i) }));
        Ok(())
    }

    fn copy_along(&self, from: u64, to: u64, bytes: usize) -> Result<(), Error> {
        // SAFETY: as above; the two may overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn zero(&self, at: Plane) -> Result<(), Error> {
        // SAFETY: as above.
        (0..at.rows).for_each(|i| unsafe { row(&at, i) }.fill(0));
        Ok(())
    }

    fn kernel(&self, program: &Program, name: &str) -> Result<Kernel, Error> {
        let failed = |e: libloading::Error| Error::Compile { program: program.name.into(), log: e.to_string() };
        let mut state = self.state();
        if !state.programs.contains_key(program) {
            let path = self.compiled(program)?;
            // SAFETY: the library is what was compiled above; loading it runs no code of its own.
            let library = unsafe { Library::new(path) }.map_err(failed)?;
            state.programs.insert(program.clone(), library);
        }
        // SAFETY: the shim exports its launchers with this signature.
        let launch = unsafe { state.programs[program].get::<Launch>(format!("shim_{name}").as_bytes()) };
        let launch = *launch.map_err(failed)?;
        state.kernels.push(Loaded { name: name.into(), launch });
        Ok(Kernel(state.kernels.len() - 1))
    }

    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<(), Error> {
        let state = self.state(); // held: the emulation has one block at a time
        let loaded = &state.kernels[kernel.0];
        let mut pointers: Vec<*mut c_void> = args.iter().map(|a| std::ptr::from_ref(a).cast_mut().cast()).collect();
        let threads = [grid.threads, 1, 1];
        let order = c_int::from(self.order == Order::Descending);
        // SAFETY: as the caller says.
        let code = unsafe {
            (loaded.launch)(
                pointers.as_mut_ptr(),
                args.len() as c_uint,
                grid.blocks.as_ptr(),
                threads.as_ptr(),
                grid.shared,
                order,
            )
        };
        let what = match code {
            0 => return Ok(()),
            1 => "threads wait at a barrier that others do not reach",
            2 => "no memory for the threads' stacks",
            _ => "another number of parameters than the kernel has",
        };
        Err(Error::Failed { what: loaded.name.clone(), code: what.into() })
    }

    unsafe fn product(&self, p: &Product) -> Result<(), Error> {
        let [m, n, k] = p.shape;
        // SAFETY: as the caller says.
        let at = |f: &Factor, dtype: Dtype, i: usize, j: usize| unsafe {
            let (i, j) = if f.turned { (j, i) } else { (i, j) };
            let place = i * f.ld + j;
            match dtype {
                Dtype::F32 => *(f.address as *const f32).add(place),
                Dtype::Bf16 => (*(f.address as *const half::bf16).add(place)).to_f32(),
            }
        };
        let right: Vec<f32> = (0..k * n).map(|e| at(&p.right, p.dtype, e / n, e % n)).collect();
        let mut sums = vec![0.0f32; n];
        for i in 0..m {
            sums.fill(0.0);
            for (l, right) in right.chunks_exact(n).enumerate() {
                let x = at(&p.left, p.dtype, i, l);
                sums.iter_mut().zip(right).for_each(|(sum, y)| *sum += x * y);
            }
            for (j, sum) in sums.iter().enumerate() {
                let before = if p.add { at(&p.out, p.out_dtype, i, j) } else { 0.0 };
                let value = p.alpha * sum + before;
                // SAFETY: as above; the output is an exclusive borrow.
                unsafe {
                    match p.out_dtype {
                        Dtype::F32 => *(p.out.address as *mut f32).add(i * p.out.ld + j) = value,
                        Dtype::Bf16 => {
                            *(p.out.address as *mut half::bf16).add(i * p.out.ld + j) = half::bf16::from_f32(value);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn pin(&self, bytes: usize) -> Result<u64, Error> {
        let none = || Error::Failed { what: "pinned memory".into(), code: "the system has no more".into() };
        let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| none())?;
        let address = filled(layout).ok_or_else(none)?;
        self.state().pinned.insert(address, layout);
        Ok(address)
    }

    fn unpin(&self, address: u64) {
        if let Some(layout) = self.state().pinned.remove(&address) {
            // SAFETY: allocated with this layout, freed once.
            unsafe { dealloc(address as *mut u8, layout) }
        }
    }

    unsafe fn transfer(&self, transfer: &Transfer) -> Result<(), Error> {
        self.state().transfers.push(*transfer);
        Ok(())
    }

    fn follow(&self, stream: Stream) -> Result<(), Error> {
        // What is computed is done when it is queued. Copies are made as late as they may be: who reads before it has waited, or
        // gives memory away before, reads something else, which tests notice.
        if stream == Stream::Compute {
            for Transfer { device, pinned, bytes, out } in std::mem::take(&mut self.state().transfers) {
                let (from, to) = if out { (device, pinned) } else { (pinned, device) };
                // SAFETY: as whoever queued it said.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), Error> {
        Ok(())
    }

    fn mark(&self) -> Result<u64, Error> {
        // What is queued is done already.
        Ok(self.begun.elapsed().as_nanos() as u64)
    }

    fn between(&self, from: u64, to: u64) -> Result<f64, Error> {
        Ok(1e-9 * to.saturating_sub(from) as f64)
    }

    fn forget(&self, _: u64) {}

    unsafe fn capture(&self, calls: &[Call]) -> Result<Graph, Error> {
        let mut state = self.state();
        state.captured += 1;
        let graph = state.captured;
        state.graphs.insert(graph, calls.into());
        Ok(Graph(graph))
    }

    unsafe fn replay(&self, graph: Graph, given: &[Vec<u8>]) -> Result<(), Error> {
        let calls = self.state().graphs.get(&graph.0).cloned();
        let none = || Error::Failed { what: "a graph".into(), code: "there is no such graph".into() };
        let mut given = given.iter();
        for call in calls.ok_or_else(none)?.iter() {
            match call {
                Call::Given(to, _) => self.copy_in(given.next().map_or(&[], |bytes| bytes), *to)?,
                // SAFETY: as the caller says.
                call => unsafe { queue::made(self, call) }?,
            }
        }
        Ok(())
    }

    fn release(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0);
    }
}
