//! What the figures say, in words: a verdict for each group of measures.
//!
//! The bars are those that a trained system has to reach on captures that it has not seen, with nothing repaired. "Near"
//! is a wider bar, to tell what is not far off from what is.

use serde::Serialize;

use super::evaluation::{BothSides, Report};
use super::joint::JointReport;
use super::memory::MemoryReport;
use super::similarity::SimilarityReport;
use super::timing::TimingReport;
use super::validity::ValidityReport;

/// Excess over the floor, of a distance between 0 and 1.
const EXCESS: Bar = Bar { real: 0.05, near: 0.15 };
/// Points by which a share of valid flows or packets is under the real one.
const POINTS: Bar = Bar { real: 0.0, near: 5.0 };
/// AUC of the two-sample test, and how far the reference may lift it.
const AUC: Bar = Bar { real: 0.75, near: 0.9 };
/// Ratios of group 4, as what is missing from 1.
const NEIGHBOUR: Bar = Bar { real: 0.3, near: 0.5 };
const DIVERSITY: Bar = Bar { real: 0.2, near: 0.4 };
/// Kinds and fields that are named.
const NAMED: usize = 3;

/// How good a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Within the bars: as real as other real traffic.
    Real,
    /// Outside, but not far.
    Near,
    /// Easily told from real traffic.
    Far,
    /// There was not enough to say.
    Unknown,
}

impl Grade {
    /// In a word or two.
    pub fn words(self) -> &'static str {
        match self {
            Self::Real => "as real",
            Self::Near => "near",
            Self::Far => "far off",
            Self::Unknown => "not to be told",
        }
    }
}

/// What a group of measures says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The group, as `--only` names it.
    pub group: &'static str,
    /// The worst of what it looks at.
    pub grade: Grade,
    /// Why, in a sentence or two, with figure and bar.
    pub words: String,
}

/// How large a figure may be, of which less is better.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// Up to here as real.
    pub real: f64,
    /// Up to here near.
    pub near: f64,
}

impl Bar {
    /// The grade of a figure; unknown where it is none.
    pub fn grade(self, figure: f64) -> Grade {
        match figure {
            x if x.is_nan() => Grade::Unknown,
            x if x <= self.real => Grade::Real,
            x if x <= self.near => Grade::Near,
            _ => Grade::Far,
        }
    }
}

/// Verdicts of all groups that were measured.
pub fn verdicts(report: &Report) -> Vec<Verdict> {
    let groups = [
        report.similarity.as_ref().map(similarity),
        report.validity.as_ref().map(validity),
        report.timing.as_ref().map(timing),
        report.memory.as_ref().map(memory),
        report.joint.as_ref().map(joint),
    ];
    groups.into_iter().flatten().collect()
}

/// The worst grade that is known; unknown where none is.
pub fn worst(grades: impl IntoIterator<Item = Grade>) -> Grade {
    grades.into_iter().filter(|grade| *grade != Grade::Unknown).max().unwrap_or(Grade::Unknown)
}

fn similarity(report: &SimilarityReport) -> Verdict {
    let structure = report.excess.structure.map_or(f64::NAN, |d| d.jsd);
    let positional = report.excess.bit_positional.jsd;
    let far = farthest(report.fields.iter().map(|(name, d)| (*name, d.jsd)));
    let words = format!(
        "Header fields are {} further from real flows than real flows are from each other, header bits by position {} \
         (bar {}). Furthest apart: {far}.",
        number(structure),
        number(positional),
        EXCESS.real
    );
    Verdict { group: "similarity", grade: worst([structure, positional].map(|x| EXCESS.grade(x))), words }
}

fn validity(BothSides { real, synthetic }: &BothSides<ValidityReport>) -> Verdict {
    let missing = |of: fn(&ValidityReport) -> Option<f64>, bar: Option<f64>| {
        bar.or_else(|| of(real)).zip(of(synthetic)).map_or(f64::NAN, |(bar, is)| bar - is)
    };
    let misses = [
        missing(|v| v.packets_valid_pct, Some(100.0)),
        missing(|v| v.flows_valid_pct, None),
        missing(|v| v.tcp_complete_pct, None),
        missing(|v| v.tls.valid_pct(), Some(99.0)),
        missing(|v| v.dns.valid_pct(), Some(99.0)),
    ];
    let share = |of: fn(&ValidityReport) -> Option<f64>| {
        let [a, b] = [synthetic, real].map(|v| of(v).map_or("none".to_owned(), |pct| format!("{pct:.1} %")));
        format!("{a} (real {b})")
    };
    let faults = [&synthetic.packet_faults, &synthetic.flow_faults].into_iter().flatten();
    let most = faults.filter(|(_, n)| **n > 0).max_by_key(|(_, n)| **n);
    let broken = most.map_or(String::new(), |(name, n)| format!(" Broken most often: {name}, {n} times."));
    let words = format!(
        "Valid packets {}, valid flows {}, complete TCP connections {}.{broken}",
        share(|v| v.packets_valid_pct),
        share(|v| v.flows_valid_pct),
        share(|v| v.tcp_complete_pct)
    );
    Verdict { group: "validity", grade: worst(misses.map(|x| POINTS.grade(x))), words }
}

