//! Decoding on the device: the step against the forward pass, draws against the plain picker, all of it against the plain decoder.

use super::super::sampler::Sampler;
use super::super::step::StepBuffers;
use super::*;
use crate::generate::{Decoder, Draws, HostDecoder, Picker, Sampling};

/// Rows of the matrices that are read by numbers, and by vectors.
fn configs() -> [MambaConfig; 2] {
    [config(), MambaConfig::new(43, 272, 2)]
}

fn engine(config: &MambaConfig, precision: Precision) -> CudaEngine {
    CudaEngine::new(Params::init(config, 3), 0, precision).unwrap()
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The logits and the state after each token of `inputs`, (steps, b), for `b` streams from `state`.
fn steps(
    CudaEngine { gpu, weights, .. }: &CudaEngine,
    state: &State,
    inputs: &[Token],
    is_recorded: bool,
) -> Vec<(Vec<f32>, State)> {
    let (c, b) = (weights.config(), state.b);
    let device = DeviceState::new(gpu, c, b);
    device.write(gpu, c, state);
    let new = || StepBuffers::new(gpu, c, weights.number, b);
    let (mut buffers, logits) = (new(), gpu.alloc(Number::F32, b * c.vocab_size));
    let one = |inputs: &[Token]| {
        if !is_recorded {
            buffers = new();
        }
        buffers.step(gpu, weights, inputs, &device, &logits);
        let (mut found, mut after) = (vec![0.0; b * c.vocab_size], State::new(c, b));
        gpu.read(logits.span(), &mut found);
        device.read(gpu, c, &mut after);
        (found, after)
    };
    inputs.chunks(b).map(one).collect()
}

#[test]
fn a_step_is_a_forward_pass_over_one_token() {
    if gpu().is_none() {
        return;
    }
    for c in configs() {
        // bf16: activations of few streams stay f32 where the pass rounds each, in two blocks.
        for (precision, close) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2)] {
            let mut engine = engine(&c, precision);
            for b in [1, 2, 3, 8, 9, 18] {
                let who = format!("{} {precision:?} {b}", c.d_model);
                let (inputs, before) = (tokens(b, c.vocab_size, 5), a_state(&c, b));
                let mut state = before.clone();
                let expected = engine.forward(&inputs, &mut state);
                let (logits, after) = steps(&engine, &before, &inputs, false).pop().unwrap();
                let far = [(&logits, &expected), (&after.ssm, &state.ssm), (&after.conv, &state.conv)];
                let far = far.map(|(a, b)| distance(a, b));
                assert!(far.iter().all(|d| *d < close), "{who}: {far:?}");
            }
        }
    }
}

#[test]
fn recorded_steps_equal_those_launched_one_by_one() {
    if gpu().is_none() {
        return;
    }
    let c = config();
    for precision in [Precision::F32, Precision::Bf16] {
        let engine = engine(&c, precision);
        for b in [1, 5, 11] {
            let (inputs, before) = (tokens(4 * b, c.vocab_size, 5), a_state(&c, b));
            assert_eq!(steps(&engine, &before, &inputs, true), steps(&engine, &before, &inputs, false), "{b}");
        }
    }
}

#[test]
fn up_to_eight_streams_do_not_know_of_one_another() {
    if gpu().is_none() {
        return;
    }
    for c in configs() {
        for precision in [Precision::F32, Precision::Bf16] {
            let engine = engine(&c, precision);
            let (inputs, all) = (tokens(8, c.vocab_size, 5), a_state(&c, 8));
            let (together, v) = (&steps(&engine, &all, &inputs, false)[0].0, c.vocab_size);
            for b in [1, 2, 3, 5, 7] {
                let mut some = State::new(&c, b);
                (0..b).for_each(|stream| some.copy_stream(stream, &all, 7 - stream, &c));
                let inputs: Vec<Token> = (0..b).map(|stream| inputs[7 - stream]).collect();
                let found = &steps(&engine, &some, &inputs, false)[0].0;
                for stream in 0..b {
                    assert_eq!(found[stream * v..][..v], together[(7 - stream) * v..][..v], "{b} streams");
                }
            }
        }
    }
}

/// Logits with everything in them that a draw has to bear: ties, both zeros, infinities, NaN, and a tail that weighs nothing.
fn hard_logits(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut one = |x: f32| match rng.next_u32() % 40 {
        0 => f32::NAN,
        1 => -f32::NAN,
        2 => f32::NEG_INFINITY,
        3 if seed.is_multiple_of(5) => f32::INFINITY,
        4 => 0.0,
        5 => -0.0,
        6 => -1e5,
        7..17 => (4.0 * x).round(),
        _ => 4.0 * x,
    };
    numbers(len, seed).into_iter().map(&mut one).collect()
}

