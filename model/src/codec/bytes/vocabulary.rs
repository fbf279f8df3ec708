//! The two vocabularies of the byte codec: what number each piece of the text form has.
//!
//! Both are Hugging Face tokenizers, made and read with the `tokenizers` crate. Neither is run over text afterwards:
//! GPT-2's pre-tokenizer cuts the text before every number, so the tokens of a number do not depend on its
//! neighbours, and two tables of 256 entries (first number of a packet, later ones with their space) give exactly what
//! the tokenizer would give, at the speed of copying.

use std::collections::HashSet;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, TokenizerImpl,
};

use super::super::{CodecError, LabelId, Token};
use super::text;

/// What a token stands for (`--vocab`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vocab {
    /// One token for each byte value, as NetSSM (arXiv 2503.22663) has it: the id is the value.
    Byte,
    /// A byte-level BPE of GPT-NeoX-20B's type, trained on the decimal text, as in the paper.
    Bpe,
}

/// Most text, in bytes, that a BPE vocabulary is trained on. There are 512 distinct words (each number with and
/// without its space); two million numbers tell their frequencies well, and take about a second.
pub(super) const BPE_TEXT_BYTES_MAX: usize = 8 << 20;

/// A pair has to occur this often to be merged: the default of Hugging Face's `ByteLevelBPETokenizer`.
const BPE_MIN_FREQUENCY: u64 = 2;

/// A vocabulary ready for use.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// `tokenizer.json`.
    pub(super) json: String,
    pub(super) packet: Token,
    pub(super) end: Token,
    label_first: u32,
    labels: u32,
    /// What each token stands for, by id; special tokens by their names.
    texts: Vec<Box<str>>,
    numbers: Numbers,
}

/// How numbers become tokens.
#[derive(Debug)]
enum Numbers {
    /// The id is the value.
    Identity,
    /// Ranges of `ids`, by value: for the first number of a packet, and for a later one with its space.
    Table { first: Vec<Range<usize>>, later: Vec<Range<usize>>, ids: Vec<Token> },
}

impl Vocabulary {
    /// The 1:1 vocabulary: 0 to 255 the byte values, then `<|pkt|>`, `<|endoftext|>` and the labels.
    ///
    /// Its `tokenizer.json` is a word-level tokenizer over white space. It knows no `unk` token, so that text with
    /// anything else in it is an error there, and not a wrong token.
    pub(super) fn byte(labels: &[String]) -> Result<Self, CodecError> {
        let specials = [text::PACKET.to_owned(), text::END.to_owned()];
        let specials: Vec<_> = specials.into_iter().chain(labels.iter().map(|l| text::label_special(l))).collect();
        let words = (0..=255u8).map(|b| b.to_string()).chain(specials.iter().cloned());
        let model = WordLevel::builder().vocab(words.zip(0..).collect()).build().map_err(tokenizer_error)?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
        tokenizer.add_special_tokens(specials.into_iter().map(special)).map_err(tokenizer_error)?;
        Self::from_tokenizer(Vocab::Byte, &tokenizer, labels)
    }

