//! The command line: reads arguments, runs the job, turns its outcome into words and an exit code.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 misuse.

mod baseline;
mod bench;
mod ctl;
mod devices;
mod eval;
mod exec;
mod extcap;
mod generate;
mod inspect;
mod model_args;
mod models;
mod plugin;
mod progress;
mod replay;
mod score;
mod service;
mod train;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser, Subcommand};
use wiremamba_model::device::{self, DeviceFailure};

/// Learn network traffic with a Mamba model and generate more of it
#[derive(Debug, Parser)]
#[command(name = "wiremamba", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Threads to compute with [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// What to log: error, warn, info, debug, trace, or a filter such as wiremamba_daemon=debug
    ///
    /// [default: info, or warn with --quiet]
    #[arg(long, global = true, value_name = "FILTER", env = "WIREMAMBA_LOG")]
    log: Option<String>,
    /// Show no progress bars and no informational messages
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on captures
    Train(train::TrainArgs),
    /// Generate packets with a model into a capture file or a pipe
    Generate(generate::GenerateArgs),
    /// Make traffic out of real captures in a trivial way, for a model to beat
    Baseline(baseline::BaselineArgs),
    /// Replay a capture, or packets fresh from a model or a plugin, onto a tap, a pair of taps or an interface
    Replay(Box<replay::ReplayArgs>),
    /// Show what is in a capture or a checkpoint
    Inspect(inspect::InspectArgs),
    /// Judge how close synthetic traffic is to real traffic
    Eval(eval::EvalArgs),
    /// Hold what an intrusion detection system saw of a replay against the ground truth
    Score(score::ScoreArgs),
    /// Learn from an interface, day after day: the service
    Run(service::RunArgs),
    /// Open interfaces and the tap for a service that may not: its privileged half
    Open(service::OpenArgs),
    /// Tell the service what to do
    Ctl(ctl::CtlArgs),
    /// List the versions of a model, go back to one, remove old ones
    Models(models::ModelsArgs),
    /// Measure training and decoding on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// List what can compute here, and say why the rest cannot
    Devices(devices::DevicesArgs),
    /// Run a program for which wiremamba:label=web,flows=50 is the name of a capture
    Exec(exec::ExecArgs),
    /// Be an interface of Wireshark and tshark
    Extcap(extcap::ExtcapArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Open a plugin's source and close it again
    #[command(name = plugin::PROBE, hide = true)]
    ProbePlugin(plugin::ProbeArgs),
    /// Write the manual pages of the program and its commands into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// What every job gets from the command line beside its own arguments.
#[derive(Debug, Clone)]
struct Context {
    /// Set by SIGINT or SIGTERM: finish what is begun and stop.
    stop: Arc<AtomicBool>,
    quiet: bool,
}

/// Arguments that contradict each other or the data, found after parsing: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// What to do when a device stopped in the middle of its work.
const DEVICE_ADVICE: &str = "\
    Nothing that it held was saved: checkpoints are as they were written last, and `train --resume` goes on from there.
    `nvidia-smi`, and \"Xid\" in the kernel's log, say whether the GPU is still there; `--device cpu` does without it.";

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = start(&cli).and_then(|context| {
        // A device that fails unwinds up to here, so that nothing of what it held is saved as if it were sound.
        device::guard(|| run(cli.command, &context)).unwrap_or_else(|failure| Err(failure.into()))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_status(&format!("wiremamba: {}", chain(&error)));
            if let Some(DeviceFailure::Failed { .. }) = error.chain().find_map(|e| e.downcast_ref()) {
                print_status(DEVICE_ADVICE);
            }
            ExitCode::from(if error.chain().any(|e| e.is::<Misuse>()) { 2 } else { 1 })
        }
    }
}

/// The messages of an error and its causes, without those that repeat what was said before them.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for message in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = message;
        } else if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
    }
    text
}

fn start(cli: &Cli) -> anyhow::Result<Context> {
    let filter = cli.log.as_deref().unwrap_or(if cli.quiet { "warn" } else { "info" });
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| Misuse(format!("--log: {e}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        // Otherwise a closed stderr makes it panic while complaining about the closed stderr.
        .log_internal_errors(false)
        .init();
    if let Some(threads) = cli.threads {
        rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global()?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal, while the first is still being obeyed, ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(Context { stop, quiet: cli.quiet })
}

fn run(command: Command, context: &Context) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run(args, context),
        Command::Generate(args) => generate::run(args, context),
        Command::Baseline(args) => baseline::run(args, context),
        Command::Replay(args) => replay::run(*args, context),
        Command::Score(args) => score::run(args),
        Command::Inspect(args) => inspect::run(args, context),
        Command::Eval(args) => eval::run(args, context),
        Command::Run(args) => service::run(&args, context),
        Command::Open(args) => service::open(&args, context),
        Command::Ctl(args) => ctl::run(args),
        Command::Models(args) => models::run(&args),
        Command::Bench(command) => bench::run(command, context),
        Command::Devices(args) => devices::run(&args),
        Command::Exec(args) => exec::run(&args),
        Command::Extcap(args) => extcap::run(args, context),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wiremamba", &mut io::stdout());
            Ok(())
        }
        Command::ProbePlugin(args) => plugin::run(args),
        Command::Man { dir } => Ok(clap_mangen::generate_to(Cli::command(), dir)?),
    }
}

/// Whether whoever read our output went away, which is a normal end of a pipe.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// Prints one JSON object to stdout.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use io::Write;
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    Ok(())
}

/// Prints one line to stderr; that nobody reads it is no reason to stop.
fn print_status(line: &str) {
    use io::Write;
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints text to stdout.
fn print_text(text: &str) -> anyhow::Result<()> {
    use io::Write;
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_closed_pipe_is_a_normal_end_however_deep() {
        let pipe = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert!(is_closed_pipe(&pipe));
        assert!(!is_closed_pipe(&anyhow::anyhow!("disk full")));
    }
}
