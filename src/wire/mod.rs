//! RFC 6455 and the HTTP/1.1 around its handshake, as functions from bytes to values: no I/O, no
//! clock, no state but what the caller holds.
//!
//! On the way of a message this stands between `ring` and `session`: received bytes come in as the
//! receive buffer they arrived in, [`upgrade`] reads the request head, then [`message`] hands out
//! messages from that same buffer. [`frame`] and [`close`] write what goes back; [`client`] is the
//! other end, for the load generator.

pub mod client;
pub mod close;
mod error;
pub mod frame;
pub mod message;
mod response;
pub mod upgrade;

pub use error::WireError;

/// Which end of the connection reads: it decides who must mask (RFC 6455 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads from clients: every frame must be masked.
    Server,
    /// Reads from a server: no frame may be masked.
    Client,
}
