//! Answers to a few prompts while the model learns, for people to read.

use super::{Event, Run};
use crate::Error;
use crate::step::Who;
use config::Samples;
use data::{Clock, RenderInput, Tokenizer};
use infer::{Generator, Limits, Request, Sampling};
use kernels::Backend;
use serde_json::json;

/// Rows of one forward pass.
const STEP_ROWS: usize = 256;

impl<B: Backend> Run<'_, B> {
    /// Answers the configuration's prompts with the model as it is, and writes the answers to `train.log` and `log.jsonl`.
    pub(super) fn answer_samples(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let Some(samples) = &self.job.config.evaluation.samples else { return Ok(()) };
        // The tokenizer was let go after tokenising; it takes less time to read than the answers take.
        let tokenizer = crate::prepare::tokenizer_files(&self.job.config, Clock::now())?.load()?;
        let positions = self.job.positions.min(self.job.blueprint.max_positions);
        let requests = requests(samples, &tokenizer, positions)?;
        let stop: Vec<u32> = tokenizer.eos_id().into_iter().collect();
        let never = || false;
        let ctx = self.context(&self.job.train, 0, false, &never).context(Who::Policy, 0);
        let limits = Limits { positions, cache_rows: 4 * positions, step_rows: STEP_ROWS };
        let outputs = Generator::new(&ctx, &self.policy.decoder, limits).generate(&requests, &stop, &mut |_, _| {})?;
        let mut answers = Vec::new();
        for (prompt, output) in samples.prompts.iter().zip(&outputs) {
            let text = tokenizer.decode(&output.tokens, true)?;
            let line = format!("step {}: {prompt:?} -> {text:?}", self.step);
            self.text.line(&line)?;
            observe(Event::Note(line));
            answers.push(json!({"prompt": prompt, "text": text}));
        }
        self.log.record(&json!({"step": self.step, "samples": answers}))?;
        Ok(())
    }
}

fn requests(samples: &Samples, tokenizer: &Tokenizer, positions: usize) -> Result<Vec<Request>, Error> {
    let request = |prompt: &String| -> Result<Request, Error> {
        let mut tokens = match tokenizer.template() {
            Ok(_) => {
                let messages = &[json!({"role": "user", "content": prompt})];
                let input = RenderInput { messages, add_generation_prompt: true, ..Default::default() };
                tokenizer.encode(&tokenizer.render(input)?, false)?
            }
            Err(_) => tokenizer.encode(prompt, true)?,
        };
        if tokens.is_empty() {
            tokens.extend(tokenizer.bos_id().or(tokenizer.eos_id()));
        }
        // Positions reach as far as training needs them.
        tokens.truncate(positions.saturating_sub(1));
        let room = positions - tokens.len();
        Ok(Request::new(tokens, samples.max_new_tokens.min(room), Sampling::GREEDY))
    };
    samples.prompts.iter().map(request).collect()
}
