//! Group 4, memory: how much of the training traffic comes out again.
//!
//! The training captures go through first ([`Training`]); then each packet of both sides is looked up in them. The real
//! side, which the generator has not seen either, says how much of that is what traffic has in common anyway.

mod print;
mod substrings;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;
use wiremamba_model::packet::LinkType;
use wiremamba_model::wire::names::{self, Carrier};

use crate::view::View;
use print::{Print, PrintBits, mask};
use substrings::{Index, Payloads};

/// Shortest name: shorter ones are drawn alike by chance.
const NAME_MIN: usize = 4;
/// Shortest payload that counts as identical.
const PAYLOAD_MIN: usize = 32;
/// Distinct prints of training packets among which the nearest is looked for.
const CANDIDATES_MAX: usize = 100_000;
/// Packets of a side whose nearest print is looked for.
const QUERIES_MAX: usize = 2_000;
/// Payload bytes of a side that are searched for pieces of training payload, and of training payload that are indexed:
/// beyond it payloads are drawn.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// Distinct addresses, MACs and names that are remembered.
const IDENTIFIERS_MAX: usize = 1 << 20;

/// The share of payloads that is searched, of captures with so many bytes.
fn share(captured_bytes: u64) -> f64 {
    (PAYLOAD_BYTES_MAX as f64 / captured_bytes.max(1) as f64).min(1.0)
}

/// Whether a payload is among the share that is drawn: the same ones in every run.
fn is_drawn(payload: &[u8], share: f64) -> bool {
    share >= 1.0 || (hash(payload) >> 11) as f64 / (1_u64 << 53) as f64 <= share
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The `max` values with the smallest keys, of any number: a sample that does not depend on the order of what comes.
#[derive(Debug, Clone)]
struct Smallest<T> {
    max: usize,
    kept: Vec<(u64, T)>,
}

impl<T: Ord + Copy> Smallest<T> {
    fn new(max: usize) -> Self {
        Self { max, kept: Vec::new() }
    }

    fn add(&mut self, key: u64, value: T) {
        self.kept.push((key, value));
        if self.kept.len() >= 2 * self.max {
            self.shrink();
        }
    }

    fn merge(&mut self, other: &Self) {
        self.kept.extend_from_slice(&other.kept);
        self.shrink();
    }

    fn shrink(&mut self) {
        self.kept.sort_unstable();
        self.kept.dedup();
        self.kept.truncate(self.max);
    }

    fn values(mut self) -> Vec<T> {
        self.shrink();
        self.kept.into_iter().map(|(_, value)| value).collect()
    }
}

/// Hashes of what is compared byte by byte, in this order: frame, IP packet, masked IP packet, payload.
struct Hashes([Option<u64>; 4]);

impl Hashes {
    fn of(view: &View<'_>) -> Self {
        let is_ip = !view.ip.is_empty();
        let masked = is_ip.then(|| {
            let mut bytes = view.ip.to_vec();
            mask(view, &mut bytes);
            hash(&bytes)
        });
        let payload = (view.payload.len() >= PAYLOAD_MIN).then(|| hash(view.payload));
        Self([Some(hash(&view.packet.data)), is_ip.then(|| hash(view.ip)), masked, payload])
    }
}

/// Addresses, MACs and names of a packet. Those that belong to nobody (broadcast, multicast, unspecified, loopback) are
/// left out.
fn identifiers(view: &View<'_>, mut each: impl FnMut(Identifier)) {
    if let Some(tuple) = view.tuple {
        for address in [tuple.orig, tuple.resp] {
            let is_nobodys = address.is_multicast()
                || address.is_unspecified()
                || address.is_loopback()
                || matches!(address, IpAddr::V4(a) if a.is_broadcast());
            if !is_nobodys {
                each(Identifier::Address(address));
            }
        }
    }
    if view.packet.linktype == LinkType::ETHERNET
        && let Some(macs) = view.packet.data.first_chunk::<12>()
    {
        for mac in [&macs[..6], &macs[6..]] {
            let mac: [u8; 6] = mac.try_into().expect("half of twelve");
            if mac[0] & 1 == 0 && mac != [0; 6] {
                each(Identifier::Mac(mac));
            }
        }
    }
    if !view.payload.is_empty() {
        let (from, to) = view.tuple.map_or((0, 0), |t| (t.orig_port, t.resp_port));
        let carrier = if view.tcp().is_some() { Carrier::Tcp(from, to) } else { Carrier::Udp(from, to) };
        let found = names::find(view.payload, carrier, &[]).spans.into_iter();
        found.filter(|span| span.name.len() >= NAME_MIN).for_each(|span| each(Identifier::Name(span.name)));
    }
}

/// What says who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Identifier {
    Address(IpAddr),
    Mac([u8; 6]),
    Name(Vec<u8>),
}

