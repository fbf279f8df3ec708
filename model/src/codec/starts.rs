//! How the samples of each label follow one another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gaps::GAP_MAX_NS;
use super::{GapHistogram, LabelId};
use crate::packet::Timestamp;

/// Gaps from which on a label is known to come as it came: fewer say little of a rate.
const GAPS_MIN: u64 = 8;

/// When the samples of one label begin in one capture, in any order.
pub type CaptureStarts = (LabelId, Vec<Timestamp>);

/// By label, times from the start of a sample to the start of the next one in the same capture. Whoever is silent for more than an hour
/// has stopped, and begins anew: such a time is none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Starts(BTreeMap<String, GapHistogram>);

impl Starts {
    /// Learns the labels of `captures`, which are numbers in `labels`, anew: what was known of them before is how other samples came,
    /// and is kept only where these are too few.
    pub fn learn(&mut self, labels: &[String], captures: &[CaptureStarts]) {
        let mut learned: BTreeMap<&String, GapHistogram> = BTreeMap::new();
        for (label, starts) in captures {
            let Some(label) = labels.get(usize::from(label.0)) else { continue };
            let mut starts = starts.clone();
            starts.sort_unstable();
            let gaps = starts.windows(2).map(|pair| pair[1].nanos_since(pair[0])).filter(|gap| *gap <= GAP_MAX_NS);
            let all = learned.entry(label).or_default();
            gaps.for_each(|gap| all.record(gap));
        }
        self.0
            .extend(learned.into_iter().filter(|(_, gaps)| is_known(gaps)).map(|(label, gaps)| (label.clone(), gaps)));
    }

    /// Those of a label; `None` where fewer than 8 were seen, or no time ever passed.
    pub fn of(&self, label: &str) -> Option<&GapHistogram> {
        self.0.get(label).filter(|gaps| is_known(gaps))
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_known(gaps: &GapHistogram) -> bool {
    gaps.recorded() >= GAPS_MIN && gaps.mean_ns().is_some_and(|ns| ns >= 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(times: &[i64]) -> Vec<Timestamp> {
        times.iter().map(|s| Timestamp::from_parts(*s, 0)).collect()
    }

    #[test]
    fn gaps_are_those_within_a_capture_in_the_order_of_time() {
        let labels = ["a".to_owned(), "b".to_owned()];
        let mut starts = Starts::default();
        let captures = [
            (LabelId(1), seconds(&[40, 10, 20, 30, 50])),
            // Later, in another capture, and after a night in the same one.
            (LabelId(1), seconds(&[1_410, 1_400, 1_420, 1_430, 40_000])),
            (LabelId(1), seconds(&[86_400, 86_410])),
            (LabelId(0), seconds(&[1])),
            (LabelId(9), seconds(&[1, 2, 3])),
        ];
        starts.learn(&labels, &captures[..1]);
        assert_eq!(starts.of("b"), None, "four gaps are too few");
        starts.learn(&labels, &captures);
        let gaps = starts.of("b").expect("eight gaps");
        assert_eq!(gaps.recorded(), 8);
        // Bins are 1/64 octave wide at most.
        let mean_s = gaps.mean_ns().unwrap() * 1e-9;
        assert!((mean_s - 10.0).abs() < 0.1, "{mean_s}");
        assert_eq!((starts.of("a"), starts.0.len()), (None, 1));
        // Another network: a few of its samples change nothing, more of them are how samples come there.
        let known = starts.clone();
        starts.learn(&labels, &[(LabelId(1), seconds(&[1, 2, 3]))]);
        assert_eq!(starts, known);
        starts.learn(&labels, &[(LabelId(1), (0..9).map(|i| Timestamp(1_000 * i)).collect())]);
        assert_eq!(starts.of("b").and_then(GapHistogram::mean_ns).map(|ns| (ns / 10.0).round()), Some(100.0));
    }

    #[test]
    fn what_all_begins_at_once_has_no_rate() {
        let mut starts = Starts::default();
        starts.learn(&["a".to_owned()], &[(LabelId(0), seconds(&[5; 20]))]);
        assert_eq!(starts.of("a"), None);
    }
}
