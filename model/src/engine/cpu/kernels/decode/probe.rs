//! Reading memory and nothing else: what a step that waits for its weights is held against.

use super::super::lanes::{Isa, Lanes, isa_kernel};

/// The sum of `numbers`, read from four places at once, as a product reads four panels, as fast as memory or a cache gives them.
///
/// # Panics
/// When the CPU does not have `isa`.
pub fn read_all(isa: Isa, numbers: &[f32]) -> f32 {
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let mut sum = 0.0;
    // SAFETY: support was checked.
    unsafe { read(isa, numbers, &mut sum) };
    sum
}

isa_kernel! { fn read(numbers: &[f32], ret: &mut f32) = read_body }

/// # Safety
/// The CPU has V's instruction set.
#[inline(always)]
unsafe fn read_body<V: Lanes>(numbers: &[f32], ret: &mut f32) {
    // SAFETY: four quarters of whole lines are at most all numbers.
    unsafe {
        let mut sums = [V::splat(0.0); 8];
        // A cache line of each quarter in turn.
        let (quarter, line) = (numbers.len() / 64 * 16, 16);
        for at in (0..quarter).step_by(line) {
            for place in 0..4 {
                let from = numbers.as_ptr().add(place * quarter + at);
                for i in (0..line).step_by(V::N) {
                    let sum = &mut sums[2 * place + i / V::N % 2];
                    *sum = sum.add(V::load(from.add(i)));
                }
            }
        }
        *ret = sums.into_iter().map(|sum| sum.sum()).sum();
    }
}
