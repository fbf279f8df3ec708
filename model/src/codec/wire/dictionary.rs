//! Strings that get a token of their own: what senders repeat literally.

use std::sync::Arc;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

use super::super::CodecError;

/// Strings of a dictionary at most.
pub const STRINGS_MAX: usize = 4096;
/// Longest string, in bytes.
const STRING_LEN_MAX: usize = 64;

/// Strings of two bytes or more, the shortest first, with an index for the longest match.
#[derive(Debug, Clone)]
pub struct Dictionary {
    strings: Arc<[Box<[u8]>]>,
    /// For the first two bytes: indices of the strings that begin so, the longest first.
    index: Vec<Vec<u16>>,
}

impl Dictionary {
    /// A dictionary of these strings; sorts them.
    pub fn new(mut strings: Vec<Box<[u8]>>) -> Result<Self, CodecError> {
        strings.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
        strings.dedup();
        let fits = |s: &[u8]| (2..=STRING_LEN_MAX).contains(&s.len());
        if strings.len() > STRINGS_MAX || !strings.iter().all(|s| fits(s)) {
            return Err(CodecError::Spec(format!(
                "a dictionary has at most {STRINGS_MAX} strings of 2 to {STRING_LEN_MAX} bytes"
            )));
        }
        let mut index = if strings.is_empty() { Vec::new() } else { vec![Vec::new(); 1 << 16] };
        for (i, string) in strings.iter().enumerate().rev() {
            index[usize::from(u16::from_be_bytes([string[0], string[1]]))].push(i as u16);
        }
        Ok(Self { strings: strings.into(), index })
    }

    /// The strings, the shortest first.
    pub fn strings(&self) -> &Arc<[Box<[u8]>]> {
        &self.strings
    }

    /// The longest string that `bytes` begin with.
    pub fn longest(&self, bytes: &[u8]) -> Option<(u16, usize)> {
        let &[a, b, ..] = bytes else { return None };
        let found = self.index.get(usize::from(u16::from_be_bytes([a, b])))?;
        let i = *found.iter().find(|i| bytes.starts_with(&self.strings[usize::from(**i)]))?;
        Some((i, self.strings[usize::from(i)].len()))
    }

    /// Learns at most `strings_max` strings from runs of literal bytes by byte-pair encoding: a pair has to occur in
    /// them 16 times to be merged.
    pub fn train(runs: &[Vec<u8>], strings_max: usize) -> Result<Self, CodecError> {
        if strings_max == 0 || runs.is_empty() {
            return Self::new(Vec::new());
        }
        let error = |e: tokenizers::Error| CodecError::Tokenizer(e.to_string());
        // One char stands for each byte; `letter` is the order of the alphabet that the trainer sees.
        let letter = |b: u8| char::from_u32(0x100 + u32::from(b)).expect("no surrogate");
        let mut trainer = BpeTrainer::builder()
            .vocab_size(256 + strings_max)
            .min_frequency(16)
            .max_token_length(Some(32))
            .show_progress(false)
            .initial_alphabet((0..=255).map(letter).collect())
            .build();
        let mut tokenizer: TokenizerImpl<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        > = TokenizerImpl::new(BPE::default());
        tokenizer.with_pre_tokenizer(None::<ByteLevel>);
        let texts: Vec<String> = runs.iter().map(|run| run.iter().map(|b| letter(*b)).collect()).collect();
        tokenizer.train(&mut trainer, texts.into_iter()).map_err(error)?;
        let to_bytes = |text: &String| text.chars().map(|c| (c as u32 - 0x100) as u8).collect::<Box<[u8]>>();
        let strings = tokenizer.get_vocab(false).keys().map(to_bytes).filter(|s| s.len() >= 2).collect();
        Self::new(strings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_becomes_a_string_and_the_longest_match_wins() {
        let runs: Vec<Vec<u8>> = (0..40u8).map(|i| [&b"GET / HTTP/1.1\r\n"[..], &[i, 0xff, 0]].concat()).collect();
        let dictionary = Dictionary::train(&runs, 100).unwrap();
        let (i, len) = dictionary.longest(b"GET / HTTP/1.1\r\nHost").expect("repeated forty times");
        assert_eq!(&*dictionary.strings()[usize::from(i)], &b"GET / HTTP/1.1\r\n"[..len]);
        assert!(len >= 8, "{len}");
        assert_eq!(dictionary.longest(b"G"), None);
        assert!(Dictionary::new(vec![b"x"[..].into()]).is_err());
    }
}
