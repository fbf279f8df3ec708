//! Captures of two sides, read flow by flow and judged on all cores, in memory that does not grow with them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use wiremamba_eval::evaluation::{Group, Report, Side, report};
use wiremamba_eval::halves::Halves;
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable, dissect};
use wiremamba_model::packet::Packet;

use crate::source::file::SavefileSource;
use crate::source::{Next, PacketSource, SourceError};

/// Packets after which a batch of flows goes to a worker.
const BATCH_PACKETS: usize = 4096;
/// Batches that wait for a worker at most.
const BATCHES_MAX: usize = 8;

/// What to judge and how.
#[derive(Debug, Clone)]
pub struct EvalJob {
    /// Real captures.
    pub real: Vec<PathBuf>,
    /// Synthetic captures.
    pub synthetic: Vec<PathBuf>,
    /// The groups of measures.
    pub groups: Vec<Group>,
    /// Of all chance: which flows are in which half.
    pub seed: u64,
}

/// Why captures could not be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A capture cannot be opened or read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is nothing to hold the synthetic side against.
    #[error("the real captures have no packets")]
    NoRealPackets,
    /// The user asked to stop.
    #[error("stopped before the end; nothing was judged")]
    Stopped,
}

/// How the flows of a side are put together: as for training, but long flows stay whole and memory is bounded by bytes.
pub fn flow_limits() -> FlowLimits {
    FlowLimits { packets_per_flow_max: 1 << 24, buffered_bytes_max: 256 << 20, ..FlowLimits::default() }
}

/// What is judged one by one.
enum Unit {
    Flow { capture: u32, number: usize, flow: Flow },
    Stray(Packet),
}

/// Judges the captures: once through them to count flows and deal the halves, once to measure. `progress` is told
/// how many more packets were read, of four passes in all.
///
/// # Errors
/// A capture that cannot be read, real captures without packets, or `stop`.
pub fn run(job: &EvalJob, stop: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Result<Report, EvalError> {
    let real_size = census(&job.real, stop, progress)?;
    let synthetic_size = census(&job.synthetic, stop, progress)?;
    if real_size.packets == 0 {
        return Err(EvalError::NoRealPackets);
    }
    let halves = Arc::new(Halves::new(real_size.flows, synthetic_size.flows, job.seed));
    let measure = |paths: &[PathBuf], blank: Side| pass(paths, &blank, stop, progress);
    let real = measure(&job.real, Side::real(&job.groups, &halves, job.seed))?;
    let synthetic = measure(&job.synthetic, Side::synthetic(&job.groups, &halves))?;
    Ok(report(real, synthetic, &halves))
}

#[derive(Debug, Clone, Copy, Default)]
struct Census {
    packets: u64,
    flows: usize,
}

fn census(paths: &[PathBuf], stop: &AtomicBool, progress: &dyn Fn(u64)) -> Result<Census, EvalError> {
    let mut ret = Census::default();
    read(paths, stop, progress, &mut |unit| match unit {
        Unit::Flow { flow, .. } => {
            ret.flows += 1;
            ret.packets += flow.packets.len() as u64;
        }
        Unit::Stray(_) => ret.packets += 1,
    })?;
    Ok(ret)
}

/// Reads on this thread and measures on as many others as rayon has.
fn pass(paths: &[PathBuf], blank: &Side, stop: &AtomicBool, progress: &dyn Fn(u64)) -> Result<Side, EvalError> {
    let (sender, receiver) = mpsc::sync_channel::<Vec<Unit>>(BATCHES_MAX);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let work = || {
            let mut side = blank.clone();
            loop {
                let batch = receiver.lock().expect("no worker panics while it waits").recv();
                let Ok(batch) = batch else { return side };
                for unit in batch {
                    match unit {
                        Unit::Flow { capture, number, flow } => side.flow(capture, number, &flow),
                        Unit::Stray(packet) => side.stray(&packet),
                    }
                }
            }
        };
        let workers: Vec<_> = (0..rayon::current_num_threads()).map(|_| scope.spawn(work)).collect();
        let (mut batch, mut packets) = (Vec::new(), 0);
        let outcome = read(paths, stop, progress, &mut |unit| {
            packets += if let Unit::Flow { flow, .. } = &unit { flow.packets.len() } else { 1 };
            batch.push(unit);
            if packets >= BATCH_PACKETS {
                packets = 0;
                sender.send(std::mem::take(&mut batch)).expect("workers end after the sender");
            }
        });
        sender.send(batch).expect("workers end after the sender");
        drop(sender);
        let mut sides = workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let mut ret = sides.next().expect("rayon has a thread");
        sides.for_each(|side| ret.merge(side));
        outcome.map(|()| ret)
    })
}

/// Reads captures one after another; flows do not go on from one to the next.
fn read(
    paths: &[PathBuf],
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
    each: &mut dyn FnMut(Unit),
) -> Result<(), EvalError> {
    let mut number = 0;
    for (capture, path) in (0..).zip(paths) {
        let mut source = SavefileSource::open(path)?;
        let mut table = FlowTable::new(flow_limits());
        let mut reported = 0;
        let mut hand_on = |flow: Flow, each: &mut dyn FnMut(Unit)| {
            each(Unit::Flow { capture, number, flow });
            number += 1;
        };
        loop {
            match source.next_packet()? {
                Next::Packet(packet) if dissect(packet.linktype, &packet.data).is_err() => each(Unit::Stray(packet)),
                Next::Packet(packet) => table.push(packet, &mut |flow| hand_on(flow, each)),
                Next::Idle => {}
                Next::End => break,
            }
            if source.packets() - reported == 1 << 14 {
                progress(source.packets() - reported);
                reported = source.packets();
                if stop.load(Ordering::Relaxed) {
                    return Err(EvalError::Stopped);
                }
            }
        }
        progress(source.packets() - reported);
        if source.truncated_at_end() {
            tracing::warn!("{}: the file is cut in the middle of packet {}", path.display(), source.packets() + 1);
        }
        table.finish(&mut |flow| hand_on(flow, each));
        let evictions = table.counters().evictions;
        if evictions > 0 {
            tracing::warn!("{}: {evictions} flows were cut in two to stay within memory", path.display());
        }
    }
    Ok(())
}
