//! `wiremamba baseline`: traffic made of real captures in a trivial way, for a model to beat.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use wiremamba_eval::baseline::{Baseline, Counters, Generated, NothingUsable, Options, generate};
use wiremamba_model::flow::Flow;
use wiremamba_model::packet::{Packet, Timestamp};
use wiremamba_model::wire::plan::{Net4, Plan};

use super::{Context, Misuse, print_json, print_status, progress};
use crate::sink::savefile::{SavefileOptions, SavefileSink};
use crate::sink::{PacketSink, SinkError};
use crate::source::collection::{LabelledCapture, from_paths};
use crate::source::file::SavefileSource;
use crate::source::flows::{ReadLimits, read_flows};
use crate::source::{Next, PacketSource};

/// `wiremamba baseline`
#[derive(Debug, Args)]
#[command(after_help = "A model is worth having when its traffic is as real as bootstrap's and as new as markov's.")]
pub(super) struct BaselineArgs {
    /// How to make it
    #[arg(value_enum, value_name = "KIND")]
    kind: KindArg,
    /// Real captures, and folders of captures (pcap, pcapng; - is standard input)
    #[arg(value_name = "CAPTURE", required = true)]
    captures: Vec<PathBuf>,
    /// Capture file to write; - is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: PathBuf,
    /// Make this many flows (markov and bootstrap) [default: as many as there are real ones]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    flows: Option<u64>,
    /// Make at most this many packets [default: as many as there are real ones, or all of --flows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// Same seed, same packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Time of the first packet in seconds since 1970; random and shuffle keep the real times
    #[arg(long, value_name = "SECONDS", default_value_t = 1_700_000_000, value_parser = clap::value_parser!(i64).range(0..4_294_967_296))]
    start: i64,
    /// IPv4 network of the clients (markov and bootstrap) [default: 10.10.0.0/16]
    #[arg(long, value_name = "NET")]
    client_net: Option<Net4>,
    /// IPv4 network of the servers (markov and bootstrap) [default: 198.18.0.0/15]
    #[arg(long, value_name = "NET")]
    server_net: Option<Net4>,
    /// Print one JSON object to stdout at the end (not with -w -)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    /// Uniform bytes in frames of real lengths at real times: the bottom of every scale
    Random,
    /// The real packets in random order over the real times: shows which measures do not see order
    Shuffle,
    /// Each header bit drawn on its own from its frequency: shows which measures do not see how fields belong together
    IndependentBits,
    /// Flows from a chain of order 2 over direction, flags and size, with random payload: new, but with a short memory
    Markov,
    /// Real flows drawn with replacement, between new hosts: as real as can be, and copied
    Bootstrap,
}

impl From<KindArg> for Baseline {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Random => Self::Random,
            KindArg::Shuffle => Self::Shuffle,
            KindArg::IndependentBits => Self::IndependentBits,
            KindArg::Markov => Self::Markov,
            KindArg::Bootstrap => Self::Bootstrap,
        }
    }
}

/// The closing line.
#[derive(Debug, Serialize)]
struct Summary {
    kind: Baseline,
    seed: u64,
    captures: usize,
    real_packets: u64,
    real_flows: u64,
    packets: u64,
    bytes: u64,
    refused_packets: u64,
    #[serde(flatten)]
    counters: Counters,
    interrupted: bool,
}

