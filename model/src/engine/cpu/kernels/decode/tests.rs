//! Products against plain sums, whole passes against the engine over sequences, draws against the plain picker.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lines::{SharedLines, TILE, stride, tiles};
use super::narrow::Narrow;
use super::panels::{Panels, Shelf, Weights};
use super::product::{Input, Output, product};
use crate::codec::Token;
use crate::engine::{CpuDecoder, CpuEngine, Isa, Precision};
use crate::generate::{Decoder, Draws, Picker, Sampling};
use crate::mamba::{Mamba, MambaConfig, Params, Preset, State};

use super::lines::Line;

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tokens(len: usize, vocab_size: usize, seed: u64) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| Token(rng.next_u32() % vocab_size as u32)).collect()
}

/// Largest difference, relative to the largest value of `b`.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn supported() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_supported())
}

/// Row-major numbers in tiles.
fn in_tiles(values: &[f32], rows: usize, width: usize) -> Vec<Line> {
    let mut ret = vec![Line::ZERO; tiles(width) * stride(rows)];
    for (i, v) in values.iter().enumerate() {
        let (row, column) = (i / width, i % width);
        ret[column / TILE * stride(rows) + row].0[column % TILE] = *v;
    }
    ret
}

/// A matrix on a shelf of its own.
fn shelved(w: &[f32], outputs: usize, inputs: usize, precision: Precision) -> (Shelf, Panels) {
    let mut shelf = Shelf::new(Panels::lines(outputs, inputs, precision));
    let panels = Panels::new(&mut shelf, w, outputs, inputs, precision);
    (shelf, panels)
}

/// `x` (rows, inputs) times the transposed matrix, written over `before` (rows, outputs), or added to it.
fn multiply(isa: Isa, panels: &Weights<'_>, x: &[f32], rows: usize, before: &[f32], accumulate: bool) -> Vec<f32> {
    let outputs = before.len() / rows;
    let mut lines = in_tiles(x, rows, panels.inputs);
    let mut ret = in_tiles(before, rows, outputs);
    let (from, to) = (SharedLines::new(&mut lines), SharedLines::new(&mut ret));
    let mut narrow = Narrow::new(rows, panels.inputs);
    let stride = stride(rows);
    // SAFETY: only supported instruction sets; all buffers have room.
    unsafe {
        narrow.fill(isa, panels.precision, from, (0, stride), (rows, panels.inputs));
        let input = Input { lines: from, first: 0, stride, rows, narrow: &narrow };
        let output = Output { lines: to, first: 0, stride, accumulate };
        // In two pieces, as two threads have it.
        let (all, cut) = (2 * tiles(outputs), tiles(outputs) / 2 * 2);
        product(isa, panels, &input, 0..cut, &output);
        product(isa, panels, &input, cut..all, &output);
    }
    (0..rows * outputs).map(|i| ret[i % outputs / TILE * stride + i / outputs].0[i % outputs % TILE]).collect()
}

#[test]
fn products_equal_plain_sums_in_every_precision() {
    // Rows of every height of tile and its rest; outputs and inputs that fill no tile; many outputs for the wide kernels.
    for (rows, outputs, inputs) in
        [(1, 37, 12), (1, 200, 40), (2, 80, 48), (3, 200, 33), (5, 16, 7), (13, 64, 20), (64, 100, 130)]
    {
        let (w, x) = (numbers(outputs * inputs, 1), numbers(rows * inputs, 2));
        let before = numbers(rows * outputs, 3);
        let expected: Vec<f32> = (0..rows * outputs)
            .map(|i| {
                let (row, output) = (i / outputs, i % outputs);
                let terms = (0..inputs).map(|k| f64::from(x[row * inputs + k]) * f64::from(w[output * inputs + k]));
                (terms.sum::<f64>() + f64::from(before[i])) as f32
            })
            .collect();
        for precision in Precision::ALL {
            // Errors of the weights are independent, so that of a sum grows with the root of its terms, as the sum does: half of the
            // last place of bf16 is 2^-9 of a weight, of int8 1/254 of the largest weight. f32 has the order of its sums only.
            let tolerance = match precision {
                Precision::F32 => 2e-6,
                Precision::Bf16 => 6e-3,
                Precision::Int8 => 1e-2,
            };
            let (shelf, panels) = shelved(&w, outputs, inputs, precision);
            let weights = panels.on(&shelf);
            let scalar = multiply(Isa::Scalar, &weights, &x, rows, &before, true);
            for isa in supported() {
                let result = multiply(isa, &weights, &x, rows, &before, true);
                let difference = distance(&result, &expected);
                assert!(difference < tolerance, "{precision:?} {isa:?} {rows} {outputs} {inputs}: {difference}");
                if precision == Precision::Int8 {
                    assert_eq!(result, scalar, "sums of whole numbers are exact: {isa:?}");
                }
            }
        }
    }
}

