//! From frames to tokens: says what the sender decided, relative to what both sides did before.

mod header;
mod identifiers;
mod payload;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::super::Token;
use super::action::Action;
use super::application::Application;
use super::dictionary::Dictionary;
use super::facts::Facts;
use super::habits::EPHEMERAL;
use super::outlook::{Ends, Seen};
use super::side::{ACK, SYN};
use super::steps::gap_parts;
use super::vocab::{HOSTS, PORTS, Proto, Tok};
use super::walk::{Stage, Step, Walk};
use crate::flow::{FiveTuple, FlowKey};
use crate::packet::{Packet, Timestamp};
use crate::wire::parse::{Frame, ICMP, ICMPV6, TCP, Transport, UDP, Unstructured, parse};

/// The prefix of solicited-node groups.
const SOLICITED: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// A flow of the session.
pub(super) struct Opened {
    /// Where it goes.
    pub(super) proto: Proto,
    pub(super) port: u16,
    /// What is seen of it.
    pub(super) seen: Seen,
    /// What it has begun as, once that is known: an application that can be told at any port, or another one.
    pub(super) begun: Option<Option<Application>>,
    /// Where the tokens are that tell its outlook.
    at: usize,
}

/// Encodes the packets of one session, or of a whole capture, one by one.
pub(super) struct Encoder<'a> {
    walk: Walk,
    dictionary: &'a Dictionary,
    keep_names: bool,
    flows: HashMap<FlowKey, u8>,
    facts: Vec<Facts>,
    hosts: [Vec<(u32, IpAddr)>; 2],
    names: Vec<(u32, Vec<u8>)>,
    last: Option<Timestamp>,
    /// All flows so far, and which of them each slot has.
    opened: Vec<Opened>,
    current: Vec<usize>,
    /// Whether nothing is told of flows where they open.
    leaves_untold: bool,
    /// Literal runs, where they are asked for.
    runs: Option<Vec<Vec<u8>>>,
}

impl<'a> Encoder<'a> {
    /// An encoder at the beginning of a session.
    pub(super) fn new(walk: Walk, dictionary: &'a Dictionary, keep_names: bool) -> Self {
        Self {
            walk,
            dictionary,
            keep_names,
            flows: HashMap::new(),
            facts: Vec::new(),
            hosts: [Vec::new(), Vec::new()],
            names: Vec::new(),
            last: None,
            opened: Vec::new(),
            current: Vec::new(),
            leaves_untold: false,
            runs: None,
        }
    }

    /// Tells nothing of flows where they open, as what becomes of them is not known.
    pub(super) fn leave_untold(&mut self) {
        self.leaves_untold = true;
    }

    /// Collects the literal runs from now on, for a dictionary.
    pub(super) fn collect_runs(&mut self) {
        self.runs = Some(Vec::new());
    }

