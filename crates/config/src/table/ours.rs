//! Keys that are this project's own.

use super::{Entry, Scope, Section, spelling, works};
use crate::value::{Choice, Kind, Range};

use Choice::{Is, Means, Not};
use Kind::{Bool, BoolOr, Bytes, FloatOr, Int, Text, Texts};

const TRAINERS: &[Choice] = &[
    Is("kto"),
    Is("sft"),
    Not("dpo", "paired preferences are trained as KTO rows: one desirable and one undesirable completion"),
    Not("grpo", "training from rewards of fresh samples is not offered"),
    Not("ppo", "training from rewards of fresh samples is not offered"),
];
const COMPAT: &[Choice] = &[Is("trl")];
const TRUNCATION: &[Choice] = &[
    Is("keep_start"),
    Is("drop"),
    Not("keep_end", "it would cut the beginning of the prompt and move every position"),
];
const Z0_SCOPE: &[Choice] = &[Is("step"), Is("micro_batch"), Means("micro", "micro_batch")];
const PAIRING: &[Choice] = &[Is("group"), Is("trl")];
const HOMOGENEOUS: &[Choice] = &[
    Is("exact"),
    Is("skip"),
    Not(
        "cross_entropy",
        "it would raise the likelihood of undesirable completions; the KTO loss of a one-class batch is well defined",
    ),
];
const BAD_ROWS: &[Choice] = &[Is("error"), Is("skip")];

const RUN: (Section, Scope) = (Section::Run, Scope::Both);
const DATA: (Section, Scope) = (Section::Data, Scope::Both);
const KTO: (Section, Scope) = (Section::Objective, Scope::Kto);
const EVAL: (Section, Scope) = (Section::Evaluation, Scope::Both);
const ENGINE: (Section, Scope) = (Section::Engine, Scope::Both);
const POSITIVE: Kind = Kind::Float(Range::POSITIVE);

#[rustfmt::skip] // a table: one row, one line
pub(super) const ENTRIES: &[Entry] = &[
    works(RUN, "trainer", Kind::Choice(TRAINERS), "kto", "the objective: kto, or sft"),
    works(RUN, "compat", Kind::Choice(COMPAT), "", "trl: TRL's pairing, order, z0 scope and normalisation, for comparison runs"),
    works((Section::Model, Scope::Both), "adapter_name_or_path", Text, "", "a PEFT adapter folder to go on training; its initial state is the KTO reference"),
    works(DATA, "eval_dataset_name", Texts, "", "files or folders with evaluation rows"),
    works(DATA, "val_size", Kind::Float(Range::ROWS), "", "evaluation rows split off the training rows by hash: a fraction, or a number of rows"),
    works(DATA, "truncation", Kind::Choice(TRUNCATION), "keep_start", "rows over max_length: cut their end, or drop them"),
    works(DATA, "bad_rows", Kind::Choice(BAD_ROWS), "error", "a row that cannot be read: stop and say where, or skip and count"),
    works(DATA, "shuffle", Bool, "true", "a new order every epoch; KTO shuffles whole pairing groups"),
    works(KTO, "z0_scope", Kind::Choice(Z0_SCOPE), "step", "the KL estimate is shared by all rows of the step, or of each micro-batch as in TRL"),
    works(KTO, "pairing", Kind::Choice(PAIRING), "group", "mismatched completions: a fixed derangement whose partners have other prompts, or TRL's rotation"),
    works(KTO, "homogeneous_batch", Kind::Choice(HOMOGENEOUS), "exact", "a step whose rows are all of one class: its exact KTO loss, or skip it"),
    works(KTO, "kl_warn", POSITIVE, "", "warn when the KL estimate of a step exceeds this, in nats per completion"),
    works(KTO, "kl_stop", POSITIVE, "", "save and stop when the KL estimate of a step exceeds this, in nats per completion"),
    works(EVAL, "early_stopping_patience", Int(1), "", "stop after this many evaluations without improvement"),
    works(EVAL, "early_stopping_threshold", Kind::Float(Range::NON_NEGATIVE), "0.0", "an improvement is a change by more than this"),
    works(ENGINE, "deterministic", Bool, "true", "reductions in a fixed order: the same bits every time"),
    works(ENGINE, "threads", Int(1), "", "CPU threads; all physical cores when unset"),
    works(ENGINE, "max_memory", Bytes, "", "what the memory plan may use; what is free when unset"),
    works((Section::Logging, Scope::Both), "extra_metrics", Bool, "true", "logits/* and entropy, which cost a pass over the head"),
    spelling("min_lr_rate", Kind::Float(Range::UNIT), "lr_scheduler_kwargs.min_lr_rate", "the schedule's floor as a share of learning_rate"),
    spelling("use_kto_s", Bool, "loss_type", "true means `loss_type: kto_s`"),
    spelling("use_sign_correction", Bool, "loss_type", "true means `loss_type: kto_s`"),
];

/// A number, or the paper's rule (Eq. 9) from the class counts.
pub(super) const WEIGHT: Kind = FloatOr(Range::NON_NEGATIVE, &["auto"]);
/// Recompute activations: as the memory plan says, always, never.
pub(super) const RECOMPUTE: Kind = BoolOr(&["auto"]);
