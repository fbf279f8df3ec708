//! The flows of a table in slots, each slot in one of a few lists from the least to the most recently used.
//!
//! Slots are numbers into one vector, so that moving a flow to the end of its list and taking the oldest one out
//! are a handful of stores, whatever the size of the table.

use super::super::{Direction, FiveTuple};
use crate::packet::{Packet, Timestamp};

/// Number of a slot.
pub(super) type Slot = u32;
const NONE: Slot = Slot::MAX;

/// Which timeout a flow has, and how soon it can be spared; each class has its own list, and in each list the first flow is
/// the first to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Tcp,
    Udp,
    Other,
    /// Flows of which one side has said nothing yet.
    UnansweredTcp,
    UnansweredUdp,
    UnansweredOther,
    /// TCP flows that have ended and wait for stragglers.
    Closed,
}

impl Class {
    pub(super) const ALL: [Class; 7] = [
        Class::Closed,
        Class::UnansweredTcp,
        Class::UnansweredUdp,
        Class::UnansweredOther,
        Class::Tcp,
        Class::Udp,
        Class::Other,
    ];
    const UNANSWERED: [Class; 3] = [Class::UnansweredTcp, Class::UnansweredUdp, Class::UnansweredOther];
    const ANSWERED: [Class; 3] = [Class::Tcp, Class::Udp, Class::Other];
}

/// A flow that is being put together.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) tuple: FiveTuple,
    /// Empty once the flow was handed out because it reached its limit.
    pub(super) packets: Vec<(Direction, Packet)>,
    /// Captured bytes in `packets`.
    pub(super) bytes: u64,
    /// Time of the flow's first packet.
    pub(super) first_seen: Timestamp,
    /// The latest time seen in the flow; a packet with an earlier time does not move it back.
    pub(super) last_seen: Timestamp,
    /// Order in which flows were opened.
    pub(super) opened: u64,
    /// Whether both sides have sent something.
    pub(super) answered: bool,
    pub(super) fin_orig: bool,
    pub(super) fin_resp: bool,
    /// Whether TCP has ended. The list follows with the next [`Slots::touch`].
    pub(super) closed: bool,
    /// Whether the flow reached `packets_per_flow_max` and was handed out.
    pub(super) full: bool,
    pub(super) class: Class,
    /// Order in which flows were last used, over all lists.
    touched: u64,
    previous: Slot,
    next: Slot,
}

impl Entry {
    pub(super) fn new(tuple: FiveTuple, class: Class, opened: u64, now: Timestamp) -> Self {
        Self {
            tuple,
            packets: Vec::new(),
            bytes: 0,
            first_seen: now,
            last_seen: now,
            opened,
            answered: false,
            fin_orig: false,
            fin_resp: false,
            closed: false,
            full: false,
            class,
            touched: 0,
            previous: NONE,
            next: NONE,
        }
    }
}

/// First and last slot of a list.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: Slot,
    last: Slot,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    entries: Vec<Option<Entry>>,
    free: Vec<Slot>,
    lists: [Ends; Class::ALL.len()],
    touches: u64,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            lists: [Ends { first: NONE, last: NONE }; Class::ALL.len()],
            touches: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Puts `entry` at the recent end of the list of its class.
    pub(super) fn insert(&mut self, entry: Entry) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            Slot::try_from(self.entries.len() - 1).expect("FlowTable::new keeps flows_max below Slot::MAX")
        });
        self.entries[slot as usize] = Some(entry);
        self.link(slot);
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Entry {
        self.unlink(slot);
        self.free.push(slot);
        self.entries[slot as usize].take().expect("callers pass slots that are in use")
    }

    /// Moves a slot to the recent end of the list of `class`.
    pub(super) fn touch(&mut self, slot: Slot, class: Class) {
        self.unlink(slot);
        self.entry_mut(slot).class = class;
        self.link(slot);
    }

    pub(super) fn entry(&self, slot: Slot) -> &Entry {
        self.entries[slot as usize].as_ref().expect("callers pass slots that are in use")
    }

    pub(super) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        self.entries[slot as usize].as_mut().expect("callers pass slots that are in use")
    }

    /// The least recently used slot of a class.
    pub(super) fn oldest(&self, class: Class) -> Option<Slot> {
        let slot = self.lists[class as usize].first;
        (slot != NONE).then_some(slot)
    }

    /// The slot that can be spared first: one that has ended if there is any, else the least recently used of those that
    /// nobody answered, else of the others. So a flood of packets from nowhere drives out itself, as in Linux's connection
    /// tracking (`early_drop` in `nf_conntrack_core.c`).
    pub(super) fn spare(&self) -> Option<Slot> {
        let least_recent = |classes: [Class; 3]| {
            let oldest = classes.into_iter().filter_map(|class| self.oldest(class));
            oldest.min_by_key(|&slot| self.entry(slot).touched)
        };
        self.oldest(Class::Closed).or_else(|| least_recent(Class::UNANSWERED)).or_else(|| least_recent(Class::ANSWERED))
    }

    /// All slots in use, in the order in which their flows were opened.
    pub(super) fn by_age(&self) -> Vec<Slot> {
        let mut used: Vec<(u64, Slot)> =
            (0..).zip(&self.entries).filter_map(|(i, e)| Some((e.as_ref()?.opened, i))).collect();
        used.sort_unstable();
        used.into_iter().map(|(_, slot)| slot).collect()
    }

    fn link(&mut self, slot: Slot) {
        self.touches += 1;
        let touched = self.touches;
        let entry = self.entry_mut(slot);
        entry.touched = touched;
        entry.next = NONE;
        let list = entry.class as usize;
        let last = self.lists[list].last;
        self.entry_mut(slot).previous = last;
        match last {
            NONE => self.lists[list].first = slot,
            last => self.entry_mut(last).next = slot,
        }
        self.lists[list].last = slot;
    }

    fn unlink(&mut self, slot: Slot) {
        let &Entry { previous, next, class, .. } = self.entry(slot);
        match previous {
            NONE => self.lists[class as usize].first = next,
            previous => self.entry_mut(previous).next = next,
        }
        match next {
            NONE => self.lists[class as usize].last = previous,
            next => self.entry_mut(next).previous = previous,
        }
    }
}
