//! The `wire` codec: the model decides, the renderer computes.
//!
//! A sample is a label, the packets of a session in the order of their times, and `<|endoftext|>`. The tokens of a
//! packet say what its sender decided, relative to what both sides did before; `decode` computes everything else.
//!
//! # The language
//!
//! ```text
//! sample  = label packet* <|endoftext|>
//! packet  = gap ( flow | open ) head length piece* [ fix ]
//!         | gap raw n n n byte*                                     (only without loss)
//! gap     = [ back ] gap:E [ gap:/M ]
//! flow    = flow:S> | flow:S<
//! open    = open:P [ port sport ] host
//! port    = port:N | port:eph | port:num b b
//! sport   = sport:eph | sport:same | sport:num b b
//! host    = host:new | host:I | host:bcast | host:group b{4 or 16}
//! head    = [ ttl b ] [ tos b ] [ df:flip ] [ id:flip ] ( tcp | icmp | )
//! tcp     = [ seq ] flags:F [ ack:same | ack:lagK ] [ win:W [ b ] ] [ option* | opt:none ]
//! seq     = seq:hole b b | seq:keepalive | seq:reK
//! option  = mss b b | ws b | sackok | ts | nop | eol | sackN | opt:other b b
//! icmp    = b b                                                     (type and code)
//! length  = len:0 | len:max | len:same | len:H*256 b | len:num b b
//! piece   = b | string | same:N | same:rest | peer:N | peer:rest | inc2
//!         | opaque:N | opaque:rest | text:rest | zero:rest | quad:N | quote
//!         | name:new b | name:I | dns:new b | dns:I | tls:T ( record:rest | b b )
//! fix     = fix n n n byte*                                         (only without loss)
//! ```
//!
//! `b` is a byte (`00` to `ff`); numbers of several bytes have the high one first.
//!
//! - **Time.** `gap:E` is 0, or the bit length of the nanoseconds since the packet before; from 2 on `gap:/M` follows, the
//!   six bits after the leading one. The gap is the middle of what has these bits: at most 0.8 % off.
//! - **Flows.** 32 slots. `open` takes the first slot whose TCP flow is closed, else the first unused one, else the one
//!   that was silent longest; its packet comes from the opener. `flow:S>` is a packet of the opener, `flow:S<` one of the
//!   responder. `host:I` is the responder of an earlier flow, the latest used first.
//! - **What becomes of a flow** is told where it opens: whether it ends by FINs (`ends:fin`) or by a reset, and about how many packets
//!   its sample has (`packets:N`, the fewest of a class; two classes for each power of two). A prompt that ends with its session does
//!   not tell. The grammar keeps flows to it, and to services and lengths that were seen of the label ([`habits`]).
//! - **What is not said is as before**: ttl, tos, df, and whether identifications count (`id:flip`), by side; for a
//!   side's first packet as the same role of another flow had it last. `win` is the class of the window and a byte
//!   within it (exact below 4,096; above, the number that the label's flows had most often). Without options a segment has timestamps when this side's last one and the other
//!   side's last one had them, else none.
//! - **Numbers.** A SYN has sequence number 0 and counts as one, as does a FIN; a flow seen from its middle begins at 1.
//!   A segment begins where the last one ended, `seq:hole n` n bytes later (the bytes between exist and were not seen),
//!   `seq:keepalive` one before, `seq:reK` at the K-th last of the 48 latest segment bounds (where segments began, and where
//!   repeated ones ended). It acknowledges all that arrived without a hole, `ack:same` what this side acknowledged last,
//!   `ack:lagK` up to the K-th last bound of the other side. SACK blocks are what arrived behind holes, the latest first.
//! - **Payload.** Bytes of a stream that were sent or skipped before come from there; pieces say the others, until the
//!   length is reached. `rest` is the end of the TLS record or of the payload, whichever comes first. `same` and `peer`
//!   are the bytes at this place of the last message of this or the other side (512 bytes are kept), `inc2` two of
//!   this side's plus one. A message is a payload after one of the other side or after a pushed one; every UDP payload is
//!   one. `tls:T` is a record header, with the record's length; records follow one another through the stream.
//! - **Identifiers.** `name` and `dns` (labels without the final zero) are a name of the session, new with the length of
//!   its text or one of the last 8; `quad` is an IPv4 address in text. [`Plan`] says what they are
//!   called when rendered. A name of 30 bytes at a port of NetBIOS is rendered in its encoding. Where identifiers stand is the
//!   business of [`names`](crate::wire::names).
//! - **Applications.** The grammar lets both sides of a TCP flow begin as one application, and as the one that the port is
//!   assigned to, unless the traffic of the label is known to depart from that ([`WireSpec::departures`]). Messages of DNS, CoAP,
//!   DHCP, ISAKMP and NetBIOS' name service fill their datagrams, hellos and messages of TLS their records.
//! - **Without loss** ([`lossless`]) the same tokens are followed by `fix` and a patch where the rendered frame differs
//!   from the captured one, from which both ends learn addresses, numbers and clocks; what has no structure is `raw`.
//!
//! # Who decides what
//!
//! | field | |
//! |---|---|
//! | time, which flow, direction, protocol, responder's port | model |
//! | TTL, DSCP/ECN, DF, whether IP ids count, TCP flags, window, MSS, window scale, which options | model |
//! | retransmission, gap, reordering, keep-alive, how far an acknowledgement lags, number of SACK blocks | model |
//! | how a flow ends and about how many packets it has, from its beginning on | model |
//! | payload length, message structure, literal bytes, TLS record types and lengths, repetition of earlier messages | model |
//! | sequence and acknowledgement numbers, SACK edges, TCP timestamps, IP ids, all lengths and checksums | renderer, from state |
//! | addresses, MACs, VLAN, ephemeral ports, initial sequence numbers, names, addresses in text | renderer, from the plan |
//! | opaque payload, text beyond a message's beginning, certificates of TLS | renderer, drawn |
//! | hardware address, own addresses in DHCP where they are opaque | renderer, from the frame |

