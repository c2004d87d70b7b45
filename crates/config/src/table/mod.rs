//! Every key there is: its type, default, and whether it works, has no effect and why, or is refused and why.

mod older;
mod ours;
mod training;
mod trl;

use crate::value::Kind;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As it is written; keys of a nested mapping with their parent, `lr_scheduler_kwargs.min_lr_rate`.
    pub key: &'static str,
    /// Type of its value.
    pub kind: Kind,
    /// As YAML; empty for unset. A few depend on `trainer` and `compat`: their lines say so.
    pub default: &'static str,
    /// What becomes of it.
    pub status: Status,
    /// What it is, in one line.
    pub doc: &'static str,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// It is in [`crate::Config`].
    Works(Section, Scope),
    /// Another name of this key.
    Spelling(&'static str),
    /// Accepted, said once, with the reason.
    NoEffect(&'static str),
    /// A mapping; each key inside has a row of its own.
    Mapping,
    /// An error unless it has one of these values, with the reason.
    Refused {
        /// The values that say what is done anyway, as YAML; `null` is always one.
        unless: &'static [&'static str],
        /// Why no other value is taken.
        reason: &'static str,
    },
}

/// The part of the resolved file a key is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Objective and comparison mode.
    Run,
    /// Base model and adapter.
    Model,
    /// Rows, splits, lengths.
    Data,
    /// Loss.
    Objective,
    /// Steps, batch, optimiser, schedule.
    Optimisation,
    /// Evaluation and the best checkpoint.
    Evaluation,
    /// Checkpoints.
    Saving,
    /// What is logged.
    Logging,
    /// How it is computed.
    Engine,
}

impl Section {
    /// In the order of the resolved file.
    pub const ALL: [Section; 9] = [
        Section::Run,
        Section::Model,
        Section::Data,
        Section::Objective,
        Section::Optimisation,
        Section::Evaluation,
        Section::Saving,
        Section::Logging,
        Section::Engine,
    ];
}

/// Where a key has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Both trainers.
    Both,
    /// `trainer: kto` only.
    Kto,
    /// `trainer: sft` only.
    Sft,
    /// Only when an adapter is trained.
    Lora,
}

/// Defaults that differ from the table's: the key, when, and the value.
const DEFAULTS_WHEN: &[(&str, When, &str)] = &[
    ("learning_rate", When::Sft, "2e-5"),
    ("loss_type", When::Sft, "nll"),
    ("pairing", When::KtoCompat, "trl"),
    ("z0_scope", When::KtoCompat, "micro_batch"),
    ("shuffle", When::KtoCompat, "false"),
];

#[derive(Clone, Copy, PartialEq)]
enum When {
    Sft,
    KtoCompat,
}

/// The default of a key as YAML for a trainer, with or without `compat: trl`.
pub(crate) fn default(entry: &Entry, sft: bool, compat: bool) -> &'static str {
    let holds = |when: When| match when {
        When::Sft => sft,
        When::KtoCompat => !sft && compat,
    };
    let special = DEFAULTS_WHEN.iter().find(|(key, when, _)| *key == entry.key && holds(*when));
    special.map_or(entry.default, |(_, _, value)| value)
}

/// All top-level keys: ours, then TRL's and PEFT's, transformers', older names.
pub(crate) fn entries() -> impl Iterator<Item = &'static Entry> {
    [ours::ENTRIES, trl::ENTRIES, training::ENTRIES, older::ENTRIES].into_iter().flatten()
}

/// All keys, those of nested mappings included, each after its parent.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    entries().flat_map(|entry| {
        let inner: &'static [Entry] = if let Kind::Map(inner) = entry.kind { inner } else { &[] };
        std::iter::once(entry).chain(inner)
    })
}

/// The row of a key.
pub(crate) fn find(key: &str) -> Option<&'static Entry> {
    all().find(|entry| entry.key == key)
}

