//! Every row of the table does what it says.

use config::{Choice, Code, Config, Entry, Kind, NoteKind, Scope, Status};

const NEEDED: &str = "model_name_or_path: m\ndataset_name: d\n";

/// Surroundings in which a key may have its meaning.
const AROUND: &[&str] = &[
    "",
    "trainer: sft\n",
    "shuffle: false\n",
    "trainer: sft\npacking: true\n",
    "use_peft: true\n",
    "dataset_name: [a, b]\n",
    "dataset_name: null\n",
    "use_peft: true\nlora_r: 4\n",
    "eval_strategy: steps\neval_steps: 10\nsave_steps: 100\n",
    "eval_strategy: steps\nearly_stopping_patience: 2\n",
    "lr_scheduler_type: cosine\n",
    "dtype: bfloat16\n",
    "offload_optimizer_device: nvme\n",
    "rope_scaling: {rope_type: yarn}\n",
    "lr_scheduler_type: cosine_with_min_lr\nlearning_rate: 9\n",
    "lr_scheduler_type: polynomial\nlearning_rate: 9\n",
    "lr_scheduler_type: inverse_sqrt\n",
    "generate_prompts: [one]\n",
    "use_peft: true\nload_in_4bit: true\n",
    "use_peft: true\nload_in_8bit: true\n",
    "lr_scheduler_type: warmup_stable_decay\n",
    "lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {num_decay_steps: 5}\n",
];

fn load(around: &str, key: &str, value: &str) -> Result<config::Loaded, config::Errors> {
    let overrides = if value.is_empty() { vec![] } else { vec![(key.to_string(), value.to_string())] };
    let needed: String =
        NEEDED.lines().filter(|line| !around.starts_with(&line[..12])).map(|l| format!("{l}\n")).collect();
    config::load("run.yaml", &format!("{needed}{around}"), &overrides)
}

/// Values of a kind; the first leaves the key out.
fn candidates(kind: &Kind) -> Vec<String> {
    let names = |choices: &[Choice]| choices.iter().map(|c| c.name().to_string()).collect::<Vec<_>>();
    let texts = |values: &[&str]| values.iter().map(|v| v.to_string()).collect::<Vec<_>>();
    let mut out = vec![String::new()];
    out.extend(match kind {
        Kind::Bool => texts(&["true", "false"]),
        Kind::Int(least) => [0, 1, 3, 7].map(|n| (n + (*least).max(0)).to_string()).to_vec(),
        Kind::Float(_) => texts(&["0.25", "0.5", "3", "7", "1e-9"]),
        Kind::Text => texts(&["one", "other"]),
        Kind::Texts => texts(&["one", "[one, other]"]),
        Kind::Names => texts(&["one", "one, other"]),
        Kind::Numbers(_) => texts(&["[1, 3]", "1, 3"]),
        Kind::Pairs(_) => texts(&["{a: 1}", "{a: 2, b: 3}"]),
        Kind::Choice(choices) | Kind::Choices(choices) => names(choices),
        Kind::BoolOr(others) => [texts(&["true", "false"]), texts(others)].concat(),
        Kind::BoolOrText => texts(&["true", "false", "path"]),
        Kind::FloatOr(_, others) => [texts(&["0.25", "3"]), texts(others)].concat(),
        Kind::Bytes => texts(&["1GiB", "2GiB"]),
        Kind::Map(_) => vec![],
        Kind::Anything => texts(&["something"]),
    });
    out
}

/// Whether, somewhere, two values of the key give two configurations.
fn changes_something(entry: &Entry) -> bool {
    let surroundings: Vec<String> = match entry.key {
        // These are required: nothing can be said about leaving them out.
        "model_name_or_path" | "dataset_name" => vec![String::new()],
        _ => AROUND.iter().map(|s| s.to_string()).collect(),
    };
    surroundings.iter().any(|around| {
        let configs = candidates(&entry.kind).into_iter().filter_map(|value| load(around, entry.key, &value).ok());
        let configs: Vec<Config> = configs.map(|loaded| loaded.config).collect();
        configs.iter().any(|c| *c != configs[0])
    })
}

/// A choice of which all but one name is refused, so that it can only say what is done anyway.
fn has_one_value(kind: &Kind) -> bool {
    matches!(kind, Kind::Choice(choices) if choices.len() > 1 && choices.iter().filter(|c| matches!(c, Choice::Is(_))).count() == 1)
}

