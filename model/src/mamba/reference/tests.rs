//! What the oracle itself is checked by: the definition (one step after another), numbers (finite differences), and
//! that nothing is left without a gradient. Its agreement with another program is in `tests/golden.rs` of this crate.

use candle_core::DType;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::mamba::MambaConfig;

/// No two sizes alike, none the published one, so that a mixed-up dimension cannot go unseen.
fn odd() -> MambaConfig {
    MambaConfig { d_state: 5, d_conv: 3, d_inner: 14, dt_rank: 2, ..MambaConfig::new(11, 6, 2) }
}

/// Initial parameters with every norm, A and D moved off its regular value.
fn params(config: &MambaConfig, seed: u64) -> Params {
    let mut params = Params::init(config, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed + 1);
    for p in &mut params.data {
        *p += 0.2 * ((rng.next_u32() as f64 / u32::MAX as f64) as f32 - 0.5);
    }
    params
}

fn tokens(n: usize, config: &MambaConfig, seed: u64) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| Token(rng.next_u32() % config.vocab_size as u32)).collect()
}

/// A batch with ignored targets, and starts at the front, in the middle, next to each other and at the end.
fn batch(config: &MambaConfig, b: usize, l: usize, starts: &[(usize, usize)]) -> Batch {
    let mut targets = tokens(b * l, config, 8);
    targets[1] = Batch::IGNORE;
    let mut flags = vec![false; b * l];
    for (row, t) in starts {
        flags[row * l + t] = true;
    }
    Batch { b, l, tokens: tokens(b * l, config, 7), targets, starts: flags }
}

fn some_state(config: &MambaConfig, b: usize) -> State {
    let mut state = State::new(config, b);
    for (i, v) in state.conv.iter_mut().chain(&mut state.ssm).enumerate() {
        *v = (i as f32 * 0.7).sin() * 0.5;
    }
    state
}

/// Fails unless the two differ by at most `tolerance` of the largest value.
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a} against {b}, largest {largest}");
    }
}

/// Rounding of some hundred f32 operations in another order, at 6e-8 each.
const F32_TOLERANCE: f32 = 1e-5;

#[test]
fn forward_equals_repeated_step_from_any_state() {
    for d_conv in [1, 2, 3, 6] {
        let config = MambaConfig { d_conv, ..odd() };
        let (b, l, v) = (3, 9, config.vocab_size);
        let mut model = Reference::new(params(&config, 1));
        let tokens = tokens(b * l, &config, 2);

        let (mut whole, mut stepped) = (some_state(&config, b), some_state(&config, b));
        let logits = model.forward(&tokens, &mut whole);
        for t in 0..l {
            let column: Vec<Token> = (0..b).map(|row| tokens[row * l + t]).collect();
            let mut step = vec![0.0; b * v];
            model.step(&column, &mut stepped, &mut step);
            for row in 0..b {
                assert_close("logits", &step[row * v..][..v], &logits[(row * l + t) * v..][..v], F32_TOLERANCE);
            }
        }
        assert_close("conv", &stepped.conv, &whole.conv, F32_TOLERANCE);
        assert_close("ssm", &stepped.ssm, &whole.ssm, F32_TOLERANCE);
    }
}

#[test]
fn two_halves_equal_the_whole() {
    let config = odd();
    let mut model = Reference::new(params(&config, 1));
    let tokens = tokens(12, &config, 2);
    // A first part shorter than the convolution window leaves older inputs in the state.
    for cut in [1, 2, 7] {
        let (mut whole, mut parts) = (some_state(&config, 1), some_state(&config, 1));
        let logits = model.forward(&tokens, &mut whole);
        let mut halves = model.forward(&tokens[..cut], &mut parts);
        halves.extend(model.forward(&tokens[cut..], &mut parts));
        assert_close("logits", &halves, &logits, F32_TOLERANCE);
        assert_close("conv", &parts.conv, &whole.conv, F32_TOLERANCE);
        assert_close("ssm", &parts.ssm, &whole.ssm, F32_TOLERANCE);
    }
}

