//! Promise: whoever saw the first packet of a QUIC conversation can read its hellos, of generated ones as of real ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use etherparse::PacketBuilder;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_model::wire::parse::{Transport, parse};
use wiremamba_model::wire::quic::{Keys, Version};
use wiremamba_tests::program::{succeed, train_tiny};
use wiremamba_tests::traffic;

const FLOWS: usize = 20;
/// An event of Suricata's for each version, name or other thing that it reads.
const SURICATA: &str = "%YAML 1.1\n---\noutputs:\n  - eve-log:\n      enabled: yes\n      filetype: regular\n      filename: eve.json\n      \
                        types: [quic]\napp-layer:\n  protocols:\n    quic:\n      enabled: yes\n";

/// Datagrams of a conversation that nobody can read: headers of version 1, or nothing but chance, and chance behind them.
fn packets(flow: usize) -> Vec<Packet> {
    let mut chance = flow as u32 | 1;
    let mut byte = || {
        chance ^= chance << 13;
        chance ^= chance >> 17;
        chance ^= chance << 5;
        chance as u8
    };
    let mut datagram = |head: &[u8], len: usize| {
        let mut ret = head.to_vec();
        ret.resize_with(len, &mut byte);
        ret
    };
    // Half of the flows say their headers, with identifiers too short to look like chance.
    let head: &[u8] = if flow.is_multiple_of(2) { &[0xc3, 0, 0, 0, 1, 2, 7, 7, 2, 5, 5, 0, 0x44, 0xa4] } else { &[] };
    let datagrams = [
        (true, datagram(head, 14 + 0x4a4)),
        (false, datagram(&[], 1250)),
        (true, datagram(&[], 1250)),
        (true, datagram(&[], 90)),
        (false, datagram(&[], 400)),
    ];
    let frame = |(i, (from_client, payload)): (usize, (bool, Vec<u8>))| {
        let (client, server) = ([10, 0, 0, 2 + flow as u8], [10, 0, 1, 1]);
        let port = 40_000 + flow as u16;
        let (from, to, ports) = if from_client { (client, server, (port, 443)) } else { (server, client, (443, port)) };
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, from[3]], [2, 0, 0, 0, 0, to[3]]).ipv4(from, to, 64);
        let mut data = Vec::new();
        builder.udp(ports.0, ports.1).write(&mut data, &payload).expect("writing to memory");
        let ts = Timestamp::from_parts(1_600_000_000 + flow as i64, i as i64 * 20_000_000);
        Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    };
    datagrams.into_iter().enumerate().map(frame).collect()
}

#[test]
fn tshark_and_suricata_read_both_hellos_of_every_generated_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let (captures, model, out) = (dir.path().join("captures"), dir.path().join("model"), dir.path().join("out.pcap"));
    std::fs::create_dir_all(captures.join("quic")).unwrap();
    let capture = captures.join("quic/quic.pcap");
    traffic::write(&capture, (0..FLOWS).flat_map(packets));
    train_tiny(&captures, &model, 2);
    // What is prompted with is rendered as what is generated is.
    let flows = FLOWS.to_string();
    let args =
        ["generate", "--model", model.to_str().unwrap(), "--prompt", capture.to_str().unwrap(), "--flows", &flows];
    let more = ["--prompt-packets", "5", "--flow-packets-max", "5", "-q", "-w", out.to_str().unwrap()];
    succeed(&[&args[..], &more].concat());
    assert_eq!(traffic::read(&out).len(), 5 * FLOWS);

    if let Some(lines) = tshark(&out) {
        let hellos = |kind: &str| lines.iter().filter(|fields| fields[0].split(',').any(|found| found == kind)).count();
        assert_eq!((hellos("1"), hellos("2")), (FLOWS, FLOWS), "{lines:?}");
        assert!(lines.iter().all(|fields| fields[2].is_empty()), "malformed: {lines:?}");
        let names = lines.iter().filter(|fields| fields[1].ends_with(".example"));
        assert_eq!(names.count(), FLOWS);
    }
    let Some(events) = suricata(&out, dir.path()) else { return };
    let named =
        events.iter().filter(|event| event["quic"]["sni"].as_str().is_some_and(|sni| sni.ends_with(".example")));
    assert_eq!(named.count(), FLOWS, "{events:?}");
}

