//! Packets fresh from a model, on one time line.

use std::task::Poll;
use std::time::{Duration, Instant};

use wiremamba_model::generate::Traffic;

use super::{Next, PacketSource, SourceError};

/// Longest that the network computes before whoever waits for a packet is told that there is none yet: short beside the
/// 100 ms in which a stop should be done, long beside a step.
const WORK_MAX: Duration = Duration::from_millis(5);

/// The packets of [`Traffic`] as a source.
#[derive(Debug)]
pub struct ModelSource(pub Traffic);

impl PacketSource for ModelSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        let mut begun: Option<Instant> = None;
        loop {
            match self.0.poll_packet() {
                Poll::Ready(Some(next)) => return Ok(Next::Packet(next.packet)),
                Poll::Ready(None) => return Ok(Next::End),
                Poll::Pending if begun.get_or_insert_with(Instant::now).elapsed() > WORK_MAX => return Ok(Next::Idle),
                Poll::Pending => {}
            }
        }
    }
}
