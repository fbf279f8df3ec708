//! A set of tokens as bits.

use super::super::super::Token;
use super::super::vocab::Tok;
use super::super::walk::Walk;

/// A set of tokens as bits.
pub(super) struct Mask<'a> {
    pub(super) walk: &'a Walk,
    pub(super) bits: &'a mut [u64],
}

impl Mask<'_> {
    pub(super) fn allow(&mut self, tok: Tok) {
        let id = self.walk.vocab().id(tok).0 as usize;
        self.bits[id / 64] |= 1 << (id % 64);
    }

    /// Keeps of what is allowed only what `is_right`.
    pub(super) fn retain(&mut self, is_right: impl Fn(Tok) -> bool) {
        for (i, word) in self.bits.iter_mut().enumerate() {
            let mut left = *word;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let tok = self.walk.vocab().tok(Token(i as u32 * 64 + bit));
                if !tok.is_some_and(&is_right) {
                    *word &= !(1 << bit);
                }
            }
        }
    }

    /// As [`retain`](Self::retain), where anything is left then.
    pub(super) fn prefer(&mut self, is_right: impl Fn(Tok) -> bool) {
        let before = self.bits.to_vec();
        self.retain(is_right);
        if self.bits.iter().all(|word| *word == 0) {
            self.bits.copy_from_slice(&before);
        }
    }

    /// `count` tokens from `first` on.
    pub(super) fn run(&mut self, first: Tok, count: usize) {
        let from = self.walk.vocab().id(first).0 as usize;
        let to = from + count;
        let mut at = from;
        while at < to {
            let end = to.min((at / 64 + 1) * 64);
            let bits = if end - at == 64 { u64::MAX } else { ((1 << (end - at)) - 1) << (at % 64) };
            self.bits[at / 64] |= bits;
            at = end;
        }
    }

    pub(super) fn bytes(&mut self, from: u8, to: u8) {
        self.run(Tok::Byte(from), usize::from(to - from) + 1);
    }

    /// The next byte of a number that has to lie in one of the ranges; `said` are the bytes before, `left` how many
    /// are to come, this one included.
    pub(super) fn number(&mut self, ranges: &[(u32, u32)], said: u32, left: u8) {
        let shift = 8 * u32::from(left - 1);
        for &(from, to) in ranges {
            let base = said << 8;
            let (first, last) = (from >> shift, to >> shift);
            if from <= to && first <= base + 255 && last >= base {
                self.bytes(first.saturating_sub(base) as u8, (last - base).min(255) as u8);
            }
        }
    }
}
