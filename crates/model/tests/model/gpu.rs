//! The decoders' reference numbers through the CUDA backend, its kernels run on the CPU.

use crate::golden::{gradients_equal, logits_equal, tokens_equal};
use kernels::Memory;
use kernels::cuda::{Cuda, Emulated, Order};
use std::path::Path;

fn check(numbers: fn(&Cuda<f32>)) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    let Some(emulated) = Emulated::found(&folder, Order::Ascending) else {
        return println!("emulation: skipped, there is no c++ (apt-get install g++)");
    };
    let cuda = Cuda::new(emulated);
    numbers(&cuda);
    assert_eq!(cuda.trouble(), None);
}

#[test]
fn logits_and_log_probabilities_of_gpu_kernels_equal_transformers() {
    check(logits_equal);
}

#[test]
fn gradients_of_gpu_kernels_equal_transformers() {
    check(gradients_equal);
}

#[test]
fn greedy_tokens_of_gpu_kernels_through_the_cache_equal_transformers() {
    check(tokens_equal);
}
