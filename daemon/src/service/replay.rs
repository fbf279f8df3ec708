//! Replays what the model in use generates onto a tap, and follows promotions without a gap.
//!
//! One thread generates into a bounded queue of packets, one sends them at their times. A newer model takes the flows from
//! the next one on; those under way are finished by the model that began them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result};
use serde::{Deserialize, Serialize};
use wiremamba_model::device::{self, Device, DeviceFailure};
use wiremamba_model::engine::{self, Precision};
use wiremamba_model::generate::{
    Arrivals, GenerateOptions, GeneratedFlow, Generator, HELD_PACKETS_MAX, LabelChoice, Labels, Request, Sampling,
    Timeline,
};
use wiremamba_model::packet::{Packet, Timestamp};

use super::config::ReplayConfig;
use super::learner::InUse;
use super::open::Opening;
use crate::replay::{self, LivePace, Pace, ReplayCounters, ReplayError, ReplayOptions};
use crate::source::{Next, PacketSource, SourceError};

/// Packets that wait for their times: seconds of work for the generator, so that a new model has time to begin.
const AHEAD_PACKETS: usize = 4096;
/// How long a source waits for a packet before it says that there is none.
const WAIT: Duration = Duration::from_millis(20);
/// Time between two tries after a failure, and between two looks while nothing is to be sent.
const RETRY: Duration = Duration::from_secs(1);
/// How often what was sent is told.
const REPORT: Duration = Duration::from_secs(1);

/// What the replay has done since the start of the service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// Whether it is to send.
    pub running: bool,
    /// New flows a second, on average, that are asked for.
    pub flows_per_second: f64,
    /// How fast packets leave, in words.
    pub pace: String,
    /// Where they are generated: `cpu` or `cuda:N`.
    pub device: String,
    /// The version that new flows come from.
    pub model: Option<String>,
    /// Packets sent.
    pub sent: u64,
    /// Packets that the tap refused.
    pub refused: u64,
    /// Packets sent more than a millisecond late.
    pub late: u64,
    /// Packets a second since it was last started.
    pub pps: f64,
    /// Times that it broke off, such as for a tap that went away; it is tried again.
    pub failed: u64,
}

/// What is wanted of the replay, and the model for it. Shared by the service, its control and the replay.
pub(super) struct Wanted {
    inner: Mutex<Inner>,
    /// Raised to break off what runs, when it is to stop or to go on otherwise.
    again: Arc<AtomicBool>,
    model: Arc<ModelSlot>,
    pace: LivePace,
    /// Where flows are generated.
    device: Device,
}

struct Inner {
    config: ReplayConfig,
    status: ReplayStatus,
}

/// The newest model, and how many there were.
#[derive(Default)]
struct ModelSlot {
    newest: Mutex<Option<InUse>>,
    count: AtomicU64,
}

