//! Promise: what `replay` says it sent onto a tap, a packet socket on that tap sees: every packet, byte for byte, in
//! order. Each test has a network namespace of its own; all skip without root or `/dev/net/tun`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wiremamba_daemon::replay::{Ended, Pace, ReplayCounters, ReplayError, ReplayOptions, run};
use wiremamba_daemon::sink::tap::{
    MTU_MAX, REFUSED_NOT_ETHERNET, REFUSED_TOO_LONG, REFUSED_TOO_SHORT, REFUSED_TRUNCATED, TapOptions, TapSink,
    Truncated,
};
use wiremamba_daemon::source::file::SavefileSource;
use wiremamba_daemon::source::{Next, PacketSource, SourceError};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::netns::{self, Namespace};
use wiremamba_tests::sniffer::Sniffer;

const TAP: &str = "wmtap0";
/// How long a receiver waits for one more packet before it calls it lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// A namespace to test in, or `None` with a line that says what is missing.
fn namespace() -> Option<Namespace> {
    if let Some(what) = netns::missing() {
        eprintln!("skipped: {what}");
        return None;
    }
    Some(Namespace::new().expect("it worked a moment ago"))
}

/// `count` packets made on the fly, so that 100,000 of them cost no memory.
struct Made<F> {
    next: usize,
    count: usize,
    make: F,
}

impl<F: FnMut(usize) -> Packet> PacketSource for Made<F> {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        if self.next == self.count {
            return Ok(Next::End);
        }
        self.next += 1;
        Ok(Next::Packet((self.make)(self.next - 1)))
    }
}

/// Opens a source of made packets, again and again.
fn made(
    count: usize,
    make: impl Fn(usize) -> Packet + Clone + Send + 'static,
) -> impl FnMut() -> Result<Box<dyn PacketSource + Send>, SourceError> + Send + 'static {
    move || Ok(Box::new(Made { next: 0, count, make: make.clone() }))
}

/// Packet `i`: an Ethernet frame of 14 to 1514 bytes whose every byte depends on `i`, `gap_ns` after the one before.
/// The EtherType is 0x88b5, for local experiments (IEEE 802), so that no protocol of the host answers.
fn packet(i: usize, gap_ns: i64) -> Packet {
    let len = 14 + (i * 7919) % 1501;
    let mut data: Vec<u8> = (0..len).map(|at| (i.wrapping_mul(31) ^ at.wrapping_mul(7) ^ (i >> 8)) as u8).collect();
    data[0] = 0x02; // a locally administered unicast address
    data[12..14].copy_from_slice(&[0x88, 0xb5]);
    ethernet(1_700_000_000_000_000_000 + i as i64 * gap_ns, data)
}

fn ethernet(ts: i64, data: Vec<u8>) -> Packet {
    Packet { ts: Timestamp(ts), linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}

fn tap() -> TapOptions {
    TapOptions { name: TAP.into(), ..TapOptions::default() }
}

fn at(pace: Pace) -> ReplayOptions {
    ReplayOptions { pace, ..ReplayOptions::default() }
}

/// Replays onto `sink` while a sniffer takes what arrives, until `expected` frames are there or none comes any more.
/// Returns the counters and the frames; fails when the sniffer itself lost one.
fn replay_and_sniff(
    sink: &mut TapSink,
    open: impl FnMut() -> Result<Box<dyn PacketSource + Send>, SourceError> + Send + 'static,
    options: &ReplayOptions,
    expected: usize,
) -> (ReplayCounters, Vec<Vec<u8>>) {
    let mut sniffer = Sniffer::open(sink.name()).unwrap();
    std::thread::scope(|scope| {
        let sniffing = scope.spawn(move || {
            let mut frames = sniffer.take(expected, PATIENCE).unwrap();
            frames.extend(sniffer.next(Duration::from_millis(50)).unwrap()); // there should be no more
            assert_eq!(sniffer.dropped().unwrap(), 0, "the receiver, not the sender, lost frames");
            frames
        });
        let counters = run(open, sink, options, &AtomicBool::new(false), |_| {}).unwrap();
        (counters, sniffing.join().unwrap())
    })
}

/// Compares with a message of one line; 100,000 frames in a failed `assert_eq!` would be a gigabyte.
fn assert_same(seen: &[Vec<u8>], sent: impl ExactSizeIterator<Item = Vec<u8>>) {
    assert_eq!(seen.len(), sent.len(), "frames seen and sent");
    for (i, (seen, sent)) in seen.iter().zip(sent).enumerate() {
        assert!(*seen == sent, "frame {i} arrived as {seen:02x?}, was sent as {sent:02x?}");
    }
}

const MANY: usize = 100_000;

#[test]
fn a_packet_socket_sees_100_000_packets_byte_for_byte_in_order_at_top_speed() {
    let Some(ns) = namespace() else { return };
    ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        let source = made(MANY, |i| packet(i, 0));
        let (counters, frames) = replay_and_sniff(&mut sink, source, &at(Pace::TopSpeed), MANY);
        assert_same(&frames, (0..MANY).map(|i| packet(i, 0).data));
        assert_eq!((counters.sent, counters.refused, counters.late), (MANY as u64, 0, 0));
        assert_eq!((counters.device_rx_packets, counters.device_rx_dropped), (Some(MANY as u64), Some(0)));
        assert_eq!(counters.bytes, (0..MANY).map(|i| packet(i, 0).data.len() as u64).sum::<u64>());
    });
}

