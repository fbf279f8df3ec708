//! A stock of flows that are rendered again: the tokens of the first ones are kept, and later ones are the same tokens with
//! other hosts, ports, numbers and payloads, without the network.

use std::sync::Arc;
use std::task::Poll;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::arrivals::{Arrivals, Flows};
use super::generator::{End, GeneratedFlow, Generator, flow_rng_again};
use crate::codec::{Codec, LabelId, Render, Token};

/// Tokens that are kept at most: 256 MiB. A flow that does not fit any more is given out and not kept.
const TOKENS_MAX: usize = 1 << 26;
/// Stream of the seed's chance by which flows are picked; flows have those from 0 up, arrivals and labels the last.
const PICK_STREAM: u64 = u64::MAX - 1;

/// Flows fresh from a generator, and after so many of them, these again.
pub(super) struct Stocked {
    generator: Generator,
    /// How many flows to keep; `None` for a generator as it is.
    size: Option<u64>,
    fresh: u64,
    stock: Vec<Kept>,
    tokens: usize,
    /// Start times of the flows to come.
    starts: Arrivals,
    /// How many of them there may be.
    left: u64,
    again: u64,
    seed: u64,
    pick: ChaCha8Rng,
}

struct Kept {
    label: LabelId,
    tokens: Arc<[Token]>,
    prompt_tokens: usize,
    end: End,
}

impl Stocked {
    /// The flows of `generator`, which was asked for `size` of them where there is one; then `left` more. `starts` are the
    /// times of all of them.
    pub(super) fn new(generator: Generator, size: Option<u64>, starts: Arrivals, left: u64, seed: u64) -> Self {
        let mut pick = ChaCha8Rng::seed_from_u64(seed);
        pick.set_stream(PICK_STREAM);
        Self { generator, size, fresh: 0, stock: Vec::new(), tokens: 0, starts, left, again: 0, seed, pick }
    }

    pub(super) fn generator(&self) -> &Generator {
        &self.generator
    }

    pub(super) fn into_generator(self) -> Generator {
        self.generator
    }

    /// Flows that were rendered again so far.
    pub(super) fn again(&self) -> u64 {
        self.again
    }

    fn keep(&mut self, flow: &GeneratedFlow) {
        if self.tokens + flow.tokens.len() > TOKENS_MAX || flow.packets.is_empty() {
            return;
        }
        self.tokens += flow.tokens.len();
        let tokens = Arc::from(flow.tokens.as_slice());
        self.stock.push(Kept { label: flow.label, tokens, prompt_tokens: flow.prompt_tokens, end: flow.end });
    }

    fn render_again(&mut self) -> Option<GeneratedFlow> {
        if self.stock.is_empty() || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let index = self.fresh + self.again;
        self.again += 1;
        let kept = &self.stock[self.pick.random_range(0..self.stock.len())];
        let start = self.starts.next()?;
        let codec: &dyn Codec = self.generator.codec().as_ref();
        let mut render = Render { rng: flow_rng_again(self.seed, index), start };
        let decoded = codec.decode(&kept.tokens, &mut render);
        let mut packets = decoded.packets;
        packets.truncate(self.generator.options().packets_max);
        packets.sort_by_key(|packet| packet.ts);
        Some(GeneratedFlow {
            index,
            label: kept.label,
            start,
            tokens: Vec::new(),
            prompt_tokens: kept.prompt_tokens,
            packets,
            malformed_packets: decoded.malformed_packets,
            end: kept.end,
            is_again: true,
        })
    }
}

impl Flows for Stocked {
    fn poll_flow(&mut self) -> Poll<Option<GeneratedFlow>> {
        let Some(size) = self.size else { return self.generator.poll_flow() };
        if self.fresh < size {
            match self.generator.poll_flow() {
                Poll::Ready(Some(flow)) => {
                    self.fresh += 1;
                    self.starts.next();
                    self.keep(&flow);
                    return Poll::Ready(Some(flow));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(self.render_again())
    }
}
