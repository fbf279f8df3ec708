//! Packets fresh from a model, on one time line.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use wiremamba_model::codec::Codec;
use wiremamba_model::device;
use wiremamba_model::generate::{TimelinePacket, Traffic};

use super::stock::{StockFileError, StockKeeper};
use super::{Filled, Next, PacketSource, SourceError, Tag, Tagged, next_by_filling};

/// Longest that the network computes before whoever waits for a packet is told that there is none yet: short beside the
/// 100 ms in which a stop should be done, long beside a step.
const WORK_MAX: Duration = Duration::from_millis(5);

/// Time between two words on a stock that is being gathered.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Flows in stock, for whoever reports.
#[derive(Debug, Default)]
pub struct StockCounts {
    /// Flows in stock, once it is complete.
    pub flows: AtomicU64,
    /// Of these, read from a file.
    pub from_file: AtomicU64,
    /// 1 where the stock could not be written to its file.
    pub not_written: AtomicU64,
}

/// The packets of [`Traffic`] as a source.
#[derive(Debug)]
pub struct ModelSource {
    /// The packets.
    pub traffic: Traffic,
    told: Instant,
    next: TimelinePacket,
    /// Where the stock goes once it is complete.
    keeper: Option<StockKeeper>,
    stock: Arc<StockCounts>,
}

impl ModelSource {
    /// The packets of `traffic`.
    pub fn new(traffic: Traffic) -> Self {
        Self { traffic, told: Instant::now(), next: TimelinePacket::default(), keeper: None, stock: Arc::default() }
    }

    /// With a file for its stock: what is in it is taken for what would have been generated, else it is written when the stock
    /// is complete.
    ///
    /// # Errors
    /// The file is there and is no whole stock.
    pub fn with_stock_file(mut self, keeper: StockKeeper, codec: &dyn Codec) -> Result<Self, StockFileError> {
        match keeper.read(codec)? {
            Some(stock) => {
                self.stock.from_file.store(stock.flows.len() as u64, Relaxed);
                tracing::info!(flows = stock.flows.len(), file = %keeper.path().display(), "stock read");
                self.traffic.put_stock(stock);
            }
            None => self.keeper = Some(keeper),
        }
        Ok(self)
    }

    /// Flows in stock, and from where, as far as is known.
    pub fn stock(&self) -> Arc<StockCounts> {
        Arc::clone(&self.stock)
    }

    /// Writes the stock once it is complete. What cannot be written is told and holds nothing up.
    fn keep_stock(&mut self) {
        let Some(stock) = self.traffic.stock() else { return };
        self.stock.flows.store(stock.flows.len() as u64, Relaxed);
        if let Some(keeper) = self.keeper.take() {
            match keeper.write(stock) {
                Ok(()) => tracing::info!(flows = stock.flows.len(), file = %keeper.path().display(), "stock written"),
                Err(error) => {
                    self.stock.not_written.store(1, Relaxed);
                    let cause = error.source().map(ToString::to_string);
                    tracing::warn!(%error, cause, "the next run has to generate the stock again");
                }
            }
        }
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
        if self.stock.flows.load(Relaxed) == 0 {
            self.keep_stock();
        }
        loop {
            // The packet is made in the caller's buffer.
            std::mem::swap(&mut self.next.packet, &mut ret.packet);
            let polled = device::guard(|| self.traffic.poll_into(&mut self.next));
            std::mem::swap(&mut self.next.packet, &mut ret.packet);
            match polled? {
                Poll::Ready(true) => {
                    let next = &self.next;
                    ret.tag = Tag {
                        session: next.flow + 1,
                        label: Some(next.label),
                        direction: Some(next.direction),
                        is_last: next.left == 0,
                        is_again: next.is_again,
                    };
                    return Ok(Filled::Packet);
                }
                Poll::Ready(false) => return Ok(Filled::End),
                Poll::Pending if begun.get_or_insert_with(Instant::now).elapsed() > WORK_MAX => {
                    self.tell();
                    return Ok(Filled::Idle);
                }
                Poll::Pending => {}
            }
        }
    }
}
