//! Rules about what is trained, how it is held, and how it is multiplied.

use super::{AdapterMode, Check};
use crate::note::Note;
use crate::problem::Code;
use crate::table::{self, Scope, Status};
use crate::value::Value;

/// Keys that shape a fresh adapter only.
const OF_FRESH: &[&str] = &[
    "use_dora",
    "bias",
    "modules_to_save",
    "exclude_modules",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
];

impl Check<'_> {
    pub(super) fn adapter(&mut self) {
        if self.given("adapter_name_or_path") && self.settings.flag("use_peft") == Some(false) {
            let message = "an adapter is given and `use_peft` is false";
            let help = "remove `use_peft` to train the adapter on, or merge it into the model first";
            self.conflict(Code::Conflict, &["adapter_name_or_path", "use_peft"], message, help);
        }
        if self.facts.adapter == AdapterMode::Full && self.settings.sound(&["use_peft", "adapter_name_or_path"]) {
            for (key, setting) in self.settings.iter() {
                let entry = table::find(key).expect("settings are named by the table");
                if matches!(entry.status, Status::Works(_, Scope::Lora)) {
                    let text = format!(
                        "`{}` has no effect without `use_peft: true`: all weights are trained",
                        setting.written
                    );
                    self.notes.push(Note::advice(&setting.written, Some(&setting.key_place), text));
                    self.removed.push(key);
                }
            }
        }
        self.quantised();
        if let Some(setting) = self.settings.get("freeze_trainable_layers") {
            if setting.value == Value::Int(0) {
                let help = "give the number of blocks that are trained: 2 for the last two, -2 for the first two";
                self.conflict(Code::OutOfRange, &["freeze_trainable_layers"], "0 blocks are no training", help);
            }
            for key in ["use_peft", "adapter_name_or_path"] {
                if self.facts.adapter != AdapterMode::Full && self.given(key) {
                    let message = "an adapter freezes every block, `freeze_trainable_layers` trains some in full";
                    let keys = ["freeze_trainable_layers", key];
                    self.conflict(Code::Conflict, &keys, message, "keep one of the two");
                    break;
                }
            }
        }
        if self.facts.adapter == AdapterMode::Continued {
            for key in OF_FRESH {
                if self.given(key) {
                    let text =
                        format!("`{key}` has no effect on an adapter that exists: its adapter_config.json decides");
                    self.notes.push(Note::advice(key, self.place(key), text));
                    self.removed.push(key);
                }
            }
        }
        let dropout = self.settings.number("lora_dropout").is_some_and(|p| p > 0.0);
        if self.facts.adapter != AdapterMode::Full
            && !self.facts.sft
            && dropout
            && self.settings.flag("disable_dropout") != Some(false)
        {
            let text = "`lora_dropout` is recorded and off while training: `disable_dropout` is true, as in TRL's KTO";
            let note = Note::advice("lora_dropout", self.place("lora_dropout"), text);
            self.notes.push(note);
        }
    }

    /// A scaling has a kind.
    pub(super) fn rope(&mut self) {
        let inner = self.settings.iter().map(|(key, _)| key).find(|key| key.starts_with("rope_scaling."));
        if let Some(key) = inner.filter(|_| !self.given("rope_scaling.rope_type")) {
            let help = "add `rope_type: yarn`, or linear, dynamic or llama3, under `rope_scaling:`";
            self.conflict(Code::Missing, &[key], "`rope_scaling` needs its `rope_type`", help);
        }
    }

    /// Products of float32 on a GPU.
    pub(super) fn products(&mut self) {
        if self.settings.flag("tf32") != Some(true) {
            return;
        }
        let text = match (self.text("device").starts_with("cuda"), self.settings.flag("bf16")) {
            (false, _) => "`tf32` has no effect on the CPU",
            (true, Some(true)) => "`tf32` has no effect beside `bf16: true`: factors are bfloat16",
            (true, _) => return,
        };
        self.notes.push(Note::advice("tf32", self.place("tf32"), text));
    }

    /// Moments on a disk.
    pub(super) fn offload(&mut self) {
        let on_disk = self.text("offload_optimizer_device") == "nvme";
        if on_disk && self.text("device").starts_with("cuda") {
            let message = "moments on a disk are for training on the processor; on a GPU they stay in its memory";
            let help = "remove `offload_optimizer_device`, or use `optim: adamw_8bit`, which takes a quarter";
            self.conflict(Code::Conflict, &["offload_optimizer_device", "device"], message, help);
        }
        if !on_disk && self.given("offload_optimizer_nvme_path") {
            let key = "offload_optimizer_nvme_path";
            let text = "`offload_optimizer_nvme_path` has no effect without `offload_optimizer_device: nvme`";
            self.notes.push(Note::advice(key, self.place(key), text));
            self.removed.push(key);
        }
    }

    /// Activations that are to leave a GPU.
    pub(super) fn activations(&mut self) {
        let key = "activation_offloading";
        if self.settings.flag(key) != Some(true) {
            return;
        }
        let text = match (self.text("device").starts_with("cuda"), self.settings.flag("gradient_checkpointing")) {
            (false, _) => "`activation_offloading` has no effect on the CPU: its memory is where activations are",
            (true, Some(false)) => {
                "`activation_offloading` has no effect beside `gradient_checkpointing: false`: inputs leave the GPU of blocks that are computed again"
            }
            (true, _) => return,
        };
        self.notes.push(Note::advice(key, self.place(key), text));
    }

    /// Weights that are held in bfloat16 and nowhere else.
    pub(super) fn master(&mut self) {
        if self.text("optim_master") != "none" {
            return;
        }
        if self.facts.adapter != AdapterMode::Full {
            let text = "`optim_master` has no effect on an adapter, which is float32";
            self.notes.push(Note::advice("optim_master", self.place("optim_master"), text));
            self.removed.push("optim_master");
        } else if self.text("dtype") != "bfloat16" {
            let message = "`optim_master: none` is for weights in bfloat16: float32 weights are their own master";
            let help = "add `dtype: bfloat16`, or remove `optim_master`";
            self.conflict(Code::Conflict, &["optim_master", "dtype"], message, help);
        }
    }
}
