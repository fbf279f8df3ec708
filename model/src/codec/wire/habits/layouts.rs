//! Which options of TCP stand in the segments of a label, and in which order.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::action::{Opt, Segment};
use super::super::side::{ACK, RST, SYN};
use super::super::walk::OPTIONS_MAX;

/// Layouts that are kept of each kind of segment; where there are more, any will do.
const LAYOUTS_MAX: usize = 64;

/// A kind of segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Segments {
    Syn,
    SynAck,
    Rst,
    Other,
}

impl Segments {
    fn of(flags: u8) -> Self {
        match flags {
            _ if flags & RST != 0 => Self::Rst,
            _ if flags & (SYN | ACK) == SYN | ACK => Self::SynAck,
            _ if flags & SYN != 0 => Self::Syn,
            _ => Self::Other,
        }
    }
}

/// A kind of option (RFC 9293, section 3.2; RFC 2018; RFC 7323).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Kind {
    /// Maximum segment size.
    Mss,
    /// Window scale.
    Ws,
    /// SACK permitted.
    SackOk,
    /// Timestamps.
    Ts,
    /// No operation.
    Nop,
    /// End of the list.
    Eol,
    /// SACK blocks, however many.
    Sack,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::Mss, "mss"),
    (Kind::Ws, "ws"),
    (Kind::SackOk, "sack_ok"),
    (Kind::Ts, "ts"),
    (Kind::Nop, "nop"),
    (Kind::Eol, "eol"),
    (Kind::Sack, "sack"),
];

impl Kind {
    /// That of an option; `None` for those that are not generated.
    pub(in super::super) fn of(option: &Opt) -> Option<Self> {
        Some(match option {
            Opt::Mss(_) => Self::Mss,
            Opt::Ws(_) => Self::Ws,
            Opt::SackOk => Self::SackOk,
            Opt::Ts => Self::Ts,
            Opt::Nop => Self::Nop,
            Opt::Eol => Self::Eol,
            Opt::Sack(..) => Self::Sack,
            Opt::Other(..) => return None,
        })
    }

    /// Bytes in the header, at least.
    pub(in super::super) fn least_len(self) -> usize {
        match self {
            Self::Mss => 4,
            Self::Ws => 3,
            Self::SackOk => 2,
            Self::Ts | Self::Sack => 10,
            Self::Nop | Self::Eol => 1,
        }
    }
}

/// The options of a segment in their order: `mss,sack_ok,ts,nop,ws`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Layout(Vec<Kind>);

impl Layout {
    /// One that can be said: no option but NOP comes twice, nothing stands behind the end, which is not all, and it fits into a
    /// header.
    fn new(kinds: Vec<Kind>) -> Option<Self> {
        let is_new = |(i, kind): (usize, &Kind)| *kind == Kind::Nop || !kinds[..i].contains(kind);
        let ends = kinds.iter().position(|kind| *kind == Kind::Eol).is_none_or(|at| at > 0 && at + 1 == kinds.len());
        let len: usize = kinds.iter().map(|kind| kind.least_len()).sum();
        (kinds.iter().enumerate().all(is_new) && ends && len <= OPTIONS_MAX).then_some(Self(kinds))
    }

    /// Whether these options have it.
    pub(in super::super) fn is_of(&self, options: &[Opt]) -> bool {
        self.after(options).is_some_and(<[Kind]>::is_empty)
    }

    /// What comes behind `said`; `None` where it begins otherwise.
    pub(in super::super) fn after(&self, said: &[Opt]) -> Option<&[Kind]> {
        let (begin, rest) = self.0.split_at_checked(said.len())?;
        said.iter().zip(begin).all(|(option, kind)| Kind::of(option) == Some(*kind)).then_some(rest)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |kind: &Kind| KINDS.iter().find(|known| known.0 == *kind).map_or("", |known| known.1);
        f.write_str(&self.0.iter().map(name).collect::<Vec<_>>().join(","))
    }
}

impl From<Layout> for String {
    fn from(layout: Layout) -> Self {
        layout.to_string()
    }
}

impl TryFrom<String> for Layout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let kind = |name: &str| {
            let known = KINDS.iter().find(|known| known.1 == name);
            known.map(|known| known.0).ok_or_else(|| format!("{name} is no option of TCP"))
        };
        let kinds = text.split(',').filter(|name| !name.is_empty()).map(kind).collect::<Result<_, _>>()?;
        Self::new(kinds).ok_or_else(|| format!("{text} are no options of a segment"))
    }
}

