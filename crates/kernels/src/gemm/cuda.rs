//! Products by cuBLASLt; weights in other storage are unpacked panel by panel before.

use super::{Gemm, Weight, agree};
use crate::cuda::{Activation, Cuda, Dtype, Product, factor, shape};
use crate::{Acc, Dst, View};

impl<A: Activation> Cuda<A> {
    /// `out [m, n] (+)= alpha * left right`, both of activations' elements.
    fn multiply<T>(
        &self,
        alpha: f64,
        [left, right]: [crate::cuda::Factor; 2],
        k: usize,
        dst: Dst<'_, Self, T>,
        out_dtype: Dtype,
    ) {
        let Dst { out, add } = dst;
        self.product(&Product {
            shape: [out.rows, out.cols, k],
            left,
            right,
            dtype: A::DTYPE,
            out: factor(out.view()),
            out_dtype,
            alpha: alpha as f32,
            add,
        });
    }
}

impl<A: Activation> Gemm for Cuda<A> {
    fn linear<'a>(&self, alpha: f64, x: View<Self, A>, w: Weight<Self>, y: impl Into<Dst<'a, Self, A>>) {
        let mut dst = y.into();
        let (o, i) = shape(w);
        agree(x.shape(), (i, o), dst.out.shape());
        self.panels(w, |panel| {
            let add = dst.add;
            let out = dst.out.again().cols(panel.rows.clone());
            self.multiply(alpha, [factor(x), panel.factor().turn()], i, Dst { out, add }, A::DTYPE);
        });
    }

    fn linear_dx<'a>(&self, alpha: f64, dy: View<Self, A>, w: Weight<Self>, dx: impl Into<Dst<'a, Self, A>>) {
        let mut dst = dx.into();
        agree(dy.shape(), shape(w), dst.out.shape());
        if dy.cols == 0 && !dst.add {
            return crate::Memory::fill_zero(self, dst.out);
        }
        self.panels(w, |panel| {
            let add = dst.add || panel.rows.start > 0;
            let dy = dy.cols(panel.rows.clone());
            let out = dst.out.again();
            self.multiply(alpha, [factor(dy), panel.factor()], dy.cols, Dst { out, add }, A::DTYPE);
        });
    }

    fn linear_dw(&self, alpha: f64, dy: View<Self, A>, x: View<Self, A>, dw: Acc<Self, f32>) {
        agree((dy.cols, dy.rows), x.shape(), dw.shape());
        self.multiply(alpha, [factor(dy).turn(), factor(x)], dy.rows, dw.into(), Dtype::F32);
    }
}
