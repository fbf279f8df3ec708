//! The fused operations of the CPU engine, forward and backward.
//!
//! This is the one module of the crate that may use unsafe code: SIMD intrinsics, the `gemm` crate's pointers, and
//! writes by several threads to disjoint parts of one buffer. Its public functions are safe: each checks every shape
//! before it touches memory.

mod bf16;
mod conv;
pub mod decode;
mod head;
mod lanes;
mod lines;
mod matmul;
mod norm;
mod numbers;
mod packed;
mod products;
mod scan;
mod scan_backward;
mod shared;
mod target;
mod tiled;

pub use bf16::{Bf16Isa, Bf16Scratch, matmul_bf16, round_to_bf16};
pub use conv::{ConvArgs, conv_backward, conv_forward, reach};
pub use head::{HeadBuffers, HeadGradients, head_loss};
pub use lanes::Isa;
pub use matmul::{Matrix, matmul};
pub use norm::{rms_norm, rms_norm_backward};
pub use numbers::Numbers;
pub use packed::PackedMatrix;
pub use products::Products;
pub use scan::{SCAN_CHUNK, ScanArgs, scan_forward};
pub use scan_backward::{ScanGradients, scan_backward};
pub use tiled::{TiledScratch, matmul_tiled};
