//! The story itself: problems, tokenizer, model, SFT, practice, labels, KTO, examination.

use crate::exam::{Candidate, Marks, RESAMPLES};
use crate::problems::{Problem, Problems};
use crate::recipe::Recipe;
use crate::report::{Examined, Folders, Report};
use crate::{Error, grade, init, tokenizer};
use data::Clock;
use eval::stats;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;
use train::Control;

/// What is demonstrated, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of everything drawn: problems, weights, order, answers.
    pub seed: u64,
    /// A folder that is not there yet, or is empty.
    pub output: PathBuf,
    /// Threads for generation; training takes what it finds.
    pub threads: usize,
    /// The numbers.
    pub recipe: Recipe,
}

/// What happens, for whoever watches.
pub enum Event {
    /// A part of the story begins.
    Stage(&'static str),
    /// Something was made or found.
    Note(String),
    /// Answers given so far, and in all.
    Answered(usize, usize),
    /// From a training run.
    Train(train::Event),
}

/// Streams of draws: what is drawn for one purpose says nothing about another.
const PRACTICE: u64 = 1;
const EXAM: u64 = 2;
const BOOTSTRAP: u64 = 3;

/// A demonstration in progress.
struct Story<'a> {
    settings: &'a Settings,
    folders: Folders,
    observe: &'a mut (dyn FnMut(Event) + Send),
    seconds: Vec<(&'static str, f64)>,
}

/// Tells the whole story; `control` stops it between two training steps.
///
/// # Errors
/// Whatever a stage fails with, and [`Error::OutputExists`], [`Error::Stopped`] and [`Error::OneClass`].
pub fn run(settings: &Settings, control: &Control, observe: &mut (dyn FnMut(Event) + Send)) -> Result<Report, Error> {
    let at = |name: &str| settings.output.join(name);
    let folders = Folders { base: at("base"), data: at("data"), sft: at("sft"), kto: at("kto") };
    if std::fs::read_dir(&settings.output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::OutputExists { path: settings.output.clone() });
    }
    for folder in [&folders.base, &folders.data] {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
    }
    Story { settings, folders, observe, seconds: Vec::new() }.tell(control)
}