mod action;
pub mod application;
mod decode;
pub mod dictionary;
mod dns;
mod encode;
mod exchange;
mod facts;
mod fix;
mod grammar;
pub mod habits;
mod handshake;
mod http;
mod learn;
pub mod lossless;
mod outlook;
mod renderer;
mod script;
mod side;
mod steps;
mod talk;
#[cfg(test)]
mod tests;
mod tokenizer;
mod vocab;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub use self::decode::Decoder;
use self::dictionary::Dictionary;
use self::encode::Encoder;
use self::grammar::Strict;
use self::habits::Habits;
use self::script::WireScript;
use self::talk::Departures;
use self::vocab::{Tok, Vocab};
use self::walk::Walk;
use super::{
    CaptureStarts, Codec, CodecError, CodecSpec, Decoded, GapHistogram, Grammar, LabelId, Longest, Render, Script,
    Starts, Token,
};
use crate::flow::Session;
use crate::packet::LinkType;
use crate::wire::plan::Plan;

/// Strings that [`WireCodec::fit`] learns unless told otherwise.
pub const STRINGS_DEFAULT: usize = 1024;

/// Everything that makes a [`WireCodec`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireSpec {
    /// The labels, in the order of [`LabelId`].
    pub labels: Vec<String>,
    /// The dictionary, each string in hexadecimal digits, in the order of its tokens.
    pub strings: Vec<String>,
    /// Whether names stand as they are captured, and are learned with everything else.
    pub keep_names: bool,
    /// Who the rendered hosts are.
    pub plan: Plan,
    /// Who they are in samples of some labels, in place of `plan`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_plans: BTreeMap<String, Plan>,
    /// By label, ports whose flows are not of the application that the port is assigned to: over TCP they do not begin as it does
    /// (SSH at port 443), over UDP they are no messages of DNS, CoAP, DHCP or NetBIOS. Elsewhere they are when generated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub departures: BTreeMap<String, Vec<u16>>,
    /// How long samples were, by label.
    #[serde(default, skip_serializing_if = "Longest::is_empty")]
    pub longest: Longest,
    /// How samples followed one another, by label.
    #[serde(default, skip_serializing_if = "Starts::is_empty")]
    pub starts: Starts,
    /// Whether it is told of a flow where it opens how it ends and how long it is: not in codecs from before that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foretells: bool,
    /// What flows of each label do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub habits: BTreeMap<String, habits::Label>,
}

/// The plan for each label, and the one for samples without one.
#[derive(Debug, Clone)]
struct Plans {
    default: Arc<Plan>,
    /// By label, where it has its own.
    labels: Arc<[Option<Arc<Plan>>]>,
}

