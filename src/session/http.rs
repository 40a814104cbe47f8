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
    let page = match path {
        "/" => demo_page,
        "/healthz" | "/health" => true,
        _ => false,
    };
    let upgrade_here = (echo && path == "/echo")
        || channel_paths
            .iter()
            .any(|channel_path| channel_path == path);
    let head_only = request.method == "HEAD";
    let reads = matches!(request.method, "GET" | "HEAD");
    let mut refuse = |status, headers: &[(&str, &str)], reason: &str| {
        let body = format!("{reason}\n");
        write_response(response, status, TEXT, headers, body.as_bytes(), head_only);
    };
    if !page && !upgrade_here {
        refuse(404, &[], &nowhere(channel_paths));
    } else if page && !reads {
        refuse(405, &[("Allow", "GET, HEAD")], "Only GET and HEAD here.");
    } else if !page && !reads {
        refuse(
            405,
            &[("Allow", "GET")],
            "A WebSocket handshake is a GET request.",
        );
    } else if !page {
        // RFC 9110 section 7.8: who sends Upgrade names it in Connection.
        let headers = [
            ("Connection", "close, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
        ];
        refuse(
            426,
            &headers,
            "This is a WebSocket endpoint: connect with ws://.",
        );
    } else if path == "/" {
        let html = "text/html; charset=utf-8";
        write_response(
            response,
            200,
            html,
            DEMO_HEADERS,
            DEMO_PAGE.as_bytes(),
            head_only,
        );
    } else {
        write_response(
            response,
            200,
            TEXT,
            &[("Cache-Control", "no-store")],
            b"ok\n",
            head_only,
        );
    }
}

/// What a request for an unknown path is told, whether it asked for an upgrade or not.
pub(super) fn nowhere(channel_paths: &[String]) -> String {
    let paths = channel_paths.join(", ");
    format!("There is no such endpoint here; WebSocket is spoken at {paths}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::upgrade::{Head, HeadLimits, HeaderSpace, parse_head};

    fn answer(method: &str, path: &str, version: &str) -> String {
        let text = format!("{method} {path} HTTP/{version}\r\nHost: x\r\n\r\n");
        let limits = HeadLimits {
            bytes: 1000,
            lines: 10,
        };
        let mut space = HeaderSpace::new();
        let Ok(Head::Plain { request, .. }) = parse_head(text.as_bytes(), &mut space, limits)
        else {
            panic!("{text}")
        };
        let mut out = Vec::new();
        respond(&request, true, &["/ws".to_owned()], true, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_path_and_method_has_its_answer() {
        for (method, path, expected) in [
            ("GET", "/", "200"),
            ("GET", "/healthz", "200"),
            ("POST", "/healthz", "405"),
            ("GET", "/ws", "426"),
            ("HEAD", "/echo", "426"),
            ("POST", "/ws", "405"),
            ("GET", "/nowhere", "404"),
            ("POST", "/nowhere", "404"),
        ] {
            for version in ["1.0", "1.1"] {
                let answer = answer(method, path, version);
                let status = answer.strip_prefix("HTTP/1.1 ").unwrap();
                assert!(status.starts_with(expected), "{method} {path}: {answer}");
                assert_eq!(answer.matches("Connection: close").count(), 1, "{answer}");
                assert_eq!(answer.contains("\r\nAllow: GET"), expected == "405");
                let upgrade = "\r\nConnection: close, Upgrade\r\n";
                assert_eq!(answer.contains(upgrade), expected == "426", "{answer}");
                assert_eq!(answer.ends_with("\r\n\r\n"), method == "HEAD", "{answer}");
            }
        }
    }
}
