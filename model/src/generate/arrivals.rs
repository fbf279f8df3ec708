//! When flows begin.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::labels::Labels;
use super::sampling::unit;
use crate::codec::{Codec, GapHistogram, LabelId};
use crate::packet::Timestamp;

/// How often flows begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FlowRate {
    /// So many a second on average, by a Poisson process.
    PerSecond(f64),
    /// Flows of each label follow one another as they did in what was learned; labels take no turns.
    Learned,
}

impl Default for FlowRate {
    /// 20 a second.
    fn default() -> Self {
        Self::PerSecond(20.0)
    }
}

impl FromStr for FlowRate {
    type Err = ArrivalsError;

    fn from_str(s: &str) -> Result<Self, ArrivalsError> {
        match s {
            "learned" => Ok(Self::Learned),
            _ => {
                let rate = s.parse().map_err(|_| ArrivalsError::Text(s.to_owned()))?;
                check(rate)?;
                Ok(Self::PerSecond(rate))
            }
        }
    }
}

impl fmt::Display for FlowRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learned => f.write_str("learned"),
            Self::PerSecond(rate) => rate.fmt(f),
        }
    }
}

/// Why flows cannot come as asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArrivalsError {
    /// A rate that no arrival process has.
    #[error("flows per second are {0}, allowed is 1e-9 to 1e9")]
    Rate(f64),
    /// What is no rate.
    #[error("{0:?} is no rate of flows: give a number from 1e-9 to 1e9, or learned")]
    Text(String),
    /// Too few samples of the labels were learned from.
    #[error("how flows of {0} follow one another was not learned; give a number of flows a second")]
    Unknown(String),
    /// Two answers to what share each label has.
    #[error("flows come as learned, or by the weights of a mix; with a mix give a number of flows a second")]
    Weighted,
}

fn check(flows_per_s: f64) -> Result<(), ArrivalsError> {
    if (1e-9..=1e9).contains(&flows_per_s) { Ok(()) } else { Err(ArrivalsError::Rate(flows_per_s)) }
}

/// Start times of flows, endless and never going back; the first flow starts at once.
///
/// A clone gives the same times again: one for the requests, one for the [`Timeline`](super::Timeline).
#[derive(Debug, Clone)]
pub struct Arrivals {
    rng: ChaCha8Rng,
    next: Timestamp,
    process: Process,
}

#[derive(Debug, Clone)]
enum Process {
    /// Exponential gaps, so many flows a second on average.
    Poisson(f64),
    /// Each label's own gaps, independent of one another and of the other labels: renewal processes, laid over each other.
    /// Labels of which nothing was learned are left out.
    Learned(Vec<Renewal>, Vec<LabelId>),
}

#[derive(Debug, Clone)]
struct Renewal {
    label: LabelId,
    gaps: Arc<GapHistogram>,
    next: Timestamp,
}

impl Arrivals {
    /// Stream of the seed's chance that the arrivals have to themselves; flows use those from 0 up.
    const RNG_STREAM: u64 = u64::MAX;

    /// Arrivals from `start` on, `flows_per_s` on average: a Poisson process.
    pub fn new(start: Timestamp, flows_per_s: f64, seed: u64) -> Result<Self, ArrivalsError> {
        check(flows_per_s)?;
        Ok(Self { rng: Self::rng(seed), next: start, process: Process::Poisson(flows_per_s) })
    }

