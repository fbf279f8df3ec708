//! nDPI: which protocol each flow speaks, by its content.
//!
//! `ndpiReader -d` does not guess from ports and addresses, so that a flow that merely uses port 443 stays unknown.
//! Its lines for people are read and not its CSV: they alone give the confidence and the risks of a flow, and version
//! 4.2 leaves unknown flows out of the CSV unless the lines are asked for as well.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::counts::{Counts, Table};
use super::program::{Known, RunError, Runner};
use super::{Asked, Judge};

/// Rows of the tables in a report.
const ROWS_MAX: usize = 30;
const UNKNOWN: &str = "Unknown";

/// What nDPI says of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NdpiReport {
    /// Which program it was, and what it failed on.
    pub asked: Asked,
    /// The real captures.
    pub real: NdpiSide,
    /// The synthetic captures.
    pub synthetic: NdpiSide,
    /// Overlap of the protocols per flow: the sum of min(p, q). `None` where a side is empty.
    pub protocol_overlap: Option<f64>,
}

/// What nDPI says of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NdpiSide {
    /// Flows that it saw.
    pub flows: u64,
    /// Share of flows without a known protocol, 0 to 1.
    pub unknown_share: f64,
    /// Protocols as it names them (`DNS`, `TLS.Google`), per 1,000 flows.
    pub protocols: Table,
    /// What it relies on (`DPI`, `DPI (cache)`, `Unknown`), where this version says so, per 1,000 flows.
    pub confidences: Table,
    /// What it finds risky, per 1,000 flows. A flow can have several.
    pub risks: Table,
}

/// What nDPI said so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    protocols: Counts,
    confidences: Counts,
    risks: Counts,
}

pub(super) struct Ndpi;

impl Judge for Ndpi {
    const KNOWN: Known =
        Known { program: "ndpiReader", package: "libndpi-bin", hint: "Debian: libndpi-bin", version_option: "-h" };
    type Seen = Seen;
    type Report = NdpiReport;

    fn look(runner: &Runner, capture: &Path, folder: &Path, seen: &mut Seen) -> Result<(), RunError> {
        let mut command = runner.command(folder);
        // Quiet leaves the flows and takes the statistics away.
        command.args(["-d", "-q", "-v", "2", "-i"]).arg(capture);
        runner.run(&mut command, |line| seen.add(line))
    }

    fn report(asked: Asked, real: &Seen, synthetic: &Seen) -> NdpiReport {
        NdpiReport {
            asked,
            real: real.side(),
            synthetic: synthetic.side(),
            protocol_overlap: real.protocols.overlap(&synthetic.protocols),
        }
    }
}

impl Seen {
    /// Adds the line of one flow; other lines are none of its business.
    fn add(&mut self, line: &str) {
        // A number in a column of its own, then the flow. What comes from packets comes after the protocol.
        let is_flow = line.starts_with(|c: char| c.is_ascii_whitespace())
            && line.trim_start().starts_with(|c: char| c.is_ascii_digit());
        let Some(protocol) = bracketed(line, "[proto: ").filter(|_| is_flow) else {
            return;
        };
        // As in "91.26/TLS.ntop".
        self.protocols.add(protocol.split_once('/').map_or(protocol, |(_, name)| name), 1);
        if let Some(confidence) = bracketed(line, "[Confidence: ") {
            self.confidences.add(confidence, 1);
        }
        if let Some(risks) = bracketed(line, "[Risk: ") {
            for risk in risks.split("**").map(str::trim).filter(|risk| !risk.is_empty()) {
                self.risks.add(risk, 1);
            }
        }
    }

    fn side(&self) -> NdpiSide {
        let flows = self.protocols.total();
        let unknown = self.protocols.count(UNKNOWN);
        NdpiSide {
            flows,
            unknown_share: if flows == 0 { 0.0 } else { unknown as f64 / flows as f64 },
            protocols: self.protocols.table(ROWS_MAX, flows),
            confidences: self.confidences.table(ROWS_MAX, flows),
            risks: self.risks.table(ROWS_MAX, flows),
        }
    }
}

