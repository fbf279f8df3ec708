//! Who sent a packet, and what became of each flow: the ground truth of a replay.
//!
//! Flows are told apart by their 5-tuples and VLANs. The first packet's sender is the client, unless the source knows better.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use wiremamba_model::flow::{Direction, FiveTuple, FlowKey, dissect};

use crate::source::{Tag, Tagged};

/// Most flows that are open at a time; beyond, idle ones are closed first, then any.
const OPEN_FLOWS_MAX: usize = 1 << 20;
/// A flow without a packet for this long has ended (Suricata's default for established UDP is half of it).
const IDLE_NS: u64 = 600_000_000_000;
/// A TCP flow that was closed stays for this long, for packets that come late.
const LINGER_NS: u64 = 1_000_000_000;
/// Time between two looks for flows that have ended.
const SWEEP_NS: u64 = 1_000_000_000;

// TCP flags (RFC 9293, section 3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruthState {
    /// TCP: FIN from both sides, or RST.
    Closed,
    /// The source had no more of it.
    Complete,
    /// The replay ended before it did.
    Cut,
}

/// One line of the ground truth: one flow, as it was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TruthFlow {
    /// The client's address.
    pub src_ip: std::net::IpAddr,
    /// The client's port; 0 for protocols without ports.
    pub src_port: u16,
    /// The server's address.
    pub dest_ip: std::net::IpAddr,
    /// The server's port; 0 for protocols without ports.
    pub dest_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// VLAN ids, the outer one first.
    pub vlan: Vec<u16>,
    /// Label, where the source has one.
    pub label: Option<String>,
    /// Number of the session that it is part of, where the source knows.
    pub session: Option<u64>,
    /// When its first packet was sent, in seconds since 1970.
    pub start: f64,
    /// When its last packet was sent.
    pub end: f64,
    /// Packets from the client.
    pub pkts_toserver: u64,
    /// Packets from the server.
    pub pkts_toclient: u64,
    /// Bytes of these, Ethernet headers included.
    pub bytes_toserver: u64,
    /// Bytes of those.
    pub bytes_toclient: u64,
    /// How it ended.
    pub state: TruthState,
}

/// The file cannot be written any more.
#[derive(Debug, thiserror::Error)]
#[error("the ground truth cannot be written to {path}: {source}")]
pub struct TruthError {
    path: String,
    source: std::io::Error,
}

/// The flows of a replay.
pub(super) struct FlowBook {
    open: HashMap<(FlowKey, [u16; 2]), Open>,
    file: Option<(BufWriter<File>, PathBuf)>,
    labels: Vec<String>,
    /// Wall clock at zero of the monotonic clock, in nanoseconds.
    epoch_ns: i128,
    next_sweep_ns: u64,
    pub(super) flows: u64,
}

struct Open {
    /// From the client's point of view.
    tuple: FiveTuple,
    vlan: [u16; 2],
    tag: Tag,
    start_ns: u64,
    end_ns: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    /// FIN seen from the client, from the server.
    fins: [bool; 2],
    is_closed: bool,
    is_through: bool,
}

/// What is known of a packet before it is sent.
pub(super) struct Entry {
    key: (FlowKey, [u16; 2]),
    tuple: FiveTuple,
    flags: u8,
    pub(super) direction: Direction,
}

/// Nanoseconds from 1970 to the beginning of the monotonic clock, which is at `now_ns`.
pub(super) fn monotonic_epoch_ns(now_ns: u64) -> i128 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
    wall - i128::from(now_ns)
}

impl FlowBook {
    /// A book of flows with these labels, written to `path` where there is one. The clock that tells when packets are sent began `epoch_ns`
    /// after 1970.
    pub(super) fn new(path: Option<&Path>, labels: &[String], epoch_ns: i128) -> Result<Self, TruthError> {
        let file = path.map(|path| {
            let file = File::create(path).map_err(|source| TruthError { path: path.display().to_string(), source })?;
            Ok((BufWriter::new(file), path.to_owned()))
        });
        Ok(Self {
            open: HashMap::new(),
            file: file.transpose()?,
            labels: labels.to_vec(),
            epoch_ns,
            next_sweep_ns: 0,
            flows: 0,
        })
    }

    /// Which flow a packet belongs to, and who sent it; `None` for packets without IP.
    pub(super) fn look_up(&self, tagged: &Tagged) -> Option<Entry> {
        let packet = &tagged.packet;
        let dissected = dissect(packet.linktype, &packet.data).ok()?;
        let tuple = dissected.tuple;
        let key = (tuple.key(), vlan_ids(&packet.data));
        let direction = match (tagged.tag.direction, self.open.get(&key)) {
            (Some(direction), _) => direction,
            (None, Some(open)) if !open.starts_again(dissected.tcp_flags.unwrap_or(0)) && open.tuple != tuple => {
                Direction::Resp
            }
            // Seen from its middle, a flow's server is taken for its client; a SYN-ACK tells.
            (None, None) if dissected.tcp_flags.is_some_and(|flags| flags & (SYN | 0x10) == SYN | 0x10) => {
                Direction::Resp
            }
            _ => Direction::Orig,
        };
        Some(Entry { key, tuple, flags: dissected.tcp_flags.unwrap_or(0), direction })
    }

