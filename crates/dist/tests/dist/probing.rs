//! What is measured of the talk between ranks, and the line through it.

use crate::conformance::together;
use dist::Collective;
use dist::line::Line;
use std::time::Duration;

#[test]
fn every_rank_finds_the_same_times() {
    let found = together(3, Duration::from_secs(20), |world| {
        let collectives = Collective::ALL.map(|what| world.time(what, 4096, 3).unwrap());
        let pairs = [(0, 1), (0, 2), (1, 2)].map(|pair| world.time_pair(pair, 1 << 16, 3).unwrap());
        // The talk goes on as before.
        world.barrier().unwrap();
        (collectives, pairs)
    });
    assert!(found.iter().all(|rank| *rank == found[0]), "{found:?}");
    assert!(found[0].0.iter().chain(&found[0].1).all(|seconds| *seconds > 0.0 && *seconds < 20.0));
}

#[test]
fn a_line_finds_the_latency_and_the_speed_that_times_were_made_of() {
    let sizes = (10..=26).map(|power| f64::from(1u32 << power));
    let straight: Vec<(f64, f64)> = sizes.clone().map(|x| (x, 20e-6 + x / 2e9)).collect();
    let line = Line::through(&straight);
    for (x, t) in &straight {
        assert!((line.seconds(*x) / t - 1.0).abs() < 1e-6, "{x}");
    }
    // Between and beyond what was measured.
    assert!((line.seconds(3e6) / (20e-6 + 3e6 / 2e9) - 1.0).abs() < 1e-6);
    assert!((line.seconds(1e9) / (20e-6 + 0.5) - 1.0).abs() < 1e-6);
}

#[test]
fn an_engine_that_sends_small_messages_otherwise_gets_a_piece_for_them() {
    let time = |x: f64| if x <= 65536.0 { 2e-6 + x / 4e9 } else { 90e-6 + x / 1e9 };
    let measured: Vec<(f64, f64)> = (10..=26).map(|power| f64::from(1u32 << power)).map(|x| (x, time(x))).collect();
    let line = Line::through(&measured);
    assert!(line.pieces.len() >= 2);
    for (x, t) in &measured {
        assert!((line.seconds(*x) / t - 1.0).abs() < 1e-3, "{x}: {} is not {t}", line.seconds(*x));
    }
    // A few measurements are one piece, and one is none but itself.
    assert_eq!(Line::through(&measured[..2]).pieces.len(), 1);
    assert_eq!(Line::through(&[(8.0, 3e-6)]).seconds(8.0), 3e-6);
}
