//! All blocks and the head for some rows, on a team of threads.
//!
//! Each thread owns channels: it projects into them, convolves them and scans them, so that their state, and of each product the
//! weights of its own outputs, are read by one core only, once a step for all rows. Four times a block the threads wait for one
//! another: for the channels before B, C and dt, for those before the scan, for the channels before the output projection, and for the
//! residual stream before the next norm.

use std::cell::UnsafeCell;
use std::ops::Range;

use super::super::lanes::Isa;
use super::block::{Conv, Norm, Scan, States, conv, norm, scan};
use super::lines::{Line, SharedLines, TILE, stride, tiles};
use super::narrow::Narrow;
use super::network::{Block, Network};
use super::panels::Panels;
use super::pick::{Pick, pick};
use super::product::{HALF, Input, Output, product};
use super::team;
use crate::codec::Token;
use crate::engine::cpu::kernels::scan::for_d_state;
use crate::generate::Draws;

/// Phases of a block.
const PHASES: usize = 4;
/// Multiply-adds of a pass that are worth another thread.
const WORK_PER_PART: usize = 1 << 19;
/// Threads that have been seen to help.
const PARTS_MAX: usize = 16;
/// Tokens of a draw from which on it is spread over threads.
const PARALLEL_TOKENS: usize = 1 << 15;

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

/// What a thread has for itself.
#[derive(Debug)]
struct Scratch(UnsafeCell<Own>);

#[derive(Debug)]
struct Own {
    /// The normed residual stream, (d_model).
    normed: Vec<Line>,
    narrow: Narrow,
}

// SAFETY: part i of a phase, which one thread has at a time, is the only one to use scratch i.
unsafe impl Sync for Scratch {}

impl Buffers {
    /// Buffers for up to `rows` rows.
    pub fn new(network: &Network, rows: usize) -> Self {
        let c = &network.config;
        let stride = stride(rows);
        let lines = |width: usize| vec![Line::ZERO; tiles(width) * stride];
        let own = |_| {
            let narrow = Narrow::new(rows, c.d_inner.max(c.d_model));
            Scratch(UnsafeCell::new(Own { normed: lines(c.d_model), narrow }))
        };
        Self {
            rows,
            stride,
            residual: lines(c.d_model),
            x: lines(c.d_inner),
            z: lines(c.d_inner),
            y: lines(c.d_inner),
            x_dbl: lines(c.x_proj_width()),
            scratch: (0..rayon::current_num_threads().clamp(1, PARTS_MAX)).map(own).collect(),
        }
    }
}

/// The streams of a network: state and logits of `slots` slots.
#[derive(Debug)]
pub struct Streams {
    pub(super) slots: usize,
    /// (n_layer, tiles, slots, d_conv - 1)
    pub(super) windows: Vec<Line>,
    /// (n_layer, tiles, slots, d_state)
    pub(super) states: Vec<Line>,
    /// (tiles of the vocabulary, stride)
    logits: Vec<Line>,
    logits_stride: usize,
}

/// The rows of a pass.
#[derive(Debug, Clone, Copy)]
enum Rows {
    /// A token of each stream.
    Streams,
    /// Tokens of the stream in this slot, one after another; whether somebody wants the logits of the last.
    Sequence { slot: usize, wants_logits: bool },
}

impl Streams {
    /// `slots` streams before their first token.
    pub fn new(network: &Network, slots: usize) -> Self {
        let c = &network.config;
        let lines = c.n_layer * tiles(c.d_inner) * slots;
        let logits_stride = stride(slots);
        Self {
            slots,
            windows: vec![Line::ZERO; lines * (c.d_conv - 1)],
            states: vec![Line::ZERO; lines * c.d_state],
            logits: vec![Line::ZERO; tiles(c.vocab_size) * logits_stride],
            logits_stride,
        }
    }

