//! New special tokens, and an embedding with a row for every token.

use crate::Error;
use crate::prepare::RunTokenizer;
use config::{Config, Tuning};
use data::NewToken;
use model::Blueprint;

/// Modules whose rows are tokens, as an adapter names those that it trains in full.
const BOTH: [&str; 2] = ["embed_tokens", "lm_head"];

/// Fits embedding and head to a tokenizer that gets new tokens, or has more than the model, where the run asks for it. Returns the
/// tokens that the tokenizer did not have.
///
/// An adapter trains both in full then, as the new rows are its own and have to be learned.
///
/// # Errors
/// A tokenizer that cannot be read; a run that would not train the new rows.
pub(crate) fn fit(
    config: &mut Config,
    blueprint: &mut Blueprint,
    tokenizer: &mut RunTokenizer,
    notes: &mut Vec<String>,
) -> Result<Vec<NewToken>, Error> {
    if config.model.new_tokens.is_empty() && !config.model.resize_vocab {
        return Ok(Vec::new());
    }
    let loaded = tokenizer.files.load()?;
    let (added, before) = (loaded.added().to_vec(), blueprint.vocab);
    blueprint.grow(loaded.vocab_size());
    tokenizer.keep(loaded, blueprint.vocab);
    let rows = blueprint.vocab - before;
    if added.is_empty() && rows == 0 {
        return Ok(added);
    }
    match &mut config.tuning {
        Tuning::Full => {}
        Tuning::Lora(lora) => {
            let missing = BOTH.iter().filter(|name| !lora.modules_to_save.iter().any(|saved| saved.ends_with(*name)));
            let missing: Vec<String> = missing.map(|name| (*name).to_owned()).collect();
            lora.modules_to_save.extend(missing);
        }
        Tuning::Blocks(_) | Tuning::Adapter { .. } => {
            let what = "new_special_tokens, resize_vocab: new rows of embedding and head have to be trained, which freeze_trainable_layers and an \
                        adapter that exists do not do; train all weights, or a new adapter (use_peft)";
            return Err(Error::Mismatch { what: what.to_owned() });
        }
    }
    if let [first, .., last] = &added[..] {
        notes.push(format!("{} new special tokens, ids {} to {}", added.len(), first.id, last.id));
    }
    notes.push(match rows {
        0 => format!("the new tokens take rows that the embedding has ({before}); embedding and head are trained"),
        _ => format!(
            "embedding and head grow from {before} to {} rows, the new ones begun as the mean of the others; both are trained",
            blueprint.vocab
        ),
    });
    Ok(added)
}
