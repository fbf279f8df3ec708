//! The thread that captures: packets into flows, flows into the learner's queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use wiremamba_model::codec::LabelId;
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable, Session};

use super::config::{CaptureConfig, LearnConfig};
use super::samples::{Sample, bytes};
use crate::source::interface::{InterfaceOptions, InterfaceSource, InterfaceStats};
use crate::source::{Next, PacketSource, SourceError};

/// Time between two tries to open an interface that went away, and between two looks at the kernel's counters.
const RETRY: Duration = Duration::from_secs(1);

/// Counters of one capture, read by the status while it runs.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) packets: AtomicU64,
    pub(super) flows: AtomicU64,
    /// Flows that the learner's queue had no room for.
    pub(super) flows_refused: AtomicU64,
    pub(super) open_flows: AtomicU64,
    /// What the kernel and the interface dropped.
    pub(super) dropped: AtomicU64,
    /// Times that the interface was lost.
    pub(super) lost: AtomicU64,
    /// Rises while the thread is alive, packets or not.
    pub(super) beats: AtomicU64,
}

/// The learner's queue, bounded in flows and in bytes.
pub(super) struct Queue<'a> {
    pub(super) sender: SyncSender<Sample>,
    /// Captured bytes of what is in it.
    pub(super) bytes: &'a AtomicU64,
    pub(super) bytes_max: u64,
}

impl Queue<'_> {
    /// Puts a flow in; `false` where there is no room.
    fn put(&self, sample: Sample) -> bool {
        let more = bytes(&sample);
        if self.bytes.fetch_add(more, Relaxed) + more <= self.bytes_max {
            match self.sender.try_send(sample) {
                Ok(()) => return true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
        self.bytes.fetch_sub(more, Relaxed);
        false
    }
}

/// Captures until `stop`. An interface that goes away is waited for.
pub(super) fn run(
    mut source: InterfaceSource,
    config: &CaptureConfig,
    limits: &LearnConfig,
    label: LabelId,
    queue: &Queue<'_>,
    counters: &Counters,
    stop: &AtomicBool,
) {
    let mut table = FlowTable::new(flow_limits(limits));
    let idle_max = Duration::from_secs(u64::from(limits.idle_s));
    let mut hand_on = |flow: Flow| {
        counters.flows.fetch_add(1, Relaxed);
        if !queue.put((label, Session::from(flow))) {
            counters.flows_refused.fetch_add(1, Relaxed);
        }
    };
    let (mut last_packet, mut last_look) = (Instant::now(), Instant::now());
    let (mut seen, mut before) = (InterfaceStats::default(), 0);
    while !stop.load(Relaxed) {
        counters.beats.fetch_add(1, Relaxed);
        match source.next_packet() {
            Ok(Next::Packet(packet)) => {
                last_packet = Instant::now();
                counters.packets.fetch_add(1, Relaxed);
                table.push(packet, &mut hand_on);
            }
            // The table is driven by packets' times; on a silent link every flow is over after its idle time.
            Ok(Next::Idle | Next::End) if last_packet.elapsed() > idle_max && !table.is_empty() => {
                table.finish(&mut hand_on);
            }
            Ok(Next::Idle | Next::End) => {}
            Err(error) => {
                tracing::warn!("capture stopped, trying again every second: {:#}", anyhow::Error::new(error));
                counters.lost.fetch_add(1, Relaxed);
                (before, seen) = (before + seen.dropped + seen.interface_dropped, InterfaceStats::default());
                match reopen(config, counters, stop) {
                    Some(opened) => source = opened,
                    None => break,
                }
            }
        }
        if last_look.elapsed() > RETRY {
            last_look = Instant::now();
            seen = source.stats().unwrap_or(seen);
            counters.dropped.store(before + seen.dropped + seen.interface_dropped, Relaxed);
            counters.open_flows.store(table.len() as u64, Relaxed);
        }
    }
    table.finish(&mut hand_on);
}

fn flow_limits(limits: &LearnConfig) -> FlowLimits {
    let idle_ns = i64::from(limits.idle_s) * 1_000_000_000;
    FlowLimits {
        buffered_bytes_max: limits.open_flows_mib << 20,
        tcp_idle_timeout_ns: idle_ns,
        udp_idle_timeout_ns: idle_ns,
        other_idle_timeout_ns: idle_ns,
        ..FlowLimits::default()
    }
}

/// Opens the interface of a configuration.
pub(super) fn open(config: &CaptureConfig) -> Result<InterfaceSource, SourceError> {
    InterfaceSource::open(&InterfaceOptions {
        name: config.interface.clone(),
        filter: config.filter.clone(),
        snaplen: config.snaplen,
        buffer_bytes: config.buffer_mib.saturating_mul(1 << 20),
        promiscuous: config.promiscuous,
    })
}

/// Waits for the interface; `None` when told to stop.
fn reopen(config: &CaptureConfig, counters: &Counters, stop: &AtomicBool) -> Option<InterfaceSource> {
    while !stop.load(Relaxed) {
        std::thread::sleep(RETRY);
        counters.beats.fetch_add(1, Relaxed);
        if let Ok(source) = open(config) {
            tracing::info!(interface = config.interface, "capturing again");
            return Some(source);
        }
    }
    None
}
