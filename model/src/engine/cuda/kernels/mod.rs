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

mod adamw;
mod conv;
mod decoding;
mod scan;

pub(super) use adamw::{AdamWStep, SQUARE_BLOCKS};
pub(super) use conv::Conv;
pub(super) use decoding::{DrawShape, FEW_STREAMS, NO_TOKEN, StepConv, StepScan, StepShape};
pub(super) use scan::{Scan, ScanGradients};

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
}
