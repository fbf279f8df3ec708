//! Several processes learn what one learns: by MPI on the CPU, by NCCL on (emulated) GPUs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use wiremamba_tests::emulator::Emulator;
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

fn same_curves(one: &Path, two: &Path, steps: usize) {
    let (alone, together) = (losses(one), losses(two));
    assert_eq!((alone.len(), together.len()), (steps, steps), "one of them writes the curve");
    for (step, (a, b)) in alone.iter().zip(&together).enumerate() {
        // f32 sums of halves instead of the whole, then AdamW, whose first steps magnify them.
        assert!((a - b).abs() < 1e-3 * a, "step {step}: {a} alone, {b} together");
    }
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

    same_curves(&one, &two, 12);
    // What two have saved, one can carry on.
    train(&[], &data, &two, &["--steps", "12", "--resume"]);
}

/// Processes of the program on emulated GPUs, one each, started as torchrun would; what each said and ended with.
fn on_gpus(
    emulator: &Emulator,
    processes: usize,
    args: &[&str],
    settings: &[(&str, &str)],
) -> Vec<(Option<i32>, String)> {
    // A free port, for as long as nobody else asks for one.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let children: Vec<_> = (0..processes)
        .map(|rank| {
            let mut command = emulator.command(program::path());
            command.args(args).env("EMULATED_CUDA_DEVICES", "2").envs(settings.iter().copied());
            if processes > 1 {
                command.args(["--parallel", "nccl"]).env("MASTER_ADDR", "127.0.0.1");
                command.env("MASTER_PORT", port.to_string()).env("WORLD_SIZE", processes.to_string());
                command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
            }
            std::thread::spawn(move || program::output_within(&mut command, Duration::from_secs(300)))
        })
        .collect();
    let outputs = children.into_iter().map(|child| child.join().unwrap());
    outputs.map(|o| (o.status.code(), String::from_utf8_lossy(&o.stderr).into_owned())).collect()
}

#[test]
fn two_gpus_learn_what_one_learns_from_the_same_batches() {
    let report = program::json(&program::succeed(&["devices", "--json"]));
    if report["no_gpu"].as_str().is_some_and(|why| why.contains("without the feature")) {
        eprintln!("skipped: this build has no CUDA (packaging/build-cuda.sh makes one)");
        return;
    }
    let emulator = Emulator::build("product", "model/src/engine/cuda/kernels");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    traffic::write_two_labels(&data, 12);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let args = |out: &Path, more: &[&str]| {
        let words = ["train", "--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--preset", "tiny"];
        let shape = ["--batch", "4", "--seq-len", "24", "--no-baselines", "--precision", "f32", "--steps", "6"];
        [&words[..], &shape, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let train = |processes: usize, args: Vec<String>, settings: &[(&str, &str)]| {
        on_gpus(&emulator, processes, &args.iter().map(String::as_str).collect::<Vec<_>>(), settings)
    };
    for (code, stderr) in train(1, args(&one, &["--device", "cuda:0"]), &[]) {
        assert_eq!(code, Some(0), "{stderr}");
    }
    for (rank, (code, stderr)) in train(2, args(&two, &[]), &[]).into_iter().enumerate() {
        assert!(code == Some(0) && stderr.contains("joining by NCCL"), "{rank}: {stderr}");
        assert!(stderr.contains(&format!("cuda:{rank}")), "each has its own: {stderr}");
    }
    same_curves(&one, &two, 6);
    // What two have saved, one can carry on; on the CPU as well.
    let (code, stderr) = train(1, args(&two, &["--resume", "--device", "cpu"]), &[]).remove(0);
    assert_eq!(code, Some(0), "{stderr}");
    // Who asks for it on the CPU, or alone without a launcher, is told what it needs.
    let outcomes = train(2, args(&dir.path().join("cpu"), &["--device", "cpu"]), &[]);
    assert!(outcomes.iter().all(|(code, said)| *code == Some(2) && said.contains("--parallel mpi")), "{outcomes:?}");
}
