//! Replaying: packets from a source into a sink, each at its time.
//!
//! One thread reads packets ahead, into a ring of bounded size. The other takes them out, asks the [`Schedule`] when each is
//! due, waits with the pacer and sends. Deadlines are absolute, so a short stall is caught up and pushes nothing back; what
//! was late is counted, and so is a source that was not there in time. Sources and sinks are other modules' work.

mod awake;
mod book;
mod counters;
mod error;
mod feed;
mod fragment;
mod lead;
mod live;
mod margin;
mod options;
mod pacer;
mod profile;
mod recovery;
mod schedule;
mod split;
mod tick;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sink::{PacketSink, SinkError};
use crate::source::{PacketSource, SourceError, Tagged};
use crate::sys::precedence::{OneProcessor, Precedence};
use awake::Awake;
use book::{Entry, FlowBook, monotonic_epoch_ns};
use feed::{Fed, Feed};
use pacer::{Pacer, Wait};
use recovery::next_lag;
use split::{Cut, Splitter};
use wiremamba_model::flow::Direction;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

pub use feed::PRELOAD_BYTES_MAX;

pub use book::{TruthError, TruthFlow, TruthState};
pub use counters::{Ended, ReplayCounters};
pub use error::ReplayError;
pub use live::LivePace;
pub use margin::Spin;
pub use options::ReplayOptions;
pub use profile::{Profile, ProfileError, ProfileUnit};
pub use schedule::{Pace, Schedule};
pub use split::Oversize;

/// A packet sent more than this after its deadline is late: well above a wake-up of an idle machine (0.1 ms),
/// well below what a TCP or an IDS would notice.
pub const LATE_NS: u64 = 1_000_000;
/// Longest sleep on an empty ring before the stop flag is looked at.
const EMPTY_WAIT: Duration = Duration::from_millis(5);
/// Bytes of an Ethernet header, which the MTU does not count.
const ETHERNET_HEADER: u32 = 14;
/// Shortest time between two reports.
const REPORT_MIN_NS: u64 = 10_000_000;

