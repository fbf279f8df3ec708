//! Promise: who the replayed hosts are, how long their packets may be, and what is kept from run to run is what was asked for.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_model::wire::parse::{Frame, Ip, Transport, parse};
use wiremamba_model::wire::render::render;
use wiremamba_tests::judges::tshark;
use wiremamba_tests::program::{fail, json, succeed, train_tiny};
use wiremamba_tests::traffic;

/// Runs `wiremamba replay --json` at top speed into `out`: its last line, and the packets.
fn replay(out: &Path, args: &[&str]) -> (Value, Vec<Packet>) {
    let always = ["replay", "-q", "--json", "--topspeed", "-w", out.to_str().unwrap()];
    let said = succeed(&[&always[..], args].concat());
    (json(String::from_utf8_lossy(&said).lines().last().unwrap().as_bytes()), traffic::read(out))
}

fn truth(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| json(line.as_bytes())).collect()
}

#[test]
fn a_plan_gives_each_label_its_own_hosts_vlan_and_share_of_ipv6() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let model = dir.path().join("model");
    train_tiny(dir.path(), &model, 12);
    let (out, plan, path) = (dir.path().join("out.pcap"), dir.path().join("plan.toml"), dir.path().join("truth.jsonl"));
    std::fs::write(
        &plan,
        "client_net = \"10.77.0.0/16\"\nclient_net6 = \"2001:db8:77::\"\nipv6_percent = 0\n\
         [label.dns]\nserver_net = \"203.0.113.0/24\"\nvlan = 20\ngateway_mac = \"02:00:00:00:00:99\"\nipv6_percent = 0\n\
         [label.web]\nipv6_percent = 100\nmtu = 1280\n",
    )
    .unwrap();
    let (model, plan, path) = (model.to_str().unwrap(), plan.to_str().unwrap(), path.as_path());
    let files = ["--model", model, "--plan", plan, "--ground-truth", path.to_str().unwrap()];
    let (done, packets) =
        replay(&out, &[&files[..], &["--flows", "120", "--stock", "20", "--flow-packets-max", "20"]].concat());
    assert!(done["sent"].as_u64().unwrap() > 100 && done["stock_flows"] == 20, "{done}");
    let starts = |value: &Value, start: &str| value.as_str().unwrap().starts_with(start);
    let mut labels: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for flow in truth(path) {
        let label = flow["label"].as_str().unwrap().to_owned();
        let is_v6 = flow["src_ip"].as_str().unwrap().contains(':');
        assert!(starts(&flow["src_ip"], "10.77.") || starts(&flow["src_ip"], "2001:db8:77:"), "{flow}");
        let vlan: &[u64] = if label == "dns" { &[20] } else { &[] };
        assert_eq!(flow["vlan"], Value::from(vlan.to_vec()), "{flow}");
        // Groups, broadcasts and ICMP stay of the version they are.
        let is_pair = matches!(flow["protocol"].as_u64(), Some(6 | 17));
        let dest = &flow["dest_ip"];
        let is_group = starts(dest, "2") && !starts(dest, "203.0.113.") && !starts(dest, "2001:")
            || starts(dest, "ff")
            || dest.as_str().unwrap().ends_with(".255");
        if label == "dns" && !is_v6 && !is_group {
            assert!(starts(dest, "203.0.113."), "{flow}");
        }
        if is_pair && !is_group {
            assert_eq!(is_v6, label == "web", "{flow}");
        }
        labels.entry(label).or_default()[usize::from(is_v6)] += 1;
    }
    assert_eq!(labels.len(), 2, "{labels:?}");
    // The frames themselves: the gateway of one label, the lengths of the other.
    let gateway = [2, 0, 0, 0, 0, 0x99];
    for packet in &packets {
        let frame = parse(packet).unwrap();
        let is_dns = frame.link.len() == 18;
        assert_eq!(
            packet.data[..6] == gateway || packet.data[6..12] == gateway,
            is_dns && !is_to_group(&frame),
            "{frame:?}"
        );
        assert!(is_dns || packet.data.len() <= 1280 + 14);
    }
    if let Some(judged) = tshark(&out) {
        assert!(judged.faults.is_empty(), "{:?}", judged.faults);
    }
}

