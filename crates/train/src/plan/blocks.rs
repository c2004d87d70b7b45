//! What blocks keep of a forward pass: the most that fits, block by block.

use super::ranks::packs;
use super::room::of_activation;
use super::{Load, feed_forward_rows};
use crate::Job;
use crate::step::Execution;
use kernels::cuda::GRAIN;
use model::{Keep, Projection};

/// Floats per row that a block keeps, by how it keeps them, and what computing the rest again costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Blocks that keep something: those from the lowest trained one on.
    count: usize,
    /// Their inputs.
    inputs: usize,
    /// All but what the feed-forward layer saved.
    lean: usize,
    /// Everything.
    whole: usize,
    /// A lean block's share of the work of computing a whole block again.
    share: f64,
    /// Bytes of a float.
    size: usize,
}

/// Base rows that wait for backward together, and those of one pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldRows {
    pub(super) held: usize,
    pack: usize,
    /// Those of `held` that predict a target: the others have no second half in the last block.
    wanted: usize,
    /// Packs that `held` is in.
    packs: usize,
    /// Whether inputs of blocks that are computed again wait on the host.
    offload: bool,
}

/// Inputs that a GPU holds of those that wait on the host: one that goes or is used, and one that comes.
const UNDER_WAY: usize = 2;

pub(super) fn held_rows(job: &Job, load: Load, execution: Execution) -> HeldRows {
    let pack = load.base.min(execution.budget_rows);
    let one = execution.z0_first || job.kto().is_none();
    let (held, packs) = if one { (pack, 1) } else { (load.base, packs(load, execution.budget_rows)) };
    let wanted =
        if job.blueprint.experts.is_some() { held } else { held * load.targets.min(load.base) / load.base.max(1) };
    HeldRows { held, pack, wanted, packs, offload: execution.offload }
}

impl Blocks {
    pub(super) fn of(job: &Job) -> Blocks {
        let b = &job.blueprint;
        let (q, kv, f) = (b.heads * b.head_width, b.kv_heads * b.head_width, feed_forward_rows(b));
        let raw = if b.qk_norm { q + kv + b.heads + b.kv_heads } else { 0 };
        let adapters: usize = job.adapter.as_ref().map_or(0, |a| {
            let kept = |p: &Projection| {
                let on = a.adapters.modules.get(&p.path);
                on.map_or(0, |on| on.rank + if a.adapters.dora { p.outputs } else { 0 })
            };
            let layers = (0..b.layers.len()).flat_map(|i| b.projections(i));
            layers.map(|p| kept(&p)).sum::<usize>() / b.layers.len().max(1)
        });
        let whole = 2 * b.hidden + 2 * q + 2 * kv + b.heads + 2 * f + 2 + raw + adapters;
        let products = (3 * f * b.hidden + 2 * (q + kv) * b.hidden) as f64;
        // Experts are computed again as they were; a dense layer without its last product.
        let share = if b.experts.is_some() { 3 } else { 2 } as f64 * (f * b.hidden) as f64 / products;
        Blocks {
            count: b.layers.len() - lowest(job),
            inputs: b.hidden,
            lean: whole - 2 * f,
            whole,
            share,
            size: of_activation(job),
        }
    }

    /// Bytes kept for backward, and those of a block that is computed again at the worst moment.
    pub(super) fn bytes(&self, rows: HeldRows, keep: Keep) -> (u64, u64) {
        let Blocks { count, inputs, lean, whole, .. } = *self;
        let HeldRows { held, pack, wanted, offload, .. } = rows;
        let (wholes, leans) = counts(keep, count);
        let others = count - wholes - leans;
        let of_inputs = if offload { pack * others.min(UNDER_WAY) } else { held * others } * inputs;
        let floats = held * (wholes * whole + leans * lean) + of_inputs;
        // What backward has passed of the pack is free by then.
        let mut freed = wholes * (whole - inputs);
        let mut again = if leans > 0 { (whole - lean).saturating_sub(freed) } else { 0 };
        freed += leans * (lean - inputs);
        if wholes + leans < count {
            again = again.max(whole.saturating_sub(freed));
        }
        // The last block's second half reads and saves nothing of the other rows.
        let spared = if wholes > 0 { (held - wanted) * (inputs + whole - lean) } else { 0 };
        ((self.size * (floats - spared)) as u64, (self.size * pack * again) as u64)
    }

    /// Bytes of inputs that wait on the host.
    pub(super) fn on_host(&self, HeldRows { held, packs, offload, .. }: HeldRows, keep: Keep) -> u64 {
        let (wholes, leans) = counts(keep, self.count);
        let others = if offload { self.count - wholes - leans } else { 0 };
        // Each begins where a part of the pinned memory may.
        (others * (self.size * held * self.inputs + GRAIN * packs)) as u64
    }

