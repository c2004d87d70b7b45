//! Device memory: owned matrices, and the three faces in which a kernel sees them.

use crate::{Codes, Elem, Real};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Memory of a device.
pub trait Memory: Sized + Send + Sync + 'static {
    /// Element of activations.
    type Act: Elem;
    /// Element of statistics, trainable parameters, gradients and log-probabilities.
    type Real: Real;
    /// An owned buffer.
    type Buf<T: Elem>: Send + Sync;
    /// A frozen weight `[o, i]` in its storage dtype, possibly mapped from a file.
    type Stored: Send + Sync;

    /// A buffer of `len` elements with unspecified contents.
    fn alloc<T: Elem>(&self, len: usize) -> Self::Buf<T>;
    /// A buffer of `len` zeros that lies on the disk of a folder, where the device works there as in its memory.
    ///
    /// Errors: the system's, and that this device does not.
    fn room<T: Elem>(&self, folder: &Path, len: usize) -> io::Result<Self::Buf<T>> {
        let _ = (folder, len);
        Err(io::Error::new(io::ErrorKind::Unsupported, "this device works in its own memory only"))
    }
    /// Lets go of the memory behind elements that lie on a disk; they come back when they are used.
    fn rest<T: Elem>(buf: &Self::Buf<T>, elements: Range<usize>) {
        let _ = (buf, elements);
    }
    /// Address of the first element, on the device.
    fn address<T: Elem>(buf: &Self::Buf<T>) -> *const T;
    /// Address of the first element, on the device.
    fn address_mut<T: Elem>(buf: &mut Self::Buf<T>) -> *mut T;
    /// Host to device; `src` is row-major without gaps.
    fn upload<T: Elem>(&self, src: &[T], dst: Out<'_, Self, T>);
    /// Device to host; `dst` is row-major without gaps.
    fn download<T: Elem>(&self, src: View<'_, Self, T>, dst: &mut [T]);
    /// `dst = 0`.
    fn fill_zero<T: Elem>(&self, dst: Out<'_, Self, T>);
    /// Takes a host tensor of shape `[rows, cols]` as a frozen weight, in place where the device can.
    fn store(&self, tensor: HostTensor, rows: usize, cols: usize) -> Self::Stored;
    /// Copies a whole stored weight out as `Real` (parameters that are trained start so).
    fn stored_to_host(&self, stored: &Self::Stored, dst: &mut [Self::Real]);

    /// Waits for what is queued, and says what went wrong first since the device was opened; after that nothing is right.
    fn trouble(&self) -> Option<crate::cuda::Error> {
        None
    }

    /// What is queued from here until the host waits may well be what was queued before, but for numbers from the host: a device may
    /// then start it all at once.
    fn repeats(&self) {}

    /// This moment in the order of what is queued, for whoever measures.
    fn mark(&self) -> Mark {
        Mark::Host(Instant::now())
    }

    /// Seconds from one mark to a later one, which the device is waited for to reach; not a number where it has failed.
    fn seconds(&self, from: &Mark, to: &Mark) -> f64 {
        match (from, to) {
            (Mark::Host(from), Mark::Host(to)) => (*to - *from).as_secs_f64(),
            _ => f64::NAN,
        }
    }

    /// Sets a matrix aside until [`Memory::reload`]: a device that has room elsewhere for it gives its memory to others meanwhile.
    fn offload(&self, mat: Mat<Self>) -> Offloaded<Self> {
        Offloaded::Here(mat)
    }

    /// The matrix as it was, for what is queued from here on.
    fn reload(&self, offloaded: Offloaded<Self>) -> Mat<Self> {
        match offloaded {
            Offloaded::Here(mat) => mat,
            Offloaded::Away { .. } => unreachable!("this device sets nothing aside elsewhere"),
        }
    }

    /// Runs `work` where its operators start soonest.
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// A matrix with unspecified contents.
    fn mat<T: Elem>(&self, rows: usize, cols: usize) -> Mat<Self, T> {
        Mat { buf: self.alloc(rows * cols), rows, cols }
    }

    /// A matrix of zeros.
    fn zeros<T: Elem>(&self, rows: usize, cols: usize) -> Mat<Self, T> {
        let mut m = self.mat(rows, cols);
        self.fill_zero(m.out());
        m
    }

    /// A row of zeros on the disk of a folder, as [`Memory::room`].
    fn zeros_in<T: Elem>(&self, folder: &Path, cols: usize) -> io::Result<Mat<Self, T>> {
        Ok(Mat { buf: self.room(folder, cols)?, rows: 1, cols })
    }

    /// A matrix with the given contents.
    #[allow(clippy::wrong_self_convention)] // from the host, by the device
    fn from_host<T: Elem>(&self, rows: usize, cols: usize, values: &[T]) -> Mat<Self, T> {
        let mut m = self.mat(rows, cols);
        self.upload(values, m.out());
        m
    }

    /// The contents of a view, row-major.
    fn to_host<T: Elem>(&self, src: View<'_, Self, T>) -> Vec<T> {
        let mut host = vec![T::default(); src.rows * src.cols];
        self.download(src, &mut host);
        host
    }
}

/// A moment.
pub enum Mark {
    /// On the host's clock: of a device that computes at once.
    Host(Instant),
    /// On a GPU's.
    Gpu(crate::cuda::Moment),
}

/// Activations that are not read for a while.
pub enum Offloaded<B: Memory> {
    /// Where they were.
    Here(Mat<B>),
    /// In memory of the host, `[rows, cols]`.
    Away {
        /// Where, and on which way.
        held: crate::cuda::Held,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
}

impl<B: Memory> Offloaded<B> {
    /// Begins to bring the matrix back, while what is queued from here on is computed.
    pub fn prefetch(&mut self) {
        if let Offloaded::Away { held, .. } = self {
            held.fetch();
        }
    }

    /// The same in the hands of another backend.
    pub(crate) fn on<C: Memory<Act = B::Act, Buf<B::Act> = B::Buf<B::Act>>>(self) -> Offloaded<C> {
        match self {
            Offloaded::Here(mat) => Offloaded::Here(mat.on()),
            Offloaded::Away { held, rows, cols } => Offloaded::Away { held, rows, cols },
        }
    }
}

/// Bytes on the host that outlive their reader: a memory map, or a vector.
pub trait HostBytes: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

impl HostBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Storage dtypes of frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDtype {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// Four bits (OCP microscaling format MXFP4): of each 32 values a byte `s`, their scale `2^(s - 127)`, and then 16 bytes of
    /// two codes each, the lower half first. Rows are whole numbers of such blocks.
    Mxfp4,
    /// Codes of four bits, two in a byte; [`HostTensor::coded`] says what they stand for.
    Code4,
    /// Signed codes of eight bits; likewise.
    Code8,
}

impl StoredDtype {
    /// Values that are stored together.
    pub fn block(self) -> usize {
        match self {
            StoredDtype::F32 | StoredDtype::Bf16 | StoredDtype::F16 | StoredDtype::Code8 => 1,
            StoredDtype::Code4 => 2,
            StoredDtype::Mxfp4 => 32,
        }
    }

    /// Bytes of `elements` elements, a whole number of blocks.
    pub fn bytes(self, elements: usize) -> usize {
        assert!(elements.is_multiple_of(self.block()), "{elements} elements of {self:?}");
        elements / self.block()
            * match self {
                StoredDtype::F32 => 4,
                StoredDtype::Bf16 | StoredDtype::F16 => 2,
                StoredDtype::Mxfp4 => 17,
                StoredDtype::Code4 | StoredDtype::Code8 => 1,
            }
    }
}

/// A tensor on the host, little-endian, row-major.
#[derive(Clone)]
pub struct HostTensor {
    /// The bytes and their owner.
    pub bytes: Arc<dyn HostBytes>,
    /// How to read them.
    pub dtype: StoredDtype,
    /// What codes stand for, where they are codes.
    pub coded: Option<Coded>,
}

impl HostTensor {
    /// A tensor whose bytes say everything.
    pub fn new(bytes: Arc<dyn HostBytes>, dtype: StoredDtype) -> HostTensor {
        HostTensor { bytes, dtype, coded: None }
    }
}

/// A tensor's place among codes that share their scales.
#[derive(Clone)]
pub struct Coded {
    /// What the codes stand for.
    pub codes: Arc<Codes>,
    /// The tensor's first element, as the bytes and the scales count.
    pub first: usize,
}

/// An owned row-major matrix on a device.
pub struct Mat<B: Memory, T: Elem = <B as Memory>::Act> {
    buf: B::Buf<T>,
    rows: usize,
    cols: usize,
}

impl<B: Memory, T: Elem> Mat<B, T> {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Lets go of the memory behind `elements`, counted row by row, where they lie on a disk.
    pub fn rest(&self, elements: Range<usize>) {
        assert!(elements.start <= elements.end && elements.end <= self.rows * self.cols, "elements {elements:?}");
        B::rest(&self.buf, elements);
    }
    /// The matrix `[rows, cols]` in a buffer of as many elements.
    pub(crate) fn of_buf(buf: B::Buf<T>, rows: usize, cols: usize) -> Mat<B, T> {
        Mat { buf, rows, cols }
    }
    /// The same matrix in the hands of another backend.
    pub(crate) fn on<C: Memory<Buf<T> = B::Buf<T>>>(self) -> Mat<C, T> {
        Mat { buf: self.buf, rows: self.rows, cols: self.cols }
    }
    /// Its buffer.
    pub(crate) fn into_buf(self) -> B::Buf<T> {
        self.buf
    }
    /// To be read.
    pub fn view(&self) -> View<'_, B, T> {
        View { ptr: B::address(&self.buf), rows: self.rows, cols: self.cols, ld: self.cols, tie: PhantomData }
    }
    /// To be overwritten.
    pub fn out(&mut self) -> Out<'_, B, T> {
        Out { ptr: B::address_mut(&mut self.buf), rows: self.rows, cols: self.cols, ld: self.cols, tie: PhantomData }
    }
    /// To be added into.
    pub fn acc(&mut self) -> Acc<'_, B, T> {
        Acc(self.out())
    }
}

