//! The six benchmarks: where a row keeps its question and its gold answer.

use crate::Error;
use crate::grader::{boxed_answer, normalise};
use serde_json::Value;

/// A benchmark known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Benchmark {
    /// AIME 2024, 30 problems.
    Aime24,
    /// AMC 2023, 40 problems.
    Amc23,
    /// GSM8K, 1319 test problems.
    Gsm8k,
    /// MATH-500.
    Math500,
    /// Minerva's 272 problems from MIT OpenCourseWare.
    MinervaMath,
    /// OlympiadBench, 675 text-only English mathematics problems.
    OlympiadBench,
}

/// A gold answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gold {
    /// As the row states it: for [`crate::grader::Mode::Strict`].
    pub answer: String,
    /// As the harness compares it.
    pub normalised: String,
    /// The solution that leads to it; empty where the harness takes none.
    pub solution: String,
}

impl Benchmark {
    /// All of them, in the order of the reports.
    pub const ALL: [Self; 6] =
        [Self::Aime24, Self::Amc23, Self::Gsm8k, Self::Math500, Self::MinervaMath, Self::OlympiadBench];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aime24 => "aime24",
            Self::Amc23 => "amc23",
            Self::Gsm8k => "gsm8k",
            Self::Math500 => "math500",
            Self::MinervaMath => "minerva_math",
            Self::OlympiadBench => "olympiadbench",
        }
    }

    /// The benchmark of that name.
    ///
    /// # Errors
    /// [`Error::UnknownBenchmark`] with the names there are.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|benchmark| benchmark.name() == name);
        known.ok_or_else(|| Error::UnknownBenchmark { name: name.to_owned() })
    }

    /// The gold answer of a row of its `test.jsonl`.
    ///
    /// # Errors
    /// [`Error::Field`] where a field is missing or of another type.
    pub fn gold(self, row: &Value) -> Result<Gold, Error> {
        let (answer, solution) = match self {
            Self::Aime24 | Self::Amc23 => (text_or_number(row, "answer")?, String::new()),
            Self::Gsm8k => {
                let text = text(row, "answer")?;
                let (solution, answer) =
                    text.split_once("####").ok_or_else(|| field("answer", "a text with `####`"))?;
                (answer.trim().to_owned(), solution.trim().to_owned())
            }
            Self::Math500 | Self::MinervaMath => {
                let solution = text(row, "solution")?;
                (boxed_answer(solution), solution.trim().to_owned())
            }
            Self::OlympiadBench => {
                let first = row.get("final_answer").and_then(|answers| answers.get(0)).and_then(Value::as_str);
                let first = first.ok_or_else(|| field("final_answer", "a list of texts"))?;
                (first.trim_matches('$').to_owned(), String::new())
            }
        };
        let once =
            if matches!(self, Self::Math500 | Self::MinervaMath) { normalise(&answer, true) } else { answer.clone() };
        let normalised = match self {
            Self::MinervaMath => once.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge"),
            _ => normalise(&once, false),
        };
        Ok(Gold { answer, normalised, solution })
    }

    /// The question of a row, with the kind of answer where that is yes or no.
    ///
    /// # Errors
    /// [`Error::Field`] where the row has no question or no gold answer.
    pub fn question(self, row: &Value) -> Result<String, Error> {
        let question = ["question", "problem", "Question", "input"].iter().find_map(|key| row.get(*key)?.as_str());
        let question = question.ok_or_else(|| field("question", "a text"))?;
        let hint = match self.gold(row)?.normalised.to_lowercase().as_str() {
            "true" | "false" => " (True or False)",
            "yes" | "no" => " (Yes or No)",
            _ => "",
        };
        Ok(format!("{question}{hint}").trim().to_owned())
    }
}

fn field(name: &'static str, expected: &'static str) -> Error {
    Error::Field { name: name.to_owned(), expected }
}

fn text<'a>(row: &'a Value, name: &'static str) -> Result<&'a str, Error> {
    row.get(name).and_then(Value::as_str).ok_or_else(|| field(name, "a text"))
}

/// A text, or a number as Python writes it: `27.0`.
fn text_or_number(row: &Value, name: &'static str) -> Result<String, Error> {
    match row.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(field(name, "a text or a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_benchmark_finds_its_gold() {
        let cases = [
            (Benchmark::Aime24, json!({"answer": "025"}), "025", "25"),
            (Benchmark::Amc23, json!({"answer": 27.0}), "27.0", "27"),
            (Benchmark::Gsm8k, json!({"answer": "so\n#### 2,125"}), "2,125", "2,125"),
            (Benchmark::Math500, json!({"solution": "is $\\boxed{5 \\text{ cm}}$."}), "5 \\text{ cm}", "5"),
            (Benchmark::MinervaMath, json!({"solution": "\\boxed{3 m}"}), "3 m", "3m"),
            (Benchmark::OlympiadBench, json!({"final_answer": ["$\\dfrac12$"]}), "\\dfrac12", "\\frac{1}{2}"),
        ];
        for (benchmark, row, answer, normalised) in cases {
            let gold = benchmark.gold(&row).unwrap();
            assert_eq!((gold.answer.as_str(), gold.normalised.as_str()), (answer, normalised), "{}", benchmark.name());
        }
    }

    #[test]
    fn a_yes_or_no_question_says_so() {
        let row = json!({"problem": "Is it? ", "answer": "Yes"});
        assert_eq!(Benchmark::Aime24.question(&row).unwrap(), "Is it?  (Yes or No)");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = Benchmark::Math500.gold(&json!({"answer": "5"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "field `solution` of a benchmark row: expected a text; check that the file belongs to the benchmark"
        );
        assert_eq!(error.exit_code(), 3);
        assert_eq!(Benchmark::from_name("gsm9k").unwrap_err().exit_code(), 2);
    }
}
