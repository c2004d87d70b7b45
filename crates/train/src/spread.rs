//! An arena that several ranks have between them: whose which element is, and the units in which values come and gradients go.

use crate::Error;
use crate::policy::Policy;
use dist::tree::{Node, Tree};
use dist::{Coming, Shards, World};
use kernels::{Backend, Mat, Memory, Real, bf16};
use model::{Lending, Lent};
use nn::{Away, Gathered, Held, Home, Leave, Params, Places, Table};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// All ranks, and how an arena is spread over them.
pub struct Spread<'a> {
    pub(crate) world: &'a World,
    /// ZeRO's stage: 0 everything is everywhere; 1 the optimiser's state is in shards; 2 the gradient too; 3 the values too, and frozen
    /// ones that would take memory of their own.
    pub(crate) zero: u8,
    /// Over the ranks of a group; the groups have the same.
    shards: Shards,
    units: Vec<Unit>,
    len: usize,
    /// At stage 3, what is this rank's of the arena, in order, and where its values lie here.
    own: Vec<(Range<usize>, Home)>,
    /// The unit that is gathered next, where it is fetched ahead.
    fetched: Mutex<Option<(usize, Coming<Parts>)>>,
}

/// Every member's part of a unit: values as `Real`, bits of those in bfloat16; and bytes of frozen matrices, one after the other.
type Parts = Result<(Vec<Vec<f32>>, Vec<Vec<u16>>, Vec<u8>), dist::Error>;

/// What is needed at a time.
struct Unit {
    range: Range<usize>,
    /// Of the unit alone.
    table: Table,
    /// Where its gradients are added up.
    at: usize,
    /// What comes of frozen matrices.
    lent: Lent,
}

impl Unit {
    /// Whether ranks have something of it between them.
    fn is_away(&self) -> bool {
        !self.range.is_empty() || !self.lent.is_empty()
    }

    /// A part of the arena that is in the unit, as the unit's table has it.
    fn within(&self, part: &Range<usize>) -> Range<usize> {
        let first = self.at + part.start - self.range.start;
        first..first + part.len()
    }

    /// Where its values lie in the unit.
    fn homes(&self, part: &Range<usize>) -> impl Iterator<Item = (Home, usize)> + '_ {
        self.table.homes(self.within(part))
    }
}

/// How many values of either kind parts of a table have.
pub(crate) fn values_of(table: &Table, parts: impl Iterator<Item = Range<usize>>) -> Places {
    let mut places = Places::default();
    for (home, len) in parts.flat_map(|part| table.homes(part)) {
        places.take(home, len);
    }
    places
}

impl<'a> Spread<'a> {
    /// Of the arena of `table`, whose elements are dealt to the ranks of a group as `shards` says, and of the frozen matrices of every
    /// unit.
    pub(crate) fn new(world: &'a World, zero: u8, shards: Shards, table: &Table, lent: Vec<Lent>) -> Spread<'a> {
        let ranges: Vec<Range<usize>> = table.units().collect();
        // The embedding is needed at both ends of a pass where it is the head as well.
        let apart = ranges.last().map_or(0, |head| if head.is_empty() { ranges[0].len() } else { 0 });
        let unit = |(i, (range, lent)): (usize, (&Range<usize>, Lent))| {
            let at = if i == 0 { 0 } else { apart };
            Unit { table: table.window(range.clone(), at), range: range.clone(), at, lent }
        };
        let units = ranges.iter().zip(lent).enumerate().map(unit).collect();
        let (own, len) = (Vec::new(), table.len());
        let mut spread = Spread { world, zero, shards, units, len, own, fetched: Mutex::default() };
        if zero == 3 {
            let mut next = Places::default();
            for part in spread.own() {
                let mut first = part.start;
                for (home, len) in table.homes(part) {
                    spread.own.push((first..first + len, next.take(home, len).0));
                    first += len;
                }
            }
        }
        spread
    }

    /// This rank's number in its group.
    fn member(&self) -> usize {
        self.world.rank() % self.shards.ranks()
    }

    /// Elements for which this rank answers: it updates them, and writes them into checkpoints.
    pub(crate) fn own(&self) -> Vec<Range<usize>> {
        self.shards.parts(self.member(), 0..self.len).collect()
    }

    /// Whether another group's rank does the same: one of each writes.
    pub(crate) fn writes(&self) -> bool {
        self.world.rank() < self.shards.ranks()
    }

    /// The values that lie here.
    pub(crate) fn held(&self, table: &Table) -> Held {
        let all = 0..table.len();
        if self.zero == 3 { table.held(&self.own()) } else { table.held(std::slice::from_ref(&all)) }
    }

    /// At stage 3, what is here of a window, in order: so many values, and where they lie.
    fn own_homes(&self, window: Range<usize>) -> impl Iterator<Item = (Home, usize)> + '_ {
        let first = self.own.partition_point(|(part, _)| part.end <= window.start);
        let within = self.own[first..].iter().take_while(move |(part, _)| part.start < window.end);
        within.map(move |(part, home)| {
            let (start, end) = (window.start.max(part.start), window.end.min(part.end));
            (home.after(start - part.start), end - start)
        })
    }

