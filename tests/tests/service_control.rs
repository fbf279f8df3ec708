//! Promise: a running service does what it is told over its socket, by signals and in its configuration, and tells what it does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::sys::signal::Signal;
use serde_json::Value;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::netns::Namespace;
use wiremamba_tests::program::{fail, json, run, succeed, train_tiny};
use wiremamba_tests::service::{Service, TAP, configure, namespace, replay};
use wiremamba_tests::traffic;

/// Where it replays.
const OUT: &str = "wm-out0";

/// `wiremamba ctl` with the socket of the service in `dir`.
fn ctl(dir: &Path, args: &[&str]) -> Value {
    let socket = dir.join("control.sock");
    json(&succeed(&[&["ctl", "--json", "--socket", socket.to_str().unwrap()], args].concat()))
}

/// Packets that arrived on an interface, as the kernel counts them.
fn arrived(namespace: &Namespace, interface: &str) -> u64 {
    let output = namespace.command("ip").args(["-s", "-j", "link", "show", "dev", interface]).output().unwrap();
    json(&output.stdout)[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

fn edit(config: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(config, text.replace(from, to)).unwrap();
}

#[test]
fn the_replay_follows_promotions_without_a_gap_and_obeys() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let metrics = dir.join("metrics.sock");
    let config = configure(
        dir,
        &format!(
            "[replay]\ntap = '{OUT}'\nflows_per_second = 20\nmix = {{ web = 2, dns = 1 }}\nflow_packets_max = 20\n\
             [metrics]\nsocket = '{}'\n",
            metrics.display()
        ),
    );
    let mut service = Service::start(&namespace, &config);
    let sent = |status: &Value| status["replay"]["sent"].as_u64().unwrap();
    let begun = service.until("it sends", |s| sent(s) > 20);
    let first = begun["replay"]["model"].as_str().unwrap().to_owned();
    // Two rounds; while they are promoted it never stands still.
    for rounds in 1..3 {
        replay(&namespace, &dir.join("captures/web/web.pcap"), 1);
        service.until("a round is promoted", |s| s["promoted"].as_u64().unwrap() >= rounds);
    }
    let now = service.until("new flows come from it", |s| s["replay"]["model"] == s["model"]);
    assert_ne!(now["replay"]["model"], first.as_str(), "{now}");
    assert!(sent(&now) > sent(&begun) && now["replay"]["failed"] == 0 && now["replay"]["refused"] == 0, "{now}");
    assert!(arrived(&namespace, OUT) >= sent(&now));

    assert_eq!(ctl(dir, &["replay", "stop"])["replay"]["running"], false);
    std::thread::sleep(Duration::from_millis(1500));
    let stopped = ctl(dir, &["status"]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(sent(&ctl(dir, &["status"])), sent(&stopped));
    assert_eq!(ctl(dir, &["rate", "50"])["replay"]["flows_per_second"], 50.0);
    assert_eq!(ctl(dir, &["pace", "pps", "400"])["replay"]["pace"], "400 packets a second");
    assert_eq!(ctl(dir, &["pace", "multiplier", "2"])["replay"]["pace"], "2 times the captured speed");
    assert_eq!(ctl(dir, &["replay", "start"])["replay"]["running"], true);
    service.until("it sends again", |s| sent(s) > sent(&stopped));

    // A version by name, and back.
    let store = dir.join("store");
    let current = || std::fs::read_link(store.join("current")).unwrap().to_str().unwrap().to_owned();
    let newest = current();
    let older = ctl(dir, &["rollback"])["model"].as_str().unwrap().to_owned();
    assert_eq!(current(), older);
    assert_eq!(ctl(dir, &["promote", &newest])["model"], newest.as_str());
    assert_eq!(current(), newest);
    let socket = dir.join("control.sock");
    let socket = socket.to_str().unwrap();
    assert!(fail(1, &["ctl", "--socket", socket, "promote", "step-9"]).contains("no version step-9"));
    assert!(fail(2, &["ctl", "rate", "0", "--socket", socket]).contains("1e-9"));
    // The service does not rely on its clients.
    let mut client = UnixStream::connect(socket).unwrap();
    client.write_all(b"{\"command\":{\"rate\":{\"flows_per_second\":0.0}}}\n").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.contains("allowed is"), "{said}");

    let mut client = UnixStream::connect(&metrics).unwrap();
    client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for name in ["packets_total", "held_out_bits_per_packet", "replay_packets_total", "promotions_total"] {
        let line = text.lines().find(|line| line.starts_with(&format!("wiremamba_{name} "))).expect(name);
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
    }
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn a_checkpoint_is_taken_when_asked_for_and_a_configuration_read_again() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = configure(dir, "");
    edit(&config, "flows_per_round = 30", "flows_per_round = 100000");
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    let socket = dir.join("control.sock");
    let said = fail(1, &["ctl", "--socket", socket.to_str().unwrap(), "checkpoint"]);
    assert!(said.contains("no flows to learn from"), "{said}");
    let capture = dir.join("captures/web/web.pcap");
    replay(&namespace, &capture, 1);
    service.until("the flows are in", |s| s["flows_held_out"].as_u64().unwrap() > 0);
    assert_eq!(ctl(dir, &["checkpoint"])["rounds"], 1);
    service.signal(Signal::SIGUSR1);
    service.until("a signal does the same", |s| s["rounds"] == 2);

    // A round that would take hours ends when asked to.
    edit(&config, "steps_per_round = 20", "steps_per_round = 1000000");
    edit(&config, "flows_per_round = 100000", "flows_per_round = 5");
    service.signal(Signal::SIGHUP);
    replay(&namespace, &capture, 1);
    let before = ctl(dir, &["status"])["steps"].as_u64().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let status = ctl(dir, &["checkpoint"]);
    assert_eq!(status["rounds"], 3, "{status}");
    assert!(status["steps"].as_u64().unwrap() > before + 20, "the new number of steps holds: {status}");

    // What is wrong changes nothing.
    edit(&config, "[learn]", "[learn]\ncolour = 1");
    service.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_secs(1));
    service.signal(Signal::SIGTERM);
    service.until("it says so at the end", |_| true);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn it_learns_from_nothing_with_labels_by_rule() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = configure(dir, "");
    let base = format!("base = '{}'", dir.join("base").display());
    edit(&config, &base, "preset = 'tiny'");
    let rule = "buffer_mib = 2\n[[capture.rule]]\nfilter = 'udp port 53'\nlabel = 'names'\n";
    edit(&config, "buffer_mib = 2\n", rule);
    let mut service = Service::start(&namespace, &config);
    let up = service.until("it is up", |_| true);
    assert_eq!(up["model"], Value::Null);
    for label in ["web", "dns"] {
        replay(&namespace, &dir.join(format!("captures/{label}/{label}.pcap")), 1);
    }
    service.until("something is promoted", |s| s["promoted"].as_u64().unwrap() >= 1);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
    let store = dir.join("store");
    let store = store.to_str().unwrap();
    let about = json(&succeed(&["inspect", "--json", "-q", store]));
    assert!(about.to_string().contains(r#"["names","web"]"#), "{about}");
    for label in ["names", "web"] {
        succeed(&["generate", "-q", "--model", store, "--label", label, "--packets", "9", "-w", "/dev/null"]);
    }
    // A rule that cannot be: said at once.
    edit(&config, "udp port 53", "udp harbour 53");
    let output = namespace
        .command(wiremamba_tests::program::path().to_str().unwrap())
        .args(["run", "--config", &config])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("udp harbour 53"), "{said}");
}

/// A question to a name server and its answer (RFC 1035).
fn name_service(i: u16) -> Vec<Packet> {
    let question = |flags: [u8; 2], answers: u8| {
        let header = [&i.to_be_bytes()[..], &flags, &[0, 1, 0, answers, 0, 0, 0, 0]].concat();
        [&header[..], b"\x04host\x07example\x03org\0", &[0, 1, 0, 1]].concat()
    };
    let answer = [&question([0x81, 0x80], 1)[..], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 7]].concat();
    let (client, server) = (([10, 0, 0, 2], 40_000 + i), ([10, 0, 1, 1], 53));
    let packet = |(from, from_port), (to, to_port), payload: &[u8]| {
        let builder =
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from, to, 64).udp(from_port, to_port);
        let mut data = Vec::new();
        builder.write(&mut data, payload).unwrap();
        let ts = Timestamp(1_700_000_000_000_000_000 + i64::from(i) * 10_000_000);
        Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    };
    vec![packet(client, server, &question([1, 0], 0)), packet(server, client, &answer)]
}

