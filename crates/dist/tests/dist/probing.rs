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
fn a_line_goes_through_what_was_measured_and_straight_in_between() {
    let time = |x: f64| if x <= 65536.0 { 2e-6 + x / 4e9 } else { 90e-6 + x / 1e9 };
    let measured: Vec<(f64, f64)> = (10..=26).map(|power| f64::from(1u32 << power)).map(|x| (x, time(x))).collect();
    let line = Line::through(&measured);
    for (x, t) in &measured {
        assert_eq!(line.seconds(*x), *t, "{x}");
    }
    assert!((line.seconds(3e6) / time(3e6) - 1.0).abs() < 1e-9);
    // Below and beyond what was measured.
    assert_eq!(line.seconds(8.0), time(1024.0));
    assert!((line.seconds(1e9) / time(1e9) - 1.0).abs() < 2e-3);
    assert_eq!(Line::through(&[(8.0, 3e-6)]).seconds(16.0), 6e-6);
}
