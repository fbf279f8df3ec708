//! Savefiles: pcap with nanoseconds or microseconds, to a file or a pipe.
//!
//! A file is written beside its name, as `.NAME.part`, and gets its name when it is whole: an older file of that name
//! survives a job that fails, and no reader takes half a capture for a whole one. What a failed job wrote stays in the
//! `.part` file, which is a readable capture up to its end; the error names it. What is no regular file (standard
//! output, a FIFO, a device) is written directly. The format is that of draft-ietf-opsawg-pcap.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wiremamba_model::packet::{LinkType, Packet};

use super::{PacketSink, SinkError, SinkReport};

/// Longest packet; libpcap's MAXIMUM_SNAPLEN, above which readers call a file damaged.
const PACKET_BYTES_MAX: usize = 262_144;
/// Buffer between packets and system calls.
const BUFFER_BYTES: usize = 1 << 18;
/// How long a packet may wait in the buffer of a pipe before the next one pushes it out.
const PIPE_DELAY_MAX: Duration = Duration::from_millis(50);

const REFUSED_LINKTYPE: &str = "link type differs from that of the file";
const REFUSED_LENGTH: &str = "longer than 262144 bytes";
const REFUSED_TIME: &str = "time outside of 1970 to 2106";

/// Unit of the times in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resolution {
    /// Nanoseconds: nothing is lost.
    #[default]
    Nanos,
    /// Microseconds, rounded down, for readers that know nothing else.
    Micros,
}

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SavefileOptions {
    /// Unit of the times.
    pub resolution: Resolution,
    /// The one link type of the file; that of the first packet where `None` (Ethernet where there is none). Packets of
    /// another one are refused.
    pub linktype: Option<LinkType>,
}

/// One savefile being written.
#[derive(Debug)]
pub struct SavefileSink {
    name: String,
    target: Target,
    writer: BufWriter<File>,
    resolution: Resolution,
    linktype: Option<LinkType>,
    header_written: bool,
    last_flush: Instant,
    report: SinkReport,
}

#[derive(Debug)]
enum Target {
    /// Written as it is.
    Direct,
    /// Written to `part`, renamed to `path`.
    Renamed { part: PathBuf, path: PathBuf },
}

impl SavefileSink {
    /// Opens `path`, or standard output for `-`.
    ///
    /// # Errors
    /// [`SinkError::Open`].
    pub fn create(path: impl AsRef<Path>, options: SavefileOptions) -> Result<Self, SinkError> {
        let path = path.as_ref();
        let is_stdout = path.as_os_str() == "-";
        let name = if is_stdout { "standard output".to_owned() } else { path.display().to_string() };
        let opened = if is_stdout { stdout().map(|file| (file, Target::Direct)) } else { open(path) };
        let (file, target) = opened.map_err(|source| SinkError::Open { name: name.clone(), source })?;
        Ok(Self {
            name,
            target,
            writer: BufWriter::with_capacity(BUFFER_BYTES, file),
            resolution: options.resolution,
            linktype: options.linktype,
            header_written: false,
            last_flush: Instant::now(),
            report: SinkReport::default(),
        })
    }

    fn write_header(&mut self, linktype: LinkType) -> std::io::Result<()> {
        let magic: u32 = match self.resolution {
            Resolution::Nanos => 0xa1b2_3c4d,
            Resolution::Micros => 0xa1b2_c3d4,
        };
        let mut header = [0; 24];
        header[..4].copy_from_slice(&magic.to_le_bytes());
        header[4..8].copy_from_slice(&[2, 0, 4, 0]); // version 2.4
        header[16..20].copy_from_slice(&(PACKET_BYTES_MAX as u32).to_le_bytes());
        header[20..].copy_from_slice(&u32::from(linktype.0).to_le_bytes());
        self.linktype = Some(linktype);
        self.header_written = true;
        self.writer.write_all(&header)
    }

