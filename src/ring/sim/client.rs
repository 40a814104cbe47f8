//! The other end of the simulated sockets: what clients do.

use super::socket::{Socket, SocketId};
use super::world::{World, plain};
use crate::ring::{Op, Token};

/// How the server's side of a connection ended, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In order.
    Fin,
    /// With a reset.
    Reset,
}

/// Bytes that wait for the server at most; then the client's writes wait.
const RECEIVE_WINDOW: usize = 128 << 10;

impl World {
    /// Connects to a listener of a ring; `None` when it is closed. `window` is how many unread
    /// bytes the connection holds before the server's sends wait.
    pub(crate) fn connect(
        &mut self,
        ring: usize,
        listener: usize,
        window: usize,
    ) -> Option<SocketId> {
        if !self.rings[ring].listening {
            return None;
        }
        let socket = SocketId(self.sockets.len());
        let (kind, backlog) = &mut self.rings[ring].listeners[listener];
        self.sockets.push(Socket::new(*kind, window));
        backlog.push_back(socket);
        self.accept_waiting(ring);
        Some(socket)
    }

    /// Writes; returns how many bytes were taken.
    pub(crate) fn write(&mut self, socket: SocketId, bytes: &[u8]) -> usize {
        let state = &mut self.sockets[socket.0];
        assert!(!state.client_fin, "the client has ended its side");
        if state.client_gone {
            return bytes.len();
        }
        if state.server_closed || state.server_deaf {
            self.reset_to_client(socket);
            return bytes.len();
        }
        let length = bytes
            .len()
            .min(RECEIVE_WINDOW.saturating_sub(state.to_server.len()));
        if length > 0 {
            state.to_server.extend(&bytes[..length]);
            self.edge(socket, true);
        }
        length
    }

    /// Reads up to `most` bytes.
    pub(crate) fn read(&mut self, socket: SocketId, most: usize) -> Vec<u8> {
        let state = &mut self.sockets[socket.0];
        let length = most.min(state.to_client.len());
        let bytes = state.to_client.drain(..length).collect();
        self.make_progress(socket, usize::MAX);
        bytes
    }

    /// How the server's side ended, once everything it sent was read.
    pub(crate) fn ended(&self, socket: SocketId) -> Option<End> {
        let state = &self.sockets[socket.0];
        if !state.to_client.is_empty() {
            None
        } else if state.server_reset {
            Some(End::Reset)
        } else if state.server_fin && state.sends.is_empty() {
            Some(End::Fin)
        } else {
            None
        }
    }

    /// Wakes a ring from a thread that is no shard.
    pub(crate) fn wake_from_outside(&mut self, ring: usize) {
        if self.is_parked(ring) {
            self.inject(ring, plain(Token::new(Op::Wake, 0, 0), 0));
        }
    }

    /// Ends the client's side; it can still read.
    pub(crate) fn finish(&mut self, socket: SocketId) {
        let state = &mut self.sockets[socket.0];
        if !state.client_fin {
            state.client_fin = true;
            self.edge(socket, false);
        }
    }

    /// Closes the client's socket: an end of its side, and a reset for whatever still comes.
    pub(crate) fn hang_up(&mut self, socket: SocketId) {
        let state = &mut self.sockets[socket.0];
        let unread = !state.to_client.is_empty();
        state.to_client.clear();
        state.client_closed = true;
        if unread && !state.server_closed {
            self.kill(socket, libc::ECONNRESET);
        } else {
            self.finish(socket);
            self.make_progress(socket, usize::MAX);
        }
    }

    /// Resets the connection.
    pub(crate) fn reset(&mut self, socket: SocketId) {
        let state = &mut self.sockets[socket.0];
        state.to_client.clear();
        state.client_closed = true;
        self.kill(socket, libc::ECONNRESET);
    }
}
