//! Logits, as far as they are wanted, and draws from them.
//!
//! A step ends with the normed residual stream of each slot. The head is a sixth of the products of a small network, and a mask
//! leaves few tokens to be drawn: so a draw computes the logits, of those tiles of tokens that have one that may be drawn.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::super::lanes::Isa;
use super::lines::{Line, SharedLines, TILE, stride, tiles};
use super::narrow::Narrow;
use super::network::Network;
use super::pass::{WORK_PER_PART, share};
use super::pick::{Pick, pick};
use super::product::{Input, Output, product};
use super::step::Streams;
use super::team::Crew;
use crate::codec::Token;
use crate::generate::Draws;

/// A tile for one row takes as long as this many for one of many rows.
const ALONE: usize = 2;

/// What draws write on their way, for each part; no two threads have a part at a time.
#[derive(Debug)]
pub struct DrawBuffers(Vec<Mutex<Own>>);

#[derive(Debug, Default)]
struct Own {
    narrow: Narrow,
    /// (tiles of the vocabulary, stride)
    logits: Vec<Line>,
    /// A number for each token.
    weights: Vec<f32>,
    drawn: Vec<Option<Token>>,
}

impl DrawBuffers {
    /// For as many threads; they grow to what is needed.
    pub fn new(crew: &Crew) -> Self {
        Self((0..crew.threads()).map(|_| Mutex::default()).collect())
    }
}

impl Streams {
    /// The logits of a slot.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn logits(&mut self, isa: Isa, network: &Network, slot: usize) -> Vec<f32> {
        assert!(isa.is_supported() && slot < self.slots, "slot {slot}");
        let mut own = Own::default();
        let head = Head { isa, network, hidden: SharedLines::new(&mut self.hidden), stride: self.hidden_stride };
        let tiles = tiles(network.config.vocab_size);
        own.resize(network, 1, tiles);
        // SAFETY: support and slot were checked, and the buffers have room for this row.
        unsafe { head.rows(&mut own, slot, 1, 1, std::iter::once((0, 0..tiles))) };
        let mut ret: Vec<f32> =
            own.logits[..tiles * stride(1)].iter().step_by(stride(1)).flat_map(|line| line.0).collect();
        ret.truncate(network.config.vocab_size);
        ret
    }

    /// Draws as a [`Decoder`](crate::generate::Decoder) does, without cuts.
    ///
    /// # Panics
    /// When a slot is not there, a mask or a uniform number is missing, or there is a cut.
    pub fn draw(
        &mut self,
        isa: Isa,
        network: &Network,
        crew: &Crew,
        draws: &Draws<'_>,
        buffers: &mut DrawBuffers,
        ret: &mut Vec<Option<Token>>,
    ) {
        assert!(isa.is_supported(), "{isa:?} on a CPU without it");
        assert!(draws.sampling.top_k == 0 && draws.sampling.top_p >= 1.0, "a draw with cuts");
        assert!(draws.slots.iter().all(|slot| *slot < self.slots), "a slot that is not there");
        assert!(draws.vocab_size <= network.config.vocab_size, "vocab_size {}", draws.vocab_size);
        assert!(draws.uniforms.len() == draws.slots.len(), "a uniform number for each slot");
        let head = Head { isa, network, hidden: SharedLines::new(&mut self.hidden), stride: self.hidden_stride };
        let count = draws.slots.len();
        let all = count * tiles(draws.vocab_size);
        let wanted = (0..count).map(|index| wanted(draws, index).count()).sum::<usize>();
        let is_apart = wanted * ALONE < all;
        let work = if is_apart { wanted * ALONE } else { all } * TILE * network.config.d_model;
        let parts = (work / WORK_PER_PART).clamp(1, buffers.0.len());
        crew.run(parts, 1, &|_, part| {
            let mut own = buffers.0[part].lock().unwrap_or_else(PoisonError::into_inner);
            head.draw(&mut own, draws, share(count, part, parts), is_apart);
        });
        ret.clear();
        for own in &mut buffers.0[..parts] {
            ret.append(&mut own.get_mut().unwrap_or_else(PoisonError::into_inner).drawn);
        }
    }
}

