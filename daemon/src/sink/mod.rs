//! Where packets go: one trait, and its implementations.

pub mod device;
mod frame;
pub mod interface;
mod link;
pub mod pair;
pub mod savefile;
pub mod tap;
mod warmer;

pub use link::InterfaceAddress;

use std::collections::BTreeMap;

use wiremamba_model::flow::Direction;
use wiremamba_model::packet::Packet;

use crate::source::Tagged;

/// Takes packets, one after another.
pub trait PacketSink {
    /// Sends or writes one packet. A packet that this sink can never take (a wrong link type, too long) is no error:
    /// it is counted, and [`finish`](Self::finish) tells.
    ///
    /// # Errors
    /// After an error nothing more can be sent; `finish` may still be called. [`SinkError::Closed`] is a normal end.
    fn send(&mut self, packet: &Packet) -> Result<(), SinkError>;

    /// As [`send`](Self::send), for a sink with two sides: `direction` says whose packet it is. Others do not care.
    fn send_from(&mut self, tagged: &Tagged, direction: Direction) -> Result<(), SinkError> {
        let _ = direction;
        self.send(&tagged.packet)
    }

    /// Gets a packet ready before its time, so that [`release`](Self::release) sends it with the least delay. Returns whether it
    /// is ready; where not, it is sent by [`send_from`](Self::send_from), which also says why a packet is refused. What is ready
    /// and not released is forgotten when the next one is staged or sent.
    fn stage(&mut self, tagged: &Tagged, direction: Direction) -> bool {
        let _ = (tagged, direction);
        false
    }

    /// Sends now what was staged last; `direction` is that of [`stage`](Self::stage).
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    fn release(&mut self, direction: Direction) -> Result<(), SinkError> {
        let _ = direction;
        Ok(())
    }

    /// Whether [`send_from`](Self::send_from) cares.
    fn has_sides(&self) -> bool {
        false
    }

    /// Whether whoever reads sees packets at their own times, and not at those at which they are sent.
    fn keeps_times(&self) -> bool {
        false
    }

    /// Longest IP packet that it takes, in bytes; `None` where any fits.
    fn mtu(&self) -> Option<u32> {
        None
    }

    /// What a device under test did so far, where one is watched.
    fn through_device(&self) -> Option<device::ThroughDevice> {
        None
    }

    /// Makes what [`warm`](Self::warm) needs, which takes milliseconds.
    fn prepare_to_warm(&mut self) {}

    /// Goes the way of the packet that is staged without it, so that it finds the caches warm after a pause.
    fn warm(&mut self) {}

    /// Brings on its way what was taken and is held back to be sent together.
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// What was sent and refused so far. The device's own counters may be missing until [`finish`](Self::finish).
    fn report(&self) -> &SinkReport;

    /// Brings to an end what is under way, and reports what was sent and what could not be. Called once, last; also
    /// for a sink whose reader has gone.
    fn finish(&mut self) -> Result<SinkReport, SinkError>;
}

/// What became of the packets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkReport {
    /// Packets sent.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Packets that could not be sent, by reason (a few words, for people).
    pub refused: BTreeMap<&'static str, u64>,
    /// Truncated packets among those sent that were filled with zeros to their length on the wire.
    pub padded: u64,
    /// Packets of another link type among those sent that were given an Ethernet header.
    pub reframed: u64,
    /// What the device itself counted meanwhile; `None` where there is no device, or no longer.
    pub device: Option<DeviceCounters>,
    /// Whether the reader went away before the end, so that the last of `packets` may not have reached it.
    pub closed: bool,
}

/// What a network device counted of its own while a sink held it. On a tap the packets sent are those it receives; on any
/// other interface those that it transmits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets transmitted.
    pub tx_packets: u64,
    /// Packets dropped that were to be transmitted.
    pub tx_dropped: u64,
    /// Packets dropped; among them are those that arrived well, but that neither a protocol of the kernel nor a sniffer
    /// wanted.
    pub rx_dropped: u64,
}

impl SinkReport {
    /// Packets that could not be sent, for whatever reason.
    pub fn refused_packets(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Why a sink takes no more packets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The reader at the other end has gone; a normal end for whoever writes to a pipe.
    #[error("the reader of {name} has gone")]
    Closed {
        /// What was written to.
        name: String,
    },
    /// It could not be opened.
    #[error("cannot write to {name}")]
    Open {
        /// What should have been written to.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Writing failed, perhaps because the disk is full.
    #[error("writing to {name} failed after {packets} packets{}", kept_note(kept))]
    Write {
        /// What was written to.
        name: String,
        /// Packets taken before.
        packets: u64,
        /// The file that holds what was written so far, if it is not the one asked for.
        kept: Option<String>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tap cannot be opened, or is of no more use.
    #[error(transparent)]
    Tap(#[from] tap::TapError),
    /// The interface cannot be sent from, or no longer.
    #[error(transparent)]
    Interface(#[from] interface::InterfaceError),
}

fn kept_note(kept: &Option<String>) -> String {
    kept.as_ref().map_or_else(String::new, |kept| format!(" (what was written is in {kept})"))
}
