//! The ground truth of a replay against what an intrusion detection system saw of it: which flows it saw, missed or took for
//! something else, and which alerts have no cause.
//!
//! [`eve`] reads Suricata's events, [`zeek`] Zeek's connections. Each flow of the truth is either seen or missed; each flow of
//! the system either belongs to one of the truth or is told of as unknown.

pub mod eve;
pub mod zeek;

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::net::IpAddr;

use serde::Serialize;

use crate::replay::TruthFlow;

/// Seconds by which the clocks and the ends of flows may differ: sending and capturing are apart by milliseconds; the rest is
/// for systems that stamp a flow when they look at it.
const SLACK_S: f64 = 2.0;

/// Why something cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{path}, line {line}: {text}")]
    Line {
        /// The file.
        path: String,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        text: String,
    },
    /// Nothing was sent, so nothing can be seen.
    #[error("{0} has no flows")]
    Empty(String),
}

/// A flow as the system saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenFlow {
    /// Protocol number and both ends.
    pub ends: Ends,
    /// First and last time, in seconds since 1970.
    pub time: (f64, f64),
    /// Packets, both ways.
    pub packets: u64,
    /// What it took it for, such as `http`.
    pub application: Option<String>,
    /// How it says that it ended, such as `closed`.
    pub state: Option<String>,
}

/// An alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Protocol number and both ends.
    pub ends: Ends,
    /// When, in seconds since 1970.
    pub time: f64,
    /// What it says.
    pub signature: String,
}

/// Everything that a system told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// Flows.
    pub flows: Vec<SeenFlow>,
    /// Alerts.
    pub alerts: Vec<Alert>,
    /// Anomalies by their names.
    pub anomalies: BTreeMap<String, u64>,
    /// Its last counters, by the names of `stats` events with dots between.
    pub counters: BTreeMap<String, u64>,
}

/// Protocol and both ends of a flow, the same from either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    protocol: u8,
    low: (IpAddr, u16),
    high: (IpAddr, u16),
}

impl Ends {
    /// The ends of a flow; ICMP has no ports.
    pub fn new(protocol: u8, a: (IpAddr, u16), b: (IpAddr, u16)) -> Self {
        let [a, b] = [a, b].map(|(ip, port)| (ip, if matches!(protocol, 1 | 58) { 0 } else { port }));
        Self { protocol, low: a.min(b), high: a.max(b) }
    }
}

/// How flows of one label fared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LabelScore {
    /// Flows sent.
    pub flows: u64,
    /// Of these, seen.
    pub seen: u64,
    /// Of these, not seen.
    pub missed: u64,
    /// Of those seen, how many the system took for something else than was expected.
    pub mislabelled: u64,
    /// What it took them for.
    pub applications: BTreeMap<String, u64>,
    /// Alerts on them, by signature.
    pub alerts: BTreeMap<String, u64>,
}

/// How flows of one protocol fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ProtocolScore {
    /// Flows sent.
    pub flows: u64,
    /// Of these, not seen.
    pub missed: u64,
    /// Of those seen, how many with fewer packets than were sent.
    pub short: u64,
}

