//! Decoding: one token for each of many streams at a time, or the tokens of a prompt, with one pass over the weights.

mod block;
mod draw;
mod lines;
mod narrow;
mod network;
mod panels;
mod pass;
mod pick;
mod probe;
mod product;
mod step;
mod team;
#[cfg(test)]
mod tests;
mod wide;

pub use draw::DrawBuffers;
pub use narrow::{has_bf16_products, has_vnni};
pub use network::Network;
pub use probe::read_all;
pub use step::{Buffers, Streams};
pub use team::Crew;
