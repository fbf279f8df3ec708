//! The service's configuration file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to learn from.
    pub capture: Vec<CaptureConfig>,
    /// What learns.
    pub model: ModelConfig,
    /// How it learns.
    #[serde(default)]
    pub learn: LearnConfig,
    /// Who may tell it what to do.
    #[serde(default)]
    pub control: ControlConfig,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Path of the socket; none by default.
    pub socket: Option<PathBuf>,
}

/// An interface and the label of its traffic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureConfig {
    /// Name of the interface.
    pub interface: String,
    /// Label of what is captured, one of the base model's.
    pub label: String,
    /// BPF filter; everything by default.
    #[serde(default)]
    pub filter: String,
    /// Bytes of a packet that are kept.
    #[serde(default = "snaplen")]
    pub snaplen: u32,
    /// The kernel's buffer in MiB.
    #[serde(default = "buffer_mib")]
    pub buffer_mib: u32,
    /// Whether frames for others are taken too.
    #[serde(default)]
    pub promiscuous: bool,
}

fn snaplen() -> u32 {
    262_144
}

fn buffer_mib() -> u32 {
    16
}

/// The base model and the store of its descendants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The checkpoint that learning begins with where the store is empty.
    pub base: PathBuf,
    /// Folder of the versions that are promoted; `current` is the one in use.
    pub store: PathBuf,
    /// Versions that are kept.
    #[serde(default = "keep")]
    pub keep: usize,
}

fn keep() -> usize {
    5
}

/// How to learn, and what of.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnConfig {
    /// New flows before a round of training begins.
    pub flows_per_round: usize,
    /// Steps of a round.
    pub steps_per_round: u64,
    /// Share of the time in which to train, 0 to 1.
    pub cpu_share: f64,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq_len: usize,
    /// One in so many flows is held out and only measured.
    pub held_out_every: usize,
    /// Held-out flows; older ones make room.
    pub held_out_max: usize,
    /// Tokens of them that are measured, twice a round. Nothing else happens meanwhile, so that it should take seconds.
    pub held_out_tokens_max: u64,
    /// The newest flows, all of which are learned in a round.
    pub recent_max: usize,
    /// Flows drawn evenly from all older ones, learned beside the newest.
    pub reservoir_max: usize,
    /// Memory of the flows to learn from, and a quarter of it for those that wait; twice as much when a round begins.
    pub memory_mib: u64,
    /// Flows that wait for the learner; further ones are counted and dropped.
    pub queue_max: usize,
    /// Captured bytes of a capture's open flows; the oldest are cut beyond.
    pub open_flows_mib: u64,
    /// Seconds after which a flow without packets is over.
    pub idle_s: u32,
    /// Seconds between two lines of status.
    pub status_s: u32,
}

impl Default for LearnConfig {
    fn default() -> Self {
        Self {
            flows_per_round: 64,
            steps_per_round: 50,
            cpu_share: 0.5,
            learning_rate: 5e-4,
            batch: 4,
            seq_len: 512,
            held_out_every: 8,
            held_out_max: 256,
            held_out_tokens_max: 20_000,
            recent_max: 1024,
            reservoir_max: 4096,
            memory_mib: 512,
            queue_max: 4096,
            open_flows_mib: 256,
            idle_s: 60,
            status_s: 10,
        }
    }
}

impl LearnConfig {
    /// [`memory_mib`](Self::memory_mib) in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML, or says what nobody understands.
    #[error("{path}: {text}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and what is expected.
        text: String,
    },
    /// A value outside its range.
    #[error("{path}: {key} is {found}, allowed is {allowed}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The range.
        allowed: &'static str,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), text: error.to_string().trim().to_owned() })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let l = &self.learn;
        let counts = [
            ("capture", self.capture.len()),
            ("model.keep", self.model.keep),
            ("learn.flows_per_round", l.flows_per_round),
            ("learn.steps_per_round", l.steps_per_round as usize),
            ("learn.batch", l.batch),
            ("learn.seq_len", l.seq_len),
            ("learn.held_out_max", l.held_out_max),
            ("learn.recent_max", l.recent_max),
            ("learn.memory_mib", l.memory_mib as usize),
            ("learn.queue_max", l.queue_max),
            ("learn.open_flows_mib", l.open_flows_mib as usize),
            ("learn.idle_s", l.idle_s as usize),
            ("learn.status_s", l.status_s as usize),
        ];
        let error = |key, found: String, allowed| ConfigError::Range { path: path.to_owned(), key, found, allowed };
        if let Some((key, n)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err(error(key, n.to_string(), "at least 1"));
        }
        if l.held_out_tokens_max < 2 {
            return Err(error("learn.held_out_tokens_max", l.held_out_tokens_max.to_string(), "at least 2"));
        }
        if l.held_out_every < 2 {
            return Err(error("learn.held_out_every", l.held_out_every.to_string(), "at least 2"));
        }
        if !(l.cpu_share > 0.0 && l.cpu_share <= 1.0) {
            return Err(error("learn.cpu_share", l.cpu_share.to_string(), "above 0, at most 1"));
        }
        if !(l.learning_rate > 0.0 && l.learning_rate.is_finite()) {
            return Err(error("learn.learning_rate", l.learning_rate.to_string(), "above 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[[capture]]\ninterface = 'eth0'\nlabel = 'web'\n[model]\nbase = 'b'\nstore = 's'\n";

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    #[test]
    fn little_is_enough() {
        let config = read(LEAST).unwrap();
        assert_eq!((config.learn, config.model.keep), (LearnConfig::default(), 5));
        assert_eq!((config.capture[0].snaplen, config.capture[0].promiscuous), (262_144, false));
    }

    #[test]
    fn the_file_that_is_installed_says_what_the_defaults_are() {
        let text = include_str!("../../../packaging/etc/wiremamba.toml");
        let said = read(text).unwrap();
        // Every key that is commented out as a default is one.
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_lowercase)).unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        assert_eq!(read(&uncommented).unwrap(), said);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, what) in [
            ("[learn]\ncolour = 1\n", "colour"),
            ("[learn]\ncpu_share = 1.5\n", "learn.cpu_share is 1.5, allowed is above 0, at most 1"),
            ("[learn]\nbatch = 0\n", "learn.batch is 0"),
            ("[learn]\nbatch = 'x'\n", "batch"),
        ] {
            let error = read(&format!("{LEAST}{more}")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(read("[model]\nbase = 'b'\nstore = 's'\n").unwrap_err().to_string().contains("capture"));
    }
}
