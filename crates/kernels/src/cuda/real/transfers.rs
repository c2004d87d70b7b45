//! The second stream: copies between device memory and pinned memory, and the events that order it and the first.

use super::super::Error;
use super::super::driver::{Stream, Transfer};
use super::api::Api;
use super::graph::pinned;
use std::ffi::{c_int, c_uint, c_void};

type Handle = *mut c_void;

/// `CU_EVENT_DISABLE_TIMING`: it orders streams, and notes no time.
const NO_TIME: c_uint = 2;

/// A stream of copies.
pub(super) struct Transfers {
    stream: usize,
    /// Recorded where kernels are queued, and here. One for each way, as a wait that is queued keeps what its event meant then, and two
    /// threads that go the same way may only make one wait longer.
    computed: u64,
    copied: u64,
}

impl Api {
    /// An event that orders streams.
    fn order_event(&self) -> Result<u64, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let create: unsafe extern "C" fn(*mut Handle, c_uint) -> c_int = self.found.function("cuEventCreate")?;
            create(&mut event, NO_TIME)
        };
        self.check("cuEventCreate", code).map(|()| event as u64)
    }

    /// What is queued on `later` from here on waits for all that is queued on `earlier`.
    fn order(&self, event: u64, earlier: usize, later: usize) -> Result<(), Error> {
        // SAFETY: the signatures are those of cuda.h; event and streams are alive.
        unsafe {
            let record: unsafe extern "C" fn(Handle, Handle) -> c_int = self.found.function("cuEventRecord")?;
            self.check("cuEventRecord", record(event as Handle, earlier as Handle))?;
            let wait: unsafe extern "C" fn(Handle, Handle, c_uint) -> c_int =
                self.found.function("cuStreamWaitEvent")?;
            self.check("cuStreamWaitEvent", wait(later as Handle, event as Handle, 0))
        }
    }
}

impl Transfers {
    pub(super) fn new(api: &Api) -> Result<Transfers, Error> {
        Ok(Transfers { stream: api.stream()?, computed: api.order_event()?, copied: api.order_event()? })
    }

    /// As [`super::Driver::follow`]; kernels are queued on `compute`.
    pub(super) fn order(&self, api: &Api, stream: Stream, compute: usize) -> Result<(), Error> {
        match stream {
            Stream::Compute => api.order(self.copied, self.stream, compute),
            Stream::Transfers => api.order(self.computed, compute, self.stream),
        }
    }

    /// As [`super::Driver::transfer`].
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn queue(&self, api: &Api, transfer: &Transfer) -> Result<(), Error> {
        // SAFETY: as the caller says; the place is one allocation's.
        let host = unsafe { pinned(transfer.pinned as usize, transfer.bytes) };
        match transfer.out {
            true => api.copy_out(host, transfer.device, self.stream),
            false => api.copy_in(transfer.device, host, self.stream),
        }
    }

    /// Waits for what is queued, and gives all back.
    pub(super) fn end(&self, api: &Api) {
        api.synchronize(self.stream).ok();
        [self.computed, self.copied].into_iter().for_each(|event| api.end_event(event));
        api.end_stream(self.stream);
    }
}