/// The tiles of the `index`-th draw that have a token which may be drawn.
fn wanted<'a>(draws: &Draws<'a>, index: usize) -> impl Iterator<Item = usize> + use<'a> {
    let mask = draws.mask(index);
    let is_wanted = move |tile: &usize| mask.is_none_or(|mask| (mask[tile / 4] >> (tile % 4 * TILE)) as u16 != 0);
    (0..tiles(draws.vocab_size)).filter(is_wanted)
}

impl Own {
    /// Room for `rows` rows of `tiles` tiles.
    fn resize(&mut self, network: &Network, rows: usize, tiles: usize) {
        let lines = tiles * stride(rows);
        if self.logits.len() < lines {
            self.logits.resize(lines, Line::ZERO);
        }
        if !self.narrow.has_room(rows, network.config.d_model) {
            self.narrow = Narrow::new(rows, network.config.d_model);
        }
        self.weights.resize(tiles * TILE, 0.0);
    }
}

/// What makes logits of the residual stream.
#[derive(Clone, Copy)]
struct Head<'a> {
    isa: Isa,
    network: &'a Network,
    /// (tiles of d_model, stride): a line for each slot.
    hidden: SharedLines,
    stride: usize,
}

impl Head<'_> {
    /// Some of the draws, the logits of each for its row or of all in one go.
    fn draw(&self, own: &mut Own, draws: &Draws<'_>, part: Range<usize>, is_apart: bool) {
        own.drawn.clear();
        let slots = &draws.slots[part.clone()];
        let (Some(low), Some(high)) = (slots.first(), slots.last()) else { return };
        let rows = high - low + 1;
        let tiles = tiles(draws.vocab_size);
        own.resize(self.network, rows, tiles);
        // SAFETY: support and slots were checked; the buffers have room for these rows; nobody writes the residual stream.
        unsafe {
            if is_apart {
                for (index, slot) in part.clone().zip(slots) {
                    let runs = runs(wanted(draws, index)).map(|run| (slot - low, run));
                    self.rows(own, *slot, 1, rows, runs);
                }
            } else {
                self.rows(own, *low, rows, rows, std::iter::once((0, 0..tiles)));
            }
        }
        let logits = SharedLines::new(&mut own.logits);
        for (index, slot) in part.zip(slots) {
            let args = Pick {
                logits,
                first: slot - low,
                stride: stride(rows),
                vocab_size: draws.vocab_size,
                mask: draws.mask(index),
                temperature: draws.sampling.temperature,
                uniform: draws.uniforms[index],
            };
            let mut token = None;
            // SAFETY: support and vocabulary were checked; a mask has its words; the tiles that it wants were written.
            unsafe { pick(self.isa, &args, &mut own.weights, &mut token) };
            own.drawn.push(token.map(Token));
        }
    }

    /// The logits of `rows` slots from `slot` on: of each (row to write, tiles) that is wanted, among `of` rows.
    ///
    /// # Safety
    /// The CPU has the instruction set, the slots are there and nobody writes them; `own` has room for the rows and tiles.
    unsafe fn rows(
        &self,
        own: &mut Own,
        slot: usize,
        rows: usize,
        of: usize,
        wanted: impl Iterator<Item = (usize, Range<usize>)>,
    ) {
        let head = self.network.weights(&self.network.head);
        let Own { narrow, logits, .. } = own;
        let logits = SharedLines::new(logits);
        // SAFETY: handed on.
        unsafe {
            narrow.fill(self.isa, head.precision, self.hidden, (slot, self.stride), (rows, head.inputs));
            let input = Input { lines: self.hidden, first: slot, stride: self.stride, rows, narrow };
            for (row, tiles) in wanted {
                let output = Output { lines: logits, first: row, stride: stride(of), accumulate: false };
                product(self.isa, &head, &input, 2 * tiles.start..2 * tiles.end, &output);
            }
        }
    }
}

/// Ascending numbers as ranges of neighbours.
fn runs(numbers: impl Iterator<Item = usize>) -> impl Iterator<Item = Range<usize>> {
    let mut numbers = numbers.peekable();
    std::iter::from_fn(move || {
        let start = numbers.next()?;
        let mut end = start + 1;
        while numbers.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(start..end)
    })
}
