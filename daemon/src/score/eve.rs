//! Suricata's events, one JSON object a line
//! (<https://docs.suricata.io/en/latest/output/eve/eve-json-format.html>).

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::{Alert, Ends, ScoreError, Seen, SeenFlow, bad_line, for_each_line};

/// As in `2026-11-24T13:49:00.123456+0000`.
const TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond][offset_hour sign:mandatory][offset_minute]"
);

#[derive(Deserialize)]
struct Event {
    event_type: String,
    timestamp: Option<String>,
    src_ip: Option<IpAddr>,
    #[serde(default)]
    src_port: u16,
    dest_ip: Option<IpAddr>,
    #[serde(default)]
    dest_port: u16,
    proto: Option<String>,
    app_proto: Option<String>,
    flow: Option<FlowPart>,
    alert: Option<AlertPart>,
    anomaly: Option<AnomalyPart>,
    stats: Option<Value>,
}

#[derive(Deserialize)]
struct FlowPart {
    #[serde(default)]
    pkts_toserver: u64,
    #[serde(default)]
    pkts_toclient: u64,
    start: Option<String>,
    end: Option<String>,
    state: Option<String>,
}

#[derive(Deserialize)]
struct AlertPart {
    signature: String,
}

#[derive(Deserialize)]
struct AnomalyPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    event: Option<String>,
}

/// Reads the events of a file. Events of other kinds are passed over.
///
/// # Errors
/// It cannot be read, or a line is no event.
pub fn read(path: &Path) -> Result<Seen, ScoreError> {
    let mut seen = Seen::default();
    for_each_line(path, |line, text| {
        let event: Event = serde_json::from_str(text)
            .map_err(|error| bad_line(path, line, &format!("no event of Suricata's eve.json: {error}")))?;
        take(event, &mut seen).map_err(|text| bad_line(path, line, &text))
    })?;
    Ok(seen)
}

fn take(event: Event, seen: &mut Seen) -> Result<(), String> {
    match event.event_type.as_str() {
        "flow" => {
            let (Some(ends), Some(flow)) = (ends(&event), &event.flow) else { return Ok(()) };
            let start = seconds(flow.start.as_deref().or(event.timestamp.as_deref()).ok_or("a flow without a start")?)?;
            let end = flow.end.as_deref().map_or(Ok(start), seconds)?;
            seen.flows.push(SeenFlow {
                ends,
                time: (start, end),
                packets: flow.pkts_toserver + flow.pkts_toclient,
                state: flow.state.clone(),
                application: event.app_proto,
            });
        }
        "alert" => {
            let (Some(ends), Some(alert)) = (ends(&event), &event.alert) else { return Ok(()) };
            let time = seconds(event.timestamp.as_deref().ok_or("an alert without a time")?)?;
            seen.alerts.push(Alert { ends, time, signature: alert.signature.clone() });
        }
        "anomaly" => {
            let part = event.anomaly.ok_or("an anomaly without its object")?;
            let name = match (part.kind, part.event) {
                (Some(kind), Some(event)) => format!("{kind}: {event}"),
                (kind, event) => event.or(kind).unwrap_or_else(|| "unnamed".to_owned()),
            };
            *seen.anomalies.entry(name).or_default() += 1;
        }
        "stats" => {
            // Counters only grow; the last event has them all.
            seen.counters.clear();
            flatten("", &event.stats.unwrap_or_default(), seen);
        }
        _ => {}
    }
    Ok(())
}

fn flatten(prefix: &str, value: &Value, seen: &mut Seen) {
    match value {
        Value::Object(parts) => {
            for (key, part) in parts {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, part, seen);
            }
        }
        value => {
            if let Some(count) = value.as_u64() {
                seen.counters.insert(prefix.to_owned(), count);
            }
        }
    }
}

fn ends(event: &Event) -> Option<Ends> {
    let protocol = match event.proto.as_deref()? {
        "TCP" => 6,
        "UDP" => 17,
        "ICMP" => 1,
        "IPv6-ICMP" => 58,
        "SCTP" => 132,
        other => other.parse().ok()?,
    };
    Some(Ends::new(protocol, (event.src_ip?, event.src_port), (event.dest_ip?, event.dest_port)))
}

