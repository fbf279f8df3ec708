//! Labels from nDPI: flows are gathered for a moment, written to a capture in memory, and named by `ndpiReader`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use wiremamba_model::codec::LabelId;
use wiremamba_model::flow::{FiveTuple, Session};
use wiremamba_model::packet::LinkType;

use super::samples::{Sample, bytes};
use crate::judge::{FlowName, ProtocolReader};

/// Flows that are named at once, at most.
const FLOWS_MAX: usize = 256;
/// Captured bytes of them.
const BYTES_MAX: u64 = 16 << 20;
/// How long the first of them waits.
const WAIT: Duration = Duration::from_secs(2);
/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Packets of a flow that are shown to it: it decides by the first ones.
const PACKETS_MAX: usize = 32;

/// Gathers flows until it is worth asking.
pub(super) struct Naming {
    labels: BTreeMap<String, LabelId>,
    gathered: Vec<Sample>,
    bytes: u64,
    since: Instant,
    folder: tempfile::TempDir,
    complaint: String,
}

impl Naming {
    /// `labels` are by nDPI's names. `None` where there are none.
    ///
    /// # Errors
    /// There is no `ndpiReader`, or no folder for it.
    pub(super) fn new(labels: BTreeMap<String, LabelId>) -> Result<Option<Self>> {
        if labels.is_empty() {
            return Ok(None);
        }
        reader()?;
        let folder = tempfile::tempdir().context("no folder for ndpiReader")?;
        let (gathered, since) = (Vec::new(), Instant::now());
        Ok(Some(Self { labels, gathered, bytes: 0, since, folder, complaint: String::new() }))
    }

    /// Takes a flow in; gives back those that were named, if it was time.
    pub(super) fn add(&mut self, sample: Sample) -> Vec<Sample> {
        if self.gathered.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += bytes(&sample);
        self.gathered.push(sample);
        self.due()
    }

    /// The flows that were named, if it is time.
    pub(super) fn due(&mut self) -> Vec<Sample> {
        let is_full = self.gathered.len() >= FLOWS_MAX || self.bytes >= BYTES_MAX;
        if self.gathered.is_empty() || (!is_full && self.since.elapsed() < WAIT) {
            return Vec::new();
        }
        self.bytes = 0;
        let mut flows = std::mem::take(&mut self.gathered);
        if let Err(error) = self.name(&mut flows) {
            // Once for each trouble. The flows keep the labels of their captures.
            let text = format!("{error:#}");
            if text != self.complaint {
                tracing::warn!("nDPI named no flows: {text}");
                self.complaint = text;
            }
        }
        flows
    }

    fn name(&self, flows: &mut [Sample]) -> Result<()> {
        let reader = reader()?;
        // Each link type needs a capture of its own.
        let mut linktypes: Vec<LinkType> = flows.iter().filter_map(|(_, session)| linktype(session)).collect();
        linktypes.sort_unstable();
        linktypes.dedup();
        for wanted in linktypes {
            let capture =
                capture(flows.iter().map(|(_, session)| session).filter(|s| linktype(s) == Some(wanted)), wanted)
                    .context("cannot write a capture to memory")?;
            let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), capture.as_raw_fd()));
            let names = reader.read(&path, self.folder.path())?;
            for (label, session) in flows.iter_mut().filter(|(_, session)| linktype(session) == Some(wanted)) {
                let name = session.flows.first().and_then(|tuple| names.get(&flow_name(tuple)));
                if let Some(named) = name.and_then(|name| self.label(name)) {
                    *label = named;
                }
            }
        }
        Ok(())
    }

    /// The label of `TLS.Google`: under that name, or under one of its parts.
    fn label(&self, name: &str) -> Option<LabelId> {
        std::iter::once(name).chain(name.rsplit('.')).find_map(|name| self.labels.get(name)).copied()
    }
}

fn reader() -> Result<ProtocolReader> {
    let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/usr/local/bin".into());
    ProtocolReader::find(&search, PATIENCE).context("learn.ndpi needs ndpiReader (Debian: libndpi-bin)")
}

