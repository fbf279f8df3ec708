//! The engine against itself: instruction sets against the scalar twin, sequences against steps, gradients against
//! finite differences. Against the plain implementation and Hugging Face: `model/tests/`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::kernels::*;
use super::*;
use crate::engine::Precision;
use crate::mamba::Preset;

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tokens(len: usize, vocab_size: usize, seed: u64) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| Token(rng.next_u32() % vocab_size as u32)).collect()
}

/// 20 channels: a whole register of every width and a rest.
fn config() -> MambaConfig {
    MambaConfig { d_inner: 20, d_model: 12, ..MambaConfig::new(37, 10, 2) }
}

fn batch(config: &MambaConfig, b: usize, l: usize) -> Batch {
    let mut starts = vec![false; b * l];
    for at in [0, 3, 4, 40, 67] {
        if at < b * l {
            starts[at] = true;
        }
    }
    let mut targets = tokens(b * l, config.vocab_size, 2);
    targets[5] = Batch::IGNORE;
    Batch { b, l, tokens: tokens(b * l, config.vocab_size, 1), targets, starts }
}

/// Largest difference, relative to the largest value of `b`.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn a_state(config: &MambaConfig, b: usize) -> State {
    let mut state = State::new(config, b);
    state.conv = numbers(state.conv.len(), 7);
    state.ssm = numbers(state.ssm.len(), 8);
    state
}

/// The other tests pass over what a CPU lacks; `tests/emulated-cpu` asks this one first.
#[test]
#[ignore = "needs AVX-512, VNNI and bf16: tests/emulated-cpu/run.sh runs it on a CPU that has them"]
fn this_cpu_has_every_instruction_set() {
    assert!(Isa::ALL.into_iter().all(|isa| isa.is_supported()));
    assert!(Bf16Isa::ALL.into_iter().all(|isa| isa.is_supported()));
    assert!(decode::has_bf16_products() && decode::has_vnni());
}

#[test]
fn every_instruction_set_computes_what_the_scalar_twin_computes() {
    let config = config();
    let params = Params::init(&config, 3);
    let batch = batch(&config, 2, 70);
    let run = |isa: Isa| {
        let mut engine = CpuEngine::with_isa(params.clone(), isa).unwrap();
        let mut state = a_state(&config, 2);
        let mut gradients = Params::zeros(&config);
        let loss = engine.gradients(&batch, &mut state, 1.0, &mut gradients);
        (loss, gradients, state)
    };
    let (loss, gradients, state) = run(Isa::Scalar);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let (loss_simd, gradients_simd, state_simd) = run(isa);
        assert_eq!(loss_simd.count, loss.count);
        assert!((loss_simd.nats - loss.nats).abs() < 1e-5 * loss.nats, "{isa:?}: {loss_simd:?} {loss:?}");
        // Sums of 140 tokens in another order: some units of the last place each.
        assert!(distance(&state_simd.ssm, &state.ssm) < 1e-5, "{isa:?}");
        for entry in &params.layout.entries {
            let difference = distance(&gradients_simd.data[entry.range()], &gradients.data[entry.range()]);
            assert!(difference < 2e-5, "{isa:?} {}: {difference}", entry.name);
        }
    }
}

/// The norm of the difference, relative to the norm of `b`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-30)
}