/// How a system did.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Score {
    /// Flows sent.
    pub flows: u64,
    /// Of these, seen.
    pub seen: u64,
    /// Of these, not seen.
    pub missed: u64,
    /// Of those seen, how many were taken for several flows.
    pub split: u64,
    /// Of those seen, how many with fewer packets than were sent.
    pub short: u64,
    /// Of those seen, taken for something else than was expected.
    pub mislabelled: u64,
    /// Flows that the system saw and nobody sent.
    pub unknown: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets of flows that were sent and seen, as the system counted them.
    pub packets_seen: u64,
    /// TCP flows sent that were closed, as a share of all; `null` without TCP.
    pub tcp_closed_sent: Option<f64>,
    /// TCP flows that the system saw closed, as a share of those that it saw.
    pub tcp_closed_seen: Option<f64>,
    /// Alerts on flows that were sent.
    pub alerts: u64,
    /// Alerts on nothing that was sent, by signature.
    pub alerts_without_cause: BTreeMap<String, u64>,
    /// Anomalies for 1,000 packets sent.
    pub anomalies_per_1000: f64,
    /// Anomalies by their names.
    pub anomalies: BTreeMap<String, u64>,
    /// Packets that it could not decode (`decoder.invalid`), where it tells.
    pub decoder_invalid: Option<u64>,
    /// TCP packets with a wrong checksum (`tcp.invalid_checksum`), where it tells.
    pub invalid_checksum: Option<u64>,
    /// TCP sessions, SYN and SYN-ACK that it counted (`tcp.sessions`, `tcp.syn`, `tcp.synack`), where it tells.
    pub tcp_sessions: Option<[u64; 3]>,
    /// TCP flows whose application it could not tell (`app_layer.flow.failed_tcp`), where it tells.
    pub failed_tcp: Option<u64>,
    /// By protocol: `tcp`, `udp`, `icmp` or its number.
    pub protocols: BTreeMap<String, ProtocolScore>,
    /// By label; flows without one under an empty name.
    pub labels: BTreeMap<String, LabelScore>,
}

/// Reads the ground truth.
///
/// # Errors
/// It cannot be read, is none, or has no flows.
pub fn read_truth(path: &std::path::Path) -> Result<Vec<TruthFlow>, ScoreError> {
    let mut flows = Vec::new();
    for_each_line(path, |line, text| {
        let flow = serde_json::from_str(text).map_err(|error| {
            bad_line(path, line, &format!("no flow of a ground truth, which `replay --ground-truth` writes: {error}"))
        })?;
        flows.push(flow);
        Ok(())
    })?;
    if flows.is_empty() {
        return Err(ScoreError::Empty(path.display().to_string()));
    }
    Ok(flows)
}

fn bad_line(path: &std::path::Path, line: usize, text: &impl std::fmt::Display) -> ScoreError {
    ScoreError::Line { path: path.display().to_string(), line, text: text.to_string() }
}

/// Calls `each` with the number and the text of every line that is not empty.
fn for_each_line(
    path: &std::path::Path,
    mut each: impl FnMut(usize, &str) -> Result<(), ScoreError>,
) -> Result<(), ScoreError> {
    let failed = |source| ScoreError::Read { path: path.display().to_string(), source };
    let mut file = std::io::BufReader::new(std::fs::File::open(path).map_err(failed)?);
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        if file.read_line(&mut text).map_err(failed)? == 0 {
            break;
        }
        if !text.trim().is_empty() {
            each(line, text.trim_end_matches(['\n', '\r']))?;
        }
    }
    Ok(())
}

