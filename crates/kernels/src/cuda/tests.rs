//! Host code against a driver that only writes down what it is asked for, and fails where it is told to.

use super::{
    About, Arg, Call, Cuda, Driver, Emulated, Error, Graph, Grid, Kernel, Order, Plane, Product, Program, Stream,
    Transfer,
};
use crate::{Attention, AttentionShape, Gemm, Grouped, Groups, KeyValue, Mat, Memory, Offloaded, RowOps, Span, Weight};
use half::bf16;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Bytes that a host pins at most.
const PINNED: usize = 1 << 20;

/// What was asked for, in order, and how many allocations are granted.
#[derive(Clone)]
struct Recorded {
    calls: Arc<Mutex<Vec<String>>>,
    granted: usize,
    /// Whether calls become graphs.
    captures: bool,
}

impl Recorded {
    fn new(granted: usize) -> Recorded {
        Recorded { calls: Arc::default(), granted, captures: true }
    }
    fn note(&self, call: String) -> usize {
        let mut calls = self.calls.lock().unwrap();
        calls.push(call);
        calls.len()
    }
    /// Calls of a kind since the last time, and all others forgotten.
    fn take(&self, kind: &str) -> Vec<String> {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.into_iter().filter(|call| call.starts_with(kind)).collect()
    }
}

impl Driver for Recorded {
    fn about(&self) -> About {
        About::default()
    }
    fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        let made = self.calls.lock().unwrap().iter().filter(|call| call.starts_with("alloc")).count();
        if made >= self.granted {
            self.note("refused".into());
            return Err(Error::Memory { bytes, free: 7 << 20 });
        }
        Ok(4096 * self.note(format!("alloc {bytes}")) as u64)
    }
    fn free(&self, address: u64) {
        self.note(format!("free {address}"));
    }
    fn free_memory(&self) -> Result<usize, Error> {
        Ok(7 << 20)
    }
    fn copy_in(&self, from: &[u8], _: Plane) -> Result<(), Error> {
        self.note(format!("in {}", from.len()));
        Ok(())
    }
    fn copy_out(&self, _: Plane, to: &mut [u8]) -> Result<(), Error> {
        self.note(format!("out {}", to.len()));
        Ok(())
    }
    fn copy_along(&self, _: u64, _: u64, bytes: usize) -> Result<(), Error> {
        self.note(format!("along {bytes}"));
        Ok(())
    }
    fn zero(&self, at: Plane) -> Result<(), Error> {
        self.note(format!("zero {} x {}", at.rows, at.width));
        Ok(())
    }
    fn kernel(&self, program: &Program, name: &str) -> Result<Kernel, Error> {
        assert!(program.kernels().contains(&name), "{name} of {}", program.name);
        Ok(Kernel(self.note(format!("kernel {name}"))))
    }
    unsafe fn launch(&self, _: Kernel, grid: Grid, args: &[Arg]) -> Result<(), Error> {
        self.note(format!(
            "launch {:?} x {}, {} shared, {} parameters",
            grid.blocks,
            grid.threads,
            grid.shared,
            args.len()
        ));
        Ok(())
    }
    unsafe fn product(&self, p: &Product) -> Result<(), Error> {
        self.note(format!("product {:?} {}{}", p.shape, p.left.turned, p.right.turned));
        Ok(())
    }
    fn pin(&self, bytes: usize) -> Result<u64, Error> {
        let refused = Error::Failed { what: "pin".into(), code: "not as much".into() };
        if bytes > PINNED { Err(refused) } else { Ok(4096 * self.note(format!("pin {bytes}")) as u64) }
    }
    fn unpin(&self, address: u64) {
        self.note(format!("unpin {address}"));
    }
    unsafe fn transfer(&self, t: &Transfer) -> Result<(), Error> {
        let Transfer { device, pinned, bytes, out } = *t;
        let (from, to) = if out { (device, pinned) } else { (pinned, device) };
        self.note(format!("transfer {bytes} from {from} to {to}"));
        Ok(())
    }
    fn follow(&self, stream: Stream) -> Result<(), Error> {
        self.note(format!("{stream:?} waits"));
        Ok(())
    }
    fn wait(&self) -> Result<(), Error> {
        self.note("wait".into());
        Ok(())
    }
    fn mark(&self) -> Result<u64, Error> {
        Ok(self.note("mark".into()) as u64)
    }
    fn between(&self, from: u64, to: u64) -> Result<f64, Error> {
        self.note(format!("between {from} {to}"));
        Ok(to as f64 - from as f64)
    }
    fn forget(&self, mark: u64) {
        self.note(format!("forget {mark}"));
    }
    unsafe fn capture(&self, calls: &[Call]) -> Result<Graph, Error> {
        let graph = self.note(format!("capture {}", calls.len())) as u64;
        let refused = Error::Failed { what: "capture".into(), code: "not here".into() };
        if self.captures { Ok(Graph(graph)) } else { Err(refused) }
    }
    unsafe fn replay(&self, _: Graph, given: &[Vec<u8>]) -> Result<(), Error> {
        self.note(format!("replay {given:?}"));
        Ok(())
    }
    fn release(&self, _: Graph) {
        self.note("release".into());
    }
}

