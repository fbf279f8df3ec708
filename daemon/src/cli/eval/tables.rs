//! The report as tables, for a terminal and for a page.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use wiremamba_eval::evaluation::Sizes;
use wiremamba_eval::joint::JointReport;
use wiremamba_eval::memory::{MemoryReport, Recalled};
use wiremamba_eval::similarity::{Averages, Paired, SimilarityReport};
use wiremamba_eval::stats::Distances;
use wiremamba_eval::timing::TimingReport;
use wiremamba_eval::validity::ValidityReport;

use super::Judgement;
use crate::judge::{self, JudgesReport, Outcome};

/// Rows of a table of shares at most; the JSON has more.
const SHARES_MAX: usize = 10;

/// An AUC from which on it is worth saying by what the forest told.
const TOLD: f64 = 0.6;

/// A table, or a few words in the place of one.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// What it shows.
    pub(super) title: String,
    /// Names of the columns of figures; none where `rows` is empty.
    pub(super) columns: Vec<&'static str>,
    /// Name and figures.
    pub(super) rows: Vec<(String, Vec<String>)>,
    /// Lines below.
    pub(super) notes: Vec<String>,
}

/// The tables of a group of measures.
#[derive(Debug)]
pub(super) struct Section {
    /// The group, as `--only` names it.
    pub(super) group: &'static str,
    /// Its tables.
    pub(super) tables: Vec<Table>,
}

