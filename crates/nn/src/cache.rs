//! What generation remembers of the tokens before, per block.

use kernels::{Backend, KeyValue, Mat};

/// Keys and values of tokens seen so far, one row each.
pub struct LayerCache<B: Backend> {
    /// Keys `[slots, k*h]`; of latent attention the latent and the rotated key, `[slots, r + p]`.
    pub(crate) k: Mat<B>,
    /// Values `[slots, k*h]`; `None`: the first columns of `k`.
    pub(crate) v: Option<Mat<B>>,
    /// Columns of a value row.
    pub(crate) v_width: usize,
}

impl<B: Backend> LayerCache<B> {
    /// For the attention kernel.
    pub(crate) fn key_value(&self) -> KeyValue<'_, B> {
        let v = self.v.as_ref().map_or_else(|| self.k.view().cols(0..self.v_width), Mat::view);
        KeyValue { k: self.k.view(), v }
    }

    /// Copies the rows `from` to the rows `to`, one for one; the two have no row in common.
    pub fn copy_rows(&mut self, backend: &B, from: &[u32], to: &[u32]) {
        for m in [Some(&mut self.k), self.v.as_mut()].into_iter().flatten() {
            let mut held = backend.mat(from.len(), m.cols());
            backend.gather(m.view(), from, held.out());
            backend.scatter(held.view(), to, m.out());
        }
    }
}
