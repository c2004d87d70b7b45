//! Where the libraries of a GPU are looked for, and where its compiled kernels are kept.

use super::{Options, Played};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Bytes of a played GPU's memory.
const PLAYED_MEMORY: usize = 1 << 30;

impl Options {
    /// As variables say, which `get` knows: `PROSPECT_CUDA_LIBRARIES` (folders, as in `PATH`), the wheels of the active Python
    /// environment (`VIRTUAL_ENV`), `CUDA_HOME`; beside them the system's own places. `PROSPECT_PLAYED_GPU` names a folder for the
    /// kernels of a GPU that is played by the CPU, thousands of times slower than one: for tests.
    pub fn of_variables(get: impl Fn(&str) -> Option<OsString>) -> Options {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let played = get("PROSPECT_PLAYED_GPU").map(|folder| Played { folder: folder.into(), memory: PLAYED_MEMORY });
        Options { folders: folders(get), cache: cache(get), played, ..Options::default() }
    }
}

fn folders(get: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let between = if cfg!(windows) { ';' } else { ':' };
    let split = |all: OsString| all.to_string_lossy().split(between).map(PathBuf::from).collect();
    let named = get("PROSPECT_CUDA_LIBRARIES").map_or(Vec::new(), split);
    let wheels = get("VIRTUAL_ENV").map_or(Vec::new(), |root| wheels(Path::new(&root)));
    let toolkit = get("CUDA_HOME").map(|home| Path::new(&home).join("lib64"));
    [named, wheels].concat().into_iter().chain(toolkit).collect()
}

/// Folders of the libraries of NVIDIA's wheels.
fn wheels(environment: &Path) -> Vec<PathBuf> {
    let inside = |folder: PathBuf| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        all.sort();
        all
    };
    let pythons = inside(environment.join("lib")).into_iter().chain([environment.join("Lib")]);
    let packages = pythons.flat_map(|python| inside(python.join("site-packages/nvidia")));
    packages.map(|package| package.join("lib")).filter(|folder| folder.is_dir()).collect()
}

fn cache(get: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let caches = get("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(Path::new(&get("HOME").or_else(|| get("USERPROFILE"))?).join(".cache")))?;
    Some(caches.join("prospect").join("kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_the_active_python_environment_are_found_after_those_that_are_named() {
        let root = std::env::temp_dir().join(format!("prospect-wheels-{}", std::process::id()));
        let lib = root.join("lib/python3.11/site-packages/nvidia/cu13/lib");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::create_dir_all(root.join("lib/python3.11/site-packages/nvidia/empty")).unwrap();
        let get = |name: &str| match name {
            "VIRTUAL_ENV" => Some(root.clone().into_os_string()),
            "PROSPECT_CUDA_LIBRARIES" => Some("named".into()),
            _ => None,
        };
        assert_eq!(folders(get), [PathBuf::from("named"), lib]);
        assert_eq!(cache(get), None);
        assert_eq!(cache(|name| (name == "HOME").then(|| "/h".into())), Some("/h/.cache/prospect/kernels".into()));
        std::fs::remove_dir_all(root).unwrap();
    }
}
