//! The report as tables for a terminal.

use std::fmt::Write as _;

use wiremamba_eval::joint::JointReport;
use wiremamba_eval::memory::{MemoryReport, Recalled};
use wiremamba_eval::similarity::{Averages, SimilarityReport};
use wiremamba_eval::stats::Distances;
use wiremamba_eval::timing::TimingReport;
use wiremamba_eval::validity::ValidityReport;

use super::Judgement;
use crate::judge::{JudgesReport, Outcome, Table};

/// Rows of a table of shares at most; the JSON has more.
const SHARES_MAX: usize = 10;

/// An AUC from which on it is worth saying by what the forest told.
const TOLD: f64 = 0.6;

/// All tables.
pub(super) fn text(judgement: &Judgement) -> String {
    let report = &judgement.measures;
    let mut ret = String::new();
    line(&mut ret, &["", "packets", "flows", "packets of no flow"].map(str::to_owned));
    for (name, size) in [("real", report.captures.real), ("synthetic", report.captures.synthetic)] {
        let numbers = [size.packets, size.flows, size.packets_without_flow].map(|n| n.to_string());
        line(&mut ret, &[vec![name.to_owned()], numbers.to_vec()].concat());
    }
    report.similarity.iter().for_each(|s| similarity(&mut ret, s));
    report.validity.iter().for_each(|v| validity(&mut ret, &v.real, &v.synthetic));
    report.timing.iter().for_each(|t| timing(&mut ret, t));
    report.memory.iter().for_each(|m| memory(&mut ret, m));
    report.joint.iter().for_each(|j| joint(&mut ret, j));
    judgement.judges.iter().for_each(|j| judges(&mut ret, j));
    ret
}

fn similarity(ret: &mut String, report: &SimilarityReport) {
    title(ret, "Similarity: Jensen-Shannon distance, 0 equal, 0.833 nothing in common");
    header(ret, &["synthetic", "matched", "floor", "excess", "indep. bits", "random"]);
    type Average = fn(&Averages) -> Option<Distances>;
    let averages: [(&str, Average); 7] = [
        ("structure", |a| a.structure),
        ("bit_positional", |a| Some(a.bit_positional)),
        ("bit_active", |a| Some(a.bit_active)),
        ("bit_tcp480", |a| Some(a.bit_tcp480)),
        ("bit_1088", |a| Some(a.bit_1088)),
        ("bit_all", |a| Some(a.bit_all)),
        ("identity", |a| a.identity),
    ];
    for (name, of) in averages {
        let all =
            [&report.pooled, &report.matched, &report.floor, &report.excess, &report.independent_bits, &report.random];
        row(ret, name, all.map(|a| of(a).map_or(f64::NAN, |d| d.jsd)));
    }
    let _ = writeln!(
        ret,
        "floor: real against real, 5 halvings of {} flows; matched: synthetic against the same halves, as many flows.\n\
         The mean over bits tells little by itself: shuffled packets reach its floor.",
        report.flows_per_half
    );
    title(ret, "Fields: Jensen-Shannon distance, total variation, Hellinger distance");
    header(ret, &["jsd", "tvd", "hd"]);
    for (name, d) in &report.fields {
        row(ret, name, [d.jsd, d.tvd, d.hd]);
    }
}

fn validity(ret: &mut String, real: &ValidityReport, synthetic: &ValidityReport) {
    title(ret, "Validity: percent");
    header(ret, &["synthetic", "real"]);
    type Share = fn(&ValidityReport) -> Option<f64>;
    let shares: [(&str, Share); 3] = [
        ("packets valid", |v| v.packets_valid_pct),
        ("flows valid", |v| v.flows_valid_pct),
        ("TCP complete", |v| v.tcp_complete_pct),
    ];
    for (name, of) in shares {
        row(ret, name, [synthetic, real].map(|v| of(v).unwrap_or(f64::NAN)));
    }
    let payloads: [(&str, Share); 4] = [
        ("TLS streams valid", |v| v.tls.valid_pct()),
        ("DNS messages valid", |v| v.dns.valid_pct()),
        ("HTTP first lines valid", |v| v.http.valid_pct()),
        ("QUIC first datagrams valid", |v| v.quic.valid_pct()),
    ];
    for (name, of) in payloads {
        row(ret, name, [synthetic, real].map(|v| of(v).unwrap_or(f64::NAN)));
    }
    title(ret, "The eleven counters of NetSSM: percent of flows or packets");
    header(ret, &["synthetic", "real"]);
    for ((name, synthetic), (_, real)) in synthetic.netssm.rates().into_iter().zip(real.netssm.rates()) {
        row(ret, name, [synthetic, real].map(|rate| rate.pct.unwrap_or(f64::NAN)));
    }
    for (what, of) in [
        ("Packet", [&synthetic.packet_faults, &real.packet_faults]),
        ("Flow", [&synthetic.flow_faults, &real.flow_faults]),
    ] {
        title(ret, &format!("{what}s that break a rule"));
        header(ret, &["synthetic", "real"]);
        let names: std::collections::BTreeSet<_> = of.iter().flat_map(|faults| faults.keys()).collect();
        for name in names {
            let counts = of.map(|faults| faults.get(name).copied().unwrap_or(0).to_string());
            line(ret, &[vec![(*name).to_owned()], counts.to_vec()].concat());
        }
    }
}

