//! `doctor --net`: how fast the ranks of this job talk, and which two of them talk slowly.

use crate::failure::Failure;
use crate::output::{self, Side, table};
use crate::progress::Bar;
use crate::ranks;
use crate::screen::Screen;
use clap::Args;
use config::{Device, RankBackend};
use dist::line::Line;
use dist::{Collective, World};
use serde_json::json;
use std::time::Duration;

/// What is measured.
#[derive(Args)]
pub(crate) struct NetArgs {
    /// Measure how fast the ranks of this job talk (start them with `prospect launch`, mpirun or srun), and nothing else.
    #[arg(long)]
    pub(crate) net: bool,
    /// One collective only: all_reduce, reduce_scatter, all_gather, broadcast or barrier.
    #[arg(long, value_name = "NAME", requires = "net", value_parser = collective)]
    collective: Option<Collective>,
    /// Sizes in all, bytes [default: 1 KB to 64 MB].
    #[arg(long, value_name = "N,..", value_delimiter = ',', requires = "net")]
    bytes: Vec<usize>,
    /// How often each is measured in each of five passes [default: 3 to 101 times].
    #[arg(long, value_name = "N", requires = "net", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Over what: mpi or nccl [default: what the launcher brings].
    #[arg(long, value_name = "NAME", requires = "net", value_parser = backend)]
    backend: Option<RankBackend>,
    /// Seconds that ranks wait for one another.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, requires = "net", value_parser = seconds)]
    timeout: f64,
}

fn collective(name: &str) -> Result<Collective, String> {
    let found = Collective::ALL.into_iter().find(|c| c.name() == name);
    found.ok_or_else(|| format!("expected one of {}", Collective::ALL.map(Collective::name).join(", ")))
}

fn backend(name: &str) -> Result<RankBackend, String> {
    match name {
        "mpi" => Ok(RankBackend::Mpi),
        "nccl" => Ok(RankBackend::Nccl),
        _ => Err("expected mpi or nccl".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|s| (0.1..=1e6).contains(s));
    number.ok_or_else(|| "expected seconds, at least 0.1".to_owned())
}

/// Message between two ranks that shows their bandwidth, bytes.
const LARGE: usize = 1 << 20;
/// A pair is slow if it has less than this share of the median bandwidth, or more than its inverse of the median latency.
const SLOW: f64 = 0.5;
/// Differences in latency below this are nobody's fault, seconds.
const JITTER: f64 = 50e-6;

/// How often every size is measured in turn, an odd number: what else runs on a machine comes and goes by the second, and so slows all
/// sizes alike.
const PASSES: usize = 5;

/// What two ranks do.
struct Pair {
    ranks: (usize, usize),
    latency: f64,
    bandwidth: f64,
    slow: bool,
}

/// `prospect doctor --net`
pub(crate) fn net(args: &NetArgs, as_json: bool, screen: &Screen) -> Result<u8, Failure> {
    let launch = ranks::launched()?;
    let quiet = launch.as_ref().is_some_and(|launch| launch.rank > 0);
    let screen = if quiet { screen.quieted() } else { *screen };
    let world = ranks::join(launch.as_ref(), Device::Auto, args.backend, &screen)?;
    if world.size() == 1 {
        return Err(Failure::usage(
            "--net: expected several ranks, found one process: `prospect launch -n 4 doctor --net`, or mpirun or srun",
        ));
    }
    world.set_timeout(Duration::from_secs_f64(args.timeout));
    let report = Report { world: &world, as_json };
    report.collectives(args, &screen)?;
    if args.collective.is_none() {
        let pairs = pairs(&world, args, &screen)?;
        report.pairs(&pairs)?;
    }
    world.barrier()?;
    Ok(0)
}

/// Prints on rank 0.
struct Report<'a> {
    world: &'a World,
    as_json: bool,
}

