//! Metrics of a task: those of the harness under its names, and what one needs to believe them.

use crate::marks::{Mark, Marked, Marks};
use crate::samples::Finish;
use crate::stats::{Estimate, mean_share, wilson};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known about the answers to a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Rows.
    pub num_samples: usize,
    /// Answers.
    pub num_scores: usize,
    /// Rows whose last answer holds nothing to grade.
    pub empty_samples: usize,
    /// The harness's accuracy, of 1: of the first answer to each row.
    pub acc: f64,
    /// Mean accuracy over all answers with its 95 % interval, rows being independent.
    pub mean_acc: Estimate,
    /// The same by what is mathematically right.
    pub strict_acc: Estimate,
    /// `(k, share)`: at least one of `k` answers right, the unbiased estimate (Chen et al. 2021, arXiv 2107.03374).
    pub pass_at: Vec<(usize, f64)>,
    /// `(k, share)`: the most frequent of the first `k` answers right.
    pub maj_at: Vec<(usize, f64)>,
    /// Accuracy by the rows' `type`, where they have one.
    pub type_acc: BTreeMap<String, f64>,
    /// Tokens of the answers.
    pub tokens: Lengths,
    /// Share of answers that were cut off at their greatest length.
    pub truncated: f64,
    /// Answers that never began as the prompt fills the model's positions.
    pub no_room: usize,
}

/// A distribution of lengths in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lengths {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: usize,
    /// Ninth decile.
    pub p90: usize,
    /// Greatest.
    pub max: usize,
}

/// Numbers of answers that pass@k and maj@k are given for.
const KS: [usize; 10] = [1, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Of these the harness always writes the first three.
const ALWAYS: usize = 3;

impl Metrics {
    /// Of marks with at least one row.
    pub fn of(marks: &Marks) -> Self {
        let rows = &marks.rows;
        assert!(!rows.is_empty(), "metrics of no rows");
        let n = rows[0].marks.len();
        let share = |of: &dyn Fn(&Mark) -> bool| -> Vec<f64> {
            rows.iter().map(|row| row.marks.iter().filter(|mark| of(mark)).count() as f64 / n as f64).collect()
        };
        let (qwen, strict) = (share(&|mark| mark.qwen.verdict), share(&|mark| mark.strict.verdict));
        let of_rows = |of: &dyn Fn(&Marked) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        let right = |row: &Marked| row.marks.iter().filter(|mark| mark.qwen.verdict).count();
        let some = KS.iter().copied().filter(|k| *k <= n);
        let every = some.clone().chain((!KS.contains(&n)).then_some(n));
        let finished = |finish: Finish| {
            let of_row = |row: &Marked| row.samples.iter().filter(|sample| sample.finish == finish).count();
            rows.iter().map(of_row).sum::<usize>()
        };
        Self {
            num_samples: rows.len(),
            num_scores: rows.len() * n,
            empty_samples: rows.iter().filter(|row| row.marks[n - 1].qwen.normalised.is_empty()).count(),
            acc: of_rows(&|row| f64::from(u8::from(row.marks[0].qwen.verdict))),
            mean_acc: estimate(&qwen, n),
            strict_acc: estimate(&strict, n),
            pass_at: some.map(|k| (k, of_rows(&|row| pass_at(n, right(row), k)))).collect(),
            maj_at: every.filter(|k| *k > 1).map(|k| (k, of_rows(&|row| majority(&row.marks[..k])))).collect(),
            type_acc: by_type(rows),
            tokens: Lengths::of(rows.iter().flat_map(|row| row.samples.iter().map(|sample| sample.tokens)).collect()),
            truncated: finished(Finish::Length) as f64 / (rows.len() * n) as f64,
            no_room: finished(Finish::NoRoom),
        }
    }

    /// As it is written to `_metrics.json`: the harness's keys first, accuracies in percent.
    pub fn json(&self, took: Duration, identity: &Value) -> Value {
        let percent = |x: f64| round(100.0 * x, 5);
        let interval = |e: &Estimate| json!([percent(e.low), percent(e.high)]);
        let mut pass = Map::new();
        for k in KS.iter().copied().take(ALWAYS) {
            pass.insert(format!("pass@{k}"), json!("Not enough samples (n < k)"));
        }
        self.pass_at.iter().for_each(|(k, x)| drop(pass.insert(format!("pass@{k}"), json!(percent(*x)))));
        let maj: Map<_, _> = self.maj_at.iter().map(|(k, x)| (format!("maj@{k}"), json!(percent(*x)))).collect();
        let seconds = took.as_secs_f64();
        let mut out = json!({
            "num_samples": self.num_samples,
            "num_scores": self.num_scores,
            "timeout_samples": 0,
            "empty_samples": self.empty_samples,
            "acc": percent(self.acc),
            "pass@k": pass,
            "maj@k": maj,
        });
        if !self.type_acc.is_empty() {
            let types: Map<_, _> = self.type_acc.iter().map(|(k, x)| (k.clone(), json!(round(100.0 * x, 1)))).collect();
            out["type_acc"] = json!(types);
        }
        let more = json!({
            "time_use_in_second": round(seconds, 3),
            // The harness's spelling.
            "time_use_in_minite": format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60),
            "mean_acc": percent(self.mean_acc.value),
            "mean_acc_ci95": interval(&self.mean_acc),
            "strict_acc": percent(self.strict_acc.value),
            "strict_acc_ci95": interval(&self.strict_acc),
            "tokens": {
                "mean": round(self.tokens.mean, 2),
                "median": self.tokens.median,
                "p90": self.tokens.p90,
                "max": self.tokens.max,
            },
            "truncated": percent(self.truncated),
            "no_room_samples": self.no_room,
            "evaluation": identity,
        });
        if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
            out.extend(more);
        }
        out
    }
}

