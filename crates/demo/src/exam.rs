//! Asking a model, and marking what it answers.

use crate::problems::Problem;
use crate::{Error, grade};
use data::RenderInput;
use data::rng::Stream;
use eval::stats::{Estimate, bootstrap, wilson};
use infer::{FinishReason, Model, ModelFolder, Request, Sampling};
use std::path::Path;
use std::time::Instant;

/// Rows of the key/value cache: about a hundred conversations at a time.
const CACHE_ROWS: usize = 10_240;
/// Rows of one step.
const STEP_ROWS: usize = 512;
/// Resamples of every bootstrap.
pub(crate) const RESAMPLES: usize = 10_000;

/// Someone who answers problems.
pub(crate) struct Candidate {
    folder: ModelFolder,
    model: Model,
    stop: Vec<u32>,
    max_new_tokens: usize,
    /// Tokens generated so far, and the seconds that took.
    pub(crate) work: (usize, f64),
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    /// Whether it came to its end by itself.
    pub(crate) complete: bool,
}

impl Answer {
    /// Whether KTO can learn from it: it says something and came to its end.
    pub(crate) fn is_usable(&self) -> bool {
        self.complete && !self.text.is_empty()
    }
}

/// The result of one examination: for each problem the share of right answers.
pub(crate) struct Marks {
    pub(crate) greedy: Vec<f64>,
    pub(crate) sampled: Vec<f64>,
}

impl Marks {
    /// Accuracy of the most likely answers, with Wilson's interval.
    pub(crate) fn greedy_accuracy(&self) -> Estimate {
        wilson(self.greedy.iter().filter(|mark| **mark == 1.0).count(), self.greedy.len())
    }

    /// Accuracy of sampled answers, with the bootstrap's interval over problems.
    pub(crate) fn sampled_accuracy(&self, seed: u64) -> Estimate {
        bootstrap(&self.sampled, RESAMPLES, seed)
    }
}

impl Candidate {
    /// Opens a model folder and, if given, an adapter for it.
    pub(crate) fn open(
        folder: &Path,
        adapter: Option<&Path>,
        positions: usize,
        max_new_tokens: usize,
        threads: usize,
    ) -> Result<Candidate, Error> {
        let folder = ModelFolder::open(folder, adapter)?;
        let (stop, model) = (folder.stop_tokens()?, folder.load(positions, threads)?);
        Ok(Candidate { folder, model, stop, max_new_tokens, work: (0, 0.0) })
    }

    /// Answers each problem `samples` times at temperature 1, or once with the most likely tokens where `samples` is 0;
    /// answers to one problem stand together. The draws depend on the seed, the problem's place and the sample only.
    pub(crate) fn answer(
        &mut self,
        problems: &[Problem],
        samples: usize,
        seed: u64,
        progress: &mut (dyn FnMut(usize, usize) + Send),
    ) -> Result<Vec<Answer>, Error> {
        let mut requests = Vec::with_capacity(problems.len() * samples.max(1));
        for (i, problem) in problems.iter().enumerate() {
            let messages = problem.prompt();
            let messages = messages.as_array().map_or(&[][..], Vec::as_slice);
            let input = RenderInput { messages, add_generation_prompt: true, ..Default::default() };
            let prompt = self.folder.tokenizer.encode(&self.folder.tokenizer.render(input)?, false)?;
            for sample in 0..samples.max(1) {
                let seed = Stream::new(seed, i as u64).at(sample as u64);
                let temperature = if samples == 0 { 0.0 } else { 1.0 };
                let sampling = Sampling { temperature, seed, ..Sampling::GREEDY };
                requests.push(Request::new(prompt.clone(), self.max_new_tokens, sampling));
            }
        }
        let (begin, total, mut finished) = (Instant::now(), requests.len(), 0);
        let outputs = self.model.generate(&requests, (&self.stop, None), (CACHE_ROWS, STEP_ROWS), &mut |_, _| {
            finished += 1;
            progress(finished, total);
        })?;
        self.work.0 += outputs.iter().map(|output| output.tokens.len()).sum::<usize>();
        self.work.1 += begin.elapsed().as_secs_f64();
        let answer = |output: infer::Output| {
            let complete = output.finish_reason == FinishReason::Stop;
            Ok(Answer { text: self.folder.tokenizer.decode(&output.tokens, true)?, complete })
        };
        outputs.into_iter().map(answer).collect()
    }

    /// Examines with every problem once greedily and `samples` times sampled.
    pub(crate) fn examine(
        &mut self,
        problems: &[Problem],
        samples: usize,
        seed: u64,
        progress: &mut (dyn FnMut(usize, usize) + Send),
    ) -> Result<Marks, Error> {
        let all = problems.len() * (samples + 1);
        let greedy = self.answer(problems, 0, seed, &mut |done, _| progress(done, all))?;
        let sampled = self.answer(problems, samples, seed, &mut |done, _| progress(problems.len() + done, all))?;
        Ok(Marks { greedy: marks(problems, &greedy), sampled: marks(problems, &sampled) })
    }
}

/// For each problem the share of its answers that are right.
fn marks(problems: &[Problem], answers: &[Answer]) -> Vec<f64> {
    let each = answers.len() / problems.len().max(1);
    let share = |(problem, answers): (&Problem, &[Answer])| {
        answers.iter().filter(|answer| grade::is_right(&answer.text, problem.answer)).count() as f64 / each as f64
    };
    problems.iter().zip(answers.chunks(each.max(1))).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::Problems;

    #[test]
    fn marks_are_shares_of_right_answers_problem_by_problem() {
        let problems = Problems::generate(0, 0, 2).held_out;
        let says = |number: i64| Answer { text: format!("The answer is {number}."), complete: true };
        let (a, b) = (problems[0].answer, problems[1].answer);
        let answers = [says(a), says(a + 1), says(a), says(a), says(b - 1), says(b), says(-1), says(-2)];
        assert_eq!(marks(&problems, &answers), [0.75, 0.25]);
    }
}
