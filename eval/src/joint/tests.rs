use etherparse::PacketBuilder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::{Direction, FiveTuple, FlowEnd};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::two_sample::auc;
use super::*;

/// How made-up flows look; what is not said here is drawn by chance.
#[derive(Clone, Copy)]
struct Kind {
    v6: bool,
    tcp: bool,
    ttl: u8,
    payload_max: usize,
}

const WEB: Kind = Kind { v6: false, tcp: true, ttl: 64, payload_max: 1_000 };

/// A flow of 4 to 9 packets that take turns at random.
fn flow(kind: Kind, rng: &mut ChaCha8Rng) -> Flow {
    let port = rng.random_range(1_024..60_000);
    let host: u8 = rng.random();
    let mut ts = Timestamp::from_parts(rng.random_range(0..1_000_000), 0);
    let mut packets = Vec::new();
    for i in 0..rng.random_range(4..10) {
        let up = i == 0 || rng.random();
        let (from, to) = if up { (host, 1) } else { (1, host) };
        let (source, destination) = if up { (port, 443) } else { (443, port) };
        let step = if kind.v6 {
            let address = |last: u8| std::array::from_fn(|at| if at == 15 { last } else { 0xfd });
            PacketBuilder::ipv6(address(from), address(to), kind.ttl)
        } else {
            PacketBuilder::ipv4([10, 0, 0, from], [10, 0, 1, to], kind.ttl)
        };
        let payload = vec![rng.random(); rng.random_range(0..kind.payload_max)];
        let mut data = Vec::new();
        if kind.tcp {
            let tcp = step.tcp(source, destination, rng.random(), rng.random_range(1_000..1_100)).ack(rng.random());
            tcp.write(&mut data, &payload).unwrap();
        } else {
            step.udp(source, destination).write(&mut data, &payload).unwrap();
        }
        ts = ts.plus_nanos(rng.random_range(1_000..1_000_000_000));
        let packet = Packet { ts, linktype: LinkType::RAW, len: data.len() as u32, data };
        packets.push((if up { Direction::Orig } else { Direction::Resp }, packet));
    }
    let tuple = FiveTuple {
        orig: [10, 0, 0, host].into(),
        resp: [10, 0, 1, 1].into(),
        orig_port: port,
        resp_port: 443,
        protocol: if kind.tcp { 6 } else { 17 },
    };
    Flow { tuple, packets, end: FlowEnd::EndOfInput }
}

fn flows(kind: Kind, count: usize, seed: u64) -> Vec<Flow> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| flow(kind, &mut rng)).collect()
}

fn names() -> Vec<String> {
    ["web", "call"].map(String::from).to_vec()
}

/// A report on real and synthetic flows of one label.
fn compare(real: &[Flow], synthetic: &[Flow]) -> JointReport {
    let mut joint = Joint::new(7);
    real.iter().for_each(|f| joint.real(0, f));
    synthetic.iter().for_each(|f| joint.synthetic(0, f));
    joint.report(&names())
}

#[test]
fn auc_counts_won_pairs_and_half_of_the_ties() {
    // Pairs of a positive and a negative: 0.8 > 0.1, 0.8 > 0.4, 0.35 > 0.1, 0.35 < 0.4: 3 of 4.
    assert_eq!(auc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), Some(0.75));
    // 2 > 1, 2 = 2, 1 = 1, 1 < 2: (1 + 1/2 + 1/2) of 4.
    assert_eq!(auc(&[1.0, 2.0, 2.0, 1.0], &[false, false, true, true]), Some(0.5));
    // 3 > 1, 3 = 3, over 2 pairs.
    assert_eq!(auc(&[1.0, 3.0, 3.0], &[false, false, true]), Some(0.75));
    assert_eq!(auc(&[0.0; 4], &[true, false, true, false]), Some(0.5));
    assert_eq!(auc(&[1.0, 2.0], &[true, true]), None);
    assert_eq!(auc(&[], &[]), None);
}

