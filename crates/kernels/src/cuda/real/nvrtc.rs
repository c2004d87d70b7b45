//! Compiling kernels for a GPU, which need not be there.

use super::super::{Error, Program};
use super::library::Found;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;

/// NVIDIA's compiler at run time.
pub struct Nvrtc {
    found: Found,
    version: (c_int, c_int),
    create: Create,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// What a program was compiled to.
pub(crate) enum Target {
    /// Machine code of a compute capability.
    Cubin,
    /// NVIDIA's intermediate code, which the driver compiles.
    Ptx,
}

/// A program that is being compiled.
struct Compilation<'a>(&'a Nvrtc, Handle);

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `create`, destroyed once.
        unsafe { (self.0.destroy)(&mut self.1) };
    }
}

impl Compilation<'_> {
    /// The bytes that a pair of calls, for their size and for them, gives.
    fn bytes(&self, size: &str, get: &str) -> Result<Vec<u8>, Error> {
        type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
        // SAFETY: the signatures are those of nvrtc.h; the buffer is as long as the library says.
        unsafe {
            let (size_of, get_of) = (self.0.found.function::<Size>(size)?, self.0.found.function::<Get>(get)?);
            let mut len = 0;
            self.0.check(size, size_of(self.1, &mut len))?;
            let mut bytes = vec![0u8; len];
            self.0.check(get, get_of(self.1, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Compilation<'_> {
    /// The same as text.
    fn text(&self, size: &str, get: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.bytes(size, get)?).trim_end_matches('\0').to_owned())
    }
}

impl Nvrtc {
    /// The library of a CUDA release not newer than `newest`, by name or in one of `folders`.
    pub fn open(newest: u32, folders: &[PathBuf]) -> Result<Nvrtc, Error> {
        let found = Found::of_cuda("nvrtc", newest, folders)?;
        // SAFETY: the signatures are those of nvrtc.h.
        let mut nvrtc = unsafe {
            Nvrtc {
                version: (0, 0),
                create: found.function("nvrtcCreateProgram")?,
                compile: found.function("nvrtcCompileProgram")?,
                destroy: found.function("nvrtcDestroyProgram")?,
                error: found.function("nvrtcGetErrorString")?,
                found,
            }
        };
        // SAFETY: as above.
        unsafe {
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                nvrtc.found.function("nvrtcVersion")?;
            let (mut major, mut minor) = (0, 0);
            nvrtc.check("nvrtcVersion", version(&mut major, &mut minor))?;
            nvrtc.version = (major, minor);
        }
        if nvrtc.version < (11, 8) {
            let found = format!("{}.{}", nvrtc.version.0, nvrtc.version.1);
            return Err(Error::Old { what: "NVRTC".into(), found, lowest: "11.8".into() });
        }
        Ok(nvrtc)
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The file that it was loaded from.
    pub fn file(&self) -> &std::path::Path {
        &self.found.file
    }

    /// Compute capabilities that it compiles for, as 90 for 9.0.
    pub fn capabilities(&self) -> Result<Vec<u32>, Error> {
        let mut count = 0;
        // SAFETY: the signatures are those of nvrtc.h; the buffer is as long as the library says.
        unsafe {
            let number: unsafe extern "C" fn(*mut c_int) -> c_int = self.found.function("nvrtcGetNumSupportedArchs")?;
            let list: unsafe extern "C" fn(*mut c_int) -> c_int = self.found.function("nvrtcGetSupportedArchs")?;
            self.check("nvrtcGetNumSupportedArchs", number(&mut count))?;
            let mut all = vec![0; count as usize];
            self.check("nvrtcGetSupportedArchs", list(all.as_mut_ptr()))?;
            Ok(all.into_iter().map(|c| c as u32).collect())
        }
    }

    fn check(&self, call: &str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library's own constant text.
        let text = unsafe { CStr::from_ptr((self.error)(code)) }.to_string_lossy().into_owned();
        Err(Error::Failed { what: call.into(), code: text })
    }

    /// Machine code of a program for an architecture such as `sm_80`.
    pub fn cubin(&self, program: &Program, architecture: &str) -> Result<Vec<u8>, Error> {
        self.compiled(program, architecture, &Target::Cubin)
    }

    /// What every kernel of a program needs on an architecture.
    pub fn usage(&self, program: &Program, architecture: &str) -> Result<Vec<Usage>, Error> {
        let made = self.compilation(program, architecture, &["--ptxas-options=-v"])?;
        Ok(Usage::all(&made.text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?))
    }

    pub(crate) fn compiled(&self, program: &Program, architecture: &str, to: &Target) -> Result<Vec<u8>, Error> {
        let made = self.compilation(program, architecture, &[])?;
        match to {
            Target::Cubin => made.bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
            Target::Ptx => made.bytes("nvrtcGetPTXSize", "nvrtcGetPTX"),
        }
    }

    fn compilation(&self, program: &Program, architecture: &str, more: &[&str]) -> Result<Compilation<'_>, Error> {
        let text = CString::new(program.whole()).expect("sources hold no NUL");
        let name = CString::new(format!("{}.cu", program.name)).expect("names hold no NUL");
        let target = format!("--gpu-architecture={architecture}");
        let options = [target.as_str(), "--std=c++17"].into_iter().chain(more.iter().copied());
        let options: Vec<CString> = options.map(|o| CString::new(o).expect("options hold no NUL")).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut handle = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: strings live until the program is destroyed; there are no headers.
        let code = unsafe { (self.create)(&mut handle, text.as_ptr(), name.as_ptr(), 0, none, none) };
        self.check("nvrtcCreateProgram", code)?;
        let made = Compilation(self, handle);
        // SAFETY: the handle is alive, the options are as many as said.
        let code = unsafe { (self.compile)(handle, pointers.len() as c_int, pointers.as_ptr()) };
        if code != 0 {
            let log = made.text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
            return Err(Error::Compile { program: program.name.into(), log });
        }
        Ok(made)
    }
}

/// What a kernel needs of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its name.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block, beside what is asked for at launch.
    pub shared: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of registers that a thread writes to memory for want of more.
    pub spills: u32,
}

