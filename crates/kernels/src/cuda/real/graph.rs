//! Calls as one graph: what comes from the host lies in pinned memory that the graph reads when it is replayed.

use super::super::queue::{self, Call, Graph};
use super::super::{Error, locked};
use super::Real;
use super::api::{Api, Copy2d};
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

type Handle = *mut c_void;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: other threads may go on with what they do.
const RELAXED: c_uint = 2;

/// A graph that can be started, and where its bytes are read from.
pub(super) struct Captured {
    runs: usize,
    /// Of pinned memory; 0 where nothing comes from the host.
    staging: usize,
}

/// Where each call's bytes begin in pinned memory, and how many there are in all.
fn places(calls: &[Call]) -> (Vec<usize>, usize) {
    let mut end = 0;
    let place = |call: &Call| {
        let bytes = if let Call::Given(_, bytes) = call { bytes.len() } else { 0 };
        let place = end;
        end += bytes.next_multiple_of(64);
        place
    };
    (calls.iter().map(place).collect(), end)
}

impl Api {
    /// Memory of the host that the GPU reads by itself.
    pub(super) fn pinned(&self, bytes: usize) -> Result<usize, Error> {
        let mut address = std::ptr::null_mut();
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(*mut Handle, usize) -> c_int = self.found.function("cuMemAllocHost_v2")?;
            get(&mut address, bytes)
        };
        self.check("cuMemAllocHost", code).map(|()| address as usize)
    }

    fn begin_capture(&self, stream: usize) -> Result<(), Error> {
        // SAFETY: the signature is that of cuda.h; the stream is alive.
        let code = unsafe {
            let begin: unsafe extern "C" fn(Handle, c_uint) -> c_int =
                self.found.function("cuStreamBeginCapture_v2")?;
            begin(stream as Handle, RELAXED)
        };
        self.check("cuStreamBeginCapture", code)
    }

    /// Ends a capture, and makes what it caught ready to run.
    fn end_capture(&self, stream: usize) -> Result<usize, Error> {
        let (mut graph, mut runs) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the signatures are those of cuda.h; the graph is given back once.
        unsafe {
            let end: unsafe extern "C" fn(Handle, *mut Handle) -> c_int = self.found.function("cuStreamEndCapture")?;
            self.check("cuStreamEndCapture", end(stream as Handle, &mut graph))?;
            let make: unsafe extern "C" fn(*mut Handle, Handle, c_ulonglong) -> c_int =
                self.found.function("cuGraphInstantiateWithFlags")?;
            let made = self.check("cuGraphInstantiate", make(&mut runs, graph, 0));
            self.found.function::<unsafe extern "C" fn(Handle) -> c_int>("cuGraphDestroy")?(graph);
            made.map(|()| runs as usize)
        }
    }

    fn start(&self, graph: usize, stream: usize) -> Result<(), Error> {
        // SAFETY: the signature is that of cuda.h; both are alive.
        let code = unsafe {
            let launch: unsafe extern "C" fn(Handle, Handle) -> c_int = self.found.function("cuGraphLaunch")?;
            launch(graph as Handle, stream as Handle)
        };
        self.check("cuGraphLaunch", code)
    }

    /// Gives memory of the host back.
    pub(super) fn unpin(&self, address: usize) {
        self.end_handle("cuMemFreeHost", address);
    }

    /// Gives a graph and its memory back.
    fn end_graph(&self, Captured { runs, staging }: Captured) {
        self.end_handle("cuGraphExecDestroy", runs);
        self.unpin(staging);
    }

    /// Gives something back, unless it is 0, by the function of that name; what fails then is of no interest.
    fn end_handle(&self, name: &str, handle: usize) {
        // SAFETY: the functions' signatures are those of cuda.h; each handle is given back once.
        unsafe {
            if let Ok(end) = self.found.function::<unsafe extern "C" fn(Handle) -> c_int>(name)
                && handle != 0
            {
                end(handle as Handle);
            }
        }
    }
}

/// The bytes in pinned memory at `place`.
///
/// # Safety
/// They are within it, and nobody else uses them.
pub(super) unsafe fn pinned<'a>(place: usize, bytes: usize) -> &'a mut [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts_mut(place as *mut u8, bytes) }
}

impl Real {
    /// As [`super::Driver::capture`].
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn captured(&self, calls: &[Call]) -> Result<Graph, Error> {
        let (places, bytes) = places(calls);
        let staging = if bytes > 0 { self.api.pinned(bytes)? } else { 0 };
        let queued = self.api.begin_capture(self.stream).and_then(|()| {
            let queued = calls.iter().zip(&places).try_for_each(|(call, place)| match call {
                Call::Given(to, bytes) => {
                    // SAFETY: places have room for their bytes, and the memory is new.
                    let from = unsafe { pinned(staging + place, bytes.len()) };
                    if to.width == to.pitch || to.rows == 1 {
                        return self.api.copy_in(to.address, from, self.stream);
                    }
                    self.api.copy_2d(&Copy2d::to_device(from.as_ptr(), *to), self.stream)
                }
                // SAFETY: as the caller says.
                call => unsafe { queue::made(self, call) },
            });
            // In any case: a stream that is caught does nothing else.
            let runs = self.api.end_capture(self.stream)?;
            queued.map(|()| runs).inspect_err(|_| self.api.end_graph(Captured { runs, staging: 0 }))
        });
        let captured = |runs| Captured { runs, staging };
        match queued {
            Ok(runs) => {
                let mut graphs = locked(&self.graphs);
                let number = graphs.0 + 1;
                graphs.0 = number;
                graphs.1.insert(number, (captured(runs), places_of(calls, &places)));
                Ok(Graph(number))
            }
            Err(error) => {
                self.api.end_graph(captured(0));
                Err(error)
            }
        }
    }

    /// As [`super::Driver::replay`].
    pub(super) fn replayed(&self, graph: Graph, given: &[Vec<u8>]) -> Result<(), Error> {
        let graphs = locked(&self.graphs);
        let none = || Error::Failed { what: "a graph".into(), code: "there is no such graph".into() };
        let (captured, places) = graphs.1.get(&graph.0).ok_or_else(none)?;
        // It may still be reading what it was handed the last time; who waits for its results has waited for that.
        self.api.synchronize(self.stream)?;
        for (place, bytes) in places.iter().zip(given) {
            // SAFETY: the calls that it was made of had as many bytes each.
            unsafe { pinned(captured.staging + place, bytes.len()) }.copy_from_slice(bytes);
        }
        self.api.start(captured.runs, self.stream)
    }

    /// As [`super::Driver::release`].
    pub(super) fn released(&self, graph: Graph) {
        if let Some((captured, _)) = locked(&self.graphs).1.remove(&graph.0) {
            self.api.end_graph(captured);
        }
    }
}

/// Places of what comes from the host.
fn places_of(calls: &[Call], places: &[usize]) -> Vec<usize> {
    calls.iter().zip(places).filter(|(call, _)| matches!(call, Call::Given(..))).map(|(_, place)| *place).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::Plane;
    use super::*;

    #[test]
    fn bytes_from_the_host_lie_apart_in_pinned_memory() {
        let plane = Plane { address: 0, rows: 1, width: 4, pitch: 4 };
        let calls = [Call::Given(plane, vec![0; 65]), Call::Zero(plane), Call::Given(plane, vec![0; 4])];
        let (all, bytes) = places(&calls);
        assert_eq!((&all[..], bytes), (&[0, 128, 128][..], 192));
        assert_eq!(places_of(&calls, &all), [0, 128]);
    }
}