    /// Where the values of both kinds lie that are here of a window.
    fn own_places(&self, window: Range<usize>) -> [Range<usize>; 2] {
        let mut places = [0..0, 0..0];
        for (home, len) in self.own_homes(window) {
            let (Home::Real(first) | Home::Half(first)) = home;
            let place = &mut places[usize::from(matches!(home, Home::Half(_)))];
            *place = if place.start == place.end { first..first + len } else { place.start..place.end + len };
        }
        places
    }

    /// Elements that gradients need room for, a pack at a time.
    pub(crate) fn room(&self) -> usize {
        self.units.iter().map(|unit| unit.at + unit.range.len()).max().unwrap_or(0)
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> usize {
        self.units.len()
    }

    /// Of every unit, sums that are to be: one for each member of the group, of what that one answers for.
    pub(crate) fn trees(&self) -> Vec<Vec<Tree>> {
        vec![vec![Tree::default(); self.shards.ranks()]; self.units.len()]
    }

    /// The elements of a unit.
    pub(crate) fn window(&self, unit: usize) -> Range<usize> {
        self.units[unit].range.clone()
    }

    /// How many elements this rank has.
    pub(crate) fn own_len(&self) -> usize {
        self.shards.count(self.member(), 0..self.len)
    }

    /// This rank's elements of a unit, among all that it has.
    pub(crate) fn own_of(&self, unit: usize) -> Range<usize> {
        self.shards.place(self.member(), self.units[unit].range.clone())
    }

    /// The ranks of this one's group.
    fn group(&self) -> Range<usize> {
        let size = self.shards.ranks();
        let first = self.world.rank() / size * size;
        first..first + size
    }

    /// What `member` answers for of a unit's gradient, which begins at element `at` of `values`.
    fn part<B: Backend>(
        &self,
        backend: &B,
        (unit, member): (usize, usize),
        (values, at): (&Mat<B, B::Real>, usize),
    ) -> Vec<f32> {
        let window = self.window(unit);
        let mut part = Vec::with_capacity(self.shards.count(member, window.clone()));
        for stripe in self.shards.parts(member, window.clone()) {
            let first = at + stripe.start - window.start;
            part.extend(host(backend, values, first..first + stripe.len()));
        }
        part
    }

    /// Has parts of sums given to those who answer for them, and begins with that: of a unit, every member's, of all sums that this rank has
    /// of it one after the other. `all` says what every rank gives. What comes of others of what is this rank's is added up in `sums`,
    /// once it is there.
    pub(crate) fn scatter(
        &self,
        unit: usize,
        parts: Vec<Vec<f32>>,
        all: &[Vec<Node>],
        sums: &Arc<Mutex<Vec<Tree>>>,
    ) -> Coming<()> {
        let own = self.shards.count(self.member(), self.window(unit));
        let (all, sums, units) = (all.to_vec(), Arc::clone(sums), self.units.len());
        self.world.behind(move |world| {
            let counts: Vec<usize> = all.iter().map(Vec::len).collect();
            // What went wrong is kept by the world, and asked for where errors can be told.
            let Ok(mut found) = world.scatter_some(parts, &counts, own) else { return };
            let of = |(rank, nodes): (usize, &Vec<Node>)| {
                nodes.iter().enumerate().map(move |(i, node)| (*node, rank, i)).collect::<Vec<_>>()
            };
            let mut nodes: Vec<(Node, usize, usize)> = all.iter().enumerate().flat_map(of).collect();
            // Every group of rows is dealt anew, so the leaves of one rank may lie between another's.
            nodes.sort_by_key(|(node, ..)| node.first_leaf());
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.resize_with(units, Tree::default);
            for (node, rank, i) in nodes {
                let part = match counts[rank] {
                    1 => std::mem::take(&mut found[rank]),
                    _ => found[rank][i * own..(i + 1) * own].to_vec(),
                };
                sums[unit].push(node, part);
            }
        })
    }

    /// Hears what the others of the group have of a window, of which this one has `own`, and hands all of it to `take`, with its place in
    /// the arena.
    pub(crate) fn gather(
        &self,
        window: Range<usize>,
        own: &[f32],
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), dist::Error> {
        let counts: Vec<usize> =
            (0..self.shards.ranks()).map(|member| self.shards.count(member, window.clone())).collect();
        let others = self.world.gather_others(self.group(), own, &counts)?;
        for (member, values) in others.into_iter().enumerate() {
            let mut rest = if member == self.member() { own } else { &values[..] };
            for part in self.shards.parts(member, window.clone()) {
                let (these, after) = rest.split_at(part.len());
                take(part.start, these);
                rest = after;
            }
        }
        Ok(())
    }

    /// The norm of a gradient of which this rank has `own`; the same bits however many ranks there are.
    pub(crate) fn norm(&self, own: &[f32]) -> Result<f64, dist::Error> {
        let squares = self.world.gather_numbers(&self.shards.square_sums(self.member(), own))?;
        Ok(self.shards.in_order(&squares).iter().sum::<f64>().sqrt())
    }

    /// What this rank has of the values of `window`.
    pub(crate) fn own_values<B: Backend>(&self, backend: &B, policy: &Policy<B>, window: Range<usize>) -> Vec<f32> {
        if self.zero == 3 {
            let [reals, halves] = self.own_places(window.clone());
            let (mut reals, mut halves) =
                (host(backend, &policy.values, reals).into_iter(), bits(backend, &policy.halves, halves).into_iter());
            let part = |(home, len)| -> Vec<f32> {
                match home {
                    Home::Real(_) => reals.by_ref().take(len).collect(),
                    Home::Half(_) => halves.by_ref().take(len).map(|x| bf16::from_bits(x).to_f32()).collect(),
                }
            };
            return self.own_homes(window).flat_map(part).collect();
        }
        let mut own = Vec::with_capacity(self.shards.count(self.member(), window.clone()));
        self.shards.parts(self.member(), window).for_each(|part| own.extend(policy.host(backend, part)));
        own
    }

    /// Has rank 0 do something for which it reads values, whoever has them; the others stand by, and do nothing else. Values are asked for
    /// by their place in the arena.
    pub(crate) fn reading<B: Backend>(
        &self,
        backend: &B,
        policy: &Policy<B>,
        work: impl FnOnce(&Read) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let world = self.world;
        if self.zero < 3 {
            return if world.leads() { work(&|range| Ok(policy.host(backend, range))) } else { Ok(()) };
        }
        let gathered = |range: Range<usize>| -> Result<Vec<f32>, Error> {
            let mut all = vec![0.0; range.len()];
            let own = self.own_values(backend, policy, range.clone());
            self.gather(range.clone(), &own, &mut |at, values| {
                all[at - range.start..at - range.start + values.len()].copy_from_slice(values);
            })?;
            Ok(all)
        };
        let said = |range: Range<usize>| -> Result<Range<usize>, Error> {
            let ends = [range.start as u64, range.end as u64];
            let said = world.broadcast(&ends.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<u8>>())?;
            let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| said[8 * i + k])) as usize;
            Ok(number(0)..number(1))
        };
        if world.leads() {
            work(&|range| gathered(said(range)?))?;
            return said(0..0).map(drop);
        }
        loop {
            match said(0..0)? {
                range if range.is_empty() => return Ok(()),
                range => gathered(range).map(drop)?,
            }
        }
    }
}

