//! Promise: `eval` sees what is wrong with traffic, each measure what it is for and not the rest.

use std::path::{Path, PathBuf};

use etherparse::{IpHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::program::{fail, json, succeed};
use wiremamba_tests::traffic;

const FLOWS: usize = 60;

/// Whole TCP connections: handshake, a few requests with their answers, FIN both ways.
fn connections(seed: u64) -> Vec<Packet> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut packets = Vec::new();
    for flow in 0..FLOWS {
        let mut connection = Connection::new(flow, &mut rng);
        connection.send(true, "S", 0, &mut rng);
        connection.send(false, "SA", 0, &mut rng);
        connection.send(true, "A", 0, &mut rng);
        for _ in 0..rng.random_range(1..5) {
            let (asked, answered) = (rng.random_range(40..400), rng.random_range(100..1400));
            connection.send(true, "PA", asked, &mut rng);
            connection.send(false, "PA", answered, &mut rng);
            connection.send(true, "A", 0, &mut rng);
        }
        connection.send(true, "FA", 0, &mut rng);
        connection.send(false, "FA", 0, &mut rng);
        connection.send(true, "A", 0, &mut rng);
        packets.append(&mut connection.packets);
    }
    packets.sort_by_key(|p| p.ts);
    packets
}

struct Connection {
    client: ([u8; 4], u16),
    server: ([u8; 4], u16),
    seq: [u32; 2],
    now: Timestamp,
    packets: Vec<Packet>,
}

impl Connection {
    fn new(flow: usize, rng: &mut ChaCha8Rng) -> Self {
        let start = Timestamp::from_parts(1_700_000_000 + flow as i64, rng.random_range(0..500_000_000));
        Self {
            client: ([10, 1, rng.random(), rng.random_range(1..255)], rng.random_range(40_000..60_000)),
            server: ([10, 2, rng.random(), rng.random_range(1..255)], 8080),
            seq: [rng.random(), rng.random()],
            now: start,
            packets: Vec::new(),
        }
    }

    fn send(&mut self, up: bool, flags: &str, len: usize, rng: &mut ChaCha8Rng) {
        let (from, to) = if up { (self.client, self.server) } else { (self.server, self.client) };
        let (me, peer) = if up { (0, 1) } else { (1, 0) };
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut tcp = link.ipv4(from.0, to.0, 64).tcp(from.1, to.1, self.seq[me], 29_200);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(self.seq[peer]),
                'F' => tcp.fin(),
                _ => tcp.psh(),
            };
        }
        let payload: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        let mut data = Vec::new();
        tcp.write(&mut data, &payload).expect("writing to memory");
        let uses_one = flags.contains(['S', 'F']);
        self.seq[me] = self.seq[me].wrapping_add(len as u32 + u32::from(uses_one));
        self.now = self.now.plus_nanos(rng.random_range(1_000..50_000_000));
        self.packets.push(Packet { ts: self.now, linktype: LinkType::ETHERNET, len: data.len() as u32, data });
    }
}

/// The packet with its TCP header changed and its checksum right again.
fn with_tcp(packet: &Packet, change: impl Fn(&mut etherparse::TcpHeader)) -> Packet {
    let mut headers = PacketHeaders::from_ethernet_slice(&packet.data).expect("made above");
    let (Some(link), Some(etherparse::NetHeaders::Ipv4(ip, extensions)), Some(TransportHeader::Tcp(tcp))) =
        (&headers.link, &headers.net, &mut headers.transport)
    else {
        panic!("made above as TCP over IPv4")
    };
    change(tcp);
    tcp.checksum = tcp.calc_checksum_ipv4(ip, headers.payload.slice()).expect("short enough");
    let mut data = Vec::new();
    link.write(&mut data).expect("writing to memory");
    IpHeaders::Ipv4(ip.clone(), extensions.clone()).write(&mut data).expect("writing to memory");
    tcp.write(&mut data).expect("writing to memory");
    data.extend_from_slice(headers.payload.slice());
    Packet { data, ..packet.clone() }
}

/// What `eval` says of a capture beside another.
struct Bench {
    dir: tempfile::TempDir,
    real: Vec<Packet>,
}

