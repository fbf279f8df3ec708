//! Mamba-1 in plain tensor operations, to be read beside the paper (Gu and Dao 2023, arXiv:2312.00752, section 3
//! and algorithm 2), differentiated by candle's autograd.
//!
//! It is the oracle that every faster implementation is compared with, so it prefers the obvious to the quick: time is
//! walked one step after another, and every intermediate value of a training step is kept. Memory is about
//! `4 b l n_layer d_state d_inner` numbers a training step; sequences of some hundred tokens are what it is for.
//!
//! candle's fused `rms_norm` and `softmax` are avoided on purpose: their results carry no gradient (candle issue 2168).

mod breaks;

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::{Batch, Loss, Mamba, Params, State};
use crate::codec::Token;
use breaks::{Breaks, masked};

/// The plain implementation in candle tensor operations, differentiated by candle's autograd; on the CPU.
///
/// Parameters, states and gradients pass through the trait as `f32`, whatever it computes in.
///
/// # Panics
/// The methods of [`Mamba`] panic when a buffer's length does not fit its `b` and `l`, or a token lies outside the
/// vocabulary: both are errors of the caller.
#[derive(Debug)]
pub struct Reference {
    params: Params,
    dtype: DType,
    weights: Weights,
}

/// Every parameter as a tensor, found by its offset in the flat buffer.
type Weights = BTreeMap<usize, Tensor>;

impl Reference {
    /// Computes in `f32`.
    pub fn new(params: Params) -> Self {
        Self::with_dtype(params, DType::F32)
    }

    /// Computes in `dtype`: `DType::F32`, or `DType::F64` where rounding must not blur a comparison.
    pub fn with_dtype(params: Params, dtype: DType) -> Self {
        let weights = weights(&params, dtype);
        Self { params, dtype, weights }
    }

    /// Runs the network over `tokens` from `state`, leaving there the state after the last token.
    ///
    /// Returns the logits, (b l, vocab_size).
    fn run(&self, weights: &Weights, tokens: &[Token], breaks: &Breaks, state: &mut State, tape: &mut Tape) -> Tensor {
        let (layout, vocab_size) = (&self.params.layout, self.params.config().vocab_size);
        assert!(
            tokens.iter().all(|t| (t.0 as usize) < vocab_size),
            "a token lies outside the vocabulary of {vocab_size}"
        );
        let mut network = || {
            let eps = layout.config.norm_eps as f64;
            let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
            let ids = Tensor::new(ids, &Device::Cpu)?;
            let mut x = weights[&layout.embedding].index_select(&ids, 0)?;
            for layer in 0..layout.layers.len() {
                let normed = rms_norm(&x, &weights[&layout.layers[layer].norm], eps)?;
                x = (x + self.mixer(weights, layer, &normed, breaks, state, tape)?)?;
            }
            // The head is the embedding, transposed.
            rms_norm(&x, &weights[&layout.norm_f], eps)?.matmul(&weights[&layout.embedding].t()?)
        };
        network().expect("shapes follow from the layout and from lengths that were checked")
    }

    /// One mixer: projection, causal convolution, selective scan, gate, projection; (b l, d_model) to the same.
    fn mixer(
        &self,
        weights: &Weights,
        layer: usize,
        u: &Tensor,
        breaks: &Breaks,
        state: &mut State,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let (c, at) = (self.params.config(), &self.params.layout.layers[layer]);
        let (b, l, d, n) = (breaks.b, breaks.l, c.d_inner, c.d_state);

        let xz = u.matmul(&weights[&at.in_proj].t()?)?;
        let x = xz.narrow(1, 0, d)?.reshape((b, l, d))?;
        let z = xz.narrow(1, d, d)?;

        // What came before, then x: the convolution of token t reads rows t to t + d_conv - 1.
        let taps = c.d_conv - 1;
        let history = &mut state.conv[layer * b * taps * d..][..b * taps * d];
        let x = if taps > 0 { Tensor::cat(&[&self.tensor(history, (b, taps, d))?, &x], 1)? } else { x };
        if taps > 0 {
            let window = x.narrow(1, l, taps)?;
            copy_to(masked(window, &breaks.window)?, history)?;
        }
        let mut convolved = weights[&at.conv_bias].broadcast_as((b, l, d))?;
        for back in 0..c.d_conv {
            let row = taps - back;
            let weight = weights[&at.conv_weight].narrow(2, row, 1)?.reshape(d)?;
            convolved = (convolved + masked(x.narrow(1, row, l)?, &breaks.taps[back])?.broadcast_mul(&weight)?)?;
        }
        let x = convolved.silu()?;

        // Δ, B and C depend on the input: this is the selection (section 3.2).
        let dbc = x.reshape((b * l, d))?.matmul(&weights[&at.x_proj].t()?)?;
        let dt = dbc.narrow(1, 0, c.dt_rank)?.contiguous()?.matmul(&weights[&at.dt_weight].t()?)?;
        let dt = softplus(&dt.broadcast_add(&weights[&at.dt_bias])?)?.reshape((b, l, d))?;
        let b_matrix = dbc.narrow(1, c.dt_rank, n)?.reshape((b, l, n))?;
        let c_matrix = dbc.narrow(1, c.dt_rank + n, n)?.reshape((b, l, n))?;
        let a = weights[&at.a_log].t()?.exp()?.neg()?;

        let h = &mut state.ssm[layer * b * n * d..][..b * n * d];
        let mut scan = Scan { a, h: self.tensor(h, (b, n, d))? };
        let y = scan.run(&x, &dt, &b_matrix, &c_matrix, breaks, tape)?;
        copy_to(scan.h, h)?;

        let y = (y + x.broadcast_mul(&weights[&at.d])?)?.reshape((b * l, d))?;
        (y * z.silu()?)?.matmul(&weights[&at.out_proj].t()?)
    }

