//! The thread that captures: packets into flows, flows into the learner's queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pcap::BpfProgram;
use wiremamba_model::codec::LabelId;
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable, Session};
use wiremamba_model::packet::{LinkType, Timestamp};

use super::config::{CaptureConfig, LearnConfig};
use super::keep::Keep;
use super::open::Opening;
use super::samples::{Sample, bytes, is_answered};
use crate::source::interface::InterfaceStats;
use crate::source::{LiveSource, Next, compile_filter};

/// Time between two tries to open an interface that went away, and between two looks at the kernel's counters.
const RETRY: Duration = Duration::from_secs(1);

/// How far the clock may go back between two packets; less is what interfaces and the kernel get wrong among themselves.
const CLOCK_JUMP_NS: i64 = 10_000_000_000;

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
    let mut last_ts = Timestamp(i64::MIN);
    let (mut seen, mut before) = (InterfaceStats::default(), 0);
    while !stop.load(Relaxed) {
        counters.beats.fetch_add(1, Relaxed);
        match source.next_packet() {
            Ok(Next::Packet(packet)) => {
                last_packet = Instant::now();
                counters.packets.fetch_add(1, Relaxed);
                // Flows from the future would not end before it has come.
                if last_ts.nanos_since(packet.ts) > CLOCK_JUMP_NS {
                    tracing::warn!(interface = config.interface, "the clock went back: all flows end here");
                    table.finish(&mut hand_on);
                }
                last_ts = packet.ts;
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use wiremamba_model::packet::Packet;

    use super::*;
    use crate::source::{PacketSource, SourceError};

    const S: i64 = 1_000_000_000;

    /// Packets, then the order to stop; notes how many flows were over by then.
    struct Recorded {
        packets: VecDeque<Packet>,
        counters: &'static Counters,
        flows_at_end: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    }

    impl PacketSource for Recorded {
        fn next_packet(&mut self) -> Result<Next, SourceError> {
            let packet = self.packets.pop_front().map(Next::Packet);
            if packet.is_none() {
                self.flows_at_end.store(self.counters.flows.load(Relaxed), Relaxed);
                self.stop.store(true, Relaxed);
            }
            Ok(packet.unwrap_or(Next::Idle))
        }
    }

    impl LiveSource for Recorded {
        fn stats(&mut self) -> Result<InterfaceStats, SourceError> {
            Ok(InterfaceStats::default())
        }

        fn linktype(&self) -> LinkType {
            LinkType::ETHERNET
        }
    }

    /// A packet of a flow of its own.
    fn packet(ts: i64, port: u16) -> Packet {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut data = Vec::new();
        builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(port, 9).write(&mut data, b"x").unwrap();
        Packet { ts: Timestamp(ts), linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    }

    #[test]
    fn a_clock_that_jumps_either_way_keeps_no_flow_from_its_end() {
        let now = 1_700_000_000 * S;
        let times = [now, now - 86_400 * S, now - 86_395 * S, now - 86_390 * S, now + 86_400 * S];
        let counters: &'static Counters = Box::leak(Box::default());
        let (flows_at_end, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let source = Recorded {
            packets: times.iter().zip(1..).map(|(ts, port)| packet(*ts, port)).collect(),
            counters,
            flows_at_end: Arc::clone(&flows_at_end),
            stop: Arc::clone(&stop),
        };
        let text = "interface = 'eth0'\nlabel = 'web'";
        let config: CaptureConfig = toml::from_str(text).unwrap();
        let labelling = Labelling::new(&config, LinkType::ETHERNET, |_| Ok(LabelId(0))).unwrap();
        let tapped = Tapped { source: Box::new(source), place: 0, config: &config, labelling, opening: &Opening::Here };
        let (sender, flows) = sync_channel(10);
        let queued = super::super::Queued::default();
        let queue = Queue { sender, queued: &queued, flows_max: 100, bytes_max: 1 << 20 };
        run(tapped, &LearnConfig { idle_s: 1, ..LearnConfig::default() }, &queue, counters, &stop);
        assert_eq!(flows_at_end.load(Relaxed), 4, "all but the last one");
        drop(queue);
        assert_eq!(flows.iter().count(), 5);
    }
}
