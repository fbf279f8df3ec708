//! Promise: the command line keeps the contract that scripts rely on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use etherparse::PacketBuilder;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::netns::{self, Namespace};
use wiremamba_tests::program::{command, fail, json, succeed, train_tiny};
use wiremamba_tests::sniffer::Sniffer;
use wiremamba_tests::traffic;

/// A model trained for a moment on two labels.
struct Trained {
    dir: tempfile::TempDir,
}

impl Trained {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        traffic::write_two_labels(&dir.path().join("capture"), 20);
        train_tiny(&dir.path().join("capture"), &dir.path().join("model"), 12);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn model(&self) -> String {
        self.path("model").to_str().unwrap().to_owned()
    }

    fn generate(&self, to: &Path, more: &[&str]) {
        succeed(&[&["generate", "--model", &self.model(), "-q", "-w", to.to_str().unwrap()], more].concat());
    }
}

#[test]
fn generate_writes_as_many_packets_as_asked_for_and_the_same_for_the_same_seed_whatever_the_batch() {
    let trained = Trained::new();
    let (a, b, c) = (trained.path("a.pcap"), trained.path("b.pcap"), trained.path("c.pcap"));
    trained.generate(&a, &["--packets", "50", "--seed", "3"]);
    trained.generate(&b, &["--packets", "50", "--seed", "3", "--streams", "5"]);
    trained.generate(&c, &["--packets", "50", "--seed", "4"]);
    assert_eq!(traffic::read(&a).len(), 50);
    let read = |path| std::fs::read(path).unwrap();
    assert_eq!(read(&a), read(&b));
    assert_ne!(read(&a), read(&c));
    let piped = succeed(&["generate", "--model", &trained.model(), "-q", "--packets", "50", "--seed", "3", "-w", "-"]);
    assert_eq!(read(&a), piped);
}

/// What a client says first to a service that no rule knows, so that it is literal.
fn greeting(client: u8) -> Packet {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, client], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, client], [10, 0, 1, 1], 64)
        .udp(40_000 + u16::from(client), 9_999);
    let mut data = Vec::new();
    builder.write(&mut data, format!("hello {client}").as_bytes()).unwrap();
    let ts = Timestamp::from_parts(1_600_000_000 + i64::from(client), 0);
    Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}

#[test]
fn a_prompt_begins_each_flow_with_its_first_packet() {
    let trained = Trained::new();
    let (capture, out) = (trained.path("greetings.pcap"), trained.path("prompted.pcap"));
    let firsts: Vec<Packet> = (2..5).map(greeting).collect();
    traffic::write(&capture, firsts.clone());
    let prompt =
        ["--prompt", capture.to_str().unwrap(), "--label", "dns", "--flows", "3", "--flows-per-second", "0.001"];
    trained.generate(&out, &prompt);
    let generated = traffic::read(&out);
    // Hosts and ports are the plan's own; what the packet says, and to which service, is the prompt's.
    let said = |packet: &Packet| (packet.data[36..38].to_vec(), packet.data[42..].to_vec());
    for first in &firsts {
        assert!(generated.iter().any(|p| said(p) == said(first)), "a flow begins with the prompt's packet");
    }
    assert_eq!(said(&generated[0]), said(&firsts[0]));
}