#[test]
fn bf16_gradients_are_the_f32_ones_but_for_the_rounding_of_operands() {
    let config = MambaConfig { n_layer: 4, ..MambaConfig::preset(Preset::Tiny, 50) };
    let params = Params::init(&config, 3);
    let batch = batch(&config, 2, 100);
    let run = |isa: Isa, precision: Precision| {
        let mut engine = CpuEngine::with_isa(params.clone(), isa).unwrap().training_in(precision);
        let mut gradients = Params::zeros(&config);
        let loss = engine.gradients(&batch, &mut a_state(&config, 2), 1.0, &mut gradients);
        (loss, gradients)
    };
    let (loss, gradients) = run(Isa::detect(), Precision::F32);
    let (twin_loss, twin) = run(Isa::Scalar, Precision::Bf16);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let (bf16_loss, bf16) = run(isa, Precision::Bf16);
        // An operand is off by 2^-9 of itself at most (0.2 %), a sum of many by less, a loss by less still; a gradient has
        // passed some ten products.
        assert!((bf16_loss.nats - loss.nats).abs() < 1e-3 * loss.nats, "{isa:?}: {bf16_loss:?} {loss:?}");
        assert_ne!(bf16.data, gradients.data, "{isa:?} rounds");
        for entry in &params.layout.entries {
            let difference = relative(&bf16.data[entry.range()], &gradients.data[entry.range()]);
            assert!(difference < 0.03, "{isa:?} {} against f32: {difference}", entry.name);
            // Between instruction sets only the order of f32 sums differs, which now and then rounds an operand the other way.
            let difference = relative(&bf16.data[entry.range()], &twin.data[entry.range()]);
            assert!(difference < 5e-3, "{isa:?} {} against the scalar twin: {difference}", entry.name);
        }
        assert!((bf16_loss.nats - twin_loss.nats).abs() < 1e-4 * twin_loss.nats, "{isa:?}");
    }
}

#[test]
fn bf16_is_for_gradients_only() {
    let config = config();
    let batch = batch(&config, 2, 70);
    let loss = |precision: Precision| {
        let mut engine = CpuEngine::new(Params::init(&config, 3)).unwrap().training_in(precision);
        engine.gradients(&batch, &mut State::new(&config, 2), 1.0, &mut Params::zeros(&config));
        engine.loss(&batch, &mut State::new(&config, 2)).nats
    };
    assert_eq!(loss(Precision::Bf16).to_bits(), loss(Precision::F32).to_bits());
}

#[test]
fn forward_equals_repeated_step_and_both_leave_the_same_state() {
    let config = config();
    let mut engine = CpuEngine::new(Params::init(&config, 3)).unwrap();
    let (b, l) = (3, 41);
    let input = tokens(b * l, config.vocab_size, 4);
    let mut state = a_state(&config, b);
    let whole = engine.forward(&input, &mut state);

    let mut stepped = a_state(&config, b);
    let mut logits = vec![0.0; b * config.vocab_size];
    for time in 0..l {
        let column: Vec<Token> = (0..b).map(|row| input[row * l + time]).collect();
        engine.step(&column, &mut stepped, &mut logits);
        for row in 0..b {
            let at = (row * l + time) * config.vocab_size;
            let difference =
                distance(&logits[row * config.vocab_size..][..config.vocab_size], &whole[at..at + config.vocab_size]);
            assert!(difference < 1e-5, "row {row}, time {time}: {difference}");
        }
    }
    assert!(distance(&stepped.ssm, &state.ssm) < 1e-5);
    assert!(distance(&stepped.conv, &state.conv) < 1e-5);
}

#[test]
fn a_window_carried_over_equals_the_whole_row() {
    let config = config();
    let mut engine = CpuEngine::new(Params::init(&config, 3)).unwrap();
    let whole = batch(&config, 1, 90);
    let mut state = State::new(&config, 1);
    let mut expected = Loss::default();
    let mut loss = engine.loss(&whole, &mut state);
    std::mem::swap(&mut expected, &mut loss);
    let mut carried = State::new(&config, 1);
    for part in [0..1, 1..3, 3..41, 41..90] {
        let cut = Batch {
            b: 1,
            l: part.len(),
            tokens: whole.tokens[part.clone()].to_vec(),
            targets: whole.targets[part.clone()].to_vec(),
            starts: whole.starts[part.clone()].to_vec(),
        };
        let part = engine.loss(&cut, &mut carried);
        loss.nats += part.nats;
        loss.count += part.count;
    }
    assert_eq!(loss.count, expected.count);
    assert!((loss.nats - expected.nats).abs() < 1e-4, "{loss:?} {expected:?}");
    assert!(distance(&carried.ssm, &state.ssm) < 1e-5);
    assert!(distance(&carried.conv, &state.conv) < 1e-5);
}

