//! How long flows wait between packets: empirical distributions of gaps, one per label.
//!
//! A codec without time of its own (`bytes`) draws the times of its packets from here. The table keeps counts in
//! logarithmic bins, so that its size does not grow with the traffic it saw.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::LabelId;

/// Longest gap kept, in nanoseconds: 1 hour. Longer ones count as this.
pub(super) const GAP_MAX_NS: i64 = 3_600_000_000_000;

/// The gap drawn from a table that has seen none, in nanoseconds: 1 ms.
const GAP_UNKNOWN_NS: i64 = 1_000_000;

/// Bits of mantissa of a bin: 64 bins in each octave, so a bin reaches at most 1/128 (0.8 %) to either side of its
/// middle, under the 1 % that is asked for. 32 bins would give 1.6 %.
const MANTISSA_BITS: u32 = 6;

/// Gaps between consecutive packets of a sample, by label, log-quantised.
///
/// Bins are those of a floating-point number with `MANTISSA_BITS` bits of mantissa: exact to the nanosecond below
/// 128 ns (0 has a bin of its own), at most 0.8 % off above it. About 2,400 bins reach from 0 to 1 hour; only those
/// that were hit take space, here and when serialised.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct GapTable {
    labels: Vec<GapHistogram>,
    /// Sum of `labels`.
    pooled: GapHistogram,
}

impl GapTable {
    /// Counts one gap of `gap_ns` nanoseconds. A negative gap (packets out of order) counts as 0, one above
    /// `GAP_MAX_NS` as that.
    pub fn record(&mut self, label: LabelId, gap_ns: i64) {
        let bin = bin_of(gap_ns);
        let label = usize::from(label.0);
        if label >= self.labels.len() {
            self.labels.resize_with(label + 1, GapHistogram::default);
        }
        self.labels[label].add(bin, 1);
        self.pooled.add(bin, 1);
    }

    /// A gap in nanoseconds, 0 to 1 hour, drawn from those recorded for `label`: a bin by its count, then
    /// evenly inside the bin.
    ///
    /// Without a label, or with one that has no gaps, all labels together serve; a table without any gap gives
    /// `GAP_UNKNOWN_NS`.
    pub fn draw(&self, label: Option<LabelId>, rng: &mut ChaCha8Rng) -> i64 {
        let own = label.and_then(|l| self.labels.get(usize::from(l.0))).filter(|h| h.total > 0);
        own.unwrap_or(&self.pooled).draw(rng).unwrap_or(GAP_UNKNOWN_NS)
    }

    /// How many gaps were recorded, all labels together.
    pub fn recorded(&self) -> u64 {
        self.pooled.total
    }
}

/// Counts of one distribution of gaps, in the bins of a [`GapTable`]: sparse, ordered by bin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u16, u64)>", into = "Vec<(u16, u64)>")]
pub struct GapHistogram {
    counts: Vec<(u16, u64)>,
    total: u64,
}

impl GapHistogram {
    /// Counts one gap of `gap_ns` nanoseconds, as [`GapTable::record`] does.
    pub fn record(&mut self, gap_ns: i64) {
        self.add(bin_of(gap_ns), 1);
    }

    /// How many gaps were recorded.
    pub fn recorded(&self) -> u64 {
        self.total
    }

    /// The mean gap in nanoseconds, each taken for the middle of its bin; `None` without gaps.
    pub fn mean_ns(&self) -> Option<f64> {
        let middle = |bin| {
            let (low, width) = bounds_of(bin);
            low as f64 + (width - 1) as f64 / 2.0
        };
        let sum: f64 = self.counts.iter().map(|(bin, count)| middle(*bin) * *count as f64).sum();
        (self.total > 0).then(|| sum / self.total as f64)
    }

    fn add(&mut self, bin: u16, count: u64) {
        // Bounded below `u64::MAX` as a whole, so that drawing can add counts without overflow.
        let count = count.min(u64::MAX - self.total);
        match self.counts.binary_search_by_key(&bin, |c| c.0) {
            Ok(at) => self.counts[at].1 += count,
            Err(at) => self.counts.insert(at, (bin, count)),
        }
        self.total += count;
    }

    /// A gap in nanoseconds: a bin by its count, then evenly inside the bin; `None` without gaps.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Option<i64> {
        if self.total == 0 {
            return None;
        }
        let mut left = rng.random_range(0..self.total);
        for &(bin, count) in &self.counts {
            if left < count {
                let (low, width) = bounds_of(bin);
                return Some((low + rng.random_range(0..width)).min(GAP_MAX_NS));
            }
            left -= count;
        }
        None
    }
}

/// The bin of a gap: its exponent and the first `MANTISSA_BITS` bits after the leading one, counted through.
fn bin_of(gap_ns: i64) -> u16 {
    let ns = gap_ns.clamp(0, GAP_MAX_NS) as u64;
    let shift = shift_of(ns);
    (u64::from(shift << MANTISSA_BITS) + (ns >> shift)) as u16
}

/// How many low bits of `ns` its bin forgets; 0 while the value fits mantissa and leading bit.
fn shift_of(ns: u64) -> u32 {
    (u64::BITS - ns.leading_zeros()).saturating_sub(MANTISSA_BITS + 1)
}

/// First value of a bin and how many values it holds, in nanoseconds.
fn bounds_of(bin: u16) -> (i64, i64) {
    let bin = i64::from(bin);
    let per_octave = 1 << MANTISSA_BITS;
    // The first two "octaves" (leading bit absent, and present at its lowest place) are exact.
    let shift = (bin / per_octave - 1).max(0);
    ((bin - shift * per_octave) << shift, 1 << shift)
}

