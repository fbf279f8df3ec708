//! What the start of a new sample inside a row cuts off, for the reference implementation: the recurrent state, the
//! taps of the convolution, and the window that is left for the next tokens.

use candle_core::{DType, Device, Result, Tensor};

/// Where samples begin inside a batch, as factors of 0 and 1; `None` stands for ones everywhere.
pub(super) struct Breaks {
    /// Number of rows.
    pub(super) b: usize,
    /// Tokens in a row.
    pub(super) l: usize,
    /// For each token, what the state before it is multiplied by, (b, 1, 1).
    pub(super) keep: Vec<Option<Tensor>>,
    /// For each distance back in time, whether the convolution of a token may reach so far, (b, l, 1).
    pub(super) taps: Vec<Option<Tensor>>,
    /// Which of the last d_conv - 1 inputs the next token may still see, (b, d_conv - 1, 1).
    pub(super) window: Option<Tensor>,
}

impl Breaks {
    /// Rows that go on from the state without a break.
    pub(super) fn none(b: usize, l: usize, d_conv: usize) -> Self {
        Self { b, l, keep: vec![None; l], taps: vec![None; d_conv], window: None }
    }

    /// The factors for `starts`, (b, l).
    pub(super) fn new(starts: &[bool], b: usize, l: usize, d_conv: usize, dtype: DType) -> Self {
        // Whether row `row` runs on through tokens `from..to`; tokens before the first lie in the state.
        let runs_on = |row: usize, from: usize, to: usize| !starts[row * l..][from..to].contains(&true);
        let factors = |width: usize, whole: &dyn Fn(usize, usize) -> bool| {
            let data: Vec<f64> = (0..b * width).map(|i| if whole(i / width, i % width) { 1.0 } else { 0.0 }).collect();
            let tensor = || Tensor::from_vec(data.clone(), (b, width, 1), &Device::Cpu)?.to_dtype(dtype);
            data.contains(&0.0).then(|| tensor().expect("b x width factors"))
        };
        let taps = d_conv - 1;
        Self {
            b,
            l,
            keep: (0..l).map(|t| factors(1, &|row, _| runs_on(row, t, t + 1))).collect(),
            taps: (0..d_conv)
                .map(|back| factors(l, &|row, t| runs_on(row, (t + 1).saturating_sub(back), t + 1)))
                .collect(),
            window: factors(taps, &|row, i| runs_on(row, (l + 1 + i).saturating_sub(taps), l)),
        }
    }
}

/// `x` times `factors` where there are any.
pub(super) fn masked(x: Tensor, factors: &Option<Tensor>) -> Result<Tensor> {
    factors.as_ref().map_or(Ok(x.clone()), |factors| x.broadcast_mul(factors))
}
