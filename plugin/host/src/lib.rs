//! Libraries that are packet sources: `plugin/include/wiremamba_source.h`, seen from the host.
//!
//! Every unsafe step of a host is here: loading, checking the table, calling, and reading what was filled in.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use libloading::Library;
use wiremamba_abi::{
    ABI_VERSION, DIRECTION_SERVER, DIRECTION_UNKNOWN, END, ENTRY_SYMBOL, ERROR, Entry, IDLE, INTERRUPTED, LOG_DEBUG,
    LOG_ERROR, LOG_INFO, LOG_WARN, OPTION_FOLDER, OPTION_INTEGER, OPTION_NUMBER, OPTION_REPEATABLE, OPTION_REQUIRED,
    PACKET, SourceHost, SourceOption, SourcePacket, SourceTable,
};

/// Room for what a source says when it cannot be opened.
const ERROR_BYTES: usize = 1024;
/// Longest packet that is taken from a source: libpcap's MAXIMUM_SNAPLEN.
const PACKET_BYTES_MAX: u32 = 262_144;
/// Most options that a library is asked for, so that one without an end ends.
const OPTIONS_MAX: u32 = 1000;

/// What the loader says is the cause of the error, and not the error.
fn loader_says(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), loader_says)
}

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
    /// A function that every source has is null.
    #[error("{path} is no packet source: its table has no function {function}")]
    NoFunction {
        /// The library.
        path: PathBuf,
        /// What is missing.
        function: &'static str,
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
    /// Whether it comes from the client of its flow; `None` where that is not known.
    pub from_client: Option<bool>,
    /// Its flow; 0 where flows are not known.
    pub flow_id: u64,
}

/// What the value of an option is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// Any text without a comma.
    Text,
    /// A folder.
    Folder,
    /// A whole number from 0.
    Integer,
    /// A number.
    Number,
}

/// A key of a source's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginOption {
    /// Its name.
    pub key: String,
    /// What its value is.
    pub kind: ValueKind,
    /// What it is when it is not given.
    pub default: Option<String>,
    /// What it does.
    pub help: String,
    /// Whether it has to be given.
    pub is_required: bool,
    /// Whether it may be given several times.
    pub is_repeatable: bool,
}

/// How much a line of a source's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// For whoever wants to know.
    Info,
    /// For whoever looks for a fault.
    Debug,
}

/// Takes a line of a source's log.
pub type Log = fn(LogLevel, &str);

/// A library that was checked. It stays loaded until the process ends.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    table: &'static SourceTable,
    functions: Functions,
}

/// The functions that every source has.
#[derive(Debug, Clone, Copy)]
struct Functions {
    open: unsafe extern "C" fn(*const c_char, *const SourceHost, *mut c_char, usize) -> *mut c_void,
    next_packet: unsafe extern "C" fn(*mut c_void, *mut SourcePacket) -> i32,
    geterr: unsafe extern "C" fn(*const c_void) -> *const c_char,
    close: unsafe extern "C" fn(*mut c_void),
}

