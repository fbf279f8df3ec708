//! `curve.jsonl`: one JSON object for each step and each measurement, beside the checkpoints.
//!
//! The curve is for people and plots; training never depends on it. Once open, a write that fails is reported once.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The file while a run writes it.
pub(super) struct Curve {
    path: PathBuf,
    file: File,
    /// Where the last whole line ends, in bytes.
    end: u64,
    /// Whether a failed write was reported.
    warned: bool,
}

impl Curve {
    /// Opens `curve.jsonl` in `dir`.
    ///
    /// A run that resumes after `resumed_step` keeps the lines up to there: what an earlier run did after its last
    /// checkpoint is done again. `None`, a run from scratch, starts a new curve even in a folder that has one.
    pub(super) fn open(dir: &Path, resumed_step: Option<u64>) -> Result<Self> {
        let path = dir.join("curve.jsonl");
        let (file, end) =
            open_and_cut(&path, resumed_step).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { path, file, end, warned: false })
    }

    /// Appends `line`; a failure is a warning, the first time.
    pub(super) fn write(&mut self, line: &impl Serialize) {
        if let Err(error) = self.try_write(line) {
            // Half a line would spoil the next one. Where this fails too, nothing better is left to do.
            let _ = self.file.set_len(self.end);
            if !self.warned {
                self.warned = true;
                tracing::warn!(path = %self.path.display(), %error, "cannot write the curve; training goes on without it");
            }
        }
    }

    fn try_write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.end += text.len() as u64;
        Ok(())
    }
}

fn open_and_cut(path: &Path, resumed_step: Option<u64>) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // Somebody may have put a device or a pipe there, which has nothing to cut.
    if !file.metadata()?.is_file() {
        return Ok((file, 0));
    }
    let end = match resumed_step {
        Some(step) => end_of_step(BufReader::new(&file), step)?,
        None => 0,
    };
    file.set_len(end)?;
    Ok((file, end))
}

/// Where the whole lines end that come before the first one of a step after `step`, in bytes.
fn end_of_step(mut curve: impl BufRead, step: u64) -> io::Result<u64> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let mut end = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = curve.read_until(b'\n', &mut line)?;
        let later = serde_json::from_slice::<Line>(&line).is_ok_and(|l| l.step > step);
        if !line.ends_with(b"\n") || later {
            return Ok(end);
        }
        end += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line {
        step: u64,
    }

    #[test]
    fn resuming_drops_later_steps_and_half_a_line_and_a_new_run_drops_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curve.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2,\"held_out\":{}}\n{\"step\":3}\n{\"st").unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        let mut curve = Curve::open(dir.path(), Some(3)).unwrap();
        curve.write(&Line { step: 4 });
        assert_eq!(read(), "{\"step\":1}\n{\"step\":2,\"held_out\":{}}\n{\"step\":3}\n{\"step\":4}\n");
        Curve::open(dir.path(), Some(2)).unwrap().write(&Line { step: 3 });
        assert_eq!(read(), "{\"step\":1}\n{\"step\":2,\"held_out\":{}}\n{\"step\":3}\n");
        Curve::open(dir.path(), None).unwrap();
        assert_eq!(read(), "");
    }
}
