//! From the name to the open connection. The steps of the first connection are done by
//! [`super::super::run()`], because all other tests need what comes of them.

use super::super::check::{Check, Needs, Passed, Verdict};
use super::super::context::Context;

const GROUP: &str = "handshake";

const fn step(name: &'static str, about: &'static str, source: &'static str) -> Check {
    Check {
        name,
        group: GROUP,
        about,
        source,
        needs: Needs::Nothing,
        run: None,
    }
}

pub(super) const CHECKS: &[Check] = &[
    step(
        "dns",
        "the host has at least one address",
        "RFC 6455 section 4.1",
    ),
    step(
        "tcp",
        "one of its addresses takes a TCP connection",
        "RFC 6455 section 4.1",
    ),
    step(
        "tls",
        "TLS 1.2 or 1.3 is agreed on",
        "RFC 6455 section 4.1; RFC 8446",
    ),
    step(
        "certificate",
        "the certificate is of a trusted authority, for this host, and valid today",
        "RFC 6455 section 10.6; RFC 9525",
    ),
    step(
        "upgrade",
        "status 101, Upgrade, Connection, the right Sec-WebSocket-Accept, a subprotocol only out \
         of those offered, no extension",
        "RFC 6455 sections 4.1, 4.2.2",
    ),
    Check {
        name: "bad-handshake",
        group: GROUP,
        about: "a handshake without Sec-WebSocket-Version is refused with 400, 426 or another 4xx",
        source: "RFC 6455 sections 4.2.1, 4.4",
        needs: Needs::Nothing,
        run: Some(bad_handshake),
    },
];

fn bad_handshake(context: &Context<'_>) -> Verdict {
    let (request, _) = context.request(&context.options.target);
    let request = String::from_utf8_lossy(&request).replace("Sec-WebSocket-Version: 13\r\n", "");
    let head = context.ask(request.as_bytes())?;
    match head.status {
        400..=499 => Ok(Passed::new(head.status_line())),
        101 => Err("the server accepted it (101)".to_owned().into()),
        _ => Err(format!("the server answered {}", head.status_line()).into()),
    }
}
