//! An existing interface as a sink: every packet sent here *leaves* the interface, towards whatever is at its other end.
//!
//! Through AF_XDP where the interface takes it, which sends many frames in one call, or through a packet socket. Whoever
//! opens one says that these packets may go there: nothing on a wire knows that they are not real.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use wiremamba_model::flow::Direction;
use wiremamba_model::packet::Packet;

use super::frame::{Framed, REFUSED_BUSY, REFUSED_KERNEL, Truncated, frame_of};
use super::link::Link;
use super::warmer::{Warmer, Way};
use super::{DeviceCounters, PacketSink, SinkError, SinkReport};
use crate::source::Tagged;
use crate::sys::packet::{bind, packet_socket};
use crate::sys::xdp::{FRAME_BYTES, XdpSender};

/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const HARDWARE_ETHERNET: u16 = 1;
/// Frames after which they are sent: the kernel takes 32 in one call (`TX_BATCH_SIZE` in `net/xdp/xsk.c`).
const BATCH: u32 = 32;
/// Frames under way: some milliseconds of sending.
const FRAMES: u32 = 4096;
/// Bytes that may come on top of the MTU: an Ethernet header and two tags.
const OVERHEAD: usize = 22;
/// Tries to send one frame while the kernel is out of buffers.
const TRIES: u32 = 1000;

/// How frames get to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum InterfaceIo {
    /// AF_XDP where the interface takes it, else a packet socket
    #[default]
    Auto,
    /// A packet socket: one call a frame
    Packet,
    /// AF_XDP in copy mode: one call for up to 32 frames
    Xdp,
}

/// Why an interface cannot be sent from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// The user's: no such interface.
    #[error(
        "there is no interface {0}; a tap is made by --tap, a pair of interfaces by `ip link add A type veth peer name B`"
    )]
    NotFound(String),
    /// The user's: it carries no Ethernet frames.
    #[error("{name} carries no Ethernet frames (hardware type {hardware})")]
    NotEthernet {
        /// The interface.
        name: String,
        /// `ARPHRD_` number.
        hardware: u16,
    },
    /// It is down.
    #[error("{0} is down: `ip link set {0} up`, then start again")]
    Down(String),
    /// Nothing is at its other end: what is sent is lost in silence.
    #[error(
        "{0} has no carrier: nothing is at its other end, and all packets would be lost without a word (a tap has a carrier \
         while a program holds it; to inject into this host, give --tap)"
    )]
    NoCarrier(String),
    /// No right to.
    #[error("no permission to send from {0}: run as root, or give the program CAP_NET_RAW")]
    Denied(String),
    /// The socket cannot be made or bound, for another reason.
    #[error("cannot send from {name}")]
    Open {
        /// The interface.
        name: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// It was deleted.
    #[error("{0} is gone: it was deleted while it was in use")]
    Gone(String),
}

enum Sender {
    Packet(OwnedFd),
    Xdp { sender: Box<XdpSender>, pending: u32 },
}

/// An interface that packets leave.
pub struct InterfaceSink {
    name: String,
    index: i32,
    mtu: u32,
    truncated: Truncated,
    sender: Sender,
    scratch: Vec<u8>,
    report: SinkReport,
    before: DeviceCounters,
    /// What is staged counts as, where it is to be sent next.
    staged: Option<Framed>,
    /// It, for a packet socket.
    staged_frame: Vec<u8>,
    warmer: Warmer,
}

impl InterfaceSink {
    /// Opens the interface `name` of the calling thread's network namespace.
    ///
    /// # Errors
    /// It is not there, has no carrier, or may not be sent from.
    pub fn open(name: &str, io: InterfaceIo, truncated: Truncated) -> Result<Self, InterfaceError> {
        let link = look(name)?;
        if link.hardware != HARDWARE_ETHERNET {
            return Err(InterfaceError::NotEthernet { name: name.to_owned(), hardware: link.hardware });
        }
        check_carrier(name, &link)?;
        let failed = |source| match source {
            Errno::EPERM | Errno::EACCES => InterfaceError::Denied(name.to_owned()),
            source => InterfaceError::Open { name: name.to_owned(), source },
        };
        let fits = link.mtu as usize + OVERHEAD <= FRAME_BYTES;
        let xdp = match io {
            InterfaceIo::Packet => None,
            InterfaceIo::Xdp if !fits => return Err(failed(Errno::EMSGSIZE)),
            InterfaceIo::Xdp => Some(XdpSender::bind(link.index as u32, FRAMES).map_err(failed)?),
            InterfaceIo::Auto if !fits => None,
            InterfaceIo::Auto => XdpSender::bind(link.index as u32, FRAMES)
                .inspect_err(
                    |errno| tracing::debug!(interface = name, %errno, "no AF_XDP, sending through a packet socket"),
                )
                .ok(),
        };
        let sender = match xdp {
            Some(sender) => Sender::Xdp { sender: Box::new(sender), pending: 0 },
            None => {
                let socket = packet_socket().map_err(failed)?;
                bind(socket.as_fd(), link.index as u32, false).map_err(failed)?;
                Sender::Packet(socket)
            }
        };
        let xdp = matches!(sender, Sender::Xdp { .. });
        tracing::info!(interface = name, mtu = link.mtu, xdp, "interface open");
        Ok(Self {
            name: name.to_owned(),
            index: link.index,
            mtu: link.mtu,
            truncated,
            sender,
            scratch: Vec::new(),
            report: SinkReport::default(),
            before: link.counters,
            staged: None,
            staged_frame: Vec::new(),
            warmer: Warmer::of(if xdp { Way::Xdp } else { Way::Packet }),
        })
    }

