//! What is learned from: the newest flows, an even draw of all older ones, and some that are only measured.

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::codec::{CaptureStarts, LabelId};
use wiremamba_model::flow::{Direction, Session, SessionPacket};

use super::config::LearnConfig;
use super::starts::StartTimes;

/// A flow with its label.
pub(super) type Sample = (LabelId, Session);

/// What a packet takes in memory beside its bytes.
const PACKET_BYTES: u64 = 80;

/// Of the newest and of the held-out flows, one in so many may be one that nobody answered: a scan or a flood has many of
/// them, and should not be all that is learned.
const UNANSWERED_PART: usize = 4;

/// Whether both sides have said something.
pub(super) fn is_answered((_, session): &Sample) -> bool {
    let is_resp = |packet: &SessionPacket| packet.direction == Direction::Resp;
    session.packets.iter().any(is_resp)
}

/// What a flow takes in memory, about.
pub(super) fn bytes((_, session): &Sample) -> u64 {
    session.packets.iter().map(|p| p.packet.data.len() as u64 + PACKET_BYTES).sum()
}

/// What a round works on.
pub(super) struct Batch {
    /// To learn from, the newest first.
    pub(super) train: Vec<Sample>,
    /// How many of them no round has learned yet.
    pub(super) fresh: usize,
    /// To measure by, the newest first.
    pub(super) held_out: Vec<Sample>,
    /// When flows began, those that are not kept among them.
    pub(super) starts: Vec<CaptureStarts>,
}

/// Flows in memory, bounded in each part. They are never written anywhere.
pub(super) struct Samples {
    limits: LearnConfig,
    recent: VecDeque<Sample>,
    reservoir: Vec<Sample>,
    held_out: VecDeque<Sample>,
    /// Flows that were offered to the reservoir so far.
    offered: u64,
    seen: u64,
    /// Flows since the last round.
    fresh: usize,
    starts: StartTimes,
    /// Those of the newest that nobody answered.
    unanswered_recent: usize,
    /// What all flows take, and those that were dropped because it was too much.
    bytes: u64,
    forgotten: u64,
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
            starts: StartTimes::default(),
            unanswered_recent: 0,
            bytes: 0,
            forgotten: 0,
            rng: ChaCha8Rng::seed_from_u64(0),
        }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        let unanswered_max = (self.limits.recent_max / UNANSWERED_PART).max(1);
        if !is_answered(&sample) && self.unanswered_recent >= unanswered_max {
            self.forgotten += 1;
            return;
        }
        self.seen += 1;
        self.fresh += 1;
        self.bytes += bytes(&sample);
        self.starts.add(&sample);
        self.place(sample);
        while self.bytes > self.limits.memory_bytes() {
            // Older flows first; of each part one stays, so that there is something to learn and to measure.
            let oldest = match (self.reservoir.len(), self.recent.len(), self.held_out.len()) {
                (1.., _, _) => self.reservoir.pop(),
                (_, 2.., _) => self.pop_recent(),
                (_, _, 2..) => self.held_out.pop_front(),
                _ => return,
            };
            self.forgotten += 1;
            self.release(oldest);
        }
    }

    /// Flows that were dropped to stay within memory, or because too many are like them.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn release(&mut self, sample: Option<Sample>) {
        self.bytes -= sample.map_or(0, |sample| bytes(&sample));
    }

    fn place(&mut self, sample: Sample) {
        if self.seen.is_multiple_of(self.limits.held_out_every as u64) {
            self.held_out.push_back(sample);
            while self.held_out.len() > self.limits.held_out_max {
                let oldest = self.held_out.pop_front();
                self.release(oldest);
            }
            return;
        }
        self.unanswered_recent += usize::from(!is_answered(&sample));
        self.recent.push_back(sample);
        while self.recent.len() > self.limits.recent_max
            && let Some(old) = self.pop_recent()
        {
            self.keep(old);
        }
    }

    /// The oldest of the newest.
    fn pop_recent(&mut self) -> Option<Sample> {
        let oldest = self.recent.pop_front();
        self.unanswered_recent -= usize::from(oldest.as_ref().is_some_and(|sample| !is_answered(sample)));
        oldest
    }

    /// Vitter's algorithm R (1985): each flow that was ever offered is kept with the same chance.
    fn keep(&mut self, sample: Sample) {
        self.offered += 1;
        while self.reservoir.len() > self.limits.reservoir_max {
            let surplus = self.reservoir.pop();
            self.release(surplus);
        }
        if self.reservoir.len() < self.limits.reservoir_max {
            self.reservoir.push(sample);
        } else {
            let place = self.rng.random_range(0..self.offered);
            let slot = usize::try_from(place).ok().and_then(|place| self.reservoir.get_mut(place));
            let left_out = match slot {
                Some(slot) => std::mem::replace(slot, sample),
                None => sample,
            };
            self.release(Some(left_out));
        }
    }

    /// Whether enough came since the last round, and something is held out.
    pub(super) fn is_due(&self) -> bool {
        self.fresh >= self.limits.flows_per_round && self.is_possible()
    }

    /// Whether there is anything to learn from and to measure by.
    pub(super) fn is_possible(&self) -> bool {
        !self.held_out.is_empty() && !self.recent.is_empty()
    }

    /// What a round learns, and what it is measured by; the newest come first.
    pub(super) fn take(&mut self) -> Batch {
        let fresh = std::mem::take(&mut self.fresh).min(self.recent.len());
        Batch {
            train: self.recent.iter().rev().chain(&self.reservoir).cloned().collect(),
            fresh,
            held_out: self.held_out.iter().rev().cloned().collect(),
            starts: self.starts.all(),
        }
    }

    /// Sets the limits anew; what is too much goes when the next flow comes.
    pub(super) fn set_limits(&mut self, limits: LearnConfig) {
        self.limits = limits;
    }

    /// Flows that are kept, of each part.
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.recent.len(), self.reservoir.len(), self.held_out.len()]
    }
}

