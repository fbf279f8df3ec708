//! A stock of flows that are rendered again: the tokens of the first ones are kept, and later ones are the same tokens with
//! other hosts, ports, numbers and payloads, without the network.

use std::sync::Arc;
use std::task::Poll;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::arrivals::{Arrivals, Flows};
use super::generator::{End, GeneratedFlow, Generator, flow_rng_again};
use crate::codec::{Codec, LabelId, Render, Token};

/// Tokens that are kept at most: 256 MiB. With the flow that does not fit any more the stock is complete.
const TOKENS_MAX: usize = 1 << 26;
/// Stream of the seed's chance by which flows are picked; flows have those from 0 up, arrivals and labels the last.
const PICK_STREAM: u64 = u64::MAX - 1;

/// Flows fresh from a generator; or a stock of so many of them, gathered before the first is given out so that the network
/// holds nothing up afterwards, and then these again.
pub(super) struct Stocked {
    generator: Generator,
    /// How many flows to keep; `None` for a generator as it is.
    size: Option<u64>,
    /// Whether the stock is still being gathered.
    is_gathering: bool,
    stock: Vec<Kept>,
    tokens: usize,
    /// Start times of the flows to come.
    starts: Arrivals,
    /// Flows given out from the stock, and how many there may be.
    given: u64,
    all: u64,
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
    /// The flows of `generator`, which was asked for `size` of them where there is one; `all` at most. `starts` are the times
    /// of all of them.
    pub(super) fn new(generator: Generator, size: Option<u64>, starts: Arrivals, all: u64, seed: u64) -> Self {
        let mut pick = ChaCha8Rng::seed_from_u64(seed);
        pick.set_stream(PICK_STREAM);
        let is_gathering = size.is_some();
        Self { generator, size, is_gathering, stock: Vec::new(), tokens: 0, starts, given: 0, all, seed, pick }
    }

    pub(super) fn generator(&self) -> &Generator {
        &self.generator
    }

    pub(super) fn into_generator(self) -> Generator {
        self.generator
    }

    /// Flows that were rendered again so far.
    pub(super) fn again(&self) -> u64 {
        self.given.saturating_sub(self.stock.len() as u64)
    }

    /// Flows in stock, and how many there are to be, while it is gathered.
    pub(super) fn gathered(&self) -> Option<(u64, u64)> {
        self.size.filter(|_| self.is_gathering).map(|size| (self.stock.len() as u64, size))
    }

    /// Works on the stock.
    fn gather(&mut self) {
        match self.generator.poll_flow() {
            Poll::Pending => {}
            Poll::Ready(Some(flow)) if self.tokens + flow.tokens.len() <= TOKENS_MAX => {
                self.tokens += flow.tokens.len();
                let tokens = Arc::from(flow.tokens.as_slice());
                self.stock.push(Kept { label: flow.label, tokens, prompt_tokens: flow.prompt_tokens, end: flow.end });
            }
            Poll::Ready(_) => self.is_gathering = false,
        }
    }

    /// The next flow of the stock: each once as it was generated, then any of them with other chance.
    fn render(&mut self) -> Option<GeneratedFlow> {
        if self.stock.is_empty() || self.given == self.all {
            return None;
        }
        let index = self.given;
        self.given += 1;
        let (kept, is_again) = match usize::try_from(index).ok().and_then(|place| self.stock.get(place)) {
            Some(fresh) => (fresh, false),
            None => (&self.stock[self.pick.random_range(0..self.stock.len())], true),
        };
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
            is_again,
        })
    }
}

impl Flows for Stocked {
    fn poll_flow(&mut self) -> Poll<Option<GeneratedFlow>> {
        if self.size.is_none() {
            return self.generator.poll_flow();
        }
        if self.is_gathering {
            self.gather();
            return Poll::Pending;
        }
        Poll::Ready(self.render())
    }
}
