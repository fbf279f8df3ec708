//! Names in text: domains, mail addresses, whom a command or a header tells, numbers of devices.

use super::{Kind, NAME_MAX, Span};

/// Bytes of a message that are looked at: literal text is shorter (see the encoder), and a name can go on behind it.
const SEARCHED_MAX: usize = 640;

/// Top-level domains with more than two letters that names in traffic have: the common ones of IANA, and those of private networks.
const DOMAINS: [&str; 44] = [
    "com",
    "net",
    "org",
    "edu",
    "gov",
    "mil",
    "int",
    "info",
    "biz",
    "name",
    "pro",
    "aero",
    "coop",
    "museum",
    "mobi",
    "jobs",
    "travel",
    "tel",
    "cat",
    "asia",
    "xxx",
    "app",
    "dev",
    "cloud",
    "online",
    "site",
    "xyz",
    "top",
    "club",
    "shop",
    "store",
    "arpa",
    "local",
    "localdomain",
    "lan",
    "home",
    "corp",
    "internal",
    "intranet",
    "private",
    "domain",
    "test",
    "example",
    "invalid",
];

/// What has two letters behind a dot and is no country.
const NO_COUNTRIES: [&str; 8] = ["js", "gz", "xz", "db", "hs", "vb", "kt", "ts"];

/// Names that are part of a protocol.
const PUBLIC: [&str; 6] =
    ["openssh.com", "libssh.org", "asp.net", "www.w3.org", "schemas.xmlsoap.org", "schemas.upnp.org"];

/// Headers whose value is somebody's (RFC 9110, section 11.6; RFC 6265; RFC 7239).
const HEADERS: [&str; 9] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "x-auth-token",
    "x-api-key",
];

/// Headers that name somebody before his address (RFC 3261, section 20).
const PEOPLE: [&str; 6] = ["from", "to", "contact", "f", "t", "m"];

/// Commands that tell who somebody is (RFC 959, 1939, 5321, 3501, 1459).
const COMMANDS: [&str; 11] =
    ["user", "pass", "acct", "apop", "auth", "helo", "ehlo", "lhlo", "nick", "login", "authenticate"];

/// Keys of forms, queries and JSON whose value is somebody's.
const KEYS: [&str; 32] = [
    "user",
    "username",
    "login",
    "name",
    "email",
    "mail",
    "pass",
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "access_token",
    "key",
    "apikey",
    "api_key",
    "session",
    "sessionid",
    "sid",
    "id",
    "uid",
    "uuid",
    "userid",
    "device_id",
    "deviceid",
    "serial",
    "mac",
    "imei",
    "host",
    "hostname",
    "computer",
    "displayname",
];

/// How Windows begins the names of hosts that nobody has named.
const HOSTS: [&str; 3] = ["DESKTOP-", "LAPTOP-", "WIN-"];

/// Adds them; `is_line` where a line without spaces may be somebody's secret, as in the mail protocols.
pub(super) fn find(payload: &[u8], is_line: bool, ret: &mut Vec<Span>) {
    let text = &payload[..payload.len().min(SEARCHED_MAX)];
    let mut start = 0;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let said = line.trim_ascii_end();
        self::line(said, start, is_line, ret);
        start += line.len();
    }
    words(text, 1, ret);
    values(text, ret);
}

