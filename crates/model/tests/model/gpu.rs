//! The decoders' reference numbers through the CUDA backend: on the GPU that `PROSPECT_GPU` names, else on one played by the CPU.

use crate::golden::{gradients_equal, logits_equal, tokens_equal};
use kernels::Memory;
use kernels::cuda::{Cuda, Error, Options, Played};
use std::path::Path;

fn check(numbers: fn(&Cuda<f32>)) {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let number = variable("PROSPECT_GPU").map(|n| n.to_str().unwrap().parse().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    let options = Options {
        number: number.unwrap_or(0),
        folders: variable("PROSPECT_CUDA_LIBRARIES").map_or(Vec::new(), |all| std::env::split_paths(&all).collect()),
        cache: Some(folder.join("kernels")),
        played: number.is_none().then_some(Played { folder, memory: 1 << 30 }),
        ..Options::default()
    };
    let cuda = match Cuda::open(&options) {
        Err(Error::Missing { library, .. }) if library == "c++" => {
            return println!("GPU: skipped, there is no c++ (apt-get install g++)");
        }
        opened => opened.unwrap_or_else(|e| panic!("{e}")),
    };
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
