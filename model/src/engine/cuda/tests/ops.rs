//! Each kernel against its twin on the CPU, in f32 and in bf16.

use super::super::batch::DeviceBatch;
use super::super::gpu::{GpuMatrix, Span};
use super::super::kernels::{AdamWStep, Conv, D_STATE, SQUARE_BLOCKS, Scan, ScanGradients, Shape};
use super::*;
use crate::engine::cpu::kernels as twin;
use crate::train::{AdamW, global_norm};

/// Each kind of activation, and how close to f32 it has to come.
const NUMBERS: [(Number, f32); 2] = [(Number::F32, 1e-5), (Number::Bf16, 1e-2)];

/// The upper half of an f32, rounded to nearest even.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn whole(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// What the device sees of `x`: itself, or rounded.
fn seen(number: Number, x: &[f32]) -> Vec<f32> {
    if number == Number::F32 { x.to_vec() } else { x.iter().map(|v| whole(half(*v))).collect() }
}

/// Activations on the device.
fn put(gpu: &Gpu, number: Number, x: &[f32]) -> Buffer {
    let exact = gpu.upload(x);
    if number == Number::F32 {
        return exact;
    }
    let halves = gpu.alloc(Number::Bf16, x.len());
    gpu.cast(exact.span(), halves.span());
    gpu.synchronize();
    halves
}

/// Activations from the device. bf16 is read by multiplying with the unit matrix, which gives f32.
fn get(gpu: &Gpu, from: Span) -> Vec<f32> {
    let mut ret = vec![0.0; from.len()];
    if from.number() == Number::F32 {
        gpu.read(from, &mut ret);
        return ret;
    }
    let (one, to) = (put(gpu, Number::Bf16, &[1.0]), gpu.alloc(Number::F32, from.len()));
    let n = from.len();
    gpu.multiply(GpuMatrix::new(to.span(), n, 1), GpuMatrix::new(from, n, 1), GpuMatrix::new(one.span(), 1, 1), false);
    gpu.read(to.span(), &mut ret);
    ret
}

fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let difference = distance(found, expected);
    assert!(difference < tolerance, "{what}: {difference}");
}

#[test]
fn products_of_every_layout() {
    let Some(gpu) = gpu() else { return };
    let (m, n, k, stride) = (5, 7, 3, 11);
    for (number, tolerance) in NUMBERS {
        let (a, b, start) = (numbers(m * stride, 1), numbers(k * n, 2), numbers(m * n, 3));
        let (a_seen, b_seen) = (seen(number, &a), seen(number, &b));
        let mut expected = start.clone();
        for i in 0..m {
            for j in 0..n {
                expected[i * n + j] += (0..k).map(|p| a_seen[i * stride + p] * b_seen[p * n + j]).sum::<f32>();
            }
        }
        let transposed = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
        };
        let (a, b_t, b) = (put(&gpu, number, &a), put(&gpu, number, &transposed(&b, k, n)), put(&gpu, number, &b));
        let a_matrix = GpuMatrix::strided(a.span(), m, k, stride);
        for b in [GpuMatrix::new(b.span(), k, n), GpuMatrix::new(b_t.span(), n, k).t()] {
            let to = gpu.upload(&start);
            gpu.multiply(GpuMatrix::new(to.span(), m, n), a_matrix, b, true);
            close(&get(&gpu, to.span()), &expected, tolerance, "product");
        }
    }
}