#[test]
fn memory_that_was_freed_is_used_again_and_all_goes_back_at_the_end() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    let a = cuda.mat::<f32>(10, 100);
    let first = a.view().ptr;
    drop(a);
    let b = cuda.mat::<f32>(1, 1010);
    assert_eq!(b.view().ptr, first);
    assert_eq!(cuda.take_peak_bytes(), 4096);
    drop((b, cuda));
    assert_eq!(driver.take(""), ["alloc 4096", "free 4096"]);
}

#[test]
fn without_memory_what_lies_free_is_given_back_and_then_nothing_more_is_asked() {
    let driver = Recorded::new(2);
    let cuda = Cuda::<f32>::new(driver.clone());
    let x = cuda.mat::<f32>(4, 4);
    drop(cuda.mat::<f32>(100, 100));
    let y = cuda.zeros::<f32>(1000, 1000);
    assert_eq!(driver.take("")[2..], ["refused", "wait", &format!("free {}", 2 * 4096), "refused"]);
    let error = cuda.trouble().unwrap();
    assert_eq!((error.exit_code(), error.to_string().contains("7 MB are free")), (4, true), "{error}");
    cuda.linear(1.0, x.view(), Weight::Param(x.view()), cuda.mat(4, 4).out());
    assert_eq!(cuda.to_host(y.view())[..3], [0.0; 3], "nothing is read");
    assert_eq!(driver.take(""), [""; 0]);
}

#[test]
fn reserved_memory_is_dealt_out_without_the_driver_and_grows_where_it_does_not_suffice() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    cuda.reserve(1 << 17);
    let held = [(); 4].map(|()| cuda.mat::<f32>(64, 64));
    for _ in 0..3 {
        let (a, b) = (cuda.mat::<f32>(10, 100), cuda.mat::<f32>(1, 1));
        assert!(a.view().ptr != b.view().ptr && held.iter().all(|h| h.view().ptr != a.view().ptr));
    }
    assert_eq!(cuda.times_asked(), 1);
    // The recorded driver's addresses are a page apart for each call: this one is to lie behind the arena.
    (0..100).for_each(|_| _ = driver.note("call".into()));
    drop(cuda.mat::<f32>(64, 1024));
    assert_eq!(cuda.times_asked(), 2, "what does not fit is asked for");
    drop((held, cuda.mat::<f32>(8, 1024), cuda));
    let calls = driver.take("").into_iter().filter(|call| call != "call").collect::<Vec<_>>();
    assert_eq!(calls, ["alloc 131072", "alloc 262144", &format!("free {}", 4096 * 102), "free 4096"]);
}

#[test]
fn more_than_a_device_may_take_is_an_error_before_the_driver_is_asked() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone()).with_limit(Some(11_000));
    let a = cuda.mat::<f32>(1, 2000);
    assert_eq!((cuda.trouble(), cuda.free_memory()), (None, Ok(11_000 - 8192)));
    drop(a);
    // What lies free is given back first.
    drop(cuda.mat::<f32>(1, 2400));
    assert_eq!(cuda.trouble(), None);
    drop(cuda.mat::<f32>(1, 5000));
    assert_eq!(cuda.trouble().map(|e| e.exit_code()), Some(4));
    assert_eq!(driver.take("alloc"), ["alloc 8192", "alloc 10240"].map(str::to_owned)[..], "sizes are rounded up");
}