    fn write_record(&mut self, packet: &Packet, seconds: u32) -> std::io::Result<()> {
        if !self.header_written {
            self.write_header(self.linktype.unwrap_or(packet.linktype))?;
        }
        let nanos = packet.ts.0.rem_euclid(1_000_000_000) as u32;
        let fraction = match self.resolution {
            Resolution::Nanos => nanos,
            Resolution::Micros => nanos / 1000,
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&fraction.to_le_bytes());
        header[8..12].copy_from_slice(&(packet.data.len() as u32).to_le_bytes());
        header[12..].copy_from_slice(&packet.len.to_le_bytes());
        self.writer.write_all(&header)?;
        self.writer.write_all(&packet.data)?;
        if matches!(self.target, Target::Direct) && self.last_flush.elapsed() > PIPE_DELAY_MAX {
            self.last_flush = Instant::now();
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Why the file cannot hold a packet.
    fn refusal(&self, packet: &Packet) -> Option<&'static str> {
        if self.linktype.is_some_and(|linktype| linktype != packet.linktype) {
            Some(REFUSED_LINKTYPE)
        } else if packet.data.len() > PACKET_BYTES_MAX {
            Some(REFUSED_LENGTH)
        } else {
            None
        }
    }

    fn complete(&mut self) -> std::io::Result<()> {
        if !self.header_written {
            self.write_header(self.linktype.unwrap_or(LinkType::ETHERNET))?;
        }
        self.writer.flush()?;
        if let Target::Renamed { part, path } = &self.target {
            self.writer.get_ref().sync_all()?;
            std::fs::rename(part, path)?;
        }
        Ok(())
    }

    fn error(&mut self, source: std::io::Error) -> SinkError {
        let name = self.name.clone();
        if source.kind() == ErrorKind::BrokenPipe {
            self.report.closed = true;
            return SinkError::Closed { name };
        }
        let kept = match &self.target {
            Target::Renamed { part, .. } => Some(part.display().to_string()),
            Target::Direct => None,
        };
        SinkError::Write { name, packets: self.report.packets, kept, source }
    }
}

impl PacketSink for SavefileSink {
    fn send(&mut self, packet: &Packet) -> Result<(), SinkError> {
        if self.report.closed {
            return Err(SinkError::Closed { name: self.name.clone() });
        }
        // The format has 32 unsigned bits for the seconds.
        let seconds = u32::try_from(packet.ts.0.div_euclid(1_000_000_000)).ok();
        match (self.refusal(packet), seconds) {
            (None, Some(seconds)) => {
                self.write_record(packet, seconds).map_err(|source| self.error(source))?;
                self.report.packets += 1;
                self.report.bytes += packet.data.len() as u64;
            }
            (refusal, _) => *self.report.refused.entry(refusal.unwrap_or(REFUSED_TIME)).or_default() += 1,
        }
        Ok(())
    }

    fn keeps_times(&self) -> bool {
        true
    }

    fn report(&self) -> &SinkReport {
        &self.report
    }

    fn finish(&mut self) -> Result<SinkReport, SinkError> {
        if !self.report.closed
            && let Err(source) = self.complete()
        {
            match self.error(source) {
                SinkError::Closed { .. } => {}
                error => return Err(error),
            }
        }
        Ok(self.report.clone())
    }
}

/// Standard output as a file of its own, so that the buffer and line handling of `std::io::stdout` stay out of it.
fn stdout() -> std::io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(std::io::stdout().as_fd().try_clone_to_owned()?))
}

