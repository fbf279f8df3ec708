//! One flow of the chain on the wire: who talks, and the numbers that must agree between two ends.

use std::net::IpAddr;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_model::wire::parse::{Frame, ICMP, ICMPV6, Ip, Tcp, Transport};
use wiremamba_model::wire::plan::{Plan, ephemeral_port};
use wiremamba_model::wire::render::render;

use super::{HeaderSeen, Kind, Seen, Symbol};
use crate::view::{TCP, TcpView, UDP};

/// Longest payload: what IPv6 and TCP headers leave of 65,535 bytes.
const PAYLOAD_BYTES_MAX: usize = 65_535 - 60;
/// Type, code, checksum and four bytes that depend on the type (RFC 792, RFC 4443).
const ICMP_BYTES_MIN: usize = 8;

/// The two ends of a flow while it is being written.
#[derive(Debug)]
pub(super) struct Talk<'a> {
    plan: &'a Plan,
    now: Timestamp,
    /// Chosen with the first packet, which tells the IP version.
    ends: Option<Ends>,
    /// `orig` and `resp`.
    sides: [Side; 2],
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    addresses: [IpAddr; 2],
    ports: [u16; 2],
}

/// What one end remembers.
#[derive(Debug)]
struct Side {
    /// Initial sequence number.
    iss: u32,
    /// Sequence number of the next byte.
    next: u32,
    fin_sent: bool,
    ip_id: u16,
}

impl<'a> Talk<'a> {
    /// A flow that begins at `start`.
    pub(super) fn new(plan: &'a Plan, start: Timestamp, rng: &mut ChaCha8Rng) -> Self {
        let mut side = || {
            let iss = rng.random();
            Side { iss, next: iss, fin_sent: false, ip_id: rng.random() }
        };
        Self { plan, now: start, ends: None, sides: [side(), side()] }
    }

    /// The next packet: an Ethernet frame whose payload is random bytes.
    pub(super) fn say(&mut self, symbol: Symbol, seen: &Seen, rng: &mut ChaCha8Rng) -> Packet {
        let ends = match self.ends {
            Some(ends) => {
                self.now = self.now.plus_nanos(seen.gaps.draw(rng).unwrap_or(0));
                ends
            }
            None => *self.ends.insert(choose_ends(self.plan, seen, rng)),
        };
        let mut header = || seen.headers.draw(rng).expect("every symbol was seen with a header");
        let HeaderSeen { icmp_code, tos, df, .. } = header();
        let (payload_len, ttl, window) = (header().payload_len, header().ttl, header().window);
        let mut payload = vec![0; payload_len.min(PAYLOAD_BYTES_MAX)];
        rng.fill_bytes(&mut payload);

        let (own, other) = if symbol.from_orig { (0, 1) } else { (1, 0) };
        let [src, dst] = [ends.addresses[own], ends.addresses[other]];
        let (protocol, transport) = match symbol.kind {
            Kind::Tcp(flags) => (TCP, self.tcp(&ends, own, flags, window, payload.len())),
            Kind::Udp => (UDP, Transport::Udp { src_port: ends.ports[own], dst_port: ends.ports[other] }),
            Kind::Icmp { v6, icmp_type } => {
                payload.resize(payload.len().max(ICMP_BYTES_MIN), 0);
                payload[..2].copy_from_slice(&[icmp_type, icmp_code]);
                (if v6 { ICMPV6 } else { ICMP }, Transport::Icmp)
            }
        };
        let side = &mut self.sides[own];
        side.ip_id = side.ip_id.wrapping_add(1);
        let ip = Ip { src, dst, protocol, tos, ttl, id: if src.is_ipv4() { side.ip_id } else { 0 }, df };
        let mut link = Vec::new();
        self.plan.link(src, dst, symbol.from_orig, &mut link);
        let mut data = Vec::new();
        render(&Frame { link: &link, ip, transport, payload: &payload, payload_len: payload.len() }, &mut data);
        Packet { ts: self.now, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    }

    /// A TCP header that goes on where this side stopped and acknowledges all that the other side sent.
    fn tcp(&mut self, ends: &Ends, own: usize, flags: u8, window: u16, payload_len: usize) -> Transport<'static> {
        let ack = if flags & TcpView::ACK == 0 { 0 } else { self.sides[1 - own].next };
        let [syn, fin] = [TcpView::SYN, TcpView::FIN].map(|flag| flags & flag != 0);
        let side = &mut self.sides[own];
        // A SYN or FIN that comes again is a retransmission: it takes no new sequence number.
        let syn_again = syn && side.next == side.iss.wrapping_add(1);
        let fin_again = fin && side.fin_sent && payload_len == 0;
        let seq = side.next.wrapping_sub(u32::from(syn_again || fin_again));
        let used = payload_len as u32 + u32::from(syn) + u32::from(fin);
        side.next = seq.wrapping_add(used);
        side.fin_sent |= fin;
        Transport::Tcp(Tcp {
            src_port: ends.ports[own],
            dst_port: ends.ports[1 - own],
            seq,
            ack,
            flags,
            window,
            urgent: 0,
            options: &[],
        })
    }
}

fn choose_ends(plan: &Plan, first: &Seen, rng: &mut ChaCha8Rng) -> Ends {
    let (v6, port) = first.services.draw(rng).expect("a walk begins with what a flow began with");
    let addresses = [plan.client(v6, rng), plan.server(v6, rng)];
    Ends { addresses, ports: [ephemeral_port(rng), port] }
}
