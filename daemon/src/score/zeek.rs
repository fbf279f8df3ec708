//! Zeek's `conn.log`: tab-separated with a header, or one JSON object a line
//! (<https://docs.zeek.org/en/current/logs/conn.html>).

use std::collections::HashMap;
use std::path::Path;

use super::{Ends, ScoreError, Seen, SeenFlow, bad_line, for_each_line};

/// Reads the connections of a file.
///
/// # Errors
/// It cannot be read, or a line is no connection.
pub fn read(path: &Path) -> Result<Seen, ScoreError> {
    let mut seen = Seen::default();
    let mut names: Vec<String> = Vec::new();
    for_each_line(path, |line, text| {
        if let Some(fields) = text.strip_prefix("#fields\t") {
            names = fields.split('\t').map(str::to_owned).collect();
        }
        if text.starts_with('#') {
            return Ok(());
        }
        let values: HashMap<String, String> = if text.starts_with('{') {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|error| bad_line(path, line, &error))?;
            let plain = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            object.into_iter().map(|(key, value)| (key, plain(value))).collect()
        } else {
            // Zeek writes - for nothing.
            let pairs = names.iter().cloned().zip(text.split('\t').map(str::to_owned));
            pairs.filter(|(_, value)| value != "-").collect()
        };
        let flow = connection(&values).ok_or_else(|| bad_line(path, line, &"no connection of Zeek's conn.log"))?;
        seen.flows.extend(flow);
        Ok(())
    })?;
    Ok(seen)
}

/// A connection; `Some(None)` for one of a protocol without flows here.
fn connection(values: &HashMap<String, String>) -> Option<Option<SeenFlow>> {
    let text = |key: &str| values.get(key).map(String::as_str);
    let number = |key: &str| text(key).and_then(|value| value.parse::<f64>().ok());
    let orig: std::net::IpAddr = text("id.orig_h")?.parse().ok()?;
    let resp = text("id.resp_h")?.parse().ok()?;
    let protocol = match (text("proto")?, orig.is_ipv4()) {
        ("tcp", _) => 6,
        ("udp", _) => 17,
        ("icmp", true) => 1,
        ("icmp", false) => 58,
        _ => return Some(None),
    };
    let port = |key: &str| text(key).and_then(|value| value.parse().ok());
    let start = number("ts")?;
    let state = match text("conn_state") {
        Some("SF" | "RSTO" | "RSTR") => Some("closed".to_owned()),
        other => other.map(str::to_owned),
    };
    Some(Some(SeenFlow {
        ends: Ends::new(protocol, (orig, port("id.orig_p")?), (resp, port("id.resp_p")?)),
        time: (start, start + number("duration").unwrap_or(0.0)),
        packets: (number("orig_pkts").unwrap_or(0.0) + number("resp_pkts").unwrap_or(0.0)) as u64,
        application: text("service").map(str::to_owned),
        state,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_log_are_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let (tsv, json) = (dir.path().join("conn.log"), dir.path().join("conn.json"));
        let header = "#separator \\x09\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_pkts\tresp_pkts\tconn_state\n";
        std::fs::write(&tsv, format!("{header}100.5\tC1\t10.0.0.1\t4000\t10.0.0.2\t80\ttcp\thttp\t1.5\t6\t4\tSF\n101\tC2\t10.0.0.1\t8\t10.0.0.2\t0\ticmp\t-\t-\t1\t1\tOTH\n")).unwrap();
        std::fs::write(&json, "{\"ts\":100.5,\"id.orig_h\":\"10.0.0.1\",\"id.orig_p\":4000,\"id.resp_h\":\"10.0.0.2\",\"id.resp_p\":80,\"proto\":\"tcp\",\"service\":\"http\",\"duration\":1.5,\"orig_pkts\":6,\"resp_pkts\":4,\"conn_state\":\"SF\"}\n{\"ts\":101,\"id.orig_h\":\"10.0.0.1\",\"id.orig_p\":8,\"id.resp_h\":\"10.0.0.2\",\"id.resp_p\":0,\"proto\":\"icmp\",\"orig_pkts\":1,\"resp_pkts\":1,\"conn_state\":\"OTH\"}\n").unwrap();
        let seen = read(&tsv).unwrap();
        assert_eq!(seen, read(&json).unwrap());
        assert_eq!(
            (seen.flows[0].packets, seen.flows[0].time, seen.flows[0].state.as_deref()),
            (10, (100.5, 102.0), Some("closed"))
        );
        std::fs::write(&tsv, format!("{header}100.5\tC1\n")).unwrap();
        assert!(read(&tsv).unwrap_err().to_string().contains("line 3"));
    }
}
