//! The packets of overlapping flows in the order of their times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::task::Poll;

use super::arrivals::Arrivals;
use super::generator::{GeneratedFlow, Generator};
use crate::codec::{LabelId, Play};
use crate::flow::{Direction, FiveTuple, dissect};
use crate::packet::{LinkType, Packet, Timestamp};

/// A packet on the time line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelinePacket {
    /// [`GeneratedFlow::index`] of its flow.
    pub flow: u64,
    /// Label of its flow.
    pub label: LabelId,
    /// Who sent it, seen from the first packet of its flow.
    pub direction: Direction,
    /// Packets of its flow that are still to come.
    pub left: usize,
    /// Whether its flow is [rendered again](GeneratedFlow::is_again).
    pub is_again: bool,
    /// The packet.
    pub packet: Packet,
}

impl Default for TimelinePacket {
    /// One without bytes, to be filled in.
    fn default() -> Self {
        let packet = Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: 0, data: Vec::new() };
        Self { flow: 0, label: LabelId(0), direction: Direction::Orig, left: 0, is_again: false, packet }
    }
}

/// What a [`Timeline`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimelineCounters {
    /// Flows taken in.
    pub flows: u64,
    /// Flows of which a packet was given out.
    pub begun_flows: u64,
    /// Flows without a packet.
    pub empty_flows: u64,
    /// Flows that start later than asked for, because the time line held too many packets.
    pub postponed_flows: u64,
    /// Packets given out.
    pub packets: u64,
    /// Most packets held at a time.
    pub held_packets_peak: usize,
}

/// A flow for the time line.
pub struct StartedFlow {
    /// Place in the order of requests, from 0.
    pub index: u64,
    /// Its label.
    pub label: LabelId,
    /// Whether it is an earlier flow's tokens, rendered again.
    pub is_again: bool,
    /// Its packets, in the order of their times.
    pub packets: FlowPackets,
}

/// The packets of a flow.
pub enum FlowPackets {
    /// As they are.
    Rendered(std::vec::IntoIter<Packet>),
    /// To be rendered as their times come.
    Scripted(Box<dyn Play>),
}

impl From<GeneratedFlow> for StartedFlow {
    fn from(flow: GeneratedFlow) -> Self {
        let GeneratedFlow { index, label, is_again, packets, .. } = flow;
        Self { index, label, is_again, packets: FlowPackets::Rendered(packets.into_iter()) }
    }
}

impl FlowPackets {
    fn left(&self) -> usize {
        match self {
            Self::Rendered(packets) => packets.len(),
            Self::Scripted(play) => play.left(),
        }
    }

    fn peek(&self) -> Option<Timestamp> {
        match self {
            Self::Rendered(packets) => packets.as_slice().first().map(|packet| packet.ts),
            Self::Scripted(play) => play.peek(),
        }
    }
}

/// Where flows come from, in the order of their starts.
pub trait Flows {
    /// The next flow, `None` after the last. Pending means that it is being worked on, and to call again.
    fn poll_flow(&mut self) -> Poll<Option<StartedFlow>>;
}

impl Flows for Generator {
    fn poll_flow(&mut self) -> Poll<Option<StartedFlow>> {
        Generator::poll_flow(self).map(|flow| flow.map(StartedFlow::from))
    }
}

impl<F: FnMut() -> Option<GeneratedFlow>> Flows for F {
    fn poll_flow(&mut self) -> Poll<Option<StartedFlow>> {
        Poll::Ready(self().map(StartedFlow::from))
    }
}

/// Packets held by default: some 20 MB.
pub const HELD_PACKETS_MAX: usize = 50_000;

/// Time between two flows that begin because others end: flows of a single packet would otherwise follow each other for ever
/// at one point in time.
const BEGIN_GAP_NS: i64 = 10_000;

