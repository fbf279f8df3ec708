//! Real captures: their packets and flows are those that other programs counted, and hostile files do no harm.
//!
//! The captures lie beside the repository, in `shared/traffic`; without them the tests say so and pass.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use wiremamba_daemon::sink::PacketSink;
use wiremamba_daemon::sink::savefile::{SavefileOptions, SavefileSink};
use wiremamba_daemon::source::collection::{LabelledCapture, ManifestFilter, from_manifest, from_paths};
use wiremamba_daemon::source::file::SavefileSource;
use wiremamba_daemon::source::flows::{CaptureProblem, ReadError, ReadLimits, read_flows};
use wiremamba_daemon::source::{Next, PacketSource, SourceError};
use wiremamba_model::flow::{FlowLimits, dissect, to_ethernet};
use wiremamba_model::packet::{LinkType, Packet};

fn traffic() -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traffic"));
    if !path.join("MANIFEST.csv").exists() {
        eprintln!("skipped: no captures in {}", path.display());
        return None;
    }
    Some(path.to_owned())
}

/// All packets of a file that can be read, and how it ended.
fn read(path: &Path) -> (Vec<Packet>, Result<bool, SourceError>) {
    let mut packets = Vec::new();
    let mut source = match SavefileSource::open(path) {
        Ok(source) => source,
        Err(error) => return (packets, Err(error)),
    };
    loop {
        match source.next_packet() {
            Ok(Next::Packet(packet)) => packets.push(packet),
            Ok(Next::Idle) => unreachable!("a savefile is never idle"),
            Ok(Next::End) => return (packets, Ok(source.truncated_at_end())),
            Err(error) => return (packets, Err(error)),
        }
    }
}

/// Captures where the manifest's count of flows is not the right one, with the right one and why.
const EXCEPTIONS: [(&str, usize); 1] = [
    // The program that counted did not read radiotap. tshark shows one DNS flow of two packets and one mDNS packet.
    ("malformed/zeek-radiotap.pcap", 2),
];

/// The manifest's counts came from capinfos and from a program of its authors.
#[test]
fn packets_and_flows_are_those_of_the_manifest() {
    let Some(traffic) = traffic() else { return };
    let mut reader = csv::Reader::from_path(traffic.join("MANIFEST.csv")).unwrap();
    let mut wrong = Vec::new();
    let mut files = 0;
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.unwrap();
        let number = |column: &str| row[column].parse::<usize>().unwrap();
        let (packets, end) = read(&traffic.join(&row["path"]));
        end.unwrap_or_else(|e| panic!("{}: {e}", row["path"]));
        let keys: HashSet<_> = packets
            .iter()
            .filter_map(|p| dissect(p.linktype, &p.data).ok())
            // The manifest counts 5-tuples with ports.
            .filter(|d| matches!(d.tuple.protocol, 6 | 17) && !d.later_fragment)
            .map(|d| d.tuple.key())
            .collect();
        let truncated = packets.iter().filter(|p| p.is_truncated()).count();
        let found = (packets.len(), keys.len(), truncated);
        let exception = EXCEPTIONS.iter().find(|(path, _)| *path == row["path"]);
        let flows = exception.map_or_else(|| number("flows"), |(_, flows)| *flows);
        let expected = (number("packets"), flows, number("truncated_packets"));
        if found != expected {
            wrong.push(format!("{}: {found:?}, the manifest has {expected:?}", row["path"]));
        }
        files += 1;
    }
    assert!(wrong.is_empty(), "(packets, flows, truncated)\n{}", wrong.join("\n"));
    assert_eq!(files, 165);
}

