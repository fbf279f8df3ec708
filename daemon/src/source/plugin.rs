//! Packets from a library that somebody else wrote (`plugin/include/wiremamba_source.h`).

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use wiremamba_host::{Interrupter, LogLevel, OpenPlugin, Plugin, PluginOption, Taken, ValueKind};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::{Next, PacketSource, SourceError};

pub use wiremamba_host::{PluginError, PluginName};

/// What a library says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PluginAbout {
    /// Its name for itself.
    pub name: String,
    /// Version of the interface.
    pub abi_version: u32,
    /// Bytes of its table.
    pub table_bytes: u32,
    /// The keys of its configuration.
    pub options: Vec<OptionAbout>,
}

/// A key of a plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OptionAbout {
    /// Its name.
    pub key: String,
    /// What its value is: text, folder, integer or number.
    pub kind: &'static str,
    /// What it is when it is not given.
    pub default: Option<String>,
    /// What it does.
    pub help: String,
    /// Whether it has to be given.
    pub required: bool,
    /// Whether it may be given several times.
    pub repeatable: bool,
}

impl From<PluginOption> for OptionAbout {
    fn from(option: PluginOption) -> Self {
        Self {
            kind: match option.kind {
                ValueKind::Text => "text",
                ValueKind::Folder => "folder",
                ValueKind::Integer => "integer",
                ValueKind::Number => "number",
            },
            key: option.key,
            default: option.default,
            help: option.help,
            required: option.is_required,
            repeatable: option.is_repeatable,
        }
    }
}

/// What the library at `path` says of itself.
///
/// # Errors
/// It is no packet source of this version.
pub fn describe(path: &Path) -> Result<PluginAbout, PluginError> {
    let plugin = Plugin::load(path)?;
    let (abi_version, table_bytes) = plugin.version();
    let options = plugin.options().into_iter().map(OptionAbout::from).collect();
    Ok(PluginAbout { name: plugin.name(), abi_version, table_bytes, options })
}

/// Packets of a plugin's source.
#[derive(Debug)]
pub struct PluginSource(OpenPlugin);

impl PluginSource {
    /// Opens a source in this process. A library that crashes takes the process with it; [`probe`] first.
    ///
    /// # Errors
    /// It is no packet source of this version, or cannot be opened with this configuration.
    pub fn open(name: &PluginName) -> Result<Self, PluginError> {
        Ok(Self(Plugin::load(&name.path)?.open(&name.config, log)?))
    }

    /// Interrupts it from other threads.
    pub fn interrupter(&self) -> Interrupter {
        self.0.interrupter()
    }
}

/// What a plugin has to say, among what this program has to say.
fn log(level: LogLevel, text: &str) {
    match level {
        LogLevel::Error => tracing::error!(target: "plugin", "{text}"),
        LogLevel::Warn => tracing::warn!(target: "plugin", "{text}"),
        LogLevel::Info => tracing::info!(target: "plugin", "{text}"),
        LogLevel::Debug => tracing::debug!(target: "plugin", "{text}"),
    }
}

impl PacketSource for PluginSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        Ok(match self.0.next_packet().map_err(SourceError::Plugin)? {
            Taken::Packet(taken) => Next::Packet(Packet {
                ts: Timestamp(taken.ts_ns),
                linktype: LinkType(taken.linktype as u16),
                len: taken.len,
                data: taken.data.to_vec(),
            }),
            Taken::Idle => Next::Idle,
            Taken::End => Next::End,
        })
    }
}

/// Opens the source in another process, `command` of this program with the library and the configuration behind it, which
/// shows whether it can be opened without a crash.
///
/// # Errors
/// It crashed; what else is wrong with it [`PluginSource::open`] says better.
pub fn probe(command: &mut Command, name: &PluginName) -> Result<(), PluginError> {
    let path = &name.path;
    let failed = |text| PluginError::Load { path: path.clone(), text };
    let status = command.arg(path).arg(&name.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = status.status().map_err(|error| failed(format!("it cannot be tried out: {error}")))?;
    match status.signal() {
        Some(signal) => Err(failed(format!("it crashed with signal {signal} when it was tried out"))),
        None => Ok(()),
    }
}
