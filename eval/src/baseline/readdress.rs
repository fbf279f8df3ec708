//! A real flow between other hosts: addresses, client port, sequence numbers and IP ids replaced, checksums right.
//!
//! A real host stays one host: all flows drawn for the first time share one table of new addresses, all that are drawn
//! for the second time another one, as if a second network did the same. So hosts are as popular as they were, and no two
//! copies of a flow share a 5-tuple. Group addresses, 255.255.255.255 and 0.0.0.0 name no host and stay.

mod quoted;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::{Direction, FiveTuple, Flow, FlowKey, dissect};
use wiremamba_model::packet::{LinkType, Packet};
use wiremamba_model::wire::parse::{Frame, Ip, Tcp, Transport, parse};
use wiremamba_model::wire::plan::{Plan, ephemeral_port};
use wiremamba_model::wire::render::render;

use crate::view::{TCP, TcpView, UDP};

/// Draws of an address or a port that is not taken; beyond it a taken one is used again.
const TRIES_MAX: usize = 64;
/// Ports below it belong to services and are kept (RFC 6335, section 6).
const SYSTEM_PORTS_END: u16 = 1024;
/// Shortest Ethernet frame without its check sequence (IEEE 802.3, clause 3.2.8): what is shorter was padded.
const ETHERNET_BYTES_MIN: usize = 60;

/// Who the real hosts become.
#[derive(Debug)]
pub(super) struct Hosts<'a> {
    plan: &'a Plan,
    /// Addresses that no new host may have: those of real hosts, and those given away.
    taken: HashSet<IpAddr>,
    /// New address of a real host, by the copy of the network that it is in.
    new: HashMap<(IpAddr, u32), IpAddr>,
    /// How often each real 5-tuple was moved.
    copies: HashMap<FlowKey, u32>,
    /// 5-tuples of the copies.
    moved: HashSet<FlowKey>,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Client,
    Server,
}

impl<'a> Hosts<'a> {
    /// Nobody is moved yet; the new hosts are those of `plan`, and none of them is one of `flows`.
    pub(super) fn new(plan: &'a Plan, flows: &[Flow]) -> Self {
        let taken = flows.iter().flat_map(|f| [f.tuple.orig, f.tuple.resp]).collect();
        Self { plan, taken, new: HashMap::new(), copies: HashMap::new(), moved: HashSet::new() }
    }

    /// Finds new ends for one more copy of a flow.
    pub(super) fn move_flow<'h>(&'h mut self, flow: &Flow, rng: &'h mut ChaCha8Rng) -> MovedFlow<'h, 'a> {
        let copies = self.copies.entry(flow.tuple.key()).or_default();
        let copy = *copies;
        *copies += 1;
        let orig = self.moved_host(flow.tuple.orig, copy, Role::Client, rng);
        let resp = match flow.tuple.resp {
            // The broadcast address of a network looks like a host; the link layer tells.
            IpAddr::V4(a) if !a.is_broadcast() && is_link_broadcast(&flow.packets[0].1) => {
                self.plan.client_broadcast(false)
            }
            resp => self.moved_host(resp, copy, Role::Server, rng),
        };
        let mut tuple = FiveTuple { orig, resp, ..flow.tuple };
        for _ in 0..TRIES_MAX {
            tuple = with_new_client_port(tuple, flow.tuple, rng);
            if self.moved.insert(tuple.key()) {
                break;
            }
        }
        MovedFlow { tuple, seq_shift: rng.random(), id_shift: rng.random(), copy, hosts: self, rng }
    }

    fn moved_host(&mut self, host: IpAddr, copy: u32, role: Role, rng: &mut ChaCha8Rng) -> IpAddr {
        let names_no_host = match host {
            IpAddr::V4(a) => a.is_broadcast() || a.is_multicast() || a.is_unspecified(),
            IpAddr::V6(a) => a.is_multicast() || a.is_unspecified(),
        };
        if names_no_host {
            return host;
        }
        if let Some(new) = self.new.get(&(host, copy)) {
            return *new;
        }
        let mut draw = || match role {
            Role::Client => self.plan.client(host.is_ipv6(), rng),
            Role::Server => self.plan.server(host.is_ipv6(), rng),
        };
        let mut new = draw();
        for _ in 1..TRIES_MAX {
            if !self.taken.contains(&new) {
                break;
            }
            new = draw();
        }
        self.taken.insert(new);
        self.new.insert((host, copy), new);
        new
    }
}

