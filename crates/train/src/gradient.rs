//! A step's gradient on its way: pack by pack, summed in an order that depends on who computes, or on nobody.
//!
//! Ranks give what they have of a unit to those who answer for it as soon as backward is done with it, and go on: at stages 2 and 3 after
//! every pack, else in the last turn, with what was added up before.

use crate::Error;
use crate::spread::{Leaf, Spread};
use crate::step::{StepContext, Turn};
use dist::Coming;
use dist::tree::{Node, Tree};
use kernels::{Backend, Mat};
use nn::{Grads, Leave, Table};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The gradient of a step while its packs are differentiated.
pub struct Gradient<B: Backend> {
    /// What backward adds into, `[1, n]`.
    pub values: Mat<B, B::Real>,
    sum: Sum,
    /// What this rank has added up of each unit, apart for each member of the group that answers for it.
    trees: Vec<Vec<Tree>>,
    /// What every rank has added up, values left out.
    outlines: Vec<Tree>,
    /// What is added up of all ranks of each unit: what is this rank's of it.
    sums: Arc<Mutex<Vec<Tree>>>,
    /// What is on its way there.
    coming: VecDeque<Coming<()>>,
    /// Groups of packs that are still to come, this one included.
    groups: usize,
    /// Packs of the groups before this one.
    before: u64,
    /// This rank's pack of the present turn.
    own: Option<Node>,
    /// What every rank gives of a unit in the present turn.
    given: Option<Vec<Vec<Node>>>,
}

/// How packs are added up.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    /// Each into what is there.
    Running,
    /// Each by itself, as a leaf of a fixed tree; what this rank can add up it does.
    Tree,
    /// As `Tree`, and each goes to its owners at once.
    Sharded,
}

impl<B: Backend> Gradient<B> {
    fn new(backend: &B, len: usize, sum: Sum, trees: Vec<Vec<Tree>>) -> Gradient<B> {
        Gradient {
            values: backend.zeros(1, len),
            sum,
            trees,
            outlines: Vec::new(),
            sums: Arc::default(),
            coming: VecDeque::new(),
            groups: 0,
            before: 0,
            own: None,
            given: None,
        }
    }

    /// Packs are added up one after the other, as fits one process.
    pub fn running(backend: &B, len: usize) -> Gradient<B> {
        Gradient::new(backend, len, Sum::Running, Vec::new())
    }

    /// Packs are leaves of a fixed tree: the sum is the same over any number of ranks.
    pub(crate) fn elastic(backend: &B, len: usize, spread: &Spread) -> Gradient<B> {
        Gradient::new(backend, len, Sum::Tree, spread.trees())
    }

    /// The same, and no rank keeps more than its shard of the sum, and of a pack's gradient not more than is computed at a time. The
    /// optimiser reads the shard in the same room.
    pub(crate) fn sharded(backend: &B, spread: &Spread) -> Gradient<B> {
        Gradient::new(backend, spread.room().max(spread.own_len()), Sum::Sharded, spread.trees())
    }

    /// Before the first pack of a step.
    pub fn begin(&mut self, backend: &B) {
        backend.fill_zero(self.values.out());
        (self.groups, self.before) = (0, 0);
        self.trees.iter_mut().flatten().chain(&mut self.outlines).for_each(Tree::clear);
        // What is still on its way of a step that was abandoned finds its own.
        self.sums = Arc::default();
        self.coming.clear();
        (self.own, self.given) = (None, None);
    }

    /// Before the first pack of a step with so many groups.
    pub(crate) fn of_groups(&mut self, groups: usize) {
        self.groups = groups;
    }

    /// Packs of the next group are numbered from 0 again.
    pub(crate) fn next_group(&mut self, packs: usize) {
        self.before += packs as u64;
        self.groups = self.groups.saturating_sub(1);
    }

    /// Before a turn.
    pub(crate) fn begin_turn(&mut self, turn: &Turn) {
        let node = |pack: usize| Node { level: 0, index: self.before + pack as u64 };
        let all: Vec<Option<Node>> = turn.all.iter().map(|pack| pack.map(node)).collect();
        self.own = turn.pack.map(node);
        if self.sum == Sum::Sharded {
            self.given = Some(all.iter().map(|node| node.iter().copied().collect()).collect());
            return;
        }
        if self.sum == Sum::Tree {
            self.outlines.resize_with(all.len(), Tree::default);
            let leaves = self.outlines.iter_mut().zip(&all);
            leaves.for_each(|(tree, node)| node.iter().for_each(|node| tree.push(*node, Vec::new())));
        }
        self.given = (turn.last && self.groups == 1 && all.len() > 1).then(|| self.held(all.len()));
    }

    /// What every rank has added up.
    fn held(&self, ranks: usize) -> Vec<Vec<Node>> {
        let nodes = |rank: usize| match self.sum {
            Sum::Running => vec![Node { level: 0, index: rank as u64 }],
            _ => self.outlines.get(rank).map_or_else(Vec::new, |t| t.nodes().iter().map(|(node, _)| *node).collect()),
        };
        (0..ranks).map(nodes).collect()
    }

    /// Has something added to the gradient of the present turn's pack.
    pub(crate) fn add<R>(&mut self, cx: &StepContext<B>, work: impl FnOnce(&mut Grads<B>) -> R) -> R {
        let table = &cx.policy.table;
        let leaving = cx.team.filter(|_| self.sum != Sum::Running || self.given.is_some());
        let Some(spread) = leaving else { return work(&mut Grads { table, values: &mut self.values, away: None }) };
        let (mut leaf, values) = self.leaf(spread, table);
        work(&mut Grads { table, values, away: Some(&mut leaf) })
    }

    fn leaf<'t>(&'t mut self, spread: &'t Spread<'t>, table: &'t Table) -> (Leaf<'t>, &'t mut Mat<B, B::Real>) {
        let leaf = Leaf {
            spread,
            whole: (self.sum != Sum::Sharded).then_some(table),
            own: (self.sum != Sum::Running).then_some((&mut self.trees[..], self.own)),
            given: self.given.as_deref(),
            sums: &self.sums,
            coming: &mut self.coming,
        };
        (leaf, &mut self.values)
    }

    /// This rank's shard of the sum over all ranks.
    pub(crate) fn reduced(&mut self, backend: &B, spread: &Spread, table: &Table) -> Result<Vec<f32>, Error> {
        let world = spread.world;
        if world.size() > 1 && self.given.take().is_none() {
            // No rank had a pack in the last group.
            (self.own, self.given) = (None, Some(self.held(world.size())));
            let (mut leaf, values) = self.leaf(spread, table);
            (0..spread.units()).for_each(|unit| leaf.leave(backend, unit, values));
        }
        self.coming.drain(..).for_each(Coming::take);
        if let Some(e) = world.failure() {
            return Err(e.into());
        }
        let mut sums = std::mem::take(&mut *self.sums.lock().unwrap_or_else(PoisonError::into_inner));
        if world.size() == 1 && self.sum == Sum::Tree {
            sums = self.trees.iter_mut().flat_map(std::mem::take).collect();
            self.trees = spread.trees();
        }
        sums.resize_with(spread.units(), Tree::default);
        let mut own = Vec::with_capacity(spread.own_len());
        for (unit, tree) in sums.into_iter().enumerate() {
            // One after the other: a unit's sum is gone before the next one is read.
            match tree.finish() {
                Some(sum) => own.extend_from_slice(&sum),
                None => own.resize(own.len() + spread.own_of(unit).len(), 0.0),
            }
        }
        Ok(own)
    }
}
