//! A whole collection of captures, read into labelled flows.
//!
//! Captures are read side by side, each through a flow table of its own (flows do not go on from one file to the
//! next); the result does not depend on how many threads did it. One bad capture among many is reported and counted.

use std::path::PathBuf;
use std::sync::mpsc;

use rayon::prelude::*;
use wiremamba_model::flow::{Flow, FlowCounters, FlowLimits, FlowTable};

use super::collection::LabelledCapture;
use super::file::SavefileSource;
use super::{Next, PacketSource, SourceError};

/// Captures that are read side by side at most.
const CAPTURES_AT_ONCE_MAX: usize = 64;
/// Packets after which progress is reported.
const PROGRESS_PACKETS: u64 = 1 << 16;

/// How much is read. Beyond it the rest of the collection is left out, and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLimits {
    /// Limits of each capture's flow table.
    pub flow: FlowLimits,
    /// Packets, all captures together. Default 50 million.
    pub packets_max: u64,
    /// Captured bytes, all captures together; in memory each packet takes some 80 bytes more. Default 8 GiB.
    pub bytes_max: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { flow: FlowLimits::default(), packets_max: 50_000_000, bytes_max: 8 << 30 }
    }
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Captures read to their end, readable or not.
    pub captures_done: usize,
    /// Captures to read.
    pub captures_total: usize,
    /// Packets read.
    pub packets: u64,
}

/// A flow with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledFlow {
    /// Index into [`FlowSet::labels`].
    pub label: usize,
    /// Index into the captures that were read.
    pub capture: usize,
    /// The flow.
    pub flow: Flow,
}

/// Something about a capture that its owner should know.
#[derive(Debug)]
pub struct CaptureWarning {
    /// The capture.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: CaptureProblem,
}

/// What can be wrong with a capture among others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureProblem {
    /// It could not be read, or not to its end; what came before was kept.
    #[error(transparent)]
    Source(SourceError),
    /// It ends in the middle of a packet; the packets before were kept.
    #[error("the file is cut in the middle of packet {}", packets + 1)]
    Cut {
        /// Whole packets.
        packets: u64,
    },
    /// It has no packets.
    #[error("the capture has no packets")]
    NoPackets,
    /// It was left out, or read in part, because a limit was reached.
    #[error("only {packets} packets were read: the limit of packets or bytes was reached")]
    LeftOut {
        /// Packets that were read.
        packets: u64,
    },
}

/// Labelled flows and what was met on the way.
#[derive(Debug, Default)]
pub struct FlowSet {
    /// The labels of all captures given, sorted.
    pub labels: Vec<String>,
    /// The flows: captures in the order given, within a capture by the time of the first packet.
    pub flows: Vec<LabelledFlow>,
    /// The counters of all flow tables together.
    pub counters: FlowCounters,
    /// Captured bytes read.
    pub bytes: u64,
    /// Captures that were read, wholly or in part.
    pub captures_read: usize,
    /// Captures of which nothing could be read.
    pub captures_failed: usize,
    /// Captures that were left out, wholly or in part, because a limit was reached.
    pub captures_left_out: usize,
    /// What was wrong with captures, in their order.
    pub warnings: Vec<CaptureWarning>,
}

/// Why a collection gives no flows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is nothing to read.
    #[error("no captures given")]
    NoCaptures,
    /// No capture could be read.
    #[error("none of {captures} captures could be read; the first problem")]
    NoneReadable {
        /// Captures tried.
        captures: usize,
        /// The first problem.
        #[source]
        first: SourceError,
    },
}

/// Reads all captures into flows. `progress` is called now and then, from the calling thread.
///
/// # Errors
/// Only when not a single capture could be read; see [`FlowSet::warnings`] for the others.
pub fn read_flows(
    captures: &[LabelledCapture],
    limits: &ReadLimits,
    mut progress: impl FnMut(&Progress),
) -> Result<FlowSet, ReadError> {
    if captures.is_empty() {
        return Err(ReadError::NoCaptures);
    }
    let mut ret = FlowSet::default();
    ret.labels.extend(captures.iter().map(|c| c.label.clone()));
    ret.labels.sort();
    ret.labels.dedup();

    let mut state = Progress { captures_total: captures.len(), ..Progress::default() };
    let mut next = 0;
    while next < captures.len() {
        let left = Budget::left(limits, &ret);
        let batch = batch_within(&captures[next..], left.bytes);
        let read = read_side_by_side(batch, &limits.flow, left, &mut state, &mut progress);
        for (capture, mut outcome) in (next..).zip(read) {
            // Each was read as if it were the first of its batch. Where that was too much, read again: this happens to
            // one capture at most in a whole run, as no budget is left after it.
            let left = Budget::left(limits, &ret);
            if outcome.counters.packets > left.packets || outcome.bytes > left.bytes {
                outcome = read_capture(&captures[capture], &limits.flow, left, &mut |_| ());
            }
            ret.add(capture, &captures[capture], outcome);
        }
        next += batch.len();
    }
    if ret.captures_read == 0 && ret.captures_failed == captures.len() {
        let first = ret.warnings.into_iter().find_map(|w| match w.problem {
            CaptureProblem::Source(error) => Some(error),
            _ => None,
        });
        let first = first.expect("each failed capture left the error that made it fail");
        return Err(ReadError::NoneReadable { captures: captures.len(), first });
    }
    Ok(ret)
}

