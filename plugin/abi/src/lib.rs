//! The C ABI of a packet source, as `plugin/include/wiremamba_source.h` shows it to C: `repr(C)` types only.
//!
//! A library exports one function, [`ENTRY_SYMBOL`], which returns a constant [`SourceTable`]. The manners are libpcap's: 1
//! for a packet, 0 for nothing yet, -1 for an error, -2 for the end. A source belongs to one thread at a time. It never
//! sleeps: the host paces. Structs grow at the end only; `size` says how much of the table there is.
//!
//! A change here raises [`ABI_VERSION`], in the same commit as the header.

#![deny(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

/// Version of everything in this file.
pub const ABI_VERSION: u32 = 1;

/// Name of the function that a library exports, an [`Entry`].
pub const ENTRY_SYMBOL: &str = "wiremamba_source_entry";

/// Returned for a packet.
pub const PACKET: c_int = 1;
/// Returned when there is nothing yet.
pub const IDLE: c_int = 0;
/// Returned on an error; `geterr` has the text.
pub const ERROR: c_int = -1;
/// Returned at the end, and for ever after.
pub const END: c_int = -2;

/// The exported function. The table lives as long as the library.
pub type Entry = unsafe extern "C" fn() -> *const SourceTable;

/// A packet, filled by `next_packet`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SourcePacket {
    /// Time in nanoseconds since 1970.
    pub ts_ns: i64,
    /// The captured bytes, owned by the source; valid until the next call with the same handle.
    pub data: *const u8,
    /// Bytes at `data`.
    pub caplen: u32,
    /// Length on the wire.
    pub len: u32,
    /// `LINKTYPE_` number of the first header.
    pub linktype: u32,
    /// Zero; room for later.
    pub reserved: u32,
}

/// What a library can do.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SourceTable {
    /// [`ABI_VERSION`] of the library.
    pub abi_version: u32,
    /// Bytes of this struct as the library knows it.
    pub size: u32,
    /// Name of the source, a C string.
    pub name: *const c_char,
    /// Opens a source. `config` is UTF-8, `key=value,key=value`. On failure returns null and writes a C string of at most
    /// `error_size` bytes, its end included, to `ret_error`, which may be null when `error_size` is 0.
    pub open: unsafe extern "C" fn(config: *const c_char, ret_error: *mut c_char, error_size: usize) -> *mut c_void,
    /// Fills `ret_packet` and returns [`PACKET`], or returns [`IDLE`], [`ERROR`] or [`END`] and leaves it as it was.
    pub next_packet: unsafe extern "C" fn(source: *mut c_void, ret_packet: *mut SourcePacket) -> c_int,
    /// The text of the last error of this source, a C string valid until the next call with it; never null.
    pub geterr: unsafe extern "C" fn(source: *const c_void) -> *const c_char,
    /// Closes the source. Null is allowed and does nothing.
    pub close: unsafe extern "C" fn(source: *mut c_void),
}

// SAFETY: a table is constant, and `name` points to a string that lives as long as the library.
#[allow(unsafe_code)]
unsafe impl Sync for SourceTable {}
