//! A step's gradient on its way: pack by pack, summed in an order that depends on who computes, or on nobody.

use crate::Error;
use dist::tree::{Node, Tree};
use dist::{Shards, World};
use kernels::{Backend, Mat, Real};

/// The gradient of a step while its packs are differentiated.
pub struct Gradient<B: Backend> {
    /// What backward adds into, `[1, n]`.
    pub values: Mat<B, B::Real>,
    sum: Sum,
    /// Packs of the groups before this one.
    before: u64,
}

/// How packs are added up.
enum Sum {
    /// Each into what is there.
    Running,
    /// Each by itself, as a leaf of a fixed tree; what this rank can add up it does.
    Tree(Tree),
    /// As `Tree`, and each goes to its owners at once: one tree per rank, of this rank's shard.
    Sharded(Vec<Tree>),
}

impl<B: Backend> Gradient<B> {
    /// Packs are added up one after the other, as fits one process.
    pub fn running(backend: &B, len: usize) -> Gradient<B> {
        Gradient { values: backend.zeros(1, len), sum: Sum::Running, before: 0 }
    }

    /// Packs are leaves of a fixed tree: the sum is the same over any number of ranks. With `sharded` no rank keeps more than its
    /// shard of it.
    pub(crate) fn elastic(backend: &B, len: usize, sharded: Option<usize>) -> Gradient<B> {
        let sum = match sharded {
            None => Sum::Tree(Tree::default()),
            Some(ranks) => Sum::Sharded(vec![Tree::default(); ranks]),
        };
        Gradient { values: backend.zeros(1, len), sum, before: 0 }
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

    /// After a turn: pack `pack` of the group was differentiated, or none. Errors are kept by the world.
    pub(crate) fn end_turn(&mut self, backend: &B, world: Option<&World>, pack: Option<usize>) {
        let node = pack.map(|p| Node { level: 0, index: self.before + p as u64 });
        match (&mut self.sum, node) {
            (Sum::Running, _) | (Sum::Tree(_), None) => return,
            (Sum::Tree(tree), Some(node)) => tree.push(node, host(backend, &self.values)),
            (Sum::Sharded(trees), node) => {
                let world = world.expect("a gradient in shards has ranks to shard it over");
                let leaf = node.map(|_| host(backend, &self.values));
                if send(world, node.zip(leaf.as_deref()), self.values.cols(), trees).is_err() {
                    return;
                }
            }
        }
        backend.fill_zero(self.values.out());
    }

    /// This rank's shard of the sum over all ranks.
    pub(crate) fn reduced(&mut self, backend: &B, world: &World) -> Result<Vec<f32>, Error> {
        let len = self.values.cols();
        let shard = Shards::new(len, world.size()).range(world.rank()).len();
        if let (1, Sum::Tree(tree)) = (world.size(), &mut self.sum) {
            return Ok(std::mem::take(tree).finish().unwrap_or_else(|| vec![0.0; shard]));
        }
        let mut trees = match &mut self.sum {
            Sum::Sharded(trees) => std::mem::take(trees),
            sum => {
                let own = match sum {
                    Sum::Tree(tree) => std::mem::take(tree),
                    _ => {
                        let mut tree = Tree::default();
                        tree.push(Node { level: 0, index: world.rank() as u64 }, host(backend, &self.values));
                        tree
                    }
                };
                exchanged(world, own, len)?
            }
        };
        // Every group of rows is dealt anew, so the leaves of one rank may lie between another's.
        let mut nodes: Vec<_> = trees.iter_mut().flat_map(|tree| std::mem::take(tree).into_nodes()).collect();
        nodes.sort_by_key(|(node, _)| node.first_leaf());
        let mut whole = Tree::default();
        nodes.into_iter().for_each(|(node, values)| whole.push(node, values));
        if let Sum::Sharded(own) = &mut self.sum {
            *own = trees;
        }
        if let Some(e) = world.failure() {
            return Err(e.into());
        }
        Ok(whole.finish().unwrap_or_else(|| vec![0.0; shard]))
    }
}

/// Gives the nodes of the own tree to their owners, one at a time; returns every rank's, of the own shard.
fn exchanged(world: &World, own: Tree, len: usize) -> Result<Vec<Tree>, Error> {
    let counts = world.gather_numbers(&[own.nodes().len() as f64])?;
    let rounds = counts.iter().map(|c| c[0] as usize).max().unwrap_or(0);
    let mut trees = vec![Tree::default(); world.size()];
    let mut nodes = own.into_nodes().into_iter();
    for _ in 0..rounds {
        let node = nodes.next();
        send(world, node.as_ref().map(|(n, v)| (*n, &v[..])), len, &mut trees)?;
    }
    Ok(trees)
}

/// One round: every rank gives one node, or none, to the owners of its parts.
fn send(world: &World, node: Option<(Node, &[f32])>, len: usize, trees: &mut [Tree]) -> Result<(), dist::Error> {
    let place = node.map_or(vec![], |(n, _)| vec![f64::from(n.level), n.index as f64]);
    let places = world.gather_numbers(&place)?;
    let has: Vec<bool> = places.iter().map(|p| !p.is_empty()).collect();
    let ranges = Shards::new(len, world.size()).ranges();
    let parts = world.scatter_some(node.map(|(_, v)| v), &has, &ranges)?;
    for ((place, part), tree) in places.iter().zip(parts).zip(trees) {
        if let (&[level, index], Some(part)) = (&place[..], part) {
            tree.push(Node { level: level as u32, index: index as u64 }, part);
        }
    }
    Ok(())
}

/// An arena in single precision.
fn host<B: Backend>(backend: &B, values: &Mat<B, B::Real>) -> Vec<f32> {
    backend.to_host(values.view()).iter().map(|x| x.f64() as f32).collect()
}
