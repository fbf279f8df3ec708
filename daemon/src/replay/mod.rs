//! Replaying: packets from a source into a sink, each at its time.
//!
//! One thread reads a packet, asks the [`Schedule`] when it is due, waits with the pacer and sends. Deadlines are
//! absolute, so a stall is caught up and never pushes the rest back; what was late is counted. Sources and sinks
//! are other modules' work.

mod counters;
mod pacer;
mod schedule;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wiremamba_model::packet::Packet;

use crate::sink::{PacketSink, SinkError, SinkReport};
use crate::source::{Next, PacketSource, SourceError};
use pacer::{Pacer, Wait};

pub use counters::{Ended, ReplayCounters};
pub use pacer::Spin;
pub use schedule::{Pace, Schedule};

/// A packet sent more than this after its deadline is late: well above a wake-up of an idle machine (0.1 ms),
/// well below what a TCP or an IDS would notice.
pub const LATE_NS: u64 = 1_000_000;
/// Wait before a source that has nothing yet is asked again.
const IDLE_NS: u64 = 1_000_000;
/// Shortest time between two reports.
const REPORT_MIN_NS: u64 = 10_000_000;

/// How to replay.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayOptions {
    /// How fast. Default: as captured.
    pub pace: Pace,
    /// Passes over the source; 0 is for ever. Default 1.
    pub loops: u64,
    /// Stop after this many packets taken from the source, sent or refused. Default: none.
    pub limit: Option<u64>,
    /// Stop at this time after the first packet. Default: none.
    pub duration: Option<Duration>,
    /// Longest wait between two packets when pacing by the capture; longer ones are cut and counted. Default 60 s,
    /// which keeps keep-alives and polling, and not the night between two working days.
    pub gap_max: Duration,
    /// How long before a deadline to spin instead of sleep. Default: measured.
    pub spin: Spin,
    /// Wait before the first packet, so that a sniffer can attach to an interface that has just come up. Default 0.
    pub start_delay: Duration,
    /// Time between two reports, at least 10 ms. Default 5 s.
    pub report_every: Duration,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            pace: Pace::Capture { multiplier: 1.0 },
            loops: 1,
            limit: None,
            duration: None,
            gap_max: Duration::from_secs(60),
            spin: Spin::Adaptive,
            start_delay: Duration::ZERO,
            report_every: Duration::from_secs(5),
        }
    }
}

/// Why a replay did not reach its end. `counters` are what was done until then, the device's included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An option outside its range; nothing was opened.
    #[error("{option} is {value}, but must be {range}")]
    Option {
        /// The option, as on the command line.
        option: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// The packets could not be read on.
    #[error("reading packets to replay failed after {} sent", counters.sent)]
    Source {
        /// Why.
        #[source]
        source: SourceError,
        /// What was done.
        counters: Box<ReplayCounters>,
    },
    /// The sink is of no more use.
    #[error("replay failed after {} packets sent", counters.sent)]
    Sink {
        /// Why.
        #[source]
        source: SinkError,
        /// What was done.
        counters: Box<ReplayCounters>,
    },
}

