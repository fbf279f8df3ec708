//! Group 3, timing and shape: when packets come, how long and how large flows are.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;
use wiremamba_model::flow::Direction;

use super::halves::{HALVINGS, Halves};
use super::series::{self, Series, SeriesReport};
use super::stats::{kolmogorov_smirnov, wasserstein};
use super::view::View;

/// Positions in a flow whose signed sizes are compared.
const POSITIONS: usize = 20;
/// Values of one kind that are kept; further ones are counted.
const VALUES_MAX: usize = 8 << 20;
const SECOND: f64 = 1e-9;

/// What is compared. The signed size is one kind by the mean over positions.
const KINDS: [&str; 12] = [
    "gaps",
    "gaps_at_turns",
    "gaps_within_direction",
    "duration",
    "packets_per_flow",
    "bytes_per_flow",
    "packet_size",
    "upstream_packets",
    "upstream_bytes",
    "burstiness",
    "gap_autocorrelation",
    "flow_start_gaps",
];
const GAPS: usize = 0;
const TURNS: usize = 1;
const WITHIN: usize = 2;
const DURATION: usize = 3;
const PACKETS: usize = 4;
const BYTES: usize = 5;
const SIZE: usize = 6;
const UP_PACKETS: usize = 7;
const UP_BYTES: usize = 8;
const BURSTINESS: usize = 9;
const AUTOCORRELATION: usize = 10;
const STARTS: usize = 11;
const SIGNED_SIZE: &str = "signed_size_by_position";

/// Kinds that are no quantity over several decades: their Wasserstein distance is in their own unit.
const LINEAR: [usize; 4] = [UP_PACKETS, UP_BYTES, BURSTINESS, AUTOCORRELATION];

/// A value and the number of the flow that it is from.
type Sample = (f64, u32);

/// The accumulator of one side.
#[derive(Debug, Clone, Default)]
pub struct Side {
    kinds: [Vec<Sample>; KINDS.len()],
    positions: [Vec<Sample>; POSITIONS],
    /// Capture, first time in nanoseconds, number of each flow.
    starts: Vec<(u32, i64, u32)>,
    series: Series,
    values_left_out: u64,
}

impl Side {
    /// The flow of this number, of the capture of this number.
    pub fn flow(&mut self, capture: u32, number: usize, views: &[(Direction, View<'_>)]) {
        let Some((_, first)) = views.first() else { return };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.starts.push((capture, first.ts().0, number));
        let size = |v: &View<'_>| f64::from(v.packet.len);
        let mut gaps = Vec::with_capacity(views.len());
        for pair in views.windows(2) {
            let [(da, a), (db, b)] = pair else { unreachable!("windows of two") };
            let gap = b.ts().nanos_since(a.ts()) as f64 * SECOND;
            gaps.push(gap);
            self.put(GAPS, gap, number);
            self.put(if da == db { WITHIN } else { TURNS }, gap, number);
        }
        for (_, view) in views {
            self.series.packet(capture, view.ts().0, view.packet.len);
            self.put(SIZE, size(view), number);
        }
        for (position, (direction, view)) in self.positions.iter_mut().zip(views) {
            let sign = if *direction == Direction::Orig { 1.0 } else { -1.0 };
            position.push((sign * size(view), number));
        }

        let (_, last_view) = views.last().expect("there is a first");
        self.series.flow(capture, first.ts().0, last_view.ts().0.max(first.ts().0));
        let bytes: f64 = views.iter().map(|(_, v)| size(v)).sum();
        let up = |value: &dyn Fn(&View<'_>) -> f64| -> f64 {
            views.iter().filter(|(d, _)| *d == Direction::Orig).map(|(_, v)| value(v)).sum()
        };
        self.put(DURATION, last_view.ts().nanos_since(first.ts()) as f64 * SECOND, number);
        self.put(PACKETS, views.len() as f64, number);
        self.put(BYTES, bytes, number);
        self.put(UP_PACKETS, up(&|_| 1.0) / views.len() as f64, number);
        if bytes > 0.0 {
            self.put(UP_BYTES, up(&size) / bytes, number);
        }
        if let Some(burstiness) = burstiness(&gaps) {
            self.put(BURSTINESS, burstiness, number);
        }
        if let Some(correlation) = lag_one(&gaps) {
            self.put(AUTOCORRELATION, correlation, number);
        }
    }

    /// Takes in another. The order in which sides are merged does not matter.
    pub fn merge(&mut self, mut other: Self) {
        for (a, b) in
            self.kinds.iter_mut().chain(&mut self.positions).zip(other.kinds.iter_mut().chain(&mut other.positions))
        {
            a.append(b);
        }
        self.starts.append(&mut other.starts);
        self.series.merge(other.series);
        self.values_left_out += other.values_left_out;
    }

    fn put(&mut self, kind: usize, value: f64, flow: u32) {
        if self.kinds[kind].len() < VALUES_MAX {
            self.kinds[kind].push((value, flow));
        } else {
            self.values_left_out += 1;
        }
    }

    /// Brings all values into order, as [`report`] needs them.
    ///
    /// A gap between starts belongs to the flow that ends it: taken between those of a half they would be longer the fewer flows it
    /// has, whoever made them.
    pub(crate) fn sort(&mut self) {
        self.starts.sort_unstable();
        let starts = std::mem::take(&mut self.starts);
        self.kinds[STARTS].clear();
        for pair in starts.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            self.put(STARTS, (pair[1].1 - pair[0].1) as f64 * SECOND, pair[1].2);
        }
        self.starts = starts;
        self.kinds.par_iter_mut().chain(&mut self.positions).for_each(|values| {
            values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        });
    }

    /// The values of the kind of this name, in order.
    pub(crate) fn sorted(&self, kind: &str) -> Vec<f64> {
        let place = KINDS.iter().position(|name| *name == kind).expect("a kind of this file");
        picked(&self.kinds[place], &|_| true)
    }
}

/// The values of the flows that `keep` wants.
fn picked(values: &[Sample], keep: &dyn Fn(usize) -> bool) -> Vec<f64> {
    values.iter().filter(|(_, flow)| keep(*flow as usize)).map(|(value, _)| *value).collect()
}

/// (s - m) / (s + m) of the gaps: -1 is a clock, 0 is Poisson, 1 is bursts (Goh and Barabási 2008).
fn burstiness(gaps: &[f64]) -> Option<f64> {
    if gaps.len() < 2 {
        return None;
    }
    let n = gaps.len() as f64;
    let mean = gaps.iter().sum::<f64>() / n;
    let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n).sqrt();
    Some(if deviation + mean == 0.0 { 0.0 } else { (deviation - mean) / (deviation + mean) })
}