/// Merges the packets of flows in the order of their times.
///
/// Flows are taken from `flows` (ordered by start) no earlier than needed: all packets before the next start are given
/// out first, so that a replay can send them while the next flow is computed. Not more than `held_packets_max` and one
/// flow are held: beyond, the next flow is postponed until there is room, whole and with its gaps, and counted.
pub struct Timeline<F> {
    flows: F,
    /// Start times of the flows to come; `None` when there are no more.
    starts: Option<Arrivals>,
    /// Time of each flow's next packet, then the flow: a fixed order among equals; and its place in `held`.
    order: BinaryHeap<Reverse<(Timestamp, u64, usize)>>,
    held: Vec<Option<Held>>,
    /// Free places in `held`.
    free: Vec<usize>,
    held_packets: usize,
    held_packets_max: usize,
    /// Flows that go on at once, where that is asked for.
    at_once: Option<usize>,
    /// When the last flow began.
    begun: Timestamp,
    last: Timestamp,
    counters: TimelineCounters,
}

impl<F: Flows> Timeline<F> {
    /// A time line of `flows`, which were asked for at the times of `starts`; see [`HELD_PACKETS_MAX`].
    pub fn new(flows: F, starts: Arrivals, held_packets_max: usize) -> Self {
        Self {
            flows,
            starts: Some(starts),
            order: BinaryHeap::new(),
            held: Vec::new(),
            free: Vec::new(),
            held_packets: 0,
            held_packets_max,
            at_once: None,
            begun: Timestamp(i64::MIN),
            last: Timestamp(i64::MIN),
            counters: TimelineCounters::default(),
        }
    }

    /// Keeps this many flows going, where it is given: the first ones begin at their times, and from then on a new one begins
    /// as one ends, but no two within 10 µs.
    pub fn at_once(mut self, flows: Option<usize>) -> Self {
        self.at_once = flows.map(|flows| flows.max(1));
        self
    }

    /// How many flows are to go on, once so many have begun.
    fn wanted(&self) -> Option<usize> {
        self.at_once.filter(|&flows| self.counters.flows >= flows as u64)
    }

    /// What it did so far.
    pub fn counters(&self) -> TimelineCounters {
        self.counters
    }

    /// Where the flows come from.
    pub fn flows(&self) -> &F {
        &self.flows
    }

    /// The same, to be changed.
    pub(super) fn flows_mut(&mut self) -> &mut F {
        &mut self.flows
    }

    /// Takes it apart; packets held are lost.
    pub fn into_flows(self) -> F {
        self.flows
    }

    /// Whether the next packet is there already, so that no flow has to be waited for.
    pub fn is_ready(&self) -> bool {
        let Some(Reverse((first, ..))) = self.order.peek() else { return self.starts.is_none() };
        let is_full = self.held_packets >= self.held_packets_max.max(1);
        let is_next = |starts: &Arrivals| match self.wanted() {
            Some(flows) => self.order.len() >= flows,
            None => *first < starts.peek(),
        };
        self.starts.as_ref().is_none_or(|starts| is_full || is_next(starts))
    }

    /// The next packet, `None` after the last; pending while the flow that may begin before it is worked on.
    pub fn poll_packet(&mut self) -> Poll<Option<TimelinePacket>> {
        let mut ret = TimelinePacket::default();
        self.poll_into(&mut ret).map(|is_packet| is_packet.then_some(ret))
    }

