//! Pieces of training payload inside other payload: found for certain when they are 16 bytes long or longer.
//!
//! By winnowing (Schleimer, Wilkerson and Aiken, SIGMOD '03): of each 9 neighbouring 8-byte pieces the one with the
//! smallest hash is an anchor. A common piece of 16 bytes has such a window in it, whose anchor is the same on both
//! sides; from there the match is extended byte by byte.

/// Shortest piece that counts.
pub(super) const PIECE_MIN: usize = 16;
const GRAM: usize = 8;
const WINDOW: usize = PIECE_MIN - GRAM + 1;
/// Places of one anchor that are tried: bytes that are everywhere, zeros for one, match at any of them.
const PLACES_MAX: usize = 16;

/// Payloads, to be searched.
#[derive(Debug, Clone, Default)]
pub(super) struct Payloads {
    bytes: Vec<u8>,
    /// Where each payload ends.
    ends: Vec<u32>,
}

impl Payloads {
    /// Adds a payload, while places fit into 32 bits.
    pub(super) fn add(&mut self, payload: &[u8]) {
        if payload.len() < PIECE_MIN {
            return;
        }
        if let Ok(end) = u32::try_from(self.bytes.len() + payload.len()) {
            self.bytes.extend_from_slice(payload);
            self.ends.push(end);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let mut start = 0;
        for end in &other.ends {
            self.add(&other.bytes[start..*end as usize]);
            start = *end as usize;
        }
    }
}

/// Payloads with their anchors.
#[derive(Debug, Default)]
pub(super) struct Index {
    payloads: Payloads,
    /// Hash and place of each anchor, sorted.
    anchors: Vec<(u32, u32)>,
}

impl Index {
    pub(super) fn new(payloads: Payloads) -> Self {
        let mut anchors = Vec::new();
        let mut start = 0;
        for end in &payloads.ends {
            each_anchor(&payloads.bytes[start..*end as usize], |hash, at| anchors.push((hash, (start + at) as u32)));
            start = *end as usize;
        }
        anchors.sort_unstable();
        anchors.shrink_to_fit();
        Self { payloads, anchors }
    }

    /// Bytes of `payload` inside pieces of at least 16 bytes that an indexed payload has too, and the longest piece.
    pub(super) fn covered(&self, payload: &[u8]) -> (usize, usize) {
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        let mut widest = (0, 0);
        each_anchor(payload, |hash, at| {
            // A piece that begins before the one around this anchor has an anchor in its first 16 bytes, one that ends
            // behind it has one in its last 16: none is missed where neither can be the case.
            if widest.0 + GRAM <= at && at + PIECE_MIN <= widest.1 {
                return;
            }
            let from = self.anchors.partition_point(|(h, _)| *h < hash);
            let places = self.anchors[from..].iter().take_while(|(h, _)| *h == hash).take(PLACES_MAX);
            let found = places.map(|(_, place)| self.extend(payload, at, *place as usize));
            for piece in found.filter(|(from, to)| to - from >= PIECE_MIN) {
                widest = if piece.1 > widest.1 { piece } else { widest };
                pieces.push(piece);
            }
        });
        // One after another: pieces of several payloads may overlap.
        pieces.sort_unstable();
        let (mut covered, mut covered_end) = (0, 0);
        for (from, to) in &pieces {
            covered += to.saturating_sub(covered_end.max(*from));
            covered_end = covered_end.max(*to);
        }
        (covered, pieces.iter().map(|(from, to)| to - from).max().unwrap_or(0))
    }

    /// The common piece around byte `at` of the payload and byte `place` of the indexed ones; may be empty.
    fn extend(&self, payload: &[u8], at: usize, place: usize) -> (usize, usize) {
        let i = self.payloads.ends.partition_point(|end| *end as usize <= place);
        let start = if i == 0 { 0 } else { self.payloads.ends[i - 1] as usize };
        let known = &self.payloads.bytes[start..self.payloads.ends[i] as usize];
        let place = place - start;
        let same = |(a, b): &(&u8, &u8)| a == b;
        let before = payload[..at].iter().rev().zip(known[..place].iter().rev()).take_while(same).count();
        let after = payload[at..].iter().zip(&known[place..]).take_while(same).count();
        (at - before, at + after)
    }
}

/// Calls `f` with the hash and the place of each anchor.
fn each_anchor(payload: &[u8], mut f: impl FnMut(u32, usize)) {
    let hash = |at: usize| {
        let gram = u64::from_le_bytes(*payload[at..].first_chunk().expect("a whole gram is left"));
        (gram.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    };
    let grams = (payload.len() + 1).saturating_sub(GRAM);
    if grams < WINDOW {
        return;
    }
    let mut hashes = [0_u32; WINDOW];
    (0..WINDOW - 1).for_each(|at| hashes[at] = hash(at));
    let mut last = None;
    let mut smallest: (u32, usize) = (u32::MAX, 0);
    for end in WINDOW - 1..grams {
        let newest = hash(end);
        hashes[end % WINDOW] = newest;
        let begin = end + 1 - WINDOW;
        if last.is_none() || smallest.1 < begin {
            // The last of equals, so that a run of one byte has few anchors.
            smallest = (begin..=end)
                .map(|at| (hashes[at % WINDOW], at))
                .min_by_key(|(h, at)| (*h, usize::MAX - at))
                .expect("a window has grams");
        } else if newest <= smallest.0 {
            smallest = (newest, end);
        }
        if last != Some(smallest.1) {
            last = Some(smallest.1);
            f(smallest.0, smallest.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(payloads: &[&[u8]]) -> Index {
        let mut all = Payloads::default();
        payloads.iter().for_each(|p| all.add(p));
        Index::new(all)
    }

    #[test]
    fn pieces_do_not_go_on_from_one_payload_to_the_next() {
        let text: Vec<u8> = (0..40).map(|i| (i * 37 % 251) as u8).collect();
        assert_eq!(index(&[&text]).covered(&text), (40, 40));
        assert_eq!(index(&[&text[..20], &text[20..]]).covered(&text), (40, 20));
        assert_eq!(index(&[&text]).covered(&[7; 100]), (0, 0));
        assert_eq!(index(&[]).covered(&text), (0, 0));
    }

    proptest! {
        #[test]
        fn every_piece_of_16_bytes_is_found(
            known in prop::collection::vec(any::<u8>(), 16..300),
            before in prop::collection::vec(any::<u8>(), 0..50),
            after in prop::collection::vec(any::<u8>(), 0..50),
            from in any::<prop::sample::Index>(),
            len in 16..200_usize,
        ) {
            let from = from.index(known.len() - 15);
            let piece = &known[from..(from + len).min(known.len())];
            let payload = [&before, piece, &after].concat();
            let (covered, longest) = index(&[&known]).covered(&payload);
            prop_assert!(covered >= piece.len() && longest >= piece.len(), "{covered} {longest} {}", piece.len());
        }

        #[test]
        fn other_payload_is_not_covered(payload in prop::collection::vec(0..128_u8, 0..300)) {
            prop_assert_eq!(index(&[&[200; 64]]).covered(&payload), (0, 0));
        }
    }
}