/// Whether it goes to no host's MAC, so that the gateway's need not be in it.
fn is_to_group(frame: &Frame<'_>) -> bool {
    frame.link[0] & 1 == 1 && frame.link[6..12] != [2, 0, 0, 0, 0, 0x99]
}

#[test]
fn a_plan_is_checked_whole_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 5);
    let model = dir.path().join("model");
    train_tiny(dir.path(), &model, 2);
    let (plan, out) = (dir.path().join("plan.toml"), dir.path().join("out.pcap"));
    for (text, named) in [
        ("[label.dns]\nvlan = 0\n", "[label.dns]"),
        ("vlans = 3\n", "vlans"),
        ("[label.zoom]\nvlan = 3\n", "zoom"),
        ("server_net = \"224.0.0.0/8\"\n", "unicast"),
    ] {
        std::fs::write(&plan, text).unwrap();
        let args = ["--model", model.to_str().unwrap(), "--plan", plan.to_str().unwrap(), "-w", out.to_str().unwrap()];
        let said = fail(1, &[&["replay", "--flows", "5"], &args[..]].concat());
        assert!(said.contains(named), "{text}: {said}");
        assert!(!out.exists(), "{text}");
    }
}

#[test]
fn a_stock_is_kept_on_disk_for_the_same_model_and_settings_only() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let (model, other) = (dir.path().join("model"), dir.path().join("other"));
    train_tiny(dir.path(), &model, 12);
    train_tiny(dir.path(), &other, 3);
    let (out, file) = (dir.path().join("out.pcap"), dir.path().join("flows.stock"));
    let ask = |model: &Path, more: &[&str]| {
        let files = ["--model", model.to_str().unwrap(), "--stock-file", file.to_str().unwrap()];
        replay(&out, &[&files[..], &["--stock", "10", "--flows", "60", "--flow-packets-max", "20"], more].concat())
    };
    let (done, first) = ask(&model, &[]);
    assert_eq!((&done["stock_flows"], &done["stock_from_file"]), (&10.into(), &0.into()), "{done}");
    let kept = std::fs::read(&file).unwrap();
    let (done, second) = ask(&model, &[]);
    assert_eq!((&done["stock_flows"], &done["stock_from_file"]), (&10.into(), &10.into()), "{done}");
    assert!(first == second, "the same packets, from the file");
    assert_eq!(std::fs::read(&file).unwrap(), kept);
    // Other hosts for the same flows: the tokens are the same.
    let (done, elsewhere) = ask(&model, &["--client-net", "10.99.0.0/16"]);
    assert_eq!((&done["stock_from_file"], elsewhere.len()), (&10.into(), first.len()));
    // Another seed, another model: made anew, and kept in place of the old one.
    assert_eq!(ask(&model, &["--seed", "7"]).0["stock_from_file"], 0);
    assert_ne!(std::fs::read(&file).unwrap(), kept);
    assert_eq!(ask(&other, &[]).0["stock_from_file"], 0);
    assert_eq!(ask(&other, &[]).0["stock_from_file"], 10);

    // Cut off, damaged, something else: an error that names the file, and nothing is sent.
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::remove_file(&out).unwrap();
    for (bytes, words) in
        [(&whole[..whole.len() / 2], "damaged or cut off"), (&damaged, "damaged"), (b"# a text", "no stock of flows")]
    {
        std::fs::write(&file, bytes).unwrap();
        let files = ["--model", other.to_str().unwrap(), "--stock-file", file.to_str().unwrap()];
        let args = ["--stock", "10", "--flows", "60", "-w", out.to_str().unwrap()];
        let said = fail(1, &[&["replay", "--flow-packets-max", "20"], &files[..], &args].concat());
        assert!(said.contains(words) && said.contains("flows.stock"), "{said}");
        assert!(!out.exists());
    }
    // A disk that is full does not hold the traffic up, and is told.
    if Path::new("/dev/full").exists() {
        let args = ["--model", other.to_str().unwrap(), "--stock-file", "/proc/flows.stock", "--stock", "10"];
        let (done, packets) = replay(&out, &[&args[..], &["--flows", "60", "--flow-packets-max", "20"]].concat());
        assert_eq!(done["stock_not_written"], true);
        assert!(packets.len() > 20);
    }
}

