//! AdamW over an arena: two moments beside the values, in full or in eight bits; weight decay on the tensors that want it.

use kernels::adamw8::{Arrays, BLOCK, Part};
use kernels::{AdamwStep, Backend, Mat, MomentCodes, Rounding, bf16};
use std::io;
use std::ops::Range;
use std::path::Path;

/// Tensors with fewer elements keep moments of full precision, as in bitsandbytes.
const LEAST_EIGHT: usize = 4096;

/// Elements that are updated at a time where moments are on a disk: what is in memory of them then. Whole blocks.
const WINDOW: usize = 1 << 22;

/// Settings that do not change during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, applied to tensors that want it.
    pub weight_decay: f64,
    /// How codes are rounded, where moments have eight bits.
    pub rounding: Rounding,
    /// Of the random numbers that round values in bfloat16.
    pub seed: u64,
}

/// A trained tensor, as the optimiser sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its elements in the arena of gradients.
    pub range: Range<usize>,
    /// The first of its values, and whether they are in the arena of bfloat16.
    pub values: (usize, bool),
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether its moments may have eight bits.
    pub eight: bool,
}

impl Member {
    /// A tensor whose values lie as its gradients do, with moments of full precision.
    pub fn plain(range: Range<usize>, decay: bool) -> Member {
        Member { values: (range.start, false), range, decay, eight: false }
    }
}

/// Where a tensor's moments are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Elements of [`AdamW::m`] and [`AdamW::v`].
    Plain(Range<usize>),
    /// Elements of [`Eight::codes`], and of [`Eight::absmax`].
    Eight(Range<usize>, Range<usize>),
}

/// A part of the arena that one launch updates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    member: Member,
    place: Place,
    /// Where its gradients begin among those that are handed in.
    first: usize,
}

impl Group {
    /// `n` of its elements from one on, both whole blocks unless the end is its own.
    fn part(&self, from: usize, n: usize) -> Group {
        let Group { member: Member { range, values: (at, half), .. }, place, first } = self;
        let of = |whole: &Range<usize>, from: usize, n: usize| whole.start + from..whole.start + from + n;
        let place = match place {
            Place::Plain(own) => Place::Plain(of(own, from, n)),
            Place::Eight(own, blocks) => Place::Eight(of(own, from, n), of(blocks, from / BLOCK, n.div_ceil(BLOCK))),
        };
        let member = Member { range: of(range, from, n), values: (at + from, *half), ..self.member };
        Group { member, place, first: first + from }
    }
}

/// What is updated here of a tensor, or a part of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its elements in the arena of gradients.
    pub range: Range<usize>,
    /// Where its moments are.
    pub place: Place,
}

/// Where everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In the order of the arena: a tensor each, unless other ranks have parts of some.
    pub pieces: Vec<Piece>,
    groups: Vec<Group>,
    len: usize,
    plain: usize,
    codes: usize,
    blocks: usize,
}

impl Layout {
    /// Bytes of moments in single precision that are in memory at a time where they are on a disk.
    pub const WINDOW_BYTES: usize = 2 * 4 * WINDOW;