#[test]
fn every_other_spelling_is_said() {
    for entry in config::keys() {
        let Status::Spelling(of) = entry.status else { continue };
        let said = |loaded: config::Loaded| {
            let text = format!("`{}` is read as `{of}: ", entry.key);
            loaded.notes.iter().any(|n| n.kind == NoteKind::Spelling && n.text.starts_with(&text))
        };
        let values = candidates(&entry.kind);
        let heard = AROUND.iter().any(|around| values.iter().any(|v| load(around, entry.key, v).is_ok_and(said)));
        assert!(heard, "`{}`", entry.key);
    }
}

#[test]
fn every_key_that_works_changes_the_configuration() {
    for entry in config::keys() {
        if matches!(entry.status, Status::Works(..) | Status::Spelling(_)) && !has_one_value(&entry.kind) {
            assert!(changes_something(entry), "`{}` changes nothing", entry.key);
        }
    }
}

#[test]
fn every_key_without_effect_is_said_with_its_reason_and_changes_nothing() {
    let bare = load("", "", "").unwrap().config;
    for entry in config::keys() {
        let Status::NoEffect(reason) = entry.status else { continue };
        let value = candidates(&entry.kind).pop().expect("a value");
        let loaded = load("", entry.key, &value).unwrap_or_else(|e| panic!("`{}: {value}`:\n{e}", entry.key));
        let notes: Vec<_> = loaded.notes.iter().filter(|n| n.kind == NoteKind::NoEffect).collect();
        assert_eq!(notes.len(), 1, "`{}`", entry.key);
        assert!(notes[0].key == entry.key && notes[0].text.ends_with(reason), "{}", notes[0]);
        assert_eq!(loaded.config, bare, "`{}`", entry.key);
        assert!(loaded.resolved_yaml.contains(&format!("# {}: {reason}\n", entry.key)));
    }
}

#[test]
fn every_refused_key_is_an_error_with_its_reason_unless_it_says_what_is_done_anyway() {
    let bare = load("", "", "").unwrap().config;
    for entry in config::keys() {
        let Status::Refused { unless, reason } = entry.status else { continue };
        for value in unless {
            let loaded = load("", entry.key, value).unwrap_or_else(|e| panic!("`{}: {value}`:\n{e}", entry.key));
            assert_eq!(loaded.config, bare);
        }
        let refused = candidates(&entry.kind).into_iter().skip(1).filter_map(|value| load("", entry.key, &value).err());
        let refused: Vec<_> = refused.collect();
        assert!(!refused.is_empty(), "`{}` takes every value", entry.key);
        for errors in refused {
            assert_eq!(errors.problems.len(), 1, "{errors}");
            assert_eq!(errors.problems[0].code, Code::NotOffered, "{errors}");
            assert!(errors.to_string().contains(reason), "`{}`: {errors}", entry.key);
        }
    }
}

#[test]
fn every_default_of_the_table_can_be_written_and_means_the_same() {
    for entry in config::keys() {
        let Status::Works(_, scope) = entry.status else { continue };
        let around = match scope {
            Scope::Both | Scope::Kto => "",
            Scope::Sft => "trainer: sft\n",
            Scope::Lora => "use_peft: true\n",
        };
        if !entry.default.is_empty() {
            let bare = load(around, "", "").unwrap().config;
            let written = load(around, entry.key, entry.default).unwrap_or_else(|e| panic!("`{}`:\n{e}", entry.key));
            let mut config = written.config;
            // A length that was asked for does not give way to the model's positions.
            config.data.default_length |= entry.key == "max_length";
            assert_eq!(config, bare, "`{}: {}`", entry.key, entry.default);
        }
    }
}

#[test]
fn the_table_is_counted() {
    let count = |of: fn(&Status) -> bool| config::keys().filter(|e| of(&e.status)).count();
    let works = count(|s| matches!(s, Status::Works(..)));
    let spellings = count(|s| matches!(s, Status::Spelling(_)));
    let idle = count(|s| matches!(s, Status::NoEffect(_)));
    let refused = count(|s| matches!(s, Status::Refused { .. }));
    let mappings = count(|s| matches!(s, Status::Mapping));
    assert_eq!((works, spellings, idle, refused, mappings), (142, 27, 133, 29, 3));
    assert_eq!(works + spellings + idle + refused + mappings, config::keys().count());
}
