//! The operations that the mathematics of a step needs, whoever computes it and however.
//!
//! Counted is what a step cannot do without: every distinct row once (prompts shared, no padding), the head on scored
//! rows only, in a dense model's last block nothing but keys and values of the others (of attention all pairs), no gradient
//! for frozen weights and none below the lowest trained layer. Not counted is what depends on how it is done (recomputation of
//! blocks, of attention scores, of norms) and what is small (norms, activations, AdamW).
//! One multiplication and one addition are two operations. Divided by the machine's rate of products this is the
//! shortest time that the step could take.

use crate::Job;
use crate::step::TextRow;
use model::{Adapters, Blueprint, Projection};
use pack::{Answer, Pack, families_of_rows, plan_packs};
use serde::Serialize;
use std::ops::AddAssign;

/// Floating-point operations by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Linear layers of the blocks.
    pub linear: f64,
    /// Low-rank additions to them.
    pub adapters: f64,
    /// Scores and weighted sums over visible pairs.
    pub attention: f64,
    /// Language-model head.
    pub head: f64,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.linear + self.adapters + self.attention + self.head
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.linear += other.linear;
        self.adapters += other.adapters;
        self.attention += other.attention;
        self.head += other.head;
    }
}

/// What is trained, and by which objective.
#[derive(Clone, Copy, Debug)]
pub struct Mode<'a> {
    /// The adapter; none: all weights are trained.
    pub adapters: Option<&'a Adapters>,
    /// Whether there is a reference (KTO). With an adapter it is computed in the step; without, before the first.
    pub preference: bool,
}

/// A step's work.
///
/// Per pass of a row through a linear layer `2 o i`; backward once more for `dx` and, where the weight is trained, once
/// more for `dw`. Attention per visible pair and query head `4 h` forward (scores, sum) and `8 h` backward (`dv`, `dp`,
/// `dq`, `dk`). Head per scored row `2 v d` times:
///
/// | rows | adapter | all weights |
/// |---|---|---|
/// | graded, KTO | logits, unit gradient | logits, logits again (the derivative is known after all of them), `dh`, `dw` |
/// | graded, SFT | logits, unit gradient | logits, `dh`, `dw` (the derivative is known before) |
/// | mismatched | logits | logits |
/// | reference of either | logits | none |
pub fn of_step(b: &Blueprint, packs: &[Pack], mode: Mode) -> Work {
    let mut work = Work::default();
    packs.iter().for_each(|pack| work += of_pack(b, pack, mode));
    work
}

/// Of packs that are scored once, without gradient.
pub fn of_scoring(b: &Blueprint, packs: &[Pack]) -> Work {
    let none = Adapters::default();
    let score = |pack: &Pack| {
        let ungraded = Pack { num_grad_targets: 0, ..pack.clone() };
        of_pack(b, &ungraded, Mode { adapters: Some(&none), preference: false })
    };
    let mut work = Work::default();
    packs.iter().for_each(|pack| work += score(pack));
    work
}

/// The rows of step `step`.
pub fn rows_of(job: &Job, step: usize) -> Vec<u32> {
    let (epoch, step) = job.order.locate(step);
    job.order.epoch(epoch).step(step).rows().to_vec()
}

/// A step's rows with every prompt shared, however many packs the plan cuts them into.
pub fn packs_of(job: &Job, rows: &[u32]) -> Vec<Pack> {
    if job.kto().is_none() {
        let texts: Vec<TextRow> = rows.iter().flat_map(|&unit| job.train.texts(unit)).collect();
        let answers = texts.iter().zip(0u32..).map(|(text, sequence)| {
            (&text.prompt[..], Answer { tokens: &text.tokens, scored: Some(&text.scored), sequence, grad: true })
        });
        return plan_packs(&families_of_rows(answers, true), usize::MAX);
    }
    let (data, partners) = (&job.train.data, &job.train.partners);
    let answer = |tokens, sequence, grad| Answer { tokens, scored: None, sequence, grad };
    let count = rows.len() as u32;
    let matched = rows.iter().zip(0u32..).map(|(&row, s)| {
        let row = row as usize;
        (data.prompt(row), answer(data.completion(row), s, true))
    });
    let mismatched = rows.iter().zip(count..).map(|(&row, s)| {
        let (row, partner) = (row as usize, partners[row as usize] as usize);
        (data.prompt(row), answer(data.mismatched_completion(row, partner), s, false))
    });
    plan_packs(&families_of_rows(matched.chain(mismatched), true), usize::MAX)
}

