//! Shared libraries that may be there: found by name, or in given folders.

use super::super::Error;
use libloading::Library;
use std::path::{Path, PathBuf};

/// A library that was found.
pub(crate) struct Found {
    library: Library,
    /// Name in messages.
    name: &'static str,
    /// The file that was opened.
    pub(crate) file: PathBuf,
    /// What it opens by name when it is used, and would not find beside itself (NVRTC 13.0's wheel names no folder to search).
    _beside: Vec<Library>,
}

/// File names of a library of a CUDA release, newest release first; `newest` is the newest that the driver takes.
fn file_names(stem: &str, newest: u32) -> Vec<String> {
    let releases = (11..=newest).rev();
    if cfg!(windows) {
        let name = |release: u32| match (stem, release) {
            ("nvrtc", 11) => "nvrtc64_112_0.dll".to_owned(),
            ("nvrtc", _) => format!("nvrtc64_{release}0_0.dll"),
            (stem, _) => format!("{stem}64_{release}.dll"),
        };
        return releases.map(name).collect();
    }
    let name = |release: u32| match (stem, release) {
        ("nvrtc", 11) => "libnvrtc.so.11.2".to_owned(),
        _ => format!("lib{stem}.so.{release}"),
    };
    releases.map(name).chain([format!("lib{stem}.so")]).collect()
}

/// The libraries of built-in functions in a compiler's folder, opened: whoever opens one of that name then gets it.
fn beside(file: &Path) -> Vec<Library> {
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let builtins = paths.filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libnvrtc-builtins.so"))
    });
    // SAFETY: as for the compiler itself.
    builtins.filter_map(|path| unsafe { Library::new(path) }.ok()).collect()
}

impl Found {
    /// The driver's own library, which comes with the driver.
    pub(crate) fn driver() -> Result<Found, Error> {
        let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
        let advice = "install NVIDIA's driver (nvidia-smi then lists the GPU), or set device: cpu";
        Found::first("the NVIDIA driver", names.iter().map(PathBuf::from), advice)
    }

    /// NVRTC or cuBLASLt of a CUDA release not newer than `newest`, by name or in one of `folders`.
    pub(crate) fn of_cuda(stem: &str, newest: u32, folders: &[PathBuf]) -> Result<Found, Error> {
        let (name, advice) = match stem {
            "nvrtc" => ("NVRTC", "pip install nvidia-cuda-nvrtc puts it into a Python environment"),
            _ => ("cuBLASLt", "pip install nvidia-cublas puts it into a Python environment"),
        };
        let names = file_names(stem, newest);
        let placed = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        let anywhere = names.iter().map(PathBuf::from);
        Found::first(name, placed.filter(|path| path.exists()).chain(anywhere), advice)
    }

    /// What tells of a GPU's memory, which comes with the driver.
    pub(crate) fn nvml() -> Result<Found, Error> {
        let names: &[&str] = if cfg!(windows) { &["nvml.dll"] } else { &["libnvidia-ml.so.1", "libnvidia-ml.so"] };
        let advice =
            "it comes with NVIDIA's driver; a container sees it with NVIDIA_DRIVER_CAPABILITIES=compute,utility";
        Found::first("NVML", names.iter().map(PathBuf::from), advice)
    }

    pub(super) fn first(
        name: &'static str,
        files: impl Iterator<Item = PathBuf>,
        advice: &str,
    ) -> Result<Found, Error> {
        for file in files {
            // SAFETY: these are NVIDIA's libraries, whose loading runs their own set-up only.
            if let Ok(library) = unsafe { Library::new(&file) } {
                let _beside = beside(&file);
                return Ok(Found { library, name, file, _beside });
            }
        }
        Err(Error::Missing { library: name.into(), advice: advice.into() })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the function's type.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, Error> {
        // SAFETY: as the caller says.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        let old = |_| Error::Old {
            what: self.name.into(),
            found: format!("without {name}"),
            lowest: "the library of CUDA 11.8".into(),
        };
        Ok(*symbol.map_err(old)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_do() {
        let error = Found::first("NVRTC", [PathBuf::from("libof-nobody.so")].into_iter(), "install it").err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "device: cuda needs NVRTC, which is not there; install it");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn libraries_of_releases_that_the_driver_takes_are_tried_newest_first() {
        assert_eq!(file_names("nvrtc", 12), ["libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"]);
        assert_eq!(file_names("cublasLt", 13)[..2], ["libcublasLt.so.13", "libcublasLt.so.12"]);
    }
}