/// Adds what is text in a message that is not.
pub(super) fn find_in_binary(payload: &[u8], ret: &mut Vec<Span>) {
    let head = &payload[..payload.len().min(SEARCHED_MAX)];
    words(head, 6, ret);
    // RDP's cookie (MS-RDPBCGR, section 2.2.1.1).
    if let Some(at) = head.windows(9).position(|w| w == b"mstshash=").map(|at| at + 9) {
        let len = head[at..].iter().take_while(|b| b.is_ascii_graphic()).count();
        named(head, at, at + len, ret);
    }
    // Who has a certificate, and who has given it (X.520, strings of DER).
    for at in 0..head.len() {
        if let Some(&[0x06, 0x03, 0x55, 0x04, _, 0x0c | 0x13 | 0x14 | 0x16, len]) = head.get(at..at + 7) {
            let end = head.len().min(at + 7 + usize::from(len));
            if at + 7 < end {
                ret.push(Span { at: at + 7, end, name: Vec::new(), kind: Kind::Address });
            }
        }
    }
    // UTF-16, in which Windows names hosts, users and shares.
    let mut at = 0;
    while at + 6 <= head.len() {
        let pairs = head[at..].chunks_exact(2).take_while(|two| matches!(two, [0x20..0x7f, 0])).count();
        if pairs >= 3 {
            ret.push(Span { at, end: at + 2 * pairs, name: Vec::new(), kind: Kind::Address });
        }
        at += (2 * pairs).max(1);
    }
}

fn named(text: &[u8], at: usize, end: usize, ret: &mut Vec<Span>) {
    for at in (at..end).step_by(NAME_MAX) {
        let end = end.min(at + NAME_MAX);
        ret.push(Span { at, end, name: text[at..end].to_vec(), kind: Kind::Text });
    }
}

fn is_one_of(word: &[u8], of: &[&str]) -> bool {
    of.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(word))
}

/// A line that begins at `start`.
fn line(line: &[u8], start: usize, is_line: bool, ret: &mut Vec<Span>) {
    let whole = |from: usize, ret: &mut Vec<Span>| {
        let blank = line[from..].iter().take_while(|b| **b == b' ').count();
        for (i, part) in line[from + blank..].chunks(NAME_MAX).enumerate() {
            let at = start + from + blank + i * NAME_MAX;
            ret.push(Span { at, end: at + part.len(), name: part.to_vec(), kind: Kind::Text });
        }
    };
    if let Some(colon) = line.iter().position(|b| *b == b':') {
        if is_one_of(&line[..colon], &HEADERS) {
            return whole(colon + 1, ret);
        }
        if is_one_of(&line[..colon], &PEOPLE)
            && let Some(end) = line.iter().position(|b| *b == b'<')
        {
            let is_around = |b: &&u8| matches!(b, b' ' | b'"');
            let from = colon + 1 + line[colon + 1..].iter().take_while(is_around).count();
            let end = end - line[..end].iter().rev().take_while(is_around).count();
            if from < end {
                let name = line[from..end.min(from + NAME_MAX)].to_vec();
                ret.push(Span { at: start + from, end: start + from + name.len(), name, kind: Kind::Text });
            }
        }
    }
    // A command may stand behind a tag (RFC 3501, section 2.2.1).
    let mut from = 0;
    for word in line.split(|b| *b == b' ').take(2) {
        from += word.len() + 1;
        if is_one_of(word, &COMMANDS) && from < line.len() {
            return whole(from, ret);
        }
    }
    let is_word = line.iter().all(u8::is_ascii_uppercase);
    if is_line && line.len() >= 4 && !line.contains(&b' ') && !is_word {
        whole(0, ret);
    }
}

/// Adds the values of keys, `key=value` or `"key": "value"`.
fn values(text: &[u8], ret: &mut Vec<Span>) {
    let is_key = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let mut at = 0;
    while let Some(len) =
        text.get(at..).map(|rest| rest.iter().take_while(|b| is_key(b)).count()).filter(|_| at < text.len())
    {
        let (key, mut p) = (&text[at..at + len], at + len);
        at += len.max(1);
        if !is_one_of(key, &KEYS) {
            continue;
        }
        let is_json = text.get(p) == Some(&b'"');
        p += usize::from(is_json);
        p += text[p..].iter().take_while(|b| **b == b' ').count();
        if text.get(p) != Some(if is_json { &b':' } else { &b'=' }) {
            continue;
        }
        p += 1;
        p += text[p..].iter().take_while(|b| matches!(b, b' ' | b'"')).count();
        let is_value = |b: &&u8| b.is_ascii_graphic() && !matches!(b, b'&' | b';' | b',' | b'"' | b'}' | b'<');
        let value = text[p..].iter().take_while(is_value).count();
        named(text, p, p + value, ret);
        at = at.max(p + value);
    }
}

