//! Flow splitting and byte ids end to end, in packets/s, with the floor beside it: reading the same file and nothing
//! else.
//!
//! The file is made here: real captures one after another until there are 100,000 packets (they lie beside the
//! repository, in `shared/traffic`), or, without them, made-up packets of 1,000 flows. Target: 2 million packets/s for
//! `read, split, ids` on one core.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wiremamba_daemon::sink::PacketSink;
use wiremamba_daemon::sink::savefile::{SavefileOptions, SavefileSink};
use wiremamba_daemon::source::collection::{LabelledCapture, from_paths};
use wiremamba_daemon::source::file::SavefileSource;
use wiremamba_daemon::source::flows::{ReadLimits, read_flows};
use wiremamba_daemon::source::{Next, PacketSource};
use wiremamba_model::flow::{Flow, FlowLimits, FlowTable, dissect};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

const PACKETS: usize = 100_000;

fn packets(path: &Path) -> impl Iterator<Item = Packet> {
    let mut source = SavefileSource::open(path).expect("the bench made this file, or tcpdump did");
    std::iter::from_fn(move || match source.next_packet() {
        Ok(Next::Packet(packet)) => Some(packet),
        _ => None,
    })
}

/// Real Ethernet packets, or made-up ones where there are no captures. `youtube_headers` is left out: it is cut at 72
/// bytes and would make up half of the file.
fn input() -> (&'static str, Vec<Packet>) {
    let traffic = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traffic"));
    let real: Vec<_> = from_paths(&[traffic], None)
        .unwrap_or_default()
        .iter()
        .filter(|capture| capture.label != "youtube_headers")
        .flat_map(|capture| packets(&capture.path))
        .filter(|packet| packet.linktype == LinkType::ETHERNET)
        .take(PACKETS)
        .collect();
    if real.len() == PACKETS { ("real", real) } else { ("made up", (0..PACKETS).map(made_up).collect()) }
}

fn made_up(i: usize) -> Packet {
    let flow = (i * 7919 % 1000) as u16;
    let mut data = vec![2; 12];
    data.extend([8, 0, 0x45, 0, 1, 44, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    data.extend((1024 + flow).to_be_bytes());
    data.extend([0, 53, 1, 24, 0, 0]);
    data.resize(314, 0x5a);
    Packet { ts: Timestamp(i as i64 * 10_000), linktype: LinkType::ETHERNET, len: 314, data }
}

/// Appends the bytes of a flow's packets as token ids, one more between packets: what the 1:1 byte vocabulary does.
fn byte_ids(flow: &Flow, ret: &mut Vec<u32>) {
    for (_, packet) in &flow.packets {
        ret.extend(packet.data.iter().map(|byte| u32::from(*byte)));
        ret.push(256);
    }
}

fn bench(c: &mut Criterion) {
    let (kind, input) = input();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("merged.pcap");
    let mut sink = SavefileSink::create(&path, SavefileOptions::default()).expect("the folder is new");
    input.iter().for_each(|packet| sink.send(packet).expect("there is room for one capture"));
    let bytes = sink.finish().expect("there is room for one capture").bytes;
    eprintln!("{} {kind} packets of {} bytes on average", input.len(), bytes / input.len() as u64);

    let mut group = c.benchmark_group("split");
    group.throughput(Throughput::Elements(input.len() as u64)).sample_size(20);

    group.bench_function("floor: read into one buffer", |b| {
        b.iter(|| {
            let mut source = SavefileSource::open(&path).expect("written above");
            let mut packet = Packet { ts: Timestamp(0), linktype: LinkType::NULL, len: 0, data: Vec::new() };
            while source.read_into(&mut packet).expect("written above") {
                black_box(&packet);
            }
            source.packets()
        });
    });
    group.bench_function("floor: read into owned packets", |b| b.iter(|| packets(&path).map(black_box).count()));
    group.bench_function("dissect", |b| {
        b.iter(|| input.iter().filter(|packet| black_box(dissect(packet.linktype, &packet.data)).is_ok()).count());
    });
    group.bench_function("read, split", |b| {
        b.iter(|| {
            let mut table = FlowTable::new(FlowLimits::default());
            let mut flows = 0;
            packets(&path).for_each(|packet| table.push(packet, &mut |flow| flows += black_box(flow).packets.len()));
            table.finish(&mut |flow| flows += black_box(flow).packets.len());
            flows
        });
    });
    group.bench_function("read, split, ids", |b| {
        let mut ids = Vec::new();
        b.iter(|| {
            let mut table = FlowTable::new(FlowLimits::default());
            let mut done = |flow: Flow| {
                ids.clear();
                byte_ids(&flow, &mut ids);
                black_box(&ids);
            };
            packets(&path).for_each(|packet| table.push(packet, &mut done));
            table.finish(&mut done);
        });
    });

    // The way that training takes: the same packets in four files, all flows kept.
    let parts: Vec<_> = (0..4).map(|i| dir.path().join(format!("part{i}.pcap"))).collect();
    for (part, packets) in parts.iter().zip(input.chunks(PACKETS / 4)) {
        let mut sink = SavefileSink::create(part, SavefileOptions::default()).expect("the folder is new");
        packets.iter().for_each(|packet| sink.send(packet).expect("there is room for two captures"));
        sink.finish().expect("there is room for two captures");
    }
    let captures: Vec<_> = parts.into_iter().map(|path| LabelledCapture { path, label: "bench".to_owned() }).collect();
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("two threads can be started");
        group.bench_function(BenchmarkId::new("read_flows, threads", threads), |b| {
            b.iter(|| pool.install(|| read_flows(&captures, &ReadLimits::default(), |_| ()).expect("written above")));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
