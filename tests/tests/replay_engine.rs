//! Promise: `replay` sends what it says, wherever it sends, and its ground truth is what was sent. Each test has a network
//! namespace of its own; those that need one skip without root.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wiremamba_model::flow::dissect;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::netns::{self, Namespace};
use wiremamba_tests::program::{self, fail, json, output_within, succeed, train_tiny};
use wiremamba_tests::sniffer::Sniffer;
use wiremamba_tests::traffic;

/// Longest that a replay of a test may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a receiver waits for one more packet before it calls it lost.
const GAP: Duration = Duration::from_secs(5);
/// Packets of the test of exactness; `WIREMAMBA_EXACT` asks for more.
const EXACT: u64 = 200_000;

fn namespace() -> Option<Namespace> {
    if let Some(what) = netns::missing() {
        eprintln!("skipped: {what}");
        return None;
    }
    Some(Namespace::new().expect("it worked a moment ago"))
}

/// A namespace with a pair of interfaces that are up and silent.
fn veth() -> Option<Namespace> {
    let namespace = namespace()?;
    namespace.ip(&["link", "add", "wm-a", "type", "veth", "peer", "name", "wm-b"]).unwrap();
    for name in ["wm-a", "wm-b"] {
        let quiet = format!("net.ipv6.conf.{name}.disable_ipv6=1");
        assert!(namespace.command("sysctl").args(["-qw", &quiet]).status().unwrap().success());
        namespace.ip(&["link", "set", name, "up"]).unwrap();
    }
    Some(namespace)
}

/// Runs `wiremamba replay --json` in a namespace; its last line.
fn replay(namespace: &Namespace, args: &[&str]) -> Value {
    let mut command = namespace.command(program::path().to_str().unwrap());
    let output = output_within(command.args(["replay", "-q", "--json"]).args(args), PATIENCE);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    json(String::from_utf8_lossy(&output.stdout).lines().last().unwrap().as_bytes())
}

