//! The streamed head against plain softmax, and its two backward forms against finite differences, in f64.

use super::{Head, HeadSaved};
use crate::{Cpu, Memory, Weight};

type C = Cpu<f64>;

fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

fn logits(h: &[f64], w: &[f64], d: usize, s: usize) -> Vec<f64> {
    w.chunks(d).map(|w| w.iter().zip(&h[s * d..]).map(|(a, b)| a * b).sum()).collect()
}

fn logp(h: &[f64], w: &[f64], d: usize, s: usize, token: u32) -> f64 {
    let l = logits(h, w, d, s);
    let max = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    l[token as usize] - max - l.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

#[test]
fn scores_equal_plain_softmax_across_tiles() {
    let cpu = C::new(2);
    for (s, d, v) in [(0, 3, 5), (1, 1, 1), (5, 7, 2048), (3, 4, 4100), (513, 2, 9)] {
        let (h, w) = (noise(s * d, 1), noise(v * d, 2).iter().map(|x| 4.0 * x).collect::<Vec<_>>());
        let tokens: Vec<u32> = (0..s).map(|i| (i * 7919 % v) as u32).collect();
        let (hm, wm) = (cpu.from_host(s, d, &h), cpu.from_host(v, d, &w));
        let mut unit = cpu.mat(s, d);
        let scores = cpu.head(hm.view(), Weight::Param(wm.view()), &tokens, true, Some(unit.out()));
        let unit = cpu.to_host::<f64>(unit.view());
        let extra = scores.extra.unwrap();
        for i in 0..s {
            let l = logits(&h, &w, d, i);
            assert!((scores.logp[i] - logp(&h, &w, d, i, tokens[i])).abs() < 1e-12);
            let p: Vec<f64> = l.iter().map(|x| (x - scores.lse[i]).exp()).collect();
            let entropy: f64 = -p.iter().map(|p| p * p.max(1e-300).ln()).sum::<f64>();
            assert!((extra.entropy[i] - entropy).abs() < 1e-10, "{} {entropy}", extra.entropy[i]);
            assert!((extra.mean_logit[i] - l.iter().sum::<f64>() / v as f64).abs() < 1e-12);
            assert!(l.iter().all(|x| *x <= l[extra.argmax[i] as usize]));
            for c in 0..d {
                let want =
                    w[tokens[i] as usize * d + c] - p.iter().zip(w.chunks(d)).map(|(p, w)| p * w[c]).sum::<f64>();
                assert!((unit[i * d + c] - want).abs() < 1e-11);
            }
        }
    }
}

#[test]
fn trained_head_backward_equals_finite_differences() {
    let cpu = C::new(2);
    let (s, d, v) = (4, 3, 2051);
    let (mut h, mut w) = (noise(s * d, 3), noise(v * d, 4));
    let (tokens, coefficient) = (vec![0, 2050, 17, 2048], noise(s, 5));
    let (hm, wm) = (cpu.from_host(s, d, &h), cpu.from_host(v, d, &w));
    let scores = cpu.head(hm.view(), Weight::Param(wm.view()), &tokens, false, None);
    let (mut dh, mut dw) = (cpu.mat(s, d), cpu.zeros(v, d));
    let saved = HeadSaved { tokens: &tokens, lse: &scores.lse, coefficient: &coefficient };
    cpu.head_back(hm.view(), Weight::Param(wm.view()), saved, dh.out(), dw.acc());
    let (dh, dw) = (cpu.to_host::<f64>(dh.view()), cpu.to_host::<f64>(dw.view()));
    let loss = |h: &[f64], w: &[f64]| -> f64 { (0..s).map(|i| coefficient[i] * logp(h, w, d, i, tokens[i])).sum() };
    for e in 0..s * d {
        let at = h[e];
        h[e] = at + 1e-5;
        let up = loss(&h, &w);
        h[e] = at - 1e-5;
        let down = loss(&h, &w);
        h[e] = at;
        assert!(((up - down) / 2e-5 - dh[e]).abs() < 1e-8, "dh {e}");
    }
    for e in (0..v * d).step_by(97).chain([2050 * d, 51, 52]) {
        let at = w[e];
        w[e] = at + 1e-5;
        let up = loss(&h, &w);
        w[e] = at - 1e-5;
        let down = loss(&h, &w);
        w[e] = at;
        assert!(((up - down) / 2e-5 - dw[e]).abs() < 1e-8, "dw {e}");
    }
}
