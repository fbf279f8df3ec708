//! The engine on a GPU against the one on the CPU. These tests run where a device opens, which the emulated driver in
//! `tests/emulator` is as well, and say so where none does.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::{CpuEngine, Isa};
use crate::train::{AdamWOptions, HostLearner, Learner};

mod decoding;
mod ops;

/// The device, unless there is none.
fn gpu() -> Option<Gpu> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tokens(len: usize, vocab_size: usize, seed: u64) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| Token(rng.next_u32() % vocab_size as u32)).collect()
}

/// Channels that fill one tile of a scan and part of another.
fn config() -> MambaConfig {
    MambaConfig { d_inner: 40, d_model: 12, ..MambaConfig::new(37, 10, 2) }
}

fn batch(config: &MambaConfig, b: usize, l: usize) -> Batch {
    let mut starts = vec![false; b * l];
    for at in [0, 3, 4, 40, 67, 200, 384] {
        if at < b * l {
            starts[at] = true;
        }
    }
    let mut targets = tokens(b * l, config.vocab_size, 2);
    targets[b * l / 2] = Batch::IGNORE;
    Batch { b, l, tokens: tokens(b * l, config.vocab_size, 1), targets, starts }
}

fn a_state(config: &MambaConfig, b: usize) -> State {
    let mut state = State::new(config, b);
    state.conv = numbers(state.conv.len(), 7);
    state.ssm = numbers(state.ssm.len(), 8);
    state
}

/// Largest difference, relative to the largest value of `b`.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

/// Shapes: several rows, one token a row, and a row that is cut into segments, the last of them short.
const SHAPES: [(usize, usize); 3] = [(2, 70), (3, 1), (1, 405)];

#[test]
fn loss_gradients_and_state_are_those_of_the_cpu() {
    if gpu().is_none() {
        return;
    }
    let config = config();
    let params = Params::init(&config, 3);
    // f32: sums of up to 405 tokens in another order. bf16: 8 bits of mantissa in every product and activation of two blocks.
    for (precision, loss_close, close) in [(Precision::F32, 1e-5, 1e-4), (Precision::Bf16, 1e-2, 6e-2)] {
        for (b, l) in SHAPES {
            let batch = batch(&config, b, l);
            let run = |engine: &mut dyn Mamba| {
                let (mut state, mut gradients) = (a_state(&config, b), Params::zeros(&config));
                let loss = engine.gradients(&batch, &mut state, 0.5, &mut gradients);
                (loss, gradients, state)
            };
            let expected = run(&mut CpuEngine::with_isa(params.clone(), Isa::Scalar).unwrap());
            let mut engine = CudaEngine::new(params.clone(), 0, precision).unwrap();
            let found = run(&mut engine);
            let who = format!("{precision:?} {b} x {l}");
            assert_eq!(found.0.count, expected.0.count);
            assert!(
                (found.0.nats - expected.0.nats).abs() < loss_close * expected.0.nats,
                "{who}: {found:?}",
                found = found.0
            );
            assert!(distance(&found.2.ssm, &expected.2.ssm) < close, "{who}: ssm");
            assert!(distance(&found.2.conv, &expected.2.conv) < close, "{who}: conv");
            for entry in &params.layout.entries {
                let difference = distance(&found.1.data[entry.range()], &expected.1.data[entry.range()]);
                assert!(difference < close, "{who} {}: {difference}", entry.name);
            }
            // Recorded and replayed, the same bits.
            for _ in 0..2 {
                let again = run(&mut engine);
                assert_eq!((again.0, &again.1.data, &again.2), (found.0, &found.1.data, &found.2), "{who}");
            }
            let (loss, mut state) = (engine.loss(&batch, &mut a_state(&config, b)), a_state(&config, b));
            assert_eq!(loss, found.0, "{who}: without gradients");
            engine.forward(&batch.tokens, &mut state);
        }
    }
}

