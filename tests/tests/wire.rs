//! Promise: the `wire` codec gives every packet back, is short, and what is sampled under its grammar is valid.

use std::path::Path;

use wiremamba_daemon::judge::{JudgeLimits, Outcome, suricata};
use wiremamba_tests::judges;
use wiremamba_tests::program::{fail, json, succeed, train_tiny};
use wiremamba_tests::{tcp, traffic};

/// Packets of the real captures, as their readme counts them.
const REAL_PACKETS: u64 = 387_884;

#[test]
fn every_packet_of_every_real_capture_comes_back() {
    let Some(real) = traffic::real() else { return };
    let report = json(&succeed(&["inspect", "--round-trip", real.to_str().unwrap(), "--json", "--quiet"]));
    assert_eq!(report["packets"], REAL_PACKETS);
    assert_eq!(report["exact"], REAL_PACKETS, "{}", report["mismatches"]);
    assert!(report["escaped"].as_u64().unwrap() < 10_000, "{}", report["escaped"]);
}

#[test]
fn packets_are_short() {
    let Some(real) = traffic::real() else { return };
    let report = json(&succeed(&["inspect", real.to_str().unwrap(), "--json", "--quiet"]));
    let labels = report["labels"].as_array().unwrap();
    let sum = |key: &str| labels.iter().map(|l| l[key].as_u64().unwrap()).sum::<u64>() as f64;
    assert!(sum("tokens") / sum("packets") <= 24.0);
    assert!(sum("tokens_of_empty_segments") / sum("empty_segments") <= 12.0);
    // Whole connections, unlike scans, whose every segment is a SYN with its options.
    for name in ["ssh", "modbus", "http", "ftp", "smb", "mqtt_coap", "web", "iot_device"] {
        let label = labels.iter().find(|l| l["label"] == name).unwrap();
        let of = |key: &str| label[key].as_u64().unwrap() as f64;
        assert!(of("tokens_of_empty_segments") / of("empty_segments") <= 12.0, "{label}");
    }
}

#[test]
fn made_captures_come_back_and_the_report_has_the_promised_fields() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 5);
    let report = json(&succeed(&["inspect", "--round-trip", dir.path().to_str().unwrap(), "--json"]));
    assert_eq!((&report["packets"], &report["exact"], &report["escaped"]), (&80.into(), &80.into(), &0.into()));
    assert!(report["tokens"].as_u64().unwrap() > 80);
}

#[test]
fn tshark_finds_no_fault_in_what_a_barely_trained_model_sends_under_the_mask() {
    let dir = tempfile::tempdir().unwrap();
    let (capture, model) = (dir.path().join("capture"), dir.path().join("model"));
    traffic::write_two_labels(&capture, 40);
    train_tiny(&capture, &model, 30);
    let out = dir.path().join("out.pcap");
    let generate = |more: &[&str]| {
        let model = model.to_str().unwrap();
        let args = ["generate", "--model", model, "--packets", "20000", "--seed", "3", "-q", "--json", "-w"];
        json(&succeed(&[&args[..], &[out.to_str().unwrap()], more].concat()))
    };
    let summary = generate(&["--flow-tokens-max", "2000"]);
    assert_eq!((&summary["packets"], &summary["malformed_packets"]), (&20_000.into(), &0.into()));
    check(&out, 20_000);
    // The same with hosts of the user's own, behind a VLAN, drawn by weight.
    let more = ["--client-net", "192.0.2.0/24", "--vlan", "7", "--mtu", "900", "--mix", "web=3,dns=1"];
    assert_eq!(generate(&[&more[..], &["--flow-tokens-max", "2000"]].concat())["malformed_packets"], 0);
    let packets = traffic::read(&out);
    check(&out, 20_000);
    assert!(packets.iter().all(|p| p.data[12..16] == [0x81, 0, 0, 7] && p.data.len() <= 918));
}

