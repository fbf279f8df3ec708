//! Libraries that are packet sources: `plugin/include/wiremamba_source.h`, seen from the host.
//!
//! Every unsafe step of a host is here: loading, checking the table, calling, and reading what was filled in.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libloading::Library;
use wiremamba_abi::{ABI_VERSION, END, ENTRY_SYMBOL, ERROR, Entry, IDLE, PACKET, SourcePacket, SourceTable};

/// Room for what a source says when it cannot be opened.
const ERROR_BYTES: usize = 1024;
/// Longest packet that is taken from a source: libpcap's MAXIMUM_SNAPLEN.
const PACKET_BYTES_MAX: u32 = 262_144;

/// Why a library gives no packets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// There is no such file.
    #[error("there is no plugin {0}")]
    NotFound(PathBuf),
    /// The loader refuses it.
    #[error("{path} cannot be loaded: {text}")]
    Load {
        /// The library.
        path: PathBuf,
        /// What dlopen(3) said.
        text: String,
    },
    /// It is a library, but no packet source.
    #[error("{0} is no packet source: it has no function {ENTRY_SYMBOL}")]
    NoEntry(PathBuf),
    /// Its table is null.
    #[error("{0} is no packet source: its table is null")]
    NoTable(PathBuf),
    /// It was made for another version of the interface.
    #[error(
        "{path} has version {found} of the plugin interface, this program has {ABI_VERSION}; rebuild it with this header"
    )]
    Version {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Its table has fewer functions than the version has.
    #[error("{path} has a table of {found} bytes, version {ABI_VERSION} of the plugin interface has {}", size_of::<SourceTable>())]
    Size {
        /// The library.
        path: PathBuf,
        /// Its size.
        found: u32,
    },
    /// The source cannot be opened.
    #[error("{name}: {text}")]
    Open {
        /// The source.
        name: String,
        /// What it said.
        text: String,
    },
    /// The source failed.
    #[error("{name} failed after {packets} packets: {text}")]
    Failed {
        /// The source.
        name: String,
        /// Packets before.
        packets: u64,
        /// What it said.
        text: String,
    },
}

/// A library and the configuration of a source of it, as in `libsource.so:key=value,key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginName {
    /// The library.
    pub path: PathBuf,
    /// The configuration; empty where none was given.
    pub config: String,
}

impl std::str::FromStr for PluginName {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (path, config) = s.split_once(':').unwrap_or((s, ""));
        Ok(Self { path: path.into(), config: config.to_owned() })
    }
}

/// What a source has to offer at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<'a> {
    /// A packet.
    Packet(TakenPacket<'a>),
    /// Nothing yet; ask again.
    Idle,
    /// Nothing any more.
    End,
}

/// A packet of a source, until the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenPacket<'a> {
    /// Time in nanoseconds since 1970.
    pub ts_ns: i64,
    /// The captured bytes.
    pub data: &'a [u8],
    /// Length on the wire.
    pub len: u32,
    /// `LINKTYPE_` number of the first header; it fits into 16 bits.
    pub linktype: u32,
}

