//! How to replay.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{LivePace, Oversize, Pace, Spin};
use crate::source::model::StockCounts;

/// How to replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// How fast. Default: as captured.
    pub pace: Pace,
    /// Changes of the pace while it runs; where this is given, its pace holds and not `pace`. Default: none.
    pub live: Option<LivePace>,
    /// Passes over the source; 0 is for ever. Default 1.
    pub loops: u64,
    /// Stop after this many packets taken from the source, sent or refused. Default: none.
    pub limit: Option<u64>,
    /// Stop at this time after the first packet. Default: none.
    pub duration: Option<Duration>,
    /// Longest wait between two packets when pacing by the capture; longer ones are cut and counted. Default 60 s,
    /// which keeps keep-alives and polling, and not the night between two working days.
    pub gap_max: Duration,
    /// How long before a deadline to spin instead of sleep. Default: measured.
    pub spin: Spin,
    /// Keep idle processors from sleeping deeply while packets are paced, where this program may. Default false.
    pub keep_awake: bool,
    /// What to do with packets that are longer than the MTU. Default: refuse them.
    pub oversize: Oversize,
    /// The MTU where the sink has none of its own, as a file. Default: none, nothing is too long.
    pub mtu: Option<u32>,
    /// After a stall (of this process, of the sink, of the source) this much time is made up for, in small steps or in one long
    /// gap, and the rest of the schedule is moved back; the moves are counted. Default 100 ms.
    pub catch_up_max: Duration,
    /// Read the whole source into memory first, at most [`PRELOAD_BYTES_MAX`](super::PRELOAD_BYTES_MAX); passes after the first are over these packets.
    /// Default false.
    pub preload: bool,
    /// Where the ground truth goes: a line of JSON for each flow. Default: nowhere.
    pub truth: Option<PathBuf>,
    /// Names of the labels that packets are tagged with, for the ground truth.
    pub labels: Vec<String>,
    /// Counts of the source's stock, where it has one.
    pub stock: Option<Arc<StockCounts>>,
    /// Wait before the first packet, so that a sniffer can attach to an interface that has just come up. Default 0.
    pub start_delay: Duration,
    /// Time between two reports, at least 10 ms. Default 5 s.
    pub report_every: Duration,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            pace: Pace::Capture { multiplier: 1.0 },
            live: None,
            loops: 1,
            limit: None,
            duration: None,
            gap_max: Duration::from_secs(60),
            spin: Spin::Adaptive,
            keep_awake: false,
            oversize: Oversize::Refuse,
            mtu: None,
            catch_up_max: Duration::from_millis(100),
            preload: false,
            truth: None,
            labels: Vec::new(),
            stock: None,
            start_delay: Duration::ZERO,
            report_every: Duration::from_secs(5),
        }
    }
}
