//! The Hugging Face Hub or a mirror of it: models and data sets down, results up.
//!
//! [`pull`] fetches a repository at one commit into the cache that `huggingface_hub` shares, or into a plain folder;
//! [`push`] uploads files in one commit. Every byte is verified by length and hash before it gets its name; what was
//! received survives a crash and is gone on with; file names pass [`SafeRelPath`]; the token is a [`Secret`] that goes
//! to the endpoint's own host only; offline, no socket is opened. Variables are read by [`Settings::from_env`] through
//! a function of the caller, and time comes from a [`Clock`].
#![forbid(unsafe_code)]

mod address;
mod clock;
mod digest;
mod download;
mod error;
mod glob;
mod http;
mod layout;
mod listing;
mod lockfile;
mod offline;
mod path;
mod pull;
mod push;
mod reach;
mod repo;
mod secret;
mod settings;
mod watch;

pub use clock::{Clock, SystemClock};
pub use digest::Digest;
pub use error::Error;
pub use glob::selected;
pub use http::Client;
pub use listing::RemoteFile;
pub use lockfile::{Lockfile, Pin};
pub use path::SafeRelPath;
pub use pull::{Destination, Pull, Pulled, pull};
pub use push::{Content, NewFile, Push, Pushed, files_of, push};
pub use repo::{Commit, Repo, RepoKind, Revision};
pub use secret::Secret;
pub use settings::{Limits, Settings};
pub use watch::{Event, Silent, Watch};
