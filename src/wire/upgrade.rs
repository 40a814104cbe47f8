//! The request head that opens every connection: an upgrade to WebSocket (RFC 6455 section 4.2.1)
//! or plain HTTP/1.1 (RFC 9112).
//!
//! httparse splits the head; the rules of the upgrade are here. Whatever cannot become a valid
//! head is refused with the first byte that shows it.

use super::response;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use httparse::Header;
use sha1::{Digest as _, Sha1};
use std::borrow::Cow;
use std::mem::MaybeUninit;

pub use super::response::{write_accept, write_response};

#[cfg(test)]
mod tests;

/// Most header lines that a [`HeaderSpace`] holds, whatever [`HeadLimits::lines`] says.
pub const MAX_LINES: usize = 256;

/// A request method longer than this, in bytes, is none: the longest registered one has 17.
const MAX_METHOD_BYTES: usize = 32;

/// What RFC 6455 section 1.3 appends to the key.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The key is a nonce: any spelling of 16 bytes will do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes up to and including the empty line.
    pub bytes: usize,
    /// Header lines, at most [`MAX_LINES`].
    pub lines: usize,
}

/// Room for the header lines of one head, on the stack and not initialized.
pub struct HeaderSpace<'a>([MaybeUninit<Header<'a>>; MAX_LINES]);

impl HeaderSpace<'_> {
    /// Room for [`MAX_LINES`] lines.
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; MAX_LINES])
    }
}

impl Default for HeaderSpace<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The value of `Sec-WebSocket-Accept`, which proves that the server read the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptKey([u8; 28]);

impl AcceptKey {
    /// The answer to a key, as it stands in the header (RFC 6455 section 4.2.2, item 5.4).
    #[must_use]
    pub fn derive(key: &[u8]) -> Self {
        let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID);
        let mut text = [0; 28];
        let written = BASE64.encode_slice(digest.finalize(), &mut text);
        debug_assert_eq!(written, Ok(text.len()), "20 bytes are 28 characters");
        Self(text)
    }

    /// 28 characters of base64.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 28] {
        &self.0
    }
}

/// A request head, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// As sent; methods are case-sensitive.
    pub method: &'a str,
    /// The target up to its query: begins with `/`, or is `*`. Not percent-decoded.
    pub path: &'a str,
    /// What follows the first `?`, as sent.
    pub query: Option<&'a str>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    headers: &'a [Header<'a>],
}

impl<'a> Request<'a> {
    /// The first header of this name, whatever its case; `None` also if it is not UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let value = self.headers(name).next()?;
        std::str::from_utf8(value).ok()
    }

    /// The values of all headers of this name, whatever its case, in order.
    pub fn headers<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// The elements of a comma-separated list over all headers of this name, without the
    /// whitespace around them; empty elements are left out (RFC 9110 section 5.6.1).
    fn list<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name)
            .any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The subprotocols that the client offers, in its order of preference. Names are
    /// case-sensitive.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.list("sec-websocket-protocol")
            .filter(|element| is_token(element))
            .filter_map(|element| std::str::from_utf8(element).ok())
    }

    /// The values of `Sec-WebSocket-Extensions`, one per header line, unparsed.
    pub fn extensions(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.headers("sec-websocket-extensions")
            .filter_map(|value| std::str::from_utf8(value).ok())
    }
}

/// What the first bytes of a connection are.
#[derive(Debug)]
pub enum Head<'a> {
    /// Valid so far; more is needed.
    Incomplete,
    /// A valid upgrade to WebSocket.
    Upgrade {
        /// The request: its path, origin, subprotocols and the rest are the caller's to judge.
        request: Request<'a>,
        /// For [`write_accept`].
        accept: AcceptKey,
        /// Length of the head; frames may follow it.
        consumed: usize,
    },
    /// Any other valid request. Its body, if it has one, is not looked at: the answer closes the
    /// connection.
    Plain {
        /// The request.
        request: Request<'a>,
        /// Length of the head.
        consumed: usize,
    },
}

/// Why a request is refused, and with which status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Rejection {
    /// 400, 405, 426, 431 or 505.
    pub status: u16,
    /// One sentence for whoever sent the request: what is wrong and what to do.
    pub reason: Cow<'static, str>,
}

impl Rejection {
    /// A refusal with a status and a sentence that says what to do.
    #[must_use]
    pub fn new(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }

    /// Appends the whole response; the connection closes after it.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        let extra: &[(&str, &str)] = match self.status {
            405 => &[("Allow", "GET")],
            // RFC 9110 section 15.5.22 and RFC 6455 section 4.4.
            426 => &[
                ("Connection", "close, Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
            ],
            _ => &[],
        };
        let body = format!("{}\n", self.reason);
        let content_type = "text/plain; charset=utf-8";
        response::write_response(
            out,
            self.status,
            content_type,
            extra,
            body.as_bytes(),
            false,
        );
    }
}

