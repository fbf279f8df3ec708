//! A tap interface as a sink: every packet sent here *arrives* on the interface, as if from a cable.
//!
//! The sink holds the tap's file and writes Ethernet frames to it; the kernel receives them on the interface, so
//! a sniffer, an IDS or the host's own stack sees them as incoming. That is the opposite of sending through a
//! packet socket, which moves frames *towards* whoever holds the file; on a tap that nobody holds they vanish
//! without an error. Pacing is the job of [`crate::replay`].

mod error;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use wiremamba_model::flow::Direction;
use wiremamba_model::packet::Packet;

use super::frame::{ETHERNET_HEADER, Framed, Refusal, frame_of};
use super::link::{self, InterfaceAddress, Link};
use super::warmer::{Warmer, Way};
use super::{DeviceCounters, PacketSink, SinkError, SinkReport};
use crate::source::Tagged;
use crate::sys;

pub use super::frame::{
    REFUSED_BUSY, REFUSED_KERNEL, REFUSED_NOT_ETHERNET, REFUSED_TOO_LONG, REFUSED_TOO_SHORT, REFUSED_TRUNCATED,
    Truncated,
};
pub use error::TapError;

/// Smallest MTU the kernel takes for a tap (`ETH_MIN_MTU`).
pub const MTU_MIN: u32 = 68;
/// Largest MTU the kernel takes for a tap: 65,535 less the Ethernet header (`tun_net_initialize`).
pub const MTU_MAX: u32 = 65_521;
/// Tries to write one frame while the kernel is out of memory or buffers.
const WRITE_TRIES: u32 = 4;
/// Wait between two such tries.
const WRITE_PAUSE: Duration = Duration::from_micros(50);

/// Which tap, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TapOptions {
    /// Interface name, 1 to 15 bytes. Created if there is none.
    pub name: String,
    /// Keep a tap that this sink creates when the sink is dropped. A tap that existed stays in any case.
    pub persist: bool,
    /// MTU to set, 68 to 65,521 bytes; `None` leaves it as it is, which is 1500 for a new tap. Frames longer than
    /// MTU + 14 (+ 4 for each of up to two VLAN tags) are refused.
    pub mtu: Option<u32>,
    /// What to do with truncated packets.
    pub truncated: Truncated,
}

/// What whoever takes over a tap has to know beside the descriptor.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapHandover {
    name: String,
    mtu: u32,
}

/// A held tap. Dropping it detaches; a tap it created without `persist` is gone then.
#[derive(Debug)]
pub struct TapSink {
    tun: File,
    name: String,
    /// Number of the interface; `None` for one that another process opened, perhaps in another network namespace.
    index: Option<i32>,
    created: bool,
    ipv6_quiet: bool,
    mac: Option<[u8; 6]>,
    mtu: u32,
    truncated: Truncated,
    scratch: Vec<u8>,
    /// What `staged_frame` counts as, where it is to be sent next.
    staged: Option<Framed>,
    staged_frame: Vec<u8>,
    warmer: Warmer,
    report: SinkReport,
    /// Longest frame refused as too long, in bytes.
    longest_refused: usize,
    /// The device's counters when the sink was opened.
    before: DeviceCounters,
}

/// How long [`TapSink::open`] waits for a tap that somebody holds.
const HOLDER_PATIENCE: Duration = Duration::from_millis(250);

/// The tap of that name; `None` where the name is free.
///
/// # Errors
/// The name belongs to something that is not a tap.
fn tap_by_name(name: &str) -> Result<Option<Link>, TapError> {
    let look = |source| TapError::Configure { name: name.to_owned(), what: "look at", source };
    match Link::by_name(name).map_err(look)? {
        Some(link) if link.tun_type != Some(libc::IFF_TAP as u8) => {
            Err(TapError::not_a_tap(name, &link.kind, link.tun_type))
        }
        link => Ok(link),
    }
}

