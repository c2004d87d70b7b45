//! Trainable state as one flat arena: a table of names, shapes and offsets, and buffers that follow it.

use kernels::{Acc, Backend, Mat, View, Weight, bf16};
use std::ops::Range;

/// Index of a parameter in its [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(u32);

/// Where a parameter's values begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the arena of `Real`.
    Real(usize),
    /// In the arena of bfloat16.
    Half(usize),
}

impl Home {
    /// Of the value that lies `n` after this one.
    pub fn after(self, n: usize) -> Home {
        match self {
            Home::Real(first) => Home::Real(first + n),
            Home::Half(first) => Home::Half(first + n),
        }
    }
}

/// Where the next values come to lie of those that lie one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    /// As `Real`.
    pub reals: usize,
    /// In bfloat16.
    pub halves: usize,
}

impl Places {
    /// The place of the next `len` values, which are as those that are at `home`.
    pub fn take(&mut self, home: Home, len: usize) -> (Home, Range<usize>) {
        let next = match home {
            Home::Real(_) => &mut self.reals,
            Home::Half(_) => &mut self.halves,
        };
        let first = std::mem::replace(next, *next + len);
        let home = if let Home::Real(_) = home { Home::Real(first) } else { Home::Half(first) };
        (home, first..first + len)
    }
}

/// Ascending runs of values, which lie one after the other where they are held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Of the arena of `Real`.
    pub reals: Vec<Range<usize>>,
    /// Of the arena of bfloat16.
    pub halves: Vec<Range<usize>>,
}

/// One trainable tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name as in the checkpoint, e.g. `model.layers.0.self_attn.q_proj.weight`, or PEFT's for adapters.
    pub name: String,
    /// Rows (1 for vectors).
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Axes in the checkpoint; stacked matrices have three.
    pub shape: Vec<usize>,
    /// Elements before it in the arena of gradients.
    pub offset: usize,
    /// Where its values are.
    pub home: Home,
    /// Whether the optimiser applies weight decay to it.
    pub decay: bool,
}

impl Param {
    /// Its elements in the arena of gradients.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.cols
    }

    /// Its elements in the arena that has its values.
    pub fn values(&self) -> Range<usize> {
        let (Home::Real(first) | Home::Half(first)) = self.home;
        first..first + self.rows * self.cols
    }
}

/// Names, shapes and places of all trainable tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    params: Vec<Param>,
    /// Parameters before the first.
    before: usize,
    len: usize,
    halves: usize,
    /// Where units end.
    units: Vec<usize>,
}

impl Table {
    /// Adds a parameter at the end: a matrix, or a vector if it has one row.
    pub fn push(&mut self, name: &str, rows: usize, cols: usize, decay: bool) -> ParamId {
        let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
        self.push_shaped(name, &shape, decay)
    }

    /// Adds a parameter with given axes; all but the last make its rows.
    pub fn push_shaped(&mut self, name: &str, shape: &[usize], decay: bool) -> ParamId {
        let home = Home::Real(self.reals());
        self.push_at(home, name, shape, decay)
    }

    /// As [`Table::push_shaped`], with values held in bfloat16.
    pub fn push_half(&mut self, name: &str, shape: &[usize], decay: bool) -> ParamId {
        let (home, len) = (Home::Half(self.halves), shape.iter().product::<usize>());
        self.halves += len;
        self.push_at(home, name, shape, decay)
    }

    fn push_at(&mut self, home: Home, name: &str, shape: &[usize], decay: bool) -> ParamId {
        let id = ParamId(u32::try_from(self.params.len()).expect("more than 2^32 parameters"));
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).product();
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.params.push(Param { name, rows, cols, shape, offset: self.len, home, decay });
        self.len += rows * cols;
        id
    }

    /// Ends a unit: what was added since the last one ended is needed together.
    pub fn end_unit(&mut self) {
        self.units.push(self.len);
    }

    /// The elements of every unit in the arena of gradients, in order. A unit without parameters has none.
    pub fn units(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let ends = std::iter::once(0).chain(self.units.iter().copied());
        ends.zip(&self.units).map(|(start, end)| start..*end)
    }

    /// The parameters of a unit, `range`, alone: their values are all there is, their gradients begin at `at`.
    pub fn window(&self, range: Range<usize>, at: usize) -> Table {
        let before = self.params.partition_point(|p| p.offset < range.start);
        let within = self.params[before..].iter().take_while(|p| p.offset < range.end);
        let mut next = Places::default();
        let moved = |p: &Param| {
            let home = next.take(p.home, p.rows * p.cols).0;
            Param { offset: at + p.offset - range.start, home, ..p.clone() }
        };
        let params = within.map(moved).collect();
        Table { params, before, len: range.len(), halves: next.halves, units: Vec::new() }
    }

    /// Where the values of elements `range` of the arena of gradients are, in order.
    pub fn homes(&self, range: Range<usize>) -> impl Iterator<Item = (Home, usize)> + '_ {
        let first = self.params.partition_point(|p| p.range().end <= range.start);
        let within = self.params[first..].iter().take_while(move |p| p.offset < range.end);
        within.filter(|p| !p.range().is_empty()).map(move |p| {
            let (start, end) = (range.start.max(p.offset), range.end.min(p.range().end));
            (p.home.after(start - p.offset), end - start)
        })
    }

    /// What is held of values by who has elements `own`, ascending, of the arena of gradients.
    pub fn held(&self, own: &[Range<usize>]) -> Held {
        let mut held = Held::default();
        let homes = own.iter().flat_map(|range| self.homes(range.clone()));
        for (home, len) in homes {
            let (runs, first) = match home {
                Home::Real(first) => (&mut held.reals, first),
                Home::Half(first) => (&mut held.halves, first),
            };
            match runs.last_mut() {
                Some(last) if last.end == first => last.end += len,
                _ => runs.push(first..first + len),
            }
        }
        held
    }

    /// All parameters in arena order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }
    /// Elements of the arena of bfloat16.
    pub fn halves(&self) -> usize {
        self.halves
    }
    /// Elements of the arena of `Real` values.
    pub fn reals(&self) -> usize {
        self.len - self.halves
    }
    /// Elements of the arena of gradients: of both others.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// A parameter's entry.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0 as usize - self.before]
    }
}

