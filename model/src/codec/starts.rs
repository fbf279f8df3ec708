//! How the samples of each label follow one another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GapHistogram, LabelId};
use crate::packet::Timestamp;

/// Gaps from which on a label is known to come as it came: fewer say little of a rate.
const GAPS_MIN: u64 = 8;

/// When the samples of one label begin in one capture, in any order.
pub type CaptureStarts = (LabelId, Vec<Timestamp>);

/// By label, times from the start of a sample to the start of the next one in the same capture. What is generated comes like that unless a
/// rate is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Starts(BTreeMap<String, GapHistogram>);

impl Starts {
    /// Takes the samples of `captures`, whose labels are `labels`, into account.
    pub fn record(&mut self, labels: &[String], captures: &[CaptureStarts]) {
        for (label, starts) in captures {
            let Some(label) = labels.get(usize::from(label.0)).filter(|_| starts.len() > 1) else { continue };
            let mut starts = starts.clone();
            starts.sort_unstable();
            let gaps = self.0.entry(label.clone()).or_default();
            starts.windows(2).for_each(|pair| gaps.record(pair[1].nanos_since(pair[0])));
        }
    }

    /// Those of a label; `None` where fewer than 8 were seen, or no time ever passed.
    pub fn of(&self, label: &str) -> Option<&GapHistogram> {
        let is_known = |gaps: &&GapHistogram| gaps.recorded() >= GAPS_MIN && gaps.mean_ns().is_some_and(|ns| ns >= 1.0);
        self.0.get(label).filter(is_known)
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
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
            // A day later, with nothing in between that could be told.
            (LabelId(1), seconds(&[86_410, 86_400, 86_420, 86_430, 86_440])),
            (LabelId(0), seconds(&[1])),
            (LabelId(9), seconds(&[1, 2, 3])),
        ];
        starts.record(&labels, &captures[..1]);
        assert_eq!(starts.of("b"), None, "four gaps are too few");
        starts.record(&labels, &captures[1..]);
        let gaps = starts.of("b").expect("eight gaps");
        assert_eq!(gaps.recorded(), 8);
        // Bins are 1/64 octave wide at most.
        let mean_s = gaps.mean_ns().unwrap() * 1e-9;
        assert!((mean_s - 10.0).abs() < 0.1, "{mean_s}");
        assert_eq!((starts.of("a"), starts.0.len()), (None, 1));
    }

    #[test]
    fn what_all_begins_at_once_has_no_rate() {
        let mut starts = Starts::default();
        starts.record(&["a".to_owned()], &[(LabelId(0), seconds(&[5; 20]))]);
        assert_eq!(starts.of("a"), None);
    }
}