#[test]
fn norm_forward_and_backward() {
    let Some(gpu) = gpu() else { return };
    let (rows, d, eps) = (131, 50, 1e-5);
    let (x, weight, d_y, d_x) = (numbers(rows * d, 1), numbers(d, 2), numbers(rows * d, 3), numbers(rows * d, 4));
    for (number, tolerance) in NUMBERS {
        let mut expected = vec![0.0; rows * d];
        twin::rms_norm(Isa::Scalar, &x, &weight, eps, &mut expected);
        let (x_gpu, weight_gpu) = (gpu.upload(&x), gpu.upload(&weight));
        let (y, kept) = (gpu.alloc(number, rows * d), gpu.alloc(Number::F32, rows * d));
        gpu.norm_forward(x_gpu.span(), weight_gpu.span(), y.span(), kept.span(), eps);
        close(&get(&gpu, y.span()), &expected, tolerance, "norm");
        assert_eq!(get(&gpu, kept.span()), x);

        let (mut d_x_expected, mut d_weight) = (d_x.clone(), vec![0.5; d]);
        let mut used_up = seen(number, &d_y);
        twin::rms_norm_backward(Isa::Scalar, &x, &weight, eps, &mut used_up, &mut d_x_expected, &mut d_weight);
        let (d_x_gpu, cast) = (gpu.upload(&d_x), gpu.alloc(number, rows * d));
        let (d_weight_gpu, partial) =
            (gpu.upload(&vec![0.5f32; d]), gpu.alloc(Number::F32, Gpu::norm_partial_rows(rows) * d));
        let d_y_gpu = put(&gpu, number, &d_y);
        gpu.norm_backward(
            x_gpu.span(),
            weight_gpu.span(),
            d_y_gpu.span(),
            d_x_gpu.span(),
            cast.span(),
            partial.span(),
            d_weight_gpu.span(),
            eps,
        );
        close(&get(&gpu, d_x_gpu.span()), &d_x_expected, tolerance, "d_x");
        close(&get(&gpu, cast.span()), &d_x_expected, tolerance, "cast");
        close(&get(&gpu, d_weight_gpu.span()), &d_weight, tolerance, "d_weight");
    }
}

/// A batch's starts and reach on the device, and on the host.
struct Rows {
    starts: Vec<bool>,
    reach: Vec<u8>,
    on_device: DeviceBatch,
}

fn rows(gpu: &Gpu, c: &MambaConfig, b: usize, l: usize) -> Rows {
    let batch = batch(c, b, l);
    let mut on_device = DeviceBatch::new(gpu, c, b * l);
    on_device.write_inputs(gpu, c, &batch.tokens, &batch.starts, l);
    let mut reach = Vec::new();
    twin::reach(&batch.starts, l, c.d_conv, &mut reach);
    Rows { starts: batch.starts, reach, on_device }
}

