//! The built `wiremamba`, run as a user runs it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where cargo put the program: two folders above this test's executable.
pub fn path() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own executable");
    let program = exe.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join("wiremamba");
    assert!(program.exists(), "{} is not built; run: cargo build --workspace (in the same profile)", program.display());
    program
}

/// How long a program of a test may take. The longest takes seconds; a busy machine is slower by a factor of tens.
pub const TIME_MAX: Duration = Duration::from_secs(600);

/// A command that runs the program with nothing on standard input.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(args).stdin(Stdio::null()).env_remove("WIREMAMBA_LOG");
    command
}

/// Runs `command` to its end and gives back what it printed; after `time_max` it is killed and the test fails.
pub fn output_within(command: &mut Command, time_max: Duration) -> Output {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    // Read meanwhile: a full pipe would stop the program.
    let stdout = read_all(child.stdout.take().expect("piped above"));
    let stderr = read_all(child.stderr.take().expect("piped above"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if started.elapsed() > time_max {
            // It may end by itself just now, which is too late all the same.
            let _ = child.kill();
            let _ = child.wait();
            panic!("killed after {time_max:?}: {command:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let read = |reader: thread::JoinHandle<Vec<u8>>| reader.join().expect("reading does not panic");
    Output { status, stdout: read(stdout), stderr: read(stderr) }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs the program to its end, for [`TIME_MAX`] at most.
pub fn run(args: &[&str]) -> Output {
    let output = output_within(&mut command(args), TIME_MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "\"sleep\" \"60\"")]
    fn a_program_that_does_not_end_is_killed_and_named() {
        output_within(Command::new("sleep").arg("60"), Duration::from_millis(50));
    }

    #[test]
    fn what_a_program_prints_is_read_though_it_is_more_than_a_pipe_holds() {
        // A pipe holds 64 KiB: pipe(7).
        let output = output_within(Command::new("head").args(["-c", "300000", "/dev/zero"]), TIME_MAX);
        assert!(output.status.success());
        assert_eq!(output.stdout.len(), 300_000);
    }
}