#[test]
fn flows_come_as_they_were_learned_to_where_asked_for() {
    let trained = Trained::new();
    let (capture, out) = (trained.path("greeting.pcap"), trained.path("learned.pcap"));
    traffic::write(&capture, [greeting(2)]);
    // Of each flow nothing but its beginning; those that were learned began a second apart.
    let prompt = ["--prompt", capture.to_str().unwrap(), "--label", "dns", "--flows", "30", "--flow-packets-max", "1"];
    trained.generate(&out, &[&prompt[..], &["--flows-per-second", "learned"]].concat());
    let starts: Vec<Timestamp> = traffic::read(&out).iter().map(|packet| packet.ts).collect();
    assert_eq!(starts.len(), 30);
    for pair in starts.windows(2) {
        let seconds = pair[1].nanos_since(pair[0]) as f64 * 1e-9;
        assert!((seconds - 1.0).abs() < 0.02, "bins are 1/64 octave wide: {seconds}");
    }
    let (model, rate) = (trained.model(), "--flows-per-second");
    let args = ["generate", "--model", &model, "-w", "/dev/null", "--flows", "3", rate];
    assert!(fail(1, &[&args[..], &["learned", "--mix", "web=1,dns=2"]].concat()).contains("with a mix give a number"));
    assert!(fail(2, &[&args[..], &["often"]].concat()).contains("or learned"));
    traffic::write_two_labels(&trained.path("few"), 5);
    train_tiny(&trained.path("few"), &trained.path("few-model"), 2);
    let model = trained.path("few-model");
    let args = ["generate", "--model", model.to_str().unwrap(), "-w", "/dev/null", "--flows", "3", rate, "learned"];
    assert!(fail(1, &args).contains("follow one another was not learned"));
}

