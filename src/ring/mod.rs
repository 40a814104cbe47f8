//! The data ring: where bytes come from and go to.
//!
//! First and last stop on the way of a message. A [`Ring`] takes requests (accept, poll, receive,
//! send, close, hand over) and gives [`Completion`]s back. It knows sockets and bytes; it does not
//! know what a connection is. [`uring`] is the kernel's io_uring and the only place that names it;
//! the simulated ring of the tests stands in for it with faults injected from a seed.

use std::io;
use std::net::{Shutdown, SocketAddr};

mod addresses;
pub mod buffers;
pub mod client;
pub mod memory;
pub mod park;
pub mod payload;
pub mod peers;
pub mod probe;
pub mod setup;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
pub mod token;
pub mod uring;

pub use park::{Parked, Parker};
pub use payload::{Payload, PayloadPool};
pub use peers::Peers;
pub use probe::{Features, ProbeError, probe};
pub use setup::UringConfig;
pub use token::{Op, Token};
pub(crate) use uring::Alarm;
pub use uring::{RingCounters, Uring};

/// A place in one ring's table of direct descriptors. Not a file descriptor of the process, and
/// never equal by design to a connection's key in its shard's slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A buffer lent by the kernel with a receive completion; give it back with [`Ring::recycle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId {
    /// Which buffer ring it belongs to.
    pub class: BufferClass,
    /// Its index there.
    pub index: u16,
}

/// Which of a ring's two buffer rings a receive draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferClass {
    /// 2 KiB by default: what nearly every read of a quiet connection fits in.
    Small,
    /// 64 KiB by default: for a connection that is in the middle of something large.
    Large,
}

/// One completion, decoded.
#[derive(Debug)]
pub struct Completion {
    /// What the request was given.
    pub token: Token,
    /// Bytes, slot or poll mask; a negative errno on failure.
    pub result: i32,
    /// More completions of the same multishot request will follow (`IORING_CQE_F_MORE`).
    pub more: bool,
    /// The socket has more to read (`IORING_CQE_F_SOCK_NONEMPTY`).
    pub nonempty: bool,
    /// The buffer that holds the received bytes. Present on every receive that got bytes.
    pub buffer: Option<BufferId>,
    /// The payload of a finished send: the kernel reads it no more. Present on every [`Op::Send`].
    pub payload: Option<Payload>,
}

/// How long a turn may wait for its first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Take what is there. Never sleeps.
    Look,
    /// Sleep until something completes, however long. No timer is set for it: that costs more than
    /// the rest of the sleep, so bound it with something that is in flight anyway.
    Event,
    /// Sleep until something completes, at most this long.
    For {
        /// Upper bound of the sleep, in microseconds.
        timeout_us: u32,
        /// Gather completions at least this long before returning (Linux 6.12; 0: off).
        min_wait_us: u32,
    },
}

/// What a shard asks of its ring. Requests are queued and leave with the next [`Ring::turn`]
/// (earlier when the submission queue is full); nothing here blocks but a turn that may wait.
///
/// Ownership: the bytes of a send belong to the ring from [`Ring::send`] until the completion of
/// that send has been returned by a turn, whatever happens to the connection in between.
pub trait Ring {
    /// The number of direct descriptors that this ring's table holds.
    fn slots(&self) -> u32;

    /// How many listeners this ring accepts from; they are numbered from 0.
    fn listeners(&self) -> u16;

    /// One single-shot accept into a free slot. `result` of the completion is the slot.
    /// `token.key()` is the number of the accept: at most [`ACCEPTS_PER_RING`] are in flight, each
    /// with its own number and address storage.
    fn accept(&mut self, listener: u16, token: Token);

    /// Accepts nothing more: cancels the accepts in flight (they complete with `-ECANCELED`, or with a
    /// connection that came first) and closes the listeners, so that new connections are refused.
    fn stop_accepting(&mut self);

    /// The peer's address of a just completed accept (`None`: Unix socket, or not known).
    /// Valid until that number is used for the next accept.
    fn peer(&self, accept: Token) -> Option<SocketAddr>;

    /// Arms multishot poll for `POLLIN | POLLRDHUP`; `result` is the poll mask.
    fn poll(&mut self, slot: Slot, token: Token);

    /// One receive (`MSG_DONTWAIT`) into a buffer of `class`. `-ENOBUFS`: none left.
    fn recv(&mut self, slot: Slot, class: BufferClass, token: Token);

