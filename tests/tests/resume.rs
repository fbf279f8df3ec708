//! Promise: a run that is interrupted, or killed, goes on exactly where its last checkpoint stopped.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wiremamba_tests::program::{command, run, succeed};
use wiremamba_tests::traffic;

const STEPS: &str = "600";

fn arguments<'a>(data: &'a str, out: &'a str) -> Vec<&'a str> {
    let tiny = ["--preset", "tiny", "--batch", "2", "--seq-len", "64", "--no-baselines", "--quiet", "--json"];
    let mut args = vec!["train", "--data", data, "--out", out, "--steps", STEPS];
    args.extend(tiny);
    args
}

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("current/model.safetensors")).unwrap()
}

/// The steps that the curve in `out` tells of, in its order.
fn curve_steps(out: &Path) -> Vec<u64> {
    let curve = std::fs::read_to_string(out.join("curve.jsonl")).unwrap();
    let lines = curve.lines().map(|line| wiremamba_tests::program::json(line.as_bytes()));
    lines.filter(|l| l["held_out"].is_null()).map(|l| l["step"].as_u64().unwrap()).collect()
}

fn wait_for(child: &mut Child, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing happens");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn ctrl_c_leaves_a_checkpoint_and_resuming_gives_the_weights_of_an_uninterrupted_run() {
    let f32 = interrupted_and_resumed("f32");
    // The resumed run is not told the precision: it is that of the checkpoint. And it makes a difference.
    assert!(interrupted_and_resumed("bf16") != f32, "bf16 rounds");
}

/// The weights at the end.
fn interrupted_and_resumed(precision: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole, parts) = (dir.path().join("capture"), dir.path().join("whole"), dir.path().join("parts"));
    traffic::write_two_labels(&data, 20);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (data, whole_text, parts_text) = (text(&data), text(&whole), text(&parts));
    let begin = |out| [&arguments(&data, out)[..], &["--precision", precision]].concat();
    succeed(&begin(&whole_text));

    let mut child = command(&begin(&parts_text)).stdout(Stdio::piped()).spawn().unwrap();
    let curve = parts.join("curve.jsonl");
    wait_for(&mut child, || std::fs::read_to_string(&curve).is_ok_and(|c| c.lines().count() > 20));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "an interrupted run ends well: {}", output.status);
    let summary = wiremamba_tests::program::json(&output.stdout);
    assert_eq!(summary["interrupted"], true, "{summary}");
    assert!(summary["steps"].as_u64().unwrap() < 600, "{summary}");

    succeed(&[&arguments(&data, &parts_text)[..], &["--resume"]].concat());
    let whole = weights(&whole);
    assert!(weights(&parts) == whole, "{precision}: the same bits");
    whole
}

#[test]
fn kill_9_at_any_moment_leaves_a_whole_checkpoint_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole, out) = (dir.path().join("capture"), dir.path().join("whole"), dir.path().join("model"));
    traffic::write_two_labels(&data, 20);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (data, whole_text, out_text) = (text(&data), text(&whole), text(&out));
    let mut loaded = 0;
    for round in 0..12u64 {
        let mut args = arguments(&data, &out_text);
        // A checkpoint after every step: most kills land in one.
        args.extend(["--checkpoint-minutes", "0"]);
        if out.join("current").exists() {
            args.push("--resume");
        }
        let mut child = command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Moments that fall differently into the work of each round.
        std::thread::sleep(Duration::from_millis(40 + round * 37 % 190));
        let _ = child.kill();
        child.wait().unwrap();
        let inspected = run(&["inspect", &out_text, "--json"]);
        if out.join("current").symlink_metadata().is_ok() {
            assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
            loaded += 1;
        }
    }
    assert!(loaded > 0, "no round got as far as a checkpoint");
    succeed(&[&arguments(&data, &out_text)[..], &["--resume"]].concat());
    succeed(&arguments(&data, &whole_text));
    assert!(weights(&out) == weights(&whole), "the same bits as without a kill");
    assert!(curve_steps(&out).into_iter().eq(1..=600), "each step once: {:?}", curve_steps(&out));
    // What the killed runs left behind is gone after the next whole one.
    let leftovers: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".tmp"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}
