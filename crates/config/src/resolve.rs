//! From checked settings to the complete configuration, and to the file that says all of it.

use crate::config::*;
use crate::rules::{AdapterMode, Facts, read_default};
use crate::settings::{Settings, written};
use crate::table::{self, Scope, Section, Status};
use crate::value::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Every key that has a meaning in this run, defaults filled in; a key that stays unset is absent.
pub(crate) struct Resolved {
    values: BTreeMap<&'static str, Value>,
    /// `max_length` was not given: the model may have less.
    default_length: bool,
}

const CHECKED: &str = "values were read as the table's types and checked by its rules";

impl Resolved {
    pub(crate) fn fill(settings: &Settings, facts: Facts) -> Resolved {
        let mut values = BTreeMap::new();
        for entry in table::all() {
            let Status::Works(_, scope) = entry.status else { continue };
            let (in_scope, with_default) = match scope {
                Scope::Both => (true, true),
                Scope::Kto => (!facts.sft, true),
                Scope::Sft => (facts.sft, true),
                Scope::Lora => (facts.adapter != AdapterMode::Full, facts.adapter == AdapterMode::Fresh),
            };
            if !in_scope {
                continue;
            }
            let default = || read_default(table::default(entry, facts.sft, facts.compat), &entry.kind);
            let explicit = settings.get(entry.key).map(|s| s.value.clone());
            if let Some(value) = explicit.or_else(|| if with_default { default() } else { None }) {
                values.insert(entry.key, value);
            }
        }
        values.insert("trainer", Value::Text(if facts.sft { "sft" } else { "kto" }.into()));
        values.insert("use_peft", Value::Bool(facts.adapter != AdapterMode::Full));
        Resolved { values, default_length: settings.get("max_length").is_none() }
    }