impl Plans {
    fn of(&self, label: Option<LabelId>) -> &Arc<Plan> {
        let own = label.and_then(|label| self.labels.get(usize::from(label.0))?.as_ref());
        own.unwrap_or(&self.default)
    }
}

/// See the module.
#[derive(Debug)]
pub struct WireCodec {
    labels: Vec<String>,
    dictionary: Dictionary,
    keep_names: bool,
    plans: Plans,
    departures: Departures,
    longest: Longest,
    starts: Starts,
    habits: Habits,
    vocab: Vocab,
    /// The sample that was not begun yet; cloned for each.
    blank: Walk,
    packets_left_out: AtomicU64,
}

impl WireCodec {
    /// A codec for `labels` whose dictionary has at most `strings_max` strings, learned from `samples`.
    ///
    /// # Errors
    /// Labels that cannot be tokens.
    pub fn fit(
        labels: Vec<String>,
        strings_max: usize,
        keep_names: bool,
        plan: Plan,
        samples: &[(LabelId, Session)],
    ) -> Result<Self, CodecError> {
        let bare = Self::new(labels.clone(), Dictionary::new(Vec::new())?, keep_names, plan.clone())?;
        let runs = if strings_max == 0 { Vec::new() } else { bare.literal_runs(samples) };
        let mut ret = Self::new(labels, Dictionary::train(&runs, strings_max)?, keep_names, plan)?.foretelling();
        ret.learn(samples);
        Ok(ret)
    }

    /// Builds the codec that [`Codec::spec`] describes.
    ///
    /// # Errors
    /// A contradiction in `spec`, or a `tokenizer.json` of another codec.
    pub fn from_spec(spec: WireSpec, tokenizer_json: &str) -> Result<Self, CodecError> {
        let ret = Self::build(spec)?;
        tokenizer::check(tokenizer_json, &ret.token_names())?;
        Ok(ret)
    }

    /// The codec of `spec` with those of `labels` that it lacks behind its own: all other tokens keep their numbers.
    ///
    /// # Errors
    /// A contradiction in `spec`, or labels that cannot be tokens.
    pub fn with_labels(mut spec: WireSpec, labels: &[String]) -> Result<Self, CodecError> {
        for label in labels {
            if !spec.labels.contains(label) {
                spec.labels.push(label.clone());
            }
        }
        Self::build(spec)
    }

    fn build(spec: WireSpec) -> Result<Self, CodecError> {
        let strings = spec.strings.iter().map(|s| tokenizer::from_hex(s)).collect::<Option<Vec<_>>>();
        let strings = strings.ok_or_else(|| CodecError::Spec("a string is not in hexadecimal digits".into()))?;
        let mut ret = Self::new(spec.labels, Dictionary::new(strings)?, spec.keep_names, spec.plan)?;
        if spec.foretells {
            ret = ret.foretelling();
        }
        let mut plans = vec![None; ret.labels.len()];
        for (label, plan) in spec.label_plans {
            let Some(id) = ret.labels.iter().position(|known| *known == label) else {
                let known = ret.labels.join(", ");
                return Err(CodecError::Spec(format!("addresses are given for {label}, but the labels are: {known}")));
            };
            plan.validate().map_err(|why| CodecError::Spec(format!("addresses of {label}: {why}")))?;
            plans[id] = Some(Arc::new(plan));
        }
        ret.plans.labels = plans.into();
        let of_label = |label| spec.departures.get(label).cloned().unwrap_or_default();
        ret.departures = Departures::new(ret.labels.iter().map(of_label).collect());
        (ret.longest, ret.starts) = (spec.longest, spec.starts);
        for (label, habits) in &spec.habits {
            habits::checked(habits).map_err(|why| CodecError::Spec(format!("habits of {label}: {why}")))?;
        }
        ret.habits = Habits::new(ret.labels.iter().map(|label| spec.habits.get(label).cloned()));
        Ok(ret)
    }

    /// The codec of `spec` with tokens for what is told of flows where they open. They stand in front of the labels, which get other
    /// numbers.
    ///
    /// # Errors
    /// A contradiction in `spec`.
    pub fn that_foretells(spec: WireSpec) -> Result<Self, CodecError> {
        Self::build(WireSpec { foretells: true, ..spec })
    }

