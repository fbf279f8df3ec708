//! The service's configuration file.

mod learn;
mod replay;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wiremamba_model::device::Device;
use wiremamba_model::mamba::Preset;

pub use learn::LearnConfig;
pub use replay::ReplayConfig;

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
    /// Where what it would generate goes; nowhere by default.
    pub replay: Option<ReplayConfig>,
    /// Who may tell it what to do.
    #[serde(default)]
    pub control: ControlConfig,
    /// Who may read its counters.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Who opens interfaces and the tap for it.
    #[serde(default)]
    pub opener: OpenerConfig,
}

/// Counters for Prometheus: none by default, or at one of these places.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address and port, of the loopback.
    pub listen: Option<std::net::SocketAddr>,
    /// Path of a Unix socket.
    pub socket: Option<PathBuf>,
}

/// The process that opens interfaces and the tap, so that the one that learns needs no capability.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenerConfig {
    /// Path of its socket; none by default, and the service opens everything itself.
    pub socket: Option<PathBuf>,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Path of the socket; none by default.
    pub socket: Option<PathBuf>,
}

/// A label for the flows that a filter accepts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// BPF filter that the flow's first packet has to pass.
    pub filter: String,
    /// Label of the flow.
    pub label: String,
}

/// An interface and the label of its traffic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureConfig {
    /// Name of the interface.
    pub interface: String,
    /// Label of what is captured: one that the base knows, or any other name.
    pub label: String,
    /// Other labels for some flows: the first rule that fits.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleConfig>,
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
    /// Folder for savefiles of what is captured; none by default, so that packets stay in memory.
    pub keep_captures: Option<PathBuf>,
    /// What they take at most; the oldest make room.
    #[serde(default = "keep_captures_mib")]
    pub keep_captures_mib: u64,
}

fn keep_captures_mib() -> u64 {
    1024
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
    /// The checkpoint that learning begins with where the store is empty; none to learn from nothing.
    pub base: Option<PathBuf>,
    /// Size of a network that learns from nothing.
    #[serde(default)]
    pub preset: PresetName,
    /// Where to learn: auto, cpu or cuda:N.
    #[serde(default)]
    pub device: Device,
    /// Strings that a network that learns from nothing may take from the first payload it sees, word for word, into its
    /// vocabulary: they are written to the store, so that there are none by default.
    #[serde(default)]
    pub strings_max: usize,
    /// Folder of the versions that are promoted; `current` is the one in use.
    pub store: PathBuf,
    /// Versions that are kept.
    #[serde(default = "keep")]
    pub keep: usize,
}

fn keep() -> usize {
    5
}

/// Size of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresetName {
    /// 64 x 2.
    Tiny,
    /// 256 x 8.
    #[default]
    Small,
    /// 768 x 24.
    Paper,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Tiny => Self::Tiny,
            PresetName::Small => Self::Small,
            PresetName::Paper => Self::Paper,
        }
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

impl CaptureConfig {
    /// Every label that its flows may have.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.label).chain(self.rules.iter().map(|rule| &rule.label)).map(String::as_str)
    }
}

impl Config {
    /// Every label of the captures, sorted.
    pub fn labels(&self) -> Vec<String> {
        let ndpi = self.learn.ndpi.values().map(String::as_str);
        let labels: BTreeSet<&str> = self.capture.iter().flat_map(CaptureConfig::labels).chain(ndpi).collect();
        labels.into_iter().map(str::to_owned).collect()
    }

    /// Settings of `new` that differ and that a running service cannot take over, by name.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.learn, &new.learn);
        let tap = |config: &Self| config.replay.as_ref().map(|r| (r.tap.clone(), r.mtu));
        let device = |config: &Self| config.replay.as_ref().and_then(|r| r.device);
        [
            ("[[capture]]", self.capture != new.capture),
            ("[model]", self.model != new.model),
            ("learn.queue_max", a.queue_max != b.queue_max),
            ("learn.open_flows_mib", a.open_flows_mib != b.open_flows_mib),
            ("learn.idle_s", a.idle_s != b.idle_s),
            ("learn.active_s", a.active_s != b.active_s),
            ("learn.ndpi", a.ndpi != b.ndpi),
            ("learn.rehearsal", a.rehearsal != b.rehearsal || a.rehearsal_packets_max != b.rehearsal_packets_max),
            ("replay.tap, replay.mtu", tap(self) != tap(new)),
            ("replay.device", device(self) != device(new)),
            ("[control]", self.control != new.control),
            ("[metrics]", self.metrics != new.metrics),
            ("[opener]", self.opener != new.opener),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    /// Takes over from `new` all that a running service can.
    pub fn take_over(&mut self, new: Self) {
        let Self { learn, replay, .. } = new;
        let old = &self.learn;
        self.learn = LearnConfig {
            queue_max: old.queue_max,
            open_flows_mib: old.open_flows_mib,
            idle_s: old.idle_s,
            active_s: old.active_s,
            ndpi: old.ndpi.clone(),
            rehearsal: old.rehearsal.clone(),
            rehearsal_packets_max: old.rehearsal_packets_max,
            ..learn
        };
        if let (Some(old), Some(new)) = (&mut self.replay, replay) {
            *old = ReplayConfig { tap: old.tap.clone(), mtu: old.mtu, device: old.device, ..new };
        }
    }

    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), text: error.to_string().trim().to_owned() })?;
        let outside =
            |OutOfRange { key, found, allowed }| ConfigError::Range { path: path.to_owned(), key, found, allowed };
        config.check().map_err(outside)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), OutOfRange> {
        let at_least_one = "at least 1";
        within(!self.capture.is_empty(), "capture", 0, at_least_one)?;
        within(self.capture.iter().all(|c| c.keep_captures_mib > 0), "capture.keep_captures_mib", 0, at_least_one)?;
        within(self.model.keep > 0, "model.keep", 0, at_least_one)?;
        self.learn.check()?;
        let can_rehearse = self.learn.rehearsal.is_empty() || self.model.base.is_some();
        within(can_rehearse, "learn.rehearsal", "given without model.base", "captures of the base's")?;
        if let Some(address) = self.metrics.listen {
            within(address.ip().is_loopback(), "metrics.listen", address, "an address of the loopback")?;
        }
        self.replay.as_ref().map_or(Ok(()), ReplayConfig::check)
    }
}

