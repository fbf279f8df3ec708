use super::*;

use etherparse::PacketBuilder;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use crate::sink::PacketSink;
use crate::sink::savefile::{SavefileOptions, SavefileSink};

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];
/// Byte of the checksum in a TCP header behind Ethernet and IPv4 without options.
const TCP_CHECKSUM: usize = 14 + 20 + 16;

/// The first name of RFC 1035's example, asked for and not answered.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01F\x03ISI\x04ARPA\x00\x00\x01\x00\x01";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn dns(flows: u16) -> Vec<Vec<u8>> {
    (0..flows)
        .map(|flow| {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, SERVER, 64).udp(40_000 + flow, 53);
            let mut packet = Vec::new();
            builder.write(&mut packet, QUERY).unwrap();
            packet
        })
        .collect()
}

/// One connection from handshake to close.
fn http() -> Vec<Vec<u8>> {
    let segment = |up: bool, seq: u32, ack: Option<u32>, flags: &str, payload: &[u8]| {
        let (source, destination, ports) =
            if up { (CLIENT, SERVER, (40_000, 80)) } else { (SERVER, CLIENT, (80, 40_000)) };
        let mut builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64).tcp(ports.0, ports.1, seq, 8192);
        if let Some(ack) = ack {
            builder = builder.ack(ack);
        }
        for flag in flags.chars() {
            builder = match flag {
                'S' => builder.syn(),
                'F' => builder.fin(),
                _ => builder.psh(),
            };
        }
        let mut packet = Vec::new();
        builder.write(&mut packet, payload).unwrap();
        packet
    };
    let (up, down) = (1001 + REQUEST.len() as u32, 9001 + RESPONSE.len() as u32);
    vec![
        segment(true, 1000, None, "S", b""),
        segment(false, 9000, Some(1001), "S", b""),
        segment(true, 1001, Some(9001), "", b""),
        segment(true, 1001, Some(9001), "P", REQUEST),
        segment(false, 9001, Some(up), "P", RESPONSE),
        segment(true, up, Some(down), "F", b""),
        segment(false, down, Some(up + 1), "F", b""),
        segment(true, up + 1, Some(down + 1), "", b""),
    ]
}

/// Writes a capture under a name that looks like options.
fn capture(folder: &Path, name: &str, packets: &[Vec<u8>]) -> PathBuf {
    let path = folder.join(name);
    let mut sink = SavefileSink::create(&path, SavefileOptions::default()).unwrap();
    for (number, data) in packets.iter().enumerate() {
        let ts = Timestamp(number as i64 * 1_000_000);
        let packet = Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data: data.clone() };
        sink.send(&packet).unwrap();
    }
    sink.finish().unwrap();
    path
}

fn judged(real: &[PathBuf], synthetic: &[PathBuf]) -> JudgesReport {
    judge(real, synthetic, &JudgeLimits::default(), |text| eprintln!("{text}"))
}

/// The judgement, or `None` with a line where the program is not installed.
fn installed<T: std::fmt::Debug>(outcome: Outcome<T>) -> Option<T> {
    match outcome {
        Outcome::Judged(report) => Some(report),
        Outcome::Absent { program, hint, .. } => {
            eprintln!("skipped: no {program} ({hint})");
            None
        }
        Outcome::Failed { reason } => panic!("{reason}"),
    }
}

#[test]
fn a_capture_is_like_itself_and_unlike_another_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let dns = [capture(folder.path(), "-i dns,1.pcap", &dns(2)), capture(folder.path(), "dns 2.pcap", &dns(3))];
    let http = [capture(folder.path(), "http.pcap", &http())];
    let (same, different) = (judged(&dns, &dns), judged(&dns, &http));
    assert_eq!((different.real.captures, different.real.packets, different.synthetic.packets), (2, 5, 8));

    if let (Some(same), Some(different)) = (installed(same.tshark), installed(different.tshark)) {
        assert_eq!((same.protocol_path_overlap, different.protocol_path_overlap), (Some(1.0), Some(0.0)));
        assert_eq!((same.real.frames, different.synthetic.frames), (5, 8));
        assert_eq!(same.real.protocol_paths.top[0].what, "eth:ethertype:ip:udp:dns");
        assert!(different.synthetic.protocol_paths.top.iter().any(|row| row.what.contains(":http")), "{different:?}");
    }
    if let (Some(same), Some(different)) = (installed(same.ndpi), installed(different.ndpi)) {
        assert_eq!((same.protocol_overlap, different.protocol_overlap), (Some(1.0), Some(0.0)));
        // Two captures are two views: flows of the same 5-tuple in both are counted in both.
        assert_eq!((same.real.flows, different.synthetic.flows), (5, 1));
        assert_eq!((different.real.protocols.top[0].what.as_str(), different.real.unknown_share), ("DNS", 0.0));
        assert_eq!(different.synthetic.protocols.top[0].what, "HTTP");
    }
    if let (Some(same), Some(different)) = (installed(same.suricata), installed(different.suricata)) {
        assert_eq!((same.app_proto_overlap, different.app_proto_overlap), (Some(1.0), Some(0.0)));
        assert_eq!((same.real.packets, different.synthetic.flows), (5, 1));
    }
    if let (Some(same), Some(different)) = (installed(same.zeek), installed(different.zeek)) {
        assert_eq!((same.service_overlap, different.service_overlap), (Some(1.0), Some(0.0)));
        assert_eq!(different.synthetic.connections, 1);
    }
}

