//! A device under test between two taps: what went in on one side and came out on the other.
//!
//! Every packet sent is expected on the other side, and recognised there by what a router or a NAT leaves as it is: protocol,
//! TCP's numbers and flags, payload. Addresses, ports, MACs and TTL may differ, and are told.

mod arp;
mod page;
mod report;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wiremamba_model::flow::{Direction, FiveTuple, dissect};
use wiremamba_model::packet::{LinkType, Packet};

use crate::sink::InterfaceAddress;
use crate::source::Tagged;
use crate::sys::precedence::come_second;
use arp::Neighbours;
use report::Counts;

pub use report::{DeviceReport, DirectionReport, Latency, ThroughDevice};

/// Packets that are expected at a time; more are not watched, and counted.
const EXPECTED_MAX: usize = 1 << 20;
/// A packet that has not come out after this long is lost (RFC 2680 asks for a threshold to be named).
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Bytes of a payload's beginning, and of its end, that tell it from others.
const TELLING: usize = 256;
/// Longest frame that is read.
const FRAME_MAX: usize = 65_536 + 22;
/// Longest sleep before the end is looked for.
const LOOK_MS: u16 = 20;

/// How the device is addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// Frames are sent as they are: the device is a bridge, or listens to all of them.
    AsTheyAre,
    /// The device routes, client side and server side: frames go to its MACs, hosts on its networks make themselves known before their first packet, and its
    /// questions by ARP are answered for every address.
    Routed(Box<[RouterSide; 2]>),
}

/// One interface of a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSide {
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its IPv4 addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// Watches both sides of a device until it is finished.
pub struct DeviceWatch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Where the device routes: its sides, clients' and servers', and the taps to write to.
    router: Option<[(Neighbours, File); 2]>,
    macs: Option<[[u8; 6]; 2]>,
    labels: Vec<String>,
}

struct Shared {
    table: Mutex<Table>,
    is_over: AtomicBool,
    origin: Instant,
}

/// What is expected, and what came.
#[derive(Default)]
struct Table {
    expected: HashMap<u64, VecDeque<Expected>>,
    outstanding: usize,
    /// Numbers given to packets, by the direction that they go.
    next: [u64; 2],
    newest_seen: [Option<u64>; 2],
    counts: HashMap<(Option<u16>, usize), Counts>,
    unwatched: u64,
    unexpected: u64,
    arp_answers: u64,
    arp_questions: u64,
}

struct Expected {
    at_ns: u64,
    number: u64,
    way: usize,
    label: Option<u16>,
    tuple: FiveTuple,
}

/// The way that a packet goes: 0 to the server, 1 to the client.
fn way(direction: Direction) -> usize {
    usize::from(direction == Direction::Resp)
}

/// A packet that was announced, to be taken back where it was not sent.
pub(super) struct Announced {
    key: u64,
    number: u64,
}

