//! `wiremamba replay`: a capture, packets fresh from a model, or those of a plugin, onto a tap, a pair of taps, an interface or into a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args, ValueEnum};

use super::{Context, Misuse, plugin, print_json, print_status, print_text};
use crate::job::model::{self, SamplingArgs};
use crate::job::ranges;
use crate::replay::{self, Oversize, Pace, Profile, ReplayOptions, Spin};
use crate::sink::PacketSink;
use crate::sink::device::{Addressing, DeviceReport, DeviceWatch, RouterSide};
use crate::sink::interface::{InterfaceIo, InterfaceSink};
use crate::sink::pair::PairSink;
use crate::sink::savefile::{SavefileOptions, SavefileSink};
use crate::sink::tap::{TapError, TapOptions, TapSink, Truncated};
use crate::source::file::SavefileSource;
use crate::source::plugin::{PluginName, PluginSource};
use crate::source::{PacketSource, SourceError};

/// What only a model can do: everything about sampling, and about addresses but for the MTU, which is the tap's as well.
const OF_MODELS: [&str; 31] = [
    "labels",
    "mix",
    "no_mask",
    "flows",
    "packets",
    "stock",
    "stock_file",
    "stock_mib_max",
    "prompt",
    "prompt_packets",
    "prompt_sample",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "streams",
    "flow_packets_max",
    "flow_tokens_max",
    "flows_per_second",
    "concurrent",
    "start",
    "device",
    "precision",
    "client_net",
    "server_net",
    "client_net6",
    "server_net6",
    "gateway_mac",
    "vlan",
    "ipv6_percent",
    "plan_file",
];