impl Report<'_> {
    /// Times of each collective by size, and of the all-reduce a model.
    fn collectives(&self, args: &NetArgs, screen: &Screen) -> Result<(), Failure> {
        let wanted: Vec<Collective> = args.collective.map_or(Collective::ALL.to_vec(), |c| vec![c]);
        let sizes = args.sizes();
        // Whole numbers of floats.
        let middles = sizes.windows(2).map(|pair| (pair[0] + pair[1]) / 8 * 4);
        let between: Vec<usize> = middles.filter(|middle| !sizes.contains(middle)).collect();
        let mut bar = Bar::new(screen, "collectives");
        let parts = wanted.len() as u64 + 1;
        let mut set = |part: usize, share: f64| bar.set(((part as f64 + share) * 1e3) as u64, parts * 1000);
        let jumps = self.jumps(&sizes, args, &mut |share| set(0, share))?;
        let mut reduced = [sizes.clone(), jumps, between.clone()].concat();
        reduced.sort_unstable();
        reduced.dedup();
        // Room for messages is found first, as a run that goes on has it.
        for &bytes in &reduced {
            self.world.time(Collective::AllReduce, bytes, 2)?;
        }
        let mut rows = vec![["collective", "bytes", "median", "bandwidth"].map(str::to_owned).to_vec()];
        let mut model = None;
        for (part, what) in (1..).zip(&wanted) {
            let of_it = match what {
                Collective::Barrier => &[0][..],
                Collective::AllReduce => &reduced[..],
                _ => &sizes[..],
            };
            let seconds = self.in_turn(*what, of_it, args, &mut |share| set(part, share))?;
            let mut times: Vec<(usize, f64)> = of_it.iter().copied().zip(seconds).collect();
            if *what == Collective::AllReduce {
                let floats = |held: bool| {
                    let mine = times.iter().filter(|(bytes, _)| between.contains(bytes) == held);
                    mine.map(|&(bytes, seconds)| (bytes as f64, seconds)).collect::<Vec<(f64, f64)>>()
                };
                model = Some((Line::through(&floats(false)), floats(true)));
                times.retain(|(bytes, _)| sizes.contains(bytes));
            }
            for (bytes, seconds) in times {
                if self.as_json && self.world.leads() {
                    output::json(&json!({"collective": what.name(), "bytes": bytes, "seconds": seconds}))?;
                }
                rows.push(vec![
                    what.name().to_owned(),
                    size(bytes),
                    time(seconds),
                    if bytes == 0 { String::new() } else { speed(bytes as f64 / seconds) },
                ]);
            }
        }
        drop(bar);
        if self.world.leads() && !self.as_json {
            let mut hosts = self.world.hosts().to_vec();
            hosts.dedup();
            output::line(format_args!(
                "{} ranks on {}; the slowest rank's time\n",
                self.world.size(),
                hosts.join(", ")
            ))?;
            table(&[Side::Left, Side::Right, Side::Right, Side::Right], &rows)?;
        }
        model.filter(|_| !between.is_empty()).map_or(Ok(()), |(line, held)| self.model(&line, &held))
    }

    /// More sizes for the all-reduce's model, where its time grows faster than the size: engines send messages beyond a limit in another
    /// way, and caches end.
    fn jumps(&self, sizes: &[usize], args: &NetArgs, set: &mut dyn FnMut(f64)) -> Result<Vec<usize>, Failure> {
        // One size has nothing between it and another.
        if sizes.len() < 2 || args.collective.is_some_and(|only| only != Collective::AllReduce) {
            return Ok(Vec::new());
        }
        let scouted = self.in_turn(Collective::AllReduce, sizes, args, set)?;
        let pairs = sizes.windows(2).zip(scouted.windows(2));
        let jumping = pairs.filter(|(s, t)| t[1] * s[0] as f64 > t[0] * s[1] as f64);
        Ok(jumping.flat_map(|(s, _)| [4, 12, 15].map(|part| (s[0] + (s[1] - s[0]) * part / 16) / 4 * 4)).collect())
    }

    /// Seconds of a collective by size: the median of the passes' medians.
    fn in_turn(
        &self,
        what: Collective,
        sizes: &[usize],
        args: &NetArgs,
        set: &mut dyn FnMut(f64),
    ) -> Result<Vec<f64>, Failure> {
        let mut seconds = vec![Vec::new(); sizes.len()];
        for pass in 0..PASSES {
            for (at, &bytes) in sizes.iter().enumerate() {
                set((pass as f64 + at as f64 / sizes.len() as f64) / PASSES as f64);
                seconds[at].push(self.world.time(what, bytes, args.rounds(bytes))?);
            }
        }
        let median = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[PASSES / 2]
        };
        Ok(seconds.into_iter().map(median).collect())
    }

    /// The all-reduce's model, held against times that it was not made of, `(bytes, seconds)`.
    fn model(&self, line: &Line, held: &[(f64, f64)]) -> Result<(), Failure> {
        if !self.world.leads() {
            return Ok(());
        }
        let held = held.iter().map(|&(bytes, seconds)| (bytes, line.seconds(bytes), seconds));
        if self.as_json {
            let held = held.map(|(bytes, modelled, seconds)| {
                json!({"bytes": bytes, "seconds": seconds, "modelled": modelled, "error": modelled / seconds - 1.0})
            });
            return output::json(&json!({"model": "all_reduce", "between": held.collect::<Vec<_>>()}));
        }
        output::line("\nall_reduce, modelled by these times, and measured halfway between their sizes")?;
        let head = ["bytes", "modelled", "measured", "error"].map(str::to_owned).to_vec();
        let row = |(bytes, modelled, seconds): (f64, f64, f64)| {
            let error = format!("{:+.0} %", 100.0 * (modelled / seconds - 1.0));
            vec![size(bytes as usize), time(modelled), time(seconds), error]
        };
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(held.map(row)).collect();
        table(&[Side::Right; 4], &rows)
    }

    fn pairs(&self, pairs: &[Pair]) -> Result<(), Failure> {
        if !self.world.leads() {
            return Ok(());
        }
        let host = |rank: usize| self.world.hosts()[rank].as_str();
        let slowest = pairs.iter().min_by(|a, b| a.bandwidth.total_cmp(&b.bandwidth)).expect("two ranks at least");
        if self.as_json {
            return pairs.iter().try_for_each(|p| {
                let (a, b) = p.ranks;
                output::json(&json!({"pair": [a, b], "hosts": [host(a), host(b)], "latency_seconds": p.latency,
                    "bytes_per_second": p.bandwidth, "slow": p.slow}))
            });
        }
        output::line("\npairs of ranks, both ways at once")?;
        let head = ["ranks", "latency", "bandwidth", ""].map(str::to_owned).to_vec();
        let row = |p: &Pair| {
            let slow = if p.slow { "slow" } else { "" }.to_owned();
            vec![format!("{} and {}", p.ranks.0, p.ranks.1), time(p.latency), speed(p.bandwidth), slow]
        };
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(pairs.iter().map(row)).collect();
        table(&[Side::Left, Side::Right, Side::Right, Side::Left], &rows)?;
        let named = |p: &Pair| {
            let (a, b) = p.ranks;
            format!("rank {a} on {} and rank {b} on {}", host(a), host(b))
        };
        let slow: Vec<String> = pairs.iter().filter(|p| p.slow).map(named).collect();
        match slow.is_empty() {
            true => output::line(format_args!("no pair is slow beside the others; slowest: {}", named(slowest))),
            false => output::line(format_args!("slow beside the others: {}", slow.join("; "))),
        }
    }
}

