//! Whose connection it is, as a trusted proxy says.

use crate::config::TrustedPeer;
use crate::config::limits::MAX_USER_ID_BYTES;
use crate::wire::upgrade::{Rejection, Request};
use std::net::SocketAddr;

/// The header in which a trusted peer names the user of a connection.
const USER_HEADER: &str = "X-User-ID";

/// The user whose name a trusted peer put into the request's head.
pub(super) fn user(
    request: &Request<'_>,
    peer: Option<SocketAddr>,
    trusted_peers: &[TrustedPeer],
) -> Result<Option<String>, Rejection> {
    let address = peer.map(|peer| peer.ip());
    if !trusted_peers.iter().any(|one| one.matches(address)) {
        return Ok(None);
    }
    let mut headers = request.headers(USER_HEADER);
    let Some(value) = headers.next() else {
        return Ok(None);
    };
    if headers.next().is_some() {
        return Err(Rejection::new(400, "X-User-ID is there more than once."));
    }
    let value = value.trim_ascii();
    let user = std::str::from_utf8(value)
        .ok()
        .filter(|user| user.len() <= MAX_USER_ID_BYTES && !user.chars().any(char::is_control));
    match user {
        Some("") => Ok(None),
        Some(user) => Ok(Some(user.to_owned())),
        None => Err(Rejection::new(
            400,
            format!(
                "X-User-ID must be UTF-8 of at most {MAX_USER_ID_BYTES} bytes without control characters."
            ),
        )),
    }
}
