//! Peers that are believed: networks (`10.0.0.0/8`), single addresses, or `unix`.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::limits::MAX_TRUSTED_PEERS;
use super::value::Fault;

/// What stands for every Unix socket.
const UNIX: &str = "unix";

/// Bits of an IPv6 address before the IPv4 address that is mapped into it (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Peers that are believed when they name the user of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrustedPeer {
    /// Whoever connects from an address of this network. Its host bits are zero, and it is no network
    /// of IPv4-mapped IPv6 addresses.
    Network(IpNet),
    /// Whoever connects through a Unix socket, whichever it is.
    Unix,
}

/// Why a text names no peer, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PeerSyntaxError(String);

impl TrustedPeer {
    /// Whether `peer` is one of them: the address that it connected from, or `None` for a Unix socket.
    /// An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) is compared as IPv4.
    pub fn matches(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (TrustedPeer::Network(network), Some(address)) => {
                network.contains(&address.to_canonical())
            }
            (TrustedPeer::Unix, None) => true,
            _ => false,
        }
    }

    /// What is wrong with it, if it did not come from text.
    fn wrong(&self) -> Option<String> {
        let TrustedPeer::Network(network) = self else {
            return None;
        };
        if let Some(mapped) = mapped(network) {
            return Some(format!(
                "{network} is a network of IPv4 addresses written as IPv6; write {mapped}"
            ));
        }
        let meant = network.trunc();
        (meant != *network).then(|| {
            format!(
                "{network} has bits after its first {}, which name a host in the network; write {meant}, \
                 or {} for this address alone",
                network.prefix_len(),
                network.addr()
            )
        })
    }
}

/// The IPv4 network that a network of IPv4-mapped IPv6 addresses stands for.
fn mapped(network: &IpNet) -> Option<IpNet> {
    let IpAddr::V6(address) = network.addr() else {
        return None;
    };
    let bits = network.prefix_len().checked_sub(MAPPED_BITS)?;
    let address = address.to_ipv4_mapped()?;
    Some(IpNet::new(address.into(), bits).ok()?.trunc())
}

impl fmt::Display for TrustedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedPeer::Network(network) => write!(f, "{network}"),
            TrustedPeer::Unix => f.write_str(UNIX),
        }
    }
}

impl FromStr for TrustedPeer {
    type Err = PeerSyntaxError;

    fn from_str(text: &str) -> Result<TrustedPeer, PeerSyntaxError> {
        let text = text.trim();
        if text == UNIX {
            return Ok(TrustedPeer::Unix);
        }
        let network = match text.split_once('/') {
            Some((address, bits)) => address
                .parse()
                .ok()
                .zip(bits.parse().ok())
                .and_then(|(address, bits)| IpNet::new(address, bits).ok()),
            None => text.parse::<IpAddr>().ok().map(IpNet::from),
        };
        let peer = network.map(TrustedPeer::Network);
        let peer = peer.ok_or_else(|| PeerSyntaxError(help(text)))?;
        match peer.wrong() {
            Some(message) => Err(PeerSyntaxError(message)),
            None => Ok(peer),
        }
    }
}

/// What is wrong with `text` as a peer, by the mistakes that people make.
fn help(text: &str) -> String {
    if text.is_empty() {
        return "a peer is empty; for example 10.0.0.0/8, 127.0.0.1 or unix".into();
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return format!("{text:?} names one Unix socket; write unix, which stands for all of them");
    }
    if text == "localhost" {
        return "names are not resolved; write 127.0.0.0/8 or ::1 instead of \"localhost\"".into();
    }
    if text == "*" {
        return "\"*\" is no network; write 0.0.0.0/0 and ::/0 if whoever connects can be believed"
            .into();
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return format!(
            "{text:?} has a port, and peers connect from any; write {}",
            address.ip()
        );
    }
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    match address.parse::<IpAddr>() {
        Ok(address) => format!(
            "{bits:?} in {text:?} is not the length of a prefix: a number from 0 to {}",
            if address.is_ipv4() { 32 } else { 128 }
        ),
        Err(_) => format!(
            "{address:?} is not an IP address, and names are not resolved; for example 10.0.0.0/8, \
             127.0.0.1 or unix"
        ),
    }
}