/// The values of all parameters.
pub struct Params<'a, B: Backend> {
    /// Where each parameter lies.
    pub table: &'a Table,
    /// `[1, table.reals()]`
    pub values: &'a Mat<B, B::Real>,
    /// `[1, table.halves()]`; needed when that is not 0.
    pub halves: Option<&'a Mat<B, bf16>>,
    /// Frozen matrices that came with a unit.
    pub lent: &'a [B::Stored],
    /// Who has the others, where `values` are not all of them.
    pub away: Option<&'a dyn Away<B>>,
}

/// Values of which others have parts, given a unit of the table at a time. Everyone asks for the same units in the same order.
pub trait Away<B: Backend>: Sync {
    /// The values of a unit; `None` where nothing is to come. `own` is what is here of all values.
    fn gather(&self, backend: &B, own: &Params<B>, unit: usize) -> Option<Gathered<'_, B>>;
    /// Begins to fetch the unit that is gathered next.
    fn ahead(&self, backend: &B, own: &Params<B>, unit: usize);
}

/// The values of a unit.
pub struct Gathered<'t, B: Backend> {
    /// Where its parameters lie among them.
    pub table: &'t Table,
    /// `[1, table.reals()]`
    pub values: Mat<B, B::Real>,
    /// `[1, table.halves()]`
    pub halves: Mat<B, bf16>,
    /// Its frozen matrices, of which ranks have parts.
    pub lent: Vec<B::Stored>,
}

impl<B: Backend> Clone for Params<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Params<'_, B> {}

impl<'a, B: Backend> Params<'a, B> {
    /// A parameter as a matrix; one that is held as `Real`.
    pub fn view(&self, id: ParamId) -> View<'a, B, B::Real> {
        let p = self.table.param(id);
        assert!(matches!(p.home, Home::Real(_)), "{} is held in bfloat16", p.name);
        self.values.view().cols(p.values()).reshape(p.rows, p.cols)
    }

    /// Rows of a parameter as an operand of a product; `None`: all.
    pub fn weight(&self, id: ParamId, rows: Option<Range<usize>>) -> Weight<'a, B> {
        let p = self.table.param(id);
        let rows = rows.unwrap_or(0..p.rows);
        match p.home {
            Home::Real(_) => Weight::Param(self.view(id).rows(rows)),
            Home::Half(_) => {
                let halves = self.halves.expect("values in bfloat16 that the table speaks of");
                Weight::Half(halves.view().cols(p.values()).reshape(p.rows, p.cols).rows(rows))
            }
        }
    }
}

/// The gradients of all parameters, in the same places.
pub struct Grads<'a, B: Backend> {
    /// Where each parameter lies.
    pub table: &'a Table,
    /// The arena.
    pub values: &'a mut Mat<B, B::Real>,
    /// Whom gradients are given to, where `values` have room for those of some units only.
    pub away: Option<&'a mut dyn Leave<B>>,
}

/// Takes gradients away, a unit of the table at a time.
pub trait Leave<B: Backend> {
    /// Where the gradients of a unit are added up.
    fn table(&self, unit: usize) -> &Table;
    /// Takes those of a unit, and leaves zeros.
    fn leave(&mut self, backend: &B, unit: usize, values: &mut Mat<B, B::Real>);
}

impl<B: Backend> Grads<'_, B> {
    /// A parameter's gradient, to be added into.
    pub fn acc(&mut self, id: ParamId) -> Acc<'_, B, B::Real> {
        let p = self.table.param(id);
        self.values.out().cols(p.range()).reshape(p.rows, p.cols).into_acc()
    }

    /// Those of a unit.
    pub fn unit(&mut self, unit: usize) -> Grads<'_, B> {
        let table = self.away.as_ref().map_or(self.table, |away| away.table(unit));
        Grads { table, values: self.values, away: None }
    }

    /// Nothing is added to those of a unit any more.
    pub fn end_unit(&mut self, backend: &B, unit: usize) {
        if let Some(away) = &mut self.away {
            away.leave(backend, unit, self.values);
        }
    }
}
