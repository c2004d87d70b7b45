//! A model that is examined: its tokenizer, its prompts as tokens, its answers.

use crate::samples::{Finish, Sample};
use crate::{Error, PromptType, Settings};
use data::RenderInput;
use data::rng::Stream;
use infer::{Device, FinishReason, ModelFolder, Output, Placed, Request, Sampling, StopTexts};
use serde_json::json;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Rows of the key/value cache, unless one answer needs more.
const CACHE_ROWS: usize = 16_384;
/// Rows of one forward pass.
const STEP_ROWS: usize = 512;
/// Answers asked for together; between two of these portions an error can end the evaluation.
const PORTION: usize = 256;

/// A model folder with an adapter, if any; the weights are read when they are needed.
pub struct Candidate {
    folder: ModelFolder,
    adapter: Option<PathBuf>,
    device: Device,
    stop: Vec<u32>,
}

/// A question as tokens, and the seed of its answer.
pub(crate) struct Asked {
    pub(crate) prompt: Vec<u32>,
    pub(crate) seed: u64,
}

impl Candidate {
    /// Opens a model folder.
    ///
    /// # Errors
    /// Files that are missing or malformed.
    pub fn open(folder: &Path, adapter: Option<&Path>, device: Device) -> Result<Self, Error> {
        let folder = ModelFolder::open(folder, adapter)?;
        let mut stop = folder.stop_tokens()?;
        // A stop text that is one token is never seen in the decoded text, as special tokens are left out there.
        stop.extend(PromptType::Direct.stops().iter().filter_map(|text| folder.tokenizer.token_to_id(text)));
        stop.sort_unstable();
        stop.dedup();
        Ok(Self { folder, adapter: adapter.map(Path::to_owned), device, stop })
    }

    /// A hash that tells this model from others: see [`identity`].
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn identity(&self) -> Result<String, Error> {
        identity(&self.folder.path, self.adapter.as_deref())
    }

    /// The tokens that put a question to the model.
    pub(crate) fn prompt(&self, question: &str, settings: &Settings) -> Result<Vec<u32>, Error> {
        let prompt = settings.prompt_type.prompt(question);
        if settings.apply_chat_template {
            let messages = &[json!({"role": "user", "content": prompt})];
            let input = RenderInput { messages, add_generation_prompt: true, ..Default::default() };
            return Ok(self.folder.tokenizer.encode(&self.folder.tokenizer.render(input)?, false)?);
        }
        Ok(self.folder.tokenizer.encode(&prompt, true)?)
    }

    /// Reads the weights, for sequences of at most `positions` tokens, or of as many as the model has.
    pub(crate) fn load(&self, positions: usize) -> Result<Placed, Error> {
        Ok(self.folder.place(positions, &self.device)?)
    }

