//! What can go wrong with a tap, in words that hold the fix.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Why a tap cannot be opened, or used any longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The user's: a name that no interface can have.
    #[error("{name:?} cannot be an interface name: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The user's: an MTU that no tap can have.
    #[error("MTU {mtu} is outside {min} to {max}")]
    Mtu {
        /// What was asked for.
        mtu: u32,
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// The user's: the interface exists and is something else.
    #[error("{name} exists and is {kind}, not a tap: choose another name; a free one is created")]
    NotATap {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The system's: no tun driver, or no device node.
    #[error(
        "/dev/net/tun is missing: load the driver (`modprobe tun`), or hand the device to the container \
         (`--device /dev/net/tun`)"
    )]
    NoTunDevice(#[source] io::Error),
    /// The system's: the device node may not be opened.
    #[error("/dev/net/tun may not be opened: run as root, or give this user read and write access to it")]
    TunDenied(#[source] io::Error),
    /// The system's: the device node cannot be opened for another reason.
    #[error("/dev/net/tun cannot be opened")]
    TunDevice(#[source] io::Error),
    /// Somebody else holds the tap.
    #[error(
        "{name} is held by another process, and a tap has one holder: stop that process (an exiting one may take a \
         moment), choose another name, or make the tap with `ip tuntap add dev {name} mode tap multi_queue`"
    )]
    Busy {
        /// The interface.
        name: String,
    },
    /// No right to create the tap, or to use this one.
    #[error(
        "no permission to {what} {name}: run as root, give the program CAP_NET_ADMIN, or let root prepare it: \
         `ip tuntap add dev {name} mode tap user USER && ip link set {name} up`"
    )]
    Denied {
        /// The interface.
        name: String,
        /// `create` or `attach to`.
        what: &'static str,
    },
    /// The driver did not attach for another reason.
    #[error("{name} cannot be attached")]
    Attach {
        /// The interface.
        name: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A setting could not be read or made; with `EPERM`, CAP_NET_ADMIN is missing.
    #[error("cannot {what} {name} (needs CAP_NET_ADMIN, unless the tap is already set up that way)")]
    Configure {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The interface is down: somebody took it down, or it did not come up.
    #[error("{name} is down: `ip link set {name} up`, then start again")]
    Down {
        /// The interface.
        name: String,
    },
    /// The interface was deleted.
    #[error("{name} is gone: it was deleted while it was in use")]
    Gone {
        /// The interface.
        name: String,
    },
    /// A write failed for another reason.
    #[error("cannot write to {name}")]
    Write {
        /// The interface.
        name: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

impl TapError {
    pub(super) fn not_a_tap(name: &str, kind: &str, tun_type: Option<u8>) -> Self {
        let kind = match (kind, tun_type.map(i32::from)) {
            ("", _) => "a network card or a built-in interface".to_owned(),
            (_, Some(libc::IFF_TUN)) => "a tun (it carries IP packets without Ethernet headers)".to_owned(),
            (kind, _) => format!("of kind {kind}"),
        };
        Self::NotATap { name: name.to_owned(), kind }
    }

    pub(super) fn tun_device(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => Self::NoTunDevice(error),
            Some(Errno::EPERM | Errno::EACCES) => Self::TunDenied(error),
            _ => Self::TunDevice(error),
        }
    }

    pub(super) fn attach(name: &str, created: bool, errno: Errno) -> Self {
        let name = name.to_owned();
        match errno {
            Errno::EBUSY => Self::Busy { name },
            Errno::EPERM | Errno::EACCES => Self::Denied { name, what: if created { "create" } else { "attach to" } },
            source => Self::Attach { name, source },
        }
    }
}
