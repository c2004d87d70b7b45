//! What the driver is asked to do, in order: at once; or gathered up to where the host waits, and done as one graph when the same was
//! gathered before. Starting hundreds of small kernels one by one takes longer than they do.

use super::{Arg, Driver, Error, Grid, Kernel, Plane, Product};

/// Something that is queued.
#[derive(Clone, Debug)]
pub enum Call {
    /// A kernel.
    Launch(Kernel, Grid, Vec<Arg>),
    /// A product.
    Product(Product),
    /// Bytes from the host.
    Given(Plane, Vec<u8>),
    /// Zeros.
    Zero(Plane),
}

impl Call {
    /// Whether a graph that does the one does the other, when it is handed its bytes.
    fn is_like(&self, other: &Call) -> bool {
        match (self, other) {
            (Call::Launch(kernel, grid, args), Call::Launch(k, g, a)) => kernel == k && grid == g && args == a,
            (Call::Product(product), Call::Product(p)) => product == p,
            (Call::Given(to, _), Call::Given(t, _)) | (Call::Zero(to), Call::Zero(t)) => to == t,
            _ => false,
        }
    }
}

/// A graph of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub u64);

/// What became of a series of calls.
enum State {
    /// It was made call by call.
    Seen,
    /// It is one graph.
    Graph(Graph),
    /// The driver makes no graph of it.
    Refused,
}

/// Series that are remembered at most.
const MOST: usize = 8;

/// How often the host did what costs it time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kernels and products that were asked for.
    pub launches: usize,
    /// Tables and matrices that the host gave, and their bytes.
    pub given: [usize; 2],
    /// Times that the host waited for all before, results in hand or not.
    pub waits: usize,
    /// Graphs that were replayed.
    pub graphs: usize,
}

/// Calls that are gathered, and series of them that were made before, the newest last.
#[derive(Default)]
pub(crate) struct Queue {
    gathers: bool,
    pub(crate) counts: Counts,
    calls: Vec<Call>,
    known: Vec<(Vec<Call>, State)>,
}

impl Queue {
    /// What comes is gathered from here on.
    pub(crate) fn gather(&mut self) {
        self.gathers = true;
    }

    /// Gathers a call, or makes it.
    ///
    /// # Safety
    /// As [`Driver::launch`] and [`Driver::product`], until the next [`Queue::flush`].
    pub(crate) unsafe fn add(&mut self, driver: &dyn Driver, call: Call) -> Result<(), Error> {
        match &call {
            Call::Launch(..) | Call::Product(_) => self.counts.launches += 1,
            Call::Given(_, bytes) => self.note(bytes.len()),
            Call::Zero(_) => {}
        }
        if self.gathers {
            self.calls.push(call);
            return Ok(());
        }
        // SAFETY: as the caller says.
        unsafe { made(driver, &call) }
    }

    /// Notes bytes that the host gave.
    pub(crate) fn note(&mut self, bytes: usize) {
        let [times, all] = &mut self.counts.given;
        (*times, *all) = (*times + 1, *all + bytes);
    }

    /// Whether calls are made at once.
    pub(crate) fn is_direct(&self) -> bool {
        !self.gathers
    }

    /// Makes all that was gathered; nothing is gathered from here on.
    pub(crate) fn flush(&mut self, driver: &dyn Driver) -> Result<(), Error> {
        self.gathers = false;
        let calls = std::mem::take(&mut self.calls);
        if calls.is_empty() {
            return Ok(());
        }
        let alike = |(known, _): &(Vec<Call>, State)| {
            known.len() == calls.len() && known.iter().zip(&calls).all(|(a, b)| a.is_like(b))
        };
        let (before, state) = match self.known.iter().position(alike) {
            Some(at) => self.known.remove(at),
            None => {
                // SAFETY: whoever gathered them said so.
                calls.iter().try_for_each(|call| unsafe { made(driver, call) })?;
                self.remember(driver, calls, State::Seen);
                return Ok(());
            }
        };
        let state = match state {
            // SAFETY: as above; nothing of it is done before it is replayed.
            State::Seen => unsafe { driver.capture(&calls) }.map_or(State::Refused, State::Graph),
            state => state,
        };
        let bytes = |call: &'_ Call| match call {
            Call::Given(_, bytes) => Some(bytes.clone()),
            _ => None,
        };
        self.counts.graphs += usize::from(matches!(state, State::Graph(_)));
        let made = match &state {
            // SAFETY: as above: it is what these calls are.
            State::Graph(graph) => unsafe {
                driver.replay(*graph, &calls.iter().filter_map(bytes).collect::<Vec<_>>())
            },
            // SAFETY: as above.
            _ => calls.iter().try_for_each(|call| unsafe { made(driver, call) }),
        };
        self.remember(driver, before, state);
        made
    }

    fn remember(&mut self, driver: &dyn Driver, calls: Vec<Call>, state: State) {
        if self.known.len() == MOST
            && let (_, State::Graph(graph)) = self.known.remove(0)
        {
            driver.release(graph);
        }
        self.known.push((calls, state));
    }

    /// Gives all graphs back.
    pub(crate) fn end(&mut self, driver: &dyn Driver) {
        for (_, state) in self.known.drain(..) {
            if let State::Graph(graph) = state {
                driver.release(graph);
            }
        }
    }
}

/// Makes a call.
///
/// # Safety
/// As [`Driver::launch`] and [`Driver::product`].
pub(crate) unsafe fn made<D: Driver + ?Sized>(driver: &D, call: &Call) -> Result<(), Error> {
    match call {
        // SAFETY: as the caller says.
        Call::Launch(kernel, grid, args) => unsafe { driver.launch(*kernel, *grid, args) },
        // SAFETY: as the caller says.
        Call::Product(product) => unsafe { driver.product(product) },
        Call::Given(to, bytes) => driver.copy_in(bytes, *to),
        Call::Zero(at) => driver.zero(*at),
    }
}
