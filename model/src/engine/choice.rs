//! From a device and a precision, as they were settled, to what computes: the one place that knows every engine.

use crate::device::Device;
use crate::engine::cpu::UnsupportedConfig;
use crate::engine::cpu::kernels::Bf16Isa;
use crate::engine::{CpuDecoder, CpuEngine, DeviceProbe, Isa, Precision};
use crate::generate::Decoder;
use crate::mamba::{MambaConfig, Params};
use crate::train::{AdamWOptions, HostLearner, Learner};

#[cfg(feature = "cuda")]
use crate::engine::cuda::{CudaDecoder, CudaEngine, CudaError, CudaLearner, CudaProbe};

/// Why no engine can be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The network's sizes have no kernels on the CPU.
    #[error(transparent)]
    Cpu(#[from] UnsupportedConfig),
    /// The GPU, or the network on it.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A GPU, in a build without any.
    #[error("{0}: this build computes on the CPU only")]
    NoCuda(Device),
}

/// A learner for batches of `rows` rows on `device`, with products of `precision`.
///
/// # Errors
/// When the device cannot be used, or has no kernels for the network.
pub fn learner(
    params: Params,
    device: Device,
    precision: Precision,
    rows: usize,
    options: AdamWOptions,
) -> Result<Box<dyn Learner>, EngineError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => {
            Ok(Box::new(CudaLearner::new(CudaEngine::new(params, ordinal, precision)?, rows, options)))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(EngineError::NoCuda(device)),
        Device::Auto | Device::Cpu => {
            let engine = CpuEngine::new(params)?.training_in(precision);
            Ok(Box::new(HostLearner::new(Box::new(engine), rows, options)))
        }
    }
}

/// A decoder on `device`, with weights of `precision`, or of what suits the device.
///
/// # Errors
/// When the device cannot be used, or has no kernels for the network or the precision.
pub fn decoder(params: &Params, device: Device, precision: Option<Precision>) -> Result<Box<dyn Decoder>, EngineError> {
    let precision = precision.unwrap_or_else(|| decoding_precision(device));
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => Ok(Box::new(CudaDecoder::new(CudaEngine::new(params.clone(), ordinal, precision)?))),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(EngineError::NoCuda(device)),
        Device::Auto | Device::Cpu => Ok(Box::new(CpuDecoder::new(params, precision)?)),
    }
}

/// The limits of a GPU, for products shaped as those of a network; `None` for the CPU, which is measured by other means.
///
/// # Errors
/// When the device cannot be used.
pub fn probe(device: Device, config: &MambaConfig) -> Result<Option<Box<dyn DeviceProbe>>, EngineError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => Ok(Some(Box::new(CudaProbe::new(ordinal, config)?))),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => {
            let _ = config;
            Err(EngineError::NoCuda(device))
        }
        Device::Auto | Device::Cpu => Ok(None),
    }
}

/// What `--precision auto` is for decoding on `device`: bf16 on a GPU, and what suits the CPU on that.
pub fn decoding_precision(device: Device) -> Precision {
    match device {
        Device::Cuda(_) => Precision::Bf16,
        Device::Auto | Device::Cpu => Precision::for_decoding(),
    }
}

/// What `--precision auto` is for learning on `device`: bf16 where it multiplies such numbers, in which a step takes less time and a
/// whole run ends at the held-out loss of one in f32 (BENCHMARKS.md); f32 elsewhere. On the CPU `isa` computes.
pub fn training_precision(device: Device, isa: Isa) -> Precision {
    match device {
        Device::Cuda(_) => Precision::Bf16,
        Device::Auto | Device::Cpu if Bf16Isa::within(isa).is_fast() => Precision::Bf16,
        Device::Auto | Device::Cpu => Precision::F32,
    }
}