#[test]
fn a_start_forgets_everything_before_it() {
    let config = config();
    let mut engine = CpuEngine::new(Params::init(&config, 3)).unwrap();
    let mut long = batch(&config, 1, 80);
    long.starts.fill(false);
    long.starts[50] = true;
    long.targets[..50].fill(Batch::IGNORE);
    let short = Batch {
        b: 1,
        l: 30,
        tokens: long.tokens[50..].to_vec(),
        targets: long.targets[50..].to_vec(),
        starts: vec![false; 30],
    };
    let (mut long_gradients, mut short_gradients) = (Params::zeros(&config), Params::zeros(&config));
    let long_loss = engine.gradients(&long, &mut a_state(&config, 1), 1.0, &mut long_gradients);
    let short_loss = engine.gradients(&short, &mut State::new(&config, 1), 1.0, &mut short_gradients);
    assert!((long_loss.nats - short_loss.nats).abs() < 1e-4, "{long_loss:?} {short_loss:?}");
    assert!(distance(&long_gradients.data, &short_gradients.data) < 1e-5);
}

#[test]
fn gradients_accumulate_scaled() {
    let config = config();
    let mut engine = CpuEngine::new(Params::init(&config, 3)).unwrap();
    let batch = batch(&config, 2, 33);
    let mut once = Params::zeros(&config);
    engine.gradients(&batch, &mut State::new(&config, 2), 1.0, &mut once);
    let mut twice = Params::zeros(&config);
    for scale in [0.25, 0.5] {
        engine.gradients(&batch, &mut State::new(&config, 2), scale, &mut twice);
    }
    let expected: Vec<f32> = once.data.iter().map(|g| 0.75 * g).collect();
    assert!(distance(&twice.data, &expected) < 1e-5);
    assert!(once.layout.entries.iter().all(|e| once.data[e.range()].iter().any(|g| *g != 0.0)), "all are trained");
}

/// Checks a gradient along a random direction: (f(x + e v) - f(x - e v)) / 2e against g . v.
///
/// With e = 1e-2 the cut-off error of these smooth functions and the rounding of f32 sums are each near 1e-4.
fn check_direction(name: &str, x: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> f64) {
    for seed in 0..3 {
        let direction = numbers(x.len(), 100 + seed);
        let moved = |e: f32| -> Vec<f32> { x.iter().zip(&direction).map(|(x, v)| x + e * v).collect() };
        let e = 1e-2;
        let numeric = (f(&moved(e)) - f(&moved(-e))) / (2.0 * f64::from(e));
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, v)| f64::from(g * v)).sum();
        let size: f64 = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        assert!((numeric - analytic).abs() < 2e-3 * size.max(1e-3), "{name}: {numeric} {analytic} of {size}");
    }
}

/// Weighted sum, so that every output has another gradient.
fn weigh(values: &[f32], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(v, w)| f64::from(v * w)).sum()
}

#[test]
fn norm_passes_finite_differences() {
    let (t, d) = (9, 20);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let (x, w, up) = (numbers(t * d, 1), numbers(d, 2), numbers(t * d, 3));
        let run = |x: &[f32], w: &[f32]| {
            let mut y = vec![0.0; t * d];
            rms_norm(isa, x, w, 1e-5, &mut y);
            weigh(&y, &up)
        };
        let (mut d_x, mut d_w) = (vec![0.0; t * d], vec![0.0; d]);
        rms_norm_backward(isa, &x, &w, 1e-5, &mut up.clone(), &mut d_x, &mut d_w);
        check_direction("x", &x, &d_x, |x| run(x, &w));
        check_direction("weight", &w, &d_w, |w| run(&x, w));
    }
}