    /// Trains a BPE vocabulary of at most `vocab_max` tokens on the text of packets, one item a packet.
    ///
    /// Normalizer (NFC), pre-tokenizer (GPT-2's, without a prefix space) and decoder are those of GPT-NeoX-20B.
    /// Ids: `<|endoftext|>` (0, as there), `<|pkt|>`, the labels, 256 byte symbols, then merges. Since no merge crosses
    /// a number, at most 256 + 2 x 256 tokens and a few pieces can come up, however large `vocab_max` is.
    pub(super) fn train_bpe(
        vocab_max: usize,
        labels: &[String],
        packets: impl Iterator<Item = String> + Send,
    ) -> Result<Self, CodecError> {
        let specials = [text::END.to_owned(), text::PACKET.to_owned()];
        let specials: Vec<_> = specials.into_iter().chain(labels.iter().map(|l| text::label_special(l))).collect();
        let vocab_min = specials.len() + 256;
        if vocab_max < vocab_min {
            return Err(CodecError::Spec(format!(
                "a BPE vocabulary of at most {vocab_max} tokens: {} labels need at least {vocab_min}",
                labels.len()
            )));
        }
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_max)
            .min_frequency(BPE_MIN_FREQUENCY)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
            .special_tokens(specials.into_iter().map(special).collect())
            .build();
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer: TokenizerImpl<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        > = TokenizerImpl::new(BPE::default());
        tokenizer.with_normalizer(Some(NFC)).map_err(tokenizer_error)?;
        tokenizer.with_pre_tokenizer(Some(byte_level));
        tokenizer.with_post_processor(Some(byte_level));
        tokenizer.with_decoder(Some(byte_level));
        tokenizer.train(&mut trainer, packets).map_err(tokenizer_error)?;
        // Through its file, so that a trained vocabulary and a loaded one cannot differ.
        let json = tokenizer.to_string(false).map_err(tokenizer_error)?;
        Self::load(Vocab::Bpe, &json, labels)
    }

    /// Reads a `tokenizer.json` back and checks that it is a vocabulary of this kind for these labels.
    pub(super) fn load(vocab: Vocab, json: &str, labels: &[String]) -> Result<Self, CodecError> {
        let tokenizer: Tokenizer = json.parse().map_err(tokenizer_error)?;
        Self::from_tokenizer(vocab, &tokenizer, labels)
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// What `token` stands for; none when there is no such token.
    pub(super) fn text(&self, token: Token) -> Option<&str> {
        self.texts.get(token.0 as usize).map(|t| &**t)
    }

    /// The token of `label`. Labels have consecutive ids.
    pub(super) fn label_token(&self, label: LabelId) -> Token {
        Token(self.label_first + u32::from(label.0))
    }

    /// The label that `token` names, if it names one.
    pub(super) fn label(&self, token: Token) -> Option<LabelId> {
        let index = token.0.checked_sub(self.label_first).filter(|i| *i < self.labels)?;
        u16::try_from(index).ok().map(LabelId)
    }

    /// Appends the tokens of one packet.
    pub(super) fn push_packet(&self, data: &[u8], ret: &mut Vec<Token>) {
        match &self.numbers {
            Numbers::Identity => ret.extend(data.iter().map(|&byte| Token(u32::from(byte)))),
            Numbers::Table { first, later, ids } => {
                ret.reserve(data.len());
                let mut table = first;
                for &byte in data {
                    ret.extend_from_slice(&ids[table[usize::from(byte)].clone()]);
                    table = later;
                }
            }
        }
    }

    /// The bytes of the packet that `tokens` stand for; none when they are no packet (see [`text::parse_packet`]), hold
    /// a special token or one that does not exist.
    pub(super) fn parse_packet(&self, tokens: &[Token]) -> Option<Vec<u8>> {
        match self.numbers {
            Numbers::Identity if tokens.is_empty() || tokens.len() > text::PACKET_BYTES_MAX => None,
            Numbers::Identity => tokens.iter().map(|t| u8::try_from(t.0).ok()).collect(),
            Numbers::Table { .. } => {
                let mut written = Vec::with_capacity(tokens.len() * 4);
                for token in tokens {
                    // The name of a special token is no number, so it makes the packet malformed by itself.
                    written.extend_from_slice(self.text(*token)?.as_bytes());
                }
                text::parse_packet(&written)
            }
        }
    }

    fn from_tokenizer(vocab: Vocab, tokenizer: &Tokenizer, labels: &[String]) -> Result<Self, CodecError> {
        let id = |name: &str| {
            tokenizer.token_to_id(name).ok_or_else(|| CodecError::Tokenizer(format!("there is no token {name}")))
        };
        let names: Vec<String> = labels.iter().map(|l| text::label_special(l)).collect();
        let label_first = names.first().map_or(Ok(0), |name| id(name))?;
        for (name, expected) in names.iter().zip(label_first..) {
            let found = id(name)?;
            if found != expected {
                return Err(CodecError::Tokenizer(format!("token {name} is {found}, expected {expected}")));
            }
        }
        let mut vocabulary = Self {
            json: tokenizer.to_string(false).map_err(tokenizer_error)?,
            packet: Token(id(text::PACKET)?),
            end: Token(id(text::END)?),
            label_first,
            labels: labels.len() as u32,
            texts: texts(tokenizer)?,
            numbers: Numbers::Identity,
        };
        if vocab == Vocab::Bpe {
            vocabulary.numbers = Numbers::table(tokenizer)?;
        }
        vocabulary.check(tokenizer, labels)?;
        Ok(vocabulary)
    }

    /// Compares the tables with the tokenizer on a text that has every number, first and later, and every special
    /// token, in both directions.
    fn check(&self, tokenizer: &Tokenizer, labels: &[String]) -> Result<(), CodecError> {
        let (mut probe, mut tokens) = (String::new(), Vec::new());
        for byte in 0..=255u8 {
            text::push_packet(&[byte, byte.wrapping_mul(167), byte], &mut probe);
            self.push_packet(&[byte, byte.wrapping_mul(167), byte], &mut tokens);
            probe.push_str(text::PACKET);
            tokens.push(self.packet);
        }
        for (i, label) in labels.iter().enumerate() {
            probe.push_str(&text::label_special(label));
            tokens.push(Token(self.label_first + i as u32));
        }
        probe.push_str(text::END);
        tokens.push(self.end);
        let found = tokenizer.encode(probe.as_str(), false).map_err(tokenizer_error)?;
        let packets_come_back = tokens
            .split(|t| *t == self.packet)
            .take(256)
            .zip(0..=255u8)
            .all(|(t, byte)| self.parse_packet(t) == Some(vec![byte, byte.wrapping_mul(167), byte]));
        if found.get_ids() != bytemuck::cast_slice::<Token, u32>(&tokens) || !packets_come_back {
            return Err(CodecError::Tokenizer("it does not cut text as this codec does".to_owned()));
        }
        Ok(())
    }
}

