//! Every operator against its definition in double precision: awkward sizes, packed rows and rows with gaps between
//! them, gradients against slopes by differences. Generic over the backend: a new one adds its own three lines here.

mod adamw;
mod attention;
mod capped;
mod embed;
mod gates;
mod gemm;
#[cfg(feature = "cuda-tests")]
mod gpu;
mod grouped;
mod head;
mod latent;
mod rmsnorm;
mod room;
mod rope;
mod route;
mod rows;
mod scale;
mod sink;

use kernels::tampered::{Fault, Tampered};
use kernels::timed::Timed;
use kernels::{Backend, Cpu, Memory};
use room::Room;
use std::panic::{AssertUnwindSafe, catch_unwind};
use testkit::Float;

/// A backend whose elements the tests can convert.
trait Checkable: Backend + Memory<Act: Float, Real: Float> {}
impl<B: Backend + Memory<Act: Float, Real: Float>> Checkable for B {}

/// An operator's name and its check.
type Operator<B> = (&'static str, fn(&mut Room<B>));

/// All of them.
fn operators<B: Checkable>() -> [Operator<B>; 17] {
    [
        ("linear", gemm::check),
        ("stored weights", gemm::check_stored),
        ("rmsnorm", rmsnorm::check),
        ("rope", rope::check),
        ("attention", attention::check),
        ("embed", embed::check),
        ("head", head::check),
        ("rows", rows::check),
        ("adamw", adamw::check),
        ("grouped", grouped::check),
        ("route", route::check),
        ("scale", scale::check),
        ("glu", gates::check),
        ("clamped glu", gates::check_clamped),
        ("latent keys", latent::check),
        ("sink", sink::check),
        ("capped head", capped::check),
    ]
}

/// Checks an operator, and returns all that it computed.
fn check<B: Checkable>(backend: &B, (_, check): Operator<B>) -> Vec<f64> {
    let mut computed = Vec::new();
    for gap in [0, 3] {
        let mut room = Room::new(backend, gap);
        check(&mut room);
        computed.extend(room.computed);
    }
    computed
}

/// Checks every operator, and returns all that each computed.
fn conformance<B: Checkable>(backend: &B) -> Vec<(&'static str, Vec<f64>)> {
    operators().into_iter().map(|operator| (operator.0, check(backend, operator))).collect()
}

#[test]
fn the_cpu_in_double_precision_equals_the_definitions() {
    conformance(&Cpu::<f64>::new(2));
}

#[test]
fn the_cpu_in_single_precision_equals_the_definitions() {
    conformance(&Cpu::<f32>::new(2));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let bits = |threads| {
        let computed = conformance(&Cpu::<f32>::new(threads)).into_iter();
        computed
            .map(|(name, values)| (name, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    let one = bits(1);
    for threads in [2, 3] {
        for ((name, one), (_, more)) in one.iter().zip(bits(threads)) {
            assert!(one.len() > 100 && *one == more, "{name}: {threads} threads give other bits than one");
        }
    }
}

#[test]
fn measuring_an_operator_does_not_change_a_bit_and_misses_none() {
    let bits =
        |(name, values): (&'static str, Vec<f64>)| (name, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    let timed = Timed::new(Cpu::<f32>::new(2));
    let measured: Vec<_> = conformance(&timed).into_iter().map(bits).collect();
    drop(timed.zeros::<f32>(64, 64));
    let times = timed.take();
    let bare: Vec<_> = conformance(&timed.inner).into_iter().map(bits).collect();
    assert!(measured == bare, "a measured operator gives other bits");
    for (i, (operator, time)) in times.into_iter().enumerate() {
        assert!(operator as usize == i && !time.is_zero(), "{operator:?} was not measured");
    }
    assert!(timed.take().iter().all(|(_, time)| time.is_zero()), "sums start anew");
}

#[test]
fn an_error_of_a_thousandth_in_any_backward_operator_is_noticed() {
    let cpu = Cpu::<f64>::new(2);
    let mut unnoticed: Vec<Fault> = Fault::DENSE.into_iter().chain(Fault::SPECIAL).collect();
    for operator in operators() {
        let sound = Tampered::new(cpu.clone(), Fault::LinearDx, 1.0);
        check(&sound, operator);
        let left = unnoticed.clone();
        for fault in left.into_iter().filter(|&fault| sound.has_reached(fault)) {
            let spoilt = Tampered::new(cpu.clone(), fault, 1.001);
            let noticed = catch_unwind(AssertUnwindSafe(|| check(&spoilt, operator))).is_err();
            unnoticed.retain(|&left| left != fault || !noticed);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} go through");
}
