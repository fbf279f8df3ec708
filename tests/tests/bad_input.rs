//! Promise: bad input gets a clear error or is counted; nothing is lost and nothing panics.

use std::path::{Path, PathBuf};
use std::process::Command;

use wiremamba_tests::program::{fail, json, run, succeed, train_tiny};
use wiremamba_tests::traffic;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn train_args<'a>(data: &'a str, out: &'a str) -> Vec<&'a str> {
    let tiny = ["--preset", "tiny", "--batch", "2", "--seq-len", "64", "--quiet"];
    let mut args = vec!["train", "--data", data, "--out", out, "--steps", "2"];
    args.extend(tiny);
    args
}

#[test]
fn every_malformed_capture_is_trained_on_or_refused_in_words() {
    let Some(real) = traffic::real() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(real.join("malformed")).unwrap() {
        let path = entry.unwrap().path();
        let out = dir.path().join(path.file_stem().unwrap());
        for args in [train_args(text(&path), text(&out)), vec!["inspect", text(&path), "--quiet"]] {
            let output = run(&args);
            let stderr = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => {}
                Some(1) => assert!(!stderr.trim().is_empty(), "{}: no word", path.display()),
                code => panic!("{}: {code:?}: {stderr}", path.display()),
            }
        }
        files += 1;
    }
    assert!(files > 10, "{files}");
}

#[test]
fn what_is_no_capture_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let make = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    traffic::write_two_labels(&dir.path().join("capture"), 4);
    let whole = std::fs::read(dir.path().join("capture/dns/dns.pcap")).unwrap();
    let empty = make("empty.pcap", b"");
    let words = make("words.pcap", b"these are words and no packets at all");
    std::fs::create_dir(dir.path().join("nothing")).unwrap();
    for path in [empty, words, dir.path().join("missing.pcap"), dir.path().join("nothing")] {
        let error = fail(1, &train_args(text(&path), text(&out)));
        assert!(error.contains(text(&path)), "{error}");
        fail(1, &["inspect", text(&path)]);
        fail(1, &["replay", "--tap", "wmnone0", "--pcap", text(&path)]);
    }
    // A capture that is cut keeps what came before the cut, and says so, whatever is done with it.
    let cut = make("cut.pcap", &whole[..whole.len() - 7]);
    let output = run(&["inspect", text(&cut)]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("31 packets") && said.contains("cut in the middle of packet 32"), "{said}");
    let replayed = run(&["replay", "--pcap", text(&cut), "--topspeed", "-w", "/dev/null"]);
    assert!(String::from_utf8_lossy(&replayed.stderr).contains("cut in the middle of packet 32"));
    succeed(&train_args(text(&cut), text(&out)));
    // Learning that goes astray leaves no model behind.
    let astray = dir.path().join("astray");
    let far = ["--learning-rate", "1e30", "--held-out", "0.3"];
    let said = fail(1, &[&train_args(text(&cut), text(&astray))[..], &far].concat());
    assert!(said.contains("--learning-rate") && !astray.join("current").exists(), "{said}");
}

#[test]
fn a_flipped_byte_in_any_file_of_a_checkpoint_is_found() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("capture"), 4);
    let model = dir.path().join("model");
    train_tiny(&dir.path().join("capture"), &model, 2);
    let version = model.join("current").canonicalize().unwrap();
    for entry in std::fs::read_dir(&version).unwrap() {
        let path = entry.unwrap().path();
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let out = dir.path().join("out.pcap");
        let error = fail(1, &["generate", "--model", text(&model), "--packets", "1", "-w", text(&out)]);
        assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{}: {error}", path.display());
        assert!(!out.exists());
        std::fs::write(&path, good).unwrap();
    }
    succeed(&["inspect", text(&model)]);
    let error = fail(2, &["inspect", text(&model), text(&version)]);
    assert!(error.contains("inspect it alone") && error.contains("--model"), "{error}");
}

#[test]
fn a_truth_that_is_none_is_refused_with_what_writes_one() {
    let dir = tempfile::tempdir().unwrap();
    let truth = dir.path().join("truth.jsonl");
    std::fs::write(&truth, "proto,src,dst\n").unwrap();
    let error = fail(1, &["score", "--truth", text(&truth), "--eve", text(&truth)]);
    assert!(error.contains("line 1") && error.contains("replay --ground-truth"), "{error}");
}

#[test]
fn a_device_that_is_asked_for_by_name_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(dir.path(), 2);
    let out = dir.path().join("out");
    let args = [&train_args(text(dir.path()), text(&out))[..], &["--device", "cuda:0"]].concat();
    assert!(fail(1, &args).contains("cuda:0"));
}

#[test]
fn a_curve_that_cannot_be_written_costs_one_warning_and_no_training() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("capture"), 4);
    let out = dir.path().join("model");
    std::fs::create_dir(&out).unwrap();
    // Every write to it finds the disk full: null(4).
    std::os::unix::fs::symlink("/dev/full", out.join("curve.jsonl")).unwrap();
    let output = run(&train_args(text(&dir.path().join("capture")), text(&out)));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let curve = out.join("curve.jsonl");
    assert_eq!(said.matches("cannot write the curve").count(), 1, "{said}");
    assert!(said.contains(text(&curve)) && said.contains("No space left"), "{said}");
    succeed(&["inspect", text(&out)]);
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs", text(&at)]).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(at)),
            _ => {
                eprintln!("skipped: cannot mount a tmpfs here");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up_costs_the_new_checkpoint_and_not_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("capture"), 20);
    let data = dir.path().join("capture");
    // A checkpoint of `tiny` has about 2.5 MB; two are kept, and a third is there while it is written.
    let Some(disk) = SmallDisk::mount(dir.path().join("disk"), "12m") else { return };
    let out = disk.0.join("model");
    train_tiny(&data, &out, 5);
    let ballast = disk.0.join("ballast");
    let _ = std::fs::write(&ballast, vec![1u8; 12 << 20]);

    let more = ["train", "--data", text(&data), "--out", text(&out), "--steps", "5", "--preset", "tiny", "--quiet"];
    let error = fail(1, &[&more[..], &["--batch", "2", "--seq-len", "64"]].concat());
    assert!(error.contains(text(&out)) && error.contains("No space left"), "{error}");
    succeed(&["inspect", text(&out)]);
    let names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_str().unwrap().contains(".tmp")), "{names:?}");

    let again = [&more[..], &["--batch", "2", "--seq-len", "64"]].concat();
    // The old checkpoint is not only readable: the run that made it can be taken up.
    std::fs::remove_file(&ballast).unwrap();
    let resumed = json(&succeed(&[&again[..], &["--resume", "--json"]].concat()));
    assert_eq!(resumed["steps"], 5, "{resumed}");
    succeed(&again);
}