/// Autocorrelation at lag 1 of the logarithms; a gap below 1 ns counts as 1 ns. None where they do not vary.
fn lag_one(gaps: &[f64]) -> Option<f64> {
    if gaps.len() < 3 {
        return None;
    }
    let logs: Vec<f64> = gaps.iter().map(|g| g.max(1e-9).log10()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let variance: f64 = logs.iter().map(|x| (x - mean).powi(2)).sum();
    let covariance: f64 = logs.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
    (variance > 1e-18).then(|| covariance / variance)
}

/// How far the values of one kind are apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap {
    /// Kolmogorov-Smirnov statistic.
    pub ks: f64,
    /// First Wasserstein distance: in decades for times, sizes and counts (of the positive values), else as it is.
    pub wasserstein: f64,
}

/// Distances of all kinds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gaps {
    /// Mean K-S statistic over the kinds that are there on either side.
    pub mean_ks: f64,
    /// By kind.
    #[serde(flatten)]
    pub kinds: BTreeMap<&'static str, Gap>,
}

/// Timing and shape of the synthetic side against the real one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimingReport {
    /// All flows against all flows.
    #[serde(flatten)]
    pub pooled: Gaps,
    /// Real against real: mean over the halvings.
    pub floor: Gaps,
    /// Synthetic flows against the first of these halves, as many flows on each side.
    pub matched: Gaps,
    /// Matched minus floor, of the mean K-S statistic.
    pub excess_mean_ks: f64,
    /// Traffic as a series in time.
    pub series: SeriesReport,
    /// Values beyond the limit, on both sides together.
    pub values_left_out: u64,
}

/// Compares the two sides, which are sorted.
pub(crate) fn report(real: Side, synthetic: Side, halves: &Halves) -> TimingReport {
    let pooled = gaps(&real, &|_| true, &synthetic, &|_| true);
    let each = |second: bool| -> Vec<Gaps> {
        (0..HALVINGS)
            .map(|i| {
                let first = |flow: usize| halves.is_first(i, flow);
                if second {
                    gaps(&real, &first, &real, &|flow| halves.is_second(i, flow))
                } else {
                    gaps(&real, &first, &synthetic, &|flow| halves.is_matched(i, flow))
                }
            })
            .collect()
    };
    let (floor, matched) = (mean(&each(true)), mean(&each(false)));
    TimingReport {
        pooled,
        excess_mean_ks: matched.mean_ks - floor.mean_ks,
        floor,
        matched,
        values_left_out: real.values_left_out + synthetic.values_left_out,
        series: series::report(real.series, synthetic.series),
    }
}

