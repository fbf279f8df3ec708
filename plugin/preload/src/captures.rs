//! Captures in memory files, generated once for each name and process.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use wiremamba_host::{LogLevel, Plugin, PluginName, Taken};

use crate::names::{MODEL_VARIABLE, PREFIX, config};

/// Names the library of the source; by default it is beside this one.
const LIBRARY_VARIABLE: &str = "WIREMAMBA_LIBRARY";
/// Bytes of a capture at most, so that a name without a bound that matters does not fill the memory.
const BYTES_MAX: u64 = 1 << 30;
/// Magic of a pcap file with nanoseconds (draft-ietf-opsawg-pcap).
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
/// Its longest packet.
const SNAPLEN: u32 = 262_144;

/// The files by their names; they stay until the process ends.
static FILES: Mutex<Option<HashMap<Vec<u8>, File>>> = Mutex::new(None);

/// The name of the memory file of a generated capture; `None` for other names.
///
/// # Errors
/// What could not be generated was said on standard error.
pub(crate) fn path(name: &CStr) -> Option<io::Result<CString>> {
    if !name.to_bytes().starts_with(PREFIX) {
        return None;
    }
    Some(file(name.to_bytes()).inspect_err(|error| {
        // Nobody else will: the program knows only that the file is not there.
        let _ = writeln!(io::stderr(), "{}: {error}", name.to_string_lossy());
    }))
}

fn file(name: &[u8]) -> io::Result<CString> {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let files = files.get_or_insert_default();
    if !files.contains_key(name) {
        let file = generate(name)?;
        files.insert(name.to_owned(), file);
    }
    let text = format!("/proc/self/fd/{}", files[name].as_raw_fd());
    Ok(CString::new(text).expect("no zero byte"))
}

fn generate(name: &[u8]) -> io::Result<File> {
    let model = std::env::var(MODEL_VARIABLE).ok();
    let config = config(name, model.as_deref()).ok_or(io::ErrorKind::InvalidInput)?;
    let library = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from).or_else(beside);
    let path = library.ok_or_else(|| io::Error::other(format!("{LIBRARY_VARIABLE} does not name libwiremamba.so")))?;
    let name = PluginName { path, config };
    let mut source =
        Plugin::load(&name.path).and_then(|plugin| plugin.open(&name.config, log)).map_err(io::Error::other)?;
    let file = memory_file()?;
    let mut out = BufWriter::with_capacity(1 << 16, &file);
    let (mut linktype, mut bytes) = (None, 0_u64);
    loop {
        let packet = match source.next_packet().map_err(io::Error::other)? {
            Taken::Packet(packet) => packet,
            Taken::Idle => continue,
            Taken::End => break,
        };
        let linktype = *linktype.get_or_insert(packet.linktype);
        if bytes == 0 {
            header(&mut out, linktype)?;
        }
        // A file has one link type.
        if packet.linktype != linktype {
            continue;
        }
        bytes += 16 + packet.data.len() as u64;
        if bytes > BYTES_MAX {
            return Err(io::Error::other(format!("more than {BYTES_MAX} bytes; ask for fewer flows or packets")));
        }
        let (seconds, nanos) = (packet.ts_ns.div_euclid(1_000_000_000), packet.ts_ns.rem_euclid(1_000_000_000));
        for word in [seconds as u32, nanos as u32, packet.data.len() as u32, packet.len] {
            out.write_all(&word.to_ne_bytes())?;
        }
        out.write_all(packet.data)?;
    }
    if bytes == 0 {
        header(&mut out, 1)?;
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

/// What a source has to say: to standard error, if it matters.
fn log(level: LogLevel, text: &str) {
    if matches!(level, LogLevel::Error | LogLevel::Warn) {
        let _ = writeln!(io::stderr(), "wiremamba: {text}");
    }
}

fn header(out: &mut impl Write, linktype: u32) -> io::Result<()> {
    // Version 2.4, two words of zeros.
    let words = [MAGIC_NANOS, u32::from_ne_bytes([2, 0, 4, 0]), 0, 0, SNAPLEN, linktype];
    words.iter().try_for_each(|word| out.write_all(&word.to_ne_bytes()))
}

fn memory_file() -> io::Result<File> {
    // SAFETY: a C string, and flags; the result is checked.
    let fd = unsafe { libc::memfd_create(c"wiremamba".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The library of the source in the folder of this one.
fn beside() -> Option<PathBuf> {
    // SAFETY: plain pointers; all zeros is a valid value.
    let mut about: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: an address of this library, and a place for the answer that outlives the call.
    if unsafe { libc::dladdr(beside as *const libc::c_void, &raw mut about) } == 0 || about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: not null, and the loader's own string, which lives as long as the library.
    let name = unsafe { CStr::from_ptr(about.dli_fname) }.to_str().ok()?;
    Some(PathBuf::from(name).with_file_name("libwiremamba.so"))
}
