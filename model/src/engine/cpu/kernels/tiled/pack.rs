//! From matrices to the order in which a product reads them.

use std::ops::Range;

use crate::engine::cpu::kernels::lanes::{Lanes, isa_kernel};
use crate::engine::cpu::kernels::matmul::Matrix;
use crate::engine::cpu::kernels::shared::Shared;

isa_kernel! {
    /// Lays the columns `cols` of the rows of a block out: panels of W columns from `ret` on, `panel_stride` numbers apart, row
    /// after row. `rows` begins at the first row; columns beyond the last are zero.
    ///
    /// A panel may be written up to a register beyond its last row.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn panels_of_columns<const W: usize>(
        rows: &[f32], row_stride: usize, row_count: usize, cols: Range<usize>, ret: Shared, at: usize, panel_stride: usize,
    ) = panels_of_columns_body
}

/// # Safety
/// `ret` has from `at` on, for each panel, room for W numbers a row and a register, which no other thread uses.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn panels_of_columns_body<V: Lanes, const W: usize>(
    rows: &[f32],
    row_stride: usize,
    row_count: usize,
    cols: Range<usize>,
    ret: Shared,
    at: usize,
    panel_stride: usize,
) {
    let whole = cols.len() / W;
    for row in 0..row_count {
        let from = &rows[row * row_stride..][cols.clone()];
        // SAFETY: within the room that the caller promises; what is read beyond W columns is still in the row.
        unsafe {
            let to = ret.at(at + row * W);
            for panel in 0..whole {
                let (from, to) = (from.as_ptr().add(panel * W), to.add(panel * panel_stride));
                if W.is_multiple_of(V::N) {
                    for part in (0..W).step_by(V::N) {
                        V::load(from.add(part)).store(to.add(part));
                    }
                } else if W < V::N && panel * W + V::N <= cols.len() {
                    // Beyond the panel's row it is written over by the next.
                    V::load(from).store(to);
                } else {
                    std::ptr::copy_nonoverlapping(from, to, W);
                }
            }
            if whole * W < cols.len() {
                let to = std::slice::from_raw_parts_mut(to.add(whole * panel_stride), W);
                let (some, none) = to.split_at_mut(cols.len() - whole * W);
                some.copy_from_slice(&from[whole * W..]);
                none.fill(0.0);
            }
        }
    }
}

/// Lays the rows `rows` of a matrix stored row by row out as a panel of W columns: row after row of its transpose. Rows beyond
/// the last are zero.
pub(super) fn panel_of_rows<const W: usize>(matrix: Matrix<'_>, rows: Range<usize>, ret: &mut [f32]) {
    let (to, _) = ret.as_chunks_mut::<W>();
    if rows.len() == W {
        let from: [&[f32]; W] = std::array::from_fn(|r| &matrix.row(rows.start + r)[..to.len()]);
        for (k, to) in to.iter_mut().enumerate() {
            for (to, from) in to.iter_mut().zip(&from) {
                *to = from[k];
            }
        }
        return;
    }
    for r in 0..W {
        match rows.clone().nth(r) {
            Some(row) => to.iter_mut().zip(matrix.row(row)).for_each(|(to, v)| to[r] = *v),
            None => to.iter_mut().for_each(|to| to[r] = 0.0),
        }
    }
}
