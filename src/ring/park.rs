//! Sleeping in the executor while the data ring is idle.
//!
//! Beside the way of a message: a shard that has nothing to do must sleep where both its own ring
//! and the executor's timers and tasks can wake it. That place is the executor (glommio), which
//! reads an event descriptor that the kernel signals when work for the data ring comes in.
//! Signals are switched off while the shard is awake, so a busy ring never pays for one.

use super::{Completion, Uring};
use glommio::io::BufferedFile;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

/// How a [`Parker::park`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// It did not sleep: there was work in the inbox or on the ring.
    No,
    /// It slept and was woken.
    Yes,
}

/// The place where one shard's task sleeps.
pub struct Parker {
    eventfd: BufferedFile,
}

/// While it lives, the ring signals its event descriptor and others see that the shard sleeps.
struct Asleep<'a> {
    ring: &'a mut Uring,
}

impl<'a> Asleep<'a> {
    fn new(ring: &'a mut Uring) -> Self {
        ring.peers.fall_asleep(ring.index);
        Self { ring }
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.ring.switch_eventfd(false);
        self.ring.peers.wake_up(self.ring.index);
    }
}

impl Parker {
    /// Ties `ring` to the executor that this is called on, which must be the one that the ring's
    /// shard runs on.
    ///
    /// # Errors
    /// When no descriptor is left (`EMFILE`), or the ring has a parker already (`EBUSY`).
    ///
    /// # Panics
    /// Outside a glommio executor.
    #[allow(unsafe_code)]
    pub fn new(ring: &mut Uring) -> io::Result<Self> {
        let peers = ring.peers.clone();
        let eventfd = peers.eventfd(ring.index);
        ring.register_eventfd(eventfd)?;
        let own = eventfd.try_clone_to_owned()?.into_raw_fd();
        Ok(Self {
            // SAFETY: a descriptor that was just duplicated and that nobody else owns.
            eventfd: unsafe { BufferedFile::from_raw_fd(own) },
        })
    }

    /// Sleeps until the data ring has work, another shard wakes this one, or a thread calls
    /// [`super::Peers::wake_from_outside`]. Can also return for no reason. Completions found on the
    /// way to sleep are appended to `completions`, and then it does not sleep. After sleeping, run
    /// a turn.
    ///
    /// `recheck` is asked after others can see that this shard sleeps: true means that there is
    /// work after all (a batch in the inbox).
    ///
    /// # Errors
    /// Only for errors that no retry mends, as [`super::Ring::turn`].
    pub async fn park(
        &mut self,
        ring: &mut Uring,
        recheck: impl FnOnce() -> bool,
        completions: &mut Vec<Completion>,
    ) -> io::Result<Parked> {
        let asleep = Asleep::new(ring);
        if recheck() {
            return Ok(Parked::No);
        }
        // Work queued while the descriptor was off has signalled nothing, and neither does what
        // comes after it; only an enter brings it out. So: on first, then enter.
        asleep.ring.switch_eventfd(true);
        if !asleep.ring.look_hard(completions)? {
            return Ok(Parked::No);
        }
        match self.eventfd.read_at(0, size_of::<u64>()).await {
            Ok(_) => Ok(Parked::Yes),
            Err(error) => Err(io::Error::other(format!(
                "sleeping on the event descriptor of the data ring: {error}"
            ))),
        }
    }
}
