//! `serve`: a model over HTTP.

use crate::asking::{DeviceArgs, ModelArgs, SamplingArgs, described};
use crate::failure::Failure;
use crate::output;
use crate::screen::Screen;
use clap::Args;
use infer::{Defaults, Limits};
use serve::{Server, Settings};
use std::path::PathBuf;

/// Rows of one forward pass: what a new prompt may take before those under way get their next tokens.
const STEP_ROWS: usize = 256;

/// `prospect serve`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect serve models/base
  prospect serve runs/kto --port 9000 --name kto --api-key-file key.txt

  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'

What it answers: POST /v1/chat/completions and /v1/completions (also streamed), GET /v1/models, GET /health.
SIGTERM or Ctrl-C finishes what was begun and ends; a second one ends at once with 130.
What a request does not say (temperature, ..) is as the flags here say, and else as in generation_config.json.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The address to listen at; anything but this machine's own needs an API key.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// The model's name [default: its folder's].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A file with the key that clients must send; also PROSPECT_API_KEY.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Tokens of a prompt and its answer at most [default: as many as the model has, up to 8192].
    #[arg(long, value_name = "N")]
    max_positions: Option<usize>,
    /// Tokens that are remembered at one time, of all requests together [default: 16384, or --max-positions].
    #[arg(long, value_name = "N")]
    cache_tokens: Option<usize>,
    /// Unfinished answers at most; further requests are told to come again (429).
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// Connections at most.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    connections: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// `prospect serve`
pub(crate) fn serve(args: &ServeArgs, screen: &Screen) -> Result<u8, Failure> {
    if !args.sampling.stop.is_empty() {
        return Err(Failure::usage("--stop: requests name their own stop texts; leave it out"));
    }
    let api_key = api_key(args)?;
    let local = matches!(args.host.as_str(), "localhost" | "::1") || args.host.starts_with("127.");
    if !local && api_key.is_none() {
        return Err(Failure::usage(format!("--host {}: others could ask; give a key with --api-key-file", args.host)));
    }
    let folder = args.model.open()?;
    let defaults = folder.defaults()?;
    let defaults = Defaults {
        sampling: args.sampling.over(&defaults),
        max_new_tokens: args.sampling.max_new_tokens.or(defaults.max_new_tokens),
    };
    let model = folder.place(args.max_positions.unwrap_or(8192), &args.device.device())?;
    model.notes().iter().for_each(|note| screen.note(note));
    let positions = model.positions();
    let cache_rows = args.cache_tokens.unwrap_or(16_384.max(positions));
    let absolute = std::path::absolute(&args.model.model).unwrap_or_else(|_| args.model.model.clone());
    let own = absolute.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let name = args.name.clone().unwrap_or(own);
    let settings = Settings {
        name,
        api_key,
        defaults,
        queue: args.queue.max(1),
        connections: args.connections.max(1),
        body_bytes: 4 << 20,
        limits: Limits { positions, cache_rows, step_rows: STEP_ROWS },
    };
    let host = if args.host.contains(':') { format!("[{}]", args.host) } else { args.host.clone() };
    let address = format!("{host}:{}", args.port);
    let server = Server::bind(&address, settings.clone())
        .map_err(|e| Failure::Said { message: format!("cannot listen at {address}: {e}"), code: 6 })?;
    raise_limit();
    listen(&server, screen)?;
    screen.line(format_args!("{} ({}), {positions} positions", settings.name, described(&defaults.sampling)));
    // A script reads from here where the server is.
    output::line(format_args!("http://{}/v1", server.address()))?;
    server.run(&folder, &model)?;
    screen.line("stopped; every answer that was begun is finished");
    Ok(0)
}

/// Lets the process open as many connections as the system allows it; with fewer it serves fewer at a time.
#[cfg(unix)]
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(not(unix))]
fn raise_limit() {}

/// From the file, else from the environment; never from the command line, which others can see.
fn api_key(args: &ServeArgs) -> Result<Option<String>, Failure> {
    let key = match &args.api_key_file {
        None => std::env::var("PROSPECT_API_KEY").ok(),
        Some(path) => Some(std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?),
    };
    let key = key.map(|key| key.trim().to_owned());
    if key.as_ref().is_some_and(String::is_empty) {
        return Err(Failure::usage("the API key is empty"));
    }
    Ok(key)
}

/// The first SIGTERM or Ctrl-C stops the server, the second ends the process.
#[cfg(unix)]
fn listen(server: &Server, screen: &Screen) -> Result<(), Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .map_err(|e| Failure::usage(format!("cannot listen to signals: {e}")))?;
    let (stop, screen) = (server.stop(), *screen);
    std::thread::spawn(move || {
        for number in signals.forever().enumerate().map(|(number, _)| number) {
            if number > 0 {
                std::process::exit(130);
            }
            screen.line("stopping: answers that were begun are finished; once more to end at once");
            stop.stop();
        }
    });
    Ok(())
}

/// Ctrl-C ends the process.
#[cfg(not(unix))]
fn listen(_: &Server, _: &Screen) -> Result<(), Failure> {
    Ok(())
}