#[test]
fn a_kernel_is_loaded_once_and_empty_matrices_queue_nothing() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    let (x, mut y) = (cuda.mat::<f32>(3, 70), cuda.mat::<f32>(3, 70));
    driver.take("");
    (0..2).for_each(|_| cuda.copy(x.view(), y.out()));
    cuda.copy(x.view().rows(0..0), y.out().rows(1..1));
    let launch = "launch [3, 1, 1] x 96, 0 shared, 3 parameters";
    assert_eq!(driver.take(""), ["kernel copy_rows", launch, launch]);
    cuda.linear_dw(1.0, x.view().rows(0..0), x.view().rows(0..0), cuda.mat(70, 70).acc());
    cuda.linear(1.0, x.view().cols(0..0), Weight::Param(y.view().cols(0..0)), cuda.mat(3, 3).out());
    assert_eq!(driver.take("product"), [""; 0]);
    cuda.linear_dx(1.0, x.view().cols(0..3), Weight::Param(y.view()), cuda.mat(3, 70).out());
    assert_eq!(driver.take("product"), ["product [3, 70, 3] falsefalse"]);
}

#[test]
fn experts_with_few_rows_are_one_launch_and_those_with_many_a_product_each() {
    let driver = Recorded::new(1000);
    let cuda = Cuda::<bf16>::new(driver.clone());
    let banks = [(); 3].map(|()| cuda.mat::<f32>(100, 70));
    let calls = |rows: [std::ops::Range<usize>; 3]| {
        let (x, mut y) = (cuda.mat::<bf16>(rows[2].end, 70), cuda.mat::<bf16>(rows[2].end, 100));
        let weights = banks.iter().map(|b| Weight::Param(b.view())).collect();
        cuda.grouped(x.view(), &Groups { weights, rows: &rows, turned: false }, y.out());
        let calls = driver.take("");
        ["launch", "product"].map(|kind| calls.iter().filter(|c| c.starts_with(kind)).cloned().collect::<Vec<_>>())
    };
    // 70 rows are two tiles, 3 are one; 100 columns are two.
    let [launches, products] = calls([0..70, 70..70, 70..73]);
    assert_eq!((launches, products.len()), (vec!["launch [3, 2, 1] x 128, 0 shared, 7 parameters".to_owned()], 0));
    let [_, products] = calls([0..70, 70..70, 70..500]);
    assert_eq!(products.len(), 2);
}

#[test]
fn attention_goes_to_tensor_cores_where_its_widths_and_shared_memory_fit() {
    let driver = Recorded::new(1000);
    let cuda = Cuda::<bf16>::new(driver.clone());
    let kernel = |width: usize| {
        let shape = AttentionShape {
            query_heads: 2,
            kv_heads: 1,
            qk_width: width,
            v_width: width,
            scale: 1.0,
            window: None,
            cap: None,
        };
        let (q, k) = (cuda.mat::<bf16>(70, 2 * width), cuda.mat::<bf16>(70, width));
        let kv = KeyValue { k: k.view(), v: k.view() };
        let spans = [Span { rows: 0..70, context: 0..0 }];
        cuda.attention(&shape, &spans, q.view(), kv, kv, cuda.mat(70, 2 * width).out(), None);
        let calls = driver.take("");
        calls.iter().filter(|c| c.starts_with("kernel") || c.starts_with("launch")).cloned().collect::<Vec<_>>()
    };
    let on_tensor_cores = "launch [2, 2, 1] x 128, 36352 shared, 10 parameters";
    assert_eq!(kernel(128), ["kernel tensor_attention", on_tensor_cores]);
    assert_eq!(kernel(24), ["kernel attention", "launch [70, 2, 1] x 32, 0 shared, 10 parameters"]);
    assert_eq!(kernel(512)[0], "kernel attention");
}

/// A step as decoding makes them: numbers from the host, a kernel, a product, and what the host waits for.
fn decoding_step(cuda: &Cuda<f32>, x: &Mat<Cuda<f32>, f32>, rows: &[u32]) {
    cuda.repeats();
    let n = rows.len();
    let (mut y, mut z) = (cuda.mat::<f32>(n, 70), cuda.mat::<f32>(n, 70));
    cuda.gather(x.view(), rows, y.out());
    cuda.gather(y.view(), rows, z.out());
    cuda.linear(1.0, z.view(), Weight::Param(x.view()), cuda.mat(n, 70).out());
    cuda.to_host(z.view());
}