impl DeviceWatch {
    /// Watches what comes out of the device on `client` and on `server`, which are the taps' own files.
    ///
    /// # Errors
    /// No threads, or no more descriptors.
    pub fn start(client: File, server: File, addressing: Addressing, labels: Vec<String>) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { table: Mutex::default(), is_over: AtomicBool::new(false), origin: Instant::now() });
        let answers = matches!(addressing, Addressing::Routed(_));
        let (router, macs) = match addressing {
            Addressing::AsTheyAre => (None, None),
            Addressing::Routed(sides) => {
                let macs = [sides[0].mac, sides[1].mac];
                let [one, other] = sides.map(|side| Neighbours::new(side.mac, side.addresses));
                (Some([(one, client.try_clone()?), (other, server.try_clone()?)]), Some(macs))
            }
        };
        let mut threads = Vec::new();
        // What comes out on the server's side was going to the server.
        for (tap, way, name) in [(server, 0, "to-server"), (client, 1, "to-client")] {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            threads.push(thread.spawn(move || shared.listen(tap, way, answers))?);
        }
        Ok(Self { shared, threads, router, macs, labels })
    }

    /// The MAC that frames going `direction` are sent to; `None` to leave them as they are.
    pub(super) fn mac(&self, direction: Direction) -> Option<[u8; 6]> {
        self.macs.map(|macs| macs[way(direction)])
    }

    /// Lets both ends of a packet make themselves known to a router, where they have not yet.
    pub(super) fn introduce(&mut self, packet: &Packet, direction: Direction) {
        let Some(sides) = &mut self.router else { return };
        let Some(ends) = arp::ends(&packet.data).filter(|_| packet.linktype == LinkType::ETHERNET) else { return };
        let from = way(direction);
        for (end, side) in ends.into_iter().zip([from, 1 - from]) {
            let (neighbours, tap) = &mut sides[side];
            if let Some(question) = neighbours.introduce(end) {
                // A question that is lost is asked by the router.
                self.shared.lock().arp_questions += u64::from(tap.write(&question).is_ok());
            }
        }
    }

    /// Expects a packet that is about to be sent; `None` for one that cannot be recognised.
    pub(super) fn announce(&self, tagged: &Tagged, direction: Direction) -> Option<Announced> {
        let found = key(tagged.packet.linktype, &tagged.packet.data);
        let (at_ns, way, label) = (self.shared.now(), way(direction), tagged.tag.label.map(|label| label.0));
        let mut table = self.shared.lock();
        let Some((key, tuple)) = found.filter(|_| table.outstanding < EXPECTED_MAX) else {
            table.unwatched += 1;
            return None;
        };
        let number = table.next[way];
        table.next[way] += 1;
        table.outstanding += 1;
        table.counts.entry((label, way)).or_default().sent += 1;
        table.expected.entry(key).or_default().push_back(Expected { at_ns, number, way, label, tuple });
        Some(Announced { key, number })
    }

    /// Expects it no more: it was refused.
    pub(super) fn take_back(&self, announced: &Announced) {
        let mut table = self.shared.lock();
        let Some(queue) = table.expected.get_mut(&announced.key) else { return };
        let Some(place) = queue.iter().position(|expected| expected.number == announced.number) else { return };
        let Some(expected) = queue.remove(place) else { return };
        table.outstanding -= 1;
        table.counts.entry((expected.label, expected.way)).or_default().sent -= 1;
    }

    /// What the device did so far.
    pub(super) fn so_far(&self) -> ThroughDevice {
        let mut table = self.shared.lock();
        table.give_up(self.shared.now());
        ThroughDevice::new(table.counts.values(), table.outstanding)
    }

    /// Waits for what is under way, and reports.
    pub(super) fn finish(&mut self) -> DeviceReport {
        let begun = Instant::now();
        while begun.elapsed() < LOST_AFTER && self.shared.lock().outstanding > 0 {
            std::thread::sleep(Duration::from_millis(u64::from(LOOK_MS)));
        }
        self.stop();
        let mut table = self.shared.lock();
        for expected in std::mem::take(&mut table.expected).into_values().flatten() {
            table.counts.entry((expected.label, expected.way)).or_default().lost += 1;
        }
        table.outstanding = 0;
        let Table { unwatched, unexpected, arp_answers, arp_questions, .. } = *table;
        DeviceReport {
            unwatched,
            unexpected,
            arp_answers,
            arp_questions,
            ..DeviceReport::new(&table.counts, &self.labels)
        }
    }

    fn stop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for DeviceWatch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what comes out of the device, until the end or until the tap is gone.
    fn listen(&self, mut tap: File, way: usize, answers: bool) {
        come_second();
        let mut frame = vec![0; FRAME_MAX];
        while !self.is_over.load(Relaxed) {
            let mut readable = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut readable, PollTimeout::from(LOOK_MS)), Ok(1..)) {
                self.lock().give_up(self.now());
                continue;
            }
            match tap.read(&mut frame) {
                Ok(len) => {
                    let now = self.now();
                    let frame = &frame[..len];
                    if let Some(answer) = arp::answer(frame).filter(|_| answers) {
                        // A device that does not get its answer asks again. The tap's own counters have it, the sink's not.
                        self.lock().arp_answers += u64::from(tap.write(&answer).is_ok());
                    } else if !(answers && arp::is_answer(frame)) {
                        self.lock().receive(frame, way, now);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // The interface went away, which the sender finds out as well.
                Err(_) => return,
            }
        }
    }
}

impl Table {
    fn receive(&mut self, frame: &[u8], way: usize, now: u64) {
        let Some((key, tuple)) = key(LinkType::ETHERNET, frame) else {
            self.unexpected += 1;
            return;
        };
        let expected = self.expected.get_mut(&key).and_then(|queue| {
            let place = queue.iter().position(|expected| expected.way == way)?;
            queue.remove(place)
        });
        if self.expected.get(&key).is_some_and(VecDeque::is_empty) {
            self.expected.remove(&key);
        }
        let Some(expected) = expected else {
            self.unexpected += 1;
            return;
        };
        self.outstanding -= 1;
        let newest = &mut self.newest_seen[way];
        let is_late = newest.is_some_and(|newest| expected.number < newest);
        *newest = (*newest).max(Some(expected.number));
        let counts = self.counts.entry((expected.label, way)).or_default();
        counts.receive(now.saturating_sub(expected.at_ns), is_late, expected.tuple, tuple);
    }

    /// Counts what is too old as lost.
    fn give_up(&mut self, now: u64) {
        let too_old = |expected: &Expected| now.saturating_sub(expected.at_ns) > LOST_AFTER.as_nanos() as u64;
        let Self { expected, outstanding, counts, .. } = self;
        // The queues are in the order of sending.
        expected.retain(|_, queue| {
            while queue.front().is_some_and(too_old)
                && let Some(lost) = queue.pop_front()
            {
                *outstanding -= 1;
                counts.entry((lost.label, lost.way)).or_default().lost += 1;
            }
            !queue.is_empty()
        });
    }
}

/// What a packet is recognised by, and its 5-tuple; `None` without IP.
fn key(linktype: LinkType, data: &[u8]) -> Option<(u64, FiveTuple)> {
    let dissected = dissect(linktype, data).ok()?;
    let mut hasher = DefaultHasher::new();
    dissected.tuple.protocol.hash(&mut hasher);
    if dissected.tcp_flags.is_some() {
        // Sequence and acknowledgement numbers, and flags.
        data.get(dissected.transport_offset + 4..dissected.transport_offset + 14)?.hash(&mut hasher);
    }
    let end = dissected.ip_end.min(data.len());
    let payload = data.get(dissected.payload_offset.min(end)..end)?;
    payload.len().hash(&mut hasher);
    payload[..payload.len().min(TELLING)].hash(&mut hasher);
    payload[payload.len().saturating_sub(TELLING)..].hash(&mut hasher);
    Some((hasher.finish(), dissected.tuple))
}
