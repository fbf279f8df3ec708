//! Everything that a pass writes between the parameters and the loss, allocated once for a shape.

use super::batch::DeviceBatch;
use super::gpu::{Buffer, Gpu, Number, Recording, Span};
use super::kernels::{D_STATE, Shape};
use crate::mamba::MambaConfig;

/// Logits that exist at a time, at most: 256 MiB of them.
const CHUNK_LOGITS: usize = 64 << 20;
/// Tokens whose logits exist at a time, at most.
const CHUNK_TOKENS: usize = 8192;

/// Numbers from one token's logits to the next's: cuBLAS has its fastest kernels for rows that begin on 16 bytes, whatever their kind.
pub(super) fn logits_stride(c: &MambaConfig) -> usize {
    c.vocab_size.next_multiple_of(64)
}

/// Buffers for `b` rows of `l` tokens; t counts all b * l tokens.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) shape: Shape,
    pub(super) batch: DeviceBatch,
    /// What the backward pass needs of each block; a single one, used over and over, when there is none to come.
    layers: Vec<LayerBuffers>,
    /// Residual stream, f32, (t, d_model).
    pub(super) residual: Buffer,
    /// Normed residual stream, (t, d_model).
    pub(super) normed: Buffer,
    /// Convolved input, (t, d_inner).
    pub(super) conv: Buffer,
    /// dt before bias and softplus, (t, d_inner).
    pub(super) dt: Buffer,
    /// Gated output of the scan, (t, d_inner).
    pub(super) y: Buffer,
    /// Scratch of a scan whose rows are cut.
    pub(super) ends: Buffer,
    /// As `ends`.
    pub(super) sums: Buffer,
    /// Logits of `chunk_tokens` tokens, f32, rows [`logits_stride`] apart.
    pub(super) logits: Buffer,
    pub(super) chunk_tokens: usize,
    /// Cross-entropy of each token, f32, (t).
    pub(super) losses: Buffer,
    /// Their sum, f64.
    pub(super) loss: Buffer,
    pub(super) gradients: Option<GradientBuffers>,
    /// The forward and backward passes as one graph, once they have run.
    pub(super) recording: Option<Recording>,
}

/// What the backward pass needs of one block.
#[derive(Debug)]
pub(super) struct LayerBuffers {
    /// Residual stream before the block, f32, (t, d_model); empty when not kept.
    pub(super) residual: Buffer,
    /// Input projection, (t, 2 d_inner).
    pub(super) xz: Buffer,
    /// dt before its projection, B, C, (t, dt_rank + 2 d_state).
    pub(super) x_dbl: Buffer,
    /// Convolution window before each row, f32, (b, d_conv - 1, d_inner); empty when not kept.
    pub(super) window: Buffer,
    /// States every few tokens, f32; empty when not kept.
    pub(super) checkpoints: Buffer,
}

/// Gradients of activations, and partial sums of those of parameters.
#[derive(Debug)]
pub(super) struct GradientBuffers {
    /// Of the residual stream, f32, (t, d_model).
    pub(super) residual: Buffer,
    /// The same as products take it.
    pub(super) residual_cast: Buffer,
    /// Of the normed stream, (t, d_model).
    pub(super) normed: Buffer,
    /// Of the gated output of the scan, (t, d_inner).
    pub(super) y: Buffer,
    /// Of the convolved input, (t, d_inner).
    pub(super) conv: Buffer,
    /// Of the input projection, (t, 2 d_inner).
    pub(super) xz: Buffer,
    /// Of dt before its projection, B, C.
    pub(super) x_dbl: Buffer,
    /// Of the logits of a chunk, rows as far apart as theirs.
    pub(super) logits: Buffer,
    pub(super) partial_norm: Buffer,
    pub(super) partial_conv: Buffer,
    pub(super) partial_bc: Buffer,
    pub(super) partial_a: Buffer,
    pub(super) partial_channel: Buffer,
    pub(super) partial_table: Buffer,
}

