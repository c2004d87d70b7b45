//! How much of a GPU's memory a process has, of any program's: for whoever compares.

use super::super::Error;
use super::Options;
use super::api::Api;
use super::library::Found;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

type Handle = *mut c_void;

/// `NVML_ERROR_INSUFFICIENT_SIZE`.
const MORE: c_int = 7;

/// `nvmlProcessInfo_v2_t`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Process {
    id: c_uint,
    used: u64,
    instances: [c_uint; 2],
}

/// `nvmlMemory_t`.
#[derive(Default)]
#[repr(C)]
struct Room {
    total: u64,
    free: u64,
    used: u64,
}

/// NVIDIA's management library, of one GPU.
pub struct Nvml {
    found: Found,
    device: usize,
}

impl Nvml {
    /// Of the GPU that is asked for.
    ///
    /// # Errors
    /// The library, the driver or the GPU is not there.
    pub fn open(options: &Options) -> Result<Nvml, Error> {
        let found = Found::nvml()?;
        let api = Api::open()?;
        let count = api.count()?;
        if options.number >= count {
            return Err(Error::NoDevice { number: options.number, found: count });
        }
        Nvml::of(found, &api.bus(api.device(options.number)?)?)
    }

    /// Of the GPU at a place.
    fn of(found: Found, bus: &str) -> Result<Nvml, Error> {
        let mut nvml = Nvml { found, device: 0 };
        let (bus, mut device) = (CString::new(bus).expect("a bus has no NUL in its name"), std::ptr::null_mut());
        // SAFETY: the signatures are those of nvml.h.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = nvml.found.function("nvmlInit_v2")?;
            nvml.check("nvmlInit", init())?;
            let get: unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int =
                nvml.found.function("nvmlDeviceGetHandleByPciBusId_v2")?;
            nvml.check("nvmlDeviceGetHandleByPciBusId", get(bus.as_ptr(), &mut device))?;
        }
        nvml.device = device as usize;
        Ok(nvml)
    }

    fn check(&self, call: &str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the signature is that of nvml.h; the text is the library's own, and constant.
        let text = unsafe {
            let words = self.found.function::<unsafe extern "C" fn(c_int) -> *const c_char>("nvmlErrorString")?;
            CStr::from_ptr(words(code)).to_string_lossy().into_owned()
        };
        Err(Error::Failed { what: call.into(), code: text })
    }

    /// Bytes of the GPU that all processes have together.
    ///
    /// # Errors
    /// The library does not say.
    pub fn held(&self) -> Result<usize, Error> {
        let mut room = Room::default();
        // SAFETY: the signature is that of nvml.h.
        let code = unsafe {
            let get: unsafe extern "C" fn(Handle, *mut Room) -> c_int =
                self.found.function("nvmlDeviceGetMemoryInfo")?;
            get(self.device as Handle, &mut room)
        };
        self.check("nvmlDeviceGetMemoryInfo", code).map(|()| room.used as usize)
    }

    /// Bytes that a process has; none where it has none, or has another number outside of its container.
    ///
    /// # Errors
    /// The library does not say.
    pub fn held_by(&self, process: u32) -> Result<Option<usize>, Error> {
        type Get = unsafe extern "C" fn(Handle, *mut c_uint, *mut Process) -> c_int;
        let mut all = vec![Process::default(); 16];
        loop {
            let mut count = all.len() as c_uint;
            // SAFETY: the signature is that of nvml.h; as many fit as the count says.
            let code = unsafe {
                let get: Get = self.found.function("nvmlDeviceGetComputeRunningProcesses_v3")?;
                get(self.device as Handle, &mut count, all.as_mut_ptr())
            };
            if code == MORE && count as usize > all.len() {
                all.resize(count as usize + 16, Process::default());
                continue;
            }
            self.check("nvmlDeviceGetComputeRunningProcesses", code)?;
            all.truncate(count as usize);
            // All ones: the driver knows of the process, but not what it has.
            let own = all.iter().find(|p| p.id == process && p.used != u64::MAX);
            return Ok(own.map(|p| p.used as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// As nvml.h has it, with twenty processes of which one has no figure.
    const STAND_IN: &str = r#"
        struct Process { unsigned id; unsigned long long used; unsigned instances[2]; };
        struct Room { unsigned long long total, free, used; };
        extern "C" {
        int nvmlInit_v2() { return 0; }
        const char* nvmlErrorString(int code) { return code == 6 ? "Not Found" : "other"; }
        int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** device) {
            *device = (void*)42;
            return bus[3] == '7' ? 0 : 6;
        }
        int nvmlDeviceGetMemoryInfo(void* device, Room* room) {
            *room = {100, 30, 70};
            return device == (void*)42 ? 0 : 6;
        }
        int nvmlDeviceGetComputeRunningProcesses_v3(void*, unsigned* count, Process* all) {
            unsigned room = *count;
            *count = 20;
            if (room < 20) return 7;
            for (unsigned i = 0; i < 20; i++) all[i] = {1000 + i, i == 3 ? ~0ull : 10 * i, {0, 0}};
            return 0;
        }
        }"#;

    #[test]
    fn memory_of_a_process_is_read_as_the_library_lays_it_out() {
        let folder = std::env::temp_dir().join(format!("prospect-nvml-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (source, library) = (folder.join("nvml.cc"), folder.join("libnvml-stand-in.so"));
        std::fs::write(&source, STAND_IN).unwrap();
        let made = Command::new("c++").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        if !made.is_ok_and(|status| status.success()) {
            return println!("NVML: skipped, there is no c++ (apt-get install g++)");
        }
        let found = || Found::first("NVML", [library.clone()].into_iter(), "").unwrap();
        let nvml = Nvml::of(found(), "0007:65:00.0").unwrap();
        assert_eq!(nvml.held(), Ok(70));
        assert_eq!([1019, 1003, 7].map(|process| nvml.held_by(process)), [Ok(Some(190)), Ok(None), Ok(None)]);
        let error = Nvml::of(found(), "0001:65:00.0").err().unwrap();
        assert_eq!(error.to_string(), "the GPU failed in nvmlDeviceGetHandleByPciBusId: Not Found");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
