//! DNS: every message that is generated has the form that its header promises, and ends with its datagram.

pub(super) mod message;
mod records;
#[cfg(test)]
mod tests;
