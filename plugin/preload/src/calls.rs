//! The functions of libc that take the name of a file to be read. Each asks [`captures`](crate::captures) for another name,
//! and calls the next function of its own name, which is libc's.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use crate::captures;

/// Puts a name in place of another; `Err` where a capture could not be generated.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn renamed<T>(name: *const c_char, failed: T, call: impl FnOnce(*const c_char) -> T) -> T {
    if name.is_null() {
        return call(name);
    }
    // SAFETY: not null, and a C string by the caller's promise.
    match captures::path(unsafe { CStr::from_ptr(name) }) {
        None => call(name),
        Some(Ok(path)) => call(path.as_ptr()),
        Some(Err(error)) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            // SAFETY: the calling thread's own errno.
            unsafe { *libc::__errno_location() = errno };
            failed
        }
    }
}

/// The next function of this name after this library.
fn next(name: &'static CStr, found: &AtomicPtr<c_void>) -> *mut c_void {
    let known = found.load(Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: a C string; the loader searches after the library that this code is in.
    let function = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if function.is_null() {
        let _ = io::Write::write_all(&mut io::stderr(), b"wiremamba: this libc lacks a function that is preloaded\n");
        std::process::abort();
    }
    found.store(function, Relaxed);
    function
}

/// Defines a function `NAME(BEFORE…, name, AFTER…)` that calls `TARGET` with the other name.
macro_rules! preload {
    ($($function:ident, $target:literal, $failed:expr, ($($before:ident: $before_type:ty),*) ($($after:ident: $after_type:ty),*) -> $ret:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $function($($before: $before_type,)* name: *const c_char, $($after: $after_type),*) -> $ret {
                static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
                let call = |name: *const c_char| {
                    let function = next($target, &FOUND);
                    // SAFETY: libc's function of this name has this type. Where the last argument is optional in C, it
                    // is passed in a register that the other side does not look at.
                    let function = unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($before_type,)* *const c_char, $($after_type),*) -> $ret>(function)
                    };
                    // SAFETY: the caller's own arguments, but for a name that is a C string.
                    unsafe { function($($before,)* name, $($after),*) }
                };
                // SAFETY: the caller passes what libc's function takes: a C string.
                unsafe { renamed(name, $failed, call) }
            }
        )*
    };
}

type Stat = *mut c_void;

preload! {
    open, c"open", -1, () (flags: c_int, mode: c_uint) -> c_int;
    open64, c"open64", -1, () (flags: c_int, mode: c_uint) -> c_int;
    openat, c"openat", -1, (folder: c_int) (flags: c_int, mode: c_uint) -> c_int;
    openat64, c"openat64", -1, (folder: c_int) (flags: c_int, mode: c_uint) -> c_int;
    fopen, c"fopen", std::ptr::null_mut(), () (mode: *const c_char) -> *mut c_void;
    fopen64, c"fopen64", std::ptr::null_mut(), () (mode: *const c_char) -> *mut c_void;
    stat, c"stat", -1, () (ret_stat: Stat) -> c_int;
    stat64, c"stat64", -1, () (ret_stat: Stat) -> c_int;
    fstatat, c"fstatat", -1, (folder: c_int) (ret_stat: Stat, flags: c_int) -> c_int;
    fstatat64, c"fstatat64", -1, (folder: c_int) (ret_stat: Stat, flags: c_int) -> c_int;
    statx, c"statx", -1, (folder: c_int) (flags: c_int, mask: c_uint, ret_stat: Stat) -> c_int;
    access, c"access", -1, () (mode: c_int) -> c_int;
    faccessat, c"faccessat", -1, (folder: c_int) (mode: c_int, flags: c_int) -> c_int;
    opendir, c"opendir", std::ptr::null_mut(), () () -> *mut c_void;
}

/// Defines `lstat` and its like: a generated capture is no link, so it is asked for like any file.
macro_rules! preload_link {
    ($($function:ident, $own:literal, $target:ident;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $function(name: *const c_char, ret_stat: Stat) -> c_int {
                static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
                // SAFETY: not null, and a C string by the caller's promise.
                let is_ours = |name| unsafe { CStr::from_ptr(name) }.to_bytes().starts_with(crate::names::PREFIX);
                if !name.is_null() && is_ours(name) {
                    // SAFETY: the same arguments.
                    return unsafe { $target(name, ret_stat) };
                }
                let function = next($own, &FOUND);
                // SAFETY: libc's function of this name has this type.
                let function = unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, Stat) -> c_int>(function)
                };
                // SAFETY: the caller's own arguments.
                unsafe { function(name, ret_stat) }
            }
        )*
    };
}

preload_link! {
    lstat, c"lstat", stat;
    lstat64, c"lstat64", stat64;
}
