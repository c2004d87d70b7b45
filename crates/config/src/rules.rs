//! What keys must be to one another, and what is worth saying about values that are allowed.

mod tuning;

use crate::note::Note;
use crate::problem::{Code, Place, Problem, Source};
use crate::settings::{Setting, Settings, written};
use crate::table::{self, Scope, Status};
use crate::value::{self, Value};
use crate::yaml;

/// What decides which keys have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `trainer: sft`
    pub(crate) sft: bool,
    /// `compat: trl`
    pub(crate) compat: bool,
    /// Whether an adapter is trained.
    pub(crate) adapter: AdapterMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdapterMode {
    Full,
    Fresh,
    Continued,
}

/// Checks every rule; problems and notes are added to the settings, keys without effect are taken out of them.
pub(crate) fn check(settings: &mut Settings, source: &Source) -> Facts {
    let facts = Facts { sft: is_sft(settings), compat: settings.text("compat").is_some(), adapter: adapter(settings) };
    let mut check = Check { settings, facts, problems: Vec::new(), notes: Vec::new(), removed: Vec::new() };
    check.required(source);
    check.trainer();
    check.adapter();
    check.master();
    check.products();
    check.offload();
    check.activations();
    check.rope();
    check.compat();
    check.kto();
    check.data();
    check.ranks();
    check.schedule();
    check.evaluation();
    check.saving();
    check.defaults();
    let Check { problems, notes, removed, .. } = check;
    removed.into_iter().for_each(|key| settings.remove(key));
    settings.problems.extend(problems);
    settings.notes.extend(notes);
    facts
}

fn is_sft(settings: &Settings) -> bool {
    match settings.text("trainer") {
        Some(trainer) => trainer == "sft",
        None => matches!(settings.text("loss_type"), Some("nll" | "dft")),
    }
}

fn adapter(settings: &Settings) -> AdapterMode {
    if settings.get("adapter_name_or_path").is_some() {
        AdapterMode::Continued
    } else if settings.flag("use_peft") == Some(true) {
        AdapterMode::Fresh
    } else {
        AdapterMode::Full
    }
}

/// Options each schedule takes; transformers raises a TypeError for any other.
const SCHEDULE_OPTIONS: &[(&str, &[&str])] = &[
    ("cosine", &["num_cycles"]),
    ("cosine_with_min_lr", &["num_cycles", "min_lr", "min_lr_rate"]),
    ("cosine_with_restarts", &["num_cycles"]),
    ("polynomial", &["lr_end", "power"]),
    ("inverse_sqrt", &["timescale"]),
    (
        "warmup_stable_decay",
        &["num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"],
    ),
];

const KWARGS: &str = "lr_scheduler_kwargs.";
const MIN_LR: &str = "lr_scheduler_kwargs.min_lr";
const MIN_LR_RATE: &str = "lr_scheduler_kwargs.min_lr_rate";

struct Check<'a> {
    settings: &'a Settings,
    facts: Facts,
    problems: Vec<Problem>,
    notes: Vec<Note>,
    removed: Vec<&'static str>,
}

