//! `generate`: continue prompts.

use crate::asking::{DeviceArgs, MAX_NEW_TOKENS, ModelArgs, SamplingArgs, described};
use crate::failure::Failure;
use crate::output;
use crate::progress::Bar;
use crate::screen::Screen;
use clap::Args;
use data::{AnswerFile, Body, Example, Options, RenderInput, Task, Tokenizer};
use infer::{Defaults, Output, Request, Sampling, StopTexts};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Rows of the key/value cache, unless one prompt needs more.
const CACHE_ROWS: usize = 8192;
/// Rows of one forward pass.
const STEP_ROWS: usize = 512;

/// `prospect generate`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect generate models/base --prompt \"What is 7 + 5?\"
  prospect generate runs/kto --data prompts.jsonl --temperature 0 --output answers.jsonl
  prospect generate models/base --raw --prompt \"Once upon a time\" --max-new-tokens 100

What is not given comes from the model's generation_config.json; without one, generation is greedy.
With --output nothing that was answered is lost: the same call goes on where a killed one was.")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// One prompt; a user's turn if the model has a chat template.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "data",
        conflicts_with = "data",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// Prompts, as JSONL or JSON: rows with `prompt` (text or turns), `messages`, or `text`.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Write answers to this file, an object per line, in the order of the prompts.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take the prompt as it stands: no chat template, only the tokens that the tokenizer adds by itself.
    #[arg(long)]
    raw: bool,
    /// Row i of the data draws with seed + i.
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Do not stop at the end-of-sequence token.
    #[arg(long)]
    ignore_eos: bool,
    /// Print one JSON object per prompt: prompt, text, token_ids, finish_reason.
    #[arg(long)]
    json: bool,
}

/// A prompt as it was given and as it is continued.
struct Prompt {
    given: Value,
    tokens: Vec<u32>,
}

/// `prospect generate`
pub(crate) fn generate(args: &GenerateArgs, screen: &Screen) -> Result<u8, Failure> {
    let folder = args.model.open()?;
    let prompts = prompts(args, &folder.tokenizer, screen)?;
    let defaults = folder.defaults()?;
    let requests = requests(args, &prompts, &defaults, folder.blueprint.max_positions);
    if let Some(first) = requests.first() {
        screen.line(format_args!("sampling       {}", described(&first.sampling)));
    }
    let stop = if args.ignore_eos { Vec::new() } else { folder.stop_tokens()? };
    let mut sink = match &args.output {
        None => Sink::Screen { next: 0, waiting: BTreeMap::new() },
        Some(output) => {
            let model = eval::identity(&args.model.model, args.model.adapter.as_deref())?;
            let parts = [model, format!("{requests:?}"), format!("{stop:?} {:?}", args.sampling.stop)];
            Sink::File(AnswerFile::open(output, &parts.each_ref().map(String::as_str))?)
        }
    };
    let open: Vec<usize> = (0..requests.len()).filter(|i| !sink.has(*i)).collect();
    if open.len() < requests.len() {
        screen.line(format_args!("going on       {} of {} are answered", requests.len() - open.len(), requests.len()));
    }
    let left: Vec<Request> = open.iter().map(|&i| requests[i].clone()).collect();
    let longest = left.iter().map(|r| r.prompt.len() + r.max_new_tokens).max().unwrap_or(1);
    let model = folder.place(longest, &args.device.device())?;
    model.notes().iter().for_each(|note| screen.note(note));
    let texts = StopTexts { tokenizer: &folder.tokenizer, texts: &args.sampling.stop };
    let printer =
        Printer { prompts: &prompts, tokenizer: &folder.tokenizer, stops: &args.sampling.stop, json: args.json };
    let (mut bar, mut done) = (Bar::new(screen, "generating"), requests.len() - open.len());
    let rows = (longest.max(CACHE_ROWS), STEP_ROWS);
    let mut told = vec![false; left.len()];
    let begin = Instant::now();
    let outputs = model.generate(&left, (&stop, Some(texts)), rows, &mut |i, output| {
        (done, told[i]) = (done + 1, true);
        bar.set(done as u64, requests.len() as u64);
        // Nobody reads on, or the disk is full: no reason to compute the rest.
        let taken = sink.take(&printer, open[i], output);
        taken.unwrap_or_else(|failure| std::process::exit(failure.report(screen).into()));
    })?;
    // Requests of no new tokens are not announced.
    for i in (0..left.len()).filter(|i| !told[*i]) {
        sink.take(&printer, open[i], &outputs[i])?;
    }
    drop(bar);
    let (tokens, seconds) = (outputs.iter().map(|o| o.tokens.len()).sum::<usize>(), begin.elapsed().as_secs_f64());
    if tokens > 0 {
        let speed = tokens as f64 / seconds;
        screen.line(format_args!("generated      {tokens} tokens in {seconds:.2} s, {speed:.1} tokens/s"));
    }
    if let Sink::File(file) = sink {
        let answers = file.len();
        file.finish()?;
        let output = args.output.as_deref().unwrap_or(Path::new(""));
        screen.line(format_args!("{answers} answers in {}", output.display()));
    }
    Ok(0)
}

