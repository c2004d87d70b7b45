//! `score`: log-probabilities of completions under a model.

use crate::args::ScoreArgs;
use crate::failure::Failure;
use crate::output;
use crate::progress::Bar;
use crate::screen::Screen;
use infer::ModelFolder;
use serde_json::json;
use train::ScoreRow;

/// Threads to compute with.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `prospect score`
pub(crate) fn score(args: &ScoreArgs, screen: &Screen) -> Result<u8, Failure> {
    let folder = ModelFolder::open(&args.model, args.adapter.as_deref())?;
    let rows = train::rows_to_score(&data::source::resolve(&args.data, "train")?, &folder)?;
    let positions = rows.iter().map(ScoreRow::num_tokens).max().unwrap_or(0).max(1);
    let model = folder.place(positions, &args.device.device())?;
    model.notes().iter().for_each(|note| screen.note(note));
    let mut bar = Bar::new(screen, "scoring");
    let (mut done, mut logp, mut tokens) = (0, 0.0, 0);
    if !args.json {
        output::line(format_args!("{:>8}  {:>14}  {:>10}  {:>10}", "index", "logp", "num_tokens", "per token"))?;
    }
    train::score(&model, &rows, |row, logps| {
        (done, logp, tokens) = (done + 1, logp + sum(logps), tokens + logps.len());
        bar.set(done, rows.len() as u64);
        if args.json { as_json(row, logps, args.tokens) } else { as_line(row, logps, &folder, args.tokens) }
    })?;
    if !args.json {
        let per_token = logp / tokens as f64;
        output::line(format_args!(
            "\n{done} rows, {tokens} tokens: logp {:.6} per row, {per_token:.6} per token, perplexity {:.4}",
            logp / done as f64,
            (-per_token).exp()
        ))?;
    }
    Ok(0)
}

fn sum(logps: &[f32]) -> f64 {
    logps.iter().map(|&logp| f64::from(logp)).sum()
}

fn as_json(row: &ScoreRow, logps: &[f32], tokens: bool) -> Result<(), Failure> {
    let mut object = json!({"index": row.index, "logp": sum(logps), "num_tokens": logps.len()});
    if tokens {
        object["token_logps"] = json!(logps);
    }
    output::json(&object)
}

fn as_line(row: &ScoreRow, logps: &[f32], folder: &ModelFolder, tokens: bool) -> Result<(), Failure> {
    let (logp, n) = (sum(logps), logps.len());
    output::line(format_args!("{:>8}  {logp:>14.6}  {n:>10}  {:>10.6}", row.index, logp / n as f64))?;
    for (&token, logp) in row.scored().iter().zip(logps).filter(|_| tokens) {
        let text = folder.tokenizer.decode(&[token], false)?;
        output::line(format_args!("{:>8}  {logp:>14.6}  {token:>10}  {text:?}", ""))?;
    }
    Ok(())
}