impl Check<'_> {
    fn given(&self, key: &str) -> bool {
        self.settings.get(key).is_some()
    }

    fn place(&self, key: &str) -> Option<&Place> {
        self.settings.get(key).map(|s| &s.key_place)
    }

    /// What was written, else the default.
    fn number(&self, key: &str) -> Option<f64> {
        let entry = table::find(key).expect("rules name keys of the table");
        let default = || number_of(table::default(entry, self.facts.sft, self.facts.compat));
        self.settings.number(key).or_else(default)
    }

    fn text(&self, key: &str) -> String {
        let entry = table::find(key).expect("rules name keys of the table");
        let default = table::default(entry, self.facts.sft, self.facts.compat);
        self.settings.text(key).unwrap_or(default).into()
    }

    /// A problem of several keys, each of which is shown where it was written; silent if one was written wrongly.
    fn conflict(&mut self, code: Code, keys: &[&str], message: impl Into<String>, help: impl Into<String>) {
        if !self.settings.sound(keys) {
            return;
        }
        let mut problem: Option<Problem> = None;
        let message = message.into();
        for setting in keys.iter().filter_map(|key| self.settings.get(key)) {
            let label = format!("`{}: {}`", setting.written, written(&setting.value));
            problem = Some(match problem {
                None => Problem::new(code, &setting.key_place, message.clone()).label(label),
                Some(problem) => problem.and(&setting.key_place, label),
            });
        }
        let problem = problem.expect("a rule names a key that was written");
        self.problems.push(problem.help(help));
    }

    fn required(&mut self, source: &Source) {
        for (key, example) in [("model_name_or_path", "./models/my-model"), ("dataset_name", "./data/rows.jsonl")] {
            if !self.given(key) && self.settings.sound(&[key]) {
                let doc = table::find(key).map_or("", |e| e.doc);
                let problem =
                    Problem::new(Code::Missing, &Place::whole(source.clone()), format!("`{key}` is not given"));
                self.problems.push(problem.help(format!("add `{key}: {example}`: {doc}")));
            }
        }
    }

    fn trainer(&mut self) {
        if !self.settings.sound(&["trainer"]) {
            return;
        }
        let (name, other, foreign) =
            if self.facts.sft { ("sft", "kto", Scope::Kto) } else { ("kto", "sft", Scope::Sft) };
        for (key, setting) in self.settings.iter() {
            let entry = table::find(key).expect("settings are named by the table");
            if !matches!(entry.status, Status::Works(_, scope) if scope == foreign) {
                continue;
            }
            if read_default(entry.default, &entry.kind).as_ref() == Some(&setting.value) {
                let text = format!("`{}` has no effect with `trainer: {name}`", setting.written);
                self.notes.push(Note::advice(&setting.written, Some(&setting.key_place), text));
                self.removed.push(key);
                continue;
            }
            let said = if self.given("trainer") { "" } else { ", which is the default" };
            let message =
                format!("`{}` belongs to `trainer: {other}`; this is `trainer: {name}`{said}", setting.written);
            let mut problem = Problem::new(Code::OtherTrainer, &setting.key_place, message).label(entry.doc);
            if let Some(place) = self.place("trainer") {
                problem = problem.and(place, "the trainer");
            }
            self.problems.push(problem.help(format!("remove it, or set `trainer: {other}`")));
        }
        let loss_is_sft = matches!(self.text("loss_type").as_str(), "nll" | "dft");
        if loss_is_sft != self.facts.sft {
            let losses = if self.facts.sft { "`loss_type: nll` or `dft`" } else { "kto, kto_s or apo_zero_unpaired" };
            let message = format!("`loss_type: {}` is no loss of `trainer: {name}`", self.text("loss_type"));
            self.conflict(Code::Conflict, &["loss_type", "trainer"], message, format!("{name} takes {losses}"));
        }
    }

    /// Codes are never trained.
    pub(crate) fn quantised(&mut self) {
        let on = |key: &&str| self.settings.flag(key) == Some(true);
        let asked: Vec<&str> = ["load_in_4bit", "load_in_8bit"].into_iter().filter(on).collect();
        if asked.len() > 1 {
            let message = "a base is held in four bits or in eight";
            self.conflict(Code::Conflict, &asked, message, "keep one of the two");
        } else if !asked.is_empty() && self.facts.adapter == AdapterMode::Full {
            let keys = [asked[0], "use_peft", "freeze_trainable_layers"];
            let message = "a quantised base cannot be trained itself";
            self.conflict(Code::Conflict, &keys, message, "set `use_peft: true`, or remove it");
        }
    }

    /// `compat: trl` against keys that say otherwise.
    fn compat(&mut self) {
        if !self.facts.compat {
            return;
        }
        let mut against = vec![("truncation", Value::Text("keep_start".into()))];
        if !self.facts.sft {
            against.push(("pairing", Value::Text("trl".into())));
            against.push(("z0_scope", Value::Text("micro_batch".into())));
            against.push(("homogeneous_batch", Value::Text("exact".into())));
            against.push(("shuffle", Value::Bool(false)));
        }
        for (key, trl) in against {
            if self.settings.get(key).is_some_and(|s| s.value != trl) {
                let message = format!("`compat: trl` means `{key}: {}`", written(&trl));
                self.conflict(Code::Conflict, &[key, "compat"], message, format!("remove `{key}` or `compat`"));
            }
        }
        if self.facts.sft && self.settings.flag("shuffle") != Some(false) {
            let text = "the order of a shuffle is not torch's: for a run in TRL's exact order set `train_sampling_strategy: sequential` in both";
            self.notes.push(Note::advice("compat", self.place("compat"), text));
        }
    }

    fn kto(&mut self) {
        if self.facts.sft {
            return;
        }
        let (good, bad) = ("desirable_weight", "undesirable_weight");
        if self.settings.text(good).is_some() && self.settings.text(bad).is_some() {
            let message = "both weights are `auto`: the rule fixes their ratio only";
            self.conflict(Code::Conflict, &[good, bad], message, "give one of the two a number, such as 1.0");
        }
        if self.settings.number(good) == Some(0.0) && self.settings.number(bad) == Some(0.0) {
            self.conflict(
                Code::Conflict,
                &[good, bad],
                "both weights are 0: nothing is trained",
                "give one a weight > 0",
            );
        }
        let no_kl = self.text("loss_type") == "apo_zero_unpaired";
        for key in ["kl_warn", "kl_stop"] {
            if no_kl && self.given(key) {
                let message = format!("`apo_zero_unpaired` estimates no KL for `{key}` to watch");
                self.conflict(
                    Code::Conflict,
                    &[key, "loss_type"],
                    message,
                    format!("remove `{key}`, or use kto or kto_s"),
                );
            }
        }
        if let (Some(warn), Some(stop)) = (self.settings.number("kl_warn"), self.settings.number("kl_stop"))
            && warn > stop
        {
            let message = format!("`kl_warn` {warn} is above `kl_stop` {stop}: it would never warn");
            self.conflict(Code::Conflict, &["kl_warn", "kl_stop"], message, "make `kl_warn` the smaller one");
        }
        let one_row = self.number("per_device_train_batch_size") == Some(1.0);
        if !no_kl && one_row && self.text("pairing") == "trl" {
            let key = if self.given("pairing") { "pairing" } else { "compat" };
            let message = "TRL's pairing in batches of one row pairs each row with itself";
            let help = "use at least 2 rows per batch, or `pairing: group`, which needs no batch";
            self.conflict(Code::Conflict, &["per_device_train_batch_size", key], message, help);
        }
        let rate = self.number("learning_rate").unwrap_or(0.0);
        if rate > 5e-6 && self.facts.adapter == AdapterMode::Full && self.given("learning_rate") {
            let text = format!(
                "learning_rate {} is high for KTO on all weights: 5e-7 to 5e-6 is usual, at most 1e-6 with beta 0.1",
                written(&Value::Float(rate))
            );
            self.notes.push(Note::advice("learning_rate", self.place("learning_rate"), text));
        }
    }

    /// What several ranks are told.
    fn ranks(&mut self) {
        if self.number("zero_stage").is_some_and(|stage| stage > 3.0) {
            let help = "use stage 3: trained weights, gradient and optimiser's state are sharded";
            self.conflict(Code::NotOffered, &["zero_stage"], "ZeRO has no such stage; it has 0 to 3", help);
        }
        let (all, each) = (self.number("train_batch_size"), self.number("per_device_train_batch_size"));
        if let (Some(all), Some(each)) = (all, each)
            && all % each != 0.0
        {
            let message = format!("{all} rows of a step are no whole number of micro-batches of {each}");
            let keys = ["train_batch_size", "per_device_train_batch_size"];
            self.conflict(Code::Conflict, &keys, message, "make the first a multiple of the second");
        }
        if all.is_some() && self.given("gradient_accumulation_steps") {
            let message = "both say how many rows a step has";
            let keys = ["train_batch_size", "gradient_accumulation_steps"];
            self.conflict(Code::Conflict, &keys, message, "keep one of the two");
        }
    }

    fn data(&mut self) {
        if self.given("val_size") && self.given("eval_dataset_name") {
            let message = "evaluation rows are named and are to be split off as well";
            self.conflict(Code::Conflict, &["val_size", "eval_dataset_name"], message, "keep one of the two");
        }
        if self.settings.flag("assistant_only_loss") == Some(true) && self.given("turn_loss") {
            let message = "the template's marks and `turn_loss` both say which turns are trained on";
            self.conflict(Code::Conflict, &["assistant_only_loss", "turn_loss"], message, "keep one of the two");
        }
        self.mixture();
        let packing = self.settings.flag("packing") == Some(true);
        let unlimited = self.settings.get("max_length").is_some_and(|s| s.value == Value::Null);
        if packing && unlimited {
            let message = "packing fills bins of `max_length` tokens, and there is no `max_length`";
            self.conflict(Code::Conflict, &["packing", "max_length"], message, "set `max_length` to the size of a bin");
        }
        if !packing && self.given("packing_strategy") && self.facts.sft {
            let text = "`packing_strategy` has no effect without `packing: true`";
            self.notes.push(Note::advice("packing_strategy", self.place("packing_strategy"), text));
        }
        if unlimited && self.settings.text("truncation") == Some("drop") {
            let message = "`truncation: drop` drops rows over `max_length`, and there is no `max_length`";
            self.conflict(Code::Conflict, &["truncation", "max_length"], message, "set `max_length`");
        }
    }

    fn mixture(&mut self) {
        let sets = match self.settings.get("dataset_name").map(|s| &s.value) {
            Some(Value::List(names)) => names.len(),
            _ => return,
        };
        if let Some(Value::Numbers(weights)) = self.settings.get("mix_weights").map(|s| &s.value)
            && weights.len() != sets
        {
            let message = format!("{} weights for {sets} data sets", weights.len());
            self.conflict(Code::Conflict, &["mix_weights", "dataset_name"], message, "give one weight for each");
        }
    }

    fn schedule(&mut self) {
        let kind = self.text("lr_scheduler_type");
        let takes = SCHEDULE_OPTIONS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, options)| options);
        let given: Vec<&'static str> =
            self.settings.iter().map(|(key, _)| key).filter(|k| k.starts_with(KWARGS)).collect();
        for key in given {
            let option = &key[KWARGS.len()..];
            if !takes.contains(&option) {
                let owner =
                    SCHEDULE_OPTIONS.iter().find(|(_, options)| options.contains(&option)).map_or("", |(n, _)| n);
                let help = match takes {
                    [] => format!("`{kind}` takes none; did you mean `lr_scheduler_type: {owner}`?"),
                    _ => format!("`{kind}` takes {}; did you mean `lr_scheduler_type: {owner}`?", takes.join(", ")),
                };
                self.conflict(
                    Code::Conflict,
                    &[key, "lr_scheduler_type"],
                    format!("`{option}` is no option of `lr_scheduler_type: {kind}`"),
                    help,
                );
            }
        }
        self.floor(&kind);
        let rate = self.number("learning_rate").unwrap_or(0.0);
        if kind == "polynomial" {
            let end = self.settings.number("lr_scheduler_kwargs.lr_end").unwrap_or(1e-7);
            if end >= rate {
                let keys = ["lr_scheduler_kwargs.lr_end", "learning_rate", "lr_scheduler_type"];
                let message = format!("the last learning rate {end:e} is not below the first, {rate:e}");
                self.conflict(Code::Conflict, &keys, message, "lower `lr_end` in `lr_scheduler_kwargs`");
            }
        }
        let cycles = self.settings.number("lr_scheduler_kwargs.num_cycles");
        if kind == "cosine_with_restarts" && cycles.is_some_and(|c| c.fract() != 0.0) {
            let keys = ["lr_scheduler_kwargs.num_cycles", "lr_scheduler_type"];
            self.conflict(Code::OutOfRange, &keys, "restarts come in whole numbers", "set `num_cycles` to 1, 2, 3 ...");
        }
        if kind == "warmup_stable_decay" && !self.given("lr_scheduler_kwargs.num_decay_steps") {
            let help = "add `num_decay_steps:` under `lr_scheduler_kwargs:`";
            let keys = ["lr_scheduler_type", "lr_scheduler_kwargs.num_decay_steps"];
            self.conflict(Code::Missing, &keys, "`warmup_stable_decay` needs the number of its decay steps", help);
        }
        self.steps(&kind);
    }

    fn floor(&mut self, kind: &str) {
        if kind != "cosine_with_min_lr" {
            return;
        }
        match (self.settings.number(MIN_LR), self.given(MIN_LR_RATE)) {
            (None, false) => {
                let message = "`cosine_with_min_lr` needs its floor";
                let help =
                    "add `min_lr_rate: 0.1` (a share of learning_rate), or `min_lr` under `lr_scheduler_kwargs:`";
                self.conflict(Code::Missing, &["lr_scheduler_type", MIN_LR, MIN_LR_RATE], message, help);
            }
            (Some(_), true) => {
                let message = "the floor is given twice, as a rate and as a share";
                self.conflict(Code::Conflict, &[MIN_LR, MIN_LR_RATE], message, "keep `min_lr` or `min_lr_rate`");
            }
            (Some(floor), false) if self.number("learning_rate").is_some_and(|rate| floor > rate) => {
                let message = "the floor is above the peak learning rate";
                self.conflict(Code::Conflict, &[MIN_LR, "learning_rate"], message, "lower `min_lr`");
            }
            _ => {}
        }
    }

    /// Warm-up, steps and epochs.
    fn steps(&mut self, kind: &str) {
        let warmup = self.settings.number("warmup_steps");
        if kind == "constant" && warmup.is_some() {
            let text = "`constant` has no warm-up, as in transformers; `constant_with_warmup` has one";
            self.notes.push(Note::advice("warmup_steps", self.place("warmup_steps"), text));
        }
        let Some(max_steps) = self.settings.number("max_steps") else { return };
        if max_steps == 0.0 {
            let message = "`max_steps: 0` trains nothing";
            self.conflict(
                Code::OutOfRange,
                &["max_steps"],
                message,
                "-1, or no such key, leaves it to num_train_epochs",
            );
        }
        if self.given("num_train_epochs") {
            let text = "`num_train_epochs` has no effect beside `max_steps`, as in transformers";
            self.notes.push(Note::advice("num_train_epochs", self.place("num_train_epochs"), text));
        }
        if max_steps > 0.0 && warmup.is_some_and(|w| w >= max_steps) {
            let text = format!("the warm-up is as long as the run ({max_steps} steps): learning_rate is never reached");
            self.notes.push(Note::advice("warmup_steps", self.place("warmup_steps"), text));
        }
    }

    fn evaluation(&mut self) {
        let never = self.text("eval_strategy") == "no";
        let wanting = [
            ("load_best_model_at_end", self.settings.flag("load_best_model_at_end") == Some(true)),
            ("early_stopping_patience", self.given("early_stopping_patience")),
            ("metric_for_best_model", self.given("metric_for_best_model")),
            ("save_strategy", self.text("save_strategy") == "best"),
        ];
        for (key, wants) in wanting {
            if wants && never {
                let message = format!("`{key}` needs evaluations, and `eval_strategy` is no");
                self.conflict(
                    Code::Conflict,
                    &[key, "eval_strategy"],
                    message,
                    "set `eval_strategy: steps` or `epoch`",
                );
            }
        }
        if never {
            for key in ["eval_steps", "eval_dataset_name", "val_size"] {
                if self.given(key) {
                    let text = format!("`{key}` has no effect while `eval_strategy` is no");
                    self.notes.push(Note::advice(key, self.place(key), text));
                }
            }
        }
        let patience = self.given("early_stopping_patience");
        if !patience && self.settings.number("early_stopping_threshold").is_some_and(|t| t > 0.0) {
            let key = "early_stopping_threshold";
            let text = "`early_stopping_threshold` has no effect without `early_stopping_patience`";
            self.notes.push(Note::advice(key, self.place(key), text));
        }
        if self.settings.flag("load_best_model_at_end") == Some(true) && !never {
            self.best_is_saved();
        }
    }

    /// transformers' rule: the best evaluation must have a checkpoint.
    fn best_is_saved(&mut self) {
        let (save, eval) = (self.text("save_strategy"), self.text("eval_strategy"));
        if save == "best" {
            return;
        }
        if save != eval {
            let message = format!(
                "`load_best_model_at_end` needs a checkpoint at every evaluation that may be best: \
                 `save_strategy` is {save}, `eval_strategy` is {eval}"
            );
            let keys = ["load_best_model_at_end", "save_strategy", "eval_strategy"];
            let help = "make the two strategies the same, or set `save_strategy: best`";
            return self.conflict(Code::Conflict, &keys, message, help);
        }
        if save != "steps" {
            return;
        }
        let saves = self.number("save_steps").unwrap_or(500.0);
        let evals = self.settings.number("eval_steps").or(self.number("logging_steps")).unwrap_or(10.0);
        // Both as counts, or both as shares of the run; whole millionths keep the division exact.
        let millionths = |steps: f64| (steps * 1e6).round() as u64;
        let multiple = (saves < 1.0) == (evals < 1.0) && millionths(saves).is_multiple_of(millionths(evals));
        if !multiple {
            let message = format!("`save_steps` {saves} is no multiple of `eval_steps` {evals}");
            let keys = ["save_steps", "eval_steps", "logging_steps", "load_best_model_at_end"];
            let help = "checkpoints must fall on evaluations: choose a multiple, or `save_strategy: best`";
            self.conflict(Code::Conflict, &keys, message, help);
        }
    }

    fn saving(&mut self) {
        let resumes = |s: &Setting| s.value != Value::Bool(false);
        let overwrites = self.settings.flag("overwrite_output_dir") == Some(true);
        if overwrites && self.settings.get("resume_from_checkpoint").is_some_and(resumes) {
            // Nothing is lost this way round, and recipes that carry the key can still be resumed.
            let key = "overwrite_output_dir";
            let text = "`overwrite_output_dir` has no effect on a run that is resumed: nothing is overwritten";
            self.notes.push(Note::advice(key, self.place(key), text));
            self.removed.push(key);
        }
        if let Some(Value::List(names)) = self.settings.get("report_to").map(|s| &s.value)
            && names.len() > 1
            && names.iter().any(|name| name == "none")
        {
            let message = "`report_to` names `none` beside others";
            self.conflict(Code::Conflict, &["report_to"], message, "remove `none`, or the others");
        }
        let asked = |s: &Setting| match &s.value {
            Value::List(names) => names.iter().any(|n| n != "none" && n != "tensorboard"),
            _ => false,
        };
        if self.settings.get("report_to").is_some_and(asked) {
            let text = "trackers other than tensorboard are not sent to yet; log.jsonl holds the same numbers";
            self.notes.push(Note::advice("report_to", self.place("report_to"), text));
        }
    }

    fn defaults(&mut self) {
        let trainer = if self.facts.sft { "sft" } else { "kto" };
        if !self.given("trainer") {
            let why = match self.facts.sft {
                true => format!("from `loss_type: {}`", self.text("loss_type")),
                false => "by default".into(),
            };
            self.notes.push(Note::default("trainer", format!("`trainer` is {trainer} {why}")));
        }
        for key in ["output_dir", "learning_rate"] {
            if !self.given(key) {
                let entry = table::find(key).expect("rules name keys of the table");
                let default = table::default(entry, self.facts.sft, self.facts.compat);
                self.notes.push(Note::default(key, format!("`{key}` is {default} by default, as in TRL")));
            }
        }
        if !self.facts.sft && !self.facts.compat && !self.given("shuffle") {
            let text = "rows are shuffled every epoch in pairing groups, where TRL's KTO goes through them in file order; `compat: trl` does as TRL";
            self.notes.push(Note::default("shuffle", text));
        }
    }
}

fn number_of(default: &str) -> Option<f64> {
    default.parse().ok()
}

/// A default of the table, read like any value.
pub(crate) fn read_default(default: &str, kind: &value::Kind) -> Option<Value> {
    if default.is_empty() {
        return None;
    }
    let node = yaml::parse(&Source::File("default".into()), default).ok()??;
    value::read(kind, &node).ok()
}
