//! What flows of each label do, as far as it was seen: which services they go to, how those flows end, how long they are, how much
//! either side says, which options of TCP they have.
//!
//! A network that has learned little mixes labels up. What its label never did, a generated flow does not do either.

pub(super) mod headers;
pub(super) mod layouts;
pub(super) mod said;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::headers::Headers;
use self::layouts::Layouts;
use self::said::Said;
use self::windows::WindowTally;
use super::super::LabelId;
use super::action::Action;
use super::application::Application;
use super::encode::Opened;
use super::outlook::{ENDS, Ends, size_class};
use super::side::SYN;
use super::vocab::{PORTS, Proto};

/// Ports without a token of their own that are kept by label and protocol; where there are more, any will do.
const PORTS_MAX: usize = 64;
/// Flows to a service, at least, that have to begin as one application for all to do so.
const BEGUN_MIN: usize = 3;
/// First of the ports that are drawn when rendered.
pub(super) const EPHEMERAL: u16 = 32_768;
/// How services are called whose port is no matter.
const ANY_PORT: &str = "any";
const EPHEMERAL_PORT: &str = "ephemeral";

/// By label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Habits(Arc<[Option<Arc<Label>>]>);

/// What flows of one label do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Most flows in one sample.
    pub flows: u32,
    /// By service: `tcp/443`, `udp/ephemeral`, `tcp/any`, `icmp`.
    pub services: BTreeMap<String, Service>,
    /// The windows of TCP that were met most often, each of another class and byte: where their tokens stand for several numbers, it is
    /// this one that is meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<u16>,
    /// The options of TCP, by kind of segment; nothing is known of kinds that are not there.
    #[serde(default, skip_serializing_if = "Layouts::is_empty")]
    pub layouts: Layouts,
    /// What the headers of packets had that the openers of flows sent, and the responders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<[Headers; 2]>,
    /// Types of the messages of TLS that openers say in the clear behind their hellos, and responders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<[BTreeSet<u8>; 2]>,
    /// Longest time between two packets of a sample, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap_ns: Option<u64>,
    /// What the segments of TCP do but follow each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disorder: Option<Disorder>,
}

/// What else segments do but follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disorder {
    /// Some go back: what was sent is sent again, or the connection is kept alive. A SYN does not count.
    pub repeats: bool,
    /// Some leave bytes out, which come later or were lost.
    pub leaves_out: bool,
}

impl Disorder {
    /// What either does.
    fn merge(&mut self, other: &Self) {
        self.repeats |= other.repeats;
        self.leaves_out |= other.leaves_out;
    }
}

/// What is counted of the packets of one label.
#[derive(Debug, Default)]
pub(super) struct Tally {
    windows: WindowTally,
    layouts: Layouts,
    headers: [Headers; 2],
    pub(super) messages: [BTreeSet<u8>; 2],
    longest_gap_ns: u64,
    disorder: Option<Disorder>,
}

impl Tally {
    /// Counts a packet: what was decided of it, and the window as it was captured.
    pub(super) fn count(&mut self, action: &Action, window: Option<u16>) {
        self.longest_gap_ns = self.longest_gap_ns.max(u64::try_from(action.gap_ns).unwrap_or(0));
        self.headers[usize::from(!action.from_orig)].see(action);
        if let Some(segment) = &action.tcp {
            self.layouts.see(segment);
            let disorder = self.disorder.get_or_insert_default();
            disorder.leaves_out |= segment.hole > 0;
            disorder.repeats |= !segment.is_next && segment.hole == 0 && segment.flags & SYN == 0;
        }
        window.into_iter().for_each(|window| self.windows.count(window));
    }
}

