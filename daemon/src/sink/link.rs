//! A network interface as rtnetlink shows it: what it is, whether it is up, its MTU and its counters.
//!
//! Netlink rather than `/sys/class/net`: sysfs shows the namespace in which it was mounted, not the one the
//! thread is in, and a hardened service may have neither it nor `/proc/net/dev`. Requests and answers are those
//! of rtnetlink(7), laid out by hand because three of them are all we need.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress as InterfaceAddressOf, getifaddrs};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, send, socket,
};

use crate::sink::DeviceCounters;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct ifinfomsg`.
const IFINFO: usize = 16;
/// Bytes of the answer's buffer. rtnetlink's own dumps use 32 KiB at most (`NLMSG_GOODSIZE` and `iproute2`).
const ANSWER_MAX: usize = 32 * 1024;

/// Of `linux/if.h`.
const IFF_LOWER_UP: u32 = 1 << 16;

// Attributes inside an attribute: `linux/if_link.h`.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
/// Positions of packets and drops, received and transmitted, in `struct rtnl_link_stats64`, counted in its u64 fields.
const STATS_RX_PACKETS: usize = 0;
const STATS_TX_PACKETS: usize = 1;
const STATS_RX_DROPPED: usize = 6;
const STATS_TX_DROPPED: usize = 7;

/// What rtnetlink says about one interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub index: i32,
    /// `IFF_UP` is set: the administrator wants it up.
    pub up: bool,
    /// `IFF_LOWER_UP` is set: there is a carrier. A tap has one while somebody holds it.
    pub carrier: bool,
    /// `ARPHRD_ETHER` (1) or another number of `linux/if_arp.h`.
    pub hardware: u16,
    /// Its own address.
    pub mac: Option<[u8; 6]>,
    /// The largest packet without its Ethernet header, in bytes.
    pub mtu: u32,
    /// The driver's name for its kind, such as `tun` or `veth`; empty for hardware.
    pub kind: String,
    /// `IFF_TUN` (1) or `IFF_TAP` (2), for kind `tun`.
    pub tun_type: Option<u8>,
    /// Several processes may hold it at once.
    pub multi_queue: bool,
    /// Counted since the interface exists.
    pub counters: DeviceCounters,
}

impl Link {
    /// What the device counted since `before`.
    pub(super) fn counted_since(&self, before: DeviceCounters) -> DeviceCounters {
        let now = self.counters;
        DeviceCounters {
            rx_packets: now.rx_packets.saturating_sub(before.rx_packets),
            rx_dropped: now.rx_dropped.saturating_sub(before.rx_dropped),
            tx_packets: now.tx_packets.saturating_sub(before.tx_packets),
            tx_dropped: now.tx_dropped.saturating_sub(before.tx_dropped),
        }
    }

    /// The interface `name` of the calling thread's network namespace, or `None` where there is none.
    pub(super) fn by_name(name: &str) -> nix::Result<Option<Link>> {
        let mut request = Request::new(libc::RTM_GETLINK, 0, 0, 0);
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        request.attribute(libc::IFLA_IFNAME, &bytes);
        found(request.exchange()).map(|answer| answer.map(|a| parse(&a)))
    }

    /// The interface with number `index`, or `None` when it is gone.
    pub(super) fn by_index(index: i32) -> nix::Result<Option<Link>> {
        found(Request::new(libc::RTM_GETLINK, index, 0, 0).exchange()).map(|answer| answer.map(|a| parse(&a)))
    }
}

/// Brings the interface up.
pub(super) fn set_up(index: i32) -> nix::Result<()> {
    let up = libc::IFF_UP as u32;
    Request::new(libc::RTM_NEWLINK, index, up, up).exchange().map(drop)
}

/// Sets the MTU, in bytes.
pub(super) fn set_mtu(index: i32, mtu: u32) -> nix::Result<()> {
    let mut request = Request::new(libc::RTM_NEWLINK, index, 0, 0);
    request.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
    request.exchange().map(drop)
}

/// An IPv4 address of an interface, and its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// The network's mask.
    pub mask: Ipv4Addr,
}

/// The IPv4 addresses that the host has on the interface `name` of the calling thread's network namespace (getifaddrs(3)).
pub(super) fn ipv4_addresses(name: &str) -> nix::Result<Vec<InterfaceAddress>> {
    let ipv4 = |address: Option<SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
    let own = getifaddrs()?.filter(|found| found.interface_name == name);
    let known = |found: InterfaceAddressOf| {
        Some(InterfaceAddress { address: ipv4(found.address)?, mask: ipv4(found.netmask)? })
    };
    Ok(own.filter_map(known).collect())
}

fn found(answer: nix::Result<Vec<u8>>) -> nix::Result<Option<Vec<u8>>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Errno::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// One request about one interface: `nlmsghdr`, `ifinfomsg`, attributes.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, index: i32, flags: u32, change: u32) -> Self {
        // A get is answered by the link itself, a set by an acknowledgement only if one is asked for.
        let ask = libc::NLM_F_REQUEST | if kind == libc::RTM_GETLINK { 0 } else { libc::NLM_F_ACK };
        let mut m = Vec::with_capacity(64);
        m.extend_from_slice(&0u32.to_ne_bytes()); // length, set by exchange()
        m.extend_from_slice(&kind.to_ne_bytes());
        m.extend_from_slice(&(ask as u16).to_ne_bytes());
        m.extend_from_slice(&1u32.to_ne_bytes()); // sequence number; one request a socket
        m.extend_from_slice(&0u32.to_ne_bytes()); // port: the kernel
        m.extend_from_slice(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
        m.extend_from_slice(&index.to_ne_bytes());
        m.extend_from_slice(&flags.to_ne_bytes());
        m.extend_from_slice(&change.to_ne_bytes());
        Self(m)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Sends the request; returns what follows the answer's `nlmsghdr`, empty for an acknowledgement.
    fn exchange(mut self) -> nix::Result<Vec<u8>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let fd: OwnedFd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        send(fd.as_raw_fd(), &self.0, MsgFlags::empty())?;
        let mut answer = vec![0; ANSWER_MAX];
        // rtnetlink answers inside send(), so there is nothing to wait for, and a lost answer cannot hang us.
        let n = recv(fd.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        answer.truncate(n);
        body(&answer)
    }
}

/// What follows the `nlmsghdr` of `answer`, or the error it carries.
fn body(answer: &[u8]) -> nix::Result<Vec<u8>> {
    let length = read_u32(answer, 0).ok_or(Errno::EBADMSG)? as usize;
    let message = answer.get(HEADER..length).ok_or(Errno::EBADMSG)?;
    if answer[4..6] != (libc::NLMSG_ERROR as u16).to_ne_bytes() {
        return Ok(message.to_vec());
    }
    match read_u32(message, 0).ok_or(Errno::EBADMSG)? as i32 {
        0 => Ok(Vec::new()),
        code => Err(Errno::from_raw(code.saturating_neg())),
    }
}

/// Reads an `ifinfomsg` and its attributes; what is missing or short stays at its default.
fn parse(message: &[u8]) -> Link {
    let flags = read_u32(message, 8).unwrap_or(0);
    let mut link = Link {
        index: read_u32(message, 4).unwrap_or(0) as i32,
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        hardware: message.get(2..4).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]])),
        ..Link::default()
    };
    for (kind, value) in attributes(message.get(IFINFO..).unwrap_or_default()) {
        match kind {
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = read_u32(value, 0).unwrap_or(0),
            libc::IFLA_STATS64 => {
                link.counters.rx_packets = read_u64(value, STATS_RX_PACKETS * 8).unwrap_or(0);
                link.counters.rx_dropped = read_u64(value, STATS_RX_DROPPED * 8).unwrap_or(0);
                link.counters.tx_packets = read_u64(value, STATS_TX_PACKETS * 8).unwrap_or(0);
                link.counters.tx_dropped = read_u64(value, STATS_TX_DROPPED * 8).unwrap_or(0);
            }
            libc::IFLA_LINKINFO => parse_info(value, &mut link),
            _ => {}
        }
    }
    link
}

fn parse_info(info: &[u8], link: &mut Link) {
    for (kind, value) in attributes(info) {
        match kind {
            IFLA_INFO_KIND => link.kind = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_INFO_DATA => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_TUN_TYPE => link.tun_type = value.first().copied(),
                        IFLA_TUN_MULTI_QUEUE => link.multi_queue = value.first().is_some_and(|&v| v != 0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

/// The attributes in `bytes`, in order; ends at the first that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & libc::NLA_TYPE_MASK as u16, value))
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_is_no_tun() {
        let lo = Link::by_name("lo").unwrap().expect("every namespace has lo");
        assert_eq!((lo.index, lo.kind.as_str(), lo.tun_type), (1, "", None));
        assert_eq!(Link::by_index(1).unwrap().unwrap().mtu, lo.mtu);
    }

    #[test]
    fn a_missing_interface_is_none() {
        assert_eq!(Link::by_name("wm-none").unwrap(), None);
        assert_eq!(Link::by_index(i32::MAX).unwrap(), None);
    }

    #[test]
    fn cut_and_lying_answers_are_errors_or_defaults() {
        for n in 0..HEADER {
            assert_eq!(body(&vec![0; n]), Err(Errno::EBADMSG));
        }
        let mut long = vec![0; HEADER];
        long[..4].copy_from_slice(&1000u32.to_ne_bytes());
        assert_eq!(body(&long), Err(Errno::EBADMSG));
        assert_eq!(parse(&[]), Link::default());
        // An attribute that says it is longer than the message, one shorter than its header, and one of length 0.
        for length in [200u16, 3, 0] {
            let mut message = vec![0; IFINFO];
            message.extend_from_slice(&length.to_ne_bytes());
            message.extend_from_slice(&libc::IFLA_MTU.to_ne_bytes());
            message.extend_from_slice(&[1, 2]);
            assert_eq!(parse(&message), Link::default());
        }
    }
}
