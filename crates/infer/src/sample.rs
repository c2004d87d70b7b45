//! From logits to the next token: greedy, or drawn from the tempered and truncated distribution.

use data::rng::Stream;
use kernels::Real;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token (the first of equals).
    pub temperature: f64,
    /// Keeps the most likely tokens up to this total probability (Holtzman et al. 2020, arXiv 1904.09751); 1 keeps all.
    pub top_p: f64,
    /// Keeps this many of the most likely tokens, before `top_p`; 0 keeps all.
    pub top_k: usize,
    /// Then keeps tokens of at least this share of the most likely one's probability (Nguyen et al. 2024, arXiv 2407.01082); 0 keeps all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens that are in the prompt or the answer already
    /// (Keskar et al. 2019, arXiv 1909.05858); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Of the draws: token `i` of an answer depends on its logits, the seed and `i`, and on nothing else.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

    /// The parameter that is out of its range, with the range and its value.
    pub(crate) fn fault(&self) -> Option<(&'static str, &'static str, f64)> {
        let Sampling { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Some(("temperature", "a finite number of at least 0", temperature));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Some(("min_p", "a number from 0 to 1", min_p));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Some(("repetition_penalty", "a finite number above 0", repetition_penalty));
        }
        (!(top_p > 0.0 && top_p <= 1.0)).then_some(("top_p", "a number above 0 and at most 1", top_p))
    }
}

/// Numbers the draws of this crate among those of one seed.
const STREAM: u64 = u64::from_be_bytes(*b"generate");

/// Draws tokens; its buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct Sampler<R> {
    /// Unnormalised probabilities.
    weights: Vec<R>,
    /// Candidates left, most likely first.
    candidates: Vec<u32>,
    /// Logits after the penalty on repetition.
    penalised: Vec<R>,
}

/// Log-probabilities of a token and of the most likely ones, nats, before temperature and penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token that was drawn.
    pub logprob: f64,
    /// The most likely tokens, the first of equals first.
    pub top: Vec<(u32, f64)>,
}

impl TokenLogprobs {
    /// Of a row of logits.
    pub(crate) fn of<R: Real>(logits: &[R], token: u32, top: usize) -> TokenLogprobs {
        let max = logits.iter().fold(R::NEG_INFINITY, |m, &x| m.max(x)).f64();
        let lse = max + logits.iter().map(|x| (x.f64() - max).exp()).sum::<f64>().ln();
        let mut best: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.partial_cmp(&x).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b))
        };
        let top = top.min(best.len());
        if top > 0 && top < best.len() {
            best.select_nth_unstable_by(top - 1, by_logit);
        }
        best.truncate(top);
        best.sort_unstable_by(by_logit);
        let of = |token: u32| logits[token as usize].f64() - lse;
        TokenLogprobs { logprob: of(token), top: best.into_iter().map(|token| (token, of(token))).collect() }
    }
}

impl<R: Real> Sampler<R> {
    /// Token number `index` of an answer that goes on after `before`; `None` when a logit is NaN or infinite.
    pub(crate) fn draw(&mut self, logits: &[R], sampling: &Sampling, before: &[u32], index: usize) -> Option<u32> {
        if sampling.repetition_penalty == 1.0 {
            return self.draw_from(logits, sampling, index);
        }
        let mut penalised = std::mem::take(&mut self.penalised);
        penalised.clear();
        penalised.extend_from_slice(logits);
        let penalty = R::of(sampling.repetition_penalty);
        for &token in before {
            // From the logit as it was: a token is punished once, however often it was there.
            let (logit, of) = (logits[token as usize], &mut penalised[token as usize]);
            *of = if logit < R::ZERO { logit * penalty } else { logit / penalty };
        }
        let token = self.draw_from(&penalised, sampling, index);
        self.penalised = penalised;
        token
    }

