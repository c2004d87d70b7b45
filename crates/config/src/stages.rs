//! `stages:`: data sets one after the other, each with settings of its own, in one run folder.
//!
//! A stage is the whole file with the stage's keys laid over it. Its run goes to `OUTPUT_DIR/stage-N` and begins with what the
//! stage before it ended with: its weights as the model, or its adapter.

use crate::config::Tuning;
use crate::note::Note;
use crate::problem::{Code, Errors, Place, Problem, Source};
use crate::settings::{Settings, written};
use crate::value::Value;
use crate::yaml::{Content, Node, Pair};
use crate::{Loaded, MODELINE, resolve, rules};
use std::fmt::Write;
use std::path::Path;

/// The settings of one stage and where they begin.
pub(crate) struct Stage {
    pairs: Vec<Pair>,
    place: Place,
}

/// Keys that are of the whole run.
const OF_THE_RUN: [&str; 4] = ["output_dir", "overwrite_output_dir", "resume_from_checkpoint", "stages"];

/// Takes `stages:` out of a file's pairs; none where there is no such key.
pub(crate) fn take(pairs: &mut Vec<Pair>) -> Result<Vec<Stage>, Errors> {
    let Some(at) = pairs.iter().position(|pair| pair.key == "stages") else { return Ok(Vec::new()) };
    let Pair { value, .. } = pairs.remove(at);
    let shape = |node: &Node, expected: &str| {
        let message = format!("`stages` has the wrong type: found {}", node.describe());
        let problem = Problem::new(Code::WrongType, &node.place, message).label(format!("expected {expected}"));
        problem.help("write `- dataset_name: FILE` per stage, and below it what is different in it")
    };
    let items = match value.content {
        Content::List(items) if !items.is_empty() => items,
        _ if value.is_null() => return Ok(Vec::new()),
        _ => return Err(shape(&value, "a list of mappings").into()),
    };
    let mut problems = Vec::new();
    let mut stages = Vec::new();
    for item in items {
        let Content::Map(pairs) = item.content else {
            problems.push(shape(&item, "a mapping"));
            continue;
        };
        for pair in pairs.iter().filter(|pair| OF_THE_RUN.contains(&pair.key.as_str())) {
            let message = format!("`{}` is of the whole run", pair.key);
            problems.push(Problem::new(Code::Conflict, &pair.key_place, message).help("write it outside `stages`"));
        }
        stages.push(Stage { pairs, place: item.place });
    }
    if problems.is_empty() { Ok(stages) } else { Err(Errors { problems }) }
}

/// Resolves every stage; `None` when there are problems.
pub(crate) fn load(
    source: &Source,
    base: &[Pair],
    stages: &[Stage],
    over: &[Pair],
    problems: &mut Vec<Problem>,
    notes: &mut Vec<Note>,
) -> Option<Loaded> {
    let mut whole: Option<Loaded> = None;
    let mut lines = String::new();
    for stage in stages {
        let own = crate::one(source, &[base, &stage.pairs, over], problems, notes)?;
        let mut settings = Settings::default();
        [base, &stage.pairs, over].into_iter().for_each(|pairs| settings.overlay(Settings::collect(pairs)));
        let facts = rules::check(&mut settings, source);
        let kept = resolve::Resolved::fill(&settings, facts).lines(&OF_THE_RUN);
        kept.lines().enumerate().for_each(|(i, line)| {
            let _ = writeln!(lines, "{}{line}", if i == 0 { "  - " } else { "    " });
        });
        let whole = whole.get_or_insert_with(|| Loaded { stages: Vec::new(), ..own.clone() });
        let begins = beginning(whole, &own, &stage.place, problems);
        // What the stage says of its own was said above.
        let placed = crate::one(source, &[base, &stage.pairs, over, &begins], problems, &mut Vec::new())?;
        whole.stages.push(placed);
    }
    let mut whole = whole?;
    let run = &whole.config.saving;
    let output = written(&Value::Text(run.output_dir.display().to_string()));
    whole.resolved_yaml = format!(
        "{MODELINE}\n# The resolved configuration: every key that has a meaning in each stage, defaults included.\n\n\
         output_dir: {output}\noverwrite_output_dir: {}\n\nstages:\n{lines}",
        run.overwrite
    );
    Some(whole)
}

/// Where a stage's run is and what it begins with.
fn beginning(whole: &Loaded, own: &Loaded, place: &Place, problems: &mut Vec<Problem>) -> Vec<Pair> {
    let folder = |n: usize| whole.config.saving.output_dir.join(format!("stage-{n}"));
    let scalar = |key: &str, text: String| Pair {
        key: key.into(),
        key_place: place.clone(),
        value: Node { place: place.clone(), content: Content::Scalar { text, plain: false } },
    };
    let pair = |key: &str, path: &Path| scalar(key, path.display().to_string());
    let mut pairs = vec![pair("output_dir", &folder(whole.stages.len() + 1))];
    let Some(before) = whole.stages.last() else { return pairs };
    let end = folder(whole.stages.len()).join("final");
    let is_full = |tuning: &Tuning| matches!(tuning, Tuning::Full | Tuning::Blocks(_));
    match (is_full(&before.config.tuning), is_full(&own.config.tuning)) {
        (true, _) => pairs.push(pair("model_name_or_path", &end)),
        (false, false) => {
            pairs.push(pair("model_name_or_path", &before.config.model.path));
            pairs.push(pair("adapter_name_or_path", &end));
            // What a fresh adapter would have been is what the adapter has to be.
            if let Tuning::Lora(lora) = &own.config.tuning {
                let float = |x: f64| written(&Value::Float(x));
                pairs.push(scalar("lora_r", lora.r.to_string()));
                pairs.extend(
                    [("lora_alpha", lora.alpha), ("lora_dropout", lora.dropout)].map(|(k, x)| scalar(k, float(x))),
                );
                pairs.push(scalar("use_rslora", lora.rslora.to_string()));
            }
        }
        (false, true) => {
            let message = "this stage trains all weights, and the one before it an adapter";
            let problem = Problem::new(Code::Conflict, place, message);
            problems.push(problem.help("set `use_peft: true` in it, or merge the adapter and train on in another run"));
        }
    }
    pairs
}