    /// How many.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Copies the stream in slot `from` of `source`, with its logits, over the one in slot `to`. Both are of `network`.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn copy(&mut self, network: &Network, to: usize, source: &Streams, from: usize) {
        assert!(to < self.slots && from < source.slots, "slot {from} or {to}");
        let c = &network.config;
        let buffers =
            [(&mut self.windows, &source.windows, c.d_conv - 1), (&mut self.states, &source.states, c.d_state)];
        for (ours, theirs, width) in buffers {
            for tile in 0..c.n_layer * tiles(c.d_inner) {
                let (at, there) = ((tile * self.slots + to) * width, (tile * source.slots + from) * width);
                ours[at..at + width].copy_from_slice(&theirs[there..there + width]);
            }
        }
        for tile in 0..tiles(c.vocab_size) {
            self.logits[tile * self.logits_stride + to] = source.logits[tile * source.logits_stride + from];
        }
    }

    /// The logits of a slot.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn logits(&self, network: &Network, slot: usize) -> Vec<f32> {
        assert!(slot < self.slots, "slot {slot}");
        let lines = (0..tiles(network.config.vocab_size)).map(|tile| self.logits[tile * self.logits_stride + slot]);
        let mut ret: Vec<f32> = lines.flat_map(|line| line.0).collect();
        ret.truncate(network.config.vocab_size);
        ret
    }

    /// One token for each slot.
    ///
    /// # Panics
    /// When there are more or fewer, one is unknown, or `buffers` are too small.
    pub fn step(&mut self, isa: Isa, network: &Network, buffers: &mut Buffers, tokens: &[Token]) {
        assert_eq!(tokens.len(), self.slots, "one token for each stream");
        self.pass(isa, network, buffers, tokens, Rows::Streams);
    }

    /// Tokens of the stream in `slot`, one after another; it then has the logits after the last.
    ///
    /// # Panics
    /// When a token is unknown or there is no such slot.
    pub fn read(&mut self, isa: Isa, network: &Network, buffers: &mut Buffers, slot: usize, tokens: &[Token]) {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        let parts = tokens.chunks(buffers.rows);
        let last = parts.len().saturating_sub(1);
        for (i, part) in parts.enumerate() {
            self.pass(isa, network, buffers, part, Rows::Sequence { slot, wants_logits: i == last });
        }
    }

    fn pass(&mut self, isa: Isa, network: &Network, buffers: &mut Buffers, tokens: &[Token], rows: Rows) {
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
        let work = network.multiply_adds * tokens.len();
        let parts = (work / WORK_PER_PART).clamp(1, buffers.scratch.len());
        let (first, step) = match rows {
            Rows::Streams => (0, 1),
            Rows::Sequence { slot, .. } => (slot, 0),
        };
        let of = |lines: &mut [Line]| States { lines: SharedLines::new(lines), slots: self.slots, first, step };
        let pass = Pass {
            isa,
            network,
            parts,
            rows: tokens.len(),
            stride: buffers.stride,
            windows: of(&mut self.windows),
            states: of(&mut self.states),
            residual: SharedLines::new(&mut buffers.residual),
            x: SharedLines::new(&mut buffers.x),
            z: SharedLines::new(&mut buffers.z),
            y: SharedLines::new(&mut buffers.y),
            x_dbl: SharedLines::new(&mut buffers.x_dbl),
            logits: SharedLines::new(&mut self.logits),
            logits_stride: self.logits_stride,
            scratch: &buffers.scratch,
            head: match rows {
                Rows::Streams => Some((0, tokens.len(), 0)),
                Rows::Sequence { slot, wants_logits: true } => Some((tokens.len() - 1, 1, slot)),
                Rows::Sequence { wants_logits: false, .. } => None,
            },
        };
        let phases = PHASES * c.n_layer + usize::from(pass.head.is_some());
        team::run(parts, phases, &|phase, part| {
            // SAFETY: the team gives each part of a phase to one thread, and no phase begins before the one before it is done; the
            // buffers were made for this network and as many rows.
            unsafe { pass.phase(phase, part) }
        });
    }

    /// Draws as a [`Decoder`](crate::generate::Decoder) does, without cuts; `scratch` grows to what is needed.
    ///
    /// # Panics
    /// When a slot is not there, a mask or a uniform number is missing, or there is a cut.
    pub fn draw(&mut self, isa: Isa, draws: &Draws<'_>, scratch: &mut Vec<f32>, ret: &mut Vec<Option<Token>>) {
        use rayon::prelude::*;
        assert!(isa.is_supported(), "{isa:?} on a CPU without it");
        assert!(draws.sampling.top_k == 0 && draws.sampling.top_p >= 1.0, "a draw with cuts");
        assert!(draws.slots.iter().all(|slot| *slot < self.slots), "a slot that is not there");
        let width = tiles(draws.vocab_size) * TILE;
        assert!(width * self.logits_stride <= self.logits.len() * TILE, "vocab_size {}", draws.vocab_size);
        let count = draws.slots.len();
        scratch.resize(count * width, 0.0);
        let logits = SharedLines::new(&mut self.logits);
        let one = |(index, weights): (usize, &mut [f32])| {
            let args = Pick {
                logits,
                first: draws.slots[index],
                stride: self.logits_stride,
                vocab_size: draws.vocab_size,
                mask: draws.mask(index),
                temperature: draws.sampling.temperature,
                uniform: draws.uniforms[index],
            };
            let mut token = None;
            // SAFETY: support, slot and vocabulary were checked; a mask has its words.
            unsafe { pick(isa, &args, weights, &mut token) };
            token.map(Token)
        };
        if count * draws.vocab_size < PARALLEL_TOKENS {
            ret.clear();
            ret.extend(scratch.chunks_mut(width).enumerate().map(one));
        } else {
            scratch.par_chunks_mut(width).enumerate().map(one).collect_into_vec(ret);
        }
    }
}