/// Every byte of every TCP stream: direction and sequence number, and the byte; SYN and FIN as bytes of their own.
fn streams(packets: &[Packet]) -> HashMap<(String, u32), u16> {
    let mut ret = HashMap::new();
    for packet in packets {
        let Ok(frame) = parse(packet) else { continue };
        let Transport::Tcp(tcp) = frame.transport else { continue };
        let who = format!("{} {} {} {}", frame.ip.src, tcp.src_port, frame.ip.dst, tcp.dst_port);
        let mut at = tcp.seq;
        let syn = (tcp.flags & 2 != 0).then_some(256);
        let fin = (tcp.flags & 1 != 0).then_some(257);
        let bytes = frame.payload.iter().map(|b| u16::from(*b));
        for byte in syn.into_iter().chain(bytes).chain(fin) {
            ret.insert((who.clone(), at), byte);
            at = at.wrapping_add(1);
        }
    }
    ret
}

#[test]
fn segments_above_the_mtu_are_split_or_refused_and_the_stream_stays() {
    let Some(real) = traffic::real() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, least) in [("ssh/zeek-ssh.pcap", 200), ("smb/oisf-smb2-peter.pcap", 100)] {
        let capture = real.join(name);
        let (out, path) = (dir.path().join("out.pcap"), dir.path().join("truth.jsonl"));
        let before = traffic::read(&capture);
        let is_long = |packet: &&Packet| parse(packet).is_ok_and(|f| packet.data.len() - f.link.len() > 1500);
        let long = before.iter().filter(is_long).count() as u64;
        assert!(long >= least, "{name}: {long}");
        let args = ["--pcap", capture.to_str().unwrap(), "--mtu", "1500", "--ground-truth", path.to_str().unwrap()];
        let (done, after) = replay(&out, &[&args[..], &["--oversize", "split"]].concat());
        let (split, segments) = (done["oversize_split"].as_u64().unwrap(), done["oversize_segments"].as_u64().unwrap());
        assert_eq!((split, segments > 2 * split - 1), (long, true), "{name}: {done}");
        assert_eq!(done["sent"].as_u64().unwrap(), before.len() as u64 - split + segments);
        assert_eq!(after.len() as u64, done["sent"].as_u64().unwrap());
        assert!(after.iter().all(|packet| packet.data.len() <= 1500 + 18));
        // What fits is as it was, and no byte of a stream is lost, added or changed.
        let short: Vec<_> = before.iter().filter(|packet| !is_long(packet)).map(|packet| &packet.data).collect();
        let mut left = after.iter().map(|packet| &packet.data);
        assert!(short.iter().all(|data| left.any(|after| after == *data)), "{name}: in order");
        assert!(streams(&before) == streams(&after), "{name}");
        let count = |flow: &Value| flow["pkts_toserver"].as_u64().unwrap() + flow["pkts_toclient"].as_u64().unwrap();
        let told: u64 = truth(&path).iter().map(count).sum();
        let dissected =
            after.iter().filter(|packet| wiremamba_model::flow::dissect(LinkType::ETHERNET, &packet.data).is_ok());
        assert_eq!(told, dissected.count() as u64, "{name}");
        // An independent look: no new fault in what was cut.
        let before = dir.path().join("before.pcap");
        traffic::write(&before, traffic::read(&capture).into_iter().filter(|packet| !is_long(&packet)));
        if let (Some(before), Some(after)) = (tshark(&before), tshark(&out)) {
            let wrong = |judged: &wiremamba_tests::judges::Tshark| {
                judged.faults.iter().filter(|(what, _)| what.contains("checksum")).map(|(_, n)| n).sum::<u64>()
            };
            assert_eq!(wrong(&before), wrong(&after), "{name}: {:?}", after.faults);
        }
    }
}