/// Checks a list.
pub(super) fn check(peers: &[TrustedPeer]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if peers.len() > MAX_TRUSTED_PEERS {
        faults.push(Fault::whole(format!(
            "has {} entries; at most {MAX_TRUSTED_PEERS} are allowed",
            peers.len()
        )));
    }
    let mut seen = HashSet::new();
    for (index, peer) in peers.iter().enumerate() {
        let twice = || (!seen.insert(peer)).then(|| format!("{peer} is listed twice"));
        let wrong = peer.wrong().or_else(twice);
        faults.extend(wrong.map(|message| Fault::item(index, message)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> TrustedPeer {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn peers_parse_and_print_the_same() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "192.0.2.1/32",
            "fd00::/8",
            "::1/128",
            "unix",
        ] {
            assert_eq!(peer(text).to_string(), text);
        }
        for (text, network) in [
            ("127.0.0.1", "127.0.0.1/32"),
            (" ::1 ", "::1/128"),
            ("FD00::/8", "fd00::/8"),
        ] {
            assert_eq!(peer(text).to_string(), network);
        }
    }

    #[test]
    fn a_network_matches_its_addresses() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.0.0.0", true),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "9.255.255.255", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:11.1.2.3", false),
            ("10.0.0.0/8", "::a00:1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("::1", "::1", true),
            ("::1", "::2", false),
            ("fd00::/8", "fdff::1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.9", false),
            ("::/0", "::ffff:203.0.113.9", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                peer(network).matches(Some(address)),
                expected,
                "{network} {address}"
            );
            assert!(!peer(network).matches(None));
            assert!(!TrustedPeer::Unix.matches(Some(address)));
        }
        assert!(TrustedPeer::Unix.matches(None));
    }

    #[test]
    fn mistakes_name_what_to_write() {
        for (text, expected) in [
            (
                "10.1.2.3/8",
                "write 10.0.0.0/8, or 10.1.2.3 for this address",
            ),
            ("fd00::1/64", "write fd00::/64"),
            ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
            ("::ffff:10.1.2.3", "write 10.1.2.3/32"),
            (
                "10.0.0.0/33",
                "\"33\" in \"10.0.0.0/33\" is not the length of a prefix: a number from 0 to 32",
            ),
            ("::1/129", "0 to 128"),
            ("10.0.0.0/255.0.0.0", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("127.0.0.1:9000", "write 127.0.0.1"),
            ("[::1]:9000", "write ::1"),
            ("unix:/run/ringwire.sock", "write unix"),
            ("/run/ringwire.sock", "write unix"),
            ("localhost", "127.0.0.0/8"),
            ("*", "0.0.0.0/0"),
            ("proxy.example.org", "not resolved"),
            ("true", "not an IP address"),
            ("", "empty"),
        ] {
            let message = text.parse::<TrustedPeer>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn lists_are_checked_item_by_item() {
        assert_eq!(check(&[]), []);
        assert_eq!(check(&[peer("10.0.0.0/8"), TrustedPeer::Unix]), []);
        let host_bits = TrustedPeer::Network("10.1.2.3/8".parse().unwrap());
        let found = check(&[peer("127.0.0.1"), host_bits, peer("127.0.0.1/32")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].item, found[1].item), (Some(1), Some(2)));
        assert!(found[0].message.contains("write 10.0.0.0/8"));
        assert_eq!(found[1].message, "127.0.0.1/32 is listed twice");
        let many: Vec<TrustedPeer> = (0..=MAX_TRUSTED_PEERS)
            .map(|host| peer(&format!("10.0.0.{host}")))
            .collect();
        assert_eq!(
            check(&many),
            [Fault::whole("has 65 entries; at most 64 are allowed")]
        );
    }
}
