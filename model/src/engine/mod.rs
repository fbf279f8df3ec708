//! The engine: Mamba-1 forward and backward written out by hand over preallocated flat buffers.
//!
//! [`CpuEngine`] implements [`Mamba`](crate::mamba::Mamba) and is tied to the plain
//! [`Reference`](crate::mamba::Reference) by parity tests. Flat buffers make clipping, accumulation and AdamW one pass each,
//! memory known at the start, and a step deterministic: sums are cut at fixed places, never by the number of
//! threads.

pub mod cpu;

pub use cpu::{CpuEngine, Isa};
