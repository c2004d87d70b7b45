//! What ranks settle before the first step: who holds the folder, what a resumed run takes over, the plan, the checkpoint.

use super::save;
use crate::step::Execution;
use crate::{Error, Job, Plan, Team};
use config::Config;
use data::Clock;
use dist::World;
use model::Keep;
use rundir::lock::Lock;
use rundir::{Checkpoint, Opening, RunFolder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What a resumed run takes over from the one before: it decides bits.
pub(super) struct Kept {
    /// Whether there is something to go on from.
    pub(super) resume: bool,
    /// Of this process.
    pub(super) threads: usize,
    /// When the run began, seconds since 1970.
    pub(super) clock: i64,
    execution: Option<Execution>,
    /// What micro-batches per step are multiplied by: the ranks that the run began with.
    pub(super) replicas: usize,
    /// Gradients are summed in a fixed tree over packs.
    pub(super) elastic: bool,
}

/// Whether any rank says so.
pub(super) fn any(world: &World, own: bool) -> Result<bool, Error> {
    if world.size() == 1 {
        return Ok(own);
    }
    let all = world.gather_numbers(&[f64::from(u8::from(own))])?;
    Ok(all.iter().any(|said| said[0] != 0.0))
}

/// Opens the run folder on rank 0; the others follow once it is open.
pub(crate) fn open(world: &World, root: &Path, opening: Opening) -> Result<RunFolder, Error> {
    let folder = if world.leads() { RunFolder::open(root, opening)? } else { RunFolder::follow(root) };
    world.barrier()?;
    Ok(folder)
}

/// Whether the folder still holds the earlier run that this one was to replace; rank 0 knows.
pub(crate) fn waits(world: &World, folder: &RunFolder) -> Result<bool, Error> {
    any(world, folder.waits())
}

/// What rank 0 finds in the run's lock, and what it decides where there is none.
pub(super) fn kept(
    world: &World,
    config: &Config,
    folder: &RunFolder,
    resume: bool,
) -> Result<(Kept, Option<Lock>), Error> {
    // The lock is written last: a run killed before it has begun nothing.
    let resume = world.leads() && resume && folder.path().join(rundir::lock::FILE).exists();
    let lock = if resume { Some(Lock::read(folder.path())?) } else { None };
    let engine = &config.engine;
    let elastic = engine.is_elastic(world.size());
    // A run of one process that others then join was no sum over packs, and stays none.
    let replicas = if config.batch.step_rows.is_some() { 1 } else { world.size() };
    let fresh = json!({"started": Clock::now().unix_seconds(), "replicas": replicas, "elastic": elastic});
    let plan = lock.as_ref().map_or(&fresh, |l| &l.plan);
    let threads = lock.as_ref().map(|l| l.threads);
    let said = world.broadcast(json!({"resume": resume, "plan": plan, "threads": threads}).to_string().as_bytes())?;
    let said: Value = serde_json::from_slice(&said).map_err(|e| Error::Mismatch { what: e.to_string() })?;
    let number = |key: &str| said["plan"][key].as_i64();
    let flag = |key: &str| said["plan"][key].as_bool().unwrap_or(false);
    let execution = number("budget_rows").map(|rows| Execution {
        budget_rows: rows as usize,
        keep: keep_of(&said["plan"]),
        z0_first: flag("z0_first"),
        share_prompts: true,
        kept_logits: number("kept_logits").unwrap_or(0) as usize,
        offload: flag("offload"),
    });
    let kept = Kept {
        resume: said["resume"] == json!(true),
        threads: threads_of(world, config, said["threads"].as_u64()),
        clock: number("started").unwrap_or_else(|| Clock::now().unix_seconds()),
        execution,
        replicas: number("replicas").map_or(1, |n| n.max(1) as usize),
        elastic: flag("elastic"),
    };
    Ok((kept, lock))
}

/// The threads of this process: as configured, as before, or its part of the machine's processors.
fn threads_of(world: &World, config: &Config, before: Option<u64>) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let here = &world.hosts()[world.rank()];
    let neighbours = world.hosts().iter().filter(|h| *h == here).count();
    match before {
        Some(n) if world.size() == 1 => n as usize,
        _ => config.engine.threads.unwrap_or((all / neighbours).max(1)),
    }
}

