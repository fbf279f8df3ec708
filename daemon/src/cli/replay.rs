//! `wiremamba replay`: a capture, packets fresh from a model, or those of a plugin, onto a tap.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Context, Misuse, plugin, print_json, print_status, print_text};
use crate::job::model::{self, SamplingArgs};
use crate::replay::{self, Pace, ReplayOptions, Spin};
use crate::sink::tap::{TapOptions, TapSink, Truncated};
use crate::source::file::SavefileSource;
use crate::source::plugin::{PluginName, PluginSource};
use crate::source::{PacketSource, SourceError};

/// `wiremamba replay`
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Capture to replay; - is standard input
    #[arg(long, value_name = "FILE", required_unless_present_any = ["model", "plugin"], conflicts_with_all = ["model", "plugin"])]
    pcap: Option<PathBuf>,
    /// Library of a packet source, and its configuration
    #[arg(long, value_name = "LIB[:KEY=VALUE,…]", conflicts_with = "model")]
    plugin: Option<PluginName>,
    /// Checkpoint to generate from
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tap that the packets arrive on; made if absent, and brought up
    #[arg(long, value_name = "NAME")]
    tap: String,
    /// Leave the tap in place afterwards
    #[arg(long)]
    persist: bool,
    /// MTU of the tap [default: its own]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// What to do with packets of which the capture holds only the beginning
    #[arg(long, value_enum, default_value_t = TruncatedArg::Pad)]
    truncated: TruncatedArg,
    /// Times as captured, this much faster
    #[arg(long, value_name = "X", group = "pace", default_value_t = 1.0)]
    multiplier: f64,
    /// Packets a second, evenly
    #[arg(long, value_name = "N", group = "pace")]
    pps: Option<f64>,
    /// Megabits a second
    #[arg(long, value_name = "N", group = "pace")]
    mbps: Option<f64>,
    /// As fast as possible
    #[arg(long, group = "pace")]
    topspeed: bool,
    /// Passes over the source; 0 is for ever
    #[arg(long = "loop", value_name = "N", default_value_t = 1)]
    loops: u64,
    /// Stop after this many packets
    #[arg(long, value_name = "N")]
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

fn seconds(s: &str) -> Result<Duration, String> {
    let seconds: f64 = s.parse().map_err(|_| format!("{s:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

pub(super) fn run(args: ReplayArgs, context: &Context) -> Result<()> {
    let options = ReplayOptions {
        pace: match (args.pps, args.mbps, args.topspeed) {
            (Some(pps), _, _) => Pace::PacketsPerSecond(pps),
            (_, Some(mbps), _) => Pace::MegabitsPerSecond(mbps),
            (_, _, true) => Pace::TopSpeed,
            _ => Pace::Capture { multiplier: args.multiplier },
        },
        loops: args.loops,
        limit: args.limit,
        duration: args.duration,
        gap_max: args.max_gap,
        spin: args.spin_us.map_or(Spin::Adaptive, |us| Spin::Fixed(Duration::from_micros(us))),
        start_delay: args.start_delay,
        report_every: args.report_every,
    };
    // A model or a capture that cannot be opened should not leave a tap behind: open it first.
    let mut first: Option<Box<dyn PacketSource>> = Some(match (&args.pcap, &args.model, &args.plugin) {
        (Some(pcap), _, _) => Box::new(SavefileSource::open(pcap)?),
        (_, Some(dir), _) => Box::new(model::source(dir, &args.sampling)?),
        (_, _, Some(name)) => Box::new(plugin::open(name)?),
        (None, None, None) => return Err(Misuse("give --pcap, --model or --plugin".into()).into()),
    });
    if args.model.is_some() && args.loops != 1 {
        return Err(Misuse(
            "--loop repeats a capture; a model has endless new flows (leave out --flows and --packets)".into(),
        )
        .into());
    }
    let mut tap = TapSink::open(&TapOptions {
        name: args.tap.clone(),
        persist: args.persist,
        mtu: args.mtu,
        truncated: match args.truncated {
            TruncatedArg::Pad => Truncated::Pad,
            TruncatedArg::Skip => Truncated::Skip,
        },
    })?;
    tracing::info!(tap = tap.name(), created = tap.created(), mtu = tap.mtu(), "replaying");
    let open = || match (first.take(), &args.pcap, &args.plugin) {
        (Some(source), _, _) => Ok(source),
        (None, Some(pcap), _) => Ok(Box::new(SavefileSource::open(pcap)?) as Box<dyn PacketSource>),
        (None, None, Some(name)) => Ok(Box::new(PluginSource::open(name).map_err(SourceError::Plugin)?) as _),
        (None, None, None) => unreachable!("a model is replayed once"),
    };
    let quiet = context.quiet;
    let outcome = replay::run(open, &mut tap, &options, &context.stop, |counters| {
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
    if let Some(counters) = counters {
        if args.json { print_json(counters)? } else { print_text(&format!("{counters}\n"))? }
    }
    outcome?;
    Ok(())
}
