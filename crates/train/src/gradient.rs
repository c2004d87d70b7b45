//! A step's gradient on its way: pack by pack, summed in an order that depends on who computes, or on nobody.

use crate::Error;
use crate::spread::{Leaf, Spread, host};
use crate::step::{StepContext, Turn};
use dist::tree::{Node, Tree};
use kernels::{Backend, Mat};
use nn::Grads;

/// The gradient of a step while its packs are differentiated.
pub struct Gradient<B: Backend> {
    /// What backward adds into, `[1, n]`.
    pub values: Mat<B, B::Real>,
    sum: Sum,
    /// Packs of the groups before this one.
    before: u64,
    /// This rank's pack of the present turn, and every rank's.
    turn: (Option<Node>, Vec<Option<Node>>),
}

/// How packs are added up.
enum Sum {
    /// Each into what is there.
    Running,
    /// Each by itself, as a leaf of a fixed tree; what this rank can add up it does.
    Tree(Tree),
    /// As `Tree`, and each goes to its owners at once: one tree for each unit, of what this rank has of it.
    Sharded(Vec<Tree>),
}

impl<B: Backend> Gradient<B> {
    fn new(backend: &B, len: usize, sum: Sum) -> Gradient<B> {
        Gradient { values: backend.zeros(1, len), sum, before: 0, turn: (None, Vec::new()) }
    }

    /// Packs are added up one after the other, as fits one process.
    pub fn running(backend: &B, len: usize) -> Gradient<B> {
        Gradient::new(backend, len, Sum::Running)
    }

    /// Packs are leaves of a fixed tree: the sum is the same over any number of ranks.
    pub(crate) fn elastic(backend: &B, len: usize) -> Gradient<B> {
        Gradient::new(backend, len, Sum::Tree(Tree::default()))
    }

    /// The same, and no rank keeps more than its shard of the sum, and of a pack's gradient not more than is computed at a time.
    pub(crate) fn sharded(backend: &B, spread: &Spread) -> Gradient<B> {
        Gradient::new(backend, spread.room(), Sum::Sharded(vec![Tree::default(); spread.units()]))
    }

    /// Before the first pack of a step.
    pub(crate) fn begin(&mut self, backend: &B) {
        backend.fill_zero(self.values.out());
        self.before = 0;
        match &mut self.sum {
            Sum::Running => {}
            Sum::Tree(tree) => tree.clear(),
            Sum::Sharded(trees) => trees.iter_mut().for_each(Tree::clear),
        }
    }

    /// Packs of the next group are numbered from 0 again.
    pub(crate) fn next_group(&mut self, packs: usize) {
        self.before += packs as u64;
    }

    /// Before a turn.
    pub(crate) fn begin_turn(&mut self, turn: &Turn) {
        let node = |pack: &Option<usize>| pack.map(|p| Node { level: 0, index: self.before + p as u64 });
        self.turn = (node(&turn.pack), turn.all.iter().map(node).collect());
    }

    /// Has something added to the gradient of the present turn's pack.
    pub(crate) fn add<R>(&mut self, cx: &StepContext<B>, work: impl FnOnce(&mut Grads<B>) -> R) -> R {
        let (table, values) = (&cx.policy.table, &mut self.values);
        match (&mut self.sum, cx.team) {
            (Sum::Sharded(trees), Some(spread)) => {
                let mut leaf = Leaf { spread, trees, own: self.turn.0, all: &self.turn.1 };
                work(&mut Grads { table, values, away: Some(&mut leaf) })
            }
            _ => work(&mut Grads { table, values, away: None }),
        }
    }

    /// After a turn.
    pub(crate) fn end_turn(&mut self, backend: &B) {
        if let (Sum::Tree(tree), Some(node)) = (&mut self.sum, self.turn.0) {
            tree.push(node, host(backend, &self.values, 0..self.values.cols()));
            backend.fill_zero(self.values.out());
        }
    }

    /// This rank's shard of the sum over all ranks.
    pub(crate) fn reduced(&mut self, backend: &B, spread: &Spread) -> Result<Vec<f32>, Error> {
        let world = spread.world;
        let own = match &mut self.sum {
            Sum::Sharded(trees) => {
                let missing = |unit| vec![0.0; spread.own_of(unit).len()];
                let sums = trees.iter_mut().enumerate();
                let sums = sums.map(|(unit, tree)| std::mem::take(tree).finish().unwrap_or_else(|| missing(unit)));
                let own: Vec<f32> = sums.flatten().collect();
                return world.failure().map_or(Ok(own), |e| Err(e.into()));
            }
            Sum::Tree(tree) => std::mem::take(tree),
            Sum::Running => {
                let mut tree = Tree::default();
                let node = Node { level: 0, index: world.rank() as u64 };
                tree.push(node, host(backend, &self.values, 0..self.values.cols()));
                tree
            }
        };
        if world.size() == 1 {
            return Ok(own.finish().unwrap_or_else(|| vec![0.0; self.values.cols()]));
        }
        exchanged(spread, own, self.values.cols())
    }
}

/// Gives the nodes of the own tree to their owners, one at a time; returns the sum of everyone's, of the own shard.
fn exchanged(spread: &Spread, own: Tree, len: usize) -> Result<Vec<f32>, Error> {
    let world = spread.world;
    let place = |(node, _): &(Node, Vec<f32>)| [f64::from(node.level), node.index as f64];
    let places = world.gather_numbers(&own.nodes().iter().flat_map(place).collect::<Vec<_>>())?;
    let rounds = places.iter().map(|p| p.len() / 2).max().unwrap_or(0);
    let mut nodes = own.into_nodes().into_iter();
    let mut found = Vec::new();
    for round in 0..rounds {
        let node = nodes.next();
        let has: Vec<bool> = places.iter().map(|p| p.len() > 2 * round).collect();
        let parts = spread.scattered(0..len, node.as_ref().map(|(_, v)| &v[..]), &has)?;
        for (place, part) in places.iter().zip(parts) {
            if let Some(part) = part {
                let (level, index) = (place[2 * round] as u32, place[2 * round + 1] as u64);
                found.push((Node { level, index }, part));
            }
        }
    }
    // Every group of rows is dealt anew, so the leaves of one rank may lie between another's.
    found.sort_by_key(|(node, _)| node.first_leaf());
    let mut whole = Tree::default();
    found.into_iter().for_each(|(node, values)| whole.push(node, values));
    Ok(whole.finish().unwrap_or_else(|| vec![0.0; spread.own().iter().map(ExactSizeIterator::len).sum()]))
}