/// The plan that rank 0 made, or that the run began with.
pub(super) fn plan(world: &World, job: &Job, kept: &Kept) -> Result<Plan, Error> {
    let team = Team::elastic(job, world.size(), kept.elastic);
    let own = match kept.execution {
        Some(execution) => Some(Plan::given(job, execution, team)),
        None if world.leads() => Some(Plan::over(job, team)?),
        None => None,
    };
    let said = own.as_ref().map_or(Value::Null, |p| execution_json(p.execution));
    let said = world.broadcast(said.to_string().as_bytes())?;
    let said: Value = serde_json::from_slice(&said).map_err(|e| Error::Mismatch { what: e.to_string() })?;
    Ok(own.unwrap_or_else(|| {
        let execution = Execution {
            budget_rows: said["budget_rows"].as_u64().unwrap_or(1) as usize,
            keep: keep_of(&said),
            z0_first: said["z0_first"] == json!(true),
            share_prompts: true,
            kept_logits: said["kept_logits"].as_u64().unwrap_or(0) as usize,
            offload: said["offload"] == json!(true),
        };
        Plan::given(job, execution, team)
    }))
}

fn execution_json(e: Execution) -> Value {
    let mut said = json!({"budget_rows": e.budget_rows, "recompute": e.keep != Keep::All, "z0_first": e.z0_first,
        "kept_logits": e.kept_logits});
    if let Keep::Mixed { whole, lean } = e.keep {
        (said["whole"], said["lean"]) = (json!(whole), json!(lean));
    }
    if e.offload {
        said["offload"] = json!(true);
    }
    said
}

fn keep_of(said: &Value) -> Keep {
    let blocks = |key: &str| said[key].as_u64().unwrap_or(0) as usize;
    match (said["recompute"].as_bool().unwrap_or(false), blocks("whole"), blocks("lean")) {
        (false, ..) => Keep::All,
        (true, 0, 0) => Keep::Inputs,
        (true, whole, lean) => Keep::Mixed { whole, lean },
    }
}

/// The lock of a run as it is now.
pub(super) fn lock_of(job: &Job, plan: &Plan, kept: &Kept) -> Result<Lock, Error> {
    let mut said = json!({"started": kept.clock});
    let parts = said.as_object_mut().expect("an object");
    parts.extend(execution_json(plan.execution).as_object().cloned().unwrap_or_default());
    if kept.replicas > 1 || kept.elastic {
        parts.extend([("replicas".to_owned(), json!(kept.replicas)), ("elastic".to_owned(), json!(kept.elastic))]);
    }
    let (model, data) = (job.model_files(), job.data_files());
    let model: Vec<&Path> = model.iter().map(PathBuf::as_path).collect();
    let data: Vec<&Path> = data.iter().map(PathBuf::as_path).collect();
    Ok(Lock::new(&model, &data, kept.threads, said)?)
}

/// The checkpoint that rank 0 found and verified.
pub(super) fn checkpoint(
    world: &World,
    job: &Job,
    folder: &RunFolder,
    resume: bool,
) -> Result<(Option<Checkpoint>, Vec<String>), Error> {
    let (found, notes) = if resume && world.leads() { save::newest(job, folder)? } else { (None, Vec::new()) };
    let said = found.as_ref().map_or(Value::Null, |c| json!({"path": c.path, "manifest": c.manifest}));
    let said = world.broadcast(said.to_string().as_bytes())?;
    if world.leads() {
        return Ok((found, notes));
    }
    let broken = |e: serde_json::Error| Error::Mismatch { what: e.to_string() };
    let mut said: Value = serde_json::from_slice(&said).map_err(broken)?;
    if said.is_null() {
        return Ok((None, notes));
    }
    let manifest = serde_json::from_value(said["manifest"].take()).map_err(broken)?;
    let path = serde_json::from_value(said["path"].take()).map_err(broken)?;
    Ok((Some(Checkpoint { path, manifest }), notes))
}
