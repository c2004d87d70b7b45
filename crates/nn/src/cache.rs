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
}