impl Bench {
    fn new() -> Self {
        let ret = Self { dir: tempfile::tempdir().unwrap(), real: connections(1) };
        traffic::write(&ret.path("real.pcap"), ret.real.clone());
        ret
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn eval(&self, synthetic: impl IntoIterator<Item = Packet>, more: &[&str]) -> Value {
        let path = self.path("synthetic.pcap");
        traffic::write(&path, synthetic);
        self.eval_file(&path, more)
    }

    fn eval_file(&self, synthetic: &Path, more: &[&str]) -> Value {
        let (real, synthetic) = (self.path("real.pcap"), synthetic.to_str().unwrap().to_owned());
        let args = ["eval", "-q", "--real", real.to_str().unwrap(), "--synthetic", &synthetic, "--json", "-"];
        json(&succeed(&[&args, more].concat()))
    }
}

/// The figures that the tests watch.
#[derive(Debug, PartialEq)]
struct Figures {
    bits: f64,
    positional: f64,
    structure: f64,
    packets_valid: f64,
    flows_valid: f64,
    mean_ks: f64,
}

fn figures(report: &Value) -> Figures {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
    Figures {
        bits: number("/similarity/bit_all/jsd"),
        positional: number("/similarity/bit_positional/jsd"),
        structure: number("/similarity/structure/jsd"),
        packets_valid: number("/validity/synthetic/packets_valid_pct"),
        flows_valid: number("/validity/synthetic/flows_valid_pct"),
        mean_ks: number("/timing/mean_ks"),
    }
}

const PERFECT: Figures =
    Figures { bits: 0.0, positional: 0.0, structure: 0.0, packets_valid: 100.0, flows_valid: 100.0, mean_ks: 0.0 };

#[test]
fn a_copy_is_perfect_but_for_memory() {
    let bench = Bench::new();
    let real = bench.path("real.pcap");
    traffic::write(&bench.path("train.pcap"), connections(2));
    let train = ["--train", bench.path("train.pcap").to_str().unwrap()].map(str::to_owned);
    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    let copied = bench.eval(bench.real.clone(), &train);
    assert_eq!(figures(&copied), PERFECT);
    assert_eq!(copied["validity"]["synthetic"]["tcp_complete_pct"], 100.0);
    assert!(copied["similarity"]["floor"]["bit_all"]["jsd"].as_f64().unwrap() > 0.0);
    assert_eq!(copied["memory"]["synthetic"]["identical_frames_pct"], 0.0);

    // What was trained on comes out again: nothing else says so.
    let parrot = bench.eval(connections(2), &train);
    let memory = &parrot["memory"];
    assert_eq!(memory["synthetic"]["identical_frames_pct"], 100.0);
    assert_eq!(memory["synthetic"]["identical_payloads_pct"], 100.0);
    assert_eq!(memory["neighbour_ratio"], 0.0);
    assert_eq!(memory["real"]["identical_payloads_pct"], 0.0);
    let other = bench.eval(connections(3), &train);
    assert!(other["memory"]["neighbour_ratio"].as_f64().unwrap() > 0.8, "{}", other["memory"]);
    let (parrot, other) = (figures(&parrot), figures(&other));
    assert_eq!((parrot.packets_valid, parrot.flows_valid), (other.packets_valid, other.flows_valid));
    assert!((parrot.mean_ks - other.mean_ks).abs() < 0.1 && (parrot.structure - other.structure).abs() < 0.1);
    drop(real);
}

#[test]
fn a_wrong_checksum_moves_validity_alone() {
    let bench = Bench::new();
    let mut packets = bench.real.clone();
    let damaged = packets.len().div_ceil(10);
    // The checksum of the TCP header, behind 14 + 20 bytes.
    packets.iter_mut().step_by(10).for_each(|p| p.data[14 + 20 + 16] ^= 0x55);
    let report = bench.eval(packets, &[]);
    let figures = figures(&report);
    let expected = 100.0 * (1.0 - damaged as f64 / bench.real.len() as f64);
    assert!((figures.packets_valid - expected).abs() < 1e-9, "{figures:?}");
    assert!(figures.flows_valid < 100.0);
    assert_eq!((figures.structure, figures.mean_ks), (0.0, 0.0));
    assert_eq!(report["validity"]["synthetic"]["packet_faults"].as_object().unwrap().len(), 1);
}

#[test]
fn shuffled_packets_move_what_sees_order_and_not_the_mean_over_bits() {
    let bench = Bench::new();
    let mut data: Vec<Vec<u8>> = bench.real.iter().map(|p| p.data.clone()).collect();
    data.shuffle(&mut ChaCha8Rng::seed_from_u64(5));
    let packets = bench.real.iter().zip(data).map(|(p, data)| Packet { len: data.len() as u32, data, ..p.clone() });
    let figures = figures(&bench.eval(packets, &[]));
    assert_eq!((figures.bits, figures.packets_valid), (0.0, 100.0), "{figures:?}");
    assert!(figures.positional > 0.02 && figures.flows_valid < 20.0 && figures.mean_ks > 0.2, "{figures:?}");
}

#[test]
fn sequence_numbers_one_too_high_move_flows_alone() {
    let bench = Bench::new();
    let packets: Vec<Packet> = bench
        .real
        .iter()
        .map(|p| with_tcp(p, |tcp| tcp.sequence_number = tcp.sequence_number.wrapping_add(u32::from(tcp.psh))))
        .collect();
    let figures = figures(&bench.eval(packets, &[]));
    assert_eq!(
        (figures.packets_valid, figures.structure, figures.mean_ks, figures.flows_valid),
        (100.0, 0.0, 0.0, 0.0),
        "{figures:?}"
    );
}

#[test]
fn frames_that_cannot_be_read_count_in_the_matched_samples() {
    let bench = Bench::new();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let noise = bench.real.iter().map(|p| {
        let mut data: Vec<u8> = (0..p.data.len()).map(|_| rng.random()).collect();
        data[12..14].copy_from_slice(&[0x12, 0x34]);
        Packet { data, ..p.clone() }
    });
    let mixed: Vec<Packet> = bench.real.iter().cloned().chain(noise).collect();
    let report = bench.eval(mixed, &["--only", "similarity"]);
    let jsd = |which: &str| report["similarity"][which]["bit_active"]["jsd"].as_f64().unwrap();
    let pooled = report["similarity"]["bit_active"]["jsd"].as_f64().unwrap();
    assert!(pooled > 0.2 && (jsd("matched") - pooled).abs() < 0.1, "{pooled} {}", jsd("matched"));
}

#[test]
fn slower_traffic_moves_timing_alone() {
    let bench = Bench::new();
    let start = bench.real[0].ts;
    let slower = bench.real.iter().map(|p| Packet { ts: start.plus_nanos(p.ts.nanos_since(start) * 4), ..p.clone() });
    let slower: Vec<Packet> = slower.collect();
    let report = bench.eval(slower, &[]);
    let figures = figures(&report);
    assert!(figures.mean_ks > 0.1, "{figures:?}");
    assert!(report["timing"]["gaps"]["ks"].as_f64().unwrap() > 0.4, "{}", report["timing"]);
    // Four times is 0.602 decades for every gap there is.
    let decades = report["timing"]["gaps"]["wasserstein"].as_f64().unwrap();
    assert!((decades - 4_f64.log10()).abs() < 1e-6, "{decades}");
    assert_eq!(Figures { mean_ks: 0.0, ..figures }, PERFECT);
}

#[test]
fn little_or_nothing_is_judged_without_a_fault_of_ours() {
    let bench = Bench::new();
    let nothing = bench.eval([], &[]);
    assert!(nothing["similarity"]["bit_all"]["jsd"].is_null());
    assert!(nothing["validity"]["synthetic"]["packets_valid_pct"].is_null());
    assert!(nothing["timing"]["mean_ks"].is_null());
    assert!(nothing["similarity"]["floor"]["bit_all"]["jsd"].is_number());

    let one = bench.eval(bench.real[..1].to_vec(), &[]);
    assert_eq!(one["captures"]["synthetic"]["packets"], 1);
    assert!(one["similarity"]["bit_all"]["jsd"].as_f64().unwrap() > 0.0);

    let udp = |ip: etherparse::PacketBuilderStep<IpHeaders>, at: i64| {
        let mut data = Vec::new();
        ip.udp(40_000, 9999).write(&mut data, b"no TCP").expect("writing to memory");
        let ts = Timestamp::from_parts(1_700_000_000 + at, 0);
        Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    };
    let link = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let no_tcp = bench.eval((0..20).map(|i| udp(link().ipv4([10, 1, 1, 1], [10, 1, 1, 2], 64), i)), &[]);
    assert!(no_tcp["validity"]["synthetic"]["tcp_complete_pct"].is_null());
    let ipv6 = |i: i64| udp(link().ipv6([0x20; 16], [0x21; 16], 64), i);
    let ipv6_only = bench.eval((0..20).map(ipv6), &[]);
    assert_eq!(ipv6_only["validity"]["synthetic"]["packets_valid_pct"], 100.0, "{}", ipv6_only["validity"]);
    assert_eq!(ipv6_only["similarity"]["fields"]["ip_version"]["tvd"], 1.0);
}

#[test]
fn what_cannot_be_judged_says_why() {
    let bench = Bench::new();
    let real = bench.path("real.pcap");
    let real = real.to_str().unwrap();
    let absent = bench.path("absent.pcap");
    let message = fail(1, &["eval", "--real", real, "--synthetic", absent.to_str().unwrap()]);
    assert!(message.contains("absent.pcap"), "{message}");
    traffic::write(&bench.path("empty.pcap"), []);
    let empty = bench.path("empty.pcap");
    let message = fail(1, &["eval", "--real", empty.to_str().unwrap(), "--synthetic", real]);
    assert!(message.contains("no packets"), "{message}");
}
