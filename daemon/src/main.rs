//! `wiremamba`: see [`wiremamba_daemon::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    wiremamba_daemon::cli::main()
}