#[test]
fn flows_from_one_source_are_not_told_apart() {
    let report = compare(&flows(WEB, 400, 1), &flows(WEB, 400, 2));
    for auc in [report.auc, report.auc_bits, report.floor.auc, report.floor.auc_bits] {
        assert!((auc.unwrap() - 0.5).abs() < 0.1, "{report:?}");
    }
    assert_eq!((report.flows.told_apart, report.flows.floor), (400, 200));
    assert_eq!((report.reason, report.reference), (None, TwoAucs::default()));
}

#[test]
fn larger_packets_are_told_by_their_size() {
    let large = Kind { payload_max: 2_000, ..WEB };
    let report = compare(&flows(WEB, 300, 1), &flows(large, 300, 2));
    assert!(report.auc.unwrap() > 0.9, "{report:?}");
    assert!((report.floor.auc.unwrap() - 0.5).abs() < 0.1);
    let told_by = &report.telling[0];
    assert!(told_by.feature.contains("size") || told_by.feature.contains("bytes"), "{told_by:?}");
    assert!(told_by.auc > 0.7 && report.telling.len() == 5);
}

#[test]
fn another_ttl_is_told_by_the_bits_of_the_ttl() {
    let report = compare(&flows(WEB, 60, 1), &flows(Kind { ttl: 63, ..WEB }, 60, 2));
    assert_eq!(report.auc_bits, Some(1.0));
    // A repeated column is named after the first like it: 64 and 63 differ in the seven lowest bits of each packet.
    assert_eq!(report.telling_bits[0].feature, "1:ipv4_ttl_1");
    assert!(report.auc.unwrap() > 0.99, "{report:?}");
}

#[test]
fn a_seed_gives_one_report_in_any_order_and_however_shared_out() {
    let (real, synthetic) = (flows(WEB, 40, 1), flows(WEB, 50, 2));
    let report = compare(&real, &synthetic);
    let (mut one, mut other) = (Joint::new(7), Joint::new(7));
    real.iter().rev().for_each(|f| one.real(0, f));
    synthetic[..20].iter().for_each(|f| other.synthetic(0, f));
    synthetic[20..].iter().for_each(|f| one.synthetic(0, f));
    one.merge(other);
    assert_eq!(one.report(&names()), report);
}

#[test]
fn too_few_flows_give_a_reason_and_no_number() {
    let real = flows(WEB, 30, 1);
    for synthetic in [&[][..], &real[..1]] {
        let report = compare(&real, synthetic);
        assert_eq!((report.auc, report.auc_bits, report.floor.auc, report.utility), (None, None, None, None));
        assert!(report.reason.unwrap().contains("10 are needed"));
        assert!(report.utility_reason.is_some());
    }
    assert!(compare(&[], &real).reason.is_some() && compare(&[], &[]).reason.is_some());
}

#[test]
fn one_label_has_no_utility() {
    let report = compare(&flows(WEB, 30, 1), &flows(WEB, 30, 2));
    assert!(report.auc.is_some() && report.utility.is_none());
    assert_eq!(
        report.utility_reason.unwrap(),
        "2 labels with 5 real flows to learn from and 5 to test on are needed, there are 1"
    );
}

#[test]
fn flows_of_any_kind_are_read() {
    let v6 = flows(Kind { v6: true, ..WEB }, 20, 1);
    assert!(compare(&v6, &flows(Kind { v6: true, ..WEB }, 20, 2)).auc.is_some());
    let udp = Kind { tcp: false, ..WEB };
    assert_eq!(compare(&flows(udp, 20, 1), &v6).auc_bits, Some(1.0));
    // Cut short, without IP, and all alike.
    let mut cut = flows(WEB, 20, 3);
    cut.iter_mut().flat_map(|f| &mut f.packets).enumerate().for_each(|(i, (_, p))| p.data.truncate(i % 50));
    assert!(compare(&cut, &v6).auc.unwrap() > 0.9);
    let same = vec![cut[0].clone(); 20];
    let report = compare(&same, &same);
    assert_eq!((report.auc, report.auc_bits, report.telling.len()), (Some(0.5), Some(0.5), 0));
}

