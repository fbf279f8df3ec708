//! A TCP state machine of our own that watches packets, as a judge beside tshark.

use std::collections::HashMap;
use std::net::IpAddr;

use wiremamba_model::packet::Packet;
use wiremamba_model::wire::parse::{Tcp, Transport, parse};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// Bytes that a sender may leave out: what one token says.
const HOLE_MAX: i64 = 65_535;

type End = (IpAddr, u16);

/// One side of a flow, in sequence numbers of its own.
#[derive(Debug)]
struct Side {
    /// The first number seen.
    first: u32,
    /// Behind the last byte that was sent or left out.
    next: u32,
    /// TCP timestamps sent.
    clocks: Vec<u32>,
}

/// What no two TCPs that know their own state would send (RFC 9293, RFC 7323); retransmissions, gaps, reordering and
/// keep-alives they would. Packets in the order of their times.
pub fn contradictions(packets: &[Packet]) -> Vec<String> {
    let mut sides: HashMap<(End, End), Side> = HashMap::new();
    let mut found = Vec::new();
    for (number, packet) in (1..).zip(packets) {
        let Ok(frame) = parse(packet) else { continue };
        let Transport::Tcp(tcp) = frame.transport else { continue };
        let (me, peer) = ((frame.ip.src, tcp.src_port), (frame.ip.dst, tcp.dst_port));
        if tcp.flags & (SYN | ACK) == SYN && sides.get(&(me, peer)).is_none_or(|s| s.first != tcp.seq) {
            // The ports are used again.
            sides.remove(&(me, peer));
            sides.remove(&(peer, me));
        }
        let problem = look(&tcp, frame.payload_len, sides.get(&(me, peer)), sides.get(&(peer, me)));
        if let Some(problem) = problem {
            found.push(format!("packet {number}: {problem}"));
        }
        let end = tcp
            .seq
            .wrapping_add(frame.payload_len as u32 + u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0));
        let side = sides.entry((me, peer)).or_insert(Side { first: tcp.seq, next: end, clocks: Vec::new() });
        if ahead(end, side.next) > 0 {
            side.next = end;
        }
        side.clocks.extend(timestamps(tcp.options).map(|(value, _)| value));
    }
    found
}

fn look(tcp: &Tcp<'_>, len: usize, own: Option<&Side>, peer: Option<&Side>) -> Option<String> {
    if tcp.flags & SYN != 0 && tcp.flags & ACK == 0 && tcp.ack != 0 {
        return Some(format!("acknowledges {} without the flag", tcp.ack));
    }
    if let Some(own) = own {
        let (from_next, from_first) = (ahead(tcp.seq, own.next), ahead(tcp.seq, own.first));
        // A keep-alive is one before; a flow seen from its middle may begin with a retransmission of what is older.
        if from_next > HOLE_MAX || from_first < -1 {
            return Some(format!(
                "sequence number {from_next} from the next, {from_first} from the first, {len} bytes"
            ));
        }
    }
    let peer = peer?;
    if tcp.flags & ACK != 0 && tcp.flags & RST == 0 {
        let (beyond, above) = (ahead(tcp.ack, peer.next), ahead(tcp.ack, peer.first));
        if beyond > 0 || above < 0 {
            return Some(format!("acknowledges {beyond} beyond what was sent, {above} from the first"));
        }
    }
    let (_, echo) = timestamps(tcp.options)?;
    (tcp.flags & ACK != 0 && echo != 0 && !peer.clocks.is_empty() && !peer.clocks.contains(&echo))
        .then(|| format!("echoes {echo}, which was never sent"))
}

/// How far `a` is ahead of `b`.
fn ahead(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b).cast_signed())
}

/// TSval and TSecr: RFC 7323, section 3.2.
fn timestamps(mut options: &[u8]) -> Option<(u32, u32)> {
    loop {
        match options {
            [8, 10, value @ ..] if value.len() >= 8 => {
                let number = |at: usize| u32::from_be_bytes(value[at..at + 4].try_into().expect("four bytes"));
                return Some((number(0), number(4)));
            }
            [1, rest @ ..] => options = rest,
            [kind, len, ..] if *kind > 1 && (2..=options.len()).contains(&usize::from(*len)) => {
                options = &options[usize::from(*len)..]
            }
            _ => return None,
        }
    }
}