/// Holds what was `seen` against the `truth`. `expected` says what flows of a label should be taken for; a label that is itself
/// such a name (`dns`) needs no saying.
pub fn score(truth: &[TruthFlow], seen: &Seen, expected: &HashMap<String, String>) -> Score {
    let places = Places::new(truth);
    let mut score = Score { flows: truth.len() as u64, ..Score::default() };
    let mut found: Vec<Vec<&SeenFlow>> = vec![Vec::new(); truth.len()];
    for flow in &seen.flows {
        match places.find(flow.ends, flow.time) {
            Some(place) => found[place].push(flow),
            None => score.unknown += 1,
        }
    }
    let known: std::collections::HashSet<&str> =
        seen.flows.iter().filter_map(|flow| flow.application.as_deref()).collect();
    for (flow, found) in truth.iter().zip(&found) {
        let packets = flow.pkts_toserver + flow.pkts_toclient;
        let name = flow.label.clone().unwrap_or_default();
        let expected = expected.get(&name).cloned().or_else(|| known.contains(name.as_str()).then(|| name.clone()));
        let label = score.labels.entry(name).or_default();
        let protocol = score.protocols.entry(protocol_name(flow.protocol)).or_default();
        protocol.flows += 1;
        label.flows += 1;
        score.packets += packets;
        if found.is_empty() {
            label.missed += 1;
            protocol.missed += 1;
            score.missed += 1;
            continue;
        }
        label.seen += 1;
        score.seen += 1;
        score.split += u64::from(found.len() > 1);
        let packets_seen: u64 = found.iter().map(|flow| flow.packets).sum();
        score.packets_seen += packets_seen;
        score.short += u64::from(packets_seen < packets);
        protocol.short += u64::from(packets_seen < packets);
        let application =
            found.iter().find_map(|flow| flow.application.clone()).unwrap_or_else(|| "unknown".to_owned());
        let is_wrong = expected.is_some_and(|expected| expected != application);
        label.mislabelled += u64::from(is_wrong);
        score.mislabelled += u64::from(is_wrong);
        *label.applications.entry(application).or_default() += 1;
    }
    for alert in &seen.alerts {
        match places.find(alert.ends, (alert.time, alert.time)) {
            Some(place) => {
                score.alerts += 1;
                let label = score.labels.entry(truth[place].label.clone().unwrap_or_default()).or_default();
                *label.alerts.entry(alert.signature.clone()).or_default() += 1;
            }
            None => *score.alerts_without_cause.entry(alert.signature.clone()).or_default() += 1,
        }
    }
    score.tcp_closed_sent = share(
        truth.iter().filter(|flow| flow.protocol == 6).map(|flow| flow.state == crate::replay::TruthState::Closed),
    );
    let closed = |flow: &SeenFlow| flow.state.as_deref() == Some("closed");
    score.tcp_closed_seen =
        share(found.iter().flatten().filter(|flow| flow.ends.protocol == 6).map(|flow| closed(flow)));
    score.anomalies.clone_from(&seen.anomalies);
    score.anomalies_per_1000 = seen.anomalies.values().sum::<u64>() as f64 * 1000.0 / score.packets.max(1) as f64;
    let counter = |name: &str| seen.counters.get(name).copied();
    score.decoder_invalid = counter("decoder.invalid");
    score.invalid_checksum = counter("tcp.invalid_checksum");
    let three = ["tcp.sessions", "tcp.syn", "tcp.synack"].map(counter);
    score.tcp_sessions =
        if let [Some(sessions), Some(syn), Some(syn_ack)] = three { Some([sessions, syn, syn_ack]) } else { None };
    score.failed_tcp = counter("app_layer.flow.failed_tcp");
    score
}

/// The name of an IP protocol; ICMP of IPv6 has another number and the same name.
fn protocol_name(number: u8) -> String {
    match number {
        1 | 58 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        number => number.to_string(),
    }
}

fn share(those: impl Iterator<Item = bool>) -> Option<f64> {
    let (mut all, mut yes) = (0_u64, 0_u64);
    for is in those {
        all += 1;
        yes += u64::from(is);
    }
    (all > 0).then(|| yes as f64 / all as f64)
}

/// Where in the truth the flows of two ends are.
struct Places<'a> {
    truth: &'a [TruthFlow],
    by_ends: HashMap<Ends, Vec<usize>>,
}

impl<'a> Places<'a> {
    fn new(truth: &'a [TruthFlow]) -> Self {
        let mut by_ends: HashMap<Ends, Vec<usize>> = HashMap::new();
        for (place, flow) in truth.iter().enumerate() {
            let ends = Ends::new(flow.protocol, (flow.src_ip, flow.src_port), (flow.dest_ip, flow.dest_port));
            by_ends.entry(ends).or_default().push(place);
        }
        Self { truth, by_ends }
    }

