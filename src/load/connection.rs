//! One client connection as a worker sees it.

use super::plan::Ending;
use crate::ring::{Payload, Slot};
use crate::wire::message::Carry;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not begun.
    New,
    /// The connect is in flight.
    Connecting,
    /// The upgrade request is sent, the response not complete.
    Upgrading,
    /// Frames flow.
    Open,
    /// The last words are said, and not answered yet.
    Parting(Ending),
    /// The close frame is answered; the server closes the connection next.
    Parted,
    /// Closed or failed.
    Closed,
}

/// A connection and what is on the way for it. Small: a run may hold 100,000 of them.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) slot: Slot,
    pub(super) stage: Stage,
    /// Which life of this entry it is; part of every request's token.
    pub(super) generation: u32,
    /// It is ready, and counted as such.
    pub(super) ready: bool,
    /// Nothing more is to be read from it.
    pub(super) stalled: bool,
    /// It is read again, and what comes is thrown away.
    pub(super) draining: bool,
    /// A receive is in flight, or waits for its turn.
    pub(super) receiving: bool,
    /// The socket became readable while a receive was in flight.
    pub(super) readable_again: bool,
    /// The peer has closed or the socket failed: receive until there is nothing.
    pub(super) ending: bool,
    /// A send is in flight.
    pub(super) sending: bool,
    /// Stands in the worker's list of connections with something to send.
    pub(super) listed: bool,
    /// An incomplete frame.
    pub(super) carry: Carry,
    /// When it began to connect.
    pub(super) began_ns: u64,
    /// What has come of the response head.
    pub(super) head: Vec<u8>,
    /// Frames that leave with the next send.
    pub(super) waiting: Option<Payload>,
    /// The scenario's.
    pub(super) state: S,
}

impl<S: Default> Connection<S> {
    pub(super) fn new() -> Self {
        Self {
            slot: Slot(0),
            stage: Stage::New,
            generation: 0,
            ready: false,
            stalled: false,
            draining: false,
            receiving: false,
            readable_again: false,
            ending: false,
            sending: false,
            listed: false,
            carry: None,
            began_ns: 0,
            head: Vec::new(),
            waiting: None,
            state: S::default(),
        }
    }

    /// The entry for another connection in the place of this one, which is closed.
    pub(super) fn again(&self) -> Self {
        Self {
            generation: self.generation.wrapping_add(1),
            ..Self::new()
        }
    }
}
