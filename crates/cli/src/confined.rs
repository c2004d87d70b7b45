//! Rendering templates that nobody vouches for: a child of ourselves with limits on its memory and time does it.
//!
//! A template runs in an interpreter that can touch nothing, but it can grow: a string doubled thirty times takes thirty
//! instructions. So the child may not have more address space than it is given, a row may not take more processor time, and what
//! takes much longer by the clock on the wall is killed. What such a row becomes is an error; the next one is rendered by a new child.

use crate::failure::Failure;
use data::error::{TemplateError, TemplateErrorKind};
use data::{ChatTemplate, Clock, RenderInput};
use serde_json::{Map, Value, json};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// What a child may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Address space in MiB.
    pub(crate) mebibytes: u64,
    /// Processor time of one row in seconds.
    pub(crate) seconds: u64,
}

/// Time on the wall for one second of processor time, on a machine that has other things to do.
const WALL: u64 = 10;

/// Bytes of a child's last words that are read.
const LAST_WORDS: u64 = 4096;

/// A template and the child that renders it.
pub(crate) struct Confined {
    first_line: String,
    limits: Limits,
    running: Option<Running>,
}

struct Running {
    child: Child,
    rows: ChildStdin,
    answers: Receiver<String>,
}

impl Confined {
    /// Nothing runs before the first row.
    pub(crate) fn new(template: &str, now: Clock, limits: Limits) -> Confined {
        let Limits { mebibytes, seconds } = limits;
        let first =
            json!({"template": template, "now": now.unix_seconds(), "mebibytes": mebibytes, "seconds": seconds});
        Confined { first_line: format!("{first}\n"), limits, running: None }
    }

    /// The row as `{"rendered": ...}` or `{"error": ..., "kind": ..., "line": ...}`.
    ///
    /// # Errors
    /// When no child can be started.
    pub(crate) fn render(&mut self, row: &Value) -> Result<Value, Failure> {
        if self.running.is_none() {
            self.running = Some(self.start().map_err(|e| Failure::Said {
                message: format!("cannot start a process of our own to render in: {e}"),
                code: 6,
            })?);
        }
        let running = self.running.as_mut().expect("just started");
        // A child that is gone does not read; that it is gone shows in what it does not answer.
        let _ = running.rows.write_all(format!("{row}\n").as_bytes()).and_then(|()| running.rows.flush());
        let answer = running.answers.recv_timeout(Duration::from_secs(self.limits.seconds * WALL));
        let answered = answer.as_ref().ok().and_then(|line| serde_json::from_str(line).ok());
        match answered {
            Some(answer) => Ok(answer),
            None => Ok(self.ended(answer.err())),
        }
    }

