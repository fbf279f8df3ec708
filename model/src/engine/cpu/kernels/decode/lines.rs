//! Numbers in cache lines: the layout of everything that a step of decoding touches.
//!
//! A matrix of (rows, width) is cut into tiles of 16 columns; a tile is a run of lines, one for each row. So a kernel that takes some
//! channels for all rows walks through memory in order, whatever the width of its registers, and a product reads its inputs
//! where the kernel before left them.

/// Columns of a tile: the numbers in a cache line, and in the widest register.
pub(super) const TILE: usize = 16;

/// One row of a tile.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; TILE]);

impl Line {
    /// Sixteen zeros.
    pub(super) const ZERO: Self = Self([0.0; TILE]);
}

// SAFETY: sixteen f32 without padding; all zero bits are zeros.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above, and any bits are numbers.
unsafe impl bytemuck::Pod for Line {}

/// Tiles that hold `width` columns.
pub(super) fn tiles(width: usize) -> usize {
    width.div_ceil(TILE)
}

/// Lines between two tiles of `rows` rows. Never a multiple of 4 KiB, at which tiles would fall on one another in the caches.
pub(super) fn stride(rows: usize) -> usize {
    rows + usize::from(rows.is_multiple_of(8))
}

/// A vector in tiles of one row, zero beyond its end.
pub(super) fn vector(values: &[f32]) -> Vec<Line> {
    let mut ret = vec![Line::ZERO; tiles(values.len())];
    bytemuck::cast_slice_mut(&mut ret)[..values.len()].copy_from_slice(values);
    ret
}

/// A mutable buffer handed to several threads, each of which writes lines that no other one touches.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedLines {
    start: *mut Line,
    len: usize,
}

// SAFETY: the pointer is only dereferenced through `at`, whose callers promise disjoint lines.
unsafe impl Send for SharedLines {}
// SAFETY: as above.
unsafe impl Sync for SharedLines {}

impl SharedLines {
    /// Wraps a buffer; the borrow ends at once, so the caller keeps the buffer alive and unused until the threads are done.
    pub(super) fn new(lines: &mut [Line]) -> Self {
        Self { start: lines.as_mut_ptr(), len: lines.len() }
    }

    /// The first number of line `index`.
    ///
    /// # Safety
    /// `index` is at most the length, and no two threads use a line at the same time unless both read.
    #[inline(always)]
    pub(super) unsafe fn at(self, index: usize) -> *mut f32 {
        debug_assert!(index <= self.len);
        // SAFETY: within the buffer by the caller's promise.
        unsafe { self.start.add(index).cast() }
    }

    /// The buffer from line `lines` on.
    ///
    /// # Safety
    /// `lines` is at most the length.
    pub(super) unsafe fn skip(self, lines: usize) -> Self {
        debug_assert!(lines <= self.len);
        // SAFETY: within the buffer by the caller's promise.
        Self { start: unsafe { self.start.add(lines) }, len: self.len - lines }
    }
}