/// Adds the words that are names or numbers of somebody, of at least `least` bytes.
fn words(text: &[u8], least: usize, ret: &mut Vec<Span>) {
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'+' | b'%' | b',');
    let mut at = 0;
    while at < text.len() {
        let len = text[at..].iter().take_while(|b| is_part(b)).count();
        if len == 0 {
            at += 1;
            continue;
        }
        let (word, end) = (&text[at..at + len], at + len);
        if text.get(end) == Some(&b'@') {
            // Whose mailbox, whose telephone: whatever stands in front, but a scheme (RFC 3261, section 19.1).
            let host = text[end + 1..].iter().take_while(|b| is_part(b) && **b != b',').count();
            if !is_one_of(&text[end + 1..end + 1 + host], &PUBLIC) {
                let scheme = word.iter().rposition(|b| matches!(b, b':' | b',')).map_or(0, |p| p + 1);
                named(text, at + scheme, end, ret);
                let domain = &text[end + 1..end + 1 + host];
                let name = domain.iter().take_while(|b| **b != b':').count();
                if !is_quad(&domain[..name]) {
                    named(text, end + 1, end + 1 + name, ret);
                }
            }
            at = end + 1 + host;
            continue;
        }
        let mut part_at = at;
        if len >= least && (is_number(word) || is_host_and_port(word)) {
            named(text, at, end, ret);
        } else {
            for part in word.split(|b| matches!(b, b':' | b'+' | b'%' | b',')) {
                // A wildcard's star stands in front of a dot.
                let before = part.iter().take_while(|b| **b == b'.').count();
                let inner = without_dots(&part[before..]);
                if inner.len() >= least && (is_domain(inner) || is_number(inner) || is_host(inner)) {
                    named(text, part_at + before, part_at + before + inner.len(), ret);
                }
                part_at += part.len() + 1;
            }
        }
        at = end;
    }
}

/// An address and a port in numbers (RFC 959, section 4.1.2).
fn is_host_and_port(word: &[u8]) -> bool {
    word.iter().all(|b| b.is_ascii_digit() || *b == b',') && word.iter().filter(|b| **b == b',').count() == 5
}

fn without_dots(word: &[u8]) -> &[u8] {
    let dots = word.iter().rev().take_while(|b| **b == b'.').count();
    &word[..word.len() - dots]
}

fn is_host(word: &[u8]) -> bool {
    let begins = |host: &str| word.len() > host.len() && is_one_of(&word[..host.len()], &[host]);
    HOSTS.iter().any(|host| begins(host))
}

fn is_quad(word: &[u8]) -> bool {
    str::from_utf8(word).is_ok_and(|word| word.parse::<std::net::Ipv4Addr>().is_ok())
}

/// Whether a word is a domain by its last label.
fn is_domain(word: &[u8]) -> bool {
    let Some(dot) = word.iter().rposition(|b| *b == b'.') else { return false };
    let (before, last) = (&word[..dot], &word[dot + 1..]);
    let is_country = last.len() == 2 && last.iter().all(u8::is_ascii_alphabetic) && !is_one_of(last, &NO_COUNTRIES);
    let labels_hold = !before.is_empty() && before.split(|b| *b == b'.').all(|label| !label.is_empty());
    labels_hold && (is_country || is_one_of(last, &DOMAINS)) && !is_one_of(word, &PUBLIC)
}

