//! A stock as bytes, so that the next run need not generate it again.
//!
//! Format, integers little-endian: `WMSTOCK1`, the 32 bytes of the key, the number of flows (u64); for each its label (u16), why
//! it ended (u16), tokens of the prompt (u32), tokens (u32), and these (u32 each); in the end the sha256 of everything before.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::generator::End;
use super::stock::{Stock, StockFlow};
use crate::codec::{Codec, LabelId, Token};

const MAGIC: &[u8; 8] = b"WMSTOCK1";
/// Bytes before the flows, of a flow before its tokens, and of the digest.
const HEAD: usize = 8 + 32 + 8;
const FLOW_HEAD: usize = 2 + 2 + 4 + 4;
const DIGEST: usize = 32;
/// Reasons to end, by their number in the file.
const ENDS: [End; 5] = [End::Finished, End::TokensMax, End::PacketsMax, End::NoToken, End::BadRequest];

/// What a stock was made from: equal keys, equal stocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockKey(pub [u8; 32]);

impl StockKey {
    /// The key of everything that `what` tells.
    pub fn of(what: &str) -> Self {
        Self(Sha256::digest(what.as_bytes()).into())
    }
}

/// Why bytes are no stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StockError {
    /// They begin otherwise.
    #[error("it is no stock of flows: it does not begin with WMSTOCK1")]
    NoStock,
    /// They end too early, or their digest is another.
    #[error("it is damaged or cut off at {bytes} bytes: its sha256 is not the one it ends with")]
    Damaged {
        /// How many there are.
        bytes: usize,
    },
    /// The digest is right, but what is said cannot be: another program wrote it.
    #[error("flow {flow} in it is none: {what}")]
    Flow {
        /// Which, from 1.
        flow: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl Stock {
    /// The stock as bytes.
    pub fn to_bytes(&self, key: StockKey) -> Vec<u8> {
        let tokens: usize = self.flows.iter().map(|flow| FLOW_HEAD + 4 * flow.tokens.len()).sum();
        let mut ret = Vec::with_capacity(HEAD + tokens + DIGEST);
        ret.extend_from_slice(MAGIC);
        ret.extend_from_slice(&key.0);
        ret.extend_from_slice(&(self.flows.len() as u64).to_le_bytes());
        for flow in &self.flows {
            let end = ENDS.iter().position(|end| *end == flow.end).unwrap_or(0) as u16;
            ret.extend_from_slice(&flow.label.0.to_le_bytes());
            ret.extend_from_slice(&end.to_le_bytes());
            ret.extend_from_slice(&(flow.prompt_tokens as u32).to_le_bytes());
            ret.extend_from_slice(&(flow.tokens.len() as u32).to_le_bytes());
            flow.tokens.iter().for_each(|token| ret.extend_from_slice(&token.0.to_le_bytes()));
        }
        let digest = Sha256::digest(&ret);
        ret.extend_from_slice(&digest);
        ret
    }

    /// The key and the stock in `bytes`, for a `codec`.
    ///
    /// # Errors
    /// [`StockError`]; a key that is not the wanted one is the caller's to see.
    pub fn from_bytes(bytes: &[u8], codec: &dyn Codec) -> Result<(StockKey, Self), StockError> {
        if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) || bytes.is_empty() {
            return Err(StockError::NoStock);
        }
        let damaged = StockError::Damaged { bytes: bytes.len() };
        let (body, digest) = bytes.split_at_checked(bytes.len().saturating_sub(DIGEST)).ok_or(damaged)?;
        if body.len() < HEAD || Sha256::digest(body)[..] != *digest {
            return Err(damaged);
        }
        let key = StockKey(body[8..40].try_into().expect("32 bytes"));
        let count = u64::from_le_bytes(body[40..HEAD].try_into().expect("8 bytes"));
        let (mut rest, mut flows) = (&body[HEAD..], Vec::new());
        for flow in 1..=count {
            let fault = |what| StockError::Flow { flow, what };
            let (head, after) = rest.split_at_checked(FLOW_HEAD).ok_or(fault("it is cut off"))?;
            let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
            let long = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
            let (label, prompt_tokens, len) = (LabelId(short(0)), long(4), long(8));
            let end = *ENDS.get(usize::from(short(2))).ok_or(fault("it ended for no reason"))?;
            let (tokens, after) = after.split_at_checked(4 * len).ok_or(fault("it is cut off"))?;
            let tokens: Arc<[Token]> =
                tokens.chunks_exact(4).map(|t| Token(u32::from_le_bytes([t[0], t[1], t[2], t[3]]))).collect();
            if usize::from(label.0) >= codec.labels().len() || prompt_tokens > len {
                return Err(fault("its label or its prompt does not exist"));
            }
            if tokens.iter().any(|token| token.0 as usize >= codec.vocab_size()) {
                return Err(fault("a token does not exist"));
            }
            flows.push(StockFlow { label, tokens, prompt_tokens, end });
            rest = after;
        }
        if !rest.is_empty() {
            return Err(StockError::Flow { flow: count, what: "something follows the last" });
        }
        Ok((key, Self { flows }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::wire::WireCodec;
    use crate::wire::plan::Plan;

    fn codec() -> WireCodec {
        WireCodec::fit(vec!["a".into(), "b".into()], 0, false, Plan::default(), &[]).unwrap()
    }

    fn stock() -> Stock {
        let flow = |label, tokens: &[u32], end| StockFlow {
            label: LabelId(label),
            tokens: tokens.iter().map(|t| Token(*t)).collect(),
            prompt_tokens: tokens.len() / 2,
            end,
        };
        Stock {
            flows: vec![
                flow(0, &[5, 6, 7, 0], End::Finished),
                flow(1, &[], End::BadRequest),
                flow(1, &[9], End::TokensMax),
            ],
        }
    }

    #[test]
    fn a_stock_comes_back() {
        let key = StockKey::of("a model and its settings");
        let bytes = stock().to_bytes(key);
        assert_eq!(Stock::from_bytes(&bytes, &codec()), Ok((key, stock())));
        assert_eq!(Stock::from_bytes(&Stock::default().to_bytes(key), &codec()), Ok((key, Stock::default())));
    }

    #[test]
    fn a_damaged_or_cut_file_is_an_error_wherever_it_is_damaged_or_cut() {
        let bytes = stock().to_bytes(StockKey::of("x"));
        for at in 0..bytes.len() {
            assert!(Stock::from_bytes(&bytes[..at], &codec()).is_err(), "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Stock::from_bytes(&damaged, &codec()).is_err(), "damaged at {at}");
        }
        assert_eq!(Stock::from_bytes(b"something else", &codec()), Err(StockError::NoStock));
    }

    #[test]
    fn what_the_codec_does_not_have_is_refused() {
        let mut alien = stock();
        alien.flows[0].label = LabelId(2);
        let bytes = alien.to_bytes(StockKey::of("x"));
        assert!(matches!(Stock::from_bytes(&bytes, &codec()), Err(StockError::Flow { flow: 1, .. })));
        let mut alien = stock();
        alien.flows[2].tokens = [Token(u32::MAX)].into_iter().collect();
        let bytes = alien.to_bytes(StockKey::of("x"));
        assert!(matches!(Stock::from_bytes(&bytes, &codec()), Err(StockError::Flow { flow: 3, .. })));
    }
}
