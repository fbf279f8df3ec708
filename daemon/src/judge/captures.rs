//! What the judges are given: for each capture a name that no program misunderstands, and no more packets than allowed.
//!
//! A whole capture is handed on as a link to it. One that was cut, is damaged, or holds more than the limit, is copied
//! as far as it goes, so that all programs see the same packets: they differ in what they make of a broken end. Link
//! and copy are called `N.pcap` in a temporary folder, because file names may begin with a dash, or hold a comma, which
//! ndpiReader takes for two files.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use crate::sink::PacketSink;
use crate::sink::savefile::{SavefileOptions, SavefileSink};
use crate::source::file::SavefileSource;

/// Captures that cannot be read are counted, and this many of them named.
const UNREAD_NAMED_MAX: usize = 32;

/// Both sides; the files are there as long as this is.
pub(super) struct Sides {
    pub(super) real: Side,
    pub(super) synthetic: Side,
    /// Keeps links and copies.
    _folder: TempDir,
}

/// The captures of one side.
pub(super) struct Side {
    pub(super) captures: Vec<Capture>,
    pub(super) report: CapturesReport,
}

/// One capture, as programs see it.
pub(super) struct Capture {
    /// Link or copy; absolute.
    pub(super) path: PathBuf,
    /// The original's name, for people.
    pub(super) name: String,
}

/// Which captures of one side were judged.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CapturesReport {
    /// Captures that the programs were given.
    pub captures: u64,
    /// Packets in them.
    pub packets: u64,
    /// Whether packets were left out because of the limit.
    pub limited: bool,
    /// Captures without a packet that can be read.
    pub unread: u64,
    /// Captures that were not read, or not to their end, and why.
    pub unread_named: Vec<UnreadCapture>,
}

/// A capture that was not read, or not to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnreadCapture {
    /// Its file.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Sides {
    pub(super) fn prepare(
        real: &[PathBuf],
        synthetic: &[PathBuf],
        packets_max: u64,
        told: &mut dyn FnMut(&str),
    ) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut prepare = |name: &str, files: &[PathBuf]| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder)?;
            Side::prepare(name, files, packets_max, &folder, told)
        };
        let real = prepare("real", real)?;
        let synthetic = prepare("synthetic", synthetic)?;
        Ok(Self { real, synthetic, _folder: folder })
    }
}

impl Side {
    pub(super) fn len(&self) -> usize {
        self.captures.len()
    }

    fn prepare(
        side: &str,
        files: &[PathBuf],
        packets_max: u64,
        folder: &Path,
        told: &mut dyn FnMut(&str),
    ) -> std::io::Result<Self> {
        let mut report = CapturesReport::default();
        let mut captures = Vec::new();
        for file in files {
            let left = packets_max - report.packets;
            if left == 0 {
                report.limited = true;
                break;
            }
            let name = file.display().to_string();
            let extent = extent_of(file, left);
            if let Some(reason) = &extent.trouble {
                told(&format!("{name}: {reason}"));
                if report.unread_named.len() < UNREAD_NAMED_MAX {
                    report.unread_named.push(UnreadCapture { name: name.clone(), reason: reason.clone() });
                }
            }
            report.limited |= extent.limited;
            if extent.packets == 0 {
                report.unread += 1;
                continue;
            }
            let path = folder.join(format!("{}.pcap", captures.len()));
            if extent.is_whole() {
                // It was read a moment ago, so that it has an absolute name.
                std::os::unix::fs::symlink(file.canonicalize()?, &path)?;
            } else {
                copy(file, extent.packets, &path).map_err(std::io::Error::other)?;
            }
            report.captures += 1;
            report.packets += extent.packets;
            captures.push(Capture { path, name });
        }
        if report.limited {
            told(&format!("of the {side} captures only the first {packets_max} packets are judged"));
        }
        Ok(Self { captures, report })
    }
}

/// How far a file can be read.
#[derive(Default)]
struct Extent {
    packets: u64,
    /// There are more packets than were asked for.
    limited: bool,
    /// Why there are no more.
    trouble: Option<String>,
}

impl Extent {
    fn is_whole(&self) -> bool {
        !self.limited && self.trouble.is_none()
    }
}

fn extent_of(file: &Path, packets_max: u64) -> Extent {
    let mut extent = Extent::default();
    extent.trouble = (|| {
        let path = file.canonicalize().map_err(|error| error.to_string())?;
        if !path.is_file() {
            return Err("is not a regular file, and the judges read it more than once".to_owned());
        }
        let mut source = SavefileSource::open(path).map_err(|error| chain(&error))?;
        let mut packet = blank();
        while source.read_into(&mut packet).map_err(|error| chain(&error))? {
            if extent.packets == packets_max {
                extent.limited = true;
                return Ok(());
            }
            extent.packets += 1;
        }
        if source.truncated_at_end() {
            return Err(format!("ends in the middle of packet {}", extent.packets + 1));
        }
        if extent.packets == 0 {
            return Err("has no packets".to_owned());
        }
        Ok(())
    })()
    .err();
    extent
}

/// Copies the first `packets` packets.
fn copy(file: &Path, packets: u64, to: &Path) -> anyhow::Result<()> {
    let mut source = SavefileSource::open(file.canonicalize()?)?;
    let mut sink = SavefileSink::create(to, SavefileOptions::default())?;
    let mut packet = blank();
    for _ in 0..packets {
        source.read_into(&mut packet)?;
        sink.send(&packet)?;
    }
    sink.finish()?;
    Ok(())
}

fn blank() -> Packet {
    Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: 0, data: Vec::new() }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets_of(path: &Path) -> u64 {
        extent_of(path, u64::MAX).packets
    }

    fn capture(path: &Path, packets: u64) {
        let mut sink = SavefileSink::create(path, SavefileOptions::default()).unwrap();
        for _ in 0..packets {
            sink.send(&Packet { len: 60, data: vec![0; 60], ..blank() }).unwrap();
        }
        sink.finish().unwrap();
    }

    #[test]
    fn the_limit_holds_over_all_files_of_a_side_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["-rf,a.pcap", "b", "c"].map(|name| folder.path().join(name)).into();
        files.iter().for_each(|file| capture(file, 4));
        let mut heard = String::new();
        let sides = Sides::prepare(&files, &files[..1], 6, &mut |text| heard += text).unwrap();
        assert_eq!((sides.real.report.captures, sides.real.report.packets, sides.real.report.limited), (2, 6, true));
        assert_eq!(sides.real.captures.iter().map(|c| packets_of(&c.path)).collect::<Vec<_>>(), [4, 2]);
        assert_eq!((sides.synthetic.report.packets, sides.synthetic.report.limited), (4, false));
        assert!(heard.contains("only the first 6 packets"), "{heard}");
    }

    #[test]
    fn what_is_broken_is_named_and_what_it_holds_is_judged() {
        let folder = tempfile::tempdir().unwrap();
        let [cut, text, empty, absent] = ["cut", "text", "empty", "absent"].map(|name| folder.path().join(name));
        capture(&cut, 3);
        let bytes = std::fs::read(&cut).unwrap();
        std::fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
        std::fs::write(&text, "no capture").unwrap();
        capture(&empty, 0);
        let files = [cut, text, empty, absent, folder.path().to_owned()];
        let sides = Sides::prepare(&files, &[], 100, &mut |_| ()).unwrap();
        let report = &sides.real.report;
        assert_eq!((report.captures, report.packets, report.unread, report.limited), (1, 2, 4, false));
        assert_eq!(report.unread_named.len(), 5);
        assert_eq!(packets_of(&sides.real.captures[0].path), 2);
    }
}
