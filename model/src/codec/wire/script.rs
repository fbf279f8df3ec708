//! The tokens of a sample, made ready to be rendered many times: what each packet is, and what of it later ones refer to.

use std::sync::{Arc, Mutex, PoisonError};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::{LabelId, Play, Render, Script, Token};
use super::action::{Action, Piece};
use super::renderer::{Keep, Renderer};
use super::vocab::Tok;
use super::walk::{Step, Walk};
use crate::flow::Direction;
use crate::packet::{LinkType, Packet, Timestamp};
use crate::wire::plan::Plan;

/// A sample's packets, decided but not rendered.
pub(super) struct WireScript {
    packets: Vec<Scripted>,
    walk: Walk,
    plan: Arc<Plan>,
    /// Renderers whose buffers wait to be used again.
    spare: Mutex<Vec<Renderer>>,
}

/// Renderers kept for later: as many as flows of one kind go on at a time, where traffic is busy.
const SPARE_MAX: usize = 256;

struct Scripted {
    action: Action,
    keep: Keep,
    /// Since the beginning, in nanoseconds.
    at_ns: i64,
}

impl WireScript {
    /// The first `packets_max` packets of `tokens`, which `blank` has not begun with. `None` where rendering them one by one would
    /// not be the same as decoding all and sorting them: a packet goes back in time, or tokens are not of the generative kind
    /// (patches, packets without structure) or mean nothing.
    pub(super) fn new(blank: &Walk, plan: Arc<Plan>, tokens: &[Token], packets_max: usize) -> Option<Self> {
        let mut walk = blank.clone();
        let (mut packets, mut at_ns, mut is_whole) = (Vec::new(), 0i64, true);
        for token in tokens {
            match walk.push(*token) {
                Step::More => is_whole = false,
                Step::Packet => {
                    let action = walk.action().clone();
                    if action.gap_ns < 0 {
                        return None;
                    }
                    at_ns = at_ns.checked_add(action.gap_ns)?;
                    packets.push(Scripted { action, keep: Keep { stream: false, message: false }, at_ns });
                    is_whole = true;
                }
                Step::End => is_whole = true,
                Step::Fix | Step::Raw | Step::Bad => return None,
            }
        }
        // A tail that is no packet is dropped and counted by whoever decodes.
        if !is_whole && !packets.is_empty() {
            return None;
        }
        packets.truncate(packets_max);
        keep_what_is_used(&mut packets);
        Some(Self { packets, walk: blank.clone(), plan, spare: Mutex::default() })
    }
}

/// Marks what later packets refer to, from the last to the first.
fn keep_what_is_used(packets: &mut [Scripted]) {
    // By slot and side: whether the stream is read again, and whether the message is.
    let mut streams = [[false; 2]; super::vocab::SLOTS];
    let mut messages = [[false; 2]; super::vocab::SLOTS];
    for Scripted { action, keep, .. } in packets.iter_mut().rev() {
        let (slot, me) = (usize::from(action.slot), usize::from(!action.from_orig));
        let (stream, message) = (&mut streams[slot], &mut messages[slot]);
        keep.stream = stream[me];
        keep.message = message[me];
        if action.is_message && keep.message {
            // What was said before is forgotten with it.
            message[me] = false;
        }
        for piece in &action.pieces {
            match piece {
                Piece::Same(_) | Piece::Inc2 => message[me] = true,
                Piece::Peer(_) => message[1 - me] = true,
                _ => {}
            }
        }
        stream[me] |= action.len_known > 0;
        if action.opens.is_some() {
            (*stream, *message) = ([false; 2], [false; 2]);
        }
    }
}

impl Script for WireScript {
    fn packets(&self) -> usize {
        self.packets.len()
    }

    fn play(self: Arc<Self>, render: &mut Render) -> Box<dyn Play> {
        let rng = ChaCha8Rng::from_rng(&mut render.rng);
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let renderer = match spare {
            Some(spare) => spare.again(rng, render.start),
            None => Renderer::new(&self.walk, self.plan.clone(), rng, render.start),
        };
        Box::new(WirePlay { script: self, renderer: Some(renderer), start: render.start, next: 0 })
    }
}

struct WirePlay {
    script: Arc<WireScript>,
    /// Given back at the end.
    renderer: Option<Renderer>,
    start: Timestamp,
    next: usize,
}

impl Play for WirePlay {
    fn left(&self) -> usize {
        self.script.packets.len() - self.next
    }

    fn peek(&self) -> Option<Timestamp> {
        self.script.packets.get(self.next).map(|packet| self.start.plus_nanos(packet.at_ns))
    }

    fn render(&mut self, ret: &mut Packet) -> Option<Direction> {
        let Scripted { action, keep, at_ns } = self.script.packets.get(self.next)?;
        self.next += 1;
        let now = self.start.plus_nanos(*at_ns);
        self.renderer.as_mut()?.render_into(action, *keep, now, &mut ret.data);
        (ret.ts, ret.linktype, ret.len) = (now, LinkType::ETHERNET, ret.data.len() as u32);
        Some(if action.from_orig { Direction::Orig } else { Direction::Resp })
    }
}

impl Drop for WirePlay {
    fn drop(&mut self) {
        let mut spare = self.script.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.extend(self.renderer.take());
        }
    }
}

/// The label that a sample begins with, where it does.
pub(super) fn label_of(walk: &Walk, tokens: &[Token]) -> Option<LabelId> {
    match walk.vocab().tok(*tokens.first()?)? {
        Tok::Label(label) => Some(label),
        _ => None,
    }
}
