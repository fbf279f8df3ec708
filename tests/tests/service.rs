//! Promise: `run` learns from an interface, promotes only what is better, loses nothing, and ends when told to.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use wiremamba_model::checkpoint::Checkpoint;
use wiremamba_tests::netns::Namespace;
use wiremamba_tests::program::{self, fail, json, succeed};
use wiremamba_tests::service::{Service, TAP, configure as base, namespace, player, replay};

#[test]
fn live_traffic_is_learned_and_what_is_promoted_can_be_loaded_again() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "");
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    let capture = dir.path().join("captures/web/web.pcap");
    let mut first = None;
    // Rounds of 30 flows; each replay has 40.
    let learned = loop {
        replay(&namespace, &capture, 1);
        let status = service.until("the flows are in", |s| s["rounds"].as_u64().unwrap() > first.is_some().into());
        first.get_or_insert(status.clone());
        if status["promoted"].as_u64().unwrap() >= 2 {
            break status;
        }
    };
    let first = first.unwrap();
    let bits = |status: &Value, key: &str| status[key].as_f64().unwrap();
    assert!(bits(&learned, "bits_per_packet") < bits(&first, "bits_per_packet_before"), "{first} {learned}");
    assert_eq!((&learned["packets_dropped"], &learned["flows_refused"]), (&0.into(), &0.into()));

    let socket = dir.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    let ctl = |command: &str| json(&succeed(&["ctl", "--socket", socket, "--json", command]));
    assert_eq!(ctl("pause")["paused"], true);
    let current = || std::fs::read_link(dir.path().join("store/current")).unwrap();
    let newest = current();
    let rounds = ctl("rollback")["rounds"].as_u64().unwrap();
    assert_ne!(current(), newest);
    replay(&namespace, &capture, 1);
    let status = service.until("the flows are in", |s| s["flows"].as_u64() > learned["flows"].as_u64());
    assert_eq!((&status["rounds"], &status["paused"]), (&rounds.into(), &true.into()));
    assert_eq!(ctl("resume")["paused"], false);

    // At any moment: what is in the store is whole, and a new start goes on from it.
    service.signal(Signal::SIGKILL);
    drop(service);
    let store = dir.path().join("store");
    let store = store.to_str().unwrap();
    let about = json(&succeed(&["inspect", "--json", "-q", store]));
    assert!(about.to_string().contains("live"), "{about}");
    succeed(&["generate", "-q", "--model", store, "--packets", "20", "-w", "/dev/null"]);
    let mut service = Service::start(&namespace, &config);
    let again = service.until("it is up again", |_| true);
    assert!(again["steps"].as_u64().unwrap() >= 40, "{again}");
    service.signal(Signal::SIGTERM);
    service.until("it says so at the end", |_| true);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn an_interface_that_goes_away_is_waited_for_and_a_damaged_model_passed_over() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "");
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    namespace.ip(&["link", "delete", TAP]).unwrap();
    service.until("the interface is lost", |s| s["interfaces_lost"].as_u64().unwrap() > 0);
    namespace.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]).unwrap();
    namespace.ip(&["link", "set", TAP, "up"]).unwrap();
    let before = service.until("it is there", |_| true)["packets"].as_u64().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let capture = dir.path().join("captures/web/web.pcap");
    replay(&namespace, &capture, 2);
    service.until("packets come again", |s| s["packets"].as_u64().unwrap() >= before + 320);
    let capture_dns = dir.path().join("captures/dns/dns.pcap");
    replay(&namespace, &capture_dns, 1);
    service.until("two versions are there", |s| s["promoted"].as_u64().unwrap() >= 1);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());

    let current = dir.path().join("store/current/model.safetensors");
    let mut weights = std::fs::read(&current).unwrap();
    let middle = weights.len() / 2;
    weights[middle] ^= 1;
    std::fs::write(&current, weights).unwrap();
    let mut command = namespace.command(program::path().to_str().unwrap());
    command.args(["run", "--config", &config, "--json"]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("passed over"), "{said}");
}

/// Plays a capture onto the tap for ever, until dropped: slowly enough that each flow is over before it begins again.
struct Endless(Child);

