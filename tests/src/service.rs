//! The service, run as an administrator runs it, on a tap of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::netns::{self, Namespace};
use crate::program::{self, json, train_tiny};
use crate::traffic;

/// The tap that the service captures from.
pub const TAP: &str = "wm-live0";
const PATIENCE: Duration = Duration::from_secs(120);

/// A namespace with a tap that stays, or `None` with a line.
pub fn namespace() -> Option<Namespace> {
    if let Some(missing) = netns::missing() {
        eprintln!("skipped: {missing}");
        return None;
    }
    let namespace = Namespace::new().unwrap();
    namespace.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]).unwrap();
    namespace.ip(&["link", "set", TAP, "up"]).unwrap();
    Some(namespace)
}

/// Captures, a base model of two labels that has hardly learned, and a configuration.
pub fn configure(dir: &Path, more: &str) -> String {
    traffic::write_two_labels(&dir.join("captures"), 40);
    train_tiny(&dir.join("captures"), &dir.join("base"), 2);
    let config = dir.join("wiremamba.toml");
    let text = format!(
        "[[capture]]\ninterface = '{TAP}'\nlabel = 'web'\nfilter = 'tcp or udp'\nbuffer_mib = 2\n\
         [model]\nbase = '{base}'\nstore = '{store}'\n\
         [learn]\nflows_per_round = 30\nsteps_per_round = 20\ncpu_share = 1.0\nbatch = 2\nseq_len = 64\nidle_s = 1\nstatus_s = 1\n{more}\
         [control]\nsocket = '{socket}'\n",
        socket = dir.join("control.sock").display(),
        base = dir.join("base").display(),
        store = dir.join("store").display(),
    );
    std::fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}

/// A service that runs.
#[derive(Debug)]
pub struct Service {
    /// Its process.
    pub child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Service {
    /// Starts the service with a configuration.
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        let mut command = namespace.command(program::path().to_str().unwrap());
        command.args(["run", "--config", config, "--json"]);
        Self::spawn(&mut command)
    }

    /// Starts the service that `command` runs, with `--json`.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The first status that is as wanted.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "no status in which {what}");
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the service ended before {what}");
            let status = json(line.as_bytes());
            if wanted(&status) {
                return status;
            }
        }
    }

    /// What it said until its end.
    pub fn remaining(&mut self) -> Vec<Value> {
        let lines = self.lines.by_ref().lines().map(Result::unwrap);
        // A kill may cut the last one.
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays a capture onto the tap, at so many packets a second and as often as asked; 0 is for ever.
pub fn player(namespace: &Namespace, capture: &Path, pps: u32, loops: u32) -> Command {
    let mut command = namespace.command(program::path().to_str().unwrap());
    let [pps, loops] = [pps, loops].map(|n| n.to_string());
    command.args(["replay", "-q", "--pps", &pps, "--tap", TAP, "--loop", &loops, "--pcap"]).arg(capture);
    command.stdin(Stdio::null());
    command
}

/// Plays a capture onto the tap, quickly, and waits for it.
pub fn replay(namespace: &Namespace, capture: &Path, loops: u32) {
    let output = player(namespace, capture, 2000, loops).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
