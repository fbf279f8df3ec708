//! When each packet is due: from a packet's time and length to a deadline, without a clock.
//!
//! Deadlines are absolute, in nanoseconds after the first packet, and each is computed from totals rather than
//! from the deadline before, so that nothing adds up over a long run. Waiting is the pacer's job.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use wiremamba_model::packet::Timestamp;

use super::ReplayError;
use super::profile::{Profile, ProfileUnit};

/// A timestamp that steps back by at most this much is a reordered packet; by more, the clock was set back and
/// time goes on from there. One second is far above what capture queues reorder.
const REORDER_MAX_NS: i64 = 1_000_000_000;
const NANOS_PER_SECOND: f64 = 1e9;
/// Nanoseconds that one bit takes at one Mbit/s.
const NANOS_PER_BIT_AT_1_MBPS: f64 = 1e3;

/// How fast packets leave.
#[derive(Debug, Clone, PartialEq)]
pub enum Pace {
    /// At the times of the capture, this many times as fast. Above 0; 1 is as captured.
    Capture {
        /// Speed-up.
        multiplier: f64,
    },
    /// This many packets a second, evenly. Above 0.
    PacketsPerSecond(f64),
    /// This many million bits a second, counting each packet's length on the wire as captured, without preamble
    /// and checksum. Above 0.
    MegabitsPerSecond(f64),
    /// A rate that changes over time.
    Profile(Arc<Profile>),
    /// As fast as the sink takes them.
    TopSpeed,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::Capture { multiplier } => write!(f, "{multiplier} times the captured speed"),
            Pace::PacketsPerSecond(pps) => write!(f, "{pps} packets a second"),
            Pace::MegabitsPerSecond(mbps) => write!(f, "{mbps} Mbit/s"),
            Pace::Profile(_) => f.write_str("by a profile"),
            Pace::TopSpeed => f.write_str("top speed"),
        }
    }
}

impl Pace {
    /// The multiplier of the capture's time that the longest gap is counted with.
    fn multiplier(&self) -> f64 {
        if let Pace::Capture { multiplier } = self { *multiplier } else { 1.0 }
    }

    pub(super) fn check(&self) -> Result<(), ReplayError> {
        let (option, value) = match *self {
            Pace::Capture { multiplier } => ("--multiplier", multiplier),
            Pace::PacketsPerSecond(pps) => ("--pps", pps),
            Pace::MegabitsPerSecond(mbps) => ("--mbps", mbps),
            Pace::Profile(_) | Pace::TopSpeed => return Ok(()),
        };
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        Err(ReplayError::Option { option, value: value.to_string(), range: "a number above 0" })
    }
}

/// Turns packets into deadlines, in their order.
#[derive(Debug, Clone)]
pub struct Schedule {
    pace: Pace,
    /// When this pace began, in nanoseconds after the first packet; totals are from then on.
    begun_ns: u64,
    /// Longest wait between two packets, in nanoseconds.
    wait_max_ns: f64,
    /// Longest gap of the capture that is kept, in nanoseconds of the capture.
    gap_max_ns: i64,
    /// Newest timestamp of this pass so far; `None` before a pass's first packet.
    newest: Option<Timestamp>,
    /// Nanoseconds of the capture from the first packet to the last one, all passes.
    elapsed_ns: i64,
    /// Packets scheduled so far, all passes.
    packets: u64,
    /// Bytes on the wire scheduled so far, all passes.
    bytes: u64,
    /// `elapsed_ns` and `packets` when this pass began.
    pass_start: (i64, u64),
    gaps_clipped: u64,
    backwards: u64,
}

impl Schedule {
    /// An empty schedule. No wait between two packets is longer than `gap_max`, after the speed-up.
    pub fn new(pace: Pace, gap_max: Duration) -> Result<Self, ReplayError> {
        pace.check()?;
        let wait_max_ns = gap_max.as_nanos() as f64;
        Ok(Self {
            // Saturates at 292 years.
            gap_max_ns: (wait_max_ns * pace.multiplier()) as i64,
            pace,
            begun_ns: 0,
            wait_max_ns,
            newest: None,
            elapsed_ns: 0,
            packets: 0,
            bytes: 0,
            pass_start: (0, 0),
            gaps_clipped: 0,
            backwards: 0,
        })
    }

