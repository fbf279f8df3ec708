//! What a replay has done so far, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::sink::SinkReport;
use crate::sink::device::ThroughDevice;
use crate::source::model::StockCounts;
use std::sync::atomic::Ordering::Relaxed;

/// Why a replay came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ended {
    /// It has not.
    #[default]
    Running,
    /// The source, and the passes asked for, are through.
    Source,
    /// `limit` packets were taken.
    Limit,
    /// The time asked for is over.
    Duration,
    /// The stop flag was raised.
    Stopped,
    /// The reader behind the sink has gone.
    Closed,
    /// The source, or the sink, failed.
    Failed,
}

/// Counters of one replay. As JSON it is one flat object but for `refused_by`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct ReplayCounters {
    /// Packets that the sink took.
    pub sent: u64,
    /// Packets that the sink refused; the job went on.
    pub refused: u64,
    /// The refused ones by reason, in the sink's words.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// Packets sent more than [`LATE_NS`](super::LATE_NS) after their deadline.
    pub late: u64,
    /// The most that a packet was sent after its deadline, in microseconds.
    pub lateness_max_us: f64,
    /// Times that the source had no packet ready when one was due.
    pub underruns: u64,
    /// The most that such a packet came after its time, in microseconds.
    pub underrun_max_us: f64,
    /// Seconds after the first packet in which the source had none, whether or not one would have been due.
    pub starved_s: f64,
    /// Times that a stall was longer than what is caught up, so that the rest of the schedule moved back.
    pub moves: u64,
    /// By how much it moved, all in all, in nanoseconds.
    pub moved_ns: u64,
    /// Sessions sent to their end that were fresh from the model.
    pub sessions_fresh: u64,
    /// Sessions sent to their end that were earlier ones, rendered again.
    pub sessions_again: u64,
    /// Flows in stock.
    pub stock_flows: u64,
    /// Of these, read from a file in place of being generated.
    pub stock_from_file: u64,
    /// Whether the stock could not be written to its file.
    pub stock_not_written: bool,
    /// Packets of the source that were longer than the MTU and sent as several.
    pub oversize_split: u64,
    /// Of these, sent as IP fragments; the others as TCP segments.
    pub oversize_fragmented: u64,
    /// Packets that became of all of them.
    pub oversize_segments: u64,
    /// The device under test so far, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through_device: Option<ThroughDevice>,
    /// Flows in the ground truth.
    pub truth_flows: u64,
    /// Bytes of the packets sent, as the sink sent them.
    pub bytes: u64,
    /// Passes over the source that reached its end.
    pub loops: u64,
    /// Gaps cut to the longest allowed.
    pub gaps_clipped: u64,
    /// Packets with a time before that of an earlier one.
    pub backwards: u64,
    /// Truncated packets filled with zeros.
    pub padded: u64,
    /// Packets of other link types that were sent with an Ethernet header of ours.
    pub reframed: u64,
    /// Packets that the device itself counted as received; `None` when it is gone, or before the end.
    pub device_rx_packets: Option<u64>,
    /// Packets that the device counted as dropped. Among them are packets that arrived well but that neither a
    /// protocol of the kernel nor a sniffer wanted.
    pub device_rx_dropped: Option<u64>,
    /// Packets that the device itself counted as transmitted: what an interface sends.
    pub device_tx_packets: Option<u64>,
    /// Packets that it dropped in place of that.
    pub device_tx_dropped: Option<u64>,
    /// Seconds from the first packet until now.
    pub duration_s: f64,
    /// Packets a second, achieved.
    pub pps: f64,
    /// Million bits a second, achieved.
    pub mbps: f64,
    /// Why it ended.
    pub ended: Ended,
}

impl ReplayCounters {
    /// Counts one packet, offered to the sink `late_ns` after its deadline; `report` is the sink's after it. Returns
    /// whether it was sent.
    pub(super) fn count(&mut self, report: &SinkReport, late_ns: u64) -> bool {
        if report.packets == self.sent {
            self.refused += 1;
            return false;
        }
        self.sent = report.packets;
        self.bytes = report.bytes;
        if late_ns > super::LATE_NS {
            self.late += 1;
        }
        self.lateness_max_us = self.lateness_max_us.max(late_ns as f64 / 1e3);
        true
    }

    /// Takes over the time so far and computes the rates from it.
    pub(super) fn at(&mut self, elapsed_ns: u64) {
        self.duration_s = elapsed_ns as f64 / 1e9;
        let per_second = |n: f64| if elapsed_ns == 0 { 0.0 } else { n / self.duration_s };
        self.pps = per_second(self.sent as f64);
        self.mbps = per_second(self.bytes as f64 * 8.0 / 1e6);
    }

