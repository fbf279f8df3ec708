//! Drawing a token from logits: temperature, top-k, top-p, and a mask of what may come.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::codec::Token;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token. 0 to 100, default 1.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens are drawn; 0 for all of them. Default 0.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability are drawn. Above 0, at most 1 (all), default 1.
    pub top_p: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

/// Draws tokens; its scratch is allocated once for a vocabulary.
#[derive(Debug, Clone)]
pub struct Picker {
    /// Candidates: first logit, then weight, and token.
    candidates: Vec<(f32, u32)>,
}

impl Picker {
    /// A picker for `vocab_size` tokens.
    pub fn new(vocab_size: usize) -> Self {
        Self { candidates: Vec::with_capacity(vocab_size) }
    }

    /// Draws a token by `uniform`, a number in [0, 1), which does not matter when the temperature is 0.
    ///
    /// `allowed` is a set of bits, token t at bit t % 64 of word t / 64; tokens beyond its end are not allowed. A logit of NaN or
    /// -inf is never drawn, one of +inf counts as the largest number. Among equals the lowest token is the likelier one.
    /// Returns `None` when nothing can be drawn.
    pub fn pick(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        allowed: Option<&[u64]>,
        uniform: f64,
    ) -> Option<Token> {
        let is_allowed =
            |t: usize| allowed.is_none_or(|set| set.get(t / 64).is_some_and(|word| word >> (t % 64) & 1 == 1));
        let usable = |x: f32| !x.is_nan() && x != f32::NEG_INFINITY;
        self.candidates.clear();
        let all = logits.iter().enumerate().filter(|&(t, &x)| usable(x) && is_allowed(t));
        self.candidates.extend(all.map(|(t, &x)| (x.min(f32::MAX), t as u32)));

        // The first of the largest: candidates are in the order of tokens.
        let (max, likeliest) =
            self.candidates.iter().copied().reduce(|best, next| if next.0 > best.0 { next } else { best })?;
        if sampling.temperature <= 0.0 {
            return Some(Token(likeliest));
        }
        let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let k = sampling.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, likelier);
            self.candidates.truncate(k);
            // The selection leaves them in an order of its own; they are drawn in that of tokens.
            self.candidates.sort_unstable_by_key(|c| c.1);
        }
        // Before the logits become weights, which can be equal where logits are not.
        let is_nucleus = sampling.top_p < 1.0;
        if is_nucleus {
            self.candidates.sort_unstable_by(likelier);
        }
        // In f64: f32::MAX - f32::MIN is finite there, and a long tail is not lost in the sum.
        let temperature = f64::from(sampling.temperature);
        let mut sum = 0.0;
        for candidate in &mut self.candidates {
            let weight = ((f64::from(candidate.0) - f64::from(max)) / temperature).exp();
            candidate.0 = weight as f32;
            sum += f64::from(candidate.0);
        }
        if is_nucleus {
            let enough = f64::from(sampling.top_p) * sum;
            let mut kept = 0.0;
            let count = self.candidates.iter().take_while(|c| {
                let is_needed = kept < enough;
                kept += if is_needed { f64::from(c.0) } else { 0.0 };
                is_needed
            });
            let count = count.count().max(1);
            self.candidates.truncate(count);
            self.candidates.sort_unstable_by_key(|c| c.1);
            sum = self.candidates.iter().map(|c| f64::from(c.0)).sum();
        }
        let mut left = uniform * sum;
        for &(weight, token) in &self.candidates {
            left -= f64::from(weight);
            if left < 0.0 {
                return Some(Token(token));
            }
        }
        // Only rounding leads here; the likeliest is always a right answer.
        Some(Token(likeliest))
    }
}

