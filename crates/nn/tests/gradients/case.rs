//! A layer as a function of its parameters and its input, and the check of its gradient.

use crate::Double;
use kernels::Mat;
use kernels::tampered::Fault;
use nn::{Context, Dropout, Grads, Params, Table};
use testkit::{gradient_gap, noise};

/// Output of a layer and, when a gradient of the output is given, the gradient of the input (if it has one).
pub(crate) type Pass = (Vec<f64>, Option<Vec<f64>>);

/// Forward, and backward when a gradient of the output and a place for the parameters' gradients are given.
pub(crate) type Run<B> = Box<dyn Fn(&Context<B>, &Mat<B>, Option<(&[f64], &mut Grads<B>)>) -> Pass>;

/// A layer under test.
pub(crate) struct Layer<B: Double> {
    pub(crate) name: &'static str,
    /// Backward operators that its gradient goes through.
    pub(crate) operators: Vec<Fault>,
    pub(crate) table: Table,
    /// Values of the parameters.
    pub(crate) start: Vec<f64>,
    /// Rows and columns of the input.
    pub(crate) shape: (usize, usize),
    pub(crate) adapters: bool,
    pub(crate) dropout: Option<Dropout>,
    pub(crate) run: Run<B>,
}

impl<B: Double> Layer<B> {
    /// The input at which gradients are taken.
    pub(crate) fn input(&self) -> Vec<f64> {
        noise(self.shape.0 * self.shape.1, 901)
    }

    /// Output, gradients of the parameters, gradient of the input; parameters at `values`.
    pub(crate) fn run(&self, backend: &B, values: &[f64], backward: bool) -> (Vec<f64>, Vec<f64>, Option<Vec<f64>>) {
        self.run_at(backend, values, &self.input(), backward)
    }

    fn run_at(&self, backend: &B, values: &[f64], x: &[f64], backward: bool) -> (Vec<f64>, Vec<f64>, Option<Vec<f64>>) {
        let arena = backend.from_host(1, values.len(), values);
        let x = backend.from_host(self.shape.0, self.shape.1, x);
        let params = Params { table: &self.table, values: &arena, halves: None, lent: &[], away: None };
        let ctx = Context { backend, params, adapters: self.adapters, dropout: self.dropout };
        if !backward {
            return ((self.run)(&ctx, &x, None).0, Vec::new(), None);
        }
        let dy = self.output_gradient(backend, values);
        let mut sums = backend.zeros(1, values.len());
        let mut grads = Grads { table: &self.table, values: &mut sums, away: None };
        let (y, dx) = (self.run)(&ctx, &x, Some((&dy, &mut grads)));
        (y, backend.to_host(sums.view()), dx)
    }

    /// The loss is the sum of the output's entries times these.
    fn output_gradient(&self, backend: &B, values: &[f64]) -> Vec<f64> {
        noise(self.run_at(backend, values, &self.input(), false).0.len(), 902)
    }

    /// Gradients of the parameters and the input.
    pub(crate) fn gradient(&self, backend: &B) -> (Vec<f64>, Option<Vec<f64>>) {
        let (_, parameters, input) = self.run(backend, &self.start, true);
        (parameters, input)
    }

    /// The largest gap between gradient and slope over every parameter and the input.
    pub(crate) fn gap(&self, backend: &B) -> f64 {
        let dy = self.output_gradient(backend, &self.start);
        let loss = |values: &[f64], x: &[f64]| -> f64 {
            self.run_at(backend, values, x, false).0.iter().zip(&dy).map(|(y, d)| y * d).sum()
        };
        let (parameters, input) = self.gradient(backend);
        let x = self.input();
        let mut worst = input.map_or(0.0, |dx| gradient_gap(|x| loss(&self.start, x), &x, &dx));
        let mut values = self.start.clone();
        for range in self.table.params().iter().map(|p| p.range()) {
            let of_one = |part: &[f64]| {
                values[range.clone()].copy_from_slice(part);
                loss(&values, &x)
            };
            worst = gradient_gap(of_one, &self.start[range.clone()], &parameters[range.clone()]).max(worst);
            values[range.clone()].copy_from_slice(&self.start[range]);
        }
        worst
    }
}
