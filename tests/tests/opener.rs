//! Promise: the process that parses packets and trains may do nothing at all; an opener hands it the packet socket and the
//! tap, from another network namespace, and it captures what libpcap captures.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wiremamba_daemon::sink::PacketSink;
use wiremamba_daemon::sink::tap::{TapOptions, TapSink};
use wiremamba_daemon::source::interface::{InterfaceOptions, InterfaceSource};
use wiremamba_daemon::source::ring::{RingSource, open_socket};
use wiremamba_daemon::source::{LiveSource, Next, PacketSource, SourceError};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::netns::Namespace;
use wiremamba_tests::program;
use wiremamba_tests::service::{Service, TAP, configure, namespace, replay};
use wiremamba_tests::traffic;

/// What comes from a source until it is silent.
fn all(source: &mut dyn LiveSource) -> Vec<Packet> {
    let mut ret = Vec::new();
    let mut idle = 0;
    while idle < 3 {
        match source.next_packet().unwrap() {
            Next::Packet(packet) => ret.push(packet),
            Next::Idle | Next::End => idle += 1,
        }
    }
    ret
}

/// A namespace whose kernel sends nothing of its own.
fn quiet_namespace() -> Option<Namespace> {
    let namespace = namespace()?;
    let mut command = namespace.command("sh");
    command.args(["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    assert!(command.status().unwrap().success());
    Some(namespace)
}

/// Frames of every kind that matters: with one and two VLAN tags, long, ones that the filter refuses.
fn frames(dir: &Path) -> Vec<Packet> {
    traffic::write_two_labels(dir, 20);
    let mut packets = traffic::read(&dir.join("web/web.pcap"));
    packets.extend(traffic::read(&dir.join("dns/dns.pcap")));
    for i in (0..packets.len()).step_by(3) {
        let mut data = packets[i].data.clone();
        data.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        if i % 2 == 0 {
            data.splice(12..12, [0x88, 0xa8, 0x60, 0x09]);
        }
        packets.push(Packet { len: data.len() as u32, data, ..packets[i].clone() });
    }
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x06], &[0; 46]].concat();
    packets.push(Packet { ts: Timestamp(0), linktype: LinkType::ETHERNET, len: arp.len() as u32, data: arp });
    packets
}

#[test]
fn a_ring_that_was_handed_over_captures_what_libpcap_captures() {
    let Some(namespace) = quiet_namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let frames = frames(dir.path());
    for (filter, snaplen) in [("", 262_144), ("", 96), ("udp port 53 or arp", 262_144), ("not ip", 60)] {
        namespace.run(|| {
            let options = InterfaceOptions {
                name: TAP.to_owned(),
                filter: filter.to_owned(),
                snaplen,
                buffer_bytes: 4 << 20,
                promiscuous: true,
            };
            let mut plain = InterfaceSource::open(&options).unwrap();
            let (socket, about) = open_socket(&options).unwrap();
            let mut ring = RingSource::adopt(socket, about).unwrap();
            let mut tap = TapSink::open(&TapOptions { name: TAP.to_owned(), ..TapOptions::default() }).unwrap();
            for frame in &frames {
                tap.send(frame).unwrap();
            }
            assert_eq!(tap.finish().unwrap().packets, frames.len() as u64);
            let (expected, found) = (all(&mut plain), all(&mut ring));
            assert!(!expected.is_empty(), "{filter}: {}", expected.len());
            assert_eq!(found.len(), expected.len(), "{filter}");
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!((&found.data, found.len, found.linktype), (&expected.data, expected.len, expected.linktype));
                assert!(found.ts.nanos_since(expected.ts).abs() < 5_000_000);
            }
            let stats = ring.stats().unwrap();
            assert_eq!((stats.received, stats.dropped), (found.len() as u64, 0));
        });
    }
}

