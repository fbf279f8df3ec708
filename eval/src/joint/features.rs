//! What a classifier may know of a flow: numbers about the whole of it, and the bits of its first packets. Addresses,
//! ports and everything else that only names a host or a connection are left out, so that nothing can be told by
//! knowing where it came from.

use wiremamba_model::flow::{Direction, Flow};

use super::bits::PacketBits;
use crate::view::{View, views};

/// Names of the flow statistics, in their order. `orig` sent the first packet, `resp` is the other side; sizes are IP
/// bytes (what the frame adds differs between captures), gaps are log10 of seconds.
pub const STAT_NAMES: [&str; 66] = [
    "packets",
    "bytes",
    "duration",
    "protocol",
    "ip_version",
    "upstream_packets_share",
    "upstream_bytes_share",
    "turns",
    "payloadless_share",
    "orig_packets",
    "orig_bytes",
    "orig_payload_bytes",
    "orig_size_mean",
    "orig_size_std",
    "orig_size_min",
    "orig_size_max",
    "resp_packets",
    "resp_bytes",
    "resp_payload_bytes",
    "resp_size_mean",
    "resp_size_std",
    "resp_size_min",
    "resp_size_max",
    "gap_mean",
    "gap_std",
    "gap_min",
    "gap_max",
    "orig_gap_mean",
    "orig_gap_std",
    "orig_gap_min",
    "orig_gap_max",
    "resp_gap_mean",
    "resp_gap_std",
    "resp_gap_min",
    "resp_gap_max",
    "turn_gap_mean",
    "turn_gap_std",
    "turn_gap_min",
    "turn_gap_max",
    "size_0",
    "size_1",
    "size_2",
    "size_3",
    "size_4",
    "size_5",
    "size_6",
    "size_7",
    "size_8",
    "size_9",
    "fin_count",
    "syn_count",
    "rst_count",
    "psh_count",
    "ack_count",
    "urg_count",
    "ece_count",
    "cwr_count",
    "orig_window",
    "resp_window",
    "orig_ttl",
    "resp_ttl",
    "orig_tcp_options_len",
    "resp_tcp_options_len",
    "dont_fragment_share",
    "fragments",
    "no_ip_share",
];
/// How many flow statistics there are.
pub const STATS: usize = STAT_NAMES.len();

/// Stands for a statistic that the flow does not have, such as the TTL of a side that never sent.
const ABSENT: f64 = -1.0;
/// The same among log gaps, where -1 is a tenth of a second.
const NO_GAP: f64 = -10.0;
/// Gaps below a microsecond count as one: savefiles with microseconds know no shorter ones.
const GAP_MIN_S: f64 = 1e-6;
/// How many signed sizes are kept.
const SIZES: usize = 10;

/// A flow as a classifier sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowFeatures {
    /// Flow statistics, in the order of [`STAT_NAMES`].
    pub stats: [f32; STATS],
    /// nPrint bits of the first packets.
    pub bits: PacketBits,
}

impl FlowFeatures {
    /// The features of a flow.
    pub fn of(flow: &Flow) -> Self {
        let mut bits = PacketBits::absent();
        let mut seen = Seen::default();
        for (position, (direction, view)) in views(flow).enumerate() {
            bits.print(position, &view);
            seen.packet(direction, &view);
        }
        Self { stats: seen.stats(), bits }
    }
}

/// What one side of a flow sent.
#[derive(Debug, Default)]
struct Side {
    sizes: Summary,
    payload_bytes: u64,
    last_ns: Option<i64>,
    gaps: Summary,
    window: Option<u16>,
    ttl: Option<u8>,
    options_len: Option<usize>,
}

/// A flow, as far as it was read.
#[derive(Debug, Default)]
struct Seen {
    orig: Side,
    resp: Side,
    first_ns: Option<i64>,
    last: Option<(Direction, i64)>,
    gaps: Summary,
    turn_gaps: Summary,
    turns: u32,
    sizes: Vec<f64>,
    flags: [u32; 8],
    protocol: Option<u8>,
    version: u8,
    payloadless: u32,
    dont_fragment: u32,
    fragments: u32,
    no_ip: u32,
}

impl Seen {
    fn packet(&mut self, direction: Direction, view: &View<'_>) {
        let ns = view.ts().0;
        let log_gap = |earlier: i64| (ns.saturating_sub(earlier) as f64 / 1e9).max(GAP_MIN_S).log10();
        let size = size(view) as f64;
        let (side, sign) = match direction {
            Direction::Orig => (&mut self.orig, 1.0),
            Direction::Resp => (&mut self.resp, -1.0),
        };
        side.sizes.add(size);
        side.payload_bytes += view.payload_len as u64;
        if let Some(earlier) = side.last_ns.replace(ns) {
            side.gaps.add(log_gap(earlier));
        }
        side.ttl = side.ttl.or(ttl(view));
        if let Some(tcp) = view.tcp() {
            side.window.get_or_insert(tcp.window());
            side.options_len.get_or_insert(tcp.options().len());
            for (bit, count) in self.flags.iter_mut().enumerate() {
                *count += u32::from(tcp.flags() >> bit & 1);
            }
        }
        self.first_ns.get_or_insert(ns);
        if let Some((sender, earlier)) = self.last.replace((direction, ns)) {
            self.gaps.add(log_gap(earlier));
            if sender != direction {
                self.turns += 1;
                self.turn_gaps.add(log_gap(earlier));
            }
        }
        if self.sizes.len() < SIZES {
            self.sizes.push(sign * size);
        }
        self.protocol = self.protocol.or(view.protocol());
        self.version = self.version.max(view.ip_version());
        self.payloadless += u32::from(view.payload_len == 0);
        // Byte 6 of IPv4 holds DF and MF, bytes 6 and 7 the offset (RFC 791, section 3.1).
        self.dont_fragment += u32::from(view.ip_version() == 4 && view.ip_header.get(6).is_some_and(|b| b & 0x40 != 0));
        self.fragments += u32::from(view.later_fragment);
        self.no_ip += u32::from(view.ip_version() == 0);
    }