fn write_capture(path: &Path, packets: usize) {
    let packet = |i: usize| {
        let mut data: Vec<u8> = (0..60 + i % 1400).map(|at| (i.wrapping_mul(31) ^ at) as u8).collect();
        data[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
        let ts = Timestamp(1_700_000_000_000_000_000 + i as i64 * 10_000);
        Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    };
    traffic::write(path, (0..packets).map(packet));
}

#[test]
fn an_interface_sends_every_packet_in_order_both_ways_of_sending() {
    let Some(namespace) = veth() else { return };
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("capture.pcap");
    write_capture(&capture, 3000);
    let expected: Vec<Vec<u8>> = traffic::read(&capture).into_iter().map(|packet| packet.data).collect();
    for io in ["packet", "xdp", "auto"] {
        let mut sniffer = namespace.run(|| Sniffer::open("wm-b").unwrap());
        let args = ["--interface", "wm-a", "--yes-on-the-wire", "--io", io, "--pps", "50000", "--pcap"];
        let done = replay(&namespace, &[&args[..], &[capture.to_str().unwrap()]].concat());
        assert_eq!((&done["sent"], &done["refused"]), (&3000.into(), &0.into()), "{io}");
        assert_eq!((&done["device_tx_packets"], &done["device_tx_dropped"]), (&3000.into(), &0.into()), "{io}");
        let frames = sniffer.take(3000, GAP).unwrap();
        assert!(frames == expected, "{io}: {} frames", frames.len());
    }
}

#[test]
fn an_interface_that_nobody_listens_to_is_refused_and_so_is_one_without_consent() {
    let Some(namespace) = veth() else { return };
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("capture.pcap");
    write_capture(&capture, 10);
    namespace.ip(&["tuntap", "add", "dev", "wm-idle", "mode", "tap"]).unwrap();
    namespace.ip(&["link", "set", "wm-idle", "up"]).unwrap();
    let refused = |args: &[&str]| {
        let mut command = namespace.command(program::path().to_str().unwrap());
        let output = output_within(command.args(["replay", "-q", "--pcap"]).arg(&capture).args(args), PATIENCE);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = refused(&["--interface", "wm-a"]);
    assert!(code == Some(2) && said.contains("--yes-on-the-wire"), "{said}");
    for (name, what) in
        [("wm-none", "there is no interface wm-none"), ("wm-idle", "has no carrier"), ("lo", "carries no Ethernet")]
    {
        let (code, said) = refused(&["--interface", name, "--yes-on-the-wire"]);
        assert!(code == Some(1) && said.contains(what), "{name}: {said}");
    }
    namespace.ip(&["link", "set", "wm-b", "down"]).unwrap();
    let (code, said) = refused(&["--interface", "wm-a", "--yes-on-the-wire"]);
    assert!(code == Some(1) && said.contains("has no carrier"), "{said}");
}

/// What arrived, in its order.
struct Digest {
    frames: u64,
    hasher: DefaultHasher,
}

impl Digest {
    fn new() -> Self {
        Self { frames: 0, hasher: DefaultHasher::new() }
    }

    fn add(&mut self, frame: &[u8]) {
        self.frames += 1;
        frame.hash(&mut self.hasher);
    }
}

#[test]
fn what_was_sent_and_what_was_refused_is_all_and_the_far_side_read_the_same() {
    let Some(namespace) = veth() else { return };
    let count = std::env::var("WIREMAMBA_EXACT").ok().and_then(|text| text.parse().ok()).unwrap_or(EXACT);
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("capture.pcap");
    write_capture(&capture, 1000);
    // One in a thousand is too long for the interface.
    let mut packets = traffic::read(&capture);
    packets[77].data.resize(3000, 0);
    packets[77].len = 3000;
    traffic::write(&capture, packets.clone());
    let good: Vec<&Packet> = packets.iter().filter(|packet| packet.len < 2000).collect();
    let passes = count.div_ceil(1000);

    let mut sniffer = namespace.run(|| Sniffer::open("wm-b").unwrap());
    let expected = passes * good.len() as u64;
    let reading = std::thread::spawn(move || {
        let mut read = Digest::new();
        while read.frames < expected {
            match sniffer.next(GAP).unwrap() {
                Some(frame) => read.add(&frame),
                None => break,
            }
        }
        (read, sniffer.dropped().unwrap())
    });
    let passes_text = passes.to_string();
    let args = ["--interface", "wm-a", "--yes-on-the-wire", "--pps", "100000", "--loop", &passes_text, "--pcap"];
    let done = replay(&namespace, &[&args[..], &[capture.to_str().unwrap()]].concat());
    let (read, dropped) = reading.join().unwrap();
    assert_eq!(dropped, 0, "the receiver lost frames");
    assert_eq!(done["sent"].as_u64().unwrap() + done["refused"].as_u64().unwrap(), passes * 1000);
    assert_eq!((done["sent"].as_u64(), done["device_tx_packets"].as_u64()), (Some(read.frames), Some(read.frames)));
    let mut sent = Digest::new();
    (0..passes).for_each(|_| good.iter().for_each(|packet| sent.add(&packet.data)));
    assert!(read.frames == sent.frames && read.hasher.finish() == sent.hasher.finish());
    eprintln!("{} packets sent, counted and read, {} refused", read.frames, done["refused"]);
}

#[test]
fn clients_and_servers_have_a_tap_each() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 30);
    let capture = dir.path().join("web/web.pcap");
    for name in ["wm-c", "wm-s"] {
        namespace.ip(&["tuntap", "add", "dev", name, "mode", "tap"]).unwrap();
        namespace.ip(&["link", "set", name, "up"]).unwrap();
    }
    let (mut clients, mut servers) = namespace.run(|| (Sniffer::open("wm-c").unwrap(), Sniffer::open("wm-s").unwrap()));
    let args = ["--tap", "wm-c", "--server-tap", "wm-s", "--pps", "20000", "--pcap", capture.to_str().unwrap()];
    let done = replay(&namespace, &args);
    assert_eq!((&done["sent"], &done["device_rx_packets"]), (&240.into(), &240.into()));
    let packets = traffic::read(&capture);
    // Of each flow the client sends the first, and every other one.
    let side = |from_client: bool| packets.iter().enumerate().filter(move |(i, _)| (i % 2 == 0) == from_client);
    let read = |sniffer: &mut Sniffer| sniffer.take(120, GAP).unwrap();
    assert!(read(&mut clients).iter().eq(side(true).map(|(_, packet)| &packet.data)));
    assert!(read(&mut servers).iter().eq(side(false).map(|(_, packet)| &packet.data)));
}

