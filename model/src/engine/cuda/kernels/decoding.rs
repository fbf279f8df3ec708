//! The kernels of decoding with their shapes: one token for each of some streams, and the draw of the next.

use super::super::gpu::{Arg, Gpu, Number, Span};
use super::{D_STATE, SCAN_CHANNELS, SCAN_THREADS, TAPS_MAX, THREADS};

/// Streams that the kernels of step.cu serve, at most.
pub(in super::super) const FEW_STREAMS: usize = 8;
/// Rows of a matrix that a warp has where a norm comes before it.
const NORMED_ROWS: usize = 2;
/// Warps of a block of a product.
const PRODUCT_WARPS: usize = 4;
/// Rows from which on a product has blocks of so many warps; below, one warp to a block spreads them wider.
const ROWS_OF_MANY: usize = 512;
/// Streams of a block of the scan of many.
const SCAN_STREAMS: usize = 4;
/// Threads of a draw.
const DRAW_THREADS: usize = 256;
/// What a draw returns where nothing can be drawn.
pub(in super::super) const NO_TOKEN: u32 = u32::MAX;

/// Streams and channels of a step.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct StepShape {
    pub(in super::super) b: usize,
    pub(in super::super) d_inner: usize,
    pub(in super::super) d_conv: usize,
    pub(in super::super) dt_rank: usize,
}

/// The convolution of a step.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct StepConv {
    pub(in super::super) shape: StepShape,
    /// (d_inner, d_conv).
    pub(in super::super) weight: Span,
    /// (d_inner).
    pub(in super::super) bias: Span,
    /// Moves on, (b, d_conv - 1, d_inner).
    pub(in super::super) window: Span,
    /// (b, 2 d_inner).
    pub(in super::super) xz: Span,
    /// Out, (b, d_inner).
    pub(in super::super) conv: Span,
}

impl StepConv {
    fn check(&self) {
        let s = &self.shape;
        assert!((2..=TAPS_MAX).contains(&s.d_conv), "{s:?}");
        assert!(self.weight.len() == s.d_inner * s.d_conv && self.bias.len() == s.d_inner, "parameters");
        assert_eq!(self.window.len(), s.b * (s.d_conv - 1) * s.d_inner, "window");
        assert!(self.xz.len() == s.b * 2 * s.d_inner && self.conv.len() == s.b * s.d_inner, "xz, conv");
        assert_eq!(self.xz.number(), self.conv.number(), "activations of one kind of number");
    }
}

/// The scan of a step.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct StepScan {
    pub(in super::super) shape: StepShape,
    /// The convolved input, (b, d_inner).
    pub(in super::super) x: Span,
    /// (b, 2 d_inner), of which the second half of each row is read.
    pub(in super::super) xz: Span,
    /// dt before its projection, B, C, (b, dt_rank + 2 D_STATE).
    pub(in super::super) x_dbl: Span,
    pub(in super::super) a_log: Span,
    pub(in super::super) dt_bias: Span,
    pub(in super::super) d_skip: Span,
    /// Moves on, (b, d_inner, D_STATE).
    pub(in super::super) state: Span,
    /// Out, the gated output, (b, d_inner).
    pub(in super::super) y: Span,
}

impl StepScan {
    fn check(&self) {
        let s = &self.shape;
        assert!(self.x.len() == s.b * s.d_inner && self.y.len() == self.x.len(), "x, y");
        assert_eq!(self.xz.len(), s.b * 2 * s.d_inner, "xz");
        assert_eq!(self.x_dbl.len(), s.b * (s.dt_rank + 2 * D_STATE), "x_dbl");
        assert_eq!(self.a_log.len(), s.d_inner * D_STATE, "a_log");
        assert!(self.dt_bias.len() == s.d_inner && self.d_skip.len() == s.d_inner, "dt_bias, d");
        assert_eq!(self.state.len(), s.b * s.d_inner * D_STATE, "state");
        let numbers = [self.xz, self.x_dbl, self.y].map(|span| span.number());
        assert!(numbers.iter().all(|n| *n == self.x.number()), "activations of one kind of number");
    }
}

