//! Network namespaces that live as long as a value, so that a test never touches the machine's own interfaces.

use std::fs::File;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

/// What this machine lacks for tests with taps in namespaces; `None` when nothing.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        return Some(format!("needs /dev/net/tun: {e}"));
    }
    // Entering is more than adding: it mounts, which a plain chroot does not allow.
    match Namespace::new().and_then(|namespace| namespace.ip(&["link", "show"])) {
        Ok(()) => None,
        Err(e) => Some(format!("needs `ip netns add` and `ip -n`: {e}")),
    }
}

/// A network namespace with nothing but a loopback that is down. Deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates one under a name that no other test has.
    pub fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wm-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. A panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = File::open(format!("/run/netns/{}", self.name)).expect("it exists until it is dropped");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&entered, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace it made");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with these arguments inside the namespace; what it complains about is the error.
    pub fn ip(&self, args: &[&str]) -> io::Result<()> {
        ip(&[&["-n", self.name.as_str()], args].concat())
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(e) = ip(&["netns", "delete", &self.name]) {
            eprintln!("the namespace {} stays behind: {e}", self.name);
        }
    }
}

fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
