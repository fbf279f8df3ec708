//! All blocks for some rows, on a team of threads.
//!
//! There are two ways to share it out.
//!
//! - **By channels**: each thread projects into its own channels, convolves them and scans them, so that their state, and of each
//!   product the weights of its own outputs, are read by one core only, once a step for all rows. Four times a block the threads wait
//!   for one another: for the channels before B, C and dt, for those before the scan, for the channels before the output projection, and
//!   for the residual stream before the next norm.
//! - **By rows**: each thread takes some streams through everything by itself and waits for nobody, but every core reads all weights.
//!   That is the better way where rows are many and weights lie in the caches.

use std::cell::UnsafeCell;
use std::ops::Range;

use super::super::lanes::Isa;
use super::block::{Conv, Norm, Scan, States, conv, norm, scan};
use super::lines::{Line, SharedLines, TILE, stride, tiles};
use super::narrow::Narrow;
use super::network::{Block, Network};
use super::panels::Panels;
use super::product::{Input, Output, product};
use super::team::Crew;
use crate::engine::cpu::kernels::scan::for_d_state;
use crate::mamba::MambaConfig;

/// Phases of a block.
const PHASES: usize = 4;
/// Multiply-adds of a pass that are worth another thread.
pub(super) const WORK_PER_PART: usize = 1 << 19;
/// Rows that a thread must have for a pass by rows.
const ROWS_PER_PART: usize = 8;
/// Weights up to which a pass by rows is the faster one, as measured: larger ones crowd the states out of the caches.
const WEIGHT_BYTES_OF_ROWS: usize = 8 << 20;

/// What a thread has for itself.
#[derive(Debug)]
pub(super) struct Scratch(UnsafeCell<Own>);

#[derive(Debug)]
struct Own {
    /// The normed residual stream, (d_model).
    normed: Vec<Line>,
    narrow: Narrow,
    /// (rows, 2, d_state): B and C, out of their tiles.
    b_c: Vec<f32>,
}

// SAFETY: part i of a phase, which one thread has at a time, is the only one to use scratch i.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// For up to `rows` rows.
    pub(super) fn new(c: &MambaConfig, rows: usize) -> Self {
        let normed = vec![Line::ZERO; tiles(c.d_model) * stride(rows)];
        let narrow = Narrow::new(rows, c.d_inner.max(c.d_model));
        Self(UnsafeCell::new(Own { normed, narrow, b_c: vec![0.0; rows * 2 * c.d_state] }))
    }
}

/// One of the parts of a phase.
#[derive(Clone, Copy)]
struct Part {
    index: usize,
    of: usize,
}

impl Part {
    /// Its share of `count` things.
    fn share(self, count: usize) -> Range<usize> {
        share(count, self.index, self.of)
    }
}

/// Share `index` of `of` of `count` things.
pub(super) fn share(count: usize, index: usize, of: usize) -> Range<usize> {
    count * index / of..count * (index + 1) / of
}

/// One pass, as its threads see it.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) isa: Isa,
    pub(super) network: &'a Network,
    pub(super) rows: usize,
    pub(super) stride: usize,
    pub(super) windows: States,
    pub(super) states: States,
    pub(super) residual: SharedLines,
    pub(super) x: SharedLines,
    pub(super) z: SharedLines,
    pub(super) y: SharedLines,
    pub(super) x_dbl: SharedLines,
    /// Where the normed residual stream goes in the end, for each slot.
    pub(super) hidden: SharedLines,
    pub(super) hidden_stride: usize,
    /// For each thread that may take part.
    pub(super) scratch: &'a [Scratch],
    /// First row and number of rows that go there, and the slot of the first.
    pub(super) last: Option<(usize, usize, usize)>,
}

// SAFETY: its pointers go to buffers that outlive the pass; who writes what is the phases' business.
unsafe impl Sync for Pass<'_> {}