#[test]
fn a_session_prompts_with_the_interleaved_flows_of_one_client() {
    let dir = tempfile::tempdir().unwrap();
    let (capture, model, out) = (dir.path().join("capture"), dir.path().join("model"), dir.path().join("out.pcap"));
    traffic::write_two_labels(&capture, 1);
    // The two flows of the one client, packet by packet.
    let [web, dns] = ["web", "dns"].map(|label| traffic::read(&capture.join(format!("{label}/{label}.pcap"))));
    let mixed: Vec<_> = web.into_iter().zip(dns).flat_map(|(web, dns)| [web, dns]).collect();
    std::fs::remove_dir_all(&capture).unwrap();
    std::fs::create_dir_all(capture.join("lab")).unwrap();
    let path = capture.join("lab/mixed.pcap");
    traffic::write(&path, mixed);
    train_tiny(&capture, &model, 2);

    let (model, path) = (model.to_str().unwrap(), path.to_str().unwrap());
    let prompt = ["--prompt", path, "--prompt-packets", "16", "--prompt-sample", "session"];
    let args = ["generate", "--model", model, "--flows", "1", "--flow-packets-max", "16", "-q", "-w"];
    succeed(&[&args[..], &[out.to_str().unwrap()], &prompt].concat());
    let packets = traffic::read(&out);
    let protocols: Vec<u8> = packets.iter().map(|p| p.data[23]).collect();
    assert_eq!(protocols, [6, 17].repeat(8));
    let client = &packets[0].data[26..30];
    assert!(packets.iter().all(|p| &p.data[26..30] == client || &p.data[30..34] == client));

    let sessions = ["train", "--data", path, "--out", "/nonexistent/out", "--sample", "session", "--codec", "bytes"];
    assert!(fail(2, &sessions).contains("--sample"));
}

fn check(capture: &Path, frames: u64) {
    let contradictions = tcp::contradictions(&traffic::read(capture));
    assert!(
        contradictions.is_empty(),
        "{}: {:#?}",
        contradictions.len(),
        &contradictions[..contradictions.len().min(5)]
    );
    match suricata(capture, &JudgeLimits::default()) {
        Outcome::Judged(report) => assert_eq!(report.synthetic.invalid_per_1000, 0.0, "{report:?}"),
        Outcome::Absent { hint, .. } => eprintln!("skipped: no Suricata to judge ({hint})"),
        Outcome::Failed { reason } => panic!("Suricata gives no judgement: {reason}"),
    }
    let Some(report) = judges::tshark(capture) else { return };
    assert_eq!(report.frames, frames);
    assert!(report.verified * 10 > frames * 9, "{report:?}");
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}

/// `WIREMAMBA_JUDGED=FILE cargo test --release -p wiremamba-tests --test wire -- --ignored --nocapture`
#[test]
#[ignore = "judges a capture of any size that somebody generated"]
fn the_judges_find_nothing_in_a_capture_given() {
    let path = std::env::var("WIREMAMBA_JUDGED").expect("WIREMAMBA_JUDGED names a generated capture");
    check(Path::new(&path), traffic::read(Path::new(&path)).len() as u64);
    eprintln!("{:#?}", judges::tshark(Path::new(&path)));
}

#[test]
fn the_judges_find_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 2);
    let (web, bad) = (dir.path().join("web/web.pcap"), dir.path().join("bad.pcap"));
    check(&web, 16);
    // A payload byte is not what its checksum says, and a header is longer than its packet.
    let mut packets = traffic::read(&web);
    *packets[3].data.last_mut().unwrap() ^= 1;
    packets[5].data[14] = 0x4f;
    traffic::write(&bad, packets.clone());
    let Some(report) = judges::tshark(&bad) else { return };
    assert_eq!((report.frames, report.faults.get("tcp checksum")), (16, Some(&1)), "{report:?}");
    assert!(report.faults.len() > 1, "{report:?}");

    // A sequence number out of the blue.
    assert!(tcp::contradictions(&packets).is_empty());
    packets[9].data[38..42].copy_from_slice(&[0x70; 4]);
    assert!(!tcp::contradictions(&packets).is_empty());
}
