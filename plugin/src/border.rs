//! The border to C: the one module of this crate with unsafe code. Pointers are checked, turned into references, and the
//! rest is safe code behind a panic boundary.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, TryLockError};

use wiremamba_abi::{
    ABI_VERSION, DIRECTION_CLIENT, DIRECTION_SERVER, END, ERROR, IDLE, INTERRUPTED, LOG_INFO, PACKET, SourceHost,
    SourceOption, SourcePacket, SourceStats, SourceTable,
};
use wiremamba_model::device::DeviceFailure;
use wiremamba_model::flow::Direction;
use wiremamba_model::generate::TimelinePacket;

use crate::describe::option;
use crate::source::{Given, Source};
use crate::watch::Watch;

static TABLE: SourceTable = SourceTable {
    abi_version: ABI_VERSION,
    size: size_of::<SourceTable>() as u32,
    name: c"wiremamba".as_ptr(),
    open: Some(open),
    next_packet: Some(next_packet),
    geterr: Some(geterr),
    close: Some(close),
    describe: Some(describe),
    next_batch: Some(next_batch),
    interrupt: Some(interrupt),
    stats: Some(stats),
    rewind: Some(rewind),
    pollfd: Some(pollfd),
};

/// The table of this library.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn wiremamba_source_entry() -> *const SourceTable {
    &TABLE
}

/// What a host holds by its pointer. It is only ever borrowed shared: other threads may ask for `watch` at any time.
struct Handle {
    watch: Watch,
    /// Held by the thread that uses the source; another one that tries is refused rather than let in.
    used: Mutex<Used>,
}

struct Used {
    /// `None` after a panic or a failure to rewind: there is nothing any more.
    source: Option<Source>,
    /// The packets that the host may still read.
    packets: Vec<TimelinePacket>,
    error: CString,
}

impl Used {
    fn fail(&mut self, text: &str) -> c_int {
        self.error = c_string(text);
        ERROR
    }

    /// Fills `ret_packets`, at least one packet where the source has one.
    fn take(&mut self, ret_packets: &mut [SourcePacket], watch: &Watch) -> c_int {
        let Self { source, packets, .. } = self;
        let Some(source) = source else { return self.fail("the source broke down earlier") };
        packets.clear();
        let none = loop {
            if packets.len() == ret_packets.len() {
                break IDLE;
            }
            match source.next_packet(watch, packets.is_empty()) {
                Given::Packet(packet) => packets.push(packet),
                Given::Nothing => break IDLE,
                Given::Interrupted => break INTERRUPTED,
                Given::End => break END,
            }
        };
        // Only now: the vector moves its packets while it grows, and their bytes are their own.
        for (ret, next) in ret_packets.iter_mut().zip(packets.iter()) {
            *ret = SourcePacket {
                ts_ns: next.packet.ts.0,
                data: next.packet.data.as_ptr(),
                caplen: next.packet.data.len() as u32,
                len: next.packet.len,
                linktype: u32::from(next.packet.linktype.0),
                direction: match next.direction {
                    Direction::Orig => DIRECTION_CLIENT,
                    Direction::Resp => DIRECTION_SERVER,
                },
                flow_id: next.flow + 1,
            };
        }
        if packets.is_empty() { none } else { packets.len() as c_int }
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("zeros were replaced")
}

/// What a panic is told as: a device that failed says what it has, anything else is a bug.
fn broken_by(payload: &(dyn Any + Send)) -> String {
    payload.downcast_ref::<DeviceFailure>().map_or_else(|| "internal error".to_owned(), DeviceFailure::to_string)
}

/// Runs `call` on the source of a handle, which becomes unusable if it panics.
///
/// # Safety
/// `source` is null, or a handle from `open` that was not closed.
unsafe fn with(source: *mut c_void, call: impl FnOnce(&mut Used, &Watch) -> c_int) -> c_int {
    // SAFETY: the caller's promise; a handle is only ever borrowed shared.
    let Some(handle) = (unsafe { source.cast::<Handle>().as_ref() }) else { return ERROR };
    let mut used = match handle.used.try_lock() {
        Ok(used) => used,
        Err(TryLockError::Poisoned(used)) => used.into_inner(),
        // Two threads at once, which the header forbids.
        Err(TryLockError::WouldBlock) => return ERROR,
    };
    catch_unwind(AssertUnwindSafe(|| call(&mut used, &handle.watch))).unwrap_or_else(|payload| {
        used.source = None;
        used.fail(&broken_by(&*payload))
    })
}

/// Whatever a host's log does, it gets whole lines.
struct Log<'a>(Option<&'a SourceHost>);