/// The accumulator of the training captures.
#[derive(Debug, Clone)]
pub struct Training {
    share: f64,
    hashes: [HashSet<u64>; 4],
    prints: Smallest<Print>,
    payloads: Payloads,
    identifiers: HashSet<Identifier>,
}

impl Training {
    /// For captures with so many bytes.
    pub fn new(captured_bytes: u64) -> Self {
        Self {
            share: share(captured_bytes),
            hashes: Default::default(),
            prints: Smallest::new(CANDIDATES_MAX),
            payloads: Payloads::default(),
            identifiers: HashSet::new(),
        }
    }

    /// A packet of the training captures.
    pub fn packet(&mut self, view: &View<'_>) {
        for (set, hash) in self.hashes.iter_mut().zip(Hashes::of(view).0) {
            set.extend(hash);
        }
        if let Some(print) = Print::of(view) {
            self.prints.add(hash(print), print);
        }
        if view.payload.len() >= substrings::PIECE_MIN && is_drawn(view.payload, self.share) {
            self.payloads.add(view.payload);
        }
        identifiers(view, |identifier| {
            if self.identifiers.len() < IDENTIFIERS_MAX {
                self.identifiers.insert(identifier);
            }
        });
    }

    /// Takes in another of the same captures.
    pub fn merge(&mut self, other: Self) {
        self.hashes.iter_mut().zip(other.hashes).for_each(|(a, b)| a.extend(b));
        self.prints.merge(&other.prints);
        self.payloads.merge(&other.payloads);
        self.identifiers.extend(other.identifiers);
    }

    /// Ready to be searched.
    pub fn index(self) -> Trained {
        let Self { hashes, prints, payloads, identifiers, .. } = self;
        Trained { hashes, prints: prints.values(), payloads: Index::new(payloads), identifiers }
    }
}

/// The training captures, to be searched.
#[derive(Debug)]
pub struct Trained {
    hashes: [HashSet<u64>; 4],
    prints: Vec<Print>,
    payloads: Index,
    identifiers: HashSet<Identifier>,
}

/// The accumulator of one side.
#[derive(Debug, Clone)]
pub struct Side {
    trained: Option<Arc<Trained>>,
    share: f64,
    bits: PrintBits,
    queries: Smallest<Print>,
    /// How many of each kind there were, and how many of them training has.
    seen: [u64; 4],
    known: [u64; 4],
    payload_bytes: u64,
    covered_bytes: u64,
    longest: usize,
    packets_with_known_address: u64,
    found: HashSet<Identifier>,
}

impl Side {
    /// A side of captures with so many bytes, beside the training captures where there are any.
    pub fn new(trained: Option<Arc<Trained>>, captured_bytes: u64) -> Self {
        Self {
            trained,
            share: share(captured_bytes),
            bits: PrintBits::default(),
            queries: Smallest::new(QUERIES_MAX),
            seen: [0; 4],
            known: [0; 4],
            payload_bytes: 0,
            covered_bytes: 0,
            longest: 0,
            packets_with_known_address: 0,
            found: HashSet::new(),
        }
    }

    /// A packet, with a number that no other of its side has.
    pub fn packet(&mut self, number: (usize, usize), view: &View<'_>) {
        let print = Print::of(view);
        if let Some(print) = &print {
            self.bits.add(print);
        }
        let Some(trained) = &self.trained else { return };
        if let Some(print) = print {
            self.queries.add(hash(number), print);
        }
        for (i, hash) in Hashes::of(view).0.into_iter().enumerate() {
            let Some(hash) = hash else { continue };
            self.seen[i] += 1;
            self.known[i] += u64::from(trained.hashes[i].contains(&hash));
        }
        if is_drawn(view.payload, self.share) {
            let (covered, longest) = trained.payloads.covered(view.payload);
            self.payload_bytes += view.payload.len() as u64;
            self.covered_bytes += covered as u64;
            self.longest = self.longest.max(longest);
        }
        let mut has_known_address = false;
        identifiers(view, |identifier| {
            if trained.identifiers.contains(&identifier) {
                has_known_address |= matches!(identifier, Identifier::Address(_));
                self.found.insert(identifier);
            }
        });
        self.packets_with_known_address += u64::from(has_known_address);
    }

