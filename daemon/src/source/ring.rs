//! A live interface, through a packet socket that somebody else opened: for a process without any capability.
//!
//! [`open_socket`] needs CAP_NET_RAW and does all that does: it makes, filters and binds the socket. [`RingSource`] needs
//! the descriptor only, from whichever network namespace it comes. Both ends use the kernel's TPACKET_V3 ring, as libpcap
//! does; [`super::interface`] is the plain way.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::interface::{BLOCK_TIMEOUT, IDLE, InterfaceOptions, InterfaceStats, failed};
use super::{LiveSource, Next, PacketSource, SourceError};
use crate::sys::packet::{self, Ring, RingLayout};

/// Bytes of a block: more than the largest packet and its header.
const BLOCK_BYTES: u32 = 1 << 19;
/// Bytes of `struct tpacket3_hdr`, after which the packet's address lies (`linux/if_packet.h`).
const PACKET_HEADER: usize = 48;
/// Where a VLAN tag belongs in an Ethernet frame: after both addresses.
const VLAN_AT: usize = 12;

/// What the reader of a packet socket has to know beside the descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingSocket {
    /// Name of the interface, for messages.
    name: String,
    linktype: LinkType,
    /// A loopback shows each packet twice, going and coming; the going ones are left out.
    is_loopback: bool,
    /// Bytes of a packet that are kept, with its VLAN tag.
    snaplen: u32,
    layout: RingLayout,
}

/// Opens a packet socket with a ring, bound to an interface and filtered.
///
/// # Errors
/// `Interface`: no such interface, it is down or of a link type that is none of Ethernet and raw IP, no permission
/// (CAP_NET_RAW), a filter that does not compile.
pub fn open_socket(options: &InterfaceOptions) -> Result<(OwnedFd, RingSocket), SourceError> {
    let InterfaceOptions { name, filter, snaplen, buffer_bytes, promiscuous } = options;
    let system = |errno: Errno| failed(name, std::io::Error::from(errno));
    let index = if_nametoindex(name.as_str()).map_err(system)?;
    let fd = packet::packet_socket().map_err(system)?;
    let socket = fd.as_fd();
    // Bound before it receives: what comes before the filter is there would pass.
    packet::bind(socket, index, false).map_err(system)?;
    let hardware = packet::hardware_type(socket).map_err(system)?;
    let linktype = match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkType::ETHERNET,
        libc::ARPHRD_NONE | libc::ARPHRD_PPP => LinkType::RAW,
        other => {
            let text = format!("its hardware type {other} is neither Ethernet nor raw IP");
            return Err(failed(name, std::io::Error::other(text)));
        }
    };
    let program = super::compile_filter(filter, linktype).map_err(|source| failed(name, source))?;
    packet::set_filter(socket, program.get_instructions(), *snaplen).map_err(system)?;
    let layout = RingLayout { block_bytes: BLOCK_BYTES, blocks: (buffer_bytes / BLOCK_BYTES).max(2) };
    packet::set_ring(socket, layout, BLOCK_TIMEOUT.as_millis() as u32).map_err(system)?;
    if *promiscuous {
        packet::set_promiscuous(socket, index).map_err(system)?;
    }
    packet::bind(socket, index, true).map_err(system)?;
    pending_error(&fd).map_err(system)?;
    let is_loopback = hardware == libc::ARPHRD_LOOPBACK;
    Ok((fd, RingSocket { name: name.clone(), linktype, is_loopback, snaplen: *snaplen, layout }))
}

/// What went wrong on the socket since it was last asked, such as ENETDOWN.
fn pending_error(socket: &impl AsFd) -> nix::Result<()> {
    match getsockopt(&socket.as_fd(), sockopt::SocketError)? {
        0 => Ok(()),
        raw => Err(Errno::from_raw(raw)),
    }
}

/// An interface being captured from, through a ring.
#[derive(Debug)]
pub struct RingSource {
    ring: Ring,
    about: RingSocket,
    /// The block being read, or to be read next.
    block: u32,
    /// Packets of it that are still to be read, and where the next one is; `None` before it is begun.
    rest: Option<(u32, usize)>,
    stats: InterfaceStats,
}

