//! Every implementation of Mamba computes what Hugging Face's `MambaForCausalLM` computes: logits, loss, all
//! gradients, and the greedy continuation, from the same weights.

mod support;

use support::{Golden, TOLERANCE, assert_close, max_abs};
use wiremamba_model::codec::Token;
use wiremamba_model::engine::{CpuEngine, Isa};
use wiremamba_model::mamba::{Mamba, Params, Reference, State};

/// What is checked; a new implementation is one line here.
fn implementations(params: &Params) -> Vec<(&'static str, Box<dyn Mamba>)> {
    let mut ret: Vec<(&'static str, Box<dyn Mamba>)> = vec![("reference", Box::new(Reference::new(params.clone())))];
    for (name, isa) in [("AVX-512", Isa::Avx512), ("AVX2", Isa::Avx2), ("scalar", Isa::Scalar)] {
        if !isa.is_supported() {
            eprintln!("skipped: this CPU has no {name}");
            continue;
        }
        match CpuEngine::with_isa(params.clone(), isa) {
            Ok(engine) => ret.push((name, Box::new(engine))),
            Err(why) => eprintln!("skipped: {why}"),
        }
    }
    ret
}

#[test]
fn tiny_equals_transformers() {
    check_all("tiny");
}

#[test]
fn odd_sizes_equal_transformers() {
    check_all("odd");
}

#[test]
fn small_equals_transformers() {
    check_all("small");
}

fn check_all(name: &'static str) {
    let golden = Golden::load(name);
    for (who, mut model) in implementations(&golden.params()) {
        check_logits(who, model.as_mut(), &golden);
        check_gradients(who, model.as_mut(), &golden);
        check_greedy(who, model.as_mut(), &golden);
    }
}

fn check_logits(who: &str, model: &mut dyn Mamba, golden: &Golden) {
    let (batch, mut state) = golden.batch();
    let theirs = golden.tensor("logits");
    let ours = model.forward(&batch.tokens, &mut state);
    assert_eq!(ours.len(), theirs.len());
    let worst = assert_close("logits", ours.into_iter(), theirs, max_abs(theirs));
    eprintln!("{who} {}: logits within {worst:.1e} of the largest", golden.name);
}

fn check_gradients(who: &str, model: &mut dyn Mamba, golden: &Golden) {
    let (batch, mut state) = golden.batch();
    let loss = model.loss(&batch, &mut state);
    let expected = golden.meta.loss;
    assert!((loss.mean() - expected).abs() <= 1e-5 * expected, "loss {} against {expected}", loss.mean());

    let mut gradients = Params::zeros(&golden.meta.config);
    let (batch, mut state) = golden.batch();
    let again = model.gradients(&batch, &mut state, 1.0 / loss.count as f32, &mut gradients);
    assert!((again.mean() - expected).abs() <= 1e-5 * expected, "loss {} against {expected}", again.mean());

    let mut worst = 0f64;
    for entry in &gradients.layout.entries {
        let (name, ours) = (&entry.name, &gradients.data[entry.range()]);
        let stats = golden.meta.gradients.get(name).unwrap_or_else(|| panic!("no gradient of {name} recorded"));
        let (theirs, stride) = match stats.stride {
            Some(stride) => (golden.tensor(&format!("sample.{name}")), stride),
            None => (golden.tensor(&format!("grad.{name}")), 1),
        };
        worst = worst.max(assert_close(name, ours.iter().copied().step_by(stride), theirs, stats.max_abs));

        // All elements, also those that were not recorded. Errors whose norm is within TOLERANCE of the
        // gradient's move its norm by no more than that, and its sum by at most sqrt(n) as much (Cauchy-Schwarz).
        let exact = || ours.iter().map(|g| f64::from(*g));
        let (l2, sum) = (exact().map(|g| g * g).sum::<f64>().sqrt(), exact().sum::<f64>());
        assert!((l2 - stats.l2).abs() <= TOLERANCE * stats.l2, "{name}: norm {l2} against {}", stats.l2);
        let reach = TOLERANCE * stats.l2 * (ours.len() as f64).sqrt();
        assert!((sum - stats.sum).abs() <= reach, "{name}: sum {sum} against {}", stats.sum);
        assert!((max_abs(ours) - stats.max_abs).abs() <= TOLERANCE * stats.max_abs, "{name}: largest magnitude");
    }
    eprintln!("{who} {}: gradients within {worst:.1e} of the largest of each tensor", golden.name);
}

/// Reads the prompt at once, and goes on token by token from the state that it left.
fn check_greedy(who: &str, model: &mut dyn Mamba, golden: &Golden) {
    let config = &golden.meta.config;
    let best = |logits: &[f32]| {
        let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a vocabulary");
        Token(largest.0 as u32)
    };
    let mut state = State::new(config, 1);
    let mut logits = model.forward(&golden.meta.tokens[..golden.meta.l], &mut state);
    logits.drain(..logits.len() - config.vocab_size);
    let mut continuation = vec![best(&logits)];
    while continuation.len() < golden.meta.greedy.len() {
        model.step(&continuation[continuation.len() - 1..], &mut state, &mut logits);
        continuation.push(best(&logits));
    }
    assert_eq!(continuation, golden.meta.greedy, "{who} {}: greedy continuation", golden.name);
}
