//! The optimiser against PyTorch's.

use super::*;
use crate::mamba::{MambaConfig, ParamEntry};

/// Two tensors: four numbers that decay, two that do not.
fn layout() -> ParamLayout {
    let config = MambaConfig::new(2, 2, 1);
    let entry = |name: &str, n, offset, decays| ParamEntry { name: name.into(), shape: vec![n], offset, decays };
    let entries = vec![entry("matrix", 4, 0, true), entry("bias", 2, 4, false)];
    ParamLayout { entries, len: 6, ..ParamLayout::new(&config) }
}

/// Gradients of three steps with their norms, and the parameters after each, recorded from PyTorch 2.15 on a CPU:
/// `AdamW(lr=0.01, betas=(0.9, 0.999), eps=1e-8)` with weight_decay 0.1 for the first four numbers and 0 for the
/// others, after `clip_grad_norm_(…, 1.0)`.
#[rustfmt::skip]
const PYTORCH: [([f32; 6], f64, [f64; 6]); 3] = [
    ([0.5, -1.0, 0.0, 2.0, 3.0, -0.001], 3.774_917_364,
     [0.989_000_02, -1.988_000_04, 0.499_500_006, 2.986_999_99, 0.090_000_003_6, -0.190_000_385]),
    ([-0.25, 1.5, 0.1, 2.0, 0.0, 0.002], 2.514_458_895,
     [0.987_121_88, -1.990_095_38, 0.491_559_148, 2.974_105_6, 0.083_299_420_8, -0.194_944_441]),
    ([4.0, 0.0, -0.3, -2.0, 1.0, 1.0], 4.699_999_81,
     [0.979_732_871, -1.991_261_6, 0.493_449_42, 2.966_735_84, 0.076_642_774, -0.201_347_575]),
];

#[test]
fn three_clipped_steps_equal_pytorchs() {
    let mut optimizer = AdamW::new(&layout(), AdamWOptions { weight_decay: 0.1, ..Default::default() });
    let mut params = vec![1.0, -2.0, 0.5, 3.0, 0.1, -0.2];
    for (gradient, norm, expected) in PYTORCH {
        let found = global_norm(&gradient);
        assert!((found - norm).abs() < 1e-6, "{found} {norm}");
        let mut buffer = gradient.to_vec();
        optimizer.update(&params, &mut buffer, (1.0 / (norm + 1e-6)) as f32, 0.01);
        params = buffer;
        for (&ours, theirs) in params.iter().zip(expected) {
            // f32: a few units in the last place a step.
            assert!((f64::from(ours) - theirs).abs() <= 1e-6 * theirs.abs().max(0.1), "{ours} {theirs}");
        }
    }
    assert_eq!(optimizer.updates(), 3);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let config = MambaConfig::new(300, 64, 2);
    let layout = ParamLayout::new(&config);
    let values: Vec<f32> = (0..layout.len).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut optimizer = AdamW::new(&layout, AdamWOptions::default());
            let mut gradients = values.clone();
            let norm = global_norm(&gradients);
            optimizer.update(&values, &mut gradients, 0.5, 1e-3);
            (norm.to_bits(), gradients)
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn norm_of_bad_numbers_is_not_finite() {
    assert_eq!(global_norm(&[3.0, 4.0]), 5.0);
    assert_eq!(global_norm(&[]), 0.0);
    assert!(!global_norm(&[1.0, f32::NAN]).is_finite());
    assert!(!global_norm(&[f32::INFINITY]).is_finite());
    assert!(global_norm(&[f32::MAX; 100]).is_finite(), "f64 holds the square of every f32");
}