type Keep<'a> = &'a (dyn Fn(usize) -> bool + Sync);

fn gaps(a: &Side, keep_a: Keep<'_>, b: &Side, keep_b: Keep<'_>) -> Gaps {
    let one = |kind: usize| {
        let (x, y) = (picked(&a.kinds[kind], keep_a), picked(&b.kinds[kind], keep_b));
        gap(&x, &y, !LINEAR.contains(&kind))
    };
    let mut kinds: BTreeMap<&'static str, Gap> =
        (0..KINDS.len()).into_par_iter().map(|kind| (KINDS[kind], one(kind))).collect();
    let positions = (0..POSITIONS).into_par_iter().map(|i| {
        let (x, y) = (picked(&a.positions[i], keep_a), picked(&b.positions[i], keep_b));
        (!x.is_empty() && !y.is_empty()).then(|| gap(&x, &y, false))
    });
    let positions: Vec<Gap> = positions.collect::<Vec<_>>().into_iter().flatten().collect();
    kinds.insert(SIGNED_SIZE, mean_gap(positions.iter()));
    let defined = kinds.values().map(|g| g.ks).filter(|ks| !ks.is_nan());
    let (n, sum) = defined.fold((0, 0.0), |(n, sum), ks| (n + 1, sum + ks));
    let is_empty = a.starts.is_empty() || b.starts.is_empty();
    Gaps { mean_ks: if is_empty { f64::NAN } else { sum / f64::from(n) }, kinds }
}

fn gap(a: &[f64], b: &[f64], in_decades: bool) -> Gap {
    let logs = |v: &[f64]| v.iter().filter(|x| **x > 0.0).map(|x| x.log10()).collect::<Vec<f64>>();
    let wasserstein = if in_decades { wasserstein(&logs(a), &logs(b)) } else { wasserstein(a, b) };
    Gap { ks: kolmogorov_smirnov(a, b), wasserstein }
}

fn mean_gap<'a>(each: impl Iterator<Item = &'a Gap>) -> Gap {
    let (mut n, mut ks, mut wasserstein) = (0.0, 0.0, 0.0);
    for gap in each {
        n += 1.0;
        ks += gap.ks;
        wasserstein += gap.wasserstein;
    }
    Gap { ks: ks / n, wasserstein: wasserstein / n }
}

fn mean(each: &[Gaps]) -> Gaps {
    let names = each.iter().flat_map(|g| g.kinds.keys().copied());
    let kinds = names.map(|name| (name, mean_gap(each.iter().filter_map(|g| g.kinds.get(name))))).collect();
    Gaps { mean_ks: each.iter().map(|g| g.mean_ks).sum::<f64>() / each.len() as f64, kinds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burstiness_knows_clocks_and_bursts() {
        assert_eq!(burstiness(&[1.0, 1.0, 1.0]), Some(-1.0));
        assert!(burstiness(&[[0.001; 50].as_slice(), &[10.0]].concat()).unwrap() > 0.5);
        assert_eq!((burstiness(&[0.0, 0.0]), burstiness(&[1.0])), (Some(0.0), None));
    }

    #[test]
    fn as_many_flows_a_second_are_so_however_many_were_captured() {
        // A flow each 100 ms, and every tenth a second later.
        let side = |flows: i64| {
            let starts = (0..flows).map(|i| (0, (i + i / 10 * 9) * 100_000_000, i as u32)).collect();
            let mut side = Side { starts, ..Side::default() };
            side.sort();
            side
        };
        let halves = Halves::new(100, 1000, 3);
        let report = report(side(100), side(1000), &halves);
        let ks = |gaps: &Gaps| gaps.kinds["flow_start_gaps"].ks;
        assert!(ks(&report.pooled) < 0.01, "{}", ks(&report.pooled));
        // A tenth of the gaps is long: of two times 50 that is 0.06 apart at two standard errors of the difference, each time.
        assert!(
            ks(&report.floor) < 0.08 && ks(&report.matched) < 0.08,
            "{} {}",
            ks(&report.floor),
            ks(&report.matched)
        );
    }

    #[test]
    fn alternating_gaps_correlate_negatively() {
        assert!(lag_one(&[1.0, 0.1, 1.0, 0.1, 1.0, 0.1]).unwrap() < -0.8);
        assert_eq!(lag_one(&[1.0, 1.0, 1.0]), None);
    }
}
