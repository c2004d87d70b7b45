//! `plan --nodes`: what a run spread over many ranks would take, by arithmetic on stated assumptions.

use crate::args::PlanArgs;
use crate::failure::Failure;
use crate::output::{self, Side, table};
use config::{Loaded, Objective, Recompute};
use dist::estimate::{Cluster, DEVICES, Device, REACHED, Stage, Workload, stages};
use serde_json::json;
use train::policy::AdapterPlan;

/// Rows are taken to be this long where the configuration does not say, tokens.
const LENGTH: usize = 2048;

/// `prospect plan --nodes`
pub(crate) fn plan(args: &PlanArgs, nodes: u32, loaded: &Loaded) -> Result<u8, Failure> {
    let device = device(args.device.as_deref().unwrap_or("h100"))?;
    let network = match &args.network {
        Some(text) => speed(text)?,
        None if nodes == 1 => device.link,
        None => return Err(Failure::usage("--nodes: give the speed between machines too, as in --network 12.5GB/s")),
    };
    let cluster = Cluster { nodes: f64::from(nodes), per_node: f64::from(args.gpus), network };
    let work = workload(loaded)?;
    let found = stages(&work, device, &cluster);
    if args.json {
        output::json(&as_json(&work, device, &cluster, &found))?;
        return Ok(0);
    }
    let (batch, ranks) = (&loaded.config.batch, cluster.ranks());
    let rows = batch.step_rows.map_or(batch.train_rows as f64 * work.accumulation * ranks, |n| n as f64);
    output::line("modelled, not measured")?;
    output::line(format_args!(
        "  {} ranks, {} x {} {}, each with {} GB and {:.0} % of {:.0} TFLOP/s; {:.1} GB/s between machines, {:.0} GB/s within",
        ranks,
        nodes,
        args.gpus,
        device.name,
        device.memory / 1e9,
        100.0 * REACHED,
        device.peak / 1e12,
        network / 1e9,
        device.link / 1e9
    ))?;
    output::line(format_args!(
        "  {:.3} B parameters, {:.3} B of them met by a token, {:.3} B trained; {rows} rows of {} tokens a step, {:.1} M tokens; {:.1} forward passes of work per token",
        work.parameters / 1e9,
        work.active / 1e9,
        work.trained / 1e9,
        work.length,
        rows * work.length / 1e6,
        work.passes
    ))?;
    output::line(
        "  weights and gradients in 2 bytes, optimiser in 12 per parameter; block inputs kept, blocks recomputed; the head in tiles",
    )?;
    output::line("")?;
    table(
        &[
            Side::Left,
            Side::Right,
            Side::Right,
            Side::Right,
            Side::Left,
            Side::Right,
            Side::Right,
            Side::Right,
            Side::Right,
            Side::Right,
            Side::Right,
        ],
        &lines(device, &found),
    )?;
    Ok(0)
}

fn lines(device: &Device, found: &[Stage]) -> Vec<Vec<String>> {
    let head = [
        "stage",
        "state",
        "activations",
        "rank",
        "fits",
        "sent",
        "between",
        "compute",
        "wire",
        "not hidden",
        "efficiency",
    ];
    let gigabytes = |bytes: f64| format!("{:.1} GB", bytes / 1e9);
    let row = |s: &Stage| {
        vec![
            s.stage.to_string(),
            gigabytes(s.state),
            gigabytes(s.activations),
            gigabytes(s.memory()),
            if s.memory() < device.memory { "yes" } else { "no" }.to_owned(),
            gigabytes(s.wire),
            gigabytes(s.between),
            format!("{:.2} s", s.compute),
            format!("{:.2} s", s.network),
            format!("{:.2} s", s.exposed),
            format!("{:.0} %", 100.0 * s.efficiency()),
        ]
    };
    std::iter::once(head.map(str::to_owned).to_vec()).chain(found.iter().map(row)).collect()
}

