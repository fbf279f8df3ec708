//! The kernels of the causal convolution over rows of tokens.

use super::super::gpu::{Arg, Gpu, Number, Span};
use super::{CONV_THREADS, CONV_TOKENS, Shape, TAPS_MAX};

/// What a convolution reads; numbers as in conv.cu.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::cuda) struct Conv {
    pub(in crate::engine::cuda) shape: Shape,
    pub(in crate::engine::cuda) xz: Span,
    pub(in crate::engine::cuda) weight: Span,
    pub(in crate::engine::cuda) bias: Span,
    pub(in crate::engine::cuda) window: Span,
    pub(in crate::engine::cuda) reach: Span,
}

impl Conv {
    fn check(&self) {
        let s = &self.shape;
        assert!((2..=TAPS_MAX).contains(&s.d_conv) && s.l > 0, "{s:?}");
        assert_eq!(self.xz.len(), s.tokens() * 2 * s.d_inner, "xz");
        assert_eq!(self.weight.len(), s.d_inner * s.d_conv, "weight");
        assert_eq!(self.bias.len(), s.d_inner, "bias");
        assert_eq!(self.window.len(), s.b * (s.d_conv - 1) * s.d_inner, "window");
        assert_eq!(self.reach.len(), s.tokens(), "reach");
    }
}

impl Gpu {
    /// silu(conv(x) + bias) to `y`.
    pub(in crate::engine::cuda) fn conv_forward(&self, conv: &Conv, y: Span) {
        conv.check();
        let Conv { shape: s, xz, weight, bias, window, reach } = *conv;
        assert!(y.len() == s.tokens() * s.d_inner && y.number() == xz.number(), "y");
        let grid = (s.d_inner.div_ceil(CONV_THREADS), s.l.div_ceil(CONV_TOKENS), s.b);
        let args = args![xz, weight, bias, window, reach, y, s.l, s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(y.number(), "conv_forward"), grid, (CONV_THREADS, 1), args) };
    }

    /// Moves the window to the ends of the rows.
    pub(in crate::engine::cuda) fn conv_window(&self, conv: &Conv) {
        conv.check();
        let s = conv.shape;
        let grid = (s.d_inner.div_ceil(CONV_THREADS), s.b, 1);
        let args = args![conv.xz, conv.window, conv.reach, s.l, s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(conv.xz.number(), "conv_window"), grid, (CONV_THREADS, 1), args) };
    }

    /// From the gradient `d_y` of the output: that of x to the first halves of the rows of `d_xz`, and those of the parameters added
    /// to `d_weight` and `d_bias`.
    pub(in crate::engine::cuda) fn conv_backward(
        &self,
        conv: &Conv,
        d_y: Span,
        d_xz: Span,
        partial: Span,
        d_weight: Span,
        d_bias: Span,
    ) {
        conv.check();
        let Conv { shape: s, xz, weight, bias, window, reach } = *conv;
        assert!(d_y.len() == s.tokens() * s.d_inner && d_xz.len() == xz.len(), "d_y, d_xz");
        assert!(d_y.number() == xz.number() && d_xz.number() == xz.number(), "numbers");
        assert!(partial.len() >= s.conv_partial_len(), "partial");
        assert!(d_weight.len() == weight.len() && d_bias.len() == bias.len(), "parameters");
        let grid = (s.d_inner.div_ceil(CONV_THREADS), s.l.div_ceil(CONV_TOKENS), s.b);
        let args = args![xz, weight, bias, window, reach, d_y, d_xz, partial, s.l, s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(d_y.number(), "conv_backward"), grid, (CONV_THREADS, 1), args) };
        let grid = (s.d_inner.div_ceil(CONV_THREADS), TAPS_MAX + 1, 1);
        let args = args![partial, d_weight, d_bias, s.conv_partial_rows(), s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("conv_parameters", grid, (CONV_THREADS, 1), args) };
    }
}