/// What flows to one service do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The application that all of them begin as, where it can be told at any port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Application>,
    /// Whether they are too few to tell: more of them may say so, and say nothing against what others show.
    #[serde(default, skip_serializing_if = "is_false")]
    pub few: bool,
    /// By how they end (`fin`, `rst`, `open`): packets of the shortest and of the longest.
    pub packets: BTreeMap<String, [u32; 2]>,
    /// What the opener and the responder of a TCP connection say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<[Said; 2]>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Service {
    /// Says what its flows begin as, each a known application or none.
    fn begin(&mut self, begun: &[Option<Application>]) {
        let is_one = begun.iter().all(|one| *one == begun[0]);
        self.application = begun.first().copied().flatten().filter(|_| is_one);
        // Flows that begin as nothing known are no few of something.
        self.few = begun.len() < BEGUN_MIN && (begun.is_empty() || self.application.is_some());
    }

    fn record(&mut self, ends: &str, packets: [u32; 2]) {
        let range = self.packets.entry(ends.to_owned()).or_insert(packets);
        *range = [range[0].min(packets[0]), range[1].max(packets[1])];
    }

    fn hear(&mut self, said: [Said; 2]) {
        let all = self.said.get_or_insert_default();
        all.iter_mut().zip(&said).for_each(|(all, said)| all.merge(said));
    }

    /// Takes other flows to the same service into account.
    fn merge(&mut self, other: &Self) {
        let is_mixed = |service: &Self| service.application.is_none() && !service.few;
        let differ = matches!((self.application, other.application), (Some(own), Some(other)) if own != other);
        (self.application, self.few) = if differ || is_mixed(self) || is_mixed(other) {
            (None, false)
        } else {
            (self.application.or(other.application), self.few && other.few)
        };
        other.packets.iter().for_each(|(ends, packets)| self.record(ends, *packets));
        other.said.into_iter().for_each(|said| self.hear(said));
    }
}

impl Label {
    fn key(proto: Proto, port: &str) -> String {
        match proto {
            Proto::Tcp => format!("tcp/{port}"),
            Proto::Udp => format!("udp/{port}"),
            Proto::Icmp => "icmp".to_owned(),
        }
    }