/// Udp packets with this payload between ten clients and a server, on a port that passes and on one that does not, 200 each way of each.
fn write_udp(path: &Path, payload: impl Fn(usize) -> Vec<u8>) {
    let packet = |i: usize| {
        let (client, port) = ([10, 0, 0, 1 + (i / 4 % 10) as u8], if i % 4 < 2 { 9000 } else { 53 });
        let (from, to, ports) = match i % 2 {
            0 => (client, [10, 0, 1, 1], (4000, port)),
            _ => ([10, 0, 1, 1], client, (port, 4000)),
        };
        let mut data = Vec::new();
        let mut header = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, from, to).unwrap();
        (header.identification, header.dont_fragment) = (i as u16, false);
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = builder.ip(etherparse::IpHeaders::Ipv4(header, Default::default())).udp(ports.0, ports.1);
        builder.write(&mut data, &payload(i)).unwrap();
        let ts = Timestamp(1_700_000_000_000_000_000 + i as i64 * 500_000);
        Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    };
    traffic::write(path, (0..800).map(packet));
}

/// A namespace that routes between the taps wm-c and wm-s, with these rules and sources rewritten towards wm-s.
fn router(dir: &Path, rules: &str) -> Option<Namespace> {
    let namespace = namespace()?;
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: no nft");
        return None;
    }
    for (name, address) in [("wm-c", "10.0.0.254/24"), ("wm-s", "10.0.1.254/24")] {
        namespace.ip(&["tuntap", "add", "dev", name, "mode", "tap"]).unwrap();
        for setting in [format!("ipv6.conf.{name}.disable_ipv6=1"), format!("ipv4.conf.{name}.rp_filter=0")] {
            let set = namespace.command("sysctl").args(["-qw", &format!("net.{setting}")]).status();
            assert!(set.unwrap().success());
        }
        namespace.ip(&["addr", "add", address, "dev", name]).unwrap();
        namespace.ip(&["link", "set", name, "up"]).unwrap();
    }
    assert!(namespace.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).status().unwrap().success());
    let rules = format!(
        "table ip wm {{
        {rules}
        chain leaving {{ type nat hook postrouting priority 100; oifname wm-s masquerade; }}
    }}"
    );
    let file = dir.join("rules.nft");
    std::fs::write(&file, rules).unwrap();
    assert!(namespace.command("nft").arg("-f").arg(&file).status().unwrap().success());
    Some(namespace)
}

#[test]
fn a_report_on_a_router_finds_the_drops_of_its_rules_and_its_nat_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "chain passing { type filter hook forward priority 0; udp dport 53 drop; udp sport 53 drop; }";
    let Some(namespace) = router(dir.path(), rules) else { return };
    let (capture, report) = (dir.path().join("capture.pcap"), dir.path().join("report.json"));
    write_udp(&capture, |i| format!("packet {i}").into_bytes());
    let args = ["--tap", "wm-c", "--server-tap", "wm-s", "--router", "--start-delay", "2", "--pps", "2000"];
    let files = ["--pcap", capture.to_str().unwrap(), "--device-report", report.to_str().unwrap()];
    // The router itself sends to a host that has not made itself known, and so asks for it.
    let stranger = "for i in $(seq 15); do sleep 0.2; echo x > /dev/udp/10.0.0.77/9; done";
    let mut asking = namespace.command("bash").args(["-c", stranger]).spawn().unwrap();
    let done = replay(&namespace, &[&args[..], &files[..]].concat());
    let _ = asking.kill();
    asking.wait().unwrap();
    assert_eq!(done["sent"], 800);
    let report = json(&std::fs::read(&report).unwrap());
    // Of the clients' packets every one gets another source. Of the servers' the router finds the 5-tuple taken by the
    // connection that it has just translated, and changes their source port: the report shows that, too.
    assert_eq!(report["directions"]["to_server"]["source_rewritten"], 200, "{report}");
    for way in ["to_server", "to_client"] {
        let way = &report["directions"][way];
        // Half of each way is on the port that is dropped.
        assert_eq!((&way["sent"], &way["received"], &way["lost"]), (&400.into(), &200.into(), &200.into()), "{report}");
        assert_eq!((&way["destination_rewritten"], &way["reordered"]), (&0.into(), &0.into()), "{report}");
        let latency = &way["latency"];
        assert!(latency["p50_us"].as_f64() > Some(0.0) && latency["p50_us"].as_f64() <= latency["max_us"].as_f64());
    }
    assert_eq!(report["unwatched"], 0, "{report}");
    // Ten clients and a server made themselves known, so that the router did not have to ask.
    let answers = report["arp_answers"].as_u64().unwrap();
    assert!(report["arp_questions"] == 11 && answers > 0, "{report}");
    assert_eq!(done["device_rx_packets"], 800 + 11 + answers, "the taps count what was sent, and ARP: {report}");
}

