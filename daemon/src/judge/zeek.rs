//! Zeek: how connections went, and which services it recognised in them.
//!
//! Written and tested against the documented format of `conn.log` only (Zeek's manual, "conn.log"), as tab-separated
//! values and as JSON; no Zeek has run under it.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::counts::{Counts, Table};
use super::program::{Known, RunError, Runner, each_line};
use super::{Asked, Judge};

/// Rows of the tables in a report.
const ROWS_MAX: usize = 30;
/// Stands for a field that is not set, as in Zeek's own files.
const UNSET: &str = "-";

/// What Zeek says of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeekReport {
    /// Which program it was, and what it failed on.
    pub asked: Asked,
    /// The real captures.
    pub real: ZeekSide,
    /// The synthetic captures.
    pub synthetic: ZeekSide,
    /// Overlap of the connection states: the sum of min(p, q). `None` where a side is empty.
    pub conn_state_overlap: Option<f64>,
    /// Overlap of the services per connection.
    pub service_overlap: Option<f64>,
}

/// What Zeek says of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeekSide {
    /// Connections that it saw.
    pub connections: u64,
    /// How they went (`SF`, `S0`, `RSTO`), per 1,000 connections.
    pub conn_states: Table,
    /// Services (`dns`, `ssl`; `-` for none), per 1,000 connections.
    pub services: Table,
}

/// What Zeek said so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    conn_states: Counts,
    services: Counts,
}

pub(super) struct Zeek;

impl Judge for Zeek {
    const KNOWN: Known = Known {
        program: "zeek",
        package: "zeek",
        hint: "not in Debian 12; the Zeek project has a package zeek for Debian, see https://zeek.org/get-zeek",
        version_option: "--version",
    };
    type Seen = Seen;
    type Report = ZeekReport;

    fn look(runner: &Runner, capture: &Path, folder: &Path, seen: &mut Seen) -> Result<(), RunError> {
        // Wrong checksums are tshark's business; here they would only hide flows.
        runner.run(runner.command(folder).arg("-C").arg("-r").arg(capture), |_| ())?;
        let log = folder.join("conn.log");
        // A capture without connections gives no such file.
        if !log.exists() {
            return Ok(());
        }
        let mut columns = Columns::default();
        each_line(&log, |line| seen.add(line, &mut columns))
    }

    fn report(asked: Asked, real: &Seen, synthetic: &Seen) -> ZeekReport {
        ZeekReport {
            asked,
            real: real.side(),
            synthetic: synthetic.side(),
            conn_state_overlap: real.conn_states.overlap(&synthetic.conn_states),
            service_overlap: real.services.overlap(&synthetic.services),
        }
    }
}

/// Where the columns of one file are, as its `#fields` line says.
#[derive(Debug, Default)]
struct Columns {
    conn_state: Option<usize>,
    service: Option<usize>,
}

impl Seen {
    /// Adds one line of `conn.log`.
    fn add(&mut self, line: &str, columns: &mut Columns) {
        if let Some(names) = line.strip_prefix("#fields\t") {
            let place = |name| names.split('\t').position(|field| field == name);
            *columns = Columns { conn_state: place("conn_state"), service: place("service") };
        } else if line.starts_with('{') {
            let Ok(connection) = serde_json::from_str::<Value>(line) else { return };
            let field = |name| connection.get(name).and_then(Value::as_str);
            self.add_connection(field("conn_state"), field("service"));
        } else if !line.starts_with('#') && !line.is_empty() {
            let field = |place: Option<usize>| line.split('\t').nth(place?);
            self.add_connection(field(columns.conn_state), field(columns.service));
        }
    }

    fn add_connection(&mut self, conn_state: Option<&str>, service: Option<&str>) {
        self.conn_states.add(conn_state.unwrap_or(UNSET), 1);
        self.services.add(service.unwrap_or(UNSET), 1);
    }

    fn side(&self) -> ZeekSide {
        let connections = self.conn_states.total();
        ZeekSide {
            connections,
            conn_states: self.conn_states.table(ROWS_MAX, connections),
            services: self.services.table(ROWS_MAX, connections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str]) -> Seen {
        let (mut seen, mut columns) = (Seen::default(), Columns::default());
        lines.iter().for_each(|line| seen.add(line, &mut columns));
        seen
    }

    #[test]
    fn both_formats_of_conn_log_say_the_same() {
        let columns = seen(&[
            "#separator \\x09",
            "#unset_field\t-",
            "#fields\tts\tuid\tproto\tservice\tduration\tconn_state",
            "#types\ttime\tstring\tenum\tstring\tinterval\tstring",
            "1.5\tCa\ttcp\thttp\t0.1\tSF",
            "1.6\tCb\tudp\t-\t-\tS0",
            "#close\t2024-01-01-00-00-00",
        ]);
        let json = seen(&[
            r#"{"ts":1.5,"uid":"Ca","proto":"tcp","service":"http","duration":0.1,"conn_state":"SF"}"#,
            r#"{"ts":1.6,"uid":"Cb","proto":"udp","conn_state":"S0"}"#,
        ]);
        assert_eq!(columns.side(), json.side());
        assert_eq!(columns.side().connections, 2);
        let report = Zeek::report(Asked::default(), &columns, &json);
        assert_eq!((report.conn_state_overlap, report.service_overlap), (Some(1.0), Some(1.0)));
        assert_eq!(report.real.services.top[0].what, "-");
    }
}