/// Whether it is an address of a device, an UUID, or another long number in hexadecimal digits.
fn is_number(word: &[u8]) -> bool {
    let separators = word.iter().filter(|b| matches!(b, b':' | b'-')).count();
    let is_right = word.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'-'));
    let digits = word.len() - separators;
    let has_digit = word.iter().any(u8::is_ascii_digit);
    is_right && has_digit && digits >= 4 && (separators >= 3 || digits >= 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut spans = Vec::new();
        find(text.as_bytes(), false, &mut spans);
        super::super::in_order(&mut spans);
        assert!(spans.iter().all(|s| text.as_bytes()[s.at..s.end] == s.name));
        spans.iter().map(|s| String::from_utf8_lossy(&s.name).into_owned()).collect()
    }

    #[test]
    fn who_somebody_is_is_found_in_text_and_what_a_protocol_says_is_not() {
        assert_eq!(
            found("GET /index.html HTTP/1.1\r\nUser-Agent: Mozilla/5.0\r\nReferer: http://shop.corp.de/a.js\r\n"),
            ["shop.corp.de"]
        );
        assert_eq!(
            found("From: Ivan <sip:ivan@a>\r\nPORT 192,0,2,1,234,10\r\n"),
            ["Ivan", "ivan", "a", "192,0,2,1,234,10"]
        );
        assert_eq!(found("Cookie: sid=abc; user=anna\r\nAccept: */*\r\n"), ["sid=abc; user=anna"]);
        assert_eq!(found("220 mail.corp.example ESMTP\r\n"), ["mail.corp.example"]);
        assert_eq!(found("MAIL FROM:<anna.b@corp.example>\r\n"), ["anna.b", "corp.example"]);
        assert_eq!(found("USER anna\r\n"), ["anna"]);
        assert_eq!(found("a001 LOGIN anna secret\r\n"), ["anna secret"]);
        assert_eq!(found("From: \"Anna B\" <sip:anna@192.0.2.1>;tag=1\r\n"), ["Anna B", "anna"]);
        assert_eq!(
            found("USN: uuid:2fac1234-31f8-11b4-a222-08002b34c003::upnp:rootdevice\r\n"),
            ["2fac1234-31f8-11b4-a222-08002b34c003"]
        );
        assert_eq!(found("ID 00:1b:63:84:45:e6 fe80::1b63:84ff:fe45:e6\r\n").len(), 2);
        assert!(
            found("HTTP/1.1 200 OK\r\nX-Powered-By: ASP.NET\r\nDate: Mon, 01 Jan 2024 12:30:45 GMT\r\n").is_empty()
        );
        assert_eq!(found("GET /a?user=anna&x=1 HTTP/1.1\r\n{\"id\": \"a1\", \"v\": 2}"), ["anna", "a1"]);
        assert_eq!(found("DESKTOP-IM9SFOS x"), ["DESKTOP-IM9SFOS"]);
        assert!(found("SSH-2.0-OpenSSH_9.2p1\r\n").is_empty());
        assert!(found("curve25519-sha256@libssh.org,ecdh\r\n").is_empty());
        let mut spans = Vec::new();
        find(b"c2VjcmV0\r\n", true, &mut spans);
        find(b"DATA\r\n", true, &mut spans);
        assert_eq!(spans.len(), 1);
    }

    #[test]
    fn names_in_binary_messages_are_found() {
        let mut spans = Vec::new();
        find_in_binary(b"\x03\0\0\x2b\x26\xe0\0\0\0\0\0Cookie: mstshash=anna\r\n\x01\0", &mut spans);
        find_in_binary(b"\x01\x02www.corp.de\0\x03", &mut spans);
        find_in_binary(b"\x82\x0b*.corp.de\x82\x06\x03\x55\x04\x0a\x13\x04Corp\x30", &mut spans);
        find_in_binary(b"\xff\xffA\0N\0N\0A\0\0\0", &mut spans);
        let at: Vec<_> = spans.iter().map(|s| (s.at, s.end)).collect();
        assert_eq!(at, [(28, 32), (2, 13), (4, 11), (19, 23), (2, 10)]);
    }
}