fn timing(ret: &mut String, report: &TimingReport) {
    title(ret, "Timing and shape: Kolmogorov-Smirnov statistic; Wasserstein distance (decades, or as it is)");
    header(ret, &["synthetic", "matched", "floor", "Wasserstein"]);
    let all = [&report.pooled, &report.matched, &report.floor];
    for (name, gap) in &report.pooled.kinds {
        let [a, b, c] = all.map(|g| g.kinds.get(name).map_or(f64::NAN, |gap| gap.ks));
        row(ret, name, [a, b, c, gap.wasserstein]);
    }
    row(ret, "mean", all.map(|g| g.mean_ks));
    title(ret, "Traffic in time");
    header(ret, &["synthetic", "real"]);
    let both = [&report.series.synthetic, &report.series.real];
    for (i, scale) in report.series.scales_s.iter().enumerate().step_by(3) {
        row(ret, &format!("dispersion at {scale} s"), both.map(|s| s.dispersion[i]));
    }
    for lag in [1, 10, 50] {
        row(ret, &format!("autocorrelation of gaps at {lag}"), both.map(|s| s.gap_autocorrelation[lag - 1]));
    }
    row(ret, "flows open at once, mean", both.map(|s| s.concurrent_flows_mean));
    row(ret, "flows open at once, most", both.map(|s| s.concurrent_flows_max as f64));
    row(ret, "throughput, correlation", [report.series.throughput_correlation]);
}

fn memory(ret: &mut String, report: &MemoryReport) {
    title(ret, "Memory: what comes out of the training captures again");
    header(ret, &["synthetic", "real"]);
    row(ret, "diversity ratio", [report.diversity_ratio.unwrap_or(f64::NAN), 1.0]);
    let (Some(synthetic), Some(real)) = (&report.synthetic, &report.real) else {
        ret.push_str("For the rest, name the training captures with --train.\n");
        return;
    };
    row(ret, "nearest-neighbour ratio", [report.neighbour_ratio.unwrap_or(f64::NAN), 1.0]);
    type Figure = fn(&Recalled) -> Option<f64>;
    let figures: [(&str, Figure); 10] = [
        ("identical frames, %", |r| r.identical_frames_pct),
        ("identical IP packets, %", |r| r.identical_ip_packets_pct),
        ("identical but for identity, %", |r| r.identical_masked_pct),
        ("identical payloads, %", |r| r.identical_payloads_pct),
        ("payload in pieces >= 16, %", |r| r.payload_in_pieces_pct),
        ("longest piece, bytes", |r| Some(r.longest_piece as f64)),
        ("training addresses", |r| Some(r.addresses as f64)),
        ("packets with one, %", |r| r.packets_with_address_pct),
        ("training MACs", |r| Some(r.macs as f64)),
        ("training names", |r| Some(r.names as f64)),
    ];
    for (name, of) in figures {
        row(ret, name, [synthetic, real].map(|r| of(r).unwrap_or(f64::NAN)));
    }
}

fn joint(ret: &mut String, report: &JointReport) {
    title(ret, "Two-sample test: AUC of a forest that tells synthetic from real flows, 0.5 cannot");
    header(ret, &["synthetic", "floor", "training"]);
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    row(ret, "by flow statistics", [report.auc, report.floor.auc, report.reference.auc].map(number));
    row(ret, "by bits of 4 packets", [report.auc_bits, report.floor.auc_bits, report.reference.auc_bits].map(number));
    ret.push_str("floor: real flows dealt by coin; training: the training captures told from the real ones.\n");
    if let Some(reason) = &report.reason {
        let _ = writeln!(ret, "{reason}");
    }
    if report.auc.is_some_and(|auc| auc > TOLD) {
        let telling: Vec<&str> = report.telling.iter().take(5).map(|t| t.feature.as_str()).collect();
        let _ = writeln!(ret, "told most by: {}", telling.join(", "));
    }
    match (&report.utility, &report.utility_reason) {
        (Some(utility), _) => {
            title(ret, "A forest that learned labels from one side, tested on real flows: macro-F1");
            header(ret, &["synthetic", "real", "gap"]);
            for (name, u) in [("by flow statistics", &utility.stats), ("by bits of 4 packets", &utility.bits)] {
                row(ret, name, [u.synthetic.macro_f1, u.real.macro_f1, u.gap]);
            }
        }
        (None, Some(reason)) => {
            let _ = writeln!(ret, "no test of labels: {reason}");
        }
        (None, None) => {}
    }
}