impl Log<'_> {
    fn info(&self, text: &str) {
        if let Some((host, log)) = self.0.and_then(|host| Some((host, host.log?))) {
            let text = c_string(text);
            // SAFETY: the host's own function and argument, called by the thread that called us; a C string.
            unsafe { log(host.log_arg, LOG_INFO, text.as_ptr()) }
        }
    }
}

unsafe extern "C" fn open(
    config: *const c_char,
    host: *const SourceHost,
    ret_error: *mut c_char,
    error_size: usize,
) -> *mut c_void {
    // SAFETY: null, or a struct of which the first number says how large it is.
    let is_whole = unsafe { host.cast::<u32>().as_ref() }.is_some_and(|size| *size as usize >= size_of::<SourceHost>());
    // SAFETY: not null, and as large as this library's.
    let log = Log(if is_whole { Some(unsafe { &*host }) } else { None });
    let opened = if config.is_null() {
        Err("config is null".to_owned())
    } else {
        // SAFETY: not null, and a C string by the caller's promise.
        let config = unsafe { CStr::from_ptr(config) };
        match config.to_str() {
            Ok(config) => catch_unwind(|| Source::open(config)).unwrap_or_else(|payload| Err(broken_by(&*payload))),
            Err(_) => Err("config is not UTF-8".to_owned()),
        }
    };
    match opened {
        Ok(source) => {
            log.info(&source.about());
            let used = Used { source: Some(source), packets: Vec::new(), error: CString::default() };
            Box::into_raw(Box::new(Handle { watch: Watch::default(), used: Mutex::new(used) })).cast()
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
    // SAFETY: the same arguments; one packet.
    unsafe { next_batch(source, ret_packet, 1) }
}

unsafe extern "C" fn next_batch(source: *mut c_void, ret_packets: *mut SourcePacket, count: u32) -> c_int {
    let call = |used: &mut Used, watch: &Watch| {
        if ret_packets.is_null() || count == 0 {
            return used.fail("there is no room for a packet");
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(BATCH_MAX);
        // SAFETY: not null, and `count` packets that may be written by the caller's promise.
        used.take(unsafe { std::slice::from_raw_parts_mut(ret_packets, count) }, watch)
    };
    // SAFETY: the caller passes null or a handle that was not closed.
    unsafe { with(source, call) }
}

/// Most packets of a batch: what is held for the host stays small.
const BATCH_MAX: usize = 1024;

unsafe extern "C" fn geterr(source: *const c_void) -> *const c_char {
    // SAFETY: null, or a handle that was not closed.
    let Some(handle) = (unsafe { source.cast::<Handle>().as_ref() }) else { return c"the source is null".as_ptr() };
    match handle.used.try_lock() {
        // The text outlives the lock: it is replaced by the next call only.
        Ok(used) => used.error.as_ptr(),
        Err(TryLockError::Poisoned(used)) => used.into_inner().error.as_ptr(),
        Err(TryLockError::WouldBlock) => c"another thread is using the source".as_ptr(),
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

unsafe extern "C" fn describe(index: u32, ret_option: *mut SourceOption) -> c_int {
    // SAFETY: null, or an option that may be written.
    let Some(ret_option) = (unsafe { ret_option.as_mut() }) else { return ERROR };
    match catch_unwind(|| option(index as usize)) {
        Ok(Some(option)) => {
            *ret_option = option;
            PACKET
        }
        Ok(None) => END,
        Err(_) => ERROR,
    }
}

unsafe extern "C" fn interrupt(source: *mut c_void) {
    // SAFETY: null, or a handle that was not closed; it is only ever borrowed shared.
    if let Some(handle) = unsafe { source.cast::<Handle>().as_ref() } {
        handle.watch.interrupt();
    }
}

unsafe extern "C" fn stats(source: *mut c_void, ret_stats: *mut SourceStats) -> c_int {
    // SAFETY: null, or a handle that was not closed; it is only ever borrowed shared.
    let Some(handle) = (unsafe { source.cast::<Handle>().as_ref() }) else { return ERROR };
    // SAFETY: null, or statistics that may be written.
    let Some(ret_stats) = (unsafe { ret_stats.as_mut() }) else { return ERROR };
    *ret_stats = handle.watch.stats();
    PACKET
}

unsafe extern "C" fn rewind(source: *mut c_void, seed: u64) -> c_int {
    let call = |used: &mut Used, watch: &Watch| {
        let Some(before) = used.source.take() else { return used.fail("the source broke down earlier") };
        used.packets.clear();
        match before.rewind(seed) {
            Ok(source) => {
                used.source = Some(source);
                watch.reset();
                PACKET
            }
            Err(text) => used.fail(&text),
        }
    };
    // SAFETY: the caller passes null or a handle that was not closed.
    unsafe { with(source, call) }
}

/// Never idle: a call computes until there is a packet.
unsafe extern "C" fn pollfd(_source: *mut c_void) -> c_int {
    -1
}
