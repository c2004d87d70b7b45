//! `quantize`: a model with its linear layers in codes of four or eight bits.

use crate::failure::Failure;
use crate::output;
use crate::progress::Bar;
use crate::screen::Screen;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use train::QuantiseRequest;
use weights::QuantiseReport;

/// `prospect quantize`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect quantize models/base --to nf4 --double-quant --output models/base-bnb-4bit
  prospect quantize models/base --to int8 --output models/base-8bit --skip model.layers.0

The layout is bitsandbytes', which transformers loads. Embedding, head, routers, norms and experts stacked in one tensor stay as
they are. The folder is read back and compared with the model before it is called done.")]
pub(crate) struct QuantizeArgs {
    /// The model folder.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// nf4 or fp4 (four bits, blocks of 64), or int8 (a scale per row).
    #[arg(long, value_name = "CODE", default_value = "nf4", value_parser = code)]
    to: weights::Code,
    /// Quantise the scales of four-bit codes too: 4.13 bits a weight, not 4.5.
    #[arg(long)]
    double_quant: bool,
    /// Layers, or parts of the model, that stay as they are; may be given several times.
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// The folder to write, new or empty.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

fn code(name: &str) -> Result<weights::Code, String> {
    weights::Code::of(name).ok_or_else(|| "expected nf4, fp4 or int8".to_owned())
}

/// `prospect quantize`
pub(crate) fn quantize(args: &QuantizeArgs, screen: &Screen) -> Result<u8, Failure> {
    let mut bar = Bar::new(screen, "quantise");
    let scheme = weights::Scheme { code: args.to, nested: args.double_quant };
    let request = QuantiseRequest { model: &args.model, output: &args.output, scheme, skip: &args.skip };
    let made =
        train::quantise(&request, crate::score::threads(), &mut |done, total| bar.set(done as u64, total as u64))?;
    drop(bar);
    let QuantiseReport { dir, quantised, elements, kept, bytes_before, bytes, .. } = &made.report;
    if args.json {
        output::json(&json!({
            "output": dir,
            "quantised": quantised,
            "elements": elements,
            "kept": kept,
            "bytes_before": bytes_before,
            "bytes": bytes,
            "relative_logit_difference": made.relative,
            "same_token": made.same_token,
        }))?;
    }
    screen.line(format_args!(
        "{quantised} weights ({:.1} M numbers) as {} and {kept} tensors as they were into {}: {:.1} MB, before {:.1} MB",
        *elements as f64 / 1e6,
        args.to.name(),
        dir.display(),
        *bytes as f64 / 1e6,
        *bytes_before as f64 / 1e6
    ));
    screen.line(format_args!(
        "read back: logits differ from the model's by {:.1} % of their size; {:.0} % of most likely tokens are the same",
        100.0 * made.relative,
        100.0 * made.same_token
    ));
    Ok(0)
}
