//! `runs ls`, `runs show`, `runs diff`, `runs plot`.

use crate::args::{RunsArgs, RunsCommand};
use crate::failure::Failure;
use crate::output::{self, Side, number, table};
use rundir::runs::{self, Details, Differing, Summary};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `prospect runs`
pub(crate) fn runs(args: &RunsArgs) -> Result<u8, Failure> {
    match &args.command {
        RunsCommand::Ls { dir, json } => ls(dir, *json)?,
        RunsCommand::Show { run, json } => show(run, *json)?,
        RunsCommand::Diff { left, right, json } => diff(left, right, *json)?,
        RunsCommand::Plot { runs, metrics, output } => plot(runs, metrics, output)?,
    }
    Ok(0)
}

fn ls(dir: &Path, json: bool) -> Result<(), Failure> {
    let found = runs::list(dir)?;
    if json {
        return found.iter().try_for_each(|run| output::json(&json!(run)));
    }
    let header = ["run", "state", "step", "trainer", "model", "loss", "eval_loss", "started"].map(str::to_owned);
    let rows: Vec<Vec<String>> = std::iter::once(header.to_vec()).chain(found.iter().map(row)).collect();
    use Side::{Left, Right};
    table(&[Left, Left, Right, Left, Left, Right, Right, Left], &rows)
}

fn row(run: &Summary) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let metric = |name: &str| run.metrics.get(name).and_then(Value::as_f64).map_or("-".to_owned(), number);
    vec![
        run.path.display().to_string(),
        state(run),
        format!("{}/{}", run.status.step, run.status.total_steps),
        text(&run.trainer),
        text(&run.model),
        metric("loss"),
        metric("eval_loss"),
        run.status.started.clone(),
    ]
}

fn state(run: &Summary) -> String {
    json!(run.state).as_str().unwrap_or_default().to_owned()
}

fn show(path: &Path, json: bool) -> Result<(), Failure> {
    let details = runs::show(path)?;
    if json {
        return output::json(&json!(details));
    }
    let Details { summary, config, checkpoints, has_final, plots } = &details;
    let status = &summary.status;
    let steps = checkpoints.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("run", summary.path.display().to_string()),
        ("state", state(summary)),
        ("step", format!("{} of {}", status.step, status.total_steps)),
        ("started", status.started.clone()),
        ("resumed", status.resumed.join(", ")),
        ("ended", status.ended.clone().unwrap_or_default()),
        ("exit code", status.exit_code.map_or(String::new(), |code| code.to_string())),
        ("error", status.error.clone().unwrap_or_default()),
        ("version", status.version.clone()),
        ("checkpoints", steps),
        ("final", if *has_final { "final/".to_owned() } else { String::new() }),
        ("plots", plots.join(", ")),
    ];
    facts.retain(|(_, fact)| !fact.is_empty());
    let columns = [Side::Left, Side::Left];
    table(&columns, &facts.into_iter().map(|(name, fact)| vec![name.to_owned(), fact]).collect::<Vec<_>>())?;
    output::line("\nlast values")?;
    let metric = |(name, value): (&String, &Value)| {
        vec![format!("  {name}"), value.as_f64().map_or_else(|| value.to_string(), number)]
    };
    table(&[Side::Left, Side::Right], &summary.metrics.iter().map(metric).collect::<Vec<_>>())?;
    output::line("\nconfiguration")?;
    table(&columns, &config.iter().map(|(key, value)| vec![format!("  {key}"), value.clone()]).collect::<Vec<_>>())
}

fn diff(left: &Path, right: &Path, json: bool) -> Result<(), Failure> {
    let diff = runs::diff(left, right)?;
    if json {
        return output::json(&json!(diff));
    }
    let columns = [Side::Left, Side::Right, Side::Right];
    let header = |name: &str| vec![name.to_owned(), left.display().to_string(), right.display().to_string()];
    let mut rows = vec![header("setting")];
    rows.extend(diff.config.iter().map(|entry| differing(entry, Clone::clone)));
    table(&columns, &rows)?;
    output::line("")?;
    let mut rows = vec![header("last value")];
    rows.extend(diff.metrics.iter().map(|entry| differing(entry, |value| number(*value))));
    table(&columns, &rows)
}

fn plot(runs: &[PathBuf], metrics: &[String], output: &Path) -> Result<(), Failure> {
    let panels = runs::compare(runs, metrics)?;
    let files = rundir::plot::write(&panels, output)?;
    files.iter().try_for_each(|file| output::line(file.display().to_string()))
}

fn differing<T>(entry: &Differing<T>, show: impl Fn(&T) -> String) -> Vec<String> {
    let side = |value: &Option<T>| value.as_ref().map_or_else(|| "-".to_owned(), &show);
    vec![entry.key.clone(), side(&entry.left), side(&entry.right)]
}
