//! Keeping idle processors awake: what a sleep costs after its end.
//!
//! A processor with nothing to do goes to sleep itself, and takes tens of microseconds to come back: the exit from a deep
//! idle state, or in a virtual machine the way through the host. The kernel lets a program forbid that for as long as it
//! holds a file open (`Documentation/power/pm_qos_interface.rst`): idle processors then poll, at the price of power.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// Where the kernel takes the wish, as a 32-bit number of microseconds in the machine's byte order.
const PATH: &str = "/dev/cpu_dma_latency";

/// While it lives, no processor of this machine sleeps deeply.
#[derive(Debug)]
pub(super) struct Awake(#[allow(dead_code, reason = "held open: the kernel forgets the wish when it is closed")] File);

impl Awake {
    /// Holds the wish; `None`, and a word in the log, where this program may not: wake-ups are later then, and all else the same.
    pub(super) fn keep() -> Option<Self> {
        let held = OpenOptions::new().write(true).open(PATH).and_then(|mut file| {
            file.write_all(&0_i32.to_ne_bytes())?;
            Ok(Self(file))
        });
        held.inspect_err(|error| tracing::debug!(%error, "{PATH} cannot be held: idle processors may sleep")).ok()
    }
}
