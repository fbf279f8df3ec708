//! Generation: tokens drawn from a network, many streams in one batch, and the packets they stand for on one time line.
//!
//! A [`Decoder`] decodes the streams of a network. [`Generator`] turns requests into flows on it, in order. [`Arrivals`] says when flows start, and [`Timeline`] puts the packets
//! of overlapping flows in the order of their times. [`Traffic`] is all of it together: a checkpoint and what is asked of it
//! in, packets out. Same checkpoint and seed give the same packets, whatever the number of streams.

mod arrivals;
mod decoder;
mod generator;
mod horizon;
mod labels;
mod options;
mod sampling;
mod settings;
mod stock;
mod stock_file;
mod timeline;
mod traffic;
mod window;

pub use arrivals::{Arrivals, ArrivalsError, FlowRate};
pub use decoder::{Decoder, Draws, HostDecoder};
pub(crate) use decoder::{PromptCache, check_keep};
pub use generator::{End, GenerateError, GeneratedFlow, Generator, GeneratorCounters, Request, Requests};
pub use labels::{LabelChoice, Labels, LabelsError, label_id};
pub use options::{OPTIONS, OptionKind, OptionSpec};
pub use sampling::{Picker, Sampling};
pub use settings::GenerateOptions;
pub use stock::{STOCK_BYTES_MAX, Stock, StockFlow};
pub use stock_file::{StockError, StockKey};
pub use timeline::{FlowPackets, Flows, HELD_PACKETS_MAX, StartedFlow, Timeline, TimelineCounters, TimelinePacket};
pub use traffic::{Prompt, Traffic, TrafficError, TrafficOptions};
