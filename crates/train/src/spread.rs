//! An arena that several ranks have between them: whose which element is, and the units in which values come and gradients go.

use crate::Error;
use crate::policy::Policy;
use dist::tree::{Node, Tree};
use dist::{Shards, World};
use kernels::{Backend, Mat, Real};
use nn::{Away, Leave, Table};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All ranks, and how an arena is spread over them.
pub struct Spread<'a> {
    pub(crate) world: &'a World,
    /// ZeRO's stage: 0 everything is everywhere; 1 the optimiser's state is in shards; 2 the gradient too; 3 the values too.
    pub(crate) zero: u8,
    /// Over the ranks of a group; the groups have the same.
    shards: Shards,
    units: Vec<Unit>,
    len: usize,
    /// The unit that is gathered next, where it was fetched ahead, and everyone's part of it.
    fetched: Mutex<Option<(usize, Parts)>>,
}

/// Every member's part of a unit.
type Parts = Result<Vec<Vec<f32>>, dist::Error>;

/// What is needed at a time.
struct Unit {
    range: Range<usize>,
    /// Of the unit alone.
    table: Table,
    /// Where its gradients are added up.
    at: usize,
}

impl<'a> Spread<'a> {
    /// Of the arena of `table`, whose elements are dealt to the ranks of a group as `shards` says.
    pub(crate) fn new(world: &'a World, zero: u8, shards: Shards, table: &Table) -> Spread<'a> {
        let ranges: Vec<Range<usize>> = table.units().collect();
        // The embedding is needed at both ends of a pass where it is the head as well.
        let apart = ranges.last().map_or(0, |head| if head.is_empty() { ranges[0].len() } else { 0 });
        let unit = |(i, range): (usize, &Range<usize>)| {
            let at = if i == 0 { 0 } else { apart };
            Unit { table: table.window(range.clone(), at), range: range.clone(), at }
        };
        let units = ranges.iter().enumerate().map(unit).collect();
        Spread { world, zero, shards, units, len: table.len(), fetched: Mutex::default() }
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

    /// The values that lie here, one after the other, of the arena of `Real`.
    pub(crate) fn held(&self, table: &Table) -> Vec<Range<usize>> {
        if self.zero == 3 { self.own() } else { std::iter::once(0..table.reals()).collect() }
    }

    /// Elements that gradients need room for, a pack at a time.
    pub(crate) fn room(&self) -> usize {
        self.units.iter().map(|unit| unit.at + unit.range.len()).max().unwrap_or(0)
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> usize {
        self.units.len()
    }

    /// This rank's elements of a unit, among all that it has.
    pub(crate) fn own_of(&self, unit: usize) -> Range<usize> {
        self.shards.place(self.member(), self.units[unit].range.clone())
    }

    /// Gives parts of `values`, all of the arena's, or nothing, to those who answer for them; `has` says who gives something. Returns
    /// everyone's of what is this rank's.
    pub(crate) fn scattered(
        &self,
        window: Range<usize>,
        values: Option<&[f32]>,
        has: &[bool],
    ) -> Result<Vec<Option<Vec<f32>>>, dist::Error> {
        let part = |to: usize| match values {
            None => Vec::new(),
            Some(values) => self.shards.pick(to % self.shards.ranks(), window.clone(), values),
        };
        let parts: Vec<Vec<f32>> = (0..self.world.size()).map(part).collect();
        self.world.scatter_some(&parts, has, self.shards.count(self.member(), window.clone()))
    }

    /// Hears what the others of the group have of a window, of which this one has `own`, and hands all of it to `take`, with its place in
    /// the arena.
    pub(crate) fn gather(
        &self,
        window: Range<usize>,
        own: &[f32],
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), dist::Error> {
        self.woven(window.clone(), &self.parts(window, own)?, take);
        Ok(())
    }

    /// Every member's part of a window.
    fn parts(&self, window: Range<usize>, own: &[f32]) -> Parts {
        let size = self.shards.ranks();
        let first = self.world.rank() / size * size;
        let counts: Vec<usize> = (0..size).map(|member| self.shards.count(member, window.clone())).collect();
        self.world.gather_among(first..first + size, own, &counts)
    }

    fn woven(&self, window: Range<usize>, parts: &[Vec<f32>], take: &mut dyn FnMut(usize, &[f32])) {
        for (member, values) in parts.iter().enumerate() {
            let mut rest = &values[..];
            for part in self.shards.parts(member, window.clone()) {
                let (these, after) = rest.split_at(part.len());
                take(part.start, these);
                rest = after;
            }
        }
    }

    fn fetched(&self) -> MutexGuard<'_, Option<(usize, Parts)>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unit by unit, of the whole arena.
    pub(crate) fn gather_all(&self, own: &[f32], take: &mut dyn FnMut(usize, &[f32])) -> Result<(), dist::Error> {
        let mut units = self.units.iter().enumerate();
        units.try_for_each(|(unit, u)| self.gather(u.range.clone(), &own[self.own_of(unit)], take))
    }

    /// The norm of a gradient of which this rank has `own`; the same bits however many ranks there are.
    pub(crate) fn norm(&self, own: &[f32]) -> Result<f64, dist::Error> {
        let squares = self.world.gather_numbers(&self.shards.square_sums(self.member(), own))?;
        Ok(self.shards.in_order(&squares).iter().sum::<f64>().sqrt())
    }

    /// What this rank has of the values of `window`.
    pub(crate) fn own_values<B: Backend>(&self, backend: &B, policy: &Policy<B>, window: Range<usize>) -> Vec<f32> {
        if self.zero == 3 {
            return host(backend, &policy.values, self.shards.place(self.member(), window));
        }
        self.shards.parts(self.member(), window).flat_map(|part| policy.host(backend, part)).collect()
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

impl<B: Backend> Away<B> for Spread<'_> {
    fn gather(&self, backend: &B, own: &Mat<B, B::Real>, unit: usize) -> Option<(&Table, Mat<B, B::Real>)> {
        let Unit { range, table, .. } = &self.units[unit];
        if range.is_empty() {
            return None;
        }
        let parts = match self.fetched().take() {
            Some((fetched, parts)) => {
                assert!(fetched == unit, "unit {fetched} was fetched, and {unit} is needed");
                parts
            }
            None => self.parts(range.clone(), &host(backend, own, self.own_of(unit))),
        };
        let mut all = backend.mat(1, range.len());
        // What went wrong is kept by the world, and asked for where errors can be told.
        match parts {
            Err(_) => backend.fill_zero(all.out()),
            Ok(parts) => self.woven(range.clone(), &parts, &mut |at, values| {
                let first = at - range.start;
                backend.upload(&real::<B>(values), all.out().cols(first..first + values.len()));
            }),
        }
        Some((table, all))
    }

    fn ahead<'s>(&'s self, backend: &B, own: &Mat<B, B::Real>, unit: usize) -> Option<Box<dyn FnOnce() + Send + 's>> {
        let range = self.units[unit].range.clone();
        let own = (!range.is_empty()).then(|| host(backend, own, self.own_of(unit)))?;
        Some(Box::new(move || *self.fetched() = Some((unit, self.parts(range, &own)))))
    }
}

/// A turn in which every rank has a pack or none, and its gradient goes to those who answer for it, unit by unit.
pub(crate) struct Leaf<'t> {
    pub(crate) spread: &'t Spread<'t>,
    /// Of each unit, what is this rank's of it.
    pub(crate) trees: &'t mut [Tree],
    /// This rank's pack.
    pub(crate) own: Option<Node>,
    /// Every rank's.
    pub(crate) all: &'t [Option<Node>],
}

impl<B: Backend> Leave<B> for Leaf<'_> {
    fn table(&self, unit: usize) -> &Table {
        &self.spread.units[unit].table
    }

