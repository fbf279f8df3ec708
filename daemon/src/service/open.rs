//! Opening interfaces and the tap: here, or by the opener, a process that does nothing else and keeps the capabilities.
//!
//! The opener has the same configuration and is asked by place ("the second capture"), so that whoever may ask it gets
//! nothing that the administrator did not configure. A line of JSON goes each way, with the descriptor (unix(7),
//! SCM_RIGHTS) in the answer.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::config::{CaptureConfig, Config, ReplayConfig};
use super::socket::{Socket, read_line};
use crate::sink::tap::{TapHandover, TapOptions, TapSink, Truncated};
use crate::source::LiveSource;
use crate::source::interface::{InterfaceOptions, InterfaceSource};
use crate::source::ring::{RingSocket, RingSource, open_socket};
use crate::sys;

/// How long the opener may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer in bytes.
const ANSWER_MAX: usize = 16 << 10;

/// Who opens.
#[derive(Debug, Clone)]
pub(super) enum Opening {
    /// This process, which has the capabilities.
    Here,
    /// The opener at this socket.
    By(PathBuf),
}

/// What the opener is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Wish {
    /// The capture with this place in the configuration.
    Capture(usize),
    /// The tap of the replay.
    Tap,
}

/// What it answers; a descriptor comes with the first two.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Handed {
    Capture(RingSocket),
    Tap(TapHandover),
    Error(String),
}

impl Opening {
    /// The capture with this place in the configuration.
    pub(super) fn capture(&self, place: usize, config: &CaptureConfig) -> Result<Box<dyn LiveSource>> {
        let Self::By(path) = self else {
            return Ok(Box::new(InterfaceSource::open(&interface_options(config))?));
        };
        match ask(path, Wish::Capture(place))? {
            (Handed::Capture(about), socket) => Ok(Box::new(RingSource::adopt(socket, about)?)),
            _ => bail!("the opener handed over something else"),
        }
    }

    /// The tap of the replay.
    pub(super) fn tap(&self, config: &ReplayConfig) -> Result<TapSink> {
        let Self::By(path) = self else { return Ok(TapSink::open(&tap_options(config))?) };
        match ask(path, Wish::Tap)? {
            (Handed::Tap(about), tun) => Ok(TapSink::adopt(tun, about, Truncated::default())),
            _ => bail!("the opener handed over something else"),
        }
    }
}

fn interface_options(config: &CaptureConfig) -> InterfaceOptions {
    InterfaceOptions {
        name: config.interface.clone(),
        filter: config.filter.clone(),
        snaplen: config.snaplen,
        buffer_bytes: config.buffer_mib.saturating_mul(1 << 20),
        promiscuous: config.promiscuous,
    }
}

fn tap_options(config: &ReplayConfig) -> TapOptions {
    TapOptions { name: config.tap.clone(), mtu: config.mtu, ..TapOptions::default() }
}

/// Asks the opener at `path`.
fn ask(path: &Path, wish: Wish) -> Result<(Handed, OwnedFd)> {
    let asking = || -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&serde_json::to_vec(&wish)?)?;
        stream.shutdown(Shutdown::Write)?;
        sys::receive_with_descriptor(&stream, ANSWER_MAX)
    };
    let (text, descriptor) = asking().with_context(|| format!("no answer from the opener at {}", path.display()))?;
    let handed = serde_json::from_slice(&text).context("the opener's answer is none")?;
    match (handed, descriptor) {
        (Handed::Error(reason), _) => Err(anyhow!("{reason}")),
        (handed, Some(descriptor)) => Ok((handed, descriptor)),
        (_, None) => bail!("the opener handed over no descriptor"),
    }
}

/// Opens what is asked for, until `stop`: the privileged side.
///
/// # Errors
/// The configuration names no opener, or its socket cannot be made.
pub fn serve(config: &Config, stop: &AtomicBool) -> Result<()> {
    let path = config.opener.socket.as_ref().context("the configuration has no opener.socket")?;
    let socket = Socket::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    super::notify(&[NotifyState::Ready]);
    socket.serve(stop, |client| answer(client, config));
    super::notify(&[NotifyState::Stopping]);
    Ok(())
}

fn answer(client: &UnixStream, config: &Config) -> io::Result<()> {
    let line = read_line(client)?;
    let outcome = serde_json::from_str(&line).map_err(|error| anyhow!("not understood: {error}"));
    let (handed, descriptor) = match outcome.and_then(|wish| open(wish, config)) {
        Ok((handed, descriptor)) => (handed, Some(descriptor)),
        Err(error) => {
            // Whoever asked has the words, and asks again every second.
            tracing::debug!("not opened: {error:#}");
            (Handed::Error(format!("{error:#}")), None)
        }
    };
    let text = serde_json::to_vec(&handed)?;
    let descriptors = descriptor.as_ref().map(AsRawFd::as_raw_fd);
    let control: Vec<_> =
        descriptors.as_ref().map(|fd| ControlMessage::ScmRights(std::slice::from_ref(fd))).into_iter().collect();
    // The answer is far smaller than a socket's buffer, so that it goes as a whole.
    sendmsg::<()>(client.as_raw_fd(), &[io::IoSlice::new(&text)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn open(wish: Wish, config: &Config) -> Result<(Handed, OwnedFd)> {
    match wish {
        Wish::Capture(place) => {
            let capture = config.capture.get(place).context("there is no such capture")?;
            let (socket, about) = open_socket(&interface_options(capture))?;
            tracing::info!(interface = capture.interface, "opened");
            Ok((Handed::Capture(about), socket))
        }
        Wish::Tap => {
            let replay = config.replay.as_ref().context("there is no [replay]")?;
            let (tun, about) = TapSink::open(&tap_options(replay))?.hand_over();
            Ok((Handed::Tap(about), tun))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    struct StopAtEnd<'a>(&'a AtomicBool);

    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn only_what_is_configured_is_opened_and_failures_have_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("opener.sock");
        let text = format!(
            "[[capture]]\ninterface = 'wm-nowhere'\nlabel = 'web'\n[model]\nstore = 's'\n[opener]\nsocket = '{}'\n",
            path.display()
        );
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let config = Config::read(&file).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&config, &stop));
            let _end = StopAtEnd(&stop);
            while !path.exists() {
                assert!(!serving.is_finished());
                std::thread::sleep(Duration::from_millis(5));
            }
            let said = |wish| ask(&path, wish).unwrap_err().to_string();
            assert!(said(Wish::Capture(0)).contains("wm-nowhere"));
            assert_eq!(said(Wish::Capture(1)), "there is no such capture");
            assert_eq!(said(Wish::Tap), "there is no [replay]");
            for text in ["", "x", "{\"capture\":-1}", "{\"capture\":\"eth0\"}", "[[[["] {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let (answer, descriptor) = sys::receive_with_descriptor(&stream, ANSWER_MAX).unwrap();
                assert!(String::from_utf8(answer).unwrap().contains("not understood"), "{text}");
                assert!(descriptor.is_none());
            }
        });
        assert!(!path.exists());
    }
}
