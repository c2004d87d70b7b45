//! What was measured, as a JSON object and as tables.

use crate::arithmetic::{gigabytes, median, percent, short, table};
use crate::beside::Beside;
use crate::generation::Generation;
use crate::machine::{Machine, Rates};
use crate::operators::Operator;
use crate::plain::{Length, Plain};
use crate::planned::Planned;
use crate::runs::Run;
use crate::startup::Startup;
use crate::steps::{PARTS, Steps};
use serde::Serialize;
use std::fmt::Write;

/// Everything that one call measured.
#[derive(Serialize)]
pub(crate) struct Results {
    /// When it began, UTC.
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) rustc: String,
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    /// What computes.
    pub(crate) device: String,
    /// Mixed precision on both sides.
    pub(crate) bf16: bool,
    /// Activations are kept on both sides.
    pub(crate) keeps: bool,
    /// Which memory of programs is given.
    pub(crate) memory: &'static str,
    pub(crate) rates: Rates,
    pub(crate) operators: Vec<Operator>,
    pub(crate) attention: Vec<Beside>,
    pub(crate) runs: Vec<Run>,
    pub(crate) steps: Vec<Steps>,
    pub(crate) generation: Vec<Generation>,
    pub(crate) plain: Vec<Plain>,
    pub(crate) startup: Vec<Startup>,
    pub(crate) lengths: Vec<Length>,
    pub(crate) planned: Vec<Planned>,
}

impl Results {
    /// The folder's README.
    pub(crate) fn markdown(&self) -> String {
        let m = &self.machine;
        let mut out = format!("# Measured {}\n\n", self.date);
        let _ = writeln!(
            out,
            "{}, {} threads ({}), {} of memory, {}; commit {}; {}.\n\nLarge products: {} GFLOP/s. Large copies: {} GB/s.",
            m.cpu,
            m.cores,
            m.instruction_sets.join(", "),
            gigabytes(m.memory_bytes as f64),
            m.system,
            self.commit,
            self.rustc,
            short(self.rates.flops / 1e9),
            short(self.rates.bytes / 1e9),
        );
        if let Some(gpu) = &m.gpu {
            let libraries: Vec<String> =
                gpu.libraries.iter().map(|(name, version)| format!("{name} {version}")).collect();
            let (memory, capability) = (gigabytes(gpu.memory_bytes as f64), f64::from(gpu.capability) / 10.0);
            let libraries = if libraries.is_empty() { "no libraries".to_owned() } else { libraries.join(", ") };
            let _ =
                write!(out, "\n{}: {} with {memory}, capability {capability:.1}; {libraries}.", self.device, gpu.name);
            let _ = writeln!(out, " Memory of programs: {}.", self.memory);
        }
        if self.bf16 {
            out += "\nMixed precision, bfloat16, on both sides.\n";
        }
        if self.keeps {
            out += "\nActivations are kept on both sides.\n";
        }
        let parts = [
            ("Whole runs", self.runs(), RUNS),
            ("The same through TRL", self.peers(), PEERS),
            ("Steps against their floor", self.steps(), STEPS),
            ("A step by part", self.parts(), "Mean milliseconds of a step."),
            ("Generation", self.generation(), GENERATION),
            ("A plain loop", self.plain(), PLAIN),
            ("Start-up", self.startup(), "Milliseconds: the first time, and the median of later ones."),
            ("Time per token by length", self.lengths(), LENGTHS),
            ("Plans and runs", self.planned(), PLANNED),
            ("Attention beside PyTorch's", self.attention(), ATTENTION),
            ("Operators", self.operators(), OPERATORS),
        ];
        for (title, table, legend) in parts {
            if let Some(table) = table {
                let _ = write!(out, "\n## {title}\n\n{table}\n{legend}\n");
            }
        }
        out
    }

    fn runs(&self) -> Option<String> {
        let row = |r: &Run| {
            let peak = r.ours(|o| o.peak_bytes);
            vec![
                case(&r.model, r.objective, r.tuning, r.batch),
                short(r.ours(|o| o.rows_per_second)),
                short(r.ours(|o| o.step_rows_per_second)),
                short(r.ours(|o| o.tokens_per_second)),
                gigabytes(peak),
                gigabytes(r.planned_bytes),
                percent(r.planned_bytes / peak),
            ]
        };
        let head = ["run", "rows/s", "rows/s, steps", "tokens/s", "peak", "planned", "planned / peak"];
        filled(&head, self.runs.iter().map(row))
    }

