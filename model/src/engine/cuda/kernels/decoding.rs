//! The kernels of decoding with their shapes.

use super::super::gpu::{Arg, Gpu, Number, Span};
use super::THREADS;

impl Gpu {
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
