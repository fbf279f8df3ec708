//! The built `wiremamba`, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Where cargo put the program: two folders above this test's executable.
pub fn path() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own executable");
    let program = exe.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join("wiremamba");
    assert!(program.exists(), "{} is not built; run: cargo build --workspace (in the same profile)", program.display());
    program
}

/// A command that runs the program with nothing on standard input.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(args).stdin(Stdio::null()).env_remove("WIREMAMBA_LOG");
    command
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Output {
    let output = command(args).output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "wiremamba {} panicked: {stderr}", args.join(" "));
    output
}

/// Runs the program, which has to succeed, and gives back what it printed.
pub fn succeed(args: &[&str]) -> Vec<u8> {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "wiremamba {}: {}: {stderr}", args.join(" "), output.status);
    output.stdout
}

/// Runs the program, which has to fail with exit code `code`, and gives back what it said.
pub fn fail(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "wiremamba {}: {stderr}", args.join(" "));
    assert!(!stderr.trim().is_empty(), "wiremamba {} failed without a word", args.join(" "));
    stderr
}

/// The one JSON object that `stdout` is.
pub fn json(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(stdout)))
}

/// Trains the preset `tiny` for `steps` steps on the captures in `data`.
pub fn train_tiny(data: &Path, out: &Path, steps: u64) {
    let steps = steps.to_string();
    let (data, out) = (data.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let tiny = ["--preset", "tiny", "--batch", "2", "--seq-len", "64", "--no-baselines"];
    succeed(&[&["train", "--data", data, "--out", out, "--steps", &steps, "--quiet", "--json"], &tiny[..]].concat());
}
