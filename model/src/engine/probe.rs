//! What a device can do at most, so that a speed can be held against it: copies of its memory, and products by its own library.

use crate::device::Gpu;
use crate::engine::Precision;

/// Work that a device does at its limit. It knows no clock: whoever calls has one. Each call waits until the device is done.
pub trait DeviceProbe {
    /// The device.
    fn gpu(&self) -> &Gpu;

    /// The most bytes of the device that this process has held at a time, before this probe.
    fn peak_bytes(&self) -> u64;

    /// Copies a large piece of memory `times` times. Returns the bytes that were moved, read and written ones.
    fn copy(&mut self, times: usize) -> f64;

    /// Multiplies, `times` times, matrices that are shaped as those of a network's widest projection. Returns the floating-point
    /// operations.
    ///
    /// # Panics
    /// When `precision` is int8.
    fn multiply(&mut self, precision: Precision, times: usize) -> f64;
}