    /// The interface's MTU in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Sends one frame, or says why it is refused.
    fn transmit(&mut self, frame: &[u8]) -> Result<Result<(), &'static str>, SinkError> {
        for _ in 0..TRIES {
            let errno = match &mut self.sender {
                Sender::Packet(socket) => match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
                    Ok(_) => return Ok(Ok(())),
                    Err(errno) => errno,
                },
                Sender::Xdp { sender, pending } => {
                    if sender.push(frame) {
                        *pending += 1;
                        if *pending >= BATCH {
                            self.flush()?;
                        }
                        return Ok(Ok(()));
                    }
                    // All frames are under way: they come back when the other side has read them.
                    self.flush()?;
                    Errno::ENOBUFS
                }
            };
            match errno {
                Errno::EINTR => {}
                Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => std::thread::yield_now(),
                Errno::EMSGSIZE | Errno::EINVAL => return Ok(Err(REFUSED_KERNEL)),
                errno => return Err(self.broken(errno)),
            }
        }
        Ok(Err(REFUSED_BUSY))
    }

    /// Counts a frame that was sent, or why it was not.
    fn count(&mut self, sent: Result<Framed, &'static str>) {
        match sent {
            Ok(framed) => self.report.count(framed),
            Err(reason) => *self.report.refused.entry(reason).or_default() += 1,
        }
    }

    /// What an error means for the interface as a whole.
    fn broken(&self, source: Errno) -> SinkError {
        let name = self.name.clone();
        SinkError::Interface(match Link::by_index(self.index) {
            Ok(None) => InterfaceError::Gone(name),
            Ok(Some(link)) => match check_carrier(&name, &link) {
                Err(error) => error,
                Ok(()) => InterfaceError::Open { name, source },
            },
            Err(_) => InterfaceError::Open { name, source },
        })
    }
}

fn check_carrier(name: &str, link: &Link) -> Result<(), InterfaceError> {
    match (link.up, link.carrier) {
        (false, _) => Err(InterfaceError::Down(name.to_owned())),
        (true, false) => Err(InterfaceError::NoCarrier(name.to_owned())),
        (true, true) => Ok(()),
    }
}

fn look(name: &str) -> Result<Link, InterfaceError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(InterfaceError::NotFound(name.to_owned()));
    }
    match Link::by_name(name) {
        Ok(Some(link)) => Ok(link),
        Ok(None) => Err(InterfaceError::NotFound(name.to_owned())),
        Err(source) => Err(InterfaceError::Open { name: name.to_owned(), source }),
    }
}

impl PacketSink for InterfaceSink {
    fn send(&mut self, packet: &Packet) -> Result<(), SinkError> {
        self.staged = None;
        let mut scratch = std::mem::take(&mut self.scratch);
        let sent = match frame_of(packet, self.truncated, self.mtu, &mut scratch) {
            Ok((frame, framed)) => self.transmit(frame).map(|sent| sent.map(|()| framed)),
            Err(refusal) => Ok(Err(refusal.reason())),
        };
        self.scratch = scratch;
        self.count(sent?);
        Ok(())
    }

    /// Through AF_XDP the frame lies in the kernel's memory then, and what is left is the call.
    fn stage(&mut self, tagged: &Tagged, _: Direction) -> bool {
        let framed = frame_of(&tagged.packet, self.truncated, self.mtu, &mut self.scratch);
        self.staged = framed.ok().and_then(|(frame, framed)| {
            let is_ready = match &mut self.sender {
                Sender::Xdp { sender, .. } => sender.stage(frame),
                Sender::Packet(_) => {
                    self.staged_frame.clear();
                    self.staged_frame.extend_from_slice(frame);
                    true
                }
            };
            is_ready.then_some(framed)
        });
        self.staged.is_some()
    }

    fn release(&mut self, _: Direction) -> Result<(), SinkError> {
        let Some(framed) = self.staged.take() else { return Ok(()) };
        if let Sender::Xdp { sender, pending } = &mut self.sender {
            sender.publish();
            *pending += 1;
            self.count(Ok(framed));
            return self.flush();
        }
        let frame = std::mem::take(&mut self.staged_frame);
        let sent = self.transmit(&frame);
        self.staged_frame = frame;
        self.count(sent?.map(|()| framed));
        Ok(())
    }

    fn prepare_to_warm(&mut self) {
        self.warmer.prepare();
    }

    /// A frame to nobody, and a call that finds nothing to send.
    fn warm(&mut self) {
        self.warmer.send(self.staged.map_or(0, |frame| frame.bytes));
        match &mut self.sender {
            Sender::Xdp { sender, .. } => drop(sender.kick_once()),
            // Shorter than an Ethernet header: EINVAL.
            Sender::Packet(socket) => drop(send(socket.as_raw_fd(), &[0], MsgFlags::empty())),
        }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let Sender::Xdp { sender, pending } = &mut self.sender else { return Ok(()) };
        if *pending == 0 {
            return Ok(());
        }
        *pending = 0;
        match sender.flush() {
            Ok(()) => Ok(()),
            Err(errno) => Err(self.broken(errno)),
        }
    }

    fn mtu(&self) -> Option<u32> {
        Some(self.mtu)
    }

    fn report(&self) -> &SinkReport {
        &self.report
    }

    fn finish(&mut self) -> Result<SinkReport, SinkError> {
        self.flush()?;
        let link = Link::by_index(self.index).ok().flatten();
        self.report.device = link.map(|link| link.counted_since(self.before));
        Ok(self.report.clone())
    }
}
