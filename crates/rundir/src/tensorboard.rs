//! TensorBoard event files: TFRecord frames around hand-encoded `Event` messages.
//!
//! Frame: length as u64, masked CRC-32C of the length, the message, masked CRC-32C of the message, all little-endian.
//! Messages: `tensorflow/core/util/event.proto` and `framework/summary.proto`.
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::crc;
use crate::error::{At, Error};
use crate::log::Record;

/// An event file that scalars are appended to.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a new event file in `dir`, which is made when missing. With `resume_step`, the step of the checkpoint
    /// resumed from, TensorBoard drops what earlier files in the folder say about later steps.
    ///
    /// Errors: the disk fails.
    pub fn create(dir: &Path, resume_step: Option<u64>) -> Result<EventFile, Error> {
        std::fs::create_dir_all(dir).at("create folder", dir)?;
        let seconds = wall_time() as u64;
        let free = |count: &u32| !dir.join(file_name(seconds, *count)).exists();
        let path = dir.join(file_name(seconds, (0..).find(free).expect("some number is free")));
        let file = File::create_new(&path).at("create", &path)?;
        let mut events = EventFile { path, file };
        events.event(0, |event| bytes_field(event, 3, b"brain.Event:2"))?;
        if let Some(step) = resume_step {
            // A SessionLog that says START: TensorBoard forgets this event's step and all after it.
            events.event(step + 1, |event| message_field(event, 7, |log| varint_field(log, 1, 1)))?;
        }
        Ok(events)
    }

    /// Writes the numbers of a log record as scalars of `step`; its `step` and whatever is no finite number is left out.
    ///
    /// Errors: the disk fails.
    pub fn record(&mut self, step: u64, record: &Record) -> Result<(), Error> {
        let scalars = record.iter().filter(|(key, _)| *key != "step");
        let scalars: Vec<_> = scalars.filter_map(|(key, value)| Some((tag(key), value.as_f64()? as f32))).collect();
        if scalars.is_empty() {
            return Ok(());
        }
        self.event(step, |event| {
            message_field(event, 5, |summary| {
                for (tag, value) in &scalars {
                    message_field(summary, 1, |scalar| {
                        bytes_field(scalar, 1, tag.as_bytes());
                        key(scalar, 2, FIXED32);
                        scalar.extend_from_slice(&value.to_le_bytes());
                    });
                }
            });
        })
    }

    fn event(&mut self, step: u64, what: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let mut event = Vec::new();
        key(&mut event, 1, FIXED64);
        event.extend_from_slice(&wall_time().to_le_bytes());
        varint_field(&mut event, 2, step);
        what(&mut event);
        self.file.write_all(&frame(&event)).at("write", &self.path)
    }
}

/// The tag that TRL's runs have for a metric: `eval_loss` is `eval/loss`, `kl` is `train/kl`.
pub fn tag(metric: &str) -> String {
    let split = metric.strip_prefix("eval_").map(|rest| ("eval", rest));
    let (group, name) = split.unwrap_or(("train", metric));
    format!("{group}/{name}")
}

fn file_name(seconds: u64, count: u32) -> String {
    format!("events.out.tfevents.{seconds:010}.prospect.{}.{count}", std::process::id())
}

fn wall_time() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64())
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(message.len() + 16);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
    frame.extend_from_slice(message);
    frame.extend_from_slice(&masked_crc(message).to_le_bytes());
    frame
}

/// CRC-32C, rotated and shifted as TFRecord wants it, so that a record may hold records.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc::checksum(&crc::CASTAGNOLI, &[bytes]).rotate_right(15).wrapping_add(0xA282_EAD8)
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// A field's key; every field number here is below 16, so it is one byte.
fn key(out: &mut Vec<u8>, field: u8, wire: u8) {
    out.push(field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    key(out, field, BYTES);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn message_field(out: &mut Vec<u8>, field: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    fill(&mut message);
    bytes_field(out, field, &message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use serde_json::json;

    /// Cuts a file into its messages, checking both checksums of each.
    fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
            found.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        found
    }

    #[test]
    fn a_scalar_event_has_the_bytes_of_its_protobuf() {
        let scratch = Scratch::new();
        let mut events = EventFile::create(scratch.path(), Some(7)).unwrap();
        let record = json!({"step": 300, "loss": 0.5, "eval_loss": null});
        events.record(300, record.as_object().unwrap()).unwrap();
        let found = messages(&std::fs::read(&events.path).unwrap());
        // After the wall time (key and 8 bytes): step, then the payload.
        let after_time: Vec<&[u8]> = found.iter().map(|message| &message[9..]).collect();
        assert_eq!(after_time[0], b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(after_time[1], b"\x10\x08\x3a\x02\x08\x01");
        assert_eq!(after_time[2], b"\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\x00\x3f");
    }

    #[test]
    fn masked_checksums_are_those_of_the_tfrecord_format() {
        // The length frame of a 24-byte record, from the format's description.
        assert_eq!(masked_crc(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn metrics_have_the_tags_of_trl() {
        assert_eq!(tag("rewards/chosen"), "train/rewards/chosen");
        assert_eq!(tag("eval_rewards/chosen"), "eval/rewards/chosen");
        assert_eq!(tag("learning_rate"), "train/learning_rate");
    }
}
