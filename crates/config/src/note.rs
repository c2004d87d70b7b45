//! What is worth saying about a configuration that is right.

use crate::problem::Place;
use std::fmt;

/// Why something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// A key was accepted and has no effect.
    NoEffect,
    /// A key was read as another one.
    Spelling,
    /// A default that a user may not expect.
    Default,
    /// Allowed, and likely not meant.
    Advice,
}

/// One thing to say at the start of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Why.
    pub kind: NoteKind,
    /// The key it is about.
    pub key: String,
    /// Where the key was written, unless it was not.
    pub place: Option<Place>,
    /// The sentence.
    pub text: String,
}

impl Note {
    pub(crate) fn no_effect(key: &str, reason: &str, place: &Place) -> Note {
        let text = format!("`{key}` has no effect: {reason}");
        Note { kind: NoteKind::NoEffect, key: key.into(), place: Some(place.clone()), text }
    }

    pub(crate) fn spelling(key: &str, target: &str, value: &str, place: &Place) -> Note {
        let text = format!("`{key}` is read as `{target}: {value}`");
        Note { kind: NoteKind::Spelling, key: key.into(), place: Some(place.clone()), text }
    }

    /// What became of another tool's key.
    pub(crate) fn foreign(key: &str, text: String, place: &Place) -> Note {
        Note { kind: NoteKind::NoEffect, key: key.into(), place: Some(place.clone()), text }
    }

    pub(crate) fn default(key: &str, text: impl Into<String>) -> Note {
        Note { kind: NoteKind::Default, key: key.into(), place: None, text: text.into() }
    }

    pub(crate) fn advice(key: &str, place: Option<&Place>, text: impl Into<String>) -> Note {
        Note { kind: NoteKind::Advice, key: key.into(), place: place.cloned(), text: text.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} ({place})", self.text),
            None => f.write_str(&self.text),
        }
    }
}
