//! Attention beside PyTorch's, length by length, ours and the peer's in turn.

use crate::arithmetic::{median, ratios};
use crate::child;
use crate::device::{Device, Named};
use crate::error::Error;
use crate::operators::{self, Shape};
use crate::progress::Progress;
use crate::runs::{Setup, number, on_gpu};
use serde::Serialize;
use serde_json::Value;
use std::process::Command;

/// Attention of one length, forward or backward.
#[derive(Debug, Serialize)]
pub(crate) struct Beside {
    /// Of the model.
    pub(crate) model: &'static str,
    /// `attention` or `attention_back`.
    pub(crate) operator: String,
    /// Sequences by tokens, and heads.
    pub(crate) shape: String,
    /// Median seconds of a call, by round.
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
    /// The peer's over ours, round by round.
    pub(crate) ratios: Vec<f64>,
    /// Seconds of PyTorch's other ways, by their names, in the last round.
    pub(crate) others: Value,
    pub(crate) versions: Value,
}

/// All rounds of a shape.
pub(crate) fn compare(
    shape: Shape,
    device: &Device,
    setup: &Setup,
    progress: &mut Progress,
) -> Result<Vec<Beside>, Error> {
    let mut all: Vec<Beside> = Vec::new();
    for round in 1..=setup.rounds {
        let title = format!("attention of {}, round {round} of {}", shape.name, setup.rounds);
        progress.next(&title);
        let ours = operators::attention(shape, device)?;
        progress.next(&format!("PyTorch: {title}"));
        let said = asked(shape, device, setup)?;
        for (i, row) in ours.into_iter().enumerate() {
            // Forward and backward of each length in turn, on both sides.
            let theirs = &said["lengths"][i / 2];
            let pass = if i % 2 == 0 { "forward" } else { "backward" };
            if round == 1 {
                all.push(Beside {
                    model: shape.name,
                    operator: row.operator,
                    shape: row.shape,
                    ours: Vec::new(),
                    peer: Vec::new(),
                    ratios: Vec::new(),
                    others: Value::Null,
                    versions: said["versions"].clone(),
                });
            }
            all[i].ours.push(row.seconds);
            all[i].peer.push(number(&theirs["default"], pass, "peer_attention.py")?);
            all[i].others = theirs["others"][pass].clone();
        }
    }
    all.iter_mut().for_each(|beside| beside.ratios = ratios(&beside.peer, &beside.ours));
    Ok(all)
}

fn asked(shape: Shape, device: &Device, setup: &Setup) -> Result<Value, Error> {
    let (python, scripts) = setup.peer.as_ref().expect("asked for only where there is one");
    let sizes = device.sizes();
    let mut command = Command::new(python);
    command.arg(scripts.join("peer_attention.py"));
    for (flag, n) in [("--heads", shape.n), ("--kv-heads", shape.k), ("--width", shape.h)] {
        command.args([flag, &n.to_string()]);
    }
    command.args(["--threads", &crate::machine::threads().to_string()]);
    command.args(["--rows", &sizes.attention_rows.to_string(), "--lengths"]);
    command.args(sizes.lengths.iter().map(usize::to_string));
    if let Named::Cuda(number) = setup.device {
        on_gpu(&mut command, number);
    }
    child::run(&mut command, setup.meter)?.json("peer_attention.py")
}

impl Beside {
    /// A row of the table.
    pub(crate) fn row(&self) -> Vec<String> {
        use crate::arithmetic::short;
        let of = |seconds: &[f64]| short(1e3 * median(seconds.iter().copied()));
        let each = self.ratios.iter().map(|&x| short(x)).collect::<Vec<_>>().join(", ");
        let others: Vec<String> = self
            .others
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, seconds)| format!("{name} {}", short(1e3 * seconds.as_f64().unwrap_or(f64::NAN))))
            .collect();
        let name = format!("{} {}", self.model, self.operator);
        let ratio = format!("{} x", short(median(self.ratios.iter().copied())));
        vec![name, self.shape.clone(), of(&self.ours), of(&self.peer), ratio, each, others.join(", ")]
    }
}
