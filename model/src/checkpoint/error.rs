//! Why a checkpoint could not be read or written.

use std::path::PathBuf;

use crate::codec::CodecError;

/// Why a checkpoint could not be read or written. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system could not read it.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system could not write it; earlier versions are untouched and the partial one was removed.
    #[error("cannot write {}; earlier versions are untouched", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process saves to the same folder.
    #[error("{} is in use by another process that saves checkpoints there", path.display())]
    Locked {
        /// The folder of versions.
        path: PathBuf,
    },
    /// The path holds neither a version, nor versions, nor a plain Hugging Face folder.
    #[error("{} is no checkpoint: expected a folder with config.json and model.safetensors, or with a link `current`", path.display())]
    NotACheckpoint {
        /// The path as given.
        path: PathBuf,
    },
    /// A file that belongs to the checkpoint is not there.
    #[error("{} is missing", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// Weights that nothing can be computed with; nothing was written.
    #[error(
        "{tensor} has numbers that are not finite, so nothing was saved: a lower learning rate keeps them in bounds"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// A file is shorter or longer than when it was written.
    #[error("{} has {found} bytes, was written with {expected}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes written.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A file's bytes are not those that were written.
    #[error("{} is damaged: sha256 is {found}, was written with {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest written.
        expected: String,
        /// Digest found.
        found: String,
    },
    /// A newer program wrote it.
    #[error("{} has format version {found}, this program reads up to {newest}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u64,
        /// Newest version that is read.
        newest: u64,
    },
    /// A file's content is not what this program reads.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// A tensor is not what the configuration asks for.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the configuration asks for.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// The codec could not be built from its file.
    #[error("cannot build the codec of {}", path.display())]
    Codec {
        /// The tokenizer's file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
    /// The version asked for is broken, another one is whole.
    #[error("cannot load {}; the newest whole version is {}", asked.display(), version.display())]
    UseInstead {
        /// The path as given.
        asked: PathBuf,
        /// The folder to use.
        version: PathBuf,
        /// What is wrong with the one asked for.
        source: Box<CheckpointError>,
    },
}