impl Buffers {
    /// The buffers in `slot` if they fit, or new ones.
    pub(super) fn for_shape<'a>(
        slot: &'a mut Option<Buffers>,
        gpu: &Gpu,
        config: &MambaConfig,
        number: Number,
        (b, l): (usize, usize),
        keeps: bool,
    ) -> &'a mut Buffers {
        if slot.as_ref().is_some_and(|buffers| (buffers.shape.b, buffers.shape.l) != (b, l)) {
            *slot = None; // before the new ones are allocated
        }
        slot.get_or_insert_with(|| Buffers::new(gpu, config, number, (b, l), keeps))
    }

    fn new(gpu: &Gpu, c: &MambaConfig, number: Number, (b, l): (usize, usize), keeps: bool) -> Self {
        let t = b * l;
        let shape = Shape { b, l, d_inner: c.d_inner, d_conv: c.d_conv, dt_rank: c.dt_rank };
        let (d, di, stride) = (c.d_model, c.d_inner, logits_stride(c));
        let cells = if shape.segments() > 1 { b * shape.segments() * di } else { 0 };
        let kept = |len: usize| if keeps { len } else { 0 };
        let layer = |_| LayerBuffers {
            residual: gpu.alloc(Number::F32, kept(t * d)),
            xz: gpu.alloc(number, t * 2 * di),
            x_dbl: gpu.alloc(number, t * c.x_proj_width()),
            window: gpu.alloc(Number::F32, kept(b * (c.d_conv - 1) * di)),
            checkpoints: gpu.alloc(Number::F32, kept(shape.checkpoints_len())),
        };
        let batch = DeviceBatch::new(gpu, c, t);
        let chunk_tokens = (CHUNK_LOGITS / stride).clamp(1, CHUNK_TOKENS).min(t);
        let segments = shape.segments();
        let gradients = keeps.then(|| GradientBuffers {
            residual: gpu.alloc(Number::F32, t * d),
            residual_cast: gpu.alloc(number, t * d),
            normed: gpu.alloc(number, t * d),
            y: gpu.alloc(number, t * di),
            conv: gpu.alloc(number, t * di),
            xz: gpu.alloc(number, t * 2 * di),
            x_dbl: gpu.alloc(number, t * c.x_proj_width()),
            logits: gpu.alloc(number, chunk_tokens * stride),
            partial_norm: gpu.alloc(Number::F32, Gpu::norm_partial_rows(t) * d),
            partial_conv: gpu.alloc(Number::F32, shape.conv_partial_len()),
            partial_bc: gpu.alloc(Number::F32, shape.scan_tiles() * t * 2 * D_STATE),
            partial_a: gpu.alloc(Number::F32, b * segments * di * D_STATE),
            partial_channel: gpu.alloc(Number::F32, b * segments * 2 * di),
            partial_table: gpu.alloc(Number::F32, batch.pieces_max() * d),
        });
        Self {
            layers: (0..if keeps { c.n_layer } else { 1 }).map(layer).collect(),
            residual: gpu.alloc(Number::F32, t * d),
            normed: gpu.alloc(number, t * d),
            conv: gpu.alloc(number, t * di),
            dt: gpu.alloc(number, t * di),
            y: gpu.alloc(number, t * di),
            ends: gpu.alloc(Number::F32, cells * D_STATE),
            sums: gpu.alloc(Number::F32, cells),
            logits: gpu.alloc(Number::F32, chunk_tokens * stride),
            chunk_tokens,
            losses: gpu.alloc(Number::F32, t),
            loss: gpu.alloc(Number::F64, 1),
            recording: None,
            shape,
            batch,
            gradients,
        }
    }

    /// The buffers of block `layer`.
    pub(super) fn layer(&self, layer: usize) -> &LayerBuffers {
        &self.layers[if self.layers.len() == 1 { 0 } else { layer }]
    }
}

/// The recurrent state of `b` streams on the device.
#[derive(Debug)]
pub(super) struct DeviceState {
    pub(super) b: usize,
    /// f32, (n_layer, b, d_conv - 1, d_inner).
    conv: Buffer,
    /// f32, (n_layer, b, d_inner, d_state).
    ssm: Buffer,
}

impl DeviceState {
    pub(super) fn new(gpu: &Gpu, c: &MambaConfig, b: usize) -> Self {
        let zeros = |len| gpu.zeros(Number::F32, len);
        let conv = zeros(c.n_layer * b * (c.d_conv - 1) * c.d_inner);
        Self { b, conv, ssm: zeros(c.n_layer * b * c.d_inner * c.d_state) }
    }

    pub(super) fn zero(&self, gpu: &Gpu) {
        gpu.zero(self.conv.span());
        gpu.zero(self.ssm.span());
    }

    /// The convolution's window of block `layer`.
    pub(super) fn conv(&self, c: &MambaConfig, layer: usize) -> Span {
        let len = self.b * (c.d_conv - 1) * c.d_inner;
        self.conv.part(layer * len, len)
    }

    /// The scan's state of block `layer`.
    pub(super) fn ssm(&self, c: &MambaConfig, layer: usize) -> Span {
        let len = self.b * c.d_inner * c.d_state;
        self.ssm.part(layer * len, len)
    }

    /// Copies streams of `from` to this one's: the i-th from slot `places[i]` to slot `places[n + i]`, n being half of `places`.
    pub(super) fn take_streams(&self, gpu: &Gpu, c: &MambaConfig, from: &DeviceState, places: Span) {
        let moved = [(from.conv.span(), self.conv.span()), (from.ssm.span(), self.ssm.span())];
        for (source, target) in moved {
            gpu.move_streams(source, target, places, c.n_layer, (from.b, self.b));
        }
    }

    /// Writes a state of the host, whose scans are laid out (d_state, d_inner).
    pub(super) fn write(&self, gpu: &Gpu, c: &MambaConfig, state: &crate::mamba::State) {
        assert_eq!(state.b, self.b, "rows of the state");
        gpu.write(self.conv.span(), &state.conv);
        gpu.write(self.ssm.span(), &transposed(&state.ssm, c.d_state, c.d_inner));
    }

    /// Reads it back.
    pub(super) fn read(&self, gpu: &Gpu, c: &MambaConfig, ret: &mut crate::mamba::State) {
        assert_eq!(ret.b, self.b, "rows of the state");
        gpu.read(self.conv.span(), &mut ret.conv);
        let mut ssm = vec![0.0; ret.ssm.len()];
        gpu.read(self.ssm.span(), &mut ssm);
        ret.ssm = transposed(&ssm, c.d_inner, c.d_state);
    }
}

/// Each matrix of `rows` x `columns` numbers in `from` transposed.
fn transposed(from: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut ret = vec![0.0; from.len()];
    for (from, to) in from.chunks_exact(rows * columns).zip(ret.chunks_exact_mut(rows * columns)) {
        for r in 0..rows {
            for c in 0..columns {
                to[c * rows + r] = from[r * columns + c];
            }
        }
    }
    ret
}