fn judges(ret: &mut String, report: &JudgesReport) {
    if let Some(judged) = verdict(ret, "tshark", &report.tshark) {
        title(ret, "tshark: per 1,000 packets");
        header(ret, &["synthetic", "real"]);
        let both = [&judged.synthetic, &judged.real];
        row(ret, "malformed", both.map(|s| s.malformed_per_1000));
        row(ret, "errors", both.map(|s| s.errors.per_1000));
        row(ret, "warnings", both.map(|s| s.warnings.per_1000));
        row(ret, "overlap of protocol paths", [judged.protocol_path_overlap.unwrap_or(f64::NAN)]);
    }
    if let Some(judged) = verdict(ret, "ndpiReader", &report.ndpi) {
        title(ret, "nDPI: percent of flows");
        header(ret, &["synthetic", "real"]);
        let both = [&judged.synthetic, &judged.real];
        row(ret, "unknown", both.map(|s| 100.0 * s.unknown_share));
        shares(ret, both.map(|s| &s.protocols));
        row(ret, "overlap of protocols", [judged.protocol_overlap.unwrap_or(f64::NAN)]);
    }
    if let Some(judged) = verdict(ret, "Suricata", &report.suricata) {
        title(ret, "Suricata: events per 1,000 packets");
        header(ret, &["synthetic", "real"]);
        let both = [&judged.synthetic, &judged.real];
        row(ret, "decoder calls it invalid", both.map(|s| s.invalid_per_1000));
        row(ret, "decode events", both.map(|s| s.decode_events.per_1000));
        row(ret, "stream events", both.map(|s| s.stream_events.per_1000));
        row(ret, "app-layer events", both.map(|s| s.app_layer_events.per_1000));
        row(ret, "overlap of app protocols", [judged.app_proto_overlap.unwrap_or(f64::NAN)]);
    }
    if let Some(judged) = verdict(ret, "Zeek", &report.zeek) {
        title(ret, "Zeek: percent of connections");
        header(ret, &["synthetic", "real"]);
        shares(ret, [&judged.synthetic.conn_states, &judged.real.conn_states]);
        row(ret, "overlap of states", [judged.conn_state_overlap.unwrap_or(f64::NAN)]);
        row(ret, "overlap of services", [judged.service_overlap.unwrap_or(f64::NAN)]);
    }
}

/// The judgement, or a line that says why there is none.
fn verdict<'a, T>(ret: &mut String, name: &str, outcome: &'a Outcome<T>) -> Option<&'a T> {
    match outcome {
        Outcome::Judged(judged) => return Some(judged),
        Outcome::Absent { hint, .. } => title(ret, &format!("{name}: not installed ({hint})")),
        Outcome::Failed { reason } => title(ret, &format!("{name}: no judgement: {reason}")),
    }
    None
}

/// The most frequent values of the real side in percent.
fn shares(ret: &mut String, [synthetic, real]: [&Table; 2]) {
    let share = |table: &Table, what: &str| {
        let found = table.top.iter().find(|row| row.what == what);
        100.0 * found.map_or(0, |row| row.count) as f64 / table.total.max(1) as f64
    };
    for most in real.top.iter().take(SHARES_MAX) {
        row(ret, &most.what, [share(synthetic, &most.what), share(real, &most.what)]);
    }
}

fn title(ret: &mut String, text: &str) {
    let _ = writeln!(ret, "\n{text}");
}

fn header(ret: &mut String, columns: &[&str]) {
    line(ret, &[vec![String::new()], columns.iter().map(|c| (*c).to_owned()).collect()].concat());
}

fn row<const N: usize>(ret: &mut String, name: &str, values: [f64; N]) {
    let values = values.map(|v| if v.is_nan() { "-".to_owned() } else { format!("{v:.3}") });
    line(ret, &[vec![name.to_owned()], values.to_vec()].concat());
}

fn line(ret: &mut String, cells: &[String]) {
    let (name, values) = cells.split_first().expect("a row has a name");
    let _ = write!(ret, "{name:<30}");
    for value in values {
        let _ = write!(ret, " {value:>12}");
    }
    ret.push('\n');
}
