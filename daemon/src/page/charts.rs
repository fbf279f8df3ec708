//! Charts as inline SVG: histograms, points against points, events over time, heat maps. Colours are those of the
//! page's style.

use maud::{Markup, html};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 38.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// What an axis shows.
#[derive(Debug, Clone, Copy)]
pub struct Axis<'a> {
    /// Value at its beginning; an exponent where it is logarithmic.
    pub from: f64,
    /// Value at its end.
    pub to: f64,
    /// Whether values are powers of ten.
    pub is_logarithmic: bool,
    /// Unit behind the last tick.
    pub unit: &'a str,
}

impl Axis<'_> {
    /// Where a value is between the beginning (0) and the end (1).
    fn place(&self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// Values and names of the ticks.
    fn ticks(&self) -> Vec<(f64, String)> {
        let rough = ((self.to - self.from) / TICKS).abs().max(f64::MIN_POSITIVE);
        let decade = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|x| x * decade);
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let step = if self.is_logarithmic { step.max(1.0).round() } else { step };
        let first = (self.from / step).ceil();
        let count = ((self.to / step).floor() - first).max(0.0) as usize;
        let values = (0..=count).map(|i| (first + i as f64) * step);
        values.map(|v| (v, if self.is_logarithmic { power_of_ten(v) } else { plain(v) })).collect()
    }
}

/// A power of ten as people write it: 1 µ, 10 m, 1, 10 k.
fn power_of_ten(exponent: f64) -> String {
    let exponent = exponent.round() as i32;
    let prefix = match exponent.div_euclid(3) {
        -3 => "n",
        -2 => "µ",
        -1 => "m",
        0 => "",
        1 => "k",
        2 => "M",
        3 => "G",
        _ => return format!("1e{exponent}"),
    };
    format!("{}{prefix}", 10_u32.pow(exponent.rem_euclid(3) as u32))
}

fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn x(place: f64) -> f64 {
    LEFT + place * (WIDTH - LEFT - RIGHT)
}

fn y(place: f64) -> f64 {
    HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
}

/// Both axes with ticks.
fn frame(across: Axis<'_>, up: Axis<'_>) -> Markup {
    let (across_ticks, up_ticks) = (across.ticks(), up.ticks());
    let last = across_ticks.len().saturating_sub(1);
    html! {
        path.axis d=(format!("M{} {}V{}H{}", x(0.0), y(1.0), y(0.0), x(1.0))) {}
        @for (i, (value, name)) in across_ticks.iter().enumerate() {
            @let anchor = if i == last && across.place(*value) > 0.9 { "end" } else { "middle" };
            @let x = if anchor == "end" { WIDTH } else { x(across.place(*value)) };
            text x=(at(x)) y=(at(HEIGHT - 8.0)) text-anchor=(anchor) {
                (name) @if i == last && !across.unit.is_empty() { " " (across.unit) }
            }
        }
        @for (value, name) in &up_ticks {
            text x=(at(LEFT - 4.0)) y=(at(y(up.place(*value)) + 4.0)) text-anchor="end" { (name) }
            path.axis d=(format!("M{} {}h-3", x(0.0), at(y(up.place(*value))))) {}
        }
    }
}

/// A coordinate without needless digits.
fn at(value: f64) -> String {
    format!("{value:.1}")
}

/// A picture with its words.
fn figure(title: &str, caption: &str, height: f64, content: &Markup) -> Markup {
    html! {
        figure {
            b { (title) }
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(format!("{title}: {caption}")) {
                (content)
            }
            @if !caption.is_empty() { figcaption { (caption) } }
        }
    }
}

/// Shares of two sides in bins of one width: real as an area, synthetic as a line over it.
pub fn histogram(title: &str, axis: Axis<'_>, real: &[f64], synthetic: &[f64]) -> Markup {
    let most = real.iter().chain(synthetic).copied().fold(0.0, f64::max).max(1e-9);
    let up = Axis { from: 0.0, to: 100.0 * most, is_logarithmic: false, unit: "" };
    let line = |shares: &[f64]| {
        let mut path = format!("M{} {}", at(x(0.0)), at(y(0.0)));
        for (i, share) in shares.iter().enumerate() {
            let end = (i + 1) as f64 / shares.len() as f64;
            path += &format!("V{}H{}", at(y(share / most)), at(x(end)));
        }
        path + &format!("V{}", at(y(0.0)))
    };
    let content = html! {
        path.real.area d=(line(real)) {}
        path.synthetic.step d=(line(synthetic)) {}
        (frame(axis, up))
    };
    figure(title, "percent of the values of each side", HEIGHT, &content)
}