#[test]
fn fragments_are_told_from_one_another_behind_a_router_with_nat() {
    let dir = tempfile::tempdir().unwrap();
    let Some(namespace) = router(dir.path(), "") else { return };
    let (capture, report) = (dir.path().join("capture.pcap"), dir.path().join("report.json"));
    // The shortest and the longest datagram of one fragment, of two, and of three.
    let lengths = [8, 1472, 1473, 2952, 2953];
    write_udp(&capture, |i| format!("{i:08}").repeat(400).into_bytes()[..lengths[i / 4 % 5]].to_vec());
    let args = ["--tap", "wm-c", "--server-tap", "wm-s", "--router", "--start-delay", "2", "--pps", "2000"];
    let files = ["--pcap", capture.to_str().unwrap(), "--device-report", report.to_str().unwrap()];
    let done = replay(&namespace, &[&args[..], &files[..], &["--oversize", "split"]].concat());
    let fragments = 160 * 2 + 160 * 2 + 160 * 3;
    assert_eq!((&done["oversize_fragmented"], &done["oversize_segments"]), (&480.into(), &fragments.into()), "{done}");
    assert_eq!(done["sent"], 320 + fragments, "{done}");
    let report = json(&std::fs::read(&report).unwrap());
    for way in ["to_server", "to_client"] {
        let way = &report["directions"][way];
        let half = (320 + fragments) / 2;
        assert_eq!((&way["sent"], &way["received"], &way["lost"]), (&half.into(), &half.into(), &0.into()), "{report}");
    }
    assert_eq!(report["directions"]["to_server"]["source_rewritten"], (320 + fragments) / 2, "{report}");
    assert_eq!((&report["unwatched"], &report["unexpected"]), (&0.into(), &0.into()), "{report}");
}

fn truth(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| json(line.as_bytes())).collect()
}

#[test]
fn the_ground_truth_has_every_flow_as_it_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let model = dir.path().join("model");
    train_tiny(dir.path(), &model, 12);
    let (out, path) = (dir.path().join("out.pcap"), dir.path().join("truth.jsonl"));
    let (out_text, path_text) = (out.to_str().unwrap(), path.to_str().unwrap());
    let args =
        ["--label", "web", "--flows", "12", "--flow-packets-max", "30", "--topspeed", "--ground-truth", path_text];
    let done =
        succeed(&[&["replay", "-q", "--json", "--model", model.to_str().unwrap(), "-w", out_text], &args[..]].concat());
    let done = json(String::from_utf8_lossy(&done).lines().last().unwrap().as_bytes());

    // By hand: packets by 5-tuple of what was written.
    let mut expected: HashMap<_, [u64; 2]> = HashMap::new();
    let mut without_ip = 0;
    for packet in traffic::read(&out) {
        match dissect(packet.linktype, &packet.data) {
            Ok(dissected) => {
                let sums = expected.entry(dissected.tuple.key()).or_default();
                sums[0] += 1;
                sums[1] += u64::from(packet.len);
            }
            Err(_) => without_ip += 1,
        }
    }
    let flows = truth(&path);
    let sum = |key: &str| flows.iter().map(|flow| flow[key].as_u64().unwrap()).sum::<u64>();
    let packets: u64 = expected.values().map(|sums| sums[0]).sum();
    assert!(flows.len() >= expected.len(), "{} flows of {} 5-tuples", flows.len(), expected.len());
    assert_eq!(sum("pkts_toserver") + sum("pkts_toclient"), packets);
    assert_eq!(sum("bytes_toserver") + sum("bytes_toclient"), expected.values().map(|sums| sums[1]).sum::<u64>());
    assert_eq!(done["sent"].as_u64().unwrap(), packets + without_ip);
    assert_eq!(done["truth_flows"].as_u64().unwrap(), flows.len() as u64);
    for flow in &flows {
        assert_eq!(flow["label"], "web");
        assert!(flow["session"].as_u64().unwrap() > 0 && flow["start"].as_f64() <= flow["end"].as_f64());
        assert!(flow["state"] != "cut", "{flow}");
    }

    // What is stopped half-way is cut.
    let capture = dir.path().join("dns/dns.pcap");
    let args = ["--topspeed", "--count", "12", "-w", out_text, "--ground-truth", path_text];
    succeed(&[&["replay", "-q", "--pcap", capture.to_str().unwrap()], &args[..]].concat());
    let flows = truth(&path);
    assert_eq!(flows.iter().map(|flow| flow["pkts_toserver"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 2]);
    assert!(flows.iter().all(|flow| flow["state"] == "cut" && flow["dest_port"] == 53), "{flows:?}");
}

