//! Running other people's programs: found by name, without the user's settings, read line by line, killed in time.
//!
//! A program gets no shell, no standard input and a bare environment. It runs in a process group of its own, so that
//! its children go with it when it is killed.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Longest line that is looked at; the rest is dropped. Suricata's `stats` are the longest, some 50,000 bytes.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Lines that wait for the reader.
const LINES_MAX: usize = 64;
/// What is kept of the end of standard error, for the reason of a failure.
const STDERR_BYTES_MAX: usize = 2048;
/// How often the end of a program that closed its output is looked for.
const EXIT_POLL: Duration = Duration::from_millis(2);

/// A program, and where it comes from.
pub(super) struct Known {
    pub(super) program: &'static str,
    /// In Debian.
    pub(super) package: &'static str,
    /// How to get it, for people.
    pub(super) hint: &'static str,
    /// Makes it print its version.
    pub(super) version_option: &'static str,
}

/// Why a program gave no judgement.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("cannot run {program}: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("killed at the limit of {seconds} s for this program")]
    Limit { seconds: u64 },
    #[error("{status}: {stderr}")]
    Exit { status: ExitStatus, stderr: String },
    #[error("cannot read what it wrote: {0}")]
    Output(#[from] std::io::Error),
}

/// A program that is installed, and the time it has left.
pub(super) struct Runner {
    program: PathBuf,
    search: OsString,
    limit: Duration,
    deadline: Instant,
}

impl Runner {
    /// Looks for `program` in the folders of `search`; its time runs from now.
    pub(super) fn find(program: &str, search: &OsStr, limit: Duration) -> Option<Self> {
        let is_program = |path: &PathBuf| {
            path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        };
        let found = std::env::split_paths(search).map(|folder| folder.join(program)).find(is_program)?;
        // It runs in another folder than this one.
        let program = std::path::absolute(found).ok()?;
        Some(Self { program, search: search.to_owned(), limit, deadline: Instant::now() + limit })
    }

    /// The program with nothing but a folder to live in, to which arguments can be added.
    pub(super) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", &self.search).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir(folder);
        for name in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR"] {
            command.env(name, folder);
        }
        command
    }

    /// Runs the program to its end, and gives each line of its standard output to `on_line`.
    ///
    /// # Errors
    /// What came before an error was given to `on_line`.
    pub(super) fn run(&self, command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<(), RunError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let started = command.spawn();
        let mut running =
            Running(started.map_err(|source| RunError::Start { program: self.program.display().to_string(), source })?);
        let lines = lines_of(running.0.stdout.take().expect("it was piped"));
        let stderr = tail_of(running.0.stderr.take().expect("it was piped"));
        loop {
            match lines.recv_timeout(self.left()) {
                // Lines that wait are given without a look at the time.
                Ok(_) if self.left().is_zero() => return Err(self.limit_passed()),
                Ok(line) => on_line(&line?),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(self.limit_passed()),
            }
        }
        let status = loop {
            match running.0.try_wait()? {
                Some(status) => break status,
                None if self.left().is_zero() => return Err(self.limit_passed()),
                None => std::thread::sleep(EXIT_POLL),
            }
        };
        if status.success() {
            return Ok(());
        }
        let mut stderr = stderr.recv_timeout(self.left()).unwrap_or_default();
        if stderr.is_empty() {
            stderr.push_str("no reason given");
        }
        Err(RunError::Exit { status, stderr })
    }

    /// The first line that the program prints about itself; what is known of it otherwise.
    pub(super) fn version(&self, option: &str) -> String {
        let mut version = None;
        if let Ok(folder) = tempfile::tempdir() {
            // Some exit with an error after that.
            let _ = self.run(self.command(folder.path()).arg(option), |line| {
                if version.is_none() && line.contains(|c: char| c.is_ascii_digit()) {
                    version = Some(line.trim().to_owned());
                }
            });
        }
        version.unwrap_or_else(|| format!("{}, which tells no version", self.program.display()))
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn limit_passed(&self) -> RunError {
        RunError::Limit { seconds: self.limit.as_secs() }
    }
}

/// Gives each line of a file that a program wrote to `on_line`.
pub(super) fn each_line(path: &Path, mut on_line: impl FnMut(&str)) -> Result<(), RunError> {
    let mut reader = BufReader::new(std::fs::File::open(path)?);
    let mut line = Vec::new();
    while read_line(&mut reader, &mut line)? {
        on_line(&String::from_utf8_lossy(&line));
    }
    Ok(())
}