/// Uniform in [0, 1), with 53 bits.
pub(super) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// How often each token is drawn in `n` draws.
    fn shares<const N: usize>(logits: &[f32; N], sampling: Sampling, allowed: Option<&[u64]>) -> [f64; N] {
        let (mut picker, mut rng, n) = (Picker::new(N), rng(1), 20_000);
        let mut counts = [0.0; N];
        for _ in 0..n {
            counts[picker.pick(logits, &sampling, allowed, unit(&mut rng)).unwrap().0 as usize] += 1.0 / f64::from(n);
        }
        counts
    }

    fn close<const N: usize>(found: [f64; N], expected: [f64; N]) {
        for (f, e) in found.iter().zip(expected) {
            // 20,000 draws: 4 standard deviations of a share are at most 0.0142.
            assert!((f - e).abs() < 0.0142 && (e > 0.0 || *f == 0.0), "{found:?} {expected:?}");
        }
    }

    /// Softmax [0.1, 0.4, 0.2, 0.3] by construction.
    fn logits() -> [f32; 4] {
        [0.1f32, 0.4, 0.2, 0.3].map(f32::ln)
    }

    #[test]
    fn shares_follow_the_softmax_and_its_cuts() {
        let sampling = Sampling::default();
        close(shares(&logits(), sampling, None), [0.1, 0.4, 0.2, 0.3]);
        // Temperature 1/2 squares: 1, 16, 4, 9 of 30.
        let cold = Sampling { temperature: 0.5, ..sampling };
        close(shares(&logits(), cold, None), [1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]);
        close(shares(&logits(), Sampling { top_k: 2, ..sampling }, None), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        // 0.4 + 0.3 reach 0.65; 0.4 alone reaches 0.3.
        close(shares(&logits(), Sampling { top_p: 0.65, ..sampling }, None), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        close(shares(&logits(), Sampling { top_p: 0.3, ..sampling }, None), [0.0, 1.0, 0.0, 0.0]);
        close(shares(&logits(), sampling, Some(&[0b0101])), [1.0 / 3.0, 0.0, 2.0 / 3.0, 0.0]);
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        let greedy = Sampling { temperature: 0.0, ..Default::default() };
        let pick = |logits: &[f32], allowed| Picker::new(4).pick(logits, &greedy, allowed, unit(&mut rng(0)));
        assert_eq!(pick(&[1.0, 3.0, 3.0, 2.0], None), Some(Token(1)));
        assert_eq!(pick(&[1.0, 3.0, 3.0, 2.0], Some(&[0b1101])), Some(Token(2)));
        assert_eq!(pick(&[1.0, f32::NAN, f32::INFINITY, 2.0], None), Some(Token(2)));
    }

    #[test]
    fn ties_at_the_cut_keep_the_lowest_tokens() {
        let only_two = Sampling { top_k: 2, ..Default::default() };
        close(shares(&[1.0; 5], only_two, None), [0.5, 0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn nothing_to_draw_is_none() {
        let (mut picker, sampling) = (Picker::new(3), Sampling::default());
        let mut pick =
            |logits: &[f32], allowed: Option<&[u64]>| picker.pick(logits, &sampling, allowed, unit(&mut rng(0)));
        assert_eq!(pick(&[f32::NAN, f32::NEG_INFINITY], None), None);
        assert_eq!(pick(&[1.0, 2.0], Some(&[])), None);
        assert_eq!(pick(&[], None), None);
    }

    proptest! {
        #[test]
        fn only_allowed_tokens_are_drawn_whatever_the_logits(
            logits in prop::collection::vec(any::<f32>(), 1..200),
            mask in prop::collection::vec(any::<u64>(), 4),
            temperature in prop_oneof![Just(0.0f32), 1e-6f32..100.0],
            top_k in 0usize..10,
            top_p in 1e-6f32..=1.0,
            seed in any::<u64>(),
        ) {
            let sampling = Sampling { temperature, top_k, top_p };
            let picked = Picker::new(logits.len()).pick(&logits, &sampling, Some(&mask), unit(&mut rng(seed)));
            let can = |t: usize| mask[t / 64] >> (t % 64) & 1 == 1 && !logits[t].is_nan() && logits[t] != f32::NEG_INFINITY;
            match picked {
                Some(Token(t)) => prop_assert!(can(t as usize)),
                None => prop_assert!(!(0..logits.len()).any(can)),
            }
        }
    }
}