/// One quantity against another, both in powers of ten; on the diagonal they are equal.
pub fn quantiles(title: &str, caption: &str, unit: &str, pairs: &[(f64, f64)]) -> Markup {
    let ends = pairs.iter().flat_map(|(a, b)| [*a, *b]);
    let (from, to) = ends.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    let axis = Axis { from: from.floor(), to: to.ceil().max(from.floor() + 1.0), is_logarithmic: true, unit };
    let content = html! {
        (frame(axis, axis))
        path.axis d=(format!("M{} {}L{} {}", x(0.0), y(0.0), x(1.0), y(1.0))) {}
        @for (a, b) in pairs {
            circle.synthetic cx=(at(x(axis.place(*a)))) cy=(at(y(axis.place(*b)))) r="2.5" {}
        }
    };
    figure(title, caption, HEIGHT, &content)
}

/// A bar of a time line: seconds, height with its sign, from -1 to 1.
pub type Event = (f64, f64);

/// Rows of events over time, one below the other, each with a name and a time scale of its own.
pub fn timelines(title: &str, caption: &str, class: &str, rows: &[(String, Vec<Event>)]) -> Markup {
    const ROW: f64 = 34.0;
    let content = html! {
        @for (i, (name, events)) in rows.iter().enumerate() {
            @let middle = i as f64 * ROW + 24.0;
            @let end = events.iter().map(|(t, _)| *t).fold(1e-6, f64::max);
            text x="0" y=(at(middle - 11.0)) { (name) ", " (seconds(end)) }
            path.axis d=(format!("M0 {}H{WIDTH}", at(middle))) {}
            @for (t, height) in events {
                path class=(class) d=(format!("M{} {}v{}", at(t / end * (WIDTH - 2.0) + 1.0), at(middle), at(-height * 9.0))) {}
            }
        }
    };
    figure(title, caption, rows.len().max(1) as f64 * ROW + 4.0, &content)
}

fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{v:.1} s"),
        v if v >= 1e-3 => format!("{:.1} ms", v * 1e3),
        v => format!("{:.0} µs", v * 1e6),
    }
}

/// A map of cells from 0 (nothing) to 1 (full colour); `None` is grey. `marks` are names below, by column.
pub fn heat_map(title: &str, caption: &str, rows: &[(String, Vec<Option<f64>>)], marks: &[(usize, &str)]) -> Markup {
    const ROW: f64 = 9.0;
    let columns = rows.first().map_or(1, |(_, cells)| cells.len().max(1));
    let width = (WIDTH - LEFT) / columns as f64;
    let bottom = rows.len() as f64 * ROW;
    let content = html! {
        @for (i, (name, cells)) in rows.iter().enumerate() {
            @let top = i as f64 * ROW;
            text x=(at(LEFT - 3.0)) y=(at(top + 7.5)) text-anchor="end" style="font-size:8px" { (name) }
            @for (j, cell) in cells.iter().enumerate() {
                @let opacity = cell.map(|value| format!("{value:.2}"));
                rect x=(format!("{:.2}", LEFT + j as f64 * width)) y=(at(top)) width=(format!("{:.2}", width - 0.3)) height=(at(ROW - 0.5))
                    class=(if cell.is_some() { "cell" } else { "none" }) fill-opacity=[opacity] {
                    title { (name) ", byte " (j) @if let Some(value) = cell { ": " (format!("{value:.2}")) } }
                }
            }
        }
        @for (column, name) in marks {
            @let left = LEFT + *column as f64 * width;
            path.axis d=(format!("M{} {bottom}v6", at(left))) {}
            text x=(at(left + 2.0)) y=(at(bottom + 12.0)) style="font-size:9px" { (name) }
        }
    };
    figure(title, caption, bottom + 18.0, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let names = |from, to, is_logarithmic| {
            let axis = Axis { from, to, is_logarithmic, unit: "" };
            axis.ticks().into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(0.0, 1500.0, false), ["0", "500", "1000", "1500"]);
        assert_eq!(names(0.0, 0.034, false), ["0", "0.01", "0.02", "0.03"]);
        assert_eq!(names(-6.0, 2.0, true), ["1µ", "100µ", "10m", "1", "100"]);
        assert_eq!(names(3.0, 4.0, true), ["1k", "10k"]);
    }

    #[test]
    fn names_from_captures_are_text_and_no_markup() {
        let page = timelines("<b>", "", "real", &[("<script>".into(), vec![(0.0, 1.0), (1.0, -1.0)])]).into_string();
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
    }
}
