//! Other people's programs that say whether traffic is right.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// What tshark says about a capture, of the layers up to TCP, UDP and ICMP.
#[derive(Debug, Default)]
pub struct Tshark {
    /// Frames that it read.
    pub frames: u64,
    /// Frames whose every checksum, where there is one, is right: at least one was checked.
    pub verified: u64,
    /// What no sender may do, by tshark's words: wrong checksums and lengths, malformed headers, acknowledgements of
    /// what was never sent.
    pub faults: BTreeMap<String, u64>,
    /// What a sender may do and an analyst wants to know: retransmissions, gaps, resets.
    pub notes: BTreeMap<String, u64>,
    /// Streams with a byte sent into a zero window.
    probed: HashSet<String>,
}

/// The layers that are looked at: those that the renderer computes. A payload is the model's own.
const LAYERS: [&str; 11] = ["frame", "eth", "ethertype", "vlan", "arp", "ip", "ipv6", "tcp", "udp", "icmp", "icmpv6"];
const CHECKSUMS: [&str; 5] = ["ip", "tcp", "udp", "icmp", "icmpv6"];
/// `expert.severity` of an error: epan/proto.h.
const SEVERITY_ERROR: u64 = 0x0080_0000;
/// Warnings that are faults here, because the sender is one program that knows what it sent.
const FAULTY_WARNINGS: [&str; 2] = ["Illegal", "Bogus"];
const UNSEEN: &str = "ACKed segment that wasn't captured";
const PROBE: &str = "Zero Window Probe";

/// Lets tshark look at a capture; `None` with a line where there is no tshark.
pub fn tshark(capture: &Path) -> Option<Tshark> {
    let Ok(protocols) = Command::new("tshark").args(["-G", "protocols"]).output() else {
        eprintln!("skipped: no tshark to judge (Debian: tshark)");
        return None;
    };
    // There is no option for "only these" in every version; a list of what is disabled is read by all.
    let config = tempfile::tempdir().expect("room for a list");
    let disabled: String = String::from_utf8_lossy(&protocols.stdout)
        .lines()
        .filter_map(|line| line.split('\t').nth(2))
        .filter(|name| !LAYERS.contains(name))
        .flat_map(|name| [name, "\n"])
        .collect();
    std::fs::write(config.path().join("disabled_protos"), disabled).expect("room for a list");

    let mut command = Command::new("tshark");
    command.env("WIRESHARK_CONFIG_DIR", config.path()).arg("-n").arg("-r").arg(capture);
    for protocol in ["ip", "tcp", "udp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    command.args(["-T", "fields", "-E", "aggregator=/s", "-e", "frame.number"]);
    for protocol in CHECKSUMS {
        command.args(["-e", &format!("{protocol}.checksum.status")]);
    }
    command.args(["-e", "_ws.expert.severity", "-e", "_ws.malformed", "-e", "tcp.stream", "-e", "_ws.expert.message"]);
    let output = ran(&mut command);
    let mut report = Tshark::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        report.add(line);
    }
    Some(report)
}

impl Tshark {
    /// Adds one line of fields.
    fn add(&mut self, line: &str) {
        self.frames += 1;
        let fields: Vec<&str> = line.split('\t').collect();
        let statuses = &fields[1..=CHECKSUMS.len()];
        // One number for each such header of the frame: 0 is bad, 1 good, 2 not looked at.
        let has = |status: &str, value: &str| status.split(' ').any(|s| s == value);
        for (protocol, status) in CHECKSUMS.iter().zip(statuses) {
            if has(status, "0") {
                *self.faults.entry(format!("{protocol} checksum")).or_default() += 1;
            }
        }
        self.verified += u64::from(statuses.iter().any(|s| has(s, "1")) && !statuses.iter().any(|s| has(s, "0")));
        let [severities, malformed, stream, messages] = &fields[CHECKSUMS.len() + 1..] else {
            panic!("tshark printed a line of {} fields: {line}", fields.len());
        };
        if messages.is_empty() && malformed.is_empty() {
            return;
        }
        let is_error =
            severities.split(' ').filter_map(|s| s.parse::<u64>().ok()).any(|s| s & 0x00f0_0000 == SEVERITY_ERROR);
        if messages.contains(PROBE) {
            self.probed.insert((*stream).to_owned());
        }
        // tshark does not count the byte of a probe as sent, so that it misses it when it is acknowledged.
        let is_unseen = messages.contains(UNSEEN) && !self.probed.contains(*stream);
        let is_faulty = is_unseen || FAULTY_WARNINGS.iter().any(|w| messages.contains(w));
        let message = if messages.is_empty() { malformed } else { messages };
        let by_what = if is_error || is_faulty || !malformed.is_empty() { &mut self.faults } else { &mut self.notes };
        // Numbers in a message would make as many kinds as there are frames.
        let kind: String = message.chars().filter(|c| !c.is_ascii_digit()).collect();
        *by_what.entry(kind).or_default() += 1;
    }
}

fn ran(command: &mut Command) -> Output {
    let output = command.output().expect("it ran before");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let arguments: Vec<&OsStr> = command.get_args().collect();
    assert!(output.status.success(), "{arguments:?}: {}: {stderr}", output.status);
    output
}
