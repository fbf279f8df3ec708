//! All groups of measures over one side's flows at once, and what comes out of two sides.

use std::sync::Arc;

use serde::Serialize;
use wiremamba_model::flow::Flow;
use wiremamba_model::packet::Packet;

use super::halves::Halves;
use super::joint::{Joint, JointReport};
use super::memory::{self, MemoryReport, Trained};
use super::pictures::{self, Pictures};
use super::similarity::{self, SimilarityReport};
use super::timing::{self, TimingReport};
use super::validity::{Validity, ValidityReport};
use super::view::{View, views};

/// A group of measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Header bits and fields.
    Similarity,
    /// Rules of the standards, for packets, flows and payloads.
    Validity,
    /// Gaps, durations, sizes.
    Timing,
    /// What comes out of the training captures again.
    Memory,
    /// What a classifier makes of the flows.
    Joint,
}

/// What both sides need to know before their packets come.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The groups of measures.
    pub groups: Vec<Group>,
    /// Which flows are in which half.
    pub halves: Arc<Halves>,
    /// The training captures, for group 4.
    pub trained: Option<Arc<Trained>>,
    /// Flows of the training captures, for group 5; the real flows are halved where there are none.
    pub trained_flows: Option<Joint>,
    /// Names of the labels, by number.
    pub labels: Vec<String>,
    /// Whether to keep what a report draws.
    pub pictures: bool,
    /// Of all chance.
    pub seed: u64,
}

/// The accumulators of one side.
#[derive(Debug, Clone)]
pub struct Side {
    packets: u64,
    strays: u64,
    flows: u64,
    similarity: Option<similarity::Side>,
    validity: Option<Validity>,
    timing: Option<timing::Side>,
    memory: Option<memory::Side>,
    joint: Option<Joint>,
    pictures: Option<pictures::Side>,
    is_real: bool,
    /// Label of each capture.
    labels: Vec<usize>,
}

impl Side {
    /// The real side.
    pub fn real(setting: &Setting, labels: Vec<usize>, captured_bytes: u64) -> Self {
        let similarity = similarity::Side::real(Arc::clone(&setting.halves), setting.seed);
        Self { labels, ..Self::new(setting, similarity, captured_bytes, true) }
    }

    /// The synthetic side.
    pub fn synthetic(setting: &Setting, labels: Vec<usize>, captured_bytes: u64) -> Self {
        let similarity = similarity::Side::synthetic(Arc::clone(&setting.halves));
        Self { labels, ..Self::new(setting, similarity, captured_bytes, false) }
    }

    fn new(setting: &Setting, similarity: similarity::Side, captured_bytes: u64, is_real: bool) -> Self {
        let groups = &setting.groups;
        let memory = || memory::Side::new(setting.trained.clone(), captured_bytes);
        Self {
            packets: 0,
            strays: 0,
            flows: 0,
            similarity: groups.contains(&Group::Similarity).then_some(similarity),
            validity: groups.contains(&Group::Validity).then(Validity::default),
            timing: groups.contains(&Group::Timing).then(timing::Side::default),
            memory: groups.contains(&Group::Memory).then(memory),
            joint: groups.contains(&Group::Joint).then(|| Joint::new(setting.seed)),
            pictures: setting.pictures.then(|| pictures::Side::new(Arc::clone(&setting.halves), is_real)),
            is_real,
            labels: Vec::new(),
        }
    }

    /// A flow, by its number on this side (as the halves were dealt) and the number of its capture.
    pub fn flow(&mut self, capture: u32, number: usize, flow: &Flow) {
        let views: Vec<_> = views(flow).collect();
        self.packets += views.len() as u64;
        self.flows += 1;
        if let Some(similarity) = &mut self.similarity {
            similarity.flow(number, &views);
        }
        if let Some(validity) = &mut self.validity {
            validity.flow(flow);
        }
        if let Some(timing) = &mut self.timing {
            timing.flow(capture, number, &views);
        }
        if let Some(joint) = &mut self.joint {
            let label = self.labels.get(capture as usize).copied().unwrap_or_default();
            if self.is_real { joint.real(label, flow) } else { joint.synthetic(label, flow) }
        }
        if let Some(pictures) = &mut self.pictures {
            pictures.flow(number, &views);
        }
        if let Some(memory) = &mut self.memory {
            views.iter().enumerate().for_each(|(i, (_, view))| memory.packet((number, i), view));
        }
    }

