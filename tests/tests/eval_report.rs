//! Promise: `eval --report` writes one page that a browser shows on a phone and prints, with the figures of the
//! terminal; `--paired` holds captures against those that prompted them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wiremamba_tests::program::{fail, json, output_within, succeed};
use wiremamba_tests::traffic;

/// Real captures of two labels, and packets drawn from them by a Markov chain.
fn captures(dir: &Path) -> (String, String) {
    let (real, synthetic) = (dir.join("real"), dir.join("markov.pcap"));
    traffic::write_two_labels(&real, 40);
    let (real, synthetic) = (real.display().to_string(), synthetic.display().to_string());
    succeed(&["baseline", "markov", &real, "-q", "-w", &synthetic]);
    (real, synthetic)
}

/// What Chromium makes of a page; `None` with a line where there is no Chromium.
fn chromium(dir: &Path, what: &[&str], page: &Path) -> Option<Vec<u8>> {
    let Ok(version) = Command::new("chromium").arg("--version").output() else {
        eprintln!("skipped: no chromium");
        return None;
    };
    assert!(version.status.success());
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--disable-quic", "--virtual-time-budget=10000"]);
    command.arg(format!("--user-data-dir={}", dir.join("profile").display())).args(what).arg(page);
    let output = output_within(&mut command, Duration::from_secs(120));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

/// A page that shows `html` in a frame of this width, looks at it, and says what it saw.
fn inspector(html: &str, width: u32) -> String {
    let quoted = html.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<!DOCTYPE html><meta charset=utf-8><iframe id=f width={width} height=900 style='border:0' srcdoc=\"{quoted}\"></iframe><pre id=seen></pre>
        <script>document.getElementById('f').onload = event => {{
            const page = event.target.contentDocument, box = e => e.getBoundingClientRect();
            const all = s => [...page.querySelectorAll(s)];
            const outside = all('main *').filter(e => !e.closest('.scroll') && !e.closest('svg') && box(e).right > {width} + 1);
            const clipped = all('svg text').filter(e => {{
                const of = box(e.closest('svg')), is = box(e);
                return is.right > of.right + 2 || is.left < of.left - 2 || is.bottom > of.bottom + 2;
            }});
            document.getElementById('seen').textContent = JSON.stringify({{
                width: page.documentElement.scrollWidth,
                outside: outside.map(e => e.outerHTML.slice(0, 80)),
                clipped: clipped.map(e => e.textContent),
                pictures: all('svg').filter(e => box(e).width > 200 && box(e).height > 50).length,
                shapes: all('svg path, svg circle, svg rect').filter(e => box(e).width + box(e).height > 0).length,
                tables: all('table').length,
                verdicts: all('.verdicts li').map(e => e.innerText),
            }});
        }};</script>"
    )
}

#[test]
fn the_page_needs_nothing_else_and_fits_a_phone_and_paper() {
    let dir = tempfile::tempdir().unwrap();
    let (real, synthetic) = captures(dir.path());
    let page = dir.path().join("report.html");
    let args = ["eval", "-q", "--real", &real, "--synthetic", &synthetic, "--train", &real, "--report"];
    let terminal = succeed(&[&args[..], &[page.to_str().unwrap()]].concat());
    let (terminal, html) = (String::from_utf8(terminal).unwrap(), std::fs::read_to_string(&page).unwrap());
    for foreign in ["=\"http", "src=", "<script", "<link", "@import", "url("] {
        assert!(!html.contains(foreign), "the page needs {foreign}");
    }

    for width in [360, 1200] {
        let inspected = dir.path().join(format!("inspector-{width}.html"));
        std::fs::write(&inspected, inspector(&html, width)).unwrap();
        let Some(dom) = chromium(dir.path(), &["--dump-dom"], &inspected) else { return };
        let dom = String::from_utf8(dom).unwrap();
        let seen = dom.split("<pre id=\"seen\">").nth(1).and_then(|rest| rest.split("</pre>").next());
        let seen = seen.unwrap().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let seen = json(seen.as_bytes());
        assert!(seen["width"].as_u64().unwrap() <= u64::from(width), "{seen}");
        assert_eq!(seen["outside"].as_array().unwrap().len(), 0, "{seen}");
        assert_eq!(seen["clipped"].as_array().unwrap().len(), 0, "{seen}");
        // Two heat maps, six histograms, a Q-Q plot (no direction turns in these flows), the flows of two sides.
        assert_eq!(seen["pictures"], 11, "{seen}");
        assert!(seen["shapes"].as_u64().unwrap() > 500, "{seen}");
        let verdicts = seen["verdicts"].as_array().unwrap();
        assert_eq!(verdicts.len(), 6, "{seen}");
        for verdict in verdicts {
            let words = verdict.as_str().unwrap().split_once(". ").unwrap().1;
            assert!(terminal.contains(words), "the terminal does not say: {words}");
        }
        let titles = terminal.lines().filter(|line| !line.starts_with(' ')).filter(|line| html.contains(*line)).count();
        assert!(titles >= seen["tables"].as_u64().unwrap() as usize, "{titles} {seen}");
    }

    let paper = dir.path().join("report.pdf");
    let print = format!("--print-to-pdf={}", paper.display());
    chromium(dir.path(), &[&print, "--no-pdf-header-footer"], &page).unwrap();
    let paper = std::fs::read(paper).unwrap();
    assert!(paper.starts_with(b"%PDF") && paper.len() > 20_000, "{} bytes", paper.len());
}

#[test]
fn a_pair_is_told_from_the_same_packets_in_another_order() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    traffic::write_two_labels(&real, 20);
    // The same packets, but each under the other's name.
    let swapped = dir.path().join("swapped");
    std::fs::create_dir(&swapped).unwrap();
    let capture = |label: &str| -> PathBuf { real.join(label).join(format!("{label}.pcap")) };
    std::fs::copy(capture("web"), swapped.join("dns.pcap")).unwrap();
    std::fs::copy(capture("dns"), swapped.join("web.pcap")).unwrap();
    let eval = |synthetic: &Path| {
        let (real, synthetic) = (real.to_str().unwrap(), synthetic.to_str().unwrap());
        let args = ["eval", "-q", "--real", real, "--synthetic", synthetic, "--only", "similarity", "--paired"];
        json(&succeed(&[&args[..], &["--json", "-"]].concat()))["similarity"].take()
    };
    let same = eval(&real);
    assert_eq!(same["paired"]["pairs"], 2);
    assert_eq!(same["paired"]["bit_all"]["jsd"], 0.0, "{same}");
    let first = &same["paired"]["first_packets"];
    assert_eq!((&first["packets"], &first["identical"]), (&200.into(), &200.into()));
    assert_eq!(first["differing_bytes"], 0);

    let swapped = eval(&swapped);
    assert_eq!(swapped["bit_all"]["jsd"], 0.0, "pooled, nothing changed: {swapped}");
    assert!(swapped["paired"]["structure"]["jsd"].as_f64().unwrap() > 0.1, "{swapped}");
    assert_eq!(swapped["paired"]["first_packets"]["identical"], 0);

    let one = capture("web");
    let args = ["eval", "-q", "--real", real.to_str().unwrap(), "--synthetic", one.to_str().unwrap(), "--paired"];
    let error = fail(1, &args);
    assert!(error.contains("2 real and 1 synthetic"), "{error}");
}