fn prompts(args: &GenerateArgs, tokenizer: &Tokenizer, screen: &Screen) -> Result<Vec<Prompt>, Failure> {
    if let Some(text) = &args.prompt {
        return Ok(vec![Prompt { given: json!(text), tokens: of_text(text, args.raw, tokenizer, screen)? }]);
    }
    let file = args.data.as_deref().unwrap_or(Path::new(""));
    let examples = data::read_examples(&data::source::resolve(file, "train")?, &Options::new(Task::Prompt))?;
    examples.iter().map(|(index, example)| of_row(*index, example, args.raw, tokenizer)).collect()
}

/// A text on the command line is what a user says, unless it is raw or there is no template to say it with.
fn of_text(text: &str, raw: bool, tokenizer: &Tokenizer, screen: &Screen) -> Result<Vec<u32>, Failure> {
    match tokenizer.template() {
        _ if raw => {}
        Ok(template) => {
            let messages = &[json!({"role": "user", "content": text})];
            let (tools, documents, extra) = (None, None, None);
            let input = RenderInput { messages, tools, documents, add_generation_prompt: true, extra };
            let rendered = template.render(input).map_err(data::Error::from)?;
            return Ok(tokenizer.encode(&rendered, false)?);
        }
        Err(data::Error::Template(e)) => return Err(data::Error::Template(e).into()),
        Err(_) => screen.note("the model has no chat template: the prompt is taken as it stands, as with --raw"),
    }
    let tokens = tokenizer.encode(text, true)?;
    // Without a prompt a model begins where texts begin, as in transformers.
    Ok(if tokens.is_empty() { tokenizer.bos_id().into_iter().collect() } else { tokens })
}

fn of_row(index: u32, example: &Example, raw: bool, tokenizer: &Tokenizer) -> Result<Prompt, Failure> {
    let given = match &example.body {
        Body::Plain { prompt, .. } | Body::Text(prompt) => json!(prompt),
        Body::Chat { .. } | Body::Messages(_) if raw => {
            return Err(Failure::Said {
                message: format!("row {index} is a conversation; --raw takes rows with a `prompt` string or `text`"),
                code: 3,
            });
        }
        Body::Chat { prompt, .. } | Body::Messages(prompt) => json!(prompt),
    };
    Ok(Prompt { given, tokens: data::encode_prompt(tokenizer, example)? })
}

fn requests(args: &GenerateArgs, prompts: &[Prompt], defaults: &Defaults, positions: usize) -> Vec<Request> {
    let sampling = args.sampling.over(defaults);
    let request = |(i, prompt): (usize, &Prompt)| {
        let room = positions.saturating_sub(prompt.tokens.len());
        let otherwise = || defaults.max_new_tokens.unwrap_or(MAX_NEW_TOKENS).min(room);
        let max_new_tokens = args.sampling.max_new_tokens.unwrap_or_else(otherwise);
        let sampling = Sampling { seed: sampling.seed.wrapping_add(i as u64), ..sampling };
        Request::new(prompt.tokens.clone(), max_new_tokens, sampling)
    };
    prompts.iter().enumerate().map(request).collect()
}

/// Where answers go.
enum Sink {
    /// To stdout, in the order of their prompts, as soon as all before them are there.
    Screen { next: usize, waiting: BTreeMap<usize, Output> },
    /// To a file.
    File(AnswerFile),
}

/// How answers look.
struct Printer<'a> {
    prompts: &'a [Prompt],
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    json: bool,
}

impl Sink {
    fn has(&self, i: usize) -> bool {
        matches!(self, Sink::File(file) if file.has(i as u64))
    }

    fn take(&mut self, printer: &Printer<'_>, i: usize, output: &Output) -> Result<(), Failure> {
        match self {
            Sink::File(file) => file.add(i as u64, printer.object(i, output)?)?,
            Sink::Screen { next, waiting } => {
                waiting.insert(i, output.clone());
                while let Some(output) = waiting.remove(next) {
                    printer.print(*next, &output)?;
                    *next += 1;
                }
            }
        }
        Ok(())
    }
}

impl Printer<'_> {
    fn text(&self, output: &Output) -> Result<String, Failure> {
        let text = self.tokenizer.decode(&output.tokens, true)?;
        Ok(infer::cut(&text, self.stops).0.to_owned())
    }

    fn object(&self, i: usize, output: &Output) -> Result<Value, Failure> {
        Ok(json!({
            "prompt": self.prompts[i].given,
            "text": self.text(output)?,
            "token_ids": output.tokens,
            "finish_reason": output.finish_reason.name(),
        }))
    }

    fn print(&self, i: usize, output: &Output) -> Result<(), Failure> {
        if self.json {
            return output::json(&self.object(i, output)?);
        }
        if self.prompts.len() > 1 {
            let asked = asked(&self.prompts[i].given);
            output::line(format_args!("{}> {asked}", if i == 0 { "" } else { "\n" }))?;
        }
        output::line(self.text(output)?)
    }
}

/// A prompt in a line: its text, or the content of its last turn.
fn asked(given: &Value) -> String {
    let last = given.as_array().and_then(|turns| turns.last()).map_or(given, |turn| &turn["content"]);
    last.as_str().map_or_else(|| last.to_string(), |text| text.replace('\n', "\n> "))
}
