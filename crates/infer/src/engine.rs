//! The loop, one step at a time: admit what the cache has room for, compute what is pending, draw, say what was drawn.

use crate::pages::{Chain, Pages};
use crate::sample::{Sampler, TokenLogprobs};
use crate::{Error, Limits, Request};
use kernels::{Backend, PAGE, PagedSpan};
use model::{Cache, Decoder};
use nn::{Context, Part, Step};
use pack::Rows;
use std::collections::VecDeque;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was drawn, or a stop text came up.
    Stop,
    /// `max_new_tokens` were drawn.
    Length,
}

impl FinishReason {
    /// The name that serving APIs use.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// A token that a step has drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The request it belongs to, as [`Engine::submit`] was told.
    pub request: usize,
    /// The token.
    pub token: u32,
    /// Its log-probability and those of the most likely tokens, when asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// Why it is the last one, if it is.
    pub finish: Option<FinishReason>,
}

/// Requests that wait, sequences that are computed, and what is remembered of them.
pub struct Engine<'a, B: Backend> {
    ctx: &'a Context<'a, B>,
    decoder: &'a Decoder<B>,
    limits: Limits,
    stop: Vec<u32>,
    cache: Cache<B>,
    pages: Pages,
    waiting: VecDeque<(usize, Request)>,
    live: Vec<Live>,
    sampler: Sampler<B::Real>,
    /// Rows computed, over all steps.
    computed: usize,
    /// Drawn beside a sequence that failed: handed out by the next step.
    held: Vec<Drawn>,
}

/// A sequence that has a place in the cache.
struct Live {
    /// The number of its request.
    request: usize,
    /// Prompt, then what was drawn.
    tokens: Vec<u32>,
    prompt: usize,
    asked: Request,
    chain: Chain,
    /// How many tokens' keys and values are there.
    cached: usize,
}

