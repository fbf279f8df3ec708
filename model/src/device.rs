//! Where the network is computed, as asked for by `--device`.

use std::fmt;
use std::str::FromStr;

/// A device as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// A GPU was asked for by name, and this build cannot use any.
    #[error("{0} was asked for, but this build computes on the CPU only; use --device cpu or --device auto")]
    NoCuda(Device),
}

impl Device {
    /// Settles on a device that this build can use, and says in words what it is.
    ///
    /// # Errors
    /// A CUDA device in a build without CUDA: a named device is never replaced in silence.
    pub fn resolve(self) -> Result<(Device, &'static str), DeviceError> {
        match self {
            Device::Auto => Ok((Device::Cpu, "cpu (auto: this build has no CUDA)")),
            Device::Cpu => Ok((Device::Cpu, "cpu")),
            Device::Cuda(_) => Err(DeviceError::NoCuda(self)),
        }
    }
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

    #[test]
    fn only_auto_falls_back() {
        assert_eq!(Device::Auto.resolve().unwrap().0, Device::Cpu);
        assert_eq!(Device::Cuda(0).resolve(), Err(DeviceError::NoCuda(Device::Cuda(0))));
    }
}
