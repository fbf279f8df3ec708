//! Work that several commands share: finding captures, reading them into labelled flows, opening checkpoints.

pub mod corpus;
pub mod model;
pub(crate) mod ranges;
