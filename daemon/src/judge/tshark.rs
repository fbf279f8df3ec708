//! tshark: what Wireshark's dissectors make of each packet.
//!
//! One line of fields for each packet, with the checksums of IP, TCP and UDP looked at (they are not by default; those
//! of ICMP are). Real captures have wrong ones too, where the card of the capturing host was to fill them in.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::counts::{Counts, Table, per_1000};
use super::program::{Known, RunError, Runner};
use super::{Asked, Judge};

/// Kinds of messages in a report.
const MESSAGES_MAX: usize = 20;
/// Protocol paths in a report.
const PATHS_MAX: usize = 30;
const CHECKSUMS: [&str; 5] = ["ip", "tcp", "udp", "icmp", "icmpv6"];
/// The bits of `_ws.expert.severity` that hold it, and two of its values: PI_SEVERITY_MASK, PI_ERROR and PI_WARN in
/// Wireshark's epan/proto.h.
const SEVERITY_MASK: u32 = 0x00f0_0000;
const SEVERITY_ERROR: u32 = 0x0080_0000;
const SEVERITY_WARNING: u32 = 0x0060_0000;
/// Between several values of one field of one packet: ASCII's unit separator, which no message holds.
const AGGREGATOR: char = '\x1f';

/// What tshark says of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TsharkReport {
    /// Which program it was, and what it failed on.
    pub asked: Asked,
    /// The real captures.
    pub real: TsharkSide,
    /// The synthetic captures.
    pub synthetic: TsharkSide,
    /// Overlap of the protocol paths per packet: the sum of min(p, q). `None` where a side is empty.
    pub protocol_path_overlap: Option<f64>,
}

/// What tshark says of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TsharkSide {
    /// Packets that it read.
    pub frames: u64,
    /// Expert information of severity error, by message without numbers, per 1,000 packets.
    pub errors: Table,
    /// The same of severity warning.
    pub warnings: Table,
    /// Packets that some dissector found malformed.
    pub malformed: u64,
    /// The same per 1,000 packets.
    pub malformed_per_1000: f64,
    /// Checksums by protocol, where there were any.
    pub checksums: BTreeMap<&'static str, Checksums>,
    /// Protocol paths (`frame.protocols`, as in `eth:ethertype:ip:tcp:http`), per 1,000 packets.
    pub protocol_paths: Table,
    /// Lines that were not understood. 0, or this tshark prints something new.
    pub unknown_lines: u64,
}

/// Checksums of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Checksums {
    /// Right ones.
    pub good: u64,
    /// Wrong ones.
    pub bad: u64,
}

/// What tshark said so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    frames: u64,
    errors: Counts,
    warnings: Counts,
    malformed: u64,
    checksums: [Checksums; CHECKSUMS.len()],
    protocol_paths: Counts,
    unknown_lines: u64,
}

pub(super) struct Tshark;

impl Judge for Tshark {
    const KNOWN: Known =
        Known { program: "tshark", package: "tshark", hint: "Debian: tshark", version_option: "--version" };
    type Seen = Seen;
    type Report = TsharkReport;

    fn look(runner: &Runner, capture: &Path, folder: &Path, seen: &mut Seen) -> Result<(), RunError> {
        let mut command = runner.command(folder);
        command.arg("-n").arg("-r").arg(capture);
        for protocol in ["ip", "tcp", "udp"] {
            command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
        }
        command.args(["-T", "fields", "-E", "separator=/t", "-E", &format!("aggregator={AGGREGATOR}")]);
        command.args(["-e", "frame.protocols", "-e", "_ws.malformed"]);
        for protocol in CHECKSUMS {
            command.args(["-e", &format!("{protocol}.checksum.status")]);
        }
        command.args(["-e", "_ws.expert.severity", "-e", "_ws.expert.message"]);
        runner.run(&mut command, |line| seen.add(line))
    }

    fn report(asked: Asked, real: &Seen, synthetic: &Seen) -> TsharkReport {
        TsharkReport {
            asked,
            real: real.side(),
            synthetic: synthetic.side(),
            protocol_path_overlap: real.protocol_paths.overlap(&synthetic.protocol_paths),
        }
    }
}

impl Seen {
    /// Adds the line of one packet.
    fn add(&mut self, line: &str) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [protocols, malformed, statuses @ .., severities, messages] = fields.as_slice() else {
            self.unknown_lines += 1;
            return;
        };
        if statuses.len() != CHECKSUMS.len() {
            self.unknown_lines += 1;
            return;
        }
        self.frames += 1;
        self.protocol_paths.add(protocols, 1);
        self.malformed += u64::from(!malformed.is_empty());
        for (checksums, statuses) in self.checksums.iter_mut().zip(statuses) {
            // One for each such header of the packet; 2 is one that was not looked at.
            for status in statuses.split(AGGREGATOR) {
                match status {
                    "0" | "Bad" => checksums.bad += 1,
                    "1" | "Good" => checksums.good += 1,
                    _ => {}
                }
            }
        }
        for (severity, message) in severities.split(AGGREGATOR).zip(messages.split(AGGREGATOR)) {
            match severity.parse::<u32>().unwrap_or_default() & SEVERITY_MASK {
                SEVERITY_ERROR => self.errors.add(&without_numbers(message), 1),
                SEVERITY_WARNING => self.warnings.add(&without_numbers(message), 1),
                _ => {}
            }
        }
    }

    fn side(&self) -> TsharkSide {
        let of = self.frames;
        let checksums = CHECKSUMS.into_iter().zip(self.checksums).filter(|(_, c)| *c != Checksums::default());
        TsharkSide {
            frames: of,
            errors: self.errors.table(MESSAGES_MAX, of),
            warnings: self.warnings.table(MESSAGES_MAX, of),
            malformed: self.malformed,
            malformed_per_1000: per_1000(self.malformed, of),
            checksums: checksums.collect(),
            protocol_paths: self.protocol_paths.table(PATHS_MAX, of),
            unknown_lines: self.unknown_lines,
        }
    }
}

/// A message without its numbers, decimal or `0x` hexadecimal, which would make as many kinds as there are packets.
fn without_numbers(message: &str) -> String {
    let mut kind = String::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        if let Some(hex) = rest.strip_prefix("0x") {
            kind.push_str("0x");
            rest = hex.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        } else {
            if !first.is_ascii_digit() {
                kind.push(first);
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as tshark 4.0 prints them; the severities are an error and a warning, with their groups' bits.
    #[test]
    fn messages_and_severities_belong_together_in_order() {
        let mut seen = Seen::default();
        seen.add("eth:ethertype:ip:tcp\t\t1\t0\t\t\t\t8388608\x1f6291456\x1f4194304\tChecksum [should be 0x12ab]\x1fPort 80\x1fSeen");
        seen.add("eth:ethertype:ip:icmp:ip:udp\t_ws.malformed\t1\x1f2\t\t2\t1\t\t\t");
        seen.add("nothing of the kind");
        let side = seen.side();
        assert_eq!((side.frames, side.malformed, side.unknown_lines), (2, 1, 1));
        assert_eq!(side.errors.top[0].what, "Checksum [should be 0x]");
        assert_eq!((side.errors.total, side.errors.per_1000), (1, 500.0));
        assert_eq!((side.warnings.total, side.warnings.top[0].what.as_str()), (1, "Port "));
        let good = Checksums { good: 1, bad: 0 };
        let expected = [("ip", Checksums { good: 2, bad: 0 }), ("tcp", Checksums { good: 0, bad: 1 }), ("icmp", good)];
        assert_eq!(side.checksums, BTreeMap::from(expected));
    }
}