/// A program that does not outlive this, nor do its children.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Reaped already where it ended by itself: its number is no longer its own then.
        if let Ok(None) = self.0.try_wait() {
            // Fails only where the last process of the group ended in between.
            let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// Lines as they come; the channel closes at the end.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<std::io::Result<String>> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut reader = BufReader::with_capacity(1 << 16, output);
        let mut line = Vec::new();
        loop {
            let next = match read_line(&mut reader, &mut line) {
                Ok(false) => break,
                Ok(true) => Ok(String::from_utf8_lossy(&line).into_owned()),
                Err(error) => Err(error),
            };
            let is_last = next.is_err();
            if sender.send(next).is_err() || is_last {
                break;
            }
        }
    });
    receiver
}

/// The last lines of an output, as one, when it has ended.
fn tail_of(mut output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut tail = Vec::new();
        let mut chunk = [0; 1024];
        while let Ok(read @ 1..) = output.read(&mut chunk) {
            tail.extend_from_slice(&chunk[..read]);
            tail.drain(..tail.len().saturating_sub(STDERR_BYTES_MAX));
        }
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // Nobody listens to a program that did well.
        let _ = sender.send(lines.join("; "));
    });
    receiver
}

/// Reads one line without its end into `line`, as far as [`LINE_BYTES_MAX`]; `false` where there is none.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|&b| b == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(LINE_BYTES_MAX - line.len())]);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(program: &str, limit: Duration) -> Runner {
        let search = std::env::var_os("PATH").expect("the tests have a PATH");
        Runner::find(program, &search, limit).expect("every Linux has it")
    }

    fn lines(runner: &Runner, arguments: &[&str]) -> (Vec<String>, Result<(), RunError>) {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Vec::new();
        let ran = runner.run(runner.command(folder.path()).args(arguments), |line| lines.push(line.to_owned()));
        (lines, ran)
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_limit_with_its_children() {
        let (before, limit) = (Instant::now(), Duration::from_millis(300));
        let (_, ran) = lines(&runner("sleep", limit), &["600"]);
        assert!(matches!(ran, Err(RunError::Limit { .. })), "{ran:?}");
        assert!(before.elapsed() < Duration::from_secs(30));

        // The child holds the output open; its number is the first line.
        let (printed, ran) = lines(&runner("sh", Duration::from_secs(3)), &["-c", "sleep 600 & echo $!; wait"]);
        assert!(matches!(ran, Err(RunError::Limit { .. })), "{ran:?}");
        let status = PathBuf::from(format!("/proc/{}/stat", printed[0]));
        let is_gone = || std::fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() && before.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(EXIT_POLL);
        }
        assert!(is_gone());
    }

    #[test]
    fn a_program_that_closes_its_output_and_stays_is_killed_too() {
        let (_, ran) = lines(&runner("sh", Duration::from_millis(300)), &["-c", "exec >&- 2>&-; sleep 600"]);
        assert!(matches!(ran, Err(RunError::Limit { .. })), "{ran:?}");
    }

    #[test]
    fn a_program_that_never_stops_printing_is_killed_too() {
        let (_, ran) = lines(&runner("yes", Duration::from_millis(100)), &[]);
        assert!(matches!(ran, Err(RunError::Limit { .. })), "{ran:?}");
    }

    #[test]
    fn a_failure_gives_what_was_printed_before_and_the_reason() {
        let (printed, ran) = lines(&runner("sh", Duration::from_secs(30)), &["-c", "echo a; echo b >&2; exit 3"]);
        assert_eq!(printed, ["a"]);
        assert_eq!(ran.unwrap_err().to_string(), "exit status: 3: b");
    }

    #[test]
    fn nothing_of_the_environment_but_the_search_path_gets_through() {
        let (printed, ran) = lines(&runner("env", Duration::from_secs(30)), &[]);
        ran.unwrap();
        let mut names: Vec<&str> = printed.iter().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH", "TMPDIR", "TZ", "WIRESHARK_CONFIG_DIR", "XDG_CONFIG_HOME"]);
    }

    #[test]
    fn lines_without_end_take_bounded_memory() {
        let mut reader = BufReader::new(std::io::repeat(b'a').take(3 << 20).chain(&b"\n\nb"[..]));
        let mut line = Vec::new();
        let mut lengths = Vec::new();
        while read_line(&mut reader, &mut line).unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [LINE_BYTES_MAX, 0, 1]);
    }
}