#[test]
fn a_step_that_comes_again_is_one_graph_and_gets_its_own_numbers() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    let x = cuda.mat::<f32>(70, 70);
    let made = |rows: &[u32]| {
        // Not taken: new memory lies behind all that was recorded.
        let before = driver.calls.lock().unwrap().len();
        decoding_step(&cuda, &x, rows);
        let calls = driver.calls.lock().unwrap()[before..].to_vec();
        let calls = calls.into_iter().filter(|c| !c.starts_with("kernel") && !c.starts_with("alloc"));
        let short = |c: String| if c.starts_with("replay") { c } else { c.split(' ').take(1).collect() };
        calls.map(short).collect::<Vec<_>>()
    };
    // The first one is made call by call, its numbers once for both kernels; from the second one on it is a graph.
    assert_eq!(made(&[1, 0]), ["in", "launch", "launch", "product", "out"]);
    assert_eq!(made(&[1, 1]), ["capture", "replay [[1, 0, 0, 0, 1, 0, 0, 0]]", "out"]);
    assert_eq!(made(&[2, 0]), ["replay [[2, 0, 0, 0, 0, 0, 0, 0]]", "out"]);
    // Another shape is another series; the first one is still known.
    let calls = made(&[1]);
    assert_eq!(calls[..3], ["in", "launch", "launch"], "{calls:?}");
    assert_eq!(made(&[0, 3]), ["replay [[0, 0, 0, 0, 3, 0, 0, 0]]", "out"]);
    assert_eq!(cuda.trouble(), None);
    drop((x, cuda));
    assert_eq!(driver.take("release"), ["release"]);
}

#[test]
fn where_no_graph_can_be_made_steps_go_on_call_by_call() {
    let driver = Recorded { captures: false, ..Recorded::new(100) };
    let cuda = Cuda::<f32>::new(driver.clone());
    let x = cuda.mat::<f32>(70, 70);
    for expected in [0, 1, 0] {
        driver.take("");
        decoding_step(&cuda, &x, &[1, 0]);
        let calls = driver.take("");
        let of = |kind: &str| calls.iter().filter(|c| c.starts_with(kind)).count();
        assert_eq!((of("capture"), of("replay"), of("launch"), of("product")), (expected, 0, 2, 1), "{calls:?}");
    }
    assert_eq!(cuda.trouble(), None);
}

#[test]
fn tables_go_to_the_device_once_until_the_host_waits() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    let (x, mut y) = (cuda.mat::<f32>(70, 70), cuda.mat::<f32>(2, 70));
    driver.take("");
    (0..3).for_each(|_| cuda.gather(x.view(), &[4, 2], y.out()));
    cuda.gather(x.view(), &[4, 3], y.out());
    assert_eq!(driver.take("in"), ["in 8", "in 8"]);
    cuda.to_host(y.view());
    cuda.gather(x.view(), &[4, 2], y.out());
    assert_eq!(driver.take("in"), ["in 8"]);
}

/// Of the first element, on the device.
fn address(mat: &Mat<Cuda<f32>>) -> u64 {
    mat.view().ptr as u64
}

