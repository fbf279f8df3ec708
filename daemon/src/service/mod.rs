//! The service: captures from interfaces, learns from what it captured, promotes what is better. Packets stay in memory.
//!
//! A thread for each interface assembles flows and puts them into one bounded queue; the service's own thread learns
//! from them in rounds. Nothing waits for the learner but the queue, and what that has no room for is counted.

mod capture;
pub mod config;
pub mod control;
mod keep;
mod learner;
mod metrics;
mod ndpi;
mod open;
mod rehearsal;
mod replay;
mod samples;
mod socket;
mod starts;
mod status;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;

use capture::{Counters, Labelling, Queue, Tapped};
use config::Config;
use control::{ORDERS_MAX, Order, Shared, Task};
use learner::{Cut, Learner, Round};
use metrics::Metrics;
use ndpi::Naming;
use open::Opening;
use replay::Wanted;
use samples::{Sample, Samples, bytes};
use socket::Socket;

pub use open::serve as serve_opener;
pub use replay::ReplayStatus;
pub use status::Status;

/// How long the learner waits for a flow before it looks around.
const WAIT: Duration = Duration::from_millis(200);

/// What the service is asked for by signals.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// To end in good order.
    pub stop: Arc<AtomicBool>,
    /// To read the configuration again.
    pub reload: Arc<AtomicBool>,
    /// To end the round at hand with what it has learned.
    pub checkpoint: Arc<AtomicBool>,
}

/// Runs the configuration at `path` until told to stop. `report` gets a status every `learn.status_s` seconds, after each
/// round, and at the end.
///
/// # Errors
/// A configuration, an interface, a model or a store that cannot be used at the start. Later trouble is logged, counted
/// and tried again.
pub fn run(path: &Path, signals: &Signals, mut report: impl FnMut(&Status)) -> Result<()> {
    let config = Config::read(path)?;
    let stop = &*signals.stop;
    let learner = Learner::open(&config)?;
    config.labels().iter().try_for_each(|name| learner.label(name).map(drop))?;
    let opening = config.opener.socket.clone().map_or(Opening::Here, Opening::By);
    let tapped = config.capture.iter().enumerate().map(|(place, config)| {
        let source = opening.capture(place, config)?;
        let labelling = Labelling::new(config, source.linktype(), |name| learner.label(name))?;
        Ok(Tapped { source, place, config, labelling, opening: &opening })
    });
    let tapped = tapped.collect::<Result<Vec<_>>>()?;
    if let Some(replay) = &config.replay {
        replay.mix.keys().try_for_each(|name| learner.label(name).map(drop)).context("replay.mix")?;
    }
    let named = config.learn.ndpi.iter().map(|(name, label)| Ok((name.clone(), learner.label(label)?)));
    let naming = Naming::new(named.collect::<Result<_>>()?)?;
    let counters: Vec<Counters> = config.capture.iter().map(|_| Counters::default()).collect();
    let (sender, queue) = mpsc::sync_channel(config.learn.queue_max);
    let (order, orders) = mpsc::sync_channel(ORDERS_MAX);
    let wanted = config.replay.clone().map(|replay| -> Result<_> {
        let (device, named) = replay.device.unwrap_or(config.model.device).resolve()?;
        tracing::info!(device = named, "replay: generating on");
        Ok(Wanted::new(replay, device))
    });
    let shared = Shared::new(wanted.transpose()?);
    let bind = |path| Socket::bind(path).with_context(|| format!("cannot listen at {}", path.display()));
    let control = config.control.socket.as_deref().map(bind).transpose()?;
    let metrics = Metrics::bind(&config.metrics)?;
    notify(&[NotifyState::Ready]);
    let queued = Queued::default();
    std::thread::scope(|scope| {
        // However this ends, by a panic too: otherwise the other threads would be waited for for ever.
        let stop_at_end = StopAtEnd { stop, replay: shared.replay.as_ref() };
        for (tapped, counters) in tapped.into_iter().zip(&counters) {
            let bytes_max = config.learn.memory_bytes() / 4;
            let flows_max = config.learn.queue_max as u64;
            let queue = Queue { sender: sender.clone(), queued: &queued, flows_max, bytes_max };
            let learn = &config.learn;
            scope.spawn(move || capture::run(tapped, learn, &queue, counters, stop));
        }
        drop(sender);
        let opening = &opening;
        let replaying = shared.replay.as_ref().map(|wanted| {
            scope.spawn(move || replay::run(wanted, opening, stop).inspect_err(|_| stop.store(true, Relaxed)))
        });
        let inputs = Inputs {
            queue,
            naming,
            queued: &queued,
            orders,
            counters: &counters,
            shared: &shared,
            started: Instant::now(),
        };
        let mut service = Service::new(path, config.clone(), learner, inputs);
        // Whoever asks gets an answer that is true from the first one on.
        *shared.status.lock().unwrap_or_else(PoisonError::into_inner) = service.status();
        if let Some(socket) = &control {
            let shared = &shared;
            scope.spawn(move || control::serve(socket, shared, &order, stop));
        }
        if let Some(metrics) = &metrics {
            scope.spawn(|| metrics.serve(&shared, stop));
        }
        service.work(signals, &mut report);
        notify(&[NotifyState::Stopping]);
        service.end(&mut report);
        drop(stop_at_end);
        replaying.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Tells systemd, where it listens (sd_notify(3)).
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd not told");
    }
}

/// What is in the learner's queue.
#[derive(Debug, Default)]
struct Queued {
    flows: AtomicU64,
    /// Captured bytes of them.
    bytes: AtomicU64,
}

/// What comes to the service from other threads.
struct Inputs<'a> {
    queue: Receiver<Sample>,
    naming: Option<Naming>,
    queued: &'a Queued,
    orders: Receiver<Order>,
    counters: &'a [Counters],
    shared: &'a Shared,
    started: Instant,
}

