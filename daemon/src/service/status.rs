//! What the service says of itself.

use serde::{Deserialize, Serialize};

use super::ReplayStatus;

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
    /// Flows that wait for the learner.
    pub queued_flows: u64,
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
    /// Bits per packet of flows that the last round had not learned yet, under the model before it.
    pub fresh_bits_per_packet: Option<f64>,
    /// That beside what was held out and known well at the promotion before; 1 is no drift.
    pub drift: Option<f64>,
    /// Bits per packet of the base's own traffic that is held out, and the base's own.
    pub rehearsal_bits_per_packet: Option<f64>,
    /// The base's own.
    pub rehearsal_bits_per_packet_base: Option<f64>,
    /// Tokens per second of training in the last round.
    pub tokens_per_s: Option<f64>,
    /// Steps per second of training in the last round.
    pub steps_per_s: Option<f64>,
    /// The version in use.
    pub model: Option<String>,
    /// The replay, where one is configured.
    pub replay: Option<ReplayStatus>,
}

impl Status {
    /// The status for a person, a subject a line.
    pub fn text(&self) -> String {
        let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"));
        let mut ret = format!(
            "up        {:.0} s{}\n\
             capture   {} packets, {} dropped; {} flows, {} open; interfaces lost {} times\n\
             queue     {} flows wait, {} refused, {} forgotten\n\
             samples   {} recent, {} older, {} held out\n\
             learning  {} rounds, {} promoted, {} failed; {} steps, {} a second ({} tokens/s)\n\
             loss      {} bits per packet held out ({} before the last round)\n\
             drift     {}; fresh traffic has {} bits per packet\n\
             model     {}\n",
            self.uptime_s,
            if self.paused { ", learning paused" } else { "" },
            self.packets,
            self.packets_dropped,
            self.flows,
            self.open_flows,
            self.interfaces_lost,
            self.queued_flows,
            self.flows_refused,
            self.flows_forgotten,
            self.flows_recent,
            self.flows_reservoir,
            self.flows_held_out,
            self.rounds,
            self.promoted,
            self.rounds_failed,
            self.steps,
            number(self.steps_per_s),
            number(self.tokens_per_s),
            number(self.bits_per_packet),
            number(self.bits_per_packet_before),
            self.drift.map_or_else(|| "-".to_owned(), |drift| format!("{drift:.2}")),
            number(self.fresh_bits_per_packet),
            self.model.as_deref().unwrap_or("nothing yet"),
        );
        if let (Some(now), Some(base)) = (self.rehearsal_bits_per_packet, self.rehearsal_bits_per_packet_base) {
            ret += &format!("rehearsal {now:.1} bits per packet, the base {base:.1}\n");
        }
        if let Some(r) = &self.replay {
            let state = if r.running { "running" } else { "stopped" };
            let model = r.model.as_deref().unwrap_or("nothing yet");
            ret += &format!(
                "replay    {state}, {} flows/s from {model} on {}, {}: {} packets sent ({:.0}/s), {} refused, {} late, broke off {} times\n",
                r.flows_per_second, r.device, r.pace, r.sent, r.pps, r.refused, r.late, r.failed
            );
        }
        ret
    }

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
