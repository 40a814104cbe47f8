//! Which connection has which address.
//!
//! All of them are in 198.18.0.0/15, which RFC 2544 sets aside for benchmarks: no other network has them.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The address of this machine on the device: the server's.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Bits that all addresses of the device have in common.
pub const PREFIX_BITS: u8 = 15;
/// The first client's.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Ports of a client's address, from the first one on.
const FIRST_PORT: u16 = 10_000;
const PORTS: u32 = 50_000;
/// Connections at most: what the command line takes, on 200 addresses.
pub const CONNECTIONS_MAX: u32 = 10_000_001;

/// The client's end of a connection, by the connection's place.
#[must_use]
pub fn of(key: u32) -> SocketAddrV4 {
    debug_assert!(key < CONNECTIONS_MAX);
    let address = Ipv4Addr::from_bits(FIRST.to_bits() + key / PORTS);
    SocketAddrV4::new(address, FIRST_PORT + (key % PORTS) as u16)
}

/// The place of the connection with this client's end, below [`CONNECTIONS_MAX`].
#[must_use]
pub fn find(address: SocketAddrV4) -> Option<u32> {
    let host = address.ip().to_bits().checked_sub(FIRST.to_bits())?;
    let port = u32::from(address.port().checked_sub(FIRST_PORT)?);
    let key = host.checked_mul(PORTS)?.checked_add(port)?;
    (port < PORTS && key < CONNECTIONS_MAX).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_are_in_the_network_of_the_device() {
        let mask = u32::MAX << (32 - PREFIX_BITS);
        for key in [0, 49_999, 50_000, CONNECTIONS_MAX - 1] {
            let address = *of(key).ip();
            assert_eq!(address.to_bits() & mask, SERVER.to_bits() & mask);
            assert_ne!(address, SERVER);
        }
        assert_eq!(find(SocketAddrV4::new(SERVER, 10_000)), None);
        assert_eq!(find(SocketAddrV4::new(FIRST, 9_999)), None);
        assert_eq!(find(SocketAddrV4::new(FIRST, 60_000)), None);
        assert_eq!(find(SocketAddrV4::new(Ipv4Addr::BROADCAST, 10_000)), None);
    }

    proptest! {
        #[test]
        fn every_connection_has_its_own(key in 0..CONNECTIONS_MAX) {
            prop_assert_eq!(find(of(key)), Some(key));
        }

        #[test]
        fn no_other_address_is_one(address: u32, port: u16) {
            let address = SocketAddrV4::new(Ipv4Addr::from_bits(address), port);
            prop_assert!(find(address).is_none_or(|key| of(key) == address));
        }
    }
}