    /// Arrivals from `start` on at `rate`, of flows of `labels`. Where they come as learned, labels of which that is not known are left
    /// out, unless they are [chosen](Labels::are_chosen).
    ///
    /// # Errors
    /// The rate is none, or it is to be as learned where that is not known.
    pub fn at_rate(
        start: Timestamp,
        rate: FlowRate,
        labels: &Labels,
        codec: &dyn Codec,
        seed: u64,
    ) -> Result<Self, ArrivalsError> {
        let mut ids = labels.ids();
        ids.sort_unstable();
        ids.dedup();
        match rate {
            FlowRate::PerSecond(rate) => Self::new(start, rate, seed),
            FlowRate::Learned if labels.are_drawn() => Err(ArrivalsError::Weighted),
            FlowRate::Learned => {
                let (known, unknown): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| codec.starts(*id).is_some());
                if known.is_empty() || labels.are_chosen() && !unknown.is_empty() {
                    let names: Vec<_> = unknown.iter().map(|id| codec.labels()[usize::from(id.0)].as_str()).collect();
                    return Err(ArrivalsError::Unknown(names.join(", ")));
                }
                Ok(Self::learned(start, &known, unknown, codec, seed))
            }
        }
    }

    /// Arrivals of flows of `labels`, of which `codec` has learned how they follow one another.
    fn learned(start: Timestamp, labels: &[LabelId], left_out: Vec<LabelId>, codec: &dyn Codec, seed: u64) -> Self {
        let mut rng = Self::rng(seed);
        let renewal = |label: &LabelId| {
            let gaps = Arc::new(codec.starts(*label)?.clone());
            // Somewhere in a gap of it, so that labels do not begin all at once.
            let first = gaps.draw(&mut rng)? as f64 * unit(&mut rng);
            Some(Renewal { label: *label, next: start.plus_nanos(first as i64), gaps })
        };
        let mut renewals: Vec<Renewal> = labels.iter().filter_map(renewal).collect();
        let early = renewals.iter().map(|renewal| renewal.next.nanos_since(start)).min().unwrap_or(0);
        renewals.iter_mut().for_each(|renewal| renewal.next = renewal.next.plus_nanos(-early));
        Self { rng, next: start, process: Process::Learned(renewals, left_out) }
    }

    fn rng(seed: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(Self::RNG_STREAM);
        rng
    }

    /// The time that [`Iterator::next`] will give.
    pub fn peek(&self) -> Timestamp {
        self.next
    }

    /// Flows a second on average, where they come as learned.
    pub fn learned_per_s(&self) -> Option<f64> {
        let Process::Learned(renewals, _) = &self.process else { return None };
        Some(renewals.iter().filter_map(|renewal| Some(1e9 / renewal.gaps.mean_ns()?)).sum())
    }

    /// Labels that do not come, as it was not learned how.
    pub fn left_out(&self) -> &[LabelId] {
        if let Process::Learned(_, left_out) = &self.process { left_out } else { &[] }
    }

    /// The time of the next flow, and its label where that goes with it.
    pub fn next_labelled(&mut self) -> (Timestamp, Option<LabelId>) {
        let Self { rng, next, process } = self;
        let now = *next;
        match process {
            Process::Poisson(flows_per_s) => {
                // 1 - u is in (0, 1], so the logarithm is finite.
                let gap_s = -(1.0 - unit(rng)).ln() / *flows_per_s;
                *next = now.plus_nanos((gap_s * 1e9).round() as i64);
                (now, None)
            }
            Process::Learned(renewals, _) => {
                let Some(first) = renewals.iter_mut().min_by_key(|renewal| renewal.next) else { return (now, None) };
                first.next = first.next.plus_nanos(first.gaps.draw(rng).unwrap_or(0));
                let label = first.label;
                *next = renewals.iter().map(|renewal| renewal.next).min().unwrap_or(now);
                (now, Some(label))
            }
        }
    }
}

