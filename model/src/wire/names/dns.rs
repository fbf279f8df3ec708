//! Names and addresses in a DNS message (RFC 1035, section 4).
//!
//! What a service is called says what an application does, so it stays: labels that begin with an underscore (RFC 6335,
//! section 5.1; RFC 8552), and the few words that stand between them. Everything else says who somebody is: the domain behind a service,
//! the instance before it, and every name without a service.

use super::{Found, Kind, NAME_MAX, Span};

/// Longest label of a service, with its underscore (RFC 6335, section 5.1).
pub const SERVICE_MAX: usize = 16;

/// Labels that stand beside those of services and identify nobody: the link's domain (RFC 6762), the names under which domains for
/// browsing are asked for (RFC 6763, section 11), and what a domain controller is called (MS-ADTS, section 6.3.2.3).
pub const WORDS: [&[u8]; 11] =
    [b"local", b"b", b"db", b"r", b"dr", b"lb", b"dc", b"gc", b"pdc", b"domains", b"default-first-site-name"];

/// Records of a message that are looked at; what follows is drawn.
const ENTRIES_MAX: usize = 64;

/// Longest value of a key in a TXT record that is too short to tell who somebody is.
const VALUE_MAX: usize = 3;

/// Finds them in a message that begins at `start`; literal is only what could be read.
pub(super) fn find(message: &[u8], start: usize) -> Found {
    let mut spans = Vec::new();
    let mut reader = Reader { message, at: start, spans: &mut spans };
    let literal_end = if reader.message().is_some() { message.len() } else { reader.at.min(message.len()) };
    Found { spans, literal_end }
}

/// Where the question ends that `answer` repeats from `query`, messages that begin at `start` of each; `None` where it repeats none (RFC
/// 1035, section 4.1.1, has the bit that makes an answer).
pub fn repeated_question(answer: &[u8], query: &[u8], start: usize) -> Option<usize> {
    let is_answer = |message: &[u8]| Some(message.get(start + 2)? & 0x80 != 0);
    let question = start + 12;
    let [in_answer, in_query] = [answer, query].map(|message| message.get(start + 4..start + 6));
    if !is_answer(answer)? || is_answer(query)? || in_answer? != in_query? || in_query? == [0, 0] {
        return None;
    }
    let mut at = question;
    while let label @ 1..=63 = *query.get(at)? {
        at += 1 + usize::from(label);
    }
    let end = at + 1 + 4;
    (query.get(at) == Some(&0) && answer.get(question..end)? == query.get(question..end)?).then_some(end)
}

struct Reader<'a> {
    message: &'a [u8],
    /// Up to here everything was read.
    at: usize,
    spans: &'a mut Vec<Span>,
}

