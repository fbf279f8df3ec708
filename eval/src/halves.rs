//! Which flows are in which half: real traffic against real traffic is the floor of every measure.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Halvings that a floor is the mean of.
pub const HALVINGS: usize = 5;

/// For each of [`HALVINGS`] halvings, which real flows are in the first half, which in the second, and which synthetic
/// flows are held against the first. All three have the same number of flows, for a distance shrinks as samples grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves {
    /// For each real flow, bit 2i: in the first half of halving i, bit 2i + 1: in the second.
    real: Vec<u16>,
    /// For each synthetic flow, bit i: held against the first half of halving i.
    synthetic: Vec<u16>,
    /// Flows in each part.
    size: usize,
}

impl Halves {
    /// Deals the flows of both sides.
    pub fn new(real_flows: usize, synthetic_flows: usize, seed: u64) -> Self {
        let size = (real_flows / 2).min(if synthetic_flows == 0 { usize::MAX } else { synthetic_flows });
        let mut ret = Self { real: vec![0; real_flows], synthetic: vec![0; synthetic_flows], size };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shuffled = |n: usize, rng: &mut ChaCha8Rng| {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(rng);
            order
        };
        for i in 0..HALVINGS {
            let order = shuffled(real_flows, &mut rng);
            order.iter().take(size).for_each(|flow| ret.real[*flow] |= 1 << (2 * i));
            order.iter().skip(size).take(size).for_each(|flow| ret.real[*flow] |= 2 << (2 * i));
            shuffled(synthetic_flows, &mut rng).iter().take(size).for_each(|flow| ret.synthetic[*flow] |= 1 << i);
        }
        ret
    }

    /// Flows in each half.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The share of the real flows in each half, which is that of the real packets of no flow.
    pub fn real_share(&self) -> f64 {
        self.size as f64 / self.real.len().max(1) as f64
    }

    /// The share of the synthetic flows held against a half; all packets of no flow where there is no flow.
    pub fn synthetic_share(&self) -> f64 {
        if self.synthetic.is_empty() { 1.0 } else { self.size as f64 / self.synthetic.len() as f64 }
    }

    /// Whether a real flow is in the first half of a halving.
    pub fn is_first(&self, halving: usize, real_flow: usize) -> bool {
        self.real[real_flow] >> (2 * halving) & 1 == 1
    }

    /// Whether a real flow is in the second half of a halving.
    pub fn is_second(&self, halving: usize, real_flow: usize) -> bool {
        self.real[real_flow] >> (2 * halving + 1) & 1 == 1
    }

    /// Whether a synthetic flow is held against the first half of a halving.
    pub fn is_matched(&self, halving: usize, synthetic_flow: usize) -> bool {
        self.synthetic[synthetic_flow] >> halving & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_apart_and_of_one_size() {
        let halves = Halves::new(11, 3, 7);
        for i in 0..HALVINGS {
            let count = |f: &dyn Fn(usize) -> bool, n| (0..n).filter(|flow| f(*flow)).count();
            assert_eq!(count(&|f| halves.is_first(i, f), 11), 3);
            assert_eq!(count(&|f| halves.is_second(i, f), 11), 3);
            assert_eq!(count(&|f| halves.is_matched(i, f), 3), 3);
            assert!((0..11).all(|f| !(halves.is_first(i, f) && halves.is_second(i, f))));
        }
        assert_eq!(Halves::new(11, 3, 7), halves);
        assert_eq!(Halves::new(9, 0, 7).size(), 4);
        assert_eq!(Halves::new(1, 5, 7).size(), 0);
    }
}
