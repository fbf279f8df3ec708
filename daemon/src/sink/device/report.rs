//! What a device under test did to the packets, in numbers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;
use wiremamba_model::flow::FiveTuple;

/// Longest latency that is told apart, in nanoseconds: a minute.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Sums over the packets of one label that go one way.
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) lost: u64,
    received: u64,
    reordered: u64,
    source_rewritten: u64,
    destination_rewritten: u64,
    latency_ns: Histogram<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        let latency_ns = Histogram::new_with_max(LATENCY_MAX_NS, 2).expect("constants that fit");
        Self { sent: 0, lost: 0, received: 0, reordered: 0, source_rewritten: 0, destination_rewritten: 0, latency_ns }
    }
}

impl Counts {
    /// Counts a packet that came out.
    pub(super) fn receive(&mut self, latency_ns: u64, is_late: bool, sent: FiveTuple, seen: FiveTuple) {
        self.received += 1;
        self.reordered += u64::from(is_late);
        self.source_rewritten += u64::from((sent.orig, sent.orig_port) != (seen.orig, seen.orig_port));
        self.destination_rewritten += u64::from((sent.resp, sent.resp_port) != (seen.resp, seen.resp_port));
        self.latency_ns.saturating_record(latency_ns);
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.received += other.received;
        self.reordered += other.reordered;
        self.source_rewritten += other.source_rewritten;
        self.destination_rewritten += other.destination_rewritten;
        self.latency_ns.add(&other.latency_ns).expect("histograms of one kind");
    }
}

/// Time through the device, in microseconds, from the call that sends to the call that reads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the packets took at most this.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// Shares of the packets, and the microseconds that they took at most.
    pub curve: [(f64, f64); 12],
}

/// The shares of a curve.
const SHARES: [f64; 12] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// Packets that went one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DirectionReport {
    /// Packets that went in.
    pub sent: u64,
    /// Of these, came out.
    pub received: u64,
    /// Of these, never came out.
    pub lost: u64,
    /// Came out after one that went in later (RFC 4737).
    pub reordered: u64,
    /// Came out with another source address or port.
    pub source_rewritten: u64,
    /// Came out with another destination address or port.
    pub destination_rewritten: u64,
    /// Of those that came out; `null` where none did.
    pub latency: Option<Latency>,
}

impl DirectionReport {
    fn new(counts: &Counts) -> Self {
        let at = |share| counts.latency_ns.value_at_quantile(share) as f64 / 1e3;
        let latency = (counts.received > 0).then(|| Latency {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: counts.latency_ns.max() as f64 / 1e3,
            curve: SHARES.map(|share| (share, at(share))),
        });
        Self {
            sent: counts.sent,
            received: counts.received,
            lost: counts.lost,
            reordered: counts.reordered,
            source_rewritten: counts.source_rewritten,
            destination_rewritten: counts.destination_rewritten,
            latency,
        }
    }
}

/// What the device did.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct DeviceReport {
    /// All packets, `to_server` and `to_client`.
    pub directions: BTreeMap<&'static str, DirectionReport>,
    /// The same by label, where the source has labels.
    pub labels: BTreeMap<String, BTreeMap<&'static str, DirectionReport>>,
    /// Packets sent that could not be recognised if they came out: without IP, or too many at a time.
    pub unwatched: u64,
    /// Frames that came out and were not sent: the device's own, or doubles.
    pub unexpected: u64,
    /// Questions by ARP that were answered; the taps count these packets beside those that were sent.
    pub arp_answers: u64,
    /// Questions with which hosts made themselves known to the device; the taps count these, too.
    pub arp_questions: u64,
}

impl DeviceReport {
    pub(super) fn new(counts: &HashMap<(Option<u16>, usize), Counts>, names: &[String]) -> Self {
        let mut report = Self::default();
        for (way, name) in ["to_server", "to_client"].into_iter().enumerate() {
            let mut sum = Counts::default();
            for ((label, _), counts) in counts.iter().filter(|(key, _)| key.1 == way) {
                sum.add(counts);
                if let Some(label) = label {
                    let label = names.get(usize::from(*label)).cloned().unwrap_or_else(|| label.to_string());
                    report.labels.entry(label).or_default().insert(name, DirectionReport::new(counts));
                }
            }
            report.directions.insert(name, DirectionReport::new(&sum));
        }
        report
    }
}

/// What a device did so far, both ways together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThroughDevice {
    /// Packets that went in.
    pub sent: u64,
    /// Of these, came out.
    pub received: u64,
    /// Of these, given up.
    pub lost: u64,
    /// Of these, still expected.
    pub under_way: usize,
    /// Half of those that came out took at most this, in microseconds.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
}

impl ThroughDevice {
    pub(super) fn new<'a>(counts: impl Iterator<Item = &'a Counts>, under_way: usize) -> Self {
        let mut sum = Counts::default();
        counts.for_each(|counts| sum.add(counts));
        let at = |share| sum.latency_ns.value_at_quantile(share) as f64 / 1e3;
        let (sent, received, lost) = (sum.sent, sum.received, sum.lost);
        Self { sent, received, lost, under_way, p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// A part of a line for people.
impl fmt::Display for ThroughDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, lost, under_way, p50_us, p99_us } = self;
        write!(f, "through the device {received} of {sent}, lost {lost}, {under_way} under way, ")?;
        write!(f, "latency p50 {p50_us:.0} µs, p99 {p99_us:.0} µs")
    }
}

/// A table for people.
impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24}{:>9}{:>9}{:>7}{:>10}{:>9}{:>9}  latency p50, p99, most µs",
            "through the device", "sent", "received", "lost", "reordered", "new src", "new dst"
        )?;
        let mut line = |name: &str, report: &DirectionReport| {
            write!(f, "{name:<24}{:>9}{:>9}{:>7}", report.sent, report.received, report.lost)?;
            write!(f, "{:>10}{:>9}{:>9}", report.reordered, report.source_rewritten, report.destination_rewritten)?;
            match report.latency {
                Some(l) => writeln!(f, "  {:.0}, {:.0}, {:.0}", l.p50_us, l.p99_us, l.max_us),
                None => writeln!(f),
            }
        };
        for (name, report) in &self.directions {
            line(name, report)?;
        }
        for (label, directions) in &self.labels {
            for (name, report) in directions {
                line(&format!("{label} {name}"), report)?;
            }
        }
        write!(
            f,
            "{} sent without IP or too many to watch; {} came out that were not sent",
            self.unwatched, self.unexpected
        )
    }
}
