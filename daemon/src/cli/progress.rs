//! Progress bars on stderr, in one style.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar towards `total`, or a spinner when nobody knows the end. Hidden when `quiet` or stderr is no terminal.
pub(super) fn bar(quiet: bool, total: Option<u64>, what: &'static str) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    if quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = match total {
        Some(_) => "{prefix:>10} [{bar:30}] {human_pos}/{human_len} {elapsed_precise} eta {eta} {wide_msg}",
        None => "{prefix:>10} {spinner} {human_pos} {elapsed_precise} {wide_msg}",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> "));
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
