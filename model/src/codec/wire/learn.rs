//! What a codec learns from captures beside its dictionary: how flows of each label begin, where they go, how they end.

use rand::SeedableRng;
use rand::seq::SliceRandom;

use super::super::LabelId;
use super::encode::Opened;
use super::handshake::Handshakes;
use super::talk::{self, Departures, Talks};
use super::{WireCodec, exchange, facts, habits};
use crate::flow::Session;
use crate::packet::Packet;
use crate::wire::parse::{Frame, Transport, parse};

/// Bytes of literal runs that a dictionary is learned from, and those of one sample.
const RUN_BYTES_MAX: usize = 4 << 20;
const SAMPLE_RUN_BYTES_MAX: usize = RUN_BYTES_MAX / 64;
/// Packets of a session that are looked at to see how its flows begin.
const OPENING_PACKETS_MAX: usize = 256;
/// Flows at least, and one in how many of a label and port, that have to begin otherwise than promised to be taken for more than
/// captures that begin late or lack packets.
const DEPARTURES_MIN: u64 = 2;
const DEPARTURE_SHARE: u64 = 5;

impl WireCodec {
    /// What senders say literally in `samples`: a seeded choice of them.
    pub(super) fn literal_runs(&self, samples: &[(LabelId, Session)]) -> Vec<Vec<u8>> {
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(0));
        let (mut runs, mut bytes, mut tokens) = (Vec::new(), 0, Vec::new());
        for sample in order {
            let mut encoder = self.encoder();
            encoder.collect_runs();
            let mut sample_bytes = 0;
            for packet in &samples[sample].1.packets {
                tokens.clear();
                // What has no structure has no literal runs.
                let _ = encoder.packet(&packet.packet, &mut tokens);
                let new = encoder.take_runs();
                sample_bytes += new.iter().map(Vec::len).sum::<usize>();
                runs.extend(new);
                if sample_bytes > SAMPLE_RUN_BYTES_MAX {
                    break;
                }
            }
            bytes += sample_bytes;
            if bytes > RUN_BYTES_MAX {
                break;
            }
        }
        runs
    }

    /// The ports at which flows of each label begin otherwise than the port promises: more than a few of them, as one may have been cut.
    pub(super) fn learn_departures(&self, samples: &[(LabelId, Session)]) -> Departures {
        let mut tallies = vec![talk::Tally::new(); self.labels.len()];
        for (label, session) in samples {
            let Some(tally) = tallies.get_mut(usize::from(label.0)) else { continue };
            self.count_openings(session, tally);
        }
        let departs = |[flows, departed]: [u64; 2]| departed >= DEPARTURES_MIN && departed * DEPARTURE_SHARE > flows;
        let ports = |tally: talk::Tally| tally.into_iter().filter(|(_, n)| departs(*n)).map(|(port, _)| port).collect();
        Departures::new(tallies.into_iter().map(ports).collect())
    }

    /// Counts how the flows of a session begin, towards ports that promise an application, and messages over UDP.
    fn count_openings(&self, session: &Session, ret: &mut talk::Tally) {
        let (mut encoder, mut walk, mut talks) = (self.encoder(), self.blank.clone(), Talks::default());
        let mut tokens = Vec::new();
        for packet in session.packets.iter().take(OPENING_PACKETS_MAX) {
            tokens.clear();
            // What has no structure opens nothing.
            let _ = encoder.packet(&packet.packet, &mut tokens);
            count_message(&packet.packet, ret);
            for token in &tokens {
                if let Some(tok) = self.vocab.tok(*token) {
                    talks.count(&walk, tok, ret);
                }
                let step = walk.push(*token);
                talks.follow(&walk, step);
            }
        }
    }

    /// What the flows of each label do in `samples`.
    pub(super) fn learn_habits(&self, samples: &[(LabelId, Session)]) -> Vec<habits::Label> {
        let of_label = |label| {
            let own = samples.iter().filter(|sample| usize::from(sample.0.0) == label);
            let mut tally = habits::Tally::default();
            let opened: Vec<_> = own.map(|sample| self.opened(&sample.1, &mut tally)).collect();
            habits::Label::of_samples(opened.iter().map(Vec::as_slice), tally)
        };
        (0..self.labels.len()).map(of_label).collect()
    }

    /// The flows of a session, and what they begin as; counts its packets.
    fn opened(&self, session: &Session, tally: &mut habits::Tally) -> Vec<Opened> {
        let (mut encoder, mut walk, mut talks) = (self.encoder(), self.blank.clone(), Talks::default());
        let (mut handshakes, mut tokens) = (Handshakes::new(self.keep_names), Vec::new());
        for (i, packet) in session.packets.iter().enumerate() {
            tokens.clear();
            // What has no structure belongs to no flow.
            if encoder.packet(&packet.packet, &mut tokens).is_err() {
                continue;
            }
            let frame = parse(&packet.packet).ok();
            let window = match &frame {
                Some(Frame { transport: Transport::Tcp(tcp), .. }) => Some(tcp.window),
                _ => None,
            };
            let action = encoder.action();
            tally.count(action, window);
            let payload = frame.as_ref().and_then(|frame| facts::payload(frame).get(usize::from(action.len_known)..));
            handshakes.see(action, walk.strings(), payload.unwrap_or_default(), &mut tally.messages);
            if i >= OPENING_PACKETS_MAX {
                continue;
            }
            for token in &tokens {
                let step = walk.push(*token);
                talks.follow(&walk, step);
            }
            encoder.note(talks.begun(walk.action().slot));
        }
        encoder.into_opened()
    }
}

/// Counts a datagram that has to be a message of its port's protocol, if it was captured whole.
fn count_message(packet: &Packet, ret: &mut talk::Tally) {
    let Ok(frame) = parse(packet) else { return };
    let Transport::Udp { src_port, dst_port } = frame.transport else { return };
    if frame.payload.len() == frame.payload_len
        && let Some((port, is_message)) = exchange::judge(src_port, dst_port, frame.payload)
    {
        let count = ret.entry(port).or_default();
        count[0] += 1;
        count[1] += u64::from(!is_message);
    }
}
