//! A training step of `small` (8 x 512, vocabulary 512) in f32 and in bf16, in turn, beside what this CPU multiplies in each: the
//! products of 2048 x 2048 x 2048 and of each shape of the step. In f32 that is by our own tiles and by the `gemm` crate.
//!
//! `cargo bench -p wiremamba-model --bench training`. The number of threads is rayon's (`RAYON_NUM_THREADS`).

#![allow(clippy::print_stdout)]

use std::time::Instant;

use wiremamba_model::codec::Token;
use wiremamba_model::engine::cpu::kernels::{
    Bf16Isa, Bf16Scratch, Matrix, TiledScratch, matmul, matmul_bf16, matmul_tiled,
};
use wiremamba_model::engine::{CpuEngine, Isa, Precision};
use wiremamba_model::mamba::{Batch, Mamba, MambaConfig, Params, Preset, State};
use wiremamba_model::train::{AdamW, AdamWOptions};

/// A product's name, its (m, n, k), and which operands are stored transposed.
type Shape = (&'static str, (usize, usize, usize), (bool, bool));

fn main() {
    let isa = Bf16Isa::within(Isa::detect());
    println!("{} threads; f32 by {:?}, bf16 by {isa:?}", rayon::current_num_threads(), Isa::detect());
    println!("{:<28} {:>18} {:>12} {:>12} {:>12}", "GFLOP/s", "m x n x k", "f32 tiles", "f32 gemm", "bf16");
    let square = product(isa, ("square", (2048, 2048, 2048), (false, false)));
    for shape in [
        ("in_proj", (4096, 1024, 256), (false, true)),
        ("x_proj", (4096, 48, 512), (false, true)),
        ("dt_proj", (4096, 512, 16), (false, true)),
        ("out_proj", (4096, 256, 512), (false, true)),
        ("head", (1024, 512, 256), (false, true)),
        ("out_proj, to its input", (4096, 512, 256), (false, false)),
        ("x_proj, to its input", (4096, 512, 48), (false, false)),
        ("in_proj, to its input", (4096, 256, 1024), (false, false)),
        ("in_proj, to its weights", (1024, 256, 4096), (true, false)),
        ("out_proj, to its weights", (256, 512, 4096), (true, false)),
        ("x_proj, to its weights", (48, 512, 4096), (true, false)),
    ] {
        product(isa, shape);
    }
    steps(square);
}

/// Measures a product in f32 by our tiles, in f32 by the `gemm` crate, and in bf16; prints and returns GFLOP/s.
fn product(isa: Bf16Isa, (name, (m, n, k), (a_t, b_t)): Shape) -> [f64; 3] {
    let numbers = |len: usize| -> Vec<f32> { (0..len).map(|i| (i * 7919 % 1013) as f32 / 506.5 - 1.0).collect() };
    let (a, b, mut ret) = (numbers(m * k), numbers(n * k), vec![0.0; m * n]);
    let a = if a_t { Matrix::new(&a, k, m).t() } else { Matrix::new(&a, m, k) };
    let b = if b_t { Matrix::new(&b, n, k).t() } else { Matrix::new(&b, k, n) };
    let (mut tiled, mut scratch) = (TiledScratch::default(), Bf16Scratch::default());
    let flop = 2.0 * (m * n * k) as f64;
    let mut best = [f64::INFINITY; 3];
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 3 || begun.elapsed().as_secs_f64() < 0.4 {
        rounds += 1; // the first touches memory for the first time
        let mut measure = |which: usize, product: &mut dyn FnMut(&mut [f32])| {
            let start = Instant::now();
            product(&mut ret);
            best[which] = best[which].min(start.elapsed().as_secs_f64());
        };
        measure(0, &mut |ret| matmul_tiled(Isa::detect(), &mut tiled, ret, n, a, b, true));
        measure(1, &mut |ret| matmul(ret, n, a, b, true));
        measure(2, &mut |ret| matmul_bf16(isa, &mut scratch, ret, n, a, b, true));
    }
    let rates = best.map(|seconds| flop / seconds / 1e9);
    let [tiles, gemm, bf16] = rates;
    println!("{name:<28} {:>18} {tiles:>12.0} {gemm:>12.0} {bf16:>12.0}", format!("{m} x {n} x {k}"));
    rates
}

/// Steps in f32 and bf16 in turn, beside the rates of a square product in each: in f32 that of the `gemm` crate.
fn steps([_, gemm, bf16]: [f64; 3]) {
    let (b, l) = (8, 512);
    let config = MambaConfig::preset(Preset::Small, 512);
    let tokens = |from: usize| (from..from + b * l).map(|i| Token((i * 7919 % 512) as u32)).collect();
    let starts = (0..b * l).map(|i| i % l == 0).collect();
    let batch = Batch { b, l, tokens: tokens(0), targets: tokens(1), starts };
    let precisions = [Precision::F32, Precision::Bf16];
    let mut engines = precisions.map(|precision| {
        let engine = CpuEngine::new(Params::init(&config, 1)).expect("the preset has kernels");
        engine.training_in(precision)
    });
    let mut gradients = Params::zeros(&config);
    let mut optimizers = precisions.map(|_| AdamW::new(&gradients.layout, AdamWOptions::default()));
    let mut seconds = [Vec::new(), Vec::new()];
    for step in 0..7 {
        for which in 0..2 {
            let (engine, start) = (&mut engines[which], Instant::now());
            gradients.data.fill(0.0);
            engine.gradients(&batch, &mut State::new(&config, b), 1.0 / (b * l) as f32, &mut gradients);
            optimizers[which].update(&engine.params().data, &mut gradients.data, 1.0, 1e-4);
            engine.set_params(&gradients.data);
            if step > 0 {
                seconds[which].push(start.elapsed().as_secs_f64());
            }
        }
    }
    for (which, precision) in precisions.into_iter().enumerate() {
        seconds[which].sort_by(f64::total_cmp);
        let rate = (b * l) as f64 / seconds[which][seconds[which].len() / 2];
        let flops = 3.0 * config.forward_flops_per_token() * rate / 1e9;
        let share = 100.0 * flops / [gemm, bf16][which];
        println!(
            "step, {:<4} {rate:>8.0} tokens/s, {flops:.0} GFLOP/s in products, {share:.0} % of the square product",
            precision.name()
        );
    }
}
