//! A sum whose order is a tree over its terms, whoever holds them.
//!
//! Node `(l, i)` is the sum of leaves `i 2^l .. (i + 1) 2^l`: of its two halves, or of the first alone where the second has no leaf. A
//! rank adds up what it can of its own leaves; whoever gets the nodes of all ranks goes on in the same tree, so the bits do
//! not depend on who had which leaf.

/// A place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// 0 for a leaf.
    pub level: u32,
    /// Among the nodes of its level.
    pub index: u64,
}

impl Node {
    /// Its first leaf.
    pub fn first_leaf(self) -> u64 {
        self.index << self.level
    }

    fn is_left_of(self, other: Node) -> bool {
        self.level == other.level && self.index.is_multiple_of(2) && self.index + 1 == other.index
    }

    fn parent(self) -> Node {
        Node { level: self.level + 1, index: self.index / 2 }
    }
}

/// Terms added up as far as the tree lets them, in the order of their leaves.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: Vec<(Node, Vec<f32>)>,
}

fn add(into: &mut [f32], other: &[f32]) {
    assert!(into.len() == other.len(), "a sum of {} and {} elements", into.len(), other.len());
    into.iter_mut().zip(other).for_each(|(a, b)| *a += b);
}

impl Tree {
    /// Takes in a node whose leaves come after those it has.
    pub fn push(&mut self, node: Node, values: Vec<f32>) {
        assert!(
            self.nodes.last().is_none_or(|(last, _)| last.first_leaf() < node.first_leaf()),
            "{node:?} comes after leaves that follow it"
        );
        self.nodes.push((node, values));
        while let [.., (left, _), (right, _)] = self.nodes[..]
            && left.is_left_of(right)
        {
            let (_, right) = self.nodes.pop().expect("two nodes");
            let (left, sum) = self.nodes.last_mut().expect("two nodes");
            add(sum, &right);
            *left = left.parent();
        }
    }

    /// What could not be added up yet.
    pub fn nodes(&self) -> &[(Node, Vec<f32>)] {
        &self.nodes
    }

    /// As [`Tree::nodes`], given away.
    pub fn into_nodes(self) -> Vec<(Node, Vec<f32>)> {
        self.nodes
    }

    /// The sum of all, when every leaf is there; `None` without any.
    pub fn finish(mut self) -> Option<Vec<f32>> {
        let (_, mut sum) = self.nodes.pop()?;
        while let Some((_, mut left)) = self.nodes.pop() {
            add(&mut left, &sum);
            sum = left;
        }
        Some(sum)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }
}