impl<'a, B: Backend> Engine<'a, B> {
    /// An engine with the weights, and the adapters if any, that `ctx` holds. Answers end with one of the tokens `stop`.
    pub fn new(ctx: &'a Context<'a, B>, decoder: &'a Decoder<B>, limits: Limits, stop: &[u32]) -> Engine<'a, B> {
        assert!(limits.step_rows > 0, "a step of no rows");
        let pages = limits.pages();
        Engine {
            ctx,
            decoder,
            limits,
            stop: stop.to_vec(),
            cache: decoder.cache(ctx.backend, pages * PAGE),
            pages: Pages::new(pages),
            waiting: VecDeque::new(),
            live: Vec::new(),
            sampler: Sampler::default(),
            computed: 0,
            held: Vec::new(),
        }
    }

    /// Whether a request can be served at all.
    ///
    /// # Errors
    /// Why not, with `number`.
    pub fn check(&self, number: usize, request: &Request) -> Result<(), Error> {
        let vocabulary = self.decoder.blueprint.vocab;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt { request: number });
        }
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::UnknownToken { request: number, token, vocabulary });
        }
        if let Some((parameter, expected, found)) = request.sampling.fault() {
            return Err(Error::Sampling { request: number, parameter, expected, found });
        }
        let (prompt, max_new_tokens) = (request.prompt.len(), request.max_new_tokens);
        let limits =
            [(self.limits.positions, "the model's positions"), (self.limits.pages() * PAGE, "the cache's rows")];
        match limits.into_iter().find(|&(room, _)| prompt + max_new_tokens > room) {
            None => Ok(()),
            Some((room, limit)) => Err(Error::TooLong { request: number, prompt, max_new_tokens, room, limit }),
        }
    }

    /// Takes a request in; what is drawn for it carries `number`. One of no new tokens is done at once.
    ///
    /// # Errors
    /// As [`Engine::check`].
    pub fn submit(&mut self, number: usize, request: Request) -> Result<(), Error> {
        self.check(number, &request)?;
        if request.max_new_tokens > 0 {
            self.waiting.push_back((number, request));
        }
        Ok(())
    }

    /// Drops a request; nothing more is drawn for it.
    pub fn cancel(&mut self, number: usize) {
        self.waiting.retain(|(request, _)| *request != number);
        if let Some(i) = self.live.iter().position(|live| live.request == number) {
            let live = self.live.remove(i);
            self.pages.give(live.chain);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.live.is_empty() && self.held.is_empty()
    }

    /// Rows computed so far: tokens of prompts that were not in the cache yet, and tokens drawn.
    pub fn computed_rows(&self) -> usize {
        self.computed
    }

    /// Computes up to [`Limits::step_rows`] rows and draws a token for every sequence whose last row is among them.
    ///
    /// # Errors
    /// Logits that are not finite; the request is dropped, the others can go on. A GPU that fails: nothing can.
    pub fn step(&mut self) -> Result<Vec<Drawn>, Error> {
        if !self.held.is_empty() {
            return Ok(std::mem::take(&mut self.held));
        }
        self.admit();
        let (rows, spans, slots, wanted, ready) = self.plan();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.computed += rows.len();
        if spans.iter().all(|span| span.rows.len() == 1) {
            // Prompts differ; a token a sequence is asked for again and again.
            self.ctx.backend.repeats();
        }
        let step = Step { part: Part::new(self.ctx.backend, &rows), spans, slots };
        let h_sd = self.decoder.step(self.ctx, &step, &mut self.cache, &wanted);
        for live in &mut self.live {
            self.pages.publish(&mut live.chain, &live.tokens[..live.cached]);
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.decoder.head_logits(self.ctx, &h_sd);
        if let Some(error) = self.ctx.backend.trouble() {
            return Err(error.into());
        }
        let mut drawn = Vec::with_capacity(ready.len());
        let mut failed = None;
        for (row, &i) in logits.chunks_exact(self.decoder.blueprint.vocab).zip(&ready) {
            let live = &mut self.live[i];
            let generated = live.tokens.len() - live.prompt;
            let (asked, request) = (&live.asked, live.request);
            let Some(token) = self.sampler.draw(row, &asked.sampling, &live.tokens, generated) else {
                failed = Some((request, generated));
                continue;
            };
            let logprobs = asked.logprobs.map(|top| TokenLogprobs::of(row, token, top));
            live.tokens.push(token);
            let finish = if self.stop.contains(&token) {
                Some(FinishReason::Stop)
            } else {
                (generated + 1 >= live.asked.max_new_tokens).then_some(FinishReason::Length)
            };
            drawn.push(Drawn { request, token, logprobs, finish });
        }
        for done in drawn.iter().filter(|drawn| drawn.finish.is_some()) {
            self.cancel(done.request);
        }
        if let Some((request, generated)) = failed {
            self.cancel(request);
            self.held = drawn;
            return Err(Error::NotFinite { request, generated });
        }
        Ok(drawn)
    }

    /// Gives waiting requests a place, in their order, as long as there is room. One that begins as a prompt which is just being
    /// computed waits for that.
    fn admit(&mut self) {
        let mut i = 0;
        while let Some((_, request)) = self.waiting.get(i) {
            let beginning = self.pages.beginning(&request.prompt);
            let pending = |live: &Live| {
                let same = live.tokens[..live.prompt].iter().zip(&request.prompt).take_while(|(a, b)| a == b).count();
                live.cached < live.prompt && same.min(request.prompt.len() - 1) >= beginning.tokens() + PAGE
            };
            if self.live.iter().any(pending) {
                i += 1;
                continue;
            }
            let positions = request.prompt.len() + request.max_new_tokens;
            let Some((chain, copy)) = self.pages.admit(beginning, positions) else { break };
            let mut cached = (chain.pages.len() - usize::from(copy.is_some())) * PAGE;
            if let Some((from, to, rows)) = copy {
                cached += rows;
                let of = |page: u32| (0..rows as u32).map(move |row| page * PAGE as u32 + row).collect::<Vec<_>>();
                self.cache.copy_rows(self.ctx.backend, &of(from), &of(to));
            }
            let Some((number, asked)) = self.waiting.remove(i) else { break };
            let (tokens, prompt) = (asked.prompt.clone(), asked.prompt.len());
            self.live.push(Live { request: number, tokens, prompt, asked, chain, cached });
        }
    }

    /// Takes up to the limit of rows, oldest sequences first: of each the tokens that are not in the cache yet.
    #[allow(clippy::type_complexity)] // the parts of a step, taken apart at once
    fn plan(&mut self) -> (Rows, Vec<PagedSpan>, Vec<u32>, Vec<u32>, Vec<usize>) {
        let (mut rows, mut spans, mut slots) = (Rows::default(), Vec::new(), Vec::new());
        let (mut wanted, mut ready) = (Vec::new(), Vec::new());
        for (i, live) in self.live.iter_mut().enumerate() {
            let (first, all) = (live.cached, live.tokens.len());
            let last = all.min(first + self.limits.step_rows - rows.len());
            if first == last {
                continue;
            }
            while live.chain.pages.len() * PAGE < last {
                self.pages.grow(&mut live.chain);
            }
            let own = rows.len()..rows.len() + last - first;
            rows.tokens.extend(&live.tokens[first..last]);
            rows.positions.extend(first as u32..last as u32);
            slots.extend((first..last).map(|at| live.chain.pages[at / PAGE] * PAGE as u32 + (at % PAGE) as u32));
            live.cached = last;
            if last == all {
                wanted.push(own.end as u32 - 1);
                ready.push(i);
            }
            spans.push(PagedSpan { rows: own, position: first, pages: live.chain.pages.clone() });
        }
        (rows, spans, slots, wanted, ready)
    }
}
