//! Promise: programs that read captures and know nothing of models read generated ones: through pipes, FIFOs, and under a
//! preload, where the name of a capture can be the name of a model.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wiremamba_daemon::sink::tap::{TapOptions, TapSink};
use wiremamba_model::packet::Packet;
use wiremamba_tests::netns::{self, Namespace};
use wiremamba_tests::program::{self, output_within, succeed, train_tiny};
use wiremamba_tests::traffic;

/// Longest that another program may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Packets of the capture.
const PACKETS: usize = 200;
/// What all ways ask for.
const SEED: &str = "5";

/// A model, and what it generates.
struct Generated {
    dir: tempfile::TempDir,
    model: PathBuf,
    bytes: Vec<u8>,
    packets: Vec<Packet>,
}

fn generated() -> Generated {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("captures"), 20);
    let model = dir.path().join("model");
    train_tiny(&dir.path().join("captures"), &model, 12);
    let out = dir.path().join("web.pcap");
    let mut args = generate(&model);
    args.push(out.to_str().unwrap().to_owned());
    succeed(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let (bytes, packets) = (std::fs::read(&out).unwrap(), traffic::read(&out));
    assert_eq!(packets.len(), PACKETS);
    Generated { dir, model, bytes, packets }
}

/// Arguments of `wiremamba generate`, but for where to.
fn generate(model: &Path) -> Vec<String> {
    let (model, packets) = (model.to_str().unwrap(), PACKETS.to_string());
    let args = ["generate", "-q", "--model", model, "--label", "web", "--seed", SEED, "--packets", &packets, "-w"];
    args.map(str::to_owned).to_vec()
}

/// The same as a name.
fn name() -> String {
    format!("wiremamba:label=web,seed={SEED},packets={PACKETS}")
}

/// A program under the preload; `None` with a line where it is not installed.
fn preloaded(model: &Path, words: &[&str]) -> Option<Command> {
    if Command::new("which").arg(words[0]).output().is_ok_and(|output| !output.status.success()) {
        eprintln!("skipped: no {}", words[0]);
        return None;
    }
    let mut command = program::command(&["exec", "--model", model.to_str().unwrap(), "--"]);
    command.args(words);
    Some(command)
}

/// What a program printed under the preload, on both outputs.
fn said(model: &Path, words: &[&str]) -> Option<String> {
    let output = output_within(&mut preloaded(model, words)?, PATIENCE);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{words:?}: {said}");
    Some(said)
}

#[test]
fn under_the_preload_a_name_is_a_capture_and_other_names_are_themselves() {
    let Generated { dir, model, bytes, packets } = generated();
    let name = name();
    let mut cat = preloaded(&model, &["cat", &name]).unwrap();
    let output = output_within(&mut cat, PATIENCE);
    assert!(output.stdout == bytes, "{}", String::from_utf8_lossy(&output.stderr));
    // Files that are there, and names that are none.
    let file = dir.path().join("web.pcap");
    let mut cat = preloaded(&model, &["cat", file.to_str().unwrap()]).unwrap();
    assert!(output_within(&mut cat, PATIENCE).stdout == bytes);
    let output = output_within(&mut preloaded(&model, &["cat", "wiremamba:label=none"]).unwrap(), PATIENCE);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && stderr.contains("it knows dns, web"), "{stderr}");

    // Three readers with three ways to open files.
    if let Some(said) = said(&model, &["tcpdump", "--count", "-r", &name]) {
        assert!(said.contains(&format!("{} packets", packets.len())), "{said}");
    }
    if let Some(said) = said(&model, &["capinfos", "-Mc", &name]) {
        assert!(said.contains(&format!("Number of packets:   {PACKETS}")), "{said}");
    }
    if let Some(said) = said(&model, &["tshark", "-r", &name, "-T", "fields", "-e", "frame.number"]) {
        assert!(said.lines().any(|line| line == PACKETS.to_string()), "{said}");
    }
    // It splits names at commas.
    let apart = name.replace(',', ";");
    if let Some(of_name) = said(&model, &["ndpiReader", "-i", &apart]) {
        let of_file = said(&model, &["ndpiReader", "-i", file.to_str().unwrap()]).unwrap();
        let counts = |text: &str| -> Vec<String> {
            let wanted = ["IP packets:", "IP bytes:", "Unique flows:", "TCP Packets:", "UDP Packets:"];
            let lines = text.lines().filter(|line| wanted.iter().any(|w| line.contains(w)));
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert!(counts(&of_name).len() >= 4, "{of_name}");
        assert_eq!(counts(&of_name), counts(&of_file));
    }
    // Two passes over the file, and a copy with other times.
    let cache = dir.path().join("cache");
    if said(&model, &["tcpprep", "--auto=bridge", "-i", &name, "-o", cache.to_str().unwrap()]).is_some() {
        assert!(cache.metadata().unwrap().len() > 0);
    }
    let rewritten = |name: &str| {
        let out = dir.path().join("rewritten.pcap");
        said(&model, &["tcprewrite", "-i", name, "-o", out.to_str().unwrap()])?;
        Some(std::fs::read(out).unwrap())
    };
    if let Some(of_name) = rewritten(&name) {
        assert!(of_name.len() > packets.len() && of_name == rewritten(file.to_str().unwrap()).unwrap());
    }
}

