//! TCP flows: what hosts and networks do passes, and each contradiction has its name.

use wiremamba_model::flow::Direction::{Orig, Resp};

use super::super::ValidityReport;
use super::make::{ACK, FIN, RST, SYN, SYN_OPTIONS, Seg, flow_faults, judge, seg, tcp_flow};

/// The client's first number: near the end, so that all tests wrap around.
const C: u32 = u32::MAX - 3;
const S: u32 = 7_000;

fn c(offset: u32) -> u32 {
    C.wrapping_add(offset)
}

fn s(offset: u32) -> u32 {
    S.wrapping_add(offset)
}

/// Opening, 10 bytes up, 20 and 20 bytes down, closing; timestamps on all.
pub(super) fn conversation() -> Vec<Seg> {
    let clocks = |syn: [u8; 12], value: u32, echo: u32| {
        let mut options = syn.to_vec();
        options.extend([1, 1, 8, 10]);
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
        options
    };
    vec![
        seg(Orig, SYN, C, 0, b"").with(&clocks(SYN_OPTIONS, 100, 0)),
        seg(Resp, SYN | ACK, S, c(1), b"").with(&clocks(SYN_OPTIONS, 500, 100)),
        seg(Orig, ACK, c(1), s(1), b"").clocks(101, 500),
        seg(Orig, ACK, c(1), s(1), &[b'.'; 10]).clocks(102, 500),
        seg(Resp, ACK, s(1), c(11), &[b'.'; 20]).clocks(501, 102),
        seg(Resp, ACK, s(21), c(11), &[b'.'; 20]).clocks(502, 102),
        seg(Orig, ACK, c(11), s(41), b"").clocks(103, 502),
        seg(Orig, FIN | ACK, c(11), s(41), b"").clocks(104, 502),
        seg(Resp, FIN | ACK, s(41), c(12), b"").clocks(503, 104),
        seg(Orig, ACK, c(12), s(42), b"").clocks(105, 503),
    ]
}

fn whole(segments: &[Seg]) -> ValidityReport {
    judge(&tcp_flow(segments, 9000))
}

#[test]
fn a_whole_conversation_is_valid_and_complete() {
    let report = whole(&conversation());
    assert_eq!(report.flow_faults.len() + report.packet_faults.len(), 0, "{report:?}");
    assert_eq!((report.flows_valid_pct, report.tcp_complete_pct), (Some(100.0), Some(100.0)));
    let netssm = report.netssm;
    for rate in [netssm.correct_handshakes, netssm.fin_seen, netssm.fin_ack_observed, netssm.ack_progress] {
        assert_eq!(rate.pct, Some(100.0));
    }
    for rate in [netssm.conflicting_flags, netssm.rst_in_established, netssm.syn_after_established] {
        assert_eq!(rate.count, 0);
    }
}

#[test]
fn what_networks_and_hosts_do_is_no_fault() {
    type Change = fn(&mut Vec<Seg>);
    let changes: [(&str, Change); 16] = [
        ("both open at once", |f| {
            f.insert(1, seg(Resp, SYN, S, 0, b"").with(&SYN_OPTIONS));
            f[2].options.truncate(12);
            f[3] = seg(Orig, SYN | ACK, C, s(1), b"");
            f.truncate(4);
        }),
        ("retransmission", |f| f.insert(6, f[4].clone())),
        ("out of order", |f| f.swap(4, 5)),
        ("every packet twice", |f| *f = f.iter().flat_map(|s| [s.clone(), s.clone()]).collect()),
        ("SYN again", |f| f.insert(1, f[0].clone())),
        ("SYN-ACK again", |f| f.insert(4, f[1].clone())),
        ("lost third ACK", |f| drop(f.remove(2))),
        ("keep-alive", |f| f.insert(7, seg(Orig, ACK, c(10), s(41), b"").clocks(103, 502))),
        ("keep-alive with a byte", |f| f.insert(7, seg(Orig, ACK, c(10), s(41), b"x").clocks(103, 502))),
        ("joined in the middle", |f| drop(f.drain(..4))),
        ("joined at the answer", |f| drop(f.remove(0))),
        ("joined at a keep-alive", |f| {
            f.drain(..3);
            f.insert(0, seg(Orig, ACK, c(0), s(1), b"").clocks(101, 500));
        }),
        ("reset instead of an end", |f| {
            f.truncate(7);
            f.push(seg(Orig, RST, c(11), 0, b""));
        }),
        ("data in flight to who has reset", |f| {
            f.truncate(5);
            f.push(seg(Orig, RST, c(11), 0, b"").at_ms(10));
            f.push(seg(Resp, ACK, s(21), c(11), &[b'.'; 20]).clocks(502, 102).at_ms(40));
            f.push(seg(Orig, RST, c(11), 0, b"").at_ms(50));
        }),
        ("refused", |f| {
            f.truncate(1);
            f.push(seg(Resp, RST | ACK, 0, c(1), b""));
        }),
        ("half open on the other side, and again", |f| {
            f.insert(1, seg(Resp, ACK, s(900_000_000), c(5_000_000), b""));
            f.insert(2, seg(Orig, RST, c(5_000_000), 0, b""));
            f.truncate(3);
        }),
    ];
    for (name, change) in changes {
        let mut flow = conversation();
        change(&mut flow);
        assert_eq!(flow_faults(&flow), [] as [&str; 0], "{name}");
    }
}

