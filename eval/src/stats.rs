//! Distances between distributions, as SciPy computes them.

use serde::{Deserialize, Serialize};

/// How far two distributions over the same values are apart; 0 is equal. NaN (null in JSON) where one side is empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// Jensen-Shannon distance: the square root of the divergence in nats, at most sqrt(ln 2) = 0.8326.
    pub jsd: f64,
    /// Jensen-Shannon divergence in bits, at most 1.
    pub jsdiv_bits: f64,
    /// Total variation: half the L1 distance, at most 1.
    pub tvd: f64,
    /// Hellinger distance, at most 1.
    pub hd: f64,
}

impl Distances {
    /// Where there is nothing to compare.
    pub const UNDEFINED: Self = Self { jsd: f64::NAN, jsdiv_bits: f64::NAN, tvd: f64::NAN, hd: f64::NAN };
    /// Equal.
    pub const ZERO: Self = Self { jsd: 0.0, jsdiv_bits: 0.0, tvd: 0.0, hd: 0.0 };

    /// Between the probabilities P and Q of each value. Both sum to 1.
    pub fn between(values: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let (mut divergence, mut l1, mut overlap) = (0.0, 0.0, 0.0);
        for (p, q) in values {
            let m = (p + q) / 2.0;
            let term = |a: f64| if a > 0.0 { a * (a / m).ln() } else { 0.0 };
            divergence += (term(p) + term(q)) / 2.0;
            l1 += (p - q).abs();
            overlap += (p * q).sqrt();
        }
        let divergence = divergence.max(0.0);
        Self {
            jsd: divergence.sqrt(),
            jsdiv_bits: divergence / std::f64::consts::LN_2,
            tvd: l1 / 2.0,
            hd: (1.0 - overlap).max(0.0).sqrt(),
        }
    }

    /// The mean, with weights. Undefined where the weights sum to 0.
    pub fn mean(weighted: impl IntoIterator<Item = (f64, Self)>) -> Self {
        let mut sum = 0.0;
        let mut ret = Self::ZERO;
        for (weight, d) in weighted {
            sum += weight;
            ret = ret.zip(d, |a, b| a + weight * b);
        }
        if sum > 0.0 { ret.map(|a| a / sum) } else { Self::UNDEFINED }
    }

    /// The difference, measure by measure.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    /// Applies a function to each measure.
    #[must_use]
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { jsd: f(self.jsd), jsdiv_bits: f(self.jsdiv_bits), tvd: f(self.tvd), hd: f(self.hd) }
    }

    fn zip(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            jsd: f(self.jsd, other.jsd),
            jsdiv_bits: f(self.jsdiv_bits, other.jsdiv_bits),
            tvd: f(self.tvd, other.tvd),
            hd: f(self.hd, other.hd),
        }
    }
}

/// Kolmogorov-Smirnov statistic of two sorted samples: the largest gap between their distribution functions. NaN where
/// both are empty, 1 where one is.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> f64 {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => return f64::NAN,
        (false, false) => {}
        _ => return 1.0,
    }
    let mut largest = 0.0_f64;
    walk(a, b, |_, fa, fb| largest = largest.max((fa - fb).abs()));
    largest
}

/// First Wasserstein distance of two sorted samples: the area between their distribution functions, in their unit. NaN
/// where one is empty.
pub fn wasserstein(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return f64::NAN;
    }
    let (mut area, mut last) = (0.0, None);
    walk(a, b, |value, fa, fb| {
        if let Some((before, gap)) = last {
            area += (value - before) * gap;
        }
        last = Some((value, (fa - fb).abs()));
    });
    area
}

/// Visits each distinct value in order, with both distribution functions at it.
fn walk(a: &[f64], b: &[f64], mut visit: impl FnMut(f64, f64, f64)) {
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let value = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) => *x,
            (None, y) => *y.expect("one of them has a value left"),
        };
        i += a[i..].iter().take_while(|x| **x <= value).count();
        j += b[j..].iter().take_while(|x| **x <= value).count();
        visit(value, i as f64 / a.len() as f64, j as f64 / b.len() as f64);
    }
}

/// Pearson's correlation of two series over the length that both have. NaN where one does not vary.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    sum(|x, y| x * y) / (sum(|x, _| x * x) * sum(|_, y| y * y)).sqrt()
}

/// Sum of what two distributions have in common, sum of min(p, q): 1 is equal, 0 has nothing in common.
pub fn overlap(counts: impl IntoIterator<Item = (u64, u64)> + Clone) -> f64 {
    let (a, b) = counts.clone().into_iter().fold((0, 0), |(a, b), (x, y)| (a + x, b + y));
    counts.into_iter().map(|(x, y)| (x as f64 / a as f64).min(y as f64 / b as f64)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as SciPy has them: `jensenshannon`, `ks_2samp`, `wasserstein_distance`, `pearsonr`.
    #[test]
    fn values_are_scipys() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        let d = Distances::between([(0.5, 0.25), (0.5, 0.25), (0.0, 0.5)]);
        near(d.jsd, 0.464_501_404_022_452_5);
        near(d.tvd, 0.5);
        near(d.hd, (1.0 - 2.0 * 0.125_f64.sqrt()).sqrt());
        near(Distances::between([(1.0, 0.0), (0.0, 1.0)]).jsd, std::f64::consts::LN_2.sqrt());
        near(kolmogorov_smirnov(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0, 5.0]), 0.5);
        near(wasserstein(&[0.0, 1.0, 3.0], &[5.0, 6.0, 8.0]), 5.0);
        near(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.1]), 0.999_900_867_409_917_5);
    }

    #[test]
    fn nothing_to_compare_is_not_equal() {
        assert!(kolmogorov_smirnov(&[], &[]).is_nan() && wasserstein(&[], &[1.0]).is_nan());
        assert_eq!(kolmogorov_smirnov(&[], &[1.0]), 1.0);
        assert!(Distances::mean([]).jsd.is_nan());
    }
}
