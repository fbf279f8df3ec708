//! How close synthetic traffic is to real traffic, in the field's own measures.
//!
//! Packets and flows in, numbers out: no file, clock or thread is touched here, chance comes from a seed. Each measure
//! is an accumulator that takes flows (or packets) one by one and can take another accumulator of its kind in, so that
//! captures of any size go through in bounded memory and flows can be shared out to threads. The crate knows packets
//! and flows and nothing of networks or tokens: a synthetic capture is judged alike whoever made it.

#![forbid(unsafe_code)]

pub mod baseline;
pub mod evaluation;
pub mod fields;
pub mod first_packets;
pub mod halves;
pub mod joint;
pub mod memory;
pub mod nprint;
pub mod pictures;
pub mod series;
pub mod similarity;
pub mod stats;
pub mod timing;
pub mod validity;
pub mod verdict;
pub mod view;