    /// A packet that belongs to no flow.
    pub fn stray(&mut self, packet: &Packet) {
        self.packets += 1;
        self.strays += 1;
        let view = View::new(packet);
        if let Some(similarity) = &mut self.similarity {
            similarity.stray(&view);
        }
        if let Some(validity) = &mut self.validity {
            validity.packet_without_flow(&view);
        }
        if let Some(memory) = &mut self.memory {
            memory.packet((usize::MAX, self.strays as usize), &view);
        }
    }

    /// Takes in another of the same side.
    pub fn merge(&mut self, other: Self) {
        self.packets += other.packets;
        self.strays += other.strays;
        self.flows += other.flows;
        if let (Some(a), Some(b)) = (&mut self.similarity, &other.similarity) {
            a.merge(b);
        }
        if let (Some(a), Some(b)) = (&mut self.validity, other.validity) {
            a.merge(b);
        }
        if let (Some(a), Some(b)) = (&mut self.timing, other.timing) {
            a.merge(b);
        }
        if let (Some(a), Some(b)) = (&mut self.memory, other.memory) {
            a.merge(b);
        }
        if let (Some(a), Some(b)) = (&mut self.joint, other.joint) {
            a.merge(b);
        }
        if let (Some(a), Some(b)) = (&mut self.pictures, other.pictures) {
            a.merge(b);
        }
    }

    fn size(&self) -> Size {
        Size { packets: self.packets, packets_without_flow: self.strays, flows: self.flows }
    }
}

/// How much there was of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Packets.
    pub packets: u64,
    /// Those that belong to no flow: no IP, or not to be read.
    pub packets_without_flow: u64,
    /// Flows.
    pub flows: u64,
}

/// How much there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The real side.
    pub real: Size,
    /// The synthetic side.
    pub synthetic: Size,
}

/// What the measures say; groups that were not asked for are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How much there was.
    pub captures: Sizes,
    /// Group 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<SimilarityReport>,
    /// Group 2, side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validity: Option<BothSides<ValidityReport>>,
    /// Group 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timing: Option<TimingReport>,
    /// Group 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
    /// Group 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joint: Option<JointReport>,
    /// What to draw, where it was asked for.
    #[serde(skip)]
    pub pictures: Option<Pictures>,
}

/// The same figures of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BothSides<T> {
    /// The real side.
    pub real: T,
    /// The synthetic side.
    pub synthetic: T,
}

/// Compares two sides that were dealt the same halves.
pub fn report(real: Side, synthetic: Side, setting: &Setting) -> Report {
    let captures = Sizes { real: real.size(), synthetic: synthetic.size() };
    let similarity = real.similarity.zip(synthetic.similarity).map(|(r, s)| similarity::report(&r, &s));
    let times = real.timing.zip(synthetic.timing).map(|(mut r, mut s)| {
        r.sort();
        s.sort();
        (r, s)
    });
    let drawn = real.pictures.zip(synthetic.pictures);
    let pictures = drawn.map(|(r, s)| pictures::pictures(r, s, times.as_ref().map(|(r, s)| (r, s))));
    let timing = times.map(|(r, s)| timing::report(r, s, &setting.halves));
    let validity = real.validity.zip(synthetic.validity);
    let validity = validity.map(|(r, s)| BothSides { real: r.report(), synthetic: s.report() });
    let memory = real.memory.zip(synthetic.memory).map(|(r, s)| memory::report(r, s));
    let joint = real.joint.zip(synthetic.joint).map(|(mut joint, synthetic)| {
        joint.merge(synthetic);
        setting.trained_flows.iter().for_each(|train| joint.merge(train.clone()));
        joint.report(&setting.labels)
    });
    Report { captures, similarity, validity, timing, memory, joint, pictures }
}
