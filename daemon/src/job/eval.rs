//! Captures of two sides, read flow by flow and judged on all cores, in memory that does not grow with them.

mod half_captures;
mod pairs;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use wiremamba_eval::evaluation::{Group, Report, Setting, Side, report};
use wiremamba_eval::halves::Halves;
use wiremamba_eval::joint::Joint;
use wiremamba_eval::memory::{Trained, Training};
use wiremamba_eval::view::{View, views};
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable, dissect};
use wiremamba_model::packet::Packet;

pub use half_captures::write_halves;

use crate::sink::SinkError;
use crate::source::collection::LabelledCapture;
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
    pub real: Vec<LabelledCapture>,
    /// Synthetic captures.
    pub synthetic: Vec<LabelledCapture>,
    /// The captures that the generator was trained on, for the groups of memory and of classifiers.
    pub train: Vec<LabelledCapture>,
    /// The groups of measures.
    pub groups: Vec<Group>,
    /// Whether each synthetic capture is also held against the real one that prompted it.
    pub paired: bool,
    /// Whether to keep what a report draws.
    pub pictures: bool,
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
    /// Halves of the real captures cannot be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// There is nothing to hold the synthetic side against.
    #[error("the real captures have no packets")]
    NoRealPackets,
    /// Captures of the two sides do not belong together one by one.
    #[error(
        "--paired needs a real capture for each synthetic one: files of the same names, or as many in the same order; \
         there are {real} real and {synthetic} synthetic ones"
    )]
    NoPairs {
        /// Real captures.
        real: usize,
        /// Synthetic captures.
        synthetic: usize,
    },
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
/// how many more packets were read, over all passes.
///
/// # Errors
/// A capture that cannot be read, real captures without packets, or `stop`.
pub fn run(job: &EvalJob, stop: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Result<Report, EvalError> {
    let pairs = if job.paired { pairs::pairs(&job.real, &job.synthetic)? } else { Vec::new() };
    let real_size = census(&job.real, stop, progress)?;
    let synthetic_size = census(&job.synthetic, stop, progress)?;
    if real_size.packets == 0 {
        return Err(EvalError::NoRealPackets);
    }
    let halves = Arc::new(Halves::new(real_size.flows, synthetic_size.flows, job.seed));
    let labels = Labels::new(job);
    let needs_training = [Group::Memory, Group::Joint].iter().any(|group| job.groups.contains(group));
    let (trained, trained_flows) = match needs_training && !job.train.is_empty() {
        true => learn_by_heart(job, &labels, stop, progress).map(|(a, b)| (Some(Arc::new(a)), Some(b)))?,
        false => (None, None),
    };
    let setting = Setting {
        groups: job.groups.clone(),
        halves,
        trained,
        trained_flows,
        labels: labels.names.clone(),
        pictures: job.pictures,
        seed: job.seed,
    };
    let measure = |paths: &[LabelledCapture], blank: Side| {
        let work = |side: &mut Side, unit: Unit| match unit {
            Unit::Flow { capture, number, flow } => side.flow(capture, number, &flow),
            Unit::Stray(packet) => side.stray(&packet),
        };
        pass(paths, &blank, work, Side::merge, stop, progress)
    };
    let real = measure(&job.real, Side::real(&setting, labels.of(&job.real), real_size.bytes))?;
    let blank = Side::synthetic(&setting, labels.of(&job.synthetic), synthetic_size.bytes);
    let synthetic = measure(&job.synthetic, blank)?;
    let mut ret = report(real, synthetic, &setting);
    if let Some(similarity) = ret.similarity.as_mut().filter(|_| job.paired) {
        similarity.paired = Some(pairs::compare(&pairs, job.seed, stop, progress)?);
    }
    Ok(ret)
}

/// The labels of captures as numbers.
struct Labels {
    /// Sorted; a single one where the sides are not labelled alike.
    names: Vec<String>,
}

impl Labels {
    fn new(job: &EvalJob) -> Self {
        let of = |captures: &[LabelledCapture]| captures.iter().map(|c| c.label.clone()).collect::<BTreeSet<_>>();
        let names = of(&job.real);
        // Labels come from the names of folders and files; those of other names say nothing about the traffic.
        let is_alike = names == of(&job.synthetic) && (job.train.is_empty() || names == of(&job.train));
        Self { names: if is_alike { names.into_iter().collect() } else { vec!["all".to_owned()] } }
    }

    fn of(&self, captures: &[LabelledCapture]) -> Vec<usize> {
        captures.iter().map(|c| self.names.binary_search(&c.label).unwrap_or_default()).collect()
    }
}

/// Reads the training captures into what can be searched, and their flows.
fn learn_by_heart(
    job: &EvalJob,
    labels: &Labels,
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<(Trained, Joint), EvalError> {
    let size = census(&job.train, stop, progress)?;
    let (labels, has_joint) = (labels.of(&job.train), job.groups.contains(&Group::Joint));
    let work = |(training, joint): &mut (Training, Joint), unit: Unit| match unit {
        Unit::Flow { capture, flow, .. } => {
            views(&flow).for_each(|(_, view)| training.packet(&view));
            if has_joint {
                joint.train(labels[capture as usize], &flow);
            }
        }
        Unit::Stray(packet) => training.packet(&View::new(&packet)),
    };
    let merge = |a: &mut (Training, Joint), b: (Training, Joint)| {
        a.0.merge(b.0);
        a.1.merge(b.1);
    };
    let blank = (Training::new(size.bytes), Joint::new(job.seed));
    let (training, joint) = pass(&job.train, &blank, work, merge, stop, progress)?;
    Ok((training.index(), joint))
}

/// What there is, and what is wrong with it.
#[derive(Debug, Clone, Copy, Default)]
struct Census {
    packets: u64,
    /// Captured bytes.
    bytes: u64,
    flows: usize,
}

fn census(paths: &[LabelledCapture], stop: &AtomicBool, progress: &dyn Fn(u64)) -> Result<Census, EvalError> {
    let mut ret = Census::default();
    let warnings = read(paths, stop, progress, &mut |unit| match unit {
        Unit::Flow { flow, .. } => {
            ret.flows += 1;
            ret.packets += flow.packets.len() as u64;
            ret.bytes += flow.packets.iter().map(|(_, p)| p.data.len() as u64).sum::<u64>();
        }
        Unit::Stray(packet) => {
            ret.packets += 1;
            ret.bytes += packet.data.len() as u64;
        }
    })?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(ret)
}

/// Reads on this thread and measures on as many others as rayon has.
fn pass<A: Clone + Send + Sync>(
    paths: &[LabelledCapture],
    blank: &A,
    work: impl Fn(&mut A, Unit) + Sync,
    merge: impl Fn(&mut A, A),
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<A, EvalError> {
    let (sender, receiver) = mpsc::sync_channel::<Vec<Unit>>(BATCHES_MAX);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let worker = || {
            let mut ret = blank.clone();
            loop {
                let batch = receiver.lock().expect("no worker panics while it waits").recv();
                let Ok(batch) = batch else { return ret };
                batch.into_iter().for_each(|unit| work(&mut ret, unit));
            }
        };
        let workers: Vec<_> = (0..rayon::current_num_threads()).map(|_| scope.spawn(worker)).collect();
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
        let mut parts = workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let mut ret = parts.next().expect("rayon has a thread");
        parts.for_each(|part| merge(&mut ret, part));
        outcome.map(|_| ret)
    })
}

/// Reads captures one after another; flows do not go on from one to the next. Returns what their owner should know.
fn read(
    paths: &[LabelledCapture],
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
    each: &mut dyn FnMut(Unit),
) -> Result<Vec<String>, EvalError> {
    let (mut number, mut warnings) = (0, Vec::new());
    for (capture, LabelledCapture { path, .. }) in (0..).zip(paths) {
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
            warnings.push(format!(
                "{}: the file is cut in the middle of packet {}",
                path.display(),
                source.packets() + 1
            ));
        }
        table.finish(&mut |flow| hand_on(flow, each));
        let evictions = table.counters().evictions;
        if evictions > 0 {
            warnings.push(format!("{}: {evictions} flows were cut in two to stay within memory", path.display()));
        }
    }
    Ok(warnings)
}