#[test]
fn a_whole_collection_becomes_labelled_flows_and_every_packet_is_accounted_for() {
    let Some(traffic) = traffic() else { return };
    let captures = from_manifest(&traffic.join("MANIFEST.csv"), &ManifestFilter::default()).unwrap();
    let by_folder = from_paths(std::slice::from_ref(&traffic), None).unwrap();
    assert_eq!(by_folder.len(), 165);
    assert!(
        by_folder
            .iter()
            .all(|c| captures.iter().any(|m| m.label == c.label && m.path.ends_with(c.path.file_name().unwrap())))
    );

    let mut last = Default::default();
    let set = read_flows(&captures, &ReadLimits::default(), |progress| last = *progress).unwrap();
    assert_eq!((set.labels.len(), set.captures_read, set.captures_failed), (50, 165, 0));
    assert_eq!((set.counters.packets, set.counters.packets_truncated), (387_884, 151_506)); // README of the captures
    assert_eq!((last.captures_done, last.captures_total, last.packets), (165, 165, 387_884));
    let in_flows: usize = set.flows.iter().map(|f| f.flow.packets.len()).sum();
    let counters = &set.counters;
    assert_eq!(in_flows as u64 + counters.packets_without_flow() + counters.packets_over_flow_max, counters.packets);
    assert_eq!(counters.flows(), set.flows.len() as u64);
    assert_eq!(counters.packets_unsupported_linktype, 0);
    assert!(set.flows.is_sorted_by_key(|f| (f.capture, f.flow.start())));
    assert!(set.flows.iter().all(|f| set.labels[f.label] == captures[f.capture].label));
    eprintln!("{counters:#?}");

    let problems: Vec<_> =
        set.warnings.iter().map(|w| format!("{}: {}", w.path.file_name().unwrap().display(), w.problem)).collect();
    assert_eq!(
        problems,
        [
            "iti-melsoft_129_clean.pcap: the file is cut in the middle of packet 2042", // capinfos: after 2041
            "zeek-empty.pcap: the capture has no packets",
        ]
    );
}

#[test]
fn limits_of_a_collection_cut_at_the_same_packet_whatever_is_read_side_by_side() {
    let Some(traffic) = traffic() else { return };
    let captures = from_paths(&[traffic.join("dns"), traffic.join("web"), traffic.join("ssh")], None).unwrap();
    for limits in [
        ReadLimits { packets_max: 2_500, ..ReadLimits::default() },
        ReadLimits { bytes_max: 1_000_000, ..ReadLimits::default() },
    ] {
        let read = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| read_flows(&captures, &limits, |_| ())).unwrap()
        };
        let (one, four) = (read(1), read(4));
        assert_eq!(one.flows, four.flows);
        assert_eq!((one.counters, one.bytes), (four.counters, four.bytes));
        assert!(one.counters.packets <= limits.packets_max && one.bytes <= limits.bytes_max);
        assert!(one.captures_left_out > 1);
        assert!(one.warnings.iter().any(|w| matches!(w.problem, CaptureProblem::LeftOut { packets } if packets > 0)));
    }
}

#[test]
fn what_is_no_capture_is_named_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = SavefileSource::open(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        error
    };
    assert!(matches!(error("empty.pcap", b""), SourceError::Empty { .. }));
    assert!(matches!(
        error("text.pcap", b"a text of some length, longer than a header"),
        SourceError::NotACapture { .. }
    ));
    assert!(matches!(error("short", b"ab"), SourceError::NotACapture { .. }));
    assert!(error("z.pcap.gz", &[0x1f, 0x8b, 8, 0]).to_string().contains("gzip"));
    assert!(matches!(error("header.pcap", &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0]), SourceError::Header { .. }));
    assert!(matches!(SavefileSource::open(dir.path()), Err(SourceError::Open { .. })));
    assert!(matches!(SavefileSource::open(dir.path().join("no")), Err(SourceError::Open { .. })));

    let of = |names: &[&str]| {
        let captures: Vec<_> =
            names.iter().map(|n| LabelledCapture { path: dir.path().join(n), label: "x".to_owned() }).collect();
        read_flows(&captures, &ReadLimits::default(), |_| ())
    };
    assert!(matches!(
        of(&["empty.pcap", "short"]),
        Err(ReadError::NoneReadable { captures: 2, first: SourceError::Empty { .. } })
    ));
    assert!(matches!(of(&[]), Err(ReadError::NoCaptures)));
    let mut sink = SavefileSink::create(dir.path().join("good"), SavefileOptions::default()).unwrap();
    sink.send(&udp_frame(1)).unwrap();
    sink.finish().unwrap();
    let set = of(&["empty.pcap", "good", "text.pcap"]).unwrap();
    assert_eq!((set.captures_read, set.captures_failed, set.flows.len(), set.warnings.len()), (1, 2, 1, 2));
}