#[test]
fn a_stock_is_rendered_again_with_other_hosts_and_as_many_packets() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let model = dir.path().join("model");
    train_tiny(dir.path(), &model, 12);
    let (out, path) = (dir.path().join("out.pcap"), dir.path().join("truth.jsonl"));
    let args = ["--flow-packets-max", "20", "--topspeed", "-w", out.to_str().unwrap()];
    let ask = |more: &[&str]| {
        let files = ["--model", model.to_str().unwrap(), "--ground-truth", path.to_str().unwrap()];
        let done = succeed(&[&["replay", "-q", "--json"], &files[..], &args[..], more].concat());
        (json(String::from_utf8_lossy(&done).lines().last().unwrap().as_bytes()), traffic::read(&out), truth(&path))
    };
    let (done, packets, flows) = ask(&["--flows", "200", "--stock", "10"]);
    let (fresh, again) = (done["sessions_fresh"].as_u64().unwrap(), done["sessions_again"].as_u64().unwrap());
    // A session without a packet is never sent.
    assert!((5..=10).contains(&fresh) && again > 100 && fresh + again <= 200, "{done}");
    assert!(packets.is_sorted_by_key(|packet| packet.ts));
    let hosts: std::collections::HashSet<_> = flows.iter().map(|flow| flow["src_ip"].to_string()).collect();
    assert!(hosts.len() > 50, "{} clients in {} flows", hosts.len(), flows.len());
    // The fresh ones are those that come without a stock.
    let (_, plain, _) = ask(&["--flows", "10"]);
    let of_fresh: Vec<_> = packets.iter().filter(|packet| plain.contains(packet)).collect();
    assert_eq!(of_fresh.len(), plain.len());
    // The same seed, the same packets.
    assert!(ask(&["--flows", "200", "--stock", "10"]).1 == packets);
}

#[test]
fn a_full_disk_under_the_ground_truth_ends_the_replay_with_its_counters() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let (capture, out) = (dir.path().join("dns/dns.pcap"), dir.path().join("out.pcap"));
    let args = ["--topspeed", "-w", out.to_str().unwrap(), "--ground-truth", "/dev/full"];
    let said = fail(1, &[&["replay", "--pcap", capture.to_str().unwrap()], &args[..]].concat());
    assert!(said.contains("the ground truth cannot be written to /dev/full"), "{said}");
    let said = fail(1, &["replay", "--pcap", capture.to_str().unwrap(), "-w", "-", "--ground-truth", "/nowhere/truth"]);
    assert!(said.contains("/nowhere/truth"), "{said}");
}

