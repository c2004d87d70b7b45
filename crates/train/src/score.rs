//! A model that is asked, not trained: loading it with its adapter, and log-probabilities of rows under it.

use crate::Error;
use data::{Body, Example, Options, RenderInput, Task, Tokenizer};
use infer::{Model, ModelFolder, Placed};
use kernels::Backend;
use model::{Keep, Parts};
use pack::{Answer, families_of_rows, plan_packs};
use std::path::PathBuf;

/// Rows of one pack, as in training.
const PACK_ROWS: usize = 2048;
/// Tokens that are scored between two reports.
const CHUNK_TOKENS: usize = 8192;

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
/// Stops at the first error of `observe`, or of a GPU.
pub fn score<E: From<Error>>(
    model: &Placed,
    rows: &[ScoreRow],
    mut observe: impl FnMut(&ScoreRow, &[f32]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = rows;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(chunk_len(rest));
        let logps = match model {
            Placed::Cpu(model) => score_chunk(model, chunk),
            Placed::Single(model) => score_chunk(model, chunk),
            Placed::Half(model) => score_chunk(model, chunk),
        };
        for (row, logps) in chunk.iter().zip(logps?) {
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

fn score_chunk<B: Backend<Real = f32>>(model: &Model<B>, rows: &[ScoreRow]) -> Result<Vec<Vec<f32>>, Error> {
    let mut logps: Vec<Vec<f32>> = rows.iter().map(|row| Vec::with_capacity(row.scored().len())).collect();
    let answers = rows.iter().zip(0..).filter(|(row, _)| !row.scored().is_empty()).map(|(row, sequence)| {
        (&row.prompt[..], Answer { tokens: &row.completion, scored: None, sequence, grad: true })
    });
    let ctx = model.context(true);
    for pack in plan_packs(&families_of_rows(answers, true), PACK_ROWS) {
        let forward = model.decoder.forward(&ctx, &pack, &Parts::new(ctx.backend, &pack), Keep::Nothing);
        let scores = model.decoder.score(&ctx, &pack, &forward, false, None);
        for (target, logp) in pack.targets.iter().zip(scores.logp) {
            logps[target.sequence as usize].push(logp);
        }
    }
    ctx.backend.trouble().map_or(Ok(logps), |error| Err(error.into()))
}
