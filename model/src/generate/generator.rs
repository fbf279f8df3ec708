//! Many flows decoded in one batch, delivered in the order in which they were asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::sampling::{Picker, Sampling};
use crate::codec::{Codec, Grammar, LabelId, Render, Token};
use crate::mamba::{Mamba, State};
use crate::packet::{Packet, Timestamp};
use crate::train::ConfigError;
use crate::train::config::require;

/// Tokens of a prompt that go through the network at once: bounds the logits of a prefill.
const PREFILL_TOKENS: usize = 256;
/// Logits of a step from which on drawing is spread over cores; below, waking them costs more.
const PARALLEL_LOGITS: usize = 1 << 15;

/// Settings of a [`Generator`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Flows decoded in one batch. 1 to 65,536, default 16.
    pub streams: usize,
    /// Seed of all chance. Default 0.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens of a flow, prompt included. At least 2, default 50,000 (as training cuts samples).
    pub tokens_max: usize,
    /// Packets of a flow, prompt included. At least 1, default 10,000.
    pub packets_max: usize,
    /// Only what the codec's grammar allows is drawn, where it has one. Default true.
    pub mask: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            streams: 16,
            seed: 0,
            sampling: Sampling::default(),
            tokens_max: 50_000,
            packets_max: 10_000,
            mask: true,
        }
    }
}

impl GenerateOptions {
    /// Checks every range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let s = &self.sampling;
        require((1..=65_536).contains(&self.streams), "streams", self.streams, "1 to 65536")?;
        require((0.0..=100.0).contains(&s.temperature), "temperature", s.temperature, "0 to 100")?;
        require(s.top_p > 0.0 && s.top_p <= 1.0, "top_p", s.top_p, "above 0, at most 1")?;
        require(self.tokens_max >= 2, "tokens_max", self.tokens_max, "at least 2")?;
        require(self.packets_max >= 1, "packets_max", self.packets_max, "at least 1")
    }
}

/// Why a generator could not be made.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A setting is outside its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The codec has more tokens than the network.
    #[error("the codec has {codec} tokens, the network's vocabulary ends at {network}")]
    Vocabulary {
        /// Tokens of the codec.
        codec: usize,
        /// Tokens of the network.
        network: usize,
    },
}

/// What is asked for: one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Label of the flow.
    pub label: LabelId,
    /// The tokens it begins with, as from [`Codec::encode_prompt`]; `None` for the label alone.
    pub prompt: Option<Vec<Token>>,
    /// Time of its first packet.
    pub start: Timestamp,
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// The network ended it.
    Finished,
    /// It reached `tokens_max`.
    TokensMax,
    /// It reached `packets_max`.
    PacketsMax,
    /// The logits left nothing to draw: they were not finite.
    NoToken,
    /// The request has an unknown label, or a prompt that is empty or has an unknown token; nothing was generated.
    BadRequest,
}

/// A flow as it was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedFlow {
    /// Place in the order of requests, from 0.
    pub index: u64,
    /// Its label.
    pub label: LabelId,
    /// Time that was asked for.
    pub start: Timestamp,
    /// All tokens, prompt included.
    pub tokens: Vec<Token>,
    /// How many of them are the prompt.
    pub prompt_tokens: usize,
    /// Its packets, in the order of their times.
    pub packets: Vec<Packet>,
    /// Packets dropped because their tokens meant nothing.
    pub malformed_packets: u64,
    /// Why it ended.
    pub end: End,
    /// Whether it is an earlier flow's tokens, rendered again; `tokens` is empty then.
    pub is_again: bool,
}

/// Sums over all flows so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GeneratorCounters {
    /// Flows that ended.
    pub flows: u64,
    /// Tokens drawn; prompts do not count.
    pub tokens: u64,
    /// Packets decoded, prompts included.
    pub packets: u64,
    /// Packets dropped because their tokens meant nothing.
    pub malformed_packets: u64,
    /// Flows cut by `tokens_max` or `packets_max`.
    pub cut_flows: u64,
    /// Flows that ended because logits were not finite.
    pub no_token_flows: u64,
    /// Requests that could not be served.
    pub bad_requests: u64,
    /// Steps of the whole batch.
    pub steps: u64,
}

/// Where requests come from; asked only when a stream is free.
pub type Requests = Box<dyn Iterator<Item = Request> + Send>;

