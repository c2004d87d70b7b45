//! From families (a prompt and its answers) to packs under a token budget.

use crate::{Pack, Target};
use std::collections::HashMap;

/// One continuation of a family's prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Tokens after the prompt.
    pub tokens: &'a [u32],
    /// Which of `tokens` are scored; `None`: all that have a token before them.
    pub scored: Option<&'a [bool]>,
    /// The caller's number of this sequence.
    pub sequence: u32,
    /// Whether the sequence's log-probability will be differentiated.
    pub grad: bool,
}

/// A prompt and everything that continues it in this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family<'a> {
    /// Shared tokens; may be empty, then there is exactly one answer.
    pub prompt: &'a [u32],
    /// Continuations, in the caller's order.
    pub answers: Vec<Answer<'a>>,
}

impl Family<'_> {
    /// Rows the family takes in a pack.
    pub fn num_rows(&self) -> usize {
        self.prompt.len() + self.answers.iter().map(|a| a.tokens.len().saturating_sub(1)).sum::<usize>()
    }
}

/// Groups `(prompt, answer)` rows by prompt, in order of first appearance; with `share` off every row is its own family.
pub fn families_of_rows<'a>(rows: impl IntoIterator<Item = (&'a [u32], Answer<'a>)>, share: bool) -> Vec<Family<'a>> {
    let mut families: Vec<Family<'a>> = Vec::new();
    let mut by_prompt: HashMap<&'a [u32], usize> = HashMap::new();
    for (prompt, answer) in rows {
        let known = if share && !prompt.is_empty() { by_prompt.get(prompt).copied() } else { None };
        match known {
            Some(f) => families[f].answers.push(answer),
            None => {
                by_prompt.insert(prompt, families.len());
                families.push(Family { prompt, answers: vec![answer] });
            }
        }
    }
    families
}

/// Cuts families into packs of at most `budget` rows (a family that alone exceeds it is split between its answers, and
/// failing that gets a pack of its own).
///
/// All in the caller's order when one pack holds them; else first-fit in descending size. The result depends on the families and the
/// budget only, never on how a step was cut into micro-batches.
pub fn plan_packs(families: &[Family], budget: usize) -> Vec<Pack> {
    plan_packs_with(families, budget, Last::Left)
}

/// What becomes of the last token of a sequence with gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It predicts nothing that is scored, so it is no row.
    Left,
    /// It is a row all the same: a load-balancing loss counts it.
    Kept,
}

/// As [`plan_packs`], with a say on last tokens. Rows of kept ones are not counted against the budget.
pub fn plan_packs_with(families: &[Family], budget: usize, last: Last) -> Vec<Pack> {
    let mut pieces: Vec<Family> = Vec::new();
    for family in families {
        split(family, budget, &mut pieces);
    }
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    if pieces.iter().map(Family::num_rows).sum::<usize>() > budget {
        order.sort_by_key(|&i| std::cmp::Reverse(pieces[i].num_rows()));
    }
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in order {
        let rows = pieces[i].num_rows();
        match bins.iter_mut().find(|(used, _)| used + rows <= budget) {
            Some((used, members)) => {
                *used += rows;
                members.push(i);
            }
            None => bins.push((rows, vec![i])),
        }
    }
    bins.into_iter().map(|(_, members)| pack(members.iter().map(|&i| &pieces[i]), last)).collect()
}

/// Cuts a family whose answers do not fit together into several that repeat the prompt.
fn split<'a>(family: &Family<'a>, budget: usize, pieces: &mut Vec<Family<'a>>) {
    let mut piece = Family { prompt: family.prompt, answers: Vec::new() };
    let mut rows = family.prompt.len();
    for answer in &family.answers {
        let more = answer.tokens.len().saturating_sub(1);
        if !piece.answers.is_empty() && rows + more > budget {
            pieces.push(std::mem::replace(&mut piece, Family { prompt: family.prompt, answers: Vec::new() }));
            rows = family.prompt.len();
        }
        rows += more;
        piece.answers.push(answer.clone());
    }
    pieces.push(piece);
}

/// Lays families out as one pack.
///
/// The first answer with gradient is merged with its prompt into one segment; further answers continue that segment's
/// prompt rows. Without any gradient the prompt is a base segment by itself and the answers lie in the tail.
fn pack<'a>(families: impl Iterator<Item = &'a Family<'a>>, last: Last) -> Pack {
    let mut out = Pack::default();
    // Targets without gradient, and whether their row counts from the start of the tail.
    let mut ungraded: Vec<(Target, bool)> = Vec::new();
    let mut joined = Vec::new();
    for family in families {
        let prompt = family.prompt;
        assert!(!prompt.is_empty() || family.answers.len() == 1, "answers without a prompt cannot share one");
        let main = if prompt.is_empty() { Some(0) } else { family.answers.iter().position(|a| a.grad) };
        joined.clear();
        joined.extend_from_slice(prompt);
        if let Some(main) = main {
            joined.extend_from_slice(inputs(&family.answers[main], last));
        }
        let rows = out.base.push(&joined, 0..0);
        let context = rows.start..rows.start + prompt.len();
        let graded = family.answers.iter().filter(|a| a.grad).count() as u32;
        out.graded.push((context.clone(), graded));
        out.graded.push((context.end..rows.end, graded.min(1)));
        for (i, answer) in family.answers.iter().enumerate() {
            let (own, in_tail) = if Some(i) == main {
                (context.end, false)
            } else if answer.grad {
                let own = out.base.push(inputs(answer, last), context.clone());
                out.graded.push((own.clone(), 1));
                (own.start, false)
            } else {
                (out.tail.push(inputs(answer, last), context.clone()).start, true)
            };
            for (k, &token) in answer.tokens.iter().enumerate() {
                let first = k == 0;
                if (first && prompt.is_empty()) || answer.scored.is_some_and(|s| !s[k]) {
                    continue;
                }
                let row = if first { context.end - 1 } else { own + k - 1 } as u32;
                let target = Target { row, token, sequence: answer.sequence };
                match answer.grad {
                    true => out.targets.push(target),
                    false => ungraded.push((target, in_tail && !first)),
                }
            }
        }
    }
    out.num_grad_targets = out.targets.len();
    let base = out.base.len() as u32;
    out.targets.extend(ungraded.into_iter().map(|(t, tail)| Target { row: t.row + if tail { base } else { 0 }, ..t }));
    // Base rows before tail rows; a sequence's own targets stay in order.
    out.targets[out.num_grad_targets..].sort_by_key(|t| t.row);
    out
}