impl Wanted {
    /// What a configuration wants, generated on a device that can be used.
    pub(super) fn new(config: ReplayConfig, device: Device) -> Self {
        let pace = LivePace::new(Pace::Capture { multiplier: config.multiplier });
        let status = ReplayStatus {
            running: config.start,
            pace: pace.get().to_string(),
            device: device.to_string(),
            flows_per_second: config.flows_per_second,
            ..ReplayStatus::default()
        };
        let inner = Mutex::new(Inner { config, status });
        Self { inner, again: Arc::default(), model: Arc::default(), pace, device }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn status(&self) -> ReplayStatus {
        self.lock().status.clone()
    }

    /// Starts or stops sending.
    pub(super) fn run(&self, running: bool) {
        self.lock().status.running = running;
        self.again.store(true, Relaxed);
    }

    /// Sets how many flows begin a second.
    pub(super) fn rate(&self, flows_per_second: f64) {
        let mut inner = self.lock();
        inner.config.flows_per_second = flows_per_second;
        inner.status.flows_per_second = flows_per_second;
        self.again.store(true, Relaxed);
    }

    /// Sets how fast packets leave, from the next one on; nothing is broken off for it.
    pub(super) fn pace(&self, pace: Pace) -> Result<(), ReplayError> {
        let mut inner = self.lock();
        self.pace.set(pace)?;
        inner.status.pace = self.pace.get().to_string();
        Ok(())
    }

    /// Takes over another configuration, except for the tap.
    pub(super) fn configure(&self, config: &ReplayConfig) {
        let multiplier = std::mem::replace(&mut self.lock().config.multiplier, config.multiplier);
        if multiplier != config.multiplier
            && let Err(error) = self.pace(Pace::Capture { multiplier: config.multiplier })
        {
            tracing::error!("[replay] stays at its pace: {error}");
        }
        let mut inner = self.lock();
        if inner.config != *config {
            inner.config = config.clone();
            inner.status.flows_per_second = config.flows_per_second;
            self.again.store(true, Relaxed);
        }
    }

    /// New flows come from `model` from now on.
    pub(super) fn follow(&self, model: &InUse) {
        *lock(&self.model.newest) = Some(model.clone());
        self.model.count.fetch_add(1, Relaxed);
    }

    /// Breaks off what runs.
    pub(super) fn interrupt(&self) {
        self.again.store(true, SeqCst);
    }
}

impl ModelSlot {
    fn newest(&self) -> Option<InUse> {
        lock(&self.newest).clone()
    }
}

/// Replays until `stop`, which has to be followed by [`Wanted::interrupt`].
///
/// # Errors
/// The GPU failed: it is of no more use to this process, and another one may have it. All other trouble is logged and tried again.
pub(super) fn run(wanted: &Wanted, opening: &Opening, stop: &AtomicBool) -> Result<()> {
    let mut complaint = String::new();
    loop {
        // First of all: a change from now on breaks off what begins now. In this order, and in sequence with whoever raises
        // both flags, so that an end cannot be missed.
        wanted.again.store(false, SeqCst);
        if stop.load(SeqCst) {
            return Ok(());
        }
        let (config, status) = {
            let inner = wanted.lock();
            (inner.config.clone(), inner.status.clone())
        };
        if !status.running || wanted.model.count.load(Relaxed) == 0 {
            std::thread::park_timeout(RETRY / 5);
            continue;
        }
        match play(wanted, &config, &status, opening) {
            Ok(()) => complaint.clear(),
            Err(error) => {
                wanted.lock().status.failed += 1;
                if let Some(DeviceFailure::Failed { .. }) = error.downcast_ref() {
                    return Err(error.context("replay ended"));
                }
                // Once for each trouble, not once a second.
                let text = format!("{error:#}");
                if text != complaint {
                    tracing::warn!("replay broke off, trying again every second: {text}");
                    complaint = text;
                }
                std::thread::sleep(RETRY);
            }
        }
        wanted.lock().status.pps = 0.0;
    }
}

/// Sends until something else is wanted.
fn play(wanted: &Wanted, config: &ReplayConfig, before: &ReplayStatus, opening: &Opening) -> Result<()> {
    let mut tap = opening.tap(config)?;
    let (sender, packets) = sync_channel(AHEAD_PACKETS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = Timestamp::from_parts(now.as_secs() as i64, i64::from(now.subsec_nanos()));
    let generating = Generating::new(config, wanted.device, start, Arc::clone(&wanted.model))?;
    let (name, trouble) = (Arc::clone(&generating.name), Arc::clone(&generating.trouble));
    // It is not waited for: a flow that nobody wants any more may take it seconds to finish.
    std::thread::Builder::new().name("generate".to_owned()).spawn(move || generating.run(sender))?;
    let options = ReplayOptions { live: Some(wanted.pace.clone()), report_every: REPORT, ..ReplayOptions::default() };
    let tell = |counters: &ReplayCounters| {
        let status = &mut wanted.lock().status;
        status.sent = before.sent + counters.sent;
        status.refused = before.refused + counters.refused;
        status.late = before.late + counters.late;
        status.pps = counters.pps;
        status.model.clone_from(&lock(&name));
    };
    let mut source = Some(Box::new(Queued { packets }) as Box<dyn PacketSource + Send>);
    let open = move || Ok(source.take().unwrap_or_else(|| Box::new(Nothing)));
    let outcome = replay::run(open, &mut tap, &options, &wanted.again, tell);
    match &outcome {
        Ok(counters) => tell(counters),
        Err(error) => error.counters().into_iter().for_each(tell),
    }
    match lock(&trouble).take() {
        Some(error) => Err(error),
        None => Ok(outcome.map(drop)?),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packets from the generating thread.
struct Queued {
    packets: Receiver<Packet>,
}

impl PacketSource for Queued {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        Ok(match self.packets.recv_timeout(WAIT) {
            Ok(packet) => Next::Packet(packet),
            Err(RecvTimeoutError::Timeout) => Next::Idle,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        })
    }
}

/// No packets.
struct Nothing;

impl PacketSource for Nothing {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        Ok(Next::End)
    }
}

/// Requests for flows, given out to one generator after the other.
type Requests = Arc<Mutex<Box<dyn Iterator<Item = Request> + Send>>>;

/// Generates flows with whichever model is the newest.
struct Generating {
    options: GenerateOptions,
    device: Device,
    precision: Option<Precision>,
    model: Arc<ModelSlot>,
    requests: Requests,
    arrivals: Arrivals,
    /// The version that new flows come from.
    name: Arc<Mutex<Option<String>>>,
    /// Why there are no more packets, where that is no end.
    trouble: Arc<Mutex<Option<Error>>>,
    current: Option<Current>,
    /// How many models there were when the current one began.
    count: u64,
}

/// A generator, and the flag that ends its requests.
struct Current {
    generator: Generator,
    is_over: Arc<AtomicBool>,
}

impl Generating {
    fn new(config: &ReplayConfig, device: Device, start: Timestamp, model: Arc<ModelSlot>) -> Result<Self> {
        let arrivals = Arrivals::new(start, config.flows_per_second, config.seed)?;
        let mix: Vec<(String, u32)> = config.mix.iter().map(|(name, weight)| (name.clone(), *weight)).collect();
        let choice = if mix.is_empty() { LabelChoice::default() } else { LabelChoice::Drawn(mix) };
        let labels = match model.newest() {
            Some(model) => Some(Labels::new(&choice, config.seed, model.codec.as_ref())?),
            None => None,
        };
        let labels = labels.into_iter().flatten();
        let requests = labels.zip(arrivals.clone()).map(|(label, start)| Request { label, prompt: None, start });
        let options = GenerateOptions {
            streams: config.streams,
            seed: config.seed,
            sampling: Sampling { temperature: config.temperature, ..Sampling::default() },
            packets_max: Some(config.flow_packets_max),
            ..GenerateOptions::default()
        };
        options.validate()?;
        let requests: Requests = Arc::new(Mutex::new(Box::new(requests)));
        Ok(Self {
            options,
            device,
            precision: config.precision.0,
            model,
            requests,
            arrivals,
            name: Arc::default(),
            trouble: Arc::default(),
            current: None,
            count: 0,
        })
    }

    /// Generates until nobody takes the packets, or until it cannot; whoever waits for packets is told of an end after the trouble
    /// is known.
    fn run(self, packets: SyncSender<Packet>) {
        let trouble = Arc::clone(&self.trouble);
        if let Err(failure) = device::guard(|| self.generate_into(&packets)) {
            *lock(&trouble) = Some(failure.into());
        }
    }

    /// Puts the packets in their order into `packets`, until nobody takes them.
    fn generate_into(mut self, packets: &SyncSender<Packet>) {
        let arrivals = self.arrivals.clone();
        for next in Timeline::new(move || self.next_flow(), arrivals, HELD_PACKETS_MAX) {
            if packets.send(next.packet).is_err() {
                return;
            }
        }
    }

    fn next_flow(&mut self) -> Option<GeneratedFlow> {
        loop {
            let is_newest = self.count == self.model.count.load(Relaxed);
            if let Some(current) = self.current.as_mut() {
                if !is_newest {
                    current.is_over.store(true, Relaxed);
                }
                if let Some(flow) = current.generator.next_flow() {
                    return Some(flow);
                }
                // Its last flow is through, and it was not told so: there are no more requests.
                if is_newest {
                    return None;
                }
            }
            self.current = Some(self.begin()?);
        }
    }

    /// A generator with the newest model; `None` when it cannot be made, which is [`trouble`](Self::trouble).
    fn begin(&mut self) -> Option<Current> {
        self.count = self.model.count.load(Relaxed);
        let model = self.model.newest()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (flag, requests) = (Arc::clone(&is_over), Arc::clone(&self.requests));
        let requests = std::iter::from_fn(move || {
            let mut requests = lock(&requests);
            if flag.load(Relaxed) { None } else { requests.next() }
        });
        // Chance belongs to a flow's place in its generator: another seed, or flows would come again.
        let options = GenerateOptions { seed: self.options.seed.wrapping_add(self.count), ..self.options };
        let made = engine::decoder(&model.params, self.device, self.precision)
            .map_err(Error::from)
            .and_then(|decoder| Ok(Generator::new(decoder, model.codec, options, Box::new(requests))?));
        match made {
            Ok(generator) => {
                tracing::info!(model = model.name, device = %self.device, "replay: new flows come from");
                *lock(&self.name) = Some(model.name);
                Some(Current { generator, is_over })
            }
            Err(error) => {
                *lock(&self.trouble) = Some(error.context(format!("no flows from {}", model.name)));
                None
            }
        }
    }
}