    fn draw_from(&mut self, logits: &[R], sampling: &Sampling, index: usize) -> Option<u32> {
        let best = greedy(logits)?;
        if sampling.temperature == 0.0 {
            return Some(best);
        }
        let max = logits[best as usize];
        let scale = R::of(1.0 / sampling.temperature);
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&x| ((x - max) * scale).exp()));
        // 53 bits make the uniform number's distance from 1 at least the smallest that f64 resolves there.
        let word = Stream::new(sampling.seed, STREAM).at(index as u64);
        let uniform = (word >> 11) as f64 / (1u64 << 53) as f64;
        if sampling.top_k == 0 && sampling.top_p == 1.0 && sampling.min_p == 0.0 {
            return Some(self.among(0..logits.len() as u32, uniform).unwrap_or(best));
        }
        self.truncate(sampling);
        Some(self.among(self.candidates.iter().copied(), uniform).unwrap_or(best))
    }

    /// The candidate at which the running sum of weights passes `uniform` of the total.
    fn among(&self, candidates: impl Iterator<Item = u32> + Clone, uniform: f64) -> Option<u32> {
        let weight = |token: u32| self.weights[token as usize].f64();
        let mut left = uniform * candidates.clone().map(weight).sum::<f64>();
        candidates.into_iter().find(|&token| {
            left -= weight(token);
            left < 0.0
        })
    }

    /// Fills `candidates` with what `top_k` and then `top_p` leave, most likely first, ties by token.
    fn truncate(&mut self, sampling: &Sampling) {
        let Sampler { weights, candidates, .. } = self;
        let by_weight = |a: &u32, b: &u32| {
            let (x, y) = (weights[*a as usize], weights[*b as usize]);
            y.partial_cmp(&x).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b))
        };
        candidates.clear();
        candidates.extend(0..weights.len() as u32);
        if sampling.top_k > 0 && sampling.top_k < candidates.len() {
            candidates.select_nth_unstable_by(sampling.top_k - 1, by_weight);
            candidates.truncate(sampling.top_k);
        }
        let total: f64 = candidates.iter().map(|&t| weights[t as usize].f64()).sum();
        if sampling.top_p < 1.0 {
            // All tokens below this weight together weigh less than what may be left out, so they need no sorting.
            let floor = (1.0 - sampling.top_p) * total / candidates.len() as f64;
            candidates.retain(|&t| weights[t as usize].f64() >= floor);
        }
        candidates.sort_unstable_by(by_weight);
        let mut sum = 0.0;
        let enough = candidates.iter().position(|&t| {
            sum += weights[t as usize].f64();
            sum >= sampling.top_p * total
        });
        candidates.truncate(enough.map_or(candidates.len(), |i| i + 1));
        let least = R::of(sampling.min_p) * candidates.first().map_or(R::ZERO, |&t| weights[t as usize]);
        candidates.retain(|&t| weights[t as usize] >= least);
    }
}