    /// The deadline of the next packet, captured at `ts`, `len` bytes long on the wire, in nanoseconds after the
    /// first one. Never decreases. At top speed there is no deadline.
    pub fn deadline_ns(&mut self, ts: Timestamp, len: u32) -> Option<u64> {
        let is_by_time = match &self.pace {
            Pace::Capture { .. } => true,
            Pace::Profile(profile) => profile.unit() == ProfileUnit::Multiplier,
            _ => false,
        };
        if is_by_time {
            self.elapsed_ns = self.elapsed_ns.saturating_add(self.gap_ns(ts));
        }
        let deadline = match &self.pace {
            Pace::Capture { multiplier } => Some(self.elapsed_ns as f64 / multiplier),
            Pace::PacketsPerSecond(pps) => Some(self.packets as f64 * NANOS_PER_SECOND / pps),
            Pace::MegabitsPerSecond(mbps) => Some(self.bytes as f64 * 8.0 * NANOS_PER_BIT_AT_1_MBPS / mbps),
            Pace::Profile(profile) => {
                let done = match profile.unit() {
                    ProfileUnit::Pps => self.packets as f64,
                    ProfileUnit::Mbps => self.bytes as f64 * 8.0,
                    ProfileUnit::Multiplier => self.elapsed_ns as f64 / NANOS_PER_SECOND,
                };
                Some(profile.seconds_at(done) * NANOS_PER_SECOND)
            }
            Pace::TopSpeed => None,
        };
        self.packets += 1;
        self.bytes = self.bytes.saturating_add(u64::from(len));
        // Saturates; an f64 is exact to the nanosecond for 104 days.
        deadline.map(|ns| self.begun_ns.saturating_add(ns as u64))
    }

    /// Goes on at another pace, from `now_ns` after the first packet on; the next packet is the pace's first.
    pub fn change(&mut self, pace: Pace, now_ns: u64) {
        self.gap_max_ns = (self.wait_max_ns * pace.multiplier()) as i64;
        self.pace = pace;
        self.begun_ns = now_ns;
        (self.elapsed_ns, self.packets, self.bytes, self.pass_start) = (0, 0, 0, (0, 0));
    }

    /// Whether packets have no deadlines.
    pub fn is_top_speed(&self) -> bool {
        self.pace == Pace::TopSpeed
    }

    /// Begins another pass over the capture. Its first packet is due one mean gap of the pass that ended after
    /// that pass's last packet, so that the rate of many passes is the rate of one.
    pub fn next_pass(&mut self) {
        let gaps = (self.packets - self.pass_start.1).saturating_sub(1).max(1);
        let mean = (self.elapsed_ns - self.pass_start.0) / gaps as i64;
        self.elapsed_ns = self.elapsed_ns.saturating_add(mean);
        self.pass_start = (self.elapsed_ns, self.packets);
        self.newest = None;
    }

    /// Gaps that were longer than the limit and were cut to it.
    pub fn gaps_clipped(&self) -> u64 {
        self.gaps_clipped
    }

    /// Packets whose time was before that of an earlier one; they are due together with the packet before them.
    pub fn backwards(&self) -> u64 {
        self.backwards
    }

