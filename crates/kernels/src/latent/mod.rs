//! Keys and values of multi-head latent attention, laid out for the attention kernel (DeepSeek-AI 2024, arXiv 2405.04434).

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// Movement between `up [t, n*(p+w)]`, per head `p` columns of an unrotated key and `w` of a value, and `rotated [t, r]`, the one
/// rotated key that all heads share; and keys `[t, n*(p+r)]` and values `[t, n*w]`.
pub trait Latent: Memory {
    /// Key of a head: its own columns, then the shared ones.
    fn latent_keys(
        &self,
        heads: usize,
        up: View<Self, Self::Act>,
        rotated: View<Self, Self::Act>,
        k: Out<Self, Self::Act>,
        v: Out<Self, Self::Act>,
    );
    /// The transpose: `dup` takes the heads' own columns, `drotated` the sum over heads, in their order.
    fn latent_keys_back(
        &self,
        heads: usize,
        dk: View<Self, Self::Act>,
        dv: View<Self, Self::Act>,
        dup: Out<Self, Self::Act>,
        drotated: Out<Self, Self::Act>,
    );
}
