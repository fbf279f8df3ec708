//! The blocks forward, and the head.

use super::buffers::{Buffers, DeviceState, LayerBuffers, logits_stride};
use super::gpu::{Gpu, GpuMatrix, Span};
use super::kernels::{Conv, D_STATE, Scan};
use super::weights::Weights;

/// Runs all blocks and the last norm over the batch in `buffers`; the result is in `buffers.normed`.
pub(super) fn forward(gpu: &Gpu, weights: &Weights, buffers: &Buffers, state: &DeviceState) {
    let c = weights.config();
    let layout = &weights.layout;
    let table = weights.master(layout.embedding, c.vocab_size * c.d_model);
    gpu.embed(table, buffers.batch.tokens.span(), buffers.residual.span());
    for layer in 0..c.n_layer {
        block(gpu, weights, layer, buffers, state);
    }
    let norm_f = weights.master(layout.norm_f, c.d_model);
    gpu.norm_forward(buffers.residual.span(), norm_f, buffers.normed.span(), Span::NONE, c.norm_eps);
}

fn block(gpu: &Gpu, weights: &Weights, layer: usize, buffers: &Buffers, state: &DeviceState) {
    let c = weights.config();
    let at = &weights.layout.layers[layer];
    let own = buffers.layer(layer);
    let (t, d, di, width) = (buffers.shape.b * buffers.shape.l, c.d_model, c.d_inner, c.x_proj_width());
    let norm = weights.master(at.norm, d);
    gpu.norm_forward(buffers.residual.span(), norm, buffers.normed.span(), own.residual.span(), c.norm_eps);

    let in_proj = weights.matrix(at.in_proj, 2 * di, d);
    gpu.multiply(matrix(&own.xz, t, 2 * di), matrix(&buffers.normed, t, d), in_proj.t(), false);

    let window = state.conv(c, layer);
    if own.window.span().len() > 0 {
        gpu.copy(own.window.span(), window);
    }
    let conv = conv(weights, layer, buffers, own, window);
    gpu.conv_forward(&conv, buffers.conv.span());
    gpu.conv_window(&conv);

    let x_proj = weights.matrix(at.x_proj, width, di);
    gpu.multiply(matrix(&own.x_dbl, t, width), matrix(&buffers.conv, t, di), x_proj.t(), false);
    let dt_proj = weights.matrix(at.dt_weight, di, c.dt_rank);
    let dt_low = GpuMatrix::strided(own.x_dbl.span(), t, c.dt_rank, width);
    gpu.multiply(matrix(&buffers.dt, t, di), dt_low, dt_proj.t(), false);

    let scan = scan(weights, layer, buffers, own);
    gpu.scan_forward(&scan, state.ssm(c, layer), own.checkpoints.span(), buffers.y.span());

    let out_proj = weights.matrix(at.out_proj, d, di);
    gpu.multiply(matrix(&buffers.residual, t, d), matrix(&buffers.y, t, di), out_proj.t(), true);
}

/// The convolution of block `layer` over what its buffers hold.
pub(super) fn conv(weights: &Weights, layer: usize, buffers: &Buffers, own: &LayerBuffers, window: Span) -> Conv {
    let (c, at) = (weights.config(), &weights.layout.layers[layer]);
    Conv {
        shape: buffers.shape,
        xz: own.xz.span(),
        weight: weights.master(at.conv_weight, c.d_inner * c.d_conv),
        bias: weights.master(at.conv_bias, c.d_inner),
        window,
        reach: buffers.batch.reach.span(),
    }
}

/// The scan of block `layer` over what its buffers hold.
pub(super) fn scan(weights: &Weights, layer: usize, buffers: &Buffers, own: &LayerBuffers) -> Scan {
    let (c, at) = (weights.config(), &weights.layout.layers[layer]);
    Scan {
        shape: buffers.shape,
        x: buffers.conv.span(),
        dt_raw: buffers.dt.span(),
        xz: own.xz.span(),
        x_dbl: own.x_dbl.span(),
        starts: buffers.batch.starts.span(),
        a_log: weights.master(at.a_log, c.d_inner * D_STATE),
        dt_bias: weights.master(at.dt_bias, c.d_inner),
        d_skip: weights.master(at.d, c.d_inner),
        ends: buffers.ends.span(),
        sums: buffers.sums.span(),
    }
}

/// The logits of the tokens from the `first`-th on, `tokens` of them, to the beginning of `buffers.logits`, [`logits_stride`] apart.
pub(super) fn logits(gpu: &Gpu, weights: &Weights, buffers: &Buffers, first: usize, tokens: usize) -> Span {
    let c = weights.config();
    let hidden = GpuMatrix::new(buffers.normed.part(first * c.d_model, tokens * c.d_model), tokens, c.d_model);
    let table = weights.matrix(weights.layout.embedding, c.vocab_size, c.d_model);
    let ret = buffers.logits.part(0, tokens * logits_stride(c));
    gpu.multiply(GpuMatrix::strided(ret, tokens, c.vocab_size, logits_stride(c)), hidden, table.t(), false);
    ret
}

/// The chunks of tokens whose logits exist together: first and count.
pub(super) fn chunks(buffers: &Buffers) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (t, chunk) = (buffers.shape.b * buffers.shape.l, buffers.chunk_tokens);
    (0..t).step_by(chunk).map(move |first| (first, chunk.min(t - first)))
}

/// The summed cross-entropy of the batch in `buffers` to `buffers.loss`.
pub(super) fn loss(gpu: &Gpu, weights: &Weights, buffers: &Buffers) {
    for (first, tokens) in chunks(buffers) {
        let logits = logits(gpu, weights, buffers, first, tokens);
        let targets = buffers.batch.targets.part(first, tokens);
        gpu.cross_entropy(
            logits,
            targets,
            Span::NONE,
            buffers.losses.part(first, tokens),
            Span::NONE,
            weights.config().vocab_size,
        );
    }
    gpu.total(buffers.losses.span(), buffers.loss.span());
}

/// All of a buffer as `rows` x `columns` numbers.
pub(super) fn matrix(buffer: &super::gpu::Buffer, rows: usize, columns: usize) -> GpuMatrix {
    GpuMatrix::new(buffer.span(), rows, columns)
}
