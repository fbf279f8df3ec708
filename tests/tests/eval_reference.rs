//! Promise: `eval` has the figures that an implementation by other hands has, `tests/peers/eval_reference.py` (NumPy and
//! SciPy, its own parser), which wrote `tests/data/eval/expected.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wiremamba_tests::program::{json, succeed};
use wiremamba_tests::traffic;

/// Sums of some thousand numbers in another order.
const TOLERANCE: f64 = 1e-7;

/// What the reference calls otherwise.
const TIMING_NAMES: [(&str, &str); 7] = [
    ("gaps_turn", "gaps_at_turns"),
    ("gaps_within", "gaps_within_direction"),
    ("packets", "packets_per_flow"),
    ("bytes", "bytes_per_flow"),
    ("autocorrelation", "gap_autocorrelation"),
    ("start_gaps", "flow_start_gaps"),
    ("signed_size", "signed_size_by_position"),
];

fn data(name: &str) -> String {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/eval"));
    folder.join(name).to_str().expect("the project's path is text").to_owned()
}

/// Compares what the reference has of two captures with what `eval` has; returns how many figures were the same.
fn compare(expected: &Value, found: &Value, path: &str) -> usize {
    let Value::Object(fields) = expected else {
        let (a, b) = (expected.as_f64(), found.as_f64());
        let is_same = a.zip(b).map_or(a.is_none() && b.is_none(), |(a, b)| (a - b).abs() < TOLERANCE);
        assert!(is_same, "{path}: {expected} by the reference, {found} by eval");
        return 1;
    };
    let name = |of: &str| TIMING_NAMES.iter().find(|(a, _)| *a == of).map_or(of, |(_, b)| *b).to_owned();
    fields.iter().map(|(key, value)| compare(value, &found[name(key)], &format!("{path}/{key}"))).sum()
}

#[test]
fn every_figure_is_that_of_the_reference() {
    let expected = std::fs::read_to_string(Path::new(&data("expected.json"))).expect("it is in the repository");
    let expected: Value = serde_json::from_str(&expected).expect("it was written as JSON");
    for synthetic in ["synthetic", "one", "no_tcp", "ipv6_only"] {
        let capture = data(&format!("{synthetic}.pcap"));
        let groups = ["--only", "similarity", "--only", "timing", "--only", "memory", "--json", "-", "-q"];
        let captures = ["eval", "--real", &data("real.pcap"), "--synthetic", &capture, "--train", &data("train.pcap")];
        let found = json(&succeed(&[&captures[..], &groups].concat()));
        let expected = &expected[format!("real-{synthetic}")];
        let same = compare(&expected["similarity"], &found["similarity"], "similarity")
            + compare(&expected["timing"], &found["timing"], "timing");
        assert!(same > 130, "{synthetic}: only {same} figures");
        assert_eq!(
            compare(&expected["memory"]["diversity_ratio"], &found["memory"]["diversity_ratio"], "diversity"),
            1
        );
        if synthetic == "synthetic" {
            memory(&expected["memory"], &found["memory"]);
        }
    }
}

/// The reference has shares where `eval` has percent.
fn memory(expected: &Value, found: &Value) {
    let names = [
        ("frames_identical", "identical_frames_pct"),
        ("ip_packets_identical", "identical_ip_packets_pct"),
        ("payloads_identical", "identical_payloads_pct"),
        ("substring_share", "payload_in_pieces_pct"),
    ];
    for (theirs, ours) in names {
        let share = found["synthetic"][ours].as_f64().map(|pct| Value::from(pct / 100.0));
        compare(&expected[theirs], &share.unwrap_or_default(), ours);
    }
    compare(&expected["neighbour_ratio"], &found["neighbour_ratio"], "neighbour_ratio");
    assert_eq!(expected["substring_longest"], found["synthetic"]["longest_piece"]);
}

/// Wrong checksums by layer, of the packets of a side: what `validity` says, and what tshark does.
fn wrong_checksums(report: &Value, side: &str, layer: &str, name: &str) -> (u64, u64) {
    let faults = &report["validity"][side]["packet_faults"];
    let ours = ["checksum", "checksum left to hardware"].map(|kind| faults[format!("{name} {kind}")].as_u64());
    let tsharks = &report["judges"]["tshark"][side]["checksums"][layer]["bad"];
    (ours.into_iter().flatten().sum(), tsharks.as_u64().expect("tshark verified checksums"))
}

#[test]
fn wrong_checksums_of_real_captures_are_those_that_tshark_finds() {
    let Some(real) = traffic::real() else { return };
    let side = |label: &str| real.join(label).to_str().expect("text").to_owned();
    let (a, b) = (side("ics_other"), side("attack"));
    let args = ["eval", "-q", "--only", "validity", "--only", "judges", "--json", "-", "--real", &a, "--synthetic", &b];
    let report = json(&succeed(&args));
    if report["judges"]["tshark"]["outcome"] != "judged" {
        eprintln!("skipped: no tshark");
        return;
    }
    // Two halves of one label's flows are more alike than two labels, and not the same.
    let floor = report["judges"]["floor"]["protocol_paths"].as_f64().unwrap();
    let overlap = report["judges"]["tshark"]["protocol_path_overlap"].as_f64().unwrap();
    assert!(overlap + 0.2 < floor && floor < 1.0, "{overlap} {floor}");
    let mut wrong = 0;
    for side in ["real", "synthetic"] {
        for (layer, name) in [("ip", "IPv4"), ("tcp", "TCP"), ("udp", "UDP")] {
            let (ours, tsharks) = wrong_checksums(&report, side, layer, name);
            assert_eq!(ours, tsharks, "{layer} of {side}");
            wrong += ours;
        }
    }
    assert!(wrong > 0, "captures with nothing wrong would show nothing");
}
