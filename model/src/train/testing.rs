//! Small honest stand-ins for this crate's unit tests: a codec and a network whose gradient is known by hand.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::codec::bytes::{BytesSpec, Keep, Vocab};
use crate::codec::{Codec, CodecSpec, Decoded, GapTable, LabelId, Longest, Render, Starts, Token};
use crate::flow::{Direction, FiveTuple, Session, SessionPacket};
use crate::mamba::{Batch, Loss, Mamba, MambaConfig, Params, State};
use crate::packet::{LinkType, Packet, Timestamp};

/// A session of packets with these bytes, a millisecond apart.
pub(crate) fn session(packets: &[&[u8]]) -> Session {
    let host = "127.0.0.1".parse().unwrap();
    let tuple = FiveTuple { orig: host, resp: host, orig_port: 1, resp_port: 2, protocol: 17 };
    let packet = |(i, data): (usize, &&[u8])| SessionPacket {
        flow: 0,
        direction: Direction::Orig,
        packet: Packet {
            ts: Timestamp(i as i64 * 1_000_000),
            linktype: LinkType::RAW,
            len: data.len() as u32,
            data: data.to_vec(),
        },
    };
    Session { flows: vec![tuple], packets: packets.iter().enumerate().map(packet).collect() }
}

/// A batch without rows, to be filled.
pub(crate) fn empty_batch() -> Batch {
    Batch { b: 0, l: 0, tokens: Vec::new(), targets: Vec::new(), starts: Vec::new() }
}

/// A codec of nibbles: 0 to 15, 16 ends a sample, 17 stands between packets, 18 and up are labels.
pub(crate) struct NibbleCodec {
    labels: Vec<String>,
}

impl NibbleCodec {
    pub(crate) fn new(labels: &[&str]) -> Self {
        Self { labels: labels.iter().map(ToString::to_string).collect() }
    }

    /// Builds it from what [`Codec::spec`] said, as `codec::from_spec` would.
    pub(crate) fn from_spec(spec: CodecSpec, _tokenizer: &str) -> Result<Box<dyn Codec>, crate::codec::CodecError> {
        let CodecSpec::Bytes(spec) = spec else { panic!("the test codec is stored as bytes") };
        Ok(Box::new(Self { labels: spec.labels }))
    }
}

impl Codec for NibbleCodec {
    fn name(&self) -> &'static str {
        "nibble"
    }
    fn vocab_size(&self) -> usize {
        18 + self.labels.len()
    }
    fn labels(&self) -> &[String] {
        &self.labels
    }
    fn label_token(&self, label: LabelId) -> Token {
        Token(18 + u32::from(label.0))
    }
    fn end_token(&self) -> Token {
        Token(16)
    }
    fn ends_packet(&self, token: Token) -> bool {
        token.0 == 17
    }
    fn linktype(&self) -> LinkType {
        LinkType::RAW
    }
    fn encode(&self, label: LabelId, session: &Session, ret: &mut Vec<Token>) -> usize {
        self.encode_prompt(label, session, usize::MAX, ret);
        *ret.last_mut().unwrap() = Token(16);
        session.packets.len()
    }
    fn encode_prompt(&self, label: LabelId, session: &Session, packets_max: usize, ret: &mut Vec<Token>) {
        ret.push(self.label_token(label));
        for packet in session.packets.iter().take(packets_max) {
            ret.extend(packet.packet.data.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| Token(u32::from(n))));
            ret.push(Token(17));
        }
    }
    fn decode(&self, tokens: &[Token], render: &mut Render) -> Decoded {
        let mut decoded = Decoded::default();
        let mut ts = render.start;
        for part in tokens.split_inclusive(|t| t.0 == 16 || t.0 == 17) {
            let nibbles: Vec<u8> = part.iter().filter(|t| t.0 < 16).map(|t| t.0 as u8).collect();
            let is_whole = part.last().is_some_and(|t| t.0 == 16 || t.0 == 17);
            if nibbles.is_empty() || nibbles.len() % 2 == 1 || !is_whole {
                decoded.malformed_packets += 1;
                decoded.malformed_tokens += part.len() as u64;
                continue;
            }
            let data: Vec<u8> = nibbles.chunks(2).map(|n| n[0] << 4 | n[1]).collect();
            decoded.packets.push(Packet { ts, linktype: LinkType::RAW, len: data.len() as u32, data });
            ts = ts.plus_nanos((rand::Rng::next_u64(&mut render.rng) % 10_000_000) as i64);
        }
        decoded
    }
    fn token_text(&self, token: Token) -> String {
        token.0.to_string()
    }
    fn tokenizer_json(&self) -> String {
        r#"{"version": "1.0"}"#.into()
    }
    fn spec(&self) -> CodecSpec {
        let (vocab, keep, gaps, longest) = (Vocab::Byte, Keep::Whole, GapTable::default(), Longest::default());
        CodecSpec::Bytes(BytesSpec {
            vocab,
            keep,
            labels: self.labels.clone(),
            gaps,
            longest,
            starts: Starts::default(),
        })
    }
}