impl Numbers {
    fn table(tokenizer: &Tokenizer) -> Result<Self, CodecError> {
        let mut ids = Vec::new();
        let mut ranges = |space: &str| -> Result<Vec<Range<usize>>, CodecError> {
            (0..=255u8)
                .map(|byte| {
                    let start = ids.len();
                    let encoding = tokenizer.encode(format!("{space}{byte}"), false).map_err(tokenizer_error)?;
                    ids.extend(encoding.get_ids().iter().map(|id| Token(*id)));
                    Ok(start..ids.len())
                })
                .collect()
        };
        let (first, later) = (ranges("")?, ranges(" ")?);
        Ok(Self::Table { first, later, ids })
    }
}

/// What each token of the tokenizer stands for, by id; an error when ids have holes.
fn texts(tokenizer: &Tokenizer) -> Result<Vec<Box<str>>, CodecError> {
    let added = tokenizer.get_added_tokens_decoder();
    (0..tokenizer.get_vocab_size(true) as u32)
        .map(|id| match added.get(&id) {
            // By name: the byte-level decoder would take the letters of a label for bytes.
            Some(token) => Ok(token.content.as_str().into()),
            None if tokenizer.id_to_token(id).is_none() => {
                Err(CodecError::Tokenizer(format!("there is no token {id}")))
            }
            None => Ok(tokenizer.decode(&[id], false).map_err(tokenizer_error)?.into()),
        })
        .collect()
}

fn special(name: String) -> AddedToken {
    AddedToken::from(name, true)
}

fn tokenizer_error(error: tokenizers::Error) -> CodecError {
    CodecError::Tokenizer(error.to_string())
}

/// Texts of packets for [`Vocabulary::train_bpe`] from `samples` samples, of which `packets_of` gives the packets: a
/// seeded choice, at most [`BPE_TEXT_BYTES_MAX`] in all and a sixty-fourth of that from any one sample, so that a long
/// flow does not speak for all.
pub(super) fn training_texts<P>(samples: usize, rng: &mut ChaCha8Rng, packets_of: impl Fn(usize) -> P) -> Vec<String>
where
    P: Iterator<Item = String>,
{
    use rand::seq::SliceRandom;
    let mut order: Vec<usize> = (0..samples).collect();
    order.shuffle(rng);
    let (mut texts, mut left) = (Vec::new(), BPE_TEXT_BYTES_MAX);
    for sample in order {
        let mut sample_left = left.min(BPE_TEXT_BYTES_MAX / 64);
        for packet in packets_of(sample) {
            if packet.len() > sample_left {
                break;
            }
            sample_left -= packet.len();
            left -= packet.len();
            texts.push(packet);
        }
        if left == 0 {
            break;
        }
    }
    texts
}
