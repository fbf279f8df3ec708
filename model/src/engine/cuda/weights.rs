//! The parameters in device memory: f32 masters, and bf16 copies of them where products are bf16.

use std::sync::OnceLock;

use super::gpu::{Buffer, Gpu, GpuMatrix, Number, Span};
use crate::engine::Precision;
use crate::mamba::{MambaConfig, ParamLayout, Params};
use std::sync::Arc;

/// The parameters on the device.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) layout: Arc<ParamLayout>,
    pub(super) number: Number,
    master: Buffer,
    halves: Option<Buffer>,
    /// The parameters in memory, read back when somebody asks for them.
    host: OnceLock<Params>,
}

impl Weights {
    pub(super) fn new(gpu: &Gpu, params: Params, precision: Precision) -> Self {
        let number = match precision {
            Precision::F32 => Number::F32,
            _ => Number::Bf16,
        };
        let master = gpu.upload(&params.data);
        let halves = (number == Number::Bf16).then(|| gpu.alloc(Number::Bf16, params.data.len()));
        let weights = Self { layout: Arc::clone(&params.layout), number, master, halves, host: params.into() };
        weights.round(gpu);
        weights
    }

    fn round(&self, gpu: &Gpu) {
        if let Some(halves) = &self.halves {
            gpu.cast(self.master.span(), halves.span());
        }
    }

    pub(super) fn config(&self) -> &MambaConfig {
        &self.layout.config
    }

    /// The parameters in memory.
    pub(super) fn host(&self, gpu: &Gpu) -> &Params {
        self.host.get_or_init(|| {
            gpu.bind();
            let mut data = vec![0.0; self.layout.len];
            gpu.read(self.master.span(), &mut data);
            Params { layout: Arc::clone(&self.layout), data }
        })
    }

    pub(super) fn set(&mut self, gpu: &Gpu, data: &[f32]) {
        assert_eq!(data.len(), self.layout.len, "parameters of another configuration");
        gpu.bind();
        gpu.write(self.master.span(), data);
        self.round(gpu);
        match self.host.get_mut() {
            Some(host) => host.data.copy_from_slice(data),
            None => self.host = Params { layout: Arc::clone(&self.layout), data: data.to_vec() }.into(),
        }
    }

    /// The master and the rounded copy (or none), to be changed by the optimiser.
    pub(super) fn spans_to_update(&mut self) -> (Span, Span) {
        self.host = OnceLock::new();
        (self.master.span(), self.halves.as_ref().map_or(Span::NONE, Buffer::span))
    }

    /// Part of the f32 masters.
    pub(super) fn master(&self, at: usize, len: usize) -> Span {
        self.master.part(at, len)
    }

    /// A matrix of the numbers that products take.
    pub(super) fn matrix(&self, at: usize, rows: usize, columns: usize) -> GpuMatrix {
        GpuMatrix::new(self.of_products(at, rows * columns), rows, columns)
    }

    /// Part of the numbers that products take.
    pub(super) fn of_products(&self, at: usize, len: usize) -> Span {
        self.halves.as_ref().unwrap_or(&self.master).part(at, len)
    }
}