    /// Nanoseconds from the packet before to this one, between 0 and the limit.
    fn gap_ns(&mut self, ts: Timestamp) -> i64 {
        let Some(newest) = self.newest else {
            self.newest = Some(ts);
            return 0;
        };
        let gap = ts.nanos_since(newest);
        if gap < 0 {
            self.backwards += 1;
            // Keeping the newest time through a small step back means that a reordered packet costs no time.
            if gap < -REORDER_MAX_NS {
                self.newest = Some(ts);
            }
            return 0;
        }
        self.newest = Some(ts);
        if gap > self.gap_max_ns {
            self.gaps_clipped += 1;
        }
        gap.min(self.gap_max_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn deadlines(schedule: &mut Schedule, packets: &[(i64, u32)]) -> Vec<u64> {
        packets.iter().map(|&(ts, len)| schedule.deadline_ns(Timestamp(ts), len).unwrap()).collect()
    }

    fn capture(multiplier: f64) -> Schedule {
        Schedule::new(Pace::Capture { multiplier }, MINUTE).unwrap()
    }

    #[test]
    fn capture_times_are_kept_relative_to_the_first_packet() {
        let at = 1_700_000_000_000_000_000;
        assert_eq!(deadlines(&mut capture(1.0), &[(at, 60), (at + 7, 60), (at + 1000, 60)]), [0, 7, 1000]);
        assert_eq!(deadlines(&mut capture(4.0), &[(at, 60), (at + 40, 60), (at + 1000, 60)]), [0, 10, 250]);
        assert_eq!(deadlines(&mut capture(0.5), &[(at, 60), (at + 40, 60)]), [0, 80]);
    }

    #[test]
    fn ten_million_packets_at_an_odd_rate_do_not_drift() {
        // 100 ns apart, three times as fast: packet n is due at 100 n / 3.
        let mut schedule = capture(3.0);
        let mut last = 0;
        for n in 0..10_000_000i64 {
            last = schedule.deadline_ns(Timestamp(n * 100), 60).unwrap();
        }
        assert_eq!(last, 999_999_900 / 3);
    }

    #[test]
    fn packets_per_second_ignore_time_and_length() {
        let mut schedule = Schedule::new(Pace::PacketsPerSecond(3.0), MINUTE).unwrap();
        assert_eq!(
            deadlines(&mut schedule, &[(9, 1), (5, 1500), (0, 60), (0, 60)]),
            [0, 333_333_333, 666_666_666, 1_000_000_000]
        );
    }

    #[test]
    fn megabits_per_second_count_the_length_on_the_wire() {
        // 1250 bytes are 10,000 bits: 1 ms at 10 Mbit/s. A packet waits for those before it.
        let mut schedule = Schedule::new(Pace::MegabitsPerSecond(10.0), MINUTE).unwrap();
        assert_eq!(deadlines(&mut schedule, &[(0, 1250), (0, 125), (0, 1)]), [0, 1_000_000, 1_100_000]);
    }

    #[test]
    fn another_pace_goes_on_from_where_the_last_one_was() {
        let mut schedule = capture(1.0);
        assert_eq!(deadlines(&mut schedule, &[(0, 1), (1000, 1)]), [0, 1000]);
        schedule.change(Pace::Capture { multiplier: 10.0 }, 1200);
        assert_eq!(deadlines(&mut schedule, &[(2000, 1), (3000, 1)]), [1300, 1400]);
        schedule.change(Pace::PacketsPerSecond(1e6), 1500);
        assert_eq!(deadlines(&mut schedule, &[(0, 1), (0, 1), (0, 1)]), [1500, 2500, 3500]);
        schedule.change(Pace::TopSpeed, 4000);
        assert!(schedule.is_top_speed() && schedule.deadline_ns(Timestamp(0), 1).is_none());
        schedule.change(Pace::Capture { multiplier: 1.0 }, 9000);
        assert_eq!(deadlines(&mut schedule, &[(3500, 1), (3600, 1)]), [9500, 9600]);
    }

    #[test]
    fn top_speed_has_no_deadlines() {
        let mut schedule = Schedule::new(Pace::TopSpeed, MINUTE).unwrap();
        assert_eq!(schedule.deadline_ns(Timestamp(5), 60), None);
    }

    #[test]
    fn a_reordered_packet_costs_no_time() {
        let mut schedule = capture(1.0);
        assert_eq!(deadlines(&mut schedule, &[(0, 1), (100, 1), (90, 1), (110, 1)]), [0, 100, 100, 110]);
        assert_eq!(schedule.backwards(), 1);
    }

    #[test]
    fn a_clock_set_back_goes_on_from_there() {
        let hour = 3_600_000_000_000;
        let mut schedule = capture(1.0);
        assert_eq!(deadlines(&mut schedule, &[(hour, 1), (hour + 5, 1), (0, 1), (7, 1)]), [0, 5, 5, 12]);
        assert_eq!(schedule.backwards(), 1);
    }

    #[test]
    fn long_gaps_are_cut_after_the_speed_up() {
        let mut schedule = Schedule::new(Pace::Capture { multiplier: 10.0 }, Duration::from_secs(1)).unwrap();
        // 10 s at ten times the speed is 1 s: kept. 11 s is 1.1 s: cut.
        let s = 1_000_000_000;
        assert_eq!(deadlines(&mut schedule, &[(0, 1), (10 * s, 1), (21 * s, 1)]), [0, 1_000_000_000, 2_000_000_000]);
        assert_eq!(schedule.gaps_clipped(), 1);
    }

    #[test]
    fn times_at_the_ends_of_the_range_neither_overflow_nor_hang() {
        let mut schedule = capture(1e-9);
        let mut last = 0;
        for ts in [i64::MIN, i64::MAX, i64::MIN, i64::MAX, 0, i64::MAX] {
            let deadline = schedule.deadline_ns(Timestamp(ts), u32::MAX).unwrap();
            assert!(deadline >= last);
            last = deadline;
        }
        let mut schedule = Schedule::new(Pace::MegabitsPerSecond(f64::MIN_POSITIVE), Duration::MAX).unwrap();
        assert_eq!(deadlines(&mut schedule, &[(0, u32::MAX), (0, 1)]), [0, u64::MAX]);
    }

    #[test]
    fn passes_follow_each_other_by_the_mean_gap() {
        let mut schedule = capture(1.0);
        assert_eq!(deadlines(&mut schedule, &[(50, 1), (60, 1), (80, 1)]), [0, 10, 30]);
        schedule.next_pass(); // mean gap of 10 and 20
        assert_eq!(deadlines(&mut schedule, &[(50, 1), (60, 1), (80, 1)]), [45, 55, 75]);
        schedule.next_pass();
        assert_eq!(deadlines(&mut schedule, &[(50, 1)]), [90]);
        // Nothing of a single packet or of an empty pass divides by zero.
        schedule.next_pass();
        schedule.next_pass();
        assert_eq!(deadlines(&mut schedule, &[(50, 1)]), [90]);
    }

    #[test]
    fn rates_that_are_no_rates_are_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for pace in [Pace::Capture { multiplier: bad }, Pace::PacketsPerSecond(bad), Pace::MegabitsPerSecond(bad)] {
                assert!(Schedule::new(pace.clone(), MINUTE).is_err(), "{pace:?}");
            }
        }
    }
}
