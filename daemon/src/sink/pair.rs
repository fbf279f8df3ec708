//! Two sinks as the two sides of a device under test: what clients send goes into one, what servers send into the other.

use wiremamba_model::flow::Direction;
use wiremamba_model::packet::Packet;

use super::{DeviceCounters, PacketSink, SinkError, SinkReport};

/// A client side and a server side.
pub struct PairSink<C, S> {
    client: C,
    server: S,
    report: SinkReport,
}

impl<C: PacketSink, S: PacketSink> PairSink<C, S> {
    /// A pair of sinks that nothing was sent to yet.
    pub fn new(client: C, server: S) -> Self {
        Self { client, server, report: SinkReport::default() }
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
    /// To the server side's device, as a client sends it.
    fn send(&mut self, packet: &Packet) -> Result<(), SinkError> {
        self.send_from(packet, Direction::Orig)
    }

    fn send_from(&mut self, packet: &Packet, direction: Direction) -> Result<(), SinkError> {
        let sent = match direction {
            Direction::Orig => self.client.send(packet),
            Direction::Resp => self.server.send(packet),
        };
        self.add_up();
        sent
    }

    fn has_sides(&self) -> bool {
        true
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.client.flush()?;
        self.server.flush()
    }

    fn report(&self) -> &SinkReport {
        &self.report
    }

    fn finish(&mut self) -> Result<SinkReport, SinkError> {
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
