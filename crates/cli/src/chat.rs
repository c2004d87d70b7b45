//! `chat`: a conversation on the terminal, or of lines that are piped in.

use crate::asking::{DeviceArgs, MAX_NEW_TOKENS, ModelArgs, SamplingArgs, described};
use crate::failure::Failure;
use crate::screen::Screen;
use clap::Args;
use infer::{Draw, FinishReason, Limits, ModelFolder, Request, Sampling, Talk, Writer};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Positions a conversation may fill, unless the model has fewer.
const POSITIONS: usize = 8192;
/// Rows of one forward pass: a long prompt can be stopped between two of them.
const STEP_ROWS: usize = 256;

const HELP: &str = "\
/reset            forget the conversation
/system [TEXT]    what the model is told first; without a text, nothing
/retry            answer the last turn again, with other draws
/params [K=V ..]  how tokens are drawn: temperature, top_p, top_k, min_p, repetition_penalty, seed, max_new_tokens
/save FILE        add the conversation to a file, as a row of `messages`
/help             this
/quit             leave; so does Ctrl-D. Ctrl-C stops an answer.
A line that ends with \\ goes on in the next; a text of several lines stands between lines of \"\"\".";

/// `prospect chat`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect chat runs/kto
  prospect chat models/base --adapter runs/kto/final --temperature 0.7 --system \"Be brief.\"
  printf 'What is 7 + 5?\\n' | prospect chat models/base

In the chat, /help says what can be done there.")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the model is told first.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// `prospect chat`
pub(crate) fn chat(args: &ChatArgs, screen: &Screen) -> Result<u8, Failure> {
    let folder = args.model.open()?;
    let defaults = folder.defaults()?;
    let stop = folder.stop_tokens()?;
    let model = folder.place(POSITIONS, &args.device.device())?;
    model.notes().iter().for_each(|note| screen.note(note));
    let mut talk = Talk::new(&folder.tokenizer);
    talk.system = args.system.clone();
    if !talk.has_template() {
        screen.note("the model has no chat template: it continues the text as it stands");
    }
    let max_new_tokens = args.sampling.max_new_tokens.or(defaults.max_new_tokens).unwrap_or(MAX_NEW_TOKENS);
    let params = Params { sampling: args.sampling.over(&defaults), max_new_tokens };
    let positions = model.positions();
    let limits = Limits { positions, cache_rows: 2 * positions, step_rows: STEP_ROWS };
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))
        .map_err(|e| Failure::usage(format!("cannot listen to Ctrl-C: {e}")))?;
    if std::io::stdin().is_terminal() {
        screen.line(format_args!("{} ({}); /help", args.model.model.display(), described(&params.sampling)));
    }
    model.with_engine(limits, &stop, |engine| {
        let room = Room { engine, stops: &args.sampling.stop, folder: &folder, screen, interrupted };
        converse(room, talk, params, screen)
    })
}

/// Takes turns until there are no more.
fn converse(mut room: Room<'_>, mut talk: Talk<'_>, mut params: Params, screen: &Screen) -> Result<u8, Failure> {
    let mut lines = Lines::new()?;
    while let Some(said) = lines.turn(screen)? {
        match said.strip_prefix('/').filter(|_| !said.contains('\n')) {
            None if said.trim().is_empty() => {}
            None => {
                talk.say(&said);
                room.answer(&mut talk, &params)?;
            }
            Some(command) => {
                let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
                match (name, rest.trim()) {
                    ("quit" | "exit", _) => break,
                    ("reset", _) => talk.reset(),
                    ("system", "") => talk.system = None,
                    ("system", text) => talk.system = Some(text.to_owned()),
                    ("params", changes) => params.change(changes, screen),
                    ("save", file) => save(&talk, file, screen),
                    ("retry", _) if talk.unsay() => {
                        params.sampling.seed = params.sampling.seed.wrapping_add(1);
                        room.answer(&mut talk, &params)?;
                    }
                    ("retry", _) => screen.line("there is nothing to answer yet"),
                    ("help", _) => screen.line(HELP),
                    _ => screen.line(format_args!("/{name} is not known; /help says what is")),
                }
            }
        }
    }
    Ok(0)
}

/// Where answers are made.
struct Room<'a> {
    engine: &'a mut dyn Draw,
    stops: &'a [String],
    folder: &'a ModelFolder,
    screen: &'a Screen,
    interrupted: Arc<AtomicBool>,
}

