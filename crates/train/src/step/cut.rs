//! The rows of a step cut into packs.

use super::{Preference, TextRow};
use data::Dataset;
use pack::{Answer, Family, Last, Pack, families_of_rows, plan_packs_with};

/// How rows are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Most rows of a pack.
    pub(crate) budget_rows: usize,
    /// Compute a prompt once for all its answers.
    pub(crate) share_prompts: bool,
    /// Whether the last token of a sequence is a row.
    pub(crate) last: Last,
}

impl Cut {
    /// Packs of a preference group: sequence `s` is row `s`, sequence `m + s` its prompt with its partner's completion.
    pub(crate) fn preference(&self, data: &Dataset, rows: &[u32], preference: &Preference) -> Vec<Pack> {
        let m = rows.len() as u32;
        let matched = rows.iter().zip(0u32..).map(|(&row, s)| {
            let row = row as usize;
            (data.prompt(row), Answer { tokens: data.completion(row), scored: None, sequence: s, grad: true })
        });
        let mismatched = rows.iter().zip(m..).filter(|_| preference.loss.needs_z0()).map(|(&row, s)| {
            let (row, partner) = (row as usize, preference.partners[row as usize] as usize);
            let tokens = data.mismatched_completion(row, partner);
            (data.prompt(row), Answer { tokens, scored: None, sequence: s, grad: false })
        });
        self.packs(&families_of_rows(matched.chain(mismatched), self.share_prompts))
    }

    /// Packs of text: sequence `s` is row `s`.
    pub(crate) fn text(&self, rows: &[TextRow]) -> Vec<Pack> {
        let answers = rows.iter().zip(0u32..).map(|(r, s)| {
            let answer = Answer { tokens: &r.tokens, scored: Some(&r.scored), sequence: s, grad: true };
            (&r.prompt[..], answer)
        });
        self.packs(&families_of_rows(answers, self.share_prompts))
    }

    fn packs(&self, families: &[Family]) -> Vec<Pack> {
        plan_packs_with(families, self.budget_rows, self.last)
    }
}
