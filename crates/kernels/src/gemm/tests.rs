//! Products against the plain triple loop.

use super::{Gemm, Weight};
use crate::{Cpu, HostTensor, Mat, Memory, StoredDtype};
use std::sync::Arc;

fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// `a [m, k]`, `b [k, n]`.
fn plain(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    (0..m * n).map(|e| (0..k).map(|p| a[e / n * k + p] * b[p * n + e % n]).sum()).collect()
}

fn transpose(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..a.len()).map(|e| a[e % rows * cols + e / rows]).collect()
}

fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{g} {w}");
    }
}

#[test]
fn all_three_products_equal_the_triple_loop() {
    let cpu = Cpu::<f64>::new(2);
    for (t, i, o) in [(0, 3, 4), (1, 1, 1), (1, 64, 33), (7, 0, 5), (17, 31, 67), (65, 128, 129), (130, 40, 300)] {
        let (x, w, dy) = (noise(t * i, 1), noise(o * i, 2), noise(t * o, 3));
        let (xm, wm, dym) = (cpu.from_host(t, i, &x), cpu.from_host(o, i, &w), cpu.from_host(t, o, &dy));
        let mut y: Mat<Cpu<f64>> = cpu.from_host(t, o, &dy);
        cpu.linear(0.5, xm.view(), Weight::Param(wm.view()), y.acc());
        let want: Vec<f64> =
            plain(&x, &transpose(&w, o, i), (t, i, o)).iter().zip(&dy).map(|(p, d)| 0.5 * p + d).collect();
        close(&cpu.to_host(y.view()), &want, 1e-13);
        let mut dx: Mat<Cpu<f64>> = cpu.from_host(t, i, &vec![f64::NAN; t * i]);
        cpu.linear_dx(2.0, dym.view(), Weight::Param(wm.view()), dx.out());
        close(&cpu.to_host(dx.view()), &plain(&dy, &w, (t, o, i)).iter().map(|p| 2.0 * p).collect::<Vec<_>>(), 1e-13);
        let mut dw: Mat<Cpu<f64>> = cpu.from_host(o, i, &w);
        cpu.linear_dw(1.0, dym.view(), xm.view(), dw.acc());
        let want: Vec<f64> = plain(&transpose(&dy, t, o), &x, (o, t, i)).iter().zip(&w).map(|(p, d)| p + d).collect();
        close(&cpu.to_host(dw.view()), &want, 1e-13);
    }
}

#[test]
fn stored_weights_equal_their_unpacked_values() {
    let cpu = Cpu::<f32>::new(2);
    let (t, i, o) = (5, 300, 1801);
    let w: Vec<f32> = noise(o * i, 4).iter().map(|&v| half::bf16::from_f64(v).to_f32()).collect();
    let x: Vec<f32> = noise(t * i, 5).iter().map(|&v| v as f32).collect();
    let dy: Vec<f32> = noise(t * o, 6).iter().map(|&v| v as f32).collect();
    let (xm, wm, dym) = (cpu.from_host(t, i, &x), cpu.from_host(o, i, &w), cpu.from_host(t, o, &dy));
    let run = |weight: Weight<Cpu<f32>>| {
        let (mut y, mut dx) = (cpu.mat(t, o), cpu.mat(t, i));
        cpu.linear(1.0, xm.view(), weight, y.out());
        cpu.linear_dx(1.0, dym.view(), weight, dx.out());
        (cpu.to_host::<f32>(y.view()), cpu.to_host::<f32>(dx.view()))
    };
    let (y, dx) = run(Weight::Param(wm.view()));
    let encodings: [(StoredDtype, Vec<u8>); 2] = [
        (StoredDtype::F32, w.iter().flat_map(|v| v.to_le_bytes()).collect()),
        (StoredDtype::Bf16, w.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()),
    ];
    for (dtype, bytes) in encodings {
        let stored = cpu.store(HostTensor { bytes: Arc::new(bytes), dtype }, o, i);
        let (ys, dxs) = run(Weight::Stored(&stored));
        assert_eq!(y, ys, "{dtype:?}");
        dx.iter().zip(&dxs).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
    }
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    let shapes =
        [(1, 64, 64), (3, 512, 512), (60, 512, 1408), (300, 96, 770), (129, 1408, 512), (33, 8, 512), (33, 512, 8)];
    let run = |threads: usize| -> Vec<Vec<f32>> {
        let cpu = Cpu::<f32>::new(threads);
        let mat = |r, c, s| cpu.from_host(r, c, &noise(r * c, s).iter().map(|&v| v as f32).collect::<Vec<f32>>());
        let mut results = Vec::new();
        for (t, i, o) in shapes {
            let (x, w, dy) = (mat(t, i, 1), mat(o, i, 2), mat(t, o, 3));
            let (mut y, mut dx, mut dw) = (cpu.mat(t, o), cpu.mat(t, i), mat(o, i, 4));
            cpu.linear(1.0, x.view(), Weight::Param(w.view()), y.out());
            cpu.linear_dx(1.0, dy.view(), Weight::Param(w.view()), dx.out());
            cpu.linear_dw(1.0, dy.view(), x.view(), dw.acc());
            results.extend([cpu.to_host(y.view()), cpu.to_host(dx.view()), cpu.to_host(dw.view())]);
        }
        results
    };
    let one = run(1);
    for threads in [2, 3, 4] {
        assert!(one == run(threads), "{threads} threads");
    }
}
