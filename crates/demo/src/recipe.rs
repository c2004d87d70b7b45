//! Every number of the demonstration, in one place.

use crate::init::Shape;
use serde_json::{Value, json};
use std::path::Path;

/// How much of everything, and how it is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Problems to learn from.
    pub train_problems: usize,
    /// Problems to be examined with.
    pub held_out_problems: usize,
    /// Tokens of the vocabulary at most.
    pub vocabulary: usize,
    /// The model; its `vocabulary` and `eos_token_id` are the tokenizer's.
    pub shape: Shape,
    /// Supervised fine-tuning.
    pub sft: Training,
    /// Training problems that are answered for KTO, once each: many problems teach more than many answers to few.
    pub practice: usize,
    /// KTO.
    pub kto: Training,
    /// Strength of KTO's reference.
    pub beta: f64,
    /// Weight of undesirable rows. Right and wrong answers differ in a digit or two, so pushing wrong ones down as hard
    /// as right ones are pulled up takes the right ones along.
    pub undesirable_weight: f64,
    /// Rank of KTO's adapter; alpha is twice as much.
    pub rank: usize,
    /// Sampled answers to each held-out problem.
    pub samples: usize,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
}

/// How a run goes through its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// Passes over the rows.
    pub epochs: f64,
    /// Rows per step.
    pub rows: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            train_problems: 18_000,
            held_out_problems: 600,
            vocabulary: 512,
            shape: Shape {
                vocabulary: 0,
                eos_token_id: 0,
                positions: 128,
                hidden: 192,
                feed_forward: 576,
                layers: 3,
                heads: 6,
                kv_heads: 1,
                deviation: 0.06,
            },
            sft: Training { epochs: 1.0, rows: 16, learning_rate: 2e-3 },
            practice: 4000,
            kto: Training { epochs: 1.0, rows: 32, learning_rate: 2e-3 },
            beta: 0.1,
            undesirable_weight: 0.1,
            rank: 16,
            samples: 4,
            max_new_tokens: 40,
        }
    }
}

impl Recipe {
    /// The configuration of supervised fine-tuning, a YAML file for `prospect train`.
    pub(crate) fn sft_yaml(&self, model: &Path, rows: &Path, output: &Path, seed: u64) -> String {
        let mut keys = common(self, &self.sft, model, rows, output, seed);
        keys.splice(0..0, [("trainer", json!("sft")), ("assistant_only_loss", json!(true))]);
        yaml("Learns to answer from worked answers.", &keys)
    }

    /// The configuration of KTO, a YAML file for `prospect train`.
    pub(crate) fn kto_yaml(&self, model: &Path, rows: &Path, output: &Path, seed: u64) -> String {
        let mut keys = common(self, &self.kto, model, rows, output, seed);
        keys.splice(
            0..0,
            [
                ("trainer", json!("kto")),
                ("loss_type", json!("kto")),
                ("beta", json!(self.beta)),
                ("undesirable_weight", json!(self.undesirable_weight)),
                ("use_peft", json!(true)),
                ("lora_r", json!(self.rank)),
                ("lora_alpha", json!(2 * self.rank)),
                ("lora_target_modules", json!("all-linear")),
            ],
        );
        yaml("Learns from its own answers, each labelled right or wrong.", &keys)
    }
}

fn common<'k>(
    recipe: &Recipe,
    training: &Training,
    model: &Path,
    rows: &Path,
    output: &Path,
    seed: u64,
) -> Vec<(&'k str, Value)> {
    vec![
        ("model_name_or_path", json!(model)),
        ("dataset_name", json!(rows)),
        ("output_dir", json!(output)),
        ("max_length", json!(recipe.shape.positions)),
        ("num_train_epochs", json!(training.epochs)),
        ("per_device_train_batch_size", json!(training.rows)),
        ("gradient_accumulation_steps", json!(1)),
        ("learning_rate", json!(training.learning_rate)),
        ("lr_scheduler_type", json!("cosine")),
        ("warmup_steps", json!(0.05)),
        ("max_grad_norm", json!(1.0)),
        // Runs of a few hundred steps: the usual 0.999 remembers longer than they last.
        ("adam_beta2", json!(0.95)),
        ("logging_steps", json!(5)),
        ("save_strategy", json!("steps")),
        ("save_steps", json!(0.5)),
        ("report_to", json!("none")),
        ("seed", json!(seed)),
    ]
}

/// Keys as YAML. Every JSON value on one line is a YAML value.
fn yaml(purpose: &str, keys: &[(&str, Value)]) -> String {
    let lines: Vec<String> = keys.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    format!("# {purpose}\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn configurations_say_what_the_recipe_says() {
        let (recipe, at) = (Recipe::default(), |name: &str| PathBuf::from("a \"b\": #c").join(name));
        let load = |yaml: &str| config::load("demo.yaml", yaml, &[]).unwrap().config;
        let sft = load(&recipe.sft_yaml(&at("base"), &at("sft.jsonl"), &at("sft"), 7));
        assert_eq!((sft.model.path, sft.data.train), (at("base"), vec![at("sft.jsonl")]));
        assert_eq!((sft.batch.train_rows, sft.engine.seed, sft.tuning), (recipe.sft.rows, 7, config::Tuning::Full));
        let kto = load(&recipe.kto_yaml(&at("sft/final"), &at("kto.jsonl"), &at("kto"), 7));
        let config::Objective::Kto(objective) = kto.objective else { panic!("kto") };
        assert_eq!(
            (objective.beta, objective.undesirable_weight),
            (recipe.beta, config::Weight::Number(recipe.undesirable_weight))
        );
        let config::Tuning::Lora(lora) = kto.tuning else { panic!("lora") };
        assert_eq!(
            (lora.r, lora.alpha, lora.targets),
            (recipe.rank, 2.0 * recipe.rank as f64, config::Targets::AllLinear)
        );
        assert_eq!(kto.optimizer.learning_rate, recipe.kto.learning_rate);
    }
}