    /// The literal runs since the last time.
    pub(super) fn take_runs(&mut self) -> Vec<Vec<u8>> {
        self.runs.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The packet that was encoded last.
    pub(super) fn action(&self) -> &Action {
        self.walk.action()
    }

    /// Time before the packet that was encoded last, in nanoseconds, as its tokens say it.
    pub(super) fn gap_ns(&self) -> i64 {
        self.walk.gap_ns()
    }

    /// The flows so far, if it is told of them where they open.
    pub(super) fn into_opened(self) -> Vec<Opened> {
        self.opened
    }

    /// Keeps what the flow of the last packet has begun as.
    pub(super) fn note(&mut self, begun: Option<Option<Application>>) {
        let slot = usize::from(self.walk.action().slot);
        if let Some(flow) = self.current.get(slot).and_then(|flow| self.opened.get_mut(*flow)) {
            flow.begun = flow.begun.or(begun);
        }
    }

    /// Now that all packets are in `tokens`, of which none was taken away: tells of each flow what has come of it.
    pub(super) fn foretell(&self, tokens: &mut [Token]) {
        let vocab = self.walk.vocab();
        for flow in self.opened.iter().filter(|_| !self.leaves_untold) {
            let outlook = flow.seen.outlook();
            let mut at = flow.at;
            if flow.proto == Proto::Tcp {
                tokens[at] = vocab.id(Tok::Ends(outlook.ends));
                at += 1;
            }
            tokens[at] = vocab.id(Tok::Size(outlook.size));
        }
    }

    /// Appends the tokens of a packet. What is told of a flow stands in them as if it had no other packet.
    ///
    /// # Errors
    /// What has no structure is left to [`Encoder::raw`]; nothing is appended.
    pub(super) fn packet(&mut self, packet: &Packet, ret: &mut Vec<Token>) -> Result<(), Unstructured> {
        let frame = parse(packet)?;
        self.gap(packet.ts, ret);
        let tuple = tuple_of(&frame);
        self.flow(tuple, &frame, ret);
        let told_at = ret.len();
        match self.walk.stage {
            _ if self.leaves_untold => self.walk.leave_untold(),
            Stage::Ends => {
                self.say(Tok::Ends(Ends::Open), ret);
                self.say(Tok::Size(0), ret);
            }
            Stage::Size => self.say(Tok::Size(0), ret),
            _ => {}
        }
        self.header(&frame, ret);
        if self.walk.stage == Stage::Pieces {
            self.payload(&frame, ret);
        }
        debug_assert_eq!(self.walk.stage, Stage::Gap, "a packet is said to its end");
        let action = self.walk.action();
        let slot = usize::from(action.slot);
        if action.opens.is_some() {
            let facts = Facts::new(tuple);
            if self.walk.vocab().foretells {
                self.current.resize(self.current.len().max(slot + 1), 0);
                self.current[slot] = self.opened.len();
                let (proto, port) = (action.proto, tuple.resp_port);
                self.opened.push(Opened { proto, port, seen: Seen::default(), begun: None, at: told_at });
            }
            match self.facts.get_mut(slot) {
                Some(place) => {
                    self.flows.remove(&place.tuple.key());
                    *place = facts;
                }
                None => self.facts.push(facts),
            }
            self.flows.insert(tuple.key(), slot as u8);
        }
        if let Some(flow) = self.current.get(slot).and_then(|flow| self.opened.get_mut(*flow)) {
            flow.seen.see(action);
        }
        self.facts[slot].learn(action, &frame);
        Ok(())
    }

    /// Appends a packet without structure as it is.
    pub(super) fn raw(&mut self, ts: Timestamp, bytes: &[u8], ret: &mut Vec<Token>) {
        self.gap(ts, ret);
        self.bytes(Tok::Raw, bytes, ret);
    }

    /// Appends a patch for the packet before.
    pub(super) fn fix(&mut self, patch: &[u8], ret: &mut Vec<Token>) {
        self.bytes(Tok::Fix, patch, ret);
    }

    fn bytes(&mut self, tok: Tok, bytes: &[u8], ret: &mut Vec<Token>) {
        self.say(tok, ret);
        for b in (bytes.len() as u32).to_be_bytes().into_iter().skip(1).chain(bytes.iter().copied()) {
            self.say(Tok::Byte(b), ret);
        }
    }

    fn say(&mut self, tok: Tok, ret: &mut Vec<Token>) {
        let token = self.walk.vocab().id(tok);
        let step = self.walk.push(token);
        debug_assert_ne!(step, Step::Bad, "{tok:?} has no place here");
        ret.push(token);
    }

    fn say_short(&mut self, number: u16, ret: &mut Vec<Token>) {
        let [high, low] = number.to_be_bytes();
        self.say(Tok::Byte(high), ret);
        self.say(Tok::Byte(low), ret);
    }

    fn gap(&mut self, ts: Timestamp, ret: &mut Vec<Token>) {
        let gap = self.last.map_or(0, |last| ts.nanos_since(last));
        self.last = Some(ts);
        if gap < 0 {
            self.say(Tok::Back, ret);
        }
        let (exponent, mantissa) = gap_parts(gap.unsigned_abs().min(i64::MAX as u64));
        self.say(Tok::GapE(exponent), ret);
        if exponent >= 2 {
            self.say(Tok::GapM(mantissa), ret);
        }
    }

    fn flow(&mut self, tuple: FiveTuple, frame: &Frame<'_>, ret: &mut Vec<Token>) {
        if let Some(&slot) = self.flows.get(&tuple.key()) {
            let is_syn = matches!(frame.transport, Transport::Tcp(tcp) if tcp.flags & (SYN | ACK) == SYN);
            if !(is_syn && self.walk.slots[usize::from(slot)].closed) {
                let from_orig = self.facts[usize::from(slot)].tuple == tuple;
                return self.say(Tok::Flow(slot, from_orig), ret);
            }
        }
        let v6 = tuple.orig.is_ipv6();
        let proto = match frame.transport {
            Transport::Tcp(_) => Proto::Tcp,
            Transport::Udp { .. } => Proto::Udp,
            Transport::Icmp => Proto::Icmp,
        };
        self.say(Tok::Open(proto, v6), ret);
        if proto != Proto::Icmp {
            match PORTS.binary_search(&tuple.resp_port) {
                Ok(i) => self.say(Tok::Port(i as u8), ret),
                Err(_) if tuple.resp_port >= EPHEMERAL => self.say(Tok::PortEph, ret),
                Err(_) => {
                    self.say(Tok::PortNum, ret);
                    self.say_short(tuple.resp_port, ret);
                }
            }
            match tuple.orig_port {
                port if port == tuple.resp_port => self.say(Tok::SportSame, ret),
                1024.. => self.say(Tok::SportEph, ret),
                port => {
                    self.say(Tok::SportNum, ret);
                    self.say_short(port, ret);
                }
            }
        }
        self.host(tuple, ret);
    }

    fn host(&mut self, tuple: FiveTuple, ret: &mut Vec<Token>) {
        let v6 = tuple.resp.is_ipv6();
        match (tuple.orig, tuple.resp) {
            (_, IpAddr::V4(a)) if a.is_multicast() || a.is_broadcast() => {
                self.say(Tok::HostGroup, ret);
                a.octets().into_iter().for_each(|b| self.say(Tok::Byte(b), ret));
            }
            (_, IpAddr::V6(a)) if a.is_multicast() => {
                self.say(Tok::HostGroup, ret);
                let mut octets = a.octets();
                // The group of whoever has an address that ends so (RFC 4291, section 2.7.1).
                if !self.keep_names && octets[..13] == SOLICITED {
                    octets[13..].fill(0);
                }
                octets.into_iter().for_each(|b| self.say(Tok::Byte(b), ret));
            }
            (IpAddr::V4(from), IpAddr::V4(to)) if is_subnet_broadcast(from, to) => self.say(Tok::HostBcast, ret),
            _ => {
                let known = &mut self.hosts[usize::from(v6)];
                let id = match known.iter().position(|h| h.1 == tuple.resp) {
                    Some(at) => known.remove(at).0,
                    None => self.walk.next_host(),
                };
                known.insert(0, (id, tuple.resp));
                known.truncate(HOSTS);
                let at = self.walk.hosts(v6).iter().position(|h| *h == id);
                self.say(at.map_or(Tok::HostNew, |at| Tok::HostRef(at as u8)), ret);
            }
        }
    }
}

/// The 5-tuple of a frame as its sender sees it.
pub(super) fn tuple_of(frame: &Frame<'_>) -> FiveTuple {
    let (orig_port, resp_port, protocol) = match frame.transport {
        Transport::Tcp(tcp) => (tcp.src_port, tcp.dst_port, TCP),
        Transport::Udp { src_port, dst_port } => (src_port, dst_port, UDP),
        Transport::Icmp => (0, 0, if frame.ip.src.is_ipv4() { ICMP } else { ICMPV6 }),
    };
    FiveTuple { orig: frame.ip.src, resp: frame.ip.dst, orig_port, resp_port, protocol }
}

fn is_subnet_broadcast(from: Ipv4Addr, to: Ipv4Addr) -> bool {
    to.octets()[3] == 255 && from.octets()[..3] == to.octets()[..3]
}