#[cfg(test)]
mod tests {
    use wiremamba_model::flow::{Direction, FiveTuple, SessionPacket};
    use wiremamba_model::packet::{LinkType, Packet, Timestamp};

    use super::*;

    fn flow(label: u16, packet_bytes: usize) -> Sample {
        let tuple = FiveTuple {
            orig: [10, 0, 0, 1].into(),
            resp: [10, 0, 0, 2].into(),
            orig_port: 1,
            resp_port: 2,
            protocol: 6,
        };
        let data = vec![0; packet_bytes];
        let packet = Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        let packets = vec![SessionPacket { flow: 0, direction: Direction::Resp, packet }];
        (LabelId(label), Session { flows: vec![tuple], packets })
    }

    #[test]
    fn memory_has_a_limit_and_what_it_costs_is_counted() {
        let mut samples =
            Samples::new(LearnConfig { memory_mib: 1, held_out_every: 4, recent_max: 8, ..LearnConfig::default() });
        for i in 0..1000 {
            samples.add(flow(i, 20_000 + usize::from(i) * 7));
            let all = samples.recent.iter().chain(&samples.reservoir).chain(&samples.held_out);
            assert_eq!(samples.bytes, all.map(bytes).sum::<u64>());
            assert!(samples.bytes <= 1 << 20);
        }
        assert!(samples.forgotten() > 900, "{}", samples.forgotten());
        assert!(samples.is_due());
        // A flow that is larger than all memory is learned, and then forgotten.
        samples.add(flow(0, 3 << 20));
        assert_eq!(samples.sizes()[1], 0);
        samples.add(flow(0, 10));
        samples.add(flow(0, 10));
        assert!(samples.bytes <= 1 << 20);
    }

    #[test]
    fn a_flood_is_not_all_that_is_learned() {
        let mut samples = Samples::new(LearnConfig { recent_max: 100, ..LearnConfig::default() });
        let one_sided = || {
            let (label, mut session) = flow(1, 60);
            session.packets[0].direction = Direction::Orig;
            (label, session)
        };
        for i in 0..5000 {
            samples.add(one_sided());
            if i % 20 == 0 {
                samples.add(flow(0, 60));
            }
        }
        let of_flood = samples.recent.iter().filter(|sample| !is_answered(sample)).count();
        assert!(samples.recent.len() == 100 && of_flood <= 25, "{of_flood} of {}", samples.recent.len());
        assert_eq!(samples.unanswered_recent, of_flood);
        assert!(samples.held_out.iter().filter(|sample| is_answered(sample)).count() > 10);
        assert!(samples.forgotten() > 4000);
    }

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
            samples.add(flow(i, 0));
        }
        assert_eq!(samples.sizes(), [20, 200, 5]);
        assert!(samples.is_due());
        let mean = samples.reservoir.iter().map(|(label, _)| f64::from(label.0)).sum::<f64>() / 200.0;
        assert!((mean - 2000.0).abs() < 300.0, "{mean}");
        let Batch { train, fresh, held_out, starts } = samples.take();
        assert_eq!((train.len(), fresh, held_out.len(), samples.is_due()), (220, 20, 5, false));
        assert!(train[0].0.0 > train[19].0.0 && held_out[0].0.0 > held_out[4].0.0, "the newest come first");
        assert_eq!(starts.len(), 4000, "also of flows that are not kept");
        samples.set_limits(LearnConfig { recent_max: 7, reservoir_max: 11, held_out_max: 2, ..samples.limits.clone() });
        (0..40).for_each(|_| samples.add(flow(0, 60)));
        assert_eq!(samples.sizes(), [7, 11, 2]);
        let starts = samples.take().starts;
        assert_eq!((starts.len(), starts[0].1.len()), (4000, 41));
    }
}
