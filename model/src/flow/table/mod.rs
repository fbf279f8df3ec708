//! The flow table: packets in, flows out, bounded in every direction.
//!
//! Time is that of the packets. Nothing here asks a clock, so a capture read in a second gives the flows that a day
//! of listening gave. Packets without a 5-tuple are counted and dropped; sessions are made of flows elsewhere.

mod counters;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use etherparse::IpNumber;

use super::dissect::{Dissected, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use super::{Direction, FiveTuple, Flow, FlowEnd, FlowKey, dissect};
use crate::packet::{Packet, Timestamp};
use slots::{Class, Entry, Slot, Slots};

pub use counters::{FlowCounters, FlowLimits};

/// Flows that one packet can push out by idling, beside the flow that it belongs to. It bounds the time of one
/// `push`; what is left over goes with the next packets.
const EXPIRIES_PER_PACKET_MAX: usize = 64;

/// Puts packets together to flows.
///
/// A flow begins with the first packet of its 5-tuple and ends
/// - **closed** when TCP ends: FIN from both sides, or RST. It stays for `tcp_linger_ns` more, so that the last ACK
///   and repeated segments belong to it; a SYN (without ACK) in that time begins a new flow;
/// - **idle** when the gap before its next packet is longer than the idle timeout, or when that much time has passed on
///   the packets of others;
/// - **evicted** when the table is full and it is the least recently used flow (those that have closed go first, and as
///   closed), or when it reached `packets_per_flow_max`;
/// - at the **end of input**.
///
/// Time may jump. A packet from the past does not turn back the time of its flow; one from the future expires flows
/// that it should not have, whose next packets then begin new flows.
#[derive(Debug)]
pub struct FlowTable {
    limits: FlowLimits,
    slots: Slots,
    /// With the standard hasher, seeded and made to withstand chosen keys: a hand-written folded multiplication was no
    /// faster in the `split` bench (four runs each, alternating: 23 to 27 ms and 23 to 28 ms for 100,000 packets).
    by_key: HashMap<FlowKey, Slot>,
    buffered_packets: usize,
    buffered_bytes: u64,
    /// Flows opened so far.
    opened: u64,
    counters: FlowCounters,
}

impl FlowTable {
    /// An empty table.
    pub fn new(mut limits: FlowLimits) -> Self {
        limits.flows_max = limits.flows_max.clamp(1, Slot::MAX as usize - 1);
        limits.packets_per_flow_max = limits.packets_per_flow_max.max(1);
        limits.buffered_packets_max = limits.buffered_packets_max.max(1);
        Self {
            limits,
            slots: Slots::new(),
            by_key: HashMap::new(),
            buffered_packets: 0,
            buffered_bytes: 0,
            opened: 0,
            counters: FlowCounters::default(),
        }
    }

    /// Takes in the next packet, and hands the flows that ended to `done`. O(1) but for the flows handed out.
    pub fn push(&mut self, packet: Packet, done: &mut impl FnMut(Flow)) {
        self.counters.packets += 1;
        self.counters.packets_truncated += u64::from(packet.is_truncated());
        self.expire(packet.ts, done);
        let dissected = match dissect(packet.linktype, &packet.data) {
            Ok(dissected) => dissected,
            Err(reason) => return self.counters.count_no_flow(reason),
        };
        let slot = self.slot_for(&dissected, packet.ts, done);
        self.append(slot, &dissected, packet, done);
        self.shrink(done);
    }

    /// Hands out all flows that are left, in the order in which they began. The table is empty then and can be
    /// used again; its counters go on.
    pub fn finish(&mut self, done: &mut impl FnMut(Flow)) {
        for slot in self.slots.by_age() {
            self.take_out(slot, FlowEnd::EndOfInput, done);
        }
    }

    /// What was seen so far.
    pub fn counters(&self) -> &FlowCounters {
        &self.counters
    }

    /// Flows in the table now.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no flow is in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets in the table now.
    pub fn buffered_packets(&self) -> usize {
        self.buffered_packets
    }

    /// Captured bytes in the table now.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes
    }

    /// The slot of the packet's flow; a new one when there is none, or when the packet begins another flow.
    fn slot_for(&mut self, packet: &Dissected, now: Timestamp, done: &mut impl FnMut(Flow)) -> Slot {
        let key = packet.tuple.key();
        if let Some(&slot) = self.by_key.get(&key) {
            let entry = self.slots.entry(slot);
            let is_new = self.is_over(entry, now) || (entry.class == Class::Closed && is_first_syn(packet));
            let is_long = now.nanos_since(entry.first_seen) > self.limits.active_timeout_ns;
            if !is_new && !is_long {
                return slot;
            }
            self.take_out(slot, if is_new { FlowEnd::Idle } else { FlowEnd::Evicted }, done);
        }
        if self.slots.len() >= self.limits.flows_max {
            self.evict(done);
        }
        self.opened += 1;
        let slot = self.slots.insert(Entry::new(packet.tuple, class(packet.tuple, false), self.opened, now));
        self.by_key.insert(key, slot);
        slot
    }

    /// Adds a packet to its flow, and notices when TCP ends.
    fn append(&mut self, slot: Slot, dissected: &Dissected, packet: Packet, done: &mut impl FnMut(Flow)) {
        let entry = self.slots.entry_mut(slot);
        let direction = if entry.tuple == dissected.tuple { Direction::Orig } else { Direction::Resp };
        entry.last_seen = entry.last_seen.max(packet.ts);
        if let Some(flags) = dissected.tcp_flags {
            let fin = flags & TCP_FIN != 0;
            entry.fin_orig |= fin && direction == Direction::Orig;
            entry.fin_resp |= fin && direction == Direction::Resp;
            if flags & TCP_RST != 0 || (entry.fin_orig && entry.fin_resp) {
                entry.closed = true;
            }
        }
        entry.answered |= direction == Direction::Resp;
        let class = if entry.closed { Class::Closed } else { class(entry.tuple, entry.answered) };
        if entry.packets.len() == self.limits.packets_per_flow_max {
            entry.full = true;
            self.hand_out(slot, FlowEnd::Evicted, done);
        }
        self.slots.touch(slot, class);
        let entry = self.slots.entry_mut(slot);
        if entry.full {
            self.counters.packets_over_flow_max += 1;
            return;
        }
        entry.bytes += packet.data.len() as u64;
        self.buffered_bytes += packet.data.len() as u64;
        self.buffered_packets += 1;
        entry.packets.push((direction, packet));
    }

    /// Takes out flows whose time is over, the oldest of each class first.
    fn expire(&mut self, now: Timestamp, done: &mut impl FnMut(Flow)) {
        let mut left = EXPIRIES_PER_PACKET_MAX;
        for class in Class::ALL {
            while left > 0
                && let Some(slot) = self.slots.oldest(class)
                && self.is_over(self.slots.entry(slot), now)
            {
                self.take_out(slot, FlowEnd::Idle, done);
                left -= 1;
            }
        }
    }

    /// Evicts flows until the packets in the table are within their limits.
    fn shrink(&mut self, done: &mut impl FnMut(Flow)) {
        while self.buffered_packets > self.limits.buffered_packets_max
            || self.buffered_bytes > self.limits.buffered_bytes_max
        {
            self.evict(done);
        }
    }

    fn evict(&mut self, done: &mut impl FnMut(Flow)) {
        let slot = self.slots.spare().expect("a table that holds too much holds a flow");
        self.counters.evictions += u64::from(self.slots.entry(slot).class != Class::Closed);
        self.take_out(slot, FlowEnd::Evicted, done);
    }

    /// Takes a flow out of the table. One that TCP has closed ends as closed, whatever takes it out.
    fn take_out(&mut self, slot: Slot, end: FlowEnd, done: &mut impl FnMut(Flow)) {
        let end = if self.slots.entry(slot).class == Class::Closed { FlowEnd::Closed } else { end };
        if !self.slots.entry(slot).full {
            self.hand_out(slot, end, done);
        }
        let entry = self.slots.remove(slot);
        self.by_key.remove(&entry.tuple.key());
    }

    /// Gives the packets of a flow away; the flow stays in the table.
    fn hand_out(&mut self, slot: Slot, end: FlowEnd, done: &mut impl FnMut(Flow)) {
        let entry = self.slots.entry_mut(slot);
        let packets = std::mem::take(&mut entry.packets);
        self.buffered_packets -= packets.len();
        self.buffered_bytes -= std::mem::take(&mut entry.bytes);
        self.counters.count_end(end);
        done(Flow { tuple: entry.tuple, packets, end });
    }

    fn is_over(&self, entry: &Entry, now: Timestamp) -> bool {
        now.nanos_since(entry.last_seen) > self.timeout_ns(entry.class)
    }

    fn timeout_ns(&self, class: Class) -> i64 {
        match class {
            Class::Tcp | Class::UnansweredTcp => self.limits.tcp_idle_timeout_ns,
            Class::Udp | Class::UnansweredUdp => self.limits.udp_idle_timeout_ns,
            Class::Other | Class::UnansweredOther => self.limits.other_idle_timeout_ns,
            Class::Closed => self.limits.tcp_linger_ns,
        }
    }
}

fn class(tuple: FiveTuple, answered: bool) -> Class {
    match (IpNumber(tuple.protocol), answered) {
        (IpNumber::TCP, true) => Class::Tcp,
        (IpNumber::TCP, false) => Class::UnansweredTcp,
        (IpNumber::UDP, true) => Class::Udp,
        (IpNumber::UDP, false) => Class::UnansweredUdp,
        (_, true) => Class::Other,
        (_, false) => Class::UnansweredOther,
    }
}

/// Whether the packet asks for a new connection.
fn is_first_syn(packet: &Dissected) -> bool {
    packet.tcp_flags.is_some_and(|flags| flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN)
}