#[test]
fn labels_come_from_ndpi_where_it_knows_the_protocol() {
    let Some(namespace) = namespace() else { return };
    if std::process::Command::new("ndpiReader").arg("-h").output().is_err() {
        eprintln!("skipped: no ndpiReader");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = configure(dir, "ndpi = { DNS = 'names' }\n");
    let base = format!("base = '{}'", dir.join("base").display());
    edit(&config, &base, "preset = 'tiny'");
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    let names = dir.join("names.pcap");
    traffic::write(&names, (0..40).flat_map(name_service));
    for capture in [&names, &dir.join("captures/web/web.pcap")] {
        replay(&namespace, capture, 1);
    }
    service.until("something is promoted", |s| s["promoted"].as_u64().unwrap() >= 1);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
    let store = dir.join("store");
    let about = json(&succeed(&["inspect", "--json", "-q", store.to_str().unwrap()]));
    assert!(about.to_string().contains(r#"["names","web"]"#), "{about}");
}

#[test]
fn what_the_base_knew_is_rehearsed_and_measured() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = configure(dir, &format!("rehearsal = ['{}']\n", dir.join("captures").display()));
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    replay(&namespace, &dir.join("captures/web/web.pcap"), 1);
    let status = service.until("a round is over", |s| s["rounds"].as_u64().unwrap() >= 1);
    let bits = |key: &str| status[key].as_f64().unwrap();
    let worst = bits("rehearsal_bits_per_packet_base") * 1.05;
    assert!(status["promoted"] == 0 || bits("rehearsal_bits_per_packet") <= worst, "{status}");
    assert!(bits("fresh_bits_per_packet") > 0.0, "{status}");
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn what_is_promoted_forgets_little_even_when_nothing_is_rehearsed() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rehearsal = dir.join("captures");
    let more = "rehearsal_share = 0.0\nlearning_rate = 0.01\n";
    let config = configure(dir, &format!("rehearsal = ['{}']\n{more}", rehearsal.display()));
    train_tiny(&rehearsal, &dir.join("base"), 300);
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    // Name service under the label of the web: all the way there would mean worse here.
    replay(&namespace, &dir.join("captures/dns/dns.pcap"), 1);
    let status = service.until("a round is over", |s| s["rounds"].as_u64().unwrap() >= 1);
    let bits = |key: &str| status[key].as_f64().unwrap();
    let is_kept = bits("rehearsal_bits_per_packet") <= 1.05 * bits("rehearsal_bits_per_packet_base");
    assert_eq!(status["promoted"] == 1, is_kept, "{status}");
}

#[test]
fn captures_of_a_rehearsal_must_have_the_bases_labels() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = configure(dir, &format!("rehearsal = ['{}']\n", dir.join("captures").display()));
    std::fs::rename(dir.join("captures/web"), dir.join("captures/other")).unwrap();
    for label in ["web", "other"] {
        // Nor does it help that the service is to learn the label.
        edit(&config, "label = 'web'", &format!("label = '{label}'"));
        let output = run(&["run", "--config", &config]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("knows no label other"), "{TAP}: {said}");
    }
}

#[test]
fn a_label_that_the_base_does_not_know_is_learned_beside_its_own() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = configure(dir, "");
    edit(&config, "label = 'web'", "label = 'shop'");
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    replay(&namespace, &dir.join("captures/web/web.pcap"), 1);
    service.until("a round is promoted", |s| s["promoted"].as_u64().unwrap() >= 1);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
    let store = dir.join("store");
    let store = store.to_str().unwrap();
    let about = json(&succeed(&["inspect", "--json", "-q", store]));
    assert_eq!(about["labels"], serde_json::json!(["dns", "web", "shop"]), "{about}");
    succeed(&["generate", "-q", "--model", store, "--label", "shop", "--packets", "20", "-w", "/dev/null"]);
    // It goes on from there, under the same labels.
    let mut service = Service::start(&namespace, &config);
    service.until("it is up again", |_| true);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
}
