//! Many flows decoded in one batch, delivered in the order in which they were asked for.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Draws};
use super::horizon::Horizon;
use super::sampling::unit;
use super::settings::GenerateOptions;
use super::timeline::HELD_PACKETS_MAX;
use super::window::{Ended, Window};
use crate::codec::{Codec, Decoded, Grammar, LabelId, Render, Token};
use crate::mamba::MambaConfig;
use crate::packet::{Packet, Timestamp};
use crate::train::ConfigError;

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

/// Of how many streams one may be idle: a larger part is worth the copies that a smaller batch takes.
const IDLE_PART: usize = 8;

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
/// A flow that ends gives its stream to the next request. While more than an eighth of the streams is idle, the batch is made
/// smaller (idle streams are fed the end token); chance belongs to a flow and not to a stream, and a step of the network
/// treats each stream by itself, so neither changes what a flow becomes. Memory is bounded: at most `ahead` * `streams`
/// flows are begun and not yet taken out, and none is begun while those that ended have more than 4,000,000 tokens.
pub struct Generator {
    decoder: Box<dyn Decoder>,
    codec: Arc<dyn Codec>,
    options: GenerateOptions,
    requests: Option<Requests>,
    /// The flow of each stream of the batch.
    slots: Vec<Option<Decoding>>,
    /// Tokens to feed next, one for each stream.
    inputs: Vec<Token>,
    drawing: Drawing,
    /// Flows begun and not taken out.
    window: Window,
    /// Beyond what nothing is asked for, where that is known.
    horizon: Option<Horizon>,
    /// No flow has more packets, whatever its label is.
    cut_at: usize,
    counters: GeneratorCounters,
}

/// What is drawn at once, kept so that drawing allocates nothing.
#[derive(Default)]
struct Drawing {
    slots: Vec<usize>,
    uniforms: Vec<f64>,
    /// `Draws::mask_words` words for each slot; empty where anything may be drawn.
    masks: Vec<u64>,
    tokens: Vec<Option<Token>>,
}

/// A flow that is being decoded.
struct Decoding {
    index: u64,
    label: LabelId,
    start: Timestamp,
    tokens: Vec<Token>,
    prompt_tokens: usize,
    packets: usize,
    packets_max: usize,
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

impl Generator {
    /// A generator that serves `requests` in order, on the streams of `decoder`, whatever was on them before.
    pub fn new(
        decoder: Box<dyn Decoder>,
        codec: Arc<dyn Codec>,
        options: GenerateOptions,
        requests: Requests,
    ) -> Result<Self, GenerateError> {
        options.validate()?;
        let vocab_size = decoder.config().vocab_size;
        if codec.vocab_size() > vocab_size {
            return Err(GenerateError::Vocabulary { codec: codec.vocab_size(), network: vocab_size });
        }
        let b = options.streams;
        let mut generator = Self {
            slots: Vec::new(),
            inputs: Vec::new(),
            drawing: Drawing::default(),
            window: Window::default(),
            requests: Some(requests),
            horizon: None,
            cut_at: usize::MAX,
            counters: GeneratorCounters::default(),
            decoder,
            codec,
            options,
        };
        generator.resize(b);
        Ok(generator)
    }

    /// Says that only the first `packets` packets are wanted, in the order of their times over all flows, and requests come in
    /// the order of their starts: flows that begin later than all of those are not generated, which changes nothing of what
    /// is wanted.
    pub fn first_packets(mut self, packets: u64) -> Self {
        let wanted = usize::try_from(packets).ok().filter(|wanted| *wanted <= HELD_PACKETS_MAX);
        self.horizon = wanted.map(Horizon::new);
        self
    }

    /// Cuts every flow at so many packets, if nothing else cuts it earlier.
    pub(super) fn cut_at(mut self, packets: usize) -> Self {
        self.cut_at = packets.max(1);
        self
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
        let taken = self.window.take();
        if taken.is_pending() {
            self.step();
        }
        taken.map(|flow| flow.map(|(index, flow)| self.deliver(index, flow)))
    }

    /// How it generates.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The network, for another generator.
    pub fn into_decoder(self) -> Box<dyn Decoder> {
        self.decoder
    }

    /// Sums over all flows so far.
    pub fn counters(&self) -> GeneratorCounters {
        self.counters
    }

    /// The sizes of the network.
    pub fn config(&self) -> &MambaConfig {
        self.decoder.config()
    }