    /// The flow of these ends that overlaps `time` most, or is nearest within the slack.
    fn find(&self, ends: Ends, time: (f64, f64)) -> Option<usize> {
        let distance = |place: &usize| {
            let flow = &self.truth[*place];
            // Below zero where they overlap, by how much.
            (time.0 - flow.end).max(flow.start - time.1)
        };
        let places = self.by_ends.get(&ends)?.iter().copied();
        let nearest = places.min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        (distance(&nearest) <= SLACK_S).then_some(nearest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::TruthState;

    fn truth(label: &str, port: u16, start: f64) -> TruthFlow {
        TruthFlow {
            src_ip: "10.0.0.1".parse().unwrap(),
            src_port: port,
            dest_ip: "10.0.0.2".parse().unwrap(),
            dest_port: 80,
            protocol: 6,
            vlan: Vec::new(),
            label: Some(label.to_owned()),
            session: None,
            start,
            end: start + 1.0,
            pkts_toserver: 5,
            pkts_toclient: 5,
            bytes_toserver: 500,
            bytes_toclient: 500,
            state: TruthState::Closed,
        }
    }

    fn seen(port: u16, start: f64, application: &str) -> SeenFlow {
        let (a, b) = (("10.0.0.2".parse().unwrap(), 80), ("10.0.0.1".parse().unwrap(), port));
        SeenFlow {
            ends: Ends::new(6, a, b),
            time: (start, start + 1.0),
            packets: 10,
            application: Some(application.to_owned()),
            state: Some("closed".to_owned()),
        }
    }

    #[test]
    fn every_flow_is_seen_or_missed_and_every_other_one_unknown() {
        // The second of port 1000 comes a minute later; that of port 1002 is missed.
        let sent = [
            truth("web", 1000, 100.0),
            truth("web", 1000, 160.0),
            truth("web", 1001, 100.0),
            truth("web", 1002, 100.0),
        ];
        let alert = |port, time| Alert { ends: seen(port, 0.0, "").ends, time, signature: "odd".to_owned() };
        let system = Seen {
            flows: vec![
                seen(1000, 100.1, "http"),
                seen(1000, 160.1, "tls"),
                SeenFlow { packets: 4, ..seen(1001, 100.0, "http") },
                SeenFlow { packets: 4, ..seen(1001, 100.5, "http") },
                seen(1000, 300.0, "http"),
                seen(4, 100.0, "http"),
            ],
            alerts: vec![alert(1001, 100.5), alert(1001, 500.0)],
            anomalies: BTreeMap::from([("stream.pkt_invalid_ack".to_owned(), 2)]),
            counters: BTreeMap::from([("decoder.invalid".to_owned(), 0)]),
        };
        let score = score(&sent, &system, &HashMap::from([("web".to_owned(), "http".to_owned())]));
        assert_eq!((score.flows, score.seen, score.missed, score.unknown), (4, 3, 1, 2));
        assert_eq!((score.split, score.short, score.mislabelled), (1, 1, 1));
        assert_eq!((score.alerts, score.alerts_without_cause["odd"]), (1, 1));
        assert_eq!((score.packets, score.packets_seen, score.anomalies_per_1000), (40, 28, 50.0));
        assert_eq!(
            (score.tcp_closed_sent, score.tcp_closed_seen, score.decoder_invalid),
            (Some(1.0), Some(1.0), Some(0))
        );
        assert_eq!(score.protocols["tcp"], ProtocolScore { flows: 4, missed: 1, short: 1 });
        let web = &score.labels["web"];
        assert_eq!((web.seen, web.missed, web.applications["http"], web.applications["tls"]), (3, 1, 2, 1));
    }

    #[test]
    fn a_label_that_is_the_name_of_an_application_is_expected_to_be_it() {
        let system = Seen { flows: vec![seen(1000, 100.0, "http"), seen(1001, 100.0, "tls")], ..Seen::default() };
        let sent = [truth("http", 1000, 100.0), truth("http", 1001, 100.0)];
        assert_eq!(score(&sent, &system, &HashMap::new()).mislabelled, 1);
        // Nobody knows what "zoom" should be taken for.
        let sent = [truth("zoom", 1000, 100.0)];
        assert_eq!(score(&sent, &system, &HashMap::new()).mislabelled, 0);
    }
}
