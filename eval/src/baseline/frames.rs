//! The baselines that see frames and no flows: random bytes, shuffled packets, independent bits.

use std::borrow::Cow;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::to_ethernet;
use wiremamba_model::packet::{LinkType, Packet};

use super::timeline::ResampledTimes;
use super::{Counters, Generated, Options};

/// How far headers may reach: Ethernet, and the longest IPv4 and TCP headers (RFC 791, RFC 9293). An IPv6 header with a
/// TCP header ends before it.
const HEADER_BYTES: usize = 14 + 60 + 60;

/// Uniform bytes with the lengths and times of the real frames.
pub(super) fn random(real: &[&Packet], options: &Options, rng: &mut ChaCha8Rng) -> Option<Generated> {
    let n = options.packets.unwrap_or(usize::MAX).min(real.len());
    let lengths_and_times = real[..n].iter().map(|p| (p.data.len(), p.len, p.ts));
    made(n, lengths_and_times, options.bytes_max, |(caplen, len, ts)| {
        let mut data = vec![0; caplen];
        rng.fill_bytes(&mut data);
        Packet { ts, linktype: LinkType::ETHERNET, len, data }
    })
}

/// The real packets in random order over the real times. Where they are of several link types, all become Ethernet, and
/// those that cannot are left out.
pub(super) fn shuffle(real: &[&Packet], options: &Options, rng: &mut ChaCha8Rng) -> Option<Generated> {
    let one_linktype = real.windows(2).all(|pair| pair[0].linktype == pair[1].linktype);
    let usable: Vec<Cow<'_, Packet>> =
        if one_linktype { real.iter().map(|p| Cow::Borrowed(*p)).collect() } else { ethernet(real) };
    let n = options.packets.unwrap_or(usize::MAX).min(usable.len());
    // The first steps of Fisher and Yates's shuffle: n of the packets, in random order.
    let mut order: Vec<usize> = (0..usable.len()).collect();
    for i in 0..n {
        let j = rng.random_range(i..order.len());
        order.swap(i, j);
    }
    let places = order[..n].iter().zip(&usable);
    let mut made =
        made(n, places, options.bytes_max, |(packet, time)| Packet { ts: time.ts, ..Packet::clone(&usable[*packet]) })?;
    made.counters.packets_left_out = (real.len() - usable.len()) as u64;
    Some(made)
}

/// Frames of real lengths, in which each of the first [`HEADER_BYTES`] is drawn bit by bit from the frequencies at its
/// place, and the rest are uniform.
pub(super) fn independent_bits(real: &[&Packet], options: &Options, rng: &mut ChaCha8Rng) -> Option<Generated> {
    let usable = ethernet(real);
    if usable.is_empty() {
        return None;
    }
    let bits = BitFrequencies::of(usable.iter().map(|p| &p.data[..]));
    let mut times = ResampledTimes::new(options.start, usable.iter().map(|p| p.ts), rng);
    let n = options.packets.unwrap_or(usable.len());
    let mut made = made(n, 0..n, options.bytes_max, |_| {
        let like = &usable[rng.random_range(0..usable.len())];
        let mut data = vec![0; like.data.len()];
        let (header, rest) = data.split_at_mut(like.data.len().min(HEADER_BYTES));
        bits.draw(header, rng);
        rng.fill_bytes(rest);
        Packet { ts: times.next(rng), linktype: LinkType::ETHERNET, len: like.len, data }
    })?;
    made.counters.packets_left_out = (real.len() - usable.len()) as u64;
    Some(made)
}

/// How often each header bit is set, among the frames that reach it.
struct BitFrequencies {
    /// By byte and bit, the highest bit first: of 2^32 numbers, those below it mean 1.
    thresholds: Vec<[u64; 8]>,
}

impl BitFrequencies {
    fn of<'a>(frames: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut ones = vec![[0_u64; 8]; HEADER_BYTES];
        let mut frames_reaching = vec![0_u64; HEADER_BYTES];
        for frame in frames {
            for ((byte, ones), reaching) in frame.iter().zip(&mut ones).zip(&mut frames_reaching) {
                *reaching += 1;
                for (bit, ones) in ones.iter_mut().enumerate() {
                    *ones += u64::from(byte >> (7 - bit) & 1);
                }
            }
        }
        let threshold = |ones: u64, reaching: u64| ((u128::from(ones) << 32) / u128::from(reaching.max(1))) as u64;
        let thresholds =
            ones.iter().zip(&frames_reaching).map(|(ones, reaching)| ones.map(|n| threshold(n, *reaching)));
        Self { thresholds: thresholds.collect() }
    }

    fn draw(&self, header: &mut [u8], rng: &mut ChaCha8Rng) {
        for (byte, thresholds) in header.iter_mut().zip(&self.thresholds) {
            *byte = thresholds.iter().fold(0, |byte, t| byte << 1 | u8::from(u64::from(rng.next_u32()) < *t));
        }
    }
}

/// The packets as Ethernet frames, without those that cannot be.
fn ethernet<'a>(real: &[&'a Packet]) -> Vec<Cow<'a, Packet>> {
    let as_frame = |packet: &&'a Packet| match packet.linktype {
        LinkType::ETHERNET => Some(Cow::Borrowed(*packet)),
        _ => to_ethernet(packet).map(Cow::Owned),
    };
    real.iter().filter_map(as_frame).collect()
}

/// Up to `n` packets made of `items`, until they have `bytes_max` bytes. `None` where there is no item.
fn made<T>(
    n: usize,
    items: impl Iterator<Item = T>,
    bytes_max: u64,
    mut make: impl FnMut(T) -> Packet,
) -> Option<Generated> {
    let mut bytes = 0;
    let mut packets = Vec::new();
    for item in items {
        if bytes >= bytes_max {
            break;
        }
        let packet = make(item);
        bytes += packet.data.len() as u64;
        packets.push(packet);
    }
    let counters = Counters { bytes_max_reached: packets.len() < n, ..Counters::default() };
    (!packets.is_empty()).then_some(Generated { packets, counters })
}
