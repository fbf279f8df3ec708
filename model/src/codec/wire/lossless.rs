//! Whole captures there and back: every packet of any kind comes back byte for byte.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::Token;
use super::decode::Decoder;
use super::dictionary::Dictionary;
use super::encode::Encoder;
use super::fix;
use super::renderer::Renderer;
use super::vocab::Vocab;
use super::walk::Walk;
use crate::packet::{LinkType, Packet, Timestamp};
use crate::wire::parse::parse;
use crate::wire::plan::Plan;

/// Both ends draw the same, so that what is drawn needs a patch only where the capture has something else.
const SEED: u64 = 0x7769_7265;

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(SEED)
}

/// Encodes packets with everything that makes them what they are.
pub struct LosslessEncoder<'a> {
    encoder: Encoder<'a>,
    renderer: Renderer,
    now: Timestamp,
    frame: Vec<u8>,
}

impl<'a> LosslessEncoder<'a> {
    /// An encoder whose first packet is at `start`.
    pub fn new(dictionary: &'a Dictionary, start: Timestamp) -> Self {
        let walk = walk(dictionary);
        let renderer = Renderer::new(&walk, Arc::new(Plan::default()), rng(), start);
        Self { encoder: Encoder::new(walk, dictionary, true), renderer, now: start, frame: Vec::new() }
    }

    /// Appends the tokens of a packet. Returns whether it has structure; one that has none is escaped as a whole.
    pub fn packet(&mut self, packet: &Packet, ret: &mut Vec<Token>) -> bool {
        if self.encoder.packet(packet, ret).is_err() {
            self.encoder.raw(packet.ts, &fix::raw(packet), ret);
            self.now = self.now.plus_nanos(self.encoder.gap_ns());
            return false;
        }
        let action = self.encoder.action();
        self.now = self.now.plus_nanos(action.gap_ns);
        let mut data = std::mem::take(&mut self.frame);
        data.clear();
        self.renderer.render(action, self.now, &mut data);
        let rendered = Packet { ts: packet.ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        if let Some(patch) = fix::diff(&rendered, packet) {
            self.encoder.fix(&patch, ret);
        }
        if let Ok(frame) = parse(packet) {
            self.renderer.learn(self.encoder.action(), &frame, self.now);
        }
        self.frame = rendered.data;
        true
    }
}

/// A decoder for the tokens of a [`LosslessEncoder`] with the same dictionary and start.
pub fn decoder(dictionary: &Dictionary, start: Timestamp) -> Decoder {
    Decoder::new(walk(dictionary), Arc::new(Plan::default()), rng(), start, true)
}

fn walk(dictionary: &Dictionary) -> Walk {
    let strings = dictionary.strings().clone();
    Walk::new(Vocab { strings: strings.len(), foretells: false, labels: 0 }, strings)
}
