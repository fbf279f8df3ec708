//! AF_XDP sockets that only send, in copy mode (`Documentation/networking/af_xdp.rst`): frames are written into memory that is
//! shared with the kernel, and one call sends many of them.

use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::libc;

/// Bytes of a frame: a page, the most that the kernel takes.
pub(crate) const FRAME_BYTES: usize = 4096;
/// Calls that are made for one batch before what is left waits for the next.
const KICKS_MAX: u32 = 1000;

/// Memory shared with the kernel.
struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(fd: libc::c_int, offset: libc::off_t, bytes: usize) -> nix::Result<Self> {
        let flags = if fd < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
        // SAFETY: a new mapping, at an address of the kernel's choice; the result is checked.
        let at = unsafe {
            let flags = flags | libc::MAP_POPULATE;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
        };
        match NonNull::new(at.cast::<u8>()) {
            Some(at) if at.as_ptr().cast::<libc::c_void>() != libc::MAP_FAILED => Ok(Self { at, bytes }),
            _ => Err(Errno::last()),
        }
    }

    /// A counter of the kernel's, `offset` bytes in.
    fn counter(&self, offset: u64) -> &AtomicU32 {
        assert!(offset as usize + size_of::<u32>() <= self.bytes && offset.is_multiple_of(4));
        // SAFETY: inside the mapping and aligned, as was asserted; both sides use it atomically only.
        unsafe { &*self.at.as_ptr().add(offset as usize).cast() }
    }

    /// Place `index` of an array of `T` that begins `offset` bytes in.
    fn slot<T>(&self, offset: u64, index: u32) -> *mut T {
        let at = offset as usize + index as usize * size_of::<T>();
        assert!(at + size_of::<T>() <= self.bytes && at.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, as was asserted.
        unsafe { self.at.as_ptr().add(at).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and unmapped once.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// A ring of descriptors or addresses between this process and the kernel.
struct Ring {
    mapping: Mapping,
    offsets: libc::xdp_ring_offset,
}

/// A socket bound to the first queue of an interface.
pub(crate) struct XdpSender {
    socket: OwnedFd,
    frames: Mapping,
    sent: Ring,
    completed: Ring,
    /// Frames, and places in each ring.
    count: u32,
    /// Frames that may be filled.
    free: Vec<u32>,
    /// The frame that the next place in `sent` describes already.
    staged: Option<u32>,
    /// Next place in `sent`, and in `completed`.
    next_sent: u32,
    next_completed: u32,
}

// SAFETY: the mappings belong to this value alone, and are used through `&mut self` only.
unsafe impl Send for XdpSender {}

impl XdpSender {
    /// Opens a socket with room for `count` frames under way, a power of two, and binds it.
    ///
    /// # Errors
    /// What the kernel says: `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` without AF_XDP, `EOPNOTSUPP` for an interface that
    /// does not take it.
    pub(crate) fn bind(index: u32, count: u32) -> nix::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel's rings are");
        // SAFETY: no pointers; the result is checked, and owned by nobody else.
        let fd = Errno::result(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: `fd` was just made and is open.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = Mapping::new(-1, 0, count as usize * FRAME_BYTES)?;
        // SAFETY: plain integers; all zeros is a valid value.
        let mut memory: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
        memory.addr = frames.at.as_ptr() as u64;
        memory.len = frames.bytes as u64;
        memory.chunk_size = FRAME_BYTES as u32;
        set(&socket, libc::XDP_UMEM_REG, &memory)?;
        // Nothing is received, but there has to be a ring for it.
        set(&socket, libc::XDP_UMEM_FILL_RING, &1_u32)?;
        set(&socket, libc::XDP_UMEM_COMPLETION_RING, &count)?;
        set(&socket, libc::XDP_TX_RING, &count)?;
        // SAFETY: plain integers; all zeros is a valid value.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
        // SAFETY: `offsets` has room for `len` bytes, and both outlive the call.
        Errno::result(unsafe {
            libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, (&raw mut offsets).cast(), &raw mut len)
        })?;
        let ring = |offsets: libc::xdp_ring_offset, page: libc::off_t, entry: usize| {
            let bytes = offsets.desc as usize + count as usize * entry;
            Ok::<_, Errno>(Ring { mapping: Mapping::new(fd, page, bytes)?, offsets })
        };
        let sent = ring(offsets.tx, libc::XDP_PGOFF_TX_RING, size_of::<libc::xdp_desc>())?;
        let completed = ring(offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t, size_of::<u64>())?;
        // SAFETY: plain integers; all zeros is a valid value.
        let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
        address.sxdp_family = libc::AF_XDP as u16;
        address.sxdp_flags = libc::XDP_COPY;
        address.sxdp_ifindex = index;
        let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        // SAFETY: `address` is an initialised `sockaddr_xdp` of `len` bytes that outlives the call.
        Errno::result(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
        Ok(Self {
            socket,
            frames,
            sent,
            completed,
            count,
            free: (0..count).collect(),
            staged: None,
            next_sent: 0,
            next_completed: 0,
        })
    }

    /// Takes a frame of at most [`FRAME_BYTES`], to be sent by the next [`flush`](Self::flush); `false` where there is no room.
    pub(crate) fn push(&mut self, frame: &[u8]) -> bool {
        let is_staged = self.stage(frame);
        if is_staged {
            self.publish();
        }
        is_staged
    }

    /// Lays a frame of at most [`FRAME_BYTES`] where the next one goes, in place of one that was not
    /// [published](Self::publish); `false` where there is no room. The kernel does not see it yet.
    pub(crate) fn stage(&mut self, frame: &[u8]) -> bool {
        assert!(frame.len() <= FRAME_BYTES);
        if self.free.is_empty() && self.staged.is_none() {
            self.reap();
        }
        let Some(place) = self.staged.or_else(|| self.free.pop()) else { return false };
        self.staged = Some(place);
        let offset = place as usize * FRAME_BYTES;
        // SAFETY: the frame is inside the mapping, free (so that the kernel does not look at it), and as long as a frame
        // may be, as was asserted.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), self.frames.at.as_ptr().add(offset), frame.len()) };
        let descriptor = libc::xdp_desc { addr: offset as u64, len: frame.len() as u32, options: 0 };
        let slot = self.sent.mapping.slot::<libc::xdp_desc>(self.sent.offsets.desc, self.next_sent & (self.count - 1));
        // SAFETY: inside the mapping and aligned, as `slot` asserts. There is room in the ring, which is as long as there
        // are frames.
        unsafe { slot.write(descriptor) };
        true
    }

    /// Has the next [`flush`](Self::flush) send what was staged, if anything was.
    pub(crate) fn publish(&mut self) {
        if self.staged.take().is_none() {
            return;
        }
        self.next_sent = self.next_sent.wrapping_add(1);
        self.sent.mapping.counter(self.sent.offsets.producer).store(self.next_sent, Ordering::Release);
    }

    /// Has the kernel send what was pushed.
    ///
    /// # Errors
    /// The interface went away or down, or nothing goes for longer than a moment (`ETIMEDOUT`).
    pub(crate) fn flush(&mut self) -> nix::Result<()> {
        for _ in 0..KICKS_MAX {
            if self.sent.mapping.counter(self.sent.offsets.consumer).load(Ordering::Acquire) == self.next_sent {
                return Ok(());
            }
            match self.kick() {
                // A batch of the kernel's own size was sent, or there is no room at the moment.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(Errno::EBUSY | Errno::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::ETIMEDOUT)
    }

    /// Makes one call to send, with or without something to send, and takes back what was sent.
    ///
    /// # Errors
    /// The kernel's, `EAGAIN` and `EBUSY` among them, after which what was pushed may still be there.
    pub(crate) fn kick_once(&mut self) -> nix::Result<()> {
        let kicked = self.kick();
        self.reap();
        kicked
    }

    fn kick(&self) -> nix::Result<()> {
        // SAFETY: no pointers.
        let sent = unsafe {
            libc::sendto(self.socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
        };
        Errno::result(sent).map(drop)
    }

    /// Takes back the frames that were sent.
    fn reap(&mut self) {
        let until = self.completed.mapping.counter(self.completed.offsets.producer).load(Ordering::Acquire);
        while self.next_completed != until {
            let slot =
                self.completed.mapping.slot::<u64>(self.completed.offsets.desc, self.next_completed & (self.count - 1));
            // SAFETY: inside the mapping and aligned, as `slot` asserts; the kernel wrote it before it moved its counter.
            let offset = unsafe { slot.read() };
            self.free.push((offset as usize / FRAME_BYTES) as u32);
            self.next_completed = self.next_completed.wrapping_add(1);
        }
        self.completed.mapping.counter(self.completed.offsets.consumer).store(self.next_completed, Ordering::Release);
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> nix::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is initialised, `len` bytes long, and outlives the call.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, std::ptr::from_ref(value).cast(), len) };
    Errno::result(set).map(drop)
}