pub(super) fn run(args: BaselineArgs, context: &Context) -> Result<()> {
    let kind = Baseline::from(args.kind);
    let to_stdout = args.write.as_os_str() == "-";
    if to_stdout && args.json {
        return Err(Misuse("--json and -w - both write to standard output".into()).into());
    }
    if args.flows.is_some() && !kind.makes_flows() {
        return Err(Misuse(format!("{kind} makes packets and knows no flows: say --packets N")).into());
    }
    let captures = from_paths(&args.captures, None)?;
    let real = if kind.makes_flows() { read_as_flows(&captures, context)? } else { read_packets(&captures, context)? };
    let count = |n: Option<u64>| n.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let plan = Plan::default();
    let options = Options {
        flows: count(args.flows),
        packets: count(args.packets),
        seed: args.seed,
        start: Timestamp::from_parts(args.start, 0),
        plan: Plan {
            client_net: args.client_net.unwrap_or(plan.client_net),
            server_net: args.server_net.unwrap_or(plan.server_net),
            ..plan
        },
        ..Options::default()
    };
    let made = generate(kind, &real.flows, &real.packets, &options);
    let Generated { packets, mut counters } =
        made.map_err(|nothing| NothingUsable { packets: real.packets_read, ..nothing })?;
    // Packets without a flow are counted where captures are read, and do not reach the generator.
    counters.packets_left_out += real.packets_without_flow;
    let mut sink = SavefileSink::create(&args.write, SavefileOptions::default())?;
    let interrupted = write(&mut sink, &packets, context)?;
    let report = sink.finish()?;
    let summary = Summary {
        kind,
        seed: args.seed,
        captures: captures.len(),
        real_packets: real.packets_read,
        real_flows: real.flows.len() as u64,
        packets: report.packets,
        bytes: report.bytes,
        refused_packets: report.refused_packets(),
        counters,
        interrupted,
    };
    if summary.refused_packets > 0 {
        tracing::warn!(packets = summary.refused_packets, "a pcap file cannot hold them: too long, or at such a time");
    }
    if args.json {
        return print_json(&summary);
    }
    print_status(&line(&summary));
    Ok(())
}

fn line(summary: &Summary) -> String {
    let Summary { kind, packets, bytes, real_packets, real_flows, counters, .. } = summary;
    let cut = if counters.bytes_max_reached { "; the limit on bytes was reached" } else { "" };
    if kind.makes_flows() {
        format!(
            "{kind}: {packets} packets of {} flows, {bytes} bytes, out of {real_packets} packets of {real_flows} flows; left out of these: {} packets, {} whole flows{cut}",
            counters.flows, counters.packets_left_out, counters.flows_left_out
        )
    } else {
        format!(
            "{kind}: {packets} packets, {bytes} bytes, out of {real_packets} packets; left out of these: {} packets{cut}",
            counters.packets_left_out
        )
    }
}

/// What a baseline is made of: flows, or packets, as it needs them.
#[derive(Debug, Default)]
struct Real {
    flows: Vec<Flow>,
    packets: Vec<Packet>,
    packets_read: u64,
    packets_without_flow: u64,
}

fn read_as_flows(captures: &[LabelledCapture], context: &Context) -> Result<Real> {
    let bar = progress::bar(context.quiet, None, "reading");
    let set = read_flows(captures, &ReadLimits::default(), |progress| bar.set_position(progress.packets));
    bar.finish_and_clear();
    let set = set.context("cannot read the captures")?;
    for warning in &set.warnings {
        tracing::warn!(capture = %warning.path.display(), "{}", warning.problem);
    }
    if set.captures_left_out > 0 {
        tracing::warn!(captures = set.captures_left_out, "left out: the limit on packets or bytes was reached");
    }
    Ok(Real {
        packets: Vec::new(),
        packets_read: set.counters.packets,
        packets_without_flow: set.counters.packets_without_flow() + set.counters.packets_over_flow_max,
        flows: set.flows.into_iter().map(|labelled| labelled.flow).collect(),
    })
}

/// Reads every packet, whatever it carries. One bad capture among many is logged.
fn read_packets(captures: &[LabelledCapture], context: &Context) -> Result<Real> {
    let limits = ReadLimits::default();
    let bar = progress::bar(context.quiet, None, "reading");
    let (mut packets, mut bytes) = (Vec::new(), 0);
    let mut first_error = None;
    for LabelledCapture { path, .. } in captures {
        let mut source = match SavefileSource::open(path) {
            Ok(source) => source,
            Err(error) => {
                tracing::warn!(capture = %path.display(), "{error}");
                first_error.get_or_insert(error);
                continue;
            }
        };
        loop {
            if context.stop.load(Ordering::Relaxed) {
                bail!("interrupted while reading");
            }
            let packet = match source.next_packet() {
                Ok(Next::Packet(packet)) => packet,
                Ok(Next::Idle) => continue,
                Ok(Next::End) => break,
                Err(error) => {
                    tracing::warn!(capture = %path.display(), "{error}");
                    first_error.get_or_insert(error);
                    break;
                }
            };
            bytes += packet.data.len() as u64;
            ensure!(
                packets.len() as u64 != limits.packets_max && bytes <= limits.bytes_max,
                "the captures are too large: at most {} packets and {} bytes are read",
                limits.packets_max,
                limits.bytes_max
            );
            packets.push(packet);
            bar.inc(1);
        }
        if source.truncated_at_end() {
            tracing::warn!(capture = %path.display(), "the file is cut in the middle of a packet");
        }
    }
    bar.finish_and_clear();
    match first_error {
        Some(error) if packets.is_empty() => Err(error).context("cannot read the captures"),
        _ => Ok(Real { packets_read: packets.len() as u64, packets, ..Real::default() }),
    }
}

