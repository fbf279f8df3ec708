//! Outside judges: what tshark, nDPI, Suricata and Zeek say of real and of synthetic captures.
//!
//! Each program reads both sides in the same way, and its words are counted; nothing here knows what a good packet is.
//! A program that is not installed is named with the package that brings it. Programs run one after another, each
//! under one time limit for everything it is asked, in temporary folders and without the configuration of the user.
//!
//! `captures` says what a program is given, `program` runs it, `counts` counts; then one module for each judge.

mod captures;
mod counts;
mod ndpi;
mod program;
mod suricata;
mod tshark;
mod zeek;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use captures::{CapturesReport, UnreadCapture};
use captures::{Side, Sides};
pub use counts::{Row, Table};
pub(crate) use ndpi::{FlowName, ProtocolReader};
pub use ndpi::{NdpiReport, NdpiSide};
use program::{Known, RunError, Runner};
pub use suricata::{SuricataReport, SuricataSide};
pub use tshark::{TsharkReport, TsharkSide};
pub use zeek::{ZeekReport, ZeekSide};

/// How much the judges may read, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgeLimits {
    /// Time that one program has for all captures of both sides; it is killed when that is over.
    pub seconds_per_program: u64,
    /// Packets of one side that the programs see: the first ones, in the order of the files.
    pub packets_max: u64,
}

impl Default for JudgeLimits {
    /// 300 s; 1,000,000 packets, which take tshark half a minute for each side: 34,000 packets/s of mixed traffic in
    /// one file (tshark 4.0, two cores of a server in use), and a quarter of a second for each file.
    fn default() -> Self {
        Self { seconds_per_program: 300, packets_max: 1_000_000 }
    }
}

/// What the outside judges said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgesReport {
    /// The real captures, as far as they were judged.
    pub real: CapturesReport,
    /// The synthetic captures, as far as they were judged.
    pub synthetic: CapturesReport,
    /// Dissection: errors, checksums, protocols of each packet.
    pub tshark: Outcome<TsharkReport>,
    /// Protocols of each flow, by content.
    pub ndpi: Outcome<NdpiReport>,
    /// Events of an intrusion detection engine without rules.
    pub suricata: Outcome<SuricataReport>,
    /// Connection states and services.
    pub zeek: Outcome<ZeekReport>,
    /// What the overlaps are between real and real.
    pub floor: Overlaps,
}

/// The overlaps of the distributions that the judges count: 1 is alike, 0 has nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Overlaps {
    /// tshark's protocol paths, by packet.
    pub protocol_paths: Option<f64>,
    /// nDPI's protocols, by flow.
    pub protocols: Option<f64>,
    /// Suricata's application protocols, by flow.
    pub app_protos: Option<f64>,
    /// Zeek's connection states.
    pub conn_states: Option<f64>,
    /// Zeek's services.
    pub services: Option<f64>,
}

impl Overlaps {
    /// Those of a report.
    pub fn of(report: &JudgesReport) -> Self {
        Self {
            protocol_paths: report.tshark.judged().and_then(|judged| judged.protocol_path_overlap),
            protocols: report.ndpi.judged().and_then(|judged| judged.protocol_overlap),
            app_protos: report.suricata.judged().and_then(|judged| judged.app_proto_overlap),
            conn_states: report.zeek.judged().and_then(|judged| judged.conn_state_overlap),
            services: report.zeek.judged().and_then(|judged| judged.service_overlap),
        }
    }
}

impl<T> Outcome<T> {
    /// What it said, if it did.
    pub fn judged(&self) -> Option<&T> {
        match self {
            Self::Judged(judged) => Some(judged),
            Self::Absent { .. } | Self::Failed { .. } => None,
        }
    }
}

/// What came of asking one program.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It judged both sides.
    Judged(T),
    /// It is not installed.
    Absent {
        /// The program that was looked for.
        program: String,
        /// The Debian package that brings it.
        package: String,
        /// How to get it.
        hint: String,
    },
    /// It is installed, and gave no judgement.
    Failed {
        /// Why: what it printed last, or the limit it passed.
        reason: String,
    },
}

/// What the outside judges say of real and synthetic captures.
///
/// Captures are pcap or pcapng. `told` hears, in a sentence each, what is going on and what was left out.
pub fn judge(real: &[PathBuf], synthetic: &[PathBuf], limits: &JudgeLimits, told: impl FnMut(&str)) -> JudgesReport {
    judge_with(&search_path(), real, synthetic, limits, told)
}

/// Where programs are looked for; without a PATH, where a shell would look then.
fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"))
}

