//! `libwiremamba.so`: a trained model as a packet source for C programs (see `wiremamba-abi` and
//! `plugin/include/wiremamba_source.h`).
//!
//! No panic crosses the border, nothing is logged but what the host takes, no thread is left after `close`, no signal handler
//! is installed.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod border;
mod describe;
mod source;
mod watch;
