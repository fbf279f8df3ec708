//! Suricata: what a detection engine without rules finds odd in packets, streams and application protocols.
//!
//! As `eve.json` of Suricata 7 has it (user guide, "Eve JSON Format", the types stats, flow and anomaly). Decoder and stream
//! events are taken from the counters of the last `stats`, application layer events from `anomaly`, protocols of flows from
//! `flow`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::counts::{Counts, Table, per_1000};
use super::program::{Known, RunError, Runner, each_line};
use super::{Asked, Judge};

/// Rows of the tables in a report.
const ROWS_MAX: usize = 30;
/// What a flow is called whose protocol is not told; Suricata itself says `failed` where it looked and found none.
const UNTOLD: &str = "-";
/// Application protocols that are looked for, some of which are off where a configuration is silent. Versions that do
/// not know one pass over it.
const APP_PROTOCOLS: [&str; 26] = [
    "bittorrent-dht",
    "dcerpc",
    "dhcp",
    "dnp3",
    "enip",
    "ftp",
    "http",
    "http2",
    "ike",
    "imap",
    "krb5",
    "ldap",
    "modbus",
    "mqtt",
    "nfs",
    "ntp",
    "pgsql",
    "quic",
    "rdp",
    "rfb",
    "sip",
    "smb",
    "smtp",
    "snmp",
    "ssh",
    "tls",
];

/// What Suricata says of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuricataReport {
    /// Which program it was, and what it failed on.
    pub asked: Asked,
    /// The real captures.
    pub real: SuricataSide,
    /// The synthetic captures.
    pub synthetic: SuricataSide,
    /// Overlap of the application protocols per flow: the sum of min(p, q). `None` where a side is empty.
    pub app_proto_overlap: Option<f64>,
}

/// What Suricata says of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuricataSide {
    /// Packets that it decoded.
    pub packets: u64,
    /// Packets that it could not decode, per 1,000 packets.
    pub invalid_per_1000: f64,
    /// Decoder events (`ipv4.opt_pad_required`), per 1,000 packets.
    pub decode_events: Table,
    /// Stream engine events (`3whs_ack_in_wrong_dir`), per 1,000 packets.
    pub stream_events: Table,
    /// Application layer events, as protocol and event, per 1,000 packets.
    pub app_layer_events: Table,
    /// Flows in which a protocol was detected, by its counters (`http`, `dns_udp`, `failed_tcp`), per 1,000 flows.
    pub app_layer_flows: Table,
    /// Flows that it saw.
    pub flows: u64,
    /// Application protocol of each flow (`-` where none was looked for), per 1,000 flows.
    pub app_protos: Table,
}

/// What Suricata said so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    packets: u64,
    invalid: u64,
    decode_events: Counts,
    stream_events: Counts,
    app_layer_events: Counts,
    app_layer_flows: Counts,
    app_protos: Counts,
}

pub(super) struct Suricata;

impl Judge for Suricata {
    const KNOWN: Known = Known {
        program: "suricata",
        package: "suricata",
        hint: "in the backports of Debian 12, and in later releases",
        version_option: "-V",
    };
    type Seen = Seen;
    type Report = SuricataReport;

    fn look(runner: &Runner, capture: &Path, folder: &Path, seen: &mut Seen) -> Result<(), RunError> {
        let configuration = folder.join("suricata.yaml");
        std::fs::write(&configuration, configuration_text())?;
        std::fs::write(folder.join("empty"), "")?;
        let mut command = runner.command(folder);
        command.arg("-c").arg(&configuration).arg("-r").arg(capture).arg("-l").arg(folder);
        // No rules; and no checksums, which are tshark's business and would only hide flows here.
        command.args(["-S", "/dev/null", "-k", "none", "--runmode", "single"]);
        runner.run(&mut command, |_| ())?;
        let mut last_stats = None;
        each_line(&folder.join("eve.json"), |line| seen.add(line, &mut last_stats))?;
        // Without its counters every rate would be 0, as if all were well.
        let stats = last_stats.ok_or_else(|| std::io::Error::other("there is no stats event in eve.json"))?;
        seen.add_stats(&stats);
        Ok(())
    }

