//! One simulated stream socket, with its two ends and what is in flight on it.

use crate::ring::{Payload, Slot, Token};
use std::collections::VecDeque;

/// A socket of the world; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SocketId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

/// What woke a poll.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Edges {
    /// Arrivals of data.
    pub(super) data: u32,
    /// The end of the stream, a reset, a shutdown.
    pub(super) state: u32,
}

impl Edges {
    pub(super) fn any(self) -> bool {
        self.data + self.state > 0
    }
}

/// A multishot poll.
pub(super) struct Poll {
    pub(super) ring: usize,
    pub(super) slot: Slot,
    pub(super) token: Token,
    pub(super) edges: Edges,
}

/// A send that waits for the client to read.
pub(super) struct Send {
    pub(super) ring: usize,
    pub(super) slot: Slot,
    pub(super) token: Token,
    pub(super) payload: Payload,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) done: usize,
}

pub(crate) struct Socket {
    pub(crate) kind: Kind,
    /// What the client wrote and the server has not received.
    pub(super) to_server: VecDeque<u8>,
    /// What the server sent and the client has not read.
    pub(super) to_client: VecDeque<u8>,
    /// Bytes that `to_client` holds before sends wait.
    pub(crate) window: usize,
    /// The client ended its side.
    pub(super) client_fin: bool,
    /// The client closed its socket: whatever the server sends is answered with a reset.
    pub(super) client_closed: bool,
    /// The connection is dead from the server's side: a reset came, or the network failed.
    pub(super) client_gone: bool,
    /// An error for the next receive or send.
    pub(super) error: Option<i32>,
    /// The server ended its side.
    pub(super) server_fin: bool,
    /// The server does not even read any more: what comes in is answered with a reset.
    pub(super) server_deaf: bool,
    /// The server's end is closed everywhere.
    pub(super) server_closed: bool,
    /// The client will see a reset after what it can still read.
    pub(super) server_reset: bool,
    /// A fault was injected that may end the connection: expect nothing of it.
    pub(crate) faulted: bool,
    /// The tables that hold it. A handed over socket is in two for a while.
    pub(super) places: Vec<(usize, Slot)>,
    pub(super) polls: Vec<Poll>,
    pub(super) sends: VecDeque<Send>,
    pub(crate) accepted: bool,
    /// Sends that the server made, for tests of their number.
    pub(crate) sends_made: u32,
    /// Receives that the server made.
    pub(crate) receives_made: u32,
}

impl Socket {
    pub(super) fn new(kind: Kind, window: usize) -> Self {
        Self {
            kind,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            window,
            client_fin: false,
            client_closed: false,
            client_gone: false,
            error: None,
            server_fin: false,
            server_deaf: false,
            server_closed: false,
            server_reset: false,
            faulted: false,
            places: Vec::new(),
            polls: Vec::new(),
            sends: VecDeque::new(),
            accepted: false,
            sends_made: 0,
            receives_made: 0,
        }
    }

    /// What poll(2) would say, of POLLIN, POLLRDHUP, POLLHUP and POLLERR.
    pub(super) fn mask(&self) -> i32 {
        let mut mask = 0;
        if !self.to_server.is_empty() {
            mask |= libc::POLLIN;
        }
        if self.client_fin || self.client_gone {
            mask |= libc::POLLIN | libc::POLLRDHUP;
        }
        if self.client_gone || (self.client_fin && self.server_fin) {
            mask |= libc::POLLHUP;
        }
        if self.error.is_some() {
            mask |= libc::POLLERR;
        }
        i32::from(mask)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.server_closed
    }

    pub(crate) fn unread_by_client(&self) -> usize {
        self.to_client.len()
    }

    pub(crate) fn unread_by_server(&self) -> usize {
        self.to_server.len()
    }

    pub(crate) fn has_blocked_send(&self) -> bool {
        !self.sends.is_empty()
    }
}
