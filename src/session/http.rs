//! Plain HTTP on the public listener: the demo page, the health check, and clear refusals.
//!
//! Answered by the shard from the data ring; every response ends its connection.

use crate::wire::upgrade::{Request, write_response};

/// The demo page: one file, no external resource.
const DEMO_PAGE: &str = include_str!("../gateway/demo.html");

/// What the demo page may do: run its own script and style, and connect back to this server.
/// The policy names the hashes of both; `tests/demo_page.rs` keeps it in step with the page.
const DEMO_HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        include_str!("../gateway/demo.csp").trim_ascii_end(),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
];

const TEXT: &str = "text/plain; charset=utf-8";

/// Writes the whole response.
pub(super) fn respond(
    request: &Request<'_>,
    demo_page: bool,
    channel_paths: &[String],
    echo: bool,
    response: &mut Vec<u8>,
) {
    let path = request.path;
    let known = match path {
        "/" => demo_page,
        "/healthz" | "/health" => true,
        _ => false,
    };
    let head_only = request.method == "HEAD";
    let upgrade_here = (echo && path == "/echo")
        || channel_paths
            .iter()
            .any(|channel_path| channel_path == path);
    if known && !matches!(request.method, "GET" | "HEAD") {
        let body = "405: only GET and HEAD here\n";
        write_response(
            response,
            405,
            TEXT,
            &[("Allow", "GET, HEAD")],
            body.as_bytes(),
            false,
        );
    } else if known && path == "/" {
        let html = "text/html; charset=utf-8";
        write_response(
            response,
            200,
            html,
            DEMO_HEADERS,
            DEMO_PAGE.as_bytes(),
            head_only,
        );
    } else if known {
        write_response(
            response,
            200,
            TEXT,
            &[("Cache-Control", "no-store")],
            b"ok\n",
            head_only,
        );
    } else if upgrade_here {
        let headers = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
        let body = "426: this is a WebSocket endpoint; connect with ws://\n";
        write_response(response, 426, TEXT, &headers, body.as_bytes(), head_only);
    } else {
        let body = format!(
            "404: nothing at this path; WebSocket endpoints: {}\n",
            channel_paths.join(", ")
        );
        write_response(response, 404, TEXT, &[], body.as_bytes(), head_only);
    }
}
