//! The blocks forward, for training, for reading a prompt and for a step alike.

use crate::codec::Token;
use crate::mamba::{MambaConfig, State};

use super::buffers::{Buffers, LayerBuffers};
use super::kernels::{
    ConvArgs, Isa, Matrix, PackedMatrix, Products, ScanArgs, conv_forward, reach, rms_norm, scan_forward,
};
use super::weights::{Packed, PackedLayer, Weights};

/// The recurrent state of one block for some streams.
#[derive(Debug)]
pub(super) struct LayerState<'a> {
    /// (streams, d_conv - 1, d_inner)
    conv: &'a mut [f32],
    /// (streams, d_state, d_inner)
    ssm: &'a mut [f32],
}

/// Cuts `state` into groups of at most `streams` streams; each group has the state of every block.
pub(super) fn split_state<'a>(state: &'a mut State, config: &MambaConfig, streams: usize) -> Vec<Vec<LayerState<'a>>> {
    let (conv_width, ssm_width) = ((config.d_conv - 1) * config.d_inner, config.d_state * config.d_inner);
    let mut groups: Vec<Vec<LayerState<'a>>> = (0..state.b.div_ceil(streams)).map(|_| Vec::new()).collect();
    let layers = state.conv.chunks_mut(state.b * conv_width).zip(state.ssm.chunks_mut(state.b * ssm_width));
    for (conv, ssm) in layers {
        let parts = conv.chunks_mut(streams * conv_width).zip(ssm.chunks_mut(streams * ssm_width));
        for (group, (conv, ssm)) in groups.iter_mut().zip(parts) {
            group.push(LayerState { conv, ssm });
        }
    }
    groups
}

