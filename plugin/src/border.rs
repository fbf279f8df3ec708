//! The border to C: the one module of this crate with unsafe code. Pointers are checked, turned into references, and the
//! rest is safe code behind a panic boundary.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use wiremamba_abi::{ABI_VERSION, END, ERROR, PACKET, SourcePacket, SourceTable};
use wiremamba_model::packet::Packet;

use crate::source::Source;

static TABLE: SourceTable = SourceTable {
    abi_version: ABI_VERSION,
    size: size_of::<SourceTable>() as u32,
    name: c"wiremamba".as_ptr(),
    open,
    next_packet,
    geterr,
    close,
};

/// The table of this library.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn wiremamba_source_entry() -> *const SourceTable {
    &TABLE
}

/// What a host holds by its pointer.
struct Handle {
    /// `None` after a panic: nothing of it is trusted any more.
    source: Option<Source>,
    /// The packet that the host may still read.
    packet: Option<Packet>,
    error: CString,
}

impl Handle {
    fn fail(&mut self, text: &str) -> c_int {
        self.error = c_string(text);
        ERROR
    }

    fn next(&mut self, ret_packet: &mut SourcePacket) -> c_int {
        let Some(source) = &mut self.source else { return self.fail("the source broke down earlier") };
        let Some(packet) = source.next_packet() else { return END };
        let packet = self.packet.insert(packet);
        *ret_packet = SourcePacket {
            ts_ns: packet.ts.0,
            data: packet.data.as_ptr(),
            caplen: packet.data.len() as u32,
            len: packet.len,
            linktype: u32::from(packet.linktype.0),
            reserved: 0,
        };
        PACKET
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("zeros were replaced")
}

unsafe extern "C" fn open(config: *const c_char, ret_error: *mut c_char, error_size: usize) -> *mut c_void {
    let opened = if config.is_null() {
        Err("config is null".to_owned())
    } else {
        // SAFETY: not null, and a C string by the caller's promise.
        let config = unsafe { CStr::from_ptr(config) };
        match config.to_str() {
            Ok(config) => catch_unwind(|| Source::open(config)).unwrap_or_else(|_| Err("internal error".to_owned())),
            Err(_) => Err("config is not UTF-8".to_owned()),
        }
    };
    match opened {
        Ok(source) => {
            Box::into_raw(Box::new(Handle { source: Some(source), packet: None, error: CString::default() })).cast()
        }
        Err(text) => {
            if !ret_error.is_null() && error_size > 0 {
                let text = c_string(&text);
                let count = text.as_bytes().len().min(error_size - 1);
                // SAFETY: `ret_error` has `error_size` bytes by the caller's promise, more than `count`.
                unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), ret_error, count) };
                // SAFETY: as above.
                unsafe { *ret_error.add(count) = 0 };
            }
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn next_packet(source: *mut c_void, ret_packet: *mut SourcePacket) -> c_int {
    // SAFETY: the caller passes null, or a handle from `open` that no other thread is using.
    let Some(handle) = (unsafe { source.cast::<Handle>().as_mut() }) else { return ERROR };
    // SAFETY: the caller passes null, or a packet that may be written.
    let Some(ret_packet) = (unsafe { ret_packet.as_mut() }) else { return handle.fail("ret_packet is null") };
    catch_unwind(AssertUnwindSafe(|| handle.next(ret_packet))).unwrap_or_else(|_| {
        handle.source = None;
        handle.fail("internal error")
    })
}

unsafe extern "C" fn geterr(source: *const c_void) -> *const c_char {
    // SAFETY: the caller passes null, or a handle from `open` that no other thread is using.
    match unsafe { source.cast::<Handle>().as_ref() } {
        Some(handle) => handle.error.as_ptr(),
        None => c"the source is null".as_ptr(),
    }
}

unsafe extern "C" fn close(source: *mut c_void) {
    if source.is_null() {
        return;
    }
    // SAFETY: not null, so a handle from `open`, which the caller gives back and uses no more.
    let handle = unsafe { Box::from_raw(source.cast::<Handle>()) };
    // Whatever a destructor does, it does not unwind into C.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(handle)));
}
