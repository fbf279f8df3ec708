//! Why a replay did not reach its end.

use super::{ReplayCounters, TruthError};
use crate::sink::SinkError;
use crate::source::SourceError;

/// Why a replay did not reach its end. `counters` are what was done until then, the device's included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An option outside its range; nothing was opened.
    #[error("{option} is {value}, but must be {range}")]
    Option {
        /// The option, as on the command line.
        option: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// The packets could not be read on.
    #[error("reading packets to replay failed after {} sent", counters.sent)]
    Source {
        /// Why.
        #[source]
        source: SourceError,
        /// What was done.
        counters: Box<ReplayCounters>,
    },
    /// The ground truth cannot be written: what is sent from then on would have none.
    #[error("replay stopped after {} packets sent", counters.sent)]
    Truth {
        /// Why.
        #[source]
        source: TruthError,
        /// What was done.
        counters: Box<ReplayCounters>,
    },
    /// No thread for the source.
    #[error("cannot start a thread to read the source")]
    Thread(#[source] std::io::Error),
    /// The sink is of no more use.
    #[error("replay failed after {} packets sent", counters.sent)]
    Sink {
        /// Why.
        #[source]
        source: SinkError,
        /// What was done.
        counters: Box<ReplayCounters>,
    },
}

impl ReplayError {
    /// What was done before it failed; `None` when nothing was begun.
    pub fn counters(&self) -> Option<&ReplayCounters> {
        match self {
            Self::Option { .. } | Self::Thread(_) => None,
            Self::Source { counters, .. } | Self::Sink { counters, .. } | Self::Truth { counters, .. } => {
                Some(counters)
            }
        }
    }
}
