//! The card of a published result: what a run's folder says, without a path of the machine it ran on.

use std::fmt::Write;
use std::path::{Component, Path};

use crate::card::{quoted, short, table};
use crate::hash::FileHash;
use crate::lock::Lock;
use crate::runs::Details;

/// Settings worth a line, where the run has them.
const SETTINGS: [&str; 20] = [
    "loss_type",
    "beta",
    "desirable_weight",
    "undesirable_weight",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "dtype",
    "seed",
];

/// What a repository holds.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// `org/name`.
    pub repository: String,
    /// The base model's name on the Hub, where it is known.
    pub base_model: Option<String>,
    /// The licence's identifier, where it is known.
    pub license: Option<String>,
    /// Where in the repository the adapter is: `Some("")` for its root.
    pub adapter: Option<String>,
    /// Whether a whole model is in its root.
    pub model: bool,
    /// GGUF files: name and bytes.
    pub gguf: Vec<(String, u64)>,
    /// Plots, by their names in the repository.
    pub plots: Vec<String>,
}

impl Published {
    /// The card as Markdown with the Hub's front matter. Of inputs it names files and hashes, never folders.
    pub fn to_markdown(&self, run: Option<(&Details, &Lock)>) -> String {
        let mut text = String::new();
        let details = run.map(|(details, _)| details);
        self.front_matter(details, &mut text);
        let name = self.repository.rsplit('/').next().unwrap_or_default();
        let what = match (self.model, &self.adapter) {
            (false, Some(_)) => "A PEFT adapter",
            _ => "A fine-tuned model",
        };
        let base = self
            .base_model
            .as_ref()
            .map_or(String::new(), |base| format!(" of [{base}](https://huggingface.co/{base})"));
        let trainer = details.and_then(|d| d.summary.trainer.as_deref());
        let trainer = trainer.map_or(String::new(), |trainer| format!(", trained with {}", trainer.to_uppercase()));
        let _ = writeln!(text, "\n# {name}\n\n{what}{base}{trainer} by prospect.");
        if self.license.is_none() {
            let _ = writeln!(text, "The base model's licence and its terms of use apply.");
        }
        for plot in &self.plots {
            let _ = writeln!(text, "\n![{plot}]({plot})");
        }
        if let Some((details, lock)) = run {
            of_run(details, lock, &mut text);
        }
        self.use_of(&mut text);
        text
    }

    fn front_matter(&self, run: Option<&Details>, text: &mut String) {
        let only_adapter = self.adapter.is_some() && !self.model;
        let library = if only_adapter { "peft" } else { "transformers" };
        text.push_str("---\n");
        if let Some(base) = &self.base_model {
            let relation = if only_adapter { "adapter" } else { "finetune" };
            let _ = writeln!(text, "base_model: {}\nbase_model_relation: {relation}", quoted(base));
        }
        if let Some(license) = &self.license {
            let _ = writeln!(text, "license: {}", quoted(license));
        }
        let _ = writeln!(text, "library_name: {library}\npipeline_tag: text-generation\ntags:\n- prospect");
        if let Some(trainer) = run.and_then(|d| d.summary.trainer.as_deref()) {
            let _ = writeln!(text, "- {}", quoted(trainer));
        }
        if self.adapter.is_some() {
            text.push_str("- lora\n");
        }
        if !self.gguf.is_empty() {
            text.push_str("- gguf\n");
        }
        text.push_str("---\n");
    }

    fn use_of(&self, text: &mut String) {
        let repository = quoted(&self.repository);
        if self.model || self.adapter.is_some() {
            text.push_str("\n## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n");
        }
        if self.model {
            let _ = writeln!(text, "\nmodel = AutoModelForCausalLM.from_pretrained({repository})");
            let _ = writeln!(text, "tokenizer = AutoTokenizer.from_pretrained({repository})\n```");
        } else if let Some(folder) = &self.adapter {
            let base = quoted(self.base_model.as_deref().unwrap_or("the base model"));
            let below = if folder.is_empty() { String::new() } else { format!(", subfolder={}", quoted(folder)) };
            let _ = writeln!(text, "from peft import PeftModel\n\nbase = AutoModelForCausalLM.from_pretrained({base})");
            let _ = writeln!(text, "model = PeftModel.from_pretrained(base, {repository}{below})");
            let _ = writeln!(text, "tokenizer = AutoTokenizer.from_pretrained({repository})\n```");
        }
        if let Some((first, _)) = self.gguf.first() {
            let rows: Vec<_> =
                self.gguf.iter().map(|(name, bytes)| (name.clone(), format!("{:.1}", *bytes as f64 / 1e6))).collect();
            table(text, "GGUF", ["file", "MB"], &rows);
            let _ = writeln!(text, "\n```sh\nllama-cli --hf-repo {} --hf-file {first}\n```", self.repository);
        }
    }
}

