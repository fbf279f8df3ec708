//! The kernels with their shapes: each method checks what its kernel will touch, and launches it.
//!
//! This module and [`super::gpu`] may use unsafe code; here, each block is one launch, whose arguments stand beside the source's.

use super::gpu::{Arg, Gpu, Number, Span};

/// States of a channel that the scan's kernels are written for.
pub(super) const D_STATE: usize = 16;
/// Taps of the convolution, at most.
pub(super) const TAPS_MAX: usize = 4;
/// Channels that a block of a scan has.
const SCAN_CHANNELS: usize = 32;
/// Tokens between two checkpoints of the state.
pub(super) const SCAN_TOKENS: usize = 16;
const SCAN_THREADS: usize = 128;
/// Tokens that a thread of a convolution walks.
const CONV_TOKENS: usize = 128;
const CONV_THREADS: usize = 128;
/// Rows of a block of the norm's backward pass.
const NORM_ROWS: usize = 64;
const NORM_THREADS: usize = 256;
const THREADS: usize = 256;
/// Blocks of the sum of squares.
pub(super) const SQUARE_BLOCKS: usize = 1024;
/// Blocks of scans that keep a large GPU busy: with fewer rows and channels, rows are cut into segments. A constant, so that
/// the same batch is summed in the same order on every device.
const SCAN_BLOCKS_WANTED: usize = 256;
/// Tokens of a segment, at least.
const SEGMENT_TOKENS_MIN: usize = 128;

/// The name of a kernel for the kind of number that its activations are.
macro_rules! of_number {
    ($number:expr, $name:literal) => {
        match $number {
            Number::F32 => concat!($name, "_f32"),
            Number::Bf16 => concat!($name, "_bf16"),
            other => panic!("activations of {other:?}"),
        }
    };
}

macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(Arg::from($arg)),*] };
}

mod decoding;

pub(super) use decoding::{DrawShape, FEW_STREAMS, NO_TOKEN, StepConv, StepScan, StepShape};

/// Rows, tokens and channels of a convolution or a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) b: usize,
    pub(super) l: usize,
    pub(super) d_inner: usize,
    pub(super) d_conv: usize,
    pub(super) dt_rank: usize,
}

impl Shape {
    fn tokens(&self) -> usize {
        self.b * self.l
    }

    fn width(&self) -> usize {
        self.dt_rank + 2 * D_STATE
    }

    /// Tiles of channels of a scan.
    pub(super) fn scan_tiles(&self) -> usize {
        self.d_inner.div_ceil(SCAN_CHANNELS)
    }

    /// Tokens of a segment, a multiple of [`SCAN_TOKENS`].
    pub(super) fn segment_tokens(&self) -> usize {
        let segments = SCAN_BLOCKS_WANTED.div_ceil(self.scan_tiles() * self.b);
        // Twice as many as needed where there must be some: walking them twice is paid for anyway.
        let segments = if segments > 1 { 2 * segments } else { 1 };
        let tokens = self.l.div_ceil(segments).max(SEGMENT_TOKENS_MIN.min(self.l));
        tokens.next_multiple_of(SCAN_TOKENS)
    }

    /// Segments of a row.
    pub(super) fn segments(&self) -> usize {
        self.l.div_ceil(self.segment_tokens())
    }

    /// Numbers in the checkpoints.
    pub(super) fn checkpoints_len(&self) -> usize {
        self.b * self.l.div_ceil(SCAN_TOKENS) * self.d_inner * D_STATE
    }

    /// Rows of the partial sums of a convolution.
    pub(super) fn conv_partial_rows(&self) -> usize {
        self.b * self.l.div_ceil(CONV_TOKENS)
    }

    /// Numbers in them.
    pub(super) fn conv_partial_len(&self) -> usize {
        self.conv_partial_rows() * (TAPS_MAX + 1) * self.d_inner
    }
}

/// What a convolution reads; numbers as in conv.cu.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub(super) shape: Shape,
    pub(super) xz: Span,
    pub(super) weight: Span,
    pub(super) bias: Span,
    pub(super) window: Span,
    pub(super) reach: Span,
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

/// What a scan reads; numbers as in scan_forward.cu.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    pub(super) shape: Shape,
    pub(super) x: Span,
    pub(super) dt_raw: Span,
    pub(super) xz: Span,
    pub(super) x_dbl: Span,
    pub(super) starts: Span,
    pub(super) a_log: Span,
    pub(super) dt_bias: Span,
    pub(super) d_skip: Span,
    /// Scratch where rows are cut: (b, segments, d_inner, D_STATE).
    pub(super) ends: Span,
    /// Scratch where rows are cut: (b, segments, d_inner).
    pub(super) sums: Span,
}

