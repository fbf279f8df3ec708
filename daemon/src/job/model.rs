//! Opening a checkpoint to generate from it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use wiremamba_model::checkpoint::Checkpoint;
use wiremamba_model::codec::wire::WireCodec;
use wiremamba_model::codec::{CaptureStarts, Codec, CodecSpec, LabelId, Token, from_spec};
use wiremamba_model::device::Device;
use wiremamba_model::engine::{self, Precision};
use wiremamba_model::flow::Session;
use wiremamba_model::generate::{
    FlowRate, GenerateOptions, LabelChoice, Labels, Prompt, Sampling, StockKey, Traffic, TrafficOptions,
};
use wiremamba_model::packet::Timestamp;
use wiremamba_model::wire::plan::Plan;

use super::corpus::Sample;
use super::mix;
use super::plan::{PlanArgs, PlanFile};
use super::ranges;
use crate::source::flows::{ReadLimits, read_flows};
use crate::source::model::ModelSource;
use crate::source::stock::StockKeeper;

/// How to generate, as arguments of a command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generating")]
pub struct SamplingArgs {
    /// Label of the flows; may be given several times, and they take turns [default: all labels of the model]
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// Labels drawn by weight, in place of --label
    #[arg(long, value_name = "LABEL=WEIGHT,…", value_delimiter = ',', value_parser = mix::weight, conflicts_with = "labels")]
    pub mix: Vec<(String, u32)>,
    /// Draw any token, also one that leads to an invalid packet: the model as it is
    #[arg(long)]
    pub no_mask: bool,
    /// Stop after this many flows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub flows: Option<u64>,
    /// Stop after this many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub packets: Option<u64>,
    /// Generate this many flows before the first packet, then render them again with other hosts, ports, numbers and payloads, which is far faster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub stock: Option<u64>,
    /// Keep the flows of --stock in this file, and take them from there in the next run with the same model and settings
    #[arg(long, value_name = "FILE", requires = "stock")]
    pub stock_file: Option<PathBuf>,
    /// A stock is complete with the flow whose tokens would make it larger than this, in memory and in --stock-file
    #[arg(long, value_name = "MIB", default_value_t = 256, requires = "stock", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub stock_mib_max: u32,
    /// Begin each flow with the first packet of a flow of this capture
    #[arg(long, value_name = "CAPTURE")]
    pub prompt: Option<PathBuf>,
    /// Packets of a flow that --prompt takes
    #[arg(long, value_name = "N", default_value_t = 1, requires = "prompt", value_parser = ranges::at_least_one)]
    pub prompt_packets: usize,
    /// What one prompt is, as --sample of the training: a flow, or all flows of one client, interleaved
    #[arg(long, value_enum, default_value_t = Sample::Flow, requires = "prompt")]
    pub prompt_sample: Sample,
    /// Below 1 more usual, above 1 more unusual tokens; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value = "1", allow_negative_numbers = true, value_parser = ranges::temperature)]
    pub temperature: f32,
    /// Draw among the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Draw among the likeliest tokens that make up this share
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, value_parser = ranges::share)]
    pub top_p: f32,
    /// Same seed, same packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Flows decoded in one batch: changes speed and memory, not the flows
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = ranges::streams)]
    pub streams: usize,
    /// Most packets of a flow [default: twice as many as the longest flow of its label that was learned, at most 10000]
    #[arg(long, value_name = "N", value_parser = ranges::at_least_one)]
    pub flow_packets_max: Option<usize>,
    /// Most tokens of a flow
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = ranges::at_least_two)]
    pub flow_tokens_max: usize,
    /// New flows a second, on average; learned: flows of each label follow one another as those that it was learned from, and labels take
    /// no turns
    #[arg(
        long,
        visible_alias = "sessions-per-second",
        value_name = "RATE",
        default_value_t,
        allow_negative_numbers = true
    )]
    pub flows_per_second: FlowRate,
    /// Keep this many flows going at once: after the first ones, a new one begins as one ends
    #[arg(long, value_name = "N", value_parser = ranges::at_least_one)]
    pub concurrent: Option<usize>,
    /// Time of the first packet, in seconds since 1970; a capture file's last is in 2106
    #[arg(long, value_name = "SECONDS", default_value_t = 1_700_000_000, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(0..=i64::from(u32::MAX)))]
    pub start: i64,
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// How weights are held: auto, f32, bf16 or int8; less is faster, and at the edges between tokens other ones are drawn
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub precision: PrecisionArg,
    /// Who the traffic is between.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Addresses from a file: networks, gateway, VLAN, IPv6 share and MTU for all labels, and others in a section
    /// [label.NAME]. The options above hold where neither says otherwise
    #[arg(long = "plan", value_name = "FILE.toml", help_heading = "Addresses (codec wire)")]
    pub plan_file: Option<PathBuf>,
}

