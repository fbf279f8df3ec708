//! Promise: a flood of packets that all belong to different flows takes no more memory than is configured, and what real
//! hosts say meanwhile is learned all the same.

use etherparse::PacketBuilder;
use serde_json::Value;
use wiremamba_daemon::sink::PacketSink;
use wiremamba_daemon::sink::tap::{TapOptions, TapSink};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::service::{Service, TAP, configure, namespace};
use wiremamba_tests::traffic;

/// Flows of the flood; `WIREMAMBA_FLOOD` asks for more.
const FLOWS: u32 = 300_000;
/// Between two replays of the real flows.
const EVERY: u32 = 20_000;
/// What the program takes beside its limits: threads, the round at hand, and what the allocator keeps.
const SLACK_MIB: u64 = 96;
/// As configured below.
const LIMITS_MIB: u64 = 16 + 2 * 32 + 8 + 2;

fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// A packet from a source that nobody else has.
fn stray(i: u32) -> Packet {
    let [_, a, b, c] = i.to_be_bytes();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([11, a, b, c], [10, 0, 1, 1], 64)
        .udp(1024 + (i % 60_000) as u16, 9);
    let mut data = Vec::new();
    builder.write(&mut data, b"stray packet").unwrap();
    Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}

#[test]
fn a_flood_is_bounded_and_real_flows_are_learned() {
    let Some(namespace) = namespace() else { return };
    let flows = std::env::var("WIREMAMBA_FLOOD").ok().and_then(|n| n.parse().ok()).unwrap_or(FLOWS);
    let dir = tempfile::tempdir().unwrap();
    let more = "open_flows_mib = 16\nmemory_mib = 32\nqueue_max = 1024\nheld_out_every = 2\n";
    let config = configure(dir.path(), more);
    let text = std::fs::read_to_string(&config).unwrap();
    let rule = "buffer_mib = 2\n[[capture.rule]]\nfilter = 'udp'\nlabel = 'dns'\n";
    std::fs::write(&config, text.replace("buffer_mib = 2\n", rule)).unwrap();
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    let pid = service.child.id();
    let before = peak_mib(pid);
    let real = traffic::read(&dir.path().join("captures/web/web.pcap"));
    namespace.run(|| {
        let mut tap = TapSink::open(&TapOptions { name: TAP.to_owned(), ..TapOptions::default() }).unwrap();
        for i in 0..flows {
            tap.send(&stray(i)).unwrap();
            if i % EVERY == 0 {
                real.iter().for_each(|packet| tap.send(packet).unwrap());
            }
        }
        assert_eq!(tap.finish().unwrap().refused_packets(), 0);
    });
    // A status from the middle of the flood has no open flows either: they are counted once a second, as drops are.
    let captured = |s: &Value| s["packets"].as_u64().unwrap() + s["packets_dropped"].as_u64().unwrap();
    let is_over = |s: &Value| captured(s) >= flows.into() && s["open_flows"] == 0 && s["queued_flows"] == 0;
    let flooded = service.until("it is over", is_over);
    let peak = peak_mib(pid);
    assert!(peak < before + LIMITS_MIB + SLACK_MIB, "{before} MiB before, {peak} MiB at most: {flooded}");
    let count = |key: &str| flooded[key].as_u64().unwrap();
    // Whatever is not learned is counted.
    assert!(count("flows_refused") + count("flows_forgotten") > u64::from(flows) / 2, "{flooded}");
    let learned = service.until("a round is promoted", |s| s["promoted"].as_u64().unwrap() > 0);
    eprintln!(
        "{flows} flows: {before} MiB before, {peak} MiB at most; {} captured, {} dropped by the kernel; {} rounds, {} promoted",
        learned["packets"], learned["packets_dropped"], learned["rounds"], learned["promoted"]
    );
    // Most of what is learned now is real: of the newest flows at most a quarter is the flood's.
    let store = dir.path().join("store");
    let store = store.to_str().unwrap();
    wiremamba_tests::program::succeed(&[
        "generate",
        "-q",
        "--model",
        store,
        "--label",
        "web",
        "--packets",
        "20",
        "-w",
        "/dev/null",
    ]);
}
