//! Routers against their definition; gradients of weights and of the load-balancing loss against slopes.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::{Balance, Gating, RouteShape, Routed};
use testkit::to;

fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / total).collect()
}

/// Indices by falling value.
fn ranked(x: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
    order
}

/// The experts of one row.
fn choice(shape: &RouteShape, logits: &[f64], correction: &[f64]) -> Vec<usize> {
    let Gating::Sigmoid { groups, kept_groups, .. } = shape.gating else {
        return ranked(logits)[..shape.chosen].to_vec();
    };
    let scores: Vec<f64> = logits.iter().zip(correction).map(|(l, c)| 1.0 / (1.0 + (-l).exp()) + c).collect();
    let width = shape.experts / groups;
    let best_two = |g: &[f64]| ranked(g).iter().take(2).map(|&i| g[i]).sum::<f64>();
    let of_groups: Vec<f64> = scores.chunks(width).map(best_two).collect();
    let kept = &ranked(&of_groups)[..kept_groups];
    ranked(&scores).into_iter().filter(|e| kept.contains(&(e / width))).take(shape.chosen).collect()
}

/// Weights of given experts.
fn weights(shape: &RouteShape, logits: &[f64], chosen: &[usize]) -> Vec<f64> {
    let of = |from: &[f64]| chosen.iter().map(|&e| from[e]).collect::<Vec<f64>>();
    match shape.gating {
        Gating::Softmax => of(&softmax(logits)),
        Gating::SoftmaxOfChosen => softmax(&of(logits)),
        Gating::Sigmoid { normalise, scale, .. } => {
            let s = of(&logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect::<Vec<_>>());
            let total = if normalise { s.iter().sum() } else { 1.0 };
            s.iter().map(|s| scale * s / total).collect()
        }
    }
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    let sigmoid = |groups, kept_groups, normalise| Gating::Sigmoid { groups, kept_groups, normalise, scale: 2.4 };
    let gatings =
        [Gating::Softmax, Gating::SoftmaxOfChosen, sigmoid(1, 1, true), sigmoid(4, 2, true), sigmoid(2, 1, false)];
    for (t, experts, chosen) in [(0, 4, 2), (1, 4, 1), (5, 8, 3), (67, 64, 6), (3, 4, 4)] {
        for gating in gatings {
            let fits = match gating {
                Gating::Sigmoid { groups, kept_groups, .. } => kept_groups * (experts / groups) >= chosen,
                _ => true,
            };
            if fits {
                one(room, &RouteShape { experts, chosen, gating }, t);
            }
        }
    }
    let shape = RouteShape { experts: 4, chosen: 2, gating: Gating::Softmax };
    let equal = room.of::<B::Act>(2, 4, &[1.0, 1.0, 1.0, 1.0, 0.0, 2.0, 2.0, 1.0]);
    assert_eq!(room.backend.route(&shape, equal.view(), None).experts, [0, 1, 1, 2], "the first of equals wins");
    let broken = room.of::<B::Act>(1, 4, &[f64::NAN; 4]);
    assert_eq!(room.backend.route(&shape, broken.view(), None).experts.len(), 2, "NaN does not stop the choice");
}

fn one<B: Checkable>(room: &mut Room<B>, shape: &RouteShape, t: usize) {
    let what = |name: &str| format!("route {name}, {t} rows, {shape:?}");
    let (e, c) = (shape.experts, shape.chosen);
    let logits = room.noise::<B::Act>(t, e, 1);
    let correction = room.noise::<B::Real>(1, e, 2);
    let routed = room.backend.route(shape, logits.view(), Some(correction.view()));
    let rows = || logits.at.chunks(e);
    let chosen: Vec<Vec<usize>> = rows().map(|l| choice(shape, l, &correction.at)).collect();
    assert_eq!(routed.experts, chosen.concat().iter().map(|&e| e as u32).collect::<Vec<_>>(), "{}", what("choice"));
    let want = |logits: &[f64]| -> Vec<f64> {
        logits.chunks(e).zip(&chosen).flat_map(|(l, chosen)| weights(shape, l, chosen)).collect()
    };
    room.expect_host(&what("weights"), &routed.weights, &want(&logits.at), e);

    let counts = room.of::<B::Real>(1, t, &(0..t).map(|i| (i % 3) as f64).collect::<Vec<_>>());
    let (held, push): (Vec<B::Real>, _) = (to(&counts.at), room.noise::<B::Real>(1, e, 4));
    let load = |logits: &[f64]| -> Vec<f64> {
        let mut sum = vec![0.0; e];
        for (l, n) in logits.chunks(e).zip(&counts.at) {
            sum.iter_mut().zip(softmax(l)).for_each(|(s, p)| *s += n * p);
        }
        sum
    };
    let found = room.backend.route_load(logits.view(), &held);
    room.expect_host(&what("load"), &to::<B::Real, f64>(&found), &load(&logits.at), e);

    let dweights = room.noise::<B::Real>(t, c, 3);
    let (given, pushed): (Vec<B::Real>, Vec<B::Real>) = (to(&dweights.at), to(&push.at));
    for balanced in [false, true] {
        let balance = balanced.then_some(Balance { counts: &held, push: &pushed });
        let mut dlogits = room.blank::<B::Act>(t, e);
        let kept = Routed { experts: routed.experts.clone(), weights: routed.weights.clone() };
        room.backend.route_back(shape, logits.view(), &kept, &given, balance, dlogits.out());
        let loss = |l: &[f64]| dot(&want(l), &dweights.at) + if balanced { dot(&load(l), &push.at) } else { 0.0 };
        room.expect_slopes(&what("dlogits"), &dlogits, &logits.at, loss, e);
    }
}