/// `--precision`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PrecisionArg {
    /// The fastest whose loss of quality cannot be told: bf16 on a GPU and where the CPU multiplies such numbers, f32 elsewhere
    #[default]
    Auto,
    /// 32 bits, as they were trained
    F32,
    /// 16 bits: half the memory to read
    Bf16,
    /// 8 bits: a quarter, at a small loss of quality (`bench quality` measures it)
    Int8,
}

impl PrecisionArg {
    /// What was asked for; `None` to leave it to the engine.
    fn asked(self) -> Option<Precision> {
        match self {
            PrecisionArg::Auto => None,
            PrecisionArg::F32 => Some(Precision::F32),
            PrecisionArg::Bf16 => Some(Precision::Bf16),
            PrecisionArg::Int8 => Some(Precision::Int8),
        }
    }

    /// What it is on `device`.
    pub fn on(self, device: Device) -> Precision {
        self.asked().unwrap_or_else(|| engine::decoding_precision(device))
    }
}

/// What the model that comes with the program is called wherever a model is asked for.
pub const SHIPPED: &str = "base";
/// Where it lies, seen from the program's folder: where it is installed, and in a checkout.
const SHIPPED_FOLDERS: [&str; 2] = ["../share/wiremamba/base", "../../packaging/base"];

/// The folder that a `--model` names: itself, or [`SHIPPED`] where there is no such folder here.
pub fn folder(name: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(name);
    if name != SHIPPED || path.exists() {
        return Ok(path);
    }
    let program = std::env::current_exe().and_then(|program| program.canonicalize()).map_err(|e| e.to_string())?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let candidates = SHIPPED_FOLDERS.map(|folder| beside.join(folder));
    match candidates.iter().find_map(|folder| folder.canonicalize().ok()) {
        Some(folder) => Ok(folder),
        None => {
            let [installed, checkout] = candidates.map(|folder| folder.display().to_string());
            Err(format!(
                "the model that comes with the program is neither in {installed} nor in {checkout}; name a folder"
            ))
        }
    }
}

/// A checkpoint with its codec.
pub struct Model {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its codec.
    pub codec: Arc<dyn Codec>,
}

/// Opens a checkpoint that can generate.
pub fn open(path: &Path) -> Result<Model> {
    Checkpoint::load(path)?.try_into()
}

impl TryFrom<Checkpoint> for Model {
    type Error = anyhow::Error;

    fn try_from(mut checkpoint: Checkpoint) -> Result<Self> {
        let codec = checkpoint.codec.take().with_context(|| {
            let path = checkpoint.path.display();
            format!("{path} has no wiremamba.json: it was not trained by wiremamba, so nobody knows its packets")
        })?;
        Ok(Self { checkpoint, codec: Arc::from(codec) })
    }
}

impl Model {
    /// Makes it ready to learn traffic of `labels` too: those that it lacks begin as what its own are on average. Returns which these are.
    ///
    /// # Errors
    /// Labels that cannot be tokens, or a codec that cannot have more of them.
    pub fn add_labels(&mut self, labels: &[String]) -> Result<Vec<String>> {
        let known = self.codec.labels();
        let new: Vec<String> = labels.iter().filter(|label| !known.contains(label)).cloned().collect();
        if new.is_empty() {
            return Ok(new);
        }
        let CodecSpec::Wire(spec) = self.codec.spec() else {
            let (codec, known, new) = (self.codec.name(), known.join(", "), new.join(", "));
            bail!("a model of the codec {codec} has only the labels that it was trained with, {known}; not {new}")
        };
        self.become_codec(WireCodec::with_labels(spec, &new)?);
        Ok(new)
    }