#[test]
fn a_process_that_was_stopped_goes_on_without_a_burst_beyond_the_catch_up() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("capture.pcap");
    write_capture(&capture, 1000);
    namespace.ip(&["tuntap", "add", "dev", "wm-stop", "mode", "tap"]).unwrap();
    namespace.ip(&["link", "set", "wm-stop", "up"]).unwrap();
    let mut sniffer = namespace.run(|| Sniffer::open("wm-stop").unwrap());
    let mut command = namespace.command(program::path().to_str().unwrap());
    command.args(["replay", "-q", "--json", "--tap", "wm-stop", "--pps", "500", "--catch-up", "0.2", "--pcap"]);
    let child = command.arg(&capture).stdout(Stdio::piped()).spawn().unwrap();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    };
    // The time of each frame, as it is read.
    let mut times = Vec::new();
    for _ in 0..100 {
        sniffer.next(GAP).unwrap().expect("it goes on");
    }
    signal("-STOP");
    std::thread::sleep(Duration::from_secs(5));
    while sniffer.next(Duration::from_millis(1)).unwrap().is_some() {}
    signal("-CONT");
    while let Some(_frame) = sniffer.next(Duration::from_millis(500)).unwrap() {
        times.push(Instant::now());
    }
    let output = child.wait_with_output().unwrap();
    let done = json(String::from_utf8_lossy(&output.stdout).lines().last().unwrap().as_bytes());
    assert_eq!((&done["sent"], &done["moves"].as_u64().map(|n| n > 0)), (&1000.into(), &Some(true)));
    let moved_s = done["moved_ns"].as_f64().unwrap() / 1e9;
    assert!((4.5..6.5).contains(&moved_s), "moved by {moved_s}");
    // 0.2 s at 500 a second are 100 packets; 50 ms of the pace itself, and as many for a busy machine.
    let burst = times.iter().filter(|time| **time - times[0] < Duration::from_millis(50)).count();
    assert!(burst <= 100 + 25 + 50, "{burst} packets in the first 50 ms");
}

#[test]
fn a_signal_ends_a_replay_with_its_counters_and_success() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("capture.pcap");
    write_capture(&capture, 1000);
    for signal in ["-INT", "-TERM"] {
        let mut command = namespace.command(program::path().to_str().unwrap());
        command.args(["replay", "-q", "--json", "--tap", "wm-sig", "--pps", "1000", "--loop", "0", "--pcap"]);
        let child = command.arg(&capture).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let done = json(String::from_utf8_lossy(&output.stdout).lines().last().unwrap().as_bytes());
        assert_eq!((&done["ended"], output.status.code()), (&"stopped".into(), Some(0)), "{signal}");
        assert_eq!(done["sent"], done["device_rx_packets"]);
    }
}

#[test]
fn score_accounts_for_every_flow_of_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let (capture, out, path) =
        (dir.path().join("dns/dns.pcap"), dir.path().join("out.pcap"), dir.path().join("truth.jsonl"));
    let args = ["--topspeed", "-w", out.to_str().unwrap(), "--ground-truth", path.to_str().unwrap()];
    succeed(&[&["replay", "-q", "--pcap", capture.to_str().unwrap()], &args[..]].concat());
    // Whoever reads the file sees the flows at the packets' own times.
    let first = traffic::read(&out)[0].ts.0 as f64 / 1e9;
    assert!((truth(&path)[0]["start"].as_f64().unwrap() - first).abs() < 1e-3, "{first}");
    // A system that saw every flow but the last five, and one that nobody sent.
    let mut log = "#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_pkts\tresp_pkts\tconn_state\n".to_owned();
    for flow in &truth(&path)[..20] {
        let text = |key: &str| flow[key].as_str().unwrap().to_owned();
        log += &format!(
            "{}\t{}\t{}\t{}\t53\tudp\tdns\t0.1\t4\t4\tSF\n",
            flow["start"],
            text("src_ip"),
            flow["src_port"],
            text("dest_ip")
        );
    }
    log += "1.5\t192.0.2.1\t5\t192.0.2.2\t53\tudp\tdns\t0.1\t1\t1\tSF\n";
    let conn = dir.path().join("conn.log");
    std::fs::write(&conn, log).unwrap();
    let files = ["--truth", path.to_str().unwrap(), "--zeek", conn.to_str().unwrap()];
    let score = json(&succeed(&[&["score", "--json"], &files[..]].concat()));
    for (key, count) in
        [("flows", 25), ("seen", 20), ("missed", 5), ("unknown", 1), ("split", 0), ("packets_seen", 160)]
    {
        assert_eq!(score[key], count, "{key}: {score}");
    }
    let table = String::from_utf8(succeed(&[&["score"], &files[..]].concat())).unwrap();
    assert!(table.contains("missed") && table.contains("dns 20"), "{table}");
    assert!(fail(2, &[&["score", "--expect", "web=http"], &files[..]].concat()).contains("no flow of this label"));
}
