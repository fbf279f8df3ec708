//! How long the samples of each label were.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LabelId;
use crate::flow::Session;

/// By label, packets of the longest sample that was learned. What is generated tells by it that a flow has lost its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Longest(BTreeMap<String, u64>);

impl Longest {
    /// Takes `samples`, whose labels are `labels`, into account.
    pub fn record(&mut self, labels: &[String], samples: &[(LabelId, Session)]) {
        for (label, session) in samples {
            let Some(label) = labels.get(usize::from(label.0)) else { continue };
            let packets = session.packets.len() as u64;
            match self.0.get_mut(label) {
                Some(longest) => *longest = packets.max(*longest),
                None => _ = self.0.insert(label.clone(), packets),
            }
        }
    }

    /// Packets of the longest sample of a label; `None` where none was learned.
    pub fn of(&self, label: &str) -> Option<u64> {
        self.0.get(label).copied()
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
