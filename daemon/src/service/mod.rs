//! The service: captures from interfaces, learns from what it captured, promotes what is better. Packets stay in memory.
//!
//! A thread for each interface assembles flows and puts them into one bounded queue; the service's own thread learns
//! from them in rounds. Nothing waits for the learner but the queue, and what that has no room for is counted.

mod capture;
pub mod config;
pub mod control;
mod learner;
mod samples;

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use capture::{Counters, Queue};
use config::Config;
use control::{Listener, ORDERS_MAX, Order, Shared};
use learner::{Learner, Round};
use samples::{Sample, Samples, bytes};

/// How long the learner waits for a flow before it looks around.
const WAIT: Duration = Duration::from_millis(200);

/// What the service is doing. Counters are since its start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Whether it was told to learn no more.
    pub paused: bool,
    /// Packets captured.
    pub packets: u64,
    /// Packets that the kernel or an interface dropped.
    pub packets_dropped: u64,
    /// Flows that ended.
    pub flows: u64,
    /// Flows that the queue had no room for.
    pub flows_refused: u64,
    /// Flows that are open.
    pub open_flows: u64,
    /// Times that an interface was lost.
    pub interfaces_lost: u64,
    /// Flows in memory: the newest, of older ones, held out.
    pub flows_recent: usize,
    /// Flows drawn from older ones.
    pub flows_reservoir: usize,
    /// Flows that are only measured.
    pub flows_held_out: usize,
    /// Flows that were dropped so that the others stay within `learn.memory_mib`.
    pub flows_forgotten: u64,
    /// Rounds of training.
    pub rounds: u64,
    /// Those whose weights were promoted.
    pub promoted: u64,
    /// Rounds that failed, such as for a full disk.
    pub rounds_failed: u64,
    /// Steps over the life of the store.
    pub steps: u64,
    /// Held-out bits per packet before the last round: how well the model in use knows the traffic of now.
    pub bits_per_packet_before: Option<f64>,
    /// The same after the last round.
    pub bits_per_packet: Option<f64>,
    /// Tokens per second of training in the last round.
    pub tokens_per_s: Option<f64>,
}

/// Runs until `stop`. `report` gets a status every `learn.status_s` seconds, after each round, and at the end.
///
/// # Errors
/// An interface that cannot be opened at the start, a model or store that cannot be used. Later trouble is logged,
/// counted and tried again.
pub fn run(config: &Config, stop: &AtomicBool, mut report: impl FnMut(&Status)) -> Result<()> {
    let learner = Learner::open(&config.model, config.learn.clone())?;
    let labels = config.capture.iter().map(|c| learner.label(&c.label)).collect::<Result<Vec<_>>>()?;
    let sources = config.capture.iter().map(capture::open).collect::<Result<Vec<_>, _>>()?;
    let counters: Vec<Counters> = config.capture.iter().map(|_| Counters::default()).collect();
    let (sender, queue) = mpsc::sync_channel(config.learn.queue_max);
    let (order, orders) = mpsc::sync_channel(ORDERS_MAX);
    let shared = Shared::new();
    let listen = |path: &PathBuf| Listener::bind(path).with_context(|| format!("cannot listen at {}", path.display()));
    let listener = config.control.socket.as_ref().map(listen).transpose()?;
    notify(&[NotifyState::Ready]);
    let queued_bytes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // However this ends, by a panic too: otherwise the captures would be waited for for ever.
        let _stop = StopAtEnd(stop);
        for (((source, capture), label), counters) in
            sources.into_iter().zip(&config.capture).zip(labels).zip(&counters)
        {
            let queue =
                Queue { sender: sender.clone(), bytes: &queued_bytes, bytes_max: config.learn.memory_bytes() / 4 };
            scope.spawn(move || capture::run(source, capture, &config.learn, label, &queue, counters, stop));
        }
        drop(sender);
        if let Some(listener) = listener {
            let shared = &shared;
            scope.spawn(move || listener.serve(shared, &order, stop));
        }
        let samples = Samples::new(config.learn.clone());
        let inputs = Inputs {
            queue,
            queued_bytes: &queued_bytes,
            orders,
            counters: &counters,
            shared: &shared,
            started: Instant::now(),
        };
        let mut service = Service::new(config, learner, samples, inputs);
        service.work(stop, &mut report);
        notify(&[NotifyState::Stopping]);
        report(&service.status());
    });
    Ok(())
}

/// Tells systemd, where it listens (sd_notify(3)).
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd not told");
    }
}

/// What comes to the service from other threads.
struct Inputs<'a> {
    queue: Receiver<Sample>,
    /// Captured bytes of what is in the queue.
    queued_bytes: &'a AtomicU64,
    orders: Receiver<Order>,
    counters: &'a [Counters],
    shared: &'a Shared,
    started: Instant,
}

