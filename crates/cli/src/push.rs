//! `push`: a result to the Hugging Face Hub or a mirror, with a card, in one commit.

mod parts;

use crate::export;
use crate::failure::Failure;
use crate::output;
use crate::pull::Ear;
use crate::screen::Screen;
use clap::{Args, ValueEnum};
use gguf::Mix;
use hub::{Client, Content, NewFile, Push, Repo, RepoKind, Revision, SafeRelPath, Secret, Settings};
use parts::{Parts, Source};
use serde_json::json;
use std::path::PathBuf;

/// `prospect push`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect push runs/kto me/my-model-kto                      the result of a run, with a card
  prospect push runs/kto me/my-model-kto --private --what adapter,merged --gguf q4_k_m,q8_0
  prospect push models/merged me/my-model --license apache-2.0

The repository is created where it is not there. What is merged and converted is kept until all is uploaded, and what the Hub has
is not sent again: the same command goes on after a stop. The card says what was trained on which data (names and hashes, no
folders of this machine), with plots and metrics.

The token: --token-file, HF_TOKEN, HF_TOKEN_PATH, or a login. Variables as for `pull`.")]
pub(crate) struct PushArgs {
    /// A run, an adapter or a model folder.
    #[arg(value_name = "RUN|DIR")]
    dir: PathBuf,
    /// The repository: org/name.
    #[arg(value_name = "ID")]
    id: String,
    /// Make a new repository private.
    #[arg(long)]
    private: bool,
    /// What to upload: adapter, merged (the model with the adapter in it), gguf [default: what the folder holds].
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    what: Vec<What>,
    /// GGUF files of these types.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 1.., alias = "gguf-quantizations", value_parser = export::mix)]
    gguf: Vec<Mix>,
    /// The base model of the adapter [default: as the adapter says]: for one trained on four bits, its 16-bit model.
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// The branch.
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// The commit's message.
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// The licence's identifier, for the card [default: the base model's own, where its card says].
    #[arg(long, value_name = "ID", alias = "licence")]
    license: Option<String>,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The token, as another trainer takes it: whoever lists processes can read it.
    #[arg(long, value_name = "TOKEN", hide = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// Another trainer's word for --what.
    #[arg(long, hide = true, conflicts_with = "what")]
    save_method: Option<SaveMethod>,
    /// Another trainer's word for --what gguf.
    #[arg(long, hide = true)]
    create_gguf: bool,
    /// Print what was uploaded as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Adapter,
    Merged,
    Gguf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SaveMethod {
    #[value(name = "merged_16bit")]
    Merged16,
    #[value(name = "merged_4bit")]
    Merged4,
    #[value(name = "lora")]
    Lora,
}

/// The types that are made where none are named.
const USUAL: [Mix; 3] = [Mix::Q4KM, Mix::Q5KM, Mix::Q8_0];

/// `prospect push`
pub(crate) fn push(args: &PushArgs, screen: &Screen) -> Result<u8, Failure> {
    let repo = Repo::new(RepoKind::Model, &args.id)?;
    let client = client(args, screen)?;
    let found = Source::at(&args.dir)?;
    let (what, types) = (what(args, &found)?, types(args));
    let name = args.id.rsplit('/').next().unwrap_or(&args.id);
    let parts = Parts::make(&found, &what_of(&what), &types, args.base.as_deref(), name, screen)?;
    let mut files = parts.files()?;
    if let Some(card) = parts.card(repo.id(), args.license.as_deref())? {
        let path = SafeRelPath::new("README.md")?;
        files.retain(|file| file.path != path);
        files.push(NewFile { path, content: Content::Bytes(card.into_bytes()) });
    }
    let names: Vec<String> = files.iter().map(|file| file.path.as_str().to_owned()).collect();
    let message = args.message.clone().unwrap_or_else(|| format!("Upload {name} with prospect"));
    let request = Push { repo, private: args.private, revision: Revision::new(&args.revision)?, files, message };
    let pushed = hub::push(&client, &request, &Ear::new(screen, "uploading")?)?;
    parts.clear();
    if args.json {
        output::json(&json!({
            "repository": args.id, "url": pushed.url, "commit": pushed.commit.as_ref().map(hub::Commit::as_str),
            "changed": pushed.changed, "unchanged": pushed.unchanged, "files": names,
        }))?;
    } else {
        output::line(&pushed.url)?;
        let commit = pushed.commit.map_or("nothing to commit".to_owned(), |commit| format!("commit {commit}"));
        let (changed, unchanged) = (pushed.changed, pushed.unchanged);
        screen.line(format_args!("{commit}: {changed} files uploaded, {unchanged} were there already"));
    }
    Ok(0)
}

/// A client with the token; what is wrong with it is said before anything is merged.
fn client(args: &PushArgs, screen: &Screen) -> Result<Client, Failure> {
    let mut settings = Settings::from_env(|name| std::env::var(name).ok())?;
    match &args.token {
        Some(token) => {
            screen.note("--token can be read by whoever lists processes; use --token-file, HF_TOKEN or a login");
            settings.token = Some(Secret::new("--token", token)?);
        }
        None => settings.find_token(args.token_file.as_deref())?,
    }
    if settings.token.is_none() {
        return Err(Failure::usage("no token: set HF_TOKEN, give --token-file or log in"));
    }
    Ok(Client::new(settings)?)
}

/// What to upload, as asked for or as found.
fn what(args: &PushArgs, found: &Source) -> Result<Vec<What>, Failure> {
    let mut what = args.what.clone();
    match args.save_method {
        Some(SaveMethod::Merged16) => what.push(What::Merged),
        Some(SaveMethod::Lora) => what.push(What::Adapter),
        Some(SaveMethod::Merged4) => {
            return Err(Failure::usage(
                "--save-method merged_4bit: merge, write four bits with `prospect quantize MODEL --to nf4`, and push that folder",
            ));
        }
        None => {}
    }
    if what.is_empty() {
        what.push(if found.adapter { What::Adapter } else { What::Merged });
    }
    if (args.create_gguf || !args.gguf.is_empty()) && !what.contains(&What::Gguf) {
        what.push(What::Gguf);
    }
    if what.contains(&What::Adapter) && !found.adapter {
        return Err(Failure::usage(format!("--what adapter: {} holds a whole model", found.folder.display())));
    }
    Ok(what)
}

fn what_of(what: &[What]) -> parts::Wanted {
    let has = |part| what.contains(&part);
    parts::Wanted { adapter: has(What::Adapter), merged: has(What::Merged), gguf: has(What::Gguf) }
}

fn types(args: &PushArgs) -> Vec<Mix> {
    if args.gguf.is_empty() { USUAL.to_vec() } else { args.gguf.clone() }
}
