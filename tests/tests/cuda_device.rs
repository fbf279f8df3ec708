//! The program on a GPU, and without one: it starts either way, falls back only where it may, and says in one line what is missing.
//!
//! The driver is the emulated one of `tests/emulator`, which runs the same kernels on the CPU and can be told to be old, empty or without
//! a device. The tests need a build with the feature `cuda` and say so where it is not.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use wiremamba_tests::emulator::Emulator;
use wiremamba_tests::service::{self, Service};
use wiremamba_tests::{program, traffic};

/// The emulated driver with the product's kernels, unless this build has no use for it.
fn emulator() -> Option<Emulator> {
    let report = program::json(&program::succeed(&["devices", "--json"]));
    if report["no_gpu"].as_str().is_some_and(|why| why.contains("without the feature")) {
        eprintln!("skipped: this build has no CUDA (packaging/build-cuda.sh makes one)");
        return None;
    }
    Some(Emulator::build("product", "model/src/engine/cuda/kernels"))
}

/// Runs the program on the emulated driver, with settings of it: exit code, stdout, stderr.
fn run(emulator: &Emulator, settings: &[(&str, &str)], args: &[&str]) -> (i32, Vec<u8>, String) {
    let mut command: Command = emulator.command(program::path());
    command.args(args).envs(settings.iter().copied());
    let output = program::output_within(&mut command, Duration::from_secs(300));
    (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn devices(emulator: &Emulator, settings: &[(&str, &str)]) -> Value {
    let (code, stdout, stderr) = run(emulator, settings, &["devices", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    program::json(&stdout)
}

#[test]
fn what_is_missing_is_named_and_only_auto_falls_back() {
    let Some(emulator) = emulator() else { return };
    let usable = devices(&emulator, &[]);
    assert_eq!((&usable["auto"], &usable["devices"][1]["is_usable"]), (&"cuda:0".into(), &true.into()), "{usable}");

    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 8);
    let data = dir.path().to_str().unwrap();
    let out = dir.path().join("out");
    let train = |settings: &[(&str, &str)], device: &str| {
        let out = out.to_str().unwrap();
        let args = ["train", "--data", data, "--out", out, "--preset", "tiny", "--steps", "1", "--batch", "2"];
        run(&emulator, settings, &[&args[..], &["--seq-len", "16", "--no-baselines", "--device", device]].concat())
    };
    let cases = [
        (("EMULATED_CUDA_INIT_ERROR", "100"), "the NVIDIA driver sees no GPU"),
        (("EMULATED_CUDA_DRIVER_VERSION", "12040"), "the NVIDIA driver supports CUDA 12.4, this build needs 13.0"),
        (("EMULATED_CUDA_CAPABILITY", "7.5"), "has compute capability 7.5; the kernels need 8.0 or newer"),
    ];
    for (setting, why) in cases {
        let report = devices(&emulator, &[setting]).to_string();
        assert!(report.contains(why) && report.contains(r#""auto":"cpu""#), "{report}");
        let (code, _, stderr) = train(&[setting], "cuda:0");
        assert!(code == 1 && stderr.contains("cuda:0 was asked for, but") && stderr.contains(why), "{code} {stderr}");
        let (code, _, stderr) = train(&[setting], "auto");
        let fell_back = stderr.lines().filter(|l| l.contains("cpu (auto: ") && l.contains(why)).count();
        assert!(code == 0 && fell_back == 1, "{code} {stderr}");
    }
    let (code, _, stderr) = train(&[], "cuda:5");
    assert!(code == 1 && stderr.contains("the driver has 1 GPU(s), numbered from 0"), "{stderr}");
}

#[test]
fn a_model_is_trained_resumed_and_generates_on_the_device() {
    let Some(emulator) = emulator() else { return };
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 12);
    let data = dir.path().to_str().unwrap();
    let train = |out: &Path, device: &str, steps: &str, more: &[&str]| {
        let out = out.to_str().unwrap();
        let args = ["train", "--data", data, "--out", out, "--preset", "tiny", "--steps", steps, "--batch", "2"];
        let more = [&["--seq-len", "24", "--no-baselines", "--precision", "f32", "--device", device, "--json"], more];
        let (code, stdout, stderr) = run(&emulator, &[], &[&args[..], &more.concat()].concat());
        assert_eq!(code, 0, "{stderr}");
        program::json(&stdout)
    };
    let (gpu, cpu) = (dir.path().join("gpu"), dir.path().join("cpu"));
    let bits = |report: &Value| report["held_out"]["bits_per_token"].as_f64().unwrap();
    let (on_gpu, on_cpu) = (train(&gpu, "cuda:0", "4", &[]), train(&cpu, "cpu", "4", &[]));
    // Four steps of f32: rounding apart, the same run.
    assert!((bits(&on_gpu) - bits(&on_cpu)).abs() < 0.01 * bits(&on_cpu), "{on_gpu} {on_cpu}");
    let resumed = train(&gpu, "cuda:0", "4", &["--resume"]);
    assert_eq!(resumed["steps"], 4);

    let capture = |name: &str| {
        let path = dir.path().join(name);
        let (model, to) = (gpu.to_str().unwrap(), path.to_str().unwrap());
        let args = ["generate", "--model", model, "--device", "cuda:0", "--precision", "f32", "--flows", "6"];
        let (code, _, stderr) = run(&emulator, &[], &[&args[..], &["--flow-packets-max", "6", "-w", to]].concat());
        assert_eq!(code, 0, "{stderr}");
        traffic::read(&path)
    };
    let (first, second) = (capture("first.pcap"), capture("second.pcap"));
    assert!(!first.is_empty());
    assert_eq!(first, second, "the same seed on the same device");
}

/// What is in a checkpoint: names, versions and contents.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let current = dir.join("current").canonicalize().unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&current)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_device_that_fails_while_it_works_ends_the_job_with_advice_and_leaves_the_checkpoint() {
    let Some(emulator) = emulator() else { return };
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 8);
    let (data, out) = (dir.path().to_str().unwrap(), dir.path().join("out"));
    let args = ["train", "--data", data, "--out", out.to_str().unwrap(), "--preset", "tiny", "--batch", "2"];
    let args = [&args[..], &["--seq-len", "16", "--no-baselines", "--device", "cuda:0", "--steps"]].concat();
    let train = |settings: &[(&str, &str)], more: &[&str]| run(&emulator, settings, &[&args[..], more].concat());
    let failed = |(code, _, stderr): (i32, Vec<u8>, String)| {
        assert!(code == 1 && stderr.contains("failed on the GPU: "), "{code} {stderr}");
        assert!(stderr.contains("train --resume") && !stderr.contains("panicked"), "{stderr}");
    };

    let (code, _, stderr) = train(&[], &["2"]);
    assert_eq!(code, 0, "{stderr}");
    let kept = contents(&out);
    // In the first step, and in the second, which is recorded, and in what measures the held-out flows at the end.
    for launch in ["1", "30", "150", "240"] {
        failed(train(&[("EMULATED_CUDA_FAIL_LAUNCH", launch)], &["8"]));
        assert_eq!(contents(&out), kept, "nothing of a device that failed was saved");
    }
    let capture = dir.path().join("out.pcap");
    let generate = ["generate", "--model", out.to_str().unwrap(), "--device", "cuda:0", "--flows", "4", "-w"];
    let generate = [&generate[..], &[capture.to_str().unwrap()]].concat();
    failed(run(&emulator, &[("EMULATED_CUDA_FAIL_LAUNCH", "60")], &generate));

    let (code, _, stderr) = train(&[("EMULATED_CUDA_MEMORY", "34000000")], &["5"]);
    assert!(code == 1 && stderr.contains("MiB of memory left"), "{code} {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("nvidia-smi"), "it is not the device's fault: {stderr}");
}

#[test]
fn the_service_learns_and_replays_on_the_device_and_ends_with_it() {
    let (Some(emulator), Some(namespace)) = (emulator(), service::namespace()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let wanted =
        "[replay]\ntap = 'wm-out0'\nflows_per_second = 50\nflow_packets_max = 6\nstreams = 4\nprecision = 'f32'\n";
    let config = service::configure(dir.path(), wanted);
    let start = |settings: &[(&str, &str)]| {
        let mut command = namespace.command(program::path().to_str().unwrap());
        emulator.is_found_by(&mut command);
        Service::spawn(command.args(["run", "--config", &config, "--json"]).envs(settings.iter().copied()))
    };
    let sent = |status: &Value| status["replay"]["sent"].as_u64().unwrap();

    let mut running = start(&[]);
    let first = running.until("it replays", |s| sent(s) > 0);
    assert_eq!(first["replay"]["device"], "cuda:0");
    // A round of learning on the device, beside it.
    service::replay(&namespace, &dir.path().join("captures/web/web.pcap"), 1);
    let newer = |s: &Value| s["promoted"].as_u64().unwrap() > 0 && s["replay"]["model"] == s["model"];
    let promoted = running.until("new flows come from what was learned", newer);
    assert_ne!(first["replay"]["model"], promoted["replay"]["model"]);
    running.until("it goes on", |s| sent(s) > sent(&promoted));
    drop(running);

    // A device that failed is of no more use to the process: whoever started it starts another.
    let mut running = start(&[("EMULATED_CUDA_FAIL_LAUNCH", "2000")]);
    let failed = running.remaining();
    assert_eq!(failed.last().map(|s| &s["replay"]["failed"]), Some(&1.into()), "{failed:?}");
    assert_eq!(running.child.wait().unwrap().code(), Some(1));

    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("precision = 'f32'", "device = 'cuda:7'")).unwrap();
    let mut command = namespace.command(program::path().to_str().unwrap());
    emulator.is_found_by(&mut command);
    let refused = program::output_within(command.args(["run", "--config", &config]), Duration::from_secs(60));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && stderr.contains("cuda:7 was asked for, but the driver has 1 GPU(s)"),
        "{stderr}"
    );
}

#[test]
fn bench_on_a_gpu_prints_what_it_prints_on_the_cpu_and_the_limits_of_the_gpu() {
    let Some(emulator) = emulator() else { return };
    let keys = |report: &Value| report.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for work in [
        &["train", "--batch", "2", "--seq-len", "24", "--steps", "2", "--precision", "bf16"][..],
        &["train", "--batch", "1", "--seq-len", "24", "--steps", "1", "--precision", "f32"][..],
        &["decode", "--streams", "2", "--steps", "3"][..],
        &["decode", "--streams", "9", "--steps", "3", "--precision", "f32"][..],
    ] {
        let on = |device: &str| {
            let args = [&["bench"], work, &["--preset", "tiny", "--vocab-size", "70", "--json", "--device", device]];
            // Little memory, so that the copies that are measured are small.
            let (code, stdout, stderr) = run(&emulator, &[("EMULATED_CUDA_MEMORY", "400000000")], &args.concat());
            assert_eq!(code, 0, "{stderr}");
            program::json(&stdout)
        };
        let (gpu, cpu) = (on("cuda:0"), on("cpu"));
        assert_eq!(keys(&gpu), keys(&cpu));
        assert_eq!((&gpu["device"], &gpu["isa"], &cpu["device"]), (&"cuda:0".into(), &"sm_90".into(), &"cpu".into()));
        assert_eq!(gpu["precision"], if work.contains(&"f32") { "f32" } else { "bf16" }, "{gpu}");
        assert!(cpu["gpu"].is_null(), "{cpu}");
        let limits = gpu["gpu"].as_object().unwrap();
        for key in ["copy_gb_per_s", "gemm_f32_gflop_per_s", "gemm_bf16_gflop_per_s", "peak_bytes"] {
            assert!(limits[key].as_f64().unwrap() > 0.0, "{gpu}");
        }
        let number = |key: &str| gpu[key].as_f64().unwrap();
        let share = number("tokens_per_s") / number("bound_tokens_per_s");
        assert!((number("share_of_bound") - share).abs() < 1e-9 && number("tokens_per_s") > 0.0, "{gpu}");
        // Parameters, and for training gradients and two moments, are in f32 there at least.
        let copies = if work[0] == "train" { 4.0 } else { 1.0 };
        assert!(limits["peak_bytes"].as_f64().unwrap() > 4.0 * copies * number("parameters"), "{gpu}");
    }
}

#[test]
fn more_rows_than_a_grid_has_are_refused_with_the_limit() {
    let Some(emulator) = emulator() else { return };
    let args = ["bench", "train", "--preset", "tiny", "--device", "cuda:0", "--seq-len", "1", "--steps", "1"];
    let (code, _, stderr) = run(&emulator, &[], &[&args[..], &["--layers", "1", "--batch", "65536"]].concat());
    assert!(code == 1 && stderr.contains("65536 rows") && stderr.contains("(65535)"), "{code} {stderr}");
}