    fn planned(&self) -> Option<String> {
        let signed = |share: f64| format!("{:+.1} %", 100.0 * share);
        let row = |p: &Planned| {
            vec![
                p.name.clone(),
                gigabytes(p.planned_bytes),
                gigabytes(p.peak_bytes),
                signed(p.memory_error()),
                p.planned_seconds.map(short).join(", "),
                short(p.seconds),
                signed(p.time_error()),
            ]
        };
        let worst = |error: fn(&Planned) -> f64| self.planned.iter().map(|p| error(p).abs()).fold(0.0, f64::max);
        let middle = |error: fn(&Planned) -> f64| median(self.planned.iter().map(|p| error(p).abs()));
        let sum = |name: &str, memory: f64, time: f64| {
            let blank = String::new;
            vec![name.to_owned(), blank(), blank(), percent(memory), blank(), blank(), percent(time)]
        };
        let head = ["run", "planned", "peak", "off by", "planned s/step", "measured", "off by"];
        let sums = [
            sum("median", middle(Planned::memory_error), middle(Planned::time_error)),
            sum("worst", worst(Planned::memory_error), worst(Planned::time_error)),
        ];
        let sums = sums.into_iter().filter(|_| !self.planned.is_empty());
        filled(&head, self.planned.iter().map(row).chain(sums))
    }

    fn peers(&self) -> Option<String> {
        let row = |r: &Run| {
            let (rows, memory) = (r.ratios(|o| o.rows_per_second), r.ratios(|o| o.peak_bytes));
            let tokens = r.ratios(|o| o.tokens_per_second);
            let each = rows.iter().map(|&x| short(x)).collect::<Vec<_>>().join(", ");
            vec![
                case(&r.model, r.objective, r.tuning, r.batch),
                short(r.ours(|o| o.rows_per_second)),
                short(r.peer(|o| o.rows_per_second)),
                format!("{} x", short(median(rows))),
                each,
                format!("{} x", short(median(tokens))),
                gigabytes(r.peer(|o| o.peak_bytes)),
                format!("{} x", short(median(memory))),
            ]
        };
        let head = ["run", "ours, rows/s", "TRL, rows/s", "ratio", "by round", "in tokens", "TRL's peak", "memory"];
        filled(&head, self.runs.iter().filter(|r| !r.peer.is_empty()).map(row))
    }

    fn steps(&self) -> Option<String> {
        let row = |s: &Steps| {
            let floor = median(s.floors());
            let time = median(s.seconds.iter().copied());
            let work = |part: fn(&train::work::Work) -> f64| median(s.work.iter().map(part)) / 1e9;
            vec![
                case(&s.model, s.objective, s.tuning, s.batch),
                short(time),
                short(floor),
                short(time / floor),
                percent(s.fraction()),
                short(s.rows_per_second()),
                short(work(|w| w.linear + w.adapters)),
                short(work(|w| w.attention)),
                short(work(|w| w.head)),
                short(s.reference_seconds),
            ]
        };
        let head = [
            "steps",
            "s",
            "floor, s",
            "s / floor",
            "of the floor",
            "rows/s",
            "linear, GFLOP",
            "attention",
            "head",
            "reference, s",
        ];
        filled(&head, self.steps.iter().map(row))
    }

    fn parts(&self) -> Option<String> {
        let row = |s: &Steps| {
            let mut cells = vec![case(&s.model, s.objective, s.tuning, s.batch)];
            cells.extend(s.parts.iter().map(|(_, seconds)| short(1e3 * seconds)));
            cells
        };
        let head: Vec<&str> = std::iter::once("steps").chain(PARTS).collect();
        filled(&head, self.steps.iter().map(row))
    }

    fn plain(&self) -> Option<String> {
        let row = |p: &Plain| {
            let each = p.ratios.iter().map(|&x| short(x)).collect::<Vec<_>>().join(", ");
            let of = |seconds: &[f64]| short(median(seconds.iter().copied()));
            vec![p.tuning.to_owned(), of(&p.ours), of(&p.peer), format!("{} x", of(&p.ratios)), each]
        };
        filled(&["tuning", "ours, s", "PyTorch, s", "ratio", "by round"], self.plain.iter().map(row))
    }

    fn startup(&self) -> Option<String> {
        let row = |s: &Startup| vec![s.command.clone(), short(1e3 * s.first), short(1e3 * s.median)];
        filled(&["command", "first", "later"], self.startup.iter().map(row))
    }

