//! Everything a run reads before its first step: model files, tokenizer, rows, pairs, order.

use crate::policy::AdapterPlan;
use crate::sets::datasets;
use crate::step::TextRow;
use crate::{Control, Error, Event};
use config::{Config, Kto, KtoLoss, Objective, Packing, Pairing, Sft};
use data::packing::{Bins, Piece};
use data::{Clock, Dataset, NewToken, Order, Shuffle, Tokenizer, TokenizerFiles};
use model::Blueprint;
use objective::Loss;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use weights::Checkpoint;

/// A run's inputs, loaded and fitted to one another.
pub struct Job {
    /// The settings.
    pub config: Config,
    /// The model's tensors, mapped.
    pub checkpoint: Checkpoint,
    /// The model's shapes.
    pub blueprint: Blueprint,
    /// What the run changes in the model's `config.json`.
    pub changes: Vec<(String, serde_json::Value)>,
    /// The chat template that was given in place of the tokenizer's, for the result. The tokenizer itself is let go: it
    /// takes more memory than the rows.
    pub given_template: Option<String>,
    /// Tokens that end an answer, where a template by name ends it otherwise than the tokenizer does: its own, then the tokenizer's.
    pub ends: Vec<u32>,
    /// Special tokens that the run gives its tokenizer.
    pub new_tokens: Vec<NewToken>,
    /// The adapter, unless everything is trained.
    pub adapter: Option<AdapterPlan>,
    /// Rows to train on.
    pub train: Rows,
    /// Rows to evaluate on.
    pub eval: Option<Rows>,
    /// Which rows form which step.
    pub order: Order,
    /// Optimiser steps of the run.
    pub total_steps: usize,
    /// Class weights, resolved.
    pub weights: (f64, f64),
    /// Weight of the routers' load-balancing loss; `None`: the model has no routers.
    pub balance: Option<f64>,
    /// Longest sequence that can occur, tokens.
    pub positions: usize,
    /// Things worth saying.
    pub notes: Vec<String>,
    /// Bytes that the GPU has free which the job's run computes on, once that was asked ([`crate::ask_gpu`]).
    pub gpu_memory: Option<u64>,
    /// Bytes of a mapped embedding that no row of the run reads.
    pub(crate) unread: u64,
}

/// A data set with what its objective adds.
pub struct Rows {
    /// Token rows.
    pub data: Dataset,
    /// Mismatched partners (KTO).
    pub partners: Vec<u32>,
    /// Packed bins (SFT with `packing`).
    pub bins: Option<Bins>,
}

