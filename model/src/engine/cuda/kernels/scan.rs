//! The kernels of the selective scan over rows of tokens, forward and backward.

use super::super::gpu::{Arg, Gpu, Number, Span};
use super::{D_STATE, SCAN_THREADS, Shape, THREADS};

/// What a scan reads; numbers as in scan_forward.cu.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::cuda) struct Scan {
    pub(in crate::engine::cuda) shape: Shape,
    pub(in crate::engine::cuda) x: Span,
    pub(in crate::engine::cuda) dt_raw: Span,
    pub(in crate::engine::cuda) xz: Span,
    pub(in crate::engine::cuda) x_dbl: Span,
    pub(in crate::engine::cuda) starts: Span,
    pub(in crate::engine::cuda) a_log: Span,
    pub(in crate::engine::cuda) dt_bias: Span,
    pub(in crate::engine::cuda) d_skip: Span,
    /// Scratch where rows are cut: (b, segments, d_inner, D_STATE).
    pub(in crate::engine::cuda) ends: Span,
    /// Scratch where rows are cut: (b, segments, d_inner).
    pub(in crate::engine::cuda) sums: Span,
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
pub(in crate::engine::cuda) struct ScanGradients {
    pub(in crate::engine::cuda) checkpoints: Span,
    /// In: gradient of the gated output.
    pub(in crate::engine::cuda) d_y: Span,
    /// Out: the gated output.
    pub(in crate::engine::cuda) y: Span,
    /// Out.
    pub(in crate::engine::cuda) d_x: Span,
    /// Out: the gate's halves.
    pub(in crate::engine::cuda) d_xz: Span,
    /// Out: the columns of B and C.
    pub(in crate::engine::cuda) d_x_dbl: Span,
    /// Scratch, (tiles, t, 2 D_STATE).
    pub(in crate::engine::cuda) partial_bc: Span,
    /// Scratch, (b, segments, d_inner, D_STATE).
    pub(in crate::engine::cuda) partial_a: Span,
    /// Scratch, (b, segments, 2, d_inner).
    pub(in crate::engine::cuda) partial_channel: Span,
    /// Added to.
    pub(in crate::engine::cuda) d_a_log: Span,
    /// Added to.
    pub(in crate::engine::cuda) d_skip: Span,
    /// Added to.
    pub(in crate::engine::cuda) d_dt_bias: Span,
}

impl Gpu {
    /// The gated output of the scan to `y`; `state`, (b, d_inner, D_STATE), moves on to the ends of the rows; `kept`, unless
    /// none, gets what the backward pass starts from.
    pub(in crate::engine::cuda) fn scan_forward(&self, scan: &Scan, state: Span, kept: Span, y: Span) {
        scan.check();
        let Scan { shape: s, x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, ends, sums } = *scan;
        assert!(y.len() == x.len() && y.number() == x.number(), "y");
        assert_eq!(state.len(), s.b * s.d_inner * D_STATE, "state");
        assert!(kept.len() == 0 || kept.len() == s.checkpoints_len(), "checkpoints");
        let (segments, each) = (s.segments(), s.segment_tokens());
        let number = y.number();
        let mut states = state;
        if segments > 1 {
            let grid = (s.scan_tiles(), segments - 1, s.b);
            let args = args![x, dt_raw, x_dbl, starts, a_log, dt_bias, ends, sums, s.l, s.d_inner, s.dt_rank, each];
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch(of_number!(number, "scan_ends"), grid, (SCAN_THREADS, 1), args) };
            let blocks = (s.b * s.d_inner * D_STATE).div_ceil(THREADS);
            let args = args![state, a_log, sums, ends, s.b, segments, s.d_inner];
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch("scan_join", (blocks, 1, 1), (THREADS, 1), args) };
            states = ends;
        }
        let args = args![
            x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, states, state, kept, y, s.l, s.d_inner, s.dt_rank,
            each
        ];
        let grid = (s.scan_tiles(), segments, s.b);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(number, "scan_forward"), grid, (SCAN_THREADS, 1), args) };
    }

    /// Goes backward through the scan; `scan.dt_raw` becomes its gradient.
    pub(in crate::engine::cuda) fn scan_backward(&self, scan: &Scan, g: &ScanGradients) {
        scan.check();
        let Scan { shape: s, x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, ends, sums } = *scan;
        let ScanGradients { d_y, y, d_x, d_xz, d_x_dbl, d_a_log, d_dt_bias, .. } = *g;
        let (kept, part_bc, part_a, part_c) = (g.checkpoints, g.partial_bc, g.partial_a, g.partial_channel);
        let (t, c, segments, each) = (s.tokens(), s.d_inner, s.segments(), s.segment_tokens());
        let number = x.number();
        assert_eq!(kept.len(), s.checkpoints_len(), "checkpoints");
        assert!([d_y, y, d_x].iter().all(|span| span.len() == t * c && span.number() == number), "d_y, y, d_x");
        assert!(d_xz.len() == t * 2 * c && d_x_dbl.len() == t * s.width(), "d_xz, d_x_dbl");
        assert!(d_xz.number() == number && d_x_dbl.number() == number, "numbers");
        assert!(part_bc.len() >= s.scan_tiles() * t * 2 * D_STATE, "partial_bc");
        assert!(part_a.len() >= s.b * segments * c * D_STATE, "partial_a");
        assert!(part_c.len() >= s.b * segments * 2 * c, "partial_channel");
        assert!(d_a_log.len() == c * D_STATE && g.d_skip.len() == c && d_dt_bias.len() == c, "parameters");
        let mut carry = Span::NONE;
        if segments > 1 {
            let grid = (s.scan_tiles(), segments - 1, s.b);
            let args = args![dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_y, ends, sums, s.l, c, s.dt_rank, each];
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch(of_number!(number, "scan_begins"), grid, (SCAN_THREADS, 1), args) };
            let args = args![a_log, sums, ends, s.b, segments, c];
            let blocks = (s.b * c * D_STATE).div_ceil(THREADS);
            // SAFETY: the kernel's arguments, of the lengths that were checked.
            unsafe { self.launch("scan_join_backward", (blocks, 1, 1), (THREADS, 1), args) };
            carry = ends;
        }
        let args = args![
            x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, kept, carry, d_y, y, d_x, d_xz, part_bc, part_a,
            part_c, s.l, c, s.dt_rank, each
        ];
        let grid = (s.scan_tiles(), segments, s.b);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(number, "scan_backward"), grid, (SCAN_THREADS, 1), args) };
        let args = args![part_bc, d_x_dbl, s.scan_tiles(), t, s.dt_rank];
        let blocks = (t * 2 * D_STATE).div_ceil(THREADS);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch(of_number!(number, "scan_bc"), (blocks, 1, 1), (THREADS, 1), args) };
        let args = args![part_a, part_c, a_log, d_a_log, g.d_skip, d_dt_bias, s.b * segments, c];
        let blocks = (c * D_STATE).div_ceil(THREADS);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("scan_parameters", (blocks, 1, 1), (THREADS, 1), args) };
    }
}