fn linktype(session: &Session) -> Option<LinkType> {
    session.packets.first().map(|packet| packet.packet.linktype)
}

fn flow_name(tuple: &FiveTuple) -> FlowName {
    let end = |address: std::net::IpAddr, port: u16| std::net::SocketAddr::new(address, port).to_string();
    let ends = [end(tuple.orig, tuple.orig_port), end(tuple.resp, tuple.resp_port)];
    (tuple.protocol, ends.into_iter().collect())
}

/// A pcap file (draft-ietf-opsawg-pcap) that is nowhere but in memory.
fn capture<'a>(sessions: impl Iterator<Item = &'a Session>, linktype: LinkType) -> io::Result<File> {
    let file = File::from(memfd_create("wiremamba", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?);
    let mut out = BufWriter::new(&file);
    let word = |out: &mut BufWriter<&File>, n: u32| out.write_all(&n.to_ne_bytes());
    // Magic for microseconds, version 2.4, two words of zeros, longest packet, link type.
    for n in [0xa1b2_c3d4, u32::from_ne_bytes([2, 0, 4, 0]), 0, 0, 262_144, u32::from(linktype.0)] {
        word(&mut out, n)?;
    }
    for packet in sessions.flat_map(|session| session.packets.iter().take(PACKETS_MAX)).map(|packet| &packet.packet) {
        let (seconds, nanos) = (packet.ts.0.div_euclid(1_000_000_000), packet.ts.0.rem_euclid(1_000_000_000));
        for n in [seconds as u32, (nanos / 1000) as u32, packet.data.len() as u32, packet.len] {
            word(&mut out, n)?;
        }
        out.write_all(&packet.data)?;
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use wiremamba_model::flow::{FlowLimits, FlowTable};
    use wiremamba_model::packet::{Packet, Timestamp};

    use super::*;

    /// A question to a name server and its answer (RFC 1035), or something that nobody knows.
    fn udp_flow(port: u16, is_dns: bool) -> Sample {
        let header = [0, port as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let question = [&header[..], b"\x04host\x07example\x03org\0", &[0, 1, 0, 1]].concat();
        let payload = if is_dns { &question[..] } else { b"\x01\x02\x03\x04 nobody knows" };
        let mut table = FlowTable::new(FlowLimits::default());
        let mut data = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(port, 53);
        builder.write(&mut data, payload).unwrap();
        let packet = Packet { ts: Timestamp(1), linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        table.push(packet, &mut |_| {});
        let mut flows = Vec::new();
        table.finish(&mut |flow| flows.push(flow));
        (LabelId(0), Session::from(flows.remove(0)))
    }

    #[test]
    fn flows_get_the_label_of_what_ndpi_takes_them_for() {
        let Ok(naming) = Naming::new(BTreeMap::from([("DNS".to_owned(), LabelId(7))])) else {
            eprintln!("skipped: no ndpiReader");
            return;
        };
        let mut naming = naming.unwrap();
        assert!(naming.add(udp_flow(40_001, true)).is_empty(), "it waits for more");
        naming.add(udp_flow(40_002, false));
        naming.add(udp_flow(40_003, true));
        naming.since -= WAIT;
        let labels: Vec<u16> = naming.due().iter().map(|(label, _)| label.0).collect();
        assert_eq!(labels, [7, 0, 7]);
        assert_eq!((naming.bytes, naming.complaint.as_str()), (0, ""));
    }

    #[test]
    fn the_longer_name_goes_before_its_parts() {
        let labels = BTreeMap::from([("TLS".to_owned(), LabelId(1)), ("TLS.Google".to_owned(), LabelId(2))]);
        let (gathered, since) = (Vec::new(), Instant::now());
        let folder = tempfile::tempdir().unwrap();
        let naming = Naming { labels, gathered, bytes: 0, since, folder, complaint: String::new() };
        assert_eq!(naming.label("TLS.Google"), Some(LabelId(2)));
        assert_eq!(naming.label("TLS.Zoom"), Some(LabelId(1)));
        assert_eq!(naming.label("DNS"), None);
    }
}
