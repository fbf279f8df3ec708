//! When the flows of a round began: how often flows come is learned from all of them, and not from those that are kept.

use std::collections::BTreeMap;

use wiremamba_model::codec::{CaptureStarts, LabelId};
use wiremamba_model::packet::Timestamp;

use super::samples::Sample;

/// Flows of a round whose starts are kept: 1 MB. What comes after them says nothing new.
const STARTS_MAX: usize = 1 << 16;

/// By label, the starts of flows since the last round.
#[derive(Default)]
pub(super) struct StartTimes {
    labels: BTreeMap<LabelId, Vec<Timestamp>>,
    len: usize,
}

impl StartTimes {
    pub(super) fn add(&mut self, (label, session): &Sample) {
        let Some(first) = session.packets.first().filter(|_| self.len < STARTS_MAX) else { return };
        self.labels.entry(*label).or_default().push(first.packet.ts);
        self.len += 1;
    }

    /// All of them; they are forgotten here.
    pub(super) fn take(&mut self) -> Vec<CaptureStarts> {
        self.len = 0;
        std::mem::take(&mut self.labels).into_iter().collect()
    }
}