impl Lengths {
    fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let n = lengths.len();
        if n == 0 {
            return Self::default();
        }
        let mean = lengths.iter().sum::<usize>() as f64 / n as f64;
        Self { mean, median: lengths[(n - 1) / 2], p90: lengths[(n - 1) * 9 / 10], max: lengths[n - 1] }
    }
}

/// Wilson's interval where each row has one answer; else rows are the units.
fn estimate(shares: &[f64], n: usize) -> Estimate {
    match n {
        1 => wilson(shares.iter().filter(|share| **share == 1.0).count(), shares.len()),
        _ => mean_share(shares),
    }
}

/// `1 - C(n - c, k) / C(n, k)`.
fn pass_at(n: usize, c: usize, k: usize) -> f64 {
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// 1 where the most frequent answer is right, the first of equals; empty answers do not vote.
fn majority(marks: &[Mark]) -> f64 {
    let mut votes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (i, mark) in marks.iter().enumerate().filter(|(_, mark)| !mark.qwen.normalised.is_empty()) {
        votes.entry(&mark.qwen.normalised).or_insert((0, i)).0 += 1;
    }
    let winner = votes.values().max_by_key(|(count, first)| (*count, std::cmp::Reverse(*first)));
    winner.map_or(0.0, |(_, first)| f64::from(u8::from(marks[*first].qwen.verdict)))
}

fn by_type(rows: &[Marked]) -> BTreeMap<String, f64> {
    let mut types: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for row in rows {
        if let Some(Value::String(name)) = row.item.row.get("type") {
            let (right, all) = types.entry(name.clone()).or_default();
            *right += usize::from(row.marks[row.marks.len() - 1].qwen.verdict);
            *all += 1;
        }
    }
    types.into_iter().map(|(name, (right, all))| (name, right as f64 / all as f64)).collect()
}

pub(crate) fn round(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::Gold;
    use crate::samples::{Sample, Samples};
    use crate::{Item, Task};

    fn marks(golds: &[&str], answers: &[&[&str]]) -> Marks {
        let item = |(idx, gold): (i64, &&str)| {
            let gold = Gold { answer: gold.to_string(), normalised: gold.to_string(), solution: String::new() };
            let row = json!({"type": if idx == 0 { "a" } else { "b" }});
            Item { idx, question: "?".into(), gold, row: row.as_object().unwrap().clone() }
        };
        let items = (0..).zip(golds).map(item).collect();
        let task = Task { name: "t".into(), rules: "gsm8k".into(), items, hash: String::new() };
        let mut samples = Samples::new();
        for (row, texts) in (0..).zip(answers) {
            for (k, text) in texts.iter().enumerate() {
                let finish = if text.is_empty() { Finish::Length } else { Finish::Stop };
                let text = if text.is_empty() { String::new() } else { format!("\\boxed{{{text}}}") };
                samples.insert((row, k), Sample { tokens: text.len(), text, finish });
            }
        }
        Marks::of(&task, &samples, answers[0].len(), 2)
    }

    #[test]
    fn accuracy_is_that_of_the_first_answers_and_the_mean_of_all() {
        let metrics = Metrics::of(&marks(&["1", "2"], &[&["1", "1", "3", "1"], &["3", "2", "3", ""]]));
        assert_eq!((metrics.acc, metrics.mean_acc.value, metrics.num_scores), (0.5, 0.5, 8));
        assert_eq!(metrics.pass_at, [(1, 0.5), (4, 1.0)]);
        assert_eq!(metrics.maj_at, [(4, 0.5)]);
        assert_eq!((metrics.empty_samples, metrics.truncated), (1, 0.125));
        assert_eq!(metrics.type_acc, BTreeMap::from([("a".into(), 1.0), ("b".into(), 0.0)]));
        let json = metrics.json(Duration::from_secs(61), &json!({}));
        assert_eq!((&json["acc"], &json["time_use_in_minite"]), (&json!(50.0), &json!("1:01")));
        assert_eq!(json["pass@k"]["pass@8"], "Not enough samples (n < k)");
    }

    #[test]
    fn pass_at_k_is_the_unbiased_estimate() {
        // Of 5 answers 2 right: 1 - C(3, 2) / C(5, 2) = 0.7.
        assert!((pass_at(5, 2, 2) - 0.7).abs() < 1e-12);
        assert_eq!((pass_at(5, 0, 3), pass_at(5, 3, 3)), (0.0, 1.0));
    }

    #[test]
    fn one_answer_to_a_row_has_wilsons_interval() {
        let metrics = Metrics::of(&marks(&["1", "2"], &[&["1"], &["1"]]));
        assert_eq!(metrics.mean_acc, wilson(1, 2));
        assert!(metrics.maj_at.is_empty());
    }
}
