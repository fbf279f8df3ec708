//! Which GPUs there are, and why one cannot be used.

use std::sync::Arc;

use cudarc::cublas::sys as blas;
use cudarc::driver::{CudaContext, result, sys};

use super::words;
use crate::device::Gpu as GpuInfo;

/// The CUDA version that the kernels were compiled by, as the driver counts: 13.0.
const DRIVER_VERSION_MIN: i32 = 13_000;
/// The lowest compute capability that the kernels were compiled for.
const CAPABILITY_MIN: (i32, i32) = (8, 0);

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver.
    #[error("there is no NVIDIA driver here (libcuda.so.1 was not found)")]
    NoDriver,
    /// No cuBLAS.
    #[error(
        "cuBLAS was not found (libcublas.so.13 and libcublasLt.so.13; they come with the CUDA toolkit or with the Python \
         package nvidia-cublas; put their folder in LD_LIBRARY_PATH)"
    )]
    NoCublas,
    /// No NCCL.
    #[error(
        "NCCL was not found (libnccl.so.2; it comes with NVIDIA's packages libnccl2 and with the Python package nvidia-nccl-cu13; put its \
         folder in LD_LIBRARY_PATH)"
    )]
    NoNccl,
    /// A driver without a device.
    #[error("the NVIDIA driver sees no GPU")]
    NoDevice,
    /// Fewer devices.
    #[error("there is no GPU {asked}: the driver has {present}, numbered from 0")]
    NoSuchDevice {
        /// The one asked for.
        asked: usize,
        /// How many there are.
        present: usize,
    },
    /// An old driver.
    #[error("the NVIDIA driver supports CUDA {}.{}, this build needs 13.0 (driver 580 or newer)", .0 / 1000, .0 % 1000 / 10)]
    OldDriver(i32),
    /// An old GPU.
    #[error("{name} has compute capability {}.{}; the kernels need 8.0 or newer", .capability.0, .capability.1)]
    OldDevice {
        /// The device's name.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// The network's sizes have no kernel.
    #[error("the CUDA engine has kernels for {supported} only; this network has {found}")]
    UnsupportedConfig {
        /// What there is.
        supported: &'static str,
        /// What was found.
        found: String,
    },
    /// Anything that the driver reports.
    #[error("{what} failed: {why}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// The driver's words.
        why: String,
    },
}

/// The devices that the driver sees, and whether each can be used.
///
/// # Errors
/// When there is no driver, no device, or no cuBLAS, or the driver is too old for any of them.
pub fn devices() -> Result<Vec<GpuInfo>, CudaError> {
    let count = count()?;
    (0..count).map(|ordinal| context(ordinal).and_then(|context| info(&context))).collect()
}

/// How many devices a usable driver has.
pub(super) fn count() -> Result<usize, CudaError> {
    // SAFETY: opens libraries and closes them again; NVIDIA's run nothing of ours while they load.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    match result::init() {
        Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(CudaError::NoDevice),
        other => other.map_err(driver("starting the driver"))?,
    }
    let mut version = 0;
    // SAFETY: writes one int.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(driver("asking for the driver's version"))?;
    if version < DRIVER_VERSION_MIN {
        return Err(CudaError::OldDriver(version));
    }
    // SAFETY: as above.
    if !unsafe { blas::is_culib_present() } {
        return Err(CudaError::NoCublas);
    }
    let count = result::device::get_count().map_err(driver("counting devices"))? as usize;
    if count == 0 { Err(CudaError::NoDevice) } else { Ok(count) }
}

pub(super) fn context(ordinal: usize) -> Result<Arc<CudaContext>, CudaError> {
    CudaContext::new(ordinal).map_err(driver("opening the device"))
}

pub(super) fn info(context: &CudaContext) -> Result<GpuInfo, CudaError> {
    let ask = driver("asking the device what it is");
    let name = context.name().map_err(&ask)?;
    let capability = context.compute_capability().map_err(&ask)?;
    let multiprocessors = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    Ok(GpuInfo {
        ordinal: context.ordinal(),
        memory_bytes: context.total_mem().map_err(&ask)?,
        multiprocessors: multiprocessors.map_err(&ask)? as usize,
        unusable: check_capability(&name, capability).err().map(|why| why.to_string()),
        name,
        capability,
    })
}

pub(super) fn check_capability(name: &str, capability: (i32, i32)) -> Result<(), CudaError> {
    let name = name.to_owned();
    if capability < CAPABILITY_MIN { Err(CudaError::OldDevice { name, capability }) } else { Ok(()) }
}

pub(super) fn driver(what: &'static str) -> impl Fn(result::DriverError) -> CudaError {
    move |e| CudaError::Driver { what, why: words(e) }
}