#[test]
fn convolution_passes_finite_differences() {
    let (b, l, c, k) = (2, 19, 20, 4);
    let mut starts = vec![false; b * l];
    (starts[2], starts[20], starts[21]) = (true, true, true);
    let mut reaches = Vec::new();
    reach(&starts, l, k, &mut reaches);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let (xz, weight) = (numbers(b * l * 2 * c, 1), numbers(k * c, 2));
        let (bias, window, up) = (numbers(c, 3), numbers(b * (k - 1) * c, 4), numbers(b * l * c, 5));
        let run = |xz: &[f32], weight: &[f32], bias: &[f32]| {
            let args = ConvArgs { b, l, d_inner: c, d_conv: k, xz, weight, bias, window: &window, reach: &reaches };
            let mut out = vec![0.0; b * l * c];
            conv_forward(isa, &args, &mut out);
            weigh(&out, &up)
        };
        let args = ConvArgs {
            b,
            l,
            d_inner: c,
            d_conv: k,
            xz: &xz,
            weight: &weight,
            bias: &bias,
            window: &window,
            reach: &reaches,
        };
        let (mut d_xz, mut d_weight, mut d_bias) = (vec![0.0; xz.len()], vec![0.0; c * k], vec![0.0; c]);
        conv_backward(isa, &args, &mut up.clone(), &mut d_xz, &mut d_weight, &mut d_bias);
        let tap_major: Vec<f32> = (0..k * c).map(|i| d_weight[(i % c) * k + i / c]).collect();
        check_direction("x", &xz, &d_xz, |xz| run(xz, &weight, &bias));
        check_direction("weight", &weight, &tap_major, |w| run(&xz, w, &bias));
        check_direction("bias", &bias, &d_bias, |bias| run(&xz, &weight, bias));
    }
}

#[test]
fn scan_passes_finite_differences() {
    // 40 tokens are more than a chunk; one row cut into parts and two rows that are not.
    for (b, c) in [(1, 36), (2, 20)] {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            scan_finite_differences(isa, b, 40, c, 8, 3);
        }
    }
}

fn scan_finite_differences(isa: Isa, b: usize, l: usize, c: usize, s: usize, dt_rank: usize) {
    let (t, width) = (b * l, dt_rank + 2 * s);
    let mut starts = vec![false; t];
    (starts[3], starts[35]) = (true, true);
    let a_log: Vec<f32> = numbers(c * s, 1).iter().map(|v| 0.5 * v).collect();
    let (x, dt_raw, x_dbl) = (numbers(t * c, 2), numbers(t * c, 3), numbers(t * width, 4));
    let (xz, d, bias) = (numbers(t * 2 * c, 5), numbers(c, 6), numbers(c, 7));
    let (up, h) = (numbers(t * c, 8), numbers(b * s * c, 9));
    let a2_of = |a_log: &[f32]| -> Vec<f32> {
        (0..s * c).map(|i| -a_log[(i % c) * s + i / c].exp() * std::f32::consts::LOG2_E).collect()
    };
    let a2 = a2_of(&a_log);
    let args = ScanArgs {
        b,
        l,
        d_inner: c,
        d_state: s,
        dt_rank,
        x: &x,
        dt_bias: &bias,
        x_dbl: &x_dbl,
        xz: &xz,
        a2: &a2,
        d: &d,
        starts: &starts,
    };
    let run = |args: &ScanArgs<'_>, dt_raw: &[f32]| {
        let mut y = vec![0.0; t * c];
        scan_forward(isa, args, dt_raw, &mut h.clone(), &mut y, None);
        weigh(&y, &up)
    };
    let mut checkpoints = vec![0.0; ScanArgs::checkpoints_len(b, l, s, c)];
    let mut y = vec![0.0; t * c];
    scan_forward(isa, &args, &dt_raw, &mut h.clone(), &mut y, Some(&mut checkpoints));
    let (mut d_dt, mut d_y, mut d_x) = (dt_raw.clone(), up.clone(), vec![0.0; t * c]);
    let (mut d_xz, mut d_x_dbl) = (vec![0.0; t * 2 * c], vec![0.0; t * width]);
    let (mut d_a_log, mut d_d, mut d_bias) = (vec![0.0; c * s], vec![0.0; c], vec![0.0; c]);
    let gradients = ScanGradients {
        dt_raw: &mut d_dt,
        y: &mut d_y,
        x: &mut d_x,
        xz: &mut d_xz,
        x_dbl: &mut d_x_dbl,
        a_log: &mut d_a_log,
        d: &mut d_d,
        dt_bias: &mut d_bias,
    };
    scan_backward(isa, &args, &checkpoints, gradients);
    assert!(distance(&d_y, &y) < 1e-5, "the backward pass gives back the output");
    check_direction("x", &x, &d_x, |x| run(&ScanArgs { x, ..args }, &dt_raw));
    check_direction("dt", &dt_raw, &d_dt, |dt| run(&args, dt));
    check_direction("x_dbl", &x_dbl, &d_x_dbl, |x_dbl| run(&ScanArgs { x_dbl, ..args }, &dt_raw));
    check_direction("xz", &xz, &d_xz, |xz| run(&ScanArgs { xz, ..args }, &dt_raw));
    check_direction("D", &d, &d_d, |d| run(&ScanArgs { d, ..args }, &dt_raw));
    check_direction("dt bias", &bias, &d_bias, |dt_bias| run(&ScanArgs { dt_bias, ..args }, &dt_raw));
    check_direction("A_log", &a_log, &d_a_log, |a_log| run(&ScanArgs { a2: &a2_of(a_log), ..args }, &dt_raw));
}

