//! Where the server is: a `ws://` or `wss://` URL (RFC 6455 section 3), taken apart.

use std::fmt;

use url::{Host, Position, Url};

/// The parts of a WebSocket URL that a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it is `wss://`.
    tls: bool,
    /// A name (in ASCII, as IDNA has it) or an address, an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// As the Host header has it: the port is missing where it is the scheme's own.
    authority: String,
    /// The path with its query, as it goes into the request line; begins with `/`.
    path: String,
}

/// Why a text is no WebSocket URL that can be probed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no scheme, so that nobody knows whether TLS is meant.
    #[error("{0:?} has no scheme: write ws://{0}, or wss://{0} for TLS")]
    NoScheme(String),
    /// A scheme that is not WebSocket's.
    #[error("{scheme}:// is no WebSocket: write {instead}://…")]
    Scheme {
        /// The scheme that was given.
        scheme: String,
        /// The one that may have been meant.
        instead: &'static str,
    },
    /// No URL, with the reason.
    #[error("{text:?} is no URL: {reason}")]
    Invalid {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: url::ParseError,
    },
    /// RFC 6455 section 3: fragment identifiers must not be used.
    #[error("a WebSocket URL has no fragment: leave out #{0} (a # in a query is %23)")]
    Fragment(String),
    /// Credentials in the URL would have to be sent as some header; which one is for the user to say.
    #[error(
        "names and passwords in the URL are not sent: use --token, or --header 'Authorization: …'"
    )]
    Credentials,
    /// A path that does not begin with `/`, or is no path.
    #[error("{0:?} is no path: it begins with / and has neither spaces nor #")]
    Path(String),
}

impl Target {
    /// Takes a URL apart. Names are converted to ASCII (IDNA), the path is percent-encoded where
    /// it has to be, the port is the scheme's (80, 443) where none is named.
    ///
    /// # Errors
    /// It is no URL, not `ws` or `wss`, or has a fragment or credentials.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if !text.contains("://") {
            return Err(TargetError::NoScheme(text.into()));
        }
        let url = Url::parse(text).map_err(|reason| TargetError::Invalid {
            text: text.into(),
            reason,
        })?;
        let tls = match url.scheme() {
            "ws" => false,
            "wss" => true,
            other => {
                return Err(TargetError::Scheme {
                    scheme: other.into(),
                    instead: if other == "https" { "wss" } else { "ws" },
                });
            }
        };
        if let Some(fragment) = url.fragment() {
            return Err(TargetError::Fragment(fragment.into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Credentials);
        }
        // Both schemes are special ones of the URL standard: without a host they do not parse.
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => {
                return Err(TargetError::Invalid {
                    text: text.into(),
                    reason: url::ParseError::EmptyHost,
                });
            }
        };
        Ok(Self {
            tls,
            host,
            port: url
                .port_or_known_default()
                .unwrap_or(if tls { 443 } else { 80 }),
            authority: url[Position::BeforeHost..Position::AfterPort].into(),
            path: url[Position::BeforePath..Position::AfterQuery].into(),
        })
    }

    /// The same server at another path, with a query if it has one.
    ///
    /// # Errors
    /// `path` does not begin with `/`, or would not stay one path.
    pub fn at(&self, path: &str) -> Result<Self, TargetError> {
        let refuse = || TargetError::Path(path.into());
        if !path.starts_with('/') || path.contains(['#', ' ']) || path.contains(char::is_control) {
            return Err(refuse());
        }
        let scheme = if self.tls { "wss" } else { "ws" };
        let same = Self::parse(&format!("{scheme}://{}{path}", self.authority));
        same.ok()
            .filter(|other| other.authority == self.authority)
            .ok_or_else(refuse)
    }

    /// Whether the connection is TLS (`wss://`).
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }

    /// A name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as the Host header has them.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path with its query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> (bool, String, u16, String, String) {
        let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let Target {
            tls,
            host,
            port,
            authority,
            path,
        } = target;
        (tls, host, port, authority, path)
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, tls, host, port, authority, path) in [
            (
                "ws://127.0.0.1:9000/echo",
                false,
                "127.0.0.1",
                9000,
                "127.0.0.1:9000",
                "/echo",
            ),
            (
                "ws://Example.org",
                false,
                "example.org",
                80,
                "example.org",
                "/",
            ),
            (
                "wss://example.org/a/b?c=d&e=f%20g",
                true,
                "example.org",
                443,
                "example.org",
                "/a/b?c=d&e=f%20g",
            ),
            (
                "WSS://example.org:443/",
                true,
                "example.org",
                443,
                "example.org",
                "/",
            ),
            (
                "ws://example.org:443/",
                false,
                "example.org",
                443,
                "example.org:443",
                "/",
            ),
            ("ws://[::1]:9000?x", false, "::1", 9000, "[::1]:9000", "/?x"),
            (
                "wss://[2001:DB8:0::1]/",
                true,
                "2001:db8::1",
                443,
                "[2001:db8::1]",
                "/",
            ),
            (
                "ws://b\u{fc}cher.example/\u{fc} b",
                false,
                "xn--bcher-kva.example",
                80,
                "xn--bcher-kva.example",
                "/%C3%BC%20b",
            ),
        ] {
            let expected = (tls, host.into(), port, authority.into(), path.into());
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_websocket_url_is_refused_with_what_to_write() {
        for (text, expected) in [
            (
                "127.0.0.1:9000/ws",
                "write ws://127.0.0.1:9000/ws, or wss://127.0.0.1:9000/ws",
            ),
            ("localhost:9000", "write ws://localhost:9000"),
            (
                "http://example.org/ws",
                "http:// is no WebSocket: write ws://",
            ),
            (
                "https://example.org/ws",
                "https:// is no WebSocket: write wss://",
            ),
            ("ftp://example.org", "ftp:// is no WebSocket"),
            ("ws://", "is no URL: empty host"),
            ("ws://example.org:99999/", "is no URL: invalid port"),
            (
                "ws://exa mple.org/",
                "is no URL: invalid international domain name",
            ),
            ("ws://[::1/", "is no URL: invalid IPv6 address"),
            ("ws://example.org/#part", "leave out #part"),
            ("ws://me:secret@example.org/", "--header 'Authorization: …'"),
            ("ws://me@example.org/", "--token"),
        ] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn another_path_of_the_same_server() {
        let target = Target::parse("wss://example.org:9443/ws?a=b").unwrap();
        assert_eq!(target.to_string(), "wss://example.org:9443/ws?a=b");
        let echo = target.at("/echo?c").unwrap();
        assert_eq!(echo.to_string(), "wss://example.org:9443/echo?c");
        // The authority ends before the path, so that a path cannot change the server.
        assert_eq!(target.at("//evil.example/x").unwrap().host(), "example.org");
        for path in [
            "",
            "echo",
            "@evil.example/",
            "/a b",
            "/a#b",
            "/a\r\nHost: b",
        ] {
            assert_eq!(target.at(path), Err(TargetError::Path(path.into())));
        }
    }

    proptest! {
        /// What goes into the request and its Host header never breaks a line of it.
        #[test]
        fn no_text_gets_a_line_break_into_the_request(text in "(ws|wss)://.{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                for part in [target.authority(), target.path(), target.host()] {
                    prop_assert!(!part.contains(|c: char| c.is_control() || c == ' '), "{part:?}");
                }
                prop_assert!(target.path().starts_with('/'));
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }
    }
}
