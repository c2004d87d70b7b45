//! A run in stages: each a run of its own in `stage-N`, begun with what the one before it ended with; the last one's result is
//! the whole run's.

use crate::run::begin::take_folder;
use crate::run::end::{keep_request, recorded};
use crate::run::{agree, opening_of, run_one};
use crate::{Control, Ended, Error, Event};
use config::{Loaded, Resume};
use dist::World;
use rundir::status::Status;
use rundir::{Opening, RunFolder};
use serde_json::json;
use std::path::Path;

/// Runs the stages that are not done yet, in order. A stage that was stopped or killed goes on from its own checkpoint.
pub(crate) fn run(
    world: &World,
    loaded: &Loaded,
    inputs: &[&Path],
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    let config = &loaded.config;
    let opening = opening_of(config);
    let folder = agree::open(world, &config.saving.output_dir, opening)?;
    if opening != Opening::Resume {
        keep_request(&folder, loaded, inputs)?;
    }
    recorded(world, &folder, |step| {
        if take_folder(world, loaded, &folder, control, observe)? {
            return in_folder(world, loaded, &folder, control, step, observe);
        }
        Ok(Ended { step: 0, stopped: true, values: Vec::new(), folder: folder.path().to_owned(), begun: false })
    })
}

/// `step` counts the steps of all stages.
fn in_folder(
    world: &World,
    loaded: &Loaded,
    folder: &RunFolder,
    control: &Control,
    step: &mut u64,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    let count = loaded.stages.len();
    let mut last = None;
    for (n, stage) in (1..).zip(&loaded.stages) {
        let dir = &stage.config.saving.output_dir;
        let status = Status::read(dir).ok();
        let done = status.as_ref().filter(|s| s.exit_code == Some(0) && dir.join("final").is_dir());
        if let Some(done) = done {
            *step += done.step;
            observe(Event::Note(format!("stage {n} of {count} is done: {}", dir.display())));
            continue;
        }
        observe(Event::Note(format!("stage {n} of {count}: {}", dir.display())));
        let mut stage = stage.clone();
        stage.config.saving.overwrite = false;
        stage.config.saving.resume = if status.is_some() { Resume::Newest } else { Resume::No };
        let ended = run_one(world, &stage, &[], control, observe)?;
        *step += ended.step;
        folder.set_total_steps(*step)?;
        if ended.stopped {
            return Ok(Ended { step: *step, folder: folder.path().to_owned(), ..ended });
        }
        last = Some(ended);
    }
    if world.leads() {
        link_last(loaded, folder, *step)?;
    }
    let values = last.map_or_else(Vec::new, |ended| ended.values);
    Ok(Ended { step: *step, stopped: false, values, folder: folder.path().to_owned(), begun: true })
}

/// The last stage's result as the whole run's.
fn link_last(loaded: &Loaded, folder: &RunFolder, step: u64) -> Result<(), Error> {
    let count = loaded.stages.len();
    let end = loaded.stages[count - 1].config.saving.output_dir.join("final");
    let staging = folder.begin_final(step)?;
    link(&end, staging.path())?;
    staging.commit(json!({"step": step, "stage": count}))?;
    folder.set_total_steps(step)?;
    Ok(())
}

/// The files of a folder in another one: the same files where the disk can, copies where it cannot. The manifest is written anew.
fn link(from: &Path, to: &Path) -> Result<(), Error> {
    let io = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    };
    for entry in std::fs::read_dir(from).map_err(io("list", from))? {
        let path = entry.map_err(io("list", from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            std::fs::create_dir(&target).map_err(io("create", &target))?;
            link(&path, &target)?;
        } else if path.file_name().is_some_and(|name| name != rundir::checkpoint::MANIFEST) {
            let linked = std::fs::hard_link(&path, &target);
            linked.or_else(|_| std::fs::copy(&path, &target).map(|_| ())).map_err(io("write", &target))?;
        }
    }
    Ok(())
}
