//! `generate`: continue prompts.

use crate::args::GenerateArgs;
use crate::failure::Failure;
use crate::output;
use crate::progress::Bar;
use crate::score::threads;
use crate::screen::Screen;
use data::{Body, Example, Options, RenderInput, Task, Tokenizer};
use infer::{Generator, Limits, Output, Request, Sampling};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use train::ModelFolder;

/// Tokens of an answer where neither the user nor the model says.
const MAX_NEW_TOKENS: usize = 256;
/// Rows of the key/value cache, unless one prompt needs more.
const CACHE_ROWS: usize = 8192;
/// Rows of one forward pass.
const STEP_ROWS: usize = 512;

/// A prompt as it was given and as it is continued.
struct Prompt {
    given: Value,
    tokens: Vec<u32>,
}

/// `prospect generate`
pub(crate) fn generate(args: &GenerateArgs, screen: &Screen) -> Result<u8, Failure> {
    let folder = ModelFolder::open(&args.model, args.adapter.as_deref())?;
    let prompts = prompts(args, &folder.tokenizer, screen)?;
    let defaults = Defaults::read(&folder)?;
    let requests = requests(args, &prompts, &defaults, folder.blueprint.max_positions);
    if let Some(first) = requests.first() {
        screen.line(format_args!("sampling       {}", described(&first.sampling)));
    }
    let longest = requests.iter().map(|r| r.prompt.len() + r.max_new_tokens).max().unwrap_or(1);
    let positions = longest.min(folder.blueprint.max_positions);
    let model = folder.load(positions, threads())?;
    model.notes.iter().for_each(|note| screen.note(note));
    let limits = Limits { positions, cache_rows: longest.max(CACHE_ROWS), step_rows: STEP_ROWS };
    let stop = if args.ignore_eos { Vec::new() } else { defaults.stop };
    let mut printer =
        Printer { prompts: &prompts, tokenizer: &folder.tokenizer, json: args.json, next: 0, waiting: BTreeMap::new() };
    let (mut bar, mut done) = (Bar::new(screen, "generating"), 0);
    let context = model.context(true);
    let outputs = Generator::new(&context, &model.decoder, limits).generate(&requests, &stop, &mut |i, output| {
        done += 1;
        bar.set(done, requests.len() as u64);
        // Nobody reads on: there is nothing to save, and no reason to compute the rest.
        printer.take(i, output).unwrap_or_else(|failure| std::process::exit(failure.report(screen).into()));
    })?;
    // Requests of no new tokens are not announced.
    (printer.next..outputs.len()).try_for_each(|i| printer.take(i, &outputs[i]))?;
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

/// What a model says about how it wants to be asked.
struct Defaults {
    /// End-of-sequence tokens: those of generation_config.json (without it, of config.json) and the tokenizer's.
    stop: Vec<u32>,
    max_new_tokens: Option<usize>,
    /// Temperature, top-p and top-k, where the model wants to be sampled.
    sampling: Option<(f64, f64, usize)>,
}

impl Defaults {
    fn read(folder: &ModelFolder) -> Result<Defaults, Failure> {
        let path = folder.path.join("generation_config.json");
        let (config, path) =
            if path.is_file() { (path.clone(), path) } else { (folder.path.join("config.json"), path) };
        let text = std::fs::read_to_string(&config).map_err(|e| Failure::file("read", &config, &e))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| Failure::Said { message: format!("{}: {e}", path.display()), code: 6 })?;
        let id = |value: &Value| value.as_u64().map(|id| id as u32);
        let mut stop: Vec<u32> = match &config["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(id).collect(),
            one => id(one).into_iter().collect(),
        };
        stop.extend(folder.tokenizer.eos_id().filter(|eos| !stop.contains(eos)));
        let number = |key: &str, otherwise: f64| config[key].as_f64().unwrap_or(otherwise);
        let sampled = config["do_sample"].as_bool() == Some(true);
        let count = |key: &str| config[key].as_u64().map(|n| n as usize);
        let sampling = || (number("temperature", 1.0), number("top_p", 1.0), count("top_k").unwrap_or(0));
        Ok(Defaults { stop, max_new_tokens: count("max_new_tokens"), sampling: sampled.then(sampling) })
    }
}

fn requests(args: &GenerateArgs, prompts: &[Prompt], defaults: &Defaults, positions: usize) -> Vec<Request> {
    // A top-p alone asks for sampling too.
    let unsaid = if args.top_p.is_some() { 1.0 } else { 0.0 };
    let (temperature, top_p, top_k) = defaults.sampling.unwrap_or((unsaid, 1.0, 0));
    let sampling = |i: usize| Sampling {
        temperature: args.temperature.unwrap_or(temperature),
        top_p: args.top_p.unwrap_or(top_p),
        top_k,
        seed: args.seed.wrapping_add(i as u64),
    };
    let request = |(i, prompt): (usize, &Prompt)| {
        let room = positions.saturating_sub(prompt.tokens.len());
        let otherwise = || defaults.max_new_tokens.unwrap_or(MAX_NEW_TOKENS).min(room);
        let max_new_tokens = args.max_new_tokens.unwrap_or_else(otherwise);
        Request { prompt: prompt.tokens.clone(), max_new_tokens, sampling: sampling(i) }
    };
    prompts.iter().enumerate().map(request).collect()
}

fn described(sampling: &Sampling) -> String {
    let Sampling { temperature, top_p, top_k, seed } = sampling;
    match *temperature {
        0.0 => "greedy".to_owned(),
        _ => format!("temperature {temperature}, top_p {top_p}, top_k {top_k}, seed {seed}"),
    }
}

/// Prints answers in the order of their prompts, as soon as all before them are there.
struct Printer<'a> {
    prompts: &'a [Prompt],
    tokenizer: &'a Tokenizer,
    json: bool,
    next: usize,
    waiting: BTreeMap<usize, Output>,
}

impl Printer<'_> {
    fn take(&mut self, i: usize, output: &Output) -> Result<(), Failure> {
        self.waiting.insert(i, output.clone());
        while let Some(output) = self.waiting.remove(&self.next) {
            self.print(&self.prompts[self.next], &output)?;
            self.next += 1;
        }
        Ok(())
    }

    fn print(&self, prompt: &Prompt, output: &Output) -> Result<(), Failure> {
        let text = self.tokenizer.decode(&output.tokens, true)?;
        if self.json {
            return output::json(&json!({
                "prompt": prompt.given,
                "text": text,
                "token_ids": output.tokens,
                "finish_reason": output.finish_reason.name(),
            }));
        }
        if self.prompts.len() > 1 {
            output::line(format_args!("{}> {}", if self.next == 0 { "" } else { "\n" }, asked(&prompt.given)))?;
        }
        output::line(text)
    }
}

/// A prompt in a line: its text, or the content of its last turn.
fn asked(given: &Value) -> String {
    let last = given.as_array().and_then(|turns| turns.last()).map_or(given, |turn| &turn["content"]);
    last.as_str().map_or_else(|| last.to_string(), |text| text.replace('\n', "\n> "))
}