#[test]
fn each_contradiction_has_its_name() {
    type Change = fn(&mut Vec<Seg>);
    let changes: [(&str, Change); 19] = [
        ("broken handshake", |f| f[1].ack = c(2)),
        ("broken handshake", |f| f[2].ack = s(0)),
        ("broken handshake", |f| drop(f.remove(1))),
        ("broken handshake", |f| f.insert(2, f[1].clone_at(s(77)))),
        ("data before handshake", |f| f.insert(2, seg(Resp, ACK, s(1), c(1), b"x").clocks(501, 100))),
        ("data before handshake", |f| {
            f[0].payload = b"x".to_vec();
            f.truncate(1);
        }),
        ("SYN after established", |f| f.insert(5, seg(Orig, SYN, c(70_000), 0, b""))),
        ("hole", |f| drop(f.remove(5))),
        ("hole", |f| drop(f.remove(3))),
        ("sequence jump", |f| f.insert(7, seg(Orig, ACK, c(1 << 30), s(41), b""))),
        ("sequence jump", |f| f.insert(7, seg(Orig, ACK, C.wrapping_sub(1), s(41), b""))),
        ("ack of unseen data", |f| f[6].ack = s(42)),
        ("ack goes back", |f| f.insert(7, seg(Orig, ACK, c(11), s(21), b""))),
        ("timestamp goes back", |f| f.insert(7, seg(Orig, ACK, c(11), s(41), b"").clocks(99, 502))),
        ("echo of a timestamp never sent", |f| f.insert(7, seg(Orig, ACK, c(11), s(41), b"").clocks(103, 504))),
        ("data after FIN", |f| f.insert(8, seg(Orig, ACK, c(12), s(41), b"x"))),
        ("packet after close", |f| f.push(seg(Resp, ACK, s(42), c(12), b"x"))),
        ("packet after close", |f| {
            f.truncate(7);
            f.push(seg(Orig, RST, c(11), 0, b""));
            f.push(seg(Orig, ACK, c(11), s(41), b"x"));
        }),
        ("packet after close", |f| {
            f.truncate(7);
            f.push(seg(Orig, RST, c(11), 0, b""));
            f.push(seg(Resp, ACK, s(41), c(11), b"x").at_ms(1_001));
        }),
    ];
    for (name, change) in changes {
        let mut flow = conversation();
        change(&mut flow);
        let report = whole(&flow);
        // What is missing can be missed twice: the peer acknowledges it, or echoes it.
        let faults: Vec<_> = report.flow_faults.into_keys().collect();
        assert!(faults.contains(&name), "{name}: {faults:?}");
        let others = ["ack of unseen data", "echo of a timestamp never sent"];
        assert!(faults.iter().all(|f| *f == name || (name == "hole" && others.contains(f))), "{name}: {faults:?}");
        assert_eq!((report.flows_valid, report.tcp_complete), (0, 0), "{name}");
    }
}

#[test]
fn only_a_connection_with_both_ends_is_complete() {
    let all = conversation();
    for len in 1..all.len() {
        let report = whole(&all[..len]);
        let is_over = len >= 9; // both FINs were seen
        assert_eq!((report.flows_valid, report.tcp_complete), (1, u64::from(is_over)), "{len} packets");
    }
    assert_eq!(whole(&all[3..]).tcp_complete, 0, "no handshake");
}

#[test]
fn netssm_counters_count() {
    let mut flow = conversation();
    flow[0].options.truncate(4); // MSS alone: neither SACK permitted nor window scale
    flow.insert(5, seg(Orig, ACK, c(11), s(21), b"").with(&[5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]));
    flow.insert(6, seg(Orig, ACK, c(11), s(21), b"").with(&[2, 4, 5, 180]));
    flow.insert(7, seg(Orig, ACK, c(11), s(1), b"").with(&[3, 3, 7, 0]));
    flow.insert(8, seg(Orig, SYN, c(70_000), 0, b""));
    flow.insert(9, seg(Orig, RST, c(11), 0, b""));
    let netssm = whole(&flow).netssm;
    assert_eq!((netssm.sack_without_permitted.count, netssm.sack_without_permitted.of), (1, 1));
    assert_eq!((netssm.mss_outside_handshake.count, netssm.mss_outside_handshake.of), (1, 15));
    assert_eq!(netssm.window_scale_outside_handshake.count, 1);
    assert_eq!((netssm.syn_after_established.count, netssm.rst_in_established.count), (1, 1));
    // 12 acknowledgements, of which the first of each side has no predecessor; one goes back.
    assert_eq!((netssm.ack_progress.count, netssm.ack_progress.of), (9, 10));
}

#[test]
fn many_holes_are_remembered_up_to_a_limit() {
    let mut flow: Vec<Seg> = (0..2_000).map(|i| seg(Orig, ACK, i * 2, 1, b"x")).collect();
    assert_eq!(flow_faults(&flow), ["hole"]);
    flow.truncate(200);
    flow.extend((0..199).map(|i| seg(Orig, ACK, i * 2 + 1, 1, b"x")));
    assert_eq!(flow_faults(&flow), [] as [&str; 0]);
}

impl Seg {
    fn clone_at(&self, seq: u32) -> Self {
        Self { seq, ..self.clone() }
    }
}