#[test]
fn activations_go_and_come_beside_the_kernels_that_make_and_need_them() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    cuda.reserve(1 << 16);
    cuda.reserve_host(1 << 16).unwrap();
    let pinned = 4096 * 2;
    let new = || cuda.mat::<f32>(10, 100);
    let (a, b) = (new(), new());
    let [at_a, at_b] = [&a, &b].map(address);
    assert_eq!(driver.take(""), ["alloc 65536", "pin 65536"]);

    // It goes when what was queued before is done; nobody has its memory while it does.
    let a = cuda.offload(a);
    let c = new();
    assert!(address(&c) != at_a);
    assert_eq!(driver.take(""), ["Transfers waits".to_owned(), format!("transfer 4000 from {at_a} to {pinned}")]);
    // What is queued after the next one has waited for it.
    let mut b = cuda.offload(b);
    let goes = format!("transfer 4000 from {at_b} to {}", pinned + 4096);
    assert_eq!(driver.take(""), ["Compute waits".to_owned(), "Transfers waits".to_owned(), goes]);
    assert_eq!(address(&new()), at_a);

    // It comes, once, when what was queued before is done: that may be using the memory. What is queued after it was asked for waits.
    b.prefetch();
    b.prefetch();
    let comes = format!("transfer 4000 from {} to {at_a}", pinned + 4096);
    assert_eq!(driver.take(""), ["Compute waits".to_owned(), "Transfers waits".to_owned(), comes]);
    let b = cuda.reload(b);
    assert_eq!((driver.take(""), address(&b), b.view().shape()), (vec!["Compute waits".to_owned()], at_a, (10, 100)));
    let a = cuda.reload(a);
    let comes = format!("transfer 4000 from {pinned} to {at_b}");
    assert_eq!(driver.take(""), ["Transfers waits".to_owned(), comes, "Compute waits".to_owned()]);

    assert_eq!([cuda.take_host_peak_bytes(), cuda.take_host_peak_bytes()], [2 * 4096, 0]);
    assert_eq!((cuda.times_asked(), cuda.trouble()), (1, None));
    driver.take("");
    drop((a, b, c, cuda));
    assert_eq!(
        driver.take(""),
        ["Compute waits".to_owned(), "wait".into(), format!("unpin {pinned}"), "free 4096".into()]
    );
}

#[test]
fn activations_without_room_on_the_host_stay_on_the_device() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    let is_here = |offloaded: &Offloaded<_>| matches!(offloaded, Offloaded::Here(_));
    let offloaded = || cuda.offload(cuda.mat::<f32>(10, 100));
    let mut a = offloaded();
    a.prefetch();
    assert!(is_here(&a) && driver.take("transfer").is_empty());
    let error = cuda.reserve_host(PINNED + 1).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().starts_with("the host pins no 2 MB"), "{error}");
    cuda.reserve_host(4096).unwrap();
    let (a, b) = (offloaded(), offloaded());
    assert!(!is_here(&a) && is_here(&b) && is_here(&cuda.offload(cuda.mat(0, 100))));
    drop(cuda.reload(a));
    assert!(!is_here(&offloaded()), "room that was given back");
}

#[test]
fn memory_of_a_step_that_was_abandoned_is_others_when_nothing_comes_into_it() {
    let driver = Recorded::new(100);
    let cuda = Cuda::<f32>::new(driver.clone());
    cuda.reserve_host(4096).unwrap();
    let mut a = cuda.offload(cuda.mat::<f32>(10, 100));
    a.prefetch();
    driver.take("");
    drop(a);
    assert_eq!(driver.take(""), ["Compute waits"]);
    drop(cuda.offload(cuda.mat::<f32>(10, 100)));
    assert!(matches!(cuda.offload(cuda.mat::<f32>(10, 100)), Offloaded::Away { .. }), "room that was given back");
}

#[test]
fn activations_come_back_as_they_were_however_late_they_are_copied() {
    let emulated = Emulated::new(Path::new("c++"), Path::new("nowhere"), Order::Ascending);
    let cuda = Cuda::<f32>::new(emulated);
    let values = |i: usize| (0..1000).map(|j| (1000 * i + j) as f32).collect::<Vec<_>>();
    let made = |i: usize| cuda.from_host(10, 100, &values(i));
    // An input that goes, one that is used, and one that is made.
    cuda.reserve(3 * 4096);
    cuda.reserve_host(8 * 4096).unwrap();
    for step in 1..3 {
        let (mut x, mut waiting) = (made(8 * step), Vec::new());
        for i in 1..8 {
            let y = made(8 * step + i);
            waiting.push(cuda.offload(std::mem::replace(&mut x, y)));
        }
        drop(x);
        while let Some(offloaded) = waiting.pop() {
            let x = cuda.reload(offloaded);
            waiting.last_mut().into_iter().for_each(Offloaded::prefetch);
            drop(made(0));
            assert!(cuda.to_host(x.view()) == values(8 * step + waiting.len()), "{} of step {step}", waiting.len());
        }
    }
    assert_eq!((cuda.take_host_peak_bytes(), cuda.times_asked(), cuda.trouble()), (7 * 4096, 1, None));
}
