//! Packets fresh from a model, on one time line.

use std::task::Poll;
use std::time::{Duration, Instant};

use wiremamba_model::generate::Traffic;

use super::{Filled, Next, PacketSource, SourceError, Tag, Tagged, next_by_filling};

/// Longest that the network computes before whoever waits for a packet is told that there is none yet: short beside the
/// 100 ms in which a stop should be done, long beside a step.
const WORK_MAX: Duration = Duration::from_millis(5);

/// Time between two words on a stock that is being gathered.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The packets of [`Traffic`] as a source.
#[derive(Debug)]
pub struct ModelSource {
    /// The packets.
    pub traffic: Traffic,
    told: Instant,
}

impl ModelSource {
    /// The packets of `traffic`.
    pub fn new(traffic: Traffic) -> Self {
        Self { traffic, told: Instant::now() }
    }

    /// Says how far the stock is, every few seconds: no packet comes before it is complete.
    fn tell(&mut self) {
        if let Some((flows, size)) = self.traffic.gathered().filter(|_| self.told.elapsed() > TELL_EVERY) {
            tracing::info!("{flows} of {size} flows in stock");
            self.told = Instant::now();
        }
    }
}

impl PacketSource for ModelSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        next_by_filling(self)
    }

    fn next_into(&mut self, ret: &mut Tagged) -> Result<Filled, SourceError> {
        let mut begun: Option<Instant> = None;
        loop {
            match self.traffic.poll_packet() {
                Poll::Ready(Some(next)) => {
                    *ret = Tagged {
                        tag: Tag {
                            session: next.flow + 1,
                            label: Some(next.label),
                            direction: Some(next.direction),
                            is_last: next.left == 0,
                            is_again: next.is_again,
                        },
                        packet: next.packet,
                    };
                    return Ok(Filled::Packet);
                }
                Poll::Ready(None) => return Ok(Filled::End),
                Poll::Pending if begun.get_or_insert_with(Instant::now).elapsed() > WORK_MAX => {
                    self.tell();
                    return Ok(Filled::Idle);
                }
                Poll::Pending => {}
            }
        }
    }
}