/// The borrow behind a pointer, and whose memory it is.
type Tie<R, B> = PhantomData<(R, fn() -> B)>;

/// A matrix to be read: `rows` x `cols`, `ld` elements from one row to the next.
pub struct View<'a, B, T> {
    pub(crate) ptr: *const T,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub ld: usize,
    pub(crate) tie: Tie<&'a T, B>,
}

impl<B, T> Clone for View<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B, T> Copy for View<'_, B, T> {}

impl<'a, B, T> View<'a, B, T> {
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
    /// Rows `r` of the view.
    pub fn rows(self, r: Range<usize>) -> View<'a, B, T> {
        assert!(r.start <= r.end && r.end <= self.rows, "rows {r:?} of {}", self.rows);
        // wrapping: with zero rows the offset may lie past the allocation, and is never read.
        View { ptr: self.ptr.wrapping_add(r.start * self.ld), rows: r.end - r.start, ..self }
    }
    /// Columns `c` of the view.
    pub fn cols(self, c: Range<usize>) -> View<'a, B, T> {
        assert!(c.start <= c.end && c.end <= self.cols, "columns {c:?} of {}", self.cols);
        View { ptr: self.ptr.wrapping_add(c.start), cols: c.end - c.start, ..self }
    }
    /// The same elements as `rows` x `cols`; the view must be without gaps.
    pub fn reshape(self, rows: usize, cols: usize) -> View<'a, B, T> {
        assert!(
            (self.ld == self.cols || self.rows <= 1) && rows * cols == self.rows * self.cols,
            "reshape to {rows} x {cols}"
        );
        View { rows, cols, ld: cols, ..self }
    }
}