    /// The summed cross-entropy of `batch` as a scalar tensor, and the number of targets.
    fn cross_entropy(&self, weights: &Weights, batch: &Batch, state: &mut State, tape: &mut Tape) -> (Tensor, u64) {
        let rows = batch.b * batch.l;
        assert!(state.b == batch.b, "a state of {} streams for a batch of {} rows", state.b, batch.b);
        assert!(
            [batch.tokens.len(), batch.targets.len(), batch.starts.len()] == [rows; 3],
            "a batch of {} x {} with buffers of other lengths",
            batch.b,
            batch.l
        );
        let breaks = Breaks::new(&batch.starts, batch.b, batch.l, self.params.config().d_conv, self.dtype);
        let logits = self.run(weights, &batch.tokens, &breaks, state, tape);
        let counted = |t: &Token| *t != Batch::IGNORE;
        let vocab_size = self.params.config().vocab_size;
        assert!(
            batch.targets.iter().all(|t| !counted(t) || (t.0 as usize) < vocab_size),
            "a target lies outside the vocabulary of {vocab_size}"
        );
        let nats = || {
            // An ignored target reads some logit, and its weight of zero drops it again.
            let ids: Vec<u32> = batch.targets.iter().map(|t| if counted(t) { t.0 } else { 0 }).collect();
            let each: Vec<f64> = batch.targets.iter().map(|t| if counted(t) { 1.0 } else { 0.0 }).collect();
            // Subtracting a constant changes no softmax, so the maximum needs no gradient.
            let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
            let all = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
            let chosen = shifted.gather(&Tensor::from_vec(ids, (rows, 1), &Device::Cpu)?, 1)?;
            // The sum over the batch is taken in f64, as `Loss::nats` is.
            let nats = (all - chosen)?.to_dtype(DType::F64)?;
            (nats * Tensor::from_vec(each, (rows, 1), &Device::Cpu)?)?.sum_all()
        };
        let count = batch.targets.iter().filter(|t| counted(t)).count() as u64;
        (nats().expect("logits and targets have one row a token"), count)
    }

    /// `data` as a tensor of the dtype that this network computes in.
    fn tensor(&self, data: &[f32], shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        Tensor::from_slice(data, shape, &Device::Cpu)?.to_dtype(self.dtype)
    }
}

impl Mamba for Reference {
    fn params(&self) -> &Params {
        &self.params
    }

    fn set_params(&mut self, data: &[f32]) {
        self.params.data.copy_from_slice(data);
        self.weights = weights(&self.params, self.dtype);
    }

    fn forward(&mut self, tokens: &[Token], state: &mut State) -> Vec<f32> {
        if tokens.is_empty() {
            return Vec::new();
        }
        let b = state.b;
        assert!(b > 0 && tokens.len().is_multiple_of(b), "{} tokens do not make {b} equal rows", tokens.len());
        let breaks = Breaks::none(b, tokens.len() / b, self.params.config().d_conv);
        let logits = self.run(&self.weights, tokens, &breaks, state, &mut Tape::off());
        to_vec(logits).expect("logits are float tensors")
    }

    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss {
        if batch.tokens.is_empty() {
            return Loss::default();
        }
        let (nats, count) = self.cross_entropy(&self.weights, batch, state, &mut Tape::off());
        Loss { nats: nats.to_scalar().expect("a scalar of f64"), count }
    }

    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss {
        assert!(gradients.data.len() == self.params.layout.len, "gradients of another layout");
        if batch.tokens.is_empty() {
            return Loss::default();
        }
        // First declared, so last dropped.
        let mut tape = Tape::on();
        // A variable for each tensor: the backward pass of a slice pads with zeros to the whole variable's size.
        let vars: BTreeMap<usize, Var> = (self.weights.iter())
            .map(|(&offset, tensor)| (offset, Var::from_tensor(tensor).expect("a copy of a CPU tensor")))
            .collect();
        let weights = vars.iter().map(|(&offset, var)| (offset, var.as_tensor().clone())).collect();
        let (nats, count) = self.cross_entropy(&weights, batch, state, &mut tape);
        let derivatives = nats.backward().expect("every operation used here has a derivative");
        for (offset, var) in &vars {
            let derivative = derivatives.get(var).expect("every parameter leads to the logits");
            let derivative = to_vec64(derivative).expect("derivatives are float tensors");
            for (sum, d) in gradients.data[*offset..].iter_mut().zip(derivative) {
                *sum += (f64::from(scale) * d) as f32;
            }
        }
        Loss { nats: nats.to_scalar().expect("a scalar of f64"), count }
    }

