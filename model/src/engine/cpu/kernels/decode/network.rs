//! A network's weights as a step reads them.

use super::lines::{Line, TILE, tiles, vector};
use super::panels::{Panels, Shelf, Weights};
use crate::engine::Precision;
use crate::mamba::{LayerOffsets, MambaConfig, Params};

/// All weights, laid out for decoding.
#[derive(Debug)]
pub struct Network {
    pub(super) config: MambaConfig,
    shelf: Shelf,
    pub(super) blocks: Vec<Block>,
    pub(super) norm_f: Vec<Line>,
    pub(super) head: Panels,
    /// Row-major, to look tokens up: (vocab_size, d_model).
    pub(super) embedding: Vec<f32>,
    /// Of the products of a row.
    pub(super) multiply_adds: usize,
}

/// One block. Vectors are in tiles.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) norm: Vec<Line>,
    /// The input projection's half for x, and that for the gate.
    pub(super) in_x: Panels,
    pub(super) in_z: Panels,
    /// (tiles, d_conv), oldest tap first.
    pub(super) conv_weight: Vec<Line>,
    pub(super) conv_bias: Vec<Line>,
    pub(super) x_proj: Panels,
    pub(super) dt_proj: Panels,
    pub(super) dt_bias: Vec<Line>,
    /// A log2(e) = -exp(A_log) log2(e), (tiles, d_state).
    pub(super) a2: Vec<Line>,
    pub(super) d: Vec<Line>,
    pub(super) out_proj: Panels,
}

impl Network {
    /// The weights of `params`, products in `precision`. With int8 the small projections that make dt, B and C stay bf16: what they
    /// decide goes into exponents.
    ///
    /// # Panics
    /// When there is no kernel for its d_state or d_conv.
    pub fn new(params: &Params, precision: Precision) -> Self {
        let c = params.config().clone();
        assert!([4, 8, 16, 32, 64].contains(&c.d_state) && [2, 3, 4].contains(&c.d_conv), "no kernel for {c:?}");
        let at = |offset: usize, len: usize| &params.data[offset..offset + len];
        let small = if precision == Precision::Int8 { Precision::Bf16 } else { precision };
        let lines_of_block = 2 * Panels::lines(c.d_inner, c.d_model, precision)
            + Panels::lines(c.x_proj_width(), c.d_inner, small)
            + Panels::lines(c.d_inner, c.dt_rank, small)
            + Panels::lines(c.d_model, c.d_inner, precision);
        let mut shelf = Shelf::new(c.n_layer * lines_of_block + Panels::lines(c.vocab_size, c.d_model, precision));
        let mut block = |o: &LayerOffsets| {
            let (x, z) = at(o.in_proj, 2 * c.d_inner * c.d_model).split_at(c.d_inner * c.d_model);
            let a2: Vec<f32> = at(o.a_log, c.d_inner * c.d_state)
                .iter()
                .map(|a_log| -a_log.exp() * std::f32::consts::LOG2_E)
                .collect();
            let shelf = &mut shelf;
            Block {
                norm: vector(at(o.norm, c.d_model)),
                in_x: Panels::new(shelf, x, c.d_inner, c.d_model, precision),
                in_z: Panels::new(shelf, z, c.d_inner, c.d_model, precision),
                conv_weight: by_channel(at(o.conv_weight, c.d_inner * c.d_conv), c.d_conv),
                conv_bias: vector(at(o.conv_bias, c.d_inner)),
                x_proj: Panels::new(
                    shelf,
                    at(o.x_proj, c.x_proj_width() * c.d_inner),
                    c.x_proj_width(),
                    c.d_inner,
                    small,
                ),
                dt_proj: Panels::new(shelf, at(o.dt_weight, c.d_inner * c.dt_rank), c.d_inner, c.dt_rank, small),
                dt_bias: vector(at(o.dt_bias, c.d_inner)),
                a2: by_channel(&a2, c.d_state),
                d: vector(at(o.d, c.d_inner)),
                out_proj: Panels::new(shelf, at(o.out_proj, c.d_model * c.d_inner), c.d_model, c.d_inner, precision),
            }
        };
        let layout = params.layout.clone();
        let embedding = at(layout.embedding, c.vocab_size * c.d_model);
        let blocks = layout.layers.iter().map(&mut block).collect();
        let head = Panels::new(&mut shelf, embedding, c.vocab_size, c.d_model, precision);
        Self {
            shelf,
            blocks,
            norm_f: vector(at(layout.norm_f, c.d_model)),
            head,
            embedding: embedding.to_vec(),
            multiply_adds: (c.forward_flops_per_token() / 2.0) as usize,
            config: c,
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &MambaConfig {
        &self.config
    }

    /// One of its matrices, as a product reads it.
    pub(super) fn weights<'a>(&'a self, panels: &'a Panels) -> Weights<'a> {
        panels.on(&self.shelf)
    }

    /// Bytes of weights that a step reads.
    pub fn weight_bytes(&self) -> usize {
        let block = |b: &Block| {
            let panels = [&b.in_x, &b.in_z, &b.x_proj, &b.dt_proj, &b.out_proj];
            let vectors = [&b.norm, &b.conv_weight, &b.conv_bias, &b.dt_bias, &b.a2, &b.d];
            panels.map(Panels::bytes).iter().sum::<usize>() + vectors.map(|v| size_of_val(&v[..])).iter().sum::<usize>()
        };
        self.blocks.iter().map(block).sum::<usize>() + self.head.bytes()
    }
}

/// The row-major (channels, width) numbers as (tiles, width) lines.
fn by_channel(values: &[f32], width: usize) -> Vec<Line> {
    let channels = values.len() / width;
    let mut ret = vec![Line::ZERO; tiles(channels) * width];
    for (i, value) in values.iter().enumerate() {
        let (channel, n) = (i / width, i % width);
        ret[channel / TILE * width + n].0[channel % TILE] = *value;
    }
    ret
}