/// The token with the largest logit, the first of equals; `None` unless every logit is finite.
fn greedy<R: Real>(logits: &[R]) -> Option<u32> {
    // Without early ends, in lanes: both loops run in vector registers, and a vocabulary is long.
    const LANES: usize = 16;
    let (mut max, mut odd) = ([R::NEG_INFINITY; LANES], [R::ZERO; LANES]);
    let blocks = logits.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for l in 0..LANES {
            max[l] = max[l].max(block[l]);
            // NaN where an entry is NaN or infinite, and 0 otherwise.
            odd[l] += block[l] * R::ZERO;
        }
    }
    for &x in rest {
        (max[0], odd[0]) = (max[0].max(x), odd[0] + x * R::ZERO);
    }
    if odd.iter().any(|odd| *odd != R::ZERO) {
        return None;
    }
    let max = max.into_iter().fold(R::NEG_INFINITY, |m, x| m.max(x));
    let block = logits.chunks(256).position(|block| block.iter().fold(false, |found, &x| found | (x == max)))?;
    logits[block * 256..].iter().position(|&x| x == max).map(|i| (block * 256 + i) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn counts(sampling: Sampling) -> [f64; 5] {
        let (mut sampler, mut counts) = (Sampler::default(), [0.0; 5]);
        for seed in 0..40_000 {
            counts[sampler.draw(&LOGITS, &Sampling { seed, ..sampling }, &[], 0).unwrap() as usize] += 1.0 / 40_000.0;
        }
        counts
    }

    /// The distribution over `LOGITS` at a temperature, restricted to `keep`.
    fn exact(temperature: f64, keep: &[usize]) -> [f64; 5] {
        let mut p = [0.0; 5];
        keep.iter().for_each(|&i| p[i] = (f64::from(LOGITS[i]) / temperature).exp());
        let total: f64 = p.iter().sum();
        p.map(|x| x / total)
    }

    fn close(a: [f64; 5], b: [f64; 5]) {
        // Five standard deviations of a frequency of one half.
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 5.0 * 0.5 / 200.0), "{a:?} {b:?}");
    }

    #[test]
    fn frequencies_are_the_distribution_at_each_temperature() {
        for temperature in [0.5, 1.0, 4.0] {
            let sampling = Sampling { temperature, ..Sampling::GREEDY };
            close(counts(sampling), exact(temperature, &[0, 1, 2, 3, 4]));
        }
    }

    #[test]
    fn top_k_and_top_p_keep_the_most_likely() {
        let warm = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        close(counts(Sampling { top_k: 3, ..warm }), exact(1.0, &[1, 2, 3]));
        // 0.397 + 0.397 reach 0.75, 0.146 more reach 0.9; of equals the first comes first.
        close(counts(Sampling { top_p: 0.75, ..warm }), exact(1.0, &[1, 3]));
        close(counts(Sampling { top_p: 0.9, ..warm }), exact(1.0, &[1, 2, 3]));
        close(counts(Sampling { top_p: 0.1, ..warm }), exact(1.0, &[1]));
        close(counts(Sampling { top_p: 0.9, top_k: 2, ..warm }), exact(1.0, &[1, 3]));
        // e^-1 of the best is 0.37, e^-2 is 0.135.
        close(counts(Sampling { min_p: 0.3, ..warm }), exact(1.0, &[1, 2, 3]));
        close(counts(Sampling { min_p: 0.1, ..warm }), exact(1.0, &[0, 1, 2, 3]));
    }

    #[test]
    fn tokens_that_were_there_are_punished_once() {
        let mut sampler = Sampler::default();
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        assert_eq!(sampler.draw(&LOGITS, &sampling, &[1, 1, 1], 0), Some(3));
        // 3 and 3 become 1.5 each, below 2; -1 becomes -2.
        assert_eq!(sampler.draw(&LOGITS, &sampling, &[1, 3], 0), Some(2));
        assert_eq!(sampler.draw(&[-1.0f32, -1.5], &sampling, &[0], 0), Some(1));
    }

    #[test]
    fn log_probabilities_are_of_the_logits_as_they_are() {
        let of = TokenLogprobs::of(&LOGITS, 2, 3);
        let lse = LOGITS.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        assert!((of.logprob - (2.0 - lse)).abs() < 1e-12, "{of:?}");
        assert_eq!(of.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3, 2]);
        assert!((of.top[0].1 - (3.0 - lse)).abs() < 1e-12);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_refuses_what_is_not_finite() {
        let mut sampler = Sampler::default();
        assert_eq!(sampler.draw(&LOGITS, &Sampling::GREEDY, &[], 7), Some(1));
        assert_eq!(sampler.draw(&[0.0, f32::NAN], &Sampling::GREEDY, &[], 0), None);
        assert_eq!(
            sampler.draw(&[0.0, f32::INFINITY], &Sampling { temperature: 1.0, ..Sampling::GREEDY }, &[], 0),
            None
        );
    }

    #[test]
    fn a_draw_depends_on_seed_and_index_only() {
        let sampling = Sampling { temperature: 2.0, seed: 5, ..Sampling::GREEDY };
        let draw = |sampler: &mut Sampler<f32>, i| sampler.draw(&LOGITS, &sampling, &[], i).unwrap();
        let (mut a, mut b) = (Sampler::default(), Sampler::default());
        let forward: Vec<u32> = (0..50).map(|i| draw(&mut a, i)).collect();
        let mut backward: Vec<u32> = (0..50).rev().map(|i| draw(&mut b, i)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert!((0..5).filter(|t| forward.contains(t)).count() > 2);
    }
}
