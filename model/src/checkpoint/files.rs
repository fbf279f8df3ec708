//! Reading and durable writing of single files, with digests.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::about::FileDigest;
use super::error::CheckpointError;

/// Opens a file to read; one that is not there is an error of its own, and so is what is no file: a FIFO would be waited for.
pub(super) fn open(path: &Path) -> Result<File, CheckpointError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => File::open(path).map_err(|source| read_error(path, source)),
        Ok(_) => Err(CheckpointError::Invalid { path: path.to_owned(), what: "is no regular file".into() }),
        Err(source) => Err(read_error(path, source)),
    }
}

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(|source| read_error(path, source))?;
    Ok(bytes)
}

pub(super) fn read_error(path: &Path, source: io::Error) -> CheckpointError {
    if source.kind() == io::ErrorKind::NotFound {
        CheckpointError::MissingFile { path: path.to_owned() }
    } else {
        CheckpointError::Read { path: path.to_owned(), source }
    }
}

pub(super) fn write_error(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Write { path: path.to_owned(), source }
}

/// The digest as lower-case hexadecimal digits.
pub(super) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Syncs a folder, so that the names in it survive a power cut.
pub(super) fn sync_dir(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|source| write_error(path, source))
}

/// Writes the files of one version and remembers their digests.
pub(super) struct VersionWriter<'a> {
    dir: &'a Path,
    files: Vec<FileDigest>,
    /// Bytes that may still be written; for tests, a disk that fills up.
    quota: Option<u64>,
}

impl<'a> VersionWriter<'a> {
    pub(super) fn new(dir: &'a Path, quota: Option<u64>) -> Self {
        Self { dir, files: Vec::new(), quota }
    }

    /// Creates `name`, lets `content` write it, and syncs it.
    pub(super) fn write(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CheckpointError> {
        let path = self.dir.join(name);
        let write = || {
            let file = File::create_new(&path)?;
            let file = BufWriter::with_capacity(1 << 20, file);
            let mut hashing = Hashing { file, hash: Sha256::new(), size: 0, quota: self.quota.as_mut() };
            content(&mut hashing)?;
            let Hashing { file, hash, size, .. } = hashing;
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            Ok(FileDigest { name: name.to_owned(), size, sha256: hex(hash.finalize()) })
        };
        let digest = write().map_err(|source| write_error(&path, source))?;
        self.files.push(digest);
        Ok(())
    }

    /// The version's folder.
    pub(super) fn dir(&self) -> &'a Path {
        self.dir
    }

    /// The digests of all files so far.
    pub(super) fn files(&self) -> &[FileDigest] {
        &self.files
    }
}

/// A writer that digests what passes.
struct Hashing<'a> {
    file: BufWriter<File>,
    hash: Sha256,
    size: u64,
    quota: Option<&'a mut u64>,
}

impl Write for Hashing<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(quota) = &mut self.quota {
            **quota = quota.checked_sub(buf.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
        }
        let n = self.file.write(buf)?;
        self.hash.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