impl Scan {
    fn check(&self) {
        let s = &self.shape;
        let (t, c) = (s.tokens(), s.d_inner);
        assert!(s.l > 0, "{s:?}");
        assert!(self.x.len() == t * c && self.dt_raw.len() == t * c, "x, dt");
        assert_eq!(self.xz.len(), t * 2 * c, "xz");
        assert_eq!(self.x_dbl.len(), t * s.width(), "x_dbl");
        assert_eq!(self.starts.len(), t, "starts");
        assert_eq!(self.a_log.len(), c * D_STATE, "a_log");
        assert!(self.dt_bias.len() == c && self.d_skip.len() == c, "dt_bias, d");
        if s.segments() > 1 {
            assert!(self.ends.len() >= s.b * s.segments() * c * D_STATE, "ends");
            assert!(self.sums.len() >= s.b * s.segments() * c, "sums");
        }
        let numbers = [self.dt_raw, self.xz, self.x_dbl].map(|span| span.number());
        assert!(numbers.iter().all(|n| *n == self.x.number()), "activations of one kind of number");
    }
}

/// Where the scan's backward pass reads and writes beyond [`Scan`].
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanGradients {
    pub(super) checkpoints: Span,
    /// In: gradient of the gated output.
    pub(super) d_y: Span,
    /// Out: the gated output.
    pub(super) y: Span,
    /// Out.
    pub(super) d_x: Span,
    /// Out: the gate's halves.
    pub(super) d_xz: Span,
    /// Out: the columns of B and C.
    pub(super) d_x_dbl: Span,
    /// Scratch, (tiles, t, 2 D_STATE).
    pub(super) partial_bc: Span,
    /// Scratch, (b, segments, d_inner, D_STATE).
    pub(super) partial_a: Span,
    /// Scratch, (b, segments, 2, d_inner).
    pub(super) partial_channel: Span,
    /// Added to.
    pub(super) d_a_log: Span,
    /// Added to.
    pub(super) d_skip: Span,
    /// Added to.
    pub(super) d_dt_bias: Span,
}

/// Settings of one step of AdamW, as adamw.cu takes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamWStep {
    pub(super) clip: f32,
    pub(super) beta1: f32,
    pub(super) rest1: f32,
    pub(super) beta2: f32,
    pub(super) rest2: f32,
    pub(super) eps: f32,
    pub(super) step_size: f32,
    pub(super) root_correction: f32,
    pub(super) kept: f32,
}