fn of_pack(b: &Blueprint, pack: &Pack, mode: Mode) -> Work {
    let all = [pack.num_rows() as f64, pack.base.len() as f64];
    let scored = [distinct(&pack.targets), distinct(&pack.targets[..pack.num_grad_targets])];
    let forwards = if mode.preference && mode.adapters.is_some() { 2.0 } else { 1.0 };
    let lowest = lowest_trained(b, mode.adapters);
    let base_only = pack.base_only();
    let mut work = Work::default();
    for i in 0..b.layers.len() {
        for (times, p) in layers(b, i) {
            let [rows, base] =
                if i + 1 == b.layers.len() && b.experts.is_none() && !gives_keys(&p) { scored } else { all };
            let cost = times * 2.0 * (p.outputs * p.inputs) as f64;
            // Nothing trained lies below what reads the input of the lowest block that is trained.
            let dx = i > lowest || mode.adapters.is_none() || (i == lowest && !reads_input(&p));
            let dw = mode.adapters.is_none();
            work.linear += cost * (forwards * rows + base * (count(dx) + count(dw)));
            work.adapters += times * adapter(&p, mode.adapters, rows, base, dx);
        }
        let pairs = |pack: &Pack| pack.attention_pairs(b.layers[i].window) as f64;
        let per_pair = 2.0 * (b.heads * widths(b)) as f64;
        let backward = if i >= lowest { 2.0 * pairs(&base_only) } else { 0.0 };
        work.attention += per_pair * (forwards * pairs(pack) + backward);
    }
    let graded = pack.num_grad_targets as f64;
    let others = pack.targets.len() as f64 - graded;
    let products = match (mode.adapters.is_some(), mode.preference) {
        (true, true) => 3.0 * graded + 2.0 * others,
        (true, false) => 2.0 * graded + others,
        (false, true) => 4.0 * graded + others,
        (false, false) => 3.0 * graded + others,
    };
    work.head = 2.0 * (b.vocab * b.hidden) as f64 * products;
    work
}

/// The linear layers of a block, each with how often a row goes through it or its like.
fn layers(b: &Blueprint, i: usize) -> Vec<(f64, Projection)> {
    let mut all: Vec<(f64, Projection)> = b.projections(i).into_iter().map(|p| (1.0, p)).collect();
    if let (Some(spec), Some(expert)) = (b.experts_of(i), b.expert_projections(i).into_iter().next()) {
        all.extend(expert.into_iter().map(|p| (spec.route.chosen as f64, p)));
    }
    all
}

/// Whether a layer reads the block's normed input, with only a norm below it.
fn reads_input(p: &Projection) -> bool {
    let inner = ["o_proj", "q_b_proj", "kv_b_proj"];
    p.path.contains(".self_attn.") && !inner.iter().any(|leaf| p.path.ends_with(leaf))
}

/// Whether other rows see what a layer makes of a row.
fn gives_keys(p: &Projection) -> bool {
    let leaves = ["k_proj", "v_proj", "qkv_proj", "kv_a_proj_with_mqa", "kv_b_proj"];
    leaves.iter().any(|leaf| p.path.ends_with(leaf))
}

/// Rows that targets are read from.
fn distinct(targets: &[pack::Target]) -> f64 {
    targets.iter().map(|t| t.row).collect::<std::collections::BTreeSet<u32>>().len() as f64
}

/// Width of a key and of a value.
fn widths(b: &Blueprint) -> usize {
    b.latent.as_ref().map_or(2 * b.head_width, |l| l.unrotated + l.rotated + l.value)
}

fn count(needed: bool) -> f64 {
    f64::from(u8::from(needed))
}

/// `u = x Aᵀ` and `u Bᵀ` forward; `du`, `dB`, `dA` and, where it is needed, `du A` backward.
fn adapter(p: &Projection, adapters: Option<&Adapters>, rows: f64, base: f64, dx: bool) -> f64 {
    let Some(on) = adapters.and_then(|a| a.modules.get(&p.path)) else { return 0.0 };
    let (a, b) = (2.0 * (on.rank * p.inputs) as f64, 2.0 * (on.rank * p.outputs) as f64);
    rows * (a + b) + base * (2.0 * b + a * (1.0 + count(dx)))
}

