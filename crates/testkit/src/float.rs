//! The element types that results are compared in.

use half::{bf16, f16};

/// A float type by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Half the distance from 1 to the next larger number: the relative error of one rounding.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Dtype::F64 => 2f64.powi(-53),
            Dtype::F32 => 2f64.powi(-24),
            Dtype::F16 => 2f64.powi(-11),
            Dtype::Bf16 => 2f64.powi(-8),
        }
    }
}

/// A float that converts from and to `f64`.
pub trait Float: Copy {
    /// Which one.
    const DTYPE: Dtype;
    /// From `f64`, rounded.
    fn of(x: f64) -> Self;
    /// To `f64`, exactly.
    fn f64(self) -> f64;
}

impl Float for f64 {
    const DTYPE: Dtype = Dtype::F64;
    fn of(x: f64) -> f64 {
        x
    }
    fn f64(self) -> f64 {
        self
    }
}

impl Float for f32 {
    const DTYPE: Dtype = Dtype::F32;
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f16 {
    const DTYPE: Dtype = Dtype::F16;
    fn of(x: f64) -> f16 {
        f16::from_f64(x)
    }
    fn f64(self) -> f64 {
        self.to_f64()
    }
}

impl Float for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    fn of(x: f64) -> bf16 {
        bf16::from_f64(x)
    }
    fn f64(self) -> f64 {
        self.to_f64()
    }
}

/// Converts a slice, rounding where the target is narrower.
pub fn to<T: Float, S: Float>(values: &[S]) -> Vec<T> {
    values.iter().map(|x| T::of(x.f64())).collect()
}
