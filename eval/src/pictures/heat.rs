//! Where in the packet the sides differ: the values of each byte by its place, by position in the flow and direction.

use std::sync::Arc;

use wiremamba_model::flow::Direction;

use crate::halves::Halves;
use crate::view::View;

/// Positions in a flow.
pub const POSITIONS: usize = 10;
/// Bytes from the first of the IP header: 20 of IPv4, 20 of TCP and 24 of payload where there are no options.
pub const BYTES: usize = 64;
/// The values of a byte, and that it is not there.
const VALUES: usize = 257;
const ABSENT: usize = 256;

/// How often each value was seen: by position, direction and byte.
#[derive(Debug, Clone)]
struct Counts(Vec<u32>);

impl Counts {
    fn new() -> Self {
        Self(vec![0; POSITIONS * 2 * BYTES * VALUES])
    }

    fn add(&mut self, views: &[(Direction, View<'_>)]) {
        for (position, (direction, view)) in views.iter().take(POSITIONS).enumerate() {
            let row = position * 2 + usize::from(*direction == Direction::Resp);
            for byte in 0..BYTES {
                let value = view.ip.get(byte).map_or(ABSENT, |value| usize::from(*value));
                self.0[(row * BYTES + byte) * VALUES + value] += 1;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    }

    fn cell(&self, row: usize, byte: usize) -> &[u32] {
        &self.0[(row * BYTES + byte) * VALUES..][..VALUES]
    }
}

/// The accumulator of one side, over the first of the halvings.
#[derive(Debug, Clone)]
pub(super) struct Side {
    halves: Arc<Halves>,
    /// `None` on the synthetic side, which has no second half.
    second: Option<Counts>,
    first: Counts,
}

impl Side {
    pub(super) fn new(halves: Arc<Halves>, is_real: bool) -> Self {
        Self { halves, second: is_real.then(Counts::new), first: Counts::new() }
    }

    pub(super) fn flow(&mut self, number: usize, views: &[(Direction, View<'_>)]) {
        match &mut self.second {
            Some(_) if self.halves.is_first(0, number) => self.first.add(views),
            Some(second) if self.halves.is_second(0, number) => second.add(views),
            Some(_) => {}
            None if self.halves.is_matched(0, number) => self.first.add(views),
            None => {}
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.first.merge(&other.first);
        if let (Some(a), Some(b)) = (&mut self.second, &other.second) {
            a.merge(b);
        }
    }
}

/// A row of the map: the packets at one position in their flows, of one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Position in the flow, from 0.
    pub position: usize,
    /// Who sent them.
    pub direction: Direction,
    /// Total variation distance of the values of each byte: 0 alike, 1 nothing in common. `None` where either side has
    /// no packet, or the byte is in no packet.
    pub distances: Vec<Option<f64>>,
}

/// Distances by position, direction and byte; rows that neither side has are left out.
pub type Map = Vec<Row>;

/// The map of the sides, and that of two real halves.
pub(super) fn maps(real: &Side, synthetic: &Side) -> (Map, Map) {
    let second = real.second.as_ref().expect("the real side has two halves");
    (map(&real.first, &synthetic.first), map(&real.first, second))
}

fn map(a: &Counts, b: &Counts) -> Map {
    let row = |row: usize| {
        let distances: Vec<_> = (0..BYTES).map(|byte| distance(a.cell(row, byte), b.cell(row, byte))).collect();
        let direction = if row.is_multiple_of(2) { Direction::Orig } else { Direction::Resp };
        Row { position: row / 2, direction, distances }
    };
    (0..2 * POSITIONS).map(row).filter(|row| row.distances.iter().any(Option::is_some)).collect()
}

fn distance(a: &[u32], b: &[u32]) -> Option<f64> {
    let total = |counts: &[u32]| counts.iter().map(|n| f64::from(*n)).sum::<f64>();
    let (na, nb) = (total(a), total(b));
    let is_nowhere = f64::from(a[ABSENT]) == na && f64::from(b[ABSENT]) == nb;
    let apart = || a.iter().zip(b).map(|(x, y)| (f64::from(*x) / na - f64::from(*y) / nb).abs()).sum::<f64>() / 2.0;
    (na > 0.0 && nb > 0.0 && !is_nowhere).then(apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_as_far_apart_as_its_values() {
        let mut a = [0; VALUES];
        let mut b = [0; VALUES];
        (a[1], a[2], b[2], b[3]) = (3, 1, 1, 1);
        assert_eq!(distance(&a, &a), Some(0.0));
        assert_eq!(distance(&a, &b), Some(0.75));
        assert_eq!(distance(&a, &[0; VALUES]), None);
        let mut absent = [0; VALUES];
        absent[ABSENT] = 5;
        assert_eq!((distance(&absent, &absent), distance(&a, &absent)), (None, Some(1.0)));
    }
}