/// Kinds of messages, server's name and faults of each frame.
fn tshark(capture: &Path) -> Option<Vec<Vec<String>>> {
    let fields = ["tls.handshake.type", "tls.handshake.extensions_server_name", "_ws.malformed"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(capture).args(["-T", "fields"]).args(fields.iter().flat_map(|field| ["-e", field]));
    let Ok(output) = command.output() else {
        eprintln!("skipped: no tshark to judge (Debian: tshark)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout);
    Some(lines.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

/// Suricata's events.
fn suricata(capture: &Path, dir: &Path) -> Option<Vec<serde_json::Value>> {
    std::fs::write(dir.join("suricata.yaml"), SURICATA).unwrap();
    let mut command = Command::new("suricata");
    command
        .current_dir(dir)
        .args(["-c", "suricata.yaml", "-k", "all", "-S", "/dev/null", "-l", ".", "-r"])
        .arg(capture);
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no suricata (Debian package suricata, in the backports of Debian 12)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = std::fs::read_to_string(dir.join("eve.json")).unwrap();
    Some(events.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The keys are right for whatever real clients sent: what they sealed is opened, and nothing else is.
#[test]
fn first_packets_of_real_clients_are_opened() {
    let Some(real) = traffic::real() else { return };
    let mut opened: BTreeMap<u32, [usize; 2]> = BTreeMap::new();
    for folder in ["quic", "facebook", "dns", "snapchat", "streaming_other"] {
        for entry in std::fs::read_dir(real.join(folder)).unwrap() {
            for packet in traffic::read(&entry.unwrap().path()) {
                let Ok(frame) = parse(&packet) else { continue };
                let Transport::Udp { dst_port: 443 | 784 | 853 | 4433 | 4434, .. } = frame.transport else { continue };
                let Some((version, is_open)) = open(frame.payload) else { continue };
                opened.entry(version).or_default()[usize::from(is_open)] += 1;
            }
        }
    }
    eprintln!("opened, by version, [not, yes]: {opened:x?}");
    for version in [1, 0xff00_001d, 0xface_b001, 0xface_b002] {
        // What is sent after an answer is sealed by keys from the first packet, which is not followed here.
        assert!(opened[&version][1] >= 1, "{version:#x}");
    }
}

/// Whether a client's Initial packet opens as its first, of which version it is; `None` where it is no such packet.
fn open(datagram: &[u8]) -> Option<(u32, bool)> {
    let number = u32::from_be_bytes(datagram.get(1..5)?.try_into().unwrap());
    let version = Version::find(number).filter(|_| datagram[0] & 0xf0 == 0xc0)?;
    let mut rest = &datagram[5..];
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n)?;
        rest = left;
        Some(taken)
    };
    let id_len = take(1)?[0];
    let id = take(id_len.into())?;
    let other_len = take(1)?[0];
    take(other_len.into())?;
    // Of tokens only short ones, and of packets only ones of 64 bytes to 16 kB.
    let token_len = take(1)?[0];
    take(usize::from(token_len & 0x3f) << if token_len & 0xc0 == 0 { 0 } else { 16 })?;
    let len = take(2).filter(|len| len[0] & 0xc0 == 0x40)?;
    let len = usize::from(u16::from_be_bytes([len[0] & 0x3f, len[1]]));
    let at = datagram.len() - rest.len();
    let [client, _] = Keys::initial(version, id);
    let payload = client.open(datagram.get(..at + len)?, at);
    Some((number, payload.is_some()))
}
