//! The paper's codec: every byte of every packet is a number, `<|pkt|>` stands between packets, the label in front.
//!
//! It knows nothing of protocols and has no time: decoded packets get gaps drawn from what was seen of their label
//! ([`GapTable`]). It is the baseline that other codecs are compared with. [`text`] is the text form, `vocabulary` the
//! two ways of numbering it, `frame` the choice of bytes.

mod frame;
pub mod text;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    CaptureStarts, Codec, CodecError, CodecSpec, Decoded, GapHistogram, GapTable, LabelId, Longest, Render, Starts,
    Token,
};
use crate::flow::Session;
use crate::packet::{LinkType, Packet};
use vocabulary::Vocabulary;

pub use frame::Keep;
pub use vocabulary::Vocab;

/// Chooses the samples that a BPE vocabulary is trained on; fixed, so that the same samples give the same vocabulary.
const BPE_SEED: u64 = 0x6e65_6f78;

/// Everything that makes a [`BytesCodec`], apart from its `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BytesSpec {
    /// What a token stands for.
    pub vocab: Vocab,
    /// Which bytes of a packet are kept.
    pub keep: Keep,
    /// The labels, in the order of [`LabelId`].
    pub labels: Vec<String>,
    /// Gaps between packets, by label.
    pub gaps: GapTable,
    /// How long samples were, by label.
    #[serde(default, skip_serializing_if = "Longest::is_empty")]
    pub longest: Longest,
    /// How samples followed one another, by label.
    #[serde(default, skip_serializing_if = "Starts::is_empty")]
    pub starts: Starts,
}

/// The codec of the paper. Encoding copies bytes; it runs at the speed of memory for [`Vocab::Byte`].
#[derive(Debug)]
pub struct BytesCodec {
    spec: BytesSpec,
    vocabulary: Vocabulary,
    packets_left_out: AtomicU64,
}

impl BytesCodec {
    /// Builds the codec again from what [`Codec::spec`] and [`Codec::tokenizer_json`] gave.
    ///
    /// # Errors
    /// [`CodecError::Spec`] for a label that cannot be a token or nothing kept, [`CodecError::Tokenizer`] for a
    /// `tokenizer.json` of another vocabulary.
    pub fn from_spec(spec: BytesSpec, tokenizer_json: &str) -> Result<Self, CodecError> {
        check_settings(spec.keep, &spec.labels)?;
        let vocabulary = Vocabulary::load(spec.vocab, tokenizer_json, &spec.labels)?;
        Ok(Self { spec, vocabulary, packets_left_out: AtomicU64::new(0) })
    }

    /// Builds the codec for these samples: labels, gaps and, for [`Vocab::Bpe`], a vocabulary of at most
    /// `bpe_vocab_max` tokens trained on their text.
    ///
    /// The same samples give the same codec. Gaps are those between consecutive packets of a sample that are kept.
    ///
    /// # Errors
    /// [`CodecError::Spec`] for a label that cannot be a token, a sample with a label that is not in `labels`, nothing
    /// kept, or a `bpe_vocab_max` that cannot hold 256 bytes and the special tokens.
    pub fn fit(
        vocab: Vocab,
        bpe_vocab_max: usize,
        keep: Keep,
        labels: Vec<String>,
        samples: &[(LabelId, Session)],
    ) -> Result<Self, CodecError> {
        check_settings(keep, &labels)?;
        let mut gaps = GapTable::default();
        for (label, session) in samples {
            if usize::from(label.0) >= labels.len() {
                return Err(CodecError::Spec(format!("a sample has label {}, there are {}", label.0, labels.len())));
            }
            let mut times = packets(session).filter(|p| frame::kept_bytes(p, keep).is_some()).map(|p| p.ts);
            if let Some(mut before) = times.next() {
                for ts in times {
                    gaps.record(*label, ts.nanos_since(before));
                    before = ts;
                }
            }
        }
        let vocabulary = match vocab {
            Vocab::Byte => Vocabulary::byte(&labels)?,
            Vocab::Bpe => {
                let mut rng = ChaCha8Rng::seed_from_u64(BPE_SEED);
                let texts = vocabulary::training_texts(samples.len(), &mut rng, |sample| {
                    packets(&samples[sample].1).filter_map(|packet| {
                        let mut written = String::new();
                        text::push_packet(&frame::kept_bytes(packet, keep)?, &mut written);
                        Some(written)
                    })
                });
                Vocabulary::train_bpe(bpe_vocab_max, &labels, texts.into_iter())?
            }
        };
        let mut longest = Longest::default();
        longest.record(&labels, samples);
        let spec = BytesSpec { vocab, keep, labels, gaps, longest, starts: Starts::default() };
        Ok(Self { spec, vocabulary, packets_left_out: AtomicU64::new(0) })
    }

