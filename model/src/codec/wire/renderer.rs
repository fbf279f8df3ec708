//! From actions to frames between the hosts of a plan: everything that the tokens do not decide.
//!
//! [`Renderer::render`] is the plain way: fields, payload, then [`render`]. [`Renderer::render_into`] gives the same bytes with
//! the same chance, for packets that are rendered again and again: the payload goes to its place in the frame at once, and what
//! no later packet refers to is not kept.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::action::{Action, Host, Open, Opt, Piece, Segment, Sport};
use super::encode::tuple_of;
use super::facts::Facts;
use super::handshake::HANDSHAKE;
use super::handshake::shown::Handshake;
use super::side::ACK;
use super::vocab::{HOSTS, NAMES, Proto};
use super::walk::{Walk, options_len};
use crate::flow::FiveTuple;
use crate::packet::Timestamp;
use crate::wire::names::{self, netbios};
use crate::wire::ntp;
use crate::wire::parse::{Frame, ICMP, ICMPV6, Ip, TCP, Tcp, Transport, UDP};
use crate::wire::plan::{self, Plan};
use crate::wire::quic;
use crate::wire::render::{Headers, render};
use crate::wire::{certificate, http};

mod datagram;

/// Bytes of each direction of a stream that are kept for retransmissions.
const HISTORY_MAX: usize = 32 << 10;
/// Longest payload that is rendered: what IP can carry, less the longest headers. A sender that an unmasked model made up may
/// exceed it; its frame is empty then.
pub(super) const PAYLOAD_MAX: usize = 65_535 - 120;

/// Letters of the name of a server that was called by none.
const SERVER_NAME_LEN: usize = 16;

/// What of a packet's payload later packets refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    /// Its place in the stream, for retransmissions.
    pub(super) stream: bool,
    /// The beginning of its message, for `same`, `peer` and their like.
    pub(super) message: bool,
}

impl Keep {
    /// Everything: nobody knows what comes.
    pub(super) const ALL: Self = Self { stream: true, message: true };
}

/// Renders actions as frames between hosts of a plan.
pub(super) struct Renderer {
    plan: Arc<Plan>,
    strings: Arc<[Box<[u8]>]>,
    rng: ChaCha8Rng,
    start: Timestamp,
    /// The client, by version.
    client: [IpAddr; 2],
    /// Whether it talks IPv6, where the plan says how many do.
    is_v6: Option<bool>,
    hosts: Vec<(u32, IpAddr)>,
    names: Vec<(u32, Vec<u8>)>,
    slots: Vec<Rendered>,
    payload: Vec<u8>,
    options: Vec<u8>,
    link: Vec<u8>,
}

/// A flow as it was rendered so far.
struct Rendered {
    facts: Facts,
    sides: [RenderedSide; 2],
    /// The name that a client of TLS calls its server by.
    server_name: Option<Vec<u8>>,
    /// Where it is QUIC.
    quic: Option<Box<quic::Conversation>>,
    /// Where it is NTP.
    ntp: ntp::Association,
}

#[derive(Default)]
struct RenderedSide {
    /// Link header, where one was learned.
    link: Option<Vec<u8>>,
    /// Last identification.
    id: u16,
    /// Timestamp clock at the session's start, in milliseconds, and its last value sent.
    clock: u32,
    last_ts: u32,
    history: History,
    handshake: Handshake,
}

/// The latest part of one direction of a stream.
#[derive(Default)]
struct History {
    from: i64,
    bytes: VecDeque<u8>,
}

impl History {
    fn push(&mut self, at: i64, bytes: &[u8]) {
        if at != self.from + self.bytes.len() as i64 {
            self.bytes.clear();
            self.from = at;
        }
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(HISTORY_MAX);
        self.bytes.drain(..over);
        self.from += over as i64;
    }

    /// Appends `len` bytes from `at`; those that were forgotten are drawn.
    fn read(&self, at: i64, len: usize, rng: &mut ChaCha8Rng, ret: &mut Vec<u8>) {
        for i in at..at + len as i64 {
            let known = usize::try_from(i - self.from).ok().and_then(|i| self.bytes.get(i));
            ret.push(known.copied().unwrap_or_else(|| rng.next_u32() as u8));
        }
    }
}

/// The headers of a packet; options and link header are the renderer's.
struct Head {
    ip: Ip,
    ports: (u16, u16),
    tcp: Option<Tcp<'static>>,
}

