//! A mixture of experts: rows sorted by the experts they were sent to, one grouped product per projection, no capacity and
//! no dropped row; the sum over a row's experts runs in the order of the experts.

use crate::{
    Context, Grads, Linear, LinearSaved, Part, Router, RouterLoad, RouterSaved, SharedExpert, SharedSaved, Vector,
};
use kernels::{Backend, Clamp, Dst, Gate, Groups, Mat, Out, View};
use std::ops::Range;

/// The first half of an expert, up to its activation.
pub enum Activation<B: Backend> {
    /// `g(gate(x)) * up(x)`.
    Gated {
        /// `[f, d]` each.
        gate: Vec<Linear<B>>,
        /// `[f, d]` each.
        up: Vec<Linear<B>>,
        /// The activation.
        kind: Gate,
    },
    /// One projection `[2f, d]` whose outputs are gate and up in turns, clamped.
    Clamped {
        /// `[2f, d]` each.
        gate_up: Vec<Linear<B>>,
        /// `[e, 2f]`.
        bias: Vector<B>,
        /// The activation.
        clamp: Clamp,
    },
}

/// Experts, the router before them, and what every row goes through beside them.
pub struct Experts<B: Backend> {
    /// Chooses.
    pub router: Router<B>,
    /// Up to the activation.
    pub activation: Activation<B>,
    /// `[d, f]` each.
    pub down: Vec<Linear<B>>,
    /// Bias of `down`, `[e, d]`; it is weighted like the rest of an expert's output.
    pub down_bias: Option<Vector<B>>,
    /// Whether the weights lie as `[i, o]`.
    pub turned: bool,
    /// Beside the experts.
    pub shared: Option<SharedExpert<B>>,
}

/// What backward needs beside the input.
pub struct ExpertsSaved<B: Backend> {
    router: RouterSaved<B>,
    sorted: Sorted<B>,
    /// Outputs of the first projections: gate and up, or both in turns.
    inner: Vec<Mat<B>>,
    /// Adapters' inner activations, per projection and expert.
    adapters: Vec<Vec<LinearSaved<B>>>,
    shared: Option<SharedSaved<B>>,
}

impl<B: Backend> ExpertsSaved<B> {
    /// How the rows were routed, where it was to be measured.
    pub fn load(&self) -> Option<&RouterLoad> {
        self.router.load.as_ref()
    }
}

/// Rows in the order of the experts; `s` counts them.
struct Sorted<B: Backend> {
    /// Rows of each expert.
    groups: Vec<Range<usize>>,
    /// The token of each row.
    tokens: Vec<u32>,
    /// Its weight.
    weights: Vec<B::Real>,
    /// Its place among the router's choices.
    places: Vec<u32>,
}

impl<B: Backend> Sorted<B> {
    /// Sorts the choices `[t, c]` by expert; within one, tokens keep their order.
    fn new(routed: &kernels::Routed<B::Real>, experts: usize, chosen: usize) -> Sorted<B> {
        let mut counts = vec![0; experts];
        routed.experts.iter().for_each(|&e| counts[e as usize] += 1);
        let mut end = 0;
        let groups: Vec<Range<usize>> = counts
            .iter()
            .map(|n| {
                end += n;
                end - n..end
            })
            .collect();
        let mut next: Vec<usize> = groups.iter().map(|g| g.start).collect();
        let mut places = vec![0; routed.experts.len()];
        for (place, &e) in (0u32..).zip(&routed.experts) {
            places[next[e as usize]] = place;
            next[e as usize] += 1;
        }
        Sorted {
            groups,
            tokens: places.iter().map(|p| p / chosen as u32).collect(),
            weights: places.iter().map(|p| routed.weights[*p as usize]).collect(),
            places,
        }
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    /// One projection of all experts.
    fn project(
        &self,
        ctx: &Context<B>,
        bank: &[Linear<B>],
        turned: bool,
        x: View<B, B::Act>,
    ) -> (Mat<B>, Vec<LinearSaved<B>>) {
        let mut y = ctx.backend.mat(x.rows, bank[0].outputs);
        let weights = bank.iter().map(|l| l.weight.weight(&ctx.params)).collect();
        ctx.backend.grouped(x, &Groups { weights, rows: &self.groups, turned }, y.out());
        let adapt = |(linear, rows): (&Linear<B>, &Range<usize>)| {
            linear.adapt(ctx, x.rows(rows.clone()), y.out().rows(rows.clone()))
        };
        let saved = bank.iter().zip(&self.groups).map(adapt).collect();
        (y, saved)
    }

    /// Adds a projection's gradients; returns `dx`.
    fn project_back(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        (bank, turned): (&[Linear<B>], bool),
        saved: &[LinearSaved<B>],
        x: View<B, B::Act>,
        dy: View<B, B::Act>,
    ) -> Mat<B> {
        let k = ctx.backend;
        let mut dx = k.mat(x.rows, bank[0].inputs);
        let weights = bank.iter().map(|l| l.weight.weight(&ctx.params)).collect();
        k.grouped_dx(dy, &Groups { weights, rows: &self.groups, turned }, dx.out());
        for ((linear, rows), saved) in bank.iter().zip(&self.groups).zip(saved).filter(|((_, r), _)| !r.is_empty()) {
            let (x, dy) = (x.rows(rows.clone()), dy.rows(rows.clone()));
            if let Some(dw) = linear.weight.grad(grads) {
                let (left, right) = if turned { (x, dy) } else { (dy, x) };
                k.linear_dw(1.0, left, right, dw);
            }
            let inner = linear.adapter_grads(ctx, grads, x, saved, dy);
            linear.adapter_dx(ctx, inner, Dst::from(dx.out().rows(rows.clone())));
        }
        dx
    }
}

impl<B: Backend> Activation<B> {
    fn banks(&self) -> Vec<&[Linear<B>]> {
        match self {
            Activation::Gated { gate, up, .. } => vec![gate, up],
            Activation::Clamped { gate_up, .. } => vec![gate_up],
        }
    }