impl Iterator for Arrivals {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        Some(self.next_labelled().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::wire::WireCodec;
    use crate::generate::LabelChoice;
    use crate::wire::plan::Plan;

    fn arrivals() -> Arrivals {
        Arrivals::new(Timestamp(1_000_000_000), 100.0, 5).unwrap()
    }

    #[test]
    fn gaps_are_exponential_with_the_asked_rate() {
        let times: Vec<i64> = arrivals().take(20_001).map(|t| t.0).collect();
        assert_eq!(times[0], 1_000_000_000);
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 * 1e-9).collect();
        let mean = gaps.iter().sum::<f64>() / 20_000.0;
        // Standard error 0.01 / sqrt(20,000) = 7e-5; four of them.
        assert!((mean - 0.01).abs() < 2.9e-4, "{mean}");
        // A share 1/e of exponential gaps is longer than the mean; standard error 0.0034.
        let long = gaps.iter().filter(|g| **g > 0.01).count() as f64 / 20_000.0;
        assert!((long - (-1f64).exp()).abs() < 0.014, "{long}");
        assert!(arrivals().zip(arrivals()).take(100).all(|(a, b)| a == b));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Arrivals::new(Timestamp(0), rate, 0).is_err());
        }
    }

    /// A codec whose flows of `web` come in pairs 1 ms apart, ten pairs a second, and whose flows of `dns` come every 5 ms; of
    /// `ntp` it knows nothing.
    fn codec() -> WireCodec {
        let labels = ["dns", "ntp", "web"].map(str::to_owned).to_vec();
        let mut codec = WireCodec::fit(labels, 0, false, Plan::default(), &[]).unwrap();
        let starts = |times: &mut dyn Iterator<Item = i64>| times.map(|ms| Timestamp(ms * 1_000_000)).collect();
        codec.learn_starts(&[
            (LabelId(2), starts(&mut (0..200).map(|i| i / 2 * 100 + i % 2))),
            (LabelId(0), starts(&mut (0..500).map(|i| 5 * i))),
        ]);
        codec
    }

    fn at_rate(rate: FlowRate, names: &[&str]) -> Result<Arrivals, ArrivalsError> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let labels = Labels::new(&LabelChoice::InTurn(names), 1, &codec()).unwrap();
        Arrivals::at_rate(Timestamp(7), rate, &labels, &codec(), 5)
    }

    #[test]
    fn a_label_s_flows_come_as_learned() {
        let mut web = at_rate(FlowRate::Learned, &["web"]).unwrap();
        let rate = web.learned_per_s().expect("it was learned");
        // 199 gaps in 9.901 s; bins are 1/64 octave wide.
        assert!((rate - 20.1).abs() < 0.2, "{rate}");
        assert_eq!((web.peek(), web.next_labelled()), (Timestamp(7), (Timestamp(7), Some(LabelId(2)))));
        let times: Vec<i64> = web.take(10_000).map(|t| t.0).collect();
        assert!(times.is_sorted() && times[0] > 7);
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < 2_000_000).count();
        assert!((4_700..5_300).contains(&short), "half of the gaps are within a pair: {short}");
        let mean_s = (times[9_999] - times[0]) as f64 * 1e-9 / 9_999.0;
        assert!((mean_s * rate - 1.0).abs() < 0.05, "{mean_s}");
    }

    #[test]
    fn labels_that_come_as_learned_come_each_at_its_rate() {
        let mut both = at_rate(FlowRate::Learned, &["web", "dns", "web"]).unwrap();
        assert_eq!(both.peek(), Timestamp(7), "the first one starts at once");
        let mut copy = both.clone();
        let mut of_dns = 0;
        for _ in 0..10_000 {
            let peeked = both.peek();
            let (time, label) = both.next_labelled();
            assert_eq!((Some(time), peeked), (copy.next(), time));
            of_dns += usize::from(label == Some(LabelId(0)));
        }
        // 200 and 20.1 a second.
        assert!((9_000..9_180).contains(&of_dns), "{of_dns}");
    }

    #[test]
    fn what_was_not_learned_is_said() {
        let per_s = |rate, names: &[&str]| at_rate(rate, names).map(|arrivals| arrivals.learned_per_s().is_some());
        assert_eq!(per_s(FlowRate::PerSecond(3.0), &["web"]), Ok(false));
        assert_eq!(per_s(FlowRate::default(), &["ntp"]), Ok(false));
        assert_eq!(per_s(FlowRate::Learned, &["web", "ntp"]), Err(ArrivalsError::Unknown("ntp".to_owned())));
        let all = at_rate(FlowRate::Learned, &[]).expect("what is known of some is enough where none were chosen");
        assert_eq!((all.left_out(), all.learned_per_s().map(f64::round)), (&[LabelId(1)][..], Some(220.0)));
        let drawn = Labels::new(&LabelChoice::Drawn(vec![("web".to_owned(), 2)]), 1, &codec()).unwrap();
        let weighted = Arrivals::at_rate(Timestamp(7), FlowRate::Learned, &drawn, &codec(), 5);
        assert_eq!(weighted.map(drop), Err(ArrivalsError::Weighted));
    }

    #[test]
    fn rates_are_read_as_they_are_written() {
        for rate in [FlowRate::Learned, FlowRate::PerSecond(0.25)] {
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        assert_eq!("0".parse::<FlowRate>(), Err(ArrivalsError::Rate(0.0)));
        assert!("quick".parse::<FlowRate>().unwrap_err().to_string().contains("or learned"));
    }
}
