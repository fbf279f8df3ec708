//! The file of a stock of flows: read by the next run in place of generating them again.

use std::path::{Path, PathBuf};

use wiremamba_model::codec::Codec;
use wiremamba_model::generate::{Stock, StockError, StockKey};

/// Bytes around the tokens of a stock that its file may have: those of sixteen million flows.
const AROUND_MAX: u64 = 256 << 20;

/// A file, and what its stock has to be made from.
#[derive(Debug)]
pub struct StockKeeper {
    path: PathBuf,
    key: StockKey,
    bytes_max: usize,
}

/// Why a stock cannot be read from its file, or written to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StockFileError {
    /// The file is there, and cannot be read.
    #[error("cannot read the stock of flows in {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no stock, or not a whole one.
    #[error("cannot use the stock of flows in {path}; remove it to have it made anew")]
    Stock {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: StockError,
    },
    /// It has more than is allowed.
    #[error("the stock of flows in {path} has {bytes} bytes of tokens, above --stock-mib-max: {bytes_max}")]
    TooLarge {
        /// The file.
        path: String,
        /// What it has.
        bytes: u64,
        /// What is allowed.
        bytes_max: usize,
    },
    /// It cannot be written.
    #[error("cannot write the stock of flows to {path}")]
    Write {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StockKeeper {
    /// The file `path` for a stock that is made from what `key` says, with at most `bytes_max` bytes of tokens.
    pub fn new(path: PathBuf, key: StockKey, bytes_max: usize) -> Self {
        Self { path, key, bytes_max }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The stock in the file; `None` where there is no file, or a stock made from something else, which is told.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged, or too large.
    pub fn read(&self, codec: &dyn Codec) -> Result<Option<Stock>, StockFileError> {
        let path = || self.path.display().to_string();
        let too_large = |bytes| StockFileError::TooLarge { path: path(), bytes, bytes_max: self.bytes_max };
        // A file that is far too large is not read at all.
        match std::fs::metadata(&self.path) {
            Ok(about) if about.len() > self.bytes_max as u64 + AROUND_MAX => return Err(too_large(about.len())),
            _ => {}
        }
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StockFileError::Read { path: path(), source }),
        };
        let (key, stock) =
            Stock::from_bytes(&bytes, codec).map_err(|source| StockFileError::Stock { path: path(), source })?;
        if key != self.key {
            tracing::warn!(file = %self.path.display(), "the stock was made from another model or with other settings: it is made anew");
            return Ok(None);
        }
        let bytes = stock.bytes();
        if bytes > self.bytes_max {
            return Err(too_large(bytes as u64));
        }
        Ok(Some(stock))
    }

    /// Writes `stock`, whole or not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, stock: &Stock) -> Result<(), StockFileError> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(format!(".{}", std::process::id()));
        let written = std::fs::write(&beside, stock.to_bytes(self.key))
            .and_then(|()| std::fs::File::open(&beside)?.sync_all())
            .and_then(|()| std::fs::rename(&beside, &self.path));
        written.map_err(|source| {
            let _ = std::fs::remove_file(&beside);
            StockFileError::Write { path: self.path.display().to_string(), source }
        })
    }
}
