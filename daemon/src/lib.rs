//! Sources, sinks, jobs, command line and service of wiremamba.
//!
//! This crate is where the outside world is: files, interfaces, clocks, signals. What packets mean, and all that is
//! learned from them, is in `wiremamba-model`.

#![deny(unsafe_code)]

pub mod cli;
pub mod job;
pub mod judge;
pub mod page;
pub mod replay;
pub mod score;
pub mod service;
pub mod sink;
pub mod source;
mod sys;