    /// The activation of the first projections' outputs, `[s, f]`.
    fn apply(&self, k: &B, inner: &[Mat<B>], width: usize) -> Mat<B> {
        let mut a_sf = k.mat(inner[0].rows(), width);
        match self {
            Activation::Gated { kind, .. } => k.glu(*kind, inner[0].view(), inner[1].view(), a_sf.out()),
            Activation::Clamped { clamp, .. } => k.clamped_glu(*clamp, inner[0].view(), a_sf.out()),
        }
        a_sf
    }

    /// Gradients of the first projections' outputs.
    fn back(&self, k: &B, inner: &[Mat<B>], mut da_sf: Mat<B>) -> Vec<Mat<B>> {
        let mut first = k.mat(inner[0].rows(), inner[0].cols());
        match self {
            Activation::Gated { kind, .. } => {
                k.glu_back(*kind, [inner[0].view(), inner[1].view()], first.out(), da_sf.out());
                vec![first, da_sf]
            }
            Activation::Clamped { clamp, .. } => {
                k.clamped_glu_back(*clamp, inner[0].view(), da_sf.view(), first.out());
                vec![first]
            }
        }
    }
}

impl<B: Backend> Experts<B> {
    /// Whether some parameter of it is trained.
    pub fn is_trained(&self) -> bool {
        let banks = self.activation.banks();
        let bias = match &self.activation {
            Activation::Gated { .. } => None,
            Activation::Clamped { bias, .. } => Some(bias),
        };
        banks.iter().flat_map(|bank| bank.iter()).chain(&self.down).any(Linear::is_trained)
            || bias.into_iter().chain(&self.down_bias).any(|b| b.trained().is_some())
            || self.router.linear.is_trained()
            || self.shared.as_ref().is_some_and(SharedExpert::is_trained)
    }

    /// `x [t, d]` to `y [t, d]`.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        part: &Part<B>,
        x: View<B, B::Act>,
        mut y: Out<B, B::Act>,
    ) -> ExpertsSaved<B> {
        let k = ctx.backend;
        let router = self.router.forward(ctx, part, x);
        let shape = self.router.shape;
        let sorted = Sorted::new(&router.routed, shape.experts, shape.chosen);
        let mut x_sd = k.mat(sorted.len(), x.cols);
        k.gather(x, &sorted.tokens, x_sd.out());
        let (mut inner, mut adapters) = (Vec::new(), Vec::new());
        for bank in self.activation.banks() {
            let (y, saved) = sorted.project(ctx, bank, self.turned, x_sd.view());
            inner.push(y);
            adapters.push(saved);
        }
        if let Activation::Clamped { bias, .. } = &self.activation {
            k.grouped_bias(bias.view(&ctx.params), &sorted.groups, &[], inner[0].acc());
        }
        drop(x_sd);
        // The weight is put on the activation, not on the output: so the output needs not be kept for the weight's gradient.
        let mut z_sf = self.activation.apply(k, &inner, self.down[0].inputs);
        k.scale_rows(&sorted.weights, z_sf.out());
        let (mut out_sd, saved) = sorted.project(ctx, &self.down, self.turned, z_sf.view());
        adapters.push(saved);
        drop(z_sf);
        if let Some(bias) = &self.down_bias {
            k.grouped_bias(bias.view(&ctx.params), &sorted.groups, &sorted.weights, out_sd.acc());
        }
        let shared = match &self.shared {
            Some(shared) => Some(shared.forward(ctx, x, y.again())),
            None => {
                k.fill_zero(y.again());
                None
            }
        };
        k.scatter_add(out_sd.view(), &sorted.tokens, &[], y.into_acc());
        ExpertsSaved { router, sorted, inner, adapters, shared }
    }

