//! Many prompts continued together, and handed out as they are finished.

use crate::text::{Ending, Writer};
use crate::{Engine, Error, FinishReason, Sampling};
use data::Tokenizer;
use kernels::{Backend, PAGE};
use model::Decoder;
use nn::Context;

/// A prompt and how to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Tokens to continue, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Whether log-probabilities are wanted, and of how many of the most likely tokens beside the one drawn.
    pub logprobs: Option<usize>,
}

impl Request {
    /// A request without log-probabilities.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize, sampling: Sampling) -> Request {
        Request { prompt, max_new_tokens, sampling, logprobs: None }
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
    /// Rows of the key/value cache, in whole pages. A sequence may come to hold prompt plus `max_new_tokens` of them, less what it
    /// shares.
    pub cache_rows: usize,
    /// Rows computed in one step, at least 1; prompts are cut into pieces to fit.
    pub step_rows: usize,
}

impl Limits {
    /// Pages of the cache.
    pub(crate) fn pages(&self) -> usize {
        self.cache_rows.div_ceil(PAGE)
    }
}

/// Texts that end an answer, and the tokenizer in whose texts they are looked for.
#[derive(Clone, Copy)]
pub struct StopTexts<'a> {
    /// Of the model.
    pub tokenizer: &'a Tokenizer,
    /// The texts.
    pub texts: &'a [String],
}

/// A decoder that answers.
pub struct Generator<'a, B: Backend> {
    ctx: &'a Context<'a, B>,
    decoder: &'a Decoder<B>,
    limits: Limits,
}

/// An answer that is being drawn.
struct Open<'a> {
    tokens: Vec<u32>,
    writer: Option<Writer<'a>>,
}

impl<'a, B: Backend> Generator<'a, B> {
    /// A generator with the weights, and the adapters if any, that `ctx` holds.
    pub fn new(ctx: &'a Context<'a, B>, decoder: &'a Decoder<B>, limits: Limits) -> Generator<'a, B> {
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
        self.generate_until(requests, stop, None, on_finished)
    }

    /// As [`Generator::generate`]; an answer ends also when one of some texts comes up in it. Its tokens go up to the one with which
    /// that text was complete: the text before it is for [`crate::cut`] to find.
    ///
    /// # Errors
    /// As there, and what the tokenizer cannot decode.
    pub fn generate_until(
        &self,
        requests: &[Request],
        stop: &[u32],
        texts: Option<StopTexts<'_>>,
        on_finished: &mut (dyn FnMut(usize, &Output) + Send),
    ) -> Result<Vec<Output>, Error> {
        let rows = requests.iter().map(|r| (r.prompt.len() + r.max_new_tokens).next_multiple_of(PAGE)).sum::<usize>();
        let mut limits = self.limits;
        // No more than all of them together need.
        limits.cache_rows = (limits.pages() * PAGE).min(rows.max(PAGE));
        let mut engine = Engine::new(self.ctx, self.decoder, limits, stop);
        let wide = Engine::<B>::check;
        requests.iter().enumerate().try_for_each(|(i, request)| wide(&engine, i, request))?;
        for (i, request) in requests.iter().enumerate() {
            engine.submit(i, request.clone())?;
        }
        let writer = || texts.filter(|t| !t.texts.is_empty()).map(|t| Writer::new(t.tokenizer, t.texts));
        let mut open: Vec<Open<'_>> = requests.iter().map(|_| Open { tokens: Vec::new(), writer: writer() }).collect();
        let mut outputs: Vec<Option<Output>> = requests.iter().map(|_| None).collect();
        while !engine.is_idle() {
            for drawn in engine.step()? {
                let i = drawn.request;
                open[i].tokens.push(drawn.token);
                let mut finish = drawn.finish;
                if let Some(writer) = &mut open[i].writer
                    && drawn.finish != Some(FinishReason::Stop)
                    && writer.push(drawn.token)?.1 == Ending::Text
                {
                    engine.cancel(i);
                    finish = Some(FinishReason::Stop);
                }
                let Some(finish_reason) = finish else { continue };
                let output = Output { tokens: std::mem::take(&mut open[i].tokens), finish_reason };
                on_finished(i, &output);
                outputs[i] = Some(output);
            }
        }
        let empty = || Output { tokens: Vec::new(), finish_reason: FinishReason::Length };
        Ok(outputs.into_iter().map(|output| output.unwrap_or_else(empty)).collect())
    }
}