    fn step(&mut self, tokens: &[Token], state: &mut State, ret_logits: &mut [f32]) {
        assert!(tokens.len() == state.b, "{} tokens for {} streams", tokens.len(), state.b);
        ret_logits.copy_from_slice(&self.forward(tokens, state));
    }
}

/// The selective scan: `h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t`, `y_t = C_t h_t`.
///
/// A is discretised by zero-order hold and B by Euler's rule, as the published code does; equation 4 of the paper
/// has zero-order hold for both, which is the same to first order in Δ.
struct Scan {
    /// (d_state, d_inner).
    a: Tensor,
    /// (b, d_state, d_inner).
    h: Tensor,
}

impl Scan {
    /// Moves `h` over all tokens and returns y, (b, l, d_inner); `x` and `dt` are (b, l, d_inner), `b_matrix` and
    /// `c_matrix` (b, l, d_state).
    fn run(
        &mut self,
        x: &Tensor,
        dt: &Tensor,
        b_matrix: &Tensor,
        c_matrix: &Tensor,
        breaks: &Breaks,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let (dt_x, dt) = (split_time((dt * x)?)?, split_time(dt.clone())?);
        let (b_matrix, c_matrix) = (split_time(b_matrix.clone())?, split_time(c_matrix.clone())?);
        let mut y = Vec::with_capacity(dt.len());
        for t in 0..dt.len() {
            let decay = dt[t].broadcast_mul(&self.a)?.exp()?;
            let input = b_matrix[t].transpose(1, 2)?.broadcast_mul(&dt_x[t])?;
            let h = masked(self.h.clone(), &breaks.keep[t])?;
            self.h = ((decay * h)? + input)?;
            tape.hold(&self.h);
            y.push(c_matrix[t].matmul(&self.h)?);
        }
        Tensor::cat(&y, 1)
    }
}

/// Cuts (b, l, width) into `l` tensors (b, 1, width).
///
/// It halves again and again: the backward pass of a slice fills a tensor of the size that it was cut from, so cutting
/// each token from the whole would cost l², and this l log l.
fn split_time(x: Tensor) -> Result<Vec<Tensor>> {
    let l = x.dim(1)?;
    if l == 1 {
        return Ok(vec![x.contiguous()?]);
    }
    let mut parts = split_time(x.narrow(1, 0, l / 2)?)?;
    parts.extend(split_time(x.narrow(1, l / 2, l - l / 2)?)?);
    Ok(parts)
}

/// `weight x / sqrt(mean(x²) + eps)` over the last dimension (Zhang and Sennrich 2019).
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// `ln(1 + exp(x))`, for any finite `x` and with the right derivative everywhere.
///
/// In f64, because candle has no `ln_1p`: in f32 the sum would round Δ = 0.001 by 6e-5 of itself. The larger of x and 0 is taken
/// out so that nothing overflows; as a constant, since it cancels.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F64)?;
    let m = x.relu()?.detach();
    let sum = ((&x - &m)?.exp()? + m.neg()?.exp()?)?;
    (sum.log()? + m)?.to_dtype(dtype)
}

/// Keeps every scan state of a training step alive, and lets go of the last one first.
///
/// Each state holds the one before it through the recorded operations. Dropping the last would drop them all
/// one inside the other, a stack frame or more a token; held here, each has its successor gone
/// before it goes. (The backward pass itself does not nest so deep: it meets the tokens in order.)
struct Tape(Option<Vec<Tensor>>);

impl Tape {
    fn on() -> Self {
        Self(Some(Vec::new()))
    }

    /// For passes that record nothing.
    fn off() -> Self {
        Self(None)
    }

    fn hold(&mut self, h: &Tensor) {
        if let Some(states) = &mut self.0 {
            states.push(h.clone());
        }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        while self.0.as_mut().and_then(Vec::pop).is_some() {}
    }
}

fn weights(params: &Params, dtype: DType) -> Weights {
    let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape, &Device::Cpu)?.to_dtype(dtype);
    (params.layout.entries.iter())
        .map(|e| (e.offset, tensor(&params.data[e.range()], &e.shape).expect("a range of its shape's size")))
        .collect()
}

fn to_vec(x: Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn to_vec64(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn copy_to(x: Tensor, ret: &mut [f32]) -> Result<()> {
    ret.copy_from_slice(&to_vec(x)?);
    Ok(())
}

#[cfg(test)]
mod tests;
