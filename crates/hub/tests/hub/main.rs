//! The client against servers that misbehave: every test has its own on 127.0.0.1.

mod fake_hub;
mod lab;
mod pull;
mod push;
mod server;
mod trouble;