#[test]
fn a_sequence_equals_its_steps() {
    if gpu().is_none() {
        return;
    }
    let config = config();
    let mut engine = CudaEngine::new(Params::init(&config, 3), 0, Precision::F32).unwrap();
    let (b, l, v) = (2, 21, config.vocab_size);
    let tokens = tokens(b * l, v, 5);
    let (mut whole, mut stepped) = (a_state(&config, b), a_state(&config, b));
    let logits = engine.forward(&tokens, &mut whole);
    let mut step_logits = vec![0.0; b * v];
    for time in 0..l {
        let now: Vec<Token> = (0..b).map(|row| tokens[row * l + time]).collect();
        engine.step(&now, &mut stepped, &mut step_logits);
        for row in 0..b {
            let expected = &logits[(row * l + time) * v..][..v];
            assert!(distance(&step_logits[row * v..][..v], expected) < 1e-5, "row {row} time {time}");
        }
    }
    assert!(distance(&stepped.ssm, &whole.ssm) < 1e-5 && distance(&stepped.conv, &whole.conv) < 1e-5);
}

fn learner(params: &Params, rows: usize, precision: Precision) -> CudaLearner {
    CudaLearner::new(CudaEngine::new(params.clone(), 0, precision).unwrap(), rows, AdamWOptions::default())
}

fn teach(learner: &mut dyn Learner, config: &MambaConfig, steps: std::ops::Range<u64>) -> Vec<f64> {
    let one = |step: u64| {
        let mut batch = batch(config, 2, 30);
        batch.tokens = tokens(60, config.vocab_size, step);
        learner.zero_gradients();
        let loss = learner.accumulate(&batch, 1.0 / 59.0);
        let norm = learner.gradient_norm();
        learner.update((1.0 / norm).min(1.0) as f32, 1e-3);
        loss.mean()
    };
    steps.map(one).collect()
}

#[test]
fn steps_of_adamw_are_those_of_the_cpu() {
    if gpu().is_none() {
        return;
    }
    let config = config();
    let params = Params::init(&config, 3);
    let cpu = Box::new(CpuEngine::with_isa(params.clone(), Isa::Scalar).unwrap());
    let mut expected = HostLearner::new(cpu, 2, AdamWOptions::default());
    let mut found = learner(&params, 2, Precision::F32);
    let (losses, ours) = (teach(&mut expected, &config, 0..4), teach(&mut found, &config, 0..4));
    // AdamW's first steps move every weight by the whole rate, whatever the gradient's size: where it is near zero, its sign is noise.
    for (a, b) in ours.iter().zip(&losses) {
        assert!((a - b).abs() < 1e-4 * b, "{ours:?} {losses:?}");
    }
    let far = found.params().data.iter().zip(&expected.params().data).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
    assert!(far * 100 < params.data.len(), "{far} of {} parameters differ", params.data.len());
    assert_ne!(params.data, found.params().data);
}

#[test]
fn a_resumed_learner_equals_an_uninterrupted_one_bit_for_bit() {
    if gpu().is_none() {
        return;
    }
    let config = config();
    let params = Params::init(&config, 3);
    for precision in [Precision::F32, Precision::Bf16] {
        let mut whole = learner(&params, 2, precision);
        teach(&mut whole, &config, 0..3);
        let mut resumed = learner(whole.params(), 2, precision);
        assert!(resumed.restore_moments(&whole.moments()));
        resumed.set_carried(whole.carried().into_owned());
        assert_eq!(teach(&mut whole, &config, 3..6), teach(&mut resumed, &config, 3..6));
        assert_eq!(whole.params().data, resumed.params().data);
        assert_eq!(whole.carried(), resumed.carried());
        assert_eq!(whole.moments(), resumed.moments());
    }
}

#[test]
fn what_has_no_kernel_is_refused_before_a_device_is_looked_for() {
    let refused =
        |config: MambaConfig, precision| CudaEngine::new(Params::zeros(&config), 0, precision).unwrap_err().to_string();
    let states = refused(MambaConfig { d_state: 8, ..config() }, Precision::F32);
    assert_eq!(
        states,
        "the CUDA engine has kernels for 16 states a channel only; this network has d_state (state_size) 8"
    );
    assert!(refused(config(), Precision::Int8).contains("f32 and bf16"));
}
