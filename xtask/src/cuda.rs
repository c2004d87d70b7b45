//! What can be known of the CUDA backend: its kernels through NVIDIA's compiler, and run on the CPU; on a GPU where one is named.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// NVIDIA's compiler as a Python wheel, of the release that the kernels are checked with.
const WHEEL: &str = "nvidia-cuda-nvrtc>=13.0,<13.1";

/// The tests of the backend: package, test and what of it.
const TESTS: [[&str; 3]; 6] = [
    ["kernels", "conformance", "gpu::kernels_compile"],
    ["kernels", "conformance", "gpu::"],
    ["model", "model", "gpu::"],
    ["infer", "generation", "gpu_"],
    ["train", "train", "gpu::"],
    ["bench", "played", "a_gpu"],
];

/// Runs the tests of the CUDA backend; `arguments` are `--gpu N`, or nothing.
pub(crate) fn check(root: &Path, arguments: &[String]) -> ExitCode {
    let gpu = match arguments {
        [] => None,
        [flag, number] if flag == "--gpu" => Some(number),
        _ => {
            eprintln!("usage: cargo run -p xtask -- cuda-check [--gpu N]");
            return ExitCode::from(2);
        }
    };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folders = match std::env::var_os("PROSPECT_CUDA_LIBRARIES") {
        Some(folders) => Some(folders),
        None => nvrtc(&target.join("cuda-wheels")).map(PathBuf::into_os_string),
    };
    let features = TESTS.map(|[package, ..]| format!("{package}/cuda-tests")).join(",");
    for [package, test, what] in TESTS {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Of the whole workspace, so that libraries are built once for all, with the features that `cargo test --workspace` has.
        command.current_dir(root).args(["test", "--quiet", "--locked", "--workspace", "--features", &features]);
        command.args(["--test", test, "--", "--nocapture", what]);
        if what == "gpu::" && package == "kernels" {
            command.args(["--skip", "gpu::kernels_compile"]);
        }
        folders.iter().for_each(|folders| _ = command.env("PROSPECT_CUDA_LIBRARIES", folders));
        gpu.iter().for_each(|number| _ = command.env("PROSPECT_GPU", number));
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(_) => return ExitCode::FAILURE,
            Err(error) => {
                eprintln!("cuda-check: cannot start cargo: {error}");
                return ExitCode::from(6);
            }
        }
    }
    ExitCode::SUCCESS
}

/// The folder of NVIDIA's compiler: of the active Python environment, else of `own`, where it is installed when it is not there.
fn nvrtc(own: &Path) -> Option<PathBuf> {
    let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    if let Some(folder) = environment.as_deref().and_then(folder_of_nvrtc).or_else(|| folder_of_nvrtc(own)) {
        return Some(folder);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    let installed = pip.arg(own).arg(WHEEL).status().is_ok_and(|status| status.success());
    let found = installed.then(|| folder_of_nvrtc(own)).flatten();
    if found.is_none() {
        println!("NVRTC: python3 -m pip install '{WHEEL}' does not work here; only what the system has is tried");
    }
    found
}

/// The folder below `root` that has NVIDIA's compiler.
fn folder_of_nvrtc(root: &Path) -> Option<PathBuf> {
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with("libnvrtc.so") {
                return Some(folder);
            }
        }
    }
    None
}