#[test]
fn a_good_capture_has_no_fault_and_a_flipped_checksum_is_exactly_one() {
    let folder = tempfile::tempdir().unwrap();
    let good = http();
    let mut flipped = good.clone();
    flipped[3][TCP_CHECKSUM] ^= 1;
    let report =
        judged(&[capture(folder.path(), "good.pcap", &good)], &[capture(folder.path(), "flipped.pcap", &flipped)]);
    let Some(report) = installed(report.tshark) else { return };
    let bad = |side: &TsharkSide, protocol| side.checksums[protocol].bad;
    assert_eq!((bad(&report.real, "ip"), bad(&report.real, "tcp")), (0, 0));
    assert_eq!(report.real.checksums["tcp"].good, 8);
    assert_eq!((report.real.errors.total, report.real.warnings.total, report.real.malformed), (0, 0, 0));
    assert_eq!((bad(&report.synthetic, "ip"), bad(&report.synthetic, "tcp")), (0, 1));
    assert_eq!((report.synthetic.errors.total, report.synthetic.errors.per_1000), (1, 125.0));
    assert_eq!(report.synthetic.errors.top[0].what, "Bad checksum [should be 0x]");
}

#[test]
fn a_program_that_is_not_there_is_named_with_its_package() {
    let folder = tempfile::tempdir().unwrap();
    let capture = [capture(folder.path(), "a.pcap", &dns(1))];
    let mut heard = Vec::new();
    let limits = JudgeLimits::default();
    let report = judge_with(folder.path().as_os_str(), &capture, &capture, &limits, |text| heard.push(text.to_owned()));
    let Outcome::Absent { program, package, hint } = report.tshark else { panic!("{report:?}") };
    assert_eq!((program.as_str(), package.as_str(), hint.as_str()), ("tshark", "tshark", "Debian: tshark"));
    assert!(matches!(&report.ndpi, Outcome::Absent { package, .. } if package == "libndpi-bin"));
    assert!(matches!(&report.suricata, Outcome::Absent { package, .. } if package == "suricata"));
    assert!(matches!(&report.zeek, Outcome::Absent { package, .. } if package == "zeek"));
    assert_eq!(heard.len(), 4, "{heard:?}");
    let json = serde_json::to_value(&report.ndpi).unwrap();
    assert_eq!((&json["outcome"], &json["program"]), (&"absent".into(), &"ndpiReader".into()));
}

#[test]
fn a_limit_that_passes_is_a_failure_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let capture = [capture(folder.path(), "a.pcap", &dns(1))];
    let limits = JudgeLimits { seconds_per_program: 0, ..JudgeLimits::default() };
    match judge(&capture, &capture, &limits, |_| ()).tshark {
        Outcome::Failed { reason } => assert_eq!(reason, "killed at the limit of 0 s for this program"),
        Outcome::Absent { .. } => eprintln!("skipped: no tshark (Debian: tshark)"),
        Outcome::Judged(report) => panic!("{report:?}"),
    }
}

#[test]
fn a_side_without_packets_is_a_failure_and_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let some = [capture(folder.path(), "a.pcap", &dns(1))];
    let none = [capture(folder.path(), "none.pcap", &[])];
    let report = judged(&some, &none);
    assert_eq!((report.synthetic.captures, report.synthetic.unread), (0, 1));
    assert!(!matches!(report.tshark, Outcome::Judged(_)), "{:?}", report.tshark);
}

/// Says how many lines of a capture hold `ISI`, and fails where none does.
struct Grep;

impl Judge for Grep {
    const KNOWN: Known = Known { program: "grep", package: "grep", hint: "Debian: grep", version_option: "--version" };
    type Seen = u64;
    type Report = (Asked, u64, u64);

    fn look(runner: &Runner, capture: &Path, folder: &Path, seen: &mut u64) -> Result<(), RunError> {
        runner.run(runner.command(folder).args(["-a", "ISI"]).arg(capture), |_| *seen += 1)
    }

    fn report(asked: Asked, real: &u64, synthetic: &u64) -> Self::Report {
        (asked, *real, *synthetic)
    }
}

#[test]
fn a_capture_that_a_program_fails_on_is_in_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let good = capture(folder.path(), "good.pcap", &dns(1));
    let bad = capture(folder.path(), "bad.pcap", &http());
    let search = std::env::var_os("PATH").unwrap();
    let asked = |real: &[PathBuf], synthetic: &[PathBuf]| {
        let sides = Sides::prepare(real, synthetic, 100, &mut |_| ()).unwrap();
        ask::<Grep>(&search, &sides, &JudgeLimits::default(), &mut |_| ())
    };
    let Outcome::Judged((report, 1, 1)) = asked(&[bad.clone(), good.clone()], std::slice::from_ref(&good)) else {
        panic!("one capture of each side can be judged");
    };
    assert!(report.version.contains("grep"), "{report:?}");
    let reason = "exit status: 1: no reason given".to_owned();
    assert_eq!(report.failed_named, [UnreadCapture { name: bad.display().to_string(), reason }]);
    assert!(matches!(asked(&[good], &[bad]), Outcome::Failed { reason } if reason.contains("bad.pcap")));
}
