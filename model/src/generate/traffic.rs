//! A checkpoint and what is asked of it, made into packets on one time line.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use super::arrivals::{Arrivals, ArrivalsError, FlowRate};
use super::decoder::Decoder;
use super::generator::{GenerateError, Generator, GeneratorCounters, Request, Requests};
use super::labels::{LabelChoice, Labels, LabelsError};
use super::settings::GenerateOptions;
use super::stock::{STOCK_BYTES_MAX, Stock, Stocked};
use super::timeline::{HELD_PACKETS_MAX, Timeline, TimelineCounters, TimelinePacket};
use crate::codec::{Codec, LabelId, Token};
use crate::mamba::MambaConfig;
use crate::packet::Timestamp;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficOptions {
    /// Labels of the flows. Default: all, in turn.
    pub labels: LabelChoice,
    /// Flows at most. Default: endless.
    pub flows: Option<u64>,
    /// Packets at most. Default: endless.
    pub packets: Option<u64>,
    /// How often flows begin. Default 20 a second.
    pub flow_rate: FlowRate,
    /// Flows that go on at once: after so many, a new one begins as one ends, whatever `flow_rate` says. Default: as many as
    /// come about.
    pub concurrent: Option<usize>,
    /// Packets a second, evenly, in place of their own times; above 0. Default: their own times.
    pub pps: Option<f64>,
    /// Flows to generate before the first packet is given out; after them, these are rendered again with other hosts, ports,
    /// numbers and payloads, without the network. Default: all are generated.
    pub stock: Option<u64>,
    /// Bytes of tokens in stock; with the flow that does not fit any more it is complete. Default [`STOCK_BYTES_MAX`].
    pub stock_bytes_max: usize,
    /// Time of the first packet. Default: 1,700,000,000 s after 1970.
    pub start: Timestamp,
    /// How to generate. Default: 64 streams, seed 1, 10,000 packets and 100,000 tokens of a flow at most, 64 flows a stream
    /// ahead.
    pub generate: GenerateOptions,
}

impl Default for TrafficOptions {
    fn default() -> Self {
        Self {
            labels: LabelChoice::default(),
            flows: None,
            packets: None,
            flow_rate: FlowRate::default(),
            concurrent: None,
            pps: None,
            stock: None,
            stock_bytes_max: STOCK_BYTES_MAX,
            start: Timestamp::from_parts(1_700_000_000, 0),
            generate: GenerateOptions {
                streams: 64,
                seed: 1,
                tokens_max: 100_000,
                ahead: 64,
                ..GenerateOptions::default()
            },
        }
    }
}

/// The label and the tokens that a flow begins with.
pub type Prompt = (LabelId, Vec<Token>);

