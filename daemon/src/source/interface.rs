//! A live interface, through libpcap.
//!
//! Never in immediate mode (a wake-up a packet loses packets at rates that batches do not), and never blocking: with
//! TPACKET_V3 libpcap waits for ever on an idle link, whatever its timeout. The descriptor is polled instead.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Active, Capture, Precision};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::{LiveSource, Next, PacketSource, SourceError, linktype_of_dlt};

/// How long a partly filled block of packets waits in the kernel.
pub(super) const BLOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// How long [`InterfaceSource::next_packet`] waits for a packet before it says [`Next::Idle`].
pub(super) const IDLE: Duration = Duration::from_millis(200);

/// How to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// Name of the interface.
    pub name: String,
    /// BPF filter (pcap-filter(7)); empty takes everything.
    pub filter: String,
    /// Bytes of a packet that are kept.
    pub snaplen: u32,
    /// The kernel's buffer in bytes.
    pub buffer_bytes: u32,
    /// Whether frames for others are taken too.
    pub promiscuous: bool,
}

/// libpcap's counters since the capture began (`pcap_stats(3PCAP)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceStats {
    /// Packets that passed the filter.
    pub received: u64,
    /// Packets that the kernel dropped because nobody fetched them in time.
    pub dropped: u64,
    /// Packets that the interface or its driver dropped.
    pub interface_dropped: u64,
}

/// An interface being captured from. It never ends by itself; an interface that goes away is an error.
pub struct InterfaceSource {
    capture: Capture<Active>,
    name: String,
    linktype: LinkType,
}

impl InterfaceSource {
    /// Begins to capture.
    ///
    /// # Errors
    /// `Interface`: no such interface, it is down, no permission (CAP_NET_RAW), a filter that does not compile.
    pub fn open(options: &InterfaceOptions) -> Result<Self, SourceError> {
        let InterfaceOptions { name, filter, snaplen, buffer_bytes, promiscuous } = options;
        let clamped = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let open = || -> Result<Capture<Active>, pcap::Error> {
            let mut capture = Capture::from_device(name.as_str())?
                .precision(Precision::Nano)
                .snaplen(clamped(*snaplen))
                .buffer_size(clamped(*buffer_bytes))
                .promisc(*promiscuous)
                .timeout(BLOCK_TIMEOUT.as_millis() as i32)
                .open()?;
            capture.filter(filter, true)?;
            capture.setnonblock()
        };
        let capture = open().map_err(|source| failed(name, source))?;
        let linktype = linktype_of_dlt(capture.get_datalink());
        Ok(Self { capture, name: name.clone(), linktype })
    }

    /// The packet at hand, if there is one.
    fn take(&mut self) -> Result<Option<Packet>, SourceError> {
        match self.capture.next_packet() {
            Ok(packet) => Ok(Some(Packet {
                // With `Precision::Nano`, the field named for microseconds holds nanoseconds.
                ts: Timestamp::from_parts(packet.header.ts.tv_sec, packet.header.ts.tv_usec),
                linktype: self.linktype,
                len: packet.header.len,
                data: packet.data.to_vec(),
            })),
            Err(pcap::Error::TimeoutExpired) => Ok(None),
            Err(source) => Err(failed(&self.name, source)),
        }
    }
}

impl PacketSource for InterfaceSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        if let Some(packet) = self.take()? {
            return Ok(Next::Packet(packet));
        }
        let fd: BorrowedFd<'_> = self.capture.as_fd();
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(IDLE).expect("a fraction of a second");
        match poll(&mut fds, timeout) {
            // What is wrong with the descriptor libpcap says better.
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(source) => return Err(failed(&self.name, source)),
        }
        Ok(self.take()?.map_or(Next::Idle, Next::Packet))
    }
}

impl LiveSource for InterfaceSource {
    fn stats(&mut self) -> Result<InterfaceStats, SourceError> {
        let stats = self.capture.stats().map_err(|source| failed(&self.name, source))?;
        let count = |n: u32| u64::from(n);
        Ok(InterfaceStats {
            received: count(stats.received),
            dropped: count(stats.dropped),
            interface_dropped: count(stats.if_dropped),
        })
    }

    fn linktype(&self) -> LinkType {
        self.linktype
    }
}

pub(super) fn failed(name: &str, source: impl std::error::Error + Send + Sync + 'static) -> SourceError {
    SourceError::Interface { name: name.to_owned(), source: Box::new(source) }
}

impl std::fmt::Debug for InterfaceSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fd = self.capture.as_fd().as_raw_fd();
        f.debug_struct("InterfaceSource").field("name", &self.name).field("fd", &fd).finish_non_exhaustive()
    }
}