/// The tokens of an answer that are rows: all, or all but the last.
fn inputs<'a>(answer: &Answer<'a>, last: Last) -> &'a [u32] {
    let kept = answer.grad && last == Last::Kept;
    &answer.tokens[..answer.tokens.len().saturating_sub(usize::from(!kept))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tokens: &[u32], sequence: u32, grad: bool) -> Answer<'_> {
        Answer { tokens, scored: None, sequence, grad }
    }

    /// What a target sees: the tokens on its path, oldest first, and the token it scores.
    fn history(pack: &Pack, t: &Target) -> (Vec<u32>, u32) {
        let (part, row) = match (t.row as usize).checked_sub(pack.base.len()) {
            Some(r) => (&pack.tail, r),
            None => (&pack.base, t.row as usize),
        };
        let s = part.segments.iter().find(|s| s.rows.contains(&row)).unwrap();
        let mut path = pack.base.tokens[s.context.clone()].to_vec();
        path.extend(&part.tokens[s.rows.start..=row]);
        assert_eq!(part.positions[row] as usize + 1, path.len());
        (path, t.token)
    }

    #[test]
    fn every_target_sees_exactly_its_own_sequence_so_far() {
        let (x, y1, y2, k) = ([1, 2, 3], [10, 11, 12], [20], [30, 31]);
        let family =
            Family { prompt: &x, answers: vec![answer(&y1, 0, true), answer(&y2, 1, true), answer(&k, 2, false)] };
        let text = [5, 6, 7];
        let plain = Family { prompt: &[], answers: vec![answer(&text, 3, true)] };
        let packs = plan_packs(&[family, plain], 100);
        assert_eq!(packs.len(), 1);
        let pack = &packs[0];
        assert_eq!((pack.base.len(), pack.tail.len(), pack.num_grad_targets), (5 + 2, 1, 3 + 1 + 2));
        let mut seen: Vec<(u32, Vec<u32>, u32)> = pack
            .targets
            .iter()
            .map(|t| {
                let (h, w) = history(pack, t);
                (t.sequence, h, w)
            })
            .collect();
        seen.sort();
        let want = vec![
            (0, vec![1, 2, 3], 10),
            (0, vec![1, 2, 3, 10], 11),
            (0, vec![1, 2, 3, 10, 11], 12),
            (1, vec![1, 2, 3], 20),
            (2, vec![1, 2, 3], 30),
            (2, vec![1, 2, 3, 30], 31),
            (3, vec![5], 6),
            (3, vec![5, 6], 7),
        ];
        assert_eq!(seen, want);
        assert!(
            pack.targets[..pack.num_grad_targets].iter().all(|t| t.sequence != 2 && (t.row as usize) < pack.base.len())
        );
    }

    #[test]
    fn packs_respect_the_budget_and_lose_nothing() {
        let tokens: Vec<u32> = (0..200).collect();
        let families: Vec<Family> = (0..40)
            .map(|i| Family {
                prompt: &tokens[..1 + i % 7],
                answers: (0..1 + i % 4)
                    .map(|a| answer(&tokens[..2 + (i * a) % 9], (i * 4 + a) as u32, a % 2 == 0))
                    .collect(),
            })
            .collect();
        for budget in [1, 16, 33, 1000] {
            let packs = plan_packs(&families, budget);
            let count = |p: &Pack| p.targets.len();
            assert_eq!(
                packs.iter().map(count).sum::<usize>(),
                families.iter().flat_map(|f| &f.answers).map(|a| a.tokens.len()).sum::<usize>()
            );
            for pack in &packs {
                assert!(pack.num_rows() <= budget || pack.base.segments.len() + pack.tail.segments.len() <= 2);
                pack.targets.iter().for_each(|t| drop(history(pack, t)));
            }
        }
    }

    #[test]
    fn masked_tokens_are_rows_but_not_targets() {
        let text = [5, 6, 7, 8];
        let mask = [false, false, true, false];
        let family = Family {
            prompt: &[],
            answers: vec![Answer { tokens: &text, scored: Some(&mask), sequence: 0, grad: true }],
        };
        let pack = &plan_packs(&[family], 10)[0];
        assert_eq!((pack.base.len(), pack.targets.clone()), (3, vec![Target { row: 1, token: 7, sequence: 0 }]));
    }

    #[test]
    fn sharing_off_keeps_rows_apart() {
        let x = [1, 2];
        let rows = || [(&x[..], answer(&[3, 4], 0, true)), (&x[..], answer(&[5, 6], 1, true))];
        assert_eq!(families_of_rows(rows(), true).len(), 1);
        assert_eq!(families_of_rows(rows(), false).len(), 2);
    }
}
