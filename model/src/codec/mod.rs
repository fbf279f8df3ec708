//! From sessions to tokens and back.
//!
//! A [`Codec`] owns its vocabulary. The network sees only [`Token`] numbers; what they mean is the codec's.

pub mod bytes;
mod gaps;
mod longest;
mod starts;
pub mod wire;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::flow::{Direction, Session};
use crate::packet::{LinkType, Packet, Timestamp};

pub use gaps::{GapHistogram, GapTable};
pub use longest::Longest;
pub use starts::{CaptureStarts, Starts};

/// An index into a codec's vocabulary.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, bytemuck::Pod, bytemuck::Zeroable,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Token(pub u32);

/// Index of a label in [`Codec::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelId(pub u16);

/// What turns tokens into packets beside the tokens: chance and the clock of the rendered traffic.
#[derive(Debug)]
pub struct Render {
    /// Seeded chance; the same seed gives the same packets.
    pub rng: ChaCha8Rng,
    /// Time of the first packet.
    pub start: Timestamp,
}

/// The packets that a run of tokens stood for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// Whole packets, in order.
    pub packets: Vec<Packet>,
    /// Packets dropped because their tokens meant nothing (a number above 255, an empty packet, a cut-off tail).
    pub malformed_packets: u64,
    /// Tokens that were dropped with them.
    pub malformed_tokens: u64,
}

/// A reversible translation between sessions and tokens.
pub trait Codec: Send + Sync {
    /// Name as given to `--codec`.
    fn name(&self) -> &'static str;
    /// Number of tokens.
    fn vocab_size(&self) -> usize;
    /// The labels that a sample can begin with, in the order of [`LabelId`].
    fn labels(&self) -> &[String];
    /// The token that begins a sample of `label`.
    fn label_token(&self, label: LabelId) -> Token;
    /// The token that ends every sample.
    fn end_token(&self) -> Token;
    /// Whether `token` ends a packet (the end of the sample ends its last packet as well).
    fn ends_packet(&self, token: Token) -> bool;
    /// Whether `token` can begin a packet, for codecs whose packets have no end of their own.
    fn begins_packet(&self, _token: Token) -> bool {
        false
    }
    /// Packets of the longest sample of `label` that the codec was fitted to; `None` where that is not known.
    fn longest(&self, _label: LabelId) -> Option<u64> {
        None
    }
    /// Times from the start of a sample of `label` to that of the next one, in what the codec learned from; `None` where that is not
    /// known.
    fn starts(&self, _label: LabelId) -> Option<&GapHistogram> {
        None
    }
    /// Link type of decoded packets.
    fn linktype(&self) -> LinkType;
    /// Appends the tokens of a whole sample: label, packets, end. Returns how many packets it holds.
    fn encode(&self, label: LabelId, session: &Session, ret: &mut Vec<Token>) -> usize;
    /// Appends a prompt: label and the first `packets_max` packets of `session`, open for more to follow.
    fn encode_prompt(&self, label: LabelId, session: &Session, packets_max: usize, ret: &mut Vec<Token>);
    /// Turns the tokens of one sample into packets. The label may be absent; a tail that means nothing is dropped
    /// and counted. Never panics, whatever the tokens are.
    fn decode(&self, tokens: &[Token], render: &mut Render) -> Decoded;
    /// The first `packets_max` packets of a sample, made ready to be rendered many times; `None` where [`decode`](Self::decode)
    /// is the only way.
    fn script(&self, _tokens: &[Token], _packets_max: usize) -> Option<Arc<dyn Script>> {
        None
    }
    /// What may be sampled, from the beginning of a sample; `None` when anything may.
    fn grammar(&self) -> Option<Box<dyn Grammar>> {
        None
    }
    /// What `token` stands for, for a person to read.
    fn token_text(&self, token: Token) -> String;
    /// The Hugging Face `tokenizer.json` of this vocabulary.
    fn tokenizer_json(&self) -> String;
    /// Everything needed to build the codec again, for [`from_spec`].
    fn spec(&self) -> CodecSpec;
}

/// The packets of a sample as far as its tokens decide them, in the order of their times.
pub trait Script: Send + Sync {
    /// How many packets there are.
    fn packets(&self) -> usize;
    /// Begins to render them: bytes, times and order are those of [`Codec::decode`] with the same chance and start.
    fn play(self: Arc<Self>, render: &mut Render) -> Box<dyn Play>;
}

/// A [`Script`] being rendered, packet by packet.
pub trait Play: Send {
    /// Packets that are still to come.
    fn left(&self) -> usize;
    /// The time of the next packet.
    fn peek(&self) -> Option<Timestamp>;
    /// Makes `ret` the next packet, in the buffer that it has; says whether the client sent it. `None` after the last.
    fn render(&mut self, ret: &mut Packet) -> Option<Direction>;
}

/// Follows a sample token by token and says what may come next.
///
/// After whatever tokens, at least one is allowed; while only allowed ones are taken, every packet is valid and the
/// sample ends before its tokens run out.
pub trait Grammar: Send + Sync {
    /// Takes a token of the sample.
    fn push(&mut self, token: Token);
    /// Packets that are complete.
    fn packets(&self) -> u64;
    /// Sets the bits of the tokens that may come next (token t at bit t % 64 of word t / 64) and clears all others, when
    /// `tokens_left` more can be taken. `mask` has a bit for every token.
    fn allowed(&self, tokens_left: usize, mask: &mut [u64]);
    /// Whether nothing but the end is allowed because `tokens_left` are too few for a packet.
    fn must_end(&self, tokens_left: usize) -> bool;
    /// Whether nothing but the end can follow, as everything that was to come has come.
    fn has_ended(&self) -> bool {
        false
    }
    /// From the beginning on: no more than so many packets are wanted, so that flows are to be brought to their ends by then.
    fn end_within(&mut self, _packets: u64) {}
}

/// A codec as a checkpoint stores it (beside `tokenizer.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "codec", rename_all = "lowercase")]
#[non_exhaustive]
pub enum CodecSpec {
    /// The paper's codec.
    Bytes(bytes::BytesSpec),
    /// Decisions as tokens; everything else is computed.
    Wire(wire::WireSpec),
}

/// Why a stored codec could not be built again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// `tokenizer.json` is not what the codec wrote.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// The stored settings contradict each other.
    #[error("codec settings: {0}")]
    Spec(String),
}

/// Builds the codec that [`Codec::spec`] and [`Codec::tokenizer_json`] describe.
pub fn from_spec(spec: CodecSpec, tokenizer_json: &str) -> Result<Box<dyn Codec>, CodecError> {
    match spec {
        CodecSpec::Wire(spec) => Ok(Box::new(wire::WireCodec::from_spec(spec, tokenizer_json)?)),
        CodecSpec::Bytes(spec) => Ok(Box::new(bytes::BytesCodec::from_spec(spec, tokenizer_json)?)),
    }
}