/// A library that was checked. It stays loaded until the process ends.
#[derive(Debug, Clone, Copy)]
pub struct Plugin(&'static SourceTable);

impl Plugin {
    /// Loads `path`, and checks that it is a source of this version.
    ///
    /// # Errors
    /// It is none.
    pub fn load(path: &Path) -> Result<Self, PluginError> {
        if !path.is_file() {
            return Err(PluginError::NotFound(path.to_owned()));
        }
        // With a slash in its name the loader looks nowhere else.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // SAFETY: whoever names a library asks for its initialisers to be run.
        let library = unsafe { Library::new(&absolute) }
            .map_err(|error| PluginError::Load { path: path.to_owned(), text: error.to_string() })?;
        // SAFETY: a function of this name has this type, by the contract of the header.
        let entry = unsafe { library.get::<Entry>(ENTRY_SYMBOL.as_bytes()) };
        let table = match entry {
            // SAFETY: as above; it takes nothing.
            Ok(entry) => unsafe { entry() },
            Err(_) => return Err(PluginError::NoEntry(path.to_owned())),
        };
        // Threads and destructors of the library may outlive every source.
        std::mem::forget(library);
        // SAFETY: null, or a table that lives as long as the library, which is for ever. Only its first two numbers are
        // read before they say that there is more.
        let head = unsafe { table.cast::<[u32; 2]>().as_ref() };
        match head.copied() {
            None => Err(PluginError::NoTable(path.to_owned())),
            Some([found, _]) if found != ABI_VERSION => Err(PluginError::Version { path: path.to_owned(), found }),
            Some([_, found]) if (found as usize) < size_of::<SourceTable>() => {
                Err(PluginError::Size { path: path.to_owned(), found })
            }
            // SAFETY: as above, and as large as this program's.
            Some(_) => Ok(Self(unsafe { &*table })),
        }
    }

    /// Its own name for itself.
    pub fn name(self) -> String {
        text_at(self.0.name)
    }

    /// Version of the interface, and bytes of its table.
    pub fn version(self) -> (u32, u32) {
        (self.0.abi_version, self.0.size)
    }

    /// Opens a source.
    ///
    /// # Errors
    /// It cannot be opened with this configuration.
    pub fn open(self, config: &str) -> Result<OpenPlugin, PluginError> {
        let failed = |text| PluginError::Open { name: self.name(), text };
        let config = CString::new(config).map_err(|_| failed("the configuration has a zero byte".to_owned()))?;
        let mut error = [0_u8; ERROR_BYTES];
        // SAFETY: a C string and a buffer of the size that is told, both alive during the call.
        let source = unsafe { (self.0.open)(config.as_ptr(), error.as_mut_ptr().cast(), ERROR_BYTES) };
        match NonNull::new(source) {
            Some(source) => Ok(OpenPlugin { plugin: self, source, packets: 0, is_over: false }),
            None => {
                let text = CStr::from_bytes_until_nul(&error).map(CStr::to_string_lossy).unwrap_or_default();
                Err(failed(if text.is_empty() {
                    "it does not say why it cannot be opened".to_owned()
                } else {
                    text.into()
                }))
            }
        }
    }
}

/// A source of a plugin; closed when dropped.
#[derive(Debug)]
pub struct OpenPlugin {
    plugin: Plugin,
    source: NonNull<c_void>,
    packets: u64,
    is_over: bool,
}

// SAFETY: a source belongs to one thread at a time, which `&mut self` says, and to no certain one.
unsafe impl Send for OpenPlugin {}

impl OpenPlugin {
    /// The next packet.
    ///
    /// # Errors
    /// The source failed, or gave a packet that cannot be; it is over then.
    pub fn next_packet(&mut self) -> Result<Taken<'_>, PluginError> {
        if self.is_over {
            return Ok(Taken::End);
        }
        let mut packet = SourcePacket { ts_ns: 0, data: std::ptr::null(), caplen: 0, len: 0, linktype: 0, reserved: 0 };
        let table = self.plugin.0;
        // SAFETY: the source is open, and used by this thread alone; `packet` may be written.
        let code = unsafe { (table.next_packet)(self.source.as_ptr(), &raw mut packet) };
        match code {
            PACKET => match check(&packet) {
                Ok(()) => {
                    self.packets += 1;
                    Ok(Taken::Packet(taken(&packet)))
                }
                Err(text) => Err(self.failed(text.to_owned())),
            },
            IDLE => Ok(Taken::Idle),
            END => {
                self.is_over = true;
                Ok(Taken::End)
            }
            ERROR => {
                // SAFETY: the source is open, and used by this thread alone.
                let text = text_at(unsafe { (table.geterr)(self.source.as_ptr()) });
                Err(self.failed(text))
            }
            other => Err(self.failed(format!("it returned {other}, which means nothing"))),
        }
    }

    fn failed(&mut self, text: String) -> PluginError {
        self.is_over = true;
        PluginError::Failed { name: self.plugin.name(), packets: self.packets, text }
    }
}

impl Drop for OpenPlugin {
    fn drop(&mut self) {
        // SAFETY: the source is open, and given back once.
        unsafe { (self.plugin.0.close)(self.source.as_ptr()) }
    }
}

/// What is wrong with a packet that a source filled in.
fn check(packet: &SourcePacket) -> Result<(), &'static str> {
    if packet.caplen > PACKET_BYTES_MAX || packet.caplen > packet.len {
        return Err("it gave a packet with impossible lengths");
    }
    if u16::try_from(packet.linktype).is_err() {
        return Err("it gave a packet with an impossible link type");
    }
    if packet.caplen > 0 && packet.data.is_null() {
        return Err("it gave a packet without bytes");
    }
    Ok(())
}

/// A packet that was checked.
fn taken<'a>(packet: &SourcePacket) -> TakenPacket<'a> {
    let data = if packet.caplen == 0 {
        &[]
    } else {
        // SAFETY: not null, as was checked, and `caplen` bytes until the next call, by the contract of the header; the
        // caller has borrowed the source until then.
        unsafe { std::slice::from_raw_parts(packet.data, packet.caplen as usize) }
    };
    TakenPacket { ts_ns: packet.ts_ns, data, len: packet.len, linktype: packet.linktype }
}

fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return "it has no text for this".to_owned();
    }
    // SAFETY: not null, so a C string by the contract of the header.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
