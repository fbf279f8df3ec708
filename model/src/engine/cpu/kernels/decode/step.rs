//! The streams of a network: a step for all of them, and the prompt of one.

use super::super::lanes::Isa;
use super::super::numbers::Numbers;
use super::block::States;
use super::lines::{Line, SharedLines, TILE, stride, tiles};
use super::network::Network;
use super::pass::{Pass, Scratch};
use super::team::Crew;
use crate::codec::Token;

/// What a pass of `rows` rows writes on its way.
#[derive(Debug)]
pub struct Buffers {
    rows: usize,
    stride: usize,
    /// (d_model)
    residual: Vec<Line>,
    /// (d_inner) each: the input of a scan, its gate, its output.
    x: Vec<Line>,
    z: Vec<Line>,
    y: Vec<Line>,
    /// (dt_rank + 2 d_state)
    x_dbl: Vec<Line>,
    /// For each part.
    scratch: Vec<Scratch>,
}

impl Buffers {
    /// Buffers for up to `rows` rows and as many threads.
    pub fn new(network: &Network, crew: &Crew, rows: usize) -> Self {
        let c = &network.config;
        let stride = stride(rows);
        let lines = |width: usize| vec![Line::ZERO; tiles(width) * stride];
        Self {
            rows,
            stride,
            residual: lines(c.d_model),
            x: lines(c.d_inner),
            z: lines(c.d_inner),
            y: lines(c.d_inner),
            x_dbl: lines(c.x_proj_width()),
            scratch: (0..crew.threads()).map(|_| Scratch::new(c, rows)).collect(),
        }
    }
}

/// The streams of a network: `slots` slots, each with its state and what its last token came to.
#[derive(Debug)]
pub struct Streams {
    pub(super) slots: usize,
    /// (n_layer, tiles, slots, d_conv - 1)
    pub(super) windows: Numbers,
    /// (n_layer, tiles, slots, d_state)
    pub(super) states: Numbers,
    /// The normed residual stream behind the last block, which the head makes logits of: (tiles of d_model, stride).
    pub(super) hidden: Vec<Line>,
    pub(super) hidden_stride: usize,
}

/// The rows of a pass.
#[derive(Debug, Clone, Copy)]
enum Rows {
    /// A token of each stream.
    Streams,
    /// Tokens of the stream in this slot, one after another; whether they are the last ones.
    Sequence { slot: usize, is_last: bool },
}

impl Streams {
    /// `slots` streams before their first token.
    pub fn new(network: &Network, slots: usize) -> Self {
        let c = &network.config;
        let lines = c.n_layer * tiles(c.d_inner) * slots;
        let hidden_stride = stride(slots);
        Self {
            slots,
            windows: Numbers::zeroed(lines * (c.d_conv - 1) * TILE),
            states: Numbers::zeroed(lines * c.d_state * TILE),
            hidden: vec![Line::ZERO; tiles(c.d_model) * hidden_stride],
            hidden_stride,
        }
    }

    /// How many.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Copies the stream in slot `from` of `source` over the one in slot `to`. Both are of `network`.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn copy(&mut self, network: &Network, to: usize, source: &Streams, from: usize) {
        assert!(to < self.slots && from < source.slots, "slot {from} or {to}");
        let c = &network.config;
        let buffers =
            [(&mut self.windows, &source.windows, c.d_conv - 1), (&mut self.states, &source.states, c.d_state)];
        for (ours, theirs, lines) in buffers {
            let width = lines * TILE;
            for tile in 0..c.n_layer * tiles(c.d_inner) {
                let (at, there) = ((tile * self.slots + to) * width, (tile * source.slots + from) * width);
                ours[at..at + width].copy_from_slice(&theirs[there..there + width]);
            }
        }
        for tile in 0..tiles(c.d_model) {
            self.hidden[tile * self.hidden_stride + to] = source.hidden[tile * source.hidden_stride + from];
        }
    }

    /// One token for each slot.
    ///
    /// # Panics
    /// When there are more or fewer, one is unknown, or `buffers` are too small.
    pub fn step(&mut self, isa: Isa, network: &Network, crew: &Crew, buffers: &mut Buffers, tokens: &[Token]) {
        assert_eq!(tokens.len(), self.slots, "one token for each stream");
        self.pass(isa, network, crew, buffers, tokens, Rows::Streams);
    }

    /// Tokens of the stream in `slot`, one after another.
    ///
    /// # Panics
    /// When a token is unknown or there is no such slot.
    pub fn read(
        &mut self,
        isa: Isa,
        network: &Network,
        crew: &Crew,
        buffers: &mut Buffers,
        slot: usize,
        tokens: &[Token],
    ) {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        let parts = tokens.chunks(buffers.rows);
        let last = parts.len().saturating_sub(1);
        for (i, part) in parts.enumerate() {
            self.pass(isa, network, crew, buffers, part, Rows::Sequence { slot, is_last: i == last });
        }
    }

    fn pass(&mut self, isa: Isa, network: &Network, crew: &Crew, buffers: &mut Buffers, tokens: &[Token], rows: Rows) {
        assert!(isa.is_supported(), "{isa:?} on a CPU without it");
        assert!(tokens.len() <= buffers.rows, "{} rows in buffers of {}", tokens.len(), buffers.rows);
        if tokens.is_empty() {
            return;
        }
        let c = &network.config;
        for (row, token) in tokens.iter().enumerate() {
            let token = token.0 as usize;
            assert!(token < c.vocab_size, "token {token} outside a vocabulary of {}", c.vocab_size);
            for (tile, values) in network.embedding[token * c.d_model..][..c.d_model].chunks(TILE).enumerate() {
                buffers.residual[tile * buffers.stride + row].0[..values.len()].copy_from_slice(values);
            }
        }
        let (first, step) = match rows {
            Rows::Streams => (0, 1),
            Rows::Sequence { slot, .. } => (slot, 0),
        };
        let of = |numbers: &mut Numbers| States {
            lines: SharedLines::new(bytemuck::cast_slice_mut(numbers)),
            slots: self.slots,
            first,
            step,
        };
        let pass = Pass {
            isa,
            network,
            rows: tokens.len(),
            stride: buffers.stride,
            windows: of(&mut self.windows),
            states: of(&mut self.states),
            residual: SharedLines::new(&mut buffers.residual),
            x: SharedLines::new(&mut buffers.x),
            z: SharedLines::new(&mut buffers.z),
            y: SharedLines::new(&mut buffers.y),
            x_dbl: SharedLines::new(&mut buffers.x_dbl),
            hidden: SharedLines::new(&mut self.hidden),
            hidden_stride: self.hidden_stride,
            scratch: &buffers.scratch,
            last: match rows {
                Rows::Streams => Some((0, tokens.len(), 0)),
                Rows::Sequence { slot, is_last: true } => Some((tokens.len() - 1, 1, slot)),
                Rows::Sequence { is_last: false, .. } => None,
            },
        };
        // SAFETY: the buffers were made for this network and as many rows, and nobody else uses them until the pass is done.
        unsafe { pass.run(crew) }
    }
}