    /// As [`poll_packet`](Self::poll_packet), into `ret`, whose buffer is used again; false after the last.
    pub fn poll_into(&mut self, ret: &mut TimelinePacket) -> Poll<bool> {
        while !self.is_ready() {
            match self.flows.poll_flow() {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(flow)) => self.take_flow(flow),
                Poll::Ready(None) => self.starts = None,
            }
        }
        let Some(mut top) = self.order.peek_mut() else { return Poll::Ready(false) };
        let Reverse((ts, flow, place)) = *top;
        let held = self.held[place].as_mut().expect("what is in the order is held");
        ret.direction = match &mut held.packets {
            FlowPackets::Rendered(packets) => {
                ret.packet = packets.next().expect("its time was seen");
                direction(held.orig, &ret.packet)
            }
            FlowPackets::Scripted(play) => play.render(&mut ret.packet).expect("its time was seen"),
        };
        self.counters.begun_flows += u64::from(!std::mem::replace(&mut held.is_begun, true));
        (ret.flow, ret.label, ret.is_again) = (flow, held.label, held.is_again);
        (ret.packet.ts, ret.left) = (ts, held.packets.left());
        match held.packets.peek() {
            Some(next) => top.0.0 = next.plus_nanos(held.moved_ns),
            None => {
                PeekMut::pop(top);
                self.held[place] = None;
                self.free.push(place);
            }
        }
        self.last = ts;
        self.held_packets -= 1;
        self.counters.packets += 1;
        Poll::Ready(true)
    }

    /// Takes in a flow.
    fn take_flow(&mut self, flow: StartedFlow) {
        let is_wanted = self.wanted().is_some();
        if let Some(starts) = &mut self.starts {
            starts.next();
        }
        self.counters.flows += 1;
        let StartedFlow { index, label, is_again, packets } = flow;
        let Some(first) = packets.peek() else {
            self.counters.empty_flows += 1;
            return;
        };
        let late_ns = self.last.nanos_since(first);
        let moved_ns = if is_wanted {
            self.last.max(self.begun.plus_nanos(BEGIN_GAP_NS)).nanos_since(first)
        } else if late_ns > 0 && self.counters.packets > 0 {
            self.counters.postponed_flows += 1;
            late_ns
        } else {
            0
        };
        self.begun = first.plus_nanos(moved_ns);
        self.held_packets += packets.left();
        self.counters.held_packets_peak = self.counters.held_packets_peak.max(self.held_packets);
        let orig = match &packets {
            FlowPackets::Rendered(packets) => packets.as_slice().first().and_then(tuple),
            FlowPackets::Scripted(_) => None,
        };
        let held = Some(Held { label, is_again, packets, orig, moved_ns, is_begun: false });
        let place = self.free.pop().unwrap_or(self.held.len());
        match self.held.get_mut(place) {
            Some(free) => *free = held,
            None => self.held.push(held),
        }
        self.order.push(Reverse((self.begun, index, place)));
    }
}

fn tuple(packet: &Packet) -> Option<FiveTuple> {
    dissect(packet.linktype, &packet.data).ok().map(|dissected| dissected.tuple)
}

/// Which way `packet` goes, where the first packet of its flow went from `orig`. A session is one client's: what does not
/// go to its address comes from it.
fn direction(orig: Option<FiveTuple>, packet: &Packet) -> Direction {
    match (orig, tuple(packet)) {
        (Some(orig), Some(tuple)) if orig.orig == tuple.resp && orig.orig != tuple.orig => Direction::Resp,
        (Some(orig), Some(tuple)) if orig.reversed() == tuple => Direction::Resp,
        _ => Direction::Orig,
    }
}

/// Waits for what is pending, by asking on.
impl<F: Flows> Iterator for Timeline<F> {
    type Item = TimelinePacket;

    fn next(&mut self) -> Option<TimelinePacket> {
        loop {
            if let Poll::Ready(packet) = self.poll_packet() {
                return packet;
            }
        }
    }
}

/// A flow on the time line.
struct Held {
    label: LabelId,
    is_again: bool,
    packets: FlowPackets,
    /// 5-tuple of the flow's first packet, where it has one and the packets are rendered.
    orig: Option<FiveTuple>,
    /// How much later than their times its packets come.
    moved_ns: i64,
    /// Whether a packet of it was given out.
    is_begun: bool,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::generator::End;
    use super::*;
    use crate::packet::LinkType;

    /// A flow of `n` packets from `start`, `gap` apart.
    fn flow(index: u64, start: Timestamp, n: usize, gap: i64) -> GeneratedFlow {
        let packet = |i| Packet {
            ts: start.plus_nanos(i as i64 * gap),
            linktype: LinkType::RAW,
            len: 1,
            data: vec![index as u8],
        };
        GeneratedFlow {
            index,
            label: LabelId(0),
            start,
            tokens: Vec::new(),
            prompt_tokens: 0,
            packets: (0..n).map(packet).collect(),
            malformed_packets: 0,
            end: End::Finished,
            is_again: false,
        }
    }

    fn arrivals() -> Arrivals {
        Arrivals::new(Timestamp(1_000_000_000), 100.0, 5).unwrap()
    }

    /// `count` flows of 20 packets, 3 ms apart, at 100 flows/s.
    fn flows(count: u64) -> impl Iterator<Item = GeneratedFlow> {
        arrivals().take(count as usize).enumerate().map(|(i, start)| flow(i as u64, start, 20, 3_000_000))
    }