/// `wiremamba replay`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true), group = ArgGroup::new("target").required(true))]
pub(super) struct ReplayArgs {
    /// Capture to replay; - is standard input
    #[arg(long, value_name = "FILE", group = "source", conflicts_with_all = OF_MODELS)]
    pcap: Option<PathBuf>,
    /// Library of a packet source, and its configuration
    #[arg(long, value_name = "LIB[:KEY=VALUE,…]", group = "source", conflicts_with_all = OF_MODELS)]
    plugin: Option<PluginName>,
    /// Checkpoint to generate from; base is the model that comes with the program
    #[arg(long, value_name = "DIR", group = "source", value_parser = model::folder)]
    model: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tap that the packets arrive on; made if absent, and brought up
    #[arg(long, value_name = "NAME", group = "target")]
    tap: Option<String>,
    /// Second tap: what servers send arrives here, what clients send on --tap, with a device under test between them
    #[arg(long, value_name = "NAME", requires = "tap")]
    server_tap: Option<String>,
    /// Watch what the device between the two taps does: loss, latency, reordering, rewritten addresses; as JSON into this file, or as a page where its
    /// name ends in .html
    #[arg(long, value_name = "FILE", requires = "server_tap")]
    device_report: Option<PathBuf>,
    /// The device routes, and is this host: send frames to each tap's own MAC, let hosts on the taps' networks ask for it by ARP before their
    /// first packet, and answer its own questions for every address. A router that finds its
    /// taps up needs a second before it sends: see --start-delay
    #[arg(long, requires = "device_report")]
    router: bool,
    /// Existing interface that the packets leave, towards whatever is at its other end
    #[arg(long, value_name = "NAME", group = "target")]
    interface: Option<String>,
    /// Generated packets may go onto the wire behind --interface
    #[arg(long, requires = "interface")]
    yes_on_the_wire: bool,
    /// How packets get to --interface
    #[arg(long, value_enum, default_value_t = InterfaceIo::Auto, requires = "interface")]
    io: InterfaceIo,
    /// Capture file or pipe that the packets go to, at their times; - is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE", group = "target")]
    write: Option<PathBuf>,
    /// Write a line of JSON for each flow as it was sent; see wiremamba score
    #[arg(long, value_name = "FILE")]
    ground_truth: Option<PathBuf>,
    /// Read the whole source into memory first: the fastest way to repeat it
    #[arg(short = 'K', long)]
    preload: bool,
    /// After a stall, make up for this much time at most; the rest of the schedule moves
    #[arg(long, value_name = "SECONDS", default_value = "0.1", value_parser = seconds)]
    catch_up: Duration,
    /// Leave the tap in place afterwards
    #[arg(long)]
    persist: bool,
    /// What to do with packets of which the capture holds only the beginning
    #[arg(long, value_enum, default_value_t = TruncatedArg::Pad)]
    truncated: TruncatedArg,
    /// What to do with packets longer than the MTU (of the tap, the interface, or --mtu for a file): TCP segments can be split
    /// as a network card does it, UDP and ICMP sent in IP fragments unless they forbid it; all others are refused
    #[arg(long, value_enum, default_value_t = OversizeArg::Refuse)]
    oversize: OversizeArg,
    /// Times as captured, this much faster
    #[arg(long, value_name = "X", group = "pace", default_value_t = 1.0, allow_negative_numbers = true, value_parser = ranges::above_zero)]
    multiplier: f64,
    /// Packets a second, evenly
    #[arg(long, value_name = "N", group = "pace", allow_negative_numbers = true, value_parser = ranges::above_zero)]
    pps: Option<f64>,
    /// Megabits a second
    #[arg(long, value_name = "N", group = "pace", allow_negative_numbers = true, value_parser = ranges::above_zero)]
    mbps: Option<f64>,
    /// As fast as possible
    #[arg(long, group = "pace")]
    topspeed: bool,
    /// A rate that changes over time: lines of seconds,rate below a line time,pps or time,mbps or time,multiplier; straight
    /// between two lines, and the last rate holds
    #[arg(long, value_name = "FILE.csv", group = "pace")]
    profile: Option<PathBuf>,
    /// Passes over the source; 0 is for ever
    #[arg(long = "loop", value_name = "N", default_value_t = 1)]
    loops: u64,
    /// Stop after this many packets
    #[arg(long, visible_alias = "count", value_name = "N")]
    limit: Option<u64>,
    /// Stop after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Longest pause between two packets; longer ones of the capture are cut
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    max_gap: Duration,
    /// Spin this long before each deadline instead of sleeping; 0 never spins [default: measured]
    #[arg(long, value_name = "MICROSECONDS")]
    spin_us: Option<u64>,
    /// Let idle processors sleep deeply: saves power, and wake-ups come later [default: held awake, where permitted]
    #[arg(long)]
    let_idle: bool,
    /// Wait before the first packet, so that a sniffer can attach
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    start_delay: Duration,
    /// Time between two status lines
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    report_every: Duration,
    /// Print JSON: an object for each status line, and one at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TruncatedArg {
    /// Fill with zeros to the length on the wire
    Pad,
    /// Leave out, and count
    Skip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OversizeArg {
    /// Leave out, and count
    Refuse,
    /// Split TCP segments, fragment UDP and ICMP, and count; leave out all others
    Split,
}

fn seconds(s: &str) -> Result<Duration, String> {
    let seconds: f64 = s.parse().map_err(|_| format!("{s:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

pub(super) fn run(args: ReplayArgs, context: &Context) -> Result<()> {
    if args.model.is_some() && args.loops != 1 {
        return Err(Misuse(
            "--loop repeats a capture; a model has endless new flows (leave out --flows and --packets)".into(),
        )
        .into());
    }
    if args.json && args.write.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        return Err(Misuse("--json and -w - both write to standard output".into()).into());
    }
    if let Some(name) = args.interface.as_ref().filter(|_| !args.yes_on_the_wire) {
        return Err(Misuse(format!(
            "what leaves {name} is real to whatever is behind it: add --yes-on-the-wire if that is a laboratory"
        ))
        .into());
    }
    if args.tap.is_some() && args.tap == args.server_tap {
        return Err(Misuse("--tap and --server-tap are the same: the device under test needs two".into()).into());
    }
    if let Some(path) = &args.device_report {
        // What cannot be written should not cost a replay to find out.
        File::options().append(true).create(true).open(path).with_context(|| cannot_report(path))?;
    }
    let mut options = options(&args)?;
    // A model or a capture that cannot be opened should not leave a tap behind: open it first.
    let mut first: Option<Box<dyn PacketSource + Send>> = Some(match (&args.pcap, &args.model, &args.plugin) {
        (Some(pcap), _, _) => Box::new(SavefileSource::open(pcap)?),
        (_, Some(dir), _) => {
            let source = model::source(dir, &args.sampling)?;
            options.labels = source.traffic.labels().to_vec();
            options.stock = Some(source.stock());
            Box::new(source)
        }
        (_, _, Some(name)) => Box::new(plugin::open(name)?),
        (None, None, None) => return Err(Misuse("give --pcap, --model or --plugin".into()).into()),
    });
    let (mut sink, watched) = sink(&args, &options.labels)?;
    let (pcap, plugin) = (args.pcap.clone(), args.plugin.clone());
    let open = move || match (first.take(), &pcap, &plugin) {
        (Some(source), _, _) => Ok(source),
        (None, Some(pcap), _) => Ok(Box::new(SavefileSource::open(pcap)?) as Box<dyn PacketSource + Send>),
        (None, None, Some(name)) => Ok(Box::new(PluginSource::open(name).map_err(SourceError::Plugin)?) as _),
        (None, None, None) => unreachable!("a model is replayed once"),
    };
    let quiet = context.quiet;
    let outcome = replay::run(open, sink.as_mut(), &options, &context.stop, |counters| {
        let said = if args.json {
            print_json(counters)
        } else if quiet {
            Ok(())
        } else {
            print_status(&counters.to_string());
            Ok(())
        };
        if let Err(error) = said {
            tracing::debug!(%error, "status line not written");
        }
    });
    // What was done is told also when it failed half-way.
    let counters = match &outcome {
        Ok(counters) => Some(counters),
        Err(error) => error.counters(),
    };
    let is_stdout_taken = args.write.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if let Some(counters) = counters {
        match (args.json, is_stdout_taken) {
            (true, _) => print_json(counters)?,
            (false, false) => print_text(&format!("{counters}\n"))?,
            (false, true) if quiet => {}
            (false, true) => print_status(&counters.to_string()),
        }
    }
    if let (Some(path), Some(report)) = (&args.device_report, watched.and_then(|watched| watched.lock().ok()?.take())) {
        let is_page = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("html"));
        let text = if is_page { report.page() } else { serde_json::to_string_pretty(&report)? };
        std::fs::write(path, text).with_context(|| cannot_report(path))?;
        if !args.json {
            print_text(&format!("{report}\n"))?;
        }
    }
    outcome?;
    Ok(())
}

fn cannot_report(path: &Path) -> String {
    format!("cannot write the report on the device to {}", path.display())
}

fn options(args: &ReplayArgs) -> Result<ReplayOptions> {
    Ok(ReplayOptions {
        pace: match (args.pps, args.mbps, args.topspeed, &args.profile) {
            (Some(pps), _, _, _) => Pace::PacketsPerSecond(pps),
            (_, Some(mbps), _, _) => Pace::MegabitsPerSecond(mbps),
            (_, _, true, _) => Pace::TopSpeed,
            (_, _, _, Some(path)) => Pace::Profile(Arc::new(Profile::read(path)?)),
            _ => Pace::Capture { multiplier: args.multiplier },
        },
        live: None,
        loops: args.loops,
        limit: args.limit,
        duration: args.duration,
        gap_max: args.max_gap,
        oversize: match args.oversize {
            OversizeArg::Refuse => Oversize::Refuse,
            OversizeArg::Split => Oversize::Split,
        },
        mtu: args.sampling.plan.mtu.map(u32::from),
        spin: args.spin_us.map_or(Spin::Adaptive, |us| Spin::Fixed(Duration::from_micros(us))),
        keep_awake: !args.let_idle,
        catch_up_max: args.catch_up,
        preload: args.preload,
        truth: args.ground_truth.clone(),
        labels: Vec::new(),
        stock: None,
        start_delay: args.start_delay,
        report_every: args.report_every,
    })
}

/// Where the report on a device will be.
type Watched = Option<Arc<Mutex<Option<DeviceReport>>>>;

fn router_side(tap: &TapSink) -> Result<RouterSide> {
    let mac = tap.mac().with_context(|| format!("the tap {} has no MAC", tap.name()))?;
    Ok(RouterSide { mac, addresses: tap.ipv4_addresses()? })
}

fn sink(args: &ReplayArgs, labels: &[String]) -> Result<(Box<dyn PacketSink>, Watched)> {
    let truncated = match args.truncated {
        TruncatedArg::Pad => Truncated::Pad,
        TruncatedArg::Skip => Truncated::Skip,
    };
    let tap = |name: &str| {
        let options = TapOptions {
            name: name.to_owned(),
            persist: args.persist,
            mtu: args.sampling.plan.mtu.map(u32::from),
            truncated,
        };
        let tap = TapSink::open(&options)?;
        tracing::info!(tap = tap.name(), created = tap.created(), mtu = tap.mtu(), "replaying");
        Ok::<_, TapError>(tap)
    };
    let sink: Box<dyn PacketSink> = match (&args.tap, &args.server_tap, &args.interface, &args.write) {
        (Some(client), Some(server), _, _) => {
            let (client, server) = (tap(client)?, tap(server)?);
            if args.device_report.is_none() {
                return Ok((Box::new(PairSink::new(client, server)), None));
            }
            let addressing = if args.router {
                Addressing::Routed(Box::new([router_side(&client)?, router_side(&server)?]))
            } else {
                Addressing::AsTheyAre
            };
            let watch = DeviceWatch::start(client.reader()?, server.reader()?, addressing, labels.to_vec())?;
            let (sink, watched) = PairSink::new(client, server).watched_by(watch);
            return Ok((Box::new(sink), Some(watched)));
        }
        (Some(name), None, _, _) => Box::new(tap(name)?),
        (None, _, Some(name), _) => Box::new(InterfaceSink::open(name, args.io, truncated)?),
        (None, _, None, Some(path)) => Box::new(SavefileSink::create(path, SavefileOptions::default())?),
        (None, _, None, None) => return Err(Misuse("give --tap, --interface or -w".into()).into()),
    };
    Ok((sink, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_refused_together_with_every_option_of_models() {
        let known = SamplingArgs::augment_args(clap::Command::new("x"));
        let known = known.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| *id != "mtu");
        assert_eq!(known.collect::<std::collections::BTreeSet<_>>(), OF_MODELS.into_iter().collect());
    }
}