/// The larger port is the client's and becomes an ephemeral one, larger than the other if it can be. Ports of services
/// stay, and so does a pair of equal ports (mDNS, NTP between servers), and those of protocols other than TCP and UDP.
fn with_new_client_port(mut tuple: FiveTuple, real: FiveTuple, rng: &mut ChaCha8Rng) -> FiveTuple {
    let (client, kept) = (real.orig_port.max(real.resp_port), real.orig_port.min(real.resp_port));
    if client < SYSTEM_PORTS_END || client == kept || !matches!(real.protocol, TCP | UDP) {
        return tuple;
    }
    let mut port = ephemeral_port(rng);
    for _ in 1..TRIES_MAX {
        if port > kept {
            break;
        }
        port = ephemeral_port(rng);
    }
    if real.orig_port == client {
        tuple.orig_port = port
    } else {
        tuple.resp_port = port
    }
    tuple
}

fn is_link_broadcast(packet: &Packet) -> bool {
    packet.linktype == LinkType::ETHERNET && packet.data.starts_with(&[0xff; 6])
}

/// Whether [`MovedFlow::move_packet`] gives a packet. Not so for fragments, because those behind the first belong to another
/// flow, and would never meet it again; nor for TCP, UDP and ICMP below IP options or extension headers.
pub(super) fn can_be_moved(packet: &Packet) -> bool {
    parse(packet).is_ok() || plain_ipv4(packet).is_some()
}

/// A copy of a flow between new hosts.
#[derive(Debug)]
pub(super) struct MovedFlow<'h, 'a> {
    tuple: FiveTuple,
    /// What is added to the sequence numbers of each side, `orig` first.
    seq_shift: [u32; 2],
    /// What is added to the IP ids of each side that counts them.
    id_shift: [u16; 2],
    copy: u32,
    hosts: &'h mut Hosts<'a>,
    rng: &'h mut ChaCha8Rng,
}

impl MovedFlow<'_, '_> {
    /// A packet of the flow, moved: an Ethernet frame with the time of the real one. `None` where a packet has too much
    /// structure that is not read, see [`can_be_moved`].
    ///
    /// A packet that the snaplen cut is cut at the same place; its checksum is that of zeros in place of the rest.
    pub(super) fn move_packet(&mut self, direction: Direction, packet: &Packet) -> Option<Packet> {
        let tuple = if direction == Direction::Orig { self.tuple } else { self.tuple.reversed() };
        let mut data = Vec::with_capacity(packet.data.len() + 14);
        self.hosts.plan.link(tuple.orig, tuple.resp, direction == Direction::Orig, &mut data);
        let cut = match parse(packet) {
            Ok(frame) => self.move_frame(direction, tuple, &frame, &mut data),
            Err(_) => self.move_plain(direction, tuple, packet, &mut data)?,
        };
        let was_padded = packet.linktype == LinkType::ETHERNET && packet.len as usize >= ETHERNET_BYTES_MIN;
        if cut == 0 && was_padded && data.len() < ETHERNET_BYTES_MIN {
            data.resize(ETHERNET_BYTES_MIN, 0);
        }
        Some(Packet { ts: packet.ts, linktype: LinkType::ETHERNET, len: (data.len() + cut) as u32, data })
    }

