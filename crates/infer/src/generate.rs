//! The loop: admit what the cache has room for, compute what is pending, draw, hand out what is finished.

use crate::sample::Sampler;
use crate::slots::Slots;
use crate::{Error, Sampling};
use kernels::Backend;
use model::{Cache, Decoder};
use nn::{Context, Part};
use pack::{Rows, Segment};
use std::collections::VecDeque;
use std::ops::Range;

/// A prompt and how to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Tokens to continue, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// How they are drawn.
    pub sampling: Sampling,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was drawn.
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

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The tokens drawn; the stop token is the last of them when there was one.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish_reason: FinishReason,
}

/// Bounds of memory and of one step. No bound changes what is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions the decoder was built for.
    pub positions: usize,
    /// Rows of the key/value cache. A sequence holds prompt plus `max_new_tokens` of them from its first step to its last.
    pub cache_rows: usize,
    /// Rows computed in one step, at least 1; prompts are cut into pieces to fit.
    pub step_rows: usize,
}

/// A decoder that answers.
pub struct Generator<'a, B: Backend> {
    ctx: &'a Context<'a, B>,
    decoder: &'a Decoder<B>,
    limits: Limits,
}

/// A sequence that has a place in the cache.
struct Live {
    /// Index of its request.
    request: usize,
    /// Cache rows it may fill.
    slots: Range<usize>,
    /// How many of them are filled.
    cached: usize,
    /// Tokens drawn so far.
    drawn: Vec<u32>,
}

/// The rows of one step and who they belong to; used again from step to step.
#[derive(Default)]
struct Step {
    rows: Rows,
    /// Cache row of each row.
    slots: Vec<u32>,
    /// Rows whose logits are wanted.
    wanted: Vec<u32>,
    /// The live sequence that wants them.
    ready: Vec<usize>,
}

impl<'a, B: Backend> Generator<'a, B> {
    /// A generator with the weights, and the adapters if any, that `ctx` holds.
    pub fn new(ctx: &'a Context<'a, B>, decoder: &'a Decoder<B>, limits: Limits) -> Generator<'a, B> {
        assert!(limits.step_rows > 0, "a step of no rows");
        Generator { ctx, decoder, limits }
    }

    /// Continues every prompt until one of the `stop` tokens or its limit; outputs are in the order of the requests.
    ///
    /// Requests enter in their order, as soon as the cache has room for them. `on_finished` is told each output when it
    /// is complete, with the index of its request.
    ///
    /// # Errors
    /// A request that cannot be served (found before anything is computed), and logits that are not finite.
    pub fn generate(
        &self,
        requests: &[Request],
        stop: &[u32],
        on_finished: &mut (dyn FnMut(usize, &Output) + Send),
    ) -> Result<Vec<Output>, Error> {
        requests.iter().enumerate().try_for_each(|(i, request)| self.check(i, request))?;
        let mut outputs: Vec<Option<Output>> = requests.iter().map(|_| None).collect();
        let mut waiting: VecDeque<usize> = (0..requests.len()).filter(|&i| requests[i].max_new_tokens > 0).collect();
        let rows = self.cache_rows(requests);
        let (mut cache, mut slots) = (self.decoder.cache(self.ctx.backend, rows), Slots::new(rows));
        let (mut live, mut step, mut sampler) = (Vec::new(), Step::default(), Sampler::default());
        loop {
            while let Some(&request) = waiting.front()
                && let Some(slots) = slots.take(rows_of(&requests[request]))
            {
                waiting.pop_front();
                live.push(Live { request, slots, cached: 0, drawn: Vec::new() });
            }
            if live.is_empty() {
                break;
            }
            step.plan(requests, &mut live, self.limits.step_rows);
            let logits = self.compute(&mut cache, &step);
            for (row, &i) in logits.chunks_exact(self.decoder.blueprint.vocab).zip(&step.ready) {
                let Live { request, drawn, .. } = &mut live[i];
                let token = sampler.draw(row, &requests[*request].sampling, drawn.len());
                drawn.push(token.ok_or(Error::NotFinite { request: *request, generated: drawn.len() })?);
            }
            live.retain_mut(|sequence| {
                let Some(finish_reason) = sequence.finished(requests, stop) else { return true };
                slots.give(sequence.slots.clone());
                let output = Output { tokens: std::mem::take(&mut sequence.drawn), finish_reason };
                on_finished(sequence.request, &output);
                outputs[sequence.request] = Some(output);
                false
            });
        }
        let empty = || Output { tokens: Vec::new(), finish_reason: FinishReason::Length };
        Ok(outputs.into_iter().map(|output| output.unwrap_or_else(empty)).collect())
    }

    /// Rows the cache needs: all requests together, if that is less than the limit.
    fn cache_rows(&self, requests: &[Request]) -> usize {
        requests.iter().map(rows_of).sum::<usize>().min(self.limits.cache_rows)
    }

    fn check(&self, index: usize, request: &Request) -> Result<(), Error> {
        let vocabulary = self.decoder.blueprint.vocab;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt { request: index });
        }
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::UnknownToken { request: index, token, vocabulary });
        }
        if let Some((parameter, expected, found)) = request.sampling.fault() {
            return Err(Error::Sampling { request: index, parameter, expected, found });
        }
        let limits = [(self.limits.positions, "the model's positions"), (self.limits.cache_rows, "the cache's rows")];
        let (prompt, max_new_tokens) = (request.prompt.len(), request.max_new_tokens);
        match limits.into_iter().find(|&(room, _)| rows_of(request) > room) {
            None => Ok(()),
            Some((room, limit)) => Err(Error::TooLong { request: index, prompt, max_new_tokens, room, limit }),
        }
    }

    /// Runs a step's rows and returns the wanted logits, `[wanted, v]`.
    fn compute(&self, cache: &mut Cache<B>, step: &Step) -> Vec<B::Real> {
        let part = Part::new(self.ctx.backend, &step.rows);
        let h_sd = self.decoder.step(self.ctx, &part, cache, &step.slots, &step.wanted);
        if step.wanted.is_empty() { Vec::new() } else { self.decoder.head_logits(self.ctx, &h_sd) }
    }
}