/// Values of a range of the arena.
pub(crate) type Read<'r> = dyn Fn(Range<usize>) -> Result<Vec<f32>, Error> + 'r;

impl Spread<'_> {
    /// Begins to hear what the group has of a unit.
    fn fetch<B: Backend>(&self, backend: &B, own: &Params<B>, unit: usize) -> Coming<Parts> {
        let Unit { range, table, lent, .. } = &self.units[unit];
        let [reals, halves] = self.own_places(range.clone());
        let reals = host(backend, own.values, reals);
        let halves = own.halves.map_or_else(Vec::new, |all| bits(backend, all, halves));
        let count = |member: usize| {
            let parts = self.shards.parts(member, range.clone());
            let counts = values_of(table, parts.map(|part| self.units[unit].within(&part)));
            (counts.reals, counts.halves)
        };
        let counts: (Vec<usize>, Vec<usize>) = (0..self.shards.ranks()).map(count).unzip();
        let (group, any) = (self.group(), [table.reals() > 0, table.halves() > 0, lent.byte_len() > 0]);
        let (member, frozen) = (self.member(), Arc::clone(lent.own()));
        let bytes: Vec<usize> =
            (0..group.len()).map(|member| Lending::part(group.len(), member, lent.byte_len()).len()).collect();
        self.world.behind(move |world| {
            let (mut all, mut all_halves) = (Vec::new(), Vec::new());
            if any[0] {
                all = world.gather_others(group.clone(), &reals, &counts.0)?;
                all[member] = reals;
            }
            if any[1] {
                all_halves = world.gather_others(group.clone(), &halves, &counts.1)?;
                all_halves[member] = halves;
            }
            let frozen = if any[2] { world.gather_among(group, &frozen[..], &bytes)? } else { Vec::new() };
            Ok((all, all_halves, frozen))
        })
    }
}

