//! Clients in user space: the other end of every connection without a socket for it.
//!
//! A socket takes as much of the kernel's memory at the client as at the server, so that on one machine a
//! million connections take twice what a server needs for them. Here the kernel has one end only. A TUN
//! [`Device`] is the network that the server's packets go to; what is behind it answers as a million clients
//! would, and what it says goes back through the device:
//!
//! | from the kernel to a message | where |
//! |---|---|
//! | the device; what is missing where there is none | `device.rs` |
//! | the thread that reads from it and writes to it | `worker.rs` |
//! | a packet is a segment of TCP, with its checksums right | [`segment`] |
//! | which connection it belongs to | [`addresses`] |
//! | what it brings, acknowledges and asks for | [`tcp`] |
//! | upgrade, frames, and the same scenarios as over sockets | `clients.rs` |
//!
//! But for the first two there is no I/O and no clock, so that tests put a network between the clients and a
//! server that loses, repeats and mixes up packets.

pub mod addresses;
mod clients;
mod device;
pub mod segment;
pub mod tcp;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Device;
pub(super) use worker::Worker;
