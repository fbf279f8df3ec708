//! Frames: from bytes to meaning and back, without tokens.
//!
//! [`parse`] reads a captured frame, [`render`] writes one with every length and checksum computed, [`plan`] says which
//! addresses, ports and names rendered traffic has, [`names`] where a payload tells names, [`dhcp`]
//! what a frame determines of a message of DHCP, [`http`] how heads end, [`isakmp`] which messages of it are well formed, [`ntp`] what time it is, [`certificate`] makes what
//! servers show, [`quic`] what is not secret of QUIC. What a sender *decides* is the business of
//! [`codec::wire`](crate::codec::wire).

pub mod certificate;
pub mod dhcp;
pub mod http;
pub mod isakmp;
pub mod names;
pub mod ntp;
pub mod parse;
pub mod plan;
pub mod quic;
pub mod render;