#[test]
fn bench_prints_one_json_object() {
    for work in [
        &["train", "--batch", "2", "--seq-len", "64", "--steps", "2"][..],
        &["decode", "--streams", "4", "--steps", "5"][..],
    ] {
        let args = [&["bench"], work, &["--preset", "tiny", "--json"]].concat();
        let report = json(&succeed(&args));
        assert!(report["tokens_per_s"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["peak_rss_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
        if work[0] == "decode" {
            let number = |key: &str| report[key].as_f64().unwrap();
            let share = number("tokens_per_s") / number("bound_tokens_per_s");
            assert!(
                (number("share_of_bound") - share).abs() < 1e-9 && report["read_gb_per_s"][1].is_number(),
                "{report}"
            );
            assert_eq!(report["device"], "cpu");
        }
    }
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    let trained = Trained::new();
    let mut generate =
        command(&["generate", "--model", &trained.model(), "-q", "-w", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = generate.stdout.take().unwrap();
    let head = Command::new("head").args(["-c", "100"]).stdin(pipe).stdout(Stdio::null()).status().unwrap();
    assert!(head.success());
    assert!(generate.wait().unwrap().success());
}

#[test]
fn a_closed_stderr_changes_nothing() {
    let trained = Trained::new();
    let out = trained.path("unheard.pcap");
    let args = ["generate", "--model", &trained.model(), "--packets", "3", "-w", out.to_str().unwrap()];
    for (args, code) in [(&args[..], 0), (&["inspect", "/nonexistent/capture"], 1)] {
        // A pipe that nobody reads any more: every write fails.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = command(args).stdout(Stdio::null()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "wiremamba {}", args.join(" "));
    }
    assert_eq!(traffic::read(&out).len(), 3);
}

#[test]
fn misuse_exits_with_2_and_says_what_is_wrong() {
    assert!(fail(2, &["train"]).contains("--out"));
    assert!(fail(2, &["generate", "--model", "x", "-w", "y", "--packets", "0"]).contains("--packets"));
    assert!(fail(2, &["generate", "--model", "x", "-w", "y"]).contains("--flows"));
    assert!(fail(2, &["replay", "--tap", "t", "--pcap", "a", "--model", "b"]).contains("--model"));
    assert!(fail(2, &["replay", "--tap", "t", "--pcap", "a", "--pps", "1", "--topspeed"]).contains("--topspeed"));
    assert!(fail(2, &["replay", "--pcap", "a", "-w", "b", "--packets", "3"]).contains("--packets"));
    assert!(fail(2, &["replay", "--pcap", "a", "--tap", "t", "--vlan", "3"]).contains("--vlan"));
    assert!(fail(2, &["replay", "--pcap", "a", "--tap", "t", "--server-tap", "t"]).contains("the same"));
    let said = fail(2, &["replay", "--pcap", "a"]);
    assert!(["--tap", "--interface", "--write"].iter().all(|target| said.contains(target)), "{said}");
    assert!(fail(2, &["train", "--data", "x", "--out", "y", "--codec", "bytes", "--keep", "0"]).contains("--keep"));
}

#[test]
fn a_length_or_share_that_makes_no_sense_is_misuse() {
    let train = ["train", "--data", "x", "--out", "/nonexistent/out"];
    let generate = ["generate", "--model", "x", "-w", "y", "--packets", "1"];
    let prompted = [&generate[..], &["--prompt", "z"]].concat();
    for (command, option, values) in [
        (&train[..], "--steps", &["0", "-1"][..]),
        (&train, "--epochs", &["0", "-3", "nan", "inf"]),
        (&train, "--minutes", &["nan", "-1", "0"]),
        (&train, "--checkpoint-minutes", &["nan", "-1"]),
        (&generate, "--top-p", &["2", "0", "nan"]),
        (&generate, "--streams", &["0"]),
        (&generate, "--temperature", &["nan", "-1"]),
        (&prompted, "--prompt-packets", &["0"]),
    ] {
        for value in values {
            let said = fail(2, &[command, &[option, value]].concat());
            assert!(said.contains(option), "{option} {value}: {said}");
        }
    }
}

#[test]
fn completions_are_scripts_that_the_shell_takes() {
    let script = succeed(&["completions", "bash"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wiremamba.bash");
    std::fs::write(&path, script).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&path).status().unwrap().success());
}

/// What a packet socket on the tap sees while `replay` runs with `args`, and the object that it prints last.
fn replay(args: &[&str], packets: usize) -> (Vec<Vec<u8>>, serde_json::Value) {
    let namespace = Namespace::new().unwrap();
    namespace.ip(&["tuntap", "add", "dev", "wmtap0", "mode", "tap"]).unwrap();
    // A tap that somebody brought up beforehand keeps its settings: be quiet before that.
    let quiet = namespace.command("sysctl").args(["-qw", "net.ipv6.conf.wmtap0.disable_ipv6=1"]).status();
    assert!(quiet.is_ok());
    namespace.ip(&["link", "set", "wmtap0", "up"]).unwrap();
    let program = wiremamba_tests::program::path();
    let (seen, stdout) = namespace.run(|| {
        let mut sniffer = Sniffer::open("wmtap0").unwrap();
        let child = Command::new(program)
            .args([&["replay", "--tap", "wmtap0", "--json", "-q"], args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = sniffer.take(packets, Duration::from_secs(20)).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        (seen, output.stdout)
    });
    let last = stdout.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).unwrap().to_vec();
    (seen, json(&last))
}

#[test]
fn replay_ends_with_a_json_object_and_a_model_replays_what_it_generates() {
    if let Some(what) = netns::missing() {
        eprintln!("skipped: {what}");
        return;
    }
    let trained = Trained::new();
    let file = trained.path("generated.pcap");
    let how = ["--packets", "40", "--seed", "9"];
    trained.generate(&file, &how);
    // Frames shorter than an Ethernet header are refused by the tap, and an untrained model makes some.
    let sendable = |p: &wiremamba_model::packet::Packet| p.data.len() >= 14 && p.len <= 1514;
    let expected: Vec<Vec<u8>> = traffic::read(&file).into_iter().filter(sendable).map(|p| p.data).collect();

    let (seen, counters) = replay(&["--pcap", file.to_str().unwrap(), "--topspeed"], expected.len());
    assert_eq!(seen, expected);
    assert_eq!(counters["sent"].as_u64().unwrap(), expected.len() as u64);
    assert_eq!(counters["refused"].as_u64().unwrap(), 40 - expected.len() as u64);
    for key in ["late", "duration_s"] {
        assert!(counters[key].is_number(), "{counters}");
    }
    let (seen, counters) = replay(&[&["--model", &trained.model(), "--topspeed"], &how[..]].concat(), expected.len());
    assert_eq!(seen, expected);
    assert_eq!(counters["sent"].as_u64().unwrap(), expected.len() as u64);
}