impl Story<'_> {
    fn tell(mut self, control: &Control) -> Result<Report, Error> {
        let Settings { seed, recipe, .. } = self.settings;
        let problems = self.stage("problems", |story| story.write_problems())?;
        let parameters = self.stage("tokenizer and model", |story| story.write_base(&problems))?;
        let (base, sft, kto) = (self.folders.base.clone(), self.folders.sft.clone(), self.folders.kto.clone());
        let (sft_rows, kto_rows) = (self.folders.data.join("sft.jsonl"), self.folders.data.join("kto.jsonl"));
        let sft_logged = self
            .stage("SFT", |story| story.train("sft.yaml", &recipe.sft_yaml(&base, &sft_rows, &sft, *seed), control))?;
        let model = sft.join("final");
        let labels = self.stage("practice", |story| story.practise(&model, &problems.train, &kto_rows))?;
        let kto_logged = self
            .stage("KTO", |story| story.train("kto.yaml", &recipe.kto_yaml(&model, &kto_rows, &kto, *seed), control))?;
        let held_out = &problems.held_out;
        let adapter = kto.join("final");
        let (examined, marks) = self.stage("examination", |story| {
            let base = story.examine("base", &base, None, held_out)?;
            let sft = story.examine("SFT", &model, None, held_out)?;
            let kto = story.examine("KTO", &model, Some(&adapter), held_out)?;
            Ok(([base.0, sft.0, kto.0], [sft.1, kto.1]))
        })?;
        let gain = |of: fn(&Marks) -> &Vec<f64>| {
            stats::paired_difference(of(&marks[0]), of(&marks[1]), RESAMPLES, seed_for(*seed, BOOTSTRAP))
        };
        Ok(Report {
            seed: *seed,
            parameters,
            problems: held_out.len(),
            samples: recipe.samples,
            examined,
            gain_sampled: gain(|marks| &marks.sampled),
            gain_greedy: gain(|marks| &marks.greedy),
            labels,
            logged: [sft_logged, kto_logged],
            seconds: self.seconds,
            peak_bytes: peak_bytes(),
            question: held_out.first().map_or_else(String::new, |problem| problem.question.clone()),
            folders: self.folders,
        })
    }

    fn stage<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        (self.observe)(Event::Stage(name));
        let begin = Instant::now();
        let result = work(self)?;
        self.seconds.push((name, begin.elapsed().as_secs_f64()));
        Ok(result)
    }

    fn note(&mut self, text: String) {
        (self.observe)(Event::Note(text));
    }

    fn write_problems(&mut self) -> Result<Problems, Error> {
        let Settings { seed, recipe, .. } = self.settings;
        let problems = Problems::generate(*seed, recipe.train_problems, recipe.held_out_problems);
        let data = self.folders.data.clone();
        write_rows(&data.join("sft.jsonl"), problems.train.iter().map(Problem::sft_row))?;
        write_rows(&data.join("held_out.jsonl"), problems.held_out.iter().map(Problem::sft_row))?;
        self.note(format!("{} problems to learn from, {} held out", problems.train.len(), problems.held_out.len()));
        Ok(problems)
    }

    /// Tokenizer and random weights; returns the number of parameters.
    fn write_base(&mut self, problems: &Problems) -> Result<usize, Error> {
        let Settings { seed, recipe, .. } = self.settings;
        let base = self.folders.base.clone();
        let texts = problems.train.iter().flat_map(|problem| [&problem.question[..], &problem.solution[..]]);
        tokenizer::train(&base, texts, recipe.vocabulary, recipe.shape.positions)?;
        let trained = data::Tokenizer::load(&base, Clock::at(0))?;
        let eos_token_id = trained.eos_id().expect("written with one just now");
        let shape = init::Shape { vocabulary: trained.vocab_size(), eos_token_id, ..recipe.shape };
        let parameters = init::write(&base, &shape, *seed)?;
        self.note(format!("{} tokens, {:.2} M parameters", shape.vocabulary, parameters as f64 / 1e6));
        Ok(parameters)
    }

    /// Trains as a configuration says, which is kept beside the run; returns the last logged values.
    fn train(&mut self, name: &str, yaml: &str, control: &Control) -> Result<Vec<(String, f64)>, Error> {
        let path = self.settings.output.join(name);
        weights::write_atomic(&path, yaml.as_bytes())?;
        let loaded = config::load(&path.to_string_lossy(), yaml, &[])?;
        let ended = train::run(&loaded, &[&path], control, &mut |event| (self.observe)(Event::Train(event)))?;
        match ended.stopped {
            true => Err(Error::Stopped { run: ended.folder }),
            false => Ok(ended.values),
        }
    }

    /// Answers training problems and writes down which answers are right; returns how many are and are not.
    fn practise(&mut self, model: &Path, problems: &[Problem], rows: &Path) -> Result<(usize, usize), Error> {
        let problems = &problems[..self.settings.recipe.practice.min(problems.len())];
        let mut candidate = self.candidate(model, None)?;
        let seed = seed_for(self.settings.seed, PRACTICE);
        let answers = candidate.answer(problems, 1, seed, &mut |done, all| {
            (self.observe)(Event::Answered(done, all));
        })?;
        let usable = problems.iter().zip(&answers).filter(|(_, answer)| answer.is_usable());
        let labelled = usable.map(|(p, answer)| (p, &answer.text[..], grade::is_right(&answer.text, p.answer)));
        let labelled: Vec<(&Problem, &str, bool)> = labelled.collect();
        let right = labelled.iter().filter(|(_, _, label)| *label).count();
        let wrong = labelled.len() - right;
        if right == 0 || wrong == 0 {
            return Err(Error::OneClass { right, wrong });
        }
        write_rows(rows, labelled.into_iter().map(|(problem, text, label)| problem.kto_row(text, label)))?;
        self.note(format!("{right} right answers, {wrong} wrong, {} unusable", answers.len() - right - wrong));
        Ok((right, wrong))
    }

    fn examine(
        &mut self,
        name: &'static str,
        model: &Path,
        adapter: Option<&Path>,
        problems: &[Problem],
    ) -> Result<(Examined, Marks), Error> {
        let mut candidate = self.candidate(model, adapter)?;
        // One seed for all candidates: differences are theirs, not the dice's.
        let seed = seed_for(self.settings.seed, EXAM);
        let marks = candidate.examine(problems, self.settings.recipe.samples, seed, &mut |done, all| {
            (self.observe)(Event::Answered(done, all));
        })?;
        let tokens_per_second = candidate.work.0 as f64 / candidate.work.1;
        let shown = candidate.answer(&problems[..1], 0, seed, &mut |_, _| {})?.remove(0);
        let (greedy, sampled) = (marks.greedy_accuracy(), marks.sampled_accuracy(seed));
        self.note(format!("{name}: greedy {:.1} %, sampled {:.1} %", 100.0 * greedy.value, 100.0 * sampled.value));
        Ok((Examined { name, greedy, sampled, tokens_per_second, answer: shown.text }, marks))
    }

    fn candidate(&self, model: &Path, adapter: Option<&Path>) -> Result<Candidate, Error> {
        let Settings { recipe, threads, .. } = self.settings;
        Candidate::open(model, adapter, recipe.shape.positions, recipe.max_new_tokens, *threads)
    }
}