    fn leave(&mut self, backend: &B, unit: usize, values: &mut Mat<B, B::Real>) {
        let Unit { range, at, .. } = &self.spread.units[unit];
        if range.is_empty() {
            return;
        }
        let place = *at..at + range.len();
        let leaf = self.own.map(|_| host(backend, values, place.clone()));
        let has: Vec<bool> = self.all.iter().map(Option::is_some).collect();
        if let Ok(found) = self.spread.scattered(range.clone(), leaf.as_deref(), &has) {
            let mut found: Vec<(Node, Vec<f32>)> =
                self.all.iter().zip(found).filter_map(|(node, part)| node.zip(part)).collect();
            found.sort_by_key(|(node, _)| *node);
            found.into_iter().for_each(|(node, part)| self.trees[unit].push(node, part));
        }
        backend.fill_zero(values.out().cols(place));
    }
}

/// Elements of an arena in single precision.
pub(crate) fn host<B: Backend>(backend: &B, values: &Mat<B, B::Real>, range: Range<usize>) -> Vec<f32> {
    backend.to_host(values.view().cols(range)).into_iter().map(|x| x.f64() as f32).collect()
}

/// Values as the device has them.
pub(crate) fn real<B: Backend>(values: &[f32]) -> Vec<B::Real> {
    values.iter().map(|x| B::Real::of(f64::from(*x))).collect()
}