impl Reader<'_> {
    fn short(&self, at: usize) -> Option<usize> {
        let bytes = self.message.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    /// `None` where it ends too soon, or too late.
    fn message(&mut self) -> Option<()> {
        let start = self.at;
        self.message.get(start..start + 12)?;
        let count = |i: usize| self.short(start + i).unwrap_or(0);
        let (questions, records) = (count(4), count(6) + count(8) + count(10));
        self.at = start + 12;
        for i in 0..(questions + records).min(ENTRIES_MAX) {
            let after = self.name(self.at)?;
            if i < questions {
                self.message.get(after..after + 4)?;
                self.at = after + 4;
                continue;
            }
            let (kind, len) = (self.short(after)?, self.short(after + 8)?);
            let data = after + 10;
            self.message.get(data..data + len)?;
            // What of the data could not be read is drawn with the rest.
            self.at = data;
            self.data(kind, data, data + len)?;
            self.at = data + len;
        }
        (self.at == self.message.len()).then_some(())
    }

    /// The data of a record, from `at` to `end`.
    fn data(&mut self, kind: usize, at: usize, end: usize) -> Option<()> {
        match kind {
            // A, AAAA, and keys, hashes and signatures, which are those of somebody.
            1 | 28 => self.drawn(at, end),
            43 | 44 | 48 | 52 => self.drawn(at + 4, end),
            61 => self.drawn(at, end),
            2 | 5 | 12 | 39 => drop(self.name(at)?),
            6 | 17 => {
                let at = self.name(at)?;
                self.name(at)?;
            }
            15 | 18 => drop(self.name(at + 2)?),
            16 | 99 => self.texts(at, end)?,
            33 => drop(self.name(at + 6)?),
            35 => {
                let mut at = at + 4;
                for _ in 0..3 {
                    at += 1 + usize::from(*self.message.get(at)?);
                }
                self.name(at)?;
            }
            // EDNS: the client's network, and its cookie (RFC 7871, section 6; RFC 7873, section 4).
            41 => self.options(at, end, &[8, 10])?,
            46 => {
                let at = self.name(at + 18)?;
                self.drawn(at, end);
            }
            47 => drop(self.name(at)?),
            50 => self.drawn(at + 5, end),
            // Hints of addresses and keys (RFC 9460, section 7; RFC 9848).
            64 | 65 => {
                let at = self.name(at + 2)?;
                self.options(at, end, &[4, 5, 6])?;
            }
            257 => self.drawn(at + 2, end),
            _ => {}
        }
        Some(())
    }

    fn drawn(&mut self, at: usize, end: usize) {
        if at < end {
            self.spans.push(Span { at, end, name: Vec::new(), kind: Kind::Address });
        }
    }

    /// Options of a number and a length each, of which these are drawn.
    fn options(&mut self, mut at: usize, end: usize, drawn: &[usize]) -> Option<()> {
        while at < end {
            let (number, len) = (self.short(at)?, self.short(at + 2)?);
            if drawn.contains(&number) {
                self.drawn(at + 4, (at + 4 + len).min(end));
            }
            at += 4 + len;
        }
        Some(())
    }

    /// The strings of a TXT record: keys stay, as services define them (RFC 6763, section 6.4).
    fn texts(&mut self, mut at: usize, end: usize) -> Option<()> {
        while at < end {
            let len = usize::from(*self.message.get(at)?);
            let text = self.message.get(at + 1..(at + 1 + len).min(end))?;
            let key = text.iter().position(|b| *b == b'=').map_or(0, |p| p + 1);
            if text.len() - key > VALUE_MAX {
                self.text(at + 1 + key, at + 1 + text.len());
            }
            at += 1 + len;
        }
        Some(())
    }

    fn text(&mut self, at: usize, end: usize) {
        for at in (at..end).step_by(NAME_MAX) {
            let end = end.min(at + NAME_MAX);
            self.spans.push(Span { at, end, name: self.message[at..end].to_vec(), kind: Kind::Text });
        }
    }

    /// The name at `at`; returns where it ends.
    fn name(&mut self, at: usize) -> Option<usize> {
        let (message, mut p, mut labels) = (self.message, at, Vec::new());
        let after = loop {
            let len = usize::from(*message.get(p)?);
            match len {
                0 => break p + 1,
                1..=63 => {
                    labels.push((p, message.get(p + 1..p + 1 + len)?));
                    p += 1 + len;
                }
                0xc0.. => break p + 2,
                _ => return None,
            }
        };
        message.get(..after)?;
        // Behind the last service, or in front of everything, as one name.
        let services = labels.iter().rposition(|label| is_service(label.1)).map_or(0, |i| i + 1);
        let has_words = services > 0 || labels.iter().all(|label| label.1.eq_ignore_ascii_case(b"local"));
        for (at, label) in &labels[..services] {
            if !is_service(label) && !is_word(label) {
                self.text(at + 1, at + 1 + label.len());
            }
        }
        let rest = &labels[services..];
        let words = if has_words { rest.iter().take_while(|label| is_word(label.1)).count() } else { 0 };
        let Some(&(start, _)) = rest.get(words) else { return Some(after) };
        let name = rest[words..].iter().map(|label| label.1).collect::<Vec<_>>().join(&b'.');
        let kind = if name.len() <= NAME_MAX { Kind::Labels } else { Kind::Address };
        self.spans.push(Span { at: start, end: p, name, kind });
        Some(after)
    }
}

/// Whether a label is that of a service.
fn is_service(label: &[u8]) -> bool {
    let is_right = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    // Numbers that long are of a device or a user.
    let digits = label.iter().filter(|b| b.is_ascii_digit()).count();
    label[0] == b'_' && (2..=SERVICE_MAX).contains(&label.len()) && digits < 4 && label.iter().all(is_right)
}