    /// Learns from when samples of captures began how those of each label follow one another, see [`Starts::learn`].
    pub fn learn_starts(&mut self, captures: &[CaptureStarts]) {
        self.spec.starts.learn(&self.spec.labels, captures);
    }

    /// How many packets encoding has left out since the codec was made: no bytes to keep, no IP in a link type other
    /// than Ethernet, or with [`Keep::Headers`] no headers that could be read.
    pub fn packets_left_out(&self) -> u64 {
        self.packets_left_out.load(Ordering::Relaxed)
    }

    /// The text form of a sample, for reading and for other programs' tokenizers; its tokens are those of
    /// [`Codec::encode`].
    pub fn to_text(&self, label: LabelId, session: &Session) -> String {
        let kept: Vec<_> = packets(session).filter_map(|p| frame::kept_bytes(p, self.spec.keep)).collect();
        let label = self.spec.labels.get(usize::from(label.0)).map_or("", String::as_str);
        let mut written = String::new();
        text::push_sample(label, kept.iter().map(|k| &**k), &mut written);
        written
    }

    /// Appends the packets of `session`, each after the first with `<|pkt|>` before it, until there are `packets_max`.
    /// Returns how many.
    fn push_packets(&self, session: &Session, packets_max: usize, ret: &mut Vec<Token>) -> usize {
        let (mut kept, mut left_out) = (0, 0);
        for packet in packets(session) {
            if kept == packets_max {
                break;
            }
            let Some(data) = frame::kept_bytes(packet, self.spec.keep) else {
                left_out += 1;
                continue;
            };
            if kept > 0 {
                ret.push(self.vocabulary.packet);
            }
            self.vocabulary.push_packet(&data, ret);
            kept += 1;
        }
        if left_out > 0 {
            self.packets_left_out.fetch_add(left_out, Ordering::Relaxed);
        }
        kept
    }

    /// Length on the wire of a decoded frame.
    ///
    /// With [`Keep::Whole`] the bytes are all there is. Otherwise the model learned cut frames, whose IP header still
    /// tells the length that was on the wire: the packet is marked as truncated, as a capture with a snaplen would be.
    fn wire_len(&self, data: &[u8]) -> u32 {
        let claimed = match self.spec.keep {
            Keep::Whole => None,
            Keep::Headers | Keep::First(_) => frame::claimed_len(data),
        };
        // Both are far below u32::MAX: at most 262,144 bytes of data, 65,597 claimed.
        claimed.map_or(data.len(), |c| c.max(data.len())) as u32
    }
}

