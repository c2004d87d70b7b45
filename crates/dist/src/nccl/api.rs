//! The functions of NCCL and of NVIDIA's driver that are used, as their headers have them (nccl.h since 2.14, cuda.h).

use super::{NAP, Options};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `ncclInProgress`
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclUint8`
const BYTES: c_int = 1;
/// `CUDA_ERROR_NOT_READY`
const NOT_READY: c_int = 600;
/// NCCL 2.14, the first whose communicators can be made not to block.
const LOWEST: c_int = 21_400;

/// `ncclUniqueId`
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

/// `ncclConfig_t` as of 2.14; later ones say how long they are, and are filled up.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

type Plain = unsafe extern "C" fn() -> c_int;
type OfCommunicator = unsafe extern "C" fn(usize) -> c_int;
type Message = unsafe extern "C" fn(u64, usize, c_int, c_int, usize, usize) -> c_int;

/// The libraries, opened, and their functions.
pub(super) struct Api {
    context: usize,
    /// Of NCCL, for people.
    pub(super) version: String,
    set_context: unsafe extern "C" fn(usize) -> c_int,
    mem_alloc: unsafe extern "C" fn(*mut u64, usize) -> c_int,
    mem_free: unsafe extern "C" fn(u64) -> c_int,
    host_to_device: unsafe extern "C" fn(u64, *const c_void, usize) -> c_int,
    device_to_host: unsafe extern "C" fn(*mut c_void, u64, usize) -> c_int,
    stream_create: unsafe extern "C" fn(*mut usize, c_uint) -> c_int,
    stream_query: unsafe extern "C" fn(usize) -> c_int,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut usize, c_int, UniqueId, c_int, *const Config) -> c_int,
    group_start: Plain,
    group_end: Plain,
    send: Message,
    receive: Message,
    async_error: unsafe extern "C" fn(usize, *mut c_int) -> c_int,
    comm_abort: OfCommunicator,
    comm_finalize: OfCommunicator,
    comm_destroy: OfCommunicator,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Kept open.
    _libraries: [Library; 2],
}

/// The first of the `names` that opens, in the folders and then where the system looks.
fn open(names: &[&str], folders: &[PathBuf], missing: &str) -> Result<Library, String> {
    let placed = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let anywhere = names.iter().map(|name| Path::new(name).to_owned());
    for file in placed.filter(|path| path.exists()).chain(anywhere) {
        // SAFETY: these are NVIDIA's libraries, whose loading runs their own set-up only.
        if let Ok(library) = unsafe { Library::new(&file) } {
            return Ok(library);
        }
    }
    Err(missing.to_owned())
}

/// A function of a library.
///
/// # Safety
/// `F` is the function's type.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
    // SAFETY: as the caller says.
    let symbol = unsafe { library.get::<F>(name.as_bytes()) };
    symbol
        .map(|symbol| *symbol)
        .map_err(|_| format!("NCCL 2.14 and a driver of CUDA 11.8 or newer are needed: {name} is not there"))
}

/// What came of a call of the driver.
fn driver(name: &str, code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("the GPU's driver: {name} failed with code {code}")) }
}

impl Api {
    /// Finds the libraries and the GPU.
    ///
    /// Errors: what is missing, and what to do.
    pub(super) fn open(options: &Options) -> Result<Api, String> {
        let cuda = open(
            &["libcuda.so.1", "libcuda.so"],
            &options.folders,
            "NCCL is for ranks on GPUs, and NVIDIA's driver is not there (nvidia-smi lists what is); ranks on CPUs meet over MPI",
        )?;
        let nccl = open(
            &["libnccl.so.2", "libnccl.so"],
            &options.folders,
            "NCCL is not there: pip install nvidia-nccl-cu12 puts it into a Python environment (VIRTUAL_ENV), apt-get install libnccl2 into the system; PROSPECT_CUDA_LIBRARIES names other folders",
        )?;
        // SAFETY: the types are those of cuda.h and nccl.h.
        let mut api = unsafe {
            Api {
                context: 0,
                version: String::new(),
                set_context: function(&cuda, "cuCtxSetCurrent")?,
                mem_alloc: function(&cuda, "cuMemAlloc_v2")?,
                mem_free: function(&cuda, "cuMemFree_v2")?,
                host_to_device: function(&cuda, "cuMemcpyHtoD_v2")?,
                device_to_host: function(&cuda, "cuMemcpyDtoH_v2")?,
                stream_create: function(&cuda, "cuStreamCreate")?,
                stream_query: function(&cuda, "cuStreamQuery")?,
                unique_id: function(&nccl, "ncclGetUniqueId")?,
                init_rank: function(&nccl, "ncclCommInitRankConfig")?,
                group_start: function(&nccl, "ncclGroupStart")?,
                group_end: function(&nccl, "ncclGroupEnd")?,
                send: function(&nccl, "ncclSend")?,
                receive: function(&nccl, "ncclRecv")?,
                async_error: function(&nccl, "ncclCommGetAsyncError")?,
                comm_abort: function(&nccl, "ncclCommAbort")?,
                comm_finalize: function(&nccl, "ncclCommFinalize")?,
                comm_destroy: function(&nccl, "ncclCommDestroy")?,
                error_string: function(&nccl, "ncclGetErrorString")?,
                _libraries: [cuda, nccl],
            }
        };
        api.context = api.context_of(options.device)?;
        api.enter()?;
        let mut version: c_int = 0;
        // SAFETY: as above; the number is a local.
        api.nccl("ncclGetVersion", unsafe {
            function::<unsafe extern "C" fn(*mut c_int) -> c_int>(&api._libraries[1], "ncclGetVersion")?(&mut version)
        })?;
        api.version = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
        if version < LOWEST {
            return Err(format!("NCCL: expected 2.14 or newer, found {}", api.version));
        }
        Ok(api)
    }

    /// The context of a GPU that everything in this process shares.
    fn context_of(&self, device: usize) -> Result<usize, String> {
        let cuda = &self._libraries[0];
        let (mut count, mut handle, mut context): (c_int, c_int, usize) = (0, 0, 0);
        // SAFETY: the types are those of cuda.h, and what is written to are locals.
        unsafe {
            driver("cuInit", function::<unsafe extern "C" fn(c_uint) -> c_int>(cuda, "cuInit")?(0))?;
            let get: unsafe extern "C" fn(*mut c_int) -> c_int = function(cuda, "cuDeviceGetCount")?;
            driver("cuDeviceGetCount", get(&mut count))?;
            if device >= count as usize {
                return Err(format!(
                    "this rank is to have GPU {device} of its machine, which has {count}; start as many ranks as there are GPUs"
                ));
            }
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int = function(cuda, "cuDeviceGet")?;
            driver("cuDeviceGet", get(&mut handle, device as c_int))?;
            let retain: unsafe extern "C" fn(*mut usize, c_int) -> c_int = function(cuda, "cuDevicePrimaryCtxRetain")?;
            driver("cuDevicePrimaryCtxRetain", retain(&mut context, handle))?;
        }
        Ok(context)
    }

    /// What came of a call of NCCL; what is only begun is no error.
    fn nccl(&self, name: &str, code: c_int) -> Result<c_int, String> {
        if code == 0 || code == IN_PROGRESS {
            return Ok(code);
        }
        // SAFETY: NCCL's strings are constants that end in zero.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(format!("NCCL: {name} failed: {} (NCCL_DEBUG=WARN says more)", text.to_string_lossy()))
    }

    /// Makes the GPU that of the calling thread.
    pub(super) fn enter(&self) -> Result<(), String> {
        // SAFETY: the context was retained.
        driver("cuCtxSetCurrent", unsafe { (self.set_context)(self.context) })
    }

    pub(super) fn stream(&self) -> Result<usize, String> {
        /// `CU_STREAM_NON_BLOCKING`: it does not wait for what a run queues.
        const APART: c_uint = 1;
        let mut stream = 0;
        // SAFETY: written to a local.
        driver("cuStreamCreate", unsafe { (self.stream_create)(&mut stream, APART) })?;
        Ok(stream)
    }

    pub(super) fn unique_id(&self) -> Result<[u8; 128], String> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: written to a local.
        self.nccl("ncclGetUniqueId", unsafe { (self.unique_id)(&mut id) })?;
        Ok(id.0)
    }

    /// Begins to join a communicator, which does not block.
    pub(super) fn join(&self, size: usize, rank: usize, id: &[u8; 128]) -> Result<usize, String> {
        let config = Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: LOWEST as c_uint, blocking: 0 };
        let mut communicator = 0;
        let (size, rank) = (size as c_int, rank as c_int);
        // SAFETY: written to a local; the configuration is read before the call returns.
        let code = unsafe { (self.init_rank)(&mut communicator, size, UniqueId(*id), rank, &config) };
        self.nccl("ncclCommInitRankConfig", code)?;
        Ok(communicator)
    }

    /// How a communicator is doing: 0, or [`IN_PROGRESS`].
    pub(super) fn state(&self, communicator: usize) -> Result<c_int, String> {
        let mut state = 0;
        // SAFETY: written to a local; the communicator is not gone.
        self.nccl("ncclCommGetAsyncError", unsafe { (self.async_error)(communicator, &mut state) })?;
        self.nccl("an exchange", state)
    }

    /// Whether all that is queued on a stream is through.
    pub(super) fn is_through(&self, stream: usize) -> Result<bool, String> {
        // SAFETY: the stream was created.
        match unsafe { (self.stream_query)(stream) } {
            NOT_READY => Ok(false),
            code => driver("an exchange", code).map(|()| true),
        }
    }

    /// Posts messages together.
    pub(super) fn group(&self, post: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        // SAFETY: every start has its end.
        self.nccl("ncclGroupStart", unsafe { (self.group_start)() })?;
        let posted = post();
        // SAFETY: as above.
        let ended = self.nccl("ncclGroupEnd", unsafe { (self.group_end)() });
        posted.and(ended.map(drop))
    }

    /// Sends device memory to a rank, over a communicator, on a stream.
    pub(super) fn send(&self, at: u64, len: usize, peer: usize, (over, on): (usize, usize)) -> Result<(), String> {
        // SAFETY: the memory stays until the stream is through or the communicator aborted.
        self.nccl("ncclSend", unsafe { (self.send)(at, len, BYTES, peer as c_int, over, on) }).map(drop)
    }

    pub(super) fn receive(&self, at: u64, len: usize, peer: usize, (over, on): (usize, usize)) -> Result<(), String> {
        // SAFETY: as for sending.
        self.nccl("ncclRecv", unsafe { (self.receive)(at, len, BYTES, peer as c_int, over, on) }).map(drop)
    }

    pub(super) fn alloc(&self, bytes: usize) -> Result<u64, String> {
        let mut address = 0;
        // SAFETY: written to a local.
        driver("cuMemAlloc", unsafe { (self.mem_alloc)(&mut address, bytes) })
            .map_err(|why| format!("{why} ({bytes} bytes of GPU memory for an exchange)"))?;
        Ok(address)
    }

    pub(super) fn free(&self, address: u64) {
        // SAFETY: it was allocated here, and nothing under way uses it. What fails has nothing to be done about.
        unsafe { (self.mem_free)(address) };
    }

    pub(super) fn copy_in(&self, from: &[u8], to: u64) -> Result<(), String> {
        // SAFETY: the slice is read before the call returns, and there is room for it.
        driver("cuMemcpyHtoD", unsafe { (self.host_to_device)(to, from.as_ptr().cast(), from.len()) })
    }

    pub(super) fn copy_out(&self, from: u64, to: &mut [u8]) -> Result<(), String> {
        // SAFETY: written before the call returns, as many bytes as there is room for.
        driver("cuMemcpyDtoH", unsafe { (self.device_to_host)(to.as_mut_ptr().cast(), from, to.len()) })
    }

    /// Ends a communicator with what is under way.
    pub(super) fn abort(&self, communicator: usize) {
        // SAFETY: it is not used again.
        unsafe { (self.comm_abort)(communicator) };
    }

    /// Ends a communicator when all of its ranks do; does not wait for them for ever.
    pub(super) fn finish(&self, communicator: usize, until: Instant) {
        // SAFETY: not used again but to ask how it goes.
        unsafe { (self.comm_finalize)(communicator) };
        while self.state(communicator) == Ok(IN_PROGRESS) {
            if Instant::now() >= until {
                return self.abort(communicator);
            }
            std::thread::sleep(NAP);
        }
        // SAFETY: the last call with it.
        unsafe { (self.comm_destroy)(communicator) };
    }
}
