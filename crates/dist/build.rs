//! With the feature `mpi`: compiles `src/mpi/shim.c` with the system's `mpicc`, and links what `mpicc` links.

use std::path::PathBuf;
use std::process::Command;

const SHIM: &str = "src/mpi/shim.c";

fn main() {
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=MPICC");
    if std::env::var_os("CARGO_FEATURE_MPI").is_none() {
        return;
    }
    let mpicc = std::env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let object = out.join("shim.o");
    run(Command::new(&mpicc).args(["-O2", "-fPIC", "-Wall", "-c", SHIM, "-o"]).arg(&object));
    run(Command::new("ar").arg("crs").arg(out.join("libprospect_mpi.a")).arg(&object));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=prospect_mpi");
    // Open MPI and MPICH both know `-show`: the command that they would run.
    for word in run(Command::new(&mpicc).arg("-show")).split_whitespace() {
        if let Some(path) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={path}");
        } else if let Some(library) = word.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
}

/// Runs a command and returns what it printed; ends the build with its words where it fails.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| {
        panic!(
            "the feature `mpi` needs an MPI to build with: cannot run {command:?}: {e}. Debian: apt-get install libopenmpi-dev openmpi-bin; or name its compiler in MPICC"
        )
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
