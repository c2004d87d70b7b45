//! AdamW over an arena: two moments beside the values, weight decay on the ranges that want it.

use kernels::{AdamwStep, Backend, Mat};
use std::ops::Range;

/// Settings that do not change during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, applied to ranges that want it.
    pub weight_decay: f64,
}

/// A range of the arena, and whether weight decay applies to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Elements.
    pub range: Range<usize>,
    /// Whether weight decay applies.
    pub decay: bool,
}

/// Joins neighbouring ranges with the same decay: one launch each.
pub fn groups(params: impl IntoIterator<Item = (Range<usize>, bool)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (range, decay) in params {
        match groups.last_mut() {
            Some(last) if last.decay == decay && last.range.end == range.start => last.range.end = range.end,
            _ => groups.push(Group { range, decay }),
        }
    }
    groups
}

/// The optimiser's state.
pub struct AdamW<B: Backend> {
    settings: Settings,
    groups: Vec<Group>,
    /// The elements it updates; all of the arena unless other ranks have the rest.
    range: Range<usize>,
    /// First moments, `[1, n]`.
    pub m: Mat<B, B::Real>,
    /// Second moments, `[1, n]`.
    pub v: Mat<B, B::Real>,
    /// Updates done.
    pub steps: u64,
}

impl<B: Backend> AdamW<B> {
    /// For an arena of `len` elements.
    pub fn new(backend: &B, len: usize, settings: Settings, groups: Vec<Group>) -> AdamW<B> {
        AdamW::of_range(backend, 0..len, settings, groups)
    }

    /// For some elements of an arena, whose groups are given as for all of it. Moments are those of `range` alone.
    pub fn of_range(backend: &B, range: Range<usize>, settings: Settings, groups: Vec<Group>) -> AdamW<B> {
        let within = |g: Group| {
            let (start, end) = (g.range.start.max(range.start), g.range.end.min(range.end));
            (start < end).then_some(Group { range: start..end, decay: g.decay })
        };
        let groups = groups.into_iter().filter_map(within).collect();
        let (m, v) = (backend.zeros(1, range.len()), backend.zeros(1, range.len()));
        AdamW { settings, groups, range, m, v, steps: 0 }
    }

    /// The elements it updates.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// One update of `values`, the whole arena; `grads` are those of the optimiser's range, and are multiplied by `grad_scale` first.
    pub fn update(
        &mut self,
        backend: &B,
        values: &mut Mat<B, B::Real>,
        grads: &Mat<B, B::Real>,
        learning_rate: f64,
        grad_scale: f64,
    ) {
        self.steps += 1;
        let Settings { beta1, beta2, epsilon, weight_decay } = self.settings;
        for Group { range, decay } in &self.groups {
            let weight_decay = if *decay { weight_decay } else { 0.0 };
            let step = AdamwStep { learning_rate, beta1, beta2, epsilon, weight_decay, step: self.steps, grad_scale };
            let own = range.start - self.range.start..range.end - self.range.start;
            let (p, m, v) =
                (values.out().cols(range.clone()), self.m.out().cols(own.clone()), self.v.out().cols(own.clone()));
            backend.adamw(&step, p.into_acc(), grads.view().cols(own), m.into_acc(), v.into_acc());
        }
    }
}

/// The factor that clips a gradient of norm `norm` to `max_norm`, as `torch.nn.utils.clip_grad_norm_` does: never above 1;
/// a `max_norm` of 0 disables.
pub fn clip(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
