//! Rows to grade, as JSON.

use super::verdict::{Answer, Row};
use crate::Error;
use serde_json::Value;

impl<'a> Row<'a> {
    /// The row in a JSON object: `gold`, `dataset` (absent or null for `olympiadbench`), and either `pred` or `generation`.
    ///
    /// # Errors
    /// [`Error::Field`] for a field that is missing or no text.
    pub fn from_json(row: &'a Value) -> Result<Self, Error> {
        let field = |name: &str, expected| Error::Field { name: name.to_owned(), expected };
        let text =
            |name: &str| row.get(name).filter(|value| !value.is_null()).map(|value| (value.as_str(), name.to_owned()));
        let answer = match (text("pred"), text("generation")) {
            (Some((Some(pred), _)), None) => Answer::Pred(pred),
            (None, Some((Some(generation), _))) => Answer::Generation(generation),
            (Some(_), Some(_)) => return Err(field("pred", "it or `generation`, not both")),
            (None, None) => return Err(field("pred", "a text, in it or in `generation`")),
            (Some((_, name)), _) | (_, Some((_, name))) => return Err(field(&name, "a text")),
        };
        let gold = row.get("gold").and_then(Value::as_str).ok_or_else(|| field("gold", "a text"))?;
        let dataset = match text("dataset") {
            None => None,
            Some((Some(name), _)) => Some(name),
            Some((None, _)) => return Err(field("dataset", "a benchmark's name or null")),
        };
        Ok(Self { gold, dataset, answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_a_prediction_or_a_generation() {
        let row = json!({"gold": "1", "dataset": null, "pred": "2"});
        assert_eq!(Row::from_json(&row).unwrap(), Row { gold: "1", dataset: None, answer: Answer::Pred("2") });
        let row = json!({"gold": "1", "dataset": "gsm8k", "generation": "2", "pred": null});
        assert_eq!(Row::from_json(&row).unwrap().answer, Answer::Generation("2"));
        for bad in [
            json!({"gold": "1"}),
            json!({"gold": 1, "pred": "2"}),
            json!({"gold": "1", "pred": 2}),
            json!({"gold": "1", "pred": "2", "generation": "3"}),
            json!({"gold": "1", "pred": "2", "dataset": 7}),
            json!([]),
        ] {
            assert!(Row::from_json(&bad).is_err(), "{bad}");
        }
    }
}
