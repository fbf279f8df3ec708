//! Decoding: one token for each of many streams at a time, or the tokens of a prompt, with one pass over the weights.

mod block;
mod lines;
mod narrow;
mod network;
mod panels;
mod pick;
mod product;
mod step;
mod team;
#[cfg(test)]
mod tests;
mod wide;

pub use network::Network;
pub use panels::Panels;
pub use step::{Buffers, Streams};