/// Reads the head at the start of `bytes`.
///
/// The same bytes may come again with more behind them. `space` holds the header lines that the
/// request borrows.
///
/// # Errors
/// The bytes cannot become a request that is acceptable: answer with
/// [`Rejection::write_response`] and close.
pub fn parse_head<'a, 'b: 'a>(
    bytes: &'b [u8],
    space: &'a mut HeaderSpace<'b>,
    limits: HeadLimits,
) -> Result<Head<'a>, Rejection> {
    if let [0x16, 0x03, ..] = bytes {
        return Err(Rejection::new(
            400,
            "This port speaks HTTP without TLS: use ws:// or http://, or put a TLS proxy in front.",
        ));
    }
    let window = &bytes[..bytes.len().min(limits.bytes)];
    let start = window
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'));
    let line = &window[start.unwrap_or(window.len())..];
    if line.len() > MAX_METHOD_BYTES && !line[..MAX_METHOD_BYTES].contains(&b' ') {
        return Err(Rejection::new(400, "This is not an HTTP request."));
    }
    let lines = limits.lines.min(MAX_LINES);
    let mut parsed = httparse::Request::new(&mut []);
    let consumed = match parsed.parse_with_uninit_headers(window, &mut space.0[..lines]) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) if bytes.len() < limits.bytes => return Ok(Head::Incomplete),
        Ok(httparse::Status::Partial) => {
            let limit = limits.bytes;
            return Err(Rejection::new(
                431,
                format!("The request head exceeds {limit} bytes: send fewer or shorter headers."),
            ));
        }
        Err(error) => return Err(refuse(error, lines)),
    };
    let httparse::Request {
        method: Some(method),
        path: Some(target),
        version: Some(minor_version),
        headers,
    } = parsed
    else {
        return Err(Rejection::new(400, "The request line is incomplete."));
    };
    let (path, query) = split_target(target)?;
    let request = Request {
        method,
        path,
        query,
        minor_version,
        headers,
    };
    check_host(&request)?;
    Ok(match check_upgrade(&request)? {
        Some(accept) => Head::Upgrade {
            request,
            accept,
            consumed,
        },
        None => Head::Plain { request, consumed },
    })
}

fn refuse(error: httparse::Error, lines: usize) -> Rejection {
    let reason = match error {
        httparse::Error::TooManyHeaders => {
            return Rejection::new(
                431,
                format!("The request has more than {lines} header lines: send fewer."),
            );
        }
        httparse::Error::Version => {
            return Rejection::new(505, "Only HTTP/1.1 is spoken here: use HTTP/1.1.");
        }
        httparse::Error::HeaderName => "A header's name contains a byte that is not allowed.",
        httparse::Error::HeaderValue => "A header's value contains a byte that is not allowed.",
        httparse::Error::NewLine => "A line of the request does not end in CR LF.",
        httparse::Error::Token | httparse::Error::Status => "This is not an HTTP request.",
    };
    Rejection::new(400, reason)
}

/// Path and query of a request target (RFC 9112 section 3.2): origin form, absolute form, or `*`.
fn split_target(target: &str) -> Result<(&str, Option<&str>), Rejection> {
    let invalid = || {
        Rejection::new(
            400,
            "The request target must be a path: it begins with / and has no #fragment.",
        )
    };
    if target.contains('#') {
        return Err(invalid());
    }
    if target == "*" {
        return Ok((target, None));
    }
    let local = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://").ok_or_else(invalid)?;
        let known = ["http", "https", "ws", "wss"];
        if !known.iter().any(|name| scheme.eq_ignore_ascii_case(name)) {
            return Err(invalid());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        &rest[end..]
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// Exactly one Host with HTTP/1.1, at most one with 1.0 (RFC 9112 section 3.2).
fn check_host(request: &Request<'_>) -> Result<(), Rejection> {
    let mut hosts = request.headers("host");
    let valid = match (hosts.next(), hosts.next()) {
        (None, _) => request.minor_version == 0,
        (Some(host), None) => host.iter().all(|byte| {
            // A name, an address or a port (RFC 3986 section 3.2.2).
            byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte)
        }),
        (Some(_), Some(_)) => false,
    };
    if valid {
        Ok(())
    } else {
        Err(Rejection::new(
            400,
            "The request must have exactly one valid Host header.",
        ))
    }
}

/// `None` if the request does not ask for WebSocket; else all of RFC 6455 section 4.2.1.
fn check_upgrade(request: &Request<'_>) -> Result<Option<AcceptKey>, Rejection> {
    if !request.has_token("upgrade", "websocket") {
        return Ok(None);
    }
    let refuse = |status, reason: &'static str| Err(Rejection::new(status, reason));
    if request.method != "GET" {
        return refuse(405, "A WebSocket handshake is a GET request.");
    }
    if request.minor_version != 1 {
        return refuse(
            400,
            "A WebSocket handshake needs HTTP/1.1; a proxy in between must use it too.",
        );
    }
    if !request.has_token("connection", "upgrade") {
        return refuse(
            400,
            "The Connection header must contain Upgrade; a proxy in between must pass it on.",
        );
    }
    // Bytes behind the head are frames: a body would be taken for them.
    let body = request.headers("transfer-encoding").next().is_some()
        || request.headers("content-length").any(|value| value != b"0");
    if body {
        return refuse(400, "A WebSocket handshake has no body.");
    }
    let mut versions = request.headers("sec-websocket-version");
    match (versions.next(), versions.next()) {
        (Some(b"13"), None) => {}
        _ => return refuse(426, "Only WebSocket version 13 is spoken here."),
    }
    let mut keys = request.headers("sec-websocket-key");
    let accept = match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key) => AcceptKey::derive(key),
        _ => {
            return refuse(
                400,
                "Sec-WebSocket-Key must be there once: 16 random bytes in base64.",
            );
        }
    };
    if !request.list("sec-websocket-protocol").all(is_token) {
        return refuse(
            400,
            "Sec-WebSocket-Protocol contains a name that is no token.",
        );
    }
    Ok(Some(accept))
}

fn is_key(key: &[u8]) -> bool {
    // The decoder wants three bytes of room per four characters; a longer key does not fit.
    let mut nonce = [0; 18];
    BASE64.decode_slice(key, &mut nonce) == Ok(16)
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