/// The lowest block with something trained in it.
fn lowest_trained(b: &Blueprint, adapters: Option<&Adapters>) -> usize {
    let Some(adapters) = adapters else { return 0 };
    let on = |i: &usize| b.projections(*i).iter().any(|p| adapters.modules.contains_key(&p.path));
    (0..b.layers.len()).find(on).unwrap_or(b.layers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks: d 2, f 3, one query head of 2, one key/value head, vocabulary 5. q, k, v, o are 2 x 2, the others 3 x 2.
    fn tiny() -> Blueprint {
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": 2, "intermediate_size": 3, "num_hidden_layers": 2,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 5,
            "max_position_embeddings": 16, "tie_word_embeddings": true,
        });
        model::arch::blueprint(config.as_object().unwrap()).unwrap()
    }

    /// Prompt of 2; a graded answer of 3 (2 more rows, 3 targets) and one without gradient of 2 (1 tail row, 2 targets).
    fn packs() -> Vec<Pack> {
        let (prompt, y, k) = ([1, 2], [3, 4, 0], [4, 0]);
        let answer = |tokens, sequence, grad| Answer { tokens, scored: None, sequence, grad };
        let rows = [(&prompt[..], answer(&y[..], 0, true)), (&prompt[..], answer(&k[..], 1, false))];
        plan_packs(&families_of_rows(rows, true), usize::MAX)
    }

    // Base: 4 rows, 1 + 2 + 3 + 4 = 10 pairs. Tail: 1 row that sees 2 of the prompt and itself, 3 pairs.
    // Linear: 4 x 4 + 3 x 6 = 34 weights a block, 68 operations a row; in the last one 16 for k and v, and 52 for the others of the rows
    // that are scored: 3 of the base, and that of the tail. Attention: 4 x 2 = 8 a pair. Head: 2 x 5 x 2 = 20.

    #[test]
    fn a_full_preference_step_is_counted_as_by_hand() {
        let work = of_step(&tiny(), &packs(), Mode { adapters: None, preference: true });
        let linear = (68.0 + 16.0) * (5.0 + 4.0 * 2.0) + 52.0 * (4.0 + 3.0 * 2.0);
        let attention = 2.0 * 8.0 * (13.0 + 2.0 * 10.0);
        let head = 20.0 * (4.0 * 3.0 + 2.0);
        assert_eq!(work, Work { linear, adapters: 0.0, attention, head });
        assert_eq!(work.total(), 1612.0 + 528.0 + 280.0);
    }

    #[test]
    fn an_adapter_costs_a_second_forward_pass_and_saves_gradients() {
        let b = tiny();
        let modules = (0..2).flat_map(|i| b.projections(i)).map(|p| p.path);
        let adapters = Adapters::uniform(1, 1.0, modules);
        let work = of_step(&b, &packs(), Mode { adapters: Some(&adapters), preference: true });
        // dx of all but q, k, v of block 0: 3 x 8 operations less a row.
        let linear = 2.0 * ((68.0 + 16.0) * 5.0 + 52.0 * 4.0) + 4.0 * (68.0 - 24.0 + 16.0) + 3.0 * 52.0;
        // In and out of a block's layers: 4 x (2 + 2) + 3 x (3 + 2) = 31, 8 of them of k and v; inputs of q, k, v of block 0: 6.
        let low_rank = 2.0 * ((31.0 + 8.0) * 5.0 + 23.0 * 4.0) + 4.0 * (4.0 * (31.0 + 8.0) - 12.0) + 3.0 * 4.0 * 23.0;
        let attention = 2.0 * 8.0 * (2.0 * 13.0 + 2.0 * 10.0);
        let head = 20.0 * (3.0 * 3.0 + 2.0 * 2.0);
        assert_eq!(work, Work { linear, adapters: low_rank, attention, head });
    }

    #[test]
    fn supervised_steps_know_their_derivative_before() {
        let text = [1, 2, 3, 4];
        let answer = Answer { tokens: &text, scored: None, sequence: 0, grad: true };
        let packs = plan_packs(&families_of_rows([(&[][..], answer)], true), usize::MAX);
        let work = of_step(&tiny(), &packs, Mode { adapters: None, preference: false });
        // 3 rows, 6 pairs, 3 targets.
        assert_eq!((work.linear, work.attention, work.head), (2.0 * 68.0 * 9.0, 2.0 * 8.0 * 18.0, 20.0 * 9.0));
        let none = Adapters::default();
        let frozen = of_step(&tiny(), &packs, Mode { adapters: Some(&none), preference: false });
        assert_eq!((frozen.linear, frozen.attention, frozen.head), (2.0 * 68.0 * 3.0, 2.0 * 8.0 * 6.0, 20.0 * 6.0));
    }
}
