//! Products by cuBLASLt. Its matrices are column-major, so a row-major product is asked for as that of the transposes.

use super::super::driver::{Dtype, Factor, Product};
use super::super::{Error, locked};
use super::library::Found;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::Mutex;

type Handle = *mut c_void;

// cublasLt.h, cublas_api.h and library_types.h.
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const DESC_TRANSA: c_int = 3;
const DESC_TRANSB: c_int = 4;
const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
const PREF_REDUCTION_SCHEME_MASK: c_int = 3;
const PREF_MIN_ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];
/// Parts of a sum are joined in f32 in the workspace: the same bits every time.
const REDUCTION_COMPUTE_TYPE: u32 = 2;

/// The oldest version: that of CUDA 11.8.
const LOWEST: usize = 111_103;

/// A version as it is written, from 10000 times the major, 100 times the minor number and the patch.
pub(super) fn written(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// Bytes that cuBLASLt may use beside the matrices: what NVIDIA advises for its newest GPUs.
pub(super) const WORKSPACE: usize = 32 << 20;

#[derive(Clone, Copy)]
#[repr(C)]
struct Algorithm([u64; 8]);

#[repr(C)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

type Attribute = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
type Search = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    c_int,
    *mut Heuristic,
    *mut c_int,
) -> c_int;
type Multiply = unsafe extern "C" fn(
    Handle,
    Handle,
    *const f32,
    u64,
    Handle,
    u64,
    Handle,
    *const f32,
    u64,
    Handle,
    u64,
    Handle,
    *const Algorithm,
    u64,
    usize,
    Handle,
) -> c_int;

/// All that an algorithm is chosen by: shape, row lengths, which factors are turned, alignments, types, whether it adds.
type Case = ([usize; 6], [bool; 2], [u32; 3], (Dtype, Dtype), bool);

/// A product with the descriptors and the algorithm that do it.
#[derive(Clone, Copy)]
struct Plan {
    descriptor: usize,
    layouts: [usize; 3],
    algorithm: Algorithm,
}

/// cuBLASLt with a handle of the current context.
pub(super) struct BlasLt {
    handle: usize,
    pub(super) version: usize,
    tf32: bool,
    describe: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> c_int,
    describe_set: Attribute,
    layout: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> c_int,
    preference: unsafe extern "C" fn(*mut Handle) -> c_int,
    preference_set: Attribute,
    preference_end: Destroy,
    search: Search,
    multiply: Multiply,
    plans: Mutex<HashMap<Case, Plan>>,
    _found: Found,
}

fn check(call: &str, code: c_int) -> Result<(), Error> {
    // Of cublasStatus_t; the others say no more than their number.
    let text = match code {
        0 => return Ok(()),
        1 => "not initialised".to_owned(),
        3 => "no memory for it".to_owned(),
        7 => "an invalid value".to_owned(),
        8 => "not on this architecture".to_owned(),
        13 => "the execution failed".to_owned(),
        15 => "not supported".to_owned(),
        code => format!("status {code}"),
    };
    Err(Error::Failed { what: call.into(), code: text })
}

/// The alignment of a matrix that cuBLASLt may count on, bytes.
fn alignment(factor: &Factor, dtype: Dtype) -> u32 {
    let bits = factor.address | (factor.ld * dtype.size()) as u64;
    1 << bits.trailing_zeros().min(8)
}

impl BlasLt {
    /// The library of a CUDA release not newer than `newest`; f32 factors are rounded to tf32 where `tf32` says so.
    pub(super) fn open(newest: u32, folders: &[PathBuf], tf32: bool) -> Result<BlasLt, Error> {
        let found = Found::of_cuda("cublasLt", newest, folders)?;
        // SAFETY: the signatures are those of cublasLt.h.
        unsafe {
            let create: unsafe extern "C" fn(*mut Handle) -> c_int = found.function("cublasLtCreate")?;
            let version: unsafe extern "C" fn() -> usize = found.function("cublasLtGetVersion")?;
            let mut handle = std::ptr::null_mut();
            check("cublasLtCreate", create(&mut handle))?;
            let found_version = version();
            if found_version < LOWEST {
                let (what, lowest) = ("cuBLASLt".into(), format!("{} (of CUDA 11.8)", written(LOWEST)));
                return Err(Error::Old { what, found: written(found_version), lowest });
            }
            Ok(BlasLt {
                handle: handle as usize,
                version: found_version,
                tf32,
                describe: found.function("cublasLtMatmulDescCreate")?,
                describe_set: found.function("cublasLtMatmulDescSetAttribute")?,
                layout: found.function("cublasLtMatrixLayoutCreate")?,
                preference: found.function("cublasLtMatmulPreferenceCreate")?,
                preference_set: found.function("cublasLtMatmulPreferenceSetAttribute")?,
                preference_end: found.function("cublasLtMatmulPreferenceDestroy")?,
                search: found.function("cublasLtMatmulAlgoGetHeuristic")?,
                multiply: found.function("cublasLtMatmul")?,
                plans: Mutex::default(),
                _found: found,
            })
        }
    }

