//! `wiremamba.json`: what a checkpoint is, and the digests that prove that it is whole.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::CheckpointError;
use super::{files, hf_config, tensors, training};
use crate::codec::CodecSpec;

/// Name of the file.
pub(super) const ABOUT_FILE: &str = "wiremamba.json";
/// The vocabulary, as Hugging Face names it.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
/// Files that are read (and verified while they are) by whoever loads a checkpoint; the others are only verified.
pub(super) const PARSED_FILES: [&str; 3] = [hf_config::CONFIG_FILE, TOKENIZER_FILE, tensors::MODEL_FILE];
/// Format version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

/// Largest file of JSON that is read, 64 MiB: the vocabulary of a large codec is a few.
const JSON_BYTES_MAX: u64 = 64 << 20;
/// What stands in the digest's place while it is computed.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a checkpoint is and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Version of the folder's format, [`FORMAT_VERSION`].
    pub format_version: u64,
    /// Version of the program that wrote it.
    pub written_by: String,
    /// Counts the versions saved to one folder, from 1: the higher the newer.
    pub sequence: u64,
    /// Training steps done.
    pub step: u64,
    /// Name of the preset, where one was used.
    pub preset: Option<String>,
    /// The codec; its vocabulary is in `tokenizer.json`.
    pub codec: CodecSpec,
    /// The labels, in order.
    pub labels: Vec<String>,
    /// Numbers about the training, such as `held_out_bits_per_byte`; finite.
    pub metrics: BTreeMap<String, f64>,
    /// What it was trained from and on, oldest first.
    pub lineage: Vec<Lineage>,
    /// All other files of the folder.
    pub files: Vec<FileDigest>,
    /// sha256 of this file, with these digits replaced by zeros.
    pub self_sha256: String,
}

/// One training that led to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// What was done, such as `train` or `resume`.
    pub job: String,
    /// sha256 of the `model.safetensors` that it began with, where it did not begin from chance.
    pub base_sha256: Option<String>,
    /// Seed of the run.
    pub seed: u64,
    /// Digest of the training samples.
    pub data_fingerprint: String,
    /// Steps done when it began.
    pub from_step: u64,
}

/// Size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Name in the folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// sha256 in lower-case hexadecimal digits.
    pub sha256: String,
}

impl FileDigest {
    /// Checks the file in `dir` against this, without holding it in memory.
    pub(super) fn verify(&self, dir: &Path) -> Result<(), CheckpointError> {
        let path = dir.join(&self.name);
        let mut file = files::open(&path)?;
        let mut hash = Sha256::new();
        let (mut buffer, mut size) = (vec![0; 1 << 18], 0);
        loop {
            let n = file.read(&mut buffer).map_err(|e| files::read_error(&path, e))?;
            if n == 0 {
                return self.compare(&path, size, hash);
            }
            hash.update(&buffer[..n]);
            size += n as u64;
        }
    }

    /// Reads the file in `dir` and checks what was read.
    fn read(&self, dir: &Path) -> Result<Vec<u8>, CheckpointError> {
        let path = dir.join(&self.name);
        let bytes = files::read(&path)?;
        self.compare(&path, bytes.len() as u64, Sha256::new_with_prefix(&bytes))?;
        Ok(bytes)
    }

    fn compare(&self, path: &Path, size: u64, hash: Sha256) -> Result<(), CheckpointError> {
        if size != self.size {
            return Err(CheckpointError::Size { path: path.to_owned(), expected: self.size, found: size });
        }
        let found = files::hex(hash.finalize());
        if found != self.sha256 {
            return Err(CheckpointError::Digest { path: path.to_owned(), expected: self.sha256.clone(), found });
        }
        Ok(())
    }
}

impl About {
    /// Reads and checks the file in `dir`. The other files are not looked at.
    pub fn read(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(ABOUT_FILE);
        let invalid = |what: String| CheckpointError::Invalid { path: path.clone(), what };
        let mut text = String::new();
        let file = files::open(&path)?;
        file.take(JSON_BYTES_MAX).read_to_string(&mut text).map_err(|e| files::read_error(&path, e))?;
        // The version first: a newer format may have any other keys.
        #[derive(Deserialize)]
        struct VersionOnly {
            format_version: u64,
        }
        let json = |e: serde_json::Error| invalid(format!("not a valid description of a checkpoint: {e}"));
        let version = serde_json::from_str::<VersionOnly>(&text).map_err(json)?.format_version;
        if version > FORMAT_VERSION {
            return Err(CheckpointError::TooNew { path, found: version, newest: FORMAT_VERSION });
        }
        let about: About = serde_json::from_str(&text).map_err(json)?;
        let found = self_digest(&text, &about.self_sha256).ok_or_else(|| invalid("self_sha256 is no digest".into()))?;
        if found != about.self_sha256 {
            return Err(CheckpointError::Digest { path, expected: about.self_sha256, found });
        }
        // The digest makes these certain for what we wrote; a hand-made file must not lead out of the folder.
        if let Some(file) = about.files.iter().find(|f| f.name.contains('/') || f.name.starts_with('.')) {
            return Err(invalid(format!("file name {:?} is not allowed", file.name)));
        }
        if version == 0 || !PARSED_FILES.iter().all(|name| about.files.iter().any(|f| f.name == *name)) {
            return Err(invalid("does not list config.json, tokenizer.json and model.safetensors".into()));
        }
        Ok(about)
    }

    /// The text to write, with the digest in its place.
    pub(super) fn to_text(&self) -> serde_json::Result<String> {
        let blank = About { self_sha256: NO_DIGEST.into(), ..self.clone() };
        let text = serde_json::to_string_pretty(&blank)? + "\n";
        let digest = files::hex(Sha256::digest(text.as_bytes()));
        // The digest is the last field, so the last match is its.
        let at = text.rfind(NO_DIGEST).expect("the field was just written");
        Ok(format!("{}{digest}{}", &text[..at], &text[at + NO_DIGEST.len()..]))
    }

    /// Reads one of the listed files of `dir` and checks it.
    pub(super) fn read_file(&self, dir: &Path, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let missing = || CheckpointError::MissingFile { path: dir.join(name) };
        self.files.iter().find(|f| f.name == name).ok_or_else(missing)?.read(dir)
    }

    /// What is plainly wrong with the files in `dir` that it lists: absent, or of another size. Their bytes are not looked at.
    pub fn size_problem(&self, dir: &Path) -> Option<CheckpointError> {
        self.files.iter().find_map(|file| {
            let path = dir.join(&file.name);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.len() == file.size => None,
                Ok(metadata) => Some(CheckpointError::Size { path, expected: file.size, found: metadata.len() }),
                Err(error) => Some(files::read_error(&path, error)),
            }
        })
    }

    /// Whether an exact resume is possible from this checkpoint.
    pub fn has_training(&self) -> bool {
        self.files.iter().any(|f| f.name == training::TRAINING_FILE)
    }
}

/// The digest of `text` with the last `digest` in it replaced by zeros; `None` when it is not one.
fn self_digest(text: &str, digest: &str) -> Option<String> {
    if digest.len() != NO_DIGEST.len() || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let at = text.rfind(digest)?;
    let mut hash = Sha256::new();
    for part in [&text[..at], NO_DIGEST, &text[at + digest.len()..]] {
        hash.update(part.as_bytes());
    }
    Some(files::hex(hash.finalize()))
}
