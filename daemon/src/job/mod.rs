//! Work that several commands share: finding captures, reading them into labelled flows, opening checkpoints.

pub mod corpus;
mod mix;
pub mod model;
pub mod plan;
pub(crate) mod ranges;
