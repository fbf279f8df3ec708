//! The service's counters for Prometheus, in its text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), over HTTP.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};

use super::Status;
use super::config::MetricsConfig;
use super::control::Shared;
use super::socket::{CLIENT_PATIENCE, Socket, read_line, serve};
use crate::sys;

/// Where it is asked for. A port that systemd opened for the service (systemd.socket(5)) is served as well.
pub(super) struct Metrics {
    ports: Vec<TcpListener>,
    socket: Option<Socket>,
}

impl Metrics {
    /// Listens where `config` says; `None` where that is nowhere.
    pub(super) fn bind(config: &MetricsConfig) -> Result<Option<Self>> {
        let mut ports: Vec<TcpListener> = sys::inherited_sockets().into_iter().map(TcpListener::from).collect();
        if let Some(address) = config.listen {
            ports.push(TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?);
        }
        for port in &ports {
            port.set_nonblocking(true)?;
        }
        let bind = |path| Socket::bind(path).with_context(|| format!("cannot listen at {}", path.display()));
        let socket = config.socket.as_deref().map(bind).transpose()?;
        Ok((socket.is_some() || !ports.is_empty()).then_some(Self { ports, socket }))
    }

    /// Answers until `stop`.
    pub(super) fn serve(&self, shared: &Shared, stop: &AtomicBool) {
        std::thread::scope(|scope| {
            if let Some(socket) = &self.socket {
                scope.spawn(|| socket.serve(stop, |client| answer(client, shared)));
            }
            for port in &self.ports {
                scope.spawn(move || {
                    serve(
                        stop,
                        &"metrics",
                        || port.accept(),
                        |(client, _)| {
                            client.set_nonblocking(false)?;
                            client.set_read_timeout(Some(CLIENT_PATIENCE))?;
                            client.set_write_timeout(Some(CLIENT_PATIENCE))?;
                            answer(&client, shared)
                        },
                    );
                });
            }
        });
    }
}

/// Whatever is asked for, there is one answer (RFC 9112, and the connection ends with it).
fn answer<C>(client: C, shared: &Shared) -> io::Result<()>
where
    C: Read + Write + Copy,
{
    let request = read_line(client)?;
    let (status, body) = if request.starts_with("GET /metrics ") || request.starts_with("GET / ") {
        ("200 OK", text(&shared.status.lock().unwrap_or_else(PoisonError::into_inner)))
    } else {
        ("404 Not Found", "there is GET /metrics\n".to_owned())
    };
    let mut client = client;
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The counters as text.
pub(super) fn text(status: &Status) -> String {
    let mut ret = String::new();
    let mut add = |kind: &str, name: &str, help: &str, value: Option<f64>| {
        let Some(value) = value else { return };
        // Writing to a string does not fail.
        let _ =
            write!(ret, "# HELP wiremamba_{name} {help}\n# TYPE wiremamba_{name} {kind}\nwiremamba_{name} {value}\n");
    };
    let s = status;
    let n = |n: u64| Some(n as f64);
    add("gauge", "uptime_seconds", "Time since the start.", Some(s.uptime_s));
    add("gauge", "paused", "1 while it learns no more.", n(s.paused.into()));
    add("counter", "packets_total", "Packets captured.", n(s.packets));
    add("counter", "packets_dropped_total", "Packets that the kernel or an interface dropped.", n(s.packets_dropped));
    add("counter", "interfaces_lost_total", "Times that an interface was lost.", n(s.interfaces_lost));
    add("counter", "flows_total", "Flows that ended.", n(s.flows));
    add("counter", "flows_refused_total", "Flows that the queue had no room for.", n(s.flows_refused));
    add("counter", "flows_forgotten_total", "Flows dropped to stay within memory.", n(s.flows_forgotten));
    add("gauge", "open_flows", "Flows that are open.", n(s.open_flows));
    add("gauge", "queued_flows", "Flows that wait for the learner.", n(s.queued_flows));
    add("counter", "rounds_total", "Rounds of training.", n(s.rounds));
    add("counter", "promotions_total", "Rounds whose weights were promoted.", n(s.promoted));
    add("counter", "rounds_failed_total", "Rounds that failed.", n(s.rounds_failed));
    add("counter", "steps_total", "Steps over the life of the store.", n(s.steps));
    add("gauge", "held_out_bits_per_packet", "Held-out loss of the model in use.", s.bits_per_packet);
    add("gauge", "fresh_bits_per_packet", "Loss on flows not learned before.", s.fresh_bits_per_packet);
    add("gauge", "drift_ratio", "Fresh traffic beside what was held out then; 1 is no drift.", s.drift);
    add("gauge", "rehearsal_bits_per_packet", "Loss on the base's own traffic.", s.rehearsal_bits_per_packet);
    add("gauge", "training_tokens_per_second", "In the last round.", s.tokens_per_s);
    if let Some(r) = &s.replay {
        add("gauge", "replay_running", "1 while it is to send.", n(r.running.into()));
        add("counter", "replay_packets_total", "Packets sent.", n(r.sent));
        add("counter", "replay_refused_total", "Packets that the tap refused.", n(r.refused));
        add("counter", "replay_late_total", "Packets sent more than a millisecond late.", n(r.late));
        add("counter", "replay_failed_total", "Times that the replay broke off.", n(r.failed));
    }
    ret
}

#[cfg(test)]
mod tests {
    use super::super::replay::ReplayStatus;
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_with_a_number() {
        let status = Status {
            packets: 7,
            drift: Some(1.5),
            replay: Some(ReplayStatus { sent: 3, ..ReplayStatus::default() }),
            ..Status::default()
        };
        let text = text(&status);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').unwrap();
            assert!(name.starts_with("wiremamba_") && value.parse::<f64>().is_ok(), "{line}");
        }
        assert!(text.contains("\nwiremamba_packets_total 7\n") && text.contains("\nwiremamba_drift_ratio 1.5\n"));
        assert!(text.contains("\nwiremamba_replay_packets_total 3\n") && !text.contains("held_out"));
    }
}