/// Why traffic cannot be generated.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// The labels.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// The rate.
    #[error(transparent)]
    Arrivals(#[from] ArrivalsError),
    /// The rate of packets.
    #[error("packets per second are {0}, allowed is 1e-9 to 1e9")]
    Pps(f64),
    /// The network, or how to generate.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// Packets of generated flows in the order of their times. Memory does not grow with the number of flows.
pub struct Traffic {
    timeline: Timeline<Stocked>,
    options: TrafficOptions,
    prompts: Arc<[Prompt]>,
    /// Flows a second on average, where they come as learned.
    learned_per_s: Option<f64>,
    labels_left_out: Vec<String>,
    /// Packets still to be given; `None` for as many as there are.
    left: Option<u64>,
}

impl Traffic {
    /// The traffic that `options` ask for. Flows begin with `prompts` in turn, where there are any.
    ///
    /// # Errors
    /// An option is outside its range, or asks for what the model does not have.
    pub fn new(
        decoder: Box<dyn Decoder>,
        codec: Arc<dyn Codec>,
        options: TrafficOptions,
        prompts: Vec<Prompt>,
    ) -> Result<Self, TrafficError> {
        Self::begin(decoder, codec, options, prompts.into())
    }

    fn begin(
        decoder: Box<dyn Decoder>,
        codec: Arc<dyn Codec>,
        options: TrafficOptions,
        prompts: Arc<[Prompt]>,
    ) -> Result<Self, TrafficError> {
        if let Some(pps) = options.pps.filter(|pps| !(1e-9..=1e9).contains(pps)) {
            return Err(TrafficError::Pps(pps));
        }
        let mut generate = options.generate;
        generate.validate().map_err(GenerateError::from)?;
        // No more streams than flows: the rest would compute for nobody.
        let most =
            |limit: Option<u64>| limit.map_or(usize::MAX, |limit| usize::try_from(limit.max(1)).unwrap_or(usize::MAX));
        generate.streams = generate.streams.min(most(options.flows)).min(most(options.stock));
        // Every flow but a few has a packet.
        generate.streams = generate.streams.min(most(options.packets));
        let mut labels = Labels::new(&options.labels, generate.seed, codec.as_ref())?;
        let arrivals = Arrivals::at_rate(options.start, options.flow_rate, &labels, codec.as_ref(), generate.seed)?;
        let (mut times, learned_per_s) = (arrivals.clone(), arrivals.learned_per_s());
        let labels_left_out = arrivals.left_out().iter().map(|id| codec.labels()[usize::from(id.0)].clone()).collect();
        let given = Arc::clone(&prompts);
        // Prompts take turns; where a flow's label goes with its time, those of that label.
        let mut turns: HashMap<Option<LabelId>, usize> = HashMap::new();
        let requests = std::iter::from_fn(move || {
            let (start, own) = times.next_labelled();
            let turn = turns.entry(own).or_default();
            let of_label: Vec<&Prompt> = given.iter().filter(|prompt| own.is_none_or(|own| own == prompt.0)).collect();
            let prompt = of_label.get(*turn % of_label.len().max(1));
            *turn += 1;
            Some(match prompt {
                Some((label, tokens)) => Request { label: *label, prompt: Some(tokens.clone()), start },
                None => Request { label: own.or_else(|| labels.next())?, prompt: None, start },
            })
        });
        let all = options.flows.unwrap_or(u64::MAX);
        let fresh = all.min(options.stock.unwrap_or(u64::MAX));
        let requests: Requests = Box::new(requests.take(usize::try_from(fresh).unwrap_or(usize::MAX)));
        let mut generator = Generator::new(decoder, codec, generate, requests)?.cut_at(most(options.packets));
        if let (Some(packets), None, None) = (options.packets, options.stock, options.concurrent) {
            generator = generator.first_packets(packets);
        }
        let size = (options.stock.map(|_| fresh), options.stock_bytes_max);
        let flows = Stocked::new(generator, size, arrivals.clone(), all, generate.seed);
        let timeline = Timeline::new(flows, arrivals, HELD_PACKETS_MAX).at_once(options.concurrent);
        Ok(Self { timeline, left: options.packets, options, prompts, learned_per_s, labels_left_out })
    }

    /// From the beginning, with another seed or with the same.
    ///
    /// # Errors
    /// None that [`new`](Self::new) would not have had.
    pub fn rewind(self, seed: u64) -> Result<Self, TrafficError> {
        let Self { timeline, mut options, prompts, .. } = self;
        let generator = timeline.into_flows().into_generator();
        let codec = Arc::clone(generator.codec());
        options.generate.seed = seed;
        Self::begin(generator.into_decoder(), codec, options, prompts)
    }

    /// The next packet, `None` after the last; pending after one step of the network, see [`Generator::poll_flow`].
    pub fn poll_packet(&mut self) -> Poll<Option<TimelinePacket>> {
        let mut ret = TimelinePacket::default();
        self.poll_into(&mut ret).map(|is_packet| is_packet.then_some(ret))
    }

    /// As [`poll_packet`](Self::poll_packet), into `ret`, whose buffer is used again; false after the last.
    pub fn poll_into(&mut self, ret: &mut TimelinePacket) -> Poll<bool> {
        if self.left == Some(0) {
            return Poll::Ready(false);
        }
        let place = self.timeline.counters().packets;
        let polled = self.timeline.poll_into(ret);
        if polled == Poll::Ready(true) {
            self.left = self.left.map(|left| left - 1);
            if let Some(pps) = self.options.pps {
                ret.packet.ts = self.options.start.plus_nanos((place as f64 * 1e9 / pps) as i64);
            }
        }
        polled
    }

    /// Takes `stock` for the flows that would have been generated for [`TrafficOptions::stock`], before the first packet.
    pub fn put_stock(&mut self, stock: Stock) {
        if self.options.stock.is_some() {
            self.timeline.flows_mut().put(stock);
        }
    }

    /// The flows in stock, once they are all there.
    pub fn stock(&self) -> Option<&Stock> {
        self.timeline.flows().stock()
    }

    /// Whether the next packet is there, or the end, so that nothing has to be computed for it.
    pub fn is_ready(&self) -> bool {
        self.left == Some(0) || self.timeline.is_ready()
    }

    /// The sizes of the network.
    pub fn config(&self) -> &MambaConfig {
        self.timeline.flows().generator().config()
    }

    /// What was generated so far; it is ahead of the packets given out.
    pub fn counters(&self) -> GeneratorCounters {
        self.timeline.flows().generator().counters()
    }

    /// Flows that were rendered again so far.
    pub fn rendered_again(&self) -> u64 {
        self.timeline.flows().again()
    }

    /// Flows in stock, and how many there are to be, while it is gathered.
    pub fn gathered(&self) -> Option<(u64, u64)> {
        self.timeline.flows().gathered()
    }

    /// What was given out so far.
    pub fn timeline_counters(&self) -> TimelineCounters {
        self.timeline.counters()
    }

    /// Flows a second on average, where they come as [learned](FlowRate::Learned).
    pub fn learned_per_s(&self) -> Option<f64> {
        self.learned_per_s
    }

    /// Labels that were not asked for by name and do not come, as it was not [learned](FlowRate::Learned) how.
    pub fn labels_left_out(&self) -> &[String] {
        &self.labels_left_out
    }

    /// What is asked for.
    pub fn options(&self) -> &TrafficOptions {
        &self.options
    }

    /// Names of the labels.
    pub fn labels(&self) -> &[String] {
        self.timeline.flows().generator().codec().labels()
    }
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traffic").field("options", &self.options).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Iterator for Traffic {
    type Item = TimelinePacket;

    fn next(&mut self) -> Option<TimelinePacket> {
        loop {
            if let Poll::Ready(packet) = self.poll_packet() {
                return packet;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::codec::wire::WireCodec;
    use crate::generate::HostDecoder;
    use crate::train::testing::Bigram;
    use crate::wire::plan::Plan;

    /// A codec whose flows of `dns` come every 5 ms, and those of `web` every 50 ms.
    fn codec() -> Arc<WireCodec> {
        let labels = ["dns", "web"].map(str::to_owned).to_vec();
        let mut codec = WireCodec::fit(labels, 0, false, Plan::default(), &[]).unwrap();
        let starts = |ms: i64| (0..100).map(|i| Timestamp(i * ms * 1_000_000)).collect();
        codec.learn_starts(&[(LabelId(0), starts(5)), (LabelId(1), starts(50))]);
        Arc::new(codec)
    }

    /// Label of each flow that comes as learned.
    fn labels(stock: Option<u64>, prompts: Vec<Prompt>) -> BTreeMap<u64, LabelId> {
        let codec = codec();
        let decoder = HostDecoder::new(Box::new(Bigram::random(codec.vocab_size(), 3)));
        let generate =
            GenerateOptions { packets_max: Some(2), tokens_max: 2_000, ..TrafficOptions::default().generate };
        let options = TrafficOptions {
            flows: Some(400),
            flow_rate: FlowRate::Learned,
            stock,
            generate,
            ..TrafficOptions::default()
        };
        let mut traffic = Traffic::new(Box::new(decoder), codec, options, prompts).unwrap();
        let first: BTreeMap<_, _> = traffic.by_ref().map(|packet| (packet.flow, packet.label)).collect();
        let again: BTreeMap<_, _> = traffic.rewind(1).unwrap().map(|packet| (packet.flow, packet.label)).collect();
        assert_eq!(first, again);
        first
    }

    #[test]
    fn labels_go_with_the_times_of_flows_that_come_as_learned() {
        let codec = codec();
        let asked = Labels::new(&LabelChoice::default(), 1, codec.as_ref()).unwrap();
        let start = TrafficOptions::default().start;
        let mut arrivals = Arrivals::at_rate(start, FlowRate::Learned, &asked, codec.as_ref(), 1).unwrap();
        let expected: Vec<LabelId> = (0..400).filter_map(|_| arrivals.next_labelled().1).collect();
        let of_web = expected.iter().filter(|label| **label == LabelId(1)).count();
        assert!((30..44).contains(&of_web), "one in eleven: {of_web}");
        let prompts =
            vec![(LabelId(0), vec![codec.label_token(LabelId(0))]), (LabelId(1), vec![codec.label_token(LabelId(1))])];
        for (stock, prompts) in [(None, Vec::new()), (Some(60), Vec::new()), (None, prompts)] {
            let labels = labels(stock, prompts);
            // A flow may have no packet.
            assert!(labels.len() > 200 && labels.iter().all(|(flow, label)| expected[*flow as usize] == *label));
        }
    }
}
