//! `wiremamba generate`: packets from a model into a file or a pipe.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Context, Misuse, print_json, print_status, progress};
use crate::job::model::{self, SamplingArgs};
use crate::sink::savefile::{Resolution, SavefileOptions, SavefileSink};
use crate::sink::{PacketSink, SinkError};
use crate::source::{Next, PacketSource};

/// `wiremamba generate`
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Checkpoint: a folder that train wrote, one version in it, or the model that comes with the program
    #[arg(long, value_name = "DIR", default_value = model::SHIPPED, value_parser = model::folder)]
    model: PathBuf,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Capture file to write; - is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: PathBuf,
    /// Resolution of the times in the file; some older tools read microseconds only
    #[arg(long, value_enum, default_value_t = ResolutionArg::Nano)]
    time: ResolutionArg,
    /// Print one JSON object to stdout at the end (not with -w -)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ResolutionArg {
    Nano,
    Micro,
}

/// The closing line.
#[derive(Debug, Serialize)]
struct Summary {
    flows: u64,
    packets: u64,
    bytes: u64,
    /// Packets that the file cannot hold, and why.
    refused: BTreeMap<&'static str, u64>,
    tokens: u64,
    malformed_packets: u64,
    cut_flows: u64,
    seconds: f64,
    packets_per_s: f64,
    tokens_per_s: f64,
    interrupted: bool,
}

pub(super) fn run(args: GenerateArgs, context: &Context) -> Result<()> {
    let to_stdout = args.write.as_os_str() == "-";
    if to_stdout && args.json {
        return Err(Misuse("--json and -w - both write to standard output".into()).into());
    }
    if args.sampling.flows.is_none() && args.sampling.packets.is_none() && !to_stdout {
        return Err(Misuse("say how much: --flows N or --packets N (only a pipe may be endless)".into()).into());
    }
    let mut source = model::source(&args.model, &args.sampling)?;
    let resolution = match args.time {
        ResolutionArg::Nano => Resolution::Nanos,
        ResolutionArg::Micro => Resolution::Micros,
    };
    let mut sink = SavefileSink::create(&args.write, SavefileOptions { resolution, linktype: None })?;
    let bar = progress::bar(context.quiet, args.sampling.packets, "packets");
    let started = Instant::now();
    let mut interrupted = false;
    loop {
        if context.stop.load(Ordering::Relaxed) {
            interrupted = true;
            break;
        }
        let packet = match source.next_packet()? {
            Next::Packet(packet) => packet,
            Next::Idle => continue,
            Next::End => break,
        };
        match sink.send(&packet) {
            Ok(()) => bar.inc(1),
            Err(SinkError::Closed { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    bar.finish_and_clear();
    let report = sink.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    let counters = source.traffic.counters();
    let summary = Summary {
        flows: source.traffic.timeline_counters().begun_flows,
        packets: report.packets,
        bytes: report.bytes,
        refused: report.refused,
        tokens: counters.tokens,
        malformed_packets: counters.malformed_packets,
        cut_flows: counters.cut_flows,
        seconds,
        packets_per_s: report.packets as f64 / seconds,
        tokens_per_s: counters.tokens as f64 / seconds,
        interrupted,
    };
    if args.json {
        return print_json(&summary);
    }
    print_status(&format!(
        "{} packets of {} flows, {} bytes, in {:.1} s ({:.0} packets/s, {:.0} tokens/s); {} malformed packets dropped, {} flows cut",
        summary.packets,
        summary.flows,
        summary.bytes,
        seconds,
        summary.packets_per_s,
        summary.tokens_per_s,
        summary.malformed_packets,
        summary.cut_flows
    ));
    for (why, packets) in &summary.refused {
        tracing::warn!(packets, "not in the file: {why}");
    }
    Ok(())
}
