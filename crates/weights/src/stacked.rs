//! Experts that a checkpoint holds in one tensor: where the weight of one of them lies in it.

use crate::checkpoint::Checkpoint;

/// A module's weight in the tensor of a whole stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The stack, `[experts, outputs, inputs]`, or `[experts, inputs, outputs]` where it is turned.
    pub(crate) tensor: String,
    pub(crate) expert: usize,
    /// Which half of the expert's outputs is the module's; `None`: all of them.
    pub(crate) half: Option<usize>,
    pub(crate) turned: bool,
}

/// Where the weight of an expert's `module` lies in a checkpoint that stacks them.
pub(crate) fn slice(module: &str) -> Option<Slice> {
    let (at, rest) = module.split_once(".experts.")?;
    // Mixtral's experts are under a name of their own, and its stacks where all others are.
    let at = at.strip_suffix("block_sparse_moe").map_or_else(|| at.to_owned(), |layer| format!("{layer}mlp"));
    let (first, last) = rest.split_once('.')?;
    let (expert, name, half, turned) = match (first, last) {
        ("gate_up_projs", e) => (e, "gate_up_proj", None, true),
        ("down_projs", e) => (e, "down_proj", None, true),
        (e, "gate_proj" | "w1") => (e, "gate_up_proj", Some(0), false),
        (e, "up_proj" | "w3") => (e, "gate_up_proj", Some(1), false),
        (e, "down_proj" | "w2") => (e, "down_proj", None, false),
        _ => return None,
    };
    let tensor = format!("{at}.experts.{name}");
    Some(Slice { tensor, expert: expert.parse().ok()?, half, turned })
}

impl Slice {
    /// The stack's name where it is held in MXFP4.
    pub(crate) fn codes(&self) -> String {
        format!("{}_blocks", self.tensor)
    }

    /// Whether the checkpoint has the stack.
    pub(crate) fn is_in(&self, base: &Checkpoint) -> bool {
        base.contains(&self.tensor) || base.contains(&self.codes())
    }

    /// Extents that the stack must have for a module of `[outputs, inputs]`, but for the number of experts.
    pub(crate) fn matrix(&self, [outputs, inputs]: [usize; 2]) -> [usize; 2] {
        let whole = if self.half.is_some() { 2 * outputs } else { outputs };
        if self.turned { [inputs, whole] } else { [whole, inputs] }
    }

    /// First element of the module's row `o` in the expert's matrix of `[outputs, inputs]`, and from one input to the next.
    pub(crate) fn row(&self, o: usize, [outputs, inputs]: [usize; 2]) -> (usize, usize) {
        match self.turned {
            true => (o, outputs),
            false => ((self.half.unwrap_or(0) * outputs + o) * inputs, 1),
        }
    }
}
