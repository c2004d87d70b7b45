//! What a demonstration found out, as plain data.

use eval::stats::Estimate;
use std::path::PathBuf;

/// Results of one model on the held-out problems.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    /// `base`, `SFT` or `KTO`.
    pub name: &'static str,
    /// Accuracy of the most likely answer, with Wilson's interval.
    pub greedy: Estimate,
    /// Accuracy of answers sampled at temperature 1, with the bootstrap's interval over problems.
    pub sampled: Estimate,
    /// Tokens generated per second.
    pub tokens_per_second: f64,
    /// Its most likely answer to [`Report::question`].
    pub answer: String,
}

/// Everything there is to tell at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Of everything drawn.
    pub seed: u64,
    /// Parameters of the model.
    pub parameters: usize,
    /// Held-out problems.
    pub problems: usize,
    /// Sampled answers to each.
    pub samples: usize,
    /// Base, SFT, KTO.
    pub examined: [Examined; 3],
    /// Sampled accuracy of KTO minus that of SFT, paired by problem.
    pub gain_sampled: Estimate,
    /// Greedy accuracy of KTO minus that of SFT, paired by problem.
    pub gain_greedy: Estimate,
    /// Rows that KTO learned from: desirable, undesirable.
    pub labels: (usize, usize),
    /// The last values that SFT and KTO logged, by their names in `log.jsonl`.
    pub logged: [Vec<(String, f64)>; 2],
    /// Seconds of each stage.
    pub seconds: Vec<(&'static str, f64)>,
    /// Most memory the process had in use at one time, where the system tells.
    pub peak_bytes: Option<u64>,
    /// A held-out problem, for show.
    pub question: String,
    /// Where things are.
    pub folders: Folders,
}

/// What a demonstration leaves on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// The model with random weights, and its tokenizer.
    pub base: PathBuf,
    /// Problems, worked answers, labelled answers.
    pub data: PathBuf,
    /// Run folder of supervised fine-tuning; the model is in `final`.
    pub sft: PathBuf,
    /// Run folder of KTO; the adapter is in `final`, plots in `plots`.
    pub kto: PathBuf,
}

impl Report {
    /// A value that KTO logged last, as `rewards/chosen`.
    pub fn kto(&self, name: &str) -> Option<f64> {
        value(&self.logged[1], name)
    }

    /// The table: a header and a row for each model, numbers as text.
    pub fn table(&self) -> Vec<Vec<String>> {
        let header =
            ["", "greedy", "95 %", "sampled", "95 %", "reward desirable", "reward undesirable", "kl", "tokens/s"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for (i, model) in self.examined.iter().enumerate() {
            let logged = |name: &str| match i {
                2 => self.kto(name).map_or_else(String::new, |x| format!("{x:.3}")),
                _ => String::new(),
            };
            rows.push(vec![
                model.name.to_owned(),
                percent(model.greedy.value),
                interval(&model.greedy),
                percent(model.sampled.value),
                interval(&model.sampled),
                logged("rewards/chosen"),
                logged("rewards/rejected"),
                logged("kl"),
                format!("{:.0}", model.tokens_per_second),
            ]);
        }
        rows
    }

    /// Sentences under the table.
    pub fn findings(&self) -> Vec<String> {
        let gain = |of: &str, gain: &Estimate| {
            let verdict = match (gain.excludes_zero(), gain.value > 0.0) {
                (true, true) => "KTO is better than SFT",
                (true, false) => "KTO is worse than SFT",
                (false, _) => "no difference is shown",
            };
            let [value, low, high] = [gain.value, gain.low, gain.high].map(|x| format!("{:+.1}", 100.0 * x));
            format!("KTO minus SFT, {of}: {value} points (95 %: {low} to {high}): {verdict}")
        };
        let mut lines = vec![gain("sampled", &self.gain_sampled), gain("greedy", &self.gain_greedy)];
        if let Some(bytes) = self.peak_bytes {
            lines.push(format!("peak memory: {} MB", bytes >> 20));
        }
        lines
    }

    /// What to do next: a purpose and a command for each.
    pub fn next_steps(&self) -> [(&'static str, String); 4] {
        let Folders { sft, kto, .. } = &self.folders;
        let [model, adapter, kto] =
            [sft.join("final"), kto.join("final"), kto.clone()].map(|p| quoted(&p.to_string_lossy()));
        let merged = quoted(&self.folders.kto.with_file_name("merged").to_string_lossy());
        [
            ("chat with it", format!("prospect chat {kto}")),
            ("ask it", format!("prospect generate {model} --adapter {adapter} --prompt {}", quoted(&self.question))),
            ("merge it", format!("prospect merge {model} --adapter {adapter} --output {merged}")),
            ("resume it", format!("prospect resume {kto}")),
        ]
    }
}

/// The value of a name in a list of logged values.
pub(crate) fn value(logged: &[(String, f64)], name: &str) -> Option<f64> {
    logged.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn interval(estimate: &Estimate) -> String {
    format!("{} to {}", percent(estimate.low), percent(estimate.high))
}

/// A word of a shell command.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let estimate = |value, low, high| Estimate { value, low, high };
        let examined = |name, value: f64| Examined {
            name,
            greedy: estimate(value, value - 0.02, value + 0.02),
            sampled: estimate(value / 2.0, value / 2.0 - 0.02, value / 2.0 + 0.02),
            tokens_per_second: 1234.4,
            answer: "The answer is 5.".to_owned(),
        };
        Report {
            seed: 0,
            parameters: 1,
            problems: 300,
            samples: 4,
            examined: [examined("base", 0.1), examined("SFT", 0.5), examined("KTO", 0.625)],
            gain_sampled: estimate(0.0625, 0.01, 0.11),
            gain_greedy: estimate(0.125, -0.01, 0.26),
            labels: (10, 20),
            logged: [vec![], vec![("rewards/chosen".to_owned(), 0.25), ("kl".to_owned(), 1.5)]],
            seconds: vec![],
            peak_bytes: Some(50 << 20),
            question: "Ben's 2 pens?".to_owned(),
            folders: Folders { base: "o/base".into(), data: "o/data".into(), sft: "o/sft".into(), kto: "o/kto".into() },
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_model_and_rewards_for_kto_only() {
        let table = report().table();
        assert!(table.iter().all(|row| row.len() == table[0].len()));
        assert_eq!(table[2][..5], ["SFT", "50.0", "48.0 to 52.0", "25.0", "23.0 to 27.0"]);
        assert_eq!(table[2][5..], ["", "", "", "1234"]);
        assert_eq!(table[3][5..], ["0.250", "", "1.500", "1234"]);
    }

    #[test]
    fn findings_claim_what_the_intervals_allow() {
        let lines = report().findings();
        assert_eq!(lines[0], "KTO minus SFT, sampled: +6.2 points (95 %: +1.0 to +11.0): KTO is better than SFT");
        assert_eq!(lines[1], "KTO minus SFT, greedy: +12.5 points (95 %: -1.0 to +26.0): no difference is shown");
        assert_eq!(lines[2], "peak memory: 50 MB");
    }

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        let [chat, ask, merge, resume] = report().next_steps();
        assert_eq!(chat.1, "prospect chat o/kto");
        assert_eq!(ask.1, r"prospect generate o/sft/final --adapter o/kto/final --prompt 'Ben'\''s 2 pens?'");
        assert_eq!(merge.1, "prospect merge o/sft/final --adapter o/kto/final --output o/merged");
        assert_eq!(resume.1, "prospect resume o/kto");
    }
}