/// By kind of segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layouts(BTreeMap<Segments, Vec<Layout>>);

impl Layouts {
    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of segments with these flags; `None` where nothing is known of them, or there were too many.
    pub(in super::super) fn of(&self, flags: u8) -> Option<&[Layout]> {
        self.0.get(&Segments::of(flags)).map(Vec::as_slice).filter(|layouts| !layouts.is_empty())
    }

    /// Takes a segment into account, unless it has options that are not generated.
    pub(super) fn see(&mut self, segment: &Segment) {
        if let Some(layout) = segment.options.iter().map(Kind::of).collect::<Option<_>>().and_then(Layout::new) {
            self.add(Segments::of(segment.flags), layout);
        }
    }

    /// Takes what was seen elsewhere into account.
    pub(super) fn merge(&mut self, other: &Self) {
        for (segments, layouts) in &other.0 {
            layouts.iter().for_each(|layout| self.add(*segments, layout.clone()));
            if layouts.is_empty() {
                self.0.insert(*segments, Vec::new());
            }
        }
    }

    fn add(&mut self, segments: Segments, layout: Layout) {
        let Some(known) = self.0.get_mut(&segments) else {
            self.0.insert(segments, vec![layout]);
            return;
        };
        match known.binary_search(&layout) {
            Err(_) if known.len() == LAYOUTS_MAX => known.clear(),
            Err(at) if !known.is_empty() => known.insert(at, layout),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8, options: &[Opt]) -> Segment {
        Segment { seq: 0, is_next: true, hole: 0, ack: 0, flags, window: 0, options: options.to_vec() }
    }

    #[test]
    fn layouts_are_kept_by_kind_of_segment_and_come_back_from_json() {
        let mut layouts = Layouts::default();
        let stamped = [Opt::Nop, Opt::Nop, Opt::Ts];
        let syn = [Opt::Mss(1460), Opt::SackOk, Opt::Ts, Opt::Nop, Opt::Ws(7)];
        layouts.see(&segment(SYN, &syn));
        layouts.see(&segment(ACK, &stamped));
        layouts.see(&segment(ACK, &[stamped.as_slice(), &[Opt::Nop, Opt::Nop, Opt::Sack(2, [(0, 0); 4])]].concat()));
        layouts.see(&segment(ACK, &[]));
        layouts.see(&segment(ACK, &[Opt::Other(30, 12)]));
        let json = serde_json::to_string(&layouts).unwrap();
        assert_eq!(json, r#"{"syn":["mss,sack_ok,ts,nop,ws"],"other":["","nop,nop,ts","nop,nop,ts,nop,nop,sack"]}"#);
        assert_eq!(serde_json::from_str::<Layouts>(&json).unwrap(), layouts);
        for wrong in [
            "mss,tso",
            "ts,ts",
            "eol",
            "nop,eol,nop",
            "ts,sack,mss,ws,sack_ok,nop,nop,nop,nop,nop,nop,nop,nop,nop,nop,nop,nop",
        ] {
            assert!(serde_json::from_str::<Layouts>(&format!(r#"{{"syn":["{wrong}"]}}"#)).is_err(), "{wrong}");
        }
        assert!(layouts.of(SYN | ACK).is_none() && layouts.of(RST | ACK).is_none());
        let known = layouts.of(SYN).unwrap();
        assert!(known[0].is_of(&syn) && !known[0].is_of(&syn[..2]));
        assert_eq!(known[0].after(&syn[..3]), Some([Kind::Nop, Kind::Ws].as_slice()));
        assert_eq!(known[0].after(&stamped), None);
        let mut many = layouts.clone();
        let nops_around = |n: usize| [vec![Opt::Nop; n % 8], vec![Opt::Ts], vec![Opt::Nop; n / 8]].concat();
        (0..LAYOUTS_MAX).for_each(|n| many.see(&segment(RST, &nops_around(n))));
        assert_eq!(many.of(RST).map(<[_]>::len), Some(LAYOUTS_MAX));
        many.see(&segment(RST, &[]));
        many.see(&segment(RST, &stamped));
        layouts.merge(&many);
        assert!(many.of(RST).is_none() && layouts.of(RST).is_none(), "too many");
    }
}
