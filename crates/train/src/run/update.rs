//! From a step's gradient to new values: on one rank, or each rank its range of the arena.

use super::{Ranks, Run};
use crate::Error;
use crate::gradient::Gradient;
use crate::policy::Policy;
use config::{Master, OptimizerName};
use dist::{Shards, World};
use kernels::{Backend, Mat, Real};
use optim::adamw::clip;
use std::ops::Range;

/// Refuses what one process alone can update.
pub(super) fn fits(world: &World, optimizer: &config::Optimizer) -> Result<(), Error> {
    let key = match (optimizer.name, optimizer.master) {
        _ if world.size() == 1 => return Ok(()),
        (OptimizerName::Adamw8bit, _) => "optim: adamw_8bit",
        (_, Master::None) => "optim_master: none",
        _ => return Ok(()),
    };
    let what = format!(
        "{key}: expected one process, found {} ranks; use `optim: adamw_torch` with `optim_master: f32`, whose state `zero_stage: 1` shards over them",
        world.size()
    );
    Err(Error::Mismatch { what })
}

impl Ranks<'_> {
    /// Whether this rank alone computes the whole step as one process does.
    fn alone(&self) -> bool {
        self.world.size() == 1 && !self.elastic
    }

    /// The elements of an arena that this rank's optimiser updates.
    pub(super) fn updated(&self, len: usize) -> Range<usize> {
        match self.zero {
            0 => 0..len,
            _ => Shards::new(len, self.world.size()).range(self.world.rank()),
        }
    }

    /// Room for a gradient.
    pub(super) fn gradient<B: Backend>(&self, backend: &B, len: usize) -> Gradient<B> {
        match self.elastic {
            false => Gradient::running(backend, len),
            true => Gradient::elastic(backend, len, (self.zero >= 2).then_some(self.world.size())),
        }
    }

    /// Whether any rank says so.
    pub(super) fn any(&self, own: bool) -> Result<bool, Error> {
        super::agree::any(self.world, own)
    }
}

impl<B: Backend> Run<'_, B> {
    /// Updates the values by the gradient of a step, unless it is to be skipped; returns the gradient's norm before clipping.
    pub(super) fn update(
        &mut self,
        step: data::Step,
        grads: &mut Gradient<B>,
        rate: f64,
        skip: bool,
    ) -> Result<f64, Error> {
        if self.ranks.alone() {
            let norm = self.backend.square_norm(grads.values.view()).sqrt();
            let scale = self.scale(norm, step)?;
            if !skip {
                let Policy { values, halves, .. } = &mut self.policy;
                self.optimizer.update(self.backend, values, halves, &grads.values, rate, scale);
            }
            return Ok(norm);
        }
        let world = self.ranks.world;
        let len = self.policy.table.len();
        let shards = Shards::new(len, world.size());
        let own = grads.reduced(self.backend, world)?;
        let squares = world.gather_numbers(&shards.square_sums(&own))?;
        let norm = squares.iter().flatten().sum::<f64>().sqrt();
        let scale = self.scale(norm, step)?;
        if skip {
            return Ok(norm);
        }
        let ranges = shards.ranges();
        if self.ranks.zero == 0 || world.size() == 1 {
            let mut all = vec![0.0; len];
            all[ranges[world.rank()].clone()].copy_from_slice(&own);
            world.all_gather(&mut all, &ranges)?;
            upload(self.backend, &all, &mut grads.values);
            let Policy { values, halves, .. } = &mut self.policy;
            self.optimizer.update(self.backend, values, halves, &grads.values, rate, scale);
            return Ok(norm);
        }
        let mut own_grads = self.backend.mat(1, own.len());
        upload(self.backend, &own, &mut own_grads);
        let Policy { values, halves, .. } = &mut self.policy;
        self.optimizer.update(self.backend, values, halves, &own_grads, rate, scale);
        let mut all: Vec<f32> =
            self.backend.to_host(self.policy.values.view()).iter().map(|x| x.f64() as f32).collect();
        world.all_gather(&mut all, &ranges)?;
        upload(self.backend, &all, &mut self.policy.values);
        Ok(norm)
    }

    /// What clipping multiplies the gradient by.
    fn scale(&self, norm: f64, step: data::Step) -> Result<f64, Error> {
        if !norm.is_finite() {
            return Err(self.not_finite("the gradient", &self.rows_of(step)));
        }
        Ok(self.job.config.optimizer.max_grad_norm.map_or(1.0, |max| clip(norm, max)))
    }
}

fn upload<B: Backend>(backend: &B, values: &[f32], into: &mut Mat<B, B::Real>) {
    let values: Vec<B::Real> = values.iter().map(|x| B::Real::of(f64::from(*x))).collect();
    backend.upload(&values, into.out());
}