impl Inputs<'_> {
    /// Everything that waits, without waiting for more.
    fn empty_queue(&mut self, samples: &mut Samples) {
        while let Ok(sample) = self.queue.try_recv() {
            self.take(sample, samples);
        }
        self.naming.iter_mut().flat_map(Naming::due).for_each(|sample| samples.add(sample));
    }

    fn take(&mut self, sample: Sample, samples: &mut Samples) {
        self.queued.flows.fetch_sub(1, Relaxed);
        self.queued.bytes.fetch_sub(bytes(&sample), Relaxed);
        match &mut self.naming {
            Some(naming) => naming.add(sample).into_iter().for_each(|sample| samples.add(sample)),
            None => samples.add(sample),
        }
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
        ret.queued_flows = self.queued.flows.load(Relaxed);
        ret.interfaces_lost = sum(|c| &c.lost);
        ret.replay = self.shared.replay.as_ref().map(Wanted::status);
    }
}

/// Tells the other threads to stop when it goes out of scope.
struct StopAtEnd<'a> {
    stop: &'a AtomicBool,
    replay: Option<&'a Wanted>,
}

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.replay.iter().for_each(|replay| replay.interrupt());
    }
}

/// The learner's side.
struct Service<'a> {
    path: &'a Path,
    config: Config,
    learner: Learner,
    samples: Samples,
    inputs: Inputs<'a>,
    /// Beats of the captures when systemd was last told that all is well.
    beats: Vec<u64>,
    rounds: u64,
    promoted: u64,
    rounds_failed: u64,
    last: Option<Round>,
    /// Held-out bits per packet of the model in use, when it was promoted.
    known: Option<f64>,
    drift: Option<f64>,
}

impl<'a> Service<'a> {
    fn new(path: &'a Path, config: Config, learner: Learner, inputs: Inputs<'a>) -> Self {
        let ret = Self {
            path,
            learner,
            samples: Samples::new(config.learn.clone()),
            config,
            beats: vec![0; inputs.counters.len()],
            inputs,
            rounds: 0,
            promoted: 0,
            rounds_failed: 0,
            last: None,
            known: None,
            drift: None,
        };
        ret.publish();
        ret
    }

    /// Lets the replay have the model in use.
    fn publish(&self) {
        if let (Some(replay), Some(model)) = (&self.inputs.shared.replay, self.learner.model()) {
            replay.follow(model);
        }
    }