/// What may still be read.
#[derive(Debug, Clone, Copy)]
struct Budget {
    packets: u64,
    bytes: u64,
}

impl Budget {
    fn left(limits: &ReadLimits, read: &FlowSet) -> Self {
        Self {
            packets: limits.packets_max.saturating_sub(read.counters.packets),
            bytes: limits.bytes_max.saturating_sub(read.bytes),
        }
    }
}

/// What one capture gave.
#[derive(Debug, Default)]
struct Outcome {
    flows: Vec<Flow>,
    counters: FlowCounters,
    bytes: u64,
    failed: bool,
    left_out: bool,
    problem: Option<CaptureProblem>,
}

/// The next captures to read side by side: together no larger than what may still be read, so that reading them at
/// once takes no more memory than the limit allows.
fn batch_within(captures: &[LabelledCapture], bytes_max: u64) -> &[LabelledCapture] {
    let mut bytes = 0_u64;
    let fits = captures.iter().take(CAPTURES_AT_ONCE_MAX).take_while(|capture| {
        // What has no size (a FIFO, standard input) may have any, and is read alone.
        let size = std::fs::metadata(&capture.path).map_or(0, |m| if m.is_file() { m.len() } else { u64::MAX });
        let size = if capture.path.as_os_str() == "-" { u64::MAX } else { size };
        bytes = bytes.saturating_add(size);
        bytes <= bytes_max
    });
    let n = fits.count().max(1);
    &captures[..n]
}

fn read_side_by_side(
    batch: &[LabelledCapture],
    limits: &FlowLimits,
    left: Budget,
    state: &mut Progress,
    progress: &mut impl FnMut(&Progress),
) -> Vec<Outcome> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let read = |sender: &mut mpsc::Sender<_>, capture| {
                let tell = |packets, captures| {
                    sender.send((packets, captures)).expect("the receiver lives until all senders are gone");
                };
                let outcome = read_capture(capture, limits, left, &mut |packets| tell(packets, 0));
                tell(0, 1);
                outcome
            };
            batch.par_iter().with_max_len(1).map_with(sender, read).collect::<Vec<_>>()
        });
        for (packets, captures) in receiver {
            state.packets += packets;
            state.captures_done += captures;
            progress(state);
        }
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Reads one capture, `left` at most. `advance` is told how many packets came since its last call.
fn read_capture(
    capture: &LabelledCapture,
    limits: &FlowLimits,
    left: Budget,
    advance: &mut impl FnMut(u64),
) -> Outcome {
    let mut ret = Outcome::default();
    if left.packets == 0 || left.bytes == 0 {
        ret.left_out = true;
        return ret;
    }
    let mut source = match SavefileSource::open(&capture.path) {
        Ok(source) => source,
        Err(error) => {
            ret.failed = true;
            ret.problem = Some(CaptureProblem::Source(error));
            return ret;
        }
    };
    let mut table = FlowTable::new(limits.clone());
    let mut reported = 0;
    loop {
        match source.next_packet() {
            Ok(Next::Packet(packet)) => {
                let bytes = packet.data.len() as u64;
                if table.counters().packets == left.packets || ret.bytes + bytes > left.bytes {
                    ret.left_out = true;
                    break;
                }
                ret.bytes += bytes;
                table.push(packet, &mut |flow| ret.flows.push(flow));
                if source.packets() - reported == PROGRESS_PACKETS {
                    reported = source.packets();
                    advance(PROGRESS_PACKETS);
                }
            }
            Ok(Next::Idle) => {}
            Ok(Next::End) => break,
            Err(error) => {
                ret.failed = source.packets() == 0;
                ret.problem = Some(CaptureProblem::Source(error));
                break;
            }
        }
    }
    advance(table.counters().packets - reported);
    table.finish(&mut |flow| ret.flows.push(flow));
    ret.flows.sort_by_key(Flow::start);
    ret.counters = *table.counters();
    if ret.problem.is_none() {
        let packets = source.packets();
        ret.problem = match (source.truncated_at_end(), packets) {
            (true, _) => Some(CaptureProblem::Cut { packets }),
            (false, 0) => Some(CaptureProblem::NoPackets),
            (false, _) => None,
        };
    }
    ret
}

impl FlowSet {
    fn add(&mut self, capture: usize, labelled: &LabelledCapture, outcome: Outcome) {
        let label = self.labels.binary_search(&labelled.label).expect("labels are those of all captures, sorted");
        self.flows.extend(outcome.flows.into_iter().map(|flow| LabelledFlow { label, capture, flow }));
        self.counters += outcome.counters;
        self.bytes += outcome.bytes;
        self.captures_failed += usize::from(outcome.failed);
        self.captures_left_out += usize::from(outcome.left_out);
        self.captures_read += usize::from(!outcome.failed && (!outcome.left_out || outcome.counters.packets > 0));
        let left_out = outcome.left_out.then_some(CaptureProblem::LeftOut { packets: outcome.counters.packets });
        for problem in outcome.problem.into_iter().chain(left_out) {
            self.warnings.push(CaptureWarning { path: labelled.path.clone(), problem });
        }
    }
}
