//! The blocks backward, from the loss to the gradients of all parameters.
//!
//! Of each block only the residual stream, the input projection, B, C and the state checkpoints were kept; the norm,
//! the convolution and dt are computed again, which costs a twentieth of the work and saves most of the memory.

use crate::mamba::{Batch, Loss, Params};

use super::buffers::{Buffers, GradientBuffers, LayerBuffers};
use super::forward::conv_args;
use super::kernels::{
    HeadGradients, Isa, Matrix, ScanArgs, ScanGradients, conv_backward, conv_forward, head_loss, rms_norm,
    rms_norm_backward, scan_backward,
};
use super::weights::{Weights, range};

/// Goes backward through what [`super::forward::forward`] left in `buffers`: adds `scale` times the derivative of the
/// summed cross-entropy to `gradients`, and returns the loss.
pub(super) fn backward(
    isa: Isa,
    weights: &Weights,
    batch: &Batch,
    scale: f32,
    buffers: &mut Buffers,
    gradients: &mut Params,
) -> Loss {
    let c = weights.config();
    let layout = &weights.params.layout;
    assert_eq!(gradients.data.len(), layout.len, "gradients of another configuration");
    let mut grad = buffers.gradients.take().expect("training buffers have gradients");
    let to = &mut gradients.data;

    let head = HeadGradients {
        scale,
        hidden: &mut grad.normed,
        embedding: &mut to[range(layout.embedding, c.vocab_size * c.d_model)],
    };
    let table = weights.embedding();
    let loss = head_loss(
        isa,
        &mut buffers.products,
        &buffers.normed,
        table,
        c.d_model,
        &batch.targets,
        &mut buffers.head,
        Some(head),
    );

    let norm_f = weights.slice(layout.norm_f, c.d_model);
    grad.residual.fill(0.0);
    let d_norm_f = &mut to[range(layout.norm_f, c.d_model)];
    rms_norm_backward(isa, &buffers.residual, norm_f, c.norm_eps, &mut grad.normed, &mut grad.residual, d_norm_f);
    for layer in (0..c.n_layer).rev() {
        let own = buffers.take_layer(layer);
        block(isa, weights, layer, batch, buffers, &own, &mut grad, to);
        buffers.put_layer(layer, own);
    }
    let d_table = &mut to[range(layout.embedding, c.vocab_size * c.d_model)];
    for (token, row) in batch.tokens.iter().zip(grad.residual.chunks_exact(c.d_model)) {
        let at = token.0 as usize * c.d_model;
        for (sum, v) in d_table[at..at + c.d_model].iter_mut().zip(row) {
            *sum += v;
        }
    }
    buffers.gradients = Some(grad);
    loss
}

