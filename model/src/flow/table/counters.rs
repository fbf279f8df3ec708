//! What a flow table is allowed to hold, and what it counts.

use serde::{Deserialize, Serialize};

use super::super::{FlowEnd, NoFlow};

const SECOND_NS: i64 = 1_000_000_000;

/// Limits of a [`FlowTable`](super::FlowTable). A limit of 0 packets or flows means 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowLimits {
    /// Flows in the table at once. Beyond it a flow is evicted: the least recently used of those of which one side
    /// has said nothing, else of all. Default 65,536.
    pub flows_max: usize,
    /// Packets of one flow. A flow that gets more is handed out, and its further packets are counted and dropped
    /// until it ends. Default 16,384; the longest trace in the paper has 1,081.
    pub packets_per_flow_max: usize,
    /// Packets in the table at once; beyond it the least recently used flow is evicted. Default 4,194,304.
    pub buffered_packets_max: usize,
    /// Captured bytes in the table at once; beyond it the least recently used flow is evicted. Default 1 GiB.
    pub buffered_bytes_max: u64,
    /// Idle timeout of a TCP flow in nanoseconds of packet time. Default 300 s, Zeek's `tcp_inactivity_timeout`
    /// (5 min).
    pub tcp_idle_timeout_ns: i64,
    /// Idle timeout of a UDP flow in nanoseconds of packet time. Default 60 s, Zeek's `udp_inactivity_timeout`
    /// (1 min).
    pub udp_idle_timeout_ns: i64,
    /// Idle timeout of any other flow in nanoseconds of packet time. Default 60 s, Zeek's
    /// `icmp_inactivity_timeout` (1 min).
    pub other_idle_timeout_ns: i64,
    /// How long a flow may go on, in nanoseconds of packet time, before it is handed out and another begins: the active
    /// timeout of RFC 3954, for flows that never end. Default none.
    pub active_timeout_ns: i64,
    /// How long a TCP flow that has ended still takes packets in (the last ACK, repeated segments), in nanoseconds
    /// of packet time. Default 5 s, Zeek's `tcp_close_delay`.
    pub tcp_linger_ns: i64,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            flows_max: 65_536,
            packets_per_flow_max: 16_384,
            buffered_packets_max: 4 << 20,
            buffered_bytes_max: 1 << 30,
            tcp_idle_timeout_ns: 300 * SECOND_NS,
            udp_idle_timeout_ns: 60 * SECOND_NS,
            other_idle_timeout_ns: 60 * SECOND_NS,
            active_timeout_ns: i64::MAX,
            tcp_linger_ns: 5 * SECOND_NS,
        }
    }
}

/// What a [`FlowTable`](super::FlowTable) has seen.
///
/// Every packet pushed is in exactly one place: in a flow that was handed out, in the table, in
/// [`packets_without_flow`](Self::packets_without_flow), or in `packets_over_flow_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowCounters {
    /// Packets pushed.
    pub packets: u64,
    /// Packets whose captured bytes are fewer than those on the wire.
    pub packets_truncated: u64,
    /// Packets dropped because their flow had reached `packets_per_flow_max`.
    pub packets_over_flow_max: u64,
    /// Packets without a flow: no IP.
    pub packets_not_ip: u64,
    /// Packets without a flow: the capture ends inside the headers.
    pub packets_headers_cut: u64,
    /// Packets without a flow: headers that contradict themselves.
    pub packets_malformed: u64,
    /// Packets without a flow: a link layer that is not read.
    pub packets_unsupported_linktype: u64,
    /// Flows handed out because TCP closed them.
    pub flows_closed: u64,
    /// Flows handed out because they were idle.
    pub flows_idle: u64,
    /// Flows handed out because the table, or the flow, was at its limit.
    pub flows_evicted: u64,
    /// Flows handed out because the input ended.
    pub flows_end_of_input: u64,
    /// How often the table had to take a living flow out to stay within `flows_max`, `buffered_packets_max` or
    /// `buffered_bytes_max`.
    pub evictions: u64,
}

impl FlowCounters {
    /// Flows handed out.
    pub fn flows(&self) -> u64 {
        self.flows_closed + self.flows_idle + self.flows_evicted + self.flows_end_of_input
    }

    /// Packets that belong to no flow, for whatever reason.
    pub fn packets_without_flow(&self) -> u64 {
        self.packets_not_ip + self.packets_headers_cut + self.packets_malformed + self.packets_unsupported_linktype
    }

    pub(super) fn count_end(&mut self, end: FlowEnd) {
        *match end {
            FlowEnd::Closed => &mut self.flows_closed,
            FlowEnd::Idle => &mut self.flows_idle,
            FlowEnd::Evicted => &mut self.flows_evicted,
            FlowEnd::EndOfInput => &mut self.flows_end_of_input,
        } += 1;
    }

    pub(super) fn count_no_flow(&mut self, reason: NoFlow) {
        *match reason {
            NoFlow::NotIp => &mut self.packets_not_ip,
            NoFlow::Truncated => &mut self.packets_headers_cut,
            NoFlow::Malformed => &mut self.packets_malformed,
            NoFlow::UnsupportedLinkType => &mut self.packets_unsupported_linktype,
        } += 1;
    }
}

impl std::ops::AddAssign for FlowCounters {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.packets_truncated += other.packets_truncated;
        self.packets_over_flow_max += other.packets_over_flow_max;
        self.packets_not_ip += other.packets_not_ip;
        self.packets_headers_cut += other.packets_headers_cut;
        self.packets_malformed += other.packets_malformed;
        self.packets_unsupported_linktype += other.packets_unsupported_linktype;
        self.flows_closed += other.flows_closed;
        self.flows_idle += other.flows_idle;
        self.flows_evicted += other.flows_evicted;
        self.flows_end_of_input += other.flows_end_of_input;
        self.evictions += other.evictions;
    }
}
