//! Flags of the RTX 3090 trainer, which stand for keys of a configuration.

use crate::args::ConfigArgs;
use crate::failure::Failure;
use clap::Args;
use std::path::Path;

/// Flags for those who come with command lines: each stands for a key, and wins over the file.
#[derive(Args, Default)]
#[group(id = "trainer_flags", multiple = true)]
#[command(next_help_heading = "Flags instead of keys")]
pub(crate) struct TrainerFlags {
    /// A preset: 3b, 7b, 13b or 20b; the model is named by --model-name.
    #[arg(long, alias = "preset", value_name = "SIZE", value_parser = ["3b", "7b", "13b", "20b"])]
    pub(crate) model_size: Option<String>,
    /// model_name_or_path
    #[arg(long, value_name = "MODEL")]
    pub(crate) model_name: Option<String>,
    /// max_length
    #[arg(long, value_name = "LENGTH")]
    pub(crate) max_seq_length: Option<String>,
    /// dataset_name: a data set of the Hub, or a folder
    #[arg(long, value_name = "NAME", conflicts_with = "local_file")]
    pub(crate) dataset_name: Option<String>,
    /// A file in the data set of --dataset-name
    #[arg(long, value_name = "FILE", requires = "dataset_name")]
    pub(crate) dataset_file: Option<String>,
    /// dataset_name: a file
    #[arg(long, value_name = "PATH")]
    pub(crate) local_file: Option<String>,
    /// val_size=0.1, evaluated every epoch
    #[arg(long)]
    pub(crate) split_dataset: bool,
    /// output_dir
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<String>,
    /// per_device_train_batch_size
    #[arg(long, value_name = "SIZE")]
    pub(crate) batch_size: Option<String>,
    /// gradient_accumulation_steps
    #[arg(long, value_name = "STEPS")]
    pub(crate) gradient_accumulation: Option<String>,
    /// learning_rate
    #[arg(long, value_name = "LR")]
    pub(crate) learning_rate: Option<String>,
    /// num_train_epochs
    #[arg(long, value_name = "N")]
    pub(crate) num_epochs: Option<String>,
    /// max_steps
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_steps: Option<String>,
    /// report_to=wandb
    #[arg(long)]
    pub(crate) wandb: bool,
    /// Accepted; nothing is sent to trackers yet
    #[arg(long, value_name = "PROJECT")]
    pub(crate) wandb_project: Option<String>,
    /// run_name
    #[arg(long, value_name = "NAME")]
    pub(crate) wandb_run_name: Option<String>,
    /// A token of the Hub, for this command only; better HF_TOKEN, which no list of processes shows
    #[arg(long, value_name = "TOKEN")]
    pub(crate) hf_token: Option<String>,
}

impl TrainerFlags {
    /// The flags as keys with their values, as YAML. Without a file a run is KTO with an adapter, as that tool's was.
    pub(crate) fn settings(&self, with_file: bool) -> Result<Vec<(String, String)>, Failure> {
        let mut out: Vec<(String, String)> = Vec::new();
        let mut set = |key: &str, value: &str| out.push((key.to_owned(), value.to_owned()));
        let text = |value: &str| serde_json::Value::from(value).to_string();
        if !with_file {
            set("trainer", "kto");
            set("use_peft", "true");
        }
        if let Some(size) = &self.model_size {
            if self.model_name.is_none() && !with_file {
                return Err(Failure::usage(format!(
                    "--model-size {size}: expected a model beside it, found none; this program has no models by size yet: \
                     name one with --model-name, a folder or org/name"
                )));
            }
            set("preset", size);
        }
        let data = match (&self.dataset_name, &self.dataset_file) {
            (Some(name), Some(file)) => Some(Path::new(name).join(file).display().to_string()),
            (name, _) => name.clone().or_else(|| self.local_file.clone()),
        };
        let texts = [
            ("model_name_or_path", &self.model_name),
            ("dataset_name", &data),
            ("output_dir", &self.output_dir),
            ("run_name", &self.wandb_run_name),
        ];
        texts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).for_each(|(k, v)| set(k, &text(v)));
        let numbers = [
            ("max_length", &self.max_seq_length),
            ("per_device_train_batch_size", &self.batch_size),
            ("gradient_accumulation_steps", &self.gradient_accumulation),
            ("learning_rate", &self.learning_rate),
            ("num_train_epochs", &self.num_epochs),
            ("max_steps", &self.max_steps),
        ];
        numbers.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).for_each(|(k, v)| set(k, v));
        if self.split_dataset {
            set("val_size", "0.1");
            set("eval_strategy", "epoch");
        }
        if self.wandb {
            set("report_to", "wandb");
        }
        Ok(out)
    }

    /// What is worth saying about the flags.
    pub(crate) fn notes(&self) -> Vec<&'static str> {
        let mut notes = Vec::new();
        if self.hf_token.is_some() {
            notes.push(
                "--hf-token: a token on a command line is seen by everyone who lists processes and stays in the shell's history; \
                 HF_TOKEN or a login is safer. It is used for this command and written nowhere",
            );
        }
        if self.wandb_project.is_some() {
            notes.push("--wandb-project has no effect: nothing is sent to trackers yet");
        }
        notes
    }
}

impl ConfigArgs {
    /// The configuration file and the overrides: a first word with `=` that is no file is an override.
    pub(crate) fn words(&self) -> (Option<&Path>, Vec<String>) {
        let mut words = self.overrides.clone();
        let file = self.config.as_deref();
        if let Some(word) = file.filter(|file| !file.exists()).and_then(Path::to_str).filter(|word| word.contains('='))
        {
            words.insert(0, word.to_owned());
            return (None, words);
        }
        (file, words)
    }
}
