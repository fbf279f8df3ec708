//! Long buffers on huge pages.
//!
//! A training step, and one of decoding, walks buffers of many megabytes whose rows are kilobytes apart. On pages of 4 KiB each row is another one to be
//! looked up; on pages of 2 MiB the CPU knows them all. Where the system has none to give, the buffers work as well.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Numbers that begin on a page, on huge ones as far as they fill them; zero at first.
#[derive(Debug, Default)]
pub struct Numbers {
    map: Option<MmapMut>,
    /// Bytes before the first number.
    from: usize,
    len: usize,
}

impl Numbers {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        if bytes == 0 {
            return Self::default();
        }
        let room = if bytes < HUGE { bytes } else { bytes + HUGE };
        let map = MmapMut::map_anon(room).expect("memory for the buffers of a pass");
        let from = if bytes < HUGE { 0 } else { map.as_ptr().align_offset(HUGE) };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // A wish: without huge pages everything is as it was. What is less than a whole one at the end lies on small ones.
            let _ = map.advise_range(memmap2::Advice::HugePage, from, bytes / HUGE * HUGE);
        }
        Self { map: Some(map), from, len }
    }

    /// The first `len` numbers, of any value; grown when there are fewer.
    pub fn first(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = Self::default(); // free the old ones before taking new ones
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }
}

impl Deref for Numbers {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.map {
            Some(map) => bytemuck::cast_slice(&map[self.from..self.from + self.len * size_of::<f32>()]),
            None => &[],
        }
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.map {
            Some(map) => bytemuck::cast_slice_mut(&mut map[self.from..self.from + self.len * size_of::<f32>()]),
            None => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_zero_begin_on_pages_and_grow() {
        for len in [0, 1, 1000, HUGE / 4 - 1, HUGE / 4, 3 * HUGE / 4 + 5] {
            let mut numbers = Numbers::zeroed(len);
            assert!(numbers.len() == len && numbers.iter().all(|v| *v == 0.0), "{len}");
            let page = if len < HUGE / 4 { 4096 } else { HUGE };
            assert!(len == 0 || numbers.as_ptr().addr().is_multiple_of(page), "{len}");
            numbers.fill(1.0);
            assert_eq!(numbers.first(len + 7).len(), len + 7);
            assert_eq!(numbers.first(3).len(), 3);
        }
    }
}
