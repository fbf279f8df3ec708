//! What the outside judges say, in words.

use wiremamba_eval::verdict::{Bar, Verdict, worst};

use crate::judge::{JudgesReport, Outcome};

/// Events, or malformed packets, per 1,000 packets beyond those of real traffic.
const PER_1000: Bar = Bar { real: 0.0, near: 5.0 };
/// Percent of flows that nDPI does not know, beyond those of real traffic.
const UNKNOWN: Bar = Bar { real: 5.0, near: 15.0 };

/// How far the overlap of nDPI's protocols is below that of two halves of the real flows.
const OVERLAP: Bar = Bar { real: 0.05, near: 0.15 };

pub(super) fn verdict(report: &JudgesReport) -> Verdict {
    let (mut grades, mut words, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    if let Outcome::Judged(tshark) = &report.tshark {
        let [synthetic, real] = [&tshark.synthetic, &tshark.real].map(|side| side.malformed_per_1000);
        grades.push(PER_1000.grade(synthetic - real));
        words.push(format!("tshark calls {synthetic:.2} of 1,000 packets malformed (real {real:.2})."));
    } else {
        silent.push("tshark");
    }
    if let Outcome::Judged(ndpi) = &report.ndpi {
        let [synthetic, real] = [&ndpi.synthetic, &ndpi.real].map(|side| 100.0 * side.unknown_share);
        let [overlap, floor] = [ndpi.protocol_overlap, report.floor.protocols].map(|x| x.unwrap_or(f64::NAN));
        grades.extend([UNKNOWN.grade(synthetic - real), OVERLAP.grade(floor - overlap)]);
        words.push(format!(
            "nDPI does not know {synthetic:.1} % of the flows (real {real:.1} %); its protocols overlap by {overlap:.2} \
             (two real halves {floor:.2})."
        ));
    } else {
        silent.push("nDPI");
    }
    if let Outcome::Judged(suricata) = &report.suricata {
        let events = [&suricata.synthetic, &suricata.real]
            .map(|side| side.decode_events.per_1000 + side.stream_events.per_1000 + side.app_layer_events.per_1000);
        grades.push(PER_1000.grade(events[0] - events[1]));
        words.push(format!("Suricata reports {:.2} events per 1,000 packets (real {:.2}).", events[0], events[1]));
    } else {
        silent.push("Suricata");
    }
    if let Outcome::Judged(zeek) = &report.zeek {
        let overlap = zeek.conn_state_overlap.unwrap_or(f64::NAN);
        words.push(format!("Zeek's connection states overlap by {overlap:.2}."));
    } else {
        silent.push("Zeek");
    }
    if !silent.is_empty() {
        words.push(format!("No judgement from {}.", silent.join(", ")));
    }
    Verdict { group: "judges", grade: worst(grades), words: words.join(" ") }
}
