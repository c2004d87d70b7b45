//! What a spread run would take: memory of a rank, bytes on the wire, time of both. Arithmetic on assumptions, not a measurement.
//!
//! State per parameter as in ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): weights and gradients in the wire's width, and 12 bytes of
//! optimiser state: a single-precision copy and two moments.

/// What is trained, and on what.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Parameters of the model.
    pub parameters: f64,
    /// Those that a token meets: not the experts that it is not sent to.
    pub active: f64,
    /// Those that are trained.
    pub trained: f64,
    /// Blocks.
    pub layers: f64,
    /// Width of a row.
    pub hidden: f64,
    /// Tokens of a micro-batch on one rank.
    pub tokens: f64,
    /// Tokens of a sequence.
    pub length: f64,
    /// Micro-batches of a step on one rank.
    pub accumulation: f64,
    /// Token-forwards per token of a step: 3 for forward and backward of all weights, 4 with recomputation.
    pub passes: f64,
}

/// What computes.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// As it is asked for.
    pub name: &'static str,
    /// Memory, bytes.
    pub memory: f64,
    /// Products at their fastest, FLOP/s.
    pub peak: f64,
    /// Of its memory, bytes/s.
    pub bandwidth: f64,
    /// To its neighbours in the machine, bytes/s each way.
    pub link: f64,
    /// Bytes of a weight or a gradient, in memory and on the wire.
    pub width: f64,
}

/// Makers' figures: dense products in bfloat16, NVLink in one direction.
///
/// The RTX cards: products in bfloat16 with sums in single precision, and PCI Express between them.
pub const DEVICES: [Device; 6] = [
    Device { name: "a100", memory: 80e9, peak: 312e12, bandwidth: 2.0e12, link: 300e9, width: 2.0 },
    Device { name: "h100", memory: 80e9, peak: 989e12, bandwidth: 3.35e12, link: 450e9, width: 2.0 },
    Device { name: "h200", memory: 141e9, peak: 989e12, bandwidth: 4.8e12, link: 450e9, width: 2.0 },
    Device { name: "b200", memory: 180e9, peak: 2250e12, bandwidth: 8e12, link: 900e9, width: 2.0 },
    Device { name: "rtx3090", memory: 24e9, peak: 71e12, bandwidth: 936e9, link: 32e9, width: 2.0 },
    Device { name: "rtx4090", memory: 24e9, peak: 165e12, bandwidth: 1.008e12, link: 32e9, width: 2.0 },
];

/// Share of a device's fastest products that training reaches: an assumption.
pub const REACHED: f64 = 0.4;

/// Where the ranks are.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// Machines.
    pub nodes: f64,
    /// Ranks of a machine.
    pub per_node: f64,
    /// Between machines, bytes/s for each rank.
    pub network: f64,
}

impl Cluster {
    /// Ranks in all.
    pub fn ranks(&self) -> f64 {
        self.nodes * self.per_node
    }

    /// The slower of the links that a ring over all ranks goes through, bytes/s.
    fn slowest(&self, device: &Device) -> f64 {
        if self.nodes > 1.0 { self.network.min(device.link) } else { device.link }
    }
}

/// One ZeRO stage of a spread run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// 0 to 3.
    pub stage: u8,
    /// Weights, gradients and optimiser of a rank, bytes.
    pub state: f64,
    /// Block inputs that recomputation keeps, bytes.
    pub activations: f64,
    /// Sent by a rank in a step, bytes.
    pub wire: f64,
    /// Of these, what goes to other machines, bytes: every rank sends to all others alike.
    pub between: f64,
    /// Time of the products, seconds.
    pub compute: f64,
    /// Time on the slowest link, seconds.
    pub network: f64,
    /// Of that, what the products do not hide, seconds.
    pub exposed: f64,
}

impl Stage {
    /// Memory of a rank, bytes.
    pub fn memory(&self) -> f64 {
        self.state + self.activations
    }

    /// Share of the time that is products.
    pub fn efficiency(&self) -> f64 {
        self.compute / (self.compute + self.exposed)
    }
}

/// The four stages of a workload.
pub fn stages(work: &Workload, device: &Device, cluster: &Cluster) -> [Stage; 4] {
    let (n, frozen) = (cluster.ranks(), work.parameters - work.trained);
    let (trained, width) = (work.trained, device.width);
    let others = (n - 1.0) / n;
    let (weights, optimiser) = (width * trained, 12.0 * trained);
    let linear = 2.0 * work.active * work.tokens * work.passes;
    let attention = 2.0 * work.length * work.hidden * work.layers * work.tokens * work.passes;
    let compute = work.accumulation * (linear + attention) / (REACHED * device.peak);
    [0u8, 1, 2, 3].map(|stage| {
        let share = |from: u8| if stage >= from { n } else { 1.0 };
        let state = width * frozen / share(3) + weights / share(3) + weights / share(2) + optimiser / share(1);
        // A reduction and a gathering of what is trained; the gradient's with every micro-batch where no rank keeps all of it, the
        // weights' twice where no rank has them.
        let times = match stage {
            0 | 1 => 2.0,
            2 => 1.0 + work.accumulation,
            _ => 3.0 * work.accumulation,
        };
        let gathered = if stage == 3 { 2.0 * work.accumulation * width * frozen } else { 0.0 };
        let wire = others * (times * weights + gathered);
        let between = wire * (n - cluster.per_node) / (n - 1.0).max(1.0);
        let network = wire / cluster.slowest(device);
        // Weights that are gathered ahead hide behind all products, a gradient behind backward, two thirds of them; what comes after the
        // update hides behind nothing.
        let hidden = match stage {
            3 => compute,
            _ => (compute * 2.0 / 3.0).min(network * (times - 1.0) / times),
        };
        let exposed = (network - hidden).max(0.0);
        let activations = width * work.tokens * work.hidden * work.layers;
        Stage { stage, state, activations, wire, between, compute, network, exposed }
    })
}
