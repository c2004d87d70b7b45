//! Every layer by itself in double precision: gradients against slopes by differences, and the proof that a wrong
//! backward operator would be noticed.

mod case;
mod layers;
mod shelf;
mod special;

use kernels::tampered::{Fault, Tampered};
use kernels::{Cpu, Memory};

/// Slopes agree with right gradients to about 1e-10 and with ones wrong by a thousandth to about 1e-4.
const RIGHT: f64 = 1e-8;
const WRONG: f64 = 1e-6;

#[test]
fn every_layers_gradient_equals_the_slopes_of_its_output() {
    let cpu = Cpu::<f64>::new(2);
    for layer in layers::all::<Cpu<f64>>() {
        let gap = layer.gap(&cpu);
        assert!(gap < RIGHT, "{}: gradient and slope differ by {gap:.1e}", layer.name);
    }
}

#[test]
fn an_error_planted_in_any_backward_operator_is_noticed() {
    let mut planted = Vec::new();
    let cpu = Cpu::new(1);
    for layer in layers::all::<Tampered<Cpu<f64>>>() {
        let sound = Tampered::new(cpu.clone(), Fault::LinearDx, 1.0);
        layer.gradient(&sound);
        for fault in faults() {
            let (name, used) = (layer.name, layer.operators.contains(&fault));
            if !sound.has_reached(fault) {
                assert!(!used, "{name} does not come by {fault:?}");
                continue;
            }
            for factor in [1.001, -1.0] {
                let gap = layer.gap(&Tampered::new(cpu.clone(), fault, factor));
                assert!(!used || gap > WRONG, "{name}: {fault:?} times {factor} goes through, gap {gap:.1e}");
                assert!(used || gap < RIGHT, "{name} has nothing to do with {fault:?}, yet the gap is {gap:.1e}");
            }
        }
        planted.extend(layer.operators);
    }
    // The embedding and the head belong to the whole decoder.
    let heads = [Fault::HeadUnit, Fault::HeadDh, Fault::HeadDw, Fault::CappedUnit, Fault::CappedDh, Fault::CappedDw];
    let elsewhere = [&heads[..], &[Fault::EmbedBack]].concat();
    assert!(faults().all(|fault| planted.contains(&fault) != elsewhere.contains(&fault)));
}

fn faults() -> impl Iterator<Item = Fault> {
    Fault::DENSE.into_iter().chain(Fault::SPECIAL)
}

#[test]
fn a_recomputed_block_has_the_gradient_of_a_kept_one_bit_for_bit() {
    let cpu = Cpu::<f64>::new(2);
    let gradient = |name: &str| {
        let layer = layers::all::<Cpu<f64>>().into_iter().find(|layer| layer.name == name).unwrap();
        layer.gradient(&cpu)
    };
    assert!(gradient("block, kept") == gradient("block, recomputed"));
    let wanted = "block of which some rows are wanted";
    assert!(gradient(&format!("{wanted}, kept")) == gradient(&format!("{wanted}, recomputed")));
    assert!(gradient("block with adapters, kept") == gradient("block with adapters, recomputed"));
}

#[test]
fn the_lowest_block_gives_its_parameters_the_same_gradient_without_going_below() {
    let cpu = Cpu::<f64>::new(2);
    let (below, lowest) = (layers::block_parameters::<Cpu<f64>>(&cpu, true), layers::block_parameters(&cpu, false));
    assert!(!below.is_empty() && below == lowest);
}

#[test]
fn adapters_that_are_off_leave_the_base_layer() {
    let cpu = Cpu::<f64>::new(2);
    let run = |name: &str| {
        let layer = layers::all::<Cpu<f64>>().into_iter().find(|layer| layer.name == name).unwrap();
        let (y, _, dx) = layer.run(&cpu, &layer.start, true);
        (y, dx)
    };
    assert!(run("frozen linear") == run("linear with its adapter off"));
    assert!(run("frozen linear") != run("linear with an adapter"));
}

/// What every layer's output may be checked against on any such backend.
trait Double: kernels::Backend + Memory<Act = f64, Real = f64> {}
impl<B: kernels::Backend + Memory<Act = f64, Real = f64>> Double for B {}