fn open(path: &Path) -> std::io::Result<(File, Target)> {
    // The file that a link leads to is replaced, not the link.
    let path = match std::fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        return Ok((File::options().write(true).open(&path)?, Target::Direct));
    }
    // Replacing a file asks its folder only, and root may do anything: whoever protected a capture means it.
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().readonly()) {
        return Err(std::io::Error::new(
            ErrorKind::PermissionDenied,
            "it exists and is read-only; remove it, or name another",
        ));
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
    let mut part_name = std::ffi::OsString::from(".");
    part_name.push(name);
    part_name.push(".part");
    let part = path.with_file_name(part_name);
    Ok((File::create(&part)?, Target::Renamed { part, path }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::SavefileSource;
    use crate::source::{Next, PacketSource};
    use proptest::prelude::*;
    use wiremamba_model::packet::Timestamp;

    fn packet(ts: i64, data: &[u8]) -> Packet {
        Packet { ts: Timestamp(ts), linktype: LinkType::ETHERNET, len: data.len() as u32, data: data.to_vec() }
    }

    fn read(path: &Path) -> Vec<Packet> {
        let mut source = SavefileSource::open(path).unwrap();
        std::iter::from_fn(|| match source.next_packet().unwrap() {
            Next::Packet(packet) => Some(packet),
            Next::Idle | Next::End => None,
        })
        .collect()
    }

    #[test]
    fn a_read_only_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept.pcap");
        std::fs::write(&path, b"dear").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
        let error = SavefileSink::create(&path, SavefileOptions::default()).unwrap_err();
        assert!(format!("{error:?}").contains("read-only"), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"dear");
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut sink = SavefileSink::create(&path, SavefileOptions::default()).unwrap();
        sink.send(&Packet { len: 60, ..packet(2_000_000_003, &[9, 8]) }).unwrap();
        assert!(!path.exists(), "not under its name before it is whole");
        let report = sink.finish().unwrap();
        assert_eq!((report.packets, report.bytes, report.refused_packets()), (1, 2, 0));
        // draft-ietf-opsawg-pcap, sections 4 and 5, by hand.
        #[rustfmt::skip]
        let expected = [
            0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0,
            2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 60, 0, 0, 0, 9, 8,
        ];
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn microseconds_round_down() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let options = SavefileOptions { resolution: Resolution::Micros, linktype: None };
        let mut sink = SavefileSink::create(&path, options).unwrap();
        sink.send(&packet(1_000_001_999, &[1])).unwrap();
        sink.finish().unwrap();
        assert_eq!(read(&path), [packet(1_000_001_000, &[1])]);
    }

    #[test]
    fn what_the_file_cannot_hold_is_refused_and_counted() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut sink = SavefileSink::create(&path, SavefileOptions::default()).unwrap();
        sink.send(&packet(0, &[1])).unwrap();
        sink.send(&Packet { linktype: LinkType::RAW, ..packet(0, &[1]) }).unwrap();
        sink.send(&packet(-1, &[1])).unwrap();
        sink.send(&packet(i64::MAX, &[1])).unwrap();
        sink.send(&packet(0, &vec![0; PACKET_BYTES_MAX + 1])).unwrap();
        sink.send(&packet(0, &vec![7; PACKET_BYTES_MAX])).unwrap();
        let report = sink.finish().unwrap();
        assert_eq!((report.packets, report.refused_packets()), (2, 4));
        assert_eq!(report.refused[REFUSED_TIME], 2);
        assert_eq!(read(&path).len(), 2);
    }

    #[test]
    fn a_capture_without_packets_is_a_readable_file() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        SavefileSink::create(&path, SavefileOptions::default()).unwrap().finish().unwrap();
        assert_eq!(read(&path), []);
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one_alone_and_itself_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        std::fs::write(&path, "old").unwrap();
        let mut sink = SavefileSink::create(&path, SavefileOptions::default()).unwrap();
        sink.send(&packet(0, &[1])).unwrap();
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(read(&dir.path().join(".a.pcap.part")).len(), 1);
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_so() {
        let mut sink = SavefileSink::create("/dev/full", SavefileOptions::default()).unwrap();
        let sent: Result<(), _> = (0..10_000).try_for_each(|_| sink.send(&packet(0, &[0; 100])));
        let Err(SinkError::Write { name, source, .. }) = sent else { panic!("{sent:?}") };
        assert_eq!((name.as_str(), source.kind()), ("/dev/full", ErrorKind::StorageFull));
        assert!(matches!(sink.finish(), Err(SinkError::Write { .. })));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/a.pcap");
        let error = SavefileSink::create(&path, SavefileOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write to {}", path.display()));
    }

    #[test]
    fn a_reader_that_goes_is_a_normal_end() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || drop(File::open(fifo).unwrap())
        });
        let mut sink = SavefileSink::create(&fifo, SavefileOptions::default()).unwrap();
        reader.join().unwrap();
        let sent: Result<(), _> = (0..10_000).try_for_each(|_| sink.send(&packet(0, &[0; 100])));
        assert!(matches!(sent, Err(SinkError::Closed { .. })));
        assert!(matches!(sink.send(&packet(0, &[0])), Err(SinkError::Closed { .. })));
        assert!(sink.finish().unwrap().closed);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_written_is_read_back(
            // libpcap before 1.10.5 reads the seconds as a signed number, so the test stays before 2038.
            packets in prop::collection::vec((0..(1_i64 << 31) * 1_000_000_000, any::<Vec<u8>>(), 0..100_u32), 0..20),
            linktype in prop::sample::select(vec![0_u16, 1, 101, 113, 127, 228, 229, 276]),
        ) {
            let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
            let packets: Vec<_> = packets.into_iter().map(|(ts, data, cut)| Packet {
                ts: Timestamp(ts), linktype: LinkType(linktype), len: data.len() as u32 + cut, data,
            }).collect();
            let options = SavefileOptions { linktype: Some(LinkType(linktype)), ..SavefileOptions::default() };
            let mut sink = SavefileSink::create(&path, options).unwrap();
            for packet in &packets {
                sink.send(packet).unwrap();
            }
            sink.finish().unwrap();
            prop_assert_eq!(read(&path), packets);
        }
    }
}
