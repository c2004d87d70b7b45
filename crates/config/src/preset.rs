//! Presets: small configurations by name, that give way to every key that is written.

use crate::problem::{Code, Errors, Problem, Source};
use crate::settings::target_of;
use crate::table;
use crate::yaml::{self, Content, Pair};

/// Name and text of every preset, as in `configs/presets`.
pub const PRESET_FILES: [(&str, &str); 4] = [
    ("3b", include_str!("../../../configs/presets/3b.yaml")),
    ("7b", include_str!("../../../configs/presets/7b.yaml")),
    ("13b", include_str!("../../../configs/presets/13b.yaml")),
    ("20b", include_str!("../../../configs/presets/20b.yaml")),
];

/// The pairs of the preset that `pairs`, or `over` before them, name: those whose key neither of them writes, in any spelling.
pub(crate) fn pairs(pairs: &[Pair], over: &[Pair]) -> Result<Vec<Pair>, Errors> {
    let named = |pairs: &[Pair]| pairs.iter().find(|p| one_name(&p.key) == "preset").cloned();
    let Some(pair) = named(over).or_else(|| named(pairs)) else { return Ok(Vec::new()) };
    let Content::Scalar { text, .. } = &pair.value.content else { return Ok(Vec::new()) };
    // A name that is none of ours is the table's to refuse.
    let Some((name, text)) = PRESET_FILES.iter().find(|(name, _)| name == text) else { return Ok(Vec::new()) };
    let source = Source::File(format!("preset {name}"));
    match yaml::parse(&source, text)? {
        Some(yaml::Node { content: Content::Map(own), .. }) => {
            let written = |p: &Pair| pairs.iter().chain(over).any(|q| one_name(&q.key) == one_name(&p.key));
            Ok(own.into_iter().filter(|p| !written(p)).collect())
        }
        _ => {
            let what = format!("preset {name} holds no `key: value` lines");
            Err(Problem::new(Code::Shape, &pair.key_place, what).into())
        }
    }
}

/// The one name of a key.
fn one_name(key: &str) -> &str {
    table::find(key).map_or(key, |entry| target_of(entry).key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_loads_and_gives_way_to_what_is_written() {
        for (name, _) in PRESET_FILES {
            let text = format!("preset: {name}\nmodel_name_or_path: m\ndataset_name: d\nr: 4\n");
            let loaded = crate::load("run.yaml", &text, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            let crate::Tuning::Lora(lora) = &loaded.config.tuning else { panic!("{name} trains an adapter") };
            assert_eq!((lora.r, lora.alpha), (4, 32.0));
            let batch = loaded.config.batch;
            assert_eq!(batch.train_rows * batch.accumulation, 32);
            assert_eq!(crate::load("again.yaml", &loaded.resolved_yaml, &[]).unwrap().config, loaded.config);
        }
        let over = [("model_size".to_owned(), "13b".to_owned()), ("beta".to_owned(), "0.3".to_owned())];
        let loaded = crate::load("run.yaml", "model_name_or_path: m\ndataset_name: d\n", &over).unwrap();
        let crate::Objective::Kto(kto) = &loaded.config.objective else { panic!("presets are KTO") };
        assert_eq!((loaded.config.batch.train_rows, kto.beta), (2, 0.3));
        assert!(crate::load("run.yaml", "preset: 70b\nmodel_name_or_path: m\ndataset_name: d\n", &[]).is_err());
    }
}