impl Endless {
    fn start(namespace: &Namespace, capture: &Path) -> Self {
        Self(player(namespace, capture, 200, 0).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Rounds as short as they can be: most of the time is spent saving.
fn hasty(config: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    let text = text
        .replace("flows_per_round = 30", "flows_per_round = 2")
        .replace("steps_per_round = 20", "steps_per_round = 1");
    std::fs::write(config, text).unwrap();
}

/// The place in the order of saving of the version in use, which has to be whole.
fn current_sequence(store: &Path) -> u64 {
    let checkpoint = Checkpoint::load(store).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.about.expect("a version of ours").sequence
}

/// Kills; `WIREMAMBA_KILLS` asks for more.
const KILLS: u64 = 12;

#[test]
fn a_kill_at_any_moment_leaves_the_last_promotion() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "");
    hasty(&config);
    let store = dir.path().join("store");
    let _traffic = Endless::start(&namespace, &dir.path().join("captures/web/web.pcap"));
    let kills = std::env::var("WIREMAMBA_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut before = 0;
    for seed in 0..kills {
        let mut service = Service::start(&namespace, &config);
        let after_flows = if before == 0 { 1 } else { 0 };
        service.until("it works", |s| s["promoted"].as_u64().unwrap() >= after_flows);
        let moment = ChaCha8Rng::seed_from_u64(seed).random_range(0..1_500);
        std::thread::sleep(Duration::from_millis(moment));
        service.signal(Signal::SIGKILL);
        // Whatever it had said by then: each promotion is one more in the order of saving.
        let said = service.remaining().last().map_or(0, |status| status["promoted"].as_u64().unwrap());
        let now = current_sequence(&store);
        assert!(now >= before + said.max(after_flows), "{before} before, {said} promoted since, now {now}");
        before = now;
    }
    assert!(before > kills, "{before} promotions are too few to be killed in");
}

/// A file system of so many bytes, until dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, bytes: u64) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status().unwrap();
        assert!(mounted.success());
        Self(at)
    }

    /// Mounts it anew, `ro` or `rw`.
    fn remount(&self, how: &str) {
        let option = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &option]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_stops_promotions_and_nothing_else() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "");
    hasty(&config);
    let base_bytes: u64 =
        std::fs::read_dir(dir.path().join("base/current")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    let store = dir.path().join("store");
    let _disk = SmallDisk::mount(&store, 2 * base_bytes);
    let _traffic = Endless::start(&namespace, &dir.path().join("captures/web/web.pcap"));
    let mut service = Service::start(&namespace, &config);
    let failed = service.until("the disk is full", |s| s["rounds_failed"].as_u64().unwrap() >= 2);
    assert!(failed["promoted"].as_u64().unwrap() >= 1, "{failed}");
    let packets = failed["packets"].as_u64();
    service.until("captures go on", |s| s["packets"].as_u64() > packets);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
    assert!(current_sequence(&store) >= 1);
}

#[test]
fn a_store_that_cannot_be_written_stops_promotions_and_nothing_else() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "");
    hasty(&config);
    let store = dir.path().join("store");
    let disk = SmallDisk::mount(&store, 64 << 20);
    let _traffic = Endless::start(&namespace, &dir.path().join("captures/web/web.pcap"));
    let mut service = Service::start(&namespace, &config);
    service.until("something is promoted", |s| s["promoted"].as_u64().unwrap() >= 1);
    disk.remount("ro");
    let failed = service.until("rounds fail", |s| s["rounds_failed"].as_u64().unwrap() >= 1);
    disk.remount("rw");
    let again = service.until("they succeed again", |s| s["promoted"].as_u64() > failed["promoted"].as_u64());
    assert!(again["packets"].as_u64() > failed["packets"].as_u64());
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
    assert!(current_sequence(&store) >= 2);
}

#[test]
fn an_interface_that_is_renamed_or_goes_down_is_captured_from_again() {
    let Some(namespace) = namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "");
    let mut service = Service::start(&namespace, &config);
    service.until("it is up", |_| true);
    let link = |args: &[&str]| namespace.ip(&[&["link", "set"], args].concat()).unwrap();
    let capture = dir.path().join("captures/web/web.pcap");
    replay(&namespace, &capture, 1);
    let before = service.until("packets come", |s| s["packets"].as_u64().unwrap() >= 320);
    // It is the same interface under another name, for which it has to be down for a moment.
    link(&[TAP, "down"]);
    link(&[TAP, "name", "wm-else0"]);
    link(&["wm-else0", "name", TAP]);
    std::thread::sleep(Duration::from_secs(2));
    link(&[TAP, "up"]);
    std::thread::sleep(Duration::from_secs(3));
    replay(&namespace, &capture, 1);
    let packets = |status: &Value| status["packets"].as_u64().unwrap();
    service.until("packets come again", |s| packets(s) >= packets(&before) + 300);
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn what_cannot_begin_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let config = base(dir.path(), "colour = 'red'\n");
    assert!(fail(2, &["run", "--config", &config]).contains("colour"));
    let config = base(dir.path(), "");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("label = 'web'", "label = '<web>'")).unwrap();
    assert!(fail(1, &["run", "--config", &config]).contains("one of < | >"));
    std::fs::write(&config, text.replace(TAP, "wm-nowhere")).unwrap();
    assert!(fail(1, &["run", "--config", &config]).contains("cannot capture from interface wm-nowhere"));
    assert!(fail(1, &["ctl", "--socket", "/nowhere.sock", "status"]).contains("is the service running"));
    assert!(fail(1, &["run", "--config", "/nowhere.toml"]).contains("cannot read /nowhere.toml"));
}