    #[test]
    fn packets_leave_in_time_order_and_none_is_lost() {
        let mut source = flows(200);
        let mut timeline = Timeline::new(|| source.next(), arrivals(), 1_000_000);
        let out: Vec<_> = timeline.by_ref().collect();
        assert!(out.is_sorted_by_key(|p| p.packet.ts));
        let mut expected: Vec<_> = flows(200).flat_map(|f| f.packets).map(|p| (p.ts, p.data)).collect();
        let mut found: Vec<_> = out.iter().map(|p| (p.packet.ts, p.packet.data.clone())).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(out.iter().filter(|p| p.left == 0).count(), 200);
        let counters = timeline.counters();
        assert_eq!((counters.flows, counters.packets, counters.postponed_flows), (200, 4000, 0));
        // 100 flows/s of 60 ms are 6 flows at a time, 120 packets at most each.
        assert!(counters.held_packets_peak < 600, "{}", counters.held_packets_peak);
    }

    #[test]
    fn a_flow_is_asked_for_only_when_its_time_has_come() {
        let taken = Cell::new(0);
        let mut source = flows(50);
        let timeline = Timeline::new(|| source.next().inspect(|_| taken.set(taken.get() + 1)), arrivals(), 1_000_000);
        let starts: Vec<Timestamp> = arrivals().take(50).collect();
        for out in timeline {
            let due = starts.iter().filter(|s| **s <= out.packet.ts).count();
            assert_eq!(taken.get(), due);
        }
    }

    #[test]
    fn a_full_time_line_postpones_flows_and_keeps_order() {
        let mut source = flows(200);
        let mut timeline = Timeline::new(|| source.next(), arrivals(), 30);
        let out: Vec<_> = timeline.by_ref().collect();
        assert!(out.is_sorted_by_key(|p| p.packet.ts));
        assert_eq!(out.len(), 4000);
        let counters = timeline.counters();
        assert!(counters.postponed_flows > 50 && counters.held_packets_peak < 50, "{counters:?}");
        for index in 0..200 {
            let times: Vec<_> = out.iter().filter(|p| p.flow == index).map(|p| p.packet.ts.0).collect();
            assert!(times.windows(2).all(|w| w[1] - w[0] == 3_000_000), "gaps inside a flow stay");
        }
    }

    #[test]
    fn as_many_flows_as_asked_for_go_on_at_once() {
        // 100 flows a second would make six of them; a flow lasts 57 ms.
        let mut source = flows(200);
        let mut timeline = Timeline::new(|| source.next(), arrivals(), 1_000_000).at_once(Some(3));
        let out: Vec<_> = timeline.by_ref().collect();
        assert!(out.is_sorted_by_key(|p| p.packet.ts));
        assert_eq!((out.len(), timeline.counters().postponed_flows), (4000, 0));
        let times = |index: u64| {
            let of = |p: &&TimelinePacket| p.flow == index;
            let first = out.iter().find(of).unwrap().packet.ts;
            (first, out.iter().rev().find(of).unwrap().packet.ts)
        };
        for index in 3..200 {
            let (begin, end) = times(index);
            assert_eq!(end.nanos_since(begin), 19 * 3_000_000, "gaps inside a flow stay");
            let before = (0..index).filter(|i| times(*i).1 > begin).count();
            assert_eq!(before, 2, "flow {index} begins as the third one ends");
        }
    }

    #[test]
    fn flows_of_one_packet_do_not_stop_the_time() {
        let mut source = arrivals().take(100).enumerate().map(|(i, s)| flow(i as u64, s, 1, 1));
        let out: Vec<_> = Timeline::new(|| source.next(), arrivals(), 1_000).at_once(Some(1)).collect();
        let times: Vec<i64> = out.iter().map(|p| p.packet.ts.0).collect();
        assert_eq!(times.len(), 100);
        assert!(times.windows(2).all(|w| w[1] - w[0] >= BEGIN_GAP_NS), "{times:?}");
    }

    #[test]
    fn empty_flows_are_counted_and_passed_over() {
        let mut source = arrivals().take(5).enumerate().map(|(i, s)| flow(i as u64, s, i % 2, 1));
        let mut timeline = Timeline::new(|| source.next(), arrivals(), 10);
        assert_eq!(timeline.by_ref().count(), 2);
        assert_eq!(timeline.counters().empty_flows, 3);
        assert!(timeline.next().is_none());
    }
}