#[test]
fn a_packet_socket_sees_100_000_packets_byte_for_byte_in_order_paced_by_the_capture() {
    let Some(ns) = namespace() else { return };
    ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        // 40 µs apart, at twice the speed: 2 s, less the last gap.
        let source = made(MANY, |i| packet(i, 40_000));
        let options = at(Pace::Capture { multiplier: 2.0 });
        let (counters, frames) = replay_and_sniff(&mut sink, source, &options, MANY);
        assert_same(&frames, (0..MANY).map(|i| packet(i, 0).data));
        assert_eq!((counters.sent, counters.device_rx_packets), (MANY as u64, Some(MANY as u64)));
        assert!(counters.duration_s >= 1.99998, "{}", counters.duration_s);
        assert_eq!(counters.ended, Ended::Source);
    });
}

#[test]
fn rates_are_never_exceeded_and_passes_follow_each_other() {
    let Some(ns) = namespace() else { return };
    ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        // 2 passes of 500 at 5000 a second; then 1000 packets of 1000 bytes at 40 Mbit/s: both last 0.2 s.
        let options = ReplayOptions { loops: 2, ..at(Pace::PacketsPerSecond(5000.0)) };
        let (counters, frames) = replay_and_sniff(&mut sink, made(500, |i| packet(i, 0)), &options, 1000);
        assert_same(&frames, (0..1000).map(|i| packet(i % 500, 0).data));
        assert!(counters.duration_s >= 0.1998, "{}", counters.duration_s);
        assert_eq!((counters.sent, counters.loops), (1000, 2));
        drop(sink); // it was created for this run, so it is gone now

        let mut sink = TapSink::open(&tap()).unwrap();
        let thousand = |i: usize| ethernet(0, [&packet(i, 0).data[..14], &[i as u8; 986]].concat());
        let options = at(Pace::MegabitsPerSecond(40.0));
        let (counters, frames) = replay_and_sniff(&mut sink, made(1000, thousand), &options, 1000);
        assert_same(&frames, (0..1000).map(|i| thousand(i).data));
        assert!(counters.duration_s >= 0.1998 && counters.mbps <= 40.1, "{counters}");
    });
}

#[test]
fn a_holder_that_is_about_to_let_go_is_waited_for() {
    let Some(ns) = namespace() else { return };
    ns.run(|| {
        let sink = TapSink::open(&tap()).unwrap();
        // A copy of its descriptor, as a process that is being started has for a moment.
        let copy = sink.reader().unwrap();
        drop(sink);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(60));
                drop(copy);
            });
            TapSink::open(&tap()).unwrap();
        });
    });
}

#[test]
fn vlan_tags_arrive_as_they_were_sent() {
    let Some(ns) = namespace() else { return };
    ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        // One tag, and two: 1500 bytes of payload still fit.
        let tagged = |i: usize| {
            let tags: &[u8] = if i == 0 { &[0x81, 0, 0x20, 5] } else { &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8] };
            ethernet(0, [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], tags, &[0x88, 0xb5], &[0xab; 1500]].concat())
        };
        let (counters, frames) = replay_and_sniff(&mut sink, made(2, tagged), &at(Pace::TopSpeed), 2);
        assert_same(&frames, (0..2).map(|i| tagged(i).data));
        assert_eq!((counters.sent, counters.refused), (2, 0));
    });
}

