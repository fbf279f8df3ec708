//! What is learned from: the newest flows, an even draw of all older ones, and some that are only measured.

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::codec::LabelId;
use wiremamba_model::flow::Session;

use super::config::LearnConfig;

/// A flow with its label.
pub(super) type Sample = (LabelId, Session);

/// Flows in memory, bounded in each part. They are never written anywhere.
pub(super) struct Samples {
    limits: LearnConfig,
    recent: VecDeque<Sample>,
    reservoir: Vec<Sample>,
    held_out: VecDeque<Sample>,
    /// Flows that were offered to the reservoir so far.
    offered: u64,
    seen: u64,
    fresh: usize,
    rng: ChaCha8Rng,
}

impl Samples {
    pub(super) fn new(limits: LearnConfig) -> Self {
        Self {
            limits,
            recent: VecDeque::new(),
            reservoir: Vec::new(),
            held_out: VecDeque::new(),
            offered: 0,
            seen: 0,
            fresh: 0,
            rng: ChaCha8Rng::seed_from_u64(0),
        }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.seen += 1;
        self.fresh += 1;
        if self.seen.is_multiple_of(self.limits.held_out_every as u64) {
            self.held_out.push_back(sample);
            if self.held_out.len() > self.limits.held_out_max {
                self.held_out.pop_front();
            }
            return;
        }
        self.recent.push_back(sample);
        if self.recent.len() > self.limits.recent_max
            && let Some(old) = self.recent.pop_front()
        {
            self.keep(old);
        }
    }

    /// Vitter's algorithm R (1985): each flow that was ever offered is kept with the same chance.
    fn keep(&mut self, sample: Sample) {
        self.offered += 1;
        if self.reservoir.len() < self.limits.reservoir_max {
            self.reservoir.push(sample);
        } else {
            let place = self.rng.random_range(0..self.offered);
            if let Some(slot) = usize::try_from(place).ok().and_then(|place| self.reservoir.get_mut(place)) {
                *slot = sample;
            }
        }
    }

    /// Whether enough came since the last round, and something is held out.
    pub(super) fn is_due(&self) -> bool {
        self.fresh >= self.limits.flows_per_round && !self.held_out.is_empty() && !self.recent.is_empty()
    }

    /// What a round learns, and what it is measured by.
    pub(super) fn take(&mut self) -> (Vec<Sample>, Vec<Sample>) {
        self.fresh = 0;
        let train = self.recent.iter().chain(&self.reservoir).cloned().collect();
        (train, self.held_out.iter().cloned().collect())
    }

    /// Flows that are kept, of each part.
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.recent.len(), self.reservoir.len(), self.held_out.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_limit_and_the_reservoir_is_even() {
        let limits = LearnConfig {
            held_out_every: 10,
            held_out_max: 5,
            recent_max: 20,
            reservoir_max: 200,
            flows_per_round: 64,
            ..LearnConfig::default()
        };
        let mut samples = Samples::new(limits);
        for i in 0..4000_u16 {
            samples.add((LabelId(i), Session { flows: Vec::new(), packets: Vec::new() }));
        }
        assert_eq!(samples.sizes(), [20, 200, 5]);
        assert!(samples.is_due());
        let mean = samples.reservoir.iter().map(|(label, _)| f64::from(label.0)).sum::<f64>() / 200.0;
        assert!((mean - 2000.0).abs() < 300.0, "{mean}");
        let (train, held_out) = samples.take();
        assert_eq!((train.len(), held_out.len(), samples.is_due()), (220, 5, false));
    }
}
