//! A folder of versions: atomic saving, the link to the one in use, and retention.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::about::{ABOUT_FILE, About, FORMAT_VERSION, Lineage, TOKENIZER_FILE};
use super::error::CheckpointError;
use super::files::{VersionWriter, sync_dir, write_error};
use super::tensors::Width;
use super::{CURRENT, hf_config, tensors, training};
use crate::codec::{Codec, LabelId};
use crate::mamba::Params;
use crate::train::TrainState;

/// How the names of versions begin.
pub(super) const VERSION_PREFIX: &str = "step-";
/// What marks a version that is being written; such names begin with a dot as well.
const PARTIAL_MARK: &str = ".tmp-";
/// Tells `transformers` to take `tokenizer.json` as it is; left alone, it would guess a class that adds tokens of its own.
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const TOKENIZER_CONFIG: &str = concat!(
    r#"{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false, "#,
    r#""eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}"#,
    "\n"
);
/// Tries to find a name that is not taken.
const NAME_TRIES_MAX: u32 = 10_000;

/// What a version is made of.
pub struct Contents<'a> {
    /// Training steps done.
    pub step: u64,
    /// The parameters.
    pub params: &'a Params,
    /// The codec.
    pub codec: &'a dyn Codec,
    /// Name of the preset, where one was used.
    pub preset: Option<&'a str>,
    /// Numbers about the training; those that are not finite are left out.
    pub metrics: BTreeMap<String, f64>,
    /// What it was trained from and on.
    pub lineage: Vec<Lineage>,
    /// What an exact resume needs; `None` for a checkpoint to generate from only.
    pub training: Option<TrainState<'a>>,
}

/// A version in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its folder.
    pub path: PathBuf,
    /// Training steps done, as its name says.
    pub step: u64,
    /// Place in the order of saving; 0 where `wiremamba.json` cannot be read.
    pub sequence: u64,
}

/// The versions in `dir`, oldest first; none when it cannot be read. Their other files are not looked at.
pub fn versions(dir: &Path) -> Vec<Version> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut versions: Vec<Version> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digits = name.strip_prefix(VERSION_PREFIX)?.split('-').next()?;
            let step = digits.parse().ok()?;
            let path = entry.path();
            let sequence = About::read(&path).map_or(0, |about| about.sequence);
            path.is_dir().then_some(Version { path, step, sequence })
        })
        .collect();
    versions.sort_by(|a, b| (a.sequence, a.step, &a.path).cmp(&(b.sequence, b.step, &b.path)));
    versions
}

/// The version in use and those before it, newest first; none where `current` points to no version.
pub fn history(dir: &Path) -> Vec<Version> {
    let Ok(current) = dir.join(CURRENT).canonicalize() else { return Vec::new() };
    let mut versions = versions(dir);
    let in_use = versions.iter().position(|version| version.path.canonicalize().is_ok_and(|path| path == current));
    versions.truncate(in_use.map_or(0, |place| place + 1));
    versions.reverse();
    versions
}

