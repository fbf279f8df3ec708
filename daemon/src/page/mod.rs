//! Reports as one HTML file that needs nothing else: no script, no font, no picture from elsewhere. Readable on a phone
//! and printed, light or dark as the reader has it.

pub mod charts;

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");

/// A whole page.
pub fn shell(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { h1 { (title) } (body) } }
        }
    };
    page.into_string()
}

/// A table of figures, which scrolls by itself where the page is narrower.
pub fn table(title: &str, columns: &[&str], rows: &[(String, Vec<String>)], notes: &[String]) -> Markup {
    html! {
        div.table {
            h3 { (title) }
            @if !rows.is_empty() {
                div.scroll {
                    table {
                        thead { tr { th {} @for column in columns { th scope="col" { (column) } } } }
                        tbody {
                            @for (name, values) in rows {
                                tr {
                                    th scope="row" { (name) }
                                    @for value in values { td { (value) } }
                                    // A row that has fewer figures than there are columns.
                                    @for _ in values.len()..columns.len() { td {} }
                                }
                            }
                        }
                    }
                }
            }
            @for note in notes { p.note { (note) } }
        }
    }
}
