//! A model that is asked, not trained: loading it with its adapter, and log-probabilities of rows under it.

use crate::policy::AdapterPlan;
use crate::{Error, Job, Plan};
use data::{Body, Clock, Example, Options, RenderInput, Task, Tokenizer};
use kernels::{Cpu, Mat};
use model::{Blueprint, Built, Decoder, Keep, Parts, Tuning};
use nn::{Context, Params, Table};
use pack::{Answer, families_of_rows, plan_packs};
use std::path::{Path, PathBuf};
use weights::Checkpoint;

/// Rows of one pack, as in training.
const PACK_ROWS: usize = 2048;
/// Tokens that are scored between two reports.
const CHUNK_TOKENS: usize = 8192;

/// A model folder, its tokenizer, and an adapter for it: read and checked, the weights not yet in place.
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its tensors, mapped.
    pub checkpoint: Checkpoint,
    /// Its shapes.
    pub blueprint: Blueprint,
    /// Its tokenizer and chat template.
    pub tokenizer: Tokenizer,
    /// The adapter, when one was given.
    pub adapter: Option<AdapterPlan>,
}

impl ModelFolder {
    /// Opens a folder in the Hugging Face layout, and an adapter in PEFT's.
    ///
    /// Errors: files that are missing, damaged or unsupported, and what does not fit together.
    pub fn open(path: &Path, adapter: Option<&Path>) -> Result<ModelFolder, Error> {
        let checkpoint = Checkpoint::open(path)?;
        let blueprint = model::arch::blueprint(&weights::read_config(path)?)?;
        let tokenizer = Tokenizer::load(path, Clock::now())?;
        if tokenizer.vocab_size() > blueprint.vocab {
            let what = format!(
                "{}: the tokenizer has {} tokens, the model's embedding {} rows (vocab_size); use the tokenizer that belongs to the model",
                path.display(),
                tokenizer.vocab_size(),
                blueprint.vocab
            );
            return Err(Error::Mismatch { what });
        }
        let adapter = match adapter {
            None => None,
            Some(path) => {
                let tuning = config::Tuning::Adapter { path: path.to_owned(), claims: Default::default() };
                AdapterPlan::new(&tuning, &blueprint)?
            }
        };
        Ok(ModelFolder { path: path.to_owned(), checkpoint, blueprint, tokenizer, adapter })
    }

    /// Places the weights for sequences of at most `positions` tokens; work will be done on `threads` threads.
    ///
    /// Errors: tensors that are missing or have another shape or type, an adapter that does not fit.
    pub fn load(&self, positions: usize, threads: usize) -> Result<Inference, Error> {
        let backend = Cpu::new(threads);
        let tuning = self.adapter.as_ref().map_or(Tuning::Frozen, |a| Tuning::Lora(&a.adapters));
        let Built { decoder, table, mut values, notes } =
            Built::new(&backend, &self.checkpoint, self.blueprint.clone(), tuning, positions)?;
        if let Some(adapter) = &self.adapter {
            adapter.initialise(&backend, &table, &mut values, 0)?;
        }
        Ok(Inference { backend, decoder, table, values, notes })
    }
}

/// A model in memory, its adapter beside it.
pub struct Inference {
    backend: Cpu<f32>,
    /// The model.
    pub decoder: Decoder<Cpu<f32>>,
    table: Table,
    values: Mat<Cpu<f32>, f32>,
    /// Things worth saying to the user.
    pub notes: Vec<String>,
}

impl Inference {
    /// What a forward pass is given; `adapters` false asks the base model.
    pub fn context(&self, adapters: bool) -> Context<'_, Cpu<f32>> {
        let params = Params { table: &self.table, values: &self.values };
        Context { backend: &self.backend, params, adapters, dropout: None }
    }
}

/// A row to be scored, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreRow {
    /// Its number among the rows read, from 0.
    pub index: u32,
    /// What is given.
    pub prompt: Vec<u32>,
    /// What is scored; without a prompt, from its second token on.
    pub completion: Vec<u32>,
}

impl ScoreRow {
    /// The tokens that are scored.
    pub fn scored(&self) -> &[u32] {
        &self.completion[usize::from(self.prompt.is_empty()).min(self.completion.len())..]
    }

    /// Tokens in all.
    pub fn num_tokens(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }
}