    fn lengths(&self) -> Option<String> {
        let row = |pair: &[Length]| {
            let (a, b) = (&pair[0], &pair[1]);
            let ((attention_a, rest_a), (attention_b, rest_b)) = (a.split(), b.split());
            let longer = b.tokens as f64 / a.tokens as f64;
            let line = |what: &str, x: f64, y: f64, allowed: &str| {
                vec![format!("{} {what}", a.model), short(x), short(y), short(y / x), allowed.to_owned()]
            };
            let linear = format!("{} (linear)", short(longer));
            [
                line("all", a.per_token, b.per_token, ""),
                line("attention", attention_a, attention_b, &linear),
                line("all but attention", rest_a, rest_b, "1"),
            ]
        };
        let name = |i: usize| self.lengths.get(i).map_or(String::new(), |l| format!("{} tokens", l.tokens));
        let head = ["part", &name(0), &name(1), "ratio", "expected"];
        filled(&head, self.lengths.chunks_exact(2).flat_map(row))
    }

    fn generation(&self) -> Option<String> {
        let head = [
            "model",
            "answers",
            "tokens/s",
            "alone",
            "transformers",
            "ratio",
            "alone",
            "alone, by round",
            "same tokens",
        ];
        filled(&head, self.generation.iter().map(Generation::row))
    }

    fn attention(&self) -> Option<String> {
        let head = ["operator", "shape", "ours, ms", "PyTorch, ms", "ratio", "by round", "its other ways, ms"];
        filled(&head, self.attention.iter().map(Beside::row))
    }

    fn operators(&self) -> Option<String> {
        let row = |o: &Operator| {
            let (bound, share) = o.bound(self.rates);
            vec![
                format!("{} {}", o.model, o.operator),
                o.shape.clone(),
                short(1e3 * o.seconds),
                short(o.flops / o.seconds / 1e9),
                short(o.bytes / o.seconds / 1e9),
                bound.to_owned(),
                percent(share),
            ]
        };
        let head = ["operator", "shape", "ms", "GFLOP/s", "GB/s", "limit", "of it"];
        filled(&head, self.operators.iter().map(row))
    }
}

const ATTENTION: &str = "Causal, keys and values shared by heads; PyTorch's `scaled_dot_product_attention` as it chooses, one right after the other \
in each round, each on the device's own clock. Backward is that alone.";
const PLANNED: &str = "`prospect plan` and `prospect train` of the same file. Peak: on the CPU resident memory, mapped files included. Steps: \
                       planned before the run and after it, the mean of both beside that of the run's, all steps.";
const RUNS: &str = "Medians over rounds. Rows and tokens per second of the whole process, from its start to its end, and of its \
steps after the first. Peak: on the CPU resident memory, mapped files included. Rank 8 on all linear layers, rows of at most 1,024 tokens in the order of the file.";
const PEERS: &str = "Ours is the whole process; TRL's counts its steps after the first only. Both take the first rows of the file, one right after \
the other in each round; the ratio is the median of the rounds' ratios. Steps of different numbers see rows of different lengths, and the longest of \
more: the ratio in tokens allows for the one, equal numbers (--count, --peer-count) for both.";
const STEPS: &str = "The floor is the time that the operations which the mathematics needs take at the rate of a large product measured just before and after each step: prompts \
shared, no padding, head on completion tokens, no gradient for frozen weights. Reference: seconds per step that a full KTO run spends \
before its first one.";
const GENERATION: &str = "Greedy, 128 new tokens for each prompt, all prompts together. Ours is the whole process, loading included, and generation \
alone; the peer's is its call of `generate` alone, after a short one that does not count. Models with random weights have near ties: answers part at the first.";
const PLAIN: &str = "Llama of width 512, 8 blocks, 8/4 heads, feed-forward 1,408, vocabulary 32,000, untied; 2 rows of 512 predicted \
tokens, float32, AdamW, clipping. Seconds of a step; rank 8 on all linear layers.";
const LENGTHS: &str =
    "Microseconds per token; SFT with adapters, rows without a prompt, as many tokens of either length in a step.";
const OPERATORS: &str = "Medians. Limit: the longer of the operator's operations at the rate of large products and its bytes at that of \
large copies; what fits a cache can pass it.";

fn case(model: &str, objective: &str, tuning: &str, batch: usize) -> String {
    format!("{model} {objective} {tuning}, batch {batch}")
}

/// A table, unless it would be empty.
fn filled(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Option<String> {
    let rows: Vec<Vec<String>> = rows.collect();
    (!rows.is_empty()).then(|| table(head, &rows))
}