/// Names the protocol of each flow that `ndpiReader` finds in a capture.
pub(crate) struct ProtocolReader(Runner);

/// A flow as nDPI names it: protocol number of the transport, and both ends.
pub(crate) type FlowName = (u8, BTreeSet<String>);

impl ProtocolReader {
    /// The program, in one of the folders of `search`, with this much time.
    pub(crate) fn find(search: &OsStr, limit: Duration) -> Option<Self> {
        Runner::find(Ndpi::KNOWN.program, search, limit).map(Self)
    }

    /// The protocols (`TLS.Google`) of the flows of a capture; unknown ones are left out.
    ///
    /// # Errors
    /// The program fails, or takes too long.
    pub(crate) fn read(&self, capture: &Path, folder: &Path) -> anyhow::Result<HashMap<FlowName, String>> {
        let mut ret = HashMap::new();
        let mut command = self.0.command(folder);
        command.args(["-d", "-q", "-v", "2", "-i"]).arg(capture);
        self.0.run(&mut command, |line| {
            ret.extend(named_flow(line).filter(|(_, protocol)| protocol != UNKNOWN));
        })?;
        Ok(ret)
    }
}

/// The name of the flow of a line, and its protocol.
fn named_flow(line: &str) -> Option<(FlowName, String)> {
    let protocol = bracketed(line, "[proto: ")?;
    let protocol = protocol.split_once('/').map_or(protocol, |(_, name)| name).to_owned();
    // A number, the transport, then both ends around an arrow.
    let mut words = line.split_whitespace().skip(1);
    let transport = match words.next()? {
        "TCP" => 6,
        "UDP" => 17,
        _ => return None,
    };
    let (one, arrow, other) = (words.next()?, words.next()?, words.next()?);
    arrow.ends_with('>').then(|| ((transport, [one, other].map(str::to_owned).into()), protocol))
}

/// What is between `opening` and the next bracket.
fn bracketed<'a>(line: &'a str, opening: &str) -> Option<&'a str> {
    let (_, after) = line.split_once(opening)?;
    after.split_once(']').map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_flow() {
        let line = "\t7\tUDP [2001:db8::1]:5353 -> [ff02::fb]:5353 [proto: 8/MDNS][ClearText]";
        let ends = ["[2001:db8::1]:5353", "[ff02::fb]:5353"].map(str::to_owned).into();
        assert_eq!(named_flow(line), Some(((17, ends), "MDNS".to_owned())));
        assert_eq!(named_flow("\t7\tICMP 1.1.1.1 -> 2.2.2.2 [proto: 81/ICMP]"), None);
        assert_eq!(named_flow("[proto: 1/X]"), None);
    }

    /// Lines in the form of ndpiReader 4.2.
    #[test]
    fn flows_give_protocol_confidence_and_every_risk() {
        let mut seen = Seen::default();
        for line in [
            "\t1\tTCP 10.0.0.1:1 <-> 10.0.0.2:443 [proto: 91.26/TLS.ntop][Encrypted][Confidence: DPI][cat: Web/5][Risk: ** Weak TLS Cipher **** Unsafe Protocol **][Risk Score: 60]",
            "\t2\tUDP 10.0.0.1:1 <-> 10.0.0.2:2 [proto: 0/Unknown][ClearText][Confidence: Unknown][1 pkts/60 bytes]",
            "\tConfidence: DPI        7             (flows)",
            "",
        ] {
            seen.add(line);
        }
        let side = seen.side();
        let keys = |table: &Table| table.top.iter().map(|row| row.what.clone()).collect::<Vec<_>>();
        assert_eq!((side.flows, side.unknown_share), (2, 0.5));
        assert_eq!(keys(&side.protocols), ["TLS.ntop", "Unknown"]);
        assert_eq!(keys(&side.confidences), ["DPI", "Unknown"]);
        assert_eq!(keys(&side.risks), ["Unsafe Protocol", "Weak TLS Cipher"]);
    }
}