/// A frame of an Ethernet header, IPv4 and UDP.
fn udp_frame(ts: i64) -> Packet {
    let mut data = vec![7; 12];
    data.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0, 53, 0, 8, 0, 0]);
    Packet { ts: wiremamba_model::packet::Timestamp(ts), linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}

#[test]
fn a_capture_cut_anywhere_gives_the_packets_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.pcap");
    let whole = [udp_frame(1), udp_frame(2)];
    let mut sink = SavefileSink::create(&path, SavefileOptions::default()).unwrap();
    whole.iter().for_each(|packet| sink.send(packet).unwrap());
    sink.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    // File header 24 bytes, record header 16.
    let first_end = 24 + 16 + whole[0].data.len();
    for (len, packets, cut) in
        [(24, 0, false), (25, 0, true), (first_end - 1, 0, true), (first_end, 1, false), (first_end + 17, 1, true)]
    {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let (found, end) = read(&path);
        assert_eq!((found.len(), end.unwrap()), (packets, cut), "{len} bytes");
        assert_eq!(found, whole[..packets]);
    }

    let bytes = pcapng(&[1], &[(0, 5), (0, 6)]);
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let (found, end) = read(&path);
    assert_eq!((found.len(), end.unwrap()), (1, true));
}

/// pcapng blocks (draft-ietf-opsawg-pcapng, section 4), little-endian.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (12 + body.len()) as u32;
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), body, &len.to_le_bytes()].concat()
}

fn pcapng(interfaces: &[u16], packets: &[(u32, u64)]) -> Vec<u8> {
    let mut ret = block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    for linktype in interfaces {
        // Option if_tsresol (9): 10^-9 s.
        let body = [&linktype.to_le_bytes()[..], &[0, 0, 0, 0, 4, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]].concat();
        ret.extend(block(1, &body));
    }
    for (interface, ts) in packets {
        let mut body = Vec::new();
        for word in [*interface, (ts >> 32) as u32, *ts as u32, 4, 60] {
            body.extend(word.to_le_bytes());
        }
        body.extend([0x45, 1, 2, 3]);
        ret.extend(block(6, &body));
    }
    ret
}

#[test]
fn pcapng_times_are_nanoseconds_over_all_interfaces_of_one_link_type() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pcapng(&[1, 1], &[(0, 1_700_000_000_123_456_789), (1, 5)])).unwrap();
    let (packets, end) = read(file.path());
    assert!(!end.unwrap());
    let found: Vec<_> = packets.iter().map(|p| (p.ts.0, p.linktype, p.len, p.data.len())).collect();
    assert_eq!(found, [(1_700_000_000_123_456_789, LinkType::ETHERNET, 60, 4), (5, LinkType::ETHERNET, 60, 4)]);
}

/// The way of `tool | wiremamba … --data /dev/fd/N`: nothing can be looked at before it is read.
#[test]
fn a_pipe_is_read_like_a_file_and_may_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let through = |bytes: Vec<u8>| {
        let writer = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::write(fifo, bytes)
        });
        let ret = read(&fifo);
        writer.join().unwrap().unwrap();
        ret
    };
    let (packets, end) = through(pcapng(&[1], &[(0, 5), (0, 6)]));
    assert_eq!((packets.len(), end.unwrap()), (2, false));
    assert!(matches!(through(Vec::new()).1, Err(SourceError::Empty { .. })));
    assert!(matches!(through(b"some text, and not a capture at all".to_vec()).1, Err(SourceError::NotACapture { .. })));
}