/// Runs all blocks and the last norm over `tokens`, (streams, l); the result is in `buffers.normed`.
///
/// With `packed` weights a stream's sums do not depend on how many others there are.
pub(super) fn forward(
    isa: Isa,
    weights: &Weights,
    packed: Option<&Packed>,
    tokens: &[Token],
    starts: &[bool],
    buffers: &mut Buffers,
    state: &mut [LayerState<'_>],
) {
    let c = weights.config();
    embed(weights.embedding(), c, tokens, &mut buffers.residual);
    reach(starts, buffers.l, c.d_conv, &mut buffers.reach);
    for (layer, state) in state.iter_mut().enumerate() {
        let mut own = buffers.take_layer(layer);
        block(isa, weights, layer, packed.map(|p| &p.layers[layer]), starts, buffers, &mut own, state);
        buffers.put_layer(layer, own);
    }
    let norm_f = weights.slice(weights.params.layout.norm_f, c.d_model);
    rms_norm(isa, &buffers.residual, norm_f, c.norm_eps, &mut buffers.normed);
}

/// Logits of the normed output `hidden`, (t, d_model), into `ret`, (t, vocab_size).
pub(super) fn head(isa: Isa, weights: &Weights, packed: Option<&Packed>, hidden: &[f32], ret: &mut [f32]) {
    let c = weights.config();
    let t = hidden.len() / c.d_model;
    assert_eq!(ret.len(), t * c.vocab_size, "ret_logits");
    let packed = packed.map(|p| &p.head);
    let mut products = Products::default();
    product(
        isa,
        &mut products,
        packed,
        weights.embedding(),
        (c.vocab_size, c.d_model),
        (hidden, c.d_model),
        t,
        ret,
        false,
    );
}

#[allow(clippy::too_many_arguments)]
fn block(
    isa: Isa,
    weights: &Weights,
    layer: usize,
    packed: Option<&PackedLayer>,
    starts: &[bool],
    buffers: &mut Buffers,
    own: &mut LayerBuffers,
    state: &mut LayerState<'_>,
) {
    let c = weights.config();
    let at = &weights.params.layout.layers[layer];
    let derived = &weights.layers[layer];
    let t = starts.len();
    let width = c.x_proj_width();
    if !own.residual.is_empty() {
        own.residual.copy_from_slice(&buffers.residual);
    }
    rms_norm(isa, &buffers.residual, weights.slice(at.norm, c.d_model), c.norm_eps, &mut buffers.normed);

    let in_proj = weights.slice(at.in_proj, 2 * c.d_inner * c.d_model);
    let packed_in = packed.map(|p| &p.in_proj);
    let shape = (2 * c.d_inner, c.d_model);
    product(isa, &mut buffers.products, packed_in, in_proj, shape, (&buffers.normed, c.d_model), t, &mut own.xz, false);

    own.window.copy_from_slice(state.conv);
    let conv = conv_args(weights, layer, buffers.b, buffers.l, own, &buffers.reach);
    conv_forward(isa, &conv, &mut buffers.conv);
    conv.next_window(state.conv);

    let x_proj = weights.slice(at.x_proj, width * c.d_inner);
    let packed_x = packed.map(|p| &p.x_proj);
    product(
        isa,
        &mut buffers.products,
        packed_x,
        x_proj,
        (width, c.d_inner),
        (&buffers.conv, c.d_inner),
        t,
        &mut own.x_dbl,
        false,
    );
    let dt_weight = weights.slice(at.dt_weight, c.d_inner * c.dt_rank);
    let packed_dt = packed.map(|p| &p.dt_proj);
    product(
        isa,
        &mut buffers.products,
        packed_dt,
        dt_weight,
        (c.d_inner, c.dt_rank),
        (&own.x_dbl, width),
        t,
        &mut buffers.dt,
        false,
    );

    let scan = ScanArgs {
        b: buffers.b,
        l: buffers.l,
        d_inner: c.d_inner,
        d_state: c.d_state,
        dt_rank: c.dt_rank,
        x: &buffers.conv,
        dt_bias: weights.slice(at.dt_bias, c.d_inner),
        x_dbl: &own.x_dbl,
        xz: &own.xz,
        a2: &derived.a2,
        d: weights.slice(at.d, c.d_inner),
        starts,
    };
    let checkpoints = (!own.checkpoints.is_empty()).then_some(&mut own.checkpoints[..]);
    scan_forward(isa, &scan, &buffers.dt, state.ssm, &mut buffers.y, checkpoints);

    let out_proj = weights.slice(at.out_proj, c.d_model * c.d_inner);
    let packed_out = packed.map(|p| &p.out_proj);
    let shape = (c.d_model, c.d_inner);
    product(
        isa,
        &mut buffers.products,
        packed_out,
        out_proj,
        shape,
        (&buffers.y, c.d_inner),
        t,
        &mut buffers.residual,
        true,
    );
}

/// The convolution of block `layer` over what its buffers hold.
pub(super) fn conv_args<'a>(
    weights: &'a Weights,
    layer: usize,
    b: usize,
    l: usize,
    own: &'a LayerBuffers,
    reach: &'a [u8],
) -> ConvArgs<'a> {
    let c = weights.config();
    ConvArgs {
        b,
        l,
        d_inner: c.d_inner,
        d_conv: c.d_conv,
        xz: &own.xz,
        weight: &weights.layers[layer].conv_weight,
        bias: weights.slice(weights.params.layout.layers[layer].conv_bias, c.d_inner),
        window: &own.window,
        reach,
    }
}

/// `ret` (t, outputs) becomes `x` (t, inputs) times the transposed weights (outputs, inputs), or has that added.
/// `x` comes with its row stride.
#[allow(clippy::too_many_arguments)]
fn product(
    isa: Isa,
    products: &mut Products,
    packed: Option<&PackedMatrix>,
    weights: &[f32],
    (outputs, inputs): (usize, usize),
    (x, x_stride): (&[f32], usize),
    t: usize,
    ret: &mut [f32],
    accumulate: bool,
) {
    let x = Matrix::strided(x, t, inputs, x_stride);
    match packed {
        Some(packed) => packed.multiply(isa, x, ret, accumulate),
        None => products.matmul(ret, outputs, x, Matrix::new(weights, outputs, inputs).t(), accumulate),
    }
}

fn embed(table: &[f32], config: &MambaConfig, tokens: &[Token], ret: &mut [f32]) {
    let d = config.d_model;
    for (row, token) in ret.chunks_exact_mut(d).zip(tokens) {
        let token = token.0 as usize;
        assert!(token < config.vocab_size, "token {token} outside a vocabulary of {}", config.vocab_size);
        row.copy_from_slice(&table[token * d..(token + 1) * d]);
    }
}