fn of_run(details: &Details, lock: &Lock, text: &mut String) {
    let value = |key: &str| details.config.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
    let settings: Vec<_> =
        SETTINGS.iter().filter_map(|key| Some(((*key).to_owned(), value(key).filter(|v| v != "null")?))).collect();
    table(text, "Configuration", ["key", "value"], &settings);
    let metrics: Vec<_> =
        details.summary.metrics.iter().filter_map(|(key, value)| Some((key.clone(), short(value.as_f64()?)))).collect();
    table(text, "Final metrics", ["metric", "value"], &metrics);
    let input = |file: &FileHash| {
        let name = Path::new(&file.path).file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        (name, format!("{} bytes, BLAKE3 {}", file.bytes, file.blake3))
    };
    let inputs: Vec<_> = lock.data.iter().chain(&lock.model).map(input).collect();
    table(text, "Inputs", ["file", "contents"], &inputs);
    let _ = writeln!(text, "\nMade with prospect {}.", lock.version);
}

/// The Hub's name of a folder in its cache (`models--org--name/snapshots/..`), or of a path that is such a name itself and no
/// folder here.
pub fn hub_name(path: &Path) -> Option<String> {
    let words: Vec<&str> = path
        .components()
        .map(|part| match part {
            Component::Normal(word) => word.to_str(),
            _ => Some(""),
        })
        .collect::<Option<_>>()?;
    if let Some(cached) = words.iter().find_map(|word| word.strip_prefix("models--")) {
        return Some(cached.replacen("--", "/", 1));
    }
    let plain = |word: &&str| {
        !word.is_empty()
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !word.starts_with('.')
    };
    (words.len() == 2 && words.iter().all(plain) && !path.exists()).then(|| words.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_has_no_path_of_the_machine() {
        let published = Published {
            repository: "me/tiny-kto".into(),
            base_model: Some("org/tiny".into()),
            license: Some("apache-2.0".into()),
            adapter: Some("adapter".into()),
            gguf: vec![("tiny-kto-Q8_0.gguf".into(), 1_500_000)],
            ..Published::default()
        };
        let (mut details, hash) = (Details::default(), "ab".repeat(32));
        details.config = vec![("beta".into(), "0.1".into()), ("output_dir".into(), "/home/me/run".into())];
        details.summary.trainer = Some("kto".into());
        let file = |path: &str| FileHash { path: path.into(), bytes: 7, blake3: hash.clone() };
        let lock = Lock {
            version: "1".into(),
            model: vec![file("/home/me/base/model.safetensors")],
            data: vec![file("/home/me/rows.jsonl")],
            cpu_features: vec![],
            threads: 1,
            plan: serde_json::Value::Null,
        };
        let text = published.to_markdown(Some((&details, &lock)));
        assert!(
            text.starts_with("---\nbase_model: \"org/tiny\"\nbase_model_relation: adapter\nlicense: \"apache-2.0\"\n"),
            "{text}"
        );
        assert!(
            text.contains("| beta | 0.1 |\n") && text.contains(&format!("| rows.jsonl | 7 bytes, BLAKE3 {hash} |")),
            "{text}"
        );
        assert!(text.contains("PeftModel.from_pretrained(base, \"me/tiny-kto\", subfolder=\"adapter\")"), "{text}");
        assert!(text.contains("| tiny-kto-Q8_0.gguf | 1.5 |") && !text.contains("/home/me"), "{text}");
    }

    #[test]
    fn names_of_the_hub_are_found_in_its_cache() {
        let of = |path: &str| hub_name(Path::new(path));
        assert_eq!(of("/c/hub/models--Qwen--Qwen2.5-0.5B/snapshots/abc").as_deref(), Some("Qwen/Qwen2.5-0.5B"));
        assert_eq!(of("org/name").as_deref(), Some("org/name"));
        for path in ["/models/base", "base", "../a/b", "./a", "runs/a/final", "src/card.rs"] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
