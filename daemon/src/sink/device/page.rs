//! The report on a device as a page.

use maud::{Markup, html};

use super::report::{DeviceReport, DirectionReport};
use crate::page::{shell, table};

/// Width of the picture of latencies, and the room for its scale at the left.
const WIDTH: f64 = 640.0;
const LEFT: f64 = 80.0;
/// Height of the picture, and the room for its scale at the bottom.
const HEIGHT: f64 = 280.0;
const BOTTOM: f64 = 44.0;
/// Colours of the two ways, as the style has them.
const CLASSES: [&str; 2] = ["real", "synthetic"];
const COLUMNS: [&str; 11] = [
    "sent",
    "received",
    "lost",
    "lost %",
    "reordered",
    "new source",
    "new destination",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "most µs",
];

impl DeviceReport {
    /// One HTML file that needs nothing else.
    pub fn page(&self) -> String {
        let all: Vec<_> = self.directions.iter().map(|(way, report)| row(way.replace('_', " "), report)).collect();
        let ways = self.labels.iter().flat_map(|(label, ways)| ways.iter().map(move |way| (label, way)));
        let labels: Vec<_> =
            ways.map(|(label, (way, report))| row(format!("{label}, {}", way.replace('_', " ")), report)).collect();
        let notes = [
            format!(
                "{} packets were sent that cannot be recognised: without IP, or too many at a time.",
                self.unwatched
            ),
            format!("{} frames came out that were not sent: the device's own, or doubles.", self.unexpected),
            format!("{} questions by ARP were answered, and {} asked.", self.arp_answers, self.arp_questions),
        ];
        let body = html! {
            (table("What went in and what came out", &COLUMNS, &all, &notes))
            (self.latencies())
            @if !labels.is_empty() { (table("By label", &COLUMNS, &labels, &[])) }
        };
        shell("Through the device", &body)
    }

    /// Latency over the share of packets that took at most so long, on a logarithmic scale.
    fn latencies(&self) -> Markup {
        let ways: Vec<_> = self.directions.iter().filter_map(|(way, report)| Some((*way, report.latency?))).collect();
        let points = || ways.iter().flat_map(|(_, latency)| latency.curve).map(|(_, us)| us.max(0.1));
        let low = points().fold(f64::INFINITY, f64::min).log10().floor();
        let high = points().fold(0.0, f64::max).log10().ceil().max(low + 1.0);
        let y = |us: f64| (HEIGHT - BOTTOM) * (1.0 - (us.max(0.1).log10() - low) / (high - low)) + 8.0;
        html! {
            @if let Some((_, first)) = ways.first() {
                @let x = |place: usize| LEFT + (WIDTH - LEFT - 12.0) * place as f64 / (first.curve.len() - 1) as f64;
                figure {
                    svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="Latency by share of packets" {
                        @for power in low as i32..=high as i32 {
                            @let at = y(10f64.powi(power));
                            line.axis x1=(LEFT) x2=(WIDTH) y1=(at) y2=(at) {}
                            text x=(LEFT - 6.0) y=(at + 4.0) text-anchor="end" {
                                (micros(10f64.powi(power)))
                            }
                        }
                        @for (place, (share, _)) in first.curve.iter().enumerate() {
                            text x=(x(place)) y=(HEIGHT - 18.0) text-anchor="middle" {
                                (format!("{} %", (share * 1e4).round() / 100.0))
                            }
                        }
                        @for (number, (_, latency)) in ways.iter().enumerate() {
                            @let line: Vec<String> = latency.curve.iter().enumerate()
                                .map(|(place, (_, us))| format!("{:.1},{:.1}", x(place), y(*us))).collect();
                            polyline class={ "step " (CLASSES[number % 2]) } points=(line.join(" ")) {}
                        }
                    }
                    figcaption {
                        "Time through the device: the share of packets that took at most so long. "
                        @for (number, (way, _)) in ways.iter().enumerate() {
                            span class={ "key " (CLASSES[number % 2]) } {} (way.replace('_', " "))
                        }
                    }
                }
            }
        }
    }
}

fn micros(us: f64) -> String {
    match us {
        ..1e3 => format!("{us} µs"),
        ..1e6 => format!("{} ms", us / 1e3),
        _ => format!("{} s", us / 1e6),
    }
}

fn row(name: String, report: &DirectionReport) -> (String, Vec<String>) {
    let counts = [report.sent, report.received, report.lost].map(|n| n.to_string());
    let share = if report.sent == 0 { 0.0 } else { report.lost as f64 * 100.0 / report.sent as f64 };
    let rewritten = [report.reordered, report.source_rewritten, report.destination_rewritten].map(|n| n.to_string());
    let latency = report.latency.map(|l| [l.p50_us, l.p99_us, l.p999_us, l.max_us].map(|us| format!("{us:.0}")));
    let cells = counts.into_iter().chain([format!("{share:.2}")]).chain(rewritten);
    (name, cells.chain(latency.into_iter().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::report::Latency;
    use super::*;

    #[test]
    fn the_page_has_every_direction_and_label_and_a_picture_where_anything_came_out() {
        let mut curve = [(0.5, 12.0); 12];
        curve[11] = (1.0, 3000.0);
        let latency = Latency { p50_us: 12.0, p90_us: 20.0, p99_us: 40.0, p999_us: 41.0, max_us: 3000.0, curve };
        let there = DirectionReport {
            sent: 200,
            received: 150,
            lost: 50,
            reordered: 1,
            source_rewritten: 150,
            destination_rewritten: 0,
            latency: Some(latency),
        };
        let back = DirectionReport { received: 0, lost: 200, latency: None, ..there.clone() };
        let directions = BTreeMap::from([("to_server", there.clone()), ("to_client", back)]);
        let labels = BTreeMap::from([("<web>".to_owned(), BTreeMap::from([("to_server", there)]))]);
        let report = DeviceReport { directions, labels, ..DeviceReport::default() };
        let page = report.page();
        for text in ["to server", "to client", "25.00", "3000", "&lt;web&gt;, to server", "<polyline", "10 ms"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<web>"));
        assert!(!DeviceReport::default().page().contains("<svg"));
    }
}
