//! Packet sockets (packet(7)) with a TPACKET_V3 ring: what libpcap does for itself, for a process that was handed the
//! socket and may not open one.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::libc;
use pcap::BpfInstruction;

/// Offset of `hdr.bh1.block_status` in `struct tpacket_block_desc` (`linux/if_packet.h`).
const BLOCK_STATUS: usize = 8;

/// Geometry of a ring: blocks of packets, which the kernel fills one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct RingLayout {
    /// Bytes of a block: a multiple of the page size.
    pub(crate) block_bytes: u32,
    /// Blocks.
    pub(crate) blocks: u32,
}

impl RingLayout {
    /// Bytes of all blocks.
    pub(crate) fn bytes(self) -> usize {
        self.block_bytes as usize * self.blocks as usize
    }
}

/// What a packet socket counted since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RingCounters {
    /// Packets that passed the filter, dropped ones included.
    pub(crate) received: u32,
    /// Packets that found the ring full.
    pub(crate) dropped: u32,
}

/// A packet socket that receives nothing yet.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub(crate) fn packet_socket() -> nix::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked, and owned by nobody else.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was just made and is open.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds the socket to an interface. With `receive` it gets every packet, also outgoing ones; without, none.
pub(crate) fn bind(socket: BorrowedFd<'_>, index: u32, receive: bool) -> nix::Result<()> {
    let mut address = link_address();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    address.sll_protocol = if receive { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is an initialised `sockaddr_ll` of `len` bytes that outlives the call.
    Errno::result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// The ARP hardware type (`linux/if_arp.h`) of the interface that the socket is bound to.
pub(crate) fn hardware_type(socket: BorrowedFd<'_>) -> nix::Result<u16> {
    let mut address = link_address();
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` has room for `len` bytes, and both outlive the call.
    Errno::result(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
    Ok(address.sll_hatype)
}

fn link_address() -> libc::sockaddr_ll {
    // SAFETY: `sockaddr_ll` is plain integers and arrays; all zeros is a valid value.
    unsafe { std::mem::zeroed() }
}

/// Takes packets for others, too, as long as the socket is open.
pub(crate) fn set_promiscuous(socket: BorrowedFd<'_>, index: u32) -> nix::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// `BPF_RET | BPF_K` (`linux/filter.h`): how many bytes of a packet to keep, 0 for none.
const BPF_RETURN: u16 = 0x06;

/// Lets only packets through that `program` accepts, cut to `snaplen` bytes.
pub(crate) fn set_filter(socket: BorrowedFd<'_>, program: &[BpfInstruction], snaplen: u32) -> nix::Result<()> {
    const _: () = assert!(size_of::<BpfInstruction>() == size_of::<libc::sock_filter>());
    const _: () = assert!(align_of::<BpfInstruction>() == align_of::<libc::sock_filter>());
    // SAFETY: libpcap's instruction (`pcap/bpf.h`) is the kernel's `sock_filter` under another name: a u16, two u8 and a
    // u32, in that order; `BpfInstruction` is transparent to it.
    let program = unsafe { std::slice::from_raw_parts(program.as_ptr().cast::<libc::sock_filter>(), program.len()) };
    let cut = |i: &libc::sock_filter| libc::sock_filter {
        k: if i.code == BPF_RETURN && i.k > 0 { snaplen } else { i.k },
        ..*i
    };
    let mut program: Vec<libc::sock_filter> = program.iter().map(cut).collect();
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Gives the socket a ring. A block that is not full is handed over after `timeout_ms`.
pub(crate) fn set_ring(socket: BorrowedFd<'_>, layout: RingLayout, timeout_ms: u32) -> nix::Result<()> {
    set_option(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as libc::c_int))?;
    // Frames have no size of their own in version 3, but the numbers have to agree.
    let request = libc::tpacket_req3 {
        tp_block_size: layout.block_bytes,
        tp_block_nr: layout.blocks,
        tp_frame_size: layout.block_bytes,
        tp_frame_nr: layout.blocks,
        tp_retire_blk_tov: timeout_ms,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
}

/// What was counted since this was last asked.
pub(crate) fn counters(socket: BorrowedFd<'_>) -> nix::Result<RingCounters> {
    // SAFETY: plain integers; all zeros is a valid value.
    let mut stats: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
    // SAFETY: `stats` has room for `len` bytes, and both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    };
    Errno::result(got)?;
    Ok(RingCounters { received: stats.tp_packets, dropped: stats.tp_drops })
}

fn set_option<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> nix::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is an initialised value of `len` bytes that outlives the call; the kernel only reads it.
    Errno::result(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) })
        .map(drop)
}

/// A mapped ring. The kernel fills blocks in turn and hands each over; it is read, and given back.
#[derive(Debug)]
pub(crate) struct Ring {
    socket: File,
    map: NonNull<u8>,
    layout: RingLayout,
}

// SAFETY: the mapping belongs to this value alone, and can be read from any thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of `socket`, which [`set_ring`] gave it.
    ///
    /// # Errors
    /// `EINVAL` for a socket that has no ring of this layout.
    pub(crate) fn map(socket: OwnedFd, layout: RingLayout) -> io::Result<Self> {
        if layout.blocks == 0 || (layout.block_bytes as usize) < BLOCK_STATUS + 4 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (len, prot) = (layout.bytes(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing else is touched. The kernel
        // refuses a length that is not the ring's.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, socket.as_raw_fd(), 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { socket: socket.into(), map, layout })
    }

    /// The socket, to poll and to ask.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Blocks of the ring.
    pub(crate) fn blocks(&self) -> u32 {
        self.layout.blocks
    }

    /// Block `index`, or `None` while the kernel has it.
    pub(crate) fn block(&self, index: u32) -> Option<&[u8]> {
        if self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let len = self.layout.block_bytes as usize;
        // SAFETY: the block lies within the mapping (`status` checked the index), which lives as long as `self`. The
        // kernel does not write to it before it is given back, for which `release` needs `self` exclusively.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(index as usize * len), len) })
    }

    /// Gives block `index` back to the kernel.
    pub(crate) fn release(&mut self, index: u32) {
        self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }

    fn status(&self, index: u32) -> &AtomicU32 {
        assert!(index < self.layout.blocks, "block {index} of {}", self.layout.blocks);
        let offset = index as usize * self.layout.block_bytes as usize + BLOCK_STATUS;
        // SAFETY: within the mapping, aligned to 4 bytes because blocks are pages, and only ever accessed as an atomic.
        unsafe { AtomicU32::from_ptr(self.map.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this length, and no slice of it is left.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.layout.bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ring_is_refused() {
        let layout = RingLayout { block_bytes: 1 << 16, blocks: 2 };
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(Ring::map(null(), layout).is_err());
        assert!(Ring::map(null(), RingLayout { blocks: 0, ..layout }).is_err());
        let file = null();
        assert_eq!(counters(file.as_fd()), Err(Errno::ENOTSOCK));
        assert_eq!(set_ring(file.as_fd(), layout, 1), Err(Errno::ENOTSOCK));
    }
}
