//! From frames to tokens: says what the sender decided, relative to what both sides did before.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::super::Token;
use super::action::{Action, Opt};
use super::dictionary::Dictionary;
use super::facts::{self, Facts};
use super::side::{ACK, FIN, RST, SYN};
use super::steps::{gap_parts, window_byte, window_quantised};
use super::vocab::{HOSTS, NAMES, PORTS, Proto, RUN_MAX, TLS_TYPES, Tok};
use super::walk::{Stage, Step, Walk};
use crate::flow::{FiveTuple, FlowKey};
use crate::packet::{Packet, Timestamp};
use crate::wire::names::{self, Carrier, Kind, Span};
use crate::wire::parse::{Frame, ICMP, ICMPV6, TCP, Tcp, Transport, UDP, Unstructured, parse};

/// Bytes at the beginning of a message that are said literally: of text, of anything else, of a TLS handshake.
const LITERAL_TEXT: usize = 256;
const LITERAL_BINARY: usize = 64;
const LITERAL_HANDSHAKE: usize = 320;
/// Shortest run that is worth a `same` or a `peer`.
const RUN_MIN: usize = 3;
/// Bytes that are looked at to tell whether they are random, how many of them have to differ, and how many can be
/// printable. Of 16 random bytes 15.5 differ and 6 are printable on average.
const RANDOM_WINDOW: usize = 16;
const RANDOM_DISTINCT: usize = 14;
const RANDOM_PRINTABLE: usize = 10;
/// The prefix of solicited-node groups.
const SOLICITED: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
/// Sequence numbers that lie farther apart belong to another stream.
const STREAM_REACH: i64 = 1 << 20;

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
            runs: None,
        }
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

    /// Appends the tokens of a packet.
    ///
    /// # Errors
    /// What has no structure is left to [`Encoder::raw`]; nothing is appended.
    pub(super) fn packet(&mut self, packet: &Packet, ret: &mut Vec<Token>) -> Result<(), Unstructured> {
        let frame = parse(packet)?;
        self.gap(packet.ts, ret);
        let tuple = tuple_of(&frame);
        self.flow(tuple, &frame, ret);
        self.header(&frame, ret);
        if self.walk.stage == Stage::Pieces {
            self.payload(&frame, ret);
        }
        debug_assert_eq!(self.walk.stage, Stage::Gap, "a packet is said to its end");
        let action = self.walk.action();
        let slot = usize::from(action.slot);
        if action.opens.is_some() {
            let facts = Facts::new(tuple);
            match self.facts.get_mut(slot) {
                Some(place) => {
                    self.flows.remove(&place.tuple.key());
                    *place = facts;
                }
                None => self.facts.push(facts),
            }
            self.flows.insert(tuple.key(), slot as u8);
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
                Err(_) if tuple.resp_port >= 32_768 => self.say(Tok::PortEph, ret),
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

    fn header(&mut self, frame: &Frame<'_>, ret: &mut Vec<Token>) {
        let ip = &frame.ip;
        let a = self.walk.action();
        let (ttl, tos) = (a.ttl != ip.ttl, a.tos != ip.tos);
        let (df, id) = (!a.v6 && a.df != ip.df, !a.v6 && a.id_zero != (ip.id == 0));
        if ttl {
            self.say(Tok::Ttl, ret);
            self.say(Tok::Byte(ip.ttl), ret);
        }
        if tos {
            self.say(Tok::Tos, ret);
            self.say(Tok::Byte(ip.tos), ret);
        }
        if df {
            self.say(Tok::Df, ret);
        }
        if id {
            self.say(Tok::IdMode, ret);
        }
        let mut len = frame.payload_len;
        match &frame.transport {
            Transport::Tcp(tcp) => self.tcp(tcp, len, ret),
            Transport::Udp { .. } => {}
            Transport::Icmp => {
                self.say(Tok::Byte(frame.payload[0]), ret);
                self.say(Tok::Byte(frame.payload[1]), ret);
                len -= 4;
            }
        }
        let side = self.walk.sides().0;
        let (len, max, last) = (len as u16, side.len_max, side.len_last);
        match len {
            0 => self.say(Tok::Len0, ret),
            _ if len == max => self.say(Tok::LenMax, ret),
            _ if len == last => self.say(Tok::LenSame, ret),
            1..2048 => {
                self.say(Tok::LenHi((len >> 8) as u8), ret);
                self.say(Tok::Byte(len as u8), ret);
            }
            _ => {
                self.say(Tok::LenBig, ret);
                self.say_short(len, ret);
            }
        }
    }

    fn tcp(&mut self, tcp: &Tcp<'_>, len: usize, ret: &mut Vec<Token>) {
        let (seq, ack) = self.numbers(tcp, len);
        match seq {
            Some(Tok::SeqHole) => {
                let isn = self.isn(true).unwrap_or(0);
                let next = self.walk.sides().0.next_for(tcp.flags);
                self.say(Tok::SeqHole, ret);
                self.say_short(tcp.seq.wrapping_sub(isn.wrapping_add(next as u32)) as u16, ret);
            }
            Some(tok) => self.say(tok, ret),
            None => {}
        }
        self.say(Tok::Flags(tcp.flags), ret);
        if let Some(tok) = ack {
            self.say(tok, ret);
        }
        let window = window_quantised(tcp.window);
        if window != self.walk.sides().0.window {
            let (class, byte) = window_byte(tcp.window);
            self.say(Tok::Win(class), ret);
            if class >= 8 {
                self.say(Tok::Byte(byte), ret);
            }
        }
        let options = options(tcp.options);
        let is_default = self.walk.default_options().len() == options.len()
            && self.walk.default_options().iter().zip(&options).all(|(a, b)| a == b);
        if is_default {
            return;
        }
        if options.is_empty() {
            return self.say(Tok::OptNone, ret);
        }
        for option in options {
            match option {
                Opt::Mss(n) => {
                    self.say(Tok::Mss, ret);
                    self.say_short(n, ret);
                }
                Opt::Ws(n) => {
                    self.say(Tok::Ws, ret);
                    self.say(Tok::Byte(n), ret);
                }
                Opt::SackOk => self.say(Tok::SackOk, ret),
                Opt::Ts => self.say(Tok::Ts, ret),
                Opt::Nop => self.say(Tok::Nop, ret),
                Opt::Eol => self.say(Tok::Eol, ret),
                Opt::Sack(n, _) => self.say(Tok::Sack(n), ret),
                Opt::Other(kind, len) => {
                    self.say(Tok::OptOther, ret);
                    self.say(Tok::Byte(kind), ret);
                    self.say(Tok::Byte(len), ret);
                }
            }
        }
    }

    /// What stands for 0 in the numbers of the sender (`own`) or of the other side.
    fn isn(&self, own: bool) -> Option<u32> {
        let a = self.walk.action();
        if a.opens.is_some() {
            return None;
        }
        self.facts[usize::from(a.slot)].isn[usize::from(a.from_orig != own)]
    }

    /// The tokens for sequence and acknowledgement number, where they are not the expected ones.
    fn numbers(&self, tcp: &Tcp<'_>, len: usize) -> (Option<Tok>, Option<Tok>) {
        let (side, peer) = self.walk.sides();
        let next = side.next_for(tcp.flags);
        let away =
            |number: u32, isn: u32, from: i64| i64::from(number.wrapping_sub(isn.wrapping_add(from as u32)) as i32);
        let find = |bounds: &std::collections::VecDeque<i64>, at| bounds.iter().rev().position(|b| *b == at);

        let off = self.isn(true).map_or(0, |isn| away(tcp.seq, isn, next));
        let seq = match off {
            0 => None,
            -1 if len <= 1 && tcp.flags & (SYN | FIN | RST) == 0 => Some(Tok::SeqKeep),
            ..0 => match find(&side.bounds, next + off) {
                Some(k) => Some(Tok::SeqRe(k as u8)),
                // An old one, too far back to be told apart.
                None => {
                    (off > -STREAM_REACH && !side.bounds.is_empty()).then(|| Tok::SeqRe(side.bounds.len() as u8 - 1))
                }
            },
            1..=0xffff if tcp.flags & SYN == 0 => Some(Tok::SeqHole),
            _ => None,
        };
        if tcp.flags & ACK == 0 {
            return (seq, None);
        }
        let expected = peer.contiguous().max(1);
        let off = self.isn(false).map_or(0, |isn| away(tcp.ack, isn, expected));
        let ack = match expected + off {
            at if at == expected => None,
            at if at == side.acked && side.acked > 0 => Some(Tok::AckSame),
            at => {
                let below = peer.bounds.iter().rev().enumerate().filter(|(_, b)| **b <= at && **b > 0);
                let nearest = below.max_by_key(|(_, b)| **b);
                // Beyond what arrived as a whole only when the sender has more than the capture.
                match nearest {
                    Some((k, b)) if *b == at || *b > expected => Some(Tok::AckLag(k as u8)),
                    _ => (off < 0 && side.acked > 0).then_some(Tok::AckSame),
                }
            }
        };
        (seq, ack)
    }

    fn payload(&mut self, frame: &Frame<'_>, ret: &mut Vec<Token>) {
        let (slot, me, is_message, known) = {
            let a = self.walk.action();
            (usize::from(a.slot), usize::from(!a.from_orig), a.is_message, usize::from(a.len_known))
        };
        let data = facts::payload(frame).get(known..).unwrap_or_default();
        let is_tcp = matches!(frame.transport, Transport::Tcp(_));
        if matches!(frame.transport, Transport::Icmp) && is_icmp_error(frame) {
            return self.say(Tok::Quote, ret);
        }
        let (carrier, is_dns) = match frame.transport {
            Transport::Tcp(tcp) => (Carrier::Tcp(tcp.src_port, tcp.dst_port), [tcp.src_port, tcp.dst_port]),
            Transport::Udp { src_port, dst_port } => (Carrier::Udp(src_port, dst_port), [src_port, dst_port]),
            Transport::Icmp => (Carrier::Icmp(frame.payload[0], frame.ip.src.is_ipv6()), [0; 2]),
        };
        let is_dns = is_dns.into_iter().any(names::is_dns);
        let is_new = self.walk.action().opens.is_some();
        // Taken out, so that they can be read while tokens are said; put back at the end.
        let messages = if is_new { <[Vec<u8>; 2]>::default() } else { std::mem::take(&mut self.facts[slot].messages) };
        let (own, other) = (&messages[me][..], &messages[1 - me][..]);
        let (mut spans, can_be_told) = match self.keep_names || !is_message {
            true => (Vec::new(), usize::MAX),
            false => {
                let addresses = self.addresses(frame);
                let found = names::find(data, carrier, &addresses.iter().map(Vec::as_slice).collect::<Vec<_>>());
                (found.spans, found.literal_end)
            }
        };
        spans.reverse();

        let is_text = names::is_text(data);
        let mut literal_end = match (is_message, is_dns, is_text) {
            (false, ..) => 0,
            (true, true, _) => can_be_told,
            (true, _, true) => LITERAL_TEXT.min(can_be_told),
            (true, _, false) => LITERAL_BINARY.min(can_be_told),
        };
        let mut run = Vec::new();
        while self.walk.stage == Stage::Pieces {
            let at = usize::from(self.walk.current.done);
            let limit = usize::from(self.walk.limit());
            spans.truncate(spans.iter().rposition(|s| s.end > at).map_or(0, |p| p + 1));
            if let Some(span) = spans.last_mut().filter(|s| s.at < at) {
                (span.at, span.kind) = (at, Kind::Address);
            }
            let rest = &data[at.min(data.len())..];
            let record_left = usize::from(self.walk.current.record_left);
            if is_tcp
                && record_left == 0
                && (at == 0 || self.walk.current.framed)
                && let Some((tok, len)) = tls_header(rest)
            {
                self.flush(&mut run);
                self.say(tok, ret);
                if len == usize::from(self.walk.current.left) - 5 {
                    self.say(Tok::RecRest, ret);
                } else {
                    self.say_short(len as u16, ret);
                }
                let is_plain = matches!(tok, Tok::Tls(2, _)) && is_handshake(&rest[5..]);
                let alert_or_change = if len <= 2 { len } else { 0 };
                literal_end = at + 5 + if is_plain { literal_handshake(&rest[5..]) } else { alert_or_change };
                if is_plain && !self.keep_names {
                    let record = &rest[..rest.len().min(5 + len)];
                    spans = names::find_in_handshake(record);
                    spans.iter_mut().for_each(|s| (s.at, s.end) = (s.at + at, s.end + at));
                    spans.reverse();
                }
                continue;
            }
            let visible = &rest[..rest.len().min(limit)];
            if visible.is_empty() || at >= literal_end {
                self.flush(&mut run);
                let tok = match visible {
                    [] => Tok::OpaqueRest,
                    v if v.iter().all(|b| *b == 0) => Tok::ZeroRest,
                    v if record_left == 0 && names::is_text(v) => Tok::TextRest,
                    _ => Tok::OpaqueRest,
                };
                self.say(tok, ret);
                continue;
            }
            let span_at = spans.last().map_or(usize::MAX, |s| s.at - at);
            if span_at == 0 {
                let span = spans.last_mut().expect("just seen");
                self.flush(&mut run);
                // One that goes on behind the record, or the segment, cannot be said as what it is.
                if span.end - at > limit {
                    let part = Span { at, end: at + limit, name: Vec::new(), kind: Kind::Address };
                    self.identifier(&part, ret);
                } else {
                    let span = spans.pop().expect("just seen");
                    self.identifier(&span, ret);
                }
                continue;
            }
            let visible = &visible[..visible.len().min(span_at)];
            let same = common(visible, own.get(at..).unwrap_or_default());
            let peer = common(visible, other.get(at..).unwrap_or_default());
            let longest = same.max(peer);
            if longest >= RUN_MIN || longest >= 1 && longest == limit {
                self.flush(&mut run);
                self.run(same >= peer, longest, limit, ret);
                continue;
            }
            // What is random in a DNS message was found with its names.
            let random = if is_dns && !self.keep_names { 0 } else { random_run(visible) };
            if random > 0 {
                self.flush(&mut run);
                if random == limit {
                    self.say(Tok::OpaqueRest, ret);
                } else {
                    self.say(Tok::Opaque(random.min(RUN_MAX) as u8), ret);
                }
                continue;
            }
            if let (Some(&[a, b]), [x, y, ..]) = (own.get(at..at + 2), visible)
                && u16::from_be_bytes([a, b]).wrapping_add(1) == u16::from_be_bytes([*x, *y])
            {
                self.flush(&mut run);
                self.say(Tok::Inc2, ret);
                continue;
            }
            let literal = &visible[..visible.len().min(literal_end - at)];
            let (tok, len) = match self.dictionary.longest(literal) {
                Some((i, len)) => (Tok::Str(i), len),
                None => (Tok::Byte(visible[0]), 1),
            };
            if self.runs.is_some() {
                run.extend_from_slice(&visible[..len]);
            }
            self.say(tok, ret);
        }
        self.flush(&mut run);
        if !is_new {
            self.facts[slot].messages = messages;
        }
    }

    fn flush(&mut self, run: &mut Vec<u8>) {
        if let Some(runs) = &mut self.runs
            && run.len() >= 2
        {
            runs.push(std::mem::take(run));
        }
        run.clear();
    }

    /// A run of `len` bytes as in this side's last message, or in the other's.
    fn run(&mut self, own: bool, len: usize, limit: usize, ret: &mut Vec<Token>) {
        if len == limit {
            return self.say(if own { Tok::SameRest } else { Tok::PeerRest }, ret);
        }
        let mut left = len;
        while left > 0 {
            let n = left.min(RUN_MAX) as u8;
            self.say(if own { Tok::Same(n) } else { Tok::Peer(n) }, ret);
            left -= usize::from(n);
        }
    }

    /// Says an identifier without saying what it is.
    fn identifier(&mut self, span: &Span, ret: &mut Vec<Token>) {
        let len = span.end - span.at;
        let as_labels = span.kind == Kind::Labels;
        match span.kind {
            Kind::Quad if (7..=15).contains(&len) => self.say(Tok::Quad(len as u8), ret),
            Kind::Text | Kind::Labels if span.name.len() + usize::from(as_labels) == len => {
                let known = self.names.iter().position(|n| n.1.eq_ignore_ascii_case(&span.name));
                let at = known.and_then(|i| self.walk.names.iter().position(|n| n.0 == self.names[i].0));
                match at {
                    Some(i) => self.say(if as_labels { Tok::DnsRef(i as u8) } else { Tok::TextRef(i as u8) }, ret),
                    None => {
                        self.say(if as_labels { Tok::DnsName } else { Tok::TextName }, ret);
                        self.say(Tok::Byte(span.name.len() as u8), ret);
                        self.names.insert(0, (self.walk.names[0].0, span.name.clone()));
                        self.names.truncate(NAMES);
                    }
                }
            }
            _ => {
                let mut left = len;
                while left > 0 {
                    let n = left.min(RUN_MAX);
                    self.say(Tok::Opaque(n as u8), ret);
                    left -= n;
                }
            }
        }
    }

    /// Addresses that a payload may repeat: those in front of it, and those of other hosts of the session.
    fn addresses(&self, frame: &Frame<'_>) -> Vec<Vec<u8>> {
        let hosts = self.hosts.iter().flatten().map(|host| host.1);
        let octets = |address: IpAddr| match address {
            // These are nobody's.
            _ if address.is_multicast() || address.is_unspecified() || address.is_loopback() => None,
            IpAddr::V4(a) if a.is_broadcast() => None,
            IpAddr::V4(a) => Some(a.octets().to_vec()),
            IpAddr::V6(a) => Some(a.octets().to_vec()),
        };
        let mut ret: Vec<Vec<u8>> = hosts.chain([frame.ip.src, frame.ip.dst]).filter_map(octets).collect();
        let macs = frame.link.chunks_exact(6).take(2).filter(|mac| mac[0] & 1 == 0 && **mac != [0; 6]);
        ret.extend(macs.map(<[u8]>::to_vec));
        ret
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

/// Whether an ICMP message quotes the packet that it is about (RFC 792; RFC 4443, section 2.1).
fn is_icmp_error(frame: &Frame<'_>) -> bool {
    let kind = frame.payload[0];
    if frame.ip.src.is_ipv4() { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// The options of a TCP header; ends at what is no option.
fn options(mut bytes: &[u8]) -> Vec<Opt> {
    let mut ret = Vec::new();
    while let [kind, rest @ ..] = bytes {
        if *kind == 1 {
            ret.push(Opt::Nop);
            bytes = rest;
            continue;
        }
        if *kind == 0 {
            ret.push(Opt::Eol);
            break;
        }
        let Some(len) = rest.first().map(|l| usize::from(*l)).filter(|l| (2..=bytes.len()).contains(l)) else { break };
        ret.push(match (kind, len) {
            (2, 4) => Opt::Mss(u16::from_be_bytes([bytes[2], bytes[3]])),
            (3, 3) => Opt::Ws(bytes[2]),
            (4, 2) => Opt::SackOk,
            (8, 10) => Opt::Ts,
            (5, 10 | 18 | 26 | 34) => Opt::Sack((len / 8) as u8, [(0, 0); 4]),
            _ => Opt::Other(*kind, len as u8),
        });
        bytes = &bytes[len..];
    }
    ret
}

/// A TLS record header (RFC 8446, section 5.1), whole, and the length of the record.
fn tls_header(bytes: &[u8]) -> Option<(Tok, usize)> {
    let &[kind, 3, minor @ (1 | 3), high, low, ..] = bytes else { return None };
    let i = TLS_TYPES.iter().position(|t| *t == kind)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    (1..=16_640).contains(&len).then_some((Tok::Tls(i as u8, minor), len))
}

/// Whether a record's body begins like a handshake message in the clear (RFC 8446, section 4).
fn is_handshake(body: &[u8]) -> bool {
    matches!(body, [0..=24, 0, ..] | [0..=24])
}

/// Bytes of a handshake record's body that are said: both hellos and the head of every other message, as certificates tell who has them
/// and tickets are secrets.
fn literal_handshake(body: &[u8]) -> usize {
    match *body {
        [1 | 2, high, middle, low, ..] => {
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            (4 + len).min(LITERAL_HANDSHAKE)
        }
        _ => 4,
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Bytes at the beginning that look random: none, or at least a window.
fn random_run(bytes: &[u8]) -> usize {
    let mut len = 0;
    let mut windows = bytes.chunks_exact(RANDOM_WINDOW).peekable();
    while let Some(window) = windows.next_if(|w| is_random(w)) {
        len += window.len();
    }
    // What is left of a message that is random throughout.
    if len >= RANDOM_WINDOW && bytes.len() - len < RANDOM_WINDOW && windows.peek().is_none() {
        bytes.len()
    } else {
        len
    }
}

fn is_random(window: &[u8]) -> bool {
    let mut seen = [0u64; 4];
    let mut printable = 0;
    for b in window {
        seen[usize::from(b >> 6)] |= 1 << (b & 63);
        printable += usize::from(matches!(b, 0x20..0x7f));
    }
    let distinct: u32 = seen.iter().map(|s| s.count_ones()).sum();
    distinct as usize >= RANDOM_DISTINCT && printable <= RANDOM_PRINTABLE
}
