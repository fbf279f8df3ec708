//! The one door to the disk: checkpoints, which load whole or fail.
//!
//! A folder of versions is written by a [`Store`]:
//!
//! ```text
//! DIR/current -> step-00002000          switched by rename when a version is whole
//! DIR/step-00001000/
//! DIR/step-00002000/
//!     config.json, model.safetensors, tokenizer.json, tokenizer_config.json    as Hugging Face's MambaForCausalLM has them
//!     wiremamba.json                                    codec, labels, metrics; digests of every other file
//!     training.json, training.safetensors               what an exact resume needs (may be absent)
//! ```
//!
//! A version is written under another name, synced file by file, and renamed: whatever kills the writer, a name
//! without a dot is a whole version. [`Checkpoint::load`] verifies every byte of every file before it gives anything back.

mod about;
mod error;
mod files;
mod hf_config;
mod store;
mod tensors;
#[cfg(test)]
mod tests;
mod training;

use std::path::{Path, PathBuf};

use crate::codec::{self, Codec, CodecError, CodecSpec};
use crate::mamba::Params;
use crate::train::TrainState;

pub use about::{About, FORMAT_VERSION, FileDigest, Lineage};
pub use error::CheckpointError;
pub use store::{Contents, Store, Version, export, history, versions};
pub use tensors::Width;

use about::ABOUT_FILE;

/// Name of the link to the version in use.
pub const CURRENT: &str = "current";

/// A checkpoint as it was read.
pub struct Checkpoint {
    /// The folder it was read from (links resolved).
    pub path: PathBuf,
    /// The parameters.
    pub params: Params,
    /// The codec; `None` for a plain Hugging Face folder.
    pub codec: Option<Box<dyn Codec>>,
    /// Where it comes from; `None` for a plain Hugging Face folder.
    pub about: Option<About>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let codec = self.codec.as_ref().map(|c| c.name());
        f.debug_struct("Checkpoint").field("path", &self.path).field("codec", &codec).finish_non_exhaustive()
    }
}

/// How a codec is built from what is stored; tests use their own.
type BuildCodec = fn(CodecSpec, &str) -> Result<Box<dyn Codec>, CodecError>;

impl Checkpoint {
    /// Reads a checkpoint whole, or fails.
    ///
    /// `path` is a version's folder, a folder of versions with `current`, or a plain folder of Hugging Face's with `config.json`
    /// and `model.safetensors` (in f32, f16 or bf16). Where `current` is broken, the error names the newest version that is whole.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        Self::load_with(path, codec::from_spec)
    }

    fn load_with(path: &Path, build: BuildCodec) -> Result<Self, CheckpointError> {
        let dir = resolve(path)?;
        Self::load_version(&dir, build).map_err(|error| suggest_version(path, &dir, error))
    }

    fn load_version(dir: &Path, build: BuildCodec) -> Result<Self, CheckpointError> {
        let config_path = dir.join(hf_config::CONFIG_FILE);
        if !dir.join(ABOUT_FILE).exists() {
            let config = hf_config::parse(&config_path, &files::read(&config_path)?)?;
            // A checkpoint of ours that lost its own file must not pass for one of somebody else's.
            if config.is_ours {
                return Err(CheckpointError::MissingFile { path: dir.join(ABOUT_FILE) });
            }
            let weights_path = dir.join(tensors::MODEL_FILE);
            let params = tensors::parse_params(&weights_path, &files::read(&weights_path)?, &config.sizes)?;
            return Ok(Self { path: dir.to_owned(), params, codec: None, about: None });
        }
        let about = About::read(dir)?;
        for file in about.files.iter().filter(|f| !about::PARSED_FILES.contains(&f.name.as_str())) {
            file.verify(dir)?;
        }
        let config = hf_config::parse(&config_path, &about.read_file(dir, hf_config::CONFIG_FILE)?)?;
        let tokenizer_path = dir.join(about::TOKENIZER_FILE);
        let invalid = |what: String| CheckpointError::Invalid { path: tokenizer_path.clone(), what };
        let tokenizer = String::from_utf8(about.read_file(dir, about::TOKENIZER_FILE)?)
            .map_err(|_| invalid("is not UTF-8 text".into()))?;
        let codec = build(about.codec.clone(), &tokenizer)
            .map_err(|source| CheckpointError::Codec { path: tokenizer_path.clone(), source })?;
        if codec.vocab_size() > config.sizes.vocab_size {
            let (ours, theirs) = (codec.vocab_size(), config.sizes.vocab_size);
            return Err(invalid(format!("has {ours} tokens, config.json's vocab_size is {theirs}")));
        }
        let weights = about.read_file(dir, tensors::MODEL_FILE)?;
        let params = tensors::parse_params(&dir.join(tensors::MODEL_FILE), &weights, &config.sizes)?;
        Ok(Self { path: dir.to_owned(), params, codec: Some(codec), about: Some(about) })
    }

    /// Reads what an exact resume needs, or fails where this checkpoint has none.
    pub fn load_training(&self) -> Result<TrainState<'static>, CheckpointError> {
        let missing = || CheckpointError::MissingFile { path: self.path.join(training::TRAINING_FILE) };
        let about = self.about.as_ref().ok_or_else(missing)?;
        if !about.files.iter().any(|f| f.name == training::TRAINING_FILE) {
            return Err(missing());
        }
        training::read(&self.path, about, self.params.config())
    }
}

/// The version's folder that `path` stands for.
fn resolve(path: &Path) -> Result<PathBuf, CheckpointError> {
    let current = path.join(CURRENT);
    let target = if current.symlink_metadata().is_ok() { current } else { path.to_owned() };
    match target.canonicalize() {
        Ok(dir) if dir.is_dir() => Ok(dir),
        Ok(_) => Err(CheckpointError::NotACheckpoint { path: path.to_owned() }),
        Err(source) => {
            let error = CheckpointError::Read { path: target.clone(), source };
            Err(suggest_version(path, &target, error))
        }
    }
}

/// Names the newest whole version in the folder of versions that `asked` belongs to, when `broken` is not it.
fn suggest_version(asked: &Path, broken: &Path, error: CheckpointError) -> CheckpointError {
    let mut all = versions(asked);
    if all.is_empty() && broken.file_name().is_some_and(|n| n.to_string_lossy().starts_with(store::VERSION_PREFIX)) {
        all = broken.parent().map(versions).unwrap_or_default();
    }
    let whole = all.into_iter().rev().find(|v| {
        v.path.canonicalize().ok().as_deref() != Some(broken)
            && About::read(&v.path).is_ok_and(|about| about.files.iter().all(|f| f.verify(&v.path).is_ok()))
    });
    match whole {
        Some(version) => {
            CheckpointError::UseInstead { asked: asked.to_owned(), version: version.path, source: Box::new(error) }
        }
        None => error,
    }
}