    /// Adds the parameters' gradients and writes `dx`.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        (part, x): (&Part<B>, View<B, B::Act>),
        saved: &ExpertsSaved<B>,
        dy: View<B, B::Act>,
        mut dx: Out<B, B::Act>,
    ) {
        let k = ctx.backend;
        let ExpertsSaved { router, sorted, inner, adapters, shared } = saved;
        match (&self.shared, shared) {
            (Some(layer), Some(saved)) => layer.backward(ctx, grads, x, saved, dy, dx.again()),
            _ => k.fill_zero(dx.again()),
        }
        let mut dout_sd = k.mat(sorted.len(), dy.cols);
        k.gather(dy, &sorted.tokens, dout_sd.out());
        let (dz_sf, dweights) = self.down_backward(ctx, grads, saved, dout_sd.view());
        drop(dout_sd);
        let dinner = self.activation.back(k, inner, dz_sf);
        if let Activation::Clamped { bias, .. } = &self.activation
            && let Some(id) = bias.trained()
        {
            k.grouped_bias_back(dinner[0].view(), &sorted.groups, &[], grads.acc(id));
        }
        let mut x_sd = k.mat(sorted.len(), x.cols);
        k.gather(x, &sorted.tokens, x_sd.out());
        for ((bank, saved), d) in self.activation.banks().into_iter().zip(adapters).zip(&dinner) {
            let dx_sd = sorted.project_back(ctx, grads, (bank, self.turned), saved, x_sd.view(), d.view());
            k.scatter_add(dx_sd.view(), &sorted.tokens, &[], dx.again().into_acc());
        }
        drop(x_sd);
        self.router.backward(ctx, grads, part, x, router, &dweights, Dst::from(dx.into_acc()));
    }

    /// Through the second projection: the gradient of the activation, `[s, f]`, and of the weights, `[t, c]`.
    fn down_backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        saved: &ExpertsSaved<B>,
        dout_sd: View<B, B::Act>,
    ) -> (Mat<B>, Vec<B::Real>) {
        let k = ctx.backend;
        let ExpertsSaved { sorted, inner, adapters, .. } = saved;
        let a_sf = self.activation.apply(k, inner, self.down[0].inputs);
        let mut z_sf = k.mat(a_sf.rows(), a_sf.cols());
        k.copy(a_sf.view(), z_sf.out());
        k.scale_rows(&sorted.weights, z_sf.out());
        let last = adapters.last().expect("one entry per projection");
        let mut dz_sf = sorted.project_back(ctx, grads, (&self.down, self.turned), last, z_sf.view(), dout_sd);
        let mut dots = k.row_dots(dz_sf.view(), a_sf.view());
        k.scale_rows(&sorted.weights, dz_sf.out());
        if let Some(bias) = &self.down_bias {
            let mut rows_sd = k.zeros(dout_sd.rows, dout_sd.cols);
            k.grouped_bias(bias.view(&ctx.params), &sorted.groups, &[], rows_sd.acc());
            let more = k.row_dots(dout_sd, rows_sd.view());
            dots.iter_mut().zip(more).for_each(|(d, m)| *d += m);
            if let Some(id) = bias.trained() {
                k.grouped_bias_back(dout_sd, &sorted.groups, &sorted.weights, grads.acc(id));
            }
        }
        let mut dweights = dots.clone();
        sorted.places.iter().zip(&dots).for_each(|(&place, d)| dweights[place as usize] = *d);
        (dz_sf, dweights)
    }
}