/// Decodes flows, `streams` of them in one batch.
///
/// A flow that ends gives its stream to the next request. While more than half of the streams are idle, the batch is made
/// smaller (idle streams are fed the end token); chance belongs to a flow and not to a stream, and a step of the network
/// treats each stream by itself, so neither changes what a flow becomes. Memory is bounded: at most 2 * `streams` flows are begun and not yet taken out.
pub struct Generator {
    model: Box<dyn Mamba>,
    codec: Arc<dyn Codec>,
    options: GenerateOptions,
    requests: Option<Requests>,
    state: State,
    slots: Vec<Slot>,
    /// Tokens to feed next, one for each stream.
    inputs: Vec<Token>,
    logits: Vec<f32>,
    prefill: Prefill,
    /// Flows begun and not taken out; the first has the index `delivered`. `None` while it is being decoded.
    window: VecDeque<Option<GeneratedFlow>>,
    delivered: u64,
    counters: GeneratorCounters,
}

/// A stream of the batch.
struct Slot {
    flow: Option<Decoding>,
    picker: Picker,
    /// What may be drawn: a bit for each token.
    mask: Vec<u64>,
}

impl Slot {
    fn new(vocab_size: usize) -> Self {
        Self { flow: None, picker: Picker::new(vocab_size), mask: vec![0; vocab_size.div_ceil(64)] }
    }

    /// Draws the next token of the flow, if there is one.
    fn draw(&mut self, logits: &[f32], options: &GenerateOptions) -> Option<Option<Token>> {
        let Self { flow, picker, mask } = self;
        let flow = flow.as_mut()?;
        let allowed = flow.grammar.as_ref().filter(|_| options.mask).map(|grammar| {
            grammar.allowed(options.tokens_max.saturating_sub(flow.tokens.len()), mask);
            &mask[..]
        });
        Some(picker.pick(logits, &options.sampling, allowed, &mut flow.rng))
    }
}

/// A flow that is being decoded.
struct Decoding {
    index: u64,
    label: LabelId,
    start: Timestamp,
    tokens: Vec<Token>,
    prompt_tokens: usize,
    packets: usize,
    /// Follows the tokens, where the codec has one.
    grammar: Option<Box<dyn Grammar>>,
    rng: ChaCha8Rng,
}

impl Decoding {
    /// Takes a token into account that was appended.
    fn follow(&mut self, token: Token, codec: &dyn Codec) {
        match &mut self.grammar {
            Some(grammar) => {
                grammar.push(token);
                self.packets = grammar.packets() as usize;
            }
            None => self.packets += usize::from(codec.ends_packet(token)),
        }
    }
}

/// The last prompt, the state after it and its last logits: flows often share a prompt.
struct Prefill {
    prompt: Vec<Token>,
    state: State,
    logits: Vec<f32>,
}

impl Generator {
    /// A generator that serves `requests` in order.
    pub fn new(
        model: Box<dyn Mamba>,
        codec: Arc<dyn Codec>,
        options: GenerateOptions,
        requests: Requests,
    ) -> Result<Self, GenerateError> {
        options.validate()?;
        let config = model.params().config();
        let vocab_size = config.vocab_size;
        if codec.vocab_size() > vocab_size {
            return Err(GenerateError::Vocabulary { codec: codec.vocab_size(), network: vocab_size });
        }
        let b = options.streams;
        Ok(Self {
            state: State::new(config, b),
            slots: (0..b).map(|_| Slot::new(codec.vocab_size())).collect(),
            inputs: vec![codec.end_token(); b],
            logits: vec![0.0; b * vocab_size],
            prefill: Prefill { prompt: Vec::new(), state: State::new(config, 1), logits: Vec::new() },
            window: VecDeque::with_capacity(2 * b),
            requests: Some(requests),
            delivered: 0,
            counters: GeneratorCounters::default(),
            model,
            codec,
            options,
        })
    }

    /// The next flow in the order of requests; `None` when all were delivered.
    pub fn next_flow(&mut self) -> Option<GeneratedFlow> {
        loop {
            if let Poll::Ready(flow) = self.poll_flow() {
                return flow;
            }
        }
    }

