//! Captured packets on disk, where the operator asks for them: savefiles that take turns within a limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wiremamba_model::packet::Packet;

use crate::sink::PacketSink;
use crate::sink::savefile::{SavefileOptions, SavefileSink};

/// Files that the limit is shared by.
const FILES: u64 = 8;
/// Time after a failure, such as a full disk, until it is tried again.
const PAUSE: Duration = Duration::from_secs(60);

/// Packets of one interface, on disk.
#[derive(Debug)]
pub(super) struct Keep {
    folder: PathBuf,
    /// How the names of the files begin.
    prefix: String,
    bytes_max: u64,
    sink: Option<SavefileSink>,
    not_before: Instant,
}

impl Keep {
    /// Keeps packets of `interface` in `folder`, in `bytes_max` bytes at most.
    pub(super) fn new(folder: &Path, interface: &str, bytes_max: u64) -> Self {
        let prefix = format!("{}-", interface.replace('/', "_"));
        Self { folder: folder.to_owned(), prefix, bytes_max, sink: None, not_before: Instant::now() }
    }

    /// Writes a packet. What cannot be written is lost to the files alone, and logged.
    pub(super) fn add(&mut self, packet: &Packet) {
        if self.sink.is_none() && Instant::now() < self.not_before {
            return;
        }
        if let Err(error) = self.try_add(packet) {
            tracing::warn!("captures are not kept for {} s: {error:#}", PAUSE.as_secs());
            self.sink = None;
            self.not_before = Instant::now() + PAUSE;
        }
    }

    fn try_add(&mut self, packet: &Packet) -> anyhow::Result<()> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => {
                fs::create_dir_all(&self.folder)?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                // Nanoseconds sort as the files were begun.
                let path = self.folder.join(format!("{}{:020}.pcap", self.prefix, now.as_nanos()));
                none.insert(SavefileSink::create(path, SavefileOptions::default())?)
            }
        };
        sink.send(packet)?;
        if sink.report().bytes >= self.bytes_max / FILES {
            self.end_file()?;
        }
        Ok(())
    }

    /// Ends the file at hand, and removes the oldest ones beyond the limit.
    fn end_file(&mut self) -> anyhow::Result<()> {
        if let Some(mut sink) = self.sink.take() {
            sink.finish()?;
        }
        self.prune()?;
        Ok(())
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // What a killed service left unfinished begins with a dot.
            let name = entry.file_name().to_string_lossy().trim_start_matches('.').to_owned();
            if name.starts_with(&self.prefix) {
                files.push((name, entry.metadata()?.len(), entry.path()));
            }
        }
        files.sort_unstable();
        // Room for the next one.
        let mut left = self.bytes_max - self.bytes_max / FILES;
        for (_, len, path) in files.iter().rev() {
            match left.checked_sub(*len) {
                Some(rest) => left = rest,
                None => {
                    left = 0;
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if let Err(error) = self.end_file() {
            tracing::warn!("the last kept capture is incomplete: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use wiremamba_model::packet::{LinkType, Timestamp};

    use super::*;

    #[test]
    fn files_take_turns_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other.pcap"), "not ours").unwrap();
        fs::write(dir.path().join(".eth0-00000000000000000001.pcap.part"), [0; 5000]).unwrap();
        let packet = Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: 100, data: vec![0; 100] };
        {
            let mut keep = Keep::new(dir.path(), "eth0", 80_000);
            (0..5000).for_each(|_| keep.add(&packet));
        }
        let sizes: Vec<u64> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() > 4 && sizes.iter().sum::<u64>() < 85_000, "{sizes:?}");
        assert!(dir.path().join("other.pcap").exists());
        // A folder that cannot be is no reason to stop.
        let mut keep = Keep::new(&dir.path().join("other.pcap/x"), "eth0", 80_000);
        (0..5).for_each(|_| keep.add(&packet));
        assert!(keep.sink.is_none());
    }
}
