//! `bootstrap`: real flows drawn with replacement, each between new hosts and at a new time.
//!
//! Who the hosts are and how a packet is moved to them is the business of [`readdress`](super::readdress).

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::Flow;

use super::readdress::{Hosts, can_be_moved};
use super::timeline::{ResampledTimes, Timeline};
use super::{Counters, Generated, Options};

/// Flows drawn from those of which at least one packet can be moved. Packets that cannot are missing in every copy.
pub(super) fn generate(flows: &[Flow], options: &Options, rng: &mut ChaCha8Rng) -> Option<Generated> {
    let mut counters = Counters::default();
    let mut usable = Vec::new();
    for flow in flows {
        let left_out = flow.packets.iter().filter(|(_, packet)| !can_be_moved(packet)).count();
        counters.packets_left_out += left_out as u64;
        if left_out < flow.packets.len() {
            usable.push(flow);
        } else {
            counters.flows_left_out += 1;
        }
    }
    if usable.is_empty() {
        return None;
    }
    let unlimited = options.packets.map_or(usable.len(), |_| usize::MAX);
    let flows_max = options.flows.unwrap_or(unlimited) as u64;
    let mut starts = ResampledTimes::new(options.start, usable.iter().map(|f| f.start()), rng);
    let mut hosts = Hosts::new(&options.plan, flows);
    let mut timeline = Timeline::new(options);
    while counters.flows < flows_max && timeline.has_room() {
        let flow = usable[rng.random_range(0..usable.len())];
        let start = starts.next(rng);
        let delay_ns = start.nanos_since(flow.start());
        let mut moved_flow = hosts.move_flow(flow, rng);
        timeline.add(flow.packets.iter().filter_map(|(direction, packet)| {
            let mut moved = moved_flow.move_packet(*direction, packet)?;
            moved.ts = packet.ts.plus_nanos(delay_ns);
            Some(moved)
        }));
        counters.flows += 1;
    }
    counters.bytes_max_reached = timeline.is_full();
    Some(Generated { packets: timeline.into_packets(), counters })
}