    /// Counts a packet that was sent.
    pub(super) fn sent(&mut self, entry: &Entry, tagged: &Tagged, now_ns: u64) -> Result<(), TruthError> {
        let is_again = self.open.get(&entry.key).is_some_and(|open| open.starts_again(entry.flags));
        if is_again && let Some(open) = self.open.remove(&entry.key) {
            self.write(&open, false)?;
        }
        if self.open.len() >= OPEN_FLOWS_MAX && !self.open.contains_key(&entry.key) {
            self.sweep(now_ns)?;
            if self.open.len() >= OPEN_FLOWS_MAX
                && let Some(key) = self.open.keys().next().copied()
                && let Some(open) = self.open.remove(&key)
            {
                self.write(&open, true)?;
            }
        }
        let client = if entry.direction == Direction::Orig { entry.tuple } else { entry.tuple.reversed() };
        let open = self.open.entry(entry.key).or_insert_with(|| Open {
            tuple: client,
            vlan: entry.key.1,
            tag: tagged.tag,
            start_ns: now_ns,
            end_ns: now_ns,
            packets: [0; 2],
            bytes: [0; 2],
            fins: [false; 2],
            is_closed: false,
            is_through: false,
        });
        let side = usize::from(entry.direction == Direction::Resp);
        open.end_ns = now_ns;
        open.packets[side] += 1;
        open.bytes[side] += u64::from(tagged.packet.len);
        open.fins[side] |= entry.flags & FIN != 0;
        open.is_closed |= entry.flags & RST != 0 || open.fins == [true; 2];
        open.is_through |= tagged.tag.is_last;
        if now_ns >= self.next_sweep_ns {
            self.next_sweep_ns = now_ns + SWEEP_NS;
            self.sweep(now_ns)?;
        }
        Ok(())
    }

    /// Writes the flows that have ended.
    fn sweep(&mut self, now_ns: u64) -> Result<(), TruthError> {
        let is_over = |open: &Open| {
            let quiet = now_ns.saturating_sub(open.end_ns);
            quiet > IDLE_NS || (open.is_closed || open.is_through) && quiet > LINGER_NS
        };
        let over: Vec<_> = self.open.iter().filter(|(_, open)| is_over(open)).map(|(key, _)| *key).collect();
        for key in over {
            if let Some(open) = self.open.remove(&key) {
                self.write(&open, false)?;
            }
        }
        match &mut self.file {
            Some((file, path)) => {
                file.flush().map_err(|source| TruthError { path: path.display().to_string(), source })
            }
            None => Ok(()),
        }
    }

    /// Writes what is left; `is_cut` where the source had more.
    pub(super) fn finish(&mut self, is_cut: bool) -> Result<(), TruthError> {
        let mut left: Vec<_> = self.open.drain().map(|(_, open)| open).collect();
        left.sort_by_key(|open| open.start_ns);
        for open in left {
            self.write(&open, is_cut)?;
        }
        match &mut self.file {
            Some((file, path)) => {
                file.flush().map_err(|source| TruthError { path: path.display().to_string(), source })
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, open: &Open, is_cut: bool) -> Result<(), TruthError> {
        self.flows += 1;
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        let seconds = |ns: u64| (self.epoch_ns + i128::from(ns)) as f64 / 1e9;
        let flow = TruthFlow {
            src_ip: open.tuple.orig,
            src_port: open.tuple.orig_port,
            dest_ip: open.tuple.resp,
            dest_port: open.tuple.resp_port,
            protocol: open.tuple.protocol,
            vlan: open.vlan.into_iter().filter(|id| *id != 0).collect(),
            label: open.tag.label.and_then(|label| self.labels.get(usize::from(label.0)).cloned()),
            session: (open.tag.session != 0).then_some(open.tag.session),
            start: seconds(open.start_ns),
            end: seconds(open.end_ns),
            pkts_toserver: open.packets[0],
            pkts_toclient: open.packets[1],
            bytes_toserver: open.bytes[0],
            bytes_toclient: open.bytes[1],
            state: match (open.is_closed, is_cut && !open.is_through) {
                (true, _) => TruthState::Closed,
                (false, true) => TruthState::Cut,
                (false, false) => TruthState::Complete,
            },
        };
        let mut line = serde_json::to_vec(&flow).unwrap_or_default();
        line.push(b'\n');
        file.write_all(&line).map_err(|source| TruthError { path: path.display().to_string(), source })
    }
}

impl Open {
    /// Whether a packet with these flags begins another flow of the same 5-tuple.
    fn starts_again(&self, flags: u8) -> bool {
        self.is_closed && flags & (SYN | 0x10) == SYN
    }
}

/// The ids of at most two VLAN tags (IEEE 802.1Q) of an Ethernet frame, the outer one first; 0 for none.
fn vlan_ids(frame: &[u8]) -> [u16; 2] {
    let id = |at: usize| match frame.get(at..at + 4) {
        Some([0x81, 0x00, a, b] | [0x88, 0xa8, a, b] | [0x91, 0x00, a, b]) => u16::from_be_bytes([a & 0x0f, *b]),
        _ => 0,
    };
    let outer = id(12);
    [outer, if outer == 0 { 0 } else { id(16) }]
}