impl RingSource {
    /// Reads the ring of a socket that [`open_socket`] opened.
    ///
    /// # Errors
    /// `Interface`: the socket has no such ring.
    pub fn adopt(socket: OwnedFd, about: RingSocket) -> Result<Self, SourceError> {
        let ring = Ring::map(socket, about.layout).map_err(|source| failed(&about.name, source))?;
        Ok(Self { ring, about, block: 0, rest: None, stats: InterfaceStats::default() })
    }

    /// The next packet of the ring, if there is one.
    fn take(&mut self) -> Option<Packet> {
        loop {
            let block = self.ring.block(self.block)?;
            // `struct tpacket_block_desc`: num_pkts and offset_to_first_pkt.
            let (left, at) = self.rest.unwrap_or_else(|| (word(block, 12), word(block, 16) as usize));
            // A header that lies outside cannot be: the kernel wrote it. The rest of the block would be meaningless.
            let Some(header) = block.get(at..).filter(|header| left > 0 && header.len() >= PACKET_HEADER + 12) else {
                self.ring.release(self.block);
                self.block = (self.block + 1) % self.ring.blocks();
                self.rest = None;
                continue;
            };
            let packet = packet(header, &self.about);
            self.rest = Some((left - 1, at + (word(header, 0) as usize).max(PACKET_HEADER)));
            if let Some(packet) = packet {
                return Some(packet);
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// The packet behind a `struct tpacket3_hdr`; `None` for one that is left out.
fn packet(header: &[u8], about: &RingSocket) -> Option<Packet> {
    // `struct sockaddr_ll` follows: sll_pkttype.
    let direction = header[PACKET_HEADER + 10];
    if about.is_loopback && direction == libc::PACKET_OUTGOING {
        return None;
    }
    let (seconds, nanos) = (word(header, 4), word(header, 8));
    let (captured, mut len, status) = (word(header, 12) as usize, word(header, 16), word(header, 20));
    let at = usize::from(half(header, 24));
    let mut data = header.get(at..at + captured)?.to_vec();
    // The kernel takes the outer VLAN tag out of the frame; libpcap puts it back as well.
    if status & libc::TP_STATUS_VLAN_VALID != 0 && about.linktype == LinkType::ETHERNET && data.len() >= VLAN_AT {
        let has_type = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let ether_type = if has_type { half(header, 36) } else { libc::ETH_P_8021Q as u16 };
        let tag = [ether_type.to_be_bytes(), (word(header, 32) as u16).to_be_bytes()].concat();
        data.splice(VLAN_AT..VLAN_AT, tag);
        data.truncate(about.snaplen as usize);
        len += 4;
    }
    let ts = Timestamp::from_parts(i64::from(seconds), i64::from(nanos));
    Some(Packet { ts, linktype: about.linktype, len, data })
}

impl PacketSource for RingSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        if let Some(packet) = self.take() {
            return Ok(Next::Packet(packet));
        }
        let mut fds = [PollFd::new(self.ring.socket(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(IDLE).expect("a fraction of a second");
        let system = |errno: Errno| failed(&self.about.name, std::io::Error::from(errno));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(system(errno)),
        }
        if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            pending_error(&self.ring.socket()).map_err(system)?;
        }
        Ok(self.take().map_or(Next::Idle, Next::Packet))
    }
}

impl LiveSource for RingSource {
    fn stats(&mut self) -> Result<InterfaceStats, SourceError> {
        let more = packet::counters(self.ring.socket())
            .map_err(|errno| failed(&self.about.name, std::io::Error::from(errno)))?;
        // The kernel counts dropped ones among the received ones, and from zero each time.
        self.stats.received += u64::from(more.received - more.dropped.min(more.received));
        self.stats.dropped += u64::from(more.dropped);
        Ok(self.stats)
    }

    fn linktype(&self) -> LinkType {
        self.about.linktype
    }
}