/// Attaches the open `tun` to the tap `name`, and says whether it was created for that.
///
/// A holder that is about to let go is waited for: an exiting process, or one that any thread of this process is
/// starting, which has copies of all descriptors until its execve(2) closes them.
fn attach(tun: &File, name: &str) -> Result<bool, TapError> {
    let began = Instant::now();
    loop {
        let existing = tap_by_name(name)?;
        let created = existing.is_none();
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if existing.is_some_and(|l| l.multi_queue) {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        match sys::attach_tun(tun, name, flags as i16) {
            Ok(()) => return Ok(created),
            Err(Errno::EBUSY) if began.elapsed() < HOLDER_PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            Err(errno) => return Err(TapError::attach(name, created, errno)),
        }
    }
}

impl TapSink {
    /// Opens the tap in the calling thread's network namespace: creates it if absent, sets the MTU if asked,
    /// brings it up.
    ///
    /// On a tap that it creates, IPv6 is switched off first, because the kernel would otherwise send router
    /// solicitations and multicast reports of its own between the packets. A tap that existed keeps its settings.
    pub fn open(options: &TapOptions) -> Result<Self, TapError> {
        let name = options.name.as_str();
        check_name(name)?;
        if let Some(mtu) = options.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
            return Err(TapError::Mtu { mtu, min: MTU_MIN, max: MTU_MAX });
        }
        let look = |source| TapError::Configure { name: name.to_owned(), what: "look at", source };

        tap_by_name(name)?; // another kind of interface says more than a missing right does
        // Non-blocking: a full buffer shall be counted, not waited for without an end.
        let tun = {
            use std::os::unix::fs::OpenOptionsExt as _;
            let mut open = std::fs::OpenOptions::new();
            open.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            open.open("/dev/net/tun").map_err(TapError::tun_device)?
        };
        let created = attach(&tun, name)?;

        let ipv6_quiet = created && disable_ipv6(name);
        let link = Link::by_name(name).map_err(look)?.ok_or_else(|| TapError::Gone { name: name.to_owned() })?;
        let configure = |what| move |source| TapError::Configure { name: name.to_owned(), what, source };
        if let Some(mtu) = options.mtu.filter(|&mtu| mtu != link.mtu) {
            link::set_mtu(link.index, mtu).map_err(configure("set the MTU of"))?;
        }
        if !link.up {
            link::set_up(link.index).map_err(configure("bring up"))?;
        }
        if created && options.persist {
            sys::set_tun_persistent(&tun, true).map_err(configure("keep"))?;
        }
        let link = Link::by_index(link.index).map_err(look)?.ok_or_else(|| TapError::Gone { name: name.to_owned() })?;
        if !link.up {
            return Err(TapError::Down { name: name.to_owned() });
        }
        tracing::info!(tap = name, created, mtu = link.mtu, ipv6_quiet, "tap open");
        Ok(Self {
            tun,
            name: name.to_owned(),
            index: Some(link.index),
            created,
            ipv6_quiet,
            mac: link.mac,
            mtu: link.mtu,
            truncated: options.truncated,
            scratch: Vec::new(),
            staged: None,
            staged_frame: Vec::new(),
            warmer: Warmer::of(Way::Tap),
            report: SinkReport::default(),
            longest_refused: 0,
            before: link.counters,
        })
    }

    /// The tap for another process, which need not be privileged.
    pub fn hand_over(self) -> (OwnedFd, TapHandover) {
        (self.tun.into(), TapHandover { name: self.name, mtu: self.mtu })
    }

    /// A tap that another process opened. The device's own counters cannot be read then.
    pub fn adopt(tun: OwnedFd, about: TapHandover, truncated: Truncated) -> Self {
        Self {
            tun: tun.into(),
            name: about.name,
            index: None,
            created: false,
            ipv6_quiet: false,
            mac: None,
            mtu: about.mtu,
            truncated,
            scratch: Vec::new(),
            staged: None,
            staged_frame: Vec::new(),
            warmer: Warmer::of(Way::Tap),
            report: SinkReport::default(),
            longest_refused: 0,
            before: DeviceCounters::default(),
        }
    }

    /// The tap's file once more, from which what the host sends through the interface can be read.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn reader(&self) -> std::io::Result<File> {
        self.tun.try_clone()
    }

    /// The interface's own MAC; `None` where it is not known.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// IPv4 addresses that the host has on the interface.
    ///
    /// # Errors
    /// The host does not say (getifaddrs(3)).
    pub fn ipv4_addresses(&self) -> std::io::Result<Vec<InterfaceAddress>> {
        Ok(link::ipv4_addresses(&self.name)?)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this sink created the interface.
    pub fn created(&self) -> bool {
        self.created
    }

    /// Whether IPv6 is off on it because this sink switched it off, so that the kernel adds no packets of its own.
    pub fn ipv6_quiet(&self) -> bool {
        self.ipv6_quiet
    }

    /// The interface's MTU in bytes, as it was when the sink was opened.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Counts a frame that was written, or why it was not. An error means that the tap is of no more use.
    fn count(&mut self, written: Result<Framed, Stop>) -> Result<(), SinkError> {
        match written {
            Ok(framed) => self.report.count(framed),
            Err(Stop::Refused(refusal)) => {
                if let Refusal::TooLong { len, .. } = refusal {
                    self.longest_refused = self.longest_refused.max(len);
                }
                *self.report.refused.entry(refusal.reason()).or_default() += 1;
            }
            Err(Stop::Broken(error)) => return Err(error.into()),
        }
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), Stop> {
        let mut tries = 0;
        loop {
            let error = match (&self.tun).write(frame) {
                // The driver takes a frame as a whole or not at all.
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let name = || self.name.clone();
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::EINTR => {}
                Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => {
                    tries += 1;
                    if tries == WRITE_TRIES {
                        return Err(Refusal::Busy.into());
                    }
                    std::thread::sleep(WRITE_PAUSE);
                }
                Errno::EINVAL | Errno::EMSGSIZE => return Err(Refusal::Kernel.into()),
                Errno::EIO | Errno::ENETDOWN => return Err(self.down_or_gone().into()),
                // The driver's answer when the interface behind the file was deleted.
                Errno::EBADFD | Errno::ENODEV | Errno::ENXIO => return Err(TapError::Gone { name: name() }.into()),
                source => return Err(TapError::Write { name: name(), source }.into()),
            }
        }
    }

    /// What the driver's answer for an interface that is not up means: the kernel takes an interface down before it
    /// deletes it. Both happen under the lock that the question waits for, so the answer is the final one.
    fn down_or_gone(&self) -> TapError {
        let name = self.name.clone();
        match self.index.map(Link::by_index) {
            Some(Ok(None)) => TapError::Gone { name },
            _ => TapError::Down { name },
        }
    }
}

