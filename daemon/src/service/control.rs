//! The control socket: a line of JSON in, a line of JSON out, for whoever may write to it (0660).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Status;
use super::replay::Wanted;
use super::socket::{CLIENT_PATIENCE, Socket, read_line};
use crate::job::ranges;
use crate::replay::Pace;

/// How long an order waits for the end of a round.
const ORDER_PATIENCE: Duration = Duration::from_secs(120);
/// Orders that wait at most.
pub(super) const ORDERS_MAX: usize = 4;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the service is doing
    Status,
    /// Learn no more until told to; captures and the replay go on
    Pause,
    /// Learn again
    Resume,
    /// End the round now, and promote what it has learned if that is better; without a round, begin one
    Checkpoint,
    /// Go back to the model before the one in use
    Rollback,
    /// Use this version from now on
    Promote {
        /// Name of the version, as `wiremamba models list` has it
        version: String,
    },
    /// Start or stop the replay
    #[command(subcommand)]
    Replay(ReplayRequest),
    /// How many flows the replay begins a second, on average
    Rate {
        /// New flows a second
        #[arg(allow_negative_numbers = true, value_parser = ranges::flow_rate)]
        flows_per_second: f64,
    },
    /// How fast the replay's packets leave, from the next one on; nothing is broken off for it
    #[command(subcommand)]
    Pace(PaceRequest),
}

/// How fast packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "snake_case")]
pub enum PaceRequest {
    /// At their own times, this much faster
    Multiplier {
        /// 1 is as generated
        #[arg(allow_negative_numbers = true, value_parser = ranges::above_zero)]
        times: f64,
    },
    /// So many packets a second, evenly
    Pps {
        /// Packets a second
        #[arg(allow_negative_numbers = true, value_parser = ranges::above_zero)]
        packets: f64,
    },
    /// So many megabits a second
    Mbps {
        /// Megabits a second
        #[arg(allow_negative_numbers = true, value_parser = ranges::above_zero)]
        megabits: f64,
    },
    /// As fast as they are generated and taken
    Topspeed,
}

impl From<PaceRequest> for Pace {
    fn from(request: PaceRequest) -> Self {
        match request {
            PaceRequest::Multiplier { times } => Self::Capture { multiplier: times },
            PaceRequest::Pps { packets } => Self::PacketsPerSecond(packets),
            PaceRequest::Mbps { megabits } => Self::MegabitsPerSecond(megabits),
            PaceRequest::Topspeed => Self::TopSpeed,
        }
    }
}

/// What can be asked of the replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "snake_case")]
pub enum ReplayRequest {
    /// Send packets onto the tap
    Start,
    /// Send no more
    Stop,
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

/// What only the service's own thread can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    Checkpoint,
    Rollback,
    Promote(String),
}

/// A task, and where its outcome goes.
pub(super) struct Order {
    pub(super) task: Task,
    pub(super) answer: SyncSender<Result<String, String>>,
}

/// What the control socket and the service share.
pub(super) struct Shared {
    pub(super) paused: AtomicBool,
    /// Raised to end the round at hand with what it has learned.
    pub(super) cut: AtomicBool,
    pub(super) status: Mutex<Status>,
    /// `None` where nothing is configured.
    pub(super) replay: Option<Wanted>,
}

impl Shared {
    pub(super) fn new(replay: Option<Wanted>) -> Self {
        let (paused, cut) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { paused, cut, status: Mutex::new(Status::default()), replay }
    }
}

/// Answers one client after the other until `stop`.
pub(super) fn serve(socket: &Socket, shared: &Shared, orders: &SyncSender<Order>, stop: &AtomicBool) {
    socket.serve(stop, |client| answer(client, shared, orders));
}

