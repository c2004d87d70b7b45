//! `data show`: a row as the model will see it.

use super::source::{self, Goal, ReadingArgs, Source, TokenArgs, task_word};
use crate::failure::Failure;
use crate::output;
use crate::screen::Screen;
use crate::watchdog::Watchdog;
use clap::Args;
use clap::builder::styling::{AnsiColor, Color, Style};
use data::tools::show::{Shown, ShownRow, Token};
use data::{Body, Tokenizer};
use serde_json::{Value, json};
use std::path::PathBuf;

/// `prospect data show`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data show rows.jsonl --model models/base
  prospect data show alpaca_en_demo --registry data --row 3 --model models/base --template chatml
  prospect data show pairs.json --json

On a terminal the prompt is dim, what is trained green, the end of the sequence bright, what max_length cuts off red.")]
pub(crate) struct ShowArgs {
    /// A file, a pattern, a folder, a registered name, or org/name on the Hub.
    #[arg(value_name = "FILE|NAME", required = true)]
    inputs: Vec<PathBuf>,
    /// Which row, from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    row: usize,
    /// What the row is for [default: told from it].
    #[arg(long, value_name = "TASK")]
    task: Option<Goal>,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Also a table of the tokens.
    #[arg(long, requires = "model")]
    table: bool,
    /// Print the row as a JSON object.
    #[arg(long)]
    json: bool,
}

const PROMPT: Style = Style::new().dimmed();
const TRAINED: Style = AnsiColor::Green.on_default();
const END: Style = AnsiColor::Black.on_default().bg_color(Some(Color::Ansi(AnsiColor::BrightGreen))).bold();
const CUT: Style = AnsiColor::Red.on_default().strikethrough();
const HEAD: Style = Style::new().bold();

/// `prospect data show`
pub(crate) fn show(args: &ShowArgs, screen: &Screen) -> Result<u8, Failure> {
    let tokenizer = args.tokens.tokenizer(screen)?;
    let Source { files, mut options } = source::open(&args.inputs, &args.reading, args.task, screen)?;
    options.max_length = args.tokens.max_length();
    let watchdog = tokenizer.as_ref().map(|_| Watchdog::new(screen));
    let row = data::tools::show::show(&files, args.row, tokenizer.as_ref(), &options)?;
    drop(watchdog);
    if args.json {
        let examples: Vec<Value> = row.examples.iter().map(|shown| as_json(shown, tokenizer.is_some())).collect();
        output::json(&json!({
            "row": args.row,
            "file": row.place.file, "line": row.place.line, "column": row.place.column,
            "format": row.shape.name(), "task": task_word(options.task), "unused": row.unused, "examples": examples,
        }))?;
        return Ok(0);
    }
    let page = Page { screen, tokenizer: tokenizer.as_ref(), table: args.table };
    page.row(args.row, &row, task_word(options.task))?;
    Ok(0)
}

fn as_json(shown: &Shown, tokenised: bool) -> Value {
    let mut object = json!({"row": shown.example.to_row(), "label": shown.example.label});
    if tokenised {
        let token = |t: &Token| json!({"id": t.id, "text": t.text, "trained": t.trained, "eos": t.eos, "cut": t.cut});
        object["prompt_tokens"] = shown.prompt_len.into();
        object["tokens"] = shown.tokens.iter().map(token).collect();
        object["dropped"] = json!(shown.dropped);
        object["unstable_tail"] = json!(shown.unstable_tail);
        object["learns_to_stop"] = shown.learns_to_stop.into();
    }
    object
}

/// What tokens are to training, in the order of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Prompt,
    Context,
    Trained,
    End,
    Cut,
}

impl Part {
    fn of(n: usize, token: &Token, prompt_len: usize) -> Part {
        match token {
            Token { cut: true, .. } => Part::Cut,
            Token { trained: true, eos: true, .. } => Part::End,
            Token { trained: true, .. } => Part::Trained,
            _ if n < prompt_len => Part::Prompt,
            _ => Part::Context,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Part::Prompt => "prompt",
            Part::Context => "not trained",
            Part::Trained => "trained",
            Part::End => "trained, end of sequence",
            Part::Cut => "cut off",
        }
    }

    fn style(self) -> Style {
        match self {
            Part::Prompt | Part::Context => PROMPT,
            Part::Trained => TRAINED,
            Part::End => END,
            Part::Cut => CUT,
        }
    }
}

/// What a row is written with.
struct Page<'a> {
    screen: &'a Screen,
    tokenizer: Option<&'a Tokenizer>,
    table: bool,
}