/// Why one packet is not sent: it is refused, or the tap is of no more use.
#[derive(Debug)]
enum Stop {
    Refused(Refusal),
    Broken(TapError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<TapError> for Stop {
    fn from(error: TapError) -> Self {
        Self::Broken(error)
    }
}

impl PacketSink for TapSink {
    /// Writes one packet as an Ethernet frame, or counts why it cannot go out. An error means that the tap is of no
    /// more use.
    fn send(&mut self, packet: &Packet) -> Result<(), SinkError> {
        self.staged = None;
        let mut scratch = std::mem::take(&mut self.scratch);
        let written = match frame_of(packet, self.truncated, self.mtu, &mut scratch) {
            Ok((frame, framed)) => self.write(frame).map(|()| framed),
            Err(refusal) => Err(refusal.into()),
        };
        self.scratch = scratch;
        self.count(written)
    }

    fn stage(&mut self, tagged: &Tagged, _: Direction) -> bool {
        let framed = frame_of(&tagged.packet, self.truncated, self.mtu, &mut self.scratch);
        self.staged = framed.ok().map(|(frame, framed)| {
            self.staged_frame.clear();
            self.staged_frame.extend_from_slice(frame);
            framed
        });
        self.staged.is_some()
    }

    fn release(&mut self, _: Direction) -> Result<(), SinkError> {
        let Some(framed) = self.staged.take() else { return Ok(()) };
        let frame = std::mem::take(&mut self.staged_frame);
        let written = self.write(&frame).map(|()| framed);
        self.staged_frame = frame;
        self.count(written)
    }

    fn mtu(&self) -> Option<u32> {
        Some(self.mtu)
    }

    fn prepare_to_warm(&mut self) {
        self.warmer.prepare();
    }

    /// A frame to nobody, and a frame shorter than an Ethernet header, which the driver refuses before it counts it.
    fn warm(&mut self) {
        self.warmer.send(self.staged.map_or(0, |frame| frame.bytes));
        let _ = (&self.tun).write(&[0]);
    }

    fn report(&self) -> &SinkReport {
        &self.report
    }

    /// Reports what was sent, and what the device itself counted since the sink was opened. The device's numbers are
    /// `None` when the interface is gone. The tap stays held until the sink is dropped.
    fn finish(&mut self) -> Result<SinkReport, SinkError> {
        let link = self.index.and_then(|index| {
            Link::by_index(index).unwrap_or_else(|errno| {
                tracing::warn!(tap = self.name, %errno, "the tap's counters could not be read");
                None
            })
        });
        self.report.device = link.map(|link| link.counted_since(self.before));
        if self.longest_refused > 0 {
            let mtu_needed = self.longest_refused - ETHERNET_HEADER;
            tracing::warn!(
                tap = self.name,
                mtu = self.mtu,
                mtu_needed,
                "frames were longer than the MTU allows; see --mtu"
            );
        }
        Ok(self.report.clone())
    }
}

/// Checks a name as `dev_valid_name` in the kernel does, and refuses `%`, which the kernel would take as a pattern.
fn check_name(name: &str) -> Result<(), TapError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() >= libc::IFNAMSIZ {
        "it is longer than 15 bytes"
    } else if matches!(name, "." | "..") || name.contains(|c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace()) {
        "it is `.` or `..`, or holds a space, `/`, `:` or `%`"
    } else if name.contains('\0') {
        "it holds a zero byte"
    } else {
        return Ok(());
    };
    Err(TapError::Name { name: name.to_owned(), why })
}

/// Switches IPv6 off on a new interface; `false` when that was not possible, which is no reason to stop.
fn disable_ipv6(name: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    match std::fs::write(&path, "1") {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true, // a kernel without IPv6 is quiet, too
        Err(error) => {
            tracing::warn!(tap = name, %error, "IPv6 stays on: the kernel may send packets of its own on this tap");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_anything_is_opened() {
        for bad in ["", "a23456789012345x", "a b", "a/b", "..", "tap%d", "tap:1", "a\0b"] {
            let options = TapOptions { name: bad.into(), ..TapOptions::default() };
            assert!(matches!(TapSink::open(&options), Err(TapError::Name { .. })), "{bad:?}");
        }
        assert!(check_name("abcdefghijklmno").is_ok());
    }

    #[test]
    fn an_impossible_mtu_is_an_error_with_the_range() {
        for mtu in [0, 67, 65_522] {
            let options = TapOptions { name: "wm0".into(), mtu: Some(mtu), ..TapOptions::default() };
            let error = TapSink::open(&options).unwrap_err();
            assert_eq!(error.to_string(), format!("MTU {mtu} is outside 68 to 65521"));
        }
    }

    #[test]
    fn loopback_is_refused_as_no_tap() {
        let options = TapOptions { name: "lo".into(), ..TapOptions::default() };
        assert!(matches!(TapSink::open(&options), Err(TapError::NotATap { .. })));
    }
}