    /// Of tensors that follow one another in the arena of gradients. Neighbours that are treated alike are updated at once.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Layout {
        let mut layout = Layout::default();
        members.into_iter().for_each(|member| layout.push(&member, &member.range));
        layout
    }

    /// Of some runs of elements of the arena, ascending, of which all tensors are given. A tensor whose moments have eight bits is
    /// only cut at whole blocks.
    pub fn of_ranges(ranges: &[Range<usize>], members: impl IntoIterator<Item = Member>) -> Layout {
        let mut layout = Layout::default();
        let mut next = 0;
        for member in members {
            next += ranges[next..].partition_point(|r| r.end <= member.range.start);
            for range in ranges[next..].iter().take_while(|r| r.start < member.range.end) {
                layout.push(&member, &(range.start.max(member.range.start)..range.end.min(member.range.end)));
            }
        }
        layout
    }

    /// The same for values of which no more are held than are updated: those of either kind lie one after the other.
    pub fn with_values_beside(mut self) -> Layout {
        let mut next = [0, 0];
        for Member { range, values: (at, half), .. } in self.groups.iter_mut().map(|group| &mut group.member) {
            let next = &mut next[usize::from(*half)];
            *at = std::mem::replace(next, *next + range.len());
        }
        self
    }

    fn push(&mut self, member: &Member, range: &Range<usize>) {
        let (n, before) = (range.len(), range.start - member.range.start);
        let place = if member.eight && member.range.len() >= LEAST_EIGHT {
            let end = range.end - member.range.start;
            let whole = before.is_multiple_of(BLOCK) && (end.is_multiple_of(BLOCK) || range.end == member.range.end);
            assert!(whole, "moments in eight bits of {:?} are cut to {range:?}", member.range);
            let blocks = n.div_ceil(BLOCK);
            (self.codes, self.blocks) = (self.codes + n, self.blocks + blocks);
            Place::Eight(self.codes - n..self.codes, self.blocks - blocks..self.blocks)
        } else {
            self.plain += n;
            Place::Plain(self.plain - n..self.plain)
        };
        self.pieces.push(Piece { range: range.clone(), place: place.clone() });
        let first = self.len;
        self.len += n;
        if n == 0 {
            return;
        }
        let member = Member { range: range.clone(), values: (member.values.0 + before, member.values.1), ..*member };
        if let (Some(last), Place::Plain(own)) = (self.groups.last_mut(), &place)
            && let Place::Plain(before) = &mut last.place
            && last.member.decay == member.decay
            && last.member.range.end == member.range.start
            && (last.member.values.0 + last.member.range.len(), last.member.values.1) == member.values
        {
            (last.member.range.end, before.end) = (member.range.end, own.end);
            return;
        }
        self.groups.push(Group { member, place, first });
    }

    /// Elements that are updated.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all moments have full precision.
    pub fn is_plain(&self) -> bool {
        self.codes == 0
    }

    /// Bytes of the state, where a moment of full precision takes `real`.
    pub fn bytes(&self, real: usize) -> usize {
        2 * (self.plain * real + self.codes + self.blocks * real)
    }
}

/// A moment in eight bits.
pub struct Eight<B: Backend> {
    /// `[1, n]`.
    pub codes: Mat<B, u8>,
    /// Largest amount of each block, `[1, blocks]`.
    pub absmax: Mat<B, B::Real>,
}

/// The optimiser and its state.
pub struct AdamW<B: Backend> {
    settings: Settings,
    /// Where each tensor's state is.
    pub layout: Layout,
    /// First moments of full precision.
    pub m: Mat<B, B::Real>,
    /// Second moments of full precision.
    pub v: Mat<B, B::Real>,
    /// First and second moments in eight bits.
    pub eight: [Eight<B>; 2],
    /// Updates done.
    pub steps: u64,
    /// Elements that are updated at a time.
    window: usize,
}

impl<B: Backend> AdamW<B> {
    /// With all moments zero.
    pub fn new(backend: &B, settings: Settings, layout: Layout) -> AdamW<B> {
        let eight = || Eight { codes: backend.zeros(1, layout.codes), absmax: backend.zeros(1, layout.blocks) };
        let (m, v, eight) = (backend.zeros(1, layout.plain), backend.zeros(1, layout.plain), [eight(), eight()]);
        AdamW { settings, m, v, eight, layout, steps: 0, window: usize::MAX }
    }

    /// The same, with moments that are kept on the disk of a folder, and the same bits.
    ///
    /// Errors: those of the disk.
    pub fn on_disk(backend: &B, settings: Settings, layout: Layout, folder: &Path) -> io::Result<AdamW<B>> {
        let eight = || -> io::Result<Eight<B>> {
            let (codes, absmax) = (backend.zeros_in(folder, layout.codes)?, backend.zeros_in(folder, layout.blocks)?);
            Ok(Eight { codes, absmax })
        };
        let [m, v] = [backend.zeros_in(folder, layout.plain)?, backend.zeros_in(folder, layout.plain)?];
        let eight = [eight()?, eight()?];
        Ok(AdamW { settings, m, v, eight, layout, steps: 0, window: WINDOW })
    }