    /// The codec.
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// Gives up flows that begin beyond the horizon, those under way and those to come.
    fn give_up(&mut self) {
        let Some(horizon) = self.horizon.as_ref().and_then(Horizon::time) else { return };
        let is_beyond = |flow: &Decoding| flow.start > horizon;
        if let Some(first) = self.slots.iter().flatten().filter(|flow| is_beyond(flow)).map(|flow| flow.index).min() {
            // Requests come in the order of their starts: what comes after it is beyond the horizon too.
            self.window.give_up(first);
            self.slots.iter_mut().for_each(|slot| *slot = slot.take().filter(|flow| !is_beyond(flow)));
            self.requests = None;
        }
    }

    /// Gives every free stream a request, as long as there are requests and the window has room.
    fn admit(&mut self) {
        self.give_up();
        let active = self.slots.iter().flatten().count();
        let room = self.room();
        let wanted = if self.requests.is_some() { (active + room).min(self.options.streams) } else { active };
        if wanted > self.slots.len() || wanted + self.slots.len() / IDLE_PART < self.slots.len() {
            self.resize(wanted.max(1));
        }
        for slot in 0..self.slots.len() {
            // A request that ends at once leaves its stream free for another.
            while self.slots[slot].is_none() && self.room() > 0 {
                let Some(request) = self.requests.as_mut().and_then(Iterator::next) else {
                    self.requests = None; // an iterator may not be asked again after its end
                    return;
                };
                self.begin(slot, request);
            }
        }
    }

    /// Flows that may be begun.
    fn room(&self) -> usize {
        self.window.room(self.options.ahead * self.options.streams)
    }

    /// Makes the batch one of `streams` streams, which are enough for the flows under way.
    fn resize(&mut self, streams: usize) {
        let busy: Vec<usize> = (0..self.slots.len()).filter(|slot| self.slots[*slot].is_some()).collect();
        let mut inputs = vec![self.codec.end_token(); streams];
        let mut slots: Vec<Option<Decoding>> = Vec::with_capacity(streams);
        for (to, from) in busy.iter().enumerate() {
            inputs[to] = self.inputs[*from];
            slots.push(self.slots[*from].take());
        }
        slots.resize_with(streams, || None);
        self.decoder.resize(&busy, streams);
        (self.slots, self.inputs) = (slots, inputs);
    }

    /// Begins a flow in a free stream: runs its prompt through the network and draws its first token.
    fn begin(&mut self, slot: usize, request: Request) {
        let index = self.window.begin();
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
            packets_max: self.options.flow_packets_max(self.codec.as_ref(), request.label).min(self.cut_at),
            grammar: self.codec.grammar(),
            tokens: Vec::new(),
            rng: flow_rng(self.options.seed, index, Use::Tokens),
        };
        if let Some(grammar) = &mut flow.grammar {
            grammar.end_within(flow.packets_max as u64);
        }
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
        self.decoder.begin(slot, &flow.tokens);
        self.slots[slot] = Some(flow);
        self.draw(slot..slot + 1);
    }

    /// One token for every stream.
    fn step(&mut self) {
        self.decoder.step(&self.inputs);
        self.counters.steps += 1;
        self.draw(0..self.slots.len());
    }

    /// Draws the next token of the flows in `slots` and takes it into them.
    fn draw(&mut self, slots: Range<usize>) {
        let (options, vocab_size) = (self.options, self.codec.vocab_size());
        let mut drawing = std::mem::take(&mut self.drawing);
        drawing.slots.clear();
        drawing.uniforms.clear();
        for (slot, flow) in slots.clone().zip(&mut self.slots[slots.clone()]) {
            let Some(flow) = flow else { continue };
            drawing.slots.push(slot);
            // Without a temperature there is no chance, and none is used up.
            drawing.uniforms.push(if options.sampling.temperature > 0.0 { unit(&mut flow.rng) } else { 0.0 });
        }
        self.mask(slots.clone(), &mut drawing.masks);
        let draws = Draws {
            slots: &drawing.slots,
            uniforms: &drawing.uniforms,
            vocab_size,
            masks: (!drawing.masks.is_empty()).then_some(&drawing.masks[..]),
            sampling: options.sampling,
        };
        self.decoder.draw(&draws, &mut drawing.tokens);
        self.follow(slots, &drawing.tokens);
        for (slot, token) in drawing.slots.iter().zip(&drawing.tokens) {
            self.advance(*slot, *token);
        }
        self.drawing = drawing;
    }

