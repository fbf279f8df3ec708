//! The Hugging Face `tokenizer.json` of a vocabulary: a word for every token.

use std::fmt::Write as _;

use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, Tokenizer};

use super::super::CodecError;

/// A word-level tokenizer over white space; `names` by id. Names in `<|…|>` are special.
///
/// It knows no `unk` token, so that text with anything else in it is an error, and not a wrong token.
pub(super) fn json(names: &[String]) -> String {
    let model = WordLevel::builder().vocab(names.iter().cloned().zip(0..).collect()).build();
    let mut tokenizer = Tokenizer::new(model.expect("a vocabulary needs no file"));
    tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
    let specials = names.iter().filter(|n| n.starts_with("<|")).map(|n| AddedToken::from(n.clone(), true));
    tokenizer.add_special_tokens(specials).expect("the names are in the vocabulary");
    tokenizer.to_string(false).expect("plain data")
}

/// Checks that a `tokenizer.json` has these names with these ids.
pub(super) fn check(json: &str, names: &[String]) -> Result<(), CodecError> {
    let tokenizer: Tokenizer = json.parse().map_err(|e: tokenizers::Error| CodecError::Tokenizer(e.to_string()))?;
    if tokenizer.get_vocab_size(true) != names.len() {
        let found = tokenizer.get_vocab_size(true);
        return Err(CodecError::Tokenizer(format!("it has {found} tokens, the codec {}", names.len())));
    }
    for (name, id) in names.iter().zip(0..) {
        let found = tokenizer.token_to_id(name);
        if found != Some(id) {
            return Err(CodecError::Tokenizer(format!("token {name} is {found:?}, expected {id}")));
        }
    }
    Ok(())
}

/// What a string of the dictionary is called: `"…"` with everything but printable characters escaped.
pub(super) fn string_name(bytes: &[u8]) -> String {
    let mut ret = String::from("\"");
    for b in bytes {
        match b {
            b'"' | b'\\' | b'<' => drop(write!(ret, "\\{}", *b as char)),
            0x21..0x7f => ret.push(*b as char),
            _ => drop(write!(ret, "\\x{b:02x}")),
        }
    }
    ret.push('"');
    ret
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut ret, b| {
        let _ = write!(ret, "{b:02x}");
        ret
    })
}

pub(super) fn from_hex(text: &str) -> Option<Box<[u8]>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|p| p[0] << 4 | p[1]).collect())
}
