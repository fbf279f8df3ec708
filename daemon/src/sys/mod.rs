//! The calls to the kernel that have no safe wrapper: attaching a file to a tap, and keeping it; how a thread is scheduled, and in [`precedence`] what for;
//! packet sockets and their rings in [`packet`].
//!
//! The one module of this crate with `unsafe`. Each function is safe to call with any argument; the rest of the
//! tap (names, link state, counters) goes through netlink in [`crate::sink::tap`] and needs none of this.

#![allow(unsafe_code)]

pub(crate) mod mpi;
pub(crate) mod packet;
pub(crate) mod precedence;
pub(crate) mod xdp;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

/// `_IOW('T', 202, int)` in `linux/if_tun.h`; the argument is an `ifreq` all the same.
const TUNSETIFF: libc::c_ulong = nix::request_code_write!(b'T', 202, size_of::<libc::c_int>());
/// `_IOW('T', 203, int)` in `linux/if_tun.h`.
const TUNSETPERSIST: libc::c_ulong = nix::request_code_write!(b'T', 203, size_of::<libc::c_int>());

nix::ioctl_readwrite_bad!(tunsetiff, TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tunsetpersist, TUNSETPERSIST);

/// Attaches an open `/dev/net/tun` to the interface `name`, which the kernel creates where there is none.
///
/// `flags` are the `IFF_` flags of `linux/if_tun.h`. A name that does not fit (15 bytes) is `ENAMETOOLONG`.
pub(crate) fn attach_tun(tun: &File, name: &str, flags: i16) -> nix::Result<()> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(Errno::ENAMETOOLONG);
    }
    // SAFETY: `ifreq` is plain integers, arrays and a union of such; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: `tun` stays open for the call, and `request` is an initialised `ifreq` that outlives it. The kernel
    // reads it and writes the interface's name back to its own copy and to this one, within its size; the
    // pointer comes from an exclusive borrow.
    unsafe { tunsetiff(tun.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// Brings the beginning of `bytes` into this core's cache, where it can.
pub(crate) fn prefetch(bytes: &[u8]) {
    /// What is copied into the kernel afterwards asks for the rest itself, line by line.
    const BYTES_MAX: usize = 640;
    #[cfg(target_arch = "x86_64")]
    for line in bytes[..bytes.len().min(BYTES_MAX)].chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that a program could notice and never faults; the address is inside `bytes`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, BYTES_MAX);
}

/// How nice the calling thread is, -20 to 19 (getpriority(2); a thread's own on Linux).
pub(crate) fn thread_nice() -> io::Result<i32> {
    Errno::clear();
    // SAFETY: takes two integers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is an error and a value.
    match Errno::last() {
        Errno::UnknownErrno => Ok(nice),
        error => Err(error.into()),
    }
}

/// Sets how nice the calling thread is.
pub(crate) fn set_thread_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes three integers.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// Schedules the calling thread as a batch job, which does not take a processor from another when it wakes (sched(7)).
pub(crate) fn set_thread_batch() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` outlives the call, which reads it.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) })?;
    Ok(())
}

/// The processors that the calling thread may run on.
pub(crate) fn thread_processors() -> nix::Result<CpuSet> {
    sched_getaffinity(Pid::from_raw(0))
}

/// Lets the calling thread, and those that it starts, run on these processors only.
pub(crate) fn set_thread_processors(processors: &CpuSet) -> nix::Result<()> {
    sched_setaffinity(Pid::from_raw(0), processors)
}

/// Lets the calling thread run only where it runs now.
pub(crate) fn stay_on_processor() -> nix::Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    set_thread_processors(&here)
}

/// Sets whether the interface of `tun` outlives the file.
pub(crate) fn set_tun_persistent(tun: &File, persistent: bool) -> nix::Result<()> {
    // SAFETY: `tun` stays open for the call; the argument is a plain integer.
    unsafe { tunsetpersist(tun.as_raw_fd(), libc::c_int::from(persistent)) }?;
    Ok(())
}

/// Sockets that systemd opened for this process (sd_listen_fds(3)); the first call gets them, later ones none.
pub(crate) fn inherited_sockets() -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let sockets = sd_notify::listen_fds().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    // SAFETY: the environment says that these descriptors were opened for this process, and they are taken once.
    sockets.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// What comes on a stream until its end, at most `bytes_max` bytes, and the first descriptor with it.
///
/// # Errors
/// Nothing came, or not in the time that the stream allows.
pub(crate) fn receive_with_descriptor(stream: &UnixStream, bytes_max: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; bytes_max];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let (len, descriptors) = {
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let descriptors: Vec<RawFd> = message
            .cmsgs()?
            .filter_map(|control| match control {
                ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        (message.bytes, descriptors)
    };
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(len);
    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows of them. Those beyond
    // the first are closed.
    let mut owned = descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect::<Vec<_>>();
    owned.truncate(1);
    Ok((bytes, owned.pop()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_16_bytes_is_refused_before_the_kernel_sees_it() {
        let file = File::open("/dev/null").expect("every Linux has /dev/null");
        assert_eq!(attach_tun(&file, "a234567890123456", 2), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn a_file_that_is_no_tun_is_an_error() {
        let file = File::open("/dev/null").expect("every Linux has /dev/null");
        assert_eq!(attach_tun(&file, "wm0", 2), Err(Errno::ENOTTY));
        assert_eq!(set_tun_persistent(&file, true), Err(Errno::ENOTTY));
    }

    /// By hand from `_IOW` in `asm-generic/ioctl.h`: write (1) << 30 | size (4) << 16 | 'T' (0x54) << 8 | number.
    #[test]
    fn request_codes_are_the_kernels() {
        assert_eq!(TUNSETIFF, 0x4004_54ca);
        assert_eq!(TUNSETPERSIST, 0x4004_54cb);
    }
}
