//! Promise: a flow of any length is generated in constant memory.

use std::sync::Arc;

use wiremamba_model::codec::Codec;
use wiremamba_model::codec::LabelId;
use wiremamba_model::codec::bytes::{BytesCodec, Keep, Vocab};
use wiremamba_model::engine::CpuEngine;
use wiremamba_model::generate::{GenerateOptions, Generator, HostDecoder, Request};
use wiremamba_model::mamba::{MambaConfig, Params, Preset};
use wiremamba_model::packet::Timestamp;

/// The longest trace of the NAIC '24 paper.
const LONGEST_TOKENS: usize = 65_943;
const LONGEST_PACKETS: usize = 1_100;

/// An untrained network that never ends a flow and often ends a packet.
///
/// Channel 0 of the residual stream is 1 for every token and no block changes it, so the embedding's first column is a
/// bias of the logits.
fn endless(codec: &dyn Codec) -> Params {
    let mut params = Params::init(&MambaConfig::preset(Preset::Tiny, codec.vocab_size()), 1);
    let layout = Arc::clone(&params.layout);
    let (d_model, d_inner) = (layout.config.d_model, layout.config.d_inner);
    for layer in &layout.layers {
        params.data[layer.out_proj..layer.out_proj + d_inner].fill(0.0);
    }
    params.data[layout.norm_f] = 1.0;
    for token in 0..codec.vocab_size() {
        params.data[layout.embedding + token * d_model] = 1.0;
    }
    let bias = |token: u32| layout.embedding + token as usize * d_model;
    params.data[bias(codec.end_token().0)] = -10.0;
    params.data[bias(256)] = 1.4; // <|pkt|>
    params
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("proc(5)") * 4096
}

#[test]
fn the_papers_longest_trace_takes_no_more_memory_than_its_own_tokens() {
    let codec: Arc<dyn Codec> =
        Arc::new(BytesCodec::fit(Vocab::Byte, 0, Keep::Whole, vec!["any".into()], &[]).unwrap());
    let generate = |tokens_max: usize| {
        let options = GenerateOptions {
            streams: 1,
            seed: 5,
            tokens_max,
            packets_max: Some(usize::MAX),
            ..GenerateOptions::default()
        };
        let request = Request { label: LabelId(0), prompt: None, start: Timestamp(0) };
        let engine = CpuEngine::new(endless(codec.as_ref())).unwrap();
        let mut generator = Generator::new(
            Box::new(HostDecoder::new(Box::new(engine))),
            Arc::clone(&codec),
            options,
            Box::new(std::iter::once(request)),
        )
        .unwrap();
        let flow = generator.next_flow().unwrap();
        (flow.tokens.len(), flow.packets.len(), resident())
    };
    let (_, _, before) = generate(5_000);
    let (tokens, packets, after) = generate(LONGEST_TOKENS);
    assert_eq!(tokens, LONGEST_TOKENS);
    assert!(packets >= LONGEST_PACKETS, "{packets} packets");
    // The tokens and packets themselves come to less than 1 MB; activations kept for each token would be 160.
    let grown = after.saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more for {} tokens more", tokens - 5_000);
    eprintln!("{packets} packets of {tokens} tokens: {grown} bytes more than for 5,000 tokens");
}
