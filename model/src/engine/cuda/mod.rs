//! The engine on an NVIDIA GPU: the CPU engine's passes over flat buffers in device memory.
//!
//! Products are cuBLAS's (bf16 with f32 sums, or f32), the rest are the kernels in `kernels/*.cu`. The driver and cuBLAS are loaded
//! when a device is opened, by `cudarc`: a program with this engine starts where there is neither. Nothing is summed by atomics, so
//! the same seed on the same device gives the same bits.
//!
//! | module | what it is |
//! |---|---|
//! | `gpu` | memory, copies, launches, products: all that is unsafe |
//! | `kernels` | each kernel with its shapes |
//! | `weights`, `batch`, `buffers` | what lies in device memory |
//! | `forward`, `backward` | the passes |
//! | `learner` | gradients and AdamW on the device |
//! | `nccl` (feature of that name) | sums over several GPUs |
//! | `probe` | what the device can do at most |
//! | `decoder`, `step`, `sampler` | the streams of a generator on the device, a token for each, the draw of the next |

mod backward;
mod batch;
mod buffers;
mod decoder;
mod forward;
#[allow(unsafe_code)]
mod gpu;
#[allow(unsafe_code)]
mod kernels;
mod learner;
#[cfg(feature = "nccl")]
#[allow(unsafe_code)]
mod nccl;
mod probe;
mod sampler;
mod step;
#[cfg(test)]
mod tests;
mod weights;

/// The compiled kernels: made by the build script.
mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

use crate::codec::Token;
use crate::engine::Precision;
use crate::mamba::{Batch, Loss, Mamba, MambaConfig, Params, State};

use buffers::{Buffers, DeviceState};
use gpu::{Buffer, Gpu, Number};
use weights::Weights;

pub use decoder::CudaDecoder;
pub use gpu::{CudaError, devices};
pub use learner::CudaLearner;
#[cfg(feature = "nccl")]
pub use nccl::{Nccl, NcclId, nccl_id};
pub use probe::CudaProbe;

/// Mamba-1 on a GPU.
#[derive(Debug)]
pub struct CudaEngine {
    weights: Weights,
    training: Option<Buffers>,
    inference: Option<Buffers>,
    /// The state of the rows at hand.
    state: Option<DeviceState>,
    /// Gradients for those who want them in memory; a [`CudaLearner`] has its own.
    gradients: Option<Buffer>,
    gpu: Gpu,
}

impl CudaEngine {
    /// An engine for `params` on device `ordinal`.
    ///
    /// # Errors
    /// When the device cannot be used, the network's sizes have no kernel, or `precision` is int8.
    pub fn new(params: Params, ordinal: usize, precision: Precision) -> Result<Self, CudaError> {
        check_config(params.config())?;
        if precision == Precision::Int8 {
            let found = "--precision int8".to_owned();
            return Err(CudaError::UnsupportedConfig { supported: "f32 and bf16", found });
        }
        let gpu = Gpu::open(ordinal)?;
        let weights = Weights::new(&gpu, params, precision);
        Ok(Self { weights, training: None, inference: None, state: None, gradients: None, gpu })
    }

    /// The device that it computes on.
    pub fn device(&self) -> &crate::device::Gpu {
        self.gpu.info()
    }

    /// The numbers that products take.
    pub fn precision(&self) -> Precision {
        if self.weights.number == Number::Bf16 { Precision::Bf16 } else { Precision::F32 }
    }

    /// Bytes of device memory in use, by this process and all others.
    pub fn memory_in_use_bytes(&self) -> usize {
        self.gpu.info().memory_bytes.saturating_sub(self.gpu.free_bytes())
    }

    fn config(&self) -> &MambaConfig {
        self.weights.config()
    }

    /// Brings `state` to the device, runs the blocks over `tokens` without keeping anything for a backward pass, and brings it back.
    fn infer(
        &mut self,
        tokens: &[Token],
        starts: &[bool],
        state: &mut State,
        head: impl FnOnce(&Gpu, &Weights, &mut Buffers),
    ) {
        let Self { weights, inference, state: on_device, gpu, .. } = self;
        gpu.bind();
        let c = weights.config();
        let l = tokens.len() / state.b;
        let device = device_state(on_device, gpu, c, state.b);
        device.write(gpu, c, state);
        let buffers = Buffers::for_shape(inference, gpu, c, weights.number, (state.b, l), false);
        buffers.batch.write_inputs(gpu, c, tokens, starts, l);
        forward::forward(gpu, weights, buffers, device);
        head(gpu, weights, buffers);
        device.read(gpu, c, state);
    }
}

/// The state in `slot` if it has `b` rows, or a new one.
fn device_state<'a>(slot: &'a mut Option<DeviceState>, gpu: &Gpu, c: &MambaConfig, b: usize) -> &'a DeviceState {
    if slot.as_ref().is_none_or(|state| state.b != b) {
        *slot = Some(DeviceState::new(gpu, c, b));
    }
    slot.as_ref().expect("it was just made")
}

