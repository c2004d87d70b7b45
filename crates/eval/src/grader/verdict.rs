//! The verdict on one answer: what was compared, and by which rule it was decided.

use super::extract::{Extracted, choice_letter, extract, keeps_units, raw_answer};
use super::normalise::normalise;
use super::{qwen, strict};

/// What counts as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the Qwen2.5-Math evaluation harness decides, leniencies included.
    Qwen,
    /// What is mathematically right.
    Strict,
}

/// What a model gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The bare answer, as it would stand in `\boxed{}`.
    Pred(&'a str),
    /// A whole text, to be searched for its answer.
    Generation(&'a str),
}

/// One answer to grade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The right answer.
    pub gold: &'a str,
    /// The benchmark whose rules hold; `None` is `olympiadbench`.
    pub dataset: Option<&'a str>,
    /// The answer to grade.
    pub answer: Answer<'a>,
}

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The texts are the same.
    SameText,
    /// One of the answers is empty.
    Empty,
    /// The letter of a choice.
    Choice,
    /// Both are numbers (qwen: within 1e-4, also of a hundredth and of the hundredfold).
    Number,
    /// The texts are the same without brackets (qwen).
    WithoutBrackets,
    /// Part by part of a tuple or interval.
    Tuple,
    /// Cell by cell.
    Matrix,
    /// Both sides of an equation or inequality.
    Equation,
    /// Equal as symbols (qwen).
    Symbolic,
    /// Equal by the normal form of rationals and radicals.
    Normal,
    /// Equal at many points in high precision.
    Numeric,
    /// Not the same by normal form, or different at a point.
    Different,
    /// A list or set in any order.
    Set,
    /// A set of reals in canonical form.
    RealSet,
    /// Words.
    Text,
    /// The units.
    Unit,
    /// Answers of different kinds.
    Kind,
    /// Undefined, or too long to compute: not equal.
    Undecided,
    /// No rule found them equal (qwen).
    Nothing,
}

impl Rule {
    /// A stable name for files.
    pub fn name(self) -> &'static str {
        match self {
            Self::SameText => "same_text",
            Self::Empty => "empty",
            Self::Choice => "choice",
            Self::Number => "number",
            Self::WithoutBrackets => "without_brackets",
            Self::Tuple => "tuple",
            Self::Matrix => "matrix",
            Self::Equation => "equation",
            Self::Symbolic => "symbolic",
            Self::Normal => "normal_form",
            Self::Numeric => "numeric_identity",
            Self::Different => "different",
            Self::Set => "set",
            Self::RealSet => "real_set",
            Self::Text => "text",
            Self::Unit => "unit",
            Self::Kind => "kind",
            Self::Undecided => "undecided",
            Self::Nothing => "nothing",
        }
    }
}

/// What was found about one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the answer is right.
    pub verdict: bool,
    /// The rule that decided.
    pub rule: Rule,
    /// The answer that was found: what the harness's extraction returns in [`Mode::Qwen`], as it stands in the text in
    /// [`Mode::Strict`].
    pub extracted: String,
    /// What was compared with the gold answer: in [`Mode::Qwen`] what was found, or the letters of choices in it where the gold answer is such
    /// letters; the answer itself in [`Mode::Strict`].
    pub normalised: String,
}

/// Grades one answer.
pub fn grade(row: &Row<'_>, mode: Mode) -> Verdict {
    let dataset = row.dataset.unwrap_or("olympiadbench");
    let boxed;
    let generation = match row.answer {
        Answer::Generation(text) => text,
        Answer::Pred(pred) => {
            boxed = format!("\\boxed{{{pred}}}");
            &boxed
        }
    };
    let Extracted { text, normalised, .. } = extract(generation, dataset);
    let (extracted, normalised, (verdict, rule)) = match mode {
        Mode::Qwen => {
            let gold = normalise_gold(row.gold, dataset);
            let compared = with_letters(normalised.clone(), &gold, generation);
            let found = qwen::equal(&compared, &gold);
            (normalised, compared, found)
        }
        Mode::Strict => {
            let gold = match row.answer {
                Answer::Generation(_) if row.gold.contains("\\boxed") => raw_answer(row.gold).0,
                _ => row.gold.to_owned(),
            };
            let found = strict::equal(&text, &gold);
            (text.clone(), text, found)
        }
    };
    Verdict { verdict, rule, extracted, normalised }
}

/// A gold answer as the harness compares it: normalised when the benchmark is read, and again when it is evaluated.
pub fn normalise_gold(gold: &str, dataset: &str) -> String {
    if keeps_units(dataset) {
        return normalise(gold, true).replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge");
    }
    let once = match dataset {
        "math500" => normalise(gold, true),
        "olympiadbench" => gold.trim_matches('$').to_owned(),
        _ => gold.to_owned(),
    };
    normalise(&normalise(&once, false), false)
}

/// The harness's reading of predictions where the gold is a letter, or letters.
fn with_letters(pred: String, gold: &str, generation: &str) -> String {
    let is_letter = |text: &str| matches!(text, "A" | "B" | "C" | "D" | "E");
    let letters_only = |text: &str| text.chars().all(|c| ('A'..='E').contains(&c));
    if is_letter(gold) {
        return if is_letter(&pred) { pred } else { choice_letter(generation) };
    }
    if letters_only(gold) && !letters_only(&pred) {
        return pred.chars().filter(|c| ('A'..='E').contains(c)).collect();
    }
    pred
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(gold: &'a str, dataset: &'a str, answer: Answer<'a>) -> Row<'a> {
        Row { gold, dataset: Some(dataset), answer }
    }

    #[test]
    fn a_generation_is_searched_and_a_prediction_taken_as_it_is() {
        let found = grade(&row("1/2", "math500", Answer::Generation("so \\boxed{0.5}.")), Mode::Strict);
        assert_eq!((found.verdict, found.rule, found.extracted.as_str()), (true, Rule::Normal, "0.5"));
        let found = grade(&row("12", "gsm8k", Answer::Pred("12 apples")), Mode::Qwen);
        assert_eq!((found.verdict, found.rule, found.extracted.as_str()), (true, Rule::SameText, "12"));
        let found = grade(&row("B", "math500", Answer::Generation("\\boxed{4}, which is (B)")), Mode::Qwen);
        assert_eq!((found.verdict, found.extracted.as_str(), found.normalised.as_str()), (true, "4", "B"));
    }

    #[test]
    fn the_modes_differ_on_the_hundredfold() {
        let row = row("5", "aime24", Answer::Pred("500"));
        assert!(grade(&row, Mode::Qwen).verdict);
        assert!(!grade(&row, Mode::Strict).verdict);
    }

    #[test]
    fn letters_are_read_from_the_generation() {
        let row = row("B", "math500", Answer::Generation("The answer is (B) because 3 < 4"));
        assert!(grade(&row, Mode::Qwen).verdict);
    }
}