impl NetArgs {
    fn sizes(&self) -> Vec<usize> {
        if self.bytes.is_empty() {
            return (10..=26).map(|power| 1 << power).collect();
        }
        self.bytes.iter().copied().collect::<std::collections::BTreeSet<usize>>().into_iter().collect()
    }

    /// Of a pass: as many rounds as move about 64 MB, an odd number.
    fn rounds(&self, bytes: usize) -> usize {
        self.rounds.map_or(((1 << 26) / bytes.max(1)).clamp(3, 101) | 1, |n| n as usize)
    }
}

/// Every pair of ranks, one after the other.
fn pairs(world: &World, args: &NetArgs, screen: &Screen) -> Result<Vec<Pair>, Failure> {
    let all: Vec<(usize, usize)> = (0..world.size()).flat_map(|a| (a + 1..world.size()).map(move |b| (a, b))).collect();
    let mut bar = Bar::new(screen, "pairs");
    let mut pairs = Vec::new();
    for (done, &ranks) in (0u64..).zip(&all) {
        bar.set(done, all.len() as u64);
        let latency = world.time_pair(ranks, 4, args.rounds(LARGE))?;
        let seconds = world.time_pair(ranks, LARGE, args.rounds(LARGE))?;
        pairs.push(Pair { ranks, latency, bandwidth: LARGE as f64 / seconds, slow: false });
    }
    let median = |of: fn(&Pair) -> f64| {
        let mut sorted: Vec<f64> = pairs.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let (latency, bandwidth) = (median(|p| p.latency), median(|p| p.bandwidth));
    for p in &mut pairs {
        p.slow = p.bandwidth < SLOW * bandwidth || p.latency > latency / SLOW + JITTER;
    }
    Ok(pairs)
}

/// Bytes, in powers of two.
fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KB", bytes as f64 / 1024.0),
        _ => format!("{} MB", bytes as f64 / 1_048_576.0),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", 1e6 * s),
        s => format!("{:.2} ms", 1e3 * s),
    }
}

fn speed(bytes_per_second: f64) -> String {
    match bytes_per_second {
        b if b < 1e9 => format!("{:.0} MB/s", b / 1e6),
        b => format!("{:.1} GB/s", b / 1e9),
    }
}