    /// One update of the values that are held as `Real` and of those in bfloat16; `grads` are those of what the optimiser updates,
    /// and are multiplied by `grad_scale` first.
    pub fn update(
        &mut self,
        backend: &B,
        values: &mut Mat<B, B::Real>,
        halves: &mut Mat<B, bf16>,
        grads: &Mat<B, B::Real>,
        learning_rate: f64,
        grad_scale: f64,
    ) {
        self.steps += 1;
        let (on_disk, rates) = (self.window < usize::MAX, (learning_rate, grad_scale));
        let mut parts = Vec::new();
        for group in 0..self.layout.groups.len() {
            let n = self.layout.groups[group].member.range.len();
            for from in (0..n).step_by(self.window) {
                // Values in bfloat16 are rounded by numbers that go by an element's place, whatever part it is in.
                let part = self.layout.groups[group].part(from, self.window.min(n - from));
                parts.extend(self.update_plain(backend, &part, values, grads, rates));
                if on_disk {
                    self.update_parts(backend, (&mut *values, &mut *halves), grads, &std::mem::take(&mut parts));
                    self.rest_of(&part.place);
                }
            }
        }
        self.update_parts(backend, (values, halves), grads, &parts);
    }

    fn rest_of(&self, place: &Place) {
        match place {
            Place::Plain(own) => [&self.m, &self.v].iter().for_each(|moment| moment.rest(own.clone())),
            Place::Eight(own, blocks) => self.eight.iter().for_each(|moment| {
                moment.codes.rest(own.clone());
                moment.absmax.rest(blocks.clone());
            }),
        }
    }

    /// Updates a part of full precision; of any other says what is to be done.
    fn update_plain(
        &mut self,
        backend: &B,
        Group { member: Member { range, values: (at, half), decay, .. }, place, first }: &Group,
        values: &mut Mat<B, B::Real>,
        grads: &Mat<B, B::Real>,
        (learning_rate, grad_scale): (f64, f64),
    ) -> Option<Part> {
        let Settings { beta1, beta2, epsilon, weight_decay, seed, .. } = self.settings;
        let weight_decay = if *decay { weight_decay } else { 0.0 };
        let step = AdamwStep { learning_rate, beta1, beta2, epsilon, weight_decay, step: self.steps, grad_scale };
        let own = *first..first + range.len();
        let (moments, amounts) = match (place, *half) {
            (Place::Plain(moments), false) => {
                let [m, v] = [&mut self.m, &mut self.v].map(|x| x.out().cols(moments.clone()).into_acc());
                let values = values.out().cols(*at..at + range.len()).into_acc();
                backend.adamw(&step, values, grads.view().cols(own), m, v);
                return None;
            }
            (Place::Plain(moments), true) => (moments.start, None),
            (Place::Eight(codes, blocks), _) => (codes.start, Some(blocks.start)),
        };
        let half = half.then(|| mix(mix(seed) ^ self.steps).wrapping_add(range.start as u64));
        Some(Part { step, grads: own, values: *at, half, moments, amounts })
    }

    fn update_parts(
        &mut self,
        backend: &B,
        (values, halves): (&mut Mat<B, B::Real>, &mut Mat<B, bf16>),
        grads: &Mat<B, B::Real>,
        parts: &[Part],
    ) {
        if parts.is_empty() {
            return;
        }
        let codes = self.eight.each_mut().map(|x| MomentCodes { codes: x.codes.acc(), absmax: x.absmax.acc() });
        let moments = [self.m.acc(), self.v.acc()];
        let rounding = self.settings.rounding;
        let (values, halves) = (values.acc(), halves.acc());
        backend.adamw8_parts(Arrays { values, halves, grads: grads.view(), moments, codes, rounding }, parts);
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The factor that clips a gradient of norm `norm` to `max_norm`, as `torch.nn.utils.clip_grad_norm_` does: never above 1;
/// a `max_norm` of 0 disables.
pub fn clip(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