impl Table {
    fn new(title: &str, columns: &[&'static str]) -> Self {
        Self { title: title.to_owned(), columns: columns.to_vec(), ..Self::default() }
    }

    fn row<const N: usize>(&mut self, name: &str, values: [f64; N]) {
        let values = values.map(|v| if v.is_nan() { "-".to_owned() } else { format!("{v:.3}") });
        self.rows.push((name.to_owned(), values.to_vec()));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The table for a terminal.
    fn write(&self, ret: &mut String) {
        let _ = writeln!(ret, "\n{}", self.title);
        if !self.columns.is_empty() {
            line(ret, "", &self.columns);
        }
        self.rows.iter().for_each(|(name, values)| line(ret, name, values));
        self.notes.iter().for_each(|note| {
            let _ = writeln!(ret, "{note}");
        });
    }
}

fn line(ret: &mut String, name: &str, cells: &[impl AsRef<str>]) {
    let _ = write!(ret, "{name:<30}");
    for cell in cells {
        let _ = write!(ret, " {:>12}", cell.as_ref());
    }
    ret.push('\n');
}

/// Everything for a terminal.
pub(super) fn text(judgement: &Judgement) -> String {
    let mut ret = String::new();
    size(&judgement.measures.captures).write(&mut ret);
    sections(judgement).iter().flat_map(|s| &s.tables).for_each(|table| table.write(&mut ret));
    let _ = writeln!(ret, "\nVerdict");
    for verdict in &judgement.verdicts {
        let _ = writeln!(ret, "{:<12} {:<16} {}", verdict.group, verdict.grade.words(), verdict.words);
    }
    ret.trim_start().to_owned()
}

/// How much there was.
pub(super) fn size(captures: &Sizes) -> Table {
    let mut ret = Table::new("Captures", &["packets", "flows", "of no flow"]);
    for (name, size) in [("real", captures.real), ("synthetic", captures.synthetic)] {
        let numbers = [size.packets, size.flows, size.packets_without_flow].map(|n| n.to_string());
        ret.rows.push((name.to_owned(), numbers.to_vec()));
    }
    ret
}

/// All tables of the groups that were measured.
pub(super) fn sections(judgement: &Judgement) -> Vec<Section> {
    let report = &judgement.measures;
    let groups = [
        ("similarity", report.similarity.as_ref().map(similarity)),
        ("validity", report.validity.as_ref().map(|v| validity(&v.real, &v.synthetic))),
        ("timing", report.timing.as_ref().map(timing)),
        ("memory", report.memory.as_ref().map(memory)),
        ("joint", report.joint.as_ref().map(joint)),
        ("judges", judgement.judges.as_ref().map(judges)),
    ];
    groups.into_iter().filter_map(|(group, tables)| Some(Section { group, tables: tables? })).collect()
}

fn similarity(report: &SimilarityReport) -> Vec<Table> {
    let columns = ["synthetic", "matched", "floor", "excess", "indep. bits", "random"];
    let mut averages = Table::new("Similarity: Jensen-Shannon distance, 0 equal, 0.833 nothing in common", &columns);
    for (name, of) in AVERAGES {
        let all =
            [&report.pooled, &report.matched, &report.floor, &report.excess, &report.independent_bits, &report.random];
        averages.row(name, all.map(|a| of(a).map_or(f64::NAN, |d| d.jsd)));
    }
    averages.note(format!(
        "floor: real against real, 5 halvings of {} flows; matched: synthetic against the same halves, as many flows.",
        report.flows_per_half
    ));
    averages.note("The mean over bits tells little by itself: shuffled packets reach its floor.");
    let mut fields =
        Table::new("Fields: Jensen-Shannon distance, total variation, Hellinger distance", &["jsd", "tvd", "hd"]);
    for (name, d) in &report.fields {
        fields.row(name, [d.jsd, d.tvd, d.hd]);
    }
    [averages, fields].into_iter().chain(report.paired.iter().flat_map(paired)).collect()
}

fn paired(report: &Paired) -> [Table; 2] {
    let title = format!("Each of {} synthetic captures against the real one that prompted it", report.pairs);
    let mut averages = Table::new(&title, &["synthetic", "matched", "floor", "excess"]);
    for (name, of) in AVERAGES {
        let all = [&report.pooled, &report.matched, &report.floor, &report.excess];
        averages.row(name, all.map(|a| of(a).map_or(f64::NAN, |d| d.jsd)));
    }
    let mut first = Table::new("The first 100 packets of each, one by one", &["percent"]);
    first.row("identical packets", [report.first_packets.identical_pct()]);
    first.row("differing bytes", [report.first_packets.differing_bytes_pct()]);
    [averages, first]
}

type Average = fn(&Averages) -> Option<Distances>;
const AVERAGES: [(&str, Average); 7] = [
    ("structure", |a| a.structure),
    ("bit_positional", |a| Some(a.bit_positional)),
    ("bit_active", |a| Some(a.bit_active)),
    ("bit_tcp480", |a| Some(a.bit_tcp480)),
    ("bit_1088", |a| Some(a.bit_1088)),
    ("bit_all", |a| Some(a.bit_all)),
    ("identity", |a| a.identity),
];

fn validity(real: &ValidityReport, synthetic: &ValidityReport) -> Vec<Table> {
    type Share = fn(&ValidityReport) -> Option<f64>;
    let shares: [(&str, Share); 7] = [
        ("packets valid", |v| v.packets_valid_pct),
        ("flows valid", |v| v.flows_valid_pct),
        ("TCP complete", |v| v.tcp_complete_pct),
        ("TLS streams valid", |v| v.tls.valid_pct()),
        ("DNS messages valid", |v| v.dns.valid_pct()),
        ("HTTP first lines valid", |v| v.http.valid_pct()),
        ("QUIC first datagrams valid", |v| v.quic.valid_pct()),
    ];
    let mut valid = Table::new("Validity: percent", &SIDES);
    for (name, of) in shares {
        valid.row(name, [synthetic, real].map(|v| of(v).unwrap_or(f64::NAN)));
    }
    let mut netssm = Table::new("The eleven counters of NetSSM: percent of flows or packets", &SIDES);
    for ((name, synthetic), (_, real)) in synthetic.netssm.rates().into_iter().zip(real.netssm.rates()) {
        netssm.row(name, [synthetic, real].map(|rate| rate.pct.unwrap_or(f64::NAN)));
    }
    let broken = [
        ("Packets that break a rule", [&synthetic.packet_faults, &real.packet_faults]),
        ("Flows that break a rule", [&synthetic.flow_faults, &real.flow_faults]),
    ];
    let broken = broken.into_iter().map(|(title, of)| {
        let names: BTreeSet<_> = of.iter().flat_map(|faults| faults.keys()).collect();
        let counts = |name| of.map(|faults| faults.get(name).copied().unwrap_or(0).to_string()).to_vec();
        let rows = names.into_iter().map(|name| ((*name).to_owned(), counts(name))).collect();
        Table { rows, ..Table::new(title, &SIDES) }
    });
    [valid, netssm].into_iter().chain(broken).collect()
}

/// The columns of most tables.
const SIDES: [&str; 2] = ["synthetic", "real"];

fn timing(report: &TimingReport) -> Vec<Table> {
    let title = "Timing and shape: Kolmogorov-Smirnov statistic; Wasserstein distance (decades, or as it is)";
    let mut kinds = Table::new(title, &["synthetic", "matched", "floor", "Wasserstein"]);
    let all = [&report.pooled, &report.matched, &report.floor];
    for (name, gap) in &report.pooled.kinds {
        let [a, b, c] = all.map(|g| g.kinds.get(name).map_or(f64::NAN, |gap| gap.ks));
        kinds.row(name, [a, b, c, gap.wasserstein]);
    }
    kinds.row("mean", all.map(|g| g.mean_ks));
    let mut series = Table::new("Traffic in time", &SIDES);
    let both = [&report.series.synthetic, &report.series.real];
    for (i, scale) in report.series.scales_s.iter().enumerate().step_by(3) {
        series.row(&format!("dispersion at {scale} s"), both.map(|s| s.dispersion[i]));
    }
    for lag in [1, 10, 50] {
        series.row(&format!("autocorrelation of gaps at {lag}"), both.map(|s| s.gap_autocorrelation[lag - 1]));
    }
    series.row("flows open at once, mean", both.map(|s| s.concurrent_flows_mean));
    series.row("flows open at once, most", both.map(|s| s.concurrent_flows_max as f64));
    series.row("throughput, correlation", [report.series.throughput_correlation]);
    vec![kinds, series]
}

fn memory(report: &MemoryReport) -> Vec<Table> {
    let mut ret = Table::new("Memory: what comes out of the training captures again", &SIDES);
    ret.row("diversity ratio", [report.diversity_ratio.unwrap_or(f64::NAN), 1.0]);
    let (Some(synthetic), Some(real)) = (&report.synthetic, &report.real) else {
        ret.note("For the rest, name the training captures with --train.");
        return vec![ret];
    };
    ret.row("nearest-neighbour ratio", [report.neighbour_ratio.unwrap_or(f64::NAN), 1.0]);
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
        ret.row(name, [synthetic, real].map(|r| of(r).unwrap_or(f64::NAN)));
    }
    vec![ret]
}

fn joint(report: &JointReport) -> Vec<Table> {
    let title = "Two-sample test: AUC of a forest that tells synthetic from real flows, 0.5 cannot";
    let mut told = Table::new(title, &["synthetic", "floor", "training"]);
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    told.row("by flow statistics", [report.auc, report.floor.auc, report.reference.auc].map(number));
    told.row("by bits of 4 packets", [report.auc_bits, report.floor.auc_bits, report.reference.auc_bits].map(number));
    told.note("floor: real flows dealt by coin; training: the training captures told from the real ones.");
    report.reason.iter().for_each(|reason| told.note(reason));
    if report.auc.is_some_and(|auc| auc > TOLD) {
        let telling: Vec<&str> = report.telling.iter().take(5).map(|t| t.feature.as_str()).collect();
        told.note(format!("told most by: {}", telling.join(", ")));
    }
    let title = "A forest that learned labels from one side, tested on real flows: macro-F1";
    let Some(utility) = &report.utility else {
        report.utility_reason.iter().for_each(|reason| told.note(format!("no test of labels: {reason}")));
        return vec![told];
    };
    let mut useful = Table::new(title, &["synthetic", "real", "gap"]);
    for (name, u) in [("by flow statistics", &utility.stats), ("by bits of 4 packets", &utility.bits)] {
        useful.row(name, [u.synthetic.macro_f1, u.real.macro_f1, u.gap]);
    }
    vec![told, useful]
}

/// Overlaps have, under the real side, that of two halves of it.
fn judges(report: &JudgesReport) -> Vec<Table> {
    let floor = &report.floor;
    let tshark = judge("tshark", &report.tshark, |judged| {
        let mut ret = Table::new("tshark: per 1,000 packets", &SIDES);
        let both = [&judged.synthetic, &judged.real];
        ret.row("malformed", both.map(|s| s.malformed_per_1000));
        ret.row("errors", both.map(|s| s.errors.per_1000));
        ret.row("warnings", both.map(|s| s.warnings.per_1000));
        ret.row(
            "overlap of protocol paths",
            [judged.protocol_path_overlap, floor.protocol_paths].map(|x| x.unwrap_or(f64::NAN)),
        );
        ret
    });
    let ndpi = judge("ndpiReader", &report.ndpi, |judged| {
        let mut ret = Table::new("nDPI: percent of flows", &SIDES);
        let both = [&judged.synthetic, &judged.real];
        ret.row("unknown", both.map(|s| 100.0 * s.unknown_share));
        shares(&mut ret, both.map(|s| &s.protocols));
        ret.row("overlap of protocols", [judged.protocol_overlap, floor.protocols].map(|x| x.unwrap_or(f64::NAN)));
        ret
    });
    let suricata = judge("Suricata", &report.suricata, |judged| {
        let mut ret = Table::new("Suricata: events per 1,000 packets", &SIDES);
        let both = [&judged.synthetic, &judged.real];
        ret.row("decoder calls it invalid", both.map(|s| s.invalid_per_1000));
        ret.row("decode events", both.map(|s| s.decode_events.per_1000));
        ret.row("stream events", both.map(|s| s.stream_events.per_1000));
        ret.row("app-layer events", both.map(|s| s.app_layer_events.per_1000));
        ret.row(
            "overlap of app protocols",
            [judged.app_proto_overlap, floor.app_protos].map(|x| x.unwrap_or(f64::NAN)),
        );
        ret
    });
    let zeek = judge("Zeek", &report.zeek, |judged| {
        let mut ret = Table::new("Zeek: percent of connections", &SIDES);
        shares(&mut ret, [&judged.synthetic.conn_states, &judged.real.conn_states]);
        ret.row("overlap of states", [judged.conn_state_overlap, floor.conn_states].map(|x| x.unwrap_or(f64::NAN)));
        ret.row("overlap of services", [judged.service_overlap, floor.services].map(|x| x.unwrap_or(f64::NAN)));
        ret
    });
    let mut ret = vec![tshark, ndpi, suricata, zeek];
    if let Some(last) = ret.iter_mut().rfind(|table| !table.rows.is_empty()) {
        last.note("overlaps: of synthetic with real, and of two halves of the real flows.");
    }
    ret
}

/// The judgement, or a line that says why there is none.
fn judge<T>(name: &str, outcome: &Outcome<T>, table: impl Fn(&T) -> Table) -> Table {
    match outcome {
        Outcome::Judged(judged) => table(judged),
        Outcome::Absent { hint, .. } => Table::new(&format!("{name}: not installed ({hint})"), &[]),
        Outcome::Failed { reason } => Table::new(&format!("{name}: no judgement: {reason}"), &[]),
    }
}

/// The most frequent values of the real side in percent.
fn shares(ret: &mut Table, [synthetic, real]: [&judge::Table; 2]) {
    let share = |table: &judge::Table, what: &str| {
        let found = table.top.iter().find(|row| row.what == what);
        100.0 * found.map_or(0, |row| row.count) as f64 / table.total.max(1) as f64
    };
    for most in real.top.iter().take(SHARES_MAX) {
        ret.row(&most.what, [share(synthetic, &most.what), share(real, &most.what)]);
    }
}
