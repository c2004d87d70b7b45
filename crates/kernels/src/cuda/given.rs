//! Small tables for kernels: all operators of a pack are given the same ones, which go to the device once.

use super::memory::Block;
use super::{Activation, Arg, Cuda, locked};
use crate::Elem;
use crate::memory::View;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

/// Tables that are kept at most: those of a layer, several times over.
const MOST: usize = 64;

/// A table's bytes, and where they lie.
type Placed = (Box<[u8]>, Arc<Block>);

/// What kernels were given since the host last waited, the newest last.
#[derive(Default)]
pub(crate) struct Tables(Mutex<Vec<Placed>>);

impl Tables {
    /// Where bytes lie on the device; `place` puts them there when they do not yet.
    fn placed(&self, bytes: &[u8], place: impl FnOnce() -> Block) -> Arc<Block> {
        let mut known = locked(&self.0);
        if let Some((_, block)) = known.iter().rev().find(|(before, _)| **before == *bytes) {
            return block.clone();
        }
        if known.len() == MOST {
            known.remove(0);
        }
        let block = Arc::new(place());
        known.push((bytes.into(), block.clone()));
        block
    }

    /// Keeps none of them.
    pub(crate) fn forget(&self) {
        // Their memory goes back outside of the lock.
        let _all = std::mem::take(&mut *locked(&self.0));
    }
}

/// Numbers from the host, `[1, n]`.
pub(crate) struct Given<T> {
    block: Arc<Block>,
    len: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> Given<T> {
    pub(crate) fn view<A>(&self) -> View<'_, Cuda<A>, T> {
        let (ptr, tie) = (self.block.address as *const T, PhantomData);
        View { ptr, rows: 1, cols: self.len, ld: self.len, tie }
    }
}

impl<T> From<&Given<T>> for Arg {
    fn from(given: &Given<T>) -> Arg {
        Arg([given.block.address, given.len as u64])
    }
}

impl<A: Activation> Cuda<A> {
    /// Numbers from the host for kernels.
    pub(crate) fn given<T: Elem>(&self, values: &[T]) -> Given<T> {
        let bytes = super::memory::bytes_of(values);
        Given { block: self.tables.placed(bytes, || self.bytes(bytes)), len: values.len(), element: PhantomData }
    }
}