    /// Sends `payload[start..end]` (`MSG_WAITALL | MSG_NOSIGNAL`). At most one send may be in flight
    /// per `token.key()`.
    ///
    /// # Panics
    /// When a send of the same key is in flight, or the range lies outside the payload.
    fn send(&mut self, slot: Slot, payload: Payload, start: usize, end: usize, token: Token);

    /// Whether a socket that leaves the table may stay open. Before Linux 6.13 it does until every
    /// request has finished that was made before, on whatever socket of the ring: a poll on an old
    /// connection keeps it for hours. There its peer must be told with a shutdown before.
    fn closes_late(&self) -> bool;

    /// Ends the write side (the peer reads the end of the stream after what was sent), or both: what
    /// the peer sends then is answered with a reset, and a waiting send ends.
    ///
    /// The kernel leaves this to a thread of its own that looks `slot` up when it gets to it. So the
    /// slot must not be closed before `token` completes: by then it may hold another connection.
    fn shutdown(&mut self, slot: Slot, how: Shutdown, token: Token);

    /// Cancels the requests of `armed` that are in flight with this key and generation (`ASYNC_CANCEL`
    /// by `user_data`), then closes `slot`, in one submit. One completion with [`Op::Cancel`] follows
    /// for each of `armed` and one with [`Op::Close`], all with the key and generation given here.
    /// Cancelled requests complete on their own, before or after.
    ///
    /// A request that waits keeps its socket open, so every one that may be waiting must be named.
    /// Cancelling by descriptor would find them all, but it walks every armed poll of the ring:
    /// closing N connections would cost N² (docs/architecture.md has the figures).
    fn close(&mut self, slot: Slot, key: u32, generation: u32, armed: &[Op]);

    /// Installs the socket of `slot` in the table of ring `to` (`MSG_RING`, `SEND_FD`); a completion
    /// with the token `arrival` and the new slot as its result appears there. `token` completes here;
    /// the own slot stays open until it is closed. After an error it is not installed there, but for
    /// `-EOVERFLOW`: it is, and nobody is told where (the kernel was short of memory).
    fn hand_over(&mut self, slot: Slot, to: usize, arrival: Token, token: Token);

    /// Posts a completion with [`Op::Wake`] to ring `to`, so that it stops waiting.
    fn wake(&mut self, to: usize);

    /// Submits what is queued, lets the kernel finish what it can, and appends the completions.
    ///
    /// # Errors
    /// Only for errors that no retry mends (the ring is unusable). `EINTR`, `EAGAIN`, `EBUSY` and
    /// `ETIME` are not errors here.
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// A turn of a shard that has nothing to do. With `wait`, others see that it sleeps, and wake it
    /// ([`Ring::wake`]). `recheck` is asked once after that became visible: true means that there
    /// is work after all (a batch in the inbox, say), and the turn does not wait.
    ///
    /// # Errors
    /// As [`Ring::turn`].
    fn sleep(
        &mut self,
        wait: Wait,
        recheck: impl FnOnce() -> bool,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()>
    where
        Self: Sized,
    {
        let wait = if recheck() { Wait::Look } else { wait };
        self.turn(wait, completions)
    }

    /// The bytes of a received buffer: the whole buffer, of which the completion's `result` are used.
    fn buffer(&mut self, id: BufferId) -> &mut [u8];

    /// Gives a buffer back to the kernel with the next turn.
    fn recycle(&mut self, id: BufferId);

    /// Lets go of room that a burst needed and nothing needs now.
    fn give_back(&mut self) {}
}

/// The error numbers that completions carry (negated) and shards tell apart.
pub mod errno {
    pub use libc::{
        EAGAIN, ECANCELED, ECONNABORTED, ECONNRESET, EINTR, ENOBUFS, EOVERFLOW, EPERM, EPIPE,
        EPROTO, ETIMEDOUT,
    };
}

/// Poll conditions after which nothing more can be expected than what is already in the socket.
pub const POLL_HANGUP: i32 = (libc::POLLHUP | libc::POLLERR | libc::POLLRDHUP) as i32;

/// Single-shot accepts in flight on one ring, over all of its listeners.
pub const ACCEPTS_PER_RING: u32 = 64;
/// Single-shot accepts in flight per listener (DESIGN: multishot into a full table loses connections).
pub const ACCEPTS_PER_LISTENER: u32 = 16;