/// Replays the packets of `open`'s sources into `sink` and returns the final counters.
///
/// `open` is called once for each pass and must give the packets from the beginning; a pass without any packet
/// ends the job, however many passes were asked for. Every packet is sent in the order of the source. `stop` is
/// looked at before each packet and at least every 20 ms of waiting; raising it is a normal end. `report` is
/// called every [`ReplayOptions::report_every`]; the final counters are returned and not reported.
///
/// `sink` belongs to this job alone: its report is taken for the job's, and it is finished at the end, whatever
/// happened. It is not dropped, so that a tap stays up until its readers are done.
///
/// The calling thread sends: while it runs, it sets its own timer slack, goes before others where it may, and stays on one processor
/// where the sink has sides. `open` is called by another, which
/// reads up to some thousand packets ahead.
pub fn run(
    open: impl FnMut() -> Result<Box<dyn PacketSource + Send>, SourceError> + Send + 'static,
    sink: &mut dyn PacketSink,
    options: &ReplayOptions,
    stop: &AtomicBool,
    report: impl FnMut(&ReplayCounters),
) -> Result<ReplayCounters, ReplayError> {
    let changes = options.live.as_ref().map_or(0, LivePace::changes);
    let pace = options.live.as_ref().map_or_else(|| options.pace.clone(), LivePace::get);
    let schedule = Schedule::new(pace, options.gap_max)?;
    let mut counters = ReplayCounters::default();
    let keeps_times = sink.keeps_times();
    let epoch_ns = if keeps_times { 0 } else { monotonic_epoch_ns(pacer::now_ns()) };
    let book = match (&options.truth, sink.has_sides()) {
        (None, false) => None,
        (path, _) => match FlowBook::new(path.as_deref(), &options.labels, epoch_ns) {
            Ok(book) => Some(book),
            Err(source) => {
                counters.ended = Ended::Failed;
                return Err(ReplayError::Truth { source, counters: Box::new(counters) });
            }
        },
    };
    let feed = if options.preload {
        Feed::preloaded(open, stop)
            .map_err(|source| ReplayError::Source { source, counters: Box::new(counters.clone()) })?
    } else {
        Feed::start(open, options.loops, !schedule.is_top_speed()).map_err(ReplayError::Thread)?
    };
    let mut job = Job {
        schedule,
        changes,
        feed,
        is_starved: true,
        starved_since: None,
        book,
        keeps_times,
        pacer: Pacer::new(options.spin),
        lag_ns: 0,
        due_ns: 0,
        splitter: Splitter::default(),
        counters,
        start_ns: None,
        next_report_ns: u64::MAX,
        options,
        stop,
        report,
    };
    let is_paced = !job.schedule.is_top_speed();
    let awake = (options.keep_awake && is_paced).then(Awake::keep).flatten();
    let precedence = is_paced.then(Precedence::take).flatten();
    let place = sink.has_sides().then(OneProcessor::keep).flatten();
    let mut ended = job.passes(sink);
    drop((awake, precedence, place));
    let elapsed = job.start_ns.map_or(0, |start| pacer::now_ns().saturating_sub(start));
    let finished = sink.finish();
    if let Some(book) = &mut job.book {
        let is_cut = !matches!(ended, Ok(Ended::Source));
        if let (Err(error), Ok(_)) = (book.finish(is_cut), &ended) {
            ended = Err(Failure::Truth(error));
        }
        job.counters.truth_flows = if options.truth.is_some() { book.flows } else { 0 };
    }

    let mut counters = job.counters;
    counters.gaps_clipped = job.schedule.gaps_clipped();
    counters.backwards = job.schedule.backwards();
    counters.at(elapsed);
    counters.take(finished.as_ref().unwrap_or(sink.report()));
    counters.take_stock(options.stock.as_deref());
    counters.through_device = None;
    counters.ended = *ended.as_ref().unwrap_or(&Ended::Failed);
    match (ended, finished) {
        (Err(Failure::Source(source)), _) => Err(ReplayError::Source { source, counters: Box::new(counters) }),
        (Err(Failure::Sink(source)), _) => Err(ReplayError::Sink { source, counters: Box::new(counters) }),
        (Err(Failure::Truth(source)), _) => Err(ReplayError::Truth { source, counters: Box::new(counters) }),
        (Ok(_), Err(source)) => {
            counters.ended = Ended::Failed;
            Err(ReplayError::Sink { source, counters: Box::new(counters) })
        }
        (Ok(_), Ok(_)) => Ok(counters),
    }
}

enum Failure {
    Source(SourceError),
    Sink(SinkError),
    Truth(TruthError),
}

/// A packet, or a part of one, whose time has come.
#[derive(Clone, Copy)]
struct Offer<'a> {
    tagged: &'a Tagged,
    /// What the book has of the whole.
    entry: Option<&'a Entry>,
    now: u64,
    late_ns: u64,
    /// Whether the sink has it already.
    is_staged: bool,
}

/// Whose packet it is, where somebody knows.
fn direction(entry: Option<&Entry>) -> Direction {
    entry.map_or(Direction::Orig, |entry| entry.direction)
}

/// A replay under way.
struct Job<'a, R> {
    schedule: Schedule,
    /// Changes of the pace that the schedule knows.
    changes: u64,
    feed: Feed,
    /// Whether the ring was empty when the packet at hand was asked for.
    is_starved: bool,
    /// Since when the ring has been empty, once the first packet was there.
    starved_since: Option<u64>,
    /// Kept where somebody wants to know about flows.
    book: Option<FlowBook>,
    /// Whether a reader sees packets at their own times.
    keeps_times: bool,
    pacer: Pacer,
    /// How late the last packet was.
    lag_ns: u64,
    /// When it was due, after the first one.
    due_ns: u64,
    splitter: Splitter,
    counters: ReplayCounters,
    /// When the first packet was due, on the monotonic clock.
    start_ns: Option<u64>,
    next_report_ns: u64,
    options: &'a ReplayOptions,
    stop: &'a AtomicBool,
    report: R,
}

