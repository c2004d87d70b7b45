//! `merge`: an adapter into its base model.

use crate::args::MergeArgs;
use crate::failure::Failure;
use crate::output;
use crate::score::threads;
use crate::screen::Screen;
use serde_json::json;
use train::Merged;

/// `prospect merge`
pub(crate) fn merge(args: &MergeArgs, screen: &Screen) -> Result<u8, Failure> {
    let merged = train::merge(&args.model, &args.adapter, &args.output, args.dtype, threads())?;
    merged.notes.iter().for_each(|note| screen.note(note));
    let Merged { report, difference, effect, largest, notes } = &merged;
    let changed = report.modules.iter().filter(|module| module.changed > 0).count();
    if args.json {
        output::json(&json!({
            "output": report.dir,
            "modules": report.modules.len(),
            "changed": changed,
            "bytes": report.bytes,
            "largest_logit_difference": difference,
            "largest_logit_change": effect,
            "notes": notes,
        }))?;
    }
    screen.line(format_args!(
        "merged {} modules ({changed} changed) into {}, {:.1} MB",
        report.modules.len(),
        report.dir.display(),
        report.bytes as f64 / 1e6
    ));
    screen.line(format_args!(
        "read back: logits differ from base with adapter by at most {difference:.3e} (largest logit {largest:.3}; the adapter \
         moves them by up to {effect:.3e})"
    ));
    Ok(0)
}