impl Room<'_> {
    /// Answers the last turn, piece by piece, and adds the answer to the conversation.
    fn answer(&mut self, talk: &mut Talk<'_>, params: &Params) -> Result<(), Failure> {
        self.interrupted.store(false, Ordering::SeqCst);
        let positions = self.folder.blueprint.max_positions.min(POSITIONS);
        let (prompt, dropped) = talk.prompt(positions.saturating_sub(params.max_new_tokens.min(positions / 2)))?;
        if dropped > 0 {
            self.screen.note(format_args!("the conversation is too long: its first {dropped} turns are left out"));
        }
        let room = positions.saturating_sub(prompt.len());
        let request = Request::new(prompt, params.max_new_tokens.min(room), params.sampling);
        if let Err(e) = self.engine.submit(0, request) {
            self.screen.error(&e.to_string());
            talk.forget_last();
            return Ok(());
        }
        let mut writer = Writer::new(&self.folder.tokenizer, self.stops);
        let (mut answer, mut cut) = (String::new(), false);
        let show = |text: &str, answer: &mut String| -> Result<(), Failure> {
            answer.push_str(text);
            let mut out = std::io::stdout();
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))
        };
        while !self.engine.is_idle() {
            if self.interrupted.swap(false, Ordering::SeqCst) {
                self.engine.cancel(0);
                break;
            }
            for drawn in self.engine.step()? {
                cut = drawn.finish == Some(FinishReason::Length);
                if drawn.finish != Some(FinishReason::Stop) {
                    let (text, ending) = writer.push(drawn.token)?;
                    show(&text, &mut answer)?;
                    if ending == infer::Ending::Text {
                        (cut, _) = (false, self.engine.cancel(0));
                    }
                }
            }
        }
        show(&writer.finish()?, &mut answer)?;
        show("\n", &mut String::new())?;
        if cut {
            self.screen.note(format_args!("cut off after {} tokens: /params max_new_tokens=N", params.max_new_tokens));
        }
        talk.hear(&answer);
        Ok(())
    }
}

/// How answers are drawn.
struct Params {
    sampling: Sampling,
    max_new_tokens: usize,
}

impl Params {
    /// Changes what `changes` names, and shows all.
    fn change(&mut self, changes: &str, screen: &Screen) {
        for change in changes.split_whitespace() {
            let (key, value) = change.split_once('=').unwrap_or((change, ""));
            let s = &mut self.sampling;
            let set = match key {
                "temperature" => value.parse().map(|x| s.temperature = x).is_ok(),
                "top_p" => value.parse().map(|x| s.top_p = x).is_ok(),
                "top_k" => value.parse().map(|x| s.top_k = x).is_ok(),
                "min_p" => value.parse().map(|x| s.min_p = x).is_ok(),
                "repetition_penalty" => value.parse().map(|x| s.repetition_penalty = x).is_ok(),
                "seed" => value.parse().map(|x| s.seed = x).is_ok(),
                "max_new_tokens" => value.parse().map(|x| self.max_new_tokens = x).is_ok(),
                _ => false,
            };
            if !set {
                screen.line(format_args!(
                    "{change}: expected a name and a number, as in temperature=0.7; /help has the names"
                ));
            }
        }
        screen.line(format_args!("{}, max_new_tokens {}", described(&self.sampling), self.max_new_tokens));
    }
}

fn save(talk: &Talk<'_>, file: &str, screen: &Screen) {
    if file.is_empty() {
        return screen.line("/save FILE: a name is missing");
    }
    let path = PathBuf::from(file);
    let text = format!("{}\n", serde_json::json!({"messages": talk.messages()}));
    // Conversations gather in one file, which training reads; none takes another's place.
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => screen.line(format_args!("{} turns added to {}", talk.messages().len(), path.display())),
        Err(e) => screen.error(&format!("cannot write {}: {e}", Path::new(file).display())),
    }
}

/// What the user says: edited on a terminal, plain lines otherwise.
enum Lines {
    Edited(Box<rustyline::DefaultEditor>),
    Plain(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Lines {
    fn new() -> Result<Lines, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Plain(std::io::stdin().lock().lines()));
        }
        let config = rustyline::Config::builder().auto_add_history(true).build();
        let editor = rustyline::DefaultEditor::with_config(config);
        editor.map(|editor| Lines::Edited(Box::new(editor))).map_err(|e| Failure::usage(format!("no terminal: {e}")))
    }

    /// The next turn; `None` at the end.
    fn turn(&mut self, screen: &Screen) -> Result<Option<String>, Failure> {
        let Some(first) = self.line("> ", screen)? else { return Ok(None) };
        if first.trim() == "\"\"\"" {
            let mut text: Vec<String> = Vec::new();
            while let Some(line) = self.line(". ", screen)?
                && line.trim() != "\"\"\""
            {
                text.push(line);
            }
            return Ok(Some(text.join("\n")));
        }
        let mut text = first;
        while let Some(begun) = text.strip_suffix('\\') {
            let next = self.line(". ", screen)?.unwrap_or_default();
            text = format!("{begun}\n{next}");
        }
        Ok(Some(text))
    }

    fn line(&mut self, prompt: &str, screen: &Screen) -> Result<Option<String>, Failure> {
        use rustyline::error::ReadlineError;
        let failed = |e: std::io::Error| Failure::Said { message: format!("cannot read stdin: {e}"), code: 6 };
        match self {
            Lines::Plain(lines) => lines.next().transpose().map_err(failed),
            Lines::Edited(editor) => loop {
                match editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Interrupted) => screen.line("Ctrl-D or /quit leaves"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(e) => return Err(failed(std::io::Error::other(e))),
                }
            },
        }
    }
}