/// A draw, beside its buffers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct DrawShape {
    pub(in super::super) draws: usize,
    /// Logits of a slot.
    pub(in super::super) stride: usize,
    /// The first of them, which are drawn from.
    pub(in super::super) vocab_size: usize,
    /// Words of 32 bits in a mask; 0 without masks.
    pub(in super::super) mask_words: usize,
    pub(in super::super) temperature: f32,
    /// 0 for all.
    pub(in super::super) top_k: usize,
    pub(in super::super) top_p: f32,
}

impl DrawShape {
    /// Words of the inputs: numbers, slots, masks.
    pub(in super::super) fn input_words(&self) -> usize {
        self.draws * (3 + self.mask_words)
    }
}

/// Blocks and threads of a product in which a warp has `rows_each` of `rows`.
fn product_grid(rows: usize, rows_each: usize) -> ((usize, usize, usize), (usize, usize)) {
    let warps = if rows < ROWS_OF_MANY { 1 } else { PRODUCT_WARPS };
    ((rows.div_ceil(rows_each * warps), 1, 1), (32 * warps, 1))
}

impl Gpu {
    /// RMSNorm of `x`, (b, d_model) with few streams, the input projection by `matrix`, (2 d_inner, d_model), and the convolution of
    /// its first half; the second half goes to `xz`.
    pub(in super::super) fn step_in(&self, x: Span, norm: Span, matrix: Span, conv: &StepConv, eps: f32) {
        conv.check();
        let StepConv { shape: s, weight, bias, window, xz, conv } = *conv;
        let d = norm.len();
        assert!((1..=FEW_STREAMS).contains(&s.b) && x.len() == s.b * d && matrix.len() == 2 * s.d_inner * d, "step_in");
        assert!(x.number() == Number::F32 && xz.number() == Number::F32, "activations of few streams are f32");
        let args = args![x, norm, matrix, weight, bias, window, conv, xz, s.b, d, s.d_inner, s.d_conv, eps];
        let (grid, block) = product_grid(2 * s.d_inner, NORMED_ROWS);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(matrix.number(), "step_in"), grid, block, args) };
    }

    /// `matrix`, (rows, columns), times each of the few rows of `x`, (b, columns), to those of `y`, (b, rows), or added to them.
    pub(in super::super) fn step_product(&self, matrix: Span, x: Span, y: Span, b: usize, adds: bool) {
        let (rows, columns) = (y.len() / b, x.len() / b);
        assert!((1..=FEW_STREAMS).contains(&b) && x.len() == b * columns && y.len() == b * rows, "step_product");
        assert!(x.number() == Number::F32 && y.number() == Number::F32, "activations of few streams are f32");
        assert_eq!(matrix.len(), rows * columns, "matrix");
        let args = args![matrix, x, y, b, rows, columns, usize::from(adds)];
        let (grid, block) = product_grid(rows, 1);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(matrix.number(), "step_product"), grid, block, args) };
    }

    /// RMSNorm of the few rows of `x`, (b, d_model), and `matrix`, (vocab_size, d_model), times each to `logits`, (b, vocab_size).
    pub(in super::super) fn step_head(&self, x: Span, norm: Span, matrix: Span, logits: Span, b: usize, eps: f32) {
        let (rows, d) = (logits.len() / b, norm.len());
        assert!((1..=FEW_STREAMS).contains(&b) && x.len() == b * d && logits.len() == b * rows, "step_head");
        assert!(x.number() == Number::F32 && logits.number() == Number::F32, "activations of few streams are f32");
        assert_eq!(matrix.len(), rows * d, "matrix");
        let args = args![x, norm, matrix, logits, b, rows, d, eps];
        let (grid, block) = product_grid(rows, NORMED_ROWS);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(matrix.number(), "step_head"), grid, block, args) };
    }

    /// The projection of dt by `matrix`, (d_inner, dt_rank), and the scan, for streams whose activations are f32.
    pub(in super::super) fn step_dt_scan(&self, scan: &StepScan, matrix: Span) {
        scan.check();
        let StepScan { shape: s, x, xz, x_dbl, a_log, dt_bias, d_skip, state, y } = *scan;
        assert!(matrix.len() == s.d_inner * s.dt_rank && x.number() == Number::F32, "step_dt_scan");
        let args = args![x, matrix, xz, x_dbl, a_log, dt_bias, d_skip, state, y, s.d_inner, s.dt_rank];
        let grid = (s.d_inner.div_ceil(SCAN_CHANNELS), s.b, 1);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(matrix.number(), "step_dt_scan"), grid, (SCAN_THREADS, 1), args) };
    }

    /// The convolution of the first halves of the rows of `conv.xz`.
    pub(in super::super) fn step_conv(&self, conv: &StepConv) {
        conv.check();
        let s = conv.shape;
        let args = args![conv.xz, conv.weight, conv.bias, conv.window, conv.conv, s.d_inner, s.d_conv];
        let grid = (s.d_inner.div_ceil(THREADS), s.b, 1);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(conv.xz.number(), "step_conv"), grid, (THREADS, 1), args) };
    }

    /// The scan, from dt before bias and softplus in `dt_raw`, (b, d_inner).
    pub(in super::super) fn step_scan(&self, scan: &StepScan, dt_raw: Span) {
        scan.check();
        let StepScan { shape: s, x, xz, x_dbl, a_log, dt_bias, d_skip, state, y } = *scan;
        assert!(dt_raw.len() == x.len() && dt_raw.number() == x.number(), "dt");
        let args = args![x, dt_raw, xz, x_dbl, a_log, dt_bias, d_skip, state, y, s.b, s.d_inner, s.dt_rank];
        let grid = (s.d_inner.div_ceil(SCAN_CHANNELS), s.b.div_ceil(SCAN_STREAMS), 1);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(x.number(), "step_scan"), grid, (SCAN_THREADS, 1), args) };
    }

    /// Draws a token for each of `shape.draws` from `logits`, (slots, stride), to `ret`; [`NO_TOKEN`] where there is none. `inputs`
    /// are [`DrawShape::input_words`] words as in sample.cu, whose slots are there; `weights` is scratch, (draws, vocab_size).
    pub(in super::super) fn draw(&self, logits: Span, inputs: Span, weights: Span, ret: Span, shape: &DrawShape) {
        let s = shape;
        assert!(s.vocab_size <= s.stride && logits.len().is_multiple_of(s.stride.max(1)), "logits");
        assert!(s.mask_words == 0 || s.mask_words * 32 >= s.vocab_size, "masks");
        assert!(inputs.len() >= s.input_words() && inputs.number() == Number::U32, "inputs");
        assert!(weights.len() >= s.draws * s.vocab_size && weights.number() == Number::F32, "weights");
        assert!(ret.len() >= s.draws && ret.number() == Number::U32 && logits.number() == Number::F32, "numbers");
        // More than there are is as good as all.
        let top_k = if s.top_k >= s.vocab_size { 0 } else { s.top_k };
        let args =
            args![logits, inputs, weights, ret, s.stride, s.vocab_size, s.mask_words, s.temperature, top_k, s.top_p];
        // SAFETY: the kernel's arguments, of the lengths that were checked; the caller has checked the slots.
        unsafe { self.launch("draw", (s.draws, 1, 1), (DRAW_THREADS, 1), args) };
    }

    /// Copies streams of `from`, (layers, streams.0, width), to `to`, (layers, streams.1, width): the i-th from `places[i]`, which is
    /// below `streams.0`, to `places[n + i]`, which is below `streams.1`, n being half of `places`.
    pub(in super::super) fn move_streams(
        &self,
        from: Span,
        to: Span,
        places: Span,
        layers: usize,
        streams: (usize, usize),
    ) {
        let (count, width) = (places.len() / 2, from.len() / (layers * streams.0).max(1));
        assert!(!from.overlaps(&to), "blocks read what others write");
        assert!(from.len() == layers * streams.0 * width && to.len() == layers * streams.1 * width, "move_streams");
        assert!(
            from.number() == Number::F32 && to.number() == Number::F32 && places.number() == Number::U32,
            "numbers"
        );
        let args = args![from, to, places, width, streams.0, streams.1];
        // SAFETY: the kernel's arguments, of the lengths that were checked; the caller has checked the places.
        unsafe { self.launch("move_streams", (width.div_ceil(THREADS), count, layers), (THREADS, 1), args) };
    }
}
