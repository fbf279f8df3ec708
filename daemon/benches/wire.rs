//! The `wire` codec on one core: encoding and rendering in packets/s, following and masking in tokens/s.
//!
//! On the real captures beside the repository (`shared/traffic`), each label's first flows, or, without them, on made-up
//! flows. What a mask costs is to be held against `wiremamba bench decode`: the time of one token.

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wiremamba_daemon::source::collection::from_paths;
use wiremamba_daemon::source::flows::{LabelledFlow, ReadLimits, read_flows};
use wiremamba_model::codec::wire::{STRINGS_DEFAULT, WireCodec};
use wiremamba_model::codec::{Codec, LabelId, Render, Token};
use wiremamba_model::flow::{Direction, FiveTuple, Flow, FlowEnd, Session};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_model::wire::plan::Plan;

/// Packets of one label at most, so that none is all of the work.
const LABEL_PACKETS_MAX: usize = 5_000;

fn sessions() -> (&'static str, Vec<(LabelId, Session)>) {
    let traffic = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traffic"));
    let captures = from_paths(&[traffic], None).unwrap_or_default();
    match read_flows(&captures, &ReadLimits::default(), |_| {}) {
        Ok(set) => {
            let mut packets = vec![0; set.labels.len()];
            let mut keep = |f: &LabelledFlow| {
                packets[f.label] += f.flow.packets.len();
                packets[f.label] <= LABEL_PACKETS_MAX
            };
            let flows = set.flows.into_iter().filter(|f| keep(f));
            ("real", flows.map(|f| (LabelId(f.label as u16), Session::from(f.flow))).collect())
        }
        Err(_) => ("made up", (0..500).map(|i| (LabelId(0), made_up(i))).collect()),
    }
}

/// A UDP flow of 20 packets.
fn made_up(flow: u16) -> Session {
    let ends = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let packet = |i: u16| {
        let builder =
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ends.0, ends.1, 64).udp(40_000 + flow, 53);
        let mut data = Vec::new();
        builder.write(&mut data, &[i as u8; 40]).expect("memory");
        let ts = Timestamp(i64::from(flow) * 1_000_000 + i64::from(i) * 1_000);
        (Direction::Orig, Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data })
    };
    let tuple =
        FiveTuple { orig: ends.0.into(), resp: ends.1.into(), orig_port: 40_000 + flow, resp_port: 53, protocol: 17 };
    Session::from(Flow { tuple, packets: (0..20).map(packet).collect(), end: FlowEnd::EndOfInput })
}

fn wire(c: &mut Criterion) {
    let (kind, sessions) = sessions();
    let labels = sessions.iter().map(|s| s.0.0).max().map_or(1, |max| max + 1);
    let labels = (0..labels).map(|i| format!("label{i}")).collect();
    let codec = WireCodec::fit(labels, STRINGS_DEFAULT, false, Plan::default(), &sessions).expect("labels are plain");
    let tokens: Vec<Vec<Token>> = sessions
        .iter()
        .map(|(label, session)| {
            let mut tokens = Vec::new();
            codec.encode(*label, session, &mut tokens);
            tokens
        })
        .collect();
    let packets: usize = sessions.iter().map(|s| s.1.packets.len()).sum();
    let token_count: usize = tokens.iter().map(Vec::len).sum();

    let mut group = c.benchmark_group(format!("wire/{kind}"));
    group.sample_size(10);
    group.throughput(Throughput::Elements(packets as u64));
    group.bench_function("encode, packets", |b| {
        let mut out = Vec::with_capacity(token_count);
        b.iter(|| {
            out.clear();
            for (label, session) in &sessions {
                codec.encode(*label, session, &mut out);
            }
            black_box(out.len())
        });
    });
    group.bench_function("render, packets", |b| {
        let mut render = Render { rng: ChaCha8Rng::seed_from_u64(1), start: Timestamp::default() };
        b.iter(|| tokens.iter().map(|t| codec.decode(t, &mut render).packets.len()).sum::<usize>());
    });
    group.throughput(Throughput::Elements(token_count as u64));
    for (name, masks) in [("follow, tokens", false), ("follow and mask, tokens", true)] {
        let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
        group.bench_function(name, |b| {
            b.iter(|| {
                for sample in &tokens {
                    let mut grammar = codec.grammar().expect("wire has one");
                    for (i, token) in sample.iter().enumerate() {
                        grammar.push(*token);
                        if masks {
                            grammar.allowed(black_box(100_000 - i.min(50_000)), &mut mask);
                        }
                    }
                }
                black_box(mask[0])
            });
        });
    }
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