impl ReplayError {
    /// What was done before it failed; `None` when nothing was begun.
    pub fn counters(&self) -> Option<&ReplayCounters> {
        match self {
            Self::Option { .. } => None,
            Self::Source { counters, .. } | Self::Sink { counters, .. } => Some(counters),
        }
    }
}

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
/// The calling thread does the work: it sets its own timer slack while it runs, and nothing else.
pub fn run(
    mut open: impl FnMut() -> Result<Box<dyn PacketSource>, SourceError>,
    sink: &mut dyn PacketSink,
    options: &ReplayOptions,
    stop: &AtomicBool,
    report: impl FnMut(&ReplayCounters),
) -> Result<ReplayCounters, ReplayError> {
    let mut job = Job {
        schedule: Schedule::new(options.pace, options.gap_max)?,
        pacer: Pacer::new(options.spin),
        counters: ReplayCounters::default(),
        start_ns: None,
        next_report_ns: u64::MAX,
        options,
        stop,
        report,
    };
    let ended = job.passes(&mut open, sink);
    let elapsed = job.start_ns.map_or(0, |start| pacer::now_ns().saturating_sub(start));
    let finished = sink.finish();

    let mut counters = job.counters;
    counters.gaps_clipped = job.schedule.gaps_clipped();
    counters.backwards = job.schedule.backwards();
    counters.at(elapsed);
    counters.take(finished.as_ref().unwrap_or(sink.report()));
    counters.ended = *ended.as_ref().unwrap_or(&Ended::Failed);
    match (ended, finished) {
        (Err(Failure::Source(source)), _) => Err(ReplayError::Source { source, counters: Box::new(counters) }),
        (Err(Failure::Sink(source)), _) => Err(ReplayError::Sink { source, counters: Box::new(counters) }),
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
}

/// A replay under way.
struct Job<'a, R> {
    schedule: Schedule,
    pacer: Pacer,
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
    fn passes(
        &mut self,
        open: &mut impl FnMut() -> Result<Box<dyn PacketSource>, SourceError>,
        sink: &mut dyn PacketSink,
    ) -> Result<Ended, Failure> {
        loop {
            let taken_before = self.taken();
            let mut source = open().map_err(Failure::Source)?;
            if let Some(ended) = self.pass(&mut *source, sink)? {
                return Ok(ended);
            }
            self.counters.loops += 1;
            let was_empty = self.taken() == taken_before;
            if was_empty || self.counters.loops == self.options.loops {
                return Ok(Ended::Source);
            }
            self.schedule.next_pass();
        }
    }

    /// One pass; `None` when the source came to its end, otherwise why the whole job ends.
    fn pass(&mut self, source: &mut dyn PacketSource, sink: &mut dyn PacketSink) -> Result<Option<Ended>, Failure> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Some(Ended::Stopped));
            }
            let ended = match source.next_packet().map_err(Failure::Source)? {
                Next::Packet(packet) => self.packet(&packet, sink)?,
                Next::Idle => self.idle(sink.report()),
                Next::End => return Ok(None),
            };
            if ended.is_some() {
                return Ok(ended);
            }
        }
    }

    /// Waits for one packet's time and sends it.
    fn packet(&mut self, packet: &Packet, sink: &mut dyn PacketSink) -> Result<Option<Ended>, Failure> {
        if self.options.limit.is_some_and(|limit| self.taken() >= limit) {
            return Ok(Some(Ended::Limit));
        }
        let start = match self.start_ns {
            Some(start) => start,
            None => match self.begin() {
                Some(start) => start,
                None => return Ok(Some(Ended::Stopped)),
            },
        };
        let (now, late_ns) = match self.schedule.deadline_ns(packet.ts, packet.len) {
            Some(due) => {
                if self.options.duration.is_some_and(|d| u128::from(due) > d.as_nanos()) {
                    return Ok(Some(Ended::Duration));
                }
                let deadline = start.saturating_add(due);
                match self.wait_and_report(deadline, sink.report()) {
                    Wait::Reached(now) if self.is_over(now) => return Ok(Some(Ended::Duration)),
                    Wait::Reached(now) => (now, now.saturating_sub(deadline)),
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
        match sink.send(packet) {
            Ok(()) => self.counters.count(sink.report(), late_ns),
            Err(SinkError::Closed { .. }) => return Ok(Some(Ended::Closed)),
            Err(error) => return Err(Failure::Sink(error)),
        }
        self.report_if_due(now, sink.report());
        // Known now rather than when the next packet is there, which may take its time.
        Ok(self.options.limit.is_some_and(|limit| self.taken() >= limit).then_some(Ended::Limit))
    }

    /// Waits the start delay, warms up and sets the time of the first packet; `None` when stopped meanwhile.
    fn begin(&mut self) -> Option<u64> {
        let delay = nanos(self.options.start_delay);
        if self.pacer.wait_until(pacer::now_ns().saturating_add(delay), self.stop) == Wait::Stopped {
            return None;
        }
        let start = match self.options.pace {
            Pace::TopSpeed => pacer::now_ns(),
            _ => match self.pacer.warm_up(self.stop) {
                Wait::Reached(now) => now,
                Wait::Stopped => return None,
            },
        };
        self.start_ns = Some(start);
        self.next_report_ns = start.saturating_add(self.report_every_ns());
        Some(start)
    }

    /// Waits until `deadline`, with the reports that fall due before it.
    fn wait_and_report(&mut self, deadline: u64, sink: &SinkReport) -> Wait {
        while self.next_report_ns < deadline {
            match self.pacer.wait_until(self.next_report_ns, self.stop) {
                Wait::Reached(now) => self.report_if_due(now, sink),
                Wait::Stopped => return Wait::Stopped,
            }
        }
        self.pacer.wait_until(deadline, self.stop)
    }

    /// Waits a moment for a source that has nothing.
    fn idle(&mut self, sink: &SinkReport) -> Option<Ended> {
        let now = match self.pacer.wait_until(pacer::now_ns() + IDLE_NS, self.stop) {
            Wait::Reached(now) => now,
            Wait::Stopped => return Some(Ended::Stopped),
        };
        self.report_if_due(now, sink);
        self.is_over(now).then_some(Ended::Duration)
    }

    fn is_over(&self, now: u64) -> bool {
        let elapsed = self.start_ns.map_or(0, |start| now.saturating_sub(start));
        self.options.duration.is_some_and(|d| u128::from(elapsed) > d.as_nanos())
    }

    fn report_if_due(&mut self, now: u64, sink: &SinkReport) {
        let Some(start) = self.start_ns.filter(|_| now >= self.next_report_ns) else { return };
        // A report that took longer than the time between two is not followed by a burst of them.
        self.next_report_ns = now.saturating_add(self.report_every_ns());
        self.counters.gaps_clipped = self.schedule.gaps_clipped();
        self.counters.backwards = self.schedule.backwards();
        self.counters.at(now.saturating_sub(start));
        self.counters.take(sink);
        (self.report)(&self.counters);
    }

    fn report_every_ns(&self) -> u64 {
        nanos(self.options.report_every).max(REPORT_MIN_NS)
    }

    /// Packets taken from the source so far.
    fn taken(&self) -> u64 {
        self.counters.sent + self.counters.refused
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
