//! A few steps of training on made-up problems: does this machine train, and how fast?

use crate::init::{self, Shape};
use crate::problems::Problems;
use crate::recipe::{Recipe, Training};
use crate::{Error, tokenizer};
use data::Clock;
use std::path::Path;
use std::time::Instant;
use train::Control;

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Steps taken.
    pub steps: u64,
    /// The whole run with loading, tokenising and saving.
    pub seconds: f64,
    /// The last step's loss.
    pub loss: f64,
}

/// Trains an adapter with KTO on a model of a few thousand parameters; everything is written to `folder`, which is empty.
///
/// # Errors
/// Whatever training fails with.
pub fn trial(folder: &Path) -> Result<Trial, Error> {
    let recipe = Recipe {
        vocabulary: 320,
        shape: Shape { positions: 128, hidden: 32, feed_forward: 64, layers: 2, heads: 2, ..Recipe::default().shape },
        kto: Training { epochs: 1.0, rows: 4, learning_rate: 1e-3 },
        rank: 4,
        ..Recipe::default()
    };
    let problems = Problems::generate(0, 16, 0).train;
    let (base, rows, run) = (folder.join("base"), folder.join("kto.jsonl"), folder.join("run"));
    std::fs::create_dir_all(&base).map_err(|source| Error::Io { path: base.clone(), source })?;
    let texts = problems.iter().flat_map(|problem| [&problem.question[..], &problem.solution[..]]);
    tokenizer::train(&base, texts, recipe.vocabulary, recipe.shape.positions)?;
    let trained = data::Tokenizer::load(&base, Clock::at(0))?;
    let eos_token_id = trained.eos_id().expect("written with one just now");
    init::write(&base, &Shape { vocabulary: trained.vocab_size(), eos_token_id, ..recipe.shape }, 0)?;
    let row = |(i, problem): (usize, &crate::problems::Problem)| {
        format!("{}\n", problem.kto_row(&problem.solution, i.is_multiple_of(2)))
    };
    let text: String = problems.iter().enumerate().map(row).collect();
    weights::write_atomic(&rows, text.as_bytes())?;
    let yaml = recipe.kto_yaml(&base, &rows, &run, 0);
    let loaded = config::load("trial.yaml", &yaml, &[])?;
    let begin = Instant::now();
    let ended = train::run(&loaded, &[], &Control::default(), &mut |_| {})?;
    let loss = ended.values.iter().find(|(name, _)| name == "loss").map_or(f64::NAN, |(_, value)| *value);
    Ok(Trial { steps: ended.step, seconds: begin.elapsed().as_secs_f64(), loss })
}