/// A softmax over two tokens of context: logits = E[this] + E[the one before] / 2, with the embedding rows as table.
///
/// The token before lives in the recurrent state, so that carrying, resetting and copying states can be tested. With p
/// the softmax and e the target's unit vector, the gradient is p - e for E[this] and half of it for E[the one before].
pub(crate) struct Bigram {
    params: Params,
}

impl Bigram {
    pub(crate) fn config(vocab_size: usize) -> MambaConfig {
        MambaConfig::new(vocab_size, vocab_size, 1)
    }

    pub(crate) fn zeros(vocab_size: usize) -> Self {
        Self { params: Params::zeros(&Self::config(vocab_size)) }
    }

    pub(crate) fn random(vocab_size: usize, seed: u64) -> Self {
        let mut model = Self::zeros(vocab_size);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for x in &mut model.params.data {
            *x = (rand::Rng::next_u64(&mut rng) >> 40) as f32 / (1 << 22) as f32 - 2.0;
        }
        model
    }

    pub(crate) fn new(params: Params) -> Self {
        Self { params }
    }

    fn logits(&self, before: Option<usize>, this: usize) -> Vec<f32> {
        let v = self.params.config().vocab_size;
        let row = |t: usize| &self.params.data[t * v..(t + 1) * v];
        match before {
            None => row(this).to_vec(),
            Some(before) => row(this).iter().zip(row(before)).map(|(a, b)| a + 0.5 * b).collect(),
        }
    }

    /// The token before the next one of `stream`, and where the state keeps it.
    fn before(state: &State, stream: usize) -> (Option<usize>, usize) {
        let at = stream * (state.ssm.len() / state.b);
        (if state.ssm[at] == 0.0 { None } else { Some(state.ssm[at] as usize - 1) }, at)
    }

    fn walk(&self, batch: &Batch, state: &mut State, mut gradients: Option<(f32, &mut Params)>) -> Loss {
        let v = self.params.config().vocab_size;
        let mut loss = Loss::default();
        for row in 0..batch.b {
            for i in row * batch.l..(row + 1) * batch.l {
                let (before, at) = Self::before(state, row);
                let before = before.filter(|_| !batch.starts[i]);
                let this = batch.tokens[i].0 as usize;
                state.ssm[at] = (this + 1) as f32;
                if batch.targets[i] == Batch::IGNORE {
                    continue;
                }
                let target = batch.targets[i].0 as usize;
                let logits = self.logits(before, this);
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
                loss.nats += sum.ln() - f64::from(logits[target] - max);
                loss.count += 1;
                if let Some((scale, gradients)) = &mut gradients {
                    for (j, x) in logits.iter().enumerate() {
                        let p = (f64::from(x - max).exp() / sum) as f32;
                        let g = *scale * (p - f32::from(u8::from(j == target)));
                        gradients.data[this * v + j] += g;
                        if let Some(before) = before {
                            gradients.data[before * v + j] += 0.5 * g;
                        }
                    }
                }
            }
        }
        loss
    }
}

impl Mamba for Bigram {
    fn params(&self) -> &Params {
        &self.params
    }
    fn set_params(&mut self, data: &[f32]) {
        self.params.data.copy_from_slice(data);
    }
    fn forward(&mut self, tokens: &[Token], state: &mut State) -> Vec<f32> {
        let (v, l) = (self.params.config().vocab_size, tokens.len() / state.b);
        let mut ret = Vec::with_capacity(tokens.len() * v);
        for (i, token) in tokens.iter().enumerate() {
            let (before, at) = Self::before(state, i / l);
            ret.extend(self.logits(before, token.0 as usize));
            state.ssm[at] = (token.0 + 1) as f32;
        }
        ret
    }
    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss {
        self.walk(batch, state, None)
    }
    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss {
        self.walk(batch, state, Some((scale, gradients)))
    }
    fn step(&mut self, tokens: &[Token], state: &mut State, ret_logits: &mut [f32]) {
        ret_logits.copy_from_slice(&self.forward(tokens, state));
    }
}