    /// The way of keeping that costs least time and takes at most `room` bytes more than keeping inputs only.
    pub(super) fn fullest(&self, rows: HeldRows, room: u64) -> Keep {
        let total = |keep| {
            let (saved, again) = self.bytes(rows, keep);
            saved + again
        };
        let limit = total(Keep::Inputs) + room;
        let (mut best, mut spared) = (Keep::Inputs, 0.0);
        for whole in 0..=self.count {
            // The more that are lean, the more memory: the most that fit are found by halving.
            let fits = |lean: usize| total(Keep::Mixed { whole, lean }) <= limit;
            let (mut least, mut past) = (0, self.count - whole + 1);
            if !fits(0) {
                continue;
            }
            while past - least > 1 {
                let middle = (least + past) / 2;
                *(if fits(middle) { &mut least } else { &mut past }) = middle;
            }
            let spares = whole as f64 + least as f64 * (1.0 - self.share);
            if spares > spared {
                (best, spared) = (Keep::Mixed { whole, lean: least }, spares);
            }
        }
        best
    }
}

/// Blocks that keep everything, and those that keep all but what the feed-forward layer saved.
fn counts(keep: Keep, blocks: usize) -> (usize, usize) {
    match keep {
        Keep::Nothing | Keep::Inputs => (0, 0),
        Keep::All => (blocks, 0),
        Keep::Mixed { whole, lean } => (whole.min(blocks), lean.min(blocks - whole.min(blocks))),
    }
}

/// Blocks' worth of forward passes that backward makes again.
pub(crate) fn computed_again(job: &Job, keep: Keep) -> f64 {
    let blocks = Blocks::of(job);
    let (whole, lean) = counts(keep, blocks.count);
    (blocks.count - whole - lean) as f64 + lean as f64 * blocks.share
}

/// The lowest block that backward reaches.
fn lowest(job: &Job) -> usize {
    let (b, layers) = (&job.blueprint, job.blueprint.layers.len());
    match (job.tuning(), &job.adapter) {
        (model::Tuning::Blocks { first, .. }, _) => first.min(layers),
        (_, Some(a)) if !a.adapters.touches_model() => {
            let adapted = |i: &usize| {
                let mut all = b.projections(*i).into_iter().chain(b.expert_projections(*i).concat());
                all.any(|p| a.adapters.modules.contains_key(&p.path))
            };
            (0..layers).find(adapted).unwrap_or(layers)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: Blocks = Blocks { count: 4, inputs: 1, lean: 3, whole: 10, share: 0.5, size: 4 };
    const ROWS: HeldRows = HeldRows { held: 100, pack: 100, wanted: 100, packs: 1, offload: false };

    fn fullest(room: usize) -> Keep {
        BLOCKS.fullest(ROWS, 4 * 100 * room as u64)
    }

    #[test]
    fn room_that_is_there_is_used_block_by_block() {
        assert_eq!(BLOCKS.bytes(ROWS, Keep::Inputs), (1600, 4000));
        // The last block's floats are free before the others are computed again: the first that is kept costs nothing.
        assert_eq!(fullest(0), Keep::Mixed { whole: 1, lean: 0 });
        assert_eq!(fullest(1), Keep::Mixed { whole: 1, lean: 1 });
        assert_eq!(fullest(9), Keep::Mixed { whole: 1, lean: 3 });
        assert_eq!(fullest(12), Keep::Mixed { whole: 2, lean: 2 });
        assert_eq!(fullest(26), Keep::Mixed { whole: 4, lean: 0 });
    }

    #[test]
    fn of_inputs_that_wait_on_the_host_two_are_on_the_device() {
        let rows = HeldRows { held: 300, wanted: 300, packs: 3, offload: true, ..ROWS };
        assert_eq!(BLOCKS.bytes(rows, Keep::Inputs), (4 * 2 * 100, 4000));
        assert_eq!(BLOCKS.on_host(rows, Keep::Inputs), 4 * (4 * 300 + 3 * 512));
        // Blocks that keep more keep their inputs, too.
        let one = Keep::Mixed { whole: 1, lean: 2 };
        assert_eq!(BLOCKS.bytes(rows, one).0, 4 * (300 * (10 + 2 * 3) + 100));
        assert_eq!(BLOCKS.on_host(rows, one), 4 * 300 + 3 * 512);
        assert_eq!(BLOCKS.on_host(rows, Keep::All), 0);
        assert_eq!(BLOCKS.on_host(HeldRows { offload: false, ..rows }, Keep::Inputs), 0);
    }

    #[test]
    fn rows_that_predict_nothing_have_no_second_half_in_the_last_block() {
        let some = HeldRows { wanted: 60, ..ROWS };
        assert_eq!(BLOCKS.bytes(some, Keep::All).0, BLOCKS.bytes(ROWS, Keep::All).0 - 4 * 40 * 8);
        assert_eq!(BLOCKS.bytes(some, Keep::Inputs), BLOCKS.bytes(ROWS, Keep::Inputs));
    }
}