    fn stats(&self) -> [f32; STATS] {
        let packets = f64::from(self.orig.sizes.count + self.resp.sizes.count);
        let bytes = self.orig.sizes.sum + self.resp.sizes.sum;
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { ABSENT };
        let last_ns = self.last.map_or(0, |(_, ns)| ns);
        let duration_s = last_ns.saturating_sub(self.first_ns.unwrap_or(last_ns)) as f64 / 1e9;

        let mut row = Row::default();
        row.put("packets", [packets]);
        row.put("bytes", [bytes]);
        row.put("duration", [duration_s]);
        row.put("protocol", [self.protocol.map_or(ABSENT, f64::from)]);
        row.put("ip_version", [f64::from(self.version)]);
        row.put("upstream_packets_share", [share(f64::from(self.orig.sizes.count), packets)]);
        row.put("upstream_bytes_share", [share(self.orig.sizes.sum, bytes)]);
        row.put("turns", [f64::from(self.turns)]);
        row.put("payloadless_share", [share(f64::from(self.payloadless), packets)]);
        for (name, side) in [("orig_packets", &self.orig), ("resp_packets", &self.resp)] {
            row.put(name, [f64::from(side.sizes.count), side.sizes.sum, side.payload_bytes as f64]);
            row.put(&name.replace("packets", "size_mean"), side.sizes.four(ABSENT));
        }
        row.put("gap_mean", self.gaps.four(NO_GAP));
        row.put("orig_gap_mean", self.orig.gaps.four(NO_GAP));
        row.put("resp_gap_mean", self.resp.gaps.four(NO_GAP));
        row.put("turn_gap_mean", self.turn_gaps.four(NO_GAP));
        row.put::<SIZES>("size_0", std::array::from_fn(|i| self.sizes.get(i).copied().unwrap_or(0.0)));
        row.put("fin_count", self.flags.map(f64::from));
        let sides = [&self.orig, &self.resp];
        row.put("orig_window", sides.map(|s| s.window.map_or(ABSENT, f64::from)));
        row.put("orig_ttl", sides.map(|s| s.ttl.map_or(ABSENT, f64::from)));
        row.put("orig_tcp_options_len", sides.map(|s| s.options_len.map_or(ABSENT, |n| n as f64)));
        row.put("dont_fragment_share", [share(f64::from(self.dont_fragment), packets)]);
        row.put("fragments", [f64::from(self.fragments)]);
        row.put("no_ip_share", [share(f64::from(self.no_ip), packets)]);
        row.done()
    }
}

/// Bytes of the IP packet on the wire, or of the frame where there is no IP.
fn size(view: &View<'_>) -> usize {
    if view.ip.is_empty() {
        return view.packet.len as usize;
    }
    view.ip.len() + view.payload_len.saturating_sub(view.payload.len())
}

/// TTL of IPv4 (byte 8), hop limit of IPv6 (byte 7).
fn ttl(view: &View<'_>) -> Option<u8> {
    match view.ip_version() {
        4 => view.ip_header.get(8).copied(),
        6 => view.ip_header.get(7).copied(),
        _ => None,
    }
}

/// Statistics as they are filled in. Each group is put under the name of its first number, so that a list of names out
/// of step with the numbers fails at once.
struct Row {
    stats: [f32; STATS],
    filled: usize,
}

impl Default for Row {
    fn default() -> Self {
        Self { stats: [0.0; STATS], filled: 0 }
    }
}

impl Row {
    fn put<const N: usize>(&mut self, name: &str, values: [f64; N]) {
        assert_eq!(STAT_NAMES[self.filled], name, "statistics come in the order of their names");
        for value in values {
            self.stats[self.filled] = value as f32;
            self.filled += 1;
        }
    }

    fn done(self) -> [f32; STATS] {
        assert_eq!(self.filled, STATS, "every statistic has a value");
        self.stats
    }
}

/// Running count, mean, spread and range.
#[derive(Debug)]
struct Summary {
    count: u32,
    sum: f64,
    mean: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { count: 0, sum: 0.0, mean: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Summary {
    fn add(&mut self, x: f64) {
        self.count += 1;
        self.sum += x;
        // Welford 1962: steady also where the mean is large against the spread.
        let away = x - self.mean;
        self.mean += away / f64::from(self.count);
        self.squares += away * (x - self.mean);
        self.min = self.min.min(x);
        self.max = self.max.max(x);
    }

    /// Mean, standard deviation of the population, minimum and maximum; `absent` four times when nothing was added.
    fn four(&self, absent: f64) -> [f64; 4] {
        if self.count == 0 {
            return [absent; 4];
        }
        [self.mean, (self.squares / f64::from(self.count)).sqrt(), self.min, self.max]
    }
}
