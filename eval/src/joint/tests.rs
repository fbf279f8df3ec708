//! What forests make of made-up flows.

use etherparse::PacketBuilder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::*;

/// Flows of UDP datagrams whose payloads are `size` bytes and up to 200 more.
fn flows(count: usize, size: usize, seed: u64) -> Vec<Flow> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut table = FlowTable::new(FlowLimits::default());
    let mut ret = Vec::new();
    for i in 0..count {
        let client = [10, 0, (i / 200) as u8, 1 + (i % 200) as u8];
        for j in 0..rng.random_range(3..9) {
            let payload = vec![0; size + rng.random_range(0..200)];
            let (src, dst) = if j % 2 == 0 { (client, [10, 9, 9, 9]) } else { ([10, 9, 9, 9], client) };
            let ports = if j % 2 == 0 { (4000, 7000) } else { (7000, 4000) };
            let mut data = Vec::new();
            PacketBuilder::ipv4(src, dst, 64)
                .udp(ports.0, ports.1)
                .write(&mut data, &payload)
                .expect("writing to memory");
            let ts = Timestamp::from_parts(1_000 + i as i64, j * rng.random_range(1_000_000..9_000_000));
            table
                .push(Packet { ts, linktype: LinkType::RAW, len: data.len() as u32, data }, &mut |flow| ret.push(flow));
        }
    }
    table.finish(&mut |flow| ret.push(flow));
    ret
}

fn report(real: &[Flow], synthetic: &[Flow]) -> JointReport {
    let mut joint = Joint::new(7);
    real.iter().for_each(|flow| joint.real(0, flow));
    synthetic.iter().for_each(|flow| joint.synthetic(0, flow));
    joint.report(&["all".to_owned()])
}

#[test]
fn flows_of_one_kind_are_not_told_apart_and_larger_ones_are() {
    let real = flows(150, 100, 1);
    let same = report(&real, &flows(150, 100, 2));
    let auc = same.auc.expect("there are enough flows");
    assert!((auc - 0.5).abs() < 0.12, "{auc}");
    assert!((same.floor.auc.expect("there are enough flows") - 0.5).abs() < 0.12);
    assert_eq!(same, report(&real, &flows(150, 100, 2)), "the same seed gives the same figures");
    let larger = report(&real, &flows(150, 400, 3));
    assert!(larger.auc.expect("there are enough flows") > 0.95, "{larger:?}");
    assert!(larger.utility.is_none() && larger.utility_reason.is_some());
}

#[test]
fn a_copy_teaches_as_much_as_the_original() {
    let kinds = [flows(60, 50, 1), flows(60, 600, 2)];
    let mut joint = Joint::new(3);
    for (label, flows) in kinds.iter().enumerate() {
        for (i, flow) in flows.iter().enumerate() {
            if i % 2 == 0 {
                joint.real(label, flow)
            } else {
                joint.train(label, flow)
            }
            if i % 2 == 1 {
                joint.synthetic(label, flow);
            }
        }
    }
    let report = joint.report(&["small".to_owned(), "large".to_owned()]);
    let utility = report.utility.expect("there are two labels");
    assert!(utility.stats.real.macro_f1 > 0.95 && utility.stats.synthetic.macro_f1 > 0.95, "{utility:?}");
    assert!(utility.stats.gap.abs() < 0.05, "{utility:?}");
}

#[test]
fn too_few_flows_give_a_reason() {
    let real = flows(20, 100, 1);
    for synthetic in [Vec::new(), flows(1, 100, 2)] {
        let report = report(&real, &synthetic);
        assert!(report.auc.is_none() && report.reason.is_some(), "{report:?}");
    }
}
