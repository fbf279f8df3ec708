//! `markov`: flows walked on a chain of order 2 over direction, flags (or protocol) and payload size.
//!
//! A [`Chain`] counts which symbol follows which two, from the start of a flow to its end, and keeps for each symbol a
//! bounded sample of the gaps, sizes, TTLs and windows that came with it; each of these is drawn on its own. What a walk
//! means on the wire is computed in [`talk`](self::talk).

mod talk;

use std::collections::{BTreeMap, HashMap};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::{Direction, Flow};
use wiremamba_model::packet::Timestamp;
use wiremamba_model::wire::parse::{Frame, Transport, parse};

use self::talk::Talk;
use super::timeline::{Pool, ResampledTimes, Timeline, gap_ns};
use super::{Counters, Generated, Options};

/// Packets of one flow at most, as in the flow table: a walk may go in circles.
const FLOW_PACKETS_MAX: usize = 16_384;
/// What is kept of each thing that a symbol came with. There are at most some 6,000 symbols.
const POOL_MAX: usize = 1024;

/// Learns the chain of `flows` and walks it.
pub(super) fn generate(flows: &[Flow], options: &Options, rng: &mut ChaCha8Rng) -> Option<Generated> {
    let mut counters = Counters::default();
    let mut chain = Chain::default();
    let mut starts = Vec::new();
    for flow in flows {
        let learned = chain.learn(flow, rng);
        counters.packets_left_out += (flow.packets.len() - learned) as u64;
        match learned {
            0 => counters.flows_left_out += 1,
            _ => starts.push(flow.start()),
        }
    }
    if starts.is_empty() {
        return None;
    }
    let unlimited = options.packets.map_or(starts.len(), |_| usize::MAX);
    let flows_max = options.flows.unwrap_or(unlimited) as u64;
    let mut starts = ResampledTimes::new(options.start, starts, rng);
    let mut timeline = Timeline::new(options);
    while counters.flows < flows_max && timeline.has_room() {
        let mut walk = chain.walk();
        let mut talk = Talk::new(&options.plan, starts.next(rng), rng);
        let mut packets = Vec::new();
        while let Some(symbol) = walk.next(rng) {
            if packets.len() == FLOW_PACKETS_MAX {
                counters.flows_cut += 1;
                break;
            }
            packets.push(talk.say(symbol, &chain.seen[&symbol], rng));
        }
        timeline.add(packets);
        counters.flows += 1;
    }
    counters.bytes_max_reached = timeline.is_full();
    Some(Generated { packets: timeline.into_packets(), counters })
}

/// A packet as the chain sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Symbol {
    from_orig: bool,
    kind: Kind,
    /// 0 for an empty payload, then steps that tell control messages, records and full segments apart.
    size_class: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    /// TCP with these flags.
    Tcp(u8),
    Udp,
    /// ICMP or ICMPv6 of this type.
    Icmp {
        v6: bool,
        icmp_type: u8,
    },
}

impl Symbol {
    fn of(direction: Direction, frame: &Frame<'_>) -> Self {
        let kind = match frame.transport {
            Transport::Tcp(tcp) => Kind::Tcp(tcp.flags),
            Transport::Udp { .. } => Kind::Udp,
            Transport::Icmp => Kind::Icmp { v6: frame.ip.src.is_ipv6(), icmp_type: frame.payload[0] },
        };
        let size_class = match frame.payload_len {
            0 => 0,
            1..32 => 1,
            32..128 => 2,
            128..512 => 3,
            512..1200 => 4,
            1200.. => 5,
        };
        Self { from_orig: direction == Direction::Orig, kind, size_class }
    }
}

/// What was learned.
#[derive(Debug, Default)]
struct Chain {
    /// By the last two symbols (`None` before the first): how often each came next, `None` being the end.
    next: HashMap<[Option<Symbol>; 2], BTreeMap<Option<Symbol>, u64>>,
    /// What each symbol came with.
    seen: HashMap<Symbol, Seen>,
}

/// What a symbol came with.
#[derive(Debug)]
struct Seen {
    /// Gaps before it, in nanoseconds; none where it is always the first.
    gaps: Pool<i64>,
    headers: Pool<HeaderSeen>,
    /// Of flows that began with it: IPv6 or not, and the port of `resp`.
    services: Pool<(bool, u16)>,
}

#[derive(Debug, Clone, Copy)]
struct HeaderSeen {
    payload_len: usize,
    ttl: u8,
    tos: u8,
    df: bool,
    /// 0 but for TCP.
    window: u16,
    /// 0 but for ICMP.
    icmp_code: u8,
}

impl Seen {
    fn new() -> Self {
        Self { gaps: Pool::new(POOL_MAX), headers: Pool::new(POOL_MAX), services: Pool::new(POOL_MAX) }
    }
}

impl Chain {
    /// Takes in a flow, and returns how many of its packets could be read.
    fn learn(&mut self, flow: &Flow, rng: &mut ChaCha8Rng) -> usize {
        let mut context = [None; 2];
        let mut last: Option<Timestamp> = None;
        let mut learned = 0;
        for (direction, packet) in &flow.packets {
            let Ok(frame) = parse(packet) else { continue };
            let symbol = Symbol::of(*direction, &frame);
            let seen = self.seen.entry(symbol).or_insert_with(Seen::new);
            seen.headers.push(HeaderSeen::of(&frame), rng);
            match last {
                // Clocks that go back, and gaps longer than are kept, count as none.
                Some(last) => seen.gaps.push(gap_ns(last, packet.ts).unwrap_or(0), rng),
                None => seen.services.push((frame.ip.src.is_ipv6(), flow.tuple.resp_port), rng),
            }
            self.count(context, Some(symbol));
            context = [context[1], Some(symbol)];
            last = Some(packet.ts);
            learned += 1;
        }
        if learned > 0 {
            self.count(context, None);
        }
        learned
    }

    fn count(&mut self, context: [Option<Symbol>; 2], next: Option<Symbol>) {
        *self.next.entry(context).or_default().entry(next).or_default() += 1;
    }

    fn walk(&self) -> Walk<'_> {
        Walk { chain: self, context: [None; 2] }
    }
}

impl HeaderSeen {
    fn of(frame: &Frame<'_>) -> Self {
        let (window, icmp_code) = match frame.transport {
            Transport::Tcp(tcp) => (tcp.window, 0),
            Transport::Udp { .. } => (0, 0),
            Transport::Icmp => (0, frame.payload[1]),
        };
        let ip = &frame.ip;
        Self { payload_len: frame.payload_len, ttl: ip.ttl, tos: ip.tos, df: ip.df, window, icmp_code }
    }
}

/// A flow being drawn.
struct Walk<'a> {
    chain: &'a Chain,
    context: [Option<Symbol>; 2],
}

impl Walk<'_> {
    /// The next symbol, or `None` at the end of the flow.
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Option<Symbol> {
        let counts = &self.chain.next[&self.context];
        let mut left = rng.random_range(0..counts.values().sum());
        let drawn = counts.iter().find(|(_, count)| {
            let hit = left < **count;
            left = left.saturating_sub(**count);
            hit
        });
        let symbol = *drawn.expect("the number drawn is below the sum of the counts").0;
        self.context = [self.context[1], symbol];
        symbol
    }
}