impl Functions {
    /// Those of `table`, or the name of the one that is missing.
    fn of(table: &SourceTable) -> Result<Self, &'static str> {
        Ok(Self {
            open: table.open.ok_or("open")?,
            next_packet: table.next_packet.ok_or("next_packet")?,
            geterr: table.geterr.ok_or("geterr")?,
            close: table.close.ok_or("close")?,
        })
    }
}

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
            .map_err(|error| PluginError::Load { path: path.to_owned(), text: loader_says(&error) })?;
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
            None => return Err(PluginError::NoTable(path.to_owned())),
            Some([found, _]) if found != ABI_VERSION => {
                return Err(PluginError::Version { path: path.to_owned(), found });
            }
            Some([_, found]) if (found as usize) < size_of::<SourceTable>() => {
                return Err(PluginError::Size { path: path.to_owned(), found });
            }
            Some(_) => {}
        }
        // SAFETY: as above, and as large as this program's.
        let table = unsafe { &*table };
        let functions =
            Functions::of(table).map_err(|function| PluginError::NoFunction { path: path.to_owned(), function })?;
        Ok(Self { table, functions })
    }

    /// Its own name for itself.
    pub fn name(self) -> String {
        text_at(self.table.name)
    }

    /// Version of the interface, and bytes of its table.
    pub fn version(self) -> (u32, u32) {
        (self.table.abi_version, self.table.size)
    }

    /// The keys of its configuration; none where it does not tell.
    pub fn options(self) -> Vec<PluginOption> {
        let Some(describe) = self.table.describe else { return Vec::new() };
        let option = |index| {
            let null = std::ptr::null();
            let mut option = SourceOption { key: null, default_value: null, help: null, kind: 0, flags: 0 };
            // SAFETY: `option` may be written.
            let code = unsafe { describe(index, &raw mut option) };
            (code == PACKET && !option.key.is_null()).then(|| PluginOption {
                key: text_at(option.key),
                kind: match option.kind {
                    OPTION_FOLDER => ValueKind::Folder,
                    OPTION_INTEGER => ValueKind::Integer,
                    OPTION_NUMBER => ValueKind::Number,
                    _ => ValueKind::Text,
                },
                default: (!option.default_value.is_null()).then(|| text_at(option.default_value)),
                help: text_at(option.help),
                is_required: option.flags & OPTION_REQUIRED != 0,
                is_repeatable: option.flags & OPTION_REPEATABLE != 0,
            })
        };
        (0..OPTIONS_MAX).map_while(option).collect()
    }

    /// Opens a source, whose log goes to `log`.
    ///
    /// # Errors
    /// It cannot be opened with this configuration.
    pub fn open(self, config: &str, log: Log) -> Result<OpenPlugin, PluginError> {
        let failed = |text| PluginError::Open { name: self.name(), text };
        let config = CString::new(config).map_err(|_| failed("the configuration has a zero byte".to_owned()))?;
        let host = Box::new(SourceHost {
            size: size_of::<SourceHost>() as u32,
            reserved: 0,
            log: Some(take_log),
            log_arg: log as *mut c_void,
        });
        let mut error = [0_u8; ERROR_BYTES];
        // SAFETY: a C string and a buffer of the size that is told, both alive during the call; the host outlives the source.
        let source =
            unsafe { (self.functions.open)(config.as_ptr(), &raw const *host, error.as_mut_ptr().cast(), ERROR_BYTES) };
        match NonNull::new(source) {
            Some(source) => {
                let handle = Arc::new(Mutex::new(Some(Handle(source))));
                Ok(OpenPlugin { plugin: self, source, handle, packets: 0, is_over: false, _host: host })
            }
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

/// Hands a line of a source's log to the [`Log`] that it was opened with.
unsafe extern "C" fn take_log(log_arg: *mut c_void, level: i32, text: *const c_char) {
    // SAFETY: what `Plugin::open` passed, by the contract of the header.
    let log = unsafe { std::mem::transmute::<*mut c_void, Log>(log_arg) };
    let level = match level {
        ..=LOG_ERROR => LogLevel::Error,
        LOG_WARN => LogLevel::Warn,
        LOG_INFO => LogLevel::Info,
        LOG_DEBUG.. => LogLevel::Debug,
    };
    log(level, &text_at(text));
}

/// A source for those functions that any thread may call.
#[derive(Debug)]
struct Handle(NonNull<c_void>);

// SAFETY: only functions are called with it that any thread may call, by the contract of the header.
unsafe impl Send for Handle {}

/// Interrupts a source from another thread, as long as it is open.
#[derive(Debug, Clone)]
pub struct Interrupter {
    plugin: Plugin,
    handle: Arc<Mutex<Option<Handle>>>,
}

impl Interrupter {
    /// Makes the call that is under way, or the next one, return soon.
    pub fn interrupt(&self) {
        // Held during the call, so that the source is not closed meanwhile.
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(handle), Some(interrupt)) = (handle.as_ref(), self.plugin.table.interrupt) {
            // SAFETY: the source is open, and any thread may call this.
            unsafe { interrupt(handle.0.as_ptr()) }
        }
    }
}

/// A source of a plugin; closed when dropped.
#[derive(Debug)]
pub struct OpenPlugin {
    plugin: Plugin,
    source: NonNull<c_void>,
    handle: Arc<Mutex<Option<Handle>>>,
    packets: u64,
    is_over: bool,
    /// The source may use it until it is closed.
    _host: Box<SourceHost>,
}

// SAFETY: a source belongs to one thread at a time, which `&mut self` says, and to no certain one.
unsafe impl Send for OpenPlugin {}

impl OpenPlugin {
    /// The next packet. An interrupted source has nothing yet, too.
    ///
    /// # Errors
    /// The source failed, or gave a packet that cannot be; it is over then.
    pub fn next_packet(&mut self) -> Result<Taken<'_>, PluginError> {
        if self.is_over {
            return Ok(Taken::End);
        }
        let mut packet = SourcePacket {
            ts_ns: 0,
            data: std::ptr::null(),
            caplen: 0,
            len: 0,
            linktype: 0,
            direction: DIRECTION_UNKNOWN,
            flow_id: 0,
        };
        let functions = self.plugin.functions;
        // SAFETY: the source is open, and used by this thread alone; `packet` may be written.
        let code = unsafe { (functions.next_packet)(self.source.as_ptr(), &raw mut packet) };
        match code {
            PACKET => match check(&packet) {
                Ok(()) => {
                    self.packets += 1;
                    Ok(Taken::Packet(taken(&packet)))
                }
                Err(text) => Err(self.failed(text.to_owned())),
            },
            IDLE | INTERRUPTED => Ok(Taken::Idle),
            END => {
                self.is_over = true;
                Ok(Taken::End)
            }
            ERROR => {
                // SAFETY: the source is open, and used by this thread alone.
                let text = text_at(unsafe { (functions.geterr)(self.source.as_ptr()) });
                Err(self.failed(text))
            }
            other => Err(self.failed(format!("it returned {other}, which means nothing"))),
        }
    }

    /// Interrupts this source from other threads.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter { plugin: self.plugin, handle: Arc::clone(&self.handle) }
    }

    fn failed(&mut self, text: String) -> PluginError {
        self.is_over = true;
        PluginError::Failed { name: self.plugin.name(), packets: self.packets, text }
    }
}

impl Drop for OpenPlugin {
    fn drop(&mut self) {
        // From here on nobody interrupts it.
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: the source is open, and given back once.
        unsafe { (self.plugin.functions.close)(self.source.as_ptr()) }
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
    if packet.direction > DIRECTION_SERVER {
        return Err("it gave a packet with an impossible direction");
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
    TakenPacket {
        ts_ns: packet.ts_ns,
        data,
        len: packet.len,
        linktype: packet.linktype,
        from_client: (packet.direction != DIRECTION_UNKNOWN).then_some(packet.direction != DIRECTION_SERVER),
        flow_id: packet.flow_id,
    }
}

fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return "it has no text for this".to_owned();
    }
    // SAFETY: not null, so a C string by the contract of the header.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