impl<B: Backend> Away<B> for Spread<'_> {
    fn gather(&self, backend: &B, own: &Params<B>, unit: usize) -> Option<Gathered<'_, B>> {
        let of = &self.units[unit];
        if !of.is_away() {
            return None;
        }
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner).take();
        let parts = match fetched {
            Some((fetched, parts)) => {
                assert!(fetched == unit, "unit {fetched} was fetched, and {unit} is needed");
                parts
            }
            None => self.fetch(backend, own, unit),
        };
        let (table, lent) = (&of.table, &of.lent);
        let (mut values, mut halves) = (backend.mat(1, table.reals()), backend.mat(1, table.halves()));
        // What went wrong is kept by the world, and asked for where errors can be told.
        let Ok((reals, bits, frozen)) = parts.take() else {
            backend.fill_zero(values.out());
            let lent = lent.matrices(backend, vec![0; lent.byte_len()]);
            return Some(Gathered { table, values, halves: backend.zeros(1, table.halves()), lent });
        };
        let (mut reals, mut bits) = (reals.into_iter(), bits.into_iter());
        for member in 0..self.shards.ranks() {
            // What was heard of a member is gone before the next one's is copied.
            let (reals, bits) = (reals.next().unwrap_or_default(), bits.next().unwrap_or_default());
            let (mut reals, mut bits) = (&reals[..], &bits[..]);
            let parts = self.shards.parts(member, of.range.clone());
            for (home, len) in parts.flat_map(|part| of.homes(&part).collect::<Vec<_>>()) {
                match home {
                    Home::Real(first) => {
                        let these = reals.split_off(..len).expect("as many as were counted");
                        backend.upload(&real::<B>(these), values.out().cols(first..first + len));
                    }
                    Home::Half(first) => {
                        let these = bits.split_off(..len).expect("as many as were counted");
                        let these: Vec<bf16> = these.iter().map(|x| bf16::from_bits(*x)).collect();
                        backend.upload(&these, halves.out().cols(first..first + len));
                    }
                }
            }
        }
        Some(Gathered { table, values, halves, lent: lent.matrices(backend, frozen) })
    }

    fn ahead(&self, backend: &B, own: &Params<B>, unit: usize) {
        if self.units[unit].is_away() {
            let fetched = Some((unit, self.fetch(backend, own, unit)));
            *self.fetched.lock().unwrap_or_else(PoisonError::into_inner) = fetched;
        }
    }
}

