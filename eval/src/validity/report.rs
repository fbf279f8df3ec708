//! The figures that come out, and how they are added up.

use std::collections::BTreeMap;

use serde::Serialize;

use super::netssm::NetssmReport;

/// How often each named rule was broken.
pub type Faults = BTreeMap<&'static str, u64>;

/// How valid packets and flows are. Shares are in percent, `None` where there is nothing to take a share of.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ValidityReport {
    /// Valid packets among `packets`.
    pub packets_valid_pct: Option<f64>,
    /// Valid flows among `flows`.
    pub flows_valid_pct: Option<f64>,
    /// TCP flows that are valid, have a full handshake, and end by RST or by FIN both ways, among `tcp_flows`.
    pub tcp_complete_pct: Option<f64>,
    /// Frames judged: IP packets, and frames that should have been.
    pub packets: u64,
    /// Those that break no rule.
    pub packets_valid: u64,
    /// Frames that carry no IP, ARP for one, and those of link layers that are not read; not among `packets`.
    pub packets_not_ip: u64,
    /// Frames that the snaplen cut before the 5-tuple; not among `packets`.
    pub packets_cut: u64,
    /// Checksums that were not checked: bytes were not captured, or are in other fragments.
    pub checksums_not_checked: u64,
    /// Flows of any protocol.
    pub flows: u64,
    /// Those whose packets are valid, follow from each other, and have a payload that parses.
    pub flows_valid: u64,
    /// Flows with at least one TCP header.
    pub tcp_flows: u64,
    /// See `tcp_complete_pct`.
    pub tcp_complete: u64,
    /// TCP flows that could be followed in part only: fragments, or headers that the snaplen cut.
    pub tcp_flows_not_followed: u64,
    /// Streams that were read in part only because too many bytes came out of order.
    pub streams_over_limit: u64,
    /// Packets that break each rule.
    pub packet_faults: Faults,
    /// Flows that break each rule, each flow once per rule.
    pub flow_faults: Faults,
    /// TLS, by direction of a flow.
    pub tls: TlsStreams,
    /// DNS messages, multicast DNS and LLMNR included.
    pub dns: Messages,
    /// First lines of HTTP/1 streams.
    pub http: Messages,
    /// First datagrams of flows to or from UDP port 443 with a long header.
    pub quic: FirstDatagrams,
    /// The counters of NetSSM's table.
    pub netssm: NetssmReport,
}

/// Directions of TCP flows that begin with a TLS record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TlsStreams {
    /// All of them: `whole`, `cut` and `bad` together.
    pub streams: u64,
    /// Records from the first byte to the last.
    pub whole: u64,
    /// Records as far as the capture goes, which ends (or has a hole) in the middle of one.
    pub cut: u64,
    /// Something else where a record should begin, or a FIN in the middle of one.
    pub bad: u64,
    /// Records begun, all streams together.
    pub records: u64,
}

impl TlsStreams {
    /// Streams that are not bad, in percent.
    pub fn valid_pct(&self) -> Option<f64> {
        pct(self.whole + self.cut, self.streams)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.whole += other.whole;
        self.cut += other.cut;
        self.bad += other.bad;
        self.records += other.records;
    }
}

/// Messages that parse and messages that do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// All of them.
    pub messages: u64,
    /// Those that parse.
    pub valid: u64,
    /// Those that do not.
    pub bad: u64,
}

impl Messages {
    /// Messages that parse, in percent.
    pub fn valid_pct(&self) -> Option<f64> {
        pct(self.valid, self.messages)
    }

    pub(super) fn count(&mut self, is_valid: bool) {
        self.messages += 1;
        self.valid += u64::from(is_valid);
        self.bad += u64::from(!is_valid);
    }

    pub(super) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.valid += other.valid;
        self.bad += other.bad;
    }
}

/// First datagrams that parse and those that do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FirstDatagrams {
    /// All of them.
    pub first_datagrams: u64,
    /// Those that parse.
    pub valid: u64,
    /// Those that do not.
    pub bad: u64,
}

impl FirstDatagrams {
    /// Datagrams that parse, in percent.
    pub fn valid_pct(&self) -> Option<f64> {
        pct(self.valid, self.first_datagrams)
    }
}

impl From<Messages> for FirstDatagrams {
    fn from(counts: Messages) -> Self {
        Self { first_datagrams: counts.messages, valid: counts.valid, bad: counts.bad }
    }
}

/// A count, what it is a part of, and the share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// `count` in percent of `of`; `None` of 0.
    pub pct: Option<f64>,
}

impl Rate {
    pub(super) fn new(count: u64, of: u64) -> Self {
        Self { count, of, pct: pct(count, of) }
    }
}

/// `count` in percent of `of`; `None` of 0.
pub(super) fn pct(count: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| 100.0 * count as f64 / of as f64)
}
