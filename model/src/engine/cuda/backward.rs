//! The blocks backward, from the loss to the gradients of all parameters.
//!
//! Of each block only the residual stream, the input projection, dt's input, B, C and the state's checkpoints were kept; the norm, the
//! convolution and dt are computed again.

use super::buffers::{Buffers, GradientBuffers, logits_stride};
use super::forward::{chunks, conv, logits, matrix, scan};
use super::gpu::{Buffer, Gpu, GpuMatrix, Number, Span};
use super::kernels::{D_STATE, ScanGradients};
use super::weights::Weights;

/// Goes backward through what [`super::forward::forward`] left in `buffers`: adds the derivative of the summed cross-entropy times
/// the batch's scale to `gradients`, laid out as the parameters, and leaves the loss in `buffers.loss`.
pub(super) fn backward(gpu: &Gpu, weights: &Weights, buffers: &Buffers, gradients: &Buffer) {
    let c = weights.config();
    let layout = &weights.layout;
    let grad = buffers.gradients.as_ref().expect("training buffers have gradients");
    head(gpu, weights, buffers, grad, gradients);

    gpu.zero(grad.residual.span());
    let norm_f = weights.master(layout.norm_f, c.d_model);
    let d_norm_f = gradients.part(layout.norm_f, c.d_model);
    norm_backward(gpu, buffers.residual.span(), norm_f, grad, d_norm_f, c.norm_eps);
    for layer in (0..c.n_layer).rev() {
        block(gpu, weights, layer, buffers, grad, gradients);
    }
    let d_table = gradients.part(layout.embedding, c.vocab_size * c.d_model);
    let [order, pieces, count, of_token] = buffers.batch.order();
    let partial = grad.partial_table.span();
    gpu.embed_backward(grad.residual.span(), order, pieces, count, of_token, partial, d_table);
}

/// The head: the gradient of the normed output to `grad.normed`, that of the embedding added.
fn head(gpu: &Gpu, weights: &Weights, buffers: &Buffers, grad: &GradientBuffers, gradients: &Buffer) {
    let c = weights.config();
    let (v, d) = (c.vocab_size, c.d_model);
    let table = weights.matrix(weights.layout.embedding, v, d);
    let d_table = GpuMatrix::new(gradients.part(weights.layout.embedding, v * d), v, d);
    for (first, tokens) in chunks(buffers) {
        let logits = logits(gpu, weights, buffers, first, tokens);
        let (targets, losses) = (buffers.batch.targets.part(first, tokens), buffers.losses.part(first, tokens));
        let d_logits = grad.logits.part(0, tokens * logits_stride(c));
        gpu.cross_entropy(logits, targets, buffers.batch.scale.span(), losses, d_logits, v);
        let d_logits = GpuMatrix::strided(d_logits, tokens, v, logits_stride(c));
        let rows = |buffer: &Buffer| GpuMatrix::new(buffer.part(first * d, tokens * d), tokens, d);
        gpu.multiply(rows(&grad.normed), d_logits, table, false);
        gpu.multiply(d_table, d_logits.t(), rows(&buffers.normed), true);
    }
    gpu.total(buffers.losses.span(), buffers.loss.span());
}

/// From `grad.normed`: adds to `grad.residual`, and to the gradient of the norm's weight.
fn norm_backward(gpu: &Gpu, x: Span, weight: Span, grad: &GradientBuffers, d_weight: Span, eps: f32) {
    let (d_y, d_x, cast) = (grad.normed.span(), grad.residual.span(), grad.residual_cast.span());
    gpu.norm_backward(x, weight, d_y, d_x, cast, grad.partial_norm.span(), d_weight, eps);
}

/// `grad.residual` is the gradient of the stream after the block, and becomes that of the stream before it.
fn block(gpu: &Gpu, weights: &Weights, layer: usize, buffers: &Buffers, grad: &GradientBuffers, to: &Buffer) {
    let c = weights.config();
    let at = &weights.layout.layers[layer];
    let own = buffers.layer(layer);
    let (t, d, di, width) = (buffers.shape.b * buffers.shape.l, c.d_model, c.d_inner, c.x_proj_width());
    let in_proj = weights.matrix(at.in_proj, 2 * di, d);
    let x_proj = weights.matrix(at.x_proj, width, di);
    let dt_proj = weights.matrix(at.dt_weight, di, c.dt_rank);
    let out_proj = weights.matrix(at.out_proj, d, di);
    let d_matrix = |at: usize, rows: usize, columns: usize| GpuMatrix::new(to.part(at, rows * columns), rows, columns);

    // Again, what was not kept.
    let conv = conv(weights, layer, buffers, own, own.window.span());
    gpu.conv_forward(&conv, buffers.conv.span());
    let dt_low = GpuMatrix::strided(own.x_dbl.span(), t, c.dt_rank, width);
    gpu.multiply(matrix(&buffers.dt, t, di), dt_low, dt_proj.t(), false);

    // The scan.
    let d_residual = matrix(&grad.residual_cast, t, d);
    gpu.multiply(matrix(&grad.y, t, di), d_residual, out_proj, false);
    let scan_gradients = ScanGradients {
        checkpoints: own.checkpoints.span(),
        d_y: grad.y.span(),
        y: buffers.y.span(),
        d_x: grad.conv.span(),
        d_xz: grad.xz.span(),
        d_x_dbl: grad.x_dbl.span(),
        partial_bc: grad.partial_bc.span(),
        partial_a: grad.partial_a.span(),
        partial_channel: grad.partial_channel.span(),
        d_a_log: to.part(at.a_log, di * D_STATE),
        d_skip: to.part(at.d, di),
        d_dt_bias: to.part(at.dt_bias, di),
    };
    gpu.scan_backward(&scan(weights, layer, buffers, own), &scan_gradients);
    gpu.multiply(d_matrix(at.out_proj, d, di), d_residual.t(), matrix(&buffers.y, t, di), true);

    // dt, B and C back to the convolved input.
    let d_dt = matrix(&buffers.dt, t, di);
    gpu.multiply(d_matrix(at.dt_weight, di, c.dt_rank), d_dt.t(), dt_low, true);
    gpu.multiply(GpuMatrix::strided(grad.x_dbl.span(), t, c.dt_rank, width), d_dt, dt_proj, false);
    let d_x_dbl = matrix(&grad.x_dbl, t, width);
    gpu.multiply(d_matrix(at.x_proj, width, di), d_x_dbl.t(), matrix(&buffers.conv, t, di), true);
    gpu.multiply(matrix(&grad.conv, t, di), d_x_dbl, x_proj, true);

    let (d_weight, d_bias) = (to.part(at.conv_weight, di * c.d_conv), to.part(at.conv_bias, di));
    gpu.conv_backward(&conv, grad.conv.span(), grad.xz.span(), grad.partial_conv.span(), d_weight, d_bias);

    // The input projection and the norm.
    let norm = weights.master(at.norm, d);
    gpu.norm_forward(own.residual.span(), norm, buffers.normed.span(), Span::NONE, c.norm_eps);
    let d_xz = matrix(&grad.xz, t, 2 * di);
    gpu.multiply(d_matrix(at.in_proj, 2 * di, d), d_xz.t(), matrix(&buffers.normed, t, d), true);
    gpu.multiply(matrix(&grad.normed, t, d), d_xz, in_proj, false);
    norm_backward(gpu, own.residual.span(), norm, grad, to.part(at.norm, d), c.norm_eps);
    debug_assert_eq!(grad.residual.span().number(), Number::F32);
}
