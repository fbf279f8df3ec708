//! Traffic as a series in time: how bursty it is on each time scale, how gaps follow each other, how many flows are open.

use serde::Serialize;

use super::stats::pearson;

/// Lags of the autocorrelation.
const LAGS: usize = 50;
/// Widths of the windows in which packets are counted, in seconds.
const SCALES: [f64; 10] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Packets of one value of the throughput.
const THROUGHPUT_PACKETS: usize = 100;
/// Packets and flows that are kept; further ones are left out.
const ENTRIES_MAX: usize = 8 << 20;

/// The packets and flows of one side, by capture and time.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Capture, time in nanoseconds, length on the wire.
    packets: Vec<(u32, i64, u32)>,
    /// Capture, first and last time in nanoseconds.
    flows: Vec<(u32, i64, i64)>,
}

impl Series {
    /// A packet.
    pub fn packet(&mut self, capture: u32, ts: i64, len: u32) {
        if self.packets.len() < ENTRIES_MAX {
            self.packets.push((capture, ts, len));
        }
    }

    /// A flow.
    pub fn flow(&mut self, capture: u32, start: i64, end: i64) {
        if self.flows.len() < ENTRIES_MAX {
            self.flows.push((capture, start, end));
        }
    }

    /// Takes in another of the same side.
    pub fn merge(&mut self, mut other: Self) {
        self.packets.append(&mut other.packets);
        self.flows.append(&mut other.flows);
    }

    /// What there is to say of this side, and its throughput.
    fn figures(mut self) -> (Figures, Vec<f64>) {
        self.packets.sort_unstable();
        let captures: Vec<&[(u32, i64, u32)]> = self.packets.chunk_by(|a, b| a.0 == b.0).collect();
        let figures = Figures {
            gap_autocorrelation: autocorrelation(&captures),
            dispersion: SCALES.map(|scale| dispersion(&captures, scale)).to_vec(),
            concurrent_flows_mean: self.concurrent().0,
            concurrent_flows_max: self.concurrent().1,
        };
        let throughput = captures.iter().flat_map(|packets| packets.chunks_exact(THROUGHPUT_PACKETS)).map(|chunk| {
            let seconds = (chunk[THROUGHPUT_PACKETS - 1].1 - chunk[0].1) as f64 * 1e-9;
            chunk.iter().map(|(_, _, len)| f64::from(*len)).sum::<f64>() / seconds.max(1e-9)
        });
        let throughput = throughput.collect();
        (figures, throughput)
    }

    /// Mean over time and most flows open at once.
    fn concurrent(&self) -> (f64, u64) {
        let mut changes: Vec<(u32, i64, bool)> = self
            .flows
            .iter()
            .flat_map(|(capture, start, end)| [(*capture, *start, false), (*capture, *end, true)])
            .collect();
        changes.sort_unstable();
        let (mut open, mut most, mut area, mut span) = (0_u64, 0, 0.0, 0.0);
        for pair in changes.windows(2) {
            let [(capture, from, is_end), (next, to, _)] = pair else { unreachable!("windows of two") };
            open = if *is_end { open - 1 } else { open + 1 };
            most = most.max(open);
            if capture == next {
                area += open as f64 * (to - from) as f64;
                span += (to - from) as f64;
            }
            // The last change of a capture closes its last flow.
            if capture != next {
                open = 0;
            }
        }
        (if span > 0.0 { area / span } else { f64::NAN }, most)
    }
}

/// Autocorrelation of the logarithms of the gaps, lags 1 to 50; a gap below 1 ns counts as 1 ns. NaN where they do not
/// vary.
fn autocorrelation(captures: &[&[(u32, i64, u32)]]) -> Vec<f64> {
    let series: Vec<Vec<f64>> = captures
        .iter()
        .map(|packets| packets.windows(2).map(|w| ((w[1].1 - w[0].1) as f64 * 1e-9).max(1e-9).log10()).collect())
        .collect();
    let n = series.iter().map(Vec::len).sum::<usize>() as f64;
    let mean = series.iter().flatten().sum::<f64>() / n;
    let variance: f64 = series.iter().flatten().map(|x| (x - mean).powi(2)).sum();
    let covariance = |lag: usize| -> f64 {
        series.iter().map(|s| s.iter().zip(s.iter().skip(lag)).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>()).sum()
    };
    (1..=LAGS).map(|lag| covariance(lag) / variance).collect()
}

