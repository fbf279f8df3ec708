//! Sessions: one client's flows, interleaved in time.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Flow, Session, SessionPacket};
use crate::packet::Timestamp;

/// Where a client's activity is cut into sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// A flow that begins this long after the client's last packet begins another session, in seconds. Default 10.
    pub idle_s: u64,
    /// Flows of one session at most; the next one begins another session. Default 32.
    pub flows_max: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle_s: 10, flows_max: 32 }
    }
}

/// Puts the flows of each client together, the client being who sent the first packet of a flow.
///
/// A flow is never cut: it belongs to the session in which it begins. The sessions come in the order of their first
/// flows; `flows` are expected in the order of their first packets.
pub fn into_sessions(flows: impl IntoIterator<Item = Flow>, limits: &SessionLimits) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    // The session of each client that is still open, and its last packet.
    let mut open: HashMap<IpAddr, (usize, Timestamp)> = HashMap::new();
    for flow in flows {
        let end = flow.packets.iter().map(|(_, p)| p.ts).max().unwrap_or(flow.start());
        let idle_ns = i64::try_from(limits.idle_s.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX);
        let place = open.get_mut(&flow.tuple.orig).filter(|(at, last)| {
            sessions[*at].flows.len() < limits.flows_max && flow.start().nanos_since(*last) < idle_ns
        });
        match place {
            Some((at, last)) => {
                *last = end.max(*last);
                sessions[*at].add(flow);
            }
            None => {
                open.insert(flow.tuple.orig, (sessions.len(), end));
                sessions.push(Session::from(flow));
            }
        }
    }
    // Packets of one flow keep their order where the clock does.
    sessions.iter_mut().for_each(|s| s.packets.sort_by_key(|p| p.packet.ts));
    sessions
}

impl Session {
    fn add(&mut self, flow: Flow) {
        let number = self.flows.len();
        self.flows.push(flow.tuple);
        let packets = flow.packets.into_iter();
        self.packets.extend(packets.map(|(direction, packet)| SessionPacket { flow: number, direction, packet }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Direction, FiveTuple, FlowEnd};
    use crate::packet::{LinkType, Packet};

    /// A flow of `client` with one packet at each of `seconds`.
    fn flow(client: u8, port: u16, seconds: &[i64]) -> Flow {
        let orig = IpAddr::from([10, 0, 0, client]);
        let resp = IpAddr::from([10, 0, 1, 1]);
        let tuple = FiveTuple { orig, resp, orig_port: port, resp_port: 80, protocol: 6 };
        let packet = |s: &i64| Packet {
            ts: Timestamp::from_parts(*s, 0),
            linktype: LinkType::ETHERNET,
            len: 2,
            data: port.to_be_bytes().to_vec(),
        };
        let packets = seconds.iter().map(|s| (Direction::Orig, packet(s))).collect();
        Flow { tuple, packets, end: FlowEnd::EndOfInput }
    }

    #[test]
    fn flows_of_a_client_are_interleaved_and_those_of_others_are_apart() {
        let flows = [flow(1, 100, &[0, 2, 5]), flow(2, 200, &[1]), flow(1, 101, &[1, 3])];
        let sessions = into_sessions(flows, &SessionLimits::default());
        assert_eq!(sessions.iter().map(|s| s.flows.len()).collect::<Vec<_>>(), [2, 1]);
        let order: Vec<_> = sessions[0].packets.iter().map(|p| (p.flow, p.packet.ts.0 / 1_000_000_000)).collect();
        assert_eq!(order, [(0, 0), (1, 1), (0, 2), (1, 3), (0, 5)]);
    }

    #[test]
    fn silence_and_too_many_flows_begin_another_session_and_no_flow_is_cut() {
        let limits = SessionLimits { idle_s: 10, flows_max: 2 };
        // The second begins long after the first began, but while it is still alive.
        let flows =
            [flow(1, 1, &[0, 30]), flow(1, 2, &[25, 26]), flow(1, 3, &[27]), flow(1, 4, &[36]), flow(1, 5, &[46])];
        let sessions = into_sessions(flows, &limits);
        let ports = |s: &Session| s.flows.iter().map(|t| t.orig_port).collect::<Vec<_>>();
        assert_eq!(sessions.iter().map(ports).collect::<Vec<_>>(), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(sessions.iter().map(|s| s.packets.len()).sum::<usize>(), 7);
    }
}
