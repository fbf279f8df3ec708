//! ARP (RFC 826) of the hosts around a router: it asks who has an address before it sends there, and everybody is here.
//!
//! A real host asks for the router's MAC before it sends its first packet, and the router knows the host from then on. Without
//! that a router holds packets back until it has its answer, drops what is too much of them, and lets later ones overtake them:
//! it would be blamed for what no real network makes it do. So hosts on the router's own networks ask here, too.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::sink::link::InterfaceAddress;

/// MAC of whoever is asked for; locally administered.
const OURS: [u8; 6] = [0x02, 0x77, 0x6d, 0x00, 0x00, 0x01];
/// Bytes of an Ethernet header and an ARP packet for IPv4.
const LEN: usize = 42;
/// Hosts that are remembered beside one interface.
const NEIGHBOURS_MAX: usize = 1 << 16;

/// The answer to `frame`, if it is a request that wants one.
pub(super) fn answer(frame: &[u8]) -> Option<[u8; LEN]> {
    let request: &[u8; LEN] = frame.get(..LEN)?.try_into().ok()?;
    // EtherType ARP, hardware Ethernet, protocol IPv4, their lengths, a request.
    if request[12..22] != [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1] {
        return None;
    }
    let (asker, asked) = (&request[22..32], &request[38..42]);
    // An announcement of one's own address, or a look whether somebody has it (RFC 5227), is no question to us.
    if asker[6..] == *asked || asker[6..] == [0; 4] {
        return None;
    }
    let mut answer = *request;
    answer[..6].copy_from_slice(&asker[..6]);
    answer[6..12].copy_from_slice(&OURS);
    answer[21] = 2;
    answer[22..28].copy_from_slice(&OURS);
    answer[28..32].copy_from_slice(asked);
    answer[32..42].copy_from_slice(asker);
    Some(answer)
}

/// Whether it is an answer, to a question of [`Neighbours`].
pub(super) fn is_answer(frame: &[u8]) -> bool {
    frame.len() >= LEN && frame[12..22] == [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2]
}

/// Hosts beside one interface of the router.
pub(super) struct Neighbours {
    router_mac: [u8; 6],
    router: Vec<InterfaceAddress>,
    known: HashSet<Ipv4Addr>,
}

impl Neighbours {
    /// Nobody yet, beside an interface with this MAC and these addresses.
    pub(super) fn new(router_mac: [u8; 6], router: Vec<InterfaceAddress>) -> Self {
        Self { router_mac, router, known: HashSet::new() }
    }

    /// The question with which `host` makes itself known, where it is on a network of the router's and has not asked before.
    pub(super) fn introduce(&mut self, host: Ipv4Addr) -> Option<[u8; LEN]> {
        let beside = |own: &&InterfaceAddress| (host & own.mask) == (own.address & own.mask) && host != own.address;
        let own = self.router.iter().find(beside)?;
        // Whoever comes after so many is asked for by the router.
        if self.known.len() >= NEIGHBOURS_MAX || !self.known.insert(host) {
            return None;
        }
        let mut question = [0; LEN];
        question[..6].copy_from_slice(&self.router_mac);
        question[6..12].copy_from_slice(&OURS);
        question[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
        question[22..28].copy_from_slice(&OURS);
        question[28..32].copy_from_slice(&host.octets());
        question[38..42].copy_from_slice(&own.address.octets());
        Some(question)
    }
}

/// Sender and receiver of an untagged IPv4 frame.
pub(super) fn ends(frame: &[u8]) -> Option<[Ipv4Addr; 2]> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    if frame.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    Some([address(26)?, address(30)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_on_the_routers_network_asks_once() {
        let own = |address: [u8; 4]| InterfaceAddress { address: address.into(), mask: [255, 255, 255, 0].into() };
        let mut neighbours = Neighbours::new([2, 0, 0, 0, 0, 9], vec![own([192, 168, 7, 1]), own([10, 0, 0, 1])]);
        let question = neighbours.introduce([10, 0, 0, 7].into()).unwrap();
        assert_eq!((&question[..6], &question[28..32]), (&[2, 0, 0, 0, 0, 9][..], &[10, 0, 0, 7][..]));
        assert_eq!(&question[38..42], &[10, 0, 0, 1]);
        // The router would answer it as the hosts here answer it.
        let answered = answer(&question).unwrap();
        assert!(is_answer(&answered) && !is_answer(&question));
        for silent in [[10, 0, 0, 7], [10, 0, 1, 7], [10, 0, 0, 1]] {
            assert_eq!(neighbours.introduce(silent.into()), None, "{silent:?}");
        }
        assert!(neighbours.introduce([192, 168, 7, 9].into()).is_some());
    }

    #[test]
    fn the_ends_of_a_frame_are_those_of_its_ip_header() {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut frame = Vec::new();
        builder.udp(1, 2).write(&mut frame, b"x").unwrap();
        assert_eq!(ends(&frame), Some([Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]));
        assert_eq!(ends(&frame[..33]), None);
        frame[12] = 0x86;
        assert_eq!(ends(&frame), None);
    }

    #[test]
    fn a_request_is_answered_and_nothing_else_is() {
        let mut request = vec![0xff; 6];
        request.extend([2, 0, 0, 0, 0, 9]);
        request.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend([2, 0, 0, 0, 0, 9, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 7]);
        let said = answer(&request).unwrap();
        assert_eq!((&said[..6], &said[6..12]), (&[2, 0, 0, 0, 0, 9][..], &OURS[..]));
        assert_eq!((said[21], &said[28..32], &said[38..42]), (2, &[10, 0, 0, 7][..], &[10, 0, 0, 1][..]));
        assert_eq!(answer(&said), None, "an answer wants none");
        assert_eq!(answer(&request[..41]), None);
        // A probe has no address of its own, an announcement asks for its own.
        for sender in [[0, 0, 0, 0], [10, 0, 0, 7]] {
            let mut other = request.clone();
            other[28..32].copy_from_slice(&sender);
            assert_eq!(answer(&other), None);
        }
    }
}