/// What the configuration and the model's `config.json` say; no weights or rows are read.
fn workload(loaded: &Loaded) -> Result<Workload, Failure> {
    let config = &loaded.config;
    let read = weights::read_config(&config.model.path).map_err(train::Error::from)?;
    let blueprint = model::arch::blueprint(&read).map_err(train::Error::from)?;
    let parameters = blueprint.num_parameters() as f64;
    let trained = AdapterPlan::new(&config.tuning, &blueprint)?.map_or(parameters, |plan| {
        let modules = &plan.adapters.modules;
        let all = (0..blueprint.layers.len()).flat_map(|i| blueprint.projections(i));
        let sizes = all.filter_map(|p| modules.get(&p.path).map(|on| on.rank * (p.inputs + p.outputs)));
        sizes.sum::<usize>() as f64
    });
    let whole = trained == parameters;
    let idle = (0..blueprint.layers.len()).filter_map(|i| {
        let chosen = blueprint.experts_of(i)?.route.chosen;
        Some(blueprint.expert_projections(i)[chosen..].iter().flatten().map(|p| p.num_parameters()).sum::<usize>())
    });
    let active = parameters - idle.sum::<usize>() as f64;
    let length = config.data.max_length.unwrap_or(LENGTH.min(blueprint.max_positions));
    // Prompt and completion are taken to be of one length; a mismatched completion is a tail behind the same prompt.
    let passes = match (&config.objective, whole) {
        (Objective::Sft(_), true) => 3.0,
        (Objective::Sft(_), false) => 2.0,
        (Objective::Kto(_), true) => 3.5,
        (Objective::Kto(_), false) => 4.0,
    };
    let recomputed = if config.engine.recompute == Recompute::Never { 0.0 } else { 1.0 };
    Ok(Workload {
        parameters,
        active,
        trained,
        layers: blueprint.layers.len() as f64,
        hidden: blueprint.hidden as f64,
        tokens: (config.batch.train_rows * length) as f64,
        length: length as f64,
        accumulation: config.batch.accumulation as f64,
        passes: passes + recomputed,
    })
}

pub(crate) fn device(name: &str) -> Result<&'static Device, Failure> {
    DEVICES.iter().find(|d| d.name == name).ok_or_else(|| {
        let known: Vec<&str> = DEVICES.iter().map(|d| d.name).collect();
        Failure::usage(format!("--device {name}: expected one of {}", known.join(", ")))
    })
}

/// Bytes per second, as in `12.5GB/s`.
fn speed(text: &str) -> Result<f64, Failure> {
    let wrong = || Failure::usage(format!("--network {text}: expected a speed such as 12.5GB/s"));
    let bare = text.strip_suffix("/s").unwrap_or(text).trim();
    let digits = bare.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match bare[digits.len()..].to_ascii_uppercase().as_str() {
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    if number > 0.0 && number.is_finite() { Ok(number * unit) } else { Err(wrong()) }
}

fn as_json(work: &Workload, device: &Device, cluster: &Cluster, found: &[Stage]) -> serde_json::Value {
    let stages: Vec<_> = found
        .iter()
        .map(|s| {
            json!({
                "stage": s.stage,
                "state_bytes": s.state,
                "activation_bytes": s.activations,
                "memory_bytes": s.memory(),
                "fits": s.memory() < device.memory,
                "sent_bytes": s.wire,
                "between_machines_bytes": s.between,
                "compute_seconds": s.compute,
                "network_seconds": s.network,
                "exposed_seconds": s.exposed,
                "efficiency": s.efficiency(),
            })
        })
        .collect();
    json!({
        "modelled": true,
        "device": device.name,
        "ranks": cluster.ranks(),
        "nodes": cluster.nodes,
        "network_bytes_per_second": cluster.network,
        "parameters": work.parameters,
        "active": work.active,
        "trained": work.trained,
        "tokens_per_rank": work.tokens,
        "passes": work.passes,
        "stages": stages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_numbers_with_a_unit() {
        assert_eq!(speed("12.5GB/s").unwrap(), 12.5e9);
        assert_eq!(speed("100 MB").unwrap(), 1e8);
        for wrong in ["12.5", "GB/s", "-1GB/s", "12.5Gbit/s", "0GB/s"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }
}
