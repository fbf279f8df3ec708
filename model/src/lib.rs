//! Packets to tokens and back, the Mamba network, training and generation.
//!
//! The crate has two wings that do not know each other. The **packet wing** ([`packet`], [`flow`], [`codec`])
//! knows no tensors; the **network wing** ([`mamba`], [`engine`]) knows no packets. They meet in [`train`] and
//! [`generate`]. [`checkpoint`] is the one door to the disk. Nothing here opens a socket, asks a clock, reads
//! the environment or starts a thread of its own (rayon's pool computes).
//!
//! Single letters, where the papers use them:
//!
//! | letter | meaning |
//! |---|---|
//! | `b`, `l` | batch (rows, streams), length in tokens |
//! | `x`, `z` | the two halves of the input projection: the scanned path and the gate |
//! | `dt` (Δ) | step size of the selective scan, after softplus |
//! | `A`, `B`, `C`, `D` | the state-space matrices (Gu and Dao 2023, arXiv:2312.00752, section 3) |
//! | `h` | the recurrent state, `d_state` numbers a channel |

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod codec;
pub mod device;
pub mod engine;
pub mod flow;
pub mod generate;
pub mod mamba;
pub mod packet;
pub mod threads;
pub mod train;
pub mod wire;