#[test]
fn conv_forward_and_backward() {
    let Some(gpu) = gpu() else { return };
    for d_conv in [2, 3, 4] {
        let c = MambaConfig { d_conv, ..config() };
        for (b, l) in SHAPES {
            let (t, di) = (b * l, c.d_inner);
            let rows = rows(&gpu, &c, b, l);
            let (weight, bias) = (numbers(di * d_conv, 1), numbers(di, 2));
            let (xz, window, d_y) = (numbers(t * 2 * di, 3), numbers(b * (d_conv - 1) * di, 4), numbers(t * di, 5));
            // The CPU has the taps' weights side by side.
            let by_tap: Vec<f32> = (0..di * d_conv).map(|i| weight[i % di * d_conv + i / di]).collect();
            for (number, tolerance) in NUMBERS {
                let xz_seen = seen(number, &xz);
                let args = twin::ConvArgs {
                    b,
                    l,
                    d_inner: di,
                    d_conv,
                    xz: &xz_seen,
                    weight: &by_tap,
                    bias: &bias,
                    window: &window,
                    reach: &rows.reach,
                };
                let who = format!("{number:?} {d_conv} taps, {b} x {l}");
                let (mut y, mut next) = (vec![0.0; t * di], vec![0.0; window.len()]);
                twin::conv_forward(Isa::Scalar, &args, &mut y);
                args.next_window(&mut next);
                let shape = Shape { b, l, d_inner: di, d_conv, dt_rank: c.dt_rank };
                let buffers = (put(&gpu, number, &xz), gpu.upload(&weight), gpu.upload(&bias), gpu.upload(&window));
                let conv = Conv {
                    shape,
                    xz: buffers.0.span(),
                    weight: buffers.1.span(),
                    bias: buffers.2.span(),
                    window: buffers.3.span(),
                    reach: rows.on_device.reach.span(),
                };
                let y_gpu = gpu.alloc(number, t * di);
                gpu.conv_forward(&conv, y_gpu.span());
                close(&get(&gpu, y_gpu.span()), &y, tolerance, &format!("{who}: y"));

                let (mut d_xz, mut d_weight, mut d_bias) =
                    (vec![0.0; t * 2 * di], vec![0.0; di * d_conv], vec![0.25; di]);
                let mut d_y_seen = seen(number, &d_y);
                twin::conv_backward(Isa::Scalar, &args, &mut d_y_seen, &mut d_xz, &mut d_weight, &mut d_bias);
                let zeros = vec![0.0f32; t * 2 * di];
                let (d_xz_gpu, d_weight_gpu) = (put(&gpu, number, &zeros), gpu.zeros(Number::F32, di * d_conv));
                let (d_bias_gpu, partial) =
                    (gpu.upload(&vec![0.25f32; di]), gpu.alloc(Number::F32, shape.conv_partial_len()));
                let d_y_gpu = put(&gpu, number, &d_y);
                let spans = (d_y_gpu.span(), d_xz_gpu.span(), partial.span(), d_weight_gpu.span(), d_bias_gpu.span());
                gpu.conv_backward(&conv, spans.0, spans.1, spans.2, spans.3, spans.4);
                close(&get(&gpu, d_xz_gpu.span()), &d_xz, tolerance, &format!("{who}: d_xz"));
                close(&get(&gpu, d_weight_gpu.span()), &d_weight, tolerance, &format!("{who}: d_weight"));
                close(&get(&gpu, d_bias_gpu.span()), &d_bias, tolerance, &format!("{who}: d_bias"));

                gpu.conv_window(&conv);
                close(&get(&gpu, buffers.3.span()), &next, tolerance, &format!("{who}: window"));
            }
        }
    }
}

/// (channels, D_STATE) as the CPU has it, (D_STATE, channels), or back.
fn turned(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let one = |m: &[f32]| -> Vec<f32> { (0..rows * columns).map(|i| m[i % rows * columns + i / rows]).collect() };
    x.chunks_exact(rows * columns).flat_map(one).collect()
}

