//! The C ABI of a packet source: `repr(C)` types only, from which `plugin/include/wiremamba_source.h` is made
//! (`WIREMAMBA_BLESS=1 cargo test --release -p wiremamba-tests --test plugin_abi`), comments and all.
//!
//! A change here raises [`ABI_VERSION`] and adds a line to `plugin/abi/versions.txt`, in the same commit as the header.

#![deny(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

/// Version of everything in this file.
pub const ABI_VERSION: u32 = 2;

/// Name of the function that a library exports, an [`Entry`].
///
/// cbindgen:ignore
pub const ENTRY_SYMBOL: &str = "wiremamba_source_entry";

/// A packet was given; next_batch returns how many.
pub const PACKET: c_int = 1;
/// There is nothing yet: ask again, or wait for pollfd.
pub const IDLE: c_int = 0;
/// It failed; geterr has the text.
pub const ERROR: c_int = -1;
/// The end, and for ever after.
pub const END: c_int = -2;
/// Somebody called interrupt. Nothing is lost: the next call goes on.
pub const INTERRUPTED: c_int = -3;

/// SourcePacket.direction: not known.
pub const DIRECTION_UNKNOWN: u32 = 0;
/// SourcePacket.direction: from the client, who began the flow.
pub const DIRECTION_CLIENT: u32 = 1;
/// SourcePacket.direction: from the server.
pub const DIRECTION_SERVER: u32 = 2;

/// SourceOption.kind: any text without a comma.
pub const OPTION_TEXT: u32 = 0;
/// SourceOption.kind: a folder.
pub const OPTION_FOLDER: u32 = 1;
/// SourceOption.kind: a whole number from 0.
pub const OPTION_INTEGER: u32 = 2;
/// SourceOption.kind: a number.
pub const OPTION_NUMBER: u32 = 3;
/// Bit of SourceOption.flags: it has to be given.
pub const OPTION_REQUIRED: u32 = 1;
/// Bit of SourceOption.flags: it may be given several times.
pub const OPTION_REPEATABLE: u32 = 2;

/// Level of a log line.
pub const LOG_ERROR: c_int = 1;
/// Level of a log line.
pub const LOG_WARN: c_int = 2;
/// Level of a log line.
pub const LOG_INFO: c_int = 3;
/// Level of a log line.
pub const LOG_DEBUG: c_int = 4;

/// The exported function. The table lives as long as the library.
///
/// cbindgen:ignore
pub type Entry = unsafe extern "C" fn() -> *const SourceTable;

/// A packet.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SourcePacket {
    /// Time in nanoseconds since 1970. Times do not go back.
    pub ts_ns: i64,
    /// The captured bytes, owned by the source; valid until the next call of next_packet, next_batch, rewind or close with
    /// the same source.
    pub data: *const u8,
    /// Bytes at data; at most 262144.
    pub caplen: u32,
    /// Length on the wire, at least caplen.
    pub len: u32,
    /// LINKTYPE_ number of the first header (tcpdump.org/linktypes.html); 1 is Ethernet.
    pub linktype: u32,
    /// One of DIRECTION_.
    pub direction: u32,
    /// The same for all packets of a flow or session, and for no others; 0 where flows are not known.
    pub flow_id: u64,
}

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SourceOption {
    /// Its name.
    pub key: *const c_char,
    /// What it is when it is not given; null for nothing.
    pub default_value: *const c_char,
    /// What it does, in a line.
    pub help: *const c_char,
    /// One of OPTION_TEXT and the like.
    pub kind: u32,
    /// OPTION_REQUIRED and OPTION_REPEATABLE.
    pub flags: u32,
}

/// What a source has done since it was opened or rewound.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct SourceStats {
    /// Packets given out.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows generated, or read; some may not have been given out yet.
    pub flows: u64,
    /// Packets left out because they made no sense.
    pub malformed: u64,
}

/// What a host offers to a source; may be null.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SourceHost {
    /// Bytes of this struct as the host knows it.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// Takes a line of text for the host's log; may be null. It is called only by the thread that is calling the source, and
    /// only during that call.
    pub log: Option<unsafe extern "C" fn(log_arg: *mut c_void, level: c_int, text: *const c_char)>,
    /// Passed to log.
    pub log_arg: *mut c_void,
}

/// What a library can do. Functions from describe on may be null: the host then does without.
///
/// A source is used by one thread at a time, whichever it is; different sources may be used in parallel. Only interrupt and
/// stats may be called from another thread while a call is under way, and not after close has begun. No call sleeps: the
/// host paces. A call may compute for as long as it takes; interrupt ends it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SourceTable {
    /// ABI_VERSION of the library.
    pub abi_version: u32,
    /// Bytes of this struct as the library knows it. It grows at its end only.
    pub size: u32,
    /// Name of the source.
    pub name: *const c_char,
    /// Opens a source. config is UTF-8, key=value with commas between. On failure returns null and writes a string of at most
    /// error_size bytes, its end included, to ret_error (which may be null when error_size is 0). host has to live until
    /// close.
    pub open: Option<
        unsafe extern "C" fn(
            config: *const c_char,
            host: *const SourceHost,
            ret_error: *mut c_char,
            error_size: usize,
        ) -> *mut c_void,
    >,
    /// Fills *ret_packet and returns PACKET, or returns another code and leaves it as it was.
    pub next_packet: Option<unsafe extern "C" fn(source: *mut c_void, ret_packet: *mut SourcePacket) -> c_int>,
    /// The text of the last error of this source, valid until the next call with it; never null.
    pub geterr: Option<unsafe extern "C" fn(source: *const c_void) -> *const c_char>,
    /// Closes the source: nothing of it is left, no thread either. Null does nothing.
    pub close: Option<unsafe extern "C" fn(source: *mut c_void)>,
    /// Fills *ret_option with the key number index, from 0, and returns PACKET; END where there are no more. What it points to
    /// lives as long as the library.
    pub describe: Option<unsafe extern "C" fn(index: u32, ret_option: *mut SourceOption) -> c_int>,
    /// Fills as many of ret_packets as there are now, at most count, and returns how many; another code, none above 0, as
    /// next_packet. All of them are valid until the next call.
    pub next_batch:
        Option<unsafe extern "C" fn(source: *mut c_void, ret_packets: *mut SourcePacket, count: u32) -> c_int>,
    /// Makes the call that is under way return INTERRUPTED soon, or else the next one. From any thread, also from a signal
    /// handler.
    pub interrupt: Option<unsafe extern "C" fn(source: *mut c_void)>,
    /// Fills *ret_stats. From any thread. Returns PACKET or ERROR.
    pub stats: Option<unsafe extern "C" fn(source: *mut c_void, ret_stats: *mut SourceStats) -> c_int>,
    /// Begins again with another seed, or with the same for the same packets. Returns PACKET or ERROR; after an error the
    /// source is at its end.
    pub rewind: Option<unsafe extern "C" fn(source: *mut c_void, seed: u64) -> c_int>,
    /// A descriptor that is readable when a call would not return IDLE, owned by the source; -1 where it never does.
    pub pollfd: Option<unsafe extern "C" fn(source: *mut c_void) -> c_int>,
}

// SAFETY: a table is constant, and `name` points to a string that lives as long as the library.
#[allow(unsafe_code)]
unsafe impl Sync for SourceTable {}
