//! Work that several commands share: finding captures, reading them into labelled flows, opening checkpoints.

pub mod corpus;
pub mod eval;
pub(crate) mod mix;
pub mod model;
pub mod plan;
pub(crate) mod ranges;