    /// As [`next_flow`](Self::next_flow), but after one step of the network at most, so that the caller can do something else
    /// in between: pending means to call again, and nothing wakes anybody.
    pub fn poll_flow(&mut self) -> Poll<Option<GeneratedFlow>> {
        self.admit();
        let Some(first) = self.window.front_mut() else { return Poll::Ready(None) };
        if let Some(flow) = first.take() {
            self.window.pop_front();
            self.delivered += 1;
            return Poll::Ready(Some(flow));
        }
        self.step();
        Poll::Pending
    }

    /// How it generates.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The network, for another generator.
    pub fn into_model(self) -> Box<dyn Mamba> {
        self.model
    }

    /// Sums over all flows so far.
    pub fn counters(&self) -> GeneratorCounters {
        self.counters
    }

    /// The codec.
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// Gives every free stream a request, as long as there are requests and the window has room.
    fn admit(&mut self) {
        let active = self.slots.iter().filter(|s| s.flow.is_some()).count();
        let room = (2 * self.options.streams).saturating_sub(self.window.len());
        let wanted = if self.requests.is_some() { (active + room).min(self.options.streams) } else { active };
        if wanted > self.slots.len() || wanted <= self.slots.len() / 2 {
            self.resize(wanted.max(1));
        }
        for slot in 0..self.slots.len() {
            // A request that ends at once leaves its stream free for another.
            while self.slots[slot].flow.is_none() && self.window.len() < 2 * self.options.streams {
                let Some(request) = self.requests.as_mut().and_then(Iterator::next) else {
                    self.requests = None; // an iterator may not be asked again after its end
                    return;
                };
                self.begin(slot, request);
            }
        }
    }

    /// Makes the batch one of `streams` streams, which are enough for the flows under way.
    fn resize(&mut self, streams: usize) {
        let config = self.model.params().config();
        let mut state = State::new(config, streams);
        let mut inputs = vec![self.codec.end_token(); streams];
        let mut busy = Vec::with_capacity(streams);
        let mut idle = Vec::new();
        for (from, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            if slot.flow.is_some() {
                state.copy_stream(busy.len(), &self.state, from, config);
                inputs[busy.len()] = self.inputs[from];
                busy.push(slot);
            } else {
                idle.push(slot);
            }
        }
        busy.extend(idle);
        let vocab_size = self.codec.vocab_size();
        busy.resize_with(streams, || Slot::new(vocab_size));
        self.logits.resize(streams * config.vocab_size, 0.0);
        (self.slots, self.state, self.inputs) = (busy, state, inputs);
    }

    /// Begins a flow in a free stream: runs its prompt through the network and draws its first token.
    fn begin(&mut self, slot: usize, request: Request) {
        let index = self.delivered + self.window.len() as u64;
        self.window.push_back(None);
        let is_known = usize::from(request.label.0) < self.codec.labels().len();
        let prompt = match request.prompt {
            Some(prompt) => prompt,
            None if is_known => vec![self.codec.label_token(request.label)],
            None => Vec::new(),
        };
        let mut flow = Decoding {
            index,
            label: request.label,
            start: request.start,
            prompt_tokens: prompt.len(),
            packets: 0,
            grammar: self.codec.grammar(),
            tokens: Vec::new(),
            rng: flow_rng(self.options.seed, index, Use::Tokens),
        };
        prompt.iter().for_each(|t| flow.follow(*t, self.codec.as_ref()));
        flow.tokens = prompt;
        let vocab_size = self.codec.vocab_size();
        if !is_known || flow.tokens.is_empty() || flow.tokens.iter().any(|t| t.0 as usize >= vocab_size) {
            flow.tokens.clear();
            flow.prompt_tokens = 0;
            return self.finish(flow, End::BadRequest);
        }
        if let Some(end) = limit(&flow, &self.options) {
            return self.finish(flow, end);
        }
        self.run_prompt(&flow.tokens);
        let config = self.model.params().config();
        self.state.copy_stream(slot, &self.prefill.state, 0, config);
        let logits = &self.prefill.logits[..vocab_size];
        self.slots[slot].flow = Some(flow);
        let picked = self.slots[slot].draw(logits, &self.options);
        self.advance(slot, picked.flatten());
    }

    /// Brings state and logits after `prompt` into `self.prefill`, unless they are there.
    fn run_prompt(&mut self, prompt: &[Token]) {
        if self.prefill.prompt == prompt {
            return;
        }
        let config = self.model.params().config();
        let vocab_size = config.vocab_size;
        self.prefill.state = State::new(config, 1);
        for part in prompt.chunks(PREFILL_TOKENS) {
            let logits = self.model.forward(part, &mut self.prefill.state);
            self.prefill.logits = logits[logits.len() - vocab_size..].to_vec();
        }
        self.prefill.prompt = prompt.to_vec();
    }

