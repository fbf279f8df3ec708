//! The report as a page: verdicts first, then each group's pictures and tables.

use maud::{Markup, html};
use wiremamba_eval::pictures::{Pictures, Row, TimelineFlow};
use wiremamba_model::flow::Direction;

use super::Judgement;
use super::tables::{self, Table};
use crate::page::charts::{Axis, heat_map, histogram, quantiles, timelines};
use crate::page::{shell, table};

/// Frames as long as this fill a row of a time line.
const FRAME_MAX: f64 = 1514.0;
/// Where the parts of a packet without options begin, by byte of the IP packet.
const IPV4_MARKS: [(usize, &str); 3] = [(0, "IPv4 header"), (20, "TCP header"), (40, "payload")];

/// The page.
pub(super) fn html(judgement: &Judgement) -> String {
    let pictures = judgement.measures.pictures.as_ref();
    let sections = tables::sections(judgement);
    let body = html! {
        p.dim { "Written by wiremamba " (env!("CARGO_PKG_VERSION")) "." span.key.real {} "real" span.key.synthetic {} "synthetic" }
        ul.verdicts {
            @for verdict in &judgement.verdicts {
                li class=(verdict.grade.words().replace(' ', "-")) {
                    strong { (capitalised(verdict.group)) ": " (verdict.grade.words()) ". " } (verdict.words)
                }
            }
        }
        (one(&tables::size(&judgement.measures.captures)))
        @for section in &sections {
            section id=(section.group) {
                h2 { (capitalised(section.group)) }
                @if let Some(pictures) = pictures { (drawn(section.group, pictures)) }
                div.tables { @for table in &section.tables { (one(table)) } }
            }
        }
    };
    shell("How real is this traffic?", &body)
}

fn one(of: &Table) -> Markup {
    table(&of.title, &of.columns, &of.rows, &of.notes)
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The pictures of a group.
fn drawn(group: &str, pictures: &Pictures) -> Markup {
    match group {
        "similarity" => bytes(pictures),
        "timing" => times(pictures),
        _ => html! {},
    }
}

fn bytes(pictures: &Pictures) -> Markup {
    let name = |row: &Row| format!("{}{}", if row.direction == Direction::Orig { "→" } else { "←" }, row.position + 1);
    let rows = |map: &[Row]| map.iter().map(|row| (name(row), row.distances.clone())).collect::<Vec<_>>();
    let caption = "each byte of the IP packet, by packet of the flow (→ from who opened it, ← to them): white, values as \
                   often; red, no value in common; grey, no such byte";
    html! {
        div.figures.wide {
            (heat_map("Where synthetic packets differ from real ones", caption, &rows(&pictures.bytes), &IPV4_MARKS))
            (heat_map(
                "Where real packets differ from other real packets",
                "the floor: as many real flows, dealt by chance. Identifications, ports, numbers and checksums differ anyway",
                &rows(&pictures.bytes_floor),
                &IPV4_MARKS,
            ))
        }
    }
}

fn times(pictures: &Pictures) -> Markup {
    let flows = |flows: &[TimelineFlow]| flows.iter().map(timeline).collect::<Vec<_>>();
    let caption =
        "up: from who opened the flow; down: to them; as high as the packet is long; each flow over its own time";
    html! {
        div.figures {
            @for h in &pictures.histograms {
                @let axis = Axis { from: h.from, to: h.to, is_logarithmic: h.is_logarithmic, unit: h.unit };
                (histogram(h.title, axis, &h.real, &h.synthetic))
            }
            @for q in &pictures.quantiles {
                (quantiles(q.title, "each percent of the gaps: across real, up synthetic; on the line they are equal", "s", &q.pairs))
            }
        }
        div.figures.wide {
            (timelines("Some real flows", caption, "real", &flows(&pictures.flows.real)))
            (timelines("Some synthetic flows", caption, "synthetic", &flows(&pictures.flows.synthetic)))
        }
    }
}

/// A flow's name and its packets as bars.
fn timeline(flow: &TimelineFlow) -> (String, Vec<(f64, f64)>) {
    let protocol = match flow.service.0 {
        1 => "ICMP".to_owned(),
        6 => format!("TCP {}", flow.service.1),
        17 => format!("UDP {}", flow.service.1),
        58 => "ICMPv6".to_owned(),
        other => format!("protocol {other}"),
    };
    let name = match flow.packets_total {
        all if all == flow.packets.len() => format!("{protocol}, {all} packets"),
        all => format!("{protocol}, the first {} of {all} packets", flow.packets.len()),
    };
    let bar = |packet: &wiremamba_eval::pictures::Packet| {
        let height = (f64::from(packet.len) / FRAME_MAX).clamp(0.06, 1.0);
        (packet.seconds, if packet.direction == Direction::Orig { height } else { -height })
    };
    (name, flow.packets.iter().map(bar).collect())
}