/// Writes the packets; returns whether that was interrupted.
fn write(sink: &mut SavefileSink, packets: &[Packet], context: &Context) -> Result<bool> {
    for packet in packets {
        if context.stop.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match sink.send(packet) {
            Ok(()) => {}
            Err(SinkError::Closed { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use clap::Parser;
    use wiremamba_model::packet::LinkType;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BaselineArgs,
    }

    fn run_line(kind: &str, from: &Path, to: &Path, more: &[&str]) -> Result<()> {
        let words = ["", kind, from.to_str().unwrap(), "-w", to.to_str().unwrap()];
        let line = Line::try_parse_from(words.iter().chain(more)).unwrap();
        run(line.args, &Context { stop: Arc::new(AtomicBool::new(false)), quiet: true })
    }

    fn write_capture(path: &Path, frames: &[&[u8]]) {
        let mut sink = SavefileSink::create(path, SavefileOptions::default()).unwrap();
        for (i, data) in (0..).zip(frames) {
            let ts = Timestamp::from_parts(1_600_000_000, i);
            let packet = Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data: data.to_vec() };
            sink.send(&packet).unwrap();
        }
        sink.finish().unwrap();
    }

    fn read_capture(path: &Path) -> Vec<Packet> {
        let mut source = SavefileSource::open(path).unwrap();
        let next = || match source.next_packet().unwrap() {
            Next::Packet(packet) => Some(packet),
            Next::Idle | Next::End => None,
        };
        std::iter::from_fn(next).collect()
    }

    /// A UDP datagram from 192.0.2.1:40000 to 192.0.2.2:53 with `payload`; the checksum of 0 means that there is none.
    fn datagram(payload: &[u8]) -> Vec<u8> {
        let udp_len = 8 + payload.len() as u8;
        let mut ret =
            vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 20 + udp_len, 0, 1, 0, 0, 64, 17, 0, 0];
        ret.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 0, 53, 0, udp_len, 0, 0]);
        ret.extend_from_slice(payload);
        ret
    }

    #[test]
    fn every_kind_writes_a_capture() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["real.pcap", "made.pcap"].map(|name| dir.path().join(name));
        write_capture(&from, &[&datagram(b"one"), &[0xff; 60], &datagram(b"three")]);
        for (kind, packets) in [("random", 3), ("shuffle", 3), ("independent-bits", 3), ("markov", 2), ("bootstrap", 2)]
        {
            run_line(kind, &from, &to, &[]).unwrap();
            assert_eq!(read_capture(&to).len(), packets, "{kind}");
        }
        let data = &read_capture(&to)[0].data;
        assert!(data.ends_with(b"one") && data[26..28] == [10, 10], "bootstrap keeps the payload and moves the host");
        run_line("bootstrap", &from, &to, &["--client-net", "10.20.0.0/24", "--flows", "4"]).unwrap();
        let moved = read_capture(&to);
        assert!(moved.len() == 8 && moved.iter().all(|p| p.data[26..29] == [10, 20, 0]));
    }

    #[test]
    fn captures_that_are_of_no_use_are_an_error_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["real.pcap", "made.pcap"].map(|name| dir.path().join(name));
        write_capture(&from, &[]);
        for kind in ["random", "bootstrap"] {
            let error = run_line(kind, &from, &to, &[]).unwrap_err();
            assert!(error.to_string().ends_with("there is no packet"), "{error}");
        }
        write_capture(&from, &[&[0xff; 60], &[0xff; 60]]);
        let error = run_line("markov", &from, &to, &[]).unwrap_err();
        assert!(error.to_string().ends_with("none of 2 packets is of use for it"), "{error}");
        assert!(!to.exists());
        let error = run_line("random", &from, &to, &["--flows", "1"]).unwrap_err();
        assert!(error.is::<Misuse>());
    }
}