impl Pass<'_> {
    /// Runs it, on as many threads as are worth it.
    ///
    /// # Safety
    /// The CPU has `isa`; all buffers were made for the network and as many rows, and nobody else uses them.
    pub(super) unsafe fn run(&self, crew: &Crew) {
        let phases = PHASES * self.network.blocks.len() + usize::from(self.last.is_some());
        let parts = (self.network.multiply_adds * self.rows / WORK_PER_PART).clamp(1, self.scratch.len());
        if parts > 1 && self.is_by_rows(parts) {
            crew.run(parts, 1, &|_, part| {
                let pass = self.of_rows(share(self.rows, part, parts), &self.scratch[part..=part]);
                // SAFETY: no other thread has these rows and this scratch.
                (0..phases).for_each(|phase| unsafe { pass.phase(phase, Part { index: 0, of: 1 }) });
            });
        } else {
            crew.run(parts, phases, &|phase, part| {
                // SAFETY: the team gives each part of a phase to one thread, and no phase begins before the one before it is done.
                unsafe { self.phase(phase, Part { index: part, of: parts }) }
            });
        }
    }

    /// Whether each thread had better take some rows through all phases by itself.
    fn is_by_rows(&self, parts: usize) -> bool {
        self.states.step == 1
            && self.rows >= ROWS_PER_PART * parts
            && self.network.weight_bytes() <= WEIGHT_BYTES_OF_ROWS
    }

    /// The pass of some of its rows, which are streams.
    fn of_rows<'a>(&'a self, rows: Range<usize>, scratch: &'a [Scratch]) -> Pass<'a> {
        // SAFETY: all buffers have a line for each row.
        let from = |lines: SharedLines| unsafe { lines.skip(rows.start) };
        let states = |states: States| States { first: states.first + rows.start, ..states };
        Pass {
            rows: rows.len(),
            windows: states(self.windows),
            states: states(self.states),
            residual: from(self.residual),
            x: from(self.x),
            z: from(self.z),
            y: from(self.y),
            x_dbl: from(self.x_dbl),
            hidden: from(self.hidden),
            last: self.last.map(|(first, ..)| (first, rows.len(), first)),
            scratch,
            ..*self
        }
    }

    /// # Safety
    /// One thread has this part of this phase, and all phases before are done; buffers fit the network and the rows.
    unsafe fn phase(&self, phase: usize, part: Part) {
        // SAFETY: handed on; the scratch of a part is its own.
        unsafe {
            let own = &mut *self.scratch[part.index].0.get();
            let (layer, phase) = (phase / PHASES, phase % PHASES);
            match self.network.blocks.get(layer) {
                None => self.finish(part),
                Some(block) => match phase {
                    0 => self.project_in(layer, block, part, own),
                    1 => self.project_dbl(block, part, own),
                    2 => self.scan(layer, block, part, own),
                    _ => self.project_out(block, part, own),
                },
            }
        }
    }

    /// The part's half tiles of `tiles` tiles.
    fn halves(&self, tiles: usize, part: Part) -> Range<usize> {
        match self.isa {
            Isa::Avx512 => {
                let share = part.share(tiles);
                2 * share.start..2 * share.end
            }
            _ => part.share(2 * tiles),
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
        let weights = self.network.weights(panels);
        // SAFETY: handed on.
        unsafe {
            narrow.fill(self.isa, weights.precision, from, (0, self.stride), (self.rows, weights.inputs));
            let input = Input { lines: from, first: 0, stride: self.stride, rows: self.rows, narrow };
            product(self.isa, &weights, &input, halves, &output);
        }
    }

    /// Norm, input projection and convolution.
    unsafe fn project_in(&self, layer: usize, block: &Block, part: Part, own: &mut Own) {
        let c = &self.network.config;
        let channels = part.share(tiles(c.d_inner));
        let halves = 2 * channels.start..2 * channels.end;
        let normed = SharedLines::new(&mut own.normed);
        // SAFETY: handed on; the channels are this part's.
        unsafe {
            self.norm(&block.norm, self.residual, (normed, self.stride), self.rows);
            let (x, z) = (self.network.weights(&block.in_x), self.network.weights(&block.in_z));
            own.narrow.fill(self.isa, x.precision, normed, (0, self.stride), (self.rows, x.inputs));
            let input = Input { lines: normed, first: 0, stride: self.stride, rows: self.rows, narrow: &own.narrow };
            let output = |lines| Output { lines, first: 0, stride: self.stride, accumulate: false };
            product(self.isa, &x, &input, halves.clone(), &output(self.x));
            product(self.isa, &z, &input, halves, &output(self.z));
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
    unsafe fn project_dbl(&self, block: &Block, part: Part, own: &mut Own) {
        let halves = self.halves(tiles(self.network.config.x_proj_width()), part);
        // SAFETY: handed on; the outputs are this part's.
        unsafe { self.product(&block.x_proj, self.x, &mut own.narrow, halves, self.x_dbl, false) }
    }

    /// The projection of dt, and the scan.
    unsafe fn scan(&self, layer: usize, block: &Block, part: Part, own: &mut Own) {
        let c = &self.network.config;
        let channels = part.share(tiles(c.d_inner));
        let halves = 2 * channels.start..2 * channels.end;
        // SAFETY: handed on; the channels are this part's.
        unsafe {
            self.product(&block.dt_proj, self.x_dbl, &mut own.narrow, halves, self.y, false);
            self.gather(&mut own.b_c);
            let args = Scan {
                dt_bias: &block.dt_bias,
                a2: &block.a2,
                d: &block.d,
                states: self.of_layer(self.states, layer, c.d_state),
                x: self.x,
                z: self.z,
                b_c: &own.b_c,
                y: self.y,
                stride: self.stride,
                rows: self.rows,
            };
            for_d_state!(c.d_state, S => scan::<S>(self.isa, &args, channels));
        }
    }

    /// B and C of all rows, one after another.
    unsafe fn gather(&self, b_c: &mut [f32]) {
        let c = &self.network.config;
        for (row, to) in b_c.chunks_exact_mut(2 * c.d_state).take(self.rows).enumerate() {
            for (i, to) in (c.dt_rank..).zip(to) {
                // SAFETY: a line of this row, which the phase before has written.
                *to = unsafe { *self.x_dbl.at(i / TILE * self.stride + row).add(i % TILE) };
            }
        }
    }

    /// The output projection, added to the residual stream.
    unsafe fn project_out(&self, block: &Block, part: Part, own: &mut Own) {
        let halves = self.halves(tiles(self.network.config.d_model), part);
        // SAFETY: handed on; the outputs are this part's.
        unsafe { self.product(&block.out_proj, self.y, &mut own.narrow, halves, self.residual, true) }
    }

    /// The last norm.
    unsafe fn finish(&self, part: Part) {
        let Some((first, rows, slot)) = self.last else { return };
        let rows = part.share(rows);
        // SAFETY: handed on; the rows are this part's.
        unsafe {
            let from = self.residual.skip(first + rows.start);
            let to = (self.hidden.skip(slot + rows.start), self.hidden_stride);
            self.norm(&self.network.norm_f, from, to, rows.len());
        }
    }

    /// The norm of `rows` rows of the residual stream.
    unsafe fn norm(&self, weight: &[Line], from: SharedLines, (to, to_stride): (SharedLines, usize), rows: usize) {
        let c = &self.network.config;
        let (width, eps, from_stride) = (c.d_model, c.norm_eps, self.stride);
        let args = Norm { weight, width, eps, from, from_stride, to, to_stride, rows };
        // SAFETY: handed on; nobody else uses `to`.
        unsafe { norm(self.isa, &args) }
    }

    /// The states of block `layer`, of `width` lines each.
    unsafe fn of_layer(&self, states: States, layer: usize, width: usize) -> States {
        let skip = layer * tiles(self.network.config.d_inner) * states.slots * width;
        // SAFETY: the states of all layers lie one after another.
        States { lines: unsafe { states.lines.skip(skip) }, ..states }
    }
}
