//! `[learn]`: how to learn, and what of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{OutOfRange, within};

/// How to learn, and what of.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnConfig {
    /// New flows before a round of training begins.
    pub flows_per_round: usize,
    /// Steps of a round.
    pub steps_per_round: u64,
    /// Share of the time in which to train, 0 to 1.
    pub cpu_share: f64,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq_len: usize,
    /// One in so many flows is held out and only measured.
    pub held_out_every: usize,
    /// Held-out flows; older ones make room.
    pub held_out_max: usize,
    /// Tokens of them that are measured, twice a round. Nothing else happens meanwhile, so that it should take seconds.
    pub held_out_tokens_max: u64,
    /// The newest flows, all of which are learned in a round.
    pub recent_max: usize,
    /// Flows drawn evenly from all older ones, learned beside the newest.
    pub reservoir_max: usize,
    /// Memory of the flows to learn from, and a quarter of it for those that wait; twice as much when a round begins.
    pub memory_mib: u64,
    /// Flows that wait for the learner; further ones are counted and dropped.
    pub queue_max: usize,
    /// Captured bytes of a capture's open flows; the oldest are cut beyond.
    pub open_flows_mib: u64,
    /// Seconds after which a flow without packets is over.
    pub idle_s: u32,
    /// Seconds after which a flow that goes on is learned, and its rest taken for another.
    pub active_s: u32,
    /// Labels of flows that nDPI knows, by its name of their protocol (`TLS`, or `TLS.Google`). The program `ndpiReader` is
    /// asked; it reads packets from memory.
    pub ndpi: BTreeMap<String, String>,
    /// Captures (files, folders; a folder names the label) of what the base was trained on, so that it is not forgotten.
    pub rehearsal: Vec<PathBuf>,
    /// Share of them in what a round learns from, in packets.
    pub rehearsal_share: f64,
    /// Packets of them that are read at most.
    pub rehearsal_packets_max: u64,
    /// How much worse than the base the model may become on those of them that are held out.
    pub rehearsal_worse_max: f64,
    /// Seconds that a stop may take to measure and promote what an unfinished round has learned.
    pub drain_s: u32,
    /// Seconds between two lines of status.
    pub status_s: u32,
}

impl Default for LearnConfig {
    fn default() -> Self {
        Self {
            flows_per_round: 64,
            steps_per_round: 50,
            cpu_share: 0.5,
            learning_rate: 5e-4,
            batch: 4,
            seq_len: 512,
            held_out_every: 8,
            held_out_max: 256,
            held_out_tokens_max: 20_000,
            recent_max: 1024,
            reservoir_max: 4096,
            memory_mib: 512,
            queue_max: 4096,
            open_flows_mib: 256,
            idle_s: 60,
            active_s: 300,
            ndpi: BTreeMap::new(),
            rehearsal: Vec::new(),
            rehearsal_share: 0.3,
            rehearsal_packets_max: 1_000_000,
            rehearsal_worse_max: 0.05,
            drain_s: 30,
            status_s: 10,
        }
    }
}

impl LearnConfig {
    /// [`memory_mib`](Self::memory_mib) in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }

    pub(super) fn check(&self) -> Result<(), OutOfRange> {
        let counts = [
            ("learn.flows_per_round", self.flows_per_round),
            ("learn.steps_per_round", self.steps_per_round as usize),
            ("learn.batch", self.batch),
            ("learn.seq_len", self.seq_len),
            ("learn.held_out_max", self.held_out_max),
            ("learn.recent_max", self.recent_max),
            ("learn.memory_mib", self.memory_mib as usize),
            ("learn.queue_max", self.queue_max),
            ("learn.open_flows_mib", self.open_flows_mib as usize),
            ("learn.idle_s", self.idle_s as usize),
            ("learn.active_s", self.active_s as usize),
            ("learn.status_s", self.status_s as usize),
        ];
        counts.into_iter().try_for_each(|(key, n)| within(n > 0, key, n, "at least 1"))?;
        let [tokens, every] = [self.held_out_tokens_max, self.held_out_every as u64];
        within(tokens >= 2, "learn.held_out_tokens_max", tokens, "at least 2")?;
        within(every >= 2, "learn.held_out_every", every, "at least 2")?;
        let (share, rate) = (self.cpu_share, self.learning_rate);
        within(share > 0.0 && share <= 1.0, "learn.cpu_share", share, "above 0, at most 1")?;
        within(rate > 0.0 && rate.is_finite(), "learn.learning_rate", rate, "above 0")?;
        let (share, worse) = (self.rehearsal_share, self.rehearsal_worse_max);
        within((0.0..=0.9).contains(&share), "learn.rehearsal_share", share, "0 to 0.9")?;
        within((0.0..=f64::MAX).contains(&worse), "learn.rehearsal_worse_max", worse, "at least 0")
    }
}