fn answer(mut client: &UnixStream, shared: &Shared, orders: &SyncSender<Order>) -> io::Result<()> {
    let line = read_line(client)?;
    let outcome = serde_json::from_str(&line).map_err(|error| format!("not understood: {error}"));
    let outcome = outcome.map(|message: Message| message.command);
    let status = || Box::new(shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let answer = match outcome.and_then(|request| obey(request, shared, orders)) {
        Ok(said) => Answer::Ok { said, status: status() },
        Err(reason) => Answer::Error { reason },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    client.write_all(&text)
}

fn obey(request: Request, shared: &Shared, orders: &SyncSender<Order>) -> Result<String, String> {
    let replay = || shared.replay.as_ref().ok_or("there is no [replay] in the service's configuration");
    let said = match request {
        Request::Status => None,
        Request::Pause => {
            shared.paused.store(true, Relaxed);
            None
        }
        Request::Resume => {
            shared.paused.store(false, Relaxed);
            None
        }
        Request::Replay(request) => {
            let running = request == ReplayRequest::Start;
            replay()?.run(running);
            Some(if running { "replay started" } else { "replay stopped" }.to_owned())
        }
        Request::Rate { flows_per_second } if (1e-3..=1e6).contains(&flows_per_second) => {
            replay()?.rate(flows_per_second);
            Some(format!("{flows_per_second} flows a second"))
        }
        Request::Rate { flows_per_second } => {
            return Err(format!("{flows_per_second} flows a second; allowed is 0.001 to 1000000"));
        }
        Request::Pace(request) => {
            let pace = Pace::from(request);
            let said = pace.to_string();
            replay()?.pace(pace).map_err(|error| error.to_string())?;
            Some(said)
        }
        Request::Checkpoint => {
            shared.cut.store(true, Relaxed);
            return order(Task::Checkpoint, orders);
        }
        Request::Rollback => return order(Task::Rollback, orders),
        Request::Promote { version } => return order(Task::Promote(version), orders),
    };
    let is_paused = shared.paused.load(Relaxed);
    let mut status = shared.status.lock().unwrap_or_else(PoisonError::into_inner);
    status.paused = is_paused;
    status.replay = shared.replay.as_ref().map(Wanted::status);
    Ok(said.unwrap_or_else(|| if is_paused { "paused" } else { "running" }.to_owned()))
}

/// Leaves a task to the service's thread, and waits for what becomes of it.
fn order(task: Task, orders: &SyncSender<Order>) -> Result<String, String> {
    let (answer, answered) = mpsc::sync_channel(1);
    orders.try_send(Order { task, answer }).map_err(|_| "too many orders wait already".to_owned())?;
    answered.recv_timeout(ORDER_PATIENCE).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err("the service is still busy with a round; it will be done then".to_owned()),
        RecvTimeoutError::Disconnected => Err("the service is stopping".to_owned()),
    })
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
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

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
        let (shared, stop) = (Shared::new(None), AtomicBool::new(false));
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&socket, &shared, &orders, &stop));
            let _end = StopAtEnd(&stop);
            assert!(Socket::bind(&path).is_err_and(|e| e.to_string().contains("another service")));
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
        drop(socket);
        assert!(!path.exists(), "the socket is removed");
    }

    /// Every request with its answer's beginning.
    #[test]
    fn requests_have_one_form_on_the_wire() {
        for (request, text) in [
            (Request::Status, r#"{"command":"status"}"#),
            (Request::Promote { version: "x".into() }, r#"{"command":{"promote":{"version":"x"}}}"#),
            (Request::Replay(ReplayRequest::Stop), r#"{"command":{"replay":"stop"}}"#),
            (Request::Rate { flows_per_second: 2.5 }, r#"{"command":{"rate":{"flows_per_second":2.5}}}"#),
        ] {
            let message = Message { command: request.clone() };
            assert_eq!(serde_json::to_string(&message).unwrap(), text);
            assert_eq!(serde_json::from_str::<Message>(text).unwrap().command, request);
        }
        let (orders, _waiting) = mpsc::sync_channel(1);
        let shared = Shared::new(None);
        for (request, why) in [
            (Request::Replay(ReplayRequest::Start), "no [replay]"),
            (Request::Rate { flows_per_second: 1.0 }, "no [replay]"),
            (Request::Rate { flows_per_second: f64::NAN }, "allowed is"),
            (Request::Rate { flows_per_second: -1.0 }, "allowed is"),
        ] {
            assert!(obey(request, &shared, &orders).unwrap_err().contains(why));
        }
    }

    proptest! {
        /// Bytes that are no request change nothing; neither do requests with something cut out, put in or turned over.
        #[test]
        fn what_is_no_request_does_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            base in 0_usize..3,
            at in any::<prop::sample::Index>(),
            cut in 0_usize..4,
        ) {
            let valid = [r#"{"command":"pause"}"#, r#"{"command":{"rate":{"flows_per_second":2}}}"#, r#"{"command":"rollback"}"#];
            let mut changed = valid[base].as_bytes().to_vec();
            let at = at.index(changed.len());
            changed.splice(at..(at + cut).min(valid[base].len()), bytes.iter().copied().take(3));
            for text in [&bytes, &changed] {
                let Ok(text) = std::str::from_utf8(text) else { continue };
                let Ok(message) = serde_json::from_str::<Message>(text) else { continue };
                // What is understood says the same again.
                let again = serde_json::to_string(&message).unwrap();
                prop_assert_eq!(serde_json::from_str::<Message>(&again).unwrap().command, message.command);
            }
        }
    }
}