#[test]
fn scan_forward_and_backward() {
    let Some(gpu) = gpu() else { return };
    let c = config();
    let (di, rank) = (c.d_inner, c.dt_rank);
    let width = c.x_proj_width();
    for (b, l) in SHAPES {
        let t = b * l;
        let rows = rows(&gpu, &c, b, l);
        let mut a_log: Vec<f32> =
            (0..di * D_STATE).map(|i| ((i % D_STATE + 1) as f32).ln() + 0.1 * (i % 7) as f32).collect();
        a_log[5] = -110.0; // an A that is zero in f32: nothing decays, and yet a sample's start has to
        let (x, xz, x_dbl) = (numbers(t * di, 1), numbers(t * 2 * di, 2), numbers(t * width, 3));
        let (dt_raw, dt_bias, d_skip) = (numbers(t * di, 4), numbers(di, 5), numbers(di, 6));
        let (state, d_y) = (numbers(b * di * D_STATE, 7), numbers(t * di, 8));
        let a2: Vec<f32> = a_log.iter().map(|a| -a.exp() * std::f32::consts::LOG2_E).collect();
        let a2 = turned(&a2, di, D_STATE);
        for (number, tolerance) in NUMBERS {
            let who = format!("{number:?} {b} x {l}");
            let (x_seen, xz_seen, x_dbl_seen) = (seen(number, &x), seen(number, &xz), seen(number, &x_dbl));
            let args = twin::ScanArgs {
                b,
                l,
                d_inner: di,
                d_state: D_STATE,
                dt_rank: rank,
                x: &x_seen,
                dt_bias: &dt_bias,
                x_dbl: &x_dbl_seen,
                xz: &xz_seen,
                a2: &a2,
                d: &d_skip,
                starts: &rows.starts,
            };
            let dt_seen = seen(number, &dt_raw);
            let (mut end, mut y) = (turned(&state, di, D_STATE), vec![0.0; t * di]);
            let mut checkpoints = vec![0.0; twin::ScanArgs::checkpoints_len(b, l, D_STATE, di)];
            twin::scan_forward(Isa::Scalar, &args, &dt_seen, &mut end, &mut y, Some(&mut checkpoints));

            let shape = Shape { b, l, d_inner: di, d_conv: c.d_conv, dt_rank: rank };
            assert_eq!(shape.segments() > 1, l > 300, "{shape:?}");
            let act = |x: &[f32]| put(&gpu, number, x);
            let (x_gpu, dt_gpu, xz_gpu, x_dbl_gpu) = (act(&x), act(&dt_raw), act(&xz), act(&x_dbl));
            let (a_gpu, bias_gpu, skip_gpu) = (gpu.upload(&a_log), gpu.upload(&dt_bias), gpu.upload(&d_skip));
            let cells = b * shape.segments() * di;
            let (ends, sums) = (gpu.alloc(Number::F32, cells * D_STATE), gpu.alloc(Number::F32, cells));
            let scan = Scan {
                shape,
                x: x_gpu.span(),
                dt_raw: dt_gpu.span(),
                xz: xz_gpu.span(),
                x_dbl: x_dbl_gpu.span(),
                starts: rows.on_device.starts.span(),
                a_log: a_gpu.span(),
                dt_bias: bias_gpu.span(),
                d_skip: skip_gpu.span(),
                ends: ends.span(),
                sums: sums.span(),
            };
            let (state_gpu, y_gpu) = (gpu.upload(&state), gpu.alloc(number, t * di));
            let checkpoints_gpu = gpu.alloc(Number::F32, shape.checkpoints_len());
            gpu.scan_forward(&scan, state_gpu.span(), checkpoints_gpu.span(), y_gpu.span());
            close(&get(&gpu, y_gpu.span()), &y, tolerance, &format!("{who}: y"));
            let ended = turned(&get(&gpu, state_gpu.span()), di, D_STATE);
            let ended = turned(&ended, D_STATE, di);
            close(&ended, &turned(&end, D_STATE, di), 1e-5, &format!("{who}: state"));

            let mut d_dt = dt_seen.clone();
            let mut y_and_d_y = seen(number, &d_y);
            let (mut d_x, mut d_xz, mut d_x_dbl) = (vec![0.0; t * di], vec![0.0; t * 2 * di], vec![0.0; t * width]);
            let (mut d_a, mut d_skip_sum, mut d_bias) = (vec![0.5; di * D_STATE], vec![0.5; di], vec![0.5; di]);
            let gradients = twin::ScanGradients {
                dt_raw: &mut d_dt,
                y: &mut y_and_d_y,
                x: &mut d_x,
                xz: &mut d_xz,
                x_dbl: &mut d_x_dbl,
                a_log: &mut d_a,
                d: &mut d_skip_sum,
                dt_bias: &mut d_bias,
            };
            twin::scan_backward(Isa::Scalar, &args, &checkpoints, gradients);

            let d_y_gpu = act(&d_y);
            let (y_again, d_x_gpu) = (gpu.alloc(number, t * di), gpu.alloc(number, t * di));
            let (d_xz_gpu, d_x_dbl_gpu) = (act(&vec![0.0; t * 2 * di]), act(&vec![0.0; t * width]));
            let halves = |len: usize| gpu.upload(&vec![0.5f32; len]);
            let (d_a_gpu, d_skip_gpu, d_bias_gpu) = (halves(di * D_STATE), halves(di), halves(di));
            let partials = (
                gpu.alloc(Number::F32, shape.scan_tiles() * t * 2 * D_STATE),
                gpu.alloc(Number::F32, cells * D_STATE),
                gpu.alloc(Number::F32, cells * 2),
            );
            gpu.scan_backward(
                &scan,
                &ScanGradients {
                    checkpoints: checkpoints_gpu.span(),
                    d_y: d_y_gpu.span(),
                    y: y_again.span(),
                    d_x: d_x_gpu.span(),
                    d_xz: d_xz_gpu.span(),
                    d_x_dbl: d_x_dbl_gpu.span(),
                    partial_bc: partials.0.span(),
                    partial_a: partials.1.span(),
                    partial_channel: partials.2.span(),
                    d_a_log: d_a_gpu.span(),
                    d_skip: d_skip_gpu.span(),
                    d_dt_bias: d_bias_gpu.span(),
                },
            );
            close(&get(&gpu, y_again.span()), &y_and_d_y, tolerance, &format!("{who}: y again"));
            close(&get(&gpu, d_x_gpu.span()), &d_x, tolerance, &format!("{who}: d_x"));
            close(&get(&gpu, d_xz_gpu.span()), &d_xz, tolerance, &format!("{who}: d_xz"));
            close(&get(&gpu, d_x_dbl_gpu.span()), &d_x_dbl, tolerance, &format!("{who}: d_x_dbl"));
            close(&get(&gpu, dt_gpu.span()), &d_dt, tolerance, &format!("{who}: d_dt"));
            close(&get(&gpu, d_a_gpu.span()), &d_a, tolerance, &format!("{who}: d_a"));
            close(&get(&gpu, d_skip_gpu.span()), &d_skip_sum, tolerance, &format!("{who}: d_skip"));
            close(&get(&gpu, d_bias_gpu.span()), &d_bias, tolerance, &format!("{who}: d_bias"));
        }
    }
}