/// A value that a key may not have.
struct OutOfRange {
    key: &'static str,
    found: String,
    allowed: &'static str,
}

/// An error unless `is_within`.
fn within(is_within: bool, key: &'static str, found: impl ToString, allowed: &'static str) -> Result<(), OutOfRange> {
    if is_within { Ok(()) } else { Err(OutOfRange { key, found: found.to_string(), allowed }) }
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
        let text = include_str!("../../../../packaging/etc/wiremamba.toml");
        let said = read(text).unwrap();
        // Every key that is commented out as a default is one.
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_lowercase)).unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        assert_eq!(read(&uncommented).unwrap(), said);
        // Every example can be used as it stands.
        let is_example = |rest: &&str| {
            rest.starts_with('[')
                || rest
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        let with_examples: String = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(is_example).unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        let with_examples = read(&with_examples).unwrap();
        assert!(with_examples.replay.is_some() && with_examples.model.base.is_some());
        assert_eq!(with_examples.capture[0].rules.len(), 1);
    }

    #[test]
    fn the_manual_page_and_the_file_that_is_installed_have_every_key() {
        let page = include_str!("../../../../packaging/man/wiremamba.toml.5");
        let file = include_str!("../../../../packaging/etc/wiremamba.toml");
        let keys =
            file.lines().filter_map(|line| line.trim_start_matches(['#', ' ']).split_once(" = ")).map(|(key, _)| key);
        let mut count = 0;
        for key in keys.filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
            assert!(page.contains(&format!("\n.B {key}\n")) || page.contains(&format!("\n.BR {key} ")), "{key}");
            count += 1;
        }
        assert!(count > 45, "{count}");
    }

    #[test]
    fn a_reload_takes_over_what_it_can_and_names_the_rest() {
        let more = "[learn]\nbatch = 2\n[replay]\ntap = 't0'\n";
        let mut config = read(&format!("{LEAST}{more}")).unwrap();
        let text = format!("{LEAST}{more}").replace("batch = 2", "batch = 3\nidle_s = 5").replace("eth0", "eth1");
        let new = read(&(text.replace("'t0'", "'t1'") + "flows_per_second = 9.0\n")).unwrap();
        assert_eq!(config.needs_restart(&new), ["[[capture]]", "learn.idle_s", "replay.tap, replay.mtu"]);
        config.take_over(new);
        let replay = config.replay.unwrap();
        assert_eq!((config.learn.batch, config.learn.idle_s, replay.flows_per_second), (3, 60, 9.0));
        assert_eq!((config.capture[0].interface.as_str(), replay.tap.as_str()), ("eth0", "t0"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, what) in [
            ("[learn]\ncolour = 1\n", "colour"),
            ("[learn]\ncpu_share = 1.5\n", "learn.cpu_share is 1.5, allowed is above 0, at most 1"),
            ("[learn]\nbatch = 0\n", "learn.batch is 0"),
            ("[learn]\nbatch = 'x'\n", "batch"),
            ("[learn]\nrehearsal_share = 1.0\n", "learn.rehearsal_share is 1, allowed is 0 to 0.9"),
            ("[metrics]\nlisten = '0.0.0.0:1'\n", "metrics.listen is 0.0.0.0:1, allowed is an address of the loopback"),
            ("[replay]\ntap = 't'\nflows_per_second = nan\n", "replay.flows_per_second is NaN"),
            ("[replay]\ntap = 't'\nmix = { web = 0 }\n", "replay.mix"),
            ("[replay]\ntap = 't'\ndevice = 'gpu'\n", "\"gpu\" is no device"),
            ("[replay]\ntap = 't'\nprecision = 'f16'\n", "f16 is none of auto, f32, bf16 and int8"),
            ("[replay]\nmtu = 9\n", "tap"),
        ] {
            let error = read(&format!("{LEAST}{more}")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(read("[model]\nbase = 'b'\nstore = 's'\n").unwrap_err().to_string().contains("capture"));
    }
}
