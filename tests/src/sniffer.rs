//! A packet socket on one interface: every frame that arrives there, whole and in order.
//!
//! It differs from a plain `AF_PACKET` read in what a byte-for-byte comparison needs: VLAN tags, which the kernel
//! takes off, are put back; frames that the host itself sends are left out; and what the socket had to drop for
//! lack of room is known, so that a loss in the receiver is not taken for one in the sender.

#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes of receive buffer to ask for, which the kernel doubles. 100,000 full-size frames take some 250 MB with the
/// kernel's overhead, so that not even a receiver that stands still loses one.
const BUFFER_BYTES: usize = 256 << 20;
/// Longest frame: 64 KiB and an Ethernet header with two tags.
const FRAME_MAX: usize = 65_536 + 22;
/// Where a VLAN tag stands: after the two MAC addresses.
const TAG_AT: usize = 12;

/// A packet socket bound to one interface of the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Sniffer {
    /// Listens on `interface`, which must exist, to what arrives there. Needs root.
    pub fn open(interface: &str) -> io::Result<Self> {
        Self::listen(interface, true)
    }

    /// Listens to what the host sends through `interface` as well.
    pub fn open_both_ways(interface: &str) -> io::Result<Self> {
        Self::listen(interface, false)
    }

    fn listen(interface: &str, incoming_only: bool) -> io::Result<Self> {
        // Protocol 0 receives nothing: the filter is set up before bind() begins to let frames in.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
        set(&socket, libc::PACKET_AUXDATA, 1)?;
        set(&socket, libc::PACKET_IGNORE_OUTGOING, incoming_only.into())?;

        // SAFETY: `sockaddr_ll` is plain integers; all zeros is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = nix::net::if_::if_nametoindex(interface)? as i32;
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        check(unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        } as isize)?;
        Ok(Self { socket, buffer: vec![0; FRAME_MAX] })
    }

    /// The next frame, or `None` when none came within `patience`.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let timeout = TimeVal::milliseconds(patience.as_millis().clamp(1, 3_600_000) as i64);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout)?;
        match self.receive() {
            Ok(frame) => Ok(Some(frame)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The next `n` frames, or fewer when none came for `patience`.
    pub fn take(&mut self, n: usize, patience: Duration) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::with_capacity(n);
        while frames.len() < n {
            let Some(frame) = self.next(patience)? else { break };
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Frames that this socket had no room for since the last call.
    pub fn dropped(&self) -> io::Result<u32> {
        // SAFETY: `tpacket_stats` is two integers; all zeros is a valid value.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe `stats`, which is exclusively borrowed and outlives the call.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        } as isize)?;
        Ok(stats.tp_drops)
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut control = [0u64; 16]; // aligned as a `cmsghdr` wants it
        let mut part = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // SAFETY: `msghdr` is integers and pointers; null and zero are valid values.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: `message` points to `part`, which points to `buffer`, and to `control`, each with its true length;
        // all are exclusively borrowed and outlive the call.
        let n = check(unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) })? as usize;
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(io::Error::other(format!("a frame of more than {FRAME_MAX} bytes")));
        }
        let frame = &self.buffer[..n];
        Ok(match tag(&message) {
            Some(tag) if n >= TAG_AT => [&frame[..TAG_AT], &tag, &frame[TAG_AT..]].concat(),
            _ => frame.to_vec(),
        })
    }
}

/// The VLAN tag that the kernel took off the frame of `message`, which recvmsg() has filled in.
fn tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: `message` was filled in by recvmsg(), so that its control pointer and length are those of a buffer of
    // the caller that holds well-formed headers.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    loop {
        // SAFETY: the CMSG macros return null or a header inside the control buffer.
        let found = unsafe { header.as_ref() }?;
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: the header is valid, and the data of a PACKET_AUXDATA message is a `tpacket_auxdata`, for which
            // the control buffer has room; it may lie unaligned.
            let data = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            let [t0, t1] = data.tp_vlan_tpid.to_be_bytes();
            let [c0, c1] = data.tp_vlan_tci.to_be_bytes();
            return Some([t0, t1, c0, c1]);
        }
        // SAFETY: as for CMSG_FIRSTHDR, and `header` came from these macros.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

fn set(socket: &OwnedFd, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    check(done as isize).map(drop)
}

fn check(result: isize) -> io::Result<isize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
