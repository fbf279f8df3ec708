//! Where packets come from: one trait, and its implementations.
//!
//! [`mod@interface`] captures live through libpcap, [`ring`] from a socket that was handed over, [`mod@file`] reads one savefile, [`collection`] decides which savefiles a job reads and under which labels, [`flows`]
//! reads a whole collection into labelled flows, [`model`] gives packets fresh from a checkpoint, [`mod@plugin`] those of a library, [`stock`] keeps flows from run to run. A source judges nothing: it hands packets on as they were captured.

pub mod collection;
pub mod file;
pub mod flows;
pub mod interface;
pub mod model;
pub mod plugin;
pub mod ring;
pub mod stock;

use std::sync::Arc;

use wiremamba_model::codec::LabelId;
use wiremamba_model::device::DeviceFailure;
use wiremamba_model::flow::Direction;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

/// Interrupts what a source is doing, from another thread.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

/// A stream of captured packets.
pub trait PacketSource {
    /// The next packet, if there is one now. After [`Next::End`], or after an error, every further call returns
    /// [`Next::End`].
    fn next_packet(&mut self) -> Result<Next, SourceError>;

    /// The next packet into `ret`, whose buffer may be used again, with what the source knows of it.
    fn next_into(&mut self, ret: &mut Tagged) -> Result<Filled, SourceError> {
        Ok(match self.next_packet()? {
            Next::Packet(packet) => {
                *ret = Tagged { packet, tag: Tag::default() };
                Filled::Packet
            }
            Next::Idle => Filled::Idle,
            Next::End => Filled::End,
        })
    }

    /// Ends a call that is under way, where a call can take long.
    fn interrupt(&self) -> Option<Interrupt> {
        None
    }
}

/// [`PacketSource::next_packet`] for a source that has its own [`PacketSource::next_into`].
fn next_by_filling(source: &mut impl PacketSource) -> Result<Next, SourceError> {
    let mut next = Tagged::default();
    Ok(match source.next_into(&mut next)? {
        Filled::Packet => Next::Packet(next.packet),
        Filled::Idle => Next::Idle,
        Filled::End => Next::End,
    })
}

/// What a source knows of a packet beyond its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag {
    /// Number of its flow or session; 0 where that is not known.
    pub session: u64,
    /// Label of its flow.
    pub label: Option<LabelId>,
    /// Whether the client sent it ([`Direction::Orig`]) or the server.
    pub direction: Option<Direction>,
    /// Whether it is the last of its flow.
    pub is_last: bool,
    /// Whether its session is an earlier one, rendered again.
    pub is_again: bool,
}

/// A packet with its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// The packet.
    pub packet: Packet,
    /// What is known of it.
    pub tag: Tag,
}

impl Default for Tagged {
    fn default() -> Self {
        let packet = Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: 0, data: Vec::new() };
        Self { packet, tag: Tag::default() }
    }
}

/// As [`Next`], where the packet was put elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// There is a packet.
    Packet,
    /// Nothing yet; ask again.
    Idle,
    /// Nothing any more.
    End,
}

/// Packets from an interface, as they come. It never ends by itself; an interface that goes away is an error.
pub trait LiveSource: PacketSource + Send {
    /// What was received and dropped since the beginning.
    fn stats(&mut self) -> Result<interface::InterfaceStats, SourceError>;

    /// The link type of its packets.
    fn linktype(&self) -> LinkType;
}

/// What a source has to offer at the moment; libpcap's 1, 0 and -2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A packet.
    Packet(Packet),
    /// Nothing yet; ask again. Savefiles never say so.
    Idle,
    /// Nothing any more.
    End,
}

/// Why a source gives no packets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The GPU that packets were generated on stopped; the source is of no use any more.
    #[error("no more packets come from the model")]
    Device(#[from] DeviceFailure),
    /// The file cannot be opened or read at all.
    #[error("cannot open capture {name}")]
    Open {
        /// The file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has no bytes. (A capture without packets has a file header, and is no error.)
    #[error("capture {name} is empty: not even a file header")]
    Empty {
        /// The file.
        name: String,
    },
    /// The file does not begin as a pcap or pcapng file does.
    #[error("{name} is not a pcap or pcapng capture: it begins with {found}")]
    NotACapture {
        /// The file.
        name: String,
        /// Its first bytes, or what they are known to be.
        found: String,
    },
    /// The file begins like a capture, but libpcap refuses its header.
    #[error("cannot read the file header of capture {name}")]
    Header {
        /// The file.
        name: String,
        /// What libpcap said.
        source: pcap::Error,
    },
    /// A pcapng file has interfaces of more than one link type, which libpcap does not read; nor does it read several
    /// interfaces of raw IP, because it compares its own number with the file's.
    #[error(
        "capture {name} has interfaces of different link types, or several of raw IP, which libpcap cannot read \
         ({packets} packets came before); split it by interface first, as with: tshark -r {name} -Y frame.interface_id==0 -w part.pcapng"
    )]
    MixedLinkTypes {
        /// The file.
        name: String,
        /// Packets read before.
        packets: u64,
        /// What libpcap said.
        source: pcap::Error,
    },
    /// The interface cannot be captured from, or no longer.
    #[error("cannot capture from interface {name}")]
    Interface {
        /// The interface.
        name: String,
        /// What libpcap or the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A plugin's source failed.
    #[error(transparent)]
    Plugin(plugin::PluginError),
    /// The thread that reads it ended without a word: a fault of this program.
    #[error("reading the packets broke off for a fault of this program; please report it")]
    Broken,
    /// It does not fit into memory.
    #[error(
        "there are more than {bytes_max} bytes of packets, too many for --preload; leave it out, or limit the source"
    )]
    TooLarge {
        /// What fits.
        bytes_max: usize,
    },
    /// The file is damaged. What came before was read.
    #[error("capture {name} is damaged after packet {packets}")]
    Damaged {
        /// The file.
        name: String,
        /// Packets read before.
        packets: u64,
        /// What libpcap said.
        source: pcap::Error,
    },
}

/// The link type, as files number it, for libpcap's own number (`DLT_`) in this process.
///
/// They are the same but for a few old ones that differ between systems
/// (<https://www.tcpdump.org/linktypes.html>, right column).
pub(crate) fn linktype_of_dlt(dlt: pcap::Linktype) -> LinkType {
    match dlt.0 {
        11 => LinkType(100),      // DLT_ATM_RFC1483
        12 | 14 => LinkType::RAW, // DLT_RAW: 14 on OpenBSD
        15 => LinkType(102),      // DLT_SLIP_BSDOS
        16 => LinkType(103),      // DLT_PPP_BSDOS
        19 => LinkType(106),      // DLT_ATM_CLIP
        // Numbers beyond 16 bits are not in any file.
        other => LinkType(u16::try_from(other).unwrap_or(u16::MAX)),
    }
}

/// A BPF program (pcap-filter(7)) for packets of a link type.
///
/// # Errors
/// `filter` is no such program, or asks for what the link type does not have.
pub(crate) fn compile_filter(filter: &str, linktype: LinkType) -> Result<pcap::BpfProgram, pcap::Error> {
    let dlt = if linktype == LinkType::RAW { 12 } else { i32::from(linktype.0) };
    pcap::Capture::dead(pcap::Linktype(dlt))?.compile(filter, true)
}