    /// Makes it ready to be told of each flow how it ends and how long it is, if it is from before that.
    ///
    /// # Errors
    /// A contradiction in what its codec says of itself.
    pub fn foretell(&mut self) -> Result<()> {
        match self.codec.spec() {
            CodecSpec::Wire(spec) if !spec.foretells => self.become_codec(WireCodec::that_foretells(spec)?),
            _ => {}
        }
        Ok(())
    }

    /// Tokens keep their meaning, whatever numbers they get; new ones begin as what labels are on average.
    fn become_codec(&mut self, codec: WireCodec) {
        let tokens = |codec: &dyn Codec| (0..codec.vocab_size() as u32).map(Token).collect::<Vec<_>>();
        let known: HashMap<String, usize> =
            tokens(&*self.codec).iter().map(|token| (self.codec.token_text(*token), token.0 as usize)).collect();
        let old: Vec<_> = tokens(&codec).iter().map(|token| known.get(&codec.token_text(*token)).copied()).collect();
        let labels = self.codec.vocab_size() - self.codec.labels().len()..self.codec.vocab_size();
        self.checkpoint.params = self.checkpoint.params.with_tokens(&old, labels);
        self.codec = Arc::new(codec);
    }
}

/// `codec` with what `samples` show of what their labels' flows do, and `starts` of how they follow one another; tokens mean what they
/// meant.
pub fn with_habits(
    codec: &Arc<dyn Codec>,
    samples: &[(LabelId, Session)],
    starts: &[CaptureStarts],
) -> Result<Arc<dyn Codec>> {
    match codec.spec() {
        CodecSpec::Wire(spec) => {
            let mut codec = WireCodec::with_labels(spec, &[])?;
            codec.learn(samples);
            codec.learn_starts(starts);
            Ok(Arc::new(codec))
        }
        CodecSpec::Bytes(mut spec) => {
            spec.starts.learn(&spec.labels, starts);
            Ok(Arc::from(from_spec(CodecSpec::Bytes(spec), &codec.tokenizer_json())?))
        }
        _ => Ok(Arc::clone(codec)),
    }
}

/// The packets that `args` ask `path` for, as a source.
pub fn source(path: &Path, args: &SamplingArgs) -> Result<ModelSource> {
    let (device, named) = args.device.resolve()?;
    let plan_file = args.plan_file.as_deref().map(PlanFile::read).transpose()?;
    let Model { checkpoint, codec } = open(path)?;
    tracing::info!(device = named, model = %checkpoint.path.display(), "generating");
    let codec = with_plan(codec, &args.plan, plan_file)?;
    let labels = match args.mix.as_slice() {
        [] => LabelChoice::InTurn(args.labels.clone()),
        mix => LabelChoice::Drawn(mix.to_vec()),
    };
    let prompts = match &args.prompt {
        Some(capture) => {
            let labels = Labels::new(&labels, args.seed, codec.as_ref())?.ids();
            prompts(capture, args.prompt_sample, args.prompt_packets, &labels, codec.as_ref())?
        }
        None => Vec::new(),
    };
    let options = TrafficOptions {
        labels,
        flows: args.flows,
        packets: args.packets,
        flow_rate: args.flows_per_second,
        concurrent: args.concurrent,
        pps: None,
        stock: args.stock,
        stock_bytes_max: args.stock_mib_max as usize * 1024 * 1024,
        start: Timestamp::from_parts(args.start, 0),
        generate: GenerateOptions {
            streams: args.streams,
            seed: args.seed,
            sampling: Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p },
            tokens_max: args.flow_tokens_max,
            packets_max: args.flow_packets_max,
            mask: !args.no_mask,
            ahead: TrafficOptions::default().generate.ahead,
        },
    };
    let made_with = format!("{named} {:?}", args.precision);
    let key = args.stock_file.as_ref().map(|_| stock_key(&checkpoint, &made_with, codec.as_ref(), &options, &prompts));
    let decoder = engine::decoder(&checkpoint.params, device, args.precision.asked())?;
    drop(checkpoint);
    let traffic = Traffic::new(decoder, Arc::clone(&codec), options.clone(), prompts)?;
    if !traffic.labels_left_out().is_empty() {
        tracing::warn!(
            labels = traffic.labels_left_out().join(", "),
            "left out: how their flows follow one another was not learned"
        );
    }
    if let (Some(per_s), None) = (traffic.learned_per_s(), options.concurrent) {
        tracing::info!("flows come as they did in what was learned, {per_s:.3} a second on average");
    }
    let source = ModelSource::new(traffic);
    match (&args.stock_file, key) {
        (Some(file), Some(key)) => {
            let keeper = StockKeeper::new(file.clone(), key, options.stock_bytes_max);
            Ok(source.with_stock_file(keeper, codec.as_ref())?)
        }
        _ => Ok(source),
    }
}