    /// Takes the flows of samples into account.
    pub(super) fn of_samples<'a>(samples: impl IntoIterator<Item = &'a [Opened]>, tally: Tally) -> Self {
        let (windows, layouts, disorder) = (tally.windows.frequent(), tally.layouts, tally.disorder);
        let mut ret = Self { windows, layouts, disorder, ..Self::default() };
        let mut begun: BTreeMap<String, Vec<Option<Application>>> = BTreeMap::new();
        for sample in samples {
            ret.flows = ret.flows.max(sample.len() as u32);
            for flow in sample {
                let port = if flow.port >= EPHEMERAL { EPHEMERAL_PORT.to_owned() } else { flow.port.to_string() };
                let key = Self::key(flow.proto, &port);
                let (ends, packets) = (flow.seen.outlook().ends.name(), flow.seen.packets());
                let service = ret.services.entry(key.clone()).or_default();
                service.record(ends, [packets; 2]);
                if flow.proto == Proto::Tcp {
                    service.hear(flow.seen.said());
                    begun.entry(key).or_default().extend(flow.begun);
                }
            }
        }
        ret.longest_gap_ns = Some(tally.longest_gap_ns).filter(|_| ret.flows > 0);
        ret.headers = Some(tally.headers).filter(|_| ret.flows > 0);
        ret.messages = Some(tally.messages).filter(|_| ret.flows > 0);
        for (key, begun) in begun {
            ret.services.entry(key).or_default().begin(&begun);
        }
        ret.forget_rare_ports();
        ret
    }

    /// Whether it was learned by a version that looked at nothing but services, ends, packets and windows.
    fn is_partial(&self) -> bool {
        self.flows > 0 && self.longest_gap_ns.is_none()
    }

    /// Takes what was seen elsewhere into account. What was not looked at in one place is not known.
    pub(super) fn merge(&mut self, other: &Self) {
        let is_partial = self.is_partial() || other.is_partial();
        let flows = [self.flows, other.flows];
        self.headers = both_sides(flows, self.headers.take(), &other.headers, Headers::merge);
        self.messages = both_sides(flows, self.messages.take(), &other.messages, |own, other| own.extend(other));
        self.flows = self.flows.max(other.flows);
        for (key, service) in &other.services {
            match self.services.get_mut(key) {
                Some(own) => own.merge(service),
                None => _ = self.services.insert(key.clone(), service.clone()),
            }
        }
        windows::add(&mut self.windows, &other.windows);
        self.layouts.merge(&other.layouts);
        self.longest_gap_ns = self.longest_gap_ns.max(other.longest_gap_ns);
        other.disorder.iter().for_each(|disorder| self.disorder.get_or_insert_default().merge(disorder));
        if is_partial {
            (self.layouts, self.longest_gap_ns, self.disorder) = Default::default();
            self.services.values_mut().for_each(|service| service.said = None);
        }
        self.forget_rare_ports();
    }

    fn forget_rare_ports(&mut self) {
        for (proto, name) in [(Proto::Tcp, "tcp/"), (Proto::Udp, "udp/")] {
            let any = Self::key(proto, ANY_PORT);
            let is_rare = |service: &String| {
                let port = service.strip_prefix(name).and_then(|port| port.parse::<u16>().ok());
                port.is_some_and(|port| PORTS.binary_search(&port).is_err())
            };
            let rare: Vec<String> = self.services.keys().filter(|service| is_rare(service)).cloned().collect();
            if rare.len() > PORTS_MAX || !rare.is_empty() && self.services.contains_key(&any) {
                for key in rare {
                    let Some(service) = self.services.remove(&key) else { continue };
                    let any = self.services.entry(any.clone()).or_default();
                    (any.application, any.few) = (None, false);
                    any.merge(&service);
                }
            }
        }
    }

    /// What flows to a port (`None` is an ephemeral one) do; `None` where there were none.
    fn service(&self, proto: Proto, port: Option<u16>) -> Option<&Service> {
        let name = port.map_or_else(|| EPHEMERAL_PORT.to_owned(), |port| port.to_string());
        let exact = self.services.get(&Self::key(proto, &name));
        let is_rare = port.is_some_and(|port| PORTS.binary_search(&port).is_err());
        exact.or_else(|| self.services.get(&Self::key(proto, ANY_PORT)).filter(|_| is_rare))
    }

    /// Whether there were flows of a protocol.
    pub(super) fn speaks(&self, proto: Proto) -> bool {
        let name = Self::key(proto, "");
        self.services.keys().any(|service| service.starts_with(&name))
    }

    /// Whether there were flows to a port (`None` is an ephemeral one).
    pub(super) fn calls(&self, proto: Proto, port: Option<u16>) -> bool {
        self.service(proto, port).is_some()
    }

    /// Ports without a token of their own, as ranges.
    pub(super) fn numbers(&self, proto: Proto) -> Vec<(u32, u32)> {
        if self.services.contains_key(&Self::key(proto, ANY_PORT)) {
            return vec![(1, 0xffff)];
        }
        let prefix = Self::key(proto, "");
        let ports = self.services.keys().filter_map(|service| service.strip_prefix(&prefix)?.parse::<u16>().ok());
        ports.filter(|port| PORTS.binary_search(port).is_err()).map(|port| (u32::from(port), u32::from(port))).collect()
    }

    /// The application that all flows to a port of TCP begin as, where one was seen.
    pub(super) fn application(&self, port: u16) -> Option<Application> {
        self.services.get(&Self::key(Proto::Tcp, &port.to_string())).filter(|service| !service.few)?.application
    }

    /// What the headers of a side's packets had, 0 the opener's.
    pub(super) fn headers(&self, side: usize) -> Option<&Headers> {
        Some(&self.headers.as_ref()?[side])
    }

    /// Types of the messages of TLS that a side says in the clear behind its hello, 0 the opener; `None` where nobody looked.
    pub(super) fn messages(&self, side: usize) -> Option<&BTreeSet<u8>> {
        Some(&self.messages.as_ref()?[side])
    }

    /// The window that is meant by one whose tokens stand for several.
    pub(super) fn window(&self, quantised: u16) -> u16 {
        windows::meant(&self.windows, quantised)
    }

    /// What a side of a connection to a port of TCP (`None` is an ephemeral one) says, 0 the opener.
    pub(super) fn said(&self, port: Option<u16>, side: usize) -> Option<Said> {
        Some(self.service(Proto::Tcp, port)?.said?[side])
    }

    /// Classes of how many packets flows to a port had that ended so; `None` where none did.
    pub(super) fn sizes(&self, proto: Proto, port: Option<u16>, ends: Ends) -> Option<(u8, u8)> {
        let [least, most] = self.service(proto, port)?.packets.get(ends.name())?;
        Some((size_class(*least), size_class(*most)))
    }
}

/// What was seen of either side in two places, which saw so many flows. Who saw no flow says nothing; who saw some, and did not look, leaves
/// it unknown.
fn both_sides<T: Clone>(
    flows: [u32; 2],
    own: Option<[T; 2]>,
    other: &Option<[T; 2]>,
    merge: impl Fn(&mut T, &T),
) -> Option<[T; 2]> {
    match (own, other) {
        (Some(mut own), Some(other)) => {
            own.iter_mut().zip(other).for_each(|(own, other)| merge(own, other));
            Some(own)
        }
        (own, _) if flows[1] == 0 => own,
        (_, other) if flows[0] == 0 => other.clone(),
        _ => None,
    }
}

