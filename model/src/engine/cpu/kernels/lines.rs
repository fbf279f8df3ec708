//! Buffers that begin on a cache line, so that no register's worth of them lies across two.

/// Numbers or words, in whole cache lines.
#[derive(Debug, Default)]
pub(super) struct Lines<T>(Vec<Line<T>>);

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line<T>([T; 16]);

impl<T: bytemuck::Pod> Lines<T> {
    /// The first `len` elements, of any value; grown when there are fewer.
    pub(super) fn first(&mut self, len: usize) -> &mut [T] {
        const { assert!(size_of::<Line<T>>() == 64, "sixteen elements of four bytes") };
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0 = Vec::new(); // free the old ones before taking new ones
            self.0.resize(lines, Line([T::zeroed(); 16]));
        }
        // SAFETY: a line is 16 elements without padding, and there are enough of them.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }

    /// Where the first element lies.
    pub(super) fn start(&mut self) -> *mut T {
        self.0.as_mut_ptr().cast()
    }
}
