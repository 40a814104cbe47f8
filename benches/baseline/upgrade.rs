//! The server's half of the opening handshake (RFC 6455 section 4.2.2), as a bare baseline needs it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Header lines of a request that we look at; more is an error.
const HEADERS_MAX: usize = 32;

/// What the bytes received so far are.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// The request head is not complete.
    Partial,
    /// A valid upgrade: the answer to send, and how many bytes of the input the request took.
    Accepted {
        /// The `101` response.
        response: Vec<u8>,
        /// Length of the request head, in bytes.
        consumed: usize,
    },
    /// No upgrade; the connection is to be dropped.
    Refused(&'static str),
}

/// Reads an upgrade request from the start of `input`.
pub(crate) fn read(input: &[u8]) -> Upgrade {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let consumed = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Upgrade::Partial,
        Err(_) => return Upgrade::Refused("not an HTTP request"),
    };
    if request.method != Some("GET") || request.version != Some(1) {
        return Upgrade::Refused("not GET with HTTP/1.1");
    }
    let (mut key, mut upgrade, mut connection, mut version) = (None, false, false, false);
    for header in request.headers.iter() {
        let name = header.name;
        if name.eq_ignore_ascii_case("sec-websocket-key") {
            key = Some(header.value);
        } else if name.eq_ignore_ascii_case("upgrade") {
            upgrade = has_token(header.value, b"websocket");
        } else if name.eq_ignore_ascii_case("connection") {
            connection |= has_token(header.value, b"upgrade");
        } else if name.eq_ignore_ascii_case("sec-websocket-version") {
            version = header.value == b"13";
        }
    }
    let Some(key) = key.filter(|_| upgrade && connection && version) else {
        return Upgrade::Refused("a header of the upgrade is missing");
    };
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    if STANDARD.encode_slice(digest, &mut accept) != Ok(accept.len()) {
        return Upgrade::Refused("the accept key has another length than 28");
    }
    let mut response = Vec::with_capacity(160);
    response.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
          Connection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    response.extend_from_slice(&accept);
    response.extend_from_slice(b"\r\n\r\n");
    Upgrade::Accepted { response, consumed }
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}