/// The loss of one row, one token after another, with the stream set back wherever a sample starts.
fn stepped_nats(model: &mut Reference, batch: &Batch, state: &mut State) -> f64 {
    let (config, mut nats) = (model.params().config().clone(), 0.0);
    let mut logits = vec![0.0; batch.b * config.vocab_size];
    for t in 0..batch.l {
        let at = |row: usize| row * batch.l + t;
        for row in (0..batch.b).filter(|&row| batch.starts[at(row)]) {
            state.reset_stream(row, &config);
        }
        let column: Vec<Token> = (0..batch.b).map(|row| batch.tokens[at(row)]).collect();
        model.step(&column, state, &mut logits);
        for row in (0..batch.b).filter(|&row| batch.targets[at(row)] != Batch::IGNORE) {
            let logits = &logits[row * config.vocab_size..][..config.vocab_size];
            let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
            nats += sum.ln() - f64::from(logits[batch.targets[at(row)].0 as usize]);
        }
    }
    nats
}

#[test]
fn a_start_forgets_what_came_before() {
    for d_conv in [1, 3, 5] {
        let config = MambaConfig { d_conv, ..odd() };
        let mut model = Reference::new(params(&config, 3));
        // At the front, next to each other, and inside the last d_conv - 1 tokens; row 2 runs on.
        let batch = batch(&config, 3, 8, &[(0, 0), (0, 4), (0, 5), (1, 2), (1, 7)]);
        let (mut at_once, mut stepped) = (some_state(&config, 3), some_state(&config, 3));
        let loss = model.loss(&batch, &mut at_once);
        let expected = stepped_nats(&mut model, &batch, &mut stepped);
        assert_eq!(loss.count, 23);
        assert!((loss.nats - expected).abs() < 1e-5 * expected, "{} against {expected}", loss.nats);
        assert_close("conv", &at_once.conv, &stepped.conv, F32_TOLERANCE);
        assert_close("ssm", &at_once.ssm, &stepped.ssm, F32_TOLERANCE);
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for (config, starts) in [
        (odd(), vec![(0, 3), (1, 0), (1, 5)]),
        (MambaConfig { d_conv: 1, d_state: 1, dt_rank: 1, n_layer: 1, ..odd() }, vec![]),
    ] {
        let mut model = Reference::with_dtype(params(&config, 5), DType::F64);
        let batch = batch(&config, 2, 6, &starts);
        let scale = 0.25f32;
        let mut gradients = Params::zeros(&config);
        let loss = model.gradients(&batch, &mut some_state(&config, 2), scale, &mut gradients);
        assert_eq!(loss, model.loss(&batch, &mut some_state(&config, 2)));

        let data = model.params().data.clone();
        for entry in &model.params().layout.clone().entries {
            let largest = gradients.data[entry.range()].iter().fold(0f32, |m, v| m.max(v.abs()));
            for i in entry.range().step_by((entry.numel() / 7).max(1)) {
                let mut nats_at = |moved: f32| {
                    let mut data = data.clone();
                    data[i] = moved;
                    model.set_params(&data);
                    model.loss(&batch, &mut some_state(&config, 2)).nats
                };
                // Central differences err by h²/6 times the third derivative, largest (1e-5 at this h) in the
                // embedding of a token whose values are small, because RMSNorm divides by their size. Rounding
                // p ± h to f32 is harmless, because the width actually taken is divided by.
                let (above, below) = (data[i] + 1e-4, data[i] - 1e-4);
                let slope = (nats_at(above) - nats_at(below)) / (f64::from(above) - f64::from(below));
                let (ours, expected) = (f64::from(gradients.data[i]), f64::from(scale) * slope);
                assert!(
                    (ours - expected).abs() <= 1e-4 * f64::from(largest) + 1e-8,
                    "{}[{}]: {ours} against {expected}, largest {largest}",
                    entry.name,
                    i - entry.offset
                );
            }
        }
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    let config = odd();
    let mut model = Reference::new(params(&config, 5));
    let mut gradients = Params::zeros(&config);
    model.gradients(&batch(&config, 4, 16, &[(2, 5)]), &mut some_state(&config, 4), 1.0, &mut gradients);
    for entry in &gradients.layout.entries {
        assert!(gradients.data[entry.range()].iter().all(|g| *g != 0.0 && g.is_finite()), "{}", entry.name);
    }
}

#[test]
fn gradients_are_added() {
    let config = odd();
    let mut model = Reference::new(params(&config, 5));
    let batch = batch(&config, 2, 6, &[]);
    let mut once = Params::zeros(&config);
    model.gradients(&batch, &mut State::new(&config, 2), 3.0, &mut once);
    let mut twice = Params::zeros(&config);
    model.gradients(&batch, &mut State::new(&config, 2), 2.0, &mut twice);
    model.gradients(&batch, &mut State::new(&config, 2), 1.0, &mut twice);
    assert_close("gradients", &twice.data, &once.data, F32_TOLERANCE);
}

#[test]
fn f32_and_f64_agree() {
    let config = odd();
    let batch = batch(&config, 2, 40, &[(0, 13)]);
    let [(single, a), (double, b)] = [DType::F32, DType::F64].map(|dtype| {
        let mut gradients = Params::zeros(&config);
        let mut model = Reference::with_dtype(params(&config, 5), dtype);
        let loss = model.gradients(&batch, &mut State::new(&config, 2), 1.0, &mut gradients);
        (gradients, loss)
    });
    assert_close("gradients", &single.data, &double.data, F32_TOLERANCE);
    assert!((a.nats - b.nats).abs() < 1e-6 * b.nats);
}

#[test]
fn the_stack_does_not_grow_with_the_sequence() {
    // Without the tape, 30,000 tokens overflow the 2 MiB of a test thread, and so do 4,000 tokens these 256 KiB.
    let step = || {
        let config = MambaConfig { d_state: 1, d_inner: 2, ..MambaConfig::new(3, 1, 2) };
        let mut model = Reference::new(params(&config, 5));
        let batch = batch(&config, 1, 4000, &[]);
        let mut gradients = Params::zeros(&config);
        assert!(model.gradients(&batch, &mut State::new(&config, 1), 1.0, &mut gradients).nats.is_finite());
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(step).unwrap().join().unwrap();
}

#[test]
fn softplus_holds_at_the_extremes() {
    let x = Tensor::new(&[-1000f32, -30.0, -6.9, 0.0, 30.0, 1000.0], &Device::Cpu).unwrap();
    let var = Var::from_tensor(&x).unwrap();
    let y = softplus(var.as_tensor()).unwrap();
    let slopes = y.sum_all().unwrap().backward().unwrap().get(&var).unwrap().to_vec1::<f32>().unwrap();
    // ln(1 + e^x) and its slope 1 / (1 + e^-x), worked out with 30 digits.
    assert_close(
        "near zero",
        &y.to_vec1::<f32>().unwrap()[1..4],
        &[9.357e-14, 1.007_278e-3, std::f32::consts::LN_2],
        1e-6,
    );
    assert_eq!(y.to_vec1::<f32>().unwrap()[0], 0.0);
    assert_eq!(y.to_vec1::<f32>().unwrap()[4..], [30.0, 1000.0]);
    assert_close("slopes", &slopes, &[0.0, 9.357e-14, 1.006_770_8e-3, 0.5, 1.0, 1.0], 1e-6);
}

#[test]
#[should_panic(expected = "outside the vocabulary of 11")]
fn a_token_outside_the_vocabulary_is_the_callers_error() {
    let config = odd();
    Reference::new(params(&config, 1)).forward(&[Token(11)], &mut State::new(&config, 1));
}
