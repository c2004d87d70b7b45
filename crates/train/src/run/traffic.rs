//! What the ranks of a run have moved, and how long they were at it.

use super::Run;
use crate::Error;
use dist::Collective;
use kernels::Backend;

impl<B: Backend> Run<'_, B> {
    /// One line for each collective, of this process's calls so far; none where there is one rank. All ranks make this call.
    pub(super) fn traffic(&self) -> Result<Vec<String>, Error> {
        let world = self.ranks.world;
        if world.size() == 1 {
            return Ok(Vec::new());
        }
        let meter = world.meter();
        let own: Vec<f64> =
            Collective::ALL.iter().flat_map(|c| [meter.of(*c).sent as f64, meter.of(*c).seconds]).collect();
        let all = world.gather_numbers(&own)?;
        let line = |(i, what): (usize, &Collective)| {
            let sent: f64 = all.iter().map(|rank| rank[2 * i]).sum();
            let seconds = all.iter().map(|rank| rank[2 * i + 1]);
            let (least, most) = seconds.fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), s| (a.min(s), b.max(s)));
            let calls = meter.of(*what).calls;
            format!(
                "{:<14} {calls} calls, {sent:.0} bytes sent by all ranks, {least:.2} to {most:.2} s on a rank, waiting included",
                what.name()
            )
        };
        Ok(Collective::ALL.iter().enumerate().map(line).collect())
    }
}