    /// One token for every stream.
    fn step(&mut self) {
        self.model.step(&self.inputs, &mut self.state, &mut self.logits);
        self.counters.steps += 1;
        let (options, vocab_size) = (self.options, self.codec.vocab_size());
        // A network's vocabulary may be padded beyond the codec's; those tokens are never drawn.
        let width = self.logits.len() / self.slots.len();
        let draw = |(slot, logits): (&mut Slot, &[f32])| slot.draw(&logits[..vocab_size], &options);
        let picked: Vec<Option<Option<Token>>> = if self.logits.len() < PARALLEL_LOGITS {
            self.slots.iter_mut().zip(self.logits.chunks(width)).map(draw).collect()
        } else {
            self.slots.par_iter_mut().zip(self.logits.par_chunks(width)).map(draw).collect()
        };
        for (slot, picked) in picked.into_iter().enumerate() {
            if let Some(picked) = picked {
                self.advance(slot, picked);
            }
        }
    }

    /// Takes a drawn token into the flow of `slot`, and ends the flow where that is the end.
    fn advance(&mut self, slot: usize, picked: Option<Token>) {
        let Some(mut flow) = self.slots[slot].flow.take() else { return };
        self.inputs[slot] = self.codec.end_token();
        let Some(token) = picked else { return self.finish(flow, End::NoToken) };
        flow.tokens.push(token);
        self.counters.tokens += 1;
        if token == self.codec.end_token() {
            let left = (self.options.tokens_max + 1).saturating_sub(flow.tokens.len());
            let is_cut = self.options.mask && flow.grammar.as_ref().is_some_and(|g| g.must_end(left));
            return self.finish(flow, if is_cut { End::TokensMax } else { End::Finished });
        }
        flow.follow(token, self.codec.as_ref());
        if let Some(end) = limit(&flow, &self.options) {
            return self.finish(flow, end);
        }
        self.inputs[slot] = token;
        self.slots[slot].flow = Some(flow);
    }

    /// Decodes a flow's tokens and puts it in its place in the window.
    fn finish(&mut self, flow: Decoding, end: End) {
        let rng = flow_rng(self.options.seed, flow.index, Use::Render);
        let mut decoded = self.codec.decode(&flow.tokens, &mut Render { rng, start: flow.start });
        decoded.packets.truncate(self.options.packets_max);
        // A codec whose times go back would break the order of the time line.
        decoded.packets.sort_by_key(|p| p.ts);
        let c = &mut self.counters;
        c.flows += 1;
        c.packets += decoded.packets.len() as u64;
        c.malformed_packets += decoded.malformed_packets;
        match end {
            End::Finished => {}
            End::TokensMax | End::PacketsMax => c.cut_flows += 1,
            End::NoToken => c.no_token_flows += 1,
            End::BadRequest => c.bad_requests += 1,
        }
        let place = (flow.index - self.delivered) as usize;
        self.window[place] = Some(GeneratedFlow {
            index: flow.index,
            label: flow.label,
            start: flow.start,
            tokens: flow.tokens,
            prompt_tokens: flow.prompt_tokens,
            packets: decoded.packets,
            malformed_packets: decoded.malformed_packets,
            end,
            is_again: false,
        });
    }
}

/// The limit that `flow` has reached.
fn limit(flow: &Decoding, options: &GenerateOptions) -> Option<End> {
    if flow.packets >= options.packets_max {
        Some(End::PacketsMax)
    } else if flow.tokens.len() >= options.tokens_max {
        Some(End::TokensMax)
    } else {
        None
    }
}

/// What a flow's chance is used for.
#[derive(Clone, Copy)]
enum Use {
    Tokens = 0,
    Render = 1,
}

/// The chance of flow `index`: a stream of its own, whichever place in the batch it gets.
fn flow_rng(seed: u64, index: u64, purpose: Use) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index << 1 | purpose as u64);
    rng
}

/// The chance with which flow `index` is rendered, where its tokens come from another one.
pub(super) fn flow_rng_again(seed: u64, index: u64) -> ChaCha8Rng {
    flow_rng(seed, index, Use::Render)
}

#[cfg(test)]
mod tests;