#[test]
fn tcpreplay_sends_a_generated_capture_through_a_pipe_a_fifo_and_the_preload() {
    if let Some(missing) = netns::missing() {
        eprintln!("skipped: {missing}");
        return;
    }
    if Command::new("tcpreplay").arg("--version").output().is_err() {
        eprintln!("skipped: no tcpreplay");
        return;
    }
    let Generated { dir, model, packets, .. } = generated();
    let namespace = Namespace::new().unwrap();
    // What tcpreplay sends through a tap goes to whoever holds it: this test.
    let tap = namespace.run(|| TapSink::open(&TapOptions { name: "wm-from".into(), ..TapOptions::default() }).unwrap());
    namespace.ip(&["link", "set", "wm-from", "txqueuelen", "2000"]).unwrap();
    let (sender, frames) = std::sync::mpsc::channel();
    let mut held = tap.reader().unwrap();
    std::thread::spawn(move || {
        let mut frame = vec![0; 65_536];
        loop {
            match held.read(&mut frame) {
                Ok(len) if sender.send(frame[..len].to_vec()).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(_) => return,
            }
        }
    });
    // The kernel sends only from a second after the tap has its carrier.
    std::thread::sleep(Duration::from_millis(1500));
    let arrived = |what: &str, passes: usize| {
        let next = || frames.recv_timeout(Duration::from_secs(5)).ok();
        let frames: Vec<Vec<u8>> = std::iter::from_fn(next).take(passes * packets.len()).collect();
        let expected = (0..passes).flat_map(|_| packets.iter().map(|packet| &packet.data));
        assert!(frames.iter().eq(expected), "{what}: {} frames", frames.len());
    };
    let tcpreplay = |capture: &str, more: &[&str]| {
        let mut command = namespace.command("tcpreplay");
        command.args(["-q", "--topspeed", "-i", "wm-from"]).args(more).arg(capture);
        command
    };
    let to = |place: &str| {
        let mut args = generate(&model);
        args.push(place.to_owned());
        let mut command = program::command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdout(Stdio::piped());
        command.spawn().unwrap()
    };

    let mut source = to("-");
    let output = tcpreplay("-", &[]).stdin(source.stdout.take().unwrap()).output().unwrap();
    assert!(output.status.success() && source.wait().unwrap().success());
    arrived("pipe", 1);

    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let mut source = to(fifo.to_str().unwrap());
    let output = tcpreplay(fifo.to_str().unwrap(), &[]).output().unwrap();
    assert!(output.status.success() && source.wait().unwrap().success());
    arrived("FIFO", 1);

    // Three passes: the capture is opened again for each.
    let mut command = namespace.command(program::path().to_str().unwrap());
    command.args(["exec", "--model", model.to_str().unwrap(), "--"]);
    command.args(["tcpreplay", "-q", "--topspeed", "--loop=3", "-i", "wm-from", &name()]);
    let output = output_within(&mut command, PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    arrived("preload", 3);
}