    fn report(asked: Asked, real: &Seen, synthetic: &Seen) -> SuricataReport {
        SuricataReport {
            asked,
            real: real.side(),
            synthetic: synthetic.side(),
            app_proto_overlap: real.app_protos.overlap(&synthetic.app_protos),
        }
    }
}

/// A whole configuration, so that none of the machine's has a say. Paths are relative to the folder it runs in.
fn configuration_text() -> String {
    let mut text = "\
%YAML 1.1
---
classification-file: empty
reference-config-file: empty
threshold-file: empty
unix-command:
  enabled: no
stats:
  enabled: yes
  interval: 8
  decoder-events: true
  decoder-events-prefix: decoder.event
  stream-events: true
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - stats:
            totals: yes
            threads: no
            deltas: no
        - flow
        - anomaly:
            enabled: yes
            types:
              decode: no
              stream: no
              applayer: yes
app-layer:
  protocols:
    dns:
      tcp:
        enabled: yes
      udp:
        enabled: yes
"
    .to_owned();
    for protocol in APP_PROTOCOLS {
        text += &format!("    {protocol}:\n      enabled: yes\n");
    }
    text
}

impl Seen {
    /// Adds one line of `eve.json`, and keeps the last counters: they go on from line to line.
    fn add(&mut self, line: &str, last_stats: &mut Option<Value>) {
        let Ok(mut event) = serde_json::from_str::<Value>(line) else { return };
        match event["event_type"].as_str() {
            Some("stats") => *last_stats = Some(event["stats"].take()),
            Some("flow") => self.app_protos.add(event["app_proto"].as_str().unwrap_or(UNTOLD), 1),
            Some("anomaly") if event["anomaly"]["type"] == "applayer" => {
                let protocol = event["app_proto"].as_str().or(event["anomaly"]["app_proto"].as_str());
                let name = event["anomaly"]["event"].as_str().unwrap_or(UNTOLD);
                self.app_layer_events.add(&format!("{}.{name}", protocol.unwrap_or(UNTOLD)), 1);
            }
            _ => {}
        }
    }

    /// Adds the counters of one run.
    fn add_stats(&mut self, stats: &Value) {
        let decoder = &stats["decoder"];
        self.packets += decoder["pkts"].as_u64().unwrap_or_default();
        self.invalid += decoder["invalid"].as_u64().unwrap_or_default();
        add_counters(&mut self.decode_events, "", &decoder["event"]);
        add_counters(&mut self.stream_events, "", &stats["stream"]);
        add_counters(&mut self.app_layer_flows, "", &stats["app_layer"]["flow"]);
    }

    fn side(&self) -> SuricataSide {
        let (packets, flows) = (self.packets, self.app_protos.total());
        SuricataSide {
            packets,
            invalid_per_1000: per_1000(self.invalid, packets),
            decode_events: self.decode_events.table(ROWS_MAX, packets),
            stream_events: self.stream_events.table(ROWS_MAX, packets),
            app_layer_events: self.app_layer_events.table(ROWS_MAX, packets),
            app_layer_flows: self.app_layer_flows.table(ROWS_MAX, flows),
            flows,
            app_protos: self.app_protos.table(ROWS_MAX, flows),
        }
    }
}