    /// Answers all questions and tells `finished` each answer with the index of its question, in the order they end.
    pub(crate) fn answer(
        &self,
        model: &Placed,
        asked: &[Asked],
        settings: &Settings,
        finished: &mut (dyn FnMut(usize, Sample) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        for (portion, first) in asked.chunks(PORTION).zip((0..).step_by(PORTION)) {
            let room = |asked: &Asked| model.positions().saturating_sub(asked.prompt.len());
            let (fits, full): (Vec<usize>, Vec<usize>) = (0..portion.len()).partition(|&i| room(&portion[i]) > 0);
            for i in full {
                finished(first + i, Sample { text: String::new(), tokens: 0, finish: Finish::NoRoom })?;
            }
            let request = |&i: &usize| {
                let (temperature, top_p, seed) = (settings.temperature, settings.top_p, portion[i].seed);
                let sampling = Sampling { temperature, top_p, seed, ..Sampling::GREEDY };
                let max_new_tokens = settings.max_tokens_per_call.min(room(&portion[i]));
                Request::new(portion[i].prompt.clone(), max_new_tokens, sampling)
            };
            let requests: Vec<Request> = fits.iter().map(request).collect();
            let rows = model.positions().max(CACHE_ROWS);
            let mut outcome = Ok(());
            let texts: Vec<String> = settings.prompt_type.stops().iter().map(|text| (*text).to_owned()).collect();
            let texts = StopTexts { tokenizer: &self.folder.tokenizer, texts: &texts };
            model.generate(&requests, (&self.stop, Some(texts)), (rows, STEP_ROWS), &mut |i, output| {
                if outcome.is_ok() {
                    outcome = self.sample(output, settings).and_then(|sample| finished(first + fits[i], sample));
                }
            })?;
            outcome?;
        }
        Ok(())
    }

    /// The answer as text, cut at the first stop text.
    fn sample(&self, output: &Output, settings: &Settings) -> Result<Sample, Error> {
        let decode = |tokens: &[u32]| self.folder.tokenizer.decode(tokens, true);
        let whole = decode(&output.tokens)?;
        let (text, cut) = settings.prompt_type.cut(&whole);
        let stopped = cut || output.finish_reason == FinishReason::Stop;
        let finish = if stopped { Finish::Stop } else { Finish::Length };
        let mut tokens = output.tokens.len();
        if cut {
            // The fewest tokens that hold a stop text.
            let (mut low, mut high) = (0, tokens);
            while low < high {
                let middle = (low + high) / 2;
                let holds = settings.prompt_type.cut(&decode(&output.tokens[..middle])?).1;
                (low, high) = if holds { (low, middle) } else { (middle + 1, high) };
            }
            tokens = low;
        }
        Ok(Sample { text: text.to_owned(), tokens, finish })
    }
}

/// The seed of answer `number` to row `idx` of a task: of nothing else, so that no answer depends on what is asked beside it.
pub(crate) fn seed_of(seed: u64, task: &str, idx: i64, number: usize) -> u64 {
    let name = blake3::hash(task.as_bytes());
    let name = u64::from_le_bytes(name.as_bytes()[..8].try_into().unwrap_or_default());
    Stream::new(seed ^ name, idx as u64).at(number as u64)
}

/// Pieces of a file that are hashed.
const PIECES: u64 = 64;
/// Bytes of a piece.
const PIECE: u64 = 4096;

/// A hash of a model folder's and an adapter's weights and configuration, from names, lengths and 64 pieces of each file: a
/// model trained on is another one, and a model moved is the same.
///
/// # Errors
/// Files that cannot be read.
pub fn identity(folder: &Path, adapter: Option<&Path>) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    for folder in [Some(folder), adapter].into_iter().flatten() {
        let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let counts =
            |name: &str| name.ends_with(".safetensors") || name == "config.json" || name == "adapter_config.json";
        for name in names.iter().filter_map(|name| name.to_str()).filter(|name| counts(name)) {
            let path = folder.join(name);
            let mut file = std::fs::File::open(&path).map_err(Error::io("read", &path))?;
            let length = file.metadata().map_err(Error::io("read", &path))?.len();
            hasher.update(name.as_bytes()).update(&length.to_le_bytes());
            let step = (length / PIECES).max(PIECE);
            for at in (0..length).step_by(step as usize) {
                let mut piece = Vec::new();
                file.seek(SeekFrom::Start(at)).map_err(Error::io("read", &path))?;
                (&mut file).take(PIECE).read_to_end(&mut piece).map_err(Error::io("read", &path))?;
                hasher.update(&piece);
            }
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Scratch;

    #[test]
    fn a_model_is_known_by_its_weights_wherever_it_lies() {
        let scratch = Scratch::new("identity");
        let write = |folder: &str, byte: u8| {
            let folder = scratch.0.join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("model.safetensors"), vec![byte; 10_000]).unwrap();
            std::fs::write(folder.join("README.md"), [byte, b'b' - byte]).unwrap();
            identity(&folder, None).unwrap()
        };
        assert_eq!(write("a", 1), write("b", 1));
        assert_ne!(write("a", 1), write("b", 2));
    }

    #[test]
    fn every_answer_has_a_seed_of_its_own() {
        let seeds = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 0, 0)].map(|(t, i, n)| seed_of(1, t, i, n));
        assert!(seeds.iter().enumerate().all(|(i, seed)| !seeds[..i].contains(seed)));
        assert_eq!(seed_of(1, "a", 0, 0), seeds[0]);
    }
}