impl Gpu {
    /// RMSNorm of the rows of `x`, (rows, d), to `y`; `kept`, unless none, gets a copy of `x`.
    pub(super) fn norm_forward(&self, x: Span, weight: Span, y: Span, kept: Span, eps: f32) {
        let (d, rows) = (weight.len(), x.len() / weight.len());
        assert!(x.len() == rows * d && y.len() == x.len() && (kept.len() == 0 || kept.len() == x.len()), "norm");
        let (name, rows_per_block) = (of_number!(y.number(), "norm_forward"), THREADS / 32);
        let args = args![x, weight, y, kept, rows, d, eps];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(name, (rows.div_ceil(rows_per_block), 1, 1), (THREADS, 1), args) };
    }

    /// Blocks, and so rows of partial sums, of [`Self::norm_backward`].
    pub(super) fn norm_partial_rows(rows: usize) -> usize {
        rows.div_ceil(NORM_ROWS)
    }

    /// Adds to `d_x` the gradient of `x`, writes the sum to `cast` too, and adds to `d_weight` that of the weight.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn norm_backward(
        &self,
        x: Span,
        weight: Span,
        d_y: Span,
        d_x: Span,
        cast: Span,
        partial: Span,
        d_weight: Span,
        eps: f32,
    ) {
        let (d, rows) = (weight.len(), x.len() / weight.len());
        let blocks = Self::norm_partial_rows(rows);
        assert!(x.len() == rows * d && d_y.len() == x.len() && d_x.len() == x.len() && cast.len() == x.len(), "norm");
        assert!(partial.len() >= blocks * d && cast.number() == d_y.number(), "norm");
        let args = args![x, weight, d_y, d_x, cast, partial, rows, d, eps];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(d_y.number(), "norm_backward"), (blocks, 1, 1), (NORM_THREADS, 1), args) };
        self.sum_rows(partial.part(0, blocks * d), d_weight);
    }

    /// Adds the sum over the rows of `from`, (rows, columns), to `to`, (columns).
    pub(super) fn sum_rows(&self, from: Span, to: Span) {
        let (columns, rows) = (to.len(), from.len() / to.len());
        assert!(from.len() == rows * columns && from.number() == Number::F32 && to.number() == Number::F32, "sum_rows");
        let args = args![from, to, rows, columns];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("sum_rows", (columns.div_ceil(32), 1, 1), (32, 8), args) };
    }

    /// silu(conv(x) + bias) to `y`.
    pub(super) fn conv_forward(&self, conv: &Conv, y: Span) {
        conv.check();
        let s = conv.shape;
        assert!(y.len() == s.tokens() * s.d_inner && y.number() == conv.xz.number(), "y");
        let grid = (s.d_inner.div_ceil(CONV_THREADS), s.l.div_ceil(CONV_TOKENS), s.b);
        let args = args![conv.xz, conv.weight, conv.bias, conv.window, conv.reach, y, s.l, s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(y.number(), "conv_forward"), grid, (CONV_THREADS, 1), args) };
    }

    /// Moves the window to the ends of the rows.
    pub(super) fn conv_window(&self, conv: &Conv) {
        conv.check();
        let s = conv.shape;
        let grid = (s.d_inner.div_ceil(CONV_THREADS), s.b, 1);
        let args = args![conv.xz, conv.window, conv.reach, s.l, s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(conv.xz.number(), "conv_window"), grid, (CONV_THREADS, 1), args) };
    }

    /// From the gradient `d_y` of the output: that of x to the first halves of the rows of `d_xz`, and those of the parameters added
    /// to `d_weight` and `d_bias`.
    pub(super) fn conv_backward(
        &self,
        conv: &Conv,
        d_y: Span,
        d_xz: Span,
        partial: Span,
        d_weight: Span,
        d_bias: Span,
    ) {
        conv.check();
        let s = conv.shape;
        assert!(d_y.len() == s.tokens() * s.d_inner && d_xz.len() == conv.xz.len(), "d_y, d_xz");
        assert!(d_y.number() == conv.xz.number() && d_xz.number() == conv.xz.number(), "numbers");
        assert!(partial.len() >= s.conv_partial_len(), "partial");
        assert!(d_weight.len() == conv.weight.len() && d_bias.len() == conv.bias.len(), "parameters");
        let grid = (s.d_inner.div_ceil(CONV_THREADS), s.l.div_ceil(CONV_TOKENS), s.b);
        let args = args![
            conv.xz,
            conv.weight,
            conv.bias,
            conv.window,
            conv.reach,
            d_y,
            d_xz,
            partial,
            s.l,
            s.d_inner,
            s.d_conv
        ];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(d_y.number(), "conv_backward"), grid, (CONV_THREADS, 1), args) };
        let grid = (s.d_inner.div_ceil(CONV_THREADS), TAPS_MAX + 1, 1);
        let args = args![partial, d_weight, d_bias, s.conv_partial_rows(), s.d_inner, s.d_conv];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("conv_parameters", grid, (CONV_THREADS, 1), args) };
    }

    /// The gated output of the scan to `y`; `state`, (b, d_inner, D_STATE), moves on to the ends of the rows; `checkpoints`, unless
    /// none, gets what the backward pass starts from.
    pub(super) fn scan_forward(&self, scan: &Scan, state: Span, checkpoints: Span, y: Span) {
        scan.check();
        let s = scan.shape;
        assert!(y.len() == scan.x.len() && y.number() == scan.x.number(), "y");
        assert_eq!(state.len(), s.b * s.d_inner * D_STATE, "state");
        assert!(checkpoints.len() == 0 || checkpoints.len() == s.checkpoints_len(), "checkpoints");
        let (segments, per_segment) = (s.segments(), s.segment_tokens());
        let number = y.number();
        let mut states = state;
        if segments > 1 {
            let grid = (s.scan_tiles(), segments - 1, s.b);
            let args = args![
                scan.x,
                scan.dt_raw,
                scan.x_dbl,
                scan.starts,
                scan.a_log,
                scan.dt_bias,
                scan.ends,
                scan.sums,
                s.l,
                s.d_inner,
                s.dt_rank,
                per_segment
            ];
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch(of_number!(number, "scan_ends"), grid, (SCAN_THREADS, 1), args) };
            let blocks = (s.b * s.d_inner * D_STATE).div_ceil(THREADS);
            let args = args![state, scan.a_log, scan.sums, scan.ends, s.b, segments, s.d_inner];
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch("scan_join", (blocks, 1, 1), (THREADS, 1), args) };
            states = scan.ends;
        }
        let args = args![
            scan.x,
            scan.dt_raw,
            scan.xz,
            scan.x_dbl,
            scan.starts,
            scan.a_log,
            scan.dt_bias,
            scan.d_skip,
            states,
            state,
            checkpoints,
            y,
            s.l,
            s.d_inner,
            s.dt_rank,
            per_segment
        ];
        let grid = (s.scan_tiles(), segments, s.b);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(number, "scan_forward"), grid, (SCAN_THREADS, 1), args) };
    }

    /// Goes backward through the scan; `scan.dt_raw` becomes its gradient.
    pub(super) fn scan_backward(&self, scan: &Scan, g: &ScanGradients) {
        scan.check();
        let s = scan.shape;
        let (t, c, segments, per_segment) = (s.tokens(), s.d_inner, s.segments(), s.segment_tokens());
        let number = scan.x.number();
        assert_eq!(g.checkpoints.len(), s.checkpoints_len(), "checkpoints");
        assert!([g.d_y, g.y, g.d_x].iter().all(|span| span.len() == t * c && span.number() == number), "d_y, y, d_x");
        assert!(g.d_xz.len() == t * 2 * c && g.d_x_dbl.len() == t * s.width(), "d_xz, d_x_dbl");
        assert!(g.d_xz.number() == number && g.d_x_dbl.number() == number, "numbers");
        assert!(g.partial_bc.len() >= s.scan_tiles() * t * 2 * D_STATE, "partial_bc");
        assert!(g.partial_a.len() >= s.b * segments * c * D_STATE, "partial_a");
        assert!(g.partial_channel.len() >= s.b * segments * 2 * c, "partial_channel");
        assert!(g.d_a_log.len() == c * D_STATE && g.d_skip.len() == c && g.d_dt_bias.len() == c, "parameters");
        let mut carry = Span::NONE;
        if segments > 1 {
            let grid = (s.scan_tiles(), segments - 1, s.b);
            let args = args![
                scan.dt_raw,
                scan.xz,
                scan.x_dbl,
                scan.starts,
                scan.a_log,
                scan.dt_bias,
                g.d_y,
                scan.ends,
                scan.sums,
                s.l,
                c,
                s.dt_rank,
                per_segment
            ];
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch(of_number!(number, "scan_begins"), grid, (SCAN_THREADS, 1), args) };
            let args = args![scan.a_log, scan.sums, scan.ends, s.b, segments, c];
            let blocks = (s.b * c * D_STATE).div_ceil(THREADS);
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch("scan_join_backward", (blocks, 1, 1), (THREADS, 1), args) };
            carry = scan.ends;
        }
        let args = args![
            scan.x,
            scan.dt_raw,
            scan.xz,
            scan.x_dbl,
            scan.starts,
            scan.a_log,
            scan.dt_bias,
            scan.d_skip,
            g.checkpoints,
            carry,
            g.d_y,
            g.y,
            g.d_x,
            g.d_xz,
            g.partial_bc,
            g.partial_a,
            g.partial_channel,
            s.l,
            c,
            s.dt_rank,
            per_segment
        ];
        let grid = (s.scan_tiles(), segments, s.b);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(number, "scan_backward"), grid, (SCAN_THREADS, 1), args) };
        let args = args![g.partial_bc, g.d_x_dbl, s.scan_tiles(), t, s.dt_rank];
        let blocks = (t * 2 * D_STATE).div_ceil(THREADS);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(number, "scan_bc"), (blocks, 1, 1), (THREADS, 1), args) };
        let args =
            args![g.partial_a, g.partial_channel, scan.a_log, g.d_a_log, g.d_skip, g.d_dt_bias, s.b * segments, c];
        let blocks = (c * D_STATE).div_ceil(THREADS);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("scan_parameters", (blocks, 1, 1), (THREADS, 1), args) };
    }

    /// The rows of `table` that `tokens` name, which are below its number of rows, to `x`.
    pub(super) fn embed(&self, table: Span, tokens: Span, x: Span) {
        let d = x.len() / tokens.len();
        assert!(x.len() == tokens.len() * d && table.len().is_multiple_of(d), "embed");
        // SAFETY: the kernel's arguments, of the lengths that were checked; the caller has checked the tokens.
        unsafe { self.launch("embed", (tokens.len(), 1, 1), (THREADS, 1), args![table, tokens, x, d]) };
    }

    /// Adds the rows of `d_x` to those of `d_table` that their tokens name. `order`, `pieces`, `count` and `of_token` are made by
    /// [`super::batch::TokenOrder`]; `partial` has a row for each piece.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn embed_backward(
        &self,
        d_x: Span,
        order: Span,
        pieces: Span,
        count: Span,
        of_token: Span,
        partial: Span,
        d_table: Span,
    ) {
        let d = d_x.len() / order.len();
        let (pieces_max, vocab_size) = (pieces.len() - 1, of_token.len() - 1);
        assert!(partial.len() >= pieces_max * d && d_table.len() == vocab_size * d && count.len() == 1, "embed");
        let args = args![d_x, order, pieces, count, partial, d];
        // SAFETY: the kernel's arguments, of the lengths that were checked; places and pieces are made for this batch.
        unsafe { self.launch("embed_pieces", (pieces_max, 1, 1), (THREADS, 1), args) };
        let args = args![partial, of_token, d_table, d];
        // SAFETY: as above.
        unsafe { self.launch("embed_table", (vocab_size, 1, 1), (THREADS, 1), args) };
    }

    /// The cross-entropy of each of `targets`, which are below `vocab_size` or IGNORE, to `losses`; its derivative times `scale` to
    /// `d_logits`, unless none.
    pub(super) fn cross_entropy(
        &self,
        logits: Span,
        targets: Span,
        scale: Span,
        losses: Span,
        d_logits: Span,
        vocab_size: usize,
    ) {
        let (rows, stride) = (targets.len(), logits.len() / targets.len());
        assert!(logits.len() == rows * stride && vocab_size <= stride && losses.len() == rows, "cross_entropy");
        assert!(d_logits.len() == 0 || (d_logits.len() == logits.len() && scale.len() == 1), "cross_entropy");
        let name = if d_logits.number() == Number::Bf16 { "cross_entropy_bf16" } else { "cross_entropy_f32" };
        let args = args![logits, targets, scale, losses, d_logits, vocab_size, stride];
        // SAFETY: the kernel's arguments, of the lengths that were checked; the caller has checked the targets.
        unsafe { self.launch(name, (rows, 1, 1), (THREADS, 1), args) };
    }

    /// The sum of f32 numbers to one f64.
    pub(super) fn total(&self, from: Span, ret: Span) {
        assert!(from.number() == Number::F32 && ret.number() == Number::F64 && ret.len() == 1, "total");
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("total_f32", (1, 1, 1), (THREADS, 1), args![from, ret, from.len()]) };
    }

    /// The sum of the squares of f32 numbers to one f64; `partial` has [`SQUARE_BLOCKS`].
    pub(super) fn square_sum(&self, from: Span, partial: Span, ret: Span) {
        assert!(from.number() == Number::F32 && ret.number() == Number::F64 && ret.len() == 1, "square_sum");
        assert!(partial.number() == Number::F64 && partial.len() == SQUARE_BLOCKS, "square_sum");
        let args = args![from, partial, from.len() as u64];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("square_sums", (SQUARE_BLOCKS, 1, 1), (THREADS, 1), args) };
        // SAFETY: as above.
        unsafe { self.launch("total_f64", (1, 1, 1), (THREADS, 1), args![partial, ret, SQUARE_BLOCKS]) };
    }

    /// f32 numbers as bf16.
    pub(super) fn cast(&self, from: Span, to: Span) {
        assert!(from.number() == Number::F32 && to.number() == Number::Bf16 && from.len() == to.len(), "cast");
        let blocks = from.len().div_ceil(THREADS * 4).min(4096);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("cast_bf16", (blocks, 1, 1), (THREADS, 1), args![from, to, from.len() as u64]) };
    }

    /// A step of AdamW. `pieces`, (n, 3), cover the buffers: begin, length, whether it decays.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn adamw(
        &self,
        params: Span,
        gradients: Span,
        first: Span,
        second: Span,
        halves: Span,
        pieces: Span,
        o: &AdamWStep,
    ) {
        let len = params.len();
        assert!(gradients.len() == len && first.len() == len && second.len() == len, "adamw");
        assert!(halves.len() == 0 || halves.len() == len, "halves");
        let args = args![
            params,
            gradients,
            first,
            second,
            halves,
            pieces,
            o.clip,
            o.beta1,
            o.rest1,
            o.beta2,
            o.rest2,
            o.eps,
            o.step_size,
            o.root_correction,
            o.kept
        ];
        // SAFETY: the kernel's arguments, of the lengths that were checked; the pieces are made for this layout.
        unsafe { self.launch("adamw", (pieces.len() / 3, 1, 1), (THREADS, 1), args) };
    }
}
