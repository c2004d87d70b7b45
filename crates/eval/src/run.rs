//! The evaluation itself: what is there already, what has to be asked, the marks, the files.

use crate::candidate::{Asked, Candidate, seed_of};
use crate::files::remove;
use crate::metrics::Metrics;
use crate::samples::{Journal, Samples};
use crate::{Error, Marks, RunFiles, Settings, Task, page};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// What happens on the way.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something worth saying once.
    Note(String),
    /// Answers to a task, of all that it needs.
    Progress {
        /// The task.
        task: String,
        /// Answers there are.
        done: u64,
        /// Answers there will be.
        total: u64,
    },
}

/// The result of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Rows, answers, verdicts.
    pub marks: Marks,
    /// What follows from them.
    pub metrics: Metrics,
    /// Where they are.
    pub files: RunFiles,
}

/// A task with what is there of it.
struct Work<'a> {
    task: &'a Task,
    files: RunFiles,
    identity: Value,
    samples: Samples,
    /// None before the first answer of an evaluation that overwrites another: until then that one's files are as they were.
    journal: Option<Journal>,
    /// Row and number of each answer that is missing.
    missing: Vec<(i64, usize)>,
    asked: Vec<Asked>,
}

/// Evaluates a model on tasks and writes the results below `output`. Answers that are there are not asked for again; with
/// `overwrite` they go when the first new one is there.
///
/// # Errors
/// Settings out of range, results of another evaluation in the way, the model, the disk. Answers finished before an error
/// stay.
pub fn evaluate(
    candidate: &Candidate,
    tasks: &[Task],
    settings: &Settings,
    (output, overwrite): (&Path, bool),
    threads: usize,
    observe: &mut (dyn FnMut(Event) + Send),
) -> Result<Vec<Outcome>, Error> {
    settings.check()?;
    let model_identity = candidate.identity()?;
    let work = |task| Work::begin(task, candidate, settings, &model_identity, (output, overwrite));
    let mut all = tasks.iter().map(work).collect::<Result<Vec<_>, Error>>()?;
    let longest = all.iter().flat_map(|work| work.asked.iter().map(|asked| asked.prompt.len())).max();
    let mut model = None;
    let mut outcomes = Vec::new();
    for work in &mut all {
        let began = Instant::now();
        let before = if work.missing.is_empty() { work.files.seconds() } else { 0.0 };
        if !work.missing.is_empty() {
            let model = match &mut model {
                Some(model) => model,
                empty => {
                    let model = candidate.load(longest.unwrap_or(0) + settings.max_tokens_per_call)?;
                    model.notes().iter().for_each(|note| observe(Event::Note(note.clone())));
                    empty.insert(model)
                }
            };
            work.answer(candidate, model, settings, observe)?;
        }
        let took = began.elapsed() + Duration::from_secs_f64(before.max(0.0));
        outcomes.push(work.finish(settings, threads, took)?);
    }
    Ok(outcomes)
}

impl<'a> Work<'a> {
    fn begin(
        task: &'a Task,
        candidate: &Candidate,
        settings: &Settings,
        model: &str,
        (output, overwrite): (&Path, bool),
    ) -> Result<Self, Error> {
        let files = RunFiles::new(output, &task.name, &settings.run_name());
        files.create_folder()?;
        let mut identity = settings.identity();
        identity["model"] = model.into();
        identity["data"] = task.hash.as_str().into();
        let mut samples = Samples::new();
        let journal = match overwrite {
            true => None,
            false => {
                files.finished(&identity, &mut samples)?;
                Some(Journal::open(&files.journal(), &identity, &mut samples)?)
            }
        };
        if let Some((_, number)) = samples.keys().find(|(_, number)| *number >= settings.n_sampling) {
            let reason = format!("n_sampling is at least {} there and {} here", number + 1, settings.n_sampling);
            return Err(Error::OtherRun { path: files.result(), reason });
        }
        let (mut missing, mut asked) = (Vec::new(), Vec::new());
        for item in &task.items {
            let open = (0..settings.n_sampling).filter(|number| !samples.contains_key(&(item.idx, *number)));
            for (number, first) in open.zip(0..) {
                let prompt = match asked.last() {
                    Some(Asked { prompt, .. }) if first > 0 => prompt.clone(),
                    _ => candidate.prompt(&item.question, settings)?,
                };
                asked.push(Asked { prompt, seed: seed_of(settings.seed, &task.name, item.idx, number) });
                missing.push((item.idx, number));
            }
        }
        Ok(Self { task, files, identity, samples, journal, missing, asked })
    }

    /// Asks for what is missing; each answer is in the journal before the next is waited for.
    fn answer(
        &mut self,
        candidate: &Candidate,
        model: &infer::Placed,
        settings: &Settings,
        observe: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), Error> {
        let total = (self.task.items.len() * settings.n_sampling) as u64;
        let mut done = total - self.missing.len() as u64;
        let mut progress = |done| observe(Event::Progress { task: self.task.name.clone(), done, total });
        progress(done);
        let (journal, samples, missing) = (&mut self.journal, &mut self.samples, &self.missing);
        let (files, identity) = (&self.files, &self.identity);
        candidate.answer(model, &self.asked, settings, &mut |i, sample| {
            if journal.is_none() {
                files.remove()?;
                *journal = Some(Journal::open(&files.journal(), identity, &mut Samples::new())?);
            }
            let journal = journal.as_mut().expect("opened above");
            journal.add(missing[i], &sample)?;
            samples.insert(missing[i], sample);
            done += 1;
            progress(done);
            Ok(())
        })
    }

    /// Grades all and writes the files; the journal goes when its answers are in the result.
    fn finish(&self, settings: &Settings, threads: usize, took: Duration) -> Result<Outcome, Error> {
        let marks = Marks::of(self.task, &self.samples, settings.n_sampling, threads);
        let metrics = Metrics::of(&marks);
        self.files.write_result(&marks)?;
        self.files.write_metrics(&metrics.json(took, &self.identity))?;
        page::answers(&self.files, &marks, &metrics)?;
        remove(&self.files.journal())?;
        Ok(Outcome { marks, metrics, files: self.files.clone() })
    }
}