fn timing(report: &TimingReport) -> Verdict {
    let excess = report.excess_mean_ks;
    let above = report.matched.kinds.iter().map(|(name, gap)| {
        let floor = report.floor.kinds.get(name).map_or(f64::NAN, |floor| floor.ks);
        (*name, gap.ks - floor)
    });
    let words = format!(
        "Times, sizes and counts are {} further from real flows than real flows are from each other, as a mean K-S \
         statistic (bar {}). Furthest apart: {}.",
        number(excess),
        EXCESS.real,
        farthest(above)
    );
    Verdict { group: "timing", grade: EXCESS.grade(excess), words }
}

fn memory(report: &MemoryReport) -> Verdict {
    let lacks = |ratio: Option<f64>| ratio.map_or(f64::NAN, |ratio| 1.0 - ratio);
    let diversity = DIVERSITY.grade(lacks(report.diversity_ratio));
    let diverse =
        format!("Packets differ from each other {} times as much as real ones.", ratio(report.diversity_ratio));
    let Some((synthetic, real)) = report.synthetic.as_ref().zip(report.real.as_ref()) else {
        let words = format!("{diverse} What was learned by heart is not known: no training captures were named.");
        return Verdict { group: "memory", grade: diversity, words };
    };
    let more = |of: Option<f64>, than: Option<f64>| of.map_or(f64::NAN, |of| of - than.unwrap_or(0.0));
    let copied = POINTS.grade(more(synthetic.identical_payloads_pct, real.identical_payloads_pct));
    let leaked = match synthetic.addresses + synthetic.macs + synthetic.names {
        0 => Grade::Real,
        n if n <= real.addresses + real.macs + real.names => Grade::Near,
        _ => Grade::Far,
    };
    let words = format!(
        "{diverse} They are {} times as far from the training packets as unseen real ones. {} of the payloads are \
         training payloads (real: {}). Training addresses, MACs and names that appear: {}, {} and {}.",
        ratio(report.neighbour_ratio),
        percent(synthetic.identical_payloads_pct),
        percent(real.identical_payloads_pct),
        synthetic.addresses,
        synthetic.macs,
        synthetic.names
    );
    let grade = worst([diversity, copied, leaked, NEIGHBOUR.grade(lacks(report.neighbour_ratio))]);
    Verdict { group: "memory", grade, words }
}

fn joint(report: &JointReport) -> Verdict {
    let auc = report.auc.unwrap_or(f64::NAN);
    let gap = report.utility.as_ref().map_or(f64::NAN, |u| u.stats.gap);
    let mut words = match (report.auc, &report.reason) {
        (Some(auc), _) => {
            format!(
                "A forest tells synthetic from real flows with an AUC of {auc:.2} (0.5 is chance, bar {})",
                AUC.real
            )
        }
        (None, reason) => format!("No forest could be asked: {}", reason.as_deref().unwrap_or("too few flows")),
    };
    if let (Some(_), Some(reference)) = (report.auc, report.reference.auc) {
        words += &format!("; it tells the training captures from the real ones with {reference:.2}");
    }
    words += ".";
    if let Some(utility) = &report.utility {
        words += &format!(
            " Labels learned from synthetic flows hold on real ones with a macro-F1 of {:.2}, learned from real flows {:.2}.",
            utility.stats.synthetic.macro_f1, utility.stats.real.macro_f1
        );
    }
    let grade = worst([AUC.grade(auc), EXCESS.grade(gap)]);
    Verdict { group: "joint", grade, words }
}

/// The names of the largest figures, with them.
fn farthest<'a>(figures: impl Iterator<Item = (&'a str, f64)>) -> String {
    let mut figures: Vec<_> = figures.filter(|(_, x)| !x.is_nan()).collect();
    figures.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named: Vec<_> = figures.iter().take(NAMED).map(|(name, x)| format!("{name} ({x:.2})")).collect();
    if named.is_empty() { "nothing to compare".to_owned() } else { named.join(", ") }
}

fn number(x: f64) -> String {
    if x.is_nan() { "an unknown distance".to_owned() } else { format!("{x:.3}") }
}

fn ratio(ratio: Option<f64>) -> String {
    // Beside real packets that are all in the training captures there is no ratio.
    let known = ratio.filter(|x| x.is_finite());
    known.map_or("an unknown number of".to_owned(), |x| format!("{x:.2}"))
}

fn percent(pct: Option<f64>) -> String {
    pct.map_or("An unknown share".to_owned(), |x| format!("{x:.1} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_as_good_as_its_worst_figure_that_is_known() {
        assert_eq!(EXCESS.grade(f64::NAN), Grade::Unknown);
        assert_eq!([0.05, 0.1, 0.2].map(|x| EXCESS.grade(x)), [Grade::Real, Grade::Near, Grade::Far]);
        assert_eq!(worst([Grade::Unknown, Grade::Real, Grade::Near]), Grade::Near);
        assert_eq!(worst([Grade::Unknown]), Grade::Unknown);
    }

    #[test]
    fn what_is_furthest_is_named_first() {
        let figures = [("a", 0.1), ("b", f64::NAN), ("c", 0.3), ("d", 0.2), ("e", 0.0)];
        assert_eq!(farthest(figures.into_iter()), "c (0.30), d (0.20), a (0.10)");
    }
}