    /// Takes over what only the source of the stock knows.
    pub(super) fn take_stock(&mut self, stock: Option<&StockCounts>) {
        if let Some(stock) = stock {
            self.stock_flows = stock.flows.load(Relaxed);
            self.stock_from_file = stock.from_file.load(Relaxed);
            self.stock_not_written = stock.not_written.load(Relaxed) != 0;
        }
    }

    /// Takes over what only the sink knows.
    pub(super) fn take(&mut self, report: &SinkReport) {
        self.refused_by.clone_from(&report.refused);
        self.padded = report.padded;
        self.reframed = report.reframed;
        self.device_rx_packets = report.device.map(|d| d.rx_packets);
        self.device_rx_dropped = report.device.map(|d| d.rx_dropped);
        self.device_tx_packets = report.device.map(|d| d.tx_packets);
        self.device_tx_dropped = report.device.map(|d| d.tx_dropped);
    }
}

/// One line for a person; what is zero and unusual is left out.
impl fmt::Display for ReplayCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s: sent {} ({:.0} packets/s, {:.2} Mbit/s), refused {}, late {} (most {:.0} µs)",
            self.duration_s, self.sent, self.pps, self.mbps, self.refused, self.late, self.lateness_max_us
        )?;
        for (why, n) in &self.refused_by {
            write!(f, ", {n} {why}")?;
        }
        if self.loops > 1 {
            write!(f, ", {} passes", self.loops)?;
        }
        if self.underruns > 0 {
            write!(f, ", {} underruns of the source (most {:.0} ms)", self.underruns, self.underrun_max_us / 1e3)?;
        }
        if self.starved_s >= 0.05 {
            write!(f, ", {:.1} s without a packet from the source", self.starved_s)?;
        }
        if self.moves > 0 {
            write!(f, ", {} stalls moved the schedule by {:.1} s", self.moves, self.moved_ns as f64 / 1e9)?;
        }
        let rare = [
            (self.sessions_fresh, "sessions fresh"),
            (self.sessions_again, "sessions rendered again"),
            (self.stock_flows, "flows in stock"),
            (self.stock_from_file, "of them from a file"),
            (u64::from(self.stock_not_written), "stock not written to its file"),
            (self.oversize_split, "longer than the MTU and split"),
            (self.oversize_fragmented, "of them into IP fragments"),
            (self.oversize_segments, "packets made of these"),
            (self.truth_flows, "flows in the ground truth"),
            (self.gaps_clipped, "long gaps cut"),
            (self.backwards, "times backwards"),
            (self.padded, "padded"),
            (self.reframed, "given an Ethernet header"),
        ];
        for (n, what) in rare.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, ", {n} {what}")?;
        }
        if let Some(device) = &self.through_device {
            write!(f, "; {device}")?;
        }
        if let (Some(packets @ 1..), Some(dropped)) = (self.device_tx_packets, self.device_tx_dropped) {
            write!(f, "; the device sent {packets}")?;
            if dropped > 0 {
                write!(f, " and dropped {dropped}: nobody read them in time")?;
            }
        } else if let (Some(packets), Some(dropped)) = (self.device_rx_packets, self.device_rx_dropped) {
            write!(f, "; the device counted {packets}")?;
            if dropped > 0 {
                write!(f, " ({dropped} dropped, or wanted by no program on this host)")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_totals_over_time() {
        let mut counters = ReplayCounters { sent: 1000, bytes: 1_250_000, ..ReplayCounters::default() };
        counters.at(2_000_000_000);
        assert_eq!((counters.duration_s, counters.pps, counters.mbps), (2.0, 500.0, 5.0));
        counters.at(0);
        assert_eq!((counters.pps, counters.mbps), (0.0, 0.0));
    }

    #[test]
    fn one_millisecond_is_not_yet_late() {
        let mut counters = ReplayCounters::default();
        counters.count(&SinkReport { packets: 1, ..SinkReport::default() }, 1_000_000);
        assert_eq!(counters.late, 0);
        counters.count(&SinkReport { packets: 2, ..SinkReport::default() }, 1_000_001);
        assert_eq!((counters.sent, counters.late, counters.lateness_max_us), (2, 1, 1000.001));
    }

    #[test]
    fn a_packet_that_the_sink_did_not_count_is_refused_and_never_late() {
        let mut counters = ReplayCounters::default();
        let report = SinkReport { refused: BTreeMap::from([("too odd", 1)]), ..SinkReport::default() };
        counters.count(&report, u64::MAX);
        counters.take(&report);
        assert_eq!((counters.sent, counters.refused, counters.late), (0, 1, 0));
        assert!(counters.to_string().contains("refused 1, late 0 (most 0 µs), 1 too odd"), "{counters}");
    }

    #[test]
    fn json_has_the_keys_that_scripts_read() {
        let json = serde_json::to_value(ReplayCounters::default()).unwrap();
        for key in ["sent", "refused", "late", "duration_s", "bytes", "loops", "pps", "mbps", "device_rx_packets"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["ended"], "running");
    }
}
