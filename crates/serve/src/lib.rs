//! A model over HTTP, with the interface of OpenAI's: chat and completions, whole or streamed.
//!
//! ```text
//! connection (a thread each) -> http: a request within limits -> api: what is asked -> worker: one engine for all
//!                            <- answers: text, log-probabilities, events                <- tokens as they are drawn
//! ```
//! Nothing waits without bound: not for a slow client, not for a body, not in the queue.
#![forbid(unsafe_code)]

mod answers;
mod api;
mod connection;
pub mod http;
mod server;
mod worker;

pub use api::{Ask, Refusal};
pub use server::{Server, Settings, Stop};
