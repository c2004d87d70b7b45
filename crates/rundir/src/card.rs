//! The model card: `README.md` of a run.
use std::fmt::Write;

use serde_json::Value;

/// What the card says. Texts are taken as they are; numbers are shown with four significant digits.
#[derive(Debug, Clone, Default)]
pub struct Card {
    /// Title: the run's name.
    pub name: String,
    /// The model trained on, as the Hub or the disk names it.
    pub base_model: String,
    /// Data sets, as the Hub or the disk names them.
    pub datasets: Vec<String>,
    /// "kto" or "sft".
    pub trainer: String,
    /// Whether `final/` holds a PEFT adapter rather than a whole model.
    pub adapter: bool,
    /// The settings worth a line, in order.
    pub settings: Vec<(String, String)>,
    /// Final metrics, in order.
    pub metrics: Vec<(String, f64)>,
    /// Plots, relative to the run folder, shown in order.
    pub plots: Vec<String>,
}

impl Card {
    /// The card as Markdown with the Hub's front matter; no licence is claimed, it is the base model's to give.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        self.front_matter(&mut text);
        let article = if self.adapter { "A PEFT adapter for" } else { "A fine-tuned" };
        let (name, base, trainer) = (&self.name, &self.base_model, self.trainer.to_uppercase());
        let _ = writeln!(
            text,
            "\n# {name}\n\n{article} `{base}`, trained with {trainer} by prospect. The result is in `final/`."
        );
        let _ = writeln!(text, "The base model's licence and its terms of use apply.");
        for plot in &self.plots {
            let _ = writeln!(text, "\n![{plot}]({plot})");
        }
        table(&mut text, "Configuration", ["key", "value"], &self.settings);
        let metrics: Vec<_> = self.metrics.iter().map(|(key, value)| (key.clone(), short(*value))).collect();
        table(&mut text, "Final metrics", ["metric", "value"], &metrics);
        self.loading(&mut text);
        text
    }

    fn front_matter(&self, text: &mut String) {
        let library = if self.adapter { "peft" } else { "transformers" };
        let _ = writeln!(text, "---\nbase_model: {}\nlibrary_name: {library}", quoted(&self.base_model));
        let _ = writeln!(text, "pipeline_tag: text-generation\ntags:\n- prospect\n- {}", quoted(&self.trainer));
        if self.adapter {
            text.push_str("- lora\n");
        }
        if !self.datasets.is_empty() {
            text.push_str("datasets:\n");
            self.datasets.iter().for_each(|name| text.push_str(&format!("- {}\n", quoted(name))));
        }
        text.push_str("---\n");
    }

    fn loading(&self, text: &mut String) {
        let base = quoted(&self.base_model);
        text.push_str("\n## Use\n\n```python\n");
        text.push_str("from transformers import AutoModelForCausalLM, AutoTokenizer\n");
        if self.adapter {
            text.push_str("from peft import PeftModel\n\n");
            let _ = writeln!(text, "base = AutoModelForCausalLM.from_pretrained({base})");
            text.push_str("model = PeftModel.from_pretrained(base, \"final\")\n");
            let _ = writeln!(text, "tokenizer = AutoTokenizer.from_pretrained({base})");
        } else {
            text.push_str("\nmodel = AutoModelForCausalLM.from_pretrained(\"final\")\n");
            text.push_str("tokenizer = AutoTokenizer.from_pretrained(\"final\")\n");
        }
        text.push_str("```\n\n```sh\n");
        if self.adapter {
            let base = shell_word(&self.base_model);
            let _ = writeln!(text, "prospect generate {base} --adapter final --prompt \"Hello\"");
            let _ = writeln!(text, "prospect merge {base} --adapter final --output merged");
        } else {
            text.push_str("prospect generate final --prompt \"Hello\"\n");
        }
        text.push_str("```\n");
    }
}

pub(crate) fn table(text: &mut String, title: &str, head: [&str; 2], rows: &[(String, String)]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {title}\n\n| {} | {} |\n|---|---|", head[0], head[1]);
    for (key, value) in rows {
        let _ = writeln!(text, "| {} | {} |", cell(key), cell(value));
    }
}

/// Markdown ends a table cell at `|` and a row at a line's end.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// A JSON string is a YAML and a Python one too.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Four significant digits, without an exponent where that stays short.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if (-4..7).contains(&magnitude) {
        let text = format!("{value:.*}", (3 - magnitude).max(0) as usize);
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        format!("{value:.3e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            name: "run-1".into(),
            base_model: "Qwen/Qwen2.5-0.5B".into(),
            datasets: vec!["trl-lib/kto-mix-14k".into()],
            trainer: "kto".into(),
            adapter: true,
            settings: vec![("lora_target_modules".into(), "q_proj|v_proj".into())],
            metrics: vec![("loss".into(), 0.123_456), ("kl".into(), 3.0e-7)],
            plots: vec!["plots/loss.png".into()],
        }
    }

    #[test]
    fn the_card_of_an_adapter_names_its_base_and_loads_with_peft() {
        let text = card().to_markdown();
        assert!(text.starts_with("---\nbase_model: \"Qwen/Qwen2.5-0.5B\"\nlibrary_name: peft\n"), "{text}");
        assert!(text.contains("| lora_target_modules | q_proj\\|v_proj |\n"), "{text}");
        assert!(text.contains("| loss | 0.1235 |\n| kl | 3.000e-7 |\n"), "{text}");
        assert!(text.contains("PeftModel.from_pretrained(base, \"final\")"), "{text}");
        assert!(text.contains("prospect generate Qwen/Qwen2.5-0.5B --adapter final"), "{text}");
        assert!(!text.contains("license:"), "{text}");
    }

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        let base_model = "a\"\n---\nlicense: mit\n#'$(x)".to_owned();
        let text = Card { base_model, adapter: true, ..card() }.to_markdown();
        assert!(text.starts_with("---\nbase_model: \"a\\\"\\n---\\nlicense: mit\\n#'$(x)\"\nlibrary_name"), "{text}");
        assert!(text.contains("prospect merge 'a\""), "{text}");
    }

    #[test]
    fn numbers_have_four_significant_digits() {
        let shown: Vec<_> = [0.0, 1.0, 12345.6, 0.5, -0.00012345, 1e9, 99.999].map(short).into();
        assert_eq!(shown, ["0", "1", "12346", "0.5", "-0.0001234", "1.000e9", "100"]);
    }
}