/// The name most like `text`, when one is near enough to be a slip of the hand.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_ascii_lowercase().replace(['-', ' '], "_");
    let written = plain(text);
    let score = |name: &str| strsim::normalized_damerau_levenshtein(&written, &plain(name));
    let best = names.map(|name| (name, score(name))).max_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|(_, score)| *score >= 0.65).map(|(name, _)| name)
}

pub(super) const fn works(
    place: (Section, Scope),
    key: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Entry {
    Entry { key, kind, default, status: Status::Works(place.0, place.1), doc }
}

pub(super) const fn spelling(key: &'static str, kind: Kind, of: &'static str, doc: &'static str) -> Entry {
    Entry { key, kind, default: "", status: Status::Spelling(of), doc }
}

pub(super) const fn idle(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    reason: &'static str,
) -> Entry {
    Entry { key, kind, default, status: Status::NoEffect(reason), doc }
}

pub(super) const fn refused(
    key: &'static str,
    kind: Kind,
    unless: &'static [&'static str],
    doc: &'static str,
    reason: &'static str,
) -> Entry {
    let default = if unless.is_empty() { "" } else { unless[0] };
    Entry { key, kind, default, status: Status::Refused { unless, reason }, doc }
}

pub(super) const fn mapping(key: &'static str, inner: &'static [Entry], doc: &'static str) -> Entry {
    Entry { key, kind: Kind::Map(inner), default: "", status: Status::Mapping, doc }
}

/// Reasons that many keys share.
pub(crate) mod because {
    pub(in crate::table) const RANKS: &str =
        "ranks spread the work and gather it themselves; what they shard is `zero_stage`";
    pub(in crate::table) const TORCH_KERNELS: &str = "it chooses among torch's kernels; the engine here has its own";
    pub(crate) const FLOAT32: &str =
        "arithmetic is float32, mixed with `bf16: true`; how weights are stored is `dtype`";
    pub(in crate::table) const NO_PADDING: &str = "rows are packed: there is no padding anywhere";
    pub(in crate::table) const NO_LOADER: &str =
        "rows are tokenised once before training and read from memory: there are no loader workers";
    pub(in crate::table) const NO_UPLOAD: &str =
        "training uploads nothing; `prospect push RUN org/name` does it afterwards";
    pub(in crate::table) const NO_TRACKER: &str =
        "nothing is sent to trackers yet; log.jsonl and TensorBoard files hold the same numbers";
    pub(in crate::table) const SECRET: &str =
        "a secret does not belong in a file that is copied into the run folder; nothing is uploaded by training";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The 169 fields of TRL 1.16.0 and transformers 5.23.0; the file says how it was made.
    const FIELDS: &str = include_str!("../../tests/trl_1_16_0_fields.txt");

    #[test]
    fn no_key_stands_twice_in_the_table() {
        let mut seen = BTreeSet::new();
        for entry in all() {
            assert!(seen.insert(entry.key), "`{}` stands twice", entry.key);
        }
    }

    #[test]
    fn every_field_of_trl_and_transformers_stands_in_the_table() {
        let fields: Vec<&str> = FIELDS.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).collect();
        assert_eq!(fields.len(), 169);
        let missing: Vec<&&str> = fields.iter().filter(|key| find(key).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn every_other_spelling_names_a_key_that_works() {
        for entry in all() {
            assert!(!entry.doc.is_empty(), "`{}` has no line of documentation", entry.key);
            if let Status::Spelling(of) = entry.status {
                let target =
                    find(of).unwrap_or_else(|| panic!("`{}` is said to be `{of}`, which is no key", entry.key));
                assert!(matches!(target.status, Status::Works(..)), "`{of}`");
            }
        }
    }

    #[test]
    fn the_nearest_key_is_a_slip_and_never_a_guess() {
        let near = |text| nearest(text, entries().map(|e| e.key));
        assert_eq!(near("learning_rat"), Some("learning_rate"));
        assert_eq!(near("Learning-Rate"), Some("learning_rate"));
        assert_eq!(near("bananas"), None);
    }
}