/// Cache rows a request can come to fill: the last token drawn is never computed, but counted all the same.
fn rows_of(request: &Request) -> usize {
    request.prompt.len() + request.max_new_tokens
}

impl Live {
    /// Whether and why no more tokens are to be drawn.
    fn finished(&self, requests: &[Request], stop: &[u32]) -> Option<FinishReason> {
        if self.drawn.last().is_some_and(|token| stop.contains(token)) {
            return Some(FinishReason::Stop);
        }
        (self.drawn.len() >= requests[self.request].max_new_tokens).then_some(FinishReason::Length)
    }
}

impl Step {
    /// Takes up to `budget` rows, oldest sequences first: of each the tokens that are not in the cache yet.
    fn plan(&mut self, requests: &[Request], live: &mut [Live], budget: usize) {
        let Step { rows, slots, wanted, ready } = self;
        rows.tokens.clear();
        rows.positions.clear();
        rows.segments.clear();
        slots.clear();
        wanted.clear();
        ready.clear();
        for (i, sequence) in live.iter_mut().enumerate() {
            let prompt = &requests[sequence.request].prompt;
            let (first, all) = (sequence.cached, prompt.len() + sequence.drawn.len());
            let last = all.min(first + budget - rows.len());
            if first == last {
                continue;
            }
            let own = rows.len()..rows.len() + last - first;
            let context = sequence.slots.start..sequence.slots.start + first;
            rows.segments.push(Segment { rows: own.clone(), context });
            rows.tokens.extend(prompt.iter().chain(&sequence.drawn).skip(first).take(own.len()));
            rows.positions.extend(first as u32..last as u32);
            slots.extend((sequence.slots.start + first..sequence.slots.start + last).map(|slot| slot as u32));
            sequence.cached = last;
            if last == all {
                wanted.push(own.end as u32 - 1);
                ready.push(i);
            }
        }
    }
}