/// `grad.residual` is the gradient of the stream after the block, and becomes that of the stream before it.
#[allow(clippy::too_many_arguments)]
fn block(
    isa: Isa,
    weights: &Weights,
    layer: usize,
    batch: &Batch,
    buffers: &mut Buffers,
    own: &LayerBuffers,
    grad: &mut GradientBuffers,
    to: &mut [f32],
) {
    let c = weights.config();
    let at = &weights.params.layout.layers[layer];
    let (t, d, di, width) = (batch.b * batch.l, c.d_model, c.d_inner, c.x_proj_width());
    let in_proj = Matrix::new(weights.slice(at.in_proj, 2 * di * d), 2 * di, d);
    let x_proj = Matrix::new(weights.slice(at.x_proj, width * di), width, di);
    let dt_proj = Matrix::new(weights.slice(at.dt_weight, di * c.dt_rank), di, c.dt_rank);
    let out_proj = Matrix::new(weights.slice(at.out_proj, d * di), d, di);

    // Again, what was not kept.
    let conv = conv_args(weights, layer, batch.b, batch.l, own, &buffers.reach);
    conv_forward(isa, &conv, &mut buffers.conv);
    let dt_low = Matrix::strided(&own.x_dbl, t, c.dt_rank, width);
    buffers.products.matmul(&mut buffers.dt, di, dt_low, dt_proj.t(), false);

    // The scan: `buffers.y` is first the gradient of its output, then the output; `buffers.dt` becomes a gradient.
    let d_residual = Matrix::new(&grad.residual, t, d);
    buffers.products.matmul(&mut buffers.y, di, d_residual, out_proj, false);
    let scan = ScanArgs {
        b: batch.b,
        l: batch.l,
        d_inner: di,
        d_state: c.d_state,
        dt_rank: c.dt_rank,
        x: &buffers.conv,
        dt_bias: weights.slice(at.dt_bias, di),
        x_dbl: &own.x_dbl,
        xz: &own.xz,
        a2: &weights.layers[layer].a2,
        d: weights.slice(at.d, di),
        starts: &batch.starts,
    };
    let (d_dt_bias, d_a_log, d_skip) = scan_parameters(to, at, c);
    let scan_gradients = ScanGradients {
        dt_raw: &mut buffers.dt,
        y: &mut buffers.y,
        x: &mut grad.conv,
        xz: &mut grad.xz,
        x_dbl: &mut grad.x_dbl,
        a_log: d_a_log,
        d: d_skip,
        dt_bias: d_dt_bias,
    };
    scan_backward(isa, &scan, &own.checkpoints, scan_gradients);
    let y = Matrix::new(&buffers.y, t, di);
    buffers.products.matmul(&mut to[range(at.out_proj, d * di)], di, d_residual.t(), y, true);

    // dt, B and C back to the convolved input.
    let d_dt = Matrix::new(&buffers.dt, t, di);
    buffers.products.matmul(&mut to[range(at.dt_weight, di * c.dt_rank)], c.dt_rank, d_dt.t(), dt_low, true);
    buffers.products.matmul(&mut grad.x_dbl, width, d_dt, dt_proj, false);
    let d_x_dbl = Matrix::new(&grad.x_dbl, t, width);
    buffers.products.matmul(
        &mut to[range(at.x_proj, width * di)],
        di,
        d_x_dbl.t(),
        Matrix::new(&buffers.conv, t, di),
        true,
    );
    buffers.products.matmul(&mut grad.conv, di, d_x_dbl, x_proj, true);

    let (d_conv_weight, d_conv_bias) = adjacent(to, at.conv_weight, di * c.d_conv, at.conv_bias, di);
    conv_backward(isa, &conv, &mut grad.conv, &mut grad.xz, d_conv_weight, d_conv_bias);

    // The input projection and the norm.
    let norm = weights.slice(at.norm, d);
    rms_norm(isa, &own.residual, norm, c.norm_eps, &mut buffers.normed);
    let d_xz = Matrix::new(&grad.xz, t, 2 * di);
    let normed = Matrix::new(&buffers.normed, t, d);
    buffers.products.matmul(&mut to[range(at.in_proj, 2 * di * d)], d, d_xz.t(), normed, true);
    buffers.products.matmul(&mut grad.normed, d, d_xz, in_proj, false);
    let d_norm = &mut to[range(at.norm, d)];
    rms_norm_backward(isa, &own.residual, norm, c.norm_eps, &mut grad.normed, &mut grad.residual, d_norm);
}

/// The gradients of dt's bias, A_log and D, which lie behind one another in this order.
fn scan_parameters<'a>(
    to: &'a mut [f32],
    at: &crate::mamba::LayerOffsets,
    c: &crate::mamba::MambaConfig,
) -> (&'a mut [f32], &'a mut [f32], &'a mut [f32]) {
    let (head, d) = to.split_at_mut(at.d);
    let (bias, a_log) = adjacent(head, at.dt_bias, c.d_inner, at.a_log, c.d_inner * c.d_state);
    (bias, a_log, &mut d[..c.d_inner])
}

/// Two parts of one buffer, the first before the second.
fn adjacent(
    to: &mut [f32],
    first: usize,
    first_len: usize,
    second: usize,
    second_len: usize,
) -> (&mut [f32], &mut [f32]) {
    let (a, b) = to.split_at_mut(second);
    (&mut a[range(first, first_len)], &mut b[..second_len])
}