impl Usage {
    /// Reads what ptxas says of each kernel.
    fn all(log: &str) -> Vec<Usage> {
        let mut all: Vec<Usage> = Vec::new();
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                let kernel = rest.split('\'').next().unwrap_or("").to_owned();
                all.push(Usage { kernel, ..Usage::default() });
            }
            let Some(last) = all.last_mut() else { continue };
            let words: Vec<&str> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
            for (i, word) in words.iter().enumerate() {
                let next = |n: usize| words.get(i + n).copied().unwrap_or("");
                match (word.parse::<u32>(), next(1), next(2), next(3)) {
                    (Ok(n), "registers", ..) => last.registers = n,
                    (Ok(n), "bytes", "smem", _) => last.shared = n,
                    (Ok(n), "bytes", "stack", "frame") => last.stack = n,
                    (Ok(n), "bytes", "spill", "stores") => last.spills = n,
                    _ => {}
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ptxas_are_read() {
        let log = "ptxas info    : 4 bytes gmem\n\
            ptxas info    : Compiling entry function 'square_norm' for 'sm_90a'\n\
            ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
            ptxas info    : Used 22 registers, used 1 barriers, 256 bytes smem\n\
            ptxas info    : Compiling entry function 'adamw' for 'sm_90a'\n\
            ptxas info    : Used 21 registers, used 0 barriers\n";
        let norm = Usage { kernel: "square_norm".into(), registers: 22, shared: 256, stack: 16, spills: 8 };
        assert_eq!(Usage::all(log), [norm, Usage { kernel: "adamw".into(), registers: 21, ..Usage::default() }]);
    }
}