impl Renderer {
    /// A renderer at the beginning of a session.
    pub(super) fn new(walk: &Walk, plan: Arc<Plan>, mut rng: ChaCha8Rng, start: Timestamp) -> Self {
        let (client, is_v6) = client_of(&plan, &mut rng);
        Self {
            plan,
            strings: walk.shared_strings(),
            rng,
            start,
            client,
            is_v6,
            hosts: Vec::new(),
            names: Vec::new(),
            slots: Vec::new(),
            payload: Vec::new(),
            options: Vec::new(),
            link: Vec::new(),
        }
    }

    /// The same at the beginning of another session, in the buffers that it has.
    pub(super) fn again(self, mut rng: ChaCha8Rng, start: Timestamp) -> Self {
        let Self { plan, strings, mut hosts, mut names, mut slots, payload, options, link, .. } = self;
        hosts.clear();
        names.clear();
        slots.clear();
        let (client, is_v6) = client_of(&plan, &mut rng);
        Self { plan, strings, rng, start, client, is_v6, hosts, names, slots, payload, options, link }
    }

    /// Appends the frame of `action` at the time `now`.
    pub(super) fn render(&mut self, action: &Action, now: Timestamp, ret: &mut Vec<u8>) {
        self.begin(action);
        let head = self.head(action, now);
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        self.payload(action, Keep::ALL, now, &mut payload);
        let transport = match head.tcp {
            Some(tcp) => Transport::Tcp(Tcp { options: &self.options, ..tcp }),
            None if action.proto == Proto::Icmp => Transport::Icmp,
            None => Transport::Udp { src_port: head.ports.0, dst_port: head.ports.1 },
        };
        let frame = Frame { link: &self.link, ip: head.ip, transport, payload: &payload, payload_len: payload.len() };
        if payload.len() <= PAYLOAD_MAX {
            render(&frame, ret);
        }
        self.payload = payload;
    }

    /// Makes `ret` the frame of `action` at the time `now`: the bytes that [`render`](Self::render) appends, with the same chance.
    /// Only what `keep` says is there for later packets.
    pub(super) fn render_into(&mut self, action: &Action, keep: Keep, now: Timestamp, ret: &mut Vec<u8>) {
        self.begin(action);
        let head = self.head(action, now);
        let transport = match head.tcp {
            Some(tcp) => Transport::Tcp(Tcp { options: &self.options, ..tcp }),
            None if action.proto == Proto::Icmp => Transport::Icmp,
            None => Transport::Udp { src_port: head.ports.0, dst_port: head.ports.1 },
        };
        let headers = Headers::new(&self.link, &head.ip, &transport);
        ret.clear();
        headers.reserve(ret);
        self.payload(action, keep, now, ret);
        if ret.len() - headers.len() <= PAYLOAD_MAX {
            headers.fill(ret);
        } else {
            ret.clear();
        }
    }

    /// Opens the flow of `action` where it does.
    fn begin(&mut self, action: &Action) {
        if let Some(open) = action.opens {
            self.open(action, open);
        }
    }

    /// The headers of `action`, with the link header in `self.link` and the options in `self.options`.
    fn head(&mut self, action: &Action, now: Timestamp) -> Head {
        let me = usize::from(!action.from_orig);
        let Rendered { facts, sides, .. } = &mut self.slots[usize::from(action.slot)];
        let (own, other) = {
            let [a, b] = sides;
            if me == 0 { (a, b) } else { (b, a) }
        };
        if !action.id_zero {
            own.id = own.id.wrapping_add(1);
        }
        let tuple = if action.from_orig { facts.tuple } else { facts.tuple.reversed() };
        let isn = |side: usize| facts.isn[side].unwrap_or(0);
        self.options.clear();
        // What is decided for one version of IP is said for the other.
        let mss_max = (tuple.orig.is_ipv6() && !action.v6).then_some(self.plan.mtu - 60);
        let tcp = action.tcp.as_ref().map(|s| {
            let elapsed = (now.nanos_since(self.start) / 1_000_000) as u32;
            options(s, mss_max, own, other.last_ts, elapsed, isn(1 - me), &mut self.options);
            Tcp {
                src_port: tuple.orig_port,
                dst_port: tuple.resp_port,
                seq: isn(me).wrapping_add(s.seq as u32),
                ack: if s.flags & ACK == 0 { 0 } else { isn(1 - me).wrapping_add(s.ack as u32) },
                flags: s.flags,
                window: s.window,
                urgent: 0,
                options: &[],
            }
        });
        let ip = Ip {
            src: tuple.orig,
            dst: tuple.resp,
            protocol: tuple.protocol,
            tos: action.tos,
            ttl: action.ttl,
            id: if action.id_zero { 0 } else { own.id },
            df: action.df,
        };
        self.link.clear();
        match &own.link {
            Some(link) => self.link.extend_from_slice(link),
            None => self.plan.link(ip.src, ip.dst, action.from_orig, &mut self.link),
        }
        Head { ip, ports: (tuple.orig_port, tuple.resp_port), tcp }
    }

