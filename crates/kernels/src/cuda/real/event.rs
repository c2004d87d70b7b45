//! The GPU's own clock, and where the GPU sits: what only whoever measures asks for.

use super::super::Error;
use super::api::Api;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

type Handle = *mut c_void;

impl Api {
    /// Queues an event that notes the time, and says what it is called.
    pub(super) fn event(&self, stream: usize) -> Result<u64, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the signatures are those of cuda.h; the stream is alive.
        unsafe {
            let create: unsafe extern "C" fn(*mut Handle, c_uint) -> c_int = self.found.function("cuEventCreate")?;
            self.check("cuEventCreate", create(&mut event, 0))?;
            let record: unsafe extern "C" fn(Handle, Handle) -> c_int = self.found.function("cuEventRecord")?;
            self.check("cuEventRecord", record(event, stream as Handle))?;
        }
        Ok(event as u64)
    }

    /// Seconds from one event to a later one, which is waited for.
    pub(super) fn between(&self, from: u64, to: u64) -> Result<f64, Error> {
        let mut milliseconds = 0.0f32;
        // SAFETY: the signatures are those of cuda.h; the events are alive.
        unsafe {
            let wait: unsafe extern "C" fn(Handle) -> c_int = self.found.function("cuEventSynchronize")?;
            self.check("cuEventSynchronize", wait(to as Handle))?;
            let elapsed: unsafe extern "C" fn(*mut f32, Handle, Handle) -> c_int =
                self.found.function("cuEventElapsedTime")?;
            self.check("cuEventElapsedTime", elapsed(&mut milliseconds, from as Handle, to as Handle))?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }

    /// Gives an event back; what fails then is of no interest.
    pub(super) fn end_event(&self, event: u64) {
        // SAFETY: the signature is that of cuda.h; the event is given back once.
        unsafe {
            if let Ok(destroy) = self.found.function::<unsafe extern "C" fn(Handle) -> c_int>("cuEventDestroy_v2") {
                destroy(event as Handle);
            }
        }
    }

    /// Where a GPU sits, as other libraries name it: `0000:65:00.0`.
    pub(super) fn bus(&self, device: c_int) -> Result<String, Error> {
        let mut name = [0 as c_char; 32];
        // SAFETY: the signature is that of cuda.h; the name is ended within the buffer.
        unsafe {
            let get: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int =
                self.found.function("cuDeviceGetPCIBusId")?;
            self.check("cuDeviceGetPCIBusId", get(name.as_mut_ptr(), 31, device))?;
            Ok(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
        }
    }
}
