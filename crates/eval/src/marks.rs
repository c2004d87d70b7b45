//! Marks: the graded samples of a task.

use crate::grader::{Answer, Mode, Row, Rule, Verdict, grade};
use crate::samples::{Sample, Samples};
use crate::{Item, Task};

/// Both verdicts on one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What the harness would say.
    pub qwen: Verdict,
    /// What is mathematically right.
    pub strict: Verdict,
}

/// A row with its samples and their marks, in the order of their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Marked {
    /// The row.
    pub item: Item,
    /// The answers.
    pub samples: Vec<Sample>,
    /// The verdicts on them.
    pub marks: Vec<Mark>,
}

impl Marked {
    /// The share of samples that the harness calls right.
    pub fn share(&self) -> f64 {
        self.marks.iter().filter(|mark| mark.qwen.verdict).count() as f64 / self.marks.len().max(1) as f64
    }
}

/// All rows of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Marks {
    /// The task's name.
    pub task: String,
    /// Ascending by `idx`.
    pub rows: Vec<Marked>,
}

impl Marks {
    /// Grades `number` samples of every row that has them all, on `threads` threads.
    pub(crate) fn of(task: &Task, samples: &Samples, number: usize, threads: usize) -> Self {
        let row = |item: &Item| -> Option<(Item, Vec<Sample>)> {
            let all = (0..number).map(|k| samples.get(&(item.idx, k)).cloned()).collect::<Option<Vec<_>>>();
            all.map(|all| (item.clone(), all))
        };
        let rows: Vec<_> = task.items.iter().filter_map(row).collect();
        let share = rows.len().div_ceil(threads.max(1)).max(1);
        let marked = std::thread::scope(|scope| {
            let work = |rows: &[(Item, Vec<Sample>)]| {
                rows.iter().map(|(item, samples)| marked(item, samples, &task.rules)).collect::<Vec<_>>()
            };
            let handles: Vec<_> = rows.chunks(share).map(|rows| scope.spawn(move || work(rows))).collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, Vec<Marked>>| match handle.join() {
                Ok(marked) => marked,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            handles.into_iter().flat_map(join).collect()
        });
        Self { task: task.name.clone(), rows: marked }
    }
}

fn marked(item: &Item, samples: &[Sample], rules: &str) -> Marked {
    let mark = |sample: &Sample| {
        let row = Row { gold: &item.gold.answer, dataset: Some(rules), answer: Answer::Generation(&sample.text) };
        Mark { qwen: grade(&row, Mode::Qwen), strict: grade(&row, Mode::Strict) }
    };
    Marked { item: item.clone(), samples: samples.to_vec(), marks: samples.iter().map(mark).collect() }
}

/// The names of the rules that decided.
pub(crate) fn rules(marks: &[Mark], of: impl Fn(&Mark) -> Rule) -> Vec<&'static str> {
    marks.iter().map(|mark| of(mark).name()).collect()
}
