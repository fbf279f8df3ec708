//! Sockets that are served by one thread, one client after the other, until the service stops.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How long a client may take to say what it wants, and to read the answer.
pub(super) const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// Longest request in bytes.
const REQUEST_MAX: u64 = 4096;
/// How often a server looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// A Unix socket for whoever may write to it (0660); its file is removed at the end.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
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

    /// Answers clients until `stop`. Each has [`CLIENT_PATIENCE`] for each read and write.
    pub(super) fn serve(&self, stop: &AtomicBool, mut answer: impl FnMut(&UnixStream) -> io::Result<()>) {
        serve(
            stop,
            &self.path.display(),
            || self.listener.accept(),
            |(client, _)| {
                client.set_nonblocking(false)?;
                client.set_read_timeout(Some(CLIENT_PATIENCE))?;
                client.set_write_timeout(Some(CLIENT_PATIENCE))?;
                answer(&client)
            },
        );
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers whom `accept`, which must not block, lets in.
pub(super) fn serve<C>(
    stop: &AtomicBool,
    place: &dyn std::fmt::Display,
    accept: impl Fn() -> io::Result<C>,
    mut answer: impl FnMut(C) -> io::Result<()>,
) {
    while !stop.load(Relaxed) {
        match accept() {
            Ok(client) => {
                if let Err(error) = answer(client) {
                    tracing::debug!(%place, %error, "client not answered");
                }
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::warn!(%place, %error, "cannot accept");
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// The first line that a client sends.
///
/// # Errors
/// No UTF-8, or too long a wait. What is longer than a request may be is cut.
pub(super) fn read_line(client: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(client.take(REQUEST_MAX)).read_line(&mut line)?;
    Ok(line)
}
