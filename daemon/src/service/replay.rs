//! Replays what the model in use generates onto a tap, and follows promotions without a gap.
//!
//! One thread generates into a bounded queue of packets, one sends them at their times. A newer model takes the flows from
//! the next one on; those under way are finished by the model that began them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wiremamba_model::engine::{CpuDecoder, Precision};
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
    pub(super) fn new(config: ReplayConfig) -> Self {
        let pace = LivePace::new(Pace::Capture { multiplier: config.multiplier });
        let status = ReplayStatus {
            running: config.start,
            pace: pace.get().to_string(),
            flows_per_second: config.flows_per_second,
            ..ReplayStatus::default()
        };
        Self { inner: Mutex::new(Inner { config, status }), again: Arc::default(), model: Arc::default(), pace }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        *self.model.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(model.clone());
        self.model.count.fetch_add(1, Relaxed);
    }

    /// Breaks off what runs.
    pub(super) fn interrupt(&self) {
        self.again.store(true, SeqCst);
    }
}

impl ModelSlot {
    fn newest(&self) -> Option<InUse> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Replays until `stop`, which has to be followed by [`Wanted::interrupt`].
pub(super) fn run(wanted: &Wanted, opening: &Opening, stop: &AtomicBool) {
    let mut complaint = String::new();
    loop {
        // First of all: a change from now on breaks off what begins now. In this order, and in sequence with whoever raises
        // both flags, so that an end cannot be missed.
        wanted.again.store(false, SeqCst);
        if stop.load(SeqCst) {
            return;
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
    let generating = Generating::new(config, start, Arc::clone(&wanted.model))?;
    let name = Arc::clone(&generating.name);
    // It is not waited for: a flow that nobody wants any more may take it seconds to finish.
    std::thread::Builder::new().name("generate".to_owned()).spawn(move || generating.into(&sender))?;
    let options = ReplayOptions { live: Some(wanted.pace.clone()), report_every: REPORT, ..ReplayOptions::default() };
    let tell = |counters: &ReplayCounters| {
        let status = &mut wanted.lock().status;
        status.sent = before.sent + counters.sent;
        status.refused = before.refused + counters.refused;
        status.late = before.late + counters.late;
        status.pps = counters.pps;
        status.model.clone_from(&name.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let mut source = Some(Box::new(Queued { packets }) as Box<dyn PacketSource + Send>);
    let open = move || Ok(source.take().unwrap_or_else(|| Box::new(Nothing)));
    let outcome = replay::run(open, &mut tap, &options, &wanted.again, tell);
    match &outcome {
        Ok(counters) => tell(counters),
        Err(error) => error.counters().into_iter().for_each(tell),
    }
    Ok(outcome.map(drop)?)
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
    model: Arc<ModelSlot>,
    requests: Requests,
    arrivals: Arrivals,
    /// The version that new flows come from.
    name: Arc<Mutex<Option<String>>>,
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
    fn new(config: &ReplayConfig, start: Timestamp, model: Arc<ModelSlot>) -> Result<Self> {
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
        Ok(Self { options, model, requests, arrivals, name: Arc::default(), current: None, count: 0 })
    }

    /// Puts the packets in their order into `packets`, until nobody takes them.
    fn into(mut self, packets: &SyncSender<Packet>) {
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

    /// A generator with the newest model; `None` when it cannot be made, which is logged.
    fn begin(&mut self) -> Option<Current> {
        self.count = self.model.count.load(Relaxed);
        let model = self.model.newest()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (flag, requests) = (Arc::clone(&is_over), Arc::clone(&self.requests));
        let requests = std::iter::from_fn(move || {
            let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
            if flag.load(Relaxed) { None } else { requests.next() }
        });
        // Chance belongs to a flow's place in its generator: another seed, or flows would come again.
        let options = GenerateOptions { seed: self.options.seed.wrapping_add(self.count), ..self.options };
        let made = CpuDecoder::new(&model.params, Precision::for_decoding())
            .map_err(anyhow::Error::from)
            .and_then(|decoder| Ok(Generator::new(Box::new(decoder), model.codec, options, Box::new(requests))?));
        match made {
            Ok(generator) => {
                tracing::info!(model = model.name, "replay: new flows come from");
                *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(model.name);
                Some(Current { generator, is_over })
            }
            Err(error) => {
                tracing::error!("replay: no flows from {}: {error:#}", model.name);
                None
            }
        }
    }
}
