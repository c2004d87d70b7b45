//! What a transfer tells its caller, and how the caller stops it.

use crate::path::SafeRelPath;
use std::time::Duration;

/// A moment of a transfer.
#[derive(Debug)]
pub enum Event<'a> {
    /// What is to be transferred, after what is there already was taken off.
    Begin {
        /// Files to transfer.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A file has `done` of its `size` bytes; `done` can fall when a server starts over.
    Progress {
        /// The file.
        path: &'a SafeRelPath,
        /// Bytes that are there.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A file is complete and verified.
    Done {
        /// The file.
        path: &'a SafeRelPath,
    },
    /// A request failed and is made again after a pause.
    Retry {
        /// What happened.
        why: String,
        /// The pause.
        pause: Duration,
    },
    /// Another process downloads the same file; it is waited for.
    Waiting {
        /// The file.
        path: &'a SafeRelPath,
    },
}

/// A listener; its methods are called from several threads.
pub trait Watch: Sync {
    /// Hears of a moment.
    fn event(&self, _event: Event<'_>) {}

    /// Whether to stop as soon as possible, keeping what was received.
    fn stop(&self) -> bool {
        false
    }
}

/// Hears nothing and never stops.
#[derive(Debug)]
pub struct Silent;

impl Watch for Silent {}