    /// Asks the grammars of the flows in `slots` what may come next; `masks` stays empty where anything may.
    fn mask(&self, slots: Range<usize>, masks: &mut Vec<u64>) {
        let (words, tokens_max) = (Draws::mask_words(self.codec.vocab_size()), self.options.tokens_max);
        let flows = || self.slots[slots.clone()].iter().flatten();
        masks.clear();
        // A codec has a grammar for every flow or for none.
        if self.options.mask && flows().all(|flow| flow.grammar.is_some()) {
            masks.resize(flows().count() * words, 0);
        }
        share(self.decoder.as_ref(), flows().zip(masks.chunks_exact_mut(words)), |(flow, mask)| {
            let left = tokens_max.saturating_sub(flow.tokens.len());
            if let Some(grammar) = &flow.grammar {
                grammar.allowed(left, mask);
            }
        });
    }

    /// Takes the tokens that were drawn into the flows in `slots`, and lets their grammars follow them, but for the end.
    fn follow(&mut self, slots: Range<usize>, drawn: &[Option<Token>]) {
        let (end, codec) = (self.codec.end_token(), self.codec.as_ref());
        share(self.decoder.as_ref(), self.slots[slots].iter_mut().flatten().zip(drawn), |(flow, token)| {
            if let Some(token) = *token {
                flow.tokens.push(token);
                if token != end {
                    flow.follow(token, codec);
                }
            }
        });
    }

    /// Feeds a drawn token to the network next, or ends the flow of `slot` where that is the end.
    fn advance(&mut self, slot: usize, picked: Option<Token>) {
        let Some(flow) = self.slots[slot].take() else { return };
        self.inputs[slot] = self.codec.end_token();
        let Some(token) = picked else { return self.finish(flow, End::NoToken) };
        self.counters.tokens += 1;
        if token == self.codec.end_token() {
            let left = (self.options.tokens_max + 1).saturating_sub(flow.tokens.len());
            let is_cut = self.options.mask && flow.grammar.as_ref().is_some_and(|g| g.must_end(left));
            return self.finish(flow, if is_cut { End::TokensMax } else { End::Finished });
        }
        if let Some(end) = limit(&flow, &self.options) {
            return self.finish(flow, end);
        }
        self.inputs[slot] = token;
        self.slots[slot] = Some(flow);
    }

    /// Puts a flow that has ended in its place in the window.
    fn finish(&mut self, flow: Decoding, end: End) {
        let Decoding { index, label, start, tokens, prompt_tokens, packets_max, .. } = flow;
        let flow = Ended { label, start, tokens, prompt_tokens, packets_max, end };
        let c = &mut self.counters;
        c.flows += 1;
        match end {
            End::Finished => {}
            End::TokensMax | End::PacketsMax => c.cut_flows += 1,
            End::NoToken => c.no_token_flows += 1,
            End::BadRequest => c.bad_requests += 1,
        }
        if self.horizon.is_some() {
            for packet in self.decode(index, &flow).packets {
                self.horizon.iter_mut().for_each(|horizon| horizon.see(packet.ts));
            }
        }
        self.window.end(index, flow);
    }

    /// The packets of a flow, in the order of their times.
    fn decode(&self, index: u64, flow: &Ended) -> Decoded {
        let rng = flow_rng(self.options.seed, index, Use::Render);
        let mut decoded = self.codec.decode(&flow.tokens, &mut Render { rng, start: flow.start });
        decoded.packets.truncate(flow.packets_max);
        // A codec whose times go back would break the order of the time line.
        decoded.packets.sort_by_key(|p| p.ts);
        decoded
    }

    /// Makes the packets of a flow that is taken out.
    fn deliver(&mut self, index: u64, flow: Ended) -> GeneratedFlow {
        let Decoded { packets, malformed_packets, .. } = self.decode(index, &flow);
        self.counters.packets += packets.len() as u64;
        self.counters.malformed_packets += malformed_packets;
        let Ended { label, start, tokens, prompt_tokens, end, .. } = flow;
        GeneratedFlow { index, label, start, tokens, prompt_tokens, packets, malformed_packets, end, is_again: false }
    }
}

/// Does `work` with each of `items`, by the threads of `decoder` where there are several.
fn share<T>(decoder: &dyn Decoder, items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    // One flow that begins is alone.
    if items.size_hint().1.is_some_and(|most| most < 2) {
        return items.for_each(work);
    }
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    decoder.together(&|| {
        while let Some(item) = next() {
            work(item);
        }
    });
}

/// The limit that `flow` has reached.
fn limit(flow: &Decoding, options: &GenerateOptions) -> Option<End> {
    if flow.packets >= flow.packets_max {
        let has_ended = flow.grammar.as_ref().is_some_and(|grammar| grammar.has_ended());
        Some(if has_ended { End::Finished } else { End::PacketsMax })
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
