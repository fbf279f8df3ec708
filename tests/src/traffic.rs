//! Captures for the tests: small ones made here, and the folder of real ones where it is present.

use std::path::{Path, PathBuf};

use etherparse::PacketBuilder;
use wiremamba_daemon::sink::PacketSink;
use wiremamba_daemon::sink::savefile::{SavefileOptions, SavefileSink};
use wiremamba_daemon::source::file::SavefileSource;
use wiremamba_daemon::source::{Next, PacketSource};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

/// The real captures, or `None` with a line that says so.
pub fn real() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traffic"));
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no folder of real captures beside the project");
    None
}

/// Writes `web/web.pcap` (TCP) and `dns/dns.pcap` (UDP) under `dir`, `flows` flows of 8 packets each.
pub fn write_two_labels(dir: &Path, flows: usize) {
    for label in ["web", "dns"] {
        std::fs::create_dir_all(dir.join(label)).expect("a folder of the test's own");
        let packets = (0..flows).flat_map(|flow| (0..8).map(move |i| packet(label, flow, i)));
        write(&dir.join(label).join(format!("{label}.pcap")), packets);
    }
}

/// Writes a capture.
pub fn write(path: &Path, packets: impl IntoIterator<Item = Packet>) {
    let mut sink = SavefileSink::create(path, SavefileOptions::default()).expect("a path of the test's own");
    for packet in packets {
        sink.send(&packet).expect("there is room");
    }
    sink.finish().expect("there is room");
}

/// Reads a whole capture.
pub fn read(path: &Path) -> Vec<Packet> {
    let mut source = SavefileSource::open(path).expect("a capture");
    let mut packets = Vec::new();
    loop {
        match source.next_packet().expect("a whole capture") {
            Next::Packet(packet) => packets.push(packet),
            Next::Idle => {}
            Next::End => return packets,
        }
    }
}

/// Packet `i` of a flow: valid headers with right checksums, payload that differs from flow to flow.
fn packet(label: &str, flow: usize, i: usize) -> Packet {
    let (client, server) = ([10, 0, 0, 2 + (flow % 200) as u8], [10, 0, 1, 1]);
    let (from, to) = if i.is_multiple_of(2) { (client, server) } else { (server, client) };
    let macs = ([2, 0, 0, 0, 0, from[3]], [2, 0, 0, 0, 0, to[3]]);
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from, to, 64);
    let port = 40_000 + flow as u16;
    let payload: Vec<u8> = format!("{label} {flow} {i}").into_bytes();
    let mut data = Vec::new();
    if label == "dns" {
        let ports = if i.is_multiple_of(2) { (port, 53) } else { (53, port) };
        builder.udp(ports.0, ports.1).write(&mut data, &payload)
    } else {
        let ports = if i.is_multiple_of(2) { (port, 443) } else { (443, port) };
        builder.tcp(ports.0, ports.1, 1000 + i as u32, 65_535).write(&mut data, &payload)
    }
    .expect("writing to memory");
    let ts = Timestamp::from_parts(1_600_000_000 + flow as i64, i as i64 * 1_500_000);
    Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}