/// Writes a version to the new folder `dir`, outside of any store: a copy to give away.
///
/// When this fails, or the process is killed in it, there is no `dir`.
pub fn export(contents: &Contents<'_>, width: Width, dir: &Path) -> Result<(), CheckpointError> {
    let name = dir.file_name().ok_or_else(|| write_error(dir, io::ErrorKind::InvalidInput.into()))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if dir.symlink_metadata().is_ok() {
        return Err(write_error(dir, io::ErrorKind::AlreadyExists.into()));
    }
    let partial = parent.join(format!(".{}{PARTIAL_MARK}{}", name.to_string_lossy(), std::process::id()));
    fs::create_dir(&partial).map_err(|e| write_error(&partial, e))?;
    let written = write_version(VersionWriter::new(&partial, None), contents, width, 1)
        .and_then(|()| sync_dir(&partial))
        .and_then(|()| fs::rename(&partial, dir).map_err(|e| write_error(dir, e)))
        .and_then(|()| sync_dir(parent));
    if written.is_err() {
        // Nothing can be done when even this fails.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// A folder that versions are saved to. At most one process has it open.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    keep: usize,
    /// A version that stays, however old it becomes.
    protected: Option<PathBuf>,
    /// The folder itself, locked until this is dropped (or the process is gone).
    _lock: File,
    quota: Option<u64>,
}

impl Store {
    /// Opens `dir`, creating it where it is absent. Saving keeps the `keep` (at least 1) newest versions.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, CheckpointError> {
        fs::create_dir_all(dir).map_err(|e| write_error(dir, e))?;
        let lock = File::open(dir).map_err(|e| write_error(dir, e))?;
        match lock.try_lock() {
            Ok(()) => {
                let (dir, keep) = (dir.to_owned(), keep.max(1));
                Ok(Self { dir, keep, protected: None, _lock: lock, quota: None })
            }
            Err(TryLockError::WouldBlock) => Err(CheckpointError::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(write_error(dir, source)),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Saves a version and makes it the current one. Returns its folder.
    ///
    /// When this fails, or the process is killed in it, the versions that were there are untouched and `current` is one of
    /// them; what was written of the new one is removed, now or by the next save.
    pub fn save(&self, contents: &Contents<'_>) -> Result<PathBuf, CheckpointError> {
        self.remove_leftovers();
        let sequence = versions(&self.dir).iter().map(|v| v.sequence).max().unwrap_or(0) + 1;
        let partial = self.create_partial(contents.step)?;
        let saved = write_version(VersionWriter::new(&partial, self.quota), contents, Width::F32, sequence)
            .and_then(|()| sync_dir(&partial))
            .and_then(|()| self.publish(&partial, contents.step));
        let path = match saved {
            Ok(path) => path,
            Err(error) => {
                // Nothing can be done when even this fails; the next save tries again.
                let _ = fs::remove_dir_all(&partial);
                return Err(error);
            }
        };
        self.switch_current(&path)?;
        self.retire();
        Ok(path)
    }

    /// Creates an empty folder under a name that nobody reads.
    fn create_partial(&self, step: u64) -> Result<PathBuf, CheckpointError> {
        let name = |n| self.dir.join(format!(".{VERSION_PREFIX}{step:08}{PARTIAL_MARK}{n}"));
        for n in 0..NAME_TRIES_MAX {
            match fs::create_dir(name(n)) {
                Ok(()) => return Ok(name(n)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(write_error(&name(n), e)),
            }
        }
        Err(write_error(&self.dir, io::ErrorKind::AlreadyExists.into()))
    }

    /// Gives a whole version its name: that of its step, with a number behind where the step was saved before.
    fn publish(&self, partial: &Path, step: u64) -> Result<PathBuf, CheckpointError> {
        for n in 1..=NAME_TRIES_MAX {
            let suffix = if n == 1 { String::new() } else { format!("-{n}") };
            let path = self.dir.join(format!("{VERSION_PREFIX}{step:08}{suffix}"));
            // The lock keeps others from taking the name in between.
            if path.symlink_metadata().is_ok() {
                continue;
            }
            fs::rename(partial, &path).map_err(|e| write_error(&path, e))?;
            sync_dir(&self.dir)?;
            return Ok(path);
        }
        Err(write_error(&self.dir, io::ErrorKind::AlreadyExists.into()))
    }

    /// Points `current` to `version`, in one rename.
    pub fn switch_current(&self, version: &Path) -> Result<(), CheckpointError> {
        let invalid = || write_error(version, io::ErrorKind::InvalidInput.into());
        let name = version.file_name().ok_or_else(invalid)?;
        let link = self.dir.join(format!(".{CURRENT}{PARTIAL_MARK}0"));
        let current = self.dir.join(CURRENT);
        let _ = fs::remove_file(&link);
        symlink(name, &link).map_err(|e| write_error(&link, e))?;
        fs::rename(&link, &current).map_err(|e| write_error(&current, e))?;
        sync_dir(&self.dir)
    }

    /// Says that `version` stays, in place of the one that this was said of before.
    pub fn protect(&mut self, version: PathBuf) {
        self.protected = version.canonicalize().ok();
    }

    /// Removes versions beyond `keep`, oldest first, never the current one nor the [protected](Self::protect) one. What cannot be
    /// removed stays.
    pub fn retire(&self) {
        let current = self.dir.join(CURRENT).canonicalize().ok();
        let all = versions(&self.dir);
        let surplus = all.len().saturating_sub(self.keep);
        for version in &all[..surplus] {
            let path = version.path.canonicalize().ok();
            if path == current || path == self.protected {
                continue;
            }
            // Out of sight first, so that a kill in between leaves no version with half of its files.
            let name = version.path.file_name().unwrap_or_default().to_string_lossy();
            let hidden = self.dir.join(format!(".{name}{PARTIAL_MARK}retired"));
            if fs::rename(&version.path, &hidden).is_ok() {
                let _ = fs::remove_dir_all(&hidden);
            }
        }
    }

    /// Removes what killed processes left behind; the lock says that nobody is writing it now.
    fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_ours =
                name.strip_prefix('.').is_some_and(|n| n.starts_with(VERSION_PREFIX) || n.starts_with(CURRENT));
            if is_ours && name.contains(PARTIAL_MARK) {
                let path = entry.path();
                let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
                let _ = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
    }

    /// A disk on which only `bytes` more can be written.
    #[cfg(test)]
    pub(super) fn with_quota(self, bytes: u64) -> Self {
        Self { quota: Some(bytes), ..self }
    }
}

/// Writes all files of a version.
fn write_version(
    mut version: VersionWriter<'_>,
    contents: &Contents<'_>,
    width: Width,
    sequence: u64,
) -> Result<(), CheckpointError> {
    if let Some(entry) = contents.params.not_finite() {
        return Err(CheckpointError::NotFinite { tensor: entry.name.clone() });
    }
    let codec = contents.codec;
    let end = codec.end_token().0;
    let first = if codec.labels().is_empty() { end } else { codec.label_token(LabelId(0)).0 };
    let config = hf_config::to_text(contents.params.config(), width, first, end);
    version.write(hf_config::CONFIG_FILE, |out| out.write_all(config.as_bytes()))?;
    version.write(TOKENIZER_FILE, |out| out.write_all(codec.tokenizer_json().as_bytes()))?;
    version.write(TOKENIZER_CONFIG_FILE, |out| out.write_all(TOKENIZER_CONFIG.as_bytes()))?;
    version.write(tensors::MODEL_FILE, |out| tensors::write_params(out, width, contents.params))?;
    if let Some(state) = &contents.training {
        training::write(&mut version, state)?;
    }
    let about = About {
        format_version: FORMAT_VERSION,
        written_by: concat!("wiremamba ", env!("CARGO_PKG_VERSION")).into(),
        sequence,
        step: contents.step,
        preset: contents.preset.map(str::to_owned),
        codec: codec.spec(),
        labels: codec.labels().to_vec(),
        // JSON has no word for the others.
        metrics: contents.metrics.iter().filter(|(_, v)| v.is_finite()).map(|(k, v)| (k.clone(), *v)).collect(),
        lineage: contents.lineage.clone(),
        files: version.files().to_vec(),
        self_sha256: String::new(),
    };
    let text = about.to_text().map_err(|e| write_error(&version.dir().join(ABOUT_FILE), e.into()))?;
    version.write(ABOUT_FILE, |out| out.write_all(text.as_bytes()))
}