    /// Takes in another of the same side.
    pub fn merge(&mut self, other: Self) {
        self.bits.merge(&other.bits);
        self.queries.merge(&other.queries);
        let counts = self.seen.iter_mut().chain(&mut self.known);
        counts.zip(other.seen.iter().chain(&other.known)).for_each(|(a, b)| *a += b);
        self.payload_bytes += other.payload_bytes;
        self.covered_bytes += other.covered_bytes;
        self.longest = self.longest.max(other.longest);
        self.packets_with_known_address += other.packets_with_known_address;
        self.found.extend(other.found);
    }

    fn recalled(self, trained: &Trained) -> Recalled {
        let pct = |n: u64, of: u64| (of > 0).then(|| 100.0 * n as f64 / of as f64);
        let of = |i: usize| pct(self.known[i], self.seen[i]);
        let count = |keep: fn(&Identifier) -> bool| self.found.iter().filter(|i| keep(i)).count() as u64;
        Recalled {
            identical_frames_pct: of(0),
            identical_ip_packets_pct: of(1),
            identical_masked_pct: of(2),
            identical_payloads_pct: of(3),
            payloads: self.seen[3],
            payload_in_pieces_pct: pct(self.covered_bytes, self.payload_bytes),
            longest_piece: self.longest as u64,
            addresses: count(|i| matches!(i, Identifier::Address(_))),
            packets_with_address_pct: pct(self.packets_with_known_address, self.seen[0]),
            macs: count(|i| matches!(i, Identifier::Mac(_))),
            names: count(|i| matches!(i, Identifier::Name(_))),
            neighbour_bits: nearest(&self.queries.values(), &trained.prints),
        }
    }
}

/// Mean distance to the nearest candidate.
fn nearest(queries: &[Print], candidates: &[Print]) -> Option<f64> {
    let distances = queries.par_iter().filter_map(|q| candidates.iter().map(|c| q.distance(c)).min());
    let (sum, n) = distances.map(|d| (u64::from(d), 1_u64)).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    (n > 0).then(|| sum as f64 / n as f64)
}

/// How much of the training captures one side has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recalled {
    /// Frames that are, byte by byte, in the training captures.
    pub identical_frames_pct: Option<f64>,
    /// IP packets that are.
    pub identical_ip_packets_pct: Option<f64>,
    /// IP packets that are, but for addresses, ports, identification, numbers and checksums.
    pub identical_masked_pct: Option<f64>,
    /// Payloads of 32 bytes or more that are.
    pub identical_payloads_pct: Option<f64>,
    /// Payloads of 32 bytes or more.
    pub payloads: u64,
    /// Payload bytes inside pieces of 16 bytes or more that are in training payload.
    pub payload_in_pieces_pct: Option<f64>,
    /// The longest such piece in bytes.
    pub longest_piece: u64,
    /// Distinct training addresses that appear.
    pub addresses: u64,
    /// Packets with one of them.
    pub packets_with_address_pct: Option<f64>,
    /// Distinct training MACs that appear.
    pub macs: u64,
    /// Distinct training names (DNS, SNI, Host) that appear.
    pub names: u64,
    /// Mean number of bits in which the first 96 bytes differ from the nearest training packet, identity masked.
    pub neighbour_bits: Option<f64>,
}

/// What comes out of group 4.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryReport {
    /// Mean distance between synthetic packets over that between real ones: first 96 bytes, identity masked. 1 is as
    /// diverse as real traffic.
    pub diversity_ratio: Option<f64>,
    /// `neighbour_bits` of the synthetic over that of the real side: 1 is as new as unseen real traffic, 0 a copy.
    pub neighbour_ratio: Option<f64>,
    /// The synthetic side beside the training captures; `None` where none were given.
    pub synthetic: Option<Recalled>,
    /// The real side beside them: what traffic has in common anyway.
    pub real: Option<Recalled>,
}

/// Compares the two sides.
pub fn report(real: Side, synthetic: Side) -> MemoryReport {
    let distances = synthetic.bits.mean_distance().zip(real.bits.mean_distance());
    let trained = synthetic.trained.clone();
    let [real, synthetic] = [real, synthetic].map(|side| trained.as_deref().map(|trained| side.recalled(trained)));
    let neighbours = |side: &Option<Recalled>| side.as_ref().and_then(|r| r.neighbour_bits);
    MemoryReport {
        diversity_ratio: distances.map(|(synthetic, real)| synthetic / real),
        neighbour_ratio: neighbours(&synthetic).zip(neighbours(&real)).map(|(s, r)| s / r),
        synthetic,
        real,
    }
}
