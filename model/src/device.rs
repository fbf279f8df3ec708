//! Where the network is computed, as asked for by `--device`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A device as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Device {
    /// The best there is; the only choice that may fall back.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
}

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not `auto`, `cpu` or `cuda:N`.
    #[error("{0:?} is no device; use auto, cpu or cuda:N")]
    Unknown(String),
    /// A GPU was asked for by name, and cannot be used.
    #[error("{device} was asked for, but {why}; use --device cpu or --device auto")]
    Unusable {
        /// The GPU.
        device: Device,
        /// What is missing.
        why: String,
    },
}

/// Why a device stopped in the middle of its work: nothing of what it holds can be trusted then.
///
/// What computes on a GPU ends with it by unwinding, without a word on stderr, so that no result of a device that failed can be taken for
/// one. Whoever runs a job calls it through [`guard`] and has an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceFailure {
    /// A launch, a copy or a product failed.
    #[error("{what} failed on the GPU: {why}")]
    Failed {
        /// What was tried, or what failed earlier and was noticed there.
        what: &'static str,
        /// The driver's words.
        why: String,
    },
    /// More rows or streams at once than a grid has.
    #[error("{count} rows, pieces of rows or streams at once are more than the GPU's kernels take ({max})")]
    TooMany {
        /// How many were asked for.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The device has not so much memory.
    #[error(
        "{name} has no {asked_mib} MiB of memory left ({free_mib} MiB are free): fewer rows or streams, or shorter rows, need less"
    )]
    OutOfMemory {
        /// The device's name.
        name: String,
        /// What was asked for.
        asked_mib: usize,
        /// What is left.
        free_mib: usize,
    },
}

impl DeviceFailure {
    /// Unwinds to the nearest [`guard`].
    #[cfg(feature = "cuda")]
    pub(crate) fn raise(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
}

/// Does `work`; a device that fails meanwhile is an error. What `work` borrowed may be half changed then, and is to be dropped. Other
/// panics go on.
///
/// # Errors
/// What the device said.
pub fn guard<T>(work: impl FnOnce() -> T) -> Result<T, DeviceFailure> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|payload| match payload.downcast() {
        Ok(failure) => *failure,
        Err(other) => std::panic::resume_unwind(other),
    })
}

/// A GPU, as the driver tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Major and minor compute capability.
    pub capability: (i32, i32),
    /// Bytes of memory in all.
    pub memory_bytes: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Why it cannot be used, where it cannot.
    pub unusable: Option<String>,
}

/// The GPUs that the driver sees.
///
/// # Errors
/// In words, what this build or this machine lacks to use any.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Result<Vec<Gpu>, String> {
    Err("this build computes on the CPU only (it was built without the feature `cuda`)".to_owned())
}

/// The GPUs that the driver sees.
///
/// # Errors
/// In words, what this build or this machine lacks to use any.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<Vec<Gpu>, String> {
    crate::engine::cuda::devices().map_err(|why| why.to_string())
}

impl Device {
    /// Settles on a device that this build can use here, and says in words what it is.
    ///
    /// # Errors
    /// A GPU that cannot be used: a named device is never replaced in silence.
    pub fn resolve(self) -> Result<(Device, String), DeviceError> {
        self.resolve_among(gpus)
    }

    fn resolve_among(self, gpus: impl FnOnce() -> Result<Vec<Gpu>, String>) -> Result<(Device, String), DeviceError> {
        match self {
            Device::Cpu => Ok((Device::Cpu, "cpu".to_owned())),
            Device::Auto => Ok(match gpus() {
                Ok(gpus) => match gpus.iter().find(|gpu| gpu.unusable.is_none()) {
                    Some(gpu) => (Device::Cuda(gpu.ordinal), format!("cuda:{} ({})", gpu.ordinal, gpu.name)),
                    None => (Device::Cpu, format!("cpu (auto: {})", unusable(&gpus))),
                },
                Err(why) => (Device::Cpu, format!("cpu (auto: {why})")),
            }),
            Device::Cuda(ordinal) => {
                let refused = |why| Err(DeviceError::Unusable { device: self, why });
                match gpus() {
                    Err(why) => refused(why),
                    Ok(gpus) => match gpus.iter().find(|gpu| gpu.ordinal == ordinal) {
                        None => refused(format!("the driver has {} GPU(s), numbered from 0", gpus.len())),
                        Some(Gpu { unusable: Some(why), .. }) => refused(why.clone()),
                        Some(gpu) => Ok((self, format!("cuda:{ordinal} ({})", gpu.name))),
                    },
                }
            }
        }
    }
}

/// Why none of `gpus` can be used.
fn unusable(gpus: &[Gpu]) -> String {
    gpus.iter().find_map(|gpu| gpu.unusable.clone()).unwrap_or_else(|| "the driver sees no GPU".to_owned())
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            _ => {
                let number = s.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                number.map(Device::Cuda).ok_or_else(|| DeviceError::Unknown(s.to_owned()))
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = DeviceError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("gpu".parse::<Device>(), Err(DeviceError::Unknown("gpu".into())));
    }

    fn gpu(ordinal: usize, unusable: Option<&str>) -> Gpu {
        let unusable = unusable.map(str::to_owned);
        Gpu { ordinal, name: "a GPU".into(), capability: (9, 0), memory_bytes: 1 << 30, multiprocessors: 132, unusable }
    }

    #[test]
    fn only_auto_falls_back_and_says_why() {
        let none = || Err("there is no driver".to_owned());
        assert_eq!(Device::Auto.resolve_among(none).unwrap(), (Device::Cpu, "cpu (auto: there is no driver)".into()));
        let error = Device::Cuda(0).resolve_among(none).unwrap_err().to_string();
        assert_eq!(error, "cuda:0 was asked for, but there is no driver; use --device cpu or --device auto");
        let old = || Ok(vec![gpu(0, Some("it is too old"))]);
        assert_eq!(Device::Auto.resolve_among(old).unwrap(), (Device::Cpu, "cpu (auto: it is too old)".into()));
        assert!(Device::Cuda(0).resolve_among(old).unwrap_err().to_string().contains("it is too old"));
        assert!(Device::Cuda(3).resolve_among(old).unwrap_err().to_string().contains("1 GPU(s)"));
    }

    #[test]
    fn a_failure_is_an_error_and_a_bug_stays_a_panic() {
        let failure = DeviceFailure::Failed { what: "a launch", why: "it is gone".into() };
        let raised = failure.clone();
        assert_eq!(guard(|| -> () { std::panic::resume_unwind(Box::new(raised)) }), Err(failure));
        assert_eq!(guard(|| 3), Ok(3));
        let bug = std::panic::catch_unwind(|| guard(|| -> () { std::panic::resume_unwind(Box::new("a bug")) }));
        assert_eq!(bug.unwrap_err().downcast_ref(), Some(&"a bug"));
    }

    #[test]
    fn auto_takes_the_first_gpu_that_can_be_used() {
        let two = || Ok(vec![gpu(0, Some("it is too old")), gpu(1, None)]);
        assert_eq!(Device::Auto.resolve_among(two).unwrap(), (Device::Cuda(1), "cuda:1 (a GPU)".into()));
        assert_eq!(Device::Cuda(1).resolve_among(two).unwrap().0, Device::Cuda(1));
        assert_eq!(Device::Cpu.resolve_among(two).unwrap().0, Device::Cpu);
    }
}
