//! How the shards of a process reach and wake each other.
//!
//! Between the `mesh` (which carries the batch) and the ring of the receiver (which may sleep).
//! A batch waits in the receiver's inbox; a receiver that is awake looks there every turn, so it
//! is told nothing. One that sleeps must be woken, which costs the sender 15 to 17 µs. The `parked`
//! flag tells the two apart, and the two fences below make sure that one side sees the other:
//!
//! | sender | receiver |
//! |---|---|
//! | put the batch into the inbox | `parked` = true |
//! | fence | fence |
//! | read `parked`; wake if set | look into the inbox; sleep if empty |

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

/// Everybody's way to one shard. On cache lines of its own (two, as processors prefetch pairs):
/// `parked` changes with every sleep.
#[repr(align(128))]
struct Peer {
    parked: AtomicBool,
    /// A duplicate of the ring's descriptor. It stays open as long as the registry, so that a late
    /// message can never reach whatever got the number of a closed ring.
    ring: OnceLock<OwnedFd>,
    eventfd: OwnedFd,
}

/// The registry of the shards of one process.
pub struct Peers {
    peers: Box<[Peer]>,
}

impl Peers {
    /// A registry for `shards` rings, none of which has started.
    ///
    /// # Errors
    /// When an event descriptor cannot be made (`EMFILE`: raise RLIMIT_NOFILE).
    pub fn new(shards: usize) -> io::Result<Arc<Self>> {
        let peers = (0..shards)
            .map(|_| {
                Ok(Peer {
                    parked: AtomicBool::new(false),
                    ring: OnceLock::new(),
                    // Blocking on purpose: a read of it then waits in the executor's ring.
                    eventfd: eventfd(0, EventfdFlags::CLOEXEC)?,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { peers }))
    }

    /// The number of shards.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are no shards.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether the ring of shard `index` has started.
    #[must_use]
    pub fn has_started(&self, index: usize) -> bool {
        self.peers[index].ring.get().is_some()
    }

    /// Makes a ring known under `index`.
    pub(super) fn publish(&self, index: usize, ring: BorrowedFd<'_>) -> io::Result<()> {
        let ring = ring.try_clone_to_owned()?;
        self.peers[index].ring.set(ring).map_err(|_| {
            io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("shard {index} has a ring already: give each its own index"),
            )
        })
    }

    /// The descriptor to send messages to; -1 (which the kernel answers with `EBADF`) before the
    /// ring has started.
    #[inline]
    pub(super) fn ring_fd(&self, index: usize) -> RawFd {
        self.peers[index].ring.get().map_or(-1, AsRawFd::as_raw_fd)
    }

    pub(super) fn eventfd(&self, index: usize) -> BorrowedFd<'_> {
        self.peers[index].eventfd.as_fd()
    }

    /// Says that shard `index` is about to sleep. Whatever was put into its inbox before a
    /// [`Self::wake_needed`] that answered no is visible to it after this call: it must look once
    /// more, and then may sleep.
    #[inline]
    pub(super) fn fall_asleep(&self, index: usize) {
        self.peers[index].parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that shard `index` is awake and looks into its inbox every turn.
    #[inline]
    pub(super) fn wake_up(&self, index: usize) {
        self.peers[index].parked.store(false, Ordering::Release);
    }

    /// Whether shard `to` sleeps, or may be about to, and must be woken to see what was put into
    /// its inbox before this call.
    #[inline]
    #[must_use]
    pub fn wake_needed(&self, to: usize) -> bool {
        fence(Ordering::SeqCst);
        self.peers[to].parked.load(Ordering::Relaxed)
    }

    /// Wakes shard `to` if it sleeps, from a thread that is no shard (shards use
    /// [`super::Ring::wake`]). Call it after putting something into the shard's inbox. A shard that
    /// waits on its ring sees it when that wait ends.
    pub fn wake_from_outside(&self, to: usize) {
        if self.wake_needed(to) {
            self.signal(to);
        }
    }

    /// Adds 1 to the event descriptor of shard `to`.
    pub(super) fn signal(&self, to: usize) {
        // The only error that a descriptor of ours can give is an interrupted wait for a counter
        // at 2^64 - 2, and such a counter wakes by itself.
        let _ = rustix::io::write(&self.peers[to].eventfd, &1u64.to_ne_bytes());
    }
}