/// The table as a file holds it: for each label its histogram, which is `[bin, count]` pairs.
#[derive(Serialize, Deserialize)]
struct Stored {
    labels: Vec<GapHistogram>,
}

impl From<GapTable> for Stored {
    fn from(table: GapTable) -> Self {
        Self { labels: table.labels }
    }
}

impl From<Stored> for GapTable {
    fn from(Stored { labels }: Stored) -> Self {
        let mut pooled = GapHistogram::default();
        labels.iter().flat_map(|own| &own.counts).for_each(|(bin, count)| pooled.add(*bin, *count));
        Self { labels, pooled }
    }
}

impl From<GapHistogram> for Vec<(u16, u64)> {
    fn from(histogram: GapHistogram) -> Self {
        histogram.counts
    }
}

impl TryFrom<Vec<(u16, u64)>> for GapHistogram {
    type Error = String;

    fn try_from(counts: Vec<(u16, u64)>) -> Result<Self, String> {
        let bin_max = bin_of(GAP_MAX_NS);
        let mut ret = Self::default();
        for (bin, count) in counts {
            if bin > bin_max {
                return Err(format!("gap bin {bin} is above the last, {bin_max}"));
            }
            ret.add(bin, count);
        }
        Ok(ret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    proptest! {
        #[test]
        fn a_bin_holds_its_gap_and_is_narrow(ns in prop_oneof![0..2000i64, 0..=GAP_MAX_NS]) {
            let (low, width) = bounds_of(bin_of(ns));
            prop_assert!(low <= ns && ns < low + width);
            // Half of the width against the middle: within 1 %, or a single nanosecond.
            let middle = low as f64 + width as f64 / 2.0;
            prop_assert!(width == 1 || width as f64 / 2.0 <= 0.01 * middle);
        }
    }

    #[test]
    fn bins_follow_one_another_without_gap_or_overlap() {
        for bin in 0..bin_of(GAP_MAX_NS) {
            let (low, width) = bounds_of(bin);
            assert_eq!(low + width, bounds_of(bin + 1).0, "after bin {bin}");
            assert_eq!(bin_of(low), bin);
        }
    }

    #[test]
    fn zero_negative_and_endless_gaps_stay_in_range() {
        let mut table = GapTable::default();
        table.record(LabelId(0), 0);
        table.record(LabelId(0), -5);
        table.record(LabelId(1), i64::MAX);
        let mut rng = rng(1);
        for _ in 0..100 {
            assert_eq!(table.draw(Some(LabelId(0)), &mut rng), 0);
            let long = table.draw(Some(LabelId(1)), &mut rng);
            assert!((GAP_MAX_NS * 99 / 100..=GAP_MAX_NS).contains(&long), "{long}");
        }
        assert_eq!(table.recorded(), 3);
    }

    #[test]
    fn drawn_quantiles_are_the_recorded_ones() {
        // Log-uniform from 1 µs to 1 s: quantile q is 10^(3 + 6 q) ns, by hand.
        let mut table = GapTable::default();
        let n = 20_000;
        for i in 0..n {
            table.record(LabelId(2), 10f64.powf(3.0 + 6.0 * (f64::from(i) + 0.5) / f64::from(n)) as i64);
        }
        let mut rng = rng(7);
        let mut drawn: Vec<i64> = (0..n).map(|_| table.draw(Some(LabelId(2)), &mut rng)).collect();
        drawn.sort_unstable();
        for q in [0.1, 0.25, 0.5, 0.75, 0.9] {
            let is = (drawn[(q * f64::from(n)) as usize] as f64).log10();
            // The standard error of a quantile of 20,000 draws is at most 0.0035 of the range of 6 decades, 0.021;
            // five times that.
            assert!((is - (3.0 + 6.0 * q)).abs() < 0.11, "quantile {q}: 10^{is}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_gaps_and_another_seed_others() {
        let mut table = GapTable::default();
        for gap in [1_000, 20_000, 3_000_000, 1_000_000_000] {
            table.record(LabelId(0), gap);
        }
        let draw = |seed| {
            let mut rng = rng(seed);
            (0..50).map(|_| table.draw(None, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn a_label_without_gaps_draws_from_all_and_an_empty_table_says_one_millisecond() {
        let mut table = GapTable::default();
        assert_eq!(table.draw(Some(LabelId(0)), &mut rng(1)), 1_000_000);
        table.record(LabelId(3), 77);
        for label in [None, Some(LabelId(0)), Some(LabelId(3)), Some(LabelId(900))] {
            assert_eq!(table.draw(label, &mut rng(1)), 77);
        }
    }

    #[test]
    fn a_stored_table_comes_back_equal_and_a_wrong_bin_is_refused() {
        let mut table = GapTable::default();
        for gap in [0, 5, 1_000, 1_001, GAP_MAX_NS] {
            table.record(LabelId(1), gap);
        }
        let json = serde_json::to_string(&table).expect("plain data");
        assert_eq!(serde_json::from_str::<GapTable>(&json).expect("just written"), table);
        assert!(serde_json::from_str::<GapTable>(r#"{"labels":[[[60000,1]]]}"#).is_err());
        let full = serde_json::from_str::<GapTable>(&format!(r#"{{"labels":[[[1,{0}],[2,{0}]]]}}"#, u64::MAX));
        assert_eq!(full.expect("counts saturate").draw(None, &mut rng(1)), 1);
    }
}
