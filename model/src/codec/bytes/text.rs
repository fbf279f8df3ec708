//! The text form of a sample, as the paper has it: packets written as decimal numbers.
//!
//! `<|zoom|>69 0 0 60<|pkt|>69 0 0 52<|endoftext|>` is a sample of two packets. Numbers are separated by one space;
//! nothing stands between a number and a special token, so that the tokenizer never sees a lone space. (Chu, Jiang,
//! Liu, Bhagoji, Bronzino, Schmitt and Feamster, NAIC '24, doi 10.1145/3672198.3673792.) `<|endoftext|>` is ours: the
//! paper stops at the length of a real flow, but generating needs the model to say when a flow is over, and GPT-NeoX's
//! tokenizer has this token for the end of a document.

use super::super::CodecError;

/// Between two packets.
pub const PACKET: &str = "<|pkt|>";
/// At the end of a sample.
pub const END: &str = "<|endoftext|>";

/// Most bytes of one packet: libpcap's `MAXIMUM_SNAPLEN` (pcap-int.h). A longer run of numbers is no packet.
pub const PACKET_BYTES_MAX: usize = 262_144;

/// Longest label, in bytes. It is a name in a token, a file and a table; 64 is wide for all three.
const LABEL_BYTES_MAX: usize = 64;

/// The special token of `label`: `<|label|>`.
pub fn label_special(label: &str) -> String {
    format!("<|{label}|>")
}

/// Checks that every label can be a special token and is told apart from the others.
///
/// A label is refused, and not escaped, so that the token in `tokenizer.json` reads as the label does. Refused are the
/// empty label, one above 64 bytes, `pkt` and `endoftext`, control characters, the characters `<`, `|` and `>` of which
/// the brackets of a special token are made, a label given twice, and more labels than a
/// [`LabelId`](super::super::LabelId) counts.
///
/// # Errors
/// [`CodecError::Spec`] names the label and what is wrong with it.
pub fn check_labels(labels: &[String]) -> Result<(), CodecError> {
    let labels_max = usize::from(u16::MAX) + 1;
    if labels.len() > labels_max {
        return Err(CodecError::Spec(format!("{} labels, at most {labels_max} are possible", labels.len())));
    }
    let mut seen = std::collections::HashSet::with_capacity(labels.len());
    for label in labels {
        let wrong = if label.is_empty() {
            "is empty"
        } else if label.len() > LABEL_BYTES_MAX {
            "is longer than 64 bytes"
        } else if [PACKET, END].contains(&label_special(label).as_str()) {
            "is the name of a token that every vocabulary has"
        } else if label.contains(|c: char| matches!(c, '<' | '|' | '>') || c.is_control()) {
            "has a control character or one of < | >"
        } else if !seen.insert(label) {
            "is given twice"
        } else {
            continue;
        };
        return Err(CodecError::Spec(format!("label {label:?} {wrong}")));
    }
    Ok(())
}

/// Appends the numbers of one packet.
pub fn push_packet(data: &[u8], ret: &mut String) {
    ret.reserve(data.len() * 4);
    for (i, byte) in data.iter().enumerate() {
        if i > 0 {
            ret.push(' ');
        }
        push_decimal(*byte, ret);
    }
}

/// Appends a whole sample: label, packets, end.
pub fn push_sample<'a>(label: &str, packets: impl IntoIterator<Item = &'a [u8]>, ret: &mut String) {
    ret.push_str(&label_special(label));
    for (i, data) in packets.into_iter().enumerate() {
        if i > 0 {
            ret.push_str(PACKET);
        }
        push_packet(data, ret);
    }
    ret.push_str(END);
}

/// The bytes that the numbers of one packet name; none when they are no packet.
///
/// Any amount of ASCII white space separates numbers and may stand around them, leading zeros are read; anything that
/// is not one to three digits worth 0 to 255 makes the packet malformed, and so do no numbers at all and more than
/// [`PACKET_BYTES_MAX`].
pub fn parse_packet(text: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity((text.len() / 3).min(PACKET_BYTES_MAX));
    for word in text.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()) {
        if data.len() == PACKET_BYTES_MAX || word.len() > 3 {
            return None;
        }
        let value = word
            .iter()
            .try_fold(0u16, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u16::from(digit - b'0')))?;
        data.push(u8::try_from(value).ok()?);
    }
    (!data.is_empty()).then_some(data)
}

/// What the text of one sample said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParsedText {
    /// The label it began with, if it began with one.
    pub label: Option<String>,
    /// The bytes of the packets that could be read, in order.
    pub packets: Vec<Vec<u8>>,
    /// Packets dropped: not all of it numbers of 0 to 255, empty, or without an end.
    pub malformed_packets: u64,
}