/// Adds all counters below `value` that are not zero, under their names joined by dots.
fn add_counters(counts: &mut Counts, name: &str, value: &Value) {
    if let Some(members) = value.as_object() {
        for (member, value) in members {
            let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
            add_counters(counts, &name, value);
        }
    } else if let Some(count) = value.as_u64().filter(|&count| count > 0) {
        counts.add(name, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, in the form of the user guide.
    const EVE: [&str; 7] = [
        r#"{"timestamp":"2024-01-01T00:00:00.000000+0000","event_type":"stats","stats":{"uptime":8,"decoder":{"pkts":900,"invalid":1,"event":{"ipv4":{"pkt_too_small":7}}}}}"#,
        r#"{"timestamp":"2024-01-01T00:00:01.000000+0000","flow_id":1,"event_type":"flow","src_ip":"192.0.2.1","src_port":4000,"dest_ip":"192.0.2.2","dest_port":80,"proto":"TCP","app_proto":"http","flow":{"pkts_toserver":5,"pkts_toclient":5,"state":"closed","reason":"shutdown","alerted":false}}"#,
        r#"{"timestamp":"2024-01-01T00:00:01.000000+0000","flow_id":2,"event_type":"flow","proto":"UDP","app_proto":"failed","flow":{}}"#,
        r#"{"timestamp":"2024-01-01T00:00:01.000000+0000","flow_id":3,"event_type":"flow","proto":"ICMP","flow":{}}"#,
        r#"{"timestamp":"2024-01-01T00:00:01.000000+0000","flow_id":1,"event_type":"anomaly","proto":"TCP","tx_id":0,"app_proto":"http","anomaly":{"type":"applayer","event":"UNABLE_TO_MATCH_RESPONSE_TO_REQUEST","layer":"proto_parser"}}"#,
        r#"{"timestamp":"2024-01-01T00:00:01.000000+0000","pcap_cnt":9,"event_type":"anomaly","anomaly":{"type":"stream","event":"stream.pkt_invalid_ack"}}"#,
        r#"{"timestamp":"2024-01-01T00:00:02.000000+0000","event_type":"stats","stats":{"uptime":9,"decoder":{"pkts":1000,"bytes":64000,"invalid":2,"event":{"ipv4":{"pkt_too_small":8,"hlen_too_small":0},"tcp":{"opt_invalid_len":2}}},"stream":{"3whs_ack_in_wrong_dir":3,"pkt_invalid_ack":0},"app_layer":{"flow":{"http":1,"dns_udp":0,"failed_udp":1}}}}"#,
    ];

    #[test]
    fn the_last_counters_hold_and_flows_and_anomalies_are_counted() {
        let (mut seen, mut last_stats) = (Seen::default(), None);
        for line in EVE.into_iter().chain(["{\"event_type\":", "", "[]"]) {
            seen.add(line, &mut last_stats);
        }
        seen.add_stats(&last_stats.unwrap());
        let side = seen.side();
        let rows = |table: &Table| table.top.iter().map(|row| (row.what.clone(), row.count)).collect::<Vec<_>>();
        let expected = |rows: &[(&str, u64)]| rows.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!((side.packets, side.flows, side.invalid_per_1000), (1000, 3, 2.0));
        assert_eq!(rows(&side.decode_events), expected(&[("ipv4.pkt_too_small", 8), ("tcp.opt_invalid_len", 2)]));
        assert_eq!(side.decode_events.per_1000, 10.0);
        assert_eq!(rows(&side.stream_events), expected(&[("3whs_ack_in_wrong_dir", 3)]));
        assert_eq!(rows(&side.app_layer_events), expected(&[("http.UNABLE_TO_MATCH_RESPONSE_TO_REQUEST", 1)]));
        assert_eq!(rows(&side.app_layer_flows), expected(&[("failed_udp", 1), ("http", 1)]));
        assert_eq!(rows(&side.app_protos), expected(&[("-", 1), ("failed", 1), ("http", 1)]));
    }

    #[test]
    fn counters_of_several_captures_add_up() {
        let mut seen = Seen::default();
        let stats = serde_json::json!({"decoder": {"pkts": 3, "event": {"udp": {"hlen_invalid": 2}}}});
        seen.add_stats(&stats);
        seen.add_stats(&stats);
        assert_eq!((seen.packets, seen.decode_events.count("udp.hlen_invalid")), (6, 4));
    }
}
