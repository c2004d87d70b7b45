//! A model's configuration with a longer context: `rope_scaling` of the run in place of the model's own.

use crate::Error;
use config::Config;
use model::Blueprint;
use serde_json::{Map, Value, json};

/// The blueprint of a run's model, and the keys of its `config.json` that the run changes.
///
/// Positions go up to the original ones times the factor. `dynamic` measures them against `max_position_embeddings`, which
/// therefore stays what it is; the other scalings raise it.
///
/// # Errors
/// What the model's configuration or the scaling lacks.
pub(crate) fn blueprint(config: &Config) -> Result<(Blueprint, Vec<(String, Value)>), Error> {
    let mut keys = weights::read_config(&config.model.path)?;
    let Some(scaling) = &config.model.rope_scaling else { return Ok((model::arch::blueprint(&keys)?, Vec::new())) };
    let (changes, positions) = changes(&keys, scaling)?;
    keys.extend(changes.iter().cloned());
    let mut blueprint = model::arch::blueprint(&keys)?;
    blueprint.max_positions = positions;
    Ok((blueprint, changes))
}

/// A change of `config.json`: key and new value.
type Change = (String, Value);

fn changes(keys: &Map<String, Value>, scaling: &Map<String, Value>) -> Result<(Vec<Change>, usize), Error> {
    let wrong = |what: String| Error::Mismatch { what: format!("rope_scaling: {what}") };
    let count = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_u64);
    let own = count(keys, "max_position_embeddings")
        .ok_or_else(|| wrong("the model's config.json has no max_position_embeddings to extend".to_owned()))?;
    let original = count(scaling, "original_max_position_embeddings").unwrap_or(own);
    let factor = scaling.get("factor").and_then(Value::as_f64).filter(|f| (1.0..=1024.0).contains(f));
    let factor = factor.ok_or_else(|| wrong("expected a factor from 1 to 1024".to_owned()))?;
    let kind = scaling.get("rope_type").and_then(Value::as_str).unwrap_or_default();
    let positions = original as f64 * factor;
    if positions > (1u64 << 28) as f64 {
        return Err(wrong(format!("{original} positions times {factor} are more than there can be")));
    }
    let mut dict = scaling.clone();
    if matches!(kind, "yarn" | "llama3") {
        dict.insert("original_max_position_embeddings".to_owned(), original.into());
    }
    let mut changes = Vec::new();
    if let Some(Value::Object(before)) = keys.get("rope_parameters") {
        // A dictionary of dictionaries is by kind of layer, which one scaling does not say anything about.
        if before.values().any(Value::is_object) {
            return Err(wrong(
                "this model's rope_parameters differ by layer, which one scaling cannot replace".to_owned(),
            ));
        }
        if let Some(theta) = before.get("rope_theta") {
            dict.insert("rope_theta".to_owned(), theta.clone());
        }
        changes.push(("rope_parameters".to_owned(), dict.into()));
    } else {
        // Readers of the older dialect look for either name.
        dict.insert("type".to_owned(), json!(kind));
        changes.push(("rope_scaling".to_owned(), dict.into()));
    }
    if kind != "dynamic" {
        changes.push(("max_position_embeddings".to_owned(), json!(positions as u64)));
    }
    Ok((changes, positions as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn both_dialects_get_their_own_names_and_the_limit_follows() {
        let yarn = map(json!({"rope_type": "yarn", "factor": 4.0}));
        let old = map(json!({"max_position_embeddings": 100, "rope_theta": 1e4}));
        let (found, positions) = changes(&old, &yarn).unwrap();
        let dict = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100, "type": "yarn"});
        assert_eq!(positions, 400);
        assert_eq!(found, [("rope_scaling".into(), dict), ("max_position_embeddings".into(), json!(400))]);
        let new = map(
            json!({"max_position_embeddings": 100, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
        );
        let (found, _) = changes(&new, &yarn).unwrap();
        assert_eq!(found[0].1["rope_theta"], json!(5e5));
        assert_eq!((&found[0].0[..], &found[0].1["rope_type"]), ("rope_parameters", &json!("yarn")));
        let dynamic = map(json!({"rope_type": "dynamic", "factor": 2.0}));
        let (found, positions) = changes(&old, &dynamic).unwrap();
        assert_eq!((found.len(), positions), (1, 200));
    }

    #[test]
    fn a_scaling_without_a_sound_factor_is_refused() {
        let old = map(json!({"max_position_embeddings": 100}));
        for scaling in [json!({"rope_type": "yarn"}), json!({"rope_type": "linear", "factor": 0.5})] {
            assert!(changes(&old, &map(scaling)).unwrap_err().to_string().contains("expected a factor"));
        }
        let layered = map(json!({"max_position_embeddings": 100, "rope_parameters": {"full_attention": {}}}));
        let linear = map(json!({"rope_type": "linear", "factor": 2.0}));
        assert!(changes(&layered, &linear).unwrap_err().to_string().contains("differ by layer"));
    }
}