    /// Appends a frame behind the link header in `ret`. Returns how many bytes of it the capture lacks.
    fn move_frame(&mut self, direction: Direction, tuple: FiveTuple, frame: &Frame<'_>, ret: &mut Vec<u8>) -> usize {
        let (own, other) = sides(direction);
        let mut options = Vec::new();
        let transport = match frame.transport {
            Transport::Tcp(tcp) => {
                let acked = self.seq_shift[other];
                options.extend_from_slice(tcp.options);
                shift_sack(&mut options, acked);
                Transport::Tcp(Tcp {
                    src_port: tuple.orig_port,
                    dst_port: tuple.resp_port,
                    seq: tcp.seq.wrapping_add(self.seq_shift[own]),
                    // Without the flag the field means nothing, and is 0 as a rule.
                    ack: if tcp.flags & TcpView::ACK == 0 { tcp.ack } else { tcp.ack.wrapping_add(acked) },
                    options: &options,
                    ..tcp
                })
            }
            Transport::Udp { .. } => Transport::Udp { src_port: tuple.orig_port, dst_port: tuple.resp_port },
            Transport::Icmp => Transport::Icmp,
        };
        let mut payload = Cow::Borrowed(frame.payload);
        if frame.transport == Transport::Icmp {
            let moved = |host| self.hosts.moved_host(host, self.copy, Role::Server, self.rng);
            quoted::move_hosts(frame.ip.protocol, payload.to_mut(), moved);
        }
        let cut = frame.payload_len - payload.len();
        if cut > 0 {
            payload.to_mut().resize(frame.payload_len, 0);
        }
        let ip = Ip { src: tuple.orig, dst: tuple.resp, id: self.shift_id(own, frame.ip.id), ..frame.ip };
        let link = std::mem::take(ret);
        render(&Frame { link: &link, ip, transport, payload: &payload, payload_len: frame.payload_len }, ret);
        ret.truncate(ret.len() - cut);
        cut
    }

    /// Appends an IPv4 packet whose body does not depend on who sends it. Returns how many bytes the capture lacks.
    fn move_plain(
        &mut self,
        direction: Direction,
        tuple: FiveTuple,
        packet: &Packet,
        ret: &mut Vec<u8>,
    ) -> Option<usize> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (tuple.orig, tuple.resp) else { return None };
        let plain = plain_ipv4(packet)?;
        let at = ret.len();
        ret.extend_from_slice(plain.bytes);
        let header = &mut ret[at..at + plain.header_len];
        let id = self.shift_id(sides(direction).0, u16::from_be_bytes([header[4], header[5]]));
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[12..16].copy_from_slice(&src.octets());
        header[16..20].copy_from_slice(&dst.octets());
        quoted::seal_ipv4(header);
        Some(plain.cut)
    }

    /// An id of 0 says that the sender does not count them (RFC 6864, section 4.1), and stays.
    fn shift_id(&self, side: usize, id: u16) -> u16 {
        if id == 0 { 0 } else { id.wrapping_add(self.id_shift[side]) }
    }
}

/// Places of the sender and of the other side in pairs that begin with `orig`.
fn sides(direction: Direction) -> (usize, usize) {
    match direction {
        Direction::Orig => (0, 1),
        Direction::Resp => (1, 0),
    }
}

/// Adds to the edges of all SACK blocks (RFC 2018, section 3), which speak of the other side's sequence numbers.
fn shift_sack(mut options: &mut [u8], shift: u32) {
    loop {
        let len = match *options {
            [] | [0, ..] => return,
            [1, ..] => 1,
            [_, len, ..] if len >= 2 && usize::from(len) <= options.len() => usize::from(len),
            [..] => return,
        };
        let (option, rest) = options.split_at_mut(len);
        if option[0] == 5 {
            for edge in option[2..].chunks_exact_mut(4) {
                let real = u32::from_be_bytes(edge.try_into().expect("chunks of 4"));
                edge.copy_from_slice(&real.wrapping_add(shift).to_be_bytes());
            }
        }
        options = rest;
    }
}

/// An IPv4 packet that can be moved by its header alone.
struct PlainIpv4<'a> {
    /// The packet, without padding.
    bytes: &'a [u8],
    header_len: usize,
    /// Bytes that the capture lacks.
    cut: usize,
}

/// Reads an IPv4 packet of a protocol without a checksum over the addresses and without addresses of its own: IGMP, ESP,
/// SCTP (RFC 3376, RFC 4303, RFC 9260).
fn plain_ipv4(packet: &Packet) -> Option<PlainIpv4<'_>> {
    let found = dissect(packet.linktype, &packet.data).ok()?;
    let bytes = packet.data.get(found.ip_offset..found.ip_end)?;
    let [first, _, high, low, ..] = *bytes else { return None };
    let header_len = usize::from(first & 15) * 4;
    let ip_len = usize::from(u16::from_be_bytes([high, low]));
    let is_plain = first >> 4 == 4 && matches!(found.tuple.protocol, 2 | 50 | 132);
    let fits = header_len <= bytes.len() && bytes.len() <= ip_len && found.ip_offset + ip_len <= packet.len as usize;
    (is_plain && fits).then(|| PlainIpv4 { bytes, header_len, cut: ip_len - bytes.len() })
}