#[test]
fn head_passes_finite_differences_and_knows_the_uniform_case() {
    let (t, d, v) = (11, 12, 37);
    let mut targets = tokens(t, v, 1);
    targets[4] = Batch::IGNORE;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let (hidden, table) = (numbers(t * d, 2), numbers(v * d, 3));
        let run = |hidden: &[f32], table: &[f32]| {
            head_loss(isa, &mut Products::default(), hidden, table, d, &targets, &mut HeadBuffers::default(), None).nats
        };
        let (mut d_hidden, mut d_table) = (vec![0.0; t * d], vec![0.0; v * d]);
        let gradients = HeadGradients { scale: 1.0, hidden: &mut d_hidden, embedding: &mut d_table };
        let loss = head_loss(
            isa,
            &mut Products::default(),
            &hidden,
            &table,
            d,
            &targets,
            &mut HeadBuffers::default(),
            Some(gradients),
        );
        assert_eq!(loss.count, t as u64 - 1);
        check_direction("hidden", &hidden, &d_hidden, |hidden| run(hidden, &table));
        check_direction("embedding", &table, &d_table, |table| run(&hidden, table));
        // All logits equal: ln(37) a token.
        let uniform = run(&vec![0.0; t * d], &table) / loss.count as f64;
        assert!((uniform - 37f64.ln()).abs() < 1e-6, "{uniform}");
    }
}

#[test]
fn packed_products_equal_plain_ones() {
    for (rows, outputs, inputs) in [(1, 37, 12), (13, 64, 20), (64, 100, 7)] {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let (w, x) = (numbers(outputs * inputs, 1), numbers(rows * (inputs + 3), 2));
            let mut expected = numbers(rows * outputs, 3);
            let mut result = expected.clone();
            let plain = Matrix::strided(&x, rows, inputs, inputs + 3);
            matmul(&mut expected, outputs, plain, Matrix::new(&w, outputs, inputs).t(), true);
            let packed = PackedMatrix::new(&w, outputs, inputs);
            packed.multiply(isa, plain, &mut result, true);
            assert!(distance(&result, &expected) < 1e-5, "{isa:?} {rows} {outputs} {inputs}");
        }
    }
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    let config = MambaConfig::preset(Preset::Tiny, 50);
    let batch = batch(&config, 2, 100);
    let run = || {
        let mut engine = CpuEngine::new(Params::init(&config, 3)).unwrap();
        let mut gradients = Params::zeros(&config);
        engine.gradients(&batch, &mut State::new(&config, 2), 1.0, &mut gradients);
        gradients.data
    };
    let expected = run();
    for _ in 0..3 {
        assert!(run().iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
