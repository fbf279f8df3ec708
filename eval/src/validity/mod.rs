//! Whether packets and flows are ones that correct hosts could have sent.
//!
//! Three layers, each with rules that have names: the packet by itself, the flow as a TCP connection, and the payload as
//! TLS, DNS, HTTP or QUIC. Nothing is repaired first, and nothing is compared with real traffic; how *alike* traffic is
//! belongs to the other measures. What the capture left out (snaplen, fragments, the beginning or the end of a flow) is
//! not held against the sender.

mod checksum;
mod dns;
mod http;
mod netssm;
mod packet;
mod quic;
mod report;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

use wiremamba_model::flow::{FiveTuple, Flow};

use crate::view::{TCP, TcpView, UDP, View, views};
use netssm::Netssm;
use packet::{Frame, judge, judge_frame};
use report::pct;
use stream::{Found, Payloads, Streams};
use tcp::{Segment, Tracker};

pub use netssm::NetssmReport;
pub use report::{Faults, FirstDatagrams, Messages, Rate, TlsStreams, ValidityReport};

/// Judges packets and flows, and counts. Memory is bounded by one flow's state, whatever goes through.
#[derive(Debug, Clone, Default)]
pub struct Validity {
    packets: u64,
    packets_valid: u64,
    packets_not_ip: u64,
    packets_cut: u64,
    checksums_not_checked: u64,
    flows: u64,
    flows_valid: u64,
    tcp_flows: u64,
    tcp_complete: u64,
    tcp_flows_not_followed: u64,
    packet_faults: Faults,
    flow_faults: Faults,
    payloads: Payloads,
    netssm: Netssm,
}

impl Validity {
    /// Counts a frame with no 5-tuple. One that is no IP is nobody's fault; one that should be IP is invalid.
    pub fn packet_without_flow(&mut self, view: &View<'_>) {
        match judge_frame(view.packet) {
            Frame::NotIp => self.packets_not_ip += 1,
            Frame::Cut => self.packets_cut += 1,
            Frame::Bad(name) => {
                self.packets += 1;
                count(&mut self.packet_faults, name);
            }
        }
    }

    /// Judges a flow and its packets.
    pub fn flow(&mut self, flow: &Flow) {
        let mut faults = Vec::new();
        let mut packets_valid = true;
        for (_, view) in views(flow) {
            packets_valid &= self.packet(&view);
        }
        if !packets_valid {
            faults.push("invalid packet");
        }
        let is_tcp = flow.tuple.protocol == TCP && views(flow).any(|(_, view)| view.tcp().is_some());
        let mut is_complete = false;
        if is_tcp {
            is_complete = self.tcp(flow, &mut faults);
        } else if flow.tuple.protocol == UDP {
            self.udp(flow, &mut faults);
        }
        self.flows += 1;
        self.flows_valid += u64::from(faults.is_empty());
        self.tcp_flows += u64::from(is_tcp);
        self.tcp_complete += u64::from(is_complete && faults.is_empty());
        for name in faults {
            count(&mut self.flow_faults, name);
        }
    }

    /// Takes in what another one has counted.
    pub fn merge(&mut self, other: Self) {
        self.packets += other.packets;
        self.packets_valid += other.packets_valid;
        self.packets_not_ip += other.packets_not_ip;
        self.packets_cut += other.packets_cut;
        self.checksums_not_checked += other.checksums_not_checked;
        self.flows += other.flows;
        self.flows_valid += other.flows_valid;
        self.tcp_flows += other.tcp_flows;
        self.tcp_complete += other.tcp_complete;
        self.tcp_flows_not_followed += other.tcp_flows_not_followed;
        for (ours, theirs) in
            [(&mut self.packet_faults, other.packet_faults), (&mut self.flow_faults, other.flow_faults)]
        {
            for (name, n) in theirs {
                *ours.entry(name).or_default() += n;
            }
        }
        self.payloads.tls.add(other.payloads.tls);
        self.payloads.dns.add(other.payloads.dns);
        self.payloads.http.add(other.payloads.http);
        self.payloads.quic.add(other.payloads.quic);
        self.payloads.streams_over_limit += other.payloads.streams_over_limit;
        self.netssm.merge(&other.netssm);
    }

