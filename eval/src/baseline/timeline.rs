//! When things happen: real gaps drawn again, and the packets of overlapping flows in one order.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wiremamba_model::packet::{Packet, Timestamp};

use super::Options;

/// Longest gap that counts as one, in nanoseconds: 1 hour. Beyond it another capture begins.
const GAP_MAX_NS: i64 = 3_600_000_000_000;
/// The gap drawn where none was seen, in nanoseconds: 50 ms, the mean at 20 a second.
const GAP_UNKNOWN_NS: i64 = 50_000_000;
/// Gaps kept of all those seen.
const GAPS_MAX: usize = 65_536;

/// A bounded sample of what was seen: each of the values seen is in it with the same chance (Vitter 1985, algorithm R).
#[derive(Debug, Clone)]
pub(super) struct Pool<T> {
    kept: Vec<T>,
    seen: u64,
    kept_max: usize,
}

impl<T: Copy> Pool<T> {
    pub(super) fn new(kept_max: usize) -> Self {
        Self { kept: Vec::new(), seen: 0, kept_max }
    }

    pub(super) fn push(&mut self, value: T, rng: &mut ChaCha8Rng) {
        self.seen += 1;
        if self.kept.len() < self.kept_max {
            self.kept.push(value);
        } else if let Some(place) = self.kept.get_mut(rng.random_range(0..self.seen) as usize) {
            *place = value;
        }
    }

    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Option<T> {
        (!self.kept.is_empty()).then(|| self.kept[rng.random_range(0..self.kept.len())])
    }
}

/// The gap between two times as far as it belongs to one capture.
pub(super) fn gap_ns(earlier: Timestamp, later: Timestamp) -> Option<i64> {
    Some(later.nanos_since(earlier)).filter(|gap| (0..=GAP_MAX_NS).contains(gap))
}

/// Times whose gaps are drawn from those between real times, each on its own. Endless.
#[derive(Debug, Clone)]
pub(super) struct ResampledTimes {
    gaps: Pool<i64>,
    next: Timestamp,
}

impl ResampledTimes {
    /// Times from `start` on, with the gaps of `real`.
    pub(super) fn new(start: Timestamp, real: impl IntoIterator<Item = Timestamp>, rng: &mut ChaCha8Rng) -> Self {
        let mut gaps = Pool::new(GAPS_MAX);
        let mut last = None;
        for time in real {
            if let Some(gap) = last.and_then(|last| gap_ns(last, time)) {
                gaps.push(gap, rng);
            }
            last = Some(time);
        }
        Self { gaps, next: start }
    }

    pub(super) fn next(&mut self, rng: &mut ChaCha8Rng) -> Timestamp {
        let now = self.next;
        self.next = now.plus_nanos(self.gaps.draw(rng).unwrap_or(GAP_UNKNOWN_NS));
        now
    }
}

/// Packets of overlapping flows, until there are enough.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Each with the latest time in its flow so far, by which it is sorted: a flow keeps its order even where its clock
    /// went back.
    packets: Vec<(Timestamp, Packet)>,
    bytes: u64,
    packets_max: usize,
    bytes_max: u64,
}

impl Timeline {
    pub(super) fn new(options: &Options) -> Self {
        let packets_max = options.packets.unwrap_or(usize::MAX);
        Self { packets: Vec::new(), bytes: 0, packets_max, bytes_max: options.bytes_max }
    }

    /// Whether another flow is wanted.
    pub(super) fn has_room(&self) -> bool {
        self.packets.len() < self.packets_max && !self.is_full()
    }

    /// Whether there are as many bytes as may be.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Takes the packets of a flow in.
    pub(super) fn add(&mut self, flow: impl IntoIterator<Item = Packet>) {
        let mut latest = Timestamp(i64::MIN);
        for packet in flow {
            latest = latest.max(packet.ts);
            self.bytes += packet.data.len() as u64;
            self.packets.push((latest, packet));
        }
    }

    /// The packets in order.
    pub(super) fn into_packets(mut self) -> Vec<Packet> {
        self.packets.sort_by_key(|(latest, _)| *latest);
        self.packets.truncate(self.packets_max);
        self.packets.into_iter().map(|(_, packet)| packet).collect()
    }
}