/// Reads the text of one sample up to its `<|endoftext|>`. Whatever the text is, this counts and never fails.
///
/// A last packet that neither `<|pkt|>` nor `<|endoftext|>` closes was cut off: it is dropped and counted.
pub fn parse_sample(text: &str) -> ParsedText {
    let mut parsed = ParsedText::default();
    let (mut rest, ended) = match text.split_once(END) {
        Some((before, _)) => (before, true),
        None => (text, false),
    };
    if let Some((label, after)) = rest.trim_ascii_start().strip_prefix("<|").and_then(|r| r.split_once("|>"))
        && !label.contains('<')
        && label_special(label) != PACKET
    {
        parsed.label = Some(label.to_owned());
        rest = after;
    }
    let mut pieces = rest.split(PACKET).peekable();
    let mut first = true;
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        let nothing = piece.trim_ascii().is_empty();
        // Nothing between the label and the end, or after the last `<|pkt|>` of an open sample, is no packet at all.
        if last && nothing && (first || !ended) {
            break;
        }
        match parse_packet(piece.as_bytes()) {
            Some(data) if !last || ended => parsed.packets.push(data),
            _ => parsed.malformed_packets += 1,
        }
        first = false;
    }
    parsed
}

fn push_decimal(byte: u8, ret: &mut String) {
    if byte >= 100 {
        ret.push(char::from(b'0' + byte / 100));
    }
    if byte >= 10 {
        ret.push(char::from(b'0' + byte / 10 % 10));
    }
    ret.push(char::from(b'0' + byte % 10));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(label: &str, packets: &[&[u8]]) -> String {
        let mut text = String::new();
        push_sample(label, packets.iter().copied(), &mut text);
        text
    }

    #[test]
    fn a_sample_is_written_as_the_paper_writes_it() {
        assert_eq!(
            sample("zoom", &[&[69, 0, 255], &[7, 10, 99, 100]]),
            "<|zoom|>69 0 255<|pkt|>7 10 99 100<|endoftext|>"
        );
    }

    #[test]
    fn what_is_no_number_of_a_byte_makes_only_its_packet_malformed() {
        let text =
            "<|a|>1 2<|pkt|>256<|pkt|>3<|pkt|>x<|pkt|><|pkt|>1234<|pkt|>-1<|pkt|>1.5<|pkt|> 004\t5 <|pkt|><|b|>6";
        let parsed = parse_sample(text);
        assert_eq!(parsed.label.as_deref(), Some("a"));
        assert_eq!(parsed.packets, [vec![1, 2], vec![3], vec![4, 5]]);
        assert_eq!(parsed.malformed_packets, 7);
    }

    #[test]
    fn a_tail_without_an_end_is_dropped_and_counted() {
        let parsed = parse_sample("1 2<|pkt|>3 4");
        assert_eq!((parsed.packets, parsed.malformed_packets), (vec![vec![1, 2]], 1));
        let open = parse_sample("<|a|>1 2<|pkt|>");
        assert_eq!((open.packets, open.malformed_packets), (vec![vec![1, 2]], 0));
        assert_eq!(parse_sample("<|a|><|endoftext|>9").malformed_packets, 0);
        assert_eq!(parse_sample("<|a|>1<|pkt|><|endoftext|>").malformed_packets, 1);
    }

    #[test]
    fn a_run_of_numbers_beyond_any_packet_is_malformed() {
        assert_eq!(parse_packet("7 ".repeat(PACKET_BYTES_MAX).as_bytes()).map(|p| p.len()), Some(PACKET_BYTES_MAX));
        assert_eq!(parse_packet("7 ".repeat(PACKET_BYTES_MAX + 1).as_bytes()), None);
    }

    #[test]
    fn labels_that_could_be_taken_for_something_else_are_refused() {
        let check = |labels: &[&str]| check_labels(&labels.iter().map(|l| l.to_string()).collect::<Vec<_>>());
        assert!(check(&["zoom", "DNS over TLS", "pktx", "69", "ü"]).is_ok());
        for bad in ["", "pkt", "endoftext", "a|>b", "<|a", "a|", "a\nb", &"x".repeat(65)] {
            let error = check(&["zoom", bad]).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        assert!(check(&["a", "b", "a"]).is_err());
    }

    proptest! {
        #[test]
        fn text_gives_back_the_packets(
            label in "[a-z0-9_ .-]{1,20}".prop_filter("reserved", |l| l != "pkt" && l != "endoftext"),
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..6),
        ) {
            let mut text = String::new();
            push_sample(&label, packets.iter().map(Vec::as_slice), &mut text);
            prop_assert_eq!(parse_sample(&text), ParsedText { label: Some(label), packets, malformed_packets: 0 });
        }

        #[test]
        fn any_text_is_read_without_panic(text in prop_oneof![
            any::<String>(), "([0-9]{0,4}|<\\|pkt\\|>|<\\|endoftext\\|>|<\\||\\|>| |[a-c<|>]){0,40}"
        ]) {
            let parsed = parse_sample(&text);
            prop_assert!(parsed.packets.iter().all(|p| !p.is_empty()));
        }
    }
}
