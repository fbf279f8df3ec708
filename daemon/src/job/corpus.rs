//! The captures of a job, read into labelled flows.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use wiremamba_model::codec::{CaptureStarts, LabelId};
use wiremamba_model::flow::{Flow, Session, SessionLimits, into_sessions};

use crate::source::collection::{LabelledCapture, ManifestFilter, from_manifest, from_paths};
use crate::source::flows::{FlowSet, LabelledFlow, Progress, ReadLimits, read_flows};
use wiremamba_model::generate::label_id;

/// Which captures to read, as arguments of a command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Captures")]
pub struct CorpusArgs {
    /// Captures, and folders of captures (pcap, pcapng; - is standard input). A capture's label is the folder below PATH that it lies in,
    /// or its own name where it is not in one
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "manifest", conflicts_with = "manifest")]
    pub data: Vec<PathBuf>,
    /// List of captures as CSV with the columns path and label; paths are relative to its folder
    #[arg(long, value_name = "CSV")]
    pub manifest: Option<PathBuf>,
    /// Label of everything in --data, in place of the folders' names
    #[arg(long, value_name = "LABEL", requires = "data")]
    pub label: Option<String>,
    /// Only these labels
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Only rows of the manifest that state a licence
    #[arg(long, requires = "manifest")]
    pub licensed_only: bool,
    /// Stop reading after this many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub packets_max: Option<u64>,
    /// What one sample is: a flow, or all flows of one client, interleaved, until it is silent for 10 s (at most 32)
    #[arg(long, value_enum, default_value_t = Sample::Flow)]
    pub sample: Sample,
}

/// What one sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Sample {
    /// One 5-tuple, both directions.
    #[default]
    Flow,
    /// One client's flows, interleaved.
    Session,
}

impl Sample {
    /// Makes samples of flows, which come in the order in which [`read_flows`] gives them. Returns label, capture and sample; those of a
    /// capture come one after another.
    pub fn make(self, flows: Vec<LabelledFlow>) -> Vec<(usize, usize, Session)> {
        match self {
            Self::Flow => flows.into_iter().map(|f| (f.label, f.capture, Session::from(f.flow))).collect(),
            Self::Session => {
                let mut captures: Vec<(usize, usize, Vec<Flow>)> = Vec::new();
                for LabelledFlow { label, capture, flow } in flows {
                    match captures.last_mut() {
                        Some(last) if last.1 == capture => last.2.push(flow),
                        _ => captures.push((label, capture, vec![flow])),
                    }
                }
                let sessions = |flows| into_sessions(flows, &SessionLimits::default());
                captures
                    .into_iter()
                    .flat_map(|(label, capture, flows)| sessions(flows).into_iter().map(move |s| (label, capture, s)))
                    .collect()
            }
        }
    }
}

/// Labelled flows, ready for a codec.
#[derive(Debug)]
pub struct Corpus {
    set: FlowSet,
    sessions: Vec<(LabelId, Session)>,
    starts: Vec<CaptureStarts>,
}

impl CorpusArgs {
    /// The captures that the arguments name.
    pub fn captures(&self) -> Result<Vec<LabelledCapture>> {
        let mut captures = match &self.manifest {
            Some(manifest) => {
                let labels = (!self.labels.is_empty()).then(|| self.labels.clone());
                from_manifest(manifest, &ManifestFilter { labels, licensed_only: self.licensed_only })?
            }
            None => from_paths(&self.data, self.label.as_deref())?,
        };
        if !self.labels.is_empty() {
            captures.retain(|c| self.labels.contains(&c.label));
            anyhow::ensure!(!captures.is_empty(), "no capture has one of the labels {}", self.labels.join(", "));
        }
        Ok(captures)
    }
}

impl Corpus {
    /// Reads all captures. Those that cannot be read are logged and left out; it is an error only when none can.
    pub fn read(args: &CorpusArgs, progress: impl FnMut(&Progress)) -> Result<Self> {
        let captures = args.captures()?;
        let mut limits = ReadLimits::default();
        if let Some(packets) = args.packets_max {
            limits.packets_max = packets;
        }
        let mut set = read_flows(&captures, &limits, progress).context("cannot read the captures")?;
        for warning in &set.warnings {
            tracing::warn!(capture = %warning.path.display(), "{}", warning.problem);
        }
        if set.captures_left_out > 0 {
            tracing::warn!(captures = set.captures_left_out, "left out: the limit on packets or bytes was reached");
        }
        let label = |index: usize| LabelId(u16::try_from(index).unwrap_or(u16::MAX));
        anyhow::ensure!(set.labels.len() < usize::from(u16::MAX), "{} labels are too many", set.labels.len());
        let samples = args.sample.make(std::mem::take(&mut set.flows));
        let starts = samples.chunk_by(|a, b| a.1 == b.1).map(|of_capture| {
            let start = |sample: &(usize, usize, Session)| sample.2.packets.first().map(|first| first.packet.ts);
            (label(of_capture[0].0), of_capture.iter().filter_map(start).collect())
        });
        let starts = starts.collect();
        let sessions = samples.into_iter().map(|(index, _, session)| (label(index), session)).collect();
        Ok(Self { set, sessions, starts })
    }

    /// The labels, sorted, in the order of [`LabelId`].
    pub fn labels(&self) -> &[String] {
        &self.set.labels
    }

    /// The samples with their labels.
    pub fn sessions(&self) -> &[(LabelId, Session)] {
        &self.sessions
    }

    /// When the samples of each capture begin; labels by their places in `labels`.
    ///
    /// # Errors
    /// A label that is not in `labels`.
    pub fn starts(&self, labels: &[String]) -> Result<Vec<CaptureStarts>> {
        let ids = self.places(labels)?;
        Ok(self.starts.iter().map(|(own, starts)| (ids[usize::from(own.0)], starts.clone())).collect())
    }

    /// What was read, without the flows.
    pub fn summary(&self) -> &FlowSet {
        &self.set
    }

    /// The samples with their labels' places in `labels`, for a codec that was made on other captures.
    ///
    /// # Errors
    /// A label that is not in `labels`.
    pub fn into_sessions(self, labels: &[String]) -> Result<Vec<(LabelId, Session)>> {
        let ids = self.places(labels)?;
        Ok(self.sessions.into_iter().map(|(own, session)| (ids[usize::from(own.0)], session)).collect())
    }

    /// The place of each label in `labels`.
    fn places(&self, labels: &[String]) -> Result<Vec<LabelId>> {
        self.set.labels.iter().map(|name| Ok(label_id(name, labels)?)).collect()
    }
}