/// A matrix to be overwritten.
pub struct Out<'a, B, T> {
    pub(crate) ptr: *mut T,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub ld: usize,
    pub(crate) tie: Tie<&'a mut T, B>,
}

impl<'a, B, T> Out<'a, B, T> {
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
    /// The same matrix for a shorter time.
    pub fn again(&mut self) -> Out<'_, B, T> {
        Out { ptr: self.ptr, rows: self.rows, cols: self.cols, ld: self.ld, tie: PhantomData }
    }
    /// To be added into.
    pub fn into_acc(self) -> Acc<'a, B, T> {
        Acc(self)
    }
    /// What is there now, to be read.
    pub fn view(&self) -> View<'_, B, T> {
        View { ptr: self.ptr, rows: self.rows, cols: self.cols, ld: self.ld, tie: PhantomData }
    }
    /// Rows `r`.
    pub fn rows(self, r: Range<usize>) -> Out<'a, B, T> {
        assert!(r.start <= r.end && r.end <= self.rows, "rows {r:?} of {}", self.rows);
        Out { ptr: self.ptr.wrapping_add(r.start * self.ld), rows: r.end - r.start, ..self }
    }
    /// Columns `c`.
    pub fn cols(self, c: Range<usize>) -> Out<'a, B, T> {
        assert!(c.start <= c.end && c.end <= self.cols, "columns {c:?} of {}", self.cols);
        Out { ptr: self.ptr.wrapping_add(c.start), cols: c.end - c.start, ..self }
    }
    /// The columns before `at`, and the others.
    pub fn split_cols(self, at: usize) -> (Out<'a, B, T>, Out<'a, B, T>) {
        assert!(at <= self.cols, "column {at} of {}", self.cols);
        let right = Out { ptr: self.ptr.wrapping_add(at), cols: self.cols - at, ..self };
        (Out { cols: at, ..self }, right)
    }
    /// The same elements as `rows` x `cols`; the matrix must be without gaps.
    pub fn reshape(self, rows: usize, cols: usize) -> Out<'a, B, T> {
        assert!(
            (self.ld == self.cols || self.rows <= 1) && rows * cols == self.rows * self.cols,
            "reshape to {rows} x {cols}"
        );
        Out { rows, cols, ld: cols, ..self }
    }
}