    fn start(&self) -> io::Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("__render").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut rows = child.stdin.take().expect("it is piped");
        let answers = child.stdout.take().expect("it is piped");
        rows.write_all(self.first_line.as_bytes())?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines() {
                // A parent that does not listen any more needs no answers.
                if line.is_err() || sender.send(line.unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Ok(Running { child, rows, answers: receiver })
    }

    /// What became of a child that does not answer, as the row's error.
    fn ended(&mut self, why: Option<RecvTimeoutError>) -> Value {
        let Limits { mebibytes, seconds } = self.limits;
        let mut running = self.running.take().expect("it was asked");
        let late = why == Some(RecvTimeoutError::Timeout);
        // It may be gone already, which is as good.
        let _ = running.child.kill();
        let status = running.child.wait();
        // What the language's runtime says last tells a stack that is full from memory that is.
        let mut last_words = String::new();
        let _ = running.child.stderr.take().map(|stderr| stderr.take(LAST_WORDS).read_to_string(&mut last_words));
        let deep = last_words.contains("overflowed its stack");
        let reason = match (late, status.ok().and_then(signal_of)) {
            (true, _) | (_, Some(SIGXCPU)) => format!("more than {seconds} s of processor time"),
            (false, Some(SIGSEGV | SIGBUS)) => "it recursed too deeply".to_owned(),
            _ if deep => "it recursed too deeply".to_owned(),
            _ => format!("more than {mebibytes} MiB of memory"),
        };
        error(&TemplateError { kind: TemplateErrorKind::Limit, line: 0, reason })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Without rows it ends by itself; this is quicker.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

const SIGBUS: i32 = if cfg!(target_os = "macos") { 10 } else { 7 };
const SIGSEGV: i32 = 11;
const SIGXCPU: i32 = 24;

#[cfg(unix)]
fn signal_of(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_status: std::process::ExitStatus) -> Option<i32> {
    None
}

fn error(e: &TemplateError) -> Value {
    let kind = match e.kind {
        TemplateErrorKind::Syntax => "syntax",
        TemplateErrorKind::Raised => "raised",
        TemplateErrorKind::Type => "type",
        TemplateErrorKind::Limit => "limit",
    };
    let mut object = json!({"error": e.reason, "kind": kind});
    if e.line > 0 {
        object["line"] = e.line.into();
    }
    object
}

/// The child: limits itself, then answers rows until there are no more.
pub(crate) fn serve() -> Result<u8, Failure> {
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    let broken = |e: io::Error| Failure::usage(format!("this command is for prospect itself: {e}"));
    input.read_line(&mut line).map_err(broken)?;
    let order: Value = serde_json::from_str(&line).map_err(|e| broken(e.into()))?;
    let number = |name: &str| order[name].as_u64().unwrap_or(0);
    limits::memory(number("mebibytes") << 20).map_err(broken)?;
    let source = order["template"].as_str().unwrap_or_default();
    let clock = Clock::at(order["now"].as_i64().unwrap_or(0));
    let mut compiled = None;
    let mut out = BufWriter::new(io::stdout());
    loop {
        line.clear();
        if input.read_line(&mut line).map_err(broken)? == 0 {
            return Ok(0);
        }
        limits::time(number("seconds")).map_err(broken)?;
        let row: Value = serde_json::from_str(&line).map_err(|e| broken(e.into()))?;
        let template = compiled.get_or_insert_with(|| ChatTemplate::new(source, Vec::new(), clock));
        let answer = match template {
            Ok(template) => rendered(template, row),
            Err(e) => error(e),
        };
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
    }
}

fn rendered(template: &ChatTemplate, row: Value) -> Value {
    let Value::Object(mut fields) = row else { return error(&no_conversation()) };
    let messages = match fields.remove("messages").or_else(|| fields.remove("conversations")) {
        Some(Value::Array(messages)) => messages,
        _ => return error(&no_conversation()),
    };
    let (tools, documents) = (fields.remove("tools"), fields.remove("documents"));
    let add_generation_prompt = fields.remove("add_generation_prompt").is_some_and(|value| value == true);
    let more = match fields.remove("chat_template_kwargs") {
        Some(Value::Object(more)) => more,
        _ => Map::new(),
    };
    fields.extend(more);
    let input = RenderInput {
        messages: &messages,
        tools: tools.as_ref().filter(|tools| !tools.is_null()),
        documents: documents.as_ref().filter(|documents| !documents.is_null()),
        add_generation_prompt,
        extra: Some(&fields),
    };
    match template.render(input) {
        Ok(text) => json!({"rendered": text}),
        Err(e) => error(&e),
    }
}

fn no_conversation() -> TemplateError {
    let reason = "expected an object with `messages`, a list of turns".to_owned();
    TemplateError { kind: TemplateErrorKind::Type, line: 0, reason }
}

#[cfg(unix)]
mod limits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::time::{ClockId, clock_gettime};

    /// Bounds the address space, and leaves no core behind.
    pub(super) fn memory(bytes: u64) -> std::io::Result<()> {
        setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
        Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
    }

    /// Bounds the processor time from now on.
    pub(super) fn time(seconds: u64) -> std::io::Result<()> {
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64 + 1;
        let maximum = getrlimit(Resource::Cpu).maximum;
        let current = (used + seconds).min(maximum.unwrap_or(u64::MAX));
        Ok(setrlimit(Resource::Cpu, Rlimit { current: Some(current), maximum })?)
    }
}

/// Without limits by the system there is the clock on the wall.
#[cfg(not(unix))]
mod limits {
    pub(super) fn memory(_bytes: u64) -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn time(_seconds: u64) -> std::io::Result<()> {
        Ok(())
    }
}
