//! Packets from a library that somebody else wrote (`plugin/include/wiremamba_source.h`).

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use wiremamba_host::{LogLevel, OpenPlugin, Plugin, PluginOption, Taken, ValueKind};
use wiremamba_model::flow::Direction;
use wiremamba_model::packet::{LinkType, Timestamp};

use super::{Filled, Interrupt, Next, PacketSource, SourceError, Tag, Tagged, next_by_filling};

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
        next_by_filling(self)
    }

    fn next_into(&mut self, ret: &mut Tagged) -> Result<Filled, SourceError> {
        Ok(match self.0.next_packet().map_err(SourceError::Plugin)? {
            Taken::Packet(taken) => {
                let packet = &mut ret.packet;
                (packet.ts, packet.linktype) = (Timestamp(taken.ts_ns), LinkType(taken.linktype as u16));
                packet.len = taken.len;
                packet.data.clear();
                packet.data.extend_from_slice(taken.data);
                let side = |from_client| if from_client { Direction::Orig } else { Direction::Resp };
                ret.tag = Tag { session: taken.flow_id, direction: taken.from_client.map(side), ..Tag::default() };
                Filled::Packet
            }
            Taken::Idle => Filled::Idle,
            Taken::End => Filled::End,
        })
    }

    fn interrupt(&self) -> Option<Interrupt> {
        let interrupter = self.0.interrupter();
        Some(Arc::new(move || interrupter.interrupt()))
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