impl Rows {
    /// Units that a batch counts: rows, or bins.
    pub fn len(&self) -> usize {
        self.bins.as_ref().map_or(self.data.len(), Bins::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SFT sequences of unit `i`.
    pub fn texts(&self, i: u32) -> Vec<TextRow> {
        match &self.bins {
            None => vec![text_of_row(&self.data, i)],
            Some(bins) => bins.bin(i as usize).iter().map(|p| text_of_piece(&self.data, *p)).collect(),
        }
    }
}

fn mask(len: usize, spans: impl Iterator<Item = std::ops::Range<u32>>, shift: usize) -> Vec<bool> {
    let mut mask = vec![false; len];
    spans.for_each(|s| mask[s.start as usize - shift..s.end as usize - shift].fill(true));
    mask
}

fn text_of_row(data: &Dataset, i: u32) -> TextRow {
    let row = i as usize;
    let spans = data.loss_spans(row);
    let prompt = data.prompt(row);
    // A prompt is shared between its answers when nothing in it is scored.
    let split = if spans.first().is_some_and(|s| s.start as usize >= prompt.len()) { prompt.len() } else { 0 };
    let (prompt, tokens) = data.tokens(row).split_at(split);
    TextRow {
        prompt: prompt.to_vec(),
        tokens: tokens.to_vec(),
        scored: mask(tokens.len(), spans.iter().cloned(), split),
        row: i,
    }
}

fn text_of_piece(data: &Dataset, piece: Piece) -> TextRow {
    let tokens = data.piece_tokens(piece);
    TextRow {
        prompt: Vec::new(),
        tokens: tokens.to_vec(),
        scored: mask(tokens.len(), data.piece_loss_spans(piece), 0),
        row: piece.row,
    }
}

impl Job {
    /// Loads and checks everything. Weights are mapped, not read.
    pub fn new(config: Config, clock: Clock, observe: &mut dyn FnMut(Event)) -> Result<Job, Error> {
        Job::until(config, clock, &Control::default(), observe)
    }

    /// [`new`](Self::new), until a stop is asked for: then it is `Stopped`, and what was tokenised is kept where there is a cache.
    pub fn until(
        mut config: Config,
        clock: Clock,
        control: &Control,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Job, Error> {
        let checkpoint = Checkpoint::open(&config.model.path)?;
        let (mut blueprint, mut changes) = crate::context::blueprint(&config)?;
        let files = tokenizer_files(&config, clock)?;
        let mut tokenizer = RunTokenizer { files, embeddings: blueprint.vocab, loaded: OnceCell::new() };
        let mut notes = Vec::new();
        let new_tokens = crate::vocabulary::fit(&mut config, &mut blueprint, &mut tokenizer, &mut notes)?;
        fit_length(&mut config, blueprint.max_positions, &mut notes)?;
        let balance = balance(&config, &blueprint)?;
        let adapter = AdapterPlan::new(&config.tuning, &blueprint)?;
        if adapter.is_some() && !changes.is_empty() {
            let text = "rope_scaling: the adapter fits the base with these positions; give its config.json the same when it is used or merged";
            notes.push(text.to_owned());
        }
        // An adapter that exists may bring an embedding with more rows, and a tokenizer for it.
        let own = adapter.as_ref().and_then(|a| a.given.as_ref()?.vocabulary()).unwrap_or(0);
        blueprint.grow(own);
        tokenizer.embeddings = blueprint.vocab;
        if blueprint.grown > 0 {
            changes.push(("vocab_size".to_owned(), blueprint.vocab.into()));
        }
        let ends = ends(&config, &tokenizer)?;
        let (train, eval) = datasets(&config, &tokenizer, &mut notes, control, observe)?;
        // What was found in the cache says how many ids its tokenizer has.
        tokenizer.fits(train.report.vocab)?;
        let order = order(&config, &train, unit_count(&config, &train));
        let train = rows(&config, train, Some(&order), &mut notes);
        let eval = eval.map(|data| rows(&config, data, None, &mut notes));
        let total_steps = match config.duration {
            config::Duration::Steps(n) => n,
            config::Duration::Epochs(e) => order.total_steps(e, None),
        };
        let weights = class_weights(&config, &train.data, &mut notes);
        let positions = longest(&config, &train.data).max(eval.as_ref().map_or(0, |e| longest(&config, &e.data)));
        if positions > blueprint.max_positions {
            let what = format!(
                "the longest row has {positions} tokens, the model {} positions; set max_length",
                blueprint.max_positions
            );
            return Err(Error::Mismatch { what });
        }
        let mut job = Job {
            config,
            checkpoint,
            blueprint,
            changes,
            given_template: tokenizer.files.given_template().map(str::to_owned),
            ends,
            new_tokens,
            adapter,
            train,
            eval,
            order,
            total_steps,
            weights,
            balance,
            positions,
            notes,
            gpu_memory: None,
            unread: 0,
        };
        job.unread = crate::storage::unread_bytes(&job);
        job.notes.extend(crate::storage::notes(&job));
        Ok(job)
    }

    /// The preference settings of the run, when it has any.
    pub fn kto(&self) -> Option<&Kto> {
        match &self.config.objective {
            Objective::Kto(kto) => Some(kto),
            Objective::Sft(_) => None,
        }
    }

    /// What of the model is trained.
    pub fn tuning(&self) -> model::Tuning<'_> {
        match (&self.adapter, &self.config.tuning) {
            (Some(adapter), _) => model::Tuning::Lora(&adapter.adapters),
            (None, config::Tuning::Blocks(n)) => {
                let blocks = trained_blocks(*n, self.blueprint.layers.len());
                model::Tuning::Blocks { first: blocks.start, past: blocks.end }
            }
            (None, _) => model::Tuning::Full,
        }
    }

    /// Files of the model, tokenizer and adapter, for the lock.
    pub fn model_files(&self) -> Vec<PathBuf> {
        let dir = &self.config.model.path;
        let side = ["config.json", "tokenizer.json", "qwen.tiktoken", "tokenizer_config.json", "chat_template.jinja"]
            .map(|f| dir.join(f));
        let mut files: Vec<PathBuf> = self.checkpoint.files().map(Path::to_owned).collect();
        files.extend(side.into_iter().filter(|f| f.is_file()));
        if let config::Tuning::Adapter { path, .. } = &self.config.tuning {
            files.extend([weights::ADAPTER_CONFIG_FILE, weights::ADAPTER_WEIGHTS_FILE].map(|f| path.join(f)));
            files.extend(Some(tokenizer_folder(&self.config).join("tokenizer.json")).filter(|f| f.starts_with(path)));
        }
        files.iter().map(|f| std::path::absolute(f).unwrap_or_else(|_| f.clone())).collect()
    }

    /// Data files, for the lock.
    pub fn data_files(&self) -> Vec<PathBuf> {
        let sets = std::iter::once(&self.train).chain(&self.eval);
        let mut files: Vec<PathBuf> =
            sets.flat_map(|s| s.data.files()).map(|f| std::path::absolute(f).unwrap_or_else(|_| f.clone())).collect();
        files.sort();
        files.dedup();
        files
    }
}

/// Holds `max_length` within the model's positions: a default gives way, what was asked for is an error.
fn fit_length(config: &mut Config, positions: usize, notes: &mut Vec<String>) -> Result<(), Error> {
    let Some(max) = config.data.max_length.filter(|max| *max > positions) else { return Ok(()) };
    if !config.data.default_length {
        let what = format!(
            "max_length: {max} is above the {positions} positions of the model (max_position_embeddings); lower max_length"
        );
        return Err(Error::Mismatch { what });
    }
    notes.push(format!("max_length: {positions}, all the positions that the model has; {max} is the default"));
    config.data.max_length = Some(positions);
    Ok(())
}

/// The last `n` of `all` blocks, or the first when it is negative; never more than there are.
pub(crate) fn trained_blocks(n: i64, all: usize) -> std::ops::Range<usize> {
    let count = (n.unsigned_abs() as usize).min(all);
    if n < 0 { 0..count } else { all - count..all }
}

fn ends(config: &Config, tokenizer: &RunTokenizer) -> Result<Vec<u32>, Error> {
    let given = config.data.chat_template.as_deref().filter(|path| !path.exists()).and_then(Path::to_str);
    let Some(stop) = given.and_then(data::template::named::find).and_then(|template| template.stop) else {
        return Ok(Vec::new());
    };
    let tokenizer = tokenizer.get()?;
    Ok(match (tokenizer.token_to_id(stop), tokenizer.eos_id()) {
        (Some(stop), eos) if eos != Some(stop) => std::iter::once(stop).chain(eos).collect(),
        _ => Vec::new(),
    })
}

/// The folder of a run's tokenizer: the model's, or that of an adapter which trained the embedding and has one.
pub(crate) fn tokenizer_folder(config: &Config) -> &Path {
    match &config.tuning {
        config::Tuning::Adapter { path, .. }
            if weights::trains_embedding(path) && path.join("tokenizer.json").is_file() =>
        {
            path
        }
        _ => &config.model.path,
    }
}

/// The tokenizer of a run, with the template that the run names.
pub(crate) fn tokenizer_files(config: &Config, clock: Clock) -> Result<TokenizerFiles, Error> {
    let files = TokenizerFiles::open(tokenizer_folder(config), clock)?.with_tokens(&config.model.new_tokens);
    match &config.data.chat_template {
        None => Ok(files),
        Some(path) => Ok(files.with_template(path)?),
    }
}

/// A run's tokenizer, parsed when something has to be tokenised: rows of the cache need its fingerprint only.
pub(crate) struct RunTokenizer {
    pub(crate) files: TokenizerFiles,
    /// Rows of the model's embedding.
    embeddings: usize,
    loaded: OnceCell<Tokenizer>,
}

impl RunTokenizer {
    pub(crate) fn get(&self) -> Result<&Tokenizer, Error> {
        if let Some(tokenizer) = self.loaded.get() {
            return Ok(tokenizer);
        }
        let tokenizer = self.files.load()?;
        self.fits(tokenizer.vocab_size())?;
        Ok(self.loaded.get_or_init(|| tokenizer))
    }

    /// Keeps a tokenizer that was read, of a model with so many rows of embeddings.
    pub(crate) fn keep(&mut self, loaded: Tokenizer, embeddings: usize) {
        self.embeddings = embeddings;
        self.loaded = OnceCell::from(loaded);
    }

    /// Whether a tokenizer of so many ids is one of this model's.
    fn fits(&self, ids: usize) -> Result<(), Error> {
        if ids <= self.embeddings {
            return Ok(());
        }
        let (model, rows) = (self.files.folder().display(), self.embeddings);
        let what = format!(
            "{model}: the tokenizer has {ids} tokens, the model's embedding {rows} rows (vocab_size); use the tokenizer that belongs to the model, or set resize_vocab"
        );
        Err(Error::Mismatch { what })
    }
}

/// The loss that the configuration names.
pub fn loss_of(kto: &Kto) -> Loss {
    match kto.loss {
        KtoLoss::Kto => Loss::Kto,
        KtoLoss::KtoS => Loss::KtoS,
        KtoLoss::ApoZeroUnpaired => Loss::ApoZero,
    }
}

fn unit_count(config: &Config, data: &Dataset) -> usize {
    bins(config, data).map_or(data.len(), |b| b.len())
}

fn bins(config: &Config, data: &Dataset) -> Option<Bins> {
    let Objective::Sft(Sft { packing: Some(packing), .. }) = &config.objective else { return None };
    let strategy = match packing {
        Packing::Bfd => data::packing::Strategy::Bfd,
        Packing::BfdSplit => data::packing::Strategy::BfdSplit,
        Packing::Wrapped => data::packing::Strategy::Wrapped,
    };
    let capacity = config.data.max_length.map_or_else(|| data.lengths().into_iter().max().unwrap_or(1), |m| m as u32);
    Some(data::packing::pack(&data.lengths(), capacity, strategy))
}

fn order(config: &Config, data: &Dataset, rows: usize) -> Order {
    let _ = data;
    let shuffle = match (&config.objective, config.data.shuffle) {
        (_, false) => Shuffle::None,
        (Objective::Kto(_), true) => Shuffle::Groups,
        (Objective::Sft(_), true) => Shuffle::Rows,
    };
    Order {
        rows,
        micro_batch: config.batch.train_rows,
        accumulation: config.batch.accumulation,
        seed: config.engine.data_seed,
        shuffle,
    }
}

fn rows(config: &Config, data: Dataset, order: Option<&Order>, notes: &mut Vec<String>) -> Rows {
    let bins = bins(config, &data);
    let Objective::Kto(kto) = &config.objective else { return Rows { data, partners: Vec::new(), bins } };
    let hashes = data.prompt_hashes();
    let partners = match (kto.pairing, order) {
        // TRL lays the same grid over evaluation rows.
        (Pairing::Trl, _) => data::pairing::trl(&hashes, config.batch.train_rows),
        (Pairing::Group, Some(order)) => data::pairing::group(&hashes, &order.base(), order.rows_per_step()),
        (Pairing::Group, None) => {
            data::pairing::group(&hashes, &(0..data.len() as u32).collect::<Vec<_>>(), config.batch.eval_rows.max(2))
        }
    };
    let bad = partners.own + partners.same_prompt;
    if bad > 0 && loss_of(kto).needs_z0() {
        notes.push(format!("{bad} rows are paired with an answer to their own prompt, because no other was at hand; they bias the KL estimate"));
    }
    Rows { data, partners: partners.partner, bins }
}

fn class_weights(config: &Config, data: &Dataset, notes: &mut Vec<String>) -> (f64, f64) {
    use objective::balance::{Weight, advise, resolve};
    let Objective::Kto(kto) = &config.objective else { return (1.0, 1.0) };
    let (n_d, n_u) = data.label_counts();
    let weight = |w: config::Weight| match w {
        config::Weight::Number(x) => Weight::Given(x),
        config::Weight::Auto => Weight::Auto,
    };
    let weights = resolve(weight(kto.desirable_weight), weight(kto.undesirable_weight), n_d, n_u);
    if matches!(kto.desirable_weight, config::Weight::Auto) || matches!(kto.undesirable_weight, config::Weight::Auto) {
        notes.push(format!(
            "class weights by the paper's Eq. 9 for {n_d} desirable and {n_u} undesirable rows: {:.4} and {:.4}",
            weights.0, weights.1
        ));
    }
    notes.extend(advise(weights, n_d, n_u).map(|a| a.to_string()));
    if n_d == 0 || n_u == 0 {
        notes.push(format!(
            "all {} rows are {}: KTO then only moves their likelihood one way, against a floating baseline",
            n_d + n_u,
            if n_u == 0 { "desirable" } else { "undesirable" }
        ));
    }
    weights
}

/// The coefficient of the load-balancing loss, as TRL finds it: the run's own, else the model's.
fn balance(config: &Config, blueprint: &Blueprint) -> Result<Option<f64>, Error> {
    let Some(experts) = &blueprint.experts else { return Ok(None) };
    match (config.model.router_aux_loss_coef, experts.balance) {
        (Some(c), None) if c > 0.0 => Err(Error::Mismatch {
            what: format!(
                "router_aux_loss_coef: {c}, but {} models have no load-balancing loss; remove the key",
                blueprint.model_type
            ),
        }),
        (given, own) => Ok(Some(given.or(own).unwrap_or(0.0))),
    }
}

/// Most tokens of a sequence, the mismatched ones included.
fn longest(config: &Config, data: &Dataset) -> usize {
    let rows = 0..data.len();
    let own = rows.clone().map(|i| data.tokens(i).len()).max().unwrap_or(1);
    let mixed = match config.objective {
        Objective::Sft(_) => own,
        Objective::Kto(_) => {
            rows.clone().map(|i| data.prompt(i).len()).max().unwrap_or(0)
                + rows.map(|i| data.completion(i).len()).max().unwrap_or(0)
        }
    };
    config.data.max_length.map_or(mixed, |m| mixed.min(m)).max(own)
}