    fn float(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Value::Float(x) => Some(*x),
            Value::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    fn count(&self, key: &str) -> Option<usize> {
        match self.values.get(key)? {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    fn bool(&self, key: &str) -> Option<bool> {
        match self.values.get(key)? {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn list(&self, key: &str) -> Option<&[String]> {
        match self.values.get(key)? {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn pairs(&self, key: &str) -> &[(String, f64)] {
        match self.values.get(key) {
            Some(Value::Pairs(pairs)) => pairs,
            _ => &[],
        }
    }

    fn paths(&self, key: &str) -> Vec<PathBuf> {
        self.list(key).unwrap_or(&[]).iter().map(PathBuf::from).collect()
    }

    fn number(&self, key: &str) -> f64 {
        self.float(key).expect(CHECKED)
    }

    fn flag(&self, key: &str) -> bool {
        self.bool(key).expect(CHECKED)
    }

    fn word(&self, key: &str) -> &str {
        self.text(key).expect(CHECKED)
    }

    /// The file for the run folder: every key with its value, section by section; it loads back to the same [`Config`].
    pub(crate) fn yaml(&self, idle: &[(String, &'static str)]) -> String {
        let mut out = format!(
            "{}\n# The resolved configuration: every key that has a meaning in this run, defaults included.\n",
            crate::MODELINE
        );
        for section in Section::ALL {
            let _ = writeln!(out, "\n# {section:?}");
            self.section(section, &[], &mut out);
        }
        if !idle.is_empty() {
            out.push_str("\n# Accepted without effect\n");
            for (key, reason) in idle {
                let _ = writeln!(out, "# {key}: {reason}");
            }
        }
        out
    }

    /// Every key but `without`, as the lines of a mapping.
    pub(crate) fn lines(&self, without: &[&str]) -> String {
        let mut out = String::new();
        Section::ALL.into_iter().for_each(|section| self.section(section, without, &mut out));
        out
    }

    fn section(&self, section: Section, without: &[&str], out: &mut String) {
        let entries = table::all().filter(|e| matches!(e.status, Status::Works(s, _) if s == section));
        let mut parent = None;
        let found =
            entries.filter(|e| !without.contains(&e.key)).filter_map(|e| Some((e.key, self.values.get(e.key)?)));
        for (key, value) in found {
            let nested = key.split_once('.');
            if let Some((outer, _)) = nested
                && parent != Some(outer)
            {
                let _ = writeln!(out, "{outer}:");
            }
            parent = nested.map(|(outer, _)| outer);
            if key == "max_length" && self.default_length {
                let _ = writeln!(out, "# {key}: {} (the default), or as many as the model has", written(value));
                continue;
            }
            let (indent, name) = nested.map_or(("", key), |(_, inner)| ("  ", inner));
            let _ = writeln!(out, "{indent}{name}: {}", written(value));
        }
    }

    /// The typed configuration.
    pub(crate) fn config(&self) -> Config {
        let compat_trl = self.text("compat").is_some();
        Config {
            compat_trl,
            preset: self.text("preset").map(String::from),
            model: Model {
                path: self.word("model_name_or_path").into(),
                dtype: self.dtype(),
                quantisation: self.quantisation(),
                router_aux_loss_coef: self.float("router_aux_loss_coef"),
                rope_scaling: self.rope_scaling(),
                new_tokens: self.list("new_special_tokens").unwrap_or(&[]).to_vec(),
                resize_vocab: self.flag("resize_vocab"),
            },
            tuning: self.tuning(),
            data: self.data(),
            objective: self.objective(compat_trl),
            duration: match self.count("max_steps") {
                Some(steps) => Duration::Steps(steps),
                None => Duration::Epochs(self.number("num_train_epochs")),
            },
            batch: Batch {
                train_rows: self.count("per_device_train_batch_size").expect(CHECKED),
                accumulation: self.accumulation(),
                step_rows: self.count("train_batch_size"),
                eval_rows: self.count("per_device_eval_batch_size").expect(CHECKED),
            },
            optimizer: self.optimizer(),
            schedule: Schedule { kind: self.schedule(), warmup: self.warmup() },
            evaluation: self.evaluation(),
            saving: self.saving(),
            logging: self.logging(),
            engine: self.engine(),
        }
    }

    fn rope_scaling(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        let kind = self.text("rope_scaling.rope_type")?;
        let mut keys = serde_json::Map::from_iter([("rope_type".to_owned(), kind.into())]);
        for (key, value) in &self.values {
            let Some(name) = key.strip_prefix("rope_scaling.") else { continue };
            match value {
                Value::Float(x) => drop(keys.insert(name.to_owned(), (*x).into())),
                Value::Int(n) => drop(keys.insert(name.to_owned(), (*n).into())),
                Value::Bool(b) => drop(keys.insert(name.to_owned(), (*b).into())),
                _ => {}
            }
        }
        Some(keys)
    }

    fn dtype(&self) -> Dtype {
        match self.word("dtype") {
            "float32" => Dtype::Float32,
            "bfloat16" => Dtype::Bfloat16,
            _ => Dtype::Auto,
        }
    }

    fn quantisation(&self) -> Option<Quantisation> {
        let code = match (self.flag("load_in_4bit"), self.flag("load_in_8bit"), self.word("bnb_4bit_quant_type")) {
            (true, _, "fp4") => QuantCode::Fp4,
            (true, ..) => QuantCode::Nf4,
            (_, true, _) => QuantCode::Int8,
            (false, false, _) => return None,
        };
        let nested = code != QuantCode::Int8 && self.flag("use_bnb_nested_quant");
        let skip = self.list("llm_int8_skip_modules").unwrap_or(&[]).to_vec();
        Some(Quantisation { code, nested, skip })
    }

    fn tuning(&self) -> Tuning {
        if let Some(path) = self.text("adapter_name_or_path") {
            let claims = LoraClaims {
                r: self.count("lora_r"),
                alpha: self.float("lora_alpha"),
                dropout: self.float("lora_dropout"),
                targets: self.list("lora_target_modules").map(targets),
                rslora: self.bool("use_rslora"),
            };
            return Tuning::Adapter { path: path.into(), claims };
        }
        if let Some(Value::Int(blocks)) = self.values.get("freeze_trainable_layers") {
            return Tuning::Blocks(*blocks);
        }
        if !self.flag("use_peft") {
            return Tuning::Full;
        }
        Tuning::Lora(Lora {
            r: self.count("lora_r").expect(CHECKED),
            alpha: self.number("lora_alpha"),
            dropout: self.number("lora_dropout"),
            targets: self.list("lora_target_modules").map_or(Targets::Default, targets),
            rslora: self.flag("use_rslora"),
            exclude: self.list("exclude_modules").map(targets),
            rank_pattern: self.pairs("rank_pattern").iter().map(|(k, r)| (k.clone(), *r as usize)).collect(),
            alpha_pattern: self.pairs("alpha_pattern").to_vec(),
            layers: match self.values.get("layers_to_transform") {
                Some(Value::Numbers(layers)) => Some(layers.iter().map(|l| *l as usize).collect()),
                _ => None,
            },
            layers_pattern: self.list("layers_pattern").unwrap_or(&[]).to_vec(),
            dora: self.flag("use_dora"),
            modules_to_save: self.list("modules_to_save").unwrap_or(&[]).to_vec(),
            bias: match self.word("bias") {
                "all" => LoraBias::All,
                "lora_only" => LoraBias::LoraOnly,
                _ => LoraBias::None,
            },
            start: match self.word("init_lora_weights") {
                "gaussian" => LoraStart::Gaussian,
                "false" => LoraStart::Random,
                _ => LoraStart::Usual,
            },
        })
    }

    fn data(&self) -> Data {
        Data {
            train: self.paths("dataset_name"),
            eval: self.paths("eval_dataset_name"),
            registry: self.text("dataset_dir").map(PathBuf::from),
            fetched: Default::default(),
            mix: self.mix(),
            max_samples: self.count("max_samples"),
            alternatives: self.flag("alternatives"),
            token_cache: self.text("tokenized_path").map(PathBuf::from),
            first_rows: None,
            val_size: self
                .float("val_size")
                .map(|x| if x < 1.0 { ValSize::Fraction(x) } else { ValSize::Rows(x as usize) }),
            train_split: self.word("dataset_train_split").into(),
            test_split: self.word("dataset_test_split").into(),
            text_field: self.text("dataset_text_field").unwrap_or("text").into(),
            chat_template: self.text("chat_template_path").map(PathBuf::from),
            max_length: self.count("max_length"),
            default_length: self.default_length,
            truncation: if self.word("truncation") == "drop" { Truncation::Drop } else { Truncation::KeepStart },
            bad_rows: if self.word("bad_rows") == "skip" { BadRows::Skip } else { BadRows::Error },
            shuffle: self.flag("shuffle"),
        }
    }

    fn mix(&self) -> Option<Mix> {
        let weights = match self.values.get("mix_weights") {
            Some(Value::Numbers(weights)) => weights.clone(),
            _ => Vec::new(),
        };
        let until = self.text("mix_until");
        let asked = !weights.is_empty() || until.is_some();
        asked.then(|| Mix { weights, until_first: until == Some("first_exhausted") })
    }

    fn objective(&self, compat_trl: bool) -> Objective {
        if self.word("trainer") == "sft" {
            let packing = match self.word("packing_strategy") {
                "bfd_split" => Packing::BfdSplit,
                "wrapped" => Packing::Wrapped,
                _ => Packing::Bfd,
            };
            return Objective::Sft(Sft {
                completion_only_loss: self.bool("completion_only_loss"),
                assistant_only_loss: self.flag("assistant_only_loss"),
                turn_loss: match self.word("turn_loss") {
                    "assistant" => TurnLoss::Assistant,
                    "last_assistant" => TurnLoss::LastAssistant,
                    _ => TurnLoss::Whole,
                },
                dft: self.word("loss_type") == "dft",
                neftune_alpha: self.float("neftune_noise_alpha").filter(|alpha| *alpha > 0.0),
                packing: self.flag("packing").then_some(packing),
            });
        }
        Objective::Kto(Kto {
            loss: match self.word("loss_type") {
                "kto_s" => KtoLoss::KtoS,
                "apo_zero_unpaired" => KtoLoss::ApoZeroUnpaired,
                _ => KtoLoss::Kto,
            },
            beta: self.number("beta"),
            desirable_weight: self.float("desirable_weight").map_or(Weight::Auto, Weight::Number),
            undesirable_weight: self.float("undesirable_weight").map_or(Weight::Auto, Weight::Number),
            z0_scope: if self.word("z0_scope") == "step" { Z0Scope::Step } else { Z0Scope::MicroBatch },
            pairing: if self.word("pairing") == "trl" { Pairing::Trl } else { Pairing::Group },
            normalisation: if compat_trl { Normalisation::MeanOfMeans } else { Normalisation::Rows },
            homogeneous_batch: match self.word("homogeneous_batch") {
                "skip" => HomogeneousBatch::Skip,
                _ => HomogeneousBatch::Exact,
            },
            precompute_ref_log_probs: self.flag("precompute_ref_log_probs"),
            ftx: self.number("pref_ftx"),
            disable_dropout: self.flag("disable_dropout"),
            kl_warn: self.float("kl_warn"),
            kl_stop: self.float("kl_stop"),
        })
    }

    fn optimizer(&self) -> Optimizer {
        Optimizer {
            name: match self.word("optim") {
                "adamw_8bit" => OptimizerName::Adamw8bit,
                _ => OptimizerName::AdamwTorch,
            },
            on_disk: (self.word("offload_optimizer_device") == "nvme").then(|| {
                let folder = self.text("offload_optimizer_nvme_path");
                folder.unwrap_or_else(|| self.word("output_dir")).into()
            }),
            master: if self.word("optim_master") == "none" { Master::None } else { Master::F32 },
            learning_rate: self.number("learning_rate"),
            beta1: self.number("adam_beta1"),
            beta2: self.number("adam_beta2"),
            epsilon: self.number("adam_epsilon"),
            weight_decay: self.number("weight_decay"),
            max_grad_norm: Some(self.number("max_grad_norm")).filter(|norm| *norm > 0.0),
        }
    }

    fn warmup(&self) -> Warmup {
        let x = self.number("warmup_steps");
        if x > 0.0 && x < 1.0 { Warmup::Ratio(x) } else { Warmup::Steps(x as usize) }
    }

    fn schedule(&self) -> ScheduleKind {
        let float = |option: &str| self.float(&format!("lr_scheduler_kwargs.{option}"));
        let count = |option: &str| self.count(&format!("lr_scheduler_kwargs.{option}"));
        let curve = |option: &str, default| match self.text(&format!("lr_scheduler_kwargs.{option}")) {
            Some("linear") => Curve::Linear,
            Some("cosine") => Curve::Cosine,
            Some(_) => Curve::OneMinusSqrt,
            None => default,
        };
        let num_cycles = float("num_cycles").unwrap_or(0.5);
        match self.word("lr_scheduler_type") {
            "cosine" => ScheduleKind::Cosine { num_cycles },
            "cosine_with_min_lr" => {
                let share = || Floor::Share(float("min_lr_rate").expect(CHECKED));
                ScheduleKind::CosineWithMinLr { num_cycles, floor: float("min_lr").map_or_else(share, Floor::Rate) }
            }
            "cosine_with_restarts" => {
                ScheduleKind::CosineWithRestarts { num_cycles: float("num_cycles").unwrap_or(1.0) as usize }
            }
            "polynomial" => ScheduleKind::Polynomial {
                lr_end: float("lr_end").unwrap_or(1e-7),
                power: float("power").unwrap_or(1.0),
            },
            "constant" => ScheduleKind::Constant,
            "constant_with_warmup" => ScheduleKind::ConstantWithWarmup,
            "inverse_sqrt" => ScheduleKind::InverseSqrt { timescale: count("timescale") },
            "warmup_stable_decay" => ScheduleKind::WarmupStableDecay {
                num_decay_steps: count("num_decay_steps").expect(CHECKED),
                num_stable_steps: count("num_stable_steps"),
                warmup_curve: curve("warmup_type", Curve::Linear),
                decay_curve: curve("decay_type", Curve::Cosine),
                min_lr_ratio: float("min_lr_ratio").unwrap_or(0.0),
                num_cycles,
            },
            _ => ScheduleKind::Linear,
        }
    }

    fn interval(&self, strategy: &str, steps: f64) -> Interval {
        match self.word(strategy) {
            "steps" if steps < 1.0 => Interval::Share(steps),
            "steps" => Interval::Steps(steps as usize),
            "epoch" => Interval::Epoch,
            _ => Interval::Never,
        }
    }

    fn evaluation(&self) -> Evaluation {
        let steps = self.float("eval_steps").unwrap_or_else(|| self.number("logging_steps"));
        let load_best_at_end = self.flag("load_best_model_at_end");
        let patience = self.count("early_stopping_patience");
        let named = self.text("metric_for_best_model");
        let wanted = named.is_some() || load_best_at_end || patience.is_some() || self.word("save_strategy") == "best";
        let name = named.unwrap_or("loss");
        let best = Best {
            metric: if name.starts_with("eval_") { name.into() } else { format!("eval_{name}") },
            greater_is_better: self.bool("greater_is_better").unwrap_or(!name.ends_with("loss")),
        };
        Evaluation {
            every: self.interval("eval_strategy", steps),
            best: wanted.then_some(best),
            load_best_at_end,
            early_stopping: patience
                .map(|patience| EarlyStopping { patience, threshold: self.number("early_stopping_threshold") }),
            samples: self.samples(),
        }
    }

    fn samples(&self) -> Option<Samples> {
        let prompts = self.list("generate_prompts").unwrap_or(&[]).to_vec();
        (!prompts.is_empty()).then(|| Samples {
            prompts,
            every: self.count("generate_steps").map_or(Interval::Epoch, Interval::Steps),
            max_new_tokens: self.count("generate_max_new_tokens").unwrap_or(64),
        })
    }

    fn saving(&self) -> Saving {
        Saving {
            output_dir: self.word("output_dir").into(),
            overwrite: self.flag("overwrite_output_dir"),
            every: self.interval("save_strategy", self.number("save_steps")),
            when_best: self.word("save_strategy") == "best",
            total_limit: self.count("save_total_limit"),
            resume: match (self.bool("resume_from_checkpoint"), self.text("resume_from_checkpoint")) {
                (Some(true), _) => Resume::Newest,
                (_, Some(path)) => Resume::From(path.into()),
                _ => Resume::No,
            },
        }
    }

    fn logging(&self) -> Logging {
        let names = self.list("report_to").expect(CHECKED);
        let all = names.iter().any(|n| n == "all");
        let other = |n: &&String| !matches!(n.as_str(), "none" | "all" | "tensorboard");
        Logging {
            every: self.interval("logging_strategy", self.number("logging_steps")),
            first_step: self.flag("logging_first_step"),
            tensorboard: all || names.iter().any(|n| n == "tensorboard"),
            not_sent: names.iter().filter(other).cloned().collect(),
            run_name: self.text("run_name").map(String::from),
            extra_metrics: self.flag("extra_metrics"),
        }
    }

    /// Micro-batches of a step.
    fn accumulation(&self) -> usize {
        let rows = self.count("per_device_train_batch_size").expect(CHECKED);
        match self.count("train_batch_size") {
            Some(all) => all.div_ceil(rows),
            None => self.count("gradient_accumulation_steps").expect(CHECKED),
        }
    }

    fn engine(&self) -> Engine {
        let seed = self.count("seed").expect(CHECKED) as u64;
        Engine {
            seed,
            data_seed: self.count("data_seed").map_or(seed, |s| s as u64),
            deterministic: self.flag("deterministic"),
            bf16: self.flag("bf16"),
            tf32: self.flag("tf32"),
            zero_stage: self.count("zero_stage").expect(CHECKED) as u8,
            shard_ranks: self.count("shard_ranks"),
            elastic: self.bool("elastic"),
            backend: self
                .text("ddp_backend")
                .map(|name| if name == "nccl" { RankBackend::Nccl } else { RankBackend::Mpi }),
            dist_timeout: std::time::Duration::from_secs_f64(self.number("dist_timeout")),
            recompute: match self.bool("gradient_checkpointing") {
                Some(true) => Recompute::Always,
                Some(false) => Recompute::Never,
                None => Recompute::Auto,
            },
            offload: self.bool("activation_offloading"),
            device: match self.word("device") {
                "auto" => Device::Auto,
                "cpu" => Device::Cpu,
                gpu => Device::Cuda(gpu.strip_prefix("cuda:").map_or(0, |n| n.parse().expect(CHECKED))),
            },
            threads: self.count("threads"),
            max_memory: self.count("max_memory").map(|b| b as u64),
        }
    }
}

/// Names, `all-linear`, or one regular expression: what no module name contains makes it one.
fn targets(items: &[String]) -> Targets {
    match items {
        [one] if one == "all-linear" => Targets::AllLinear,
        [one] if one.contains(|c: char| "*+?()[]{}|^$\\".contains(c)) => Targets::Regex(one.clone()),
        [one] => Targets::Names(one.split(',').map(|name| name.trim().to_string()).collect()),
        _ => Targets::Names(items.to_vec()),
    }
}
