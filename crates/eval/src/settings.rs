//! What an evaluation is asked to do; the defaults are those of the OpenSeek report.

use crate::task::Slice;
use crate::{Error, PromptType};
use serde_json::{Value, json};

/// How questions are put and answers drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The prompt.
    pub prompt_type: PromptType,
    /// Wrap the prompt as a user's turn of the model's chat template.
    pub apply_chat_template: bool,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Keeps the most likely tokens up to this total probability.
    pub top_p: f64,
    /// Answers to each question.
    pub n_sampling: usize,
    /// Tokens of an answer at most.
    pub max_tokens_per_call: usize,
    /// Of the draws.
    pub seed: u64,
    /// Which rows are taken.
    pub slice: Slice,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prompt_type: PromptType::Cot,
            apply_chat_template: false,
            temperature: 0.6,
            top_p: 1.0,
            n_sampling: 1,
            max_tokens_per_call: 3072,
            seed: 1,
            slice: Slice { num_test_sample: -1, start: 0, end: -1 },
        }
    }
}

impl Settings {
    /// The name that the files of one evaluation share, as the harness forms it: `test_cot_-1_seed1_t0.6_s0_e-1`.
    pub fn run_name(&self) -> String {
        let Slice { num_test_sample, start, end } = self.slice;
        // Python writes a float with its point.
        let temperature = format!("{:?}", self.temperature);
        format!("test_{}_{num_test_sample}_seed{}_t{temperature}_s{start}_e{end}", self.prompt_type.name(), self.seed)
    }

    /// What samples must agree on to stand in one file. The number of samples may grow.
    pub(crate) fn identity(&self) -> Value {
        json!({
            "prompt_type": self.prompt_type.name(),
            "apply_chat_template": self.apply_chat_template,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens_per_call": self.max_tokens_per_call,
            "seed": self.seed,
        })
    }

    /// # Errors
    /// [`Error::Setting`] for a number out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |name, reason: String| Err(Error::Setting { name, reason });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("--temperature", format!("expected a number of at least 0, found {}", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("--top-p", format!("expected a number above 0 and at most 1, found {}", self.top_p));
        }
        if self.n_sampling == 0 || self.n_sampling > 65_536 {
            return wrong("--n-sampling", format!("expected 1 to 65536, found {}", self.n_sampling));
        }
        if self.max_tokens_per_call == 0 {
            return wrong("--max-tokens-per-call", "expected at least 1, found 0".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_as_the_harness_names_them() {
        assert_eq!(Settings::default().run_name(), "test_cot_-1_seed1_t0.6_s0_e-1");
        let greedy = Settings { temperature: 0.0, prompt_type: PromptType::QwenBoxed, ..Settings::default() };
        assert_eq!(greedy.run_name(), "test_qwen-boxed_-1_seed1_t0.0_s0_e-1");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        assert!(Settings::default().check().is_ok());
        for bad in [
            Settings { temperature: -0.1, ..Settings::default() },
            Settings { top_p: 0.0, ..Settings::default() },
            Settings { n_sampling: 0, ..Settings::default() },
            Settings { max_tokens_per_call: 0, ..Settings::default() },
        ] {
            assert_eq!(bad.check().unwrap_err().exit_code(), 2);
        }
    }
}
