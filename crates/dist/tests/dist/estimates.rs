//! The arithmetic of spread runs against the literature's and the founding documents' figures.

use dist::estimate::{Cluster, DEVICES, Workload, stages};

fn near(found: f64, expected: f64, unit: f64) {
    assert!((found / unit - expected).abs() <= 0.006 * expected.abs().max(8.0), "{} is not {expected}", found / unit);
}

fn work(parameters: f64) -> Workload {
    Workload {
        parameters,
        active: parameters,
        trained: parameters,
        layers: 64.0,
        hidden: 5120.0,
        tokens: 65_536.0,
        length: 32_768.0,
        accumulation: 1.0,
        passes: 4.0,
    }
}

#[test]
fn state_per_rank_is_that_of_the_paper() {
    let h100 = &DEVICES[1];
    for (parameters, nodes, expected) in [
        (1.4e9, 1.0, [22.4, 7.7, 5.25, 2.8]),
        (7.6e9, 1.0, [122.0, 42.0, 28.5, 15.2]),
        (32.8e9, 32.0, [524.8, 132.7, 67.4, 2.05]),
    ] {
        let cluster = Cluster { nodes, per_node: 8.0, network: 12.5e9 };
        for (stage, expected) in stages(&work(parameters), h100, &cluster).iter().zip(expected) {
            near(stage.state, expected, 1e9);
        }
    }
}

#[test]
fn a_32b_run_on_256_devices_sends_and_computes_what_was_worked_out_by_hand() {
    let cluster = Cluster { nodes: 32.0, per_node: 8.0, network: 12.5e9 };
    let found = stages(&work(32.8e9), &DEVICES[1], &cluster);
    near(found[0].wire, 130.7, 1e9);
    near(found[3].wire, 196.0, 1e9);
    // 248 of the 255 others are on other machines.
    near(found[3].between, 190.6, 1e9);
    near(found[3].network, 15.7, 1.0);
    near(found[3].activations, 42.9, 1e9);
    // 17.2 PFLOP of products and 5.6 of attention.
    near(found[3].compute * 0.4 * 989e12, 22.8, 1e15);
    assert_eq!(found[3].exposed, 0.0);
    assert!(found[0].exposed > 0.0 && found[0].efficiency() < 1.0);
}

#[test]
fn an_adapter_sends_little_and_one_rank_nothing() {
    let adapter = Workload { trained: 40e6, ..work(7.6e9) };
    let eight = Cluster { nodes: 1.0, per_node: 8.0, network: 12.5e9 };
    near(stages(&adapter, &DEVICES[1], &eight)[0].wire, 140.0, 1e6);
    near(stages(&adapter, &DEVICES[1], &eight)[0].between, 0.0, 1e6);
    let one = Cluster { nodes: 1.0, per_node: 1.0, network: 12.5e9 };
    assert!(stages(&adapter, &DEVICES[1], &one).iter().all(|s| s.wire == 0.0 && s.exposed == 0.0));
}
