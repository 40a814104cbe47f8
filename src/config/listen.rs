//! Addresses to listen on: `127.0.0.1:9000`, `[::1]:9000`, `unix:/run/ringwire.sock`.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::Listen;
use super::limits::MAX_UNIX_PATH_BYTES;

/// Why a text is not an address to listen on, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ListenSyntaxError(String);

impl Listen {
    /// Whether only programs on this machine can connect: a loopback address or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenSyntaxError;

    fn from_str(text: &str) -> Result<Listen, ListenSyntaxError> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path).map(Listen::Unix).map_err(ListenSyntaxError);
        }
        text.parse()
            .map(Listen::Tcp)
            .map_err(|_| ListenSyntaxError(tcp_help(text)))
    }
}

/// Checks the path of a Unix socket: not empty, not abstract, and short enough for `sun_path`.
pub(super) fn unix(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("the path after unix: is missing; for example unix:/run/ringwire.sock".into());
    }
    if path.starts_with('@') || path.contains('\0') {
        return Err(format!(
            "{path:?} names an abstract socket; only sockets with a path are supported, for example \
             unix:/run/ringwire.sock"
        ));
    }
    if path.len() > MAX_UNIX_PATH_BYTES {
        return Err(format!(
            "the path of the Unix socket has {} bytes; the kernel allows {MAX_UNIX_PATH_BYTES}",
            path.len()
        ));
    }
    Ok(path.into())
}

/// What is wrong with `text` as an IP address and port, by the mistakes that people make.
fn tcp_help(text: &str) -> String {
    if text.is_empty() {
        return "the address is empty; for example 127.0.0.1:9000".into();
    }
    if text.starts_with('/') || text.starts_with("./") {
        return format!("{text:?} looks like a path; write unix:{text} for a Unix socket");
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        return format!(
            "{text:?} is a URL; write an address and a port without {scheme}://, for example {}",
            if rest.parse::<SocketAddr>().is_ok() {
                rest
            } else {
                "127.0.0.1:9000"
            }
        );
    }
    if text.parse::<u16>().is_ok() {
        return format!(
            "{text:?} is a port without an address; write 127.0.0.1:{text} for this machine only, or \
             0.0.0.0:{text} for every interface"
        );
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
        && port.parse::<u16>().is_ok()
    {
        return format!("an IPv6 address needs brackets: [{host}]:{port}");
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return format!("{text:?} has no port; write [{address}]:9000");
    }
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return format!("{text:?} has no port; write {text}:9000");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return format!("{text:?} is not ADDRESS:PORT; for example 127.0.0.1:9000");
    };
    if port.parse::<u16>().is_err() {
        return format!(
            "{port:?} in {text:?} is not a port: a number from 0 to 65535 (0: any free one)"
        );
    }
    match host {
        "" | "*" => format!(
            "{text:?} has no address; write 0.0.0.0:{port} for every IPv4 interface, [::]:{port} for \
             every IPv6 one, or 127.0.0.1:{port} for this machine only"
        ),
        "localhost" => format!(
            "names are not resolved; write 127.0.0.1:{port} or [::1]:{port} instead of {text:?}"
        ),
        _ => format!(
            "{host:?} is not an IP address, and names are not resolved; for example 127.0.0.1:{port}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print_the_same() {
        for text in [
            "127.0.0.1:9000",
            "[::1]:9000",
            "0.0.0.0:0",
            "[::]:65535",
            "unix:/run/r.sock",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!(
            "unix:relative.sock".parse::<Listen>().unwrap(),
            Listen::Unix("relative.sock".into())
        );
    }

    #[test]
    fn mistakes_name_what_to_write() {
        for (text, expected) in [
            ("9000", "127.0.0.1:9000"),
            (":9000", "0.0.0.0:9000"),
            ("*:9000", "[::]:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            ("::1:9000", "brackets"),
            ("fe80::2:1:9000", "[fe80::2:1]:9000"),
            ("::1", "[::1]:9000"),
            ("127.0.0.1", "127.0.0.1:9000"),
            ("127.0.0.1:99999", "65535"),
            ("/run/ringwire.sock", "unix:/run/ringwire.sock"),
            ("ws://127.0.0.1:9000/ws", "example 127.0.0.1:9000"),
            ("example.org:80", "not resolved"),
            ("unix:", "missing"),
            ("unix:@name", "abstract"),
            ("", "empty"),
            ("bogus", "ADDRESS:PORT"),
        ] {
            let message = text.parse::<Listen>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH_BYTES));
        assert!(
            long.parse::<Listen>()
                .unwrap_err()
                .to_string()
                .contains("108 bytes")
        );
        let fits = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH_BYTES - 1));
        assert!(fits.parse::<Listen>().is_ok());
    }

    #[test]
    fn only_loopback_and_unix_are_local() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().is_local(), local, "{text}");
        }
    }
}