impl Habits {
    /// Those of each label that was seen.
    pub(super) fn new(labels: impl IntoIterator<Item = Option<Label>>) -> Self {
        Self(labels.into_iter().map(|label| label.map(Arc::new)).collect())
    }

    /// These and what `more` says, for `labels` labels.
    pub(super) fn with(&self, more: Vec<Label>, labels: usize) -> Self {
        let mut more = more;
        more.resize_with(labels, Label::default);
        let both = |(id, mut label): (usize, Label)| {
            if let Some(known) = self.of(Some(LabelId(id as u16))) {
                label.merge(known);
            }
            Some(label).filter(|label| *label != Label::default())
        };
        Self::new(more.into_iter().enumerate().map(both))
    }

    /// What is known of a label; `None` where nothing is, so that anything may come.
    pub(super) fn of(&self, label: Option<LabelId>) -> Option<&Arc<Label>> {
        self.0.get(usize::from(label?.0))?.as_ref()
    }
}

/// What a checkpoint says of a label, if it can be right.
pub(super) fn checked(label: &Label) -> Result<(), String> {
    let is_service = |name: &str| match name.split_once('/') {
        Some(("tcp" | "udp", port)) => port == ANY_PORT || port == EPHEMERAL_PORT || port.parse::<u16>().is_ok(),
        _ => name == "icmp",
    };
    for (service, Service { packets, said, .. }) in &label.services {
        if !is_service(service) {
            return Err(format!("{service} is no service"));
        }
        for (ends, [least, most]) in packets {
            if !ENDS.iter().any(|known| known.name() == ends) || least > most || *least == 0 {
                return Err(format!("{service}: {ends} with {least} to {most} packets"));
            }
        }
        if packets.is_empty() {
            return Err(format!("{service} has no flow"));
        }
        if !said.iter().flatten().all(Said::can_be) {
            return Err(format!("{service}: {said:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(label: &mut Label, proto: Proto, port: &str, ends: &str, packets: [u32; 2]) {
        label.services.entry(Label::key(proto, port)).or_default().record(ends, packets);
    }

    #[test]
    fn too_many_ports_become_any_port() {
        let mut label = Label::default();
        for port in [443, 2222, 2223] {
            record(&mut label, Proto::Tcp, &port.to_string(), "fin", [7, 30]);
        }
        record(&mut label, Proto::Udp, EPHEMERAL_PORT, "open", [2, 2]);
        assert!(label.calls(Proto::Tcp, Some(2222)) && label.calls(Proto::Udp, None));
        assert!(
            !label.calls(Proto::Tcp, Some(2224))
                && !label.calls(Proto::Tcp, None)
                && !label.calls(Proto::Udp, Some(443))
        );
        assert_eq!(label.numbers(Proto::Tcp), [(2222, 2222), (2223, 2223)]);
        assert!(label.speaks(Proto::Udp) && !label.speaks(Proto::Icmp));
        assert_eq!(label.sizes(Proto::Tcp, Some(443), Ends::Fin), Some((size_class(7), size_class(30))));
        assert_eq!(label.sizes(Proto::Tcp, Some(443), Ends::Rst), None);
        for port in 0..PORTS_MAX as u16 {
            record(&mut label, Proto::Tcp, &(3000 + port).to_string(), "open", [3, 3]);
        }
        label.forget_rare_ports();
        assert_eq!(label.numbers(Proto::Tcp), [(1, 0xffff)]);
        assert!(
            label.calls(Proto::Tcp, Some(9))
                && !label.calls(Proto::Tcp, Some(80))
                && label.calls(Proto::Tcp, Some(443))
        );
        assert_eq!(label.sizes(Proto::Tcp, Some(9), Ends::Fin), Some((size_class(7), size_class(30))));
        assert_eq!(checked(&label), Ok(()));
        record(&mut label, Proto::Icmp, "", "closed", [1, 1]);
        assert!(checked(&label).is_err());
    }

    #[test]
    fn a_few_flows_neither_tell_what_a_service_begins_as_nor_take_it_back() {
        let begun = |begun: &[Option<Application>]| {
            let mut service = Service::default();
            service.begin(begun);
            (service.application, service.few)
        };
        let (ssh, tls) = (Some(Application::Ssh), Some(Application::Tls));
        assert_eq!([begun(&[]), begun(&[ssh; 2]), begun(&[ssh; 3])], [(None, true), (ssh, true), (ssh, false)]);
        assert_eq!([begun(&[None]), begun(&[ssh, tls]), begun(&[ssh, None, ssh])], [(None, false); 3]);

        let (none, few, all) = (begun(&[]), begun(&[ssh]), begun(&[ssh; 3]));
        let (few_others, others, mixed) = (begun(&[tls]), begun(&[tls; 3]), begun(&[ssh, tls]));
        for (one, other, both) in [
            (all, none, all),
            (all, few, all),
            (all, all, all),
            (all, few_others, mixed),
            (all, others, mixed),
            (all, mixed, mixed),
            (few, none, few),
            (few, few, few),
            (few, few_others, mixed),
            (few, mixed, mixed),
            (none, none, none),
            (none, mixed, mixed),
            (mixed, mixed, mixed),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let service = |(application, few)| Service { application, few, ..Service::default() };
                let mut merged = service(one);
                merged.merge(&service(other));
                assert_eq!((merged.application, merged.few), both, "{one:?} and {other:?}");
            }
        }
        let label = |service| Label { services: BTreeMap::from([("tcp/22".to_owned(), service)]), ..Label::default() };
        let known = |(application, few)| label(Service { application, few, ..Service::default() }).application(22);
        assert_eq!((known(all), known(few), known(mixed)), (ssh, None, None));
    }

    #[test]
    fn what_is_known_of_a_label_stays_when_more_is_learned() {
        let mut known = Label { flows: 1, ..Label::default() };
        record(&mut known, Proto::Tcp, "22", "fin", [10, 20]);
        let mut more = Label { flows: 2, ..Label::default() };
        record(&mut more, Proto::Tcp, "22", "fin", [8, 12]);
        for (label, application) in [(&mut known, Application::Ssh), (&mut more, Application::Ssh)] {
            label.services.get_mut("tcp/22").unwrap().application = Some(application);
        }
        record(&mut more, Proto::Tcp, "80", "rst", [5, 5]);
        let said = Said { first: [21, 30], longest: 99, bytes: 400 };
        (more.longest_gap_ns, more.disorder) = (Some(9), Some(Disorder { repeats: true, leaves_out: false }));
        more.services.get_mut("tcp/22").unwrap().said = Some([said, Said::default()]);
        let mut both = Label { flows: 1, longest_gap_ns: Some(5), ..Label::default() };
        both.merge(&more);
        assert_eq!((both.longest_gap_ns, both.disorder), (Some(9), more.disorder));
        assert_eq!((both.said(Some(22), 0), both.said(Some(22), 1)), (Some(said), Some(Said::default())));
        let habits = Habits::new([None, Some(known)]).with(vec![Label::default(), more], 3);
        let label = habits.of(Some(LabelId(1))).unwrap();
        assert_eq!(
            (label.flows, label.services["tcp/22"].packets["fin"], label.services["tcp/80"].packets["rst"]),
            (2, [8, 20], [5, 5])
        );
        // An older version had not looked.
        assert_eq!((label.longest_gap_ns, label.disorder, label.said(Some(22), 0)), (None, None, None));
        assert!(both.headers.is_none() && both.messages.is_none(), "neither had");
        let looked = |flows| {
            let messages = Some([BTreeSet::from([flows as u8]), BTreeSet::new()]);
            Label { flows, headers: Some(Default::default()), messages, ..Label::default() }
        };
        for (flows, more, is_known) in [(1, looked(2), true), (1, Label { flows: 1, ..Label::default() }, false)] {
            let mut label = looked(flows);
            label.merge(&more);
            assert_eq!(label.headers.is_some(), is_known);
            assert_eq!(label.messages(0), Some(&BTreeSet::from([1, 2])).filter(|_| is_known));
        }
        let mut none = Label::default();
        none.merge(&looked(3));
        none.merge(&Label::default());
        assert!(none.headers(1).is_some() && none.messages(1).is_some(), "whoever saw no flow takes nothing back");
        assert!(
            habits.of(Some(LabelId(0))).is_none() && habits.of(Some(LabelId(2))).is_none() && habits.of(None).is_none()
        );
    }
}