impl Codec for BytesCodec {
    fn name(&self) -> &'static str {
        "bytes"
    }

    fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn labels(&self) -> &[String] {
        &self.spec.labels
    }

    fn label_token(&self, label: LabelId) -> Token {
        self.vocabulary.label_token(label)
    }

    fn end_token(&self) -> Token {
        self.vocabulary.end
    }

    /// True for `<|pkt|>` and for `<|endoftext|>`, which ends the last packet.
    fn ends_packet(&self, token: Token) -> bool {
        token == self.vocabulary.packet || token == self.vocabulary.end
    }

    fn longest(&self, label: LabelId) -> Option<u64> {
        self.spec.longest.of(self.spec.labels.get(usize::from(label.0))?)
    }

    fn starts(&self, label: LabelId) -> Option<&GapHistogram> {
        self.spec.starts.of(self.spec.labels.get(usize::from(label.0))?)
    }

    fn linktype(&self) -> LinkType {
        LinkType::ETHERNET
    }

    fn encode(&self, label: LabelId, session: &Session, ret: &mut Vec<Token>) -> usize {
        ret.push(self.label_token(label));
        let kept = self.push_packets(session, usize::MAX, ret);
        ret.push(self.vocabulary.end);
        kept
    }

    /// Appends label, packets and after each of them `<|pkt|>`, so that the model goes on with a new packet.
    fn encode_prompt(&self, label: LabelId, session: &Session, packets_max: usize, ret: &mut Vec<Token>) {
        ret.push(self.label_token(label));
        if self.push_packets(session, packets_max, ret) > 0 {
            ret.push(self.vocabulary.packet);
        }
    }

    /// Turns the tokens of one sample into Ethernet packets.
    ///
    /// `<|pkt|>` or `<|endoftext|>` ends a packet. One that neither ends was cut off: it is dropped and counted, as
    /// nobody can say how much of it is missing. Tokens after `<|endoftext|>` belong to no packet and are counted as
    /// dropped, save for more `<|endoftext|>`, which is padding. The first packet is at `render.start`; gaps are drawn
    /// from those of the label, or of all labels when the tokens do not begin with one.
    fn decode(&self, tokens: &[Token], render: &mut Render) -> Decoded {
        let Vocabulary { packet: packet_token, end: end_token, .. } = self.vocabulary;
        let mut decoded = Decoded::default();
        let label = tokens.first().and_then(|t| self.vocabulary.label(*t));
        let body = &tokens[usize::from(label.is_some())..];
        let end = body.iter().position(|t| *t == end_token);
        let (body, after) = body.split_at(end.unwrap_or(body.len()));
        decoded.malformed_tokens += after.iter().filter(|t| **t != end_token).count() as u64;

        let mut ts = render.start;
        let mut pieces = body.split(|t| *t == packet_token).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            // Nothing between label and end, or after the last `<|pkt|>` of an open sample, is no packet at all.
            // Nor is blank space, as in the text.
            let is_blank = |t: &Token| self.vocabulary.text(*t).is_some_and(|text| text.trim_ascii().is_empty());
            if last && piece.iter().all(is_blank) && (first || end.is_none()) {
                decoded.malformed_tokens += piece.len() as u64;
                break;
            }
            first = false;
            let data = if last && end.is_none() { None } else { self.vocabulary.parse_packet(piece) };
            let Some(data) = data else {
                decoded.malformed_packets += 1;
                decoded.malformed_tokens += piece.len() as u64;
                continue;
            };
            if !decoded.packets.is_empty() {
                ts = ts.plus_nanos(self.spec.gaps.draw(label, &mut render.rng));
            }
            let len = self.wire_len(&data);
            decoded.packets.push(Packet { ts, linktype: LinkType::ETHERNET, len, data });
        }
        decoded
    }

    fn token_text(&self, token: Token) -> String {
        self.vocabulary.text(token).map_or_else(|| format!("<no token {}>", token.0), str::to_owned)
    }

    fn tokenizer_json(&self) -> String {
        self.vocabulary.json.clone()
    }

    fn spec(&self) -> CodecSpec {
        CodecSpec::Bytes(self.spec.clone())
    }
}

fn packets(session: &Session) -> impl Iterator<Item = &Packet> {
    session.packets.iter().map(|p| &p.packet)
}

fn check_settings(keep: Keep, labels: &[String]) -> Result<(), CodecError> {
    if keep == Keep::First(0) {
        return Err(CodecError::Spec("keeping the first 0 bytes of a packet keeps nothing, at least 1".to_owned()));
    }
    if labels.is_empty() {
        return Err(CodecError::Spec("no label is given, a sample needs one".to_owned()));
    }
    text::check_labels(labels)
}
