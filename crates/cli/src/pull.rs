//! `pull`: a repository of the Hub or of a mirror, down.

use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output;
use crate::screen::Screen;
use clap::{Args, ValueEnum};
use hub::{Client, Destination, Event, Lockfile, Pull, Pulled, Repo, RepoKind, Revision, Secret, Settings, Watch};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

/// `prospect pull`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect pull model Qwen/Qwen2.5-0.5B-Instruct
  prospect pull dataset trl-lib/kto-mix-14k --output data/kto-mix
  prospect pull model org/name --revision v1.0 --include '*.json' --include '*.safetensors'

What a revision stands for is written to the lock file, and later pulls take the same commit and demand the same
contents; --update looks again. A pull that was stopped goes on where it stopped.

Variables: HF_ENDPOINT (a mirror), HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, XDG_CACHE_HOME,
HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE. The token goes to the endpoint's own host only.")]
pub(crate) struct PullArgs {
    /// What the repository holds.
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// The repository: org/name.
    #[arg(value_name = "ID")]
    id: String,
    /// A branch, a tag or a commit.
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// Only files that fit; * crosses folders; may be given again.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// No files that fit; wins over --include; may be given again.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Plain files in this folder [default: the cache that Hugging Face's libraries share].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Where commits are pinned.
    #[arg(long, value_name = "FILE", default_value = "prospect.lock")]
    lock: PathBuf,
    /// Pin what the revision stands for now, whatever was pinned.
    #[arg(long)]
    update: bool,
    /// Hash files of the cache again that are there already.
    #[arg(long)]
    verify: bool,
    /// Print what was fetched as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Model,
    Dataset,
}

/// `prospect pull`
pub(crate) fn pull(args: &PullArgs, screen: &Screen) -> Result<u8, Failure> {
    let kind = match args.kind {
        Kind::Model => RepoKind::Model,
        Kind::Dataset => RepoKind::Dataset,
    };
    let request = Pull {
        revision: Revision::new(&args.revision)?,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        to: args.output.clone().map_or(Destination::Cache, Destination::Folder),
        verify: args.verify,
        ..Pull::new(Repo::new(kind, &args.id)?)
    };
    let mut lock = Lockfile::read(&args.lock)?;
    let pulled = fetch(&request, (!args.update).then_some(&lock), screen)?;
    lock.record(&pulled);
    lock.write(&args.lock)?;
    let bytes: u64 = pulled.files.iter().map(|file| file.size).sum();
    if args.json {
        let files: Vec<_> =
            pulled.files.iter().map(|file| json!({"path": file.path.as_str(), "size": file.size})).collect();
        output::json(&json!({
            "kind": kind.as_str(), "id": request.repo.id(), "revision": args.revision, "commit": pulled.commit.as_str(),
            "path": pulled.root, "files": files, "bytes": bytes, "fetched": pulled.fetched, "lock": args.lock,
        }))?;
    } else {
        let (count, fetched) = (pulled.files.len(), pulled.fetched);
        output::line(pulled.root.display())?;
        screen.line(format_args!(
            "{} at {}: {count} files, {}, {fetched} of them fetched now; pinned in {}",
            request.repo,
            pulled.commit,
            indicatif::HumanBytes(bytes),
            args.lock.display()
        ));
    }
    Ok(0)
}

/// Fetches what is missing, as the variables of the environment say.
pub(crate) fn fetch(request: &Pull, lock: Option<&Lockfile>, screen: &Screen) -> Result<Pulled, Failure> {
    fetch_with(request, lock, None, screen)
}

/// [`fetch`], with a token that wins over the environment's.
pub(crate) fn fetch_with(
    request: &Pull,
    lock: Option<&Lockfile>,
    token: Option<&str>,
    screen: &Screen,
) -> Result<Pulled, Failure> {
    let mut settings = Settings::from_env(|name| std::env::var(name).ok())?;
    match token {
        Some(token) => settings.token = Some(Secret::new("--hf-token", token)?),
        None => settings.find_token(None)?,
    }
    let client = Client::new(settings)?;
    Ok(hub::pull(&client, request, lock, &Ear::new(screen, "fetching")?)?)
}

/// Shows how far a transfer is, and has it stopped.
pub(crate) struct Ear(Mutex<Heard>);

impl Ear {
    pub(crate) fn new(screen: &Screen, what: &'static str) -> Result<Ear, Failure> {
        let meter = Meter::new(screen, what, Unit::Bytes)?;
        Ok(Ear(Mutex::new(Heard { meter, total: 0, done: BTreeMap::new() })))
    }
}

struct Heard {
    meter: Meter,
    total: u64,
    /// Bytes that are there, by file.
    done: BTreeMap<String, u64>,
}

impl Watch for Ear {
    fn event(&self, event: Event<'_>) {
        let mut heard = self.0.lock().expect("nobody panics while listening");
        match event {
            Event::Begin { bytes, .. } => heard.total = bytes,
            Event::Progress { path, done, .. } => {
                heard.done.insert(path.as_str().to_owned(), done);
                let (done, total) = (heard.done.values().sum(), heard.total);
                // A stop is asked for where it is looked for.
                let _ = heard.meter.tell(done, total);
            }
            Event::Done { .. } => {}
            Event::Retry { why, pause } => {
                heard.meter.say(&format!("{why}; again in {:.0} s", pause.as_secs_f64().ceil()));
            }
            Event::Waiting { path } => heard.meter.say(&format!("another process fetches {path}; waiting for it")),
        }
    }

    fn stop(&self) -> bool {
        self.0.lock().expect("nobody panics while listening").meter.stops()
    }
}
