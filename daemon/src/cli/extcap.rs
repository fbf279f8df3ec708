//! `wiremamba extcap`: the model as an interface of Wireshark and tshark, by their extcap protocol
//! (<https://www.wireshark.org/docs/wsdg_html_chunked/ChCaptureExtcap.html>).

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use wiremamba_model::generate::{OPTIONS, OptionKind};

use super::{Context, Misuse, print_status, print_text};
use crate::job::model::{self, SamplingArgs};
use crate::replay::{self, Pace, ReplayOptions};
use crate::sink::savefile::{SavefileOptions, SavefileSink};
use crate::source::PacketSource;

/// What the interface is called.
const INTERFACE: &str = "wiremamba";
/// Where the service keeps the model in use.
const MODEL: &str = "/var/lib/wiremamba/models";

/// `wiremamba extcap`
#[derive(Debug, Args)]
pub(super) struct ExtcapArgs {
    /// Write a script into a folder of extcap programs, so that Wireshark finds this one [default: the user's own folder]
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    install: Option<Option<PathBuf>>,
    /// List the interfaces
    #[arg(long, help_heading = "What Wireshark asks for")]
    extcap_interfaces: bool,
    /// Version of Wireshark
    #[arg(long, value_name = "VERSION", help_heading = "What Wireshark asks for")]
    extcap_version: Option<String>,
    /// The interface that is meant
    #[arg(long, value_name = "NAME", help_heading = "What Wireshark asks for")]
    extcap_interface: Option<String>,
    /// List its link types
    #[arg(long, help_heading = "What Wireshark asks for")]
    extcap_dlts: bool,
    /// List its options
    #[arg(long, help_heading = "What Wireshark asks for")]
    extcap_config: bool,
    /// Filter, which Wireshark applies itself
    #[arg(long, value_name = "FILTER", help_heading = "What Wireshark asks for")]
    extcap_capture_filter: Option<String>,
    /// Give packets
    #[arg(long, requires = "fifo", help_heading = "What Wireshark asks for")]
    capture: bool,
    /// Pipe for the packets
    #[arg(long, value_name = "PATH", help_heading = "What Wireshark asks for")]
    fifo: Option<PathBuf>,
    /// Checkpoint to generate from
    #[arg(long, value_name = "DIR", default_value = MODEL, value_parser = model::folder)]
    model: PathBuf,
    /// Packets a second, evenly, in place of their own times
    #[arg(long, value_name = "N", conflicts_with = "topspeed")]
    pps: Option<f64>,
    /// Give packets as fast as they come, not at their times
    #[arg(long)]
    topspeed: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(super) fn run(mut args: ExtcapArgs, context: &Context) -> Result<()> {
    if let Some(folder) = &args.install {
        return install(folder.as_deref());
    }
    if args.extcap_interfaces {
        return print_text(&format!(
            "extcap {{version={}}}\ninterface {{value={INTERFACE}}}{{display=wiremamba: traffic from a model}}\n",
            env!("CARGO_PKG_VERSION")
        ));
    }
    match args.extcap_interface.as_deref() {
        Some(INTERFACE) => {}
        Some(other) => return Err(Misuse(format!("there is no interface {other}, only {INTERFACE}")).into()),
        None => return Err(Misuse("this is for Wireshark to call; --install lets it find this program".into()).into()),
    }
    if args.extcap_dlts {
        return print_text("dlt {number=1}{name=EN10MB}{display=Ethernet}\n");
    }
    if args.extcap_config {
        return print_text(&options());
    }
    let Some(fifo) = args.fifo.take().filter(|_| args.capture) else {
        return Err(Misuse("give --capture with --fifo, or ask for something".into()).into());
    };
    capture(args, &fifo, context)
}

/// The options as Wireshark shows them: those of a model, and the pace.
fn options() -> String {
    let of_model = OPTIONS.iter().map(|option| {
        let kind = match option.kind {
            OptionKind::Integer if option.default.is_some() => "unsigned",
            OptionKind::Number if option.default.is_some() => "double",
            // A number without a default is empty, which only a text can be.
            OptionKind::Folder | OptionKind::Text | OptionKind::Integer | OptionKind::Number => "string",
        };
        let default = if option.is_required { Some(MODEL) } else { option.default };
        (option.key.replace('_', "-"), kind, default, option.help)
    });
    let pace =
        ("topspeed".to_owned(), "boolflag", Some("false"), "Give packets as fast as they come, not at their times");
    let line = |(number, (option, kind, default, help)): (usize, (String, &str, Option<&str>, &str))| {
        let default = default.map_or_else(String::new, |default| format!("{{default={default}}}"));
        let display = option.replace('-', " ");
        format!(
            "arg {{number={number}}}{{call=--{option}}}{{display={display}}}{{type={kind}}}{default}{{tooltip={help}}}\n"
        )
    };
    of_model.chain([pace]).enumerate().map(line).collect()
}

/// Writes packets to Wireshark's pipe until it closes it.
fn capture(args: ExtcapArgs, fifo: &Path, context: &Context) -> Result<()> {
    let mut sampling = args.sampling;
    sampling.labels.retain(|label| !label.is_empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    sampling.start = now.as_secs() as i64;
    let mut source = Some(Box::new(model::source(&args.model, &sampling)?) as Box<dyn PacketSource + Send>);
    let mut sink = SavefileSink::create(fifo, SavefileOptions::default())?;
    let pace = match (args.topspeed, args.pps) {
        (true, _) => Pace::TopSpeed,
        (false, Some(pps)) => Pace::PacketsPerSecond(pps),
        (false, None) => Pace::Capture { multiplier: 1.0 },
    };
    let options = ReplayOptions { pace, ..ReplayOptions::default() };
    let open = move || Ok(source.take().expect("there is one pass"));
    replay::run(open, &mut sink, &options, &context.stop, |_| {})?;
    Ok(())
}

/// Writes a script that calls this program.
fn install(folder: Option<&Path>) -> Result<()> {
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        // Wireshark's personal folder for extcap programs on Unix.
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set; name a folder")?)
            .join(".local/lib/wireshark/extcap"),
    };
    let program = std::env::current_exe()?;
    let quoted = program.display().to_string().replace('\'', r"'\''");
    let path = folder.join("wiremamba");
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        let mut file = std::fs::File::create(&path)?;
        write!(file, "#!/bin/sh\n# Lets Wireshark list wiremamba as an interface.\nexec '{quoted}' extcap \"$@\"\n")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    print_status(&format!("{} calls {}", path.display(), program.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        _args: ExtcapArgs,
    }

    #[test]
    fn every_option_that_wireshark_is_told_of_is_one() {
        let command = Cli::command();
        let text = options();
        for line in text.lines() {
            let (_, option) = line.split_once("{call=--").unwrap();
            let (option, _) = option.split_once('}').unwrap();
            assert!(command.get_arguments().any(|a| a.get_long() == Some(option)), "{option}");
        }
        assert_eq!(text.lines().count(), OPTIONS.len() + 1);
    }

    /// The command line's own help says more than a table could (values, conflicts); what both say is the same.
    #[test]
    fn the_command_line_and_the_table_of_options_agree() {
        let command = Cli::command();
        for option in OPTIONS {
            let long = option.key.replace('_', "-");
            let arg = command.get_arguments().find(|a| a.get_long() == Some(long.as_str())).unwrap();
            assert_eq!(arg.get_help().unwrap().to_string(), option.help, "{long}");
            if let Some(default) = option.default {
                assert_eq!(arg.get_default_values(), [default], "{long}");
            }
        }
    }
}
