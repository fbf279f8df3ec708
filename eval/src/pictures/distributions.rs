//! Histograms and quantiles of what the timing group keeps.

use crate::timing::Side;

/// Bins of a histogram.
const BINS: usize = 40;
/// Quantiles of a Q-Q plot.
const QUANTILES: usize = 99;
/// Shortest time that is told from none, in seconds: captures are rarely finer than a microsecond.
const TIME_MIN: f64 = 1e-6;

/// What is drawn: name of the kind, title, unit, whether over decades.
const HISTOGRAMS: [(&str, &str, &str, bool); 6] = [
    ("packet_size", "Packet size", "bytes", false),
    ("gaps", "Gaps between packets of a flow", "s", true),
    ("duration", "Flow duration", "s", true),
    ("packets_per_flow", "Packets per flow", "packets", true),
    ("bytes_per_flow", "Bytes per flow", "bytes", true),
    ("upstream_bytes", "Share of bytes from who opened the flow", "", false),
];
const QUANTILE_PLOTS: [(&str, &str); 2] =
    [("gaps_within_direction", "Gaps within a direction"), ("gaps_at_turns", "Gaps where the direction turns")];

/// Shares of both sides in bins of equal width, on a linear or a logarithmic axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What it is of.
    pub title: &'static str,
    /// Unit of the axis; empty for a share.
    pub unit: &'static str,
    /// Whether the bounds are powers of ten: `from` and `to` are exponents then.
    pub is_logarithmic: bool,
    /// Left end of the axis.
    pub from: f64,
    /// Right end of the axis.
    pub to: f64,
    /// Share of the real values in each bin.
    pub real: Vec<f64>,
    /// Share of the synthetic values in each bin.
    pub synthetic: Vec<f64>,
}

/// The quantiles 1 % to 99 % of both sides, as powers of ten of a second.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantiles {
    /// What they are of.
    pub title: &'static str,
    /// Real and synthetic exponent of each quantile.
    pub pairs: Vec<(f64, f64)>,
}

/// Everything that is drawn of two sorted sides.
pub(super) fn of(real: &Side, synthetic: &Side) -> (Vec<Histogram>, Vec<Quantiles>) {
    let histograms = HISTOGRAMS.iter().filter_map(|(kind, title, unit, is_logarithmic)| {
        let (real, synthetic) = (real.sorted(kind), synthetic.sorted(kind));
        histogram(title, unit, *is_logarithmic, &real, &synthetic)
    });
    let quantiles = QUANTILE_PLOTS.iter().filter_map(|(kind, title)| {
        let (real, synthetic) = (real.sorted(kind), synthetic.sorted(kind));
        let is_there = !real.is_empty() && !synthetic.is_empty();
        let at = |values: &[f64], i: usize| values[i * (values.len() - 1) / (QUANTILES + 1)].max(TIME_MIN).log10();
        let pairs = || (1..=QUANTILES).map(|i| (at(&real, i), at(&synthetic, i))).collect();
        is_there.then(|| Quantiles { title, pairs: pairs() })
    });
    (histograms.collect(), quantiles.collect())
}

/// None where neither side has a value.
fn histogram(
    title: &'static str,
    unit: &'static str,
    is_logarithmic: bool,
    real: &[f64],
    synthetic: &[f64],
) -> Option<Histogram> {
    let smallest = if unit == "s" { TIME_MIN } else { 1.0 };
    let place = |value: f64| if is_logarithmic { value.max(smallest).log10() } else { value };
    let ends = [real.first(), real.last(), synthetic.first(), synthetic.last()].into_iter().flatten();
    let (mut from, mut to) = ends.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(place(*v)), b.max(place(*v))));
    if from > to {
        return None;
    }
    (from, to) = match (is_logarithmic, unit) {
        (true, _) => (from.floor(), to.ceil().max(from.floor() + 1.0)),
        (false, "") => (0.0, 1.0),
        // One jumbo frame does not make the others invisible: what is beyond counts in the last bin.
        (false, _) => (0.0, to.clamp(100.0, 1600.0)),
    };
    let shares = |values: &[f64]| {
        let mut bins = vec![0.0; BINS];
        for value in values {
            let bin = (place(*value) - from) / (to - from) * BINS as f64;
            bins[(bin.max(0.0) as usize).min(BINS - 1)] += 1.0 / values.len() as f64;
        }
        bins
    };
    Some(Histogram { title, unit, is_logarithmic, from, to, real: shares(real), synthetic: shares(synthetic) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_lie_where_the_values_do() {
        let histogram = histogram("Flow duration", "s", true, &[0.0, 0.1, 0.1, 90.0], &[1.0]).unwrap();
        assert_eq!((histogram.from, histogram.to), (-6.0, 2.0));
        for side in [&histogram.real, &histogram.synthetic] {
            assert!((side.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        // 8 decades, 5 bins each.
        assert_eq!((histogram.real[0], histogram.real[25], histogram.real[39]), (0.25, 0.5, 0.25));
        assert_eq!(histogram.synthetic[30], 1.0);
        assert!(super::histogram("Flow duration", "s", true, &[], &[]).is_none());
    }
}