#[test]
fn head_and_embedding() {
    let Some(gpu) = gpu() else { return };
    let c = config();
    let (b, l, d, v) = (2, 200, c.d_model, c.vocab_size);
    let batch = batch(&c, b, l);
    let (t, scale) = (b * l, 0.25);
    let (hidden, table) = (numbers(t * d, 1), numbers(v * d, 2));
    let mut on_device = DeviceBatch::new(&gpu, &c, t);
    on_device.write(&gpu, &c, &batch, scale);
    for (number, tolerance) in NUMBERS {
        let (hidden_seen, table_seen) = (seen(number, &hidden), seen(number, &table));
        let (mut d_hidden, mut d_table) = (vec![0.0; t * d], vec![0.0; v * d]);
        let gradients = twin::HeadGradients { scale, hidden: &mut d_hidden, embedding: &mut d_table };
        let mut buffers = twin::HeadBuffers::default();
        let targets = &batch.targets;
        let loss = twin::head_loss(
            Isa::Scalar,
            &mut twin::Products::default(),
            &hidden_seen,
            &table_seen,
            d,
            targets,
            &mut buffers,
            Some(gradients),
        );

        let (hidden_gpu, table_gpu) = (put(&gpu, number, &hidden), put(&gpu, number, &table));
        let stride = v + 3; // what lies between the rows is nobody's
        let (logits, losses) = (gpu.alloc(Number::F32, t * stride), gpu.alloc(Number::F32, t));
        let (d_logits, total) = (gpu.alloc(number, t * stride), gpu.alloc(Number::F64, 1));
        let table_matrix = GpuMatrix::new(table_gpu.span(), v, d);
        let hidden_matrix = GpuMatrix::new(hidden_gpu.span(), t, d);
        gpu.multiply(GpuMatrix::strided(logits.span(), t, v, stride), hidden_matrix, table_matrix.t(), false);
        gpu.cross_entropy(
            logits.span(),
            on_device.targets.span(),
            on_device.scale.span(),
            losses.span(),
            d_logits.span(),
            v,
        );
        gpu.total(losses.span(), total.span());
        let mut nats = [0.0];
        gpu.read(total.span(), &mut nats);
        assert!((nats[0] - loss.nats).abs() < 1e-5 * loss.nats, "{nats:?} {loss:?}");
        let (d_hidden_gpu, d_table_gpu) = (gpu.alloc(Number::F32, t * d), gpu.zeros(Number::F32, v * d));
        let d_logits = GpuMatrix::strided(d_logits.span(), t, v, stride);
        gpu.multiply(GpuMatrix::new(d_hidden_gpu.span(), t, d), d_logits, table_matrix, false);
        gpu.multiply(GpuMatrix::new(d_table_gpu.span(), v, d), d_logits.t(), hidden_matrix, true);
        close(&get(&gpu, d_hidden_gpu.span()), &d_hidden, tolerance, "d_hidden");
        close(&get(&gpu, d_table_gpu.span()), &d_table, tolerance, "d_table");
    }

    let table_gpu = gpu.upload(&table);
    let x = gpu.alloc(Number::F32, t * d);
    gpu.embed(table_gpu.span(), on_device.tokens.span(), x.span());
    let expected: Vec<f32> = batch.tokens.iter().flat_map(|t| table[t.0 as usize * d..][..d].to_vec()).collect();
    assert_eq!(get(&gpu, x.span()), expected);
    let mut d_table = numbers(v * d, 9);
    let d_table_gpu = gpu.upload(&d_table);
    for (token, row) in batch.tokens.iter().zip(hidden.chunks_exact(d)) {
        d_table[token.0 as usize * d..][..d].iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
    }
    let partial = gpu.alloc(Number::F32, on_device.pieces_max() * d);
    let [order, pieces, count, of_token] = on_device.order();
    let d_x = gpu.upload(&hidden);
    gpu.embed_backward(d_x.span(), order, pieces, count, of_token, partial.span(), d_table_gpu.span());
    close(&get(&gpu, d_table_gpu.span()), &d_table, 1e-5, "d_table of the embedding");
}

