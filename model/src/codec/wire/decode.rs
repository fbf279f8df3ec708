//! From tokens to frames: the renderer computes what the model did not decide.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::super::{Decoded, Token};
use super::action::Action;
use super::fix;
use super::renderer::Renderer;
use super::walk::{Stage, Step, Walk};
use crate::packet::{LinkType, Packet, Timestamp};
use crate::wire::parse::parse;
use crate::wire::plan::Plan;

/// Turns tokens into packets, one by one.
pub struct Decoder {
    walk: Walk,
    renderer: Renderer,
    now: Timestamp,
    /// A patch may still come for it.
    pending: Option<Packet>,
    /// What it was rendered from, where frames are learned from.
    last: Option<Action>,
    /// Whether frames are learned from: they are captured ones.
    lossless: bool,
    tokens: u64,
    decoded: Decoded,
}

impl Decoder {
    /// A decoder whose first packet is at `start`, after its gap.
    pub(super) fn new(walk: Walk, plan: Arc<Plan>, rng: ChaCha8Rng, start: Timestamp, lossless: bool) -> Self {
        let renderer = Renderer::new(&walk, plan, rng, start);
        Self { walk, renderer, now: start, pending: None, last: None, lossless, tokens: 0, decoded: Decoded::default() }
    }

    /// Takes a token.
    pub fn push(&mut self, token: Token) {
        self.tokens += 1;
        let step = self.walk.push(token);
        match step {
            Step::More => {
                // The token after a packet that is no patch settles it.
                if self.pending.is_some() && !self.walk.is_in_fix() {
                    self.settle();
                }
                return;
            }
            Step::Packet => {
                self.settle();
                self.now = self.now.plus_nanos(self.walk.gap_ns());
                let mut data = Vec::new();
                self.renderer.render(self.walk.action(), self.now, &mut data);
                self.last = self.lossless.then(|| self.walk.action().clone());
                let len = data.len() as u32;
                self.pending = Some(Packet { ts: self.now, linktype: LinkType::ETHERNET, len, data });
            }
            Step::Fix => {
                let is_good = self.pending.as_mut().is_some_and(|p| fix::apply(self.walk.bytes(), p).is_some());
                if !is_good {
                    self.pending = None;
                    self.decoded.malformed_packets += 1;
                    self.decoded.malformed_tokens += self.tokens;
                }
                self.settle();
            }
            Step::Raw => {
                self.settle();
                self.now = self.now.plus_nanos(self.walk.gap_ns());
                match fix::from_raw(self.walk.bytes()) {
                    Some(packet) => self.decoded.packets.push(Packet { ts: self.now, ..packet }),
                    None => {
                        self.decoded.malformed_packets += 1;
                        self.decoded.malformed_tokens += self.tokens;
                    }
                }
            }
            Step::End => self.settle(),
            Step::Bad => {
                self.settle();
                self.decoded.malformed_packets += 1;
                self.decoded.malformed_tokens += self.tokens;
            }
        }
        self.tokens = 0;
    }

    fn settle(&mut self) {
        if let Some(packet) = self.pending.take() {
            if let Some(action) = self.last.take()
                && let Ok(frame) = parse(&packet)
            {
                self.renderer.learn(&action, &frame, packet.ts);
            }
            self.decoded.packets.push(packet);
        }
    }

    /// The packets that are complete, when no patch comes after the last.
    pub fn flush(&mut self) -> Vec<Packet> {
        self.settle();
        std::mem::take(&mut self.decoded.packets)
    }

    /// Everything, with a tail that is no whole packet dropped and counted.
    pub fn finish(mut self) -> Decoded {
        self.settle();
        if !matches!(self.walk.stage, Stage::Gap | Stage::Done) && self.tokens > 0 {
            self.decoded.malformed_packets += u64::from(self.walk.stage != Stage::Skip);
            self.decoded.malformed_tokens += self.tokens;
        }
        self.decoded
    }
}