    /// Learns from `samples` what their labels' flows do: at which ports they depart from what the port promises, which services they go
    /// to, how they end, how long they are. What is known of that stays.
    pub fn learn(&mut self, samples: &[(LabelId, Session)]) {
        self.departures = self.departures.with(&self.learn_departures(samples), self.labels.len());
        self.longest.record(&self.labels, samples);
        if self.vocab.foretells {
            self.habits = self.habits.with(self.learn_habits(samples), self.labels.len());
        }
    }

    /// Learns from when samples of captures began how those of each label follow one another, see [`Starts::learn`].
    pub fn learn_starts(&mut self, captures: &[CaptureStarts]) {
        self.starts.learn(&self.labels, captures);
    }

    /// A codec that has learned nothing and tells nothing of flows where they open.
    fn new(labels: Vec<String>, dictionary: Dictionary, keep_names: bool, plan: Plan) -> Result<Self, CodecError> {
        if labels.is_empty() {
            return Err(CodecError::Spec("no label is given, a sample needs one".to_owned()));
        }
        super::bytes::text::check_labels(&labels)?;
        plan.validate().map_err(|why| CodecError::Spec(format!("addresses: {why}")))?;
        let strings = dictionary.strings().clone();
        let vocab = Vocab { strings: strings.len(), foretells: false, labels: labels.len() };
        let blank = Walk::new(vocab, strings);
        let packets_left_out = AtomicU64::new(0);
        let plans = Plans { default: Arc::new(plan), labels: vec![None; labels.len()].into() };
        let (departures, longest, habits) = (Departures::default(), Longest::default(), Habits::default());
        let starts = Starts::default();
        Ok(Self {
            labels,
            dictionary,
            keep_names,
            plans,
            departures,
            longest,
            starts,
            habits,
            vocab,
            blank,
            packets_left_out,
        })
    }

    /// The same codec with tokens for what is told of flows where they open.
    fn foretelling(mut self) -> Self {
        self.vocab.foretells = true;
        self.blank = Walk::new(self.vocab, self.blank.shared_strings());
        self
    }

    /// The same codec rendering for other hosts, whatever the label is.
    #[must_use]
    pub fn with_plan(mut self, plan: Plan) -> Self {
        self.plans = Plans { default: Arc::new(plan), labels: vec![None; self.labels.len()].into() };
        self
    }

    /// How many packets encoding has left out since the codec was made, because they have no structure (see
    /// [`parse`](crate::wire::parse::parse)).
    pub fn packets_left_out(&self) -> u64 {
        self.packets_left_out.load(Ordering::Relaxed)
    }

    fn label_plans(&self) -> BTreeMap<String, Plan> {
        let own = self.labels.iter().zip(self.plans.labels.iter());
        own.filter_map(|(label, plan)| Some((label.clone(), (**plan.as_ref()?).clone()))).collect()
    }

    fn label_departures(&self) -> BTreeMap<String, Vec<u16>> {
        let of_label = |(i, label): (usize, &String)| {
            let ports = self.departures.of(Some(LabelId(i as u16)));
            (!ports.is_empty()).then(|| (label.clone(), ports.to_vec()))
        };
        self.labels.iter().enumerate().filter_map(of_label).collect()
    }

    fn label_habits(&self) -> BTreeMap<String, habits::Label> {
        let of_label = |(i, label): (usize, &String)| {
            let known = self.habits.of(Some(LabelId(i as u16)))?;
            Some((label.clone(), habits::Label::clone(known)))
        };
        self.labels.iter().enumerate().filter_map(of_label).collect()
    }

    /// What a sample is rendered with: its label's habits and plan.
    fn rendering(&self, tokens: &[Token]) -> (Walk, Arc<Plan>) {
        let label = script::label_of(&self.blank, tokens);
        (self.blank.clone().of_label(self.habits.of(label)), self.plans.of(label).clone())
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder::new(self.blank.clone(), &self.dictionary, self.keep_names)
    }