/// What tshark reads of the datagrams of a capture, put together again where they are in fragments: who, payload, and whether the
/// checksum is right.
fn datagrams(capture: &Path) -> Option<Vec<String>> {
    let fields = [
        "-Y",
        "udp",
        "-T",
        "fields",
        "-e",
        "ip.src",
        "-e",
        "ipv6.src",
        "-e",
        "udp.payload",
        "-e",
        "udp.checksum.status",
    ];
    let mut command = std::process::Command::new("tshark");
    command.args(["-n", "-o", "udp.check_checksum:TRUE", "-r"]).arg(capture).args(fields);
    let Ok(output) = command.output() else {
        eprintln!("skipped: no tshark to put fragments together (Debian: tshark)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// A UDP datagram from one of two hosts, with or without a VLAN, that may be fragmented or not.
fn datagram(n: u16, payload: usize, is_v6: bool, vlan: bool, df: bool) -> Packet {
    let (src, dst) = match is_v6 {
        true => ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()),
        false => ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()),
    };
    let mut link = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    link.extend_from_slice(if vlan { &[0x81, 0, 0, 5] } else { &[] });
    link.extend_from_slice(if is_v6 { &[0x86, 0xdd] } else { &[8, 0] });
    let payload: Vec<u8> = (0..payload).map(|i| (i as u16 ^ n) as u8).collect();
    let ip =
        Ip { src, dst, protocol: 17, tos: 0, ttl: 64, id: if n.is_multiple_of(3) { 0 } else { n }, df: df || is_v6 };
    let transport = Transport::Udp { src_port: 40_000 + n, dst_port: 9_999 };
    let mut data = Vec::new();
    render(&Frame { link: &link, ip, transport, payload: &payload, payload_len: payload.len() }, &mut data);
    let ts = Timestamp(1_700_000_000_000_000_000 + i64::from(n) * 1_000_000);
    Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}

#[test]
fn datagrams_above_the_mtu_go_in_fragments_that_others_put_together_again() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out, path) =
        (dir.path().join("whole.pcap"), dir.path().join("out.pcap"), dir.path().join("truth.jsonl"));
    let mut before: Vec<Packet> =
        (0..40).map(|n| datagram(n, 1_400 + usize::from(n) * 200, n.is_multiple_of(2), n % 4 > 1, false)).collect();
    before.push(datagram(40, 3_000, false, false, true));
    traffic::write(&whole, before.iter().cloned());
    let is_long = |packet: &&Packet| packet.data.len() - parse(packet).unwrap().link.len() > 1500;
    let long = before.iter().filter(is_long).count() as u64;
    let args = ["--pcap", whole.to_str().unwrap(), "--mtu", "1500", "--ground-truth", path.to_str().unwrap()];
    let (done, after) = replay(&out, &[&args[..], &["--oversize", "split"]].concat());
    // All but the one that forbids it, which a file takes as it is.
    let told = |what: &str| done[what].as_u64().unwrap();
    assert_eq!((told("oversize_split"), told("oversize_fragmented")), (long - 1, long - 1), "{done}");
    assert_eq!(told("sent"), before.len() as u64 - (long - 1) + told("oversize_segments"), "{done}");
    assert_eq!(after.len() as u64, told("sent"));
    assert_eq!(
        after.iter().filter(|packet| packet.data.len() > 1500 + 18).collect::<Vec<_>>(),
        [before.last().unwrap()]
    );
    // A flow has all fragments of its datagram, and there is no flow of fragments without ports.
    let flows = truth(&path);
    assert_eq!(flows.len(), before.len(), "each has a port of its own");
    let count = |what: &str| flows.iter().map(|flow| flow[what].as_u64().unwrap()).sum::<u64>();
    assert_eq!(count("pkts_toserver"), after.len() as u64);
    assert_eq!(count("bytes_toserver"), after.iter().map(|packet| u64::from(packet.len)).sum::<u64>());
    assert!(flows.iter().all(|flow| flow["src_port"].as_u64() > Some(0)));
    if let (Some(before), Some(after)) = (datagrams(&whole), datagrams(&out)) {
        assert_eq!(before.len(), 41);
        assert!(before.iter().all(|line| line.ends_with("\t1")), "tshark checks checksums: {before:?}");
        assert!(before == after, "{before:?}\n{after:?}");
    }
    if let Some(judged) = tshark(&out) {
        assert!(judged.faults.is_empty(), "{:?}", judged.faults);
    }
}
