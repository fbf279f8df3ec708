//! Promise: an intrusion detection system on the tap finds nothing wrong with the packets of a model, and `score` accounts for
//! every flow. Suricata judges; without it, or without root, this skips.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use wiremamba_tests::netns::{self, Namespace};
use wiremamba_tests::program::{self, json, output_within, succeed, train_tiny};
use wiremamba_tests::traffic;

/// Longest that each program may take.
const PATIENCE: Duration = Duration::from_secs(120);
const CONFIGURATION: &str = include_str!("../../packaging/suricata.yaml");

/// Suricata on a tap, stopped when dropped.
struct Suricata(Child);

impl Suricata {
    /// Starts it in `folder`, and waits until it listens.
    fn start(namespace: &Namespace, tap: &str, folder: &std::path::Path) -> Self {
        std::fs::write(folder.join("suricata.yaml"), CONFIGURATION).unwrap();
        std::fs::write(folder.join("empty"), "").unwrap();
        let log = folder.join("suricata.log");
        let mut command = namespace.command("suricata");
        command.args(["-c", "suricata.yaml", &format!("--af-packet={tap}"), "-k", "all", "-S", "/dev/null", "-l", "."]);
        command.args(["--runmode", "workers"]).current_dir(folder).stdin(Stdio::null());
        let output = File::create(&log).unwrap();
        let child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let mut suricata = Self(child);
        let begun = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("Engine started") {
                return suricata;
            }
            assert!(suricata.0.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE, "{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Lets it write the flows that are open, and ends it.
    fn finish(mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let begun = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Suricata {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn suricata_on_the_tap_sees_every_flow_and_no_wrong_packet() {
    if let Some(what) = netns::missing() {
        eprintln!("skipped: {what}");
        return;
    }
    if Command::new("suricata").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("skipped: there is no suricata (Debian package suricata, in the backports of Debian 12)");
        return;
    }
    let namespace = Namespace::new().expect("it worked a moment ago");
    namespace.ip(&["tuntap", "add", "dev", "wm-ids0", "mode", "tap"]).unwrap();
    let quiet = "net.ipv6.conf.wm-ids0.disable_ipv6=1";
    assert!(namespace.command("sysctl").args(["-qw", quiet]).status().unwrap().success());
    namespace.ip(&["link", "set", "wm-ids0", "up"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 25);
    let model = dir.path().join("model");
    train_tiny(dir.path(), &model, 40);

    let suricata = Suricata::start(&namespace, "wm-ids0", dir.path());
    let truth = dir.path().join("truth.jsonl");
    let mut replay = namespace.command(program::path().to_str().unwrap());
    replay.args(["replay", "-q", "--json", "--tap", "wm-ids0", "--model", model.to_str().unwrap()]);
    replay.args(["--stock", "20", "--flows", "150", "--flows-per-second", "50", "--flow-packets-max", "40"]);
    replay.args(["--duration", "12", "--max-gap", "0.05", "--ground-truth", truth.to_str().unwrap()]);
    let output = output_within(&mut replay, PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done = json(String::from_utf8_lossy(&output.stdout).lines().last().unwrap().as_bytes());
    std::thread::sleep(Duration::from_secs(1));
    suricata.finish();

    let eve = dir.path().join("eve.json");
    let score: Value =
        json(&succeed(&["score", "--json", "--truth", truth.to_str().unwrap(), "--eve", eve.to_str().unwrap()]));
    let n = |key: &str| score[key].as_u64().unwrap_or_else(|| panic!("{key}: {score}"));
    assert!(n("flows") > 50 && n("packets") == done["sent"].as_u64().unwrap(), "{done} {score}");
    assert_eq!((n("decoder_invalid"), n("invalid_checksum")), (0, 0), "{score}");
    assert_eq!((n("seen") + n("missed"), n("unknown")), (n("flows"), 0), "{score}");
    // Of ICMP errors about packets that it never saw Suricata makes no flows.
    for protocol in ["tcp", "udp"] {
        let fared = &score["protocols"][protocol];
        assert!(fared["flows"].as_u64().unwrap() > 10, "{score}");
        assert_eq!((&fared["missed"], &fared["short"]), (&0.into(), &0.into()), "{protocol}: {score}");
    }
}