fn check_config(c: &MambaConfig) -> Result<(), CudaError> {
    let unsupported = |supported, found| Err(CudaError::UnsupportedConfig { supported, found });
    if c.d_state != kernels::D_STATE {
        return unsupported("16 states a channel", format!("d_state (state_size) {}", c.d_state));
    }
    if !(2..=kernels::TAPS_MAX).contains(&c.d_conv) {
        return unsupported("2 to 4 taps", format!("d_conv (conv_kernel) {}", c.d_conv));
    }
    Ok(())
}

impl Mamba for CudaEngine {
    fn params(&self) -> &Params {
        self.weights.host(&self.gpu)
    }

    fn set_params(&mut self, data: &[f32]) {
        self.weights.set(&self.gpu, data);
    }

    fn forward(&mut self, tokens: &[Token], state: &mut State) -> Vec<f32> {
        assert!(state.b > 0 && tokens.len().is_multiple_of(state.b), "{} tokens in {} rows", tokens.len(), state.b);
        let v = self.config().vocab_size;
        let mut ret = vec![0.0; tokens.len() * v];
        if tokens.is_empty() {
            return ret;
        }
        self.infer(tokens, &vec![false; tokens.len()], state, |gpu, weights, buffers| {
            for (first, tokens) in forward::chunks(buffers) {
                let logits = forward::logits(gpu, weights, buffers, first, tokens);
                let mut rows = vec![0.0; logits.len()];
                gpu.read(logits, &mut rows);
                let to = ret[first * v..(first + tokens) * v].chunks_exact_mut(v);
                to.zip(rows.chunks_exact(rows.len() / tokens)).for_each(|(to, row)| to.copy_from_slice(&row[..v]));
            }
        });
        ret
    }

    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss {
        check(batch, state);
        let mut nats = [0.0];
        self.infer(&batch.tokens, &batch.starts, state, |gpu, weights, buffers| {
            buffers.batch.write_targets(gpu, weights.config(), batch);
            forward::loss(gpu, weights, buffers);
            gpu.read(buffers.loss.span(), &mut nats);
        });
        Loss { nats: nats[0], count: counted(batch) }
    }

    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss {
        check(batch, state);
        let Self { weights, training, state: on_device, gradients: buffer, gpu, .. } = self;
        gpu.bind();
        let c = weights.config();
        let device = device_state(on_device, gpu, c, state.b);
        device.write(gpu, c, state);
        let buffer = buffer.get_or_insert_with(|| gpu.alloc(Number::F32, weights.layout.len));
        gpu.zero(buffer.span());
        let loss = accumulate(gpu, weights, training, batch, scale, device, buffer);
        device.read(gpu, c, state);
        let mut found = vec![0.0; gradients.data.len()];
        gpu.read(buffer.span(), &mut found);
        gradients.data.iter_mut().zip(&found).for_each(|(sum, g)| *sum += g);
        loss
    }

    fn step(&mut self, tokens: &[Token], state: &mut State, ret_logits: &mut [f32]) {
        assert_eq!(tokens.len(), state.b, "one token for each stream");
        let logits = self.forward(tokens, state);
        ret_logits.copy_from_slice(&logits);
    }
}

/// Adds the gradients of `batch` times `scale` to `gradients`. The passes of a shape are launched one by one the first time, recorded the
/// second time, and from then on run as one graph.
fn accumulate(
    gpu: &Gpu,
    weights: &Weights,
    slot: &mut Option<Buffers>,
    batch: &Batch,
    scale: f32,
    state: &DeviceState,
    gradients: &Buffer,
) -> Loss {
    let is_new = slot.as_ref().is_none_or(|b| (b.shape.b, b.shape.l) != (batch.b, batch.l));
    let buffers = Buffers::for_shape(slot, gpu, weights.config(), weights.number, (batch.b, batch.l), true);
    buffers.batch.write(gpu, weights.config(), batch, scale);
    let passes = |buffers: &Buffers| {
        forward::forward(gpu, weights, buffers, state);
        backward::backward(gpu, weights, buffers, gradients);
    };
    if is_new {
        passes(buffers);
    } else {
        let mut recording = buffers.recording.take().unwrap_or_else(|| gpu.record(|| passes(buffers)));
        gpu.replay(&mut recording);
        buffers.recording = Some(recording);
    }
    let mut nats = [0.0];
    gpu.read(buffers.loss.span(), &mut nats);
    Loss { nats: nats[0], count: counted(batch) }
}

fn counted(batch: &Batch) -> u64 {
    batch.targets.iter().filter(|t| **t != Batch::IGNORE).count() as u64
}

fn check(batch: &Batch, state: &State) {
    check_rows(batch, state.b);
}

fn check_rows(batch: &Batch, rows: usize) {
    let t = batch.b * batch.l;
    assert!(t > 0, "an empty batch");
    assert_eq!(batch.b, rows, "rows of batch and state");
    assert!(batch.tokens.len() == t && batch.targets.len() == t && batch.starts.len() == t, "shapes of a batch");
}