/// Everything that decides which tokens are in stock.
fn stock_key(
    checkpoint: &Checkpoint,
    made_with: &str,
    codec: &dyn Codec,
    options: &TrafficOptions,
    prompts: &[Prompt],
) -> StockKey {
    let model = checkpoint.about.as_ref().map_or("", |about| about.self_sha256.as_str());
    // Of the addresses, what limits the length of packets.
    let lengths: Vec<_> = match codec.spec() {
        CodecSpec::Wire(spec) => {
            let length = |plan: &Plan| (plan.mtu, plan.ipv6_percent.is_some());
            let all = std::iter::once((String::new(), length(&spec.plan)));
            all.chain(spec.label_plans.iter().map(|(label, plan)| (label.clone(), length(plan)))).collect()
        }
        _ => Vec::new(),
    };
    let size = options.stock.map(|stock| stock.min(options.flows.unwrap_or(u64::MAX)));
    // How many streams there are, and how far they go ahead, changes no flow.
    let generate = GenerateOptions { streams: 1, ahead: 0, ..options.generate };
    // Which labels come then, and in which order.
    let labels_by_arrivals = options.flow_rate == FlowRate::Learned;
    StockKey::of(&format!(
        "{} {model} {made_with} {generate:?} {:?} {labels_by_arrivals} {size:?} {} {lengths:?} {prompts:?}",
        env!("CARGO_PKG_VERSION"),
        options.labels,
        options.stock_bytes_max
    ))
}

/// The codec with its plan changed as `args` say, and then as `file` does.
fn with_plan(codec: Arc<dyn Codec>, args: &PlanArgs, file: Option<PlanFile>) -> Result<Arc<dyn Codec>> {
    match codec.spec() {
        CodecSpec::Wire(mut spec) => {
            spec.plan = args.apply(spec.plan);
            for plan in spec.label_plans.values_mut() {
                *plan = args.apply(plan.clone());
            }
            if let Some(file) = file {
                (spec.plan, spec.label_plans) = file.apply(spec.plan, spec.label_plans);
            }
            let built = from_spec(CodecSpec::Wire(spec), &codec.tokenizer_json());
            Ok(Arc::from(built.context("the addresses asked for cannot be")?))
        }
        // The MTU is the tap's as well.
        _ if file.is_some() || PlanArgs { mtu: None, ..args.clone() } != PlanArgs::default() => {
            bail!("the model says every byte itself (codec {}): it has no addresses to choose", codec.name())
        }
        _ => Ok(codec),
    }
}

/// Prompts made of the first packets of each sample in `capture`; labels take turns.
fn prompts(
    capture: &Path,
    sample: Sample,
    packets: usize,
    labels: &[LabelId],
    codec: &dyn Codec,
) -> Result<Vec<Prompt>> {
    let captures = crate::source::collection::from_paths(&[capture.to_owned()], None)?;
    let set = read_flows(&captures, &ReadLimits::default(), |_| {}).context("cannot read --prompt")?;
    let prompt = |(i, (_, _, session)): (usize, (usize, usize, Session))| {
        let mut tokens = Vec::new();
        let label = labels[i % labels.len()];
        codec.encode_prompt(label, &session, packets, &mut tokens);
        (label, tokens)
    };
    let prompts: Vec<_> =
        sample.make(set.flows).into_iter().enumerate().map(prompt).filter(|(_, t)| t.len() > 1).collect();
    ensure!(!prompts.is_empty(), "{} holds no flow to prompt with", capture.display());
    Ok(prompts)
}
