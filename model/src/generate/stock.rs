//! A stock of flows that are rendered again: the tokens of the first ones are kept, and later ones are the same tokens with
//! other hosts, ports, numbers and payloads, without the network.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::arrivals::Arrivals;
use super::generator::{End, Generator, flow_rng_again};
use super::timeline::{FlowPackets, Flows, StartedFlow};
use crate::codec::{LabelId, Render, Script, Token};

/// Bytes of tokens that are kept by default: 256 MiB. With the flow that does not fit any more a stock is complete.
pub const STOCK_BYTES_MAX: usize = 256 << 20;
/// Stream of the seed's chance by which flows are picked; flows have those from 0 up, arrivals and labels the last.
const PICK_STREAM: u64 = u64::MAX - 1;

/// The tokens of generated flows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stock {
    /// The flows, in the order in which they were asked for.
    pub flows: Vec<StockFlow>,
}

/// A flow in stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockFlow {
    /// Its label.
    pub label: LabelId,
    /// All tokens, prompt included.
    pub tokens: Arc<[Token]>,
    /// How many of them are the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub end: End,
}

/// Flows fresh from a generator; or a stock of so many of them, gathered before the first is given out so that the network
/// holds nothing up afterwards, and then these again.
pub(super) struct Stocked {
    generator: Generator,
    /// How many flows to keep; `None` for a generator as it is.
    size: Option<u64>,
    /// Bytes of tokens to keep.
    bytes_max: usize,
    /// Whether the stock is still being gathered.
    is_gathering: bool,
    stock: Stock,
    /// The flows of the stock, made ready to be rendered; `None` for one that has to be decoded each time.
    scripts: Vec<Option<Arc<dyn Script>>>,
    /// Places in it, by label.
    places: HashMap<LabelId, Vec<usize>>,
    bytes: usize,
    /// Start times of the flows to come.
    starts: Arrivals,
    /// Flows given out from the stock, and how many there may be.
    given: u64,
    all: u64,
    seed: u64,
    pick: ChaCha8Rng,
}

impl Stocked {
    /// The flows of `generator`, which was asked for `size` of them where there is one; `all` at most. `starts` are the times
    /// of all of them.
    pub(super) fn new(
        generator: Generator,
        (size, bytes_max): (Option<u64>, usize),
        starts: Arrivals,
        all: u64,
        seed: u64,
    ) -> Self {
        let mut pick = ChaCha8Rng::seed_from_u64(seed);
        pick.set_stream(PICK_STREAM);
        let is_gathering = size.is_some();
        let (stock, scripts, places) = (Stock::default(), Vec::new(), HashMap::new());
        let bytes = 0;
        Self {
            generator,
            size,
            bytes_max,
            is_gathering,
            stock,
            scripts,
            places,
            bytes,
            starts,
            given: 0,
            all,
            seed,
            pick,
        }
    }

    pub(super) fn generator(&self) -> &Generator {
        &self.generator
    }

    pub(super) fn into_generator(self) -> Generator {
        self.generator
    }

    /// Flows that were rendered again so far.
    pub(super) fn again(&self) -> u64 {
        self.given.saturating_sub(self.stock.flows.len() as u64)
    }

    /// Flows in stock, and how many there are to be, while it is gathered.
    pub(super) fn gathered(&self) -> Option<(u64, u64)> {
        self.size.filter(|_| self.is_gathering).map(|size| (self.stock.flows.len() as u64, size))
    }

    /// The stock, once it is complete.
    pub(super) fn stock(&self) -> Option<&Stock> {
        (self.size.is_some() && !self.is_gathering).then_some(&self.stock)
    }

    /// Takes `stock` for what would have been gathered.
    pub(super) fn put(&mut self, stock: Stock) {
        self.is_gathering = false;
        self.stock.flows.clear();
        self.scripts.clear();
        self.places.clear();
        stock.flows.into_iter().for_each(|flow| self.keep(flow));
    }

    fn keep(&mut self, flow: StockFlow) {
        let packets_max = self.packets_max(flow.label);
        self.scripts.push(self.generator.codec().script(&flow.tokens, packets_max));
        self.bytes += flow.bytes();
        self.places.entry(flow.label).or_default().push(self.stock.flows.len());
        self.stock.flows.push(flow);
    }

    /// Works on the stock.
    fn gather(&mut self) {
        match self.generator.poll_flow() {
            Poll::Pending => {}
            Poll::Ready(Some(flow)) => {
                let tokens = Arc::from(flow.tokens.as_slice());
                let (label, prompt_tokens, end) = (flow.label, flow.prompt_tokens, flow.end);
                let flow = StockFlow { label, tokens, prompt_tokens, end };
                if self.bytes + flow.bytes() <= self.bytes_max {
                    self.keep(flow);
                } else {
                    self.is_gathering = false;
                }
            }
            Poll::Ready(None) => self.is_gathering = false,
        }
    }

    /// The next flow of the stock: each once as it was generated, then any of them with other chance; any of its label, where a label
    /// goes with the time of the flow and is in stock.
    fn render(&mut self) -> Option<StartedFlow> {
        if self.stock.flows.is_empty() || self.given == self.all {
            return None;
        }
        let index = self.given;
        self.given += 1;
        let fresh = usize::try_from(index).ok().filter(|place| *place < self.stock.flows.len());
        let (start, own) = self.starts.next_labelled();
        let place = fresh.unwrap_or_else(|| match own.and_then(|label| self.places.get(&label)) {
            Some(places) => places[self.pick.random_range(0..places.len())],
            None => self.pick.random_range(0..self.stock.flows.len()),
        });
        let kept = &self.stock.flows[place];
        let mut render = Render { rng: flow_rng_again(self.seed, index), start };
        let packets = match &self.scripts[place] {
            Some(script) => FlowPackets::Scripted(Arc::clone(script).play(&mut render)),
            None => FlowPackets::Rendered(self.decode(kept, &mut render)),
        };
        Some(StartedFlow { index, label: kept.label, is_again: fresh.is_none(), packets })
    }

    fn packets_max(&self, label: LabelId) -> usize {
        self.generator.options().flow_packets_max(self.generator.codec().as_ref(), label)
    }

    /// The plain way from tokens to packets, which every script is tested against.
    fn decode(&self, flow: &StockFlow, render: &mut Render) -> std::vec::IntoIter<crate::packet::Packet> {
        let mut packets = self.generator.codec().decode(&flow.tokens, render).packets;
        packets.truncate(self.packets_max(flow.label));
        packets.sort_by_key(|packet| packet.ts);
        packets.into_iter()
    }
}

impl Stock {
    /// Bytes of its tokens.
    pub fn bytes(&self) -> usize {
        self.flows.iter().map(StockFlow::bytes).sum()
    }
}

impl StockFlow {
    /// Bytes of its tokens.
    fn bytes(&self) -> usize {
        size_of_val::<[Token]>(&self.tokens)
    }
}

impl Flows for Stocked {
    fn poll_flow(&mut self) -> Poll<Option<StartedFlow>> {
        if self.size.is_none() {
            return Flows::poll_flow(&mut self.generator);
        }
        if self.is_gathering {
            self.gather();
            return Poll::Pending;
        }
        Poll::Ready(self.render())
    }
}
