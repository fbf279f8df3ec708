//! Savefiles: pcap and pcapng through libpcap, times in nanoseconds.
//!
//! What libpcap reports as text is turned into [`SourceError`] here, and what it would accept in silence (a cut file,
//! the units of its times) is made plain.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use pcap::{Capture, Offline, Precision};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::{Filled, Next, PacketSource, SourceError, Tag, Tagged, linktype_of_dlt};

/// One savefile being read.
///
/// A file that was cut in the middle of a packet (a full disk, a killed capture) gives the packets before the cut
/// and then ends as any other; [`truncated_at_end`](Self::truncated_at_end) tells.
pub struct SavefileSource {
    name: String,
    capture: Capture<Offline>,
    linktype: LinkType,
    packets: u64,
    ended: bool,
    truncated_at_end: bool,
}

impl SavefileSource {
    /// Opens a pcap or pcapng file, or standard input for `-`.
    ///
    /// # Errors
    /// Any variant but `MixedLinkTypes` and `Damaged`, which can only come later. Compressed files are refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref();
        let is_stdin = path.as_os_str() == OsStr::new("-");
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        if !is_stdin {
            check_beginning(path, &name)?;
        }
        let capture = Capture::from_file_with_precision(path, Precision::Nano).map_err(|source| {
            let text = source.to_string();
            if text.contains("unknown file format") {
                SourceError::NotACapture { name: name.clone(), found: "something else".to_owned() }
            } else if text.contains("tried to read 4 file header bytes, only got 0") {
                SourceError::Empty { name: name.clone() }
            } else {
                SourceError::Header { name: name.clone(), source }
            }
        })?;
        let linktype = linktype_of_dlt(capture.get_datalink());
        Ok(Self { name, capture, linktype, packets: 0, ended: false, truncated_at_end: false })
    }

    /// The file's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Link type of all packets.
    pub fn linktype(&self) -> LinkType {
        self.linktype
    }

    /// Packets read so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Whether the file ended in the middle of a packet. Known once the end is reached.
    pub fn truncated_at_end(&self) -> bool {
        self.truncated_at_end
    }

    /// Reads the next packet into `ret`, whose buffer is used again; `false` at the end. The way without an
    /// allocation for each packet, for those who do not keep them.
    ///
    /// # Errors
    /// `MixedLinkTypes` and `Damaged`; the source is at its end then.
    pub fn read_into(&mut self, ret: &mut Packet) -> Result<bool, SourceError> {
        if self.ended {
            return Ok(false);
        }
        match self.capture.next_packet() {
            Ok(packet) => {
                self.packets += 1;
                let header = packet.header;
                // With `Precision::Nano`, the field named for microseconds holds nanoseconds.
                ret.ts = Timestamp::from_parts(header.ts.tv_sec, header.ts.tv_usec);
                ret.linktype = self.linktype;
                ret.len = header.len;
                ret.data.clear();
                ret.data.extend_from_slice(packet.data);
                Ok(true)
            }
            Err(error) => {
                self.ended = true;
                self.explain_end(error)
            }
        }
    }

    /// Tells the end of the file, a cut and damage apart.
    fn explain_end(&mut self, error: pcap::Error) -> Result<bool, SourceError> {
        if error == pcap::Error::NoMorePackets {
            return Ok(false);
        }
        let text = error.to_string();
        // libpcap has no code for it: sf-pcap.c says "truncated dump file", sf-pcapng.c "truncated pcapng dump file".
        if text.contains("truncated dump file") || text.contains("truncated pcapng dump file") {
            self.truncated_at_end = true;
            return Ok(false);
        }
        let (name, packets) = (self.name.clone(), self.packets);
        if text.contains("different from the type of the first interface") {
            return Err(SourceError::MixedLinkTypes { name, packets, source: error });
        }
        Err(SourceError::Damaged { name, packets, source: error })
    }
}

impl SavefileSource {
    /// As [`read_into`](Self::read_into), and says where the file is cut to those who do not ask.
    fn read_or_warn(&mut self, ret: &mut Packet) -> Result<bool, SourceError> {
        let was_cut = self.truncated_at_end;
        let is_packet = self.read_into(ret)?;
        if self.truncated_at_end && !was_cut {
            tracing::warn!(capture = self.name, "the file is cut in the middle of packet {}", self.packets + 1);
        }
        Ok(is_packet)
    }
}

impl PacketSource for SavefileSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        let mut packet = Packet { ts: Timestamp(0), linktype: self.linktype, len: 0, data: Vec::new() };
        Ok(if self.read_into(&mut packet)? { Next::Packet(packet) } else { Next::End })
    }

    fn next_into(&mut self, ret: &mut Tagged) -> Result<Filled, SourceError> {
        ret.tag = Tag::default();
        Ok(if self.read_or_warn(&mut ret.packet)? { Filled::Packet } else { Filled::End })
    }
}

impl std::fmt::Debug for SavefileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavefileSource")
            .field("name", &self.name)
            .field("packets", &self.packets)
            .finish_non_exhaustive()
    }
}

/// Whether a file begins like a pcap or pcapng file.
pub(super) fn is_capture(magic: [u8; 4]) -> bool {
    const PCAPNG: u32 = 0x0a0d_0d0a; // the same in both byte orders
    const PCAP: u32 = 0xa1b2_c3d4;
    const PCAP_NANOS: u32 = 0xa1b2_3c4d;
    const PCAP_KUZNETZOV: u32 = 0xa1b2_cd34; // old Linux distributions
    let magic = u32::from_be_bytes(magic);
    [magic, magic.swap_bytes()].iter().any(|m| matches!(*m, PCAPNG | PCAP | PCAP_NANOS | PCAP_KUZNETZOV))
}

/// Looks at the first bytes of a regular file, so that what is no capture is named as what it is. Other files (a
/// FIFO, a device) cannot be looked at without losing what was read, and are left to libpcap.
fn check_beginning(path: &Path, name: &str) -> Result<(), SourceError> {
    let io_error = |source| SourceError::Open { name: name.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io_error)?;
    if metadata.is_dir() {
        return Err(io_error(std::io::ErrorKind::IsADirectory.into()));
    }
    if path.to_str().is_none() {
        return Err(io_error(std::io::Error::other("libpcap takes names in UTF-8 only")));
    }
    if !metadata.is_file() {
        return Ok(());
    }
    let mut head = Vec::with_capacity(4);
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut head)).map_err(io_error)?;
    let not_a_capture = |found: String| Err(SourceError::NotACapture { name: name.to_owned(), found });
    match head[..] {
        [] => Err(SourceError::Empty { name: name.to_owned() }),
        [a, b, c, d] if is_capture([a, b, c, d]) => Ok(()),
        [0x1f, 0x8b, ..] => not_a_capture("the magic number of gzip; decompress it first".to_owned()),
        [0x28, 0xb5, 0x2f, 0xfd] => not_a_capture("the magic number of zstd; decompress it first".to_owned()),
        _ => not_a_capture(format!("the bytes {head:02x?}")),
    }
}