    fn work(&mut self, signals: &Signals, report: &mut dyn FnMut(&Status)) {
        let stop = &*signals.stop;
        let mut reported = Instant::now();
        while !stop.load(Relaxed) {
            match self.inputs.queue.recv_timeout(WAIT) {
                Ok(sample) => self.inputs.take(sample, &mut self.samples),
                Err(RecvTimeoutError::Timeout) => {}
                // Every capture ended, which they do only when told to.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.inputs.empty_queue(&mut self.samples);
            feed_watchdog(self.inputs.counters, &mut self.beats);
            if signals.reload.swap(false, Relaxed) {
                self.reload();
            }
            let rounds = self.rounds;
            if signals.checkpoint.swap(false, Relaxed) {
                let outcome = self.checkpoint(signals);
                tracing::info!("checkpoint: {}", outcome.unwrap_or_else(|error| error));
            }
            while let Ok(Order { task, answer }) = self.inputs.orders.try_recv() {
                let outcome = match task {
                    Task::Checkpoint => self.checkpoint(signals),
                    Task::Rollback => self.switch(Learner::roll_back),
                    Task::Promote(version) => self.switch(|learner| learner.use_version(&version)),
                };
                *self.inputs.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = self.status();
                // Nobody waits any more where this fails.
                let _ = answer.send(outcome);
            }
            if self.samples.is_due() && !self.inputs.shared.paused.load(Relaxed) {
                self.round(signals);
            }
            *self.inputs.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = self.status();
            let every = Duration::from_secs(u64::from(self.config.learn.status_s));
            if self.rounds > rounds || reported.elapsed() >= every {
                reported = Instant::now();
                let status = self.status();
                notify(&[NotifyState::Status(&status.line())]);
                report(&status);
            }
        }
    }

    /// Uses another version from now on.
    fn switch(&mut self, to: impl FnOnce(&mut Learner) -> Result<String>) -> Result<String, String> {
        let said = to(&mut self.learner).map_err(|error| format!("{error:#}"))?;
        self.known = None;
        self.publish();
        Ok(said)
    }

    /// Says how it ended.
    fn end(&self, report: &mut dyn FnMut(&Status)) {
        report(&self.status());
    }

    /// Reads the configuration again, and takes over what can be.
    fn reload(&mut self) {
        let began = NotifyState::monotonic_usec_now();
        notify(&[NotifyState::Reloading, began.unwrap_or(NotifyState::Custom(""))]);
        match Config::read(self.path) {
            Ok(new) => {
                let left = self.config.needs_restart(&new);
                self.config.take_over(new);
                self.learner.set_limits(self.config.learn.clone());
                self.samples.set_limits(self.config.learn.clone());
                if let (Some(wanted), Some(replay)) = (&self.inputs.shared.replay, &self.config.replay) {
                    wanted.configure(replay);
                }
                if left.is_empty() {
                    tracing::info!("configuration read again");
                } else {
                    tracing::warn!("configuration read again; only a restart changes {}", left.join(", "));
                }
            }
            Err(error) => tracing::error!("the configuration stays as it was: {:#}", anyhow::Error::new(error)),
        }
        notify(&[NotifyState::Ready]);
    }

    /// Promotes what there is to learn now, if it is better: what the round that was cut short has learned, or else a
    /// round that begins at once.
    fn checkpoint(&mut self, signals: &Signals) -> Result<String, String> {
        let was_cut = self.inputs.shared.cut.swap(false, Relaxed)
            && self.last.as_mut().is_some_and(|round| std::mem::take(&mut round.was_cut));
        if !was_cut {
            if !self.samples.is_possible() {
                return Err("no flows to learn from, or none to measure by".to_owned());
            }
            let before = self.rounds;
            self.round(signals);
            if self.rounds == before {
                return Err("the round failed, see the log".to_owned());
            }
        }
        let round = self.last.as_ref().ok_or("no round yet")?;
        let model = self.learner.model().map_or("nothing", |model| &model.name);
        let bits = format!("{:.1} bits per packet before, {:.1} after", round.before, round.after);
        Ok(if round.promoted { format!("{model} is in use: {bits}") } else { format!("{model} stays: {bits}") })
    }

    fn round(&mut self, signals: &Signals) {
        let batch = self.samples.take();
        // Meanwhile the queue is emptied, so that a long round loses no flows.
        let Self { learner, samples, inputs, beats, .. } = self;
        let shared = inputs.shared;
        let mut between = || {
            inputs.empty_queue(samples);
            feed_watchdog(inputs.counters, beats);
            // The order to end it was its own signal.
            if signals.checkpoint.load(Relaxed) {
                shared.cut.store(true, Relaxed);
            }
            inputs.count(&mut shared.status.lock().unwrap_or_else(PoisonError::into_inner));
        };
        let cut = Cut { stop: &signals.stop, now: &shared.cut };
        match learner.round(&batch, &cut, &mut between) {
            Ok(Some(round)) => {
                self.rounds += 1;
                self.promoted += u64::from(round.promoted);
                let Round { before, after, promoted, part, .. } = round;
                tracing::info!(promoted, part, "round: {before:.1} bits per packet held out before, {after:.1} after");
                if let Some((base, now)) = round.rehearsal {
                    tracing::info!("rehearsal: {now:.1} bits per packet, the base {base:.1}");
                }
                self.drift = self.known.map(|known| round.fresh / known).filter(|drift| drift.is_finite());
                if promoted || self.known.is_none() {
                    self.known = Some(if promoted { after } else { before });
                }
                self.last = Some(round);
                if promoted {
                    self.publish();
                }
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
        let per_second = |of: fn(&Round) -> u64| {
            self.last.as_ref().map(|round| of(round) as f64 / round.training.as_secs_f64().max(1e-9))
        };
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
            fresh_bits_per_packet: self.last.map(|round| round.fresh).filter(|bits| bits.is_finite()),
            drift: self.drift,
            rehearsal_bits_per_packet: self.last.and_then(|round| round.rehearsal).map(|(_, now)| now),
            rehearsal_bits_per_packet_base: self.last.and_then(|round| round.rehearsal).map(|(base, _)| base),
            tokens_per_s: per_second(|round| round.tokens),
            steps_per_s: per_second(|round| round.steps),
            model: self.learner.model().map(|model| model.name.clone()),
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
