//! Generation: tokens drawn from a network, many streams in one batch, and the packets they stand for on one time line.
//!
//! [`Generator`] turns requests into flows, in order. [`Arrivals`] says when flows start, and [`Timeline`] puts the packets
//! of overlapping flows in the order of their times. Same checkpoint, seed and streams give the same packets.

mod arrivals;
mod generator;
mod sampling;

pub use arrivals::{Arrivals, ArrivalsError, Timeline, TimelineCounters, TimelinePacket};
pub use generator::{
    End, GenerateError, GenerateOptions, GeneratedFlow, Generator, GeneratorCounters, Request, Requests,
};
pub use sampling::{Picker, Sampling};