impl<R: FnMut(&ReplayCounters)> Job<'_, R> {
    /// All passes over the source; says why they ended.
    fn passes(&mut self, sink: &mut dyn PacketSink) -> Result<Ended, Failure> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Ended::Stopped);
            }
            if self.feed.is_at_end_of_batch() && !self.schedule.is_top_speed() {
                // The next batch takes its time, which the last packet of this one need not wait for.
                sink.flush().map_err(Failure::Sink)?;
            }
            let ended = match self.feed.next() {
                Fed::Packet(tagged) => {
                    let ended = self.packet(&tagged, sink)?;
                    self.feed.give_back(tagged);
                    ended
                }
                Fed::Empty => self.wait_for_source(sink)?,
                Fed::PassEnded { was_empty } => {
                    self.counters.loops += 1;
                    self.schedule.next_pass();
                    (was_empty || self.counters.loops == self.options.loops).then_some(Ended::Source)
                }
                Fed::Failed(error) => return Err(Failure::Source(error)),
                Fed::Over => return Err(Failure::Source(SourceError::Broken)),
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    /// Waits for one packet's time and sends it.
    fn packet(&mut self, tagged: &Tagged, sink: &mut dyn PacketSink) -> Result<Option<Ended>, Failure> {
        if self.options.limit.is_some_and(|limit| self.taken() >= limit) {
            return Ok(Some(Ended::Limit));
        }
        let is_starved = std::mem::take(&mut self.is_starved) && self.start_ns.is_some();
        self.note_starvation(None);
        let Some(start) = self.start_ns.or_else(|| self.begin(sink)) else { return Ok(Some(Ended::Stopped)) };
        self.follow_pace(start);
        let packet = &tagged.packet;
        // Of the whole: a fragment but the first one has no ports.
        let entry = self.book.as_ref().and_then(|book| book.look_up(tagged));
        let (mut is_waited_for, mut is_staged) = (false, false);
        let (now, late_ns) = match self.schedule.deadline_ns(packet.ts, packet.len) {
            Some(due) => {
                if self.options.duration.is_some_and(|d| u128::from(due) > d.as_nanos()) {
                    return Ok(Some(Ended::Duration));
                }
                let deadline = start.saturating_add(due).saturating_add(self.counters.moved_ns);
                let is_underrun = is_starved && pacer::now_ns() > deadline;
                let gap = due.saturating_sub(std::mem::replace(&mut self.due_ns, due));
                let target = deadline.saturating_add(next_lag(self.lag_ns, gap));
                if pacer::now_ns() < target {
                    sink.flush().map_err(Failure::Sink)?;
                    is_waited_for = true;
                    is_staged = self.may_be_staged(packet, sink) && sink.stage(tagged, direction(entry.as_ref()));
                }
                match self.wait_and_report(target, sink) {
                    Wait::Reached(now) if self.is_over(now) => return Ok(Some(Ended::Duration)),
                    Wait::Reached(now) => {
                        self.lag_ns = self.catch_up(now.saturating_sub(deadline), is_underrun);
                        (now, self.lag_ns)
                    }
                    Wait::Stopped => return Ok(Some(Ended::Stopped)),
                }
            }
            None => {
                let now = pacer::now_coarse_ns();
                if self.is_over(now) {
                    return Ok(Some(Ended::Duration));
                }
                (now, 0)
            }
        };
        let sent_before = self.counters.sent;
        let offer = Offer { tagged, entry: entry.as_ref(), now, late_ns, is_staged };
        if let Some(ended) = self.send(&offer, sink)? {
            return Ok(Some(ended));
        }
        match self.counters.sent - sent_before {
            0 => {}
            1 if is_waited_for => self.pacer.sent_in_time(now),
            _ => self.pacer.sent(now),
        }
        self.report_if_due(now, sink);
        // Known now rather than when the next packet is there, which may take its time.
        Ok(self.options.limit.is_some_and(|limit| self.taken() >= limit).then_some(Ended::Limit))
    }

    /// Whether a packet goes as it is where it goes: what may be split is looked at when it is sent.
    fn may_be_staged(&self, packet: &Packet, sink: &dyn PacketSink) -> bool {
        let header = if packet.linktype == LinkType::ETHERNET { ETHERNET_HEADER } else { 0 };
        let mtu = sink.mtu().or(self.options.mtu);
        self.options.oversize == Oversize::Refuse || mtu.is_none_or(|mtu| packet.len <= mtu.saturating_add(header))
    }

    /// Sends a packet whose time has come, or its parts where it is too long and may be split.
    fn send(&mut self, offer: &Offer<'_>, sink: &mut dyn PacketSink) -> Result<Option<Ended>, Failure> {
        if offer.is_staged || self.options.oversize == Oversize::Refuse {
            return self.send_one(offer, sink);
        }
        let mtu = sink.mtu().or(self.options.mtu);
        let mut splitter = std::mem::take(&mut self.splitter);
        let parts = match mtu.and_then(|mtu| splitter.split(offer.tagged, mtu)) {
            None => None,
            Some(Cut::Segments(parts)) => Some(parts),
            Some(Cut::Fragments(parts)) => {
                self.counters.oversize_fragmented += 1;
                Some(parts)
            }
        };
        let mut ended = Ok(None);
        match parts {
            None => ended = self.send_one(offer, sink),
            Some(parts) => {
                self.counters.oversize_split += 1;
                self.counters.oversize_segments += parts.len() as u64;
                for part in parts {
                    ended = self.send_one(&Offer { tagged: part, ..*offer }, sink);
                    if !matches!(ended, Ok(None)) {
                        break;
                    }
                }
            }
        }
        self.splitter = splitter;
        ended
    }

    /// Sends what fits, or is refused.
    fn send_one(&mut self, offer: &Offer<'_>, sink: &mut dyn PacketSink) -> Result<Option<Ended>, Failure> {
        let Offer { tagged, entry, now, late_ns, is_staged } = *offer;
        let sent = match entry {
            _ if is_staged => sink.release(direction(entry)),
            Some(entry) => sink.send_from(tagged, entry.direction),
            None => sink.send(&tagged.packet),
        };
        match sent {
            Ok(()) => {
                let is_sent = self.counters.count(sink.report(), late_ns);
                if tagged.tag.is_last {
                    let sessions = if tagged.tag.is_again {
                        &mut self.counters.sessions_again
                    } else {
                        &mut self.counters.sessions_fresh
                    };
                    *sessions += 1;
                }
                self.enter(entry.filter(|_| is_sent), tagged, now)?;
            }
            Err(SinkError::Closed { .. }) => return Ok(Some(Ended::Closed)),
            Err(error) => return Err(Failure::Sink(error)),
        }
        Ok(None)
    }

    /// Takes over a pace that was changed.
    fn follow_pace(&mut self, start: u64) {
        if let Some(live) = self.options.live.as_ref().filter(|live| live.changes() != self.changes) {
            self.changes = live.changes();
            let now = pacer::now_ns().saturating_sub(start).saturating_sub(self.counters.moved_ns);
            self.schedule.change(live.get(), now);
        }
    }

    /// Adds up the time in which there was no packet: until `since`, from when on there is none, or `None` where there is one.
    fn note_starvation(&mut self, since: Option<u64>) {
        if self.starved_since.is_some() || since.is_some() {
            let now = since.unwrap_or_else(pacer::now_ns);
            if let Some(before) = self.starved_since {
                self.counters.starved_s += now.saturating_sub(before) as f64 * 1e-9;
            }
            self.starved_since = since;
        }
    }

    /// Takes a packet that was sent into the ground truth.
    fn enter(&mut self, entry: Option<&Entry>, tagged: &Tagged, now: u64) -> Result<(), Failure> {
        let (Some(book), Some(entry)) = (&mut self.book, entry) else { return Ok(()) };
        let now = match tagged.packet.ts {
            Timestamp(ns) if self.keeps_times => u64::try_from(ns).unwrap_or(0),
            // At top speed the clock at hand is a few milliseconds old.
            _ if self.schedule.is_top_speed() => pacer::now_ns(),
            _ => now,
        };
        book.sent(entry, tagged, now).map_err(Failure::Truth)
    }

    /// Takes a delay into account: what is beyond the allowed catch-up moves the rest of the schedule. Returns what is left.
    fn catch_up(&mut self, late_ns: u64, is_underrun: bool) -> u64 {
        if is_underrun {
            self.counters.underruns += 1;
            self.counters.underrun_max_us = self.counters.underrun_max_us.max(late_ns as f64 / 1e3);
        }
        let most = nanos(self.options.catch_up_max);
        if late_ns > most {
            self.counters.moves += 1;
            self.counters.moved_ns += late_ns - most;
        }
        late_ns.min(most)
    }

    /// Waits the start delay, warms up and sets the time of the first packet; `None` when stopped meanwhile.
    fn begin(&mut self, sink: &mut dyn PacketSink) -> Option<u64> {
        let delay = nanos(self.options.start_delay);
        if self.pacer.sleep_until(pacer::now_ns().saturating_add(delay), self.stop) == Wait::Stopped {
            return None;
        }
        if self.options.live.is_some() || !self.schedule.is_top_speed() {
            sink.prepare_to_warm();
        }
        let start = if self.schedule.is_top_speed() {
            pacer::now_ns()
        } else {
            match self.pacer.warm_up(self.stop) {
                Wait::Reached(now) => now,
                Wait::Stopped => return None,
            }
        };
        self.start_ns = Some(start);
        self.next_report_ns = start.saturating_add(self.report_every_ns());
        Some(start)
    }

    /// Waits until `deadline`, with the reports that fall due before it.
    fn wait_and_report(&mut self, deadline: u64, sink: &mut dyn PacketSink) -> Wait {
        while self.next_report_ns < deadline {
            match self.pacer.sleep_until(self.next_report_ns, self.stop) {
                Wait::Reached(now) => self.report_if_due(now, sink),
                Wait::Stopped => return Wait::Stopped,
            }
        }
        self.pacer.wait_until(deadline, self.stop, || sink.warm())
    }

    /// Waits a moment for a source that has nothing.
    fn wait_for_source(&mut self, sink: &mut dyn PacketSink) -> Result<Option<Ended>, Failure> {
        sink.flush().map_err(Failure::Sink)?;
        self.is_starved = true;
        if self.start_ns.is_some() {
            self.note_starvation(Some(pacer::now_ns()));
        }
        self.feed.wait(EMPTY_WAIT);
        let now = pacer::now_coarse_ns();
        self.report_if_due(now, sink);
        Ok(self.is_over(now).then_some(Ended::Duration))
    }

    fn is_over(&self, now: u64) -> bool {
        let elapsed = self.start_ns.map_or(0, |start| now.saturating_sub(start));
        self.options.duration.is_some_and(|d| u128::from(elapsed) > d.as_nanos())
    }

    fn report_if_due(&mut self, now: u64, sink: &dyn PacketSink) {
        let Some(start) = self.start_ns.filter(|_| now >= self.next_report_ns) else { return };
        // A report that took longer than the time between two is not followed by a burst of them.
        self.next_report_ns = now.saturating_add(self.report_every_ns());
        self.counters.gaps_clipped = self.schedule.gaps_clipped();
        self.counters.backwards = self.schedule.backwards();
        self.counters.at(now.saturating_sub(start));
        self.counters.take(sink.report());
        self.counters.take_stock(self.options.stock.as_deref());
        self.counters.through_device = sink.through_device();
        (self.report)(&self.counters);
    }

    fn report_every_ns(&self) -> u64 {
        nanos(self.options.report_every).max(REPORT_MIN_NS)
    }

    /// Packets taken from the source so far.
    fn taken(&self) -> u64 {
        // A packet that was split counts once.
        (self.counters.sent + self.counters.refused + self.counters.oversize_split)
            .saturating_sub(self.counters.oversize_segments)
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
