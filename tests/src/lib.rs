//! Support for the end-to-end tests: the built program, small captures, network namespaces, and a receiver that sees
//! every packet of an interface.
//!
//! Tests that need root or `/dev/net/tun` ask [`netns::missing`] first, print what it says and skip.

#![deny(unsafe_code)]

pub mod emulator;
pub mod judges;
pub mod netns;
pub mod program;
pub mod service;
pub mod sniffer;
pub mod tcp;
pub mod traffic;