#[test]
fn norms_sums_and_adamw() {
    let Some(gpu) = gpu() else { return };
    let layout = crate::mamba::ParamLayout::new(&config());
    let (params, gradients) = (numbers(layout.len, 1), numbers(layout.len, 2));
    let gradients_gpu = gpu.upload(&gradients);
    let (partial, total) = (gpu.alloc(Number::F64, SQUARE_BLOCKS), gpu.alloc(Number::F64, 1));
    gpu.square_sum(gradients_gpu.span(), partial.span(), total.span());
    let mut square = [0.0f64];
    gpu.read(total.span(), &mut square);
    let norm = global_norm(&gradients);
    assert!((square[0].sqrt() - norm).abs() < 1e-12 * norm);

    let options = AdamWOptions { weight_decay: 0.1, ..Default::default() };
    let mut host = AdamW::new(&layout, options);
    let mut expected = gradients.clone();
    host.update(&params, &mut expected, 0.5, 1e-2);
    let step = AdamWStep {
        clip: 0.5,
        beta1: 0.9,
        rest1: (1.0 - 0.9f64) as f32,
        beta2: 0.999,
        rest2: (1.0 - 0.999f64) as f32,
        eps: 1e-8,
        step_size: (1e-2 / (1.0 - 0.9f64)) as f32,
        root_correction: (1.0 - 0.999f64).sqrt() as f32,
        kept: (1.0 - 1e-3f64) as f32,
    };
    let (params_gpu, zeros) = (gpu.upload(&params), || gpu.zeros(Number::F32, layout.len));
    let (first, second, halves) = (zeros(), zeros(), gpu.alloc(Number::Bf16, layout.len));
    let pieces = gpu.upload(&super::super::learner::pieces(&layout));
    let spans = (first.span(), second.span(), halves.span(), pieces.span());
    gpu.adamw(params_gpu.span(), gradients_gpu.span(), spans.0, spans.1, spans.2, spans.3, &step);
    let found = get(&gpu, params_gpu.span());
    close(&found, &expected, 1e-6, "parameters");
    assert_eq!(get(&gpu, halves.span()), seen(Number::Bf16, &found));
    let (m, v) = host.moments();
    close(&get(&gpu, first.span()), m, 1e-6, "first moments");
    close(&get(&gpu, second.span()), v, 1e-6, "second moments");
}