fn seconds(text: &str) -> Result<f64, String> {
    let time = OffsetDateTime::parse(text, TIME).map_err(|error| format!("{text:?} is no time: {error}"))?;
    Ok(time.unix_timestamp_nanos() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as Suricata 7 writes them, shortened.
    const EVENTS: &str = r#"
{"timestamp":"2026-11-24T10:00:05.000001+0000","flow_id":1,"event_type":"flow","src_ip":"10.0.0.1","src_port":4000,"dest_ip":"10.0.0.2","dest_port":80,"proto":"TCP","app_proto":"http","flow":{"pkts_toserver":6,"pkts_toclient":4,"bytes_toserver":600,"bytes_toclient":4000,"start":"2026-11-24T10:00:00.500000+0000","end":"2026-11-24T11:00:01.500000+0100","age":1,"state":"closed","reason":"timeout","alerted":true}}
{"timestamp":"2026-11-24T10:00:05.000001+0000","event_type":"flow","src_ip":"fe80::1","dest_ip":"ff02::2","proto":"IPv6-ICMP","icmp_type":133,"icmp_code":0,"flow":{"pkts_toserver":1,"pkts_toclient":0,"start":"2026-11-24T10:00:00.500000+0000","end":"2026-11-24T10:00:00.500000+0000","state":"new"}}
{"timestamp":"2026-11-24T10:00:00.700000+0000","event_type":"alert","src_ip":"10.0.0.1","src_port":4000,"dest_ip":"10.0.0.2","dest_port":80,"proto":"TCP","alert":{"action":"allowed","gid":1,"signature_id":2210000,"signature":"SURICATA STREAM odd"}}
{"timestamp":"2026-11-24T10:00:00.700000+0000","event_type":"anomaly","src_ip":"10.0.0.1","src_port":4000,"dest_ip":"10.0.0.2","dest_port":80,"proto":"TCP","anomaly":{"type":"stream","event":"stream.pkt_invalid_ack"}}
{"timestamp":"2026-11-24T10:00:01.000000+0000","event_type":"http","http":{"hostname":"x"}}
{"timestamp":"2026-11-24T10:00:08.000000+0000","event_type":"stats","stats":{"uptime":3,"decoder":{"pkts":5,"invalid":1}}}
{"timestamp":"2026-11-24T10:00:09.000000+0000","event_type":"stats","stats":{"uptime":4,"decoder":{"pkts":11,"invalid":0},"tcp":{"sessions":1},"app_layer":{"flow":{"http":1,"failed_tcp":0}}}}
"#;

    #[test]
    fn events_become_flows_alerts_anomalies_and_counters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eve.json");
        std::fs::write(&path, EVENTS).unwrap();
        let seen = read(&path).unwrap();
        assert_eq!((seen.flows.len(), seen.alerts.len(), seen.anomalies["stream: stream.pkt_invalid_ack"]), (2, 1, 1));
        let flow = &seen.flows[0];
        assert_eq!(
            (flow.packets, flow.application.as_deref(), flow.state.as_deref()),
            (10, Some("http"), Some("closed"))
        );
        // 2026-11-24T10:00:00Z is 1795514400; the end is the same clock an hour east.
        assert!(
            (flow.time.0 - 1_795_514_400.5).abs() < 1e-5 && (flow.time.1 - flow.time.0 - 1.0).abs() < 1e-5,
            "{flow:?}"
        );
        assert_eq!((seen.counters["decoder.invalid"], seen.counters["app_layer.flow.http"]), (0, 1));
        assert!(!seen.counters.contains_key("decoder"));
    }

    #[test]
    fn what_is_no_event_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eve.json");
        std::fs::write(&path, "{\"event_type\":\"http\"}\nnothing\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2"));
        std::fs::write(&path, EVENTS.replace("2026-11-24T10:00:00.5", "yesterday")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is no time"));
    }
}