fn is_word(label: &[u8]) -> bool {
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &[u8]) -> Vec<u8> {
        [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name, b"\0\0\x21\0\x01"].concat()
    }

    /// What of a query is found, with its kind.
    fn found(name: &[u8]) -> Vec<(Kind, Vec<u8>)> {
        let message = query(name);
        let found = find(&message, 0);
        assert_eq!(found.literal_end, message.len());
        let is_there = |s: &Span| match s.kind {
            Kind::Text => message[s.at..s.end] == s.name,
            _ => s.end - s.at == s.name.len() + 1,
        };
        assert!(found.spans.iter().all(is_there), "{found:?}");
        found.spans.into_iter().map(|s| (s.kind, s.name)).collect()
    }

    #[test]
    fn services_stay_and_what_is_around_them_is_found() {
        let labels = |name: &[u8]| (Kind::Labels, name.to_vec());
        let text = |name: &[u8]| (Kind::Text, name.to_vec());
        assert_eq!(found(b"\x05_ldap\x04_tcp\x04corp\x07example"), [labels(b"corp.example")]);
        assert_eq!(found(b"\x05_ldap\x04_tcp\x02dc\x06_msdcs\x04corp\x07example"), [labels(b"corp.example")]);
        assert_eq!(
            found(b"\x05_ldap\x04_tcp\x06London\x06_sites\x04corp\x07example"),
            [text(b"London"), labels(b"corp.example")]
        );
        assert_eq!(found(b"\x0aTwo Floors\x05_ipps\x04_tcp\x05local"), [text(b"Two Floors")]);
        assert_eq!(found(b"\x09_services\x07_dns-sd\x04_udp\x05local"), []);
        assert_eq!(found(b"\x02lb\x07_dns-sd\x04_udp\x010\x02in\x04arpa"), [labels(b"0.in.arpa")]);
        assert_eq!(found(b"\x04Anna\x05local"), [labels(b"Anna.local")]);
        assert_eq!(found(b"\x05local"), []);
        assert_eq!(found(b"\x02dc"), [labels(b"dc")]);
        // Too long to be a service's, and too many digits.
        assert_eq!(found(b"\x11_0123456789abcdef\x04_sub\x04_tcp\x05local"), [text(b"_0123456789abcdef")]);
        assert_eq!(found(b"\x05_1234\x04_sub\x04_tcp\x05local"), [text(b"_1234")]);
    }

    #[test]
    fn what_a_message_is_cut_in_is_not_literal() {
        let message = query(b"\x03www\x07example\x03com");
        for len in 12..message.len() {
            let found = find(&message[..len], 0);
            assert_eq!((found.literal_end, found.spans.len()), (12, usize::from(len >= 29)), "{len}");
        }
        // A byte too many.
        assert_eq!(find(&[&message[..], b"x"].concat(), 0).literal_end, message.len());
        // A tunnel.
        assert!(find(b"anything that is no message of DNS at all", 0).literal_end <= 12);
    }

    #[test]
    fn records_tell_names_addresses_and_values() {
        let head = b"\0\0\x84\0\0\0\0\x03\0\0\0\0";
        let srv =
            b"\x04Anna\x05_ipps\x04_tcp\x05local\0\0\x21\x80\x01\0\0\x11\x94\0\x12\0\0\0\0\x02\x77\x04anna\x05local\0";
        let txt = b"\xc0\x0c\0\x10\x80\x01\0\0\x11\x94\0\x13\x09txtvers=1\x08ty=Laser";
        let opt = b"\0\0\x29\x05\xa0\0\0\x11\x94\0\x0c\0\x08\0\x08\0\x01\x20\0\xc0\0\x02\x05";
        let message = [&head[..], srv, txt, opt].concat();
        let found = find(&message, 0);
        let all: Vec<_> = found.spans.iter().map(|s| (s.kind, &s.name[..])).collect();
        let network = (Kind::Address, &b""[..]);
        let named = [(Kind::Text, &b"Anna"[..]), (Kind::Labels, b"anna.local"), (Kind::Text, b"Laser"), network];
        assert_eq!(all, named);
        assert_eq!((found.spans[3].end, found.literal_end), (message.len(), message.len()));
    }
}
