//! Drawing a token from a row of logits under a mask, by a softmax in f32.
//!
//! What [`Picker`](crate::generate::Picker) does in f64 and one token at a time, this does a line of tokens at a time, for draws without
//! cuts. The two agree on which tokens can be drawn, and on their probabilities to f32's precision.

use super::super::lanes::{Lanes, exp2, isa_kernel};
use super::lines::{SharedLines, TILE, tiles};

/// One draw.
pub(super) struct Pick<'a> {
    /// The logits of the row: lines `stride` apart from `first` on.
    pub(super) logits: SharedLines,
    pub(super) first: usize,
    pub(super) stride: usize,
    /// Tokens from here on are never drawn.
    pub(super) vocab_size: usize,
    /// A bit for each token that may be drawn; `None` for all.
    pub(super) mask: Option<&'a [u64]>,
    /// 0 for the likeliest token.
    pub(super) temperature: f32,
    pub(super) uniform: f64,
}

impl Pick<'_> {
    /// The bits of the tokens of `tile` that may be drawn.
    #[inline(always)]
    fn allowed(&self, tile: usize) -> u16 {
        let left = self.vocab_size - tile * TILE;
        let inside = if left >= TILE { u16::MAX } else { (1 << left) - 1 };
        let masked = self.mask.map_or(u16::MAX, |mask| (mask[tile / 4] >> (tile % 4 * TILE)) as u16);
        inside & masked
    }
}

isa_kernel! {
    /// Draws; `weights` is scratch of a number for each token in whole tiles, `ret` becomes the token.
    pub(super) fn pick(args: &Pick<'_>, weights: &mut [f32], ret: &mut Option<u32>) = pick_body
}

/// # Safety
/// The logits have `vocab_size` numbers and nobody writes them; the mask has a bit and the scratch a number for each.
#[inline(always)]
unsafe fn pick_body<V: Lanes>(args: &Pick<'_>, weights: &mut [f32], ret: &mut Option<u32>) {
    *ret = None;
    let lanes = |tile: usize| tile * TILE..(tile + 1) * TILE;
    let tiles = tiles(args.vocab_size);
    assert!(weights.len() >= tiles * TILE, "scratch");
    // Under a mask most tiles have nothing.
    let wanted = || (0..tiles).filter(|tile| args.allowed(*tile) != 0);
    let usable = |x: f32| !x.is_nan() && x != f32::NEG_INFINITY;
    // SAFETY: register arithmetic.
    let mut largest = unsafe { V::splat(f32::NEG_INFINITY) };
    // The logits that may be drawn, -inf for the others of their tiles.
    for tile in wanted() {
        let allowed = args.allowed(tile);
        let to = &mut weights[tile * TILE..][..TILE];
        // SAFETY: a line of this row; the scratch has a tile here.
        unsafe {
            let from = args.logits.at(args.first + tile * args.stride);
            for (i, to) in to.iter_mut().enumerate() {
                let x = *from.add(i);
                *to = if allowed >> i & 1 == 1 && usable(x) { x.min(f32::MAX) } else { f32::NEG_INFINITY };
            }
            for i in (0..TILE).step_by(V::N) {
                largest = V::load(to.as_ptr().add(i)).max(largest);
            }
        }
    }
    // SAFETY: register arithmetic.
    let max = unsafe { largest.largest() };
    if max == f32::NEG_INFINITY {
        return;
    }
    let likeliest = || wanted().flat_map(lanes).find(|t| weights[*t] == max).map(|t| t as u32);
    if args.temperature <= 0.0 {
        *ret = likeliest();
        return;
    }
    let fallback = likeliest();
    // A temperature next to nothing still has to leave 0 times it a number.
    let scale = (std::f32::consts::LOG2_E / args.temperature).min(1e30);
    let mut sum = 0.0f64;
    for tile in wanted() {
        let weights = &mut weights[lanes(tile)];
        // SAFETY: a tile of the scratch.
        unsafe {
            let mut part = V::splat(0.0);
            for i in (0..TILE).step_by(V::N) {
                let at = weights.as_mut_ptr().add(i);
                let exponent = V::load(at).sub(V::splat(max)).mul(V::splat(scale));
                // 2^-126, the least that `exp2` gives, stands for what is not to be drawn as well: take it away.
                let weight = exp2(exponent).sub(V::splat(f32::MIN_POSITIVE));
                weight.store(at);
                part = part.add(weight);
            }
            sum += f64::from(part.sum());
        }
    }
    let mut left = args.uniform * sum;
    for tile in wanted() {
        // SAFETY: a tile of the scratch.
        let part = unsafe {
            let mut part = V::splat(0.0);
            for i in (0..TILE).step_by(V::N) {
                part = part.add(V::load(weights.as_ptr().add(tile * TILE + i)));
            }
            f64::from(part.sum())
        };
        if left >= part {
            left -= part;
            continue;
        }
        for t in lanes(tile) {
            left -= f64::from(weights[t]);
            if left < 0.0 && weights[t] > 0.0 {
                *ret = Some(t as u32);
                return;
            }
        }
    }
    // Only rounding leads here; the likeliest is always a right answer.
    *ret = fallback;
}