#[test]
fn what_cannot_go_out_is_refused_by_reason_and_the_rest_arrives() {
    let Some(ns) = namespace() else { return };
    let make = |i: usize| {
        let mut packet = packet(i, 0);
        match i {
            1 => packet = ethernet(0, vec![0x02; 1515]),
            2 => packet = ethernet(0, vec![0x02; 13]),
            3 => packet.linktype = LinkType(105), // 802.11 with no IP in it
            4 => packet.len = packet.data.len() as u32 + 10,
            5 => packet.len = u32::MAX,
            _ => {}
        }
        packet
    };
    ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        let (counters, frames) = replay_and_sniff(&mut sink, made(7, make), &at(Pace::TopSpeed), 3);
        let padded = [make(4).data, vec![0; 10]].concat();
        assert_same(&frames, [make(0).data, padded, make(6).data].into_iter());
        assert_eq!((counters.sent, counters.refused, counters.padded), (3, 4, 1));
        let reasons: Vec<_> = counters.refused_by.into_iter().collect();
        assert_eq!(reasons, [(REFUSED_TOO_LONG, 2), (REFUSED_NOT_ETHERNET, 1), (REFUSED_TOO_SHORT, 1)]);
        assert_eq!(counters.device_rx_packets, Some(3));
        drop(sink);

        // With a larger MTU the long one goes, and truncated ones can be left out.
        let options = TapOptions { mtu: Some(9000), truncated: Truncated::Skip, ..tap() };
        let mut sink = TapSink::open(&options).unwrap();
        let (counters, frames) = replay_and_sniff(&mut sink, made(7, make), &at(Pace::TopSpeed), 3);
        assert_same(&frames, [0, 1, 6].map(|i| make(i).data).into_iter());
        assert_eq!(counters.refused_by[REFUSED_TRUNCATED], 2);
    });
}

#[test]
fn raw_ip_arrives_with_an_ethernet_header() {
    let Some(ns) = namespace() else { return };
    // IPv4, 20 bytes, protocol 253 (for experiments, RFC 3692), 192.0.2.1 to 192.0.2.2 (RFC 5737).
    let ip = [0x45, 0, 0, 20, 0, 1, 0, 0, 64, 253, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    let raw = move |_| Packet { ts: Timestamp(0), linktype: LinkType::RAW, len: 20, data: ip.to_vec() };
    ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        let (counters, frames) = replay_and_sniff(&mut sink, made(1, raw), &at(Pace::TopSpeed), 1);
        assert_eq!((counters.sent, counters.reframed), (1, 1));
        assert_eq!((&frames[0][12..14], &frames[0][14..]), (&[0x08, 0x00][..], &ip[..]));
    });
}

#[test]
fn a_real_capture_arrives_byte_for_byte() {
    let Some(ns) = namespace() else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traffic/web/ntop-443-firefox.pcap");
    if !file.exists() {
        eprintln!("skipped: no {}", file.display());
        return;
    }
    let again = file.clone();
    let open =
        move || -> Result<Box<dyn PacketSource + Send>, SourceError> { Ok(Box::new(SavefileSource::open(&again)?)) };
    let mut frames = Vec::new();
    let mut source = open().unwrap();
    while let Next::Packet(packet) = source.next_packet().unwrap() {
        assert!(packet.linktype == LinkType::ETHERNET && !packet.is_truncated());
        frames.push(packet.data);
    }
    assert!(!frames.is_empty());
    ns.run(|| {
        let mut sink = TapSink::open(&TapOptions { mtu: Some(MTU_MAX), ..tap() }).unwrap();
        let options = at(Pace::Capture { multiplier: 1000.0 });
        let (counters, seen) = replay_and_sniff(&mut sink, open, &options, frames.len());
        assert_eq!((counters.sent, counters.refused), (frames.len() as u64, 0));
        assert_same(&seen, frames.into_iter());
    });
}

#[test]
fn a_new_tap_sends_nothing_of_its_own() {
    let Some(ns) = namespace() else { return };
    ns.run(|| {
        let sink = TapSink::open(&tap()).unwrap();
        assert!(sink.created() && sink.ipv6_quiet());
        // Left to itself, the kernel sends multicast reports and a router solicitation within a second.
        let mut sniffer = Sniffer::open_both_ways(TAP).unwrap();
        assert_eq!(sniffer.next(Duration::from_millis(1500)).unwrap(), None);
    });
}

#[test]
fn a_tap_stays_or_goes_as_asked() {
    let Some(ns) = namespace() else { return };
    ns.run(|| drop(TapSink::open(&tap()).unwrap()));
    assert!(ns.ip(&["link", "show", TAP]).is_err(), "it should have gone with its sink");
    ns.run(|| drop(TapSink::open(&TapOptions { persist: true, ..tap() }).unwrap()));
    ns.ip(&["link", "show", TAP]).expect("it should have stayed");
    // One that existed is taken as it is, brought up, and stays.
    ns.ip(&["link", "set", TAP, "down", "mtu", "2000"]).unwrap();
    ns.run(|| {
        let sink = TapSink::open(&tap()).unwrap();
        assert_eq!((sink.created(), sink.mtu()), (false, 2000));
    });
    ns.ip(&["link", "show", TAP]).expect("it is not ours to remove");
}