#[test]
fn int8_takes_the_largest_inputs_without_overflow_and_passes_on_what_is_no_number() {
    let (outputs, inputs) = (16, 2048);
    let (shelf, panels) = shelved(&vec![1.0; outputs * inputs], outputs, inputs, Precision::Int8);
    let (weights, ones) = (panels.on(&shelf), [1.0; 16]);
    let mut x = vec![3e3f32; inputs];
    for isa in supported() {
        for y in multiply(isa, &weights, &x, 1, &ones, false) {
            assert!((y / (3e3 * inputs as f32) - 1.0).abs() < 1e-3, "{isa:?}: {y}");
        }
    }
    x[7] = f32::NAN;
    for isa in supported() {
        assert!(multiply(isa, &weights, &x, 1, &ones, false).iter().all(|y| y.is_nan()), "{isa:?}");
    }
}

/// 20 channels: a whole tile and a rest.
fn odd_config() -> MambaConfig {
    MambaConfig { d_inner: 20, d_model: 12, ..MambaConfig::new(37, 10, 2) }
}

#[test]
fn steps_equal_the_engine_over_the_whole_sequence() {
    for config in [odd_config(), MambaConfig::preset(Preset::Tiny, 50)] {
        let params = Params::init(&config, 3);
        let (b, l, v) = (3, 30, config.vocab_size);
        let input = tokens(b * l, v, 4);
        let mut engine = CpuEngine::new(params.clone()).unwrap();
        let whole = engine.forward(&input, &mut State::new(&config, b));
        for isa in supported() {
            for (precision, tolerance) in Precision::ALL.into_iter().zip([1e-5, 2e-2, 4e-2]) {
                let mut decoder = CpuDecoder::with_isa(&params, precision, isa).unwrap();
                decoder.resize(&[], b);
                for time in 0..l {
                    let column: Vec<Token> = (0..b).map(|row| input[row * l + time]).collect();
                    decoder.step(&column);
                    for row in 0..b {
                        let difference = distance(&decoder.logits(row), &whole[(row * l + time) * v..][..v]);
                        assert!(difference < tolerance, "{isa:?} {precision:?} row {row} time {time}: {difference}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_prompt_equals_its_steps_and_a_stream_is_the_same_among_any_number() {
    for config in [odd_config(), MambaConfig::preset(Preset::Tiny, 50)] {
        let params = Params::init(&config, 3);
        // Longer than one pass of a prefill.
        let prompt = tokens(150, config.vocab_size, 5);
        for (isa, precision) in supported().flat_map(|isa| Precision::ALL.map(|precision| (isa, precision))) {
            let mut alone = CpuDecoder::with_isa(&params, precision, isa).unwrap();
            alone.resize(&[], 1);
            prompt.iter().for_each(|token| alone.step(&[*token]));
            let mut many = CpuDecoder::with_isa(&params, precision, isa).unwrap();
            many.resize(&[], 70);
            many.begin(13, &prompt);
            assert_eq!(many.logits(13), alone.logits(0), "{isa:?} {precision:?}");
            many.step(&tokens(70, config.vocab_size, 6));
            alone.step(&tokens(70, config.vocab_size, 6)[13..14]);
            assert_eq!(many.logits(13), alone.logits(0), "{isa:?} {precision:?}");
            many.resize(&[2, 13], 5);
            assert_eq!(many.logits(1), alone.logits(0));
            many.step(&tokens(5, config.vocab_size, 7));
            alone.step(&tokens(5, config.vocab_size, 7)[1..2]);
            assert_eq!(many.logits(1), alone.logits(0));
        }
    }
}

#[test]
fn threads_do_not_change_results() {
    // Wide enough for several parts; 9 rows are shared out by channels, 40 by rows, and their draws over threads.
    let config = MambaConfig::new(300, 192, 2);
    let params = Params::init(&config, 3);
    let run = |threads: usize, rows: usize, precision: Precision| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut decoder = CpuDecoder::new(&params, precision).unwrap();
            decoder.resize(&[], rows);
            (0..20).for_each(|i| decoder.step(&tokens(rows, 300, i)));
            let (slots, uniforms): (Vec<usize>, Vec<f64>) = (0..rows).map(|i| (i, i as f64 / rows as f64)).unzip();
            let mut drawn = Vec::new();
            let sampling = Sampling::default();
            let draws = Draws { slots: &slots, uniforms: &uniforms, vocab_size: 300, masks: None, sampling };
            decoder.draw(&draws, &mut drawn);
            ((0..rows).map(|slot| decoder.logits(slot)).collect::<Vec<_>>(), drawn)
        })
    };
    for (rows, precision) in [(9, Precision::F32), (40, Precision::F32), (40, Precision::Int8)] {
        let expected = run(1, rows, precision);
        for threads in [2, 3, 5] {
            assert_eq!(run(threads, rows, precision), expected, "{threads} threads, {rows} rows, {precision:?}");
        }
    }
}

#[test]
fn draws_are_those_of_the_plain_picker() {
    let config = MambaConfig::preset(Preset::Tiny, 150);
    let params = Params::init(&config, 3);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for isa in supported() {
        let mut decoder = CpuDecoder::with_isa(&params, Precision::F32, isa).unwrap();
        decoder.resize(&[], 5);
        let (mut differences, mut drawn) = (0, Vec::new());
        for round in 0..400u64 {
            decoder.step(&tokens(5, 150, round));
            let vocab_size = 140;
            let mut masks: Vec<u64> = (0..4 * 3).map(|_| rng.next_u64() & rng.next_u64()).collect();
            if round % 3 == 1 {
                // Tokens of a few tiles only, whose logits are computed apart for each row.
                masks
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, word)| *word &= if i % 3 == 1 { 0xffff_0000_ffff } else { 0 });
            }
            let masks = (round % 4 != 0).then_some(&masks[..]);
            let uniforms: Vec<f64> = (0..4).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX) * 0.999).collect();
            let temperature = [1.0, 0.1, 0.0, 3.0][round as usize % 4];
            let sampling = Sampling { temperature, ..Sampling::default() };
            let draws = Draws { slots: &[0, 1, 3, 4], uniforms: &uniforms, vocab_size, masks, sampling };
            decoder.draw(&draws, &mut drawn);
            for (index, token) in drawn.iter().enumerate() {
                let logits = decoder.logits(draws.slots[index]);
                let mut picker = Picker::new(vocab_size);
                let plain = picker.pick(&logits[..vocab_size], &sampling, draws.mask(index), uniforms[index]);
                differences += usize::from(*token != plain);
            }
        }
        // f32's weights are within some 1e-7 of f64's: 1,600 draws fall on an edge between two tokens with some 1e-4 chance.
        assert_eq!(differences, 0, "{isa:?}");
    }
}

#[test]
fn nothing_to_draw_is_none_and_what_is_no_number_is_not_drawn() {
    let config = odd_config();
    let mut params = Params::init(&config, 3);
    let mut decoder = CpuDecoder::new(&params, Precision::F32).unwrap();
    decoder.resize(&[], 1);
    decoder.step(&[Token(1)]);
    let mut drawn = Vec::new();
    let sampling = Sampling::default();
    let draws = Draws { slots: &[0], uniforms: &[0.5], vocab_size: 37, masks: Some(&[0]), sampling };
    decoder.draw(&draws, &mut drawn);
    assert_eq!(drawn, [None]);
    decoder.draw(&Draws { masks: Some(&[1 << 36]), ..draws }, &mut drawn);
    assert_eq!(drawn, [Some(Token(36))]);
    params.data.fill(f32::NAN);
    for precision in Precision::ALL {
        let mut decoder = CpuDecoder::new(&params, precision).unwrap();
        decoder.resize(&[], 1);
        decoder.step(&[Token(1)]);
        decoder.draw(&Draws { masks: None, ..draws }, &mut drawn);
        assert_eq!(drawn, [None], "{precision:?}");
    }
}