/// As [`judge`], with programs looked for in the folders of `search`, a list as in `PATH`.
pub fn judge_with(
    search: &OsStr,
    real: &[PathBuf],
    synthetic: &[PathBuf],
    limits: &JudgeLimits,
    mut told: impl FnMut(&str),
) -> JudgesReport {
    let told: &mut dyn FnMut(&str) = &mut told;
    let sides = match Sides::prepare(real, synthetic, limits.packets_max, told) {
        Ok(sides) => sides,
        Err(error) => {
            let reason = format!("no temporary folder for the captures: {error}");
            return JudgesReport {
                real: CapturesReport::default(),
                synthetic: CapturesReport::default(),
                tshark: Outcome::Failed { reason: reason.clone() },
                ndpi: Outcome::Failed { reason: reason.clone() },
                suricata: Outcome::Failed { reason: reason.clone() },
                zeek: Outcome::Failed { reason },
                floor: Overlaps::default(),
            };
        }
    };
    JudgesReport {
        tshark: ask::<tshark::Tshark>(search, &sides, limits, told),
        ndpi: ask::<ndpi::Ndpi>(search, &sides, limits, told),
        suricata: ask::<suricata::Suricata>(search, &sides, limits, told),
        zeek: ask::<zeek::Zeek>(search, &sides, limits, told),
        floor: Overlaps::default(),
        real: sides.real.report,
        synthetic: sides.synthetic.report,
    }
}

/// Which program judged, and what it left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Asked {
    /// How the program calls itself.
    pub version: String,
    /// Captures that it failed on. What it said before that counts, where it is read as it comes (tshark and nDPI).
    pub failed: u64,
    /// The first of these captures, and how it failed.
    pub failed_named: Vec<UnreadCapture>,
}

/// Captures that a program failed on are counted, and this many of them named.
const FAILED_NAMED_MAX: usize = 32;

/// What Suricata alone says of one capture, as the synthetic side; the real side is the same capture.
pub fn suricata(capture: &Path, limits: &JudgeLimits) -> Outcome<SuricataReport> {
    let search = search_path();
    let captures = [capture.to_owned()];
    match Sides::prepare(&captures, &captures, limits.packets_max, &mut |_| ()) {
        Ok(sides) => ask::<suricata::Suricata>(&search, &sides, limits, &mut |_| ()),
        Err(error) => Outcome::Failed { reason: format!("no temporary folder for the captures: {error}") },
    }
}

/// One program: how it is asked about a capture, and what its answers add up to.
trait Judge {
    /// The program, and where it comes from.
    const KNOWN: Known;
    /// What was counted on one side so far.
    type Seen: Default;
    /// What is made of both sides.
    type Report;

    /// Asks about one capture; `folder` is empty and the program's own.
    fn look(runner: &Runner, capture: &Path, folder: &Path, seen: &mut Self::Seen) -> Result<(), RunError>;

    /// Compares the sides.
    fn report(asked: Asked, real: &Self::Seen, synthetic: &Self::Seen) -> Self::Report;
}

/// Asks one program about all captures.
fn ask<J: Judge>(
    search: &OsStr,
    sides: &Sides,
    limits: &JudgeLimits,
    told: &mut dyn FnMut(&str),
) -> Outcome<J::Report> {
    let Known { program, package, hint, version_option } = J::KNOWN;
    let Some(runner) = Runner::find(program, search, Duration::from_secs(limits.seconds_per_program)) else {
        told(&format!("no {program} to judge ({hint})"));
        return Outcome::Absent { program: program.into(), package: package.into(), hint: hint.into() };
    };
    let mut asked = Asked { version: runner.version(version_option), ..Asked::default() };
    told(&format!("{program} judges {} real and {} synthetic captures", sides.real.len(), sides.synthetic.len()));
    let mut look_at = |name, side| look_at::<J>(&runner, name, side, &mut asked, told);
    let judged = look_at("real", &sides.real).and_then(|real| Ok((real, look_at("synthetic", &sides.synthetic)?)));
    match judged {
        Ok((real, synthetic)) => Outcome::Judged(J::report(asked, &real, &synthetic)),
        Err(reason) => {
            told(&format!("{program} gives no judgement: {reason}"));
            Outcome::Failed { reason }
        }
    }
}

/// Asks about one side. A capture that the program fails on is named; only when none is left, or the time
/// is over, there is no judgement.
fn look_at<J: Judge>(
    runner: &Runner,
    name: &str,
    side: &Side,
    asked: &mut Asked,
    told: &mut dyn FnMut(&str),
) -> Result<J::Seen, String> {
    let mut seen = J::Seen::default();
    let mut judged = 0;
    let mut last_reason = format!("there is no {name} capture that can be read");
    for capture in &side.captures {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        match J::look(runner, &capture.path, folder.path(), &mut seen) {
            Ok(()) => judged += 1,
            Err(error @ RunError::Limit { .. }) => return Err(error.to_string()),
            Err(error) => {
                last_reason = format!("{}: {error}", capture.name);
                told(&format!("{} failed on {last_reason}", J::KNOWN.program));
                asked.failed += 1;
                if asked.failed_named.len() < FAILED_NAMED_MAX {
                    let reason = error.to_string();
                    asked.failed_named.push(UnreadCapture { name: capture.name.clone(), reason });
                }
            }
        }
    }
    if judged == 0 { Err(last_reason) } else { Ok(seen) }
}
