//! Promise: `libwiremamba.so` takes whatever a C host does to it: checked by the compiler's sanitizers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wiremamba_tests::program::{self, output_within, train_tiny};
use wiremamba_tests::traffic;

/// It takes two minutes on two cores that do nothing else.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The host, compiled with `flags`; `None` with a line where there is no compiler.
fn torture(dir: &Path, flags: &[&str]) -> Option<PathBuf> {
    let here = env!("CARGO_MANIFEST_DIR");
    let host = dir.join("torture");
    let output = Command::new("cc")
        .args(["-std=c99", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-D_POSIX_C_SOURCE=200809L"])
        .args(flags)
        .args([format!("-I{here}/../plugin/include"), format!("{here}/tests/plugin/torture.c"), "-o".to_owned()])
        .arg(&host)
        .args(["-ldl", "-pthread"])
        .output();
    match output {
        Ok(output) if output.status.success() => Some(host),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("skipped: no C compiler");
            None
        }
    }
}

/// The library, and a configuration of a small model.
fn source(dir: &Path) -> (PathBuf, String) {
    traffic::write_two_labels(&dir.join("captures"), 20);
    let model = dir.join("model");
    train_tiny(&dir.join("captures"), &model, 12);
    let library = program::path().with_file_name("libwiremamba.so");
    (library, format!("model={},label=web,seed=3,streams=64,flows_per_second=1000", model.display()))
}

fn check(command: &mut Command) {
    let output = output_within(command, PATIENCE);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{:?}: {said}", output.status);
    eprintln!("{said}");
}

#[test]
fn a_hundred_thousand_packets_and_a_hundred_opens_are_clean_to_the_sanitizers() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let Some(host) = torture(dir.path(), &flags) else { return };
    let (library, config) = source(dir.path());
    // An interrupted call takes a step of the small model, some milliseconds; the rest is for a busy machine.
    check(Command::new(host).arg(library).arg(config).args(["100000", "100", "1000", "200"]));
}

/// Far fewer packets: valgrind runs one thread at a time, some fifty times slower than the machine.
#[test]
fn valgrind_finds_neither_leaks_nor_errors() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: no valgrind");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(host) = torture(dir.path(), &[]) else { return };
    let (library, config) = source(dir.path());
    let mut command = Command::new("valgrind");
    command.args(["-q", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect", "--error-exitcode=9"]);
    command.args(["--fair-sched=yes"]).env("RAYON_NUM_THREADS", "1").arg(host).arg(library);
    check(command.arg(config.replace("streams=64", "streams=2,flow_packets_max=6")).args(["12", "1", "60000", "6"]));
}