    /// The figures so far.
    pub fn report(&self) -> ValidityReport {
        ValidityReport {
            packets_valid_pct: pct(self.packets_valid, self.packets),
            flows_valid_pct: pct(self.flows_valid, self.flows),
            tcp_complete_pct: pct(self.tcp_complete, self.tcp_flows),
            packets: self.packets,
            packets_valid: self.packets_valid,
            packets_not_ip: self.packets_not_ip,
            packets_cut: self.packets_cut,
            checksums_not_checked: self.checksums_not_checked,
            flows: self.flows,
            flows_valid: self.flows_valid,
            tcp_flows: self.tcp_flows,
            tcp_complete: self.tcp_complete,
            tcp_flows_not_followed: self.tcp_flows_not_followed,
            streams_over_limit: self.payloads.streams_over_limit,
            packet_faults: self.packet_faults.clone(),
            flow_faults: self.flow_faults.clone(),
            tls: self.payloads.tls,
            dns: self.payloads.dns,
            http: self.payloads.http,
            quic: self.payloads.quic.into(),
            netssm: self.netssm.report(),
        }
    }

    /// Counts a packet with a 5-tuple; returns whether it is valid.
    fn packet(&mut self, view: &View<'_>) -> bool {
        let findings = judge(view);
        let is_valid = findings.faults.is_empty();
        self.packets += 1;
        self.packets_valid += u64::from(is_valid);
        self.checksums_not_checked += findings.checksums_not_checked;
        for name in findings.faults {
            count(&mut self.packet_faults, name);
        }
        is_valid
    }

    /// Judges a TCP flow; returns whether it has a beginning and an end.
    fn tcp(&mut self, flow: &Flow, faults: &mut Vec<&'static str>) -> bool {
        let mut tracker = Tracker::default();
        let mut streams = Streams::new(has_port(&flow.tuple, &[53]));
        let mut found = Found::default();
        let mut in_flow = netssm::InFlow::default();
        let mut is_followed = true;
        for (direction, view) in views(flow) {
            // Behind a packet of which less is known than its sender sent, everything would look wrong.
            is_followed &= view.tcp().is_some() && !packet::is_fragment(&view);
            let Some(tcp) = view.tcp() else { continue };
            let segment = Segment::new(&view, tcp);
            self.netssm.packet(&mut in_flow, direction, &segment);
            if !is_followed {
                continue;
            }
            tracker.push(direction, &segment);
            let is_cut = segment.len as usize > view.payload.len();
            let seq = segment.seq.wrapping_add(u32::from(segment.has(TcpView::SYN)));
            streams.of(direction).push(seq, view.payload, is_cut, tracker.first_byte(direction), &mut found);
        }
        streams.finish(&tracker, &mut found);
        faults.extend(tracker.finish());
        faults.extend((found.tls.bad > 0).then_some("TLS records"));
        faults.extend((found.dns.bad > 0).then_some("DNS message"));
        faults.extend((found.http.bad > 0).then_some("HTTP first line"));
        self.payloads.tls.add(found.tls);
        self.payloads.dns.add(found.dns);
        self.payloads.http.add(found.http);
        self.payloads.streams_over_limit += found.over_limit;
        self.netssm.flow(&in_flow, &tracker);
        self.tcp_flows_not_followed += u64::from(!is_followed);
        is_followed && tracker.has_handshake() && tracker.is_over()
    }

    /// Judges the payload of a UDP flow.
    fn udp(&mut self, flow: &Flow, faults: &mut Vec<&'static str>) {
        let is_dns = has_port(&flow.tuple, &[53, 5353, 5355]);
        let is_quic = has_port(&flow.tuple, &[443]);
        let mut dns = Messages::default();
        for (number, (_, view)) in views(flow).enumerate() {
            let Some(datagram) = whole_datagram(&view) else { continue };
            if is_dns {
                dns.count(dns::is_message(datagram));
            }
            if is_quic && number == 0 && quic::claims_to_be(datagram) {
                let is_valid = quic::is_first_datagram(datagram);
                self.payloads.quic.count(is_valid);
                faults.extend((!is_valid).then_some("QUIC first datagram"));
            }
        }
        faults.extend((dns.bad > 0).then_some("DNS message"));
        self.payloads.dns.add(dns);
    }
}

/// The payload of a UDP packet, where all of it was captured and there is some.
fn whole_datagram<'a>(view: &View<'a>) -> Option<&'a [u8]> {
    let udp = view.udp()?;
    let len = usize::from(u16::from_be_bytes([udp[4], udp[5]])).checked_sub(8)?;
    let is_whole = !packet::is_fragment(view) && view.payload_len == view.payload.len();
    view.payload.get(..len).filter(|datagram| is_whole && !datagram.is_empty())
}

fn has_port(tuple: &FiveTuple, ports: &[u16]) -> bool {
    ports.contains(&tuple.orig_port) || ports.contains(&tuple.resp_port)
}

fn count(faults: &mut Faults, name: &'static str) {
    *faults.entry(name).or_default() += 1;
}
