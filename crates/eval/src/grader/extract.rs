//! Extraction: where in a generation the answer stands, the harness's way.

use super::normalise::{compiled, normalise, trim};
use regex::Regex;
use std::sync::LazyLock;

static LINE_BREAK: LazyLock<Regex> = LazyLock::new(|| compiled(r"\n\s*"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| compiled(r"-?\d*\.?\d+"));
static LETTER: LazyLock<Regex> = LazyLock::new(|| compiled(r"\b(A|B|C|D|E)\b"));

/// Where the answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Between `final answer is $` and `$. I hope`.
    IHope,
    /// In the last `\boxed`.
    Boxed,
    /// After the last `he answer is`.
    AnswerIs,
    /// After the last `final answer is`.
    FinalAnswerIs,
    /// After the first Chinese `答案是`.
    ChineseAnswerIs,
    /// The last number of the text.
    LastNumber,
    /// Nowhere.
    Nothing,
}

impl Place {
    /// A few words for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::IHope => "minerva phrase",
            Self::Boxed => "last box",
            Self::AnswerIs => "after `he answer is`",
            Self::FinalAnswerIs => "after `final answer is`",
            Self::ChineseAnswerIs => "after `答案是`",
            Self::LastNumber => "last number",
            Self::Nothing => "nowhere",
        }
    }
}

/// An answer found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The answer as it stands in the text, without line breaks and final punctuation.
    pub text: String,
    /// The same in the harness's normal form.
    pub normalised: String,
    /// Where it stood.
    pub place: Place,
}

/// The answer in `text`, a generation for `dataset`: of a text with `</think>`, what stands after its first one.
pub fn extract(text: &str, dataset: &str) -> Extracted {
    let text = text.split("</think>").nth(1).unwrap_or(text);
    let (text, place) = raw_answer(text);
    let kept = keeps_units(dataset);
    let once = normalise(&text, kept || dataset.contains("math"));
    Extracted { normalised: normalise(&once, kept), text, place }
}

/// The answer that a solution states, as it stands there.
pub fn boxed_answer(solution: &str) -> String {
    raw_answer(solution).0
}

/// Whether the benchmark's answers keep their unit words.
pub(super) fn keeps_units(dataset: &str) -> bool {
    dataset == "minerva_math"
}

/// The answer as it stands, cleaned of line breaks, one leading colon, one final dot and one final slash.
pub(super) fn raw_answer(text: &str) -> (String, Place) {
    let text = text.replace("\u{43a}\u{438}", "");
    let (found, place) = find(&text);
    let mut found = LINE_BREAK.replace_all(&found, "").into_owned();
    if found.starts_with(':') {
        found.remove(0);
    }
    for last in ['.', '/'] {
        if found.ends_with(last) {
            found.pop();
        }
    }
    (found, place)
}

fn find(text: &str) -> (String, Place) {
    let last = |phrase: &str| text.rsplit_once(phrase).map(|(_, after)| trim(after).to_owned());
    if let Some((_, after)) = text.split_once("final answer is $")
        && text.contains("$. I hope")
    {
        let answer = after.split("$. I hope").next().unwrap_or(after);
        return (trim(answer).to_owned(), Place::IHope);
    }
    if let Some((_, after)) = text.rsplit_once("boxed") {
        return (boxed(after), Place::Boxed);
    }
    if let Some(answer) = last("he answer is") {
        return (answer, Place::AnswerIs);
    }
    if let Some(answer) = last("final answer is") {
        return (answer, Place::FinalAnswerIs);
    }
    if let Some(after) = text.split("答案是").nth(1) {
        let answer = trim(after).split("\n\n").next().unwrap_or_default();
        return (trim(answer).to_owned(), Place::ChineseAnswerIs);
    }
    let without_commas = text.replace(',', "");
    match NUMBER.find_iter(&without_commas).last() {
        Some(found) => (found.as_str().to_owned(), Place::LastNumber),
        None => (String::new(), Place::Nothing),
    }
}

/// What `boxed` holds: up to the brace that closes it (or the end), or up to a dollar where it opens none.
fn boxed(after: &str) -> String {
    let Some(inside) = after.strip_prefix('{') else {
        return trim(after.split('$').next().unwrap_or_default()).to_owned();
    };
    let mut depth = 1;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return inside[..at].to_owned();
        }
    }
    inside.to_owned()
}

/// The letter A to E that `generation` names, else the text itself, cleaned (the harness's reading for letter golds).
pub(super) fn choice_letter(generation: &str) -> String {
    const TRIGGERS: [&str; 2] = ["choice is", "answer is"];
    let mut text = generation.trim_matches('\n');
    if TRIGGERS.iter().any(|trigger| text.matches(trigger).count() > 1) {
        text = text.split("\n\n").next().unwrap_or(text);
    }
    let after = TRIGGERS.iter().filter_map(|trigger| text.rfind(trigger).map(|at| at + trigger.len())).max();
    cleaned_letter(&text[after.unwrap_or(0)..], after.is_some())
}

/// The last letter A to E that stands alone in a prediction, else the prediction itself, cleaned.
pub(super) fn choice_letter_of(pred: &str) -> String {
    cleaned_letter(pred, false)
}

fn cleaned_letter(answer: &str, first: bool) -> String {
    let answer = answer.trim_matches('\n').trim_end_matches('.').trim_end_matches('/').trim_matches(' ');
    let answer = answer.trim_start_matches(':');
    let upper = answer.to_uppercase();
    let mut letters = LETTER.find_iter(&upper).map(|found| found.as_str());
    let chosen = if first { letters.next() } else { letters.last() };
    let chosen = chosen.unwrap_or_else(|| trim(answer).trim_matches('.'));
    chosen.trim_end_matches('.').trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_in_order_of_preference() {
        let cases = [
            ("so it is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", Place::Boxed),
            ("$\\boxed 5$ and more", "5", Place::Boxed),
            ("\\boxed{1} then \\boxed{2", "2", Place::Boxed),
            ("The answer is: 7.", "7", Place::AnswerIs),
            ("the final answer is $3$. I hope it is correct", "3", Place::IHope),
            ("答案是 4\n\nmore", "4", Place::ChineseAnswerIs),
            ("1,234 apples and 1,200.5", "1200.5", Place::LastNumber),
            ("<think>\\boxed{1}</think> it is \\boxed{2}", "2", Place::Boxed),
            ("none", "", Place::Nothing),
        ];
        for (text, expected, place) in cases {
            let found = extract(text, "aime24");
            assert_eq!((found.normalised.as_str(), found.place), (expected, place), "{text}");
        }
    }

    #[test]
    fn minerva_keeps_its_units_and_math500_loses_them_late() {
        assert_eq!(extract("\\boxed{3 m}", "minerva_math").normalised, "3m");
        assert_eq!(extract("\\boxed{3 m}", "math500").normalised, "3m");
        assert_eq!(extract("\\boxed{3 m}", "gsm8k").normalised, "3");
    }

    #[test]
    fn letters_are_read_after_the_last_trigger() {
        assert_eq!(choice_letter("The answer is (B)."), "B");
        assert_eq!(choice_letter("A or C"), "C");
        assert_eq!(choice_letter("none"), "none");
    }
}