/// A matrix to be added into.
pub struct Acc<'a, B, T>(pub(crate) Out<'a, B, T>);

impl<'a, B, T> Acc<'a, B, T> {
    /// The same matrix for a shorter time.
    pub fn again(&mut self) -> Acc<'_, B, T> {
        Acc(self.0.again())
    }
    /// Rows `r`.
    pub fn rows(self, r: Range<usize>) -> Acc<'a, B, T> {
        Acc(self.0.rows(r))
    }
    /// Columns `c`.
    pub fn cols(self, c: Range<usize>) -> Acc<'a, B, T> {
        Acc(self.0.cols(c))
    }
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }
}

/// Where a product goes: over what is there, or added to it.
pub struct Dst<'a, B, T> {
    pub(crate) out: Out<'a, B, T>,
    pub(crate) add: bool,
}

impl<'a, B, T> Dst<'a, B, T> {
    /// The same destination for a shorter time.
    pub fn again(&mut self) -> Dst<'_, B, T> {
        Dst { out: self.out.again(), add: self.add }
    }
    /// What comes next is added.
    pub fn into_acc(self) -> Acc<'a, B, T> {
        Acc(self.out)
    }
}

impl<'a, B, T> From<Out<'a, B, T>> for Dst<'a, B, T> {
    fn from(out: Out<'a, B, T>) -> Self {
        Dst { out, add: false }
    }
}

impl<'a, B, T> From<Acc<'a, B, T>> for Dst<'a, B, T> {
    fn from(acc: Acc<'a, B, T>) -> Self {
        Dst { out: acc.0, add: true }
    }
}

impl<'a, B, T> View<'a, B, T> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C>(self) -> View<'a, C, T> {
        View { ptr: self.ptr, rows: self.rows, cols: self.cols, ld: self.ld, tie: PhantomData }
    }
}

impl<'a, B, T> Out<'a, B, T> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C>(self) -> Out<'a, C, T> {
        Out { ptr: self.ptr, rows: self.rows, cols: self.cols, ld: self.ld, tie: PhantomData }
    }
}

// SAFETY: a View is a shared borrow and an Out or Acc an exclusive one of plain elements; the pointers carry no more than
// the references they were made from.
unsafe impl<B, T: Sync> Send for View<'_, B, T> {}
unsafe impl<B, T: Sync> Sync for View<'_, B, T> {}
unsafe impl<B, T: Send> Send for Out<'_, B, T> {}
unsafe impl<B, T: Sync> Sync for Out<'_, B, T> {}
