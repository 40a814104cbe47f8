//! The client's side of a data ring: sockets made by system calls and put into the table, and
//! connects. The load generator is built on these.

use super::{Slot, Token, Uring};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// The part of the table of direct descriptors that [`Uring::install`] fills. The kernel picks no
/// slots there by itself (`setup::register_table`), so the two cannot collide.
pub(super) struct Installed {
    first: u32,
    /// Slots from here to the end of the table were never used.
    fresh: u32,
    end: u32,
    free: Vec<u32>,
    /// Closed, but the close may still be queued: not to be filled before that was submitted.
    closing: Vec<u32>,
    /// For each slot whether it is filled.
    filled: Vec<bool>,
}

impl Installed {
    pub(super) fn new(slots: u32, installed: u32) -> Self {
        let first = slots - installed;
        Self {
            first,
            fresh: first,
            end: slots,
            free: Vec::new(),
            closing: Vec::new(),
            filled: vec![false; installed as usize],
        }
    }

    fn take(&mut self) -> Option<Slot> {
        let slot = self.free.pop().or_else(|| {
            let slot = self.fresh;
            (slot < self.end).then(|| {
                self.fresh += 1;
                slot
            })
        })?;
        self.filled[(slot - self.first) as usize] = true;
        Some(Slot(slot))
    }

    /// Notes that a close of `slot` was queued. Slots that the kernel hands out are none of ours.
    #[inline]
    pub(super) fn closing(&mut self, slot: Slot) {
        if slot.0 >= self.first && std::mem::take(&mut self.filled[(slot.0 - self.first) as usize])
        {
            self.closing.push(slot.0);
        }
    }

    /// Notes that every queued close has been submitted.
    #[inline]
    pub(super) fn submitted(&mut self) {
        if !self.closing.is_empty() {
            self.free.append(&mut self.closing);
        }
    }
}

impl Uring {
    /// Puts a socket into a free slot of those set aside by
    /// [`installed_slots`](super::UringConfig::installed_slots), and closes the descriptor: the
    /// table keeps the socket open until [`super::Ring::close`]. The socket must be in blocking
    /// mode, or its requests fail with `EAGAIN` instead of waiting.
    ///
    /// # Errors
    /// `ENFILE` when every slot is in use.
    pub fn install(&mut self, fd: OwnedFd) -> io::Result<Slot> {
        let slot = match self.installed.take() {
            Some(slot) => slot,
            None => {
                // Slots whose close waits to be submitted can be had.
                self.submit()?;
                self.installed
                    .take()
                    .ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?
            }
        };
        let updated = self.update_slot(slot, &fd);
        if let Err(error) = updated {
            self.installed.closing(slot);
            return Err(error);
        }
        Ok(slot)
    }

    /// Connects the socket of `slot` to `address`. `result` of the completion is 0 or an error.
    pub fn connect(&mut self, slot: Slot, address: SocketAddr, token: Token) {
        self.push_connect(slot, address, token);
    }
}
