//! Everything that a pass writes between the parameters and the loss, allocated once for a shape.

use crate::mamba::MambaConfig;

use super::kernels::{HeadBuffers, Numbers, Products, ScanArgs};

/// Buffers for `b` rows of `l` tokens; t counts all b * l tokens.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) b: usize,
    pub(super) l: usize,
    keeps: bool,
    /// What the backward pass needs of each block; a single one, used over and over, when there is none to come.
    layers: Vec<LayerBuffers>,
    /// Residual stream, (t, d_model).
    pub(super) residual: Numbers,
    /// Normed residual stream, (t, d_model).
    pub(super) normed: Numbers,
    /// Convolved input, (t, d_inner).
    pub(super) conv: Numbers,
    /// dt before bias and softplus, (t, d_inner).
    pub(super) dt: Numbers,
    /// Gated output of the scan, (t, d_inner).
    pub(super) y: Numbers,
    /// Tokens before each one in its sample, (t).
    pub(super) reach: Vec<u8>,
    pub(super) head: HeadBuffers,
    pub(super) products: Products,
    pub(super) gradients: Option<GradientBuffers>,
}

/// What the backward pass needs of one block.
#[derive(Debug)]
pub(super) struct LayerBuffers {
    /// Residual stream before the block, (t, d_model); empty when not kept.
    pub(super) residual: Numbers,
    /// Input projection, (t, 2 d_inner).
    pub(super) xz: Numbers,
    /// dt before its projection, B, C, (t, dt_rank + 2 d_state).
    pub(super) x_dbl: Numbers,
    /// Convolution window before each row, (b, d_conv - 1, d_inner).
    pub(super) window: Numbers,
    /// States before each chunk; empty when not kept.
    pub(super) checkpoints: Numbers,
}

/// Gradients on the way back.
#[derive(Debug)]
pub(super) struct GradientBuffers {
    /// Of the residual stream, (t, d_model).
    pub(super) residual: Numbers,
    /// Of the normed residual stream, (t, d_model).
    pub(super) normed: Numbers,
    /// Of the input projection, (t, 2 d_inner).
    pub(super) xz: Numbers,
    /// Of dt, B, C, (t, dt_rank + 2 d_state).
    pub(super) x_dbl: Numbers,
    /// Of the convolved input, (t, d_inner).
    pub(super) conv: Numbers,
}

impl Buffers {
    /// The buffers in `slot` when they have this shape, fresh ones otherwise.
    pub(super) fn for_shape<'a>(
        slot: &'a mut Option<Buffers>,
        config: &MambaConfig,
        b: usize,
        l: usize,
        keeps: bool,
    ) -> &'a mut Buffers {
        if slot.as_ref().is_some_and(|s| (s.b, s.l, s.keeps) != (b, l, keeps)) {
            *slot = None; // free the old ones before taking new ones
        }
        slot.get_or_insert_with(|| Buffers::new(config, b, l, keeps))
    }

    fn new(config: &MambaConfig, b: usize, l: usize, keeps: bool) -> Self {
        let (c, t) = (config, b * l);
        let when = |kept: bool, len: usize| Numbers::zeroed(if kept { len } else { 0 });
        let layer = |_| LayerBuffers {
            residual: when(keeps, t * c.d_model),
            xz: Numbers::zeroed(t * 2 * c.d_inner),
            x_dbl: Numbers::zeroed(t * c.x_proj_width()),
            window: Numbers::zeroed(b * (c.d_conv - 1) * c.d_inner),
            checkpoints: when(keeps, ScanArgs::checkpoints_len(b, l, c.d_state, c.d_inner)),
        };
        Self {
            b,
            l,
            keeps,
            layers: (0..if keeps { c.n_layer } else { 1 }).map(layer).collect(),
            residual: Numbers::zeroed(t * c.d_model),
            normed: Numbers::zeroed(t * c.d_model),
            conv: Numbers::zeroed(t * c.d_inner),
            dt: Numbers::zeroed(t * c.d_inner),
            y: Numbers::zeroed(t * c.d_inner),
            reach: Vec::with_capacity(t),
            head: HeadBuffers::default(),
            products: Products::default(),
            gradients: keeps.then(|| GradientBuffers {
                residual: Numbers::zeroed(t * c.d_model),
                normed: Numbers::zeroed(t * c.d_model),
                xz: Numbers::zeroed(t * 2 * c.d_inner),
                x_dbl: Numbers::zeroed(t * c.x_proj_width()),
                conv: Numbers::zeroed(t * c.d_inner),
            }),
        }
    }

    /// The buffers of block `layer`, out of `self` so that both can be borrowed; give them back by `put`.
    pub(super) fn take_layer(&mut self, layer: usize) -> LayerBuffers {
        let index = layer % self.layers.len();
        std::mem::replace(&mut self.layers[index], LayerBuffers::empty())
    }

    /// Gives back what [`Buffers::take_layer`] took.
    pub(super) fn put_layer(&mut self, layer: usize, buffers: LayerBuffers) {
        let index = layer % self.layers.len();
        self.layers[index] = buffers;
    }
}

impl LayerBuffers {
    fn empty() -> Self {
        let none = Numbers::default;
        Self { residual: none(), xz: none(), x_dbl: none(), window: none(), checkpoints: none() }
    }
}
