//! Frames that nobody gets, sent the way of those that count, in a network namespace of the sink's own.
//!
//! The way through the kernel gets cold while nothing is sent: code, tables and buffers leave the caches. A packet that is sent
//! ten milliseconds after the last one then takes nine times as long as one that follows it closely. So a frame goes the same
//! way, in a network that no other program sees, a moment before one that counts. The namespace has no name: it goes when what
//! sends into it is closed, with the process at the latest.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, send};

use super::frame::ETHERNET_HEADER;
use super::link::{self, Link};
use crate::sys::attach_tun;
use crate::sys::packet::{bind, packet_socket};
use crate::sys::xdp::{FRAME_BYTES, XdpSender};

/// The loopback interface of every namespace.
const LOOPBACK: u32 = 1;
/// The tap's name; there is no other in its namespace.
const TAP: &str = "warmer";
/// Frames under way at most.
const FRAMES: u32 = 64;
/// Of the EtherType that is for experiments (IEEE 802, 9.2.4), so that no protocol takes it.
const FRAME: [u8; FRAME_BYTES] = {
    let mut frame = [0; FRAME_BYTES];
    (frame[12], frame[13]) = (0x88, 0xb5);
    frame
};

/// How frames go into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Through AF_XDP.
    Xdp,
    /// Through a packet socket.
    Packet,
    /// Through a tap's file.
    Tap,
}

enum Sender {
    Xdp(Box<XdpSender>),
    Packet(OwnedFd),
    Tap(File),
}

/// A way through the kernel that ends nowhere.
pub(super) struct Warmer {
    way: Way,
    /// `None` until it is made, where it could not be made, and after it broke.
    sender: Option<Sender>,
}

impl fmt::Debug for Warmer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warmer").field("way", &self.way).finish_non_exhaustive()
    }
}

impl Warmer {
    /// One that does nothing until it is prepared.
    pub(super) fn of(way: Way) -> Self {
        Self { way, sender: None }
    }

    /// Makes the network, where this program may (CAP_SYS_ADMIN). Takes milliseconds.
    pub(super) fn prepare(&mut self) {
        if self.sender.is_none() {
            self.sender = Sender::new(self.way);
        }
    }

    /// Sends one frame to nobody, as long as the one that will count: the kernel has buffers for each size.
    pub(super) fn send(&mut self, bytes: usize) {
        let frame = &FRAME[..bytes.clamp(ETHERNET_HEADER, FRAME_BYTES)];
        let sent = match &mut self.sender {
            Some(Sender::Xdp(sender)) => {
                // Where there is no room, the call makes some.
                sender.push(frame);
                sender.kick_once()
            }
            Some(Sender::Packet(socket)) => send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT).map(drop),
            Some(Sender::Tap(tun)) => tun.write(frame).map(drop).map_err(errno),
            None => return,
        };
        match sent {
            // Nobody misses a frame.
            Ok(()) | Err(Errno::EAGAIN | Errno::EBUSY | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM) => {}
            Err(errno) => {
                tracing::debug!(%errno, "the way is not warmed any more");
                self.sender = None;
            }
        }
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL))
}

impl Sender {
    fn new(way: Way) -> Option<Self> {
        // A namespace is a thread's own: one that ends at once leaves the others where they are.
        let thread = std::thread::Builder::new().name("warmer".to_owned());
        let made = thread.spawn(move || Self::in_own_network(way)).map_err(errno);
        made.and_then(|thread| thread.join().unwrap_or(Err(Errno::EINVAL)))
            .inspect_err(
                |errno| tracing::debug!(%errno, "no network to warm the way in: packets leave a little late after a pause"),
            )
            .ok()
    }

    fn in_own_network(way: Way) -> nix::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        if way == Way::Tap {
            let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
            let tun = tun.map_err(errno)?;
            attach_tun(&tun, TAP, (libc::IFF_TAP | libc::IFF_NO_PI) as i16)?;
            link::set_up(Link::by_name(TAP)?.ok_or(Errno::ENODEV)?.index)?;
            return Ok(Self::Tap(tun));
        }
        link::set_up(LOOPBACK as i32)?;
        if way == Way::Xdp {
            return Ok(Self::Xdp(Box::new(XdpSender::bind(LOOPBACK, FRAMES)?)));
        }
        let socket = packet_socket()?;
        bind(socket.as_fd(), LOOPBACK, false)?;
        Ok(Self::Packet(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of its own, so that nobody else counts in it.
    fn warm() {
        let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = namespace();
        for way in [Way::Xdp, Way::Packet, Way::Tap] {
            let mut warmer = Warmer::of(way);
            warmer.send(60);
            assert!(warmer.sender.is_none(), "nothing is made until it is prepared");
            warmer.prepare();
            for bytes in [0, 60, 1514, usize::MAX].into_iter().cycle().take(1000) {
                warmer.send(bytes);
            }
            match (&warmer.sender, way) {
                (Some(Sender::Xdp(_)), Way::Xdp) | (Some(Sender::Packet(_)), Way::Packet) => {}
                (Some(Sender::Tap(_)), Way::Tap) => {}
                _ => panic!("no way through {way:?}"),
            }
        }
        assert_eq!(namespace(), before);
        assert!(Link::by_name(TAP).unwrap().is_none(), "it has a network of its own");
        assert_eq!(Link::by_index(LOOPBACK as i32).unwrap().unwrap().counters.tx_packets, 0);
    }

    #[test]
    fn warming_is_seen_by_nobody() {
        let warmed = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => warm(),
            Err(errno) => eprintln!("skipped: no network namespace can be made ({errno})"),
        });
        warmed.join().unwrap();
    }
}