/// Three sides with two labels of `count` flows each: web, and calls with smaller packets.
fn two_labels(joint: &mut Joint, count: usize, seed: u64, mut take: impl FnMut(&mut Joint, usize, &Flow)) {
    let call = Kind { tcp: false, payload_max: 300, ..WEB };
    for (label, kind) in [WEB, call].into_iter().enumerate() {
        flows(kind, count, seed + label as u64).iter().for_each(|f| take(joint, label, f));
    }
}

#[test]
fn copies_of_the_training_flows_are_as_useful() {
    let mut joint = Joint::new(7);
    two_labels(&mut joint, 100, 10, Joint::real);
    two_labels(&mut joint, 100, 20, Joint::train);
    two_labels(&mut joint, 100, 20, Joint::synthetic);
    let report = joint.report(&names());
    // The synthetic flows are the training flows, so both are told from the real ones alike, up to the draw of rows.
    assert!((report.auc.unwrap() - report.reference.auc.unwrap()).abs() < 0.1, "{report:?}");
    let utility = report.utility.unwrap();
    assert!(!utility.halved && utility.labels == names());
    for on in [&utility.stats, &utility.bits] {
        assert!(on.real.macro_f1 > 0.95 && on.gap.abs() < 0.05, "{utility:?}");
        assert_eq!((on.real.trained_on, on.synthetic.trained_on, on.real.tested_on), (200, 200, 200));
    }
}

#[test]
fn mislabelled_synthetic_flows_are_useless() {
    let mut joint = Joint::new(7);
    two_labels(&mut joint, 60, 10, Joint::real);
    two_labels(&mut joint, 60, 20, |joint, label, f| joint.synthetic(1 - label, f));
    let utility = joint.report(&names()).utility.unwrap();
    assert!(utility.halved && utility.stats.real.tested_on == 60);
    assert!(utility.stats.gap > 0.9 && utility.stats.synthetic.accuracy < 0.05, "{utility:?}");
}

#[test]
fn statistics_of_a_flow_by_hand() {
    let mut data = [Vec::new(), Vec::new()];
    let syn = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(4_000, 80, 1, 512).syn();
    syn.write(&mut data[0], &[]).unwrap();
    let ack = PacketBuilder::ipv4([10, 0, 0, 2], [10, 0, 0, 1], 57).tcp(80, 4_000, 9, 1_024).ack(2);
    ack.write(&mut data[1], &[7; 60]).unwrap();
    let packet = |at_ms: i64, data: &[u8]| Packet {
        ts: Timestamp(at_ms * 1_000_000),
        linktype: LinkType::RAW,
        len: data.len() as u32,
        data: data.to_vec(),
    };
    let mut flow = flows(WEB, 1, 1).remove(0);
    flow.packets = vec![(Direction::Orig, packet(0, &data[0])), (Direction::Resp, packet(100, &data[1]))];
    let features = FlowFeatures::of(&flow);
    let stat = |name: &str| features.stats[STAT_NAMES.iter().position(|n| *n == name).unwrap()];
    // 20 bytes of IP, 20 of TCP and 0 or 60 of payload.
    for (name, value) in [
        ("packets", 2.0),
        ("bytes", 140.0),
        ("duration", 0.1),
        ("turns", 1.0),
        ("payloadless_share", 0.5),
        ("resp_payload_bytes", 60.0),
        ("gap_mean", -1.0),
        ("turn_gap_max", -1.0),
        ("orig_gap_mean", -10.0),
        ("size_0", 40.0),
        ("size_1", -100.0),
        ("size_2", 0.0),
        ("syn_count", 1.0),
        ("ack_count", 1.0),
        ("orig_window", 512.0),
        ("resp_window", 1_024.0),
        ("resp_ttl", 57.0),
    ] {
        assert!((stat(name) - value).abs() < 1e-5, "{name} is {}, not {value}", stat(name));
    }
    // Data offset 5 and SYN of the first packet, columns 800 + 96 and 800 + 104 on; no third packet.
    let bits: Vec<i8> = (896..912).map(|column| features.bits.value(column)).collect();
    assert_eq!(bits, [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert!((2 * 1_408..COLUMNS).all(|column| features.bits.value(column) == -1));
}
