//! Pointers that several threads write disjoint parts of.

/// A mutable buffer handed to several threads, each of which writes a part that no other one touches.
#[derive(Clone, Copy)]
pub(super) struct Shared<T = f32> {
    start: *mut T,
    len: usize,
}

// SAFETY: the pointer is only dereferenced through `at`, whose callers promise disjoint parts.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Wraps a buffer; the borrow ends at once, so the caller keeps the buffer alive and unused until the threads are done.
    pub(super) fn new(buffer: &mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len() }
    }

    /// The place of element `index`.
    ///
    /// # Safety
    /// `index` is at most the length, and no two threads use the same elements at the same time.
    #[inline(always)]
    pub(super) unsafe fn at(self, index: usize) -> *mut T {
        debug_assert!(index <= self.len);
        // SAFETY: within the buffer by the caller's promise.
        unsafe { self.start.add(index) }
    }
}
