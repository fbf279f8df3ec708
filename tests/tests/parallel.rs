//! Several processes under MPI learn what one learns.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use wiremamba_tests::{program, traffic};

/// The losses of a run's steps, from its curve.
fn losses(out: &Path) -> Vec<f64> {
    let curve = std::fs::read_to_string(out.join("curve.jsonl")).unwrap();
    let lines = curve.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter_map(|l| l["nats_per_token"].as_f64()).collect()
}

fn train(launcher: &[&str], data: &Path, out: &Path, more: &[&str]) -> String {
    let mut command = match launcher {
        [] => Command::new(program::path()),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program::path());
            command
        }
    };
    command.args(["train", "--data"]).arg(data).arg("--out").arg(out).args(more);
    command.args(["--preset", "tiny", "--batch", "4", "--seq-len", "32", "--no-baselines", "--precision", "f32"]);
    let output = program::output_within(&mut command, Duration::from_secs(300));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    stderr
}

#[test]
fn two_processes_learn_what_one_learns_from_the_same_batches() {
    if Command::new("mpirun").arg("--version").output().is_err() {
        eprintln!("skipped: there is no mpirun (Debian: openmpi-bin)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    traffic::write_two_labels(&data, 24);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    train(&[], &data, &one, &["--steps", "12"]);
    // As root, and on fewer cores than processes, Open MPI wants to be told that it is meant.
    let mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"];
    let said = train(&mpirun, &data, &two, &["--steps", "12", "--parallel", "mpi"]);
    assert_eq!(said.matches("processes=2").count(), 2, "both joined: {said}");

    let (alone, together) = (losses(&one), losses(&two));
    assert_eq!((alone.len(), together.len()), (12, 12), "one of them writes the curve");
    for (step, (a, b)) in alone.iter().zip(&together).enumerate() {
        // f32 sums of halves instead of the whole, then AdamW, whose first steps magnify them.
        assert!((a - b).abs() < 1e-3 * a, "step {step}: {a} alone, {b} together");
    }
    // What two have saved, one can carry on.
    train(&[], &data, &two, &["--steps", "12", "--resume"]);
}