impl Page<'_> {
    fn row(&self, number: usize, row: &ShownRow, task: &str) -> Result<(), Failure> {
        let head = format!("row {number}, {}: {} for {task}", row.place, row.shape.name());
        output::line(self.screen.result(HEAD, &head))?;
        if !row.unused.is_empty() {
            output::line(format_args!("not used       {}", row.unused.join(", ")))?;
        }
        for (n, shown) in row.examples.iter().enumerate() {
            if row.examples.len() > 1 {
                let head = format!("\nexample {} of {}", n + 1, row.examples.len());
                output::line(self.screen.result(HEAD, &head))?;
            }
            self.example(shown)?;
        }
        Ok(())
    }

    fn example(&self, shown: &Shown) -> Result<(), Failure> {
        match shown.example.label {
            Some(true) => output::line("label          true (desirable)")?,
            Some(false) => output::line("label          false (undesirable)")?,
            None => {}
        }
        let Some(tokenizer) = self.tokenizer else { return self.content(&shown.example.body) };
        let trained = shown.tokens.iter().filter(|t| t.trained).count();
        let (all, prompt) = (shown.tokens.len(), shown.prompt_len);
        output::line(format_args!("tokens         {all}: {prompt} of the prompt, {trained} trained"))?;
        output::line(format_args!("end            {}", end(shown)))?;
        if let Some(reason) = &shown.dropped {
            output::line(format_args!("dropped        {reason}"))?;
        }
        if let Some(tail) = &shown.unstable_tail {
            output::line(format_args!(
                "template       with an answer behind it the prompt no longer ends in {tail:?}; that part is left out"
            ))?;
        }
        output::line("")?;
        self.tokens(shown, tokenizer)?;
        if self.table { self.token_table(shown) } else { Ok(()) }
    }

    /// The text, coloured, or in parts that say what they are.
    fn tokens(&self, shown: &Shown, tokenizer: &Tokenizer) -> Result<(), Failure> {
        let numbered: Vec<(Part, u32)> =
            shown.tokens.iter().enumerate().map(|(n, t)| (Part::of(n, t, shown.prompt_len), t.id)).collect();
        let mut line = String::new();
        for part in numbered.chunk_by(|a, b| a.0 == b.0) {
            let ids: Vec<u32> = part.iter().map(|(_, id)| *id).collect();
            let (kind, text) = (part[0].0, tokenizer.decode(&ids, false)?);
            if self.screen.colors_results() {
                line.push_str(&styled(kind.style(), &text));
            } else {
                let tokens = if ids.len() == 1 { "token" } else { "tokens" };
                output::line(format_args!("--- {}, {} {tokens}", kind.name(), ids.len()))?;
                output::line(text.strip_suffix('\n').unwrap_or(&text))?;
            }
        }
        if line.is_empty() { Ok(()) } else { output::line(line) }
    }

    fn token_table(&self, shown: &Shown) -> Result<(), Failure> {
        let mut rows = vec![["position", "id", "part", "text"].map(str::to_owned).to_vec()];
        for (n, token) in shown.tokens.iter().enumerate() {
            let part = Part::of(n, token, shown.prompt_len).name().to_owned();
            rows.push(vec![n.to_string(), token.id.to_string(), part, format!("{:?}", token.text)]);
        }
        use output::Side::{Left, Right};
        output::line("")?;
        output::table(&[Right, Right, Left, Left], &rows)
    }

    /// The example itself, where there is no tokenizer.
    fn content(&self, body: &Body) -> Result<(), Failure> {
        let part = |name: &str, style: Style, text: &str| {
            output::line(self.screen.result(HEAD, &format!("--- {name}")))?;
            output::line(if self.screen.colors_results() { styled(style, text) } else { text.to_owned() })
        };
        let turns = |turns: &[Value], style: Style, what: &str| {
            turns.iter().try_for_each(|turn| {
                let content = turn["content"].as_str().map_or_else(|| turn.to_string(), str::to_owned);
                part(&format!("{what}, {}", turn["role"].as_str().unwrap_or("?")), style, &content)
            })
        };
        match body {
            Body::Plain { prompt, completion } => {
                part("prompt", PROMPT, prompt)?;
                part("completion", TRAINED, completion)
            }
            Body::Chat { prompt, completion } => {
                turns(prompt, PROMPT, "prompt")?;
                turns(completion, TRAINED, "completion")
            }
            Body::Messages(all) => turns(all, TRAINED, "conversation"),
            Body::Text(text) => part("text", TRAINED, text),
        }
    }
}

/// Text in a style, line by line, so that a pager shows every line in it.
fn styled(style: Style, text: &str) -> String {
    let line = |line: &str| match line.strip_suffix('\n') {
        Some(line) => format!("{style}{line}{style:#}\n"),
        None => format!("{style}{line}{style:#}"),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// Whether the model learns to stop.
fn end(shown: &Shown) -> String {
    if shown.learns_to_stop {
        return "the last trained token ends the sequence: the model learns to stop".to_owned();
    }
    match shown.tokens.iter().rfind(|t| t.trained) {
        Some(last) => {
            format!("the last trained token is {:?} and not the end of the sequence: stopping is not taught", last.text)
        }
        None => "nothing is trained".to_owned(),
    }
}