    /// Learns from the captured frame that `action`, the last one rendered, stands for.
    pub(super) fn learn(&mut self, action: &Action, frame: &Frame<'_>, now: Timestamp) {
        let Rendered { facts, sides, .. } = &mut self.slots[usize::from(action.slot)];
        let me = usize::from(!action.from_orig);
        if action.opens.is_some() {
            facts.tuple = tuple_of(frame);
            facts.isn = [None; 2];
        }
        facts.learn(action, frame);
        let own = &mut sides[me];
        own.link = Some(frame.link.to_vec());
        if frame.ip.id != 0 {
            own.id = frame.ip.id;
        }
        if let Transport::Tcp(tcp) = frame.transport
            && let Some(at) = tcp.options.windows(2).position(|w| w == [8, 10])
            && let Some(&[a, b, c, d]) = tcp.options.get(at + 2..at + 6)
        {
            own.last_ts = u32::from_be_bytes([a, b, c, d]);
            own.clock = own.last_ts.wrapping_sub((now.nanos_since(self.start) / 1_000_000) as u32);
        }
    }

    fn open(&mut self, action: &Action, open: Open) {
        let v6 = match (self.is_v6, open.host) {
            (Some(v6), Host::Known(_)) if action.proto != Proto::Icmp => v6,
            _ => action.v6,
        };
        let orig = self.client[usize::from(v6)];
        let resp = match open.host {
            Host::Group(octets) if v6 => IpAddr::from(octets),
            Host::Group([a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
            Host::Broadcast => self.plan.client_broadcast(v6),
            Host::Known(id) => match self.hosts.iter().find(|h| h.0 == id && h.1.is_ipv6() == v6) {
                Some(host) => host.1,
                None => {
                    let host = self.plan.server(v6, &mut self.rng);
                    self.hosts.insert(0, (id, host));
                    self.hosts.truncate(4 * HOSTS);
                    host
                }
            },
        };
        let resp_port = open.port.unwrap_or_else(|| plan::ephemeral_port(&mut self.rng));
        let orig_port = match open.sport {
            Sport::Ephemeral => plan::ephemeral_port(&mut self.rng),
            Sport::Same => resp_port,
            Sport::Number(port) => port,
        };
        let (protocol, has_ports) = match action.proto {
            Proto::Tcp => (TCP, true),
            Proto::Udp => (UDP, true),
            Proto::Icmp => (if v6 { ICMPV6 } else { ICMP }, false),
        };
        let ports = if has_ports { (orig_port, resp_port) } else { (0, 0) };
        let mut tuple = FiveTuple { orig, resp, orig_port: ports.0, resp_port: ports.1, protocol };
        // Two flows that are open at once never share a 5-tuple, not even where the model chose the port.
        while has_ports && self.slots.iter().any(|s| s.facts.tuple.key() == tuple.key()) {
            tuple.orig_port = plan::ephemeral_port(&mut self.rng);
        }
        let mut facts = Facts::new(tuple);
        facts.isn = [Some(self.rng.next_u32()), Some(self.rng.next_u32())];
        let mut side = || RenderedSide {
            id: self.rng.next_u32() as u16,
            clock: self.rng.next_u32() >> 2,
            ..RenderedSide::default()
        };
        let rendered = Rendered {
            facts,
            sides: [side(), side()],
            server_name: None,
            quic: None,
            ntp: ntp::Association::default(),
        };
        match self.slots.get_mut(usize::from(action.slot)) {
            Some(place) => *place = rendered,
            None => self.slots.push(rendered),
        }
    }

    /// Appends the payload.
    fn payload(&mut self, action: &Action, keep: Keep, now: Timestamp, ret: &mut Vec<u8>) {
        if action.proto == Proto::Icmp {
            ret.extend_from_slice(&[action.icmp[0], action.icmp[1], 0, 0]);
        }
        let start = ret.len();
        let me = usize::from(!action.from_orig);
        let history = &mut self.slots[usize::from(action.slot)].sides[me].history;
        if let Some(Segment { hole: hole @ 1.., .. }) = action.tcp {
            let mut skipped = vec![0; usize::from(hole)];
            self.rng.fill_bytes(&mut skipped);
            history.push(action.stream_at - i64::from(hole), &skipped);
        }
        history.read(action.stream_at, usize::from(action.len_known), &mut self.rng, ret);
        let new = ret.len();
        for piece in &action.pieces {
            self.piece(*piece, action, me, new, ret);
        }
        match action.proto {
            Proto::Udp => self.complete(action, me, now, &mut ret[new..]),
            Proto::Tcp => {
                self.certify(action, me, now, &mut ret[new..]);
                if let Some(Piece::Text(n)) = action.pieces.last() {
                    let payload = &mut ret[new..];
                    http::end_head(payload, payload.len().saturating_sub(usize::from(*n)));
                }
            }
            Proto::Icmp => {}
        }
        let slot = &mut self.slots[usize::from(action.slot)];
        if keep.stream && action.tcp.is_some() {
            slot.sides[me].history.push(action.stream_at + i64::from(action.len_known), &ret[new..]);
        }
        if keep.message {
            slot.facts.say(action, &ret[start..]);
        }
    }

    /// Writes certificates where a server shows some, over what was drawn.
    fn certify(&mut self, action: &Action, me: usize, now: Timestamp, payload: &mut [u8]) {
        let slot = &mut self.slots[usize::from(action.slot)];
        if action.tcp.as_ref().is_some_and(|segment| segment.hole > 0) {
            slot.sides[me].handshake.shown.clear();
        }
        let Rendered { sides, server_name, .. } = slot;
        let name = |rng: &mut ChaCha8Rng| server_name.clone().unwrap_or_else(|| plan::name(SERVER_NAME_LEN, rng));
        sides[me].handshake.complete(&action.pieces, &self.strings, payload, |len| {
            let name = name(&mut self.rng);
            certificate::chain(len, &name, now, &mut self.rng)
        });
    }

    /// Appends a piece of the payload that begins at `new`.
    fn piece(&mut self, piece: Piece, action: &Action, me: usize, new: usize, ret: &mut Vec<u8>) {
        let messages = &self.slots[usize::from(action.slot)].facts.messages;
        let at = ret.len() - new;
        let end = ret.len() + usize::from(piece.len(&self.strings));
        match piece {
            Piece::Byte(b) => ret.push(b),
            Piece::Str(i) => ret.extend_from_slice(&self.strings[usize::from(i)]),
            Piece::Same(n) => ret.extend_from_slice(part(&messages[me], at, n)),
            Piece::Peer(n) => ret.extend_from_slice(part(&messages[1 - me], at, n)),
            Piece::Inc2 => {
                if let Some(&[a, b]) = messages[me].get(at..at + 2) {
                    ret.extend_from_slice(&u16::from_be_bytes([a, b]).wrapping_add(1).to_be_bytes());
                }
            }
            Piece::Opaque(_) => {
                let at = ret.len();
                ret.resize(end, 0);
                self.rng.fill_bytes(&mut ret[at..]);
            }
            Piece::Text(n) => text(usize::from(n), &mut self.rng, ret),
            Piece::Zero(_) => {}
            Piece::Quad(n) => ret.extend(plan::quad(usize::from(n), &mut self.rng)),
            Piece::Name(id, len, as_labels) => {
                let tuple = &self.slots[usize::from(action.slot)].facts.tuple;
                let is_netbios = [tuple.orig_port, tuple.resp_port].into_iter().any(names::is_netbios);
                let name = self.name(id, usize::from(len));
                if me == 0 && action.pieces.iter().any(|piece| matches!(piece, Piece::Tls(HANDSHAKE, ..))) {
                    self.slots[usize::from(action.slot)].server_name = Some(name.clone());
                }
                if is_netbios && name.len() == netbios::NAME_LEN {
                    ret.extend(netbios::encoded(&name[..netbios::NAME_LEN / 2].to_ascii_uppercase()));
                } else if as_labels {
                    for label in name.split(|b| *b == b'.') {
                        ret.push(label.len() as u8);
                        ret.extend_from_slice(label);
                    }
                } else {
                    ret.extend_from_slice(&name);
                }
            }
            Piece::Tls(kind, minor, len) => {
                let [high, low] = len.to_be_bytes();
                ret.extend_from_slice(&[kind, 3, minor, high, low]);
            }
            Piece::Quote(n) => self.quote(action, me, usize::from(n), ret),
        }
        // Zeros, and whatever could not be found.
        ret.resize(end, 0);
    }

    fn name(&mut self, id: u32, len: usize) -> Vec<u8> {
        if let Some((_, name)) = self.names.iter().find(|n| n.0 == id && n.1.len() == len) {
            return name.clone();
        }
        let name = plan::name(len, &mut self.rng);
        self.names.insert(0, (id, name.clone()));
        self.names.truncate(4 * NAMES);
        name
    }

    /// The body of an ICMP error: four bytes, then a UDP packet of the host that is told (RFC 792).
    fn quote(&mut self, action: &Action, me: usize, len: usize, ret: &mut Vec<u8>) {
        let tuple = self.slots[usize::from(action.slot)].facts.tuple;
        let (src, dst) = if me == 0 { (tuple.resp, tuple.orig) } else { (tuple.orig, tuple.resp) };
        let headers = if action.v6 { 48 } else { 28 };
        ret.extend_from_slice(&[0; 4]);
        let Some(payload_len) = len.checked_sub(4 + headers) else { return ret.truncate(ret.len() - 4) };
        let mut payload = vec![0; payload_len];
        self.rng.fill_bytes(&mut payload);
        let ip = Ip { src, dst, protocol: UDP, tos: 0, ttl: 1, id: self.rng.next_u32() as u16, df: false };
        let transport = Transport::Udp {
            src_port: plan::ephemeral_port(&mut self.rng),
            dst_port: plan::ephemeral_port(&mut self.rng),
        };
        render(&Frame { link: &[], ip, transport, payload: &payload, payload_len }, ret);
    }
}

/// The client of a session, by version of IP, and which of them it is where the plan says how many are.
fn client_of(plan: &Plan, rng: &mut ChaCha8Rng) -> ([IpAddr; 2], Option<bool>) {
    let client = [plan.client(false, rng), plan.client(true, rng)];
    (client, plan.ipv6_percent.map(|percent| rng.random_range(0..100) < percent))
}

/// The options of a segment as bytes, without padding.
fn options(
    s: &Segment,
    mss_max: Option<u16>,
    own: &mut RenderedSide,
    echo: u32,
    elapsed: u32,
    peer_isn: u32,
    ret: &mut Vec<u8>,
) {
    ret.reserve(options_len(&s.options));
    for option in &s.options {
        match *option {
            Opt::Mss(n) => {
                let n = n.min(mss_max.unwrap_or(n));
                ret.extend_from_slice(&[2, 4, (n >> 8) as u8, n as u8]);
            }
            Opt::Ws(n) => ret.extend_from_slice(&[3, 3, n]),
            Opt::SackOk => ret.extend_from_slice(&[4, 2]),
            Opt::Ts => {
                own.last_ts = own.clock.wrapping_add(elapsed);
                ret.extend_from_slice(&[8, 10]);
                ret.extend_from_slice(&own.last_ts.to_be_bytes());
                // RFC 7323, section 3.2: only an acknowledgement echoes.
                let echo = if s.flags & super::side::ACK == 0 { 0 } else { echo };
                ret.extend_from_slice(&echo.to_be_bytes());
            }
            Opt::Nop => ret.push(1),
            Opt::Eol => ret.push(0),
            Opt::Sack(n, blocks) => {
                ret.extend_from_slice(&[5, 2 + 8 * n]);
                for (from, to) in &blocks[..usize::from(n)] {
                    ret.extend_from_slice(&peer_isn.wrapping_add(*from as u32).to_be_bytes());
                    ret.extend_from_slice(&peer_isn.wrapping_add(*to as u32).to_be_bytes());
                }
            }
            Opt::Other(kind, _) => {
                let at = ret.len();
                ret.resize(at + option.len(), 0);
                ret[at] = kind;
                ret[at + 1] = option.len() as u8;
            }
        }
    }
}

/// At most `n` bytes of a message, from `at` on.
fn part(message: &[u8], at: usize, n: u16) -> &[u8] {
    let rest = message.get(at..).unwrap_or_default();
    &rest[..rest.len().min(usize::from(n))]
}

/// Words of letters.
fn text(len: usize, rng: &mut ChaCha8Rng, ret: &mut Vec<u8>) {
    const LETTERS: &[u8; 32] = b"etaoinshrdlucmfwypvbgkqjxz     \n";
    let at = ret.len();
    ret.resize(at + len, 0);
    rng.fill_bytes(&mut ret[at..]);
    ret[at..].iter_mut().for_each(|b| *b = LETTERS[usize::from(*b & 31)]);
}