    /// Appends the tokens of the first `packets_max` packets that have structure; returns how many there were. All others tell what
    /// becomes of the flows; where there are none, nobody knows.
    fn push_packets(&self, session: &Session, packets_max: usize, ret: &mut Vec<Token>) -> usize {
        let (mut kept, mut left_out) = (0, 0);
        let mut encoder = self.encoder();
        if session.packets.len() <= packets_max && packets_max < usize::MAX {
            encoder.leave_untold();
        }
        let mut end = ret.len();
        for packet in &session.packets {
            match encoder.packet(&packet.packet, ret) {
                Ok(()) => {
                    kept += 1;
                    if kept <= packets_max {
                        end = ret.len();
                    }
                }
                Err(_) => left_out += 1,
            }
        }
        encoder.foretell(ret);
        ret.truncate(end);
        kept = kept.min(packets_max);
        if left_out > 0 {
            self.packets_left_out.fetch_add(left_out, Ordering::Relaxed);
        }
        kept
    }

    fn token_names(&self) -> Vec<String> {
        let toks = (0..self.vocab.size() as u32).filter_map(|id| self.vocab.tok(Token(id)));
        toks.map(|tok| self.name(tok)).collect()
    }

    fn name(&self, tok: Tok) -> String {
        match tok {
            Tok::Str(i) => tokenizer::string_name(&self.dictionary.strings()[usize::from(i)]),
            Tok::Label(label) => super::bytes::text::label_special(&self.labels[usize::from(label.0)]),
            tok => vocab::name(tok),
        }
    }
}

impl Codec for WireCodec {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn vocab_size(&self) -> usize {
        self.vocab.size()
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn label_token(&self, label: LabelId) -> Token {
        self.vocab.id(Tok::Label(label))
    }

    fn end_token(&self) -> Token {
        self.vocab.id(Tok::End)
    }

    /// Only the end: a packet ends when its length is reached, which no single token says.
    fn ends_packet(&self, token: Token) -> bool {
        token == self.end_token()
    }

    /// A gap. One that goes back has two such tokens in a row.
    fn begins_packet(&self, token: Token) -> bool {
        matches!(self.vocab.tok(token), Some(Tok::GapE(_) | Tok::Back))
    }

    fn longest(&self, label: LabelId) -> Option<u64> {
        self.longest.of(self.labels.get(usize::from(label.0))?)
    }

    fn starts(&self, label: LabelId) -> Option<&GapHistogram> {
        self.starts.of(self.labels.get(usize::from(label.0))?)
    }

    fn linktype(&self) -> LinkType {
        LinkType::ETHERNET
    }

    fn encode(&self, label: LabelId, session: &Session, ret: &mut Vec<Token>) -> usize {
        ret.push(self.label_token(label));
        let packets = self.push_packets(session, usize::MAX, ret);
        ret.push(self.end_token());
        packets
    }

    fn encode_prompt(&self, label: LabelId, session: &Session, packets_max: usize, ret: &mut Vec<Token>) {
        ret.push(self.label_token(label));
        self.push_packets(session, packets_max, ret);
    }

    fn decode(&self, tokens: &[Token], render: &mut Render) -> Decoded {
        use rand::SeedableRng;
        let rng = rand_chacha::ChaCha8Rng::from_rng(&mut render.rng);
        let (walk, plan) = self.rendering(tokens);
        let mut decoder = Decoder::new(walk, plan, rng, render.start, false);
        tokens.iter().for_each(|t| decoder.push(*t));
        decoder.finish()
    }

    fn script(&self, tokens: &[Token], packets_max: usize) -> Option<Arc<dyn Script>> {
        let (walk, plan) = self.rendering(tokens);
        Some(Arc::new(WireScript::new(&walk, plan, tokens, packets_max)?))
    }

    fn grammar(&self) -> Option<Box<dyn Grammar>> {
        Some(Box::new(Strict::new(self)))
    }

    fn token_text(&self, token: Token) -> String {
        self.vocab.tok(token).map_or_else(|| format!("<no token {}>", token.0), |tok| self.name(tok))
    }

    fn tokenizer_json(&self) -> String {
        tokenizer::json(&self.token_names())
    }

    fn spec(&self) -> CodecSpec {
        CodecSpec::Wire(WireSpec {
            labels: self.labels.clone(),
            strings: self.dictionary.strings().iter().map(|s| tokenizer::to_hex(s)).collect(),
            keep_names: self.keep_names,
            plan: (*self.plans.default).clone(),
            label_plans: self.label_plans(),
            departures: self.label_departures(),
            longest: self.longest.clone(),
            starts: self.starts.clone(),
            foretells: self.vocab.foretells,
            habits: self.label_habits(),
        })
    }
}