/// One pass, as its threads see it.
struct Pass<'a> {
    isa: Isa,
    network: &'a Network,
    parts: usize,
    rows: usize,
    stride: usize,
    windows: States,
    states: States,
    residual: SharedLines,
    x: SharedLines,
    z: SharedLines,
    y: SharedLines,
    x_dbl: SharedLines,
    logits: SharedLines,
    logits_stride: usize,
    scratch: &'a [Scratch],
    /// First row and number of rows that want logits, and the slot of the first.
    head: Option<(usize, usize, usize)>,
}

// SAFETY: its pointers go to buffers that outlive the pass; who writes what is the phases' business.
unsafe impl Sync for Pass<'_> {}

impl Pass<'_> {
    /// # Safety
    /// One thread has this part of this phase, and all phases before are done; buffers fit the network and the rows.
    unsafe fn phase(&self, phase: usize, part: usize) {
        // SAFETY: handed on; the scratch of a part is its own.
        unsafe {
            let own = &mut *self.scratch[part].0.get();
            let (layer, phase) = (phase / PHASES, phase % PHASES);
            match self.network.blocks.get(layer) {
                None => self.output(part, own),
                Some(block) => match phase {
                    0 => self.project_in(layer, block, part, own),
                    1 => self.project_dbl(block, part, own),
                    2 => self.scan(layer, block, part, own),
                    _ => self.project_out(block, part, own),
                },
            }
        }
    }

    /// The part's share of `count` things.
    fn share(&self, count: usize, part: usize) -> Range<usize> {
        count * part / self.parts..count * (part + 1) / self.parts
    }

    /// The part's half tiles of `tiles` tiles.
    fn halves(&self, tiles: usize, part: usize) -> Range<usize> {
        match self.isa {
            Isa::Avx512 => {
                let share = self.share(tiles, part);
                2 * share.start..2 * share.end
            }
            _ => self.share(2 * tiles, part),
        }
    }

    /// A product over all rows.
    ///
    /// # Safety
    /// As [`phase`](Self::phase); the part owns these outputs.
    unsafe fn product(
        &self,
        panels: &Panels,
        from: SharedLines,
        narrow: &mut Narrow,
        halves: Range<usize>,
        lines: SharedLines,
        accumulate: bool,
    ) {
        let output = Output { lines, first: 0, stride: self.stride, accumulate };
        // SAFETY: handed on.
        unsafe {
            narrow.fill(self.isa, panels.precision, from, (0, self.stride), (self.rows, panels.inputs));
            let input = Input { lines: from, first: 0, stride: self.stride, rows: self.rows, narrow };
            product(self.isa, panels, &input, halves, &output);
        }
    }

    /// Norm, input projection and convolution.
    unsafe fn project_in(&self, layer: usize, block: &Block, part: usize, own: &mut Own) {
        let c = &self.network.config;
        let channels = self.share(tiles(c.d_inner), part);
        let halves = 2 * channels.start..2 * channels.end;
        let normed = SharedLines::new(&mut own.normed);
        // SAFETY: handed on; the channels are this part's.
        unsafe {
            self.norm(&block.norm, normed, (0, self.rows));
            let (x, z) = (&block.in_x, &block.in_z);
            own.narrow.fill(self.isa, x.precision, normed, (0, self.stride), (self.rows, x.inputs));
            let input = Input { lines: normed, first: 0, stride: self.stride, rows: self.rows, narrow: &own.narrow };
            let output = |lines| Output { lines, first: 0, stride: self.stride, accumulate: false };
            product(self.isa, x, &input, halves.clone(), &output(self.x));
            product(self.isa, z, &input, halves, &output(self.z));
            let windows = self.of_layer(self.windows, layer, c.d_conv - 1);
            let args = Conv {
                weight: &block.conv_weight,
                bias: &block.conv_bias,
                windows,
                x: self.x,
                stride: self.stride,
                rows: self.rows,
            };
            match c.d_conv {
                2 => conv::<2>(self.isa, &args, channels),
                3 => conv::<3>(self.isa, &args, channels),
                _ => conv::<4>(self.isa, &args, channels),
            }
        }
    }

    /// B, C, and dt before its projection.
    unsafe fn project_dbl(&self, block: &Block, part: usize, own: &mut Own) {
        let halves = self.halves(tiles(self.network.config.x_proj_width()), part);
        // SAFETY: handed on; the outputs are this part's.
        unsafe { self.product(&block.x_proj, self.x, &mut own.narrow, halves, self.x_dbl, false) }
    }

    /// The projection of dt, and the scan.
    unsafe fn scan(&self, layer: usize, block: &Block, part: usize, own: &mut Own) {
        let c = &self.network.config;
        let channels = self.share(tiles(c.d_inner), part);
        let halves = 2 * channels.start..2 * channels.end;
        // SAFETY: handed on; the channels are this part's.
        unsafe {
            self.product(&block.dt_proj, self.x_dbl, &mut own.narrow, halves, self.y, false);
            let args = Scan {
                dt_bias: &block.dt_bias,
                a2: &block.a2,
                d: &block.d,
                dt_rank: c.dt_rank,
                states: self.of_layer(self.states, layer, c.d_state),
                x: self.x,
                z: self.z,
                x_dbl: self.x_dbl,
                y: self.y,
                stride: self.stride,
                rows: self.rows,
            };
            for_d_state!(c.d_state, S => scan::<S>(self.isa, &args, channels));
        }
    }

    /// The output projection, added to the residual stream.
    unsafe fn project_out(&self, block: &Block, part: usize, own: &mut Own) {
        let halves = self.halves(tiles(self.network.config.d_model), part);
        // SAFETY: handed on; the outputs are this part's.
        unsafe { self.product(&block.out_proj, self.y, &mut own.narrow, halves, self.residual, true) }
    }

    /// The last norm and the head.
    unsafe fn output(&self, part: usize, own: &mut Own) {
        let Some((first, rows, slot)) = self.head else { return };
        let head = &self.network.head;
        let halves = self.halves(tiles(self.network.config.vocab_size), part);
        let normed = SharedLines::new(&mut own.normed);
        // SAFETY: handed on; the outputs are this part's.
        unsafe {
            self.norm(&self.network.norm_f, normed, (first, rows));
            own.narrow.fill(self.isa, head.precision, normed, (first, self.stride), (rows, head.inputs));
            let input = Input { lines: normed, first, stride: self.stride, rows, narrow: &own.narrow };
            let output = Output { lines: self.logits, first: slot, stride: self.logits_stride, accumulate: false };
            product(self.isa, head, &input, halves, &output);
        }
    }

    /// The norm of some rows of the residual stream.
    unsafe fn norm(&self, weight: &[Line], to: SharedLines, (first, rows): (usize, usize)) {
        let c = &self.network.config;
        let (width, eps, from) = (c.d_model, c.norm_eps, self.residual);
        let args = Norm { weight, width, eps, from, to, first, stride: self.stride, rows };
        // SAFETY: handed on; `to` is the part's own.
        unsafe { norm(self.isa, &args) }
    }

    /// The states of block `layer`, of `width` lines each.
    unsafe fn of_layer(&self, states: States, layer: usize, width: usize) -> States {
        let skip = layer * tiles(self.network.config.d_inner) * states.slots * width;
        // SAFETY: the states of all layers lie one after another.
        States { lines: unsafe { states.lines.skip(skip) }, ..states }
    }
}

/// Half tiles are a fact of the layout, not a setting.
const _: () = assert!(2 * HALF == TILE);
