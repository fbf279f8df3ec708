//! Two sinks as the two sides of a device under test: what clients send goes into one, what servers send into the other.

use std::sync::{Arc, Mutex, PoisonError};

use wiremamba_model::flow::Direction;
use wiremamba_model::packet::{LinkType, Packet};

use super::device::{DeviceReport, DeviceWatch, ThroughDevice};
use super::{DeviceCounters, PacketSink, SinkError, SinkReport};
use crate::source::{Tag, Tagged};

/// A client side and a server side.
pub struct PairSink<C, S> {
    client: C,
    server: S,
    report: SinkReport,
    watch: Option<DeviceWatch>,
    /// Side of the packet that was staged last, if it was.
    staged: Option<Direction>,
    /// Where the watch's report goes at the end.
    watched: Arc<Mutex<Option<DeviceReport>>>,
    /// A packet with the device's MAC.
    scratch: Packet,
}

impl<C: PacketSink, S: PacketSink> PairSink<C, S> {
    /// A pair of sinks that nothing was sent to yet.
    pub fn new(client: C, server: S) -> Self {
        let scratch = Tagged::default().packet;
        Self {
            client,
            server,
            report: SinkReport::default(),
            watch: None,
            staged: None,
            watched: Arc::default(),
            scratch,
        }
    }

    /// With somebody who watches what comes out of the device between the two; the report is there after `finish`.
    pub fn watched_by(mut self, watch: DeviceWatch) -> (Self, Arc<Mutex<Option<DeviceReport>>>) {
        self.watch = Some(watch);
        let watched = Arc::clone(&self.watched);
        (self, watched)
    }

    fn send_one_way(&mut self, packet: &Packet, direction: Direction) -> Result<(), SinkError> {
        let mac = self.watch.as_ref().and_then(|watch| watch.mac(direction));
        let packet = match mac {
            Some(mac) if packet.linktype == LinkType::ETHERNET && packet.data.len() >= mac.len() => {
                self.scratch.clone_from(packet);
                self.scratch.data[..mac.len()].copy_from_slice(&mac);
                &self.scratch
            }
            _ => packet,
        };
        let sent = match direction {
            Direction::Orig => self.client.send(packet),
            Direction::Resp => self.server.send(packet),
        };
        self.add_up();
        sent
    }

    /// Brings the common report up to date.
    fn add_up(&mut self) {
        let (client, server) = (self.client.report(), self.server.report());
        let report = &mut self.report;
        report.packets = client.packets + server.packets;
        report.bytes = client.bytes + server.bytes;
        report.padded = client.padded + server.padded;
        report.reframed = client.reframed + server.reframed;
        report.closed = client.closed || server.closed;
        if report.refused_packets() != client.refused_packets() + server.refused_packets() {
            report.refused.clone_from(&client.refused);
            for (reason, count) in &server.refused {
                *report.refused.entry(reason).or_default() += count;
            }
        }
    }
}

impl<C: PacketSink, S: PacketSink> PacketSink for PairSink<C, S> {
    /// As a client sends it.
    fn send(&mut self, packet: &Packet) -> Result<(), SinkError> {
        self.send_from(&Tagged { packet: packet.clone(), tag: Tag::default() }, Direction::Orig)
    }

    fn send_from(&mut self, tagged: &Tagged, direction: Direction) -> Result<(), SinkError> {
        let Some(watch) = &mut self.watch else { return self.send_one_way(&tagged.packet, direction) };
        watch.introduce(&tagged.packet, direction);
        // Before it is sent: it may be through before this thread goes on.
        let announced = watch.announce(tagged, direction);
        let before = self.report.packets;
        let sent = self.send_one_way(&tagged.packet, direction);
        if let (Some(watch), Some(announced), true) = (&self.watch, announced, self.report.packets == before) {
            watch.take_back(&announced);
        }
        sent
    }

    /// With a watch, packets are changed and announced on their way.
    fn stage(&mut self, tagged: &Tagged, direction: Direction) -> bool {
        let is_staged = self.watch.is_none()
            && match direction {
                Direction::Orig => self.client.stage(tagged, direction),
                Direction::Resp => self.server.stage(tagged, direction),
            };
        self.staged = is_staged.then_some(direction);
        is_staged
    }

    fn release(&mut self, direction: Direction) -> Result<(), SinkError> {
        let sent = match direction {
            Direction::Orig => self.client.release(direction),
            Direction::Resp => self.server.release(direction),
        };
        self.add_up();
        sent
    }

    fn has_sides(&self) -> bool {
        true
    }

    fn mtu(&self) -> Option<u32> {
        match (self.client.mtu(), self.server.mtu()) {
            (Some(client), Some(server)) => Some(client.min(server)),
            (client, server) => client.or(server),
        }
    }

    fn through_device(&self) -> Option<ThroughDevice> {
        self.watch.as_ref().map(DeviceWatch::so_far)
    }

    fn prepare_to_warm(&mut self) {
        self.client.prepare_to_warm();
        self.server.prepare_to_warm();
    }

    fn warm(&mut self) {
        if self.staged != Some(Direction::Resp) {
            self.client.warm();
        }
        if self.staged != Some(Direction::Orig) {
            self.server.warm();
        }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.client.flush()?;
        self.server.flush()
    }

    fn report(&self) -> &SinkReport {
        &self.report
    }

    fn finish(&mut self) -> Result<SinkReport, SinkError> {
        if let Some(watch) = &mut self.watch {
            let report = watch.finish();
            *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        }
        let finished = [self.client.finish(), self.server.finish()];
        self.add_up();
        let mut sum = Some(DeviceCounters::default());
        for one in finished {
            sum = sum.zip(one?.device).map(|(sum, one)| DeviceCounters {
                rx_packets: sum.rx_packets + one.rx_packets,
                rx_dropped: sum.rx_dropped + one.rx_dropped,
                tx_packets: sum.tx_packets + one.tx_packets,
                tx_dropped: sum.tx_dropped + one.tx_dropped,
            });
        }
        self.report.device = sum;
        Ok(self.report.clone())
    }
}