/// Reads rows as they are scored.
///
/// `prompt` + `completion`: the completion, ended by the end-of-sequence token as in training. `messages`: the last turn if it
/// is the assistant's, else all. `text`: as it stands, with the tokens that the tokenizer adds by itself.
///
/// Errors: files or rows that cannot be read; a row longer than the model's positions.
pub fn rows_to_score(files: &[PathBuf], folder: &ModelFolder) -> Result<Vec<ScoreRow>, Error> {
    let mut rows = Vec::new();
    for (index, example) in data::read_examples(files, &Options::new(Task::Sft))? {
        let (prompt, completion) = encode(&folder.tokenizer, example)?;
        let row = ScoreRow { index, prompt, completion };
        let (tokens, positions) = (row.num_tokens(), folder.blueprint.max_positions);
        if tokens > positions {
            let what =
                format!("row {index} has {tokens} tokens, the model {positions} positions; shorten or remove the row");
            return Err(Error::Mismatch { what });
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Prompt and scored part of a row. The prompt ends where its tokens and the whole row's part ways.
fn encode(tokenizer: &Tokenizer, mut example: Example) -> data::Result<(Vec<u32>, Vec<u32>)> {
    if let Body::Messages(turns) = &mut example.body
        && turns.len() > 1
        && turns.last().is_some_and(|turn| turn["role"] == "assistant")
    {
        let completion = turns.split_off(turns.len() - 1);
        example.body = Body::Chat { prompt: std::mem::take(turns), completion };
    }
    let rendered = |turns: &[serde_json::Value]| {
        let (tools, extra) = (example.tools.as_ref(), example.template_kwargs.as_ref());
        let input = RenderInput { messages: turns, tools, documents: None, add_generation_prompt: false, extra };
        tokenizer.encode(&tokenizer.render(input)?, false)
    };
    let mut whole = match &example.body {
        Body::Text(text) => return Ok((Vec::new(), tokenizer.encode(text, true)?)),
        Body::Messages(turns) => return Ok((Vec::new(), rendered(turns)?)),
        Body::Chat { prompt, completion } => rendered(&[&prompt[..], completion].concat())?,
        Body::Plain { prompt, completion } => {
            let eos = tokenizer.special("eos_token").filter(|eos| !completion.ends_with(eos));
            tokenizer.encode(&format!("{prompt}{completion}{}", eos.unwrap_or_default()), true)?
        }
    };
    let prompt = data::encode_prompt(tokenizer, &example)?;
    let shared = prompt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    let completion = whole.split_off(shared);
    Ok((whole, completion))
}

/// Log-probabilities of the scored tokens of every row, nats, told to `observe` in the order of the rows.
///
/// Stops at the first error of `observe`.
pub fn score<E>(
    model: &Inference,
    rows: &[ScoreRow],
    mut observe: impl FnMut(&ScoreRow, &[f32]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = rows;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(chunk_len(rest));
        for (row, logps) in chunk.iter().zip(score_chunk(model, chunk)) {
            observe(row, &logps)?;
        }
        rest = later;
    }
    Ok(())
}

/// Rows that fill a chunk, at least one.
fn chunk_len(rows: &[ScoreRow]) -> usize {
    let mut tokens = 0;
    let fills = rows.iter().position(|row| {
        tokens += row.num_tokens();
        tokens >= CHUNK_TOKENS
    });
    fills.map_or(rows.len(), |last| last + 1)
}

fn score_chunk(model: &Inference, rows: &[ScoreRow]) -> Vec<Vec<f32>> {
    let mut logps: Vec<Vec<f32>> = rows.iter().map(|row| Vec::with_capacity(row.scored().len())).collect();
    let answers = rows.iter().zip(0..).filter(|(row, _)| !row.scored().is_empty()).map(|(row, sequence)| {
        (&row.prompt[..], Answer { tokens: &row.completion, scored: None, sequence, grad: true })
    });
    let ctx = model.context(true);
    for pack in plan_packs(&families_of_rows(answers, true), PACK_ROWS) {
        let forward = model.decoder.forward(&ctx, &pack, &Parts::new(ctx.backend, &pack), Keep::Nothing);
        let scores = model.decoder.score(&ctx, &pack, &forward, false, false);
        for (target, logp) in pack.targets.iter().zip(scores.logp) {
            logps[target.sequence as usize].push(logp);
        }
    }
    logps
}

/// The lines that open a run's log: model, data, objective, plan.
pub fn opening(job: &Job, plan: &Plan) -> Vec<String> {
    crate::report::opening(job, plan)
}

/// The learning rate of every step of a run.
pub fn learning_rates(job: &Job) -> Vec<f64> {
    let (total, peak) = (job.total_steps as u64, job.config.optimizer.learning_rate);
    let warmup = match job.config.schedule.warmup {
        config::Warmup::Steps(n) => n as u64,
        config::Warmup::Ratio(r) => optim::schedule::warmup_steps(r, total),
    };
    let shape = crate::plan::shape_of(job.config.schedule.kind, peak);
    let schedule = optim::schedule::Schedule { shape, warmup, total };
    (0..total).map(|step| peak * schedule.factor(step)).collect()
}