#[test]
fn draws_are_those_of_the_picker() {
    let Some(gpu) = gpu() else { return };
    let mut sampler = Sampler::new(&gpu);
    let mut ret = Vec::new();
    let mut drawn = 0;
    for (round, (vocab_size, stride)) in [(1, 1), (5, 8), (37, 37), (300, 320), (1000, 1000)].into_iter().enumerate() {
        let slots = 9;
        let logits: Vec<f32> = (0..slots).flat_map(|slot| hard_logits(stride, 10 * round as u64 + slot)).collect();
        let on_device = gpu.upload(&logits);
        let mut rng = ChaCha8Rng::seed_from_u64(round as u64);
        for temperature in [1.0, 0.0, 0.3, 90.0] {
            for top_k in [0, 1, 3, 40, 100_000] {
                for top_p in [1.0, 0.95, 0.5, 1e-6] {
                    let sampling = Sampling { temperature, top_k, top_p };
                    let words = Draws::mask_words(vocab_size);
                    // The first has nothing left to draw.
                    let mask: Vec<u64> =
                        (0..slots as usize * words).map(|i| if i < words { 0 } else { rng.next_u64() }).collect();
                    for masks in [None, Some(&mask)] {
                        let chosen: Vec<usize> = (0..slots as usize).filter(|slot| *slot != 4).collect();
                        let mut uniforms: Vec<f64> = chosen.iter().map(|_| uniform(&mut rng)).collect();
                        uniforms[1] = 0.0;
                        uniforms[2] = 1.0 - 1e-12;
                        let masks = masks.map(|m| &m[..chosen.len() * words]);
                        let draws = Draws { slots: &chosen, uniforms: &uniforms, vocab_size, masks, sampling };
                        sampler.draw(&gpu, on_device.span(), stride, &draws, &mut ret);
                        let mut picker = Picker::new(vocab_size);
                        for (index, slot) in chosen.iter().enumerate() {
                            let logits = &logits[slot * stride..][..vocab_size];
                            let expected = picker.pick(logits, &sampling, draws.mask(index), uniforms[index]);
                            let who = format!("{sampling:?} {vocab_size} slot {slot} masked {}", masks.is_some());
                            assert_eq!(ret[index], expected, "{who}");
                            drawn += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(drawn, 5 * 4 * 5 * 4 * 2 * 8);
}

/// Begins, steps, draws and resizes; returns all that was drawn.
fn talk(decoder: &mut dyn Decoder, sampling: Sampling) -> Vec<Option<Token>> {
    let vocab_size = decoder.config().vocab_size;
    let words = Draws::mask_words(vocab_size);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut all, mut drawn) = (Vec::new(), Vec::new());
    let mut kept: Vec<usize> = Vec::new();
    for streams in [3, 8, 11, 2, 1] {
        decoder.resize(&kept, streams);
        // Two prompts are the same, and one goes through in parts of its own length.
        for slot in kept.len()..streams {
            decoder.begin(slot, &tokens(1 + slot % 4 * 9, vocab_size, (slot % 5) as u64));
        }
        for _ in 0..6 {
            let slots: Vec<usize> = (0..streams).collect();
            let uniforms: Vec<f64> = slots.iter().map(|_| uniform(&mut rng)).collect();
            let masks: Vec<u64> = (0..streams * words).map(|_| rng.next_u64() | 1).collect();
            let masks = rng.next_u32().is_multiple_of(2).then_some(&*masks);
            decoder.draw(&Draws { slots: &slots, uniforms: &uniforms, vocab_size, masks, sampling }, &mut drawn);
            let inputs: Vec<Token> = drawn.iter().map(|token| token.expect("token 0 may always come")).collect();
            all.extend_from_slice(&drawn);
            decoder.step(&inputs);
        }
        kept = (0..streams).rev().filter(|slot| slot % 3 != 1).take(2).collect();
        kept.truncate(1 + usize::from(streams != 2));
    }
    all
}

#[test]
fn tokens_are_those_of_the_plain_decoder() {
    if gpu().is_none() {
        return;
    }
    for c in configs() {
        for sampling in [Sampling::default(), Sampling { temperature: 0.8, top_k: 20, top_p: 0.9 }] {
            let mut decoder = CudaDecoder::new(engine(&c, Precision::F32));
            let found = talk(&mut decoder, sampling);
            assert_eq!(found.len(), 6 * (3 + 8 + 11 + 2 + 1));
            // Again, with prompts that are known by now.
            decoder.resize(&[], 0);
            assert_eq!(talk(&mut decoder, sampling), found);
            let on_gpu = Box::new(engine(&c, Precision::F32));
            assert_eq!(talk(&mut HostDecoder::new(on_gpu), sampling), found, "plain, over the same engine");
            let on_cpu = Box::new(CpuEngine::with_isa(Params::init(&c, 3), Isa::Scalar).unwrap());
            assert_eq!(talk(&mut HostDecoder::new(on_cpu), sampling), found, "plain, on the CPU");
        }
        let mut decoder = CudaDecoder::new(engine(&c, Precision::Bf16));
        let found = talk(&mut decoder, Sampling::default());
        assert_eq!(talk(&mut CudaDecoder::new(engine(&c, Precision::Bf16)), Sampling::default()), found);
    }
}

#[test]
fn streams_are_kept_bit_for_bit() {
    if gpu().is_none() {
        return;
    }
    let c = config();
    let mut decoder = CudaDecoder::new(engine(&c, Precision::F32));
    decoder.resize(&[], 4);
    for slot in 0..4 {
        decoder.begin(slot, &tokens(3 + slot, c.vocab_size, slot as u64));
    }
    decoder.step(&tokens(4, c.vocab_size, 9));
    let read = |decoder: &CudaDecoder| {
        let b = decoder.streams();
        let (mut state, mut logits) = (State::new(&c, b), vec![0.0f32; b * c.vocab_size]);
        decoder.streams.state.read(&decoder.gpu, &c, &mut state);
        decoder.gpu.read(decoder.streams.logits.span(), &mut logits);
        (state, logits)
    };
    let (before, logits_before) = read(&decoder);
    decoder.resize(&[3, 1], 5);
    let (after, logits_after) = read(&decoder);
    let mut expected = State::new(&c, 5);
    expected.copy_stream(0, &before, 3, &c);
    expected.copy_stream(1, &before, 1, &c);
    assert_eq!(after, expected);
    let v = c.vocab_size;
    assert_eq!(logits_after[..v], logits_before[3 * v..]);
    assert_eq!(logits_after[v..2 * v], logits_before[v..2 * v]);
}
