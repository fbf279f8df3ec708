//! Promise: a checkpoint of ours opens in Hugging Face's `transformers` and continues a prompt as it does here.
//!
//! Needs a Python with torch and transformers: `WIREMAMBA_PYTHON`, or `python3`. Skips, saying so, where there is none.

use std::process::Command;

use wiremamba_model::checkpoint::Checkpoint;
use wiremamba_model::codec::Token;
use wiremamba_model::engine::CpuEngine;
use wiremamba_model::mamba::{Mamba, State};
use wiremamba_tests::program::{json, train_tiny};
use wiremamba_tests::traffic;

#[test]
fn transformers_opens_our_checkpoint_and_generates_the_same_greedy_tokens() {
    let python = std::env::var("WIREMAMBA_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = Command::new(&python).args(["-c", "import torch, transformers"]).output();
    if !imports.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: {python} has no torch and transformers (WIREMAMBA_PYTHON names another)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("capture"), 20);
    let model = dir.path().join("model");
    train_tiny(&dir.path().join("capture"), &model, 60);

    let checkpoint = Checkpoint::load(&model).unwrap();
    let codec = checkpoint.codec.unwrap();
    let (config, vocab_size) = (checkpoint.params.config().clone(), checkpoint.params.config().vocab_size);
    let mut engine = CpuEngine::new(checkpoint.params).unwrap();
    let prompt = [codec.label_token(wiremamba_model::codec::LabelId(0)), Token(2), Token(0)];
    let mut state = State::new(&config, 1);
    let mut logits = vec![0.0; vocab_size];
    let mut greedy = |token: Token, state: &mut State| -> Token {
        engine.step(&[token], state, &mut logits);
        let best = (0..vocab_size).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        Token(best as u32)
    };
    let mut next = Token(0);
    for token in prompt {
        next = greedy(token, &mut state);
    }
    let mut ours = Vec::new();
    for _ in 0..32 {
        ours.push(next.0);
        next = greedy(next, &mut state);
    }

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/open_checkpoint.py");
    let ids = prompt.map(|t| t.0.to_string()).join(",");
    let version = model.join("current").canonicalize().unwrap();
    let output =
        Command::new(python).arg(script).arg(version).args(["--prompt", &ids, "--new-tokens", "32"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = json(&output.stdout);
    let continuation: Vec<u32> =
        theirs["continuation"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    assert_eq!(ours, continuation, "{theirs}");
    assert_eq!(theirs["tokenizer_size"].as_u64().unwrap(), codec.vocab_size() as u64);
    eprintln!("the same 32 greedy tokens as transformers: {theirs}");
}