#[test]
fn a_tap_that_cannot_be_used_is_an_error_with_the_fix_in_it() {
    let Some(ns) = namespace() else { return };
    ns.ip(&["link", "add", "wmveth0", "type", "veth", "peer", "name", "wmveth1"]).unwrap();
    ns.ip(&["tuntap", "add", "dev", "wmtun0", "mode", "tun"]).unwrap();
    ns.ip(&["tuntap", "add", "dev", "wmmq0", "mode", "tap", "multi_queue"]).unwrap();
    ns.run(|| {
        let fails = |name: &str| TapSink::open(&TapOptions { name: name.into(), ..tap() }).unwrap_err().to_string();
        assert!(fails("wmveth0").contains("is of kind veth, not a tap"), "{}", fails("wmveth0"));
        assert!(fails("wmtun0").contains("is a tun"), "{}", fails("wmtun0"));
        let _held = TapSink::open(&tap()).unwrap();
        assert!(fails(TAP).contains("held by another process"), "{}", fails(TAP));
        // With several queues, it has room for two.
        let multi = TapOptions { name: "wmmq0".into(), ..tap() };
        let _one = TapSink::open(&multi).unwrap();
        let _two = TapSink::open(&multi).unwrap();
    });
}

/// Replays endlessly while `meddle` runs, and returns the error that ends it.
fn fails_during(ns: &Namespace, meddle: impl FnOnce() + Send) -> ReplayError {
    let (started, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            wait.recv().unwrap();
            meddle();
        });
        ns.run(move || {
            let mut sink = TapSink::open(&tap()).unwrap();
            let every = Duration::from_millis(20);
            let options = ReplayOptions { loops: 0, report_every: every, ..at(Pace::PacketsPerSecond(20_000.0)) };
            // The first report says that packets flow; further ones find nobody listening.
            let report = |_: &ReplayCounters| {
                let _ = started.send(());
            };
            run(made(1000, |i| packet(i, 0)), &mut sink, &options, &AtomicBool::new(false), report).unwrap_err()
        })
    })
}

/// The error and its causes, as the edge prints them.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn a_tap_deleted_under_way_is_a_clear_error_with_honest_counters() {
    let Some(ns) = namespace() else { return };
    let error = fails_during(&ns, || ns.ip(&["link", "delete", TAP]).unwrap());
    assert!(chain(&error).ends_with("wmtap0 is gone: it was deleted while it was in use"), "{}", chain(&error));
    let counters = error.counters().unwrap();
    assert!(counters.sent > 0);
    assert_eq!((counters.device_rx_packets, counters.ended), (None, Ended::Failed));
}

#[test]
fn a_tap_taken_down_under_way_is_a_clear_error_with_honest_counters() {
    let Some(ns) = namespace() else { return };
    let error = fails_during(&ns, || ns.ip(&["link", "set", TAP, "down"]).unwrap());
    assert!(chain(&error).contains("wmtap0 is down: `ip link set wmtap0 up`"), "{}", chain(&error));
    let counters = error.counters().unwrap();
    assert!(counters.sent > 0);
    assert_eq!((counters.device_rx_packets, counters.ended), (Some(counters.sent), Ended::Failed));
}

/// The promise is 100 ms. The bound is ten times that, because the machine is shared; the gap is an hour.
#[test]
fn a_stop_in_the_middle_of_a_gap_is_prompt() {
    let Some(ns) = namespace() else { return };
    let stop = AtomicBool::new(false);
    let (counters, took) = ns.run(|| {
        let mut sink = TapSink::open(&tap()).unwrap();
        std::thread::scope(|scope| {
            let raised = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(150));
                stop.store(true, Ordering::Relaxed);
                Instant::now()
            });
            let hour = 3_600_000_000_000;
            let options = ReplayOptions { gap_max: Duration::MAX, ..ReplayOptions::default() };
            let counters = run(made(2, move |i| packet(i, hour)), &mut sink, &options, &stop, |_| {}).unwrap();
            let ended = Instant::now();
            (counters, ended - raised.join().unwrap())
        })
    });
    assert_eq!((counters.sent, counters.device_rx_packets, counters.ended), (1, Some(1), Ended::Stopped));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Not a promise but a figure: `cargo test --release -p wiremamba-tests --test replay_tap -- --ignored --nocapture`.
#[test]
#[ignore = "prints speeds; takes seconds"]
fn top_speed_by_size() {
    let Some(ns) = namespace() else { return };
    for len in [64, 512, 1500] {
        ns.run(|| {
            let mut sink = TapSink::open(&tap()).unwrap();
            let frame = packet(0, 0).data[..14].iter().copied().chain(std::iter::repeat(0x5a)).take(len).collect();
            let frame = ethernet(0, frame);
            let source = made(1_000_000, move |_| frame.clone());
            let counters = run(source, &mut sink, &at(Pace::TopSpeed), &AtomicBool::new(false), |_| {}).unwrap();
            eprintln!("{len} B: {counters}");
        });
    }
}