/// Units of a pack's gradient on their way, as backward is done with them.
pub(crate) struct Leaf<'t> {
    pub(crate) spread: &'t Spread<'t>,
    /// Of the whole arena, where gradients have room for all of it.
    pub(crate) whole: Option<&'t Table>,
    /// What was added up here of each unit; this rank's pack, which is to be.
    pub(crate) own: Option<(&'t mut [Vec<Tree>], Option<Node>)>,
    /// What every rank gives of a unit, where this is the time.
    pub(crate) given: Option<&'t [Vec<Node>]>,
    /// Where it is added up, and what is on its way there.
    pub(crate) sums: &'t Arc<Mutex<Vec<Tree>>>,
    pub(crate) coming: &'t mut VecDeque<Coming<()>>,
}

/// Units that are on their way at a time: more would take more room.
pub(crate) const ON_THE_WAY: usize = 2;

impl<B: Backend> Leave<B> for Leaf<'_> {
    fn table(&self, unit: usize) -> &Table {
        self.whole.unwrap_or(&self.spread.units[unit].table)
    }

    fn leave(&mut self, backend: &B, unit: usize, values: &mut Mat<B, B::Real>) {
        let Unit { range, at, .. } = &self.spread.units[unit];
        if range.is_empty() {
            return;
        }
        if self.given.is_some() {
            while self.coming.len() >= ON_THE_WAY {
                self.coming.pop_front().into_iter().for_each(Coming::take);
            }
        }
        let (spread, first) = (self.spread, if self.whole.is_some() { range.start } else { *at });
        let leaf = |member| spread.part(backend, (unit, member), (&*values, first));
        let parts: Vec<Vec<f32>> = match &mut self.own {
            None => (0..spread.shards.ranks()).map(leaf).collect(),
            Some((trees, node)) => {
                let added = |(member, tree): (usize, &mut Tree)| {
                    node.iter().for_each(|node| tree.push(*node, leaf(member)));
                    self.given.map_or_else(Vec::new, |_| in_a_row(std::mem::take(tree)))
                };
                trees[unit].iter_mut().enumerate().map(added).collect()
            }
        };
        backend.fill_zero(values.out().cols(first..first + range.len()));
        if let Some(all) = self.given {
            self.coming.push_back(spread.scatter(unit, parts, all, self.sums));
        }
    }
}

/// Sums that could not be added up, one after the other.
fn in_a_row(tree: Tree) -> Vec<f32> {
    let mut sums = tree.into_nodes().into_iter().map(|(_, sum)| sum);
    let mut all = sums.next().unwrap_or_default();
    sums.for_each(|sum| all.extend(sum));
    all
}

/// Bits of values in bfloat16.
fn bits<B: Backend>(backend: &B, values: &Mat<B, bf16>, range: Range<usize>) -> Vec<u16> {
    Memory::to_host(backend, values.view().cols(range)).into_iter().map(bf16::to_bits).collect()
}

/// Elements of an arena in single precision.
pub(crate) fn host<B: Backend>(backend: &B, values: &Mat<B, B::Real>, range: Range<usize>) -> Vec<f32> {
    backend.to_host(values.view().cols(range)).into_iter().map(|x| x.f64() as f32).collect()
}

/// Values as the device has them.
pub(crate) fn real<B: Backend>(values: &[f32]) -> Vec<B::Real> {
    values.iter().map(|x| B::Real::of(f64::from(*x))).collect()
}
