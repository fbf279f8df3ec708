//! Products of f32 matrices in tiles, for a training step: many rows, operands in any layout, over and over in one shape.
//!
//! The `gemm` crate is what these are tested against, and what runs where they were not measured. What is saved is mostly around the
//! multiplying: room for operands laid out anew is kept between products instead of allocated in each, both operands are laid out
//! by all threads, tasks are small, so that no thread waits for the other's half, and the next block is on its way from memory
//! while one is multiplied.
//!
//! [`pack`] lays out, [`micro`] multiplies one tile of registers, [`product`] walks the matrices in blocks that fit the caches.

mod micro;
mod pack;
mod product;
#[cfg(test)]
mod tests;

pub use product::{TiledScratch, matmul_tiled};
