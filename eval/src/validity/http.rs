//! Whether a stream that begins like HTTP/1 has a request line or a status line there (RFC 9112, sections 3 and 4).

/// Longest first line that is waited for, in bytes. RFC 9112, section 3, asks recipients to take at least 8,000.
pub(super) const LINE_MAX: usize = 65_536;

/// Methods of RFC 9110, section 9, RFC 5789 and RFC 4918.
const METHODS: [&[u8]; 16] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
];

/// Whether bytes look like the beginning of a message; `None` while there are too few.
pub(super) fn begins_like(bytes: &[u8]) -> Option<bool> {
    let mut could_be = false;
    for start in METHODS.iter().copied().chain([&b"HTTP/1."[..]]) {
        if bytes.starts_with(start) {
            return Some(true);
        }
        could_be |= start.starts_with(bytes);
    }
    if could_be { None } else { Some(false) }
}

/// What a first line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstLine {
    /// A request line or a status line.
    Valid,
    /// Neither.
    Bad,
    /// A line of a protocol that took over HTTP's methods: RTSP or SIP.
    NotHttp,
}

/// Judges a first line without its end.
pub(super) fn first_line(line: &[u8]) -> FirstLine {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_clean = line.iter().all(|b| !matches!(b, 0..=8 | 10..=31 | 127));
    let is_right = if line.starts_with(b"HTTP/1.") {
        match line {
            [_, _, _, _, _, _, _, b'0' | b'1', b' ', a, b, c, rest @ ..] => {
                [a, b, c].iter().all(|d| d.is_ascii_digit()) && matches!(rest, [] | [b' ', ..])
            }
            _ => false,
        }
    } else {
        let mut parts = line.splitn(2, |b| *b == b' ').skip(1);
        let rest = parts.next().unwrap_or_default();
        let mut from_end = rest.rsplitn(2, |b| *b == b' ');
        let (version, target) = (from_end.next().unwrap_or_default(), from_end.next().unwrap_or_default());
        if version.starts_with(b"RTSP/") || version.starts_with(b"SIP/") {
            return FirstLine::NotHttp;
        }
        matches!(version, b"HTTP/1.0" | b"HTTP/1.1") && !target.is_empty() && !target.contains(&b' ')
    };
    if is_right && is_clean { FirstLine::Valid } else { FirstLine::Bad }
}