impl Inputs<'_> {
    /// Everything that waits, without waiting for more.
    fn empty_queue(&self, samples: &mut Samples) {
        self.queue.try_iter().for_each(|sample| self.take(sample, samples));
    }

    fn take(&self, sample: Sample, samples: &mut Samples) {
        self.queued_bytes.fetch_sub(bytes(&sample), Relaxed);
        samples.add(sample);
    }

    /// What other threads counted.
    fn count(&self, ret: &mut Status) {
        let sum = |of: fn(&Counters) -> &AtomicU64| self.counters.iter().map(|c| of(c).load(Relaxed)).sum();
        ret.uptime_s = self.started.elapsed().as_secs_f64();
        ret.paused = self.shared.paused.load(Relaxed);
        ret.packets = sum(|c| &c.packets);
        ret.packets_dropped = sum(|c| &c.dropped);
        ret.flows = sum(|c| &c.flows);
        ret.flows_refused = sum(|c| &c.flows_refused);
        ret.open_flows = sum(|c| &c.open_flows);
        ret.interfaces_lost = sum(|c| &c.lost);
    }
}

/// Tells the other threads to stop when it goes out of scope.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The learner's side.
struct Service<'a> {
    config: &'a Config,
    learner: Learner,
    samples: Samples,
    inputs: Inputs<'a>,
    /// Beats of the captures when systemd was last told that all is well.
    beats: Vec<u64>,
    rounds: u64,
    promoted: u64,
    rounds_failed: u64,
    last: Option<Round>,
}

impl<'a> Service<'a> {
    fn new(config: &'a Config, learner: Learner, samples: Samples, inputs: Inputs<'a>) -> Self {
        Self {
            config,
            learner,
            samples,
            beats: vec![0; inputs.counters.len()],
            inputs,
            rounds: 0,
            promoted: 0,
            rounds_failed: 0,
            last: None,
        }
    }

    fn work(&mut self, stop: &AtomicBool, report: &mut dyn FnMut(&Status)) {
        let every = Duration::from_secs(u64::from(self.config.learn.status_s));
        let mut reported = Instant::now();
        while !stop.load(Relaxed) {
            match self.inputs.queue.recv_timeout(WAIT) {
                Ok(sample) => self.inputs.take(sample, &mut self.samples),
                Err(RecvTimeoutError::Timeout) => {}
                // Every capture ended, which they do only when told to.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            feed_watchdog(self.inputs.counters, &mut self.beats);
            self.inputs.orders.try_iter().for_each(|order| {
                let outcome = self.learner.roll_back().map_err(|error| format!("{error:#}"));
                // Nobody waits any more where this fails.
                let _ = order.answer.send(outcome);
            });
            let is_due = self.samples.is_due() && !self.inputs.shared.paused.load(Relaxed);
            if is_due {
                self.round(stop);
            }
            *self.inputs.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = self.status();
            if is_due || reported.elapsed() >= every {
                reported = Instant::now();
                let status = self.status();
                notify(&[NotifyState::Status(&status.line())]);
                report(&status);
            }
        }
    }

    fn round(&mut self, stop: &AtomicBool) {
        let batch = self.samples.take();
        // Meanwhile the queue is emptied, so that a long round loses no flows.
        let Self { learner, samples, inputs, beats, .. } = self;
        let mut between = || {
            inputs.empty_queue(samples);
            feed_watchdog(inputs.counters, beats);
            inputs.count(&mut inputs.shared.status.lock().unwrap_or_else(PoisonError::into_inner));
        };
        match learner.round(&batch, stop, &mut between) {
            Ok(Some(round)) => {
                self.rounds += 1;
                self.promoted += u64::from(round.promoted);
                let Round { before, after, promoted, .. } = round;
                tracing::info!(promoted, "round: {before:.1} bits per packet held out before, {after:.1} after");
                self.last = Some(round);
            }
            Ok(None) => {}
            Err(error) => {
                self.rounds_failed += 1;
                tracing::error!("round failed, the model in use stays: {error:#}");
            }
        }
    }

    fn status(&self) -> Status {
        let [flows_recent, flows_reservoir, flows_held_out] = self.samples.sizes();
        let mut ret = Status {
            flows_recent,
            flows_reservoir,
            flows_held_out,
            flows_forgotten: self.samples.forgotten(),
            rounds: self.rounds,
            promoted: self.promoted,
            rounds_failed: self.rounds_failed,
            steps: self.learner.steps(),
            bits_per_packet_before: self.last.map(|round| round.before),
            bits_per_packet: self.last.map(|round| if round.promoted { round.after } else { round.before }),
            tokens_per_s: self.last.map(|round| round.tokens as f64 / round.training.as_secs_f64().max(1e-9)),
            ..Status::default()
        };
        self.inputs.count(&mut ret);
        ret
    }
}

/// Tells systemd that all is well, once every capture has moved on since it was last told.
fn feed_watchdog(counters: &[Counters], beats: &mut Vec<u64>) {
    let now: Vec<u64> = counters.iter().map(|c| c.beats.load(Relaxed)).collect();
    if now.iter().zip(&*beats).all(|(now, then)| now > then) {
        *beats = now;
        notify(&[NotifyState::Watchdog]);
    }
}

impl Status {
    /// The status in a line.
    pub fn line(&self) -> String {
        let bits = self.bits_per_packet.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.1}"));
        format!(
            "{} packets ({} dropped), {} flows ({} refused), {} rounds ({} promoted, {} failed), {bits} bits/packet held out",
            self.packets,
            self.packets_dropped,
            self.flows,
            self.flows_refused,
            self.rounds,
            self.promoted,
            self.rounds_failed
        )
    }
}
