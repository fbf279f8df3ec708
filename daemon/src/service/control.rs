//! The control socket: a line of JSON in, a line of JSON out, for whoever may write to it (0660).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Status;

/// Longest request in bytes.
const REQUEST_MAX: u64 = 4096;
/// How long a client may take to say what it wants, and to read the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// How often the listener looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long an order waits for the end of a round.
const ORDER_PATIENCE: Duration = Duration::from_secs(120);
/// Orders that wait at most.
pub(super) const ORDERS_MAX: usize = 4;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What the service is doing
    Status,
    /// Learn no more until told to; captures go on
    Pause,
    /// Learn again
    Resume,
    /// Go back to the model before the one in use
    Rollback,
}

/// A request as it is sent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    command: Request,
}

/// The answer: `ok` with what was asked for, or an error in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Ok {
        /// What was done, in words.
        said: String,
        /// The status afterwards.
        status: Box<Status>,
    },
    /// Not done.
    Error {
        /// Why not.
        reason: String,
    },
}

/// What only the service's own thread can do, and where its answer goes.
pub(super) struct Order {
    pub(super) answer: SyncSender<Result<String, String>>,
}

/// What the control socket and the service share.
pub(super) struct Shared {
    pub(super) paused: AtomicBool,
    pub(super) status: Mutex<Status>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { paused: AtomicBool::new(false), status: Mutex::new(Status::default()) }
    }
}

/// The socket; its file is removed at the end.
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A file that a killed service left behind is replaced.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            let text = format!("another service listens at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers one client after the other until `stop`.
    pub(super) fn serve(self, shared: &Shared, orders: &SyncSender<Order>, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            match self.listener.accept() {
                Ok((client, _)) => {
                    if let Err(error) = answer(&client, shared, orders) {
                        tracing::debug!(%error, "control: client not answered");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK),
                Err(error) => {
                    tracing::warn!(%error, "control: cannot accept");
                    std::thread::sleep(LOOK);
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(client: &UnixStream, shared: &Shared, orders: &SyncSender<Order>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(CLIENT_PATIENCE))?;
    client.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let mut line = String::new();
    BufReader::new(client.take(REQUEST_MAX)).read_line(&mut line)?;
    let outcome = serde_json::from_str(&line).map_err(|error| format!("not understood: {error}"));
    let outcome = outcome.map(|message: Message| message.command);
    let status = || Box::new(shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let answer = match outcome.and_then(|request| obey(request, shared, orders)) {
        Ok(said) => Answer::Ok { said, status: status() },
        Err(reason) => Answer::Error { reason },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    let mut client = client;
    client.write_all(&text)
}

fn obey(request: Request, shared: &Shared, orders: &SyncSender<Order>) -> Result<String, String> {
    match request {
        Request::Status => {}
        Request::Pause => shared.paused.store(true, Relaxed),
        Request::Resume => shared.paused.store(false, Relaxed),
        Request::Rollback => {
            let (answer, answered) = mpsc::sync_channel(1);
            orders.try_send(Order { answer }).map_err(|_| "too many orders wait already".to_owned())?;
            return answered.recv_timeout(ORDER_PATIENCE).unwrap_or_else(|error| match error {
                RecvTimeoutError::Timeout => {
                    Err("the service is still busy with a round; it will be done then".to_owned())
                }
                RecvTimeoutError::Disconnected => Err("the service is stopping".to_owned()),
            });
        }
    }
    let is_paused = shared.paused.load(Relaxed);
    shared.status.lock().unwrap_or_else(PoisonError::into_inner).paused = is_paused;
    Ok(if is_paused { "paused" } else { "running" }.to_owned())
}

/// Asks the service at `path`.
///
/// # Errors
/// Nobody listens there, no permission, or an answer that is none.
pub fn ask(path: &Path, request: Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ORDER_PATIENCE + CLIENT_PATIENCE))?;
    let mut text = serde_json::to_vec(&Message { command: request })?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(path: &Path, text: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        // The service may hang up on what is too long.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// Ends the listener also when the test fails.
    struct StopAtEnd<'a>(&'a AtomicBool);

    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn hostile_messages_are_refused_in_words_and_do_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (orders, _waiting) = mpsc::sync_channel(1);
        let (shared, stop) = (Shared::new(), AtomicBool::new(false));
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        std::thread::scope(|scope| {
            scope.spawn(|| listener.serve(&shared, &orders, &stop));
            let _end = StopAtEnd(&stop);
            assert!(Listener::bind(&path).is_err_and(|e| e.to_string().contains("another service")));
            let deep = "[".repeat(4000);
            let long = "x".repeat(100_000);
            for text in
                ["", "\n", "{}", "null", "{\"command\":\"stop\"}", "{\"command\":\"pause\",\"x\":1}", &deep, &long]
            {
                let answer = raw(&path, text.as_bytes());
                assert!(answer.is_empty() || answer.contains("not understood"), "{text:.40}: {answer}");
            }
            assert!(raw(&path, b"\xff\xfe\n").is_empty());
            assert!(!shared.paused.load(Relaxed));
            let Answer::Ok { said, status } = ask(&path, Request::Pause).unwrap() else { panic!("refused") };
            assert_eq!((said.as_str(), status.paused), ("paused", true));
            let Answer::Ok { status, .. } = ask(&path, Request::Resume).unwrap() else { panic!("refused") };
            assert!(!status.paused);
        });
        assert!(!path.exists(), "the socket is removed");
    }
}