#[test]
fn a_ring_is_a_ring_and_an_interface_that_goes_down_is_an_error() {
    let Some(namespace) = quiet_namespace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let frames = frames(dir.path());
    let options = InterfaceOptions {
        name: TAP.to_owned(),
        filter: String::new(),
        snaplen: 262_144,
        buffer_bytes: 1 << 20,
        promiscuous: false,
    };
    namespace.run(|| {
        let (socket, about) = open_socket(&options).unwrap();
        let mut ring = RingSource::adopt(socket, about).unwrap();
        let mut tap = TapSink::open(&TapOptions { name: TAP.to_owned(), ..TapOptions::default() }).unwrap();
        // Many times round; each time all of it is read.
        for _ in 0..60 {
            frames.iter().for_each(|frame| tap.send(frame).unwrap());
            let mut read = 0;
            let started = Instant::now();
            while read < frames.len() && started.elapsed() < Duration::from_secs(5) {
                read += usize::from(matches!(ring.next_packet().unwrap(), Next::Packet(_)));
            }
            assert_eq!(read, frames.len());
        }
        // What nobody reads is dropped, and counted.
        for _ in 0..200 {
            frames.iter().for_each(|frame| tap.send(frame).unwrap());
        }
        let read = all(&mut ring).len() as u64;
        let stats = ring.stats().unwrap();
        assert!(stats.dropped > 0, "{stats:?}");
        assert_eq!(read + stats.dropped, frames.len() as u64 * 200);
    });
    let down = namespace.run(|| {
        let (socket, about) = open_socket(&options).unwrap();
        RingSource::adopt(socket, about).unwrap()
    });
    namespace.ip(&["link", "set", TAP, "down"]).unwrap();
    let mut ring = down;
    let lost = (0..10).find_map(|_| ring.next_packet().err()).expect("it is down");
    assert!(matches!(lost, SourceError::Interface { .. }) && format!("{lost:?}").contains("NetworkDown"), "{lost:?}");
    assert!(namespace.run(|| open_socket(&options).is_err()));
}

struct Opener(Child);

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `nobody` on Debian.
const NOBODY: u32 = 65534;

#[test]
fn a_service_without_any_capability_learns_and_replays() {
    let (Some(outer), Some(inner)) = (namespace(), Namespace::new().ok()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let socket = dir.join("opener.sock");
    let more = format!(
        "[opener]\nsocket = '{}'\n[replay]\ntap = 'wm-out1'\nflows_per_second = 20\nflow_packets_max = 20\n",
        socket.display()
    );
    let config = configure(dir, &more);
    let mut command = outer.command(program::path().to_str().unwrap());
    command.args(["open", "--config", &config]).stdin(Stdio::null());
    let _opener = Opener(command.spawn().unwrap());
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "no opener");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(dir.join("store")).unwrap();
    for path in [dir.to_owned(), dir.join("store"), socket.clone()] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // In a network namespace of its own it cannot even see the interface.
    let mut command = inner.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]);
    command.arg(program::path()).args(["run", "--config", &config, "--json"]);
    let mut service = Service::spawn(&mut command);
    service.until("it is up", |_| true);
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
    for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    replay(&outer, &dir.join("captures/web/web.pcap"), 2);
    let learned = service.until("it learned", |s| s["promoted"].as_u64().unwrap() >= 1);
    assert_eq!(learned["packets_dropped"], 0, "{learned}");
    service.until("it replays", |s| s["replay"]["sent"].as_u64().unwrap() > 50);
    let output = outer.command("ip").args(["-s", "-j", "link", "show", "dev", "wm-out1"]).output().unwrap();
    let arrived = program::json(&output.stdout)[0]["stats64"]["rx"]["packets"].as_u64().unwrap();
    assert!(arrived > 50, "{arrived}");

    // The interface goes and comes: the opener is asked again.
    outer.ip(&["link", "delete", TAP]).unwrap();
    let lost = service.until("the interface is lost", |s| s["interfaces_lost"].as_u64().unwrap() > 0);
    outer.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]).unwrap();
    outer.ip(&["link", "set", TAP, "up"]).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    replay(&outer, &dir.join("captures/web/web.pcap"), 1);
    service.until("packets come again", |s| s["packets"].as_u64() > lost["packets"].as_u64());
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());
}