/// Index of dispersion of counts: variance over mean of the packets in windows of `seconds`; 1 is Poisson. Windows that
/// the end of a capture cuts are left out. NaN of fewer than two windows.
fn dispersion(captures: &[&[(u32, i64, u32)]], seconds: f64) -> f64 {
    let width = (seconds * 1e9) as i64;
    let (mut windows, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for packets in captures {
        let (first, last) = (packets[0].1, packets[packets.len() - 1].1);
        let whole = (last - first) / width;
        windows += whole as f64;
        for window in packets.chunk_by(|a, b| (a.1 - first) / width == (b.1 - first) / width) {
            if (window[0].1 - first) / width < whole {
                let count = window.len() as f64;
                sum += count;
                squares += count * count;
            }
        }
    }
    let mean = sum / windows;
    if windows < 2.0 || mean == 0.0 { f64::NAN } else { (squares / windows - mean * mean) / mean }
}

/// The series of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Of the logarithms of all gaps of a capture, lags 1 to 50.
    pub gap_autocorrelation: Vec<f64>,
    /// Variance over mean of the packets in windows of each width in [`SeriesReport::scales_s`].
    pub dispersion: Vec<f64>,
    /// Flows open at once, mean over time.
    pub concurrent_flows_mean: f64,
    /// Most flows open at once.
    pub concurrent_flows_max: u64,
}

/// The series of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeriesReport {
    /// Widths of the windows of the dispersion, in seconds.
    pub scales_s: [f64; 10],
    /// The real side.
    pub real: Figures,
    /// The synthetic side.
    pub synthetic: Figures,
    /// Mean absolute difference of the autocorrelations over all lags.
    pub autocorrelation_difference: f64,
    /// Mean absolute difference of the dispersions, in decades, over the scales that both sides have.
    pub dispersion_difference: f64,
    /// Pearson's correlation of the bytes per second of each 100 packets, over the length that both sides have.
    pub throughput_correlation: f64,
}

/// Compares the two sides.
pub fn report(real: Series, synthetic: Series) -> SeriesReport {
    let ((real, real_throughput), (synthetic, synthetic_throughput)) = (real.figures(), synthetic.figures());
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let correlations = real.gap_autocorrelation.iter().zip(&synthetic.gap_autocorrelation);
    let dispersions = real.dispersion.iter().zip(&synthetic.dispersion);
    SeriesReport {
        scales_s: SCALES,
        autocorrelation_difference: mean(correlations.map(|(a, b)| (a - b).abs()).collect()),
        dispersion_difference: mean(
            dispersions.filter(|(a, b)| **a > 0.0 && **b > 0.0).map(|(a, b)| (a / b).log10().abs()).collect(),
        ),
        throughput_correlation: pearson(&real_throughput, &synthetic_throughput),
        real,
        synthetic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(times_ms: &[i64]) -> Series {
        let mut ret = Series::default();
        times_ms.iter().for_each(|t| ret.packet(0, t * 1_000_000, 100));
        ret
    }

    #[test]
    fn a_clock_has_no_dispersion_and_bursts_have_much() {
        let clock = series(&(0..30_000).collect::<Vec<_>>()).figures().0;
        assert!(clock.dispersion.iter().all(|d| d.abs() < 1e-9), "{:?}", clock.dispersion);
        // Ten packets at once, each 100 ms: 9 of 10 windows of 10 ms are empty.
        let bursts = series(&(0..10_000).map(|i| i / 10 * 100).collect::<Vec<_>>()).figures().0;
        assert!((bursts.dispersion[0] - 9.0).abs() < 0.01, "{:?}", bursts.dispersion);
        assert!((bursts.gap_autocorrelation[9] - 1.0).abs() < 0.02, "{:?}", bursts.gap_autocorrelation);
    }

    #[test]
    fn flows_that_are_open_together_are_counted() {
        let mut of = Series::default();
        [(0, 0, 10), (0, 5, 10), (1, 0, 4), (1, 20, 20)].into_iter().for_each(|(c, a, b)| of.flow(c, a, b));
        let (mean, most) = of.concurrent();
        assert_eq!(most, 2);
        assert!((mean - (10.0 + 5.0 + 4.0) / 30.0).abs() < 1e-12, "{mean}");
        assert!(Series::default().concurrent().0.is_nan());
    }
}
