//! The functions of NVIDIA's driver that are used, as cuda.h declares them.

use super::super::Error;
use super::super::driver::Plane;
use super::library::Found;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// `CUdeviceptr`.
type Address = u64;
/// A context, stream, module or function.
type Handle = *mut c_void;

const MEMORY_HOST: c_uint = 1;
const MEMORY_DEVICE: c_uint = 2;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
const MAX_DYNAMIC_SHARED: c_int = 8;
const STREAM_NON_BLOCKING: c_uint = 1;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: c_int = 2;

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub(super) struct Copy2d {
    src_x: usize,
    src_y: usize,
    src_kind: c_uint,
    src_host: *const c_void,
    src_device: Address,
    src_array: Handle,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_kind: c_uint,
    dst_host: *mut c_void,
    dst_device: Address,
    dst_array: Handle,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

impl Copy2d {
    fn of(plane: Plane) -> Copy2d {
        Copy2d {
            src_x: 0,
            src_y: 0,
            src_kind: MEMORY_HOST,
            src_host: std::ptr::null(),
            src_device: 0,
            src_array: std::ptr::null_mut(),
            src_pitch: plane.width,
            dst_x: 0,
            dst_y: 0,
            dst_kind: MEMORY_HOST,
            dst_host: std::ptr::null_mut(),
            dst_device: 0,
            dst_array: std::ptr::null_mut(),
            dst_pitch: plane.width,
            width: plane.width,
            height: plane.rows,
        }
    }
    /// From rows without gaps on the host.
    pub(super) fn to_device(from: *const u8, to: Plane) -> Copy2d {
        let device = Copy2d { dst_kind: MEMORY_DEVICE, dst_device: to.address, dst_pitch: to.pitch, ..Copy2d::of(to) };
        Copy2d { src_host: from.cast(), ..device }
    }
    /// To rows without gaps on the host.
    pub(super) fn to_host(from: Plane, to: *mut u8) -> Copy2d {
        let device =
            Copy2d { src_kind: MEMORY_DEVICE, src_device: from.address, src_pitch: from.pitch, ..Copy2d::of(from) };
        Copy2d { dst_host: to.cast(), ..device }
    }
}

type Launch = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// NVIDIA's driver.
pub(super) struct Api {
    pub(super) found: Found,
    error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    set_current: unsafe extern "C" fn(Handle) -> c_int,
    alloc: unsafe extern "C" fn(*mut Address, usize) -> c_int,
    free: unsafe extern "C" fn(Address) -> c_int,
    memory: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int,
    copy_in: unsafe extern "C" fn(Address, *const c_void, usize, Handle) -> c_int,
    copy_out: unsafe extern "C" fn(*mut c_void, Address, usize, Handle) -> c_int,
    copy_2d: unsafe extern "C" fn(*const Copy2d, Handle) -> c_int,
    copy_along: unsafe extern "C" fn(Address, Address, usize, Handle) -> c_int,
    set: unsafe extern "C" fn(Address, u8, usize, Handle) -> c_int,
    set_2d: unsafe extern "C" fn(Address, usize, u8, usize, usize, Handle) -> c_int,
    synchronize: unsafe extern "C" fn(Handle) -> c_int,
    launch: Launch,
}

impl Api {
    /// The driver, initialised. Errors: there is none, it is older than the functions, or it has no GPU.
    pub(super) fn open() -> Result<Api, Error> {
        let found = Found::driver()?;
        // SAFETY: the signatures are those of cuda.h.
        let api = unsafe {
            Api {
                error_name: found.function("cuGetErrorName")?,
                set_current: found.function("cuCtxSetCurrent")?,
                alloc: found.function("cuMemAlloc_v2")?,
                free: found.function("cuMemFree_v2")?,
                memory: found.function("cuMemGetInfo_v2")?,
                copy_in: found.function("cuMemcpyHtoDAsync_v2")?,
                copy_out: found.function("cuMemcpyDtoHAsync_v2")?,
                copy_2d: found.function("cuMemcpy2DAsync_v2")?,
                copy_along: found.function("cuMemcpyDtoDAsync_v2")?,
                set: found.function("cuMemsetD8Async")?,
                set_2d: found.function("cuMemsetD2D8Async")?,
                synchronize: found.function("cuStreamSynchronize")?,
                launch: found.function("cuLaunchKernel")?,
                found,
            }
        };
        // SAFETY: as above.
        unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_int = api.found.function("cuInit")?;
            api.check("cuInit", init(0))?;
        }
        Ok(api)
    }

    pub(super) fn check(&self, call: &str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: the driver's own constant text, or nothing for a number that it does not know.
        let text = unsafe {
            (self.error_name)(code, &mut name);
            if name.is_null() { format!("error {code}") } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        };
        Err(Error::Failed { what: call.into(), code: text })
    }

    /// The CUDA version that the driver is made for.
    pub(super) fn version(&self) -> Result<c_int, Error> {
        let mut version = 0;
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut c_int) -> c_int = self.found.function("cuDriverGetVersion")?;
            get(&mut version)
        };
        self.check("cuDriverGetVersion", code).map(|()| version)
    }

    /// GPUs.
    pub(super) fn count(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut c_int) -> c_int = self.found.function("cuDeviceGetCount")?;
            get(&mut count)
        };
        self.check("cuDeviceGetCount", code).map(|()| count.max(0) as usize)
    }

    /// The GPU of a number.
    pub(super) fn device(&self, number: usize) -> Result<c_int, Error> {
        let mut device = 0;
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int = self.found.function("cuDeviceGet")?;
            get(&mut device, number as c_int)
        };
        self.check("cuDeviceGet", code).map(|()| device)
    }

    /// Name, bytes of memory, compute capability.
    pub(super) fn describe(&self, device: c_int) -> Result<(String, usize, u32), Error> {
        let (mut name, mut memory, mut capability) = ([0 as c_char; 256], 0, [0; 2]);
        // SAFETY: the signatures are those of cuda.h; the name is cut and ended within the buffer.
        unsafe {
            let name_of: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int =
                self.found.function("cuDeviceGetName")?;
            let memory_of: unsafe extern "C" fn(*mut usize, c_int) -> c_int =
                self.found.function("cuDeviceTotalMem_v2")?;
            let attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int =
                self.found.function("cuDeviceGetAttribute")?;
            self.check("cuDeviceGetName", name_of(name.as_mut_ptr(), 255, device))?;
            self.check("cuDeviceTotalMem", memory_of(&mut memory, device))?;
            for (value, which) in capability.iter_mut().zip([CAPABILITY_MAJOR, CAPABILITY_MINOR]) {
                self.check("cuDeviceGetAttribute", attribute(value, which, device))?;
            }
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            Ok((name, memory, (capability[0] * 10 + capability[1]) as u32))
        }
    }

    /// The device's primary context, which all libraries of the process share.
    pub(super) fn retain(&self, device: c_int) -> Result<usize, Error> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut Handle, c_int) -> c_int =
                self.found.function("cuDevicePrimaryCtxRetain")?;
            get(&mut context, device)
        };
        self.check("cuDevicePrimaryCtxRetain", code).map(|()| context as usize)
    }

    /// Makes a context that of this thread.
    pub(super) fn enter(&self, context: usize) -> Result<(), Error> {
        // SAFETY: the context is retained.
        self.check("cuCtxSetCurrent", unsafe { (self.set_current)(context as Handle) })
    }

    /// A stream that waits for no other.
    pub(super) fn stream(&self) -> Result<usize, Error> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut Handle, c_uint) -> c_int = self.found.function("cuStreamCreate")?;
            get(&mut stream, STREAM_NON_BLOCKING)
        };
        self.check("cuStreamCreate", code).map(|()| stream as usize)
    }

    /// Gives a stream back; what fails then is of no interest.
    pub(super) fn end_stream(&self, stream: usize) {
        // SAFETY: the signature is that of cuda.h; the stream is given back once.
        unsafe {
            if let Ok(destroy) = self.found.function::<unsafe extern "C" fn(Handle) -> c_int>("cuStreamDestroy_v2") {
                destroy(stream as Handle);
            }
        }
    }

    /// Gives stream and context back; what fails then is of no interest.
    pub(super) fn end(&self, stream: usize, device: c_int) {
        self.end_stream(stream);
        // SAFETY: the signature is that of cuda.h; the context is given back once.
        unsafe {
            if let Ok(release) =
                self.found.function::<unsafe extern "C" fn(c_int) -> c_int>("cuDevicePrimaryCtxRelease_v2")
            {
                release(device);
            }
        }
    }

    /// Device memory.
    pub(super) fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        let mut address = 0;
        // SAFETY: a context is current.
        let code = unsafe { (self.alloc)(&mut address, bytes.max(1)) };
        if code == OUT_OF_MEMORY {
            return Err(Error::Memory { bytes, free: self.free_memory().unwrap_or(0) });
        }
        self.check("cuMemAlloc", code).map(|()| address)
    }

    /// Bytes of device memory that nobody has.
    pub(super) fn free_memory(&self) -> Result<usize, Error> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: a context is current.
        self.check("cuMemGetInfo", unsafe { (self.memory)(&mut free, &mut total) }).map(|()| free)
    }

    /// Gives device memory back.
    pub(super) fn free(&self, address: u64) -> Result<(), Error> {
        // SAFETY: callers free what they allocated, once.
        self.check("cuMemFree", unsafe { (self.free)(address) })
    }

    /// Queues a copy to the device.
    pub(super) fn copy_in(&self, to: u64, from: &[u8], stream: usize) -> Result<(), Error> {
        // SAFETY: the plane that `to` is of has as many bytes.
        let code = unsafe { (self.copy_in)(to, from.as_ptr().cast(), from.len(), stream as Handle) };
        self.check("cuMemcpyHtoDAsync", code)
    }

    /// Queues a copy from the device.
    pub(super) fn copy_out(&self, to: &mut [u8], from: u64, stream: usize) -> Result<(), Error> {
        // SAFETY: as above; the caller waits for the stream before it reads.
        let code = unsafe { (self.copy_out)(to.as_mut_ptr().cast(), from, to.len(), stream as Handle) };
        self.check("cuMemcpyDtoHAsync", code)
    }

    /// Queues a copy of rows; the caller waits for the stream.
    pub(super) fn copy_2d(&self, copy: &Copy2d, stream: usize) -> Result<(), Error> {
        // SAFETY: both sides have the rows.
        self.check("cuMemcpy2DAsync", unsafe { (self.copy_2d)(copy, stream as Handle) })
    }

    /// Queues a copy on the device.
    pub(super) fn copy_along(&self, from: u64, to: u64, bytes: usize, stream: usize) -> Result<(), Error> {
        // SAFETY: both places have as many bytes.
        self.check("cuMemcpyDtoDAsync", unsafe { (self.copy_along)(to, from, bytes, stream as Handle) })
    }

    /// Queues zeros.
    pub(super) fn zero(&self, at: u64, bytes: usize, stream: usize) -> Result<(), Error> {
        // SAFETY: the plane has as many bytes.
        self.check("cuMemsetD8Async", unsafe { (self.set)(at, 0, bytes, stream as Handle) })
    }

    /// Queues zeros in rows.
    pub(super) fn zero_2d(&self, at: Plane, stream: usize) -> Result<(), Error> {
        // SAFETY: the plane lies in device memory.
        let code = unsafe { (self.set_2d)(at.address, at.pitch, 0, at.width, at.rows, stream as Handle) };
        self.check("cuMemsetD2D8Async", code)
    }

    /// Waits for a stream.
    pub(super) fn synchronize(&self, stream: usize) -> Result<(), Error> {
        // SAFETY: the stream is alive.
        self.check("cuStreamSynchronize", unsafe { (self.synchronize)(stream as Handle) })
    }

    /// Loads machine code, or intermediate code that ends with NUL.
    pub(super) fn load(&self, image: &[u8]) -> Result<usize, Error> {
        let mut module = std::ptr::null_mut();
        // SAFETY: the signature is that of cuda.h; the image says its own length.
        let code = unsafe {
            let load: unsafe extern "C" fn(*mut Handle, *const c_void) -> c_int =
                self.found.function("cuModuleLoadData")?;
            load(&mut module, image.as_ptr().cast())
        };
        self.check("cuModuleLoadData", code).map(|()| module as usize)
    }

    /// A kernel of a module.
    pub(super) fn function(&self, module: usize, name: &CStr) -> Result<usize, Error> {
        let mut function = std::ptr::null_mut();
        // SAFETY: the signature is that of cuda.h; the module is alive.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> c_int =
                self.found.function("cuModuleGetFunction")?;
            get(&mut function, module as Handle, name.as_ptr())
        };
        self.check("cuModuleGetFunction", code).map(|()| function as usize)
    }

    /// Lets a kernel have more shared memory than the 48 KiB that all may have.
    pub(super) fn allow_shared(&self, function: usize, bytes: c_int) -> Result<(), Error> {
        // SAFETY: the signature is that of cuda.h; the function is alive.
        let code = unsafe {
            let set: unsafe extern "C" fn(Handle, c_int, c_int) -> c_int = self.found.function("cuFuncSetAttribute")?;
            set(function as Handle, MAX_DYNAMIC_SHARED, bytes)
        };
        self.check("cuFuncSetAttribute", code)
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `args` point to the kernel's parameters.
    pub(super) unsafe fn launch(
        &self,
        function: usize,
        [x, y, z]: [c_uint; 3],
        threads: c_uint,
        shared: c_uint,
        stream: usize,
        args: *mut *mut c_void,
    ) -> Result<(), Error> {
        let none = std::ptr::null_mut();
        // SAFETY: as the caller says.
        let code =
            unsafe { (self.launch)(function as Handle, x, y, z, threads, 1, 1, shared, stream as Handle, args, none) };
        self.check("cuLaunchKernel", code)
    }
}
