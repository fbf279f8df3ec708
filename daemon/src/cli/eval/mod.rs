//! `wiremamba eval`: how close synthetic traffic is to real traffic.

mod judges;
mod page;
mod tables;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use wiremamba_eval::evaluation::{Group, Report};
use wiremamba_eval::verdict::{Verdict, verdicts};

use super::{Context, print_json, print_text, progress};
use crate::job::eval::{EvalJob, run as measure, write_halves};
use crate::judge::{JudgeLimits, JudgesReport, Overlaps, judge as ask_judges};
use crate::source::collection::{LabelledCapture, from_paths};

/// `wiremamba eval`
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Real captures, or folders of them, that the generator has not seen
    #[arg(long, value_name = "CAPTURE", num_args = 1.., required = true)]
    real: Vec<PathBuf>,
    /// Synthetic captures, or folders of them
    #[arg(long, value_name = "CAPTURE", num_args = 1.., required = true)]
    synthetic: Vec<PathBuf>,
    /// The captures that the generator was trained on, to see how much of them comes out again
    #[arg(long, value_name = "CAPTURE", num_args = 1..)]
    train: Vec<PathBuf>,
    /// Judge by this group of measures only; may be given more than once [default: all]
    #[arg(long, value_enum, value_name = "GROUP")]
    only: Vec<GroupArg>,
    /// Hold each synthetic capture also against the real one that prompted it: of the same name, or else in the same place
    #[arg(long)]
    paired: bool,
    /// Write all figures as JSON to a file; - is standard output, in place of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with tables, pictures and verdicts, in one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Seed of all chance: which real flows are in which half of the floor
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GroupArg {
    /// Header bits and fields
    Similarity,
    /// Packets, flows and payloads that are as the standards have them
    Validity,
    /// Gaps, durations, sizes
    Timing,
    /// What comes out of the training captures again
    Memory,
    /// Whether a classifier can tell synthetic from real flows, and learn from them
    Joint,
    /// What tshark, nDPI, Suricata and Zeek say, where they are installed
    Judges,
}

/// Our own measures, and what others say.
#[derive(Debug, Serialize)]
struct Judgement {
    #[serde(flatten)]
    measures: Report,
    verdicts: Vec<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    judges: Option<JudgesReport>,
}

impl GroupArg {
    /// The group of our own measures, if it is one.
    fn measures(self) -> Option<Group> {
        match self {
            Self::Similarity => Some(Group::Similarity),
            Self::Validity => Some(Group::Validity),
            Self::Timing => Some(Group::Timing),
            Self::Memory => Some(Group::Memory),
            Self::Joint => Some(Group::Joint),
            Self::Judges => None,
        }
    }
}

pub(super) fn run(args: EvalArgs, context: &Context) -> Result<()> {
    let asked = if args.only.is_empty() { GroupArg::value_variants() } else { args.only.as_slice() };
    let mut groups: Vec<Group> = asked.iter().filter_map(|group| group.measures()).collect();
    if args.paired && !groups.contains(&Group::Similarity) {
        groups.push(Group::Similarity);
    }
    let train = from_paths(&args.train, None)?;
    let job = EvalJob {
        real: from_paths(&args.real, None)?,
        synthetic: from_paths(&args.synthetic, None)?,
        train,
        groups,
        paired: args.paired,
        pictures: args.report.is_some(),
        seed: args.seed,
    };
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    // Opened first: nobody wants to hear of a wrong path after a minute's work.
    let json = args.json.as_ref().filter(|_| !to_stdout).map(|path| Output::create(path)).transpose()?;
    let page = args.report.as_ref().map(|path| Output::create(path)).transpose()?;
    let bar = progress::bar(context.quiet, None, "judging");
    let measures = measure(&job, &context.stop, &|packets| bar.inc(packets))?;
    let told = |text: &str| bar.suspend(|| tracing::info!("{text}"));
    let judges = asked.contains(&GroupArg::Judges).then(|| ask_judges_and_floor(&job, &context.stop, told));
    bar.finish_and_clear();
    let mut verdicts = verdicts(&measures);
    verdicts.extend(judges.as_ref().map(judges::verdict));
    let report = Judgement { measures, verdicts, judges };
    if let Some(json) = json {
        json.write(|writer| {
            serde_json::to_writer_pretty(&mut *writer, &report)?;
            writeln!(writer)
        })?;
    }
    if let Some(page) = page {
        page.write(|writer| writer.write_all(page::html(&report).as_bytes()))?;
    }
    if to_stdout { print_json(&report) } else { print_text(&tables::text(&report)) }
}

/// What the judges say, and what they say of two halves of the real flows.
fn ask_judges_and_floor(job: &EvalJob, stop: &AtomicBool, told: impl FnMut(&str)) -> JudgesReport {
    let paths = |of: &[LabelledCapture]| of.iter().map(|c| c.path.clone()).collect::<Vec<_>>();
    let limits = JudgeLimits::default();
    let mut report = ask_judges(&paths(&job.real), &paths(&job.synthetic), &limits, told);
    if Overlaps::of(&report) == Overlaps::default() {
        return report;
    }
    let floor = || -> Result<Overlaps> {
        let dir = tempfile::tempdir()?;
        let [first, second] = write_halves(&job.real, job.seed, dir.path(), stop)?;
        // Whatever there is to say of the captures was said the first time.
        Ok(Overlaps::of(&ask_judges(&first, &second, &limits, |_| {})))
    };
    // Without it the rest is still worth having.
    match floor() {
        Ok(floor) => report.floor = floor,
        Err(error) => tracing::warn!("no floor for the judges' overlaps: {error:#}"),
    }
    report
}

/// A file that is open, to be written at the end.
struct Output<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Output<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        Ok(Self { path, file: File::create(path).with_context(|| path.display().to_string())? })
    }

    fn write(self, content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
        let mut writer = BufWriter::new(self.file);
        content(&mut writer).and_then(|()| writer.flush()).with_context(|| self.path.display().to_string())
    }
}
