//! The thread that captures: packets into flows, flows into the learner's queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pcap::BpfProgram;
use wiremamba_model::codec::LabelId;
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable, Session};
use wiremamba_model::packet::LinkType;

use super::config::{CaptureConfig, LearnConfig};
use super::keep::Keep;
use super::open::Opening;
use super::samples::{Sample, bytes, is_answered};
use crate::source::interface::InterfaceStats;
use crate::source::{LiveSource, Next, compile_filter};

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
    pub(super) queued: &'a super::Queued,
    pub(super) flows_max: u64,
    pub(super) bytes_max: u64,
}

impl Queue<'_> {
    /// Puts a flow in; `false` where there is no room. Half of the room is for flows that somebody answered.
    fn put(&self, sample: Sample) -> bool {
        let more = bytes(&sample);
        let part = if is_answered(&sample) { 1 } else { 2 };
        let is_room_for_one = self.queued.flows.fetch_add(1, Relaxed) < self.flows_max / part;
        if self.queued.bytes.fetch_add(more, Relaxed) + more <= self.bytes_max / part && is_room_for_one {
            match self.sender.try_send(sample) {
                Ok(()) => return true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
        self.queued.flows.fetch_sub(1, Relaxed);
        self.queued.bytes.fetch_sub(more, Relaxed);
        false
    }
}

/// Which label a flow gets.
pub(super) struct Labelling {
    otherwise: LabelId,
    rules: Vec<(BpfProgram, LabelId)>,
}

impl Labelling {
    /// The labels of a capture, whose numbers `id` knows.
    ///
    /// # Errors
    /// An unknown label, or a filter that does not compile.
    pub(super) fn new(
        config: &CaptureConfig,
        linktype: LinkType,
        id: impl Fn(&str) -> Result<LabelId>,
    ) -> Result<Self> {
        let rule = |rule: &super::config::RuleConfig| {
            let program = compile_filter(&rule.filter, linktype).with_context(|| {
                format!("the rule's filter {:?} for label {} cannot be used", rule.filter, rule.label)
            })?;
            Ok((program, id(&rule.label)?))
        };
        Ok(Self { otherwise: id(&config.label)?, rules: config.rules.iter().map(rule).collect::<Result<_>>()? })
    }

    /// The label of a flow, by its first packet.
    fn label(&self, flow: &Session) -> LabelId {
        let Some(first) = flow.packets.first() else { return self.otherwise };
        let fits = |(program, _): &&(BpfProgram, LabelId)| program.filter(&first.packet.data);
        self.rules.iter().find(fits).map_or(self.otherwise, |(_, label)| *label)
    }
}

/// An interface to capture from.
pub(super) struct Tapped<'a> {
    pub(super) source: Box<dyn LiveSource>,
    /// Its place in the configuration.
    pub(super) place: usize,
    pub(super) config: &'a CaptureConfig,
    pub(super) labelling: Labelling,
    pub(super) opening: &'a Opening,
}

/// Captures until `stop`. An interface that goes away is waited for.
pub(super) fn run(tapped: Tapped<'_>, limits: &LearnConfig, queue: &Queue<'_>, counters: &Counters, stop: &AtomicBool) {
    let Tapped { mut source, place, config, labelling, opening } = tapped;
    let mut table = FlowTable::new(flow_limits(limits));
    let mut keep = config
        .keep_captures
        .as_ref()
        .map(|folder| Keep::new(folder, &config.interface, config.keep_captures_mib << 20));
    let idle_max = Duration::from_secs(u64::from(limits.idle_s));
    let mut hand_on = |flow: Flow| {
        counters.flows.fetch_add(1, Relaxed);
        let session = Session::from(flow);
        if !queue.put((labelling.label(&session), session)) {
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
                if let Some(keep) = &mut keep {
                    keep.add(&packet);
                }
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
                match reopen(place, config, opening, counters, stop) {
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
        active_timeout_ns: i64::from(limits.active_s) * 1_000_000_000,
        tcp_idle_timeout_ns: idle_ns,
        udp_idle_timeout_ns: idle_ns,
        other_idle_timeout_ns: idle_ns,
        ..FlowLimits::default()
    }
}

/// Waits for the interface; `None` when told to stop.
fn reopen(
    place: usize,
    config: &CaptureConfig,
    opening: &Opening,
    counters: &Counters,
    stop: &AtomicBool,
) -> Option<Box<dyn LiveSource>> {
    while !stop.load(Relaxed) {
        std::thread::sleep(RETRY);
        counters.beats.fetch_add(1, Relaxed);
        if let Ok(source) = opening.capture(place, config) {
            tracing::info!(interface = config.interface, "capturing again");
            return Some(source);
        }
    }
    None
}
