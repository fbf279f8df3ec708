//! The hash of flow keys: seeded and fast.
//!
//! `std`'s SipHash costs more than dissecting the packet. This is the folded multiplication that wyhash and ahash's
//! fallback use: as quick as an unseeded hash, and without the seed nobody can choose addresses and ports that
//! all fall into one bucket. (It is not a keyed cryptographic hash; what an attacker could still win is bounded by
//! the size of the table.) The seed decides where a key lies and nothing else: no result depends on it.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Multiplier without structure: the first 64 bits of the fractional part of π.
const PI: u64 = 0x243f_6a88_85a3_08d3;

/// Makes hashers that share one seed, drawn anew for each table.
#[derive(Debug, Clone)]
pub(super) struct SeededState(u64);

impl SeededState {
    pub(super) fn random() -> Self {
        Self(RandomState::new().hash_one(0_u8))
    }
}

impl BuildHasher for SeededState {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { state: self.0 ^ PI, seed: self.0 | 1 }
    }
}

/// Folds eight bytes at a time into a 64-bit state.
#[derive(Debug)]
pub(super) struct FoldHasher {
    state: u64,
    seed: u64,
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl Hasher for FoldHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // The seed is in both factors, so that no word of the attacker's makes one of them 0 for sure.
        self.state = fold(self.state ^ word, PI ^ self.seed.rotate_left(23)).wrapping_add(self.seed);
    }

    #[inline]
    fn finish(&self) -> u64 {
        fold(self.state, self.seed)
    }
}