fn seed_for(seed: u64, purpose: u64) -> u64 {
    data::rng::Stream::new(seed, purpose).at(0)
}

fn write_rows(path: &Path, rows: impl Iterator<Item = Value>) -> Result<(), Error> {
    let text: String = rows.map(|row| format!("{row}\n")).collect();
    Ok(weights::write_atomic(path, text.as_bytes())?)
}

/// Most memory this process had in use at one time; Linux tells, other systems are not asked.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Training;
    use crate::scratch::Scratch;

    /// Everything as in the real one, but small.
    fn small() -> Recipe {
        let recipe = Recipe::default();
        Recipe {
            train_problems: 1200,
            held_out_problems: 40,
            shape: init::Shape { hidden: 64, feed_forward: 128, layers: 2, heads: 4, kv_heads: 2, ..recipe.shape },
            sft: Training { epochs: 1.0, rows: 8, learning_rate: 4e-3 },
            practice: 300,
            kto: Training { epochs: 0.3, ..recipe.kto },
            samples: 2,
            ..recipe
        }
    }

    #[test]
    fn the_story_is_told_to_its_end_and_leaves_what_it_says() {
        let scratch = Scratch::new();
        let settings = Settings { seed: 1, output: scratch.path().to_owned(), threads: 2, recipe: small() };
        let mut stages = Vec::new();
        let report = run(&settings, &Control::default(), &mut |event| {
            if let Event::Stage(name) = event {
                stages.push(name);
            }
        });
        let report = report.unwrap();
        assert_eq!(stages, ["problems", "tokenizer and model", "SFT", "practice", "KTO", "examination"]);
        assert_eq!(report.seconds.iter().map(|(name, _)| *name).collect::<Vec<_>>(), stages);
        let rows = std::fs::read_to_string(report.folders.data.join("kto.jsonl")).unwrap();
        assert_eq!(rows.lines().count(), report.labels.0 + report.labels.1);
        assert_eq!(rows.lines().filter(|row| row.ends_with("\"label\":true}")).count(), report.labels.0);
        assert!(report.kto("rewards/chosen").is_some() && report.kto("kl").is_some(), "{:?}", report.logged);
        for file in ["final/adapter_config.json", "plots/training.svg", "plots/training.png", "log.jsonl"] {
            assert!(report.folders.kto.join(file).is_file(), "{file}");
        }
        let [base, sft, _] = &report.examined;
        assert!(base.greedy.value == 0.0 && sft.answer.contains("The answer is"), "{:?}", report.examined);
        let again = run(&settings, &Control::default(), &mut |_| {});
        assert!(matches!(again, Err(Error::OutputExists { .. })));
    }
}