#[test]
fn mixed_link_types_are_a_clear_error_and_damage_names_the_packet() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let one = pcapng(&[1], &[(0, 5)]);
    let other_interface = &pcapng(&[101], &[(1, 6)])[28..];
    std::fs::write(file.path(), [&one[..], other_interface].concat()).unwrap();
    let (packets, end) = read(file.path());
    assert_eq!(packets.len(), 1);
    let error = end.unwrap_err();
    assert!(matches!(error, SourceError::MixedLinkTypes { packets: 1, .. }), "{error:?}");

    let damaged = [&one[..], &[6, 0, 0, 0, 3, 0, 0, 0]].concat(); // a block of 3 bytes
    std::fs::write(file.path(), damaged).unwrap();
    let mut source = SavefileSource::open(file.path()).unwrap();
    assert!(matches!(source.next_packet(), Ok(Next::Packet(_))));
    assert!(matches!(source.next_packet(), Err(SourceError::Damaged { packets: 1, .. })));
    assert!(matches!(source.next_packet(), Ok(Next::End)), "the end stays the end");
}

#[test]
fn every_malformed_capture_ends_as_documented() {
    let Some(traffic) = traffic() else { return };
    let limits = FlowLimits { flows_max: 50, packets_per_flow_max: 100, ..FlowLimits::default() };
    for capture in from_paths(&[traffic.join("malformed")], None).unwrap() {
        let (packets, end) = read(&capture.path);
        let is_cut = capture.path.ends_with("iti-melsoft_129_clean.pcap");
        assert_eq!(end.unwrap(), is_cut, "{}", capture.path.display());
        let limits = ReadLimits { flow: limits.clone(), ..ReadLimits::default() };
        let set = read_flows(&[capture], &limits, |_| ()).unwrap();
        assert_eq!(set.counters.packets, packets.len() as u64);
        for packet in &packets {
            if let Some(frame) = to_ethernet(packet) {
                assert!(frame.linktype == LinkType::ETHERNET && frame.data.len() <= frame.len as usize);
                let tuple = |p: &Packet| dissect(p.linktype, &p.data).map(|d| d.tuple);
                assert_eq!(tuple(&frame), tuple(packet));
            }
        }
    }
}

/// What capinfos and tshark, which do not use libpcap for files, read in our file is what they read in the original.
#[test]
fn other_programs_read_what_was_written() {
    let Some(traffic) = traffic() else { return };
    if Command::new("tshark").arg("-v").output().is_err() {
        eprintln!("skipped: no tshark");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.pcap");
    for name in ["zoom/ntop-zoom.pcap", "attack/ntop-log4j-webapp-exploit.pcap", "malformed/zeek-linux_dlt_sll2.pcap"] {
        let original = traffic.join(name);
        let (packets, _) = read(&original);
        let mut sink = SavefileSink::create(&copy, SavefileOptions::default()).unwrap();
        packets.iter().for_each(|packet| sink.send(packet).unwrap());
        assert_eq!(sink.finish().unwrap().packets, packets.len() as u64);
        let shown = |path: &Path| {
            let fields = "frame.time_epoch frame.len frame.cap_len ip.src ip.id tcp.seq_raw udp.checksum";
            let fields = fields.split(' ').flat_map(|field| ["-e", field]);
            let output =
                Command::new("tshark").args(["-n", "-T", "fields"]).args(fields).arg("-r").arg(path).output().unwrap();
            assert!(output.status.success());
            output.stdout
        };
        let lines = shown(&copy);
        assert_eq!(lines.iter().filter(|b| **b == b'\n').count(), packets.len());
        assert!(lines == shown(&original), "{name}");
    }
}