    fn plan(&self, p: &Product) -> Result<Plan, Error> {
        let [m, n, k] = p.shape;
        let alignments = [alignment(&p.right, p.dtype), alignment(&p.left, p.dtype), alignment(&p.out, p.out_dtype)];
        let case = (
            [m, n, k, p.left.ld, p.right.ld, p.out.ld],
            [p.left.turned, p.right.turned],
            alignments,
            (p.dtype, p.out_dtype),
            p.add,
        );
        let mut plans = locked(&self.plans);
        if let Some(plan) = plans.get(&case) {
            return Ok(*plan);
        }
        // SAFETY: descriptors are alive; attributes have the sizes that cublasLt.h gives.
        let plan = unsafe { self.made(p, alignments) }?;
        plans.insert(case, plan);
        Ok(plan)
    }

    /// # Safety
    /// The library's functions have the signatures above.
    unsafe fn made(&self, p: &Product, alignments: [u32; 3]) -> Result<Plan, Error> {
        let kind = |dtype: Dtype| if dtype == Dtype::F32 { R_32F } else { R_16BF };
        let compute = if self.tf32 && p.dtype == Dtype::F32 { COMPUTE_32F_FAST_TF32 } else { COMPUTE_32F };
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: see above; out parameters are plain handles and numbers.
        unsafe {
            check("cublasLtMatmulDescCreate", (self.describe)(&mut descriptor, compute, R_32F))?;
            // The column-major left factor is our right one.
            for (attribute, turned) in [(DESC_TRANSA, p.right.turned), (DESC_TRANSB, p.left.turned)] {
                let operation = c_int::from(turned);
                let value = std::ptr::from_ref(&operation).cast();
                check("cublasLtMatmulDescSetAttribute", (self.describe_set)(descriptor, attribute, value, 4))?;
            }
            let mut layouts = [0; 3];
            let [m, n, k] = p.shape;
            let turned = |f: &Factor, rows: usize, cols: usize| if f.turned { (cols, rows) } else { (rows, cols) };
            let shapes = [turned(&p.right, k, n), turned(&p.left, m, k), (m, n)];
            let matrices = [(&p.right, p.dtype), (&p.left, p.dtype), (&p.out, p.out_dtype)];
            for ((layout, (rows, cols)), (factor, dtype)) in layouts.iter_mut().zip(shapes).zip(matrices) {
                let mut made = std::ptr::null_mut();
                let ld = factor.ld.max(cols) as i64;
                let code = (self.layout)(&mut made, kind(dtype), cols as u64, rows as u64, ld);
                check("cublasLtMatrixLayoutCreate", code)?;
                *layout = made as usize;
            }
            let algorithm = self.best(descriptor, layouts, alignments)?;
            Ok(Plan { descriptor: descriptor as usize, layouts, algorithm })
        }
    }

    /// # Safety
    /// Descriptor and layouts are alive.
    unsafe fn best(&self, descriptor: Handle, layouts: [usize; 3], aligned: [u32; 3]) -> Result<Algorithm, Error> {
        let [a, b, c] = layouts.map(|l| l as Handle);
        let mut preference = std::ptr::null_mut();
        let (mut found, mut count) = (Vec::<Heuristic>::with_capacity(1), 0);
        // SAFETY: attributes have the sizes that cublasLt.h gives; one result fits.
        unsafe {
            check("cublasLtMatmulPreferenceCreate", (self.preference)(&mut preference))?;
            let set = |attribute, value: *const c_void, size| {
                check("cublasLtMatmulPreferenceSetAttribute", (self.preference_set)(preference, attribute, value, size))
            };
            let workspace = WORKSPACE as u64;
            set(PREF_MAX_WORKSPACE_BYTES, std::ptr::from_ref(&workspace).cast(), 8)?;
            set(PREF_REDUCTION_SCHEME_MASK, std::ptr::from_ref(&REDUCTION_COMPUTE_TYPE).cast(), 4)?;
            let [a_aligned, b_aligned, c_aligned] = aligned;
            for (attribute, value) in PREF_MIN_ALIGNMENT.into_iter().zip([a_aligned, b_aligned, c_aligned, c_aligned]) {
                set(attribute, std::ptr::from_ref(&value).cast(), 4)?;
            }
            let handle = self.handle as Handle;
            let code = (self.search)(handle, descriptor, a, b, c, c, preference, 1, found.as_mut_ptr(), &mut count);
            (self.preference_end)(preference);
            check("cublasLtMatmulAlgoGetHeuristic", code)?;
            if count == 1 {
                found.set_len(1);
            }
        }
        let best = found.first().filter(|best| best.state == 0);
        let none = || Error::Failed { what: "cublasLtMatmulAlgoGetHeuristic".into(), code: "no algorithm".into() };
        Ok(best.ok_or_else(none)?.algorithm)
    }

    /// Queues a product on `stream`.
    ///
    /// # Safety
    /// The matrices and the workspace, of [`WORKSPACE`] bytes, are alive until the stream is through.
    pub(super) unsafe fn product(&self, p: &Product, workspace: u64, stream: usize) -> Result<(), Error> {
        let Plan { descriptor, layouts: [a, b, c], algorithm } = self.plan(p)?;
        let (alpha, beta) = (p.alpha, if p.add { 1.0 } else { 0.0 });
        // SAFETY: as the caller says.
        let code = unsafe {
            (self.multiply)(
                self.handle as Handle,
                descriptor as Handle,
                &alpha,
                p.right.address,
                a as Handle,
                p.left.address,
                b as Handle,
                &beta,
                p.out.address,
                c as Handle,
                p.out.address,
                c as Handle,
                &algorithm,
                workspace,
                WORKSPACE,
                stream as Handle,
            )
        };
        check("cublasLtMatmul", code)
    }
}
