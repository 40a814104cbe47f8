//! Making a data ring: the flags, the table of direct descriptors, the buffer rings.
//!
//! Before the first message. A ring is made on the thread that will use it: `SINGLE_ISSUER` binds
//! it to that thread.

use super::peers::Peers;
use super::probe::{ProbeError, Step};
use io_uring::IoUring;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What one data ring is made of.
pub struct UringConfig {
    /// Submission queue entries, 8 to 32,768; rounded up to a power of two. Requests beyond them
    /// cost an additional system call per that many, nothing else. Default 512.
    pub entries: u32,
    /// Completion queue entries, at least `entries`, at most 65,536; rounded up to a power of two.
    /// More completions are not lost, but kept by the kernel until there is room. Default 16,384.
    pub completion_entries: u32,
    /// Receive buffers of 2 KiB; a power of two, at most 32,768. Default 256.
    pub buffers: u16,
    /// Receive buffers of 64 KiB; a power of two, at most 32,768. Default 16.
    pub large_buffers: u16,
    /// Size of the table of direct descriptors: sockets that the ring holds at most. At most
    /// RLIMIT_NOFILE, although the sockets do not count against that limit. Default 1,024.
    pub slots: u32,
    /// How many of `slots`, from the end of the table, are filled by [`super::Uring::install`];
    /// accepts and arrivals use the others. Default 0.
    pub installed_slots: u32,
    /// The listening sockets, numbered from 0. They are switched to blocking mode: an accept on a
    /// non-blocking one would fail instead of waiting.
    pub listeners: Vec<OwnedFd>,
    /// The registry that this ring joins.
    pub peers: Arc<Peers>,
    /// The shard's index in `peers`.
    pub index: usize,
    /// The time between two [`super::Op::Tick`] completions, which bounds how long a lost wake-up
    /// can last. 0: none. Default 200.
    pub tick_ms: u32,
}

impl UringConfig {
    /// The defaults, with no listeners.
    #[must_use]
    pub const fn new(peers: Arc<Peers>, index: usize) -> Self {
        Self {
            entries: 512,
            completion_entries: 16_384,
            buffers: 256,
            large_buffers: 16,
            slots: 1024,
            installed_slots: 0,
            listeners: Vec::new(),
            peers,
            index,
            tick_ms: 200,
        }
    }

    pub(super) fn check(&self) -> Result<(), ProbeError> {
        let wrong = |what: &str| Err(ProbeError::Config { what: what.into() });
        if !(8..=1 << 15).contains(&self.entries) {
            return wrong("ring entries must be between 8 and 32768");
        }
        if !(self.entries..=1 << 16).contains(&self.completion_entries) {
            return wrong("ring completion_entries must be between entries and 65536");
        }
        if !self.buffers.is_power_of_two() || !self.large_buffers.is_power_of_two() {
            return wrong("the numbers of receive buffers must be powers of two, at most 32768");
        }
        if self.slots == 0 || self.installed_slots > self.slots {
            return wrong("a ring needs at least one slot, and no more installed ones than slots");
        }
        if self.listeners.len() > usize::from(u16::MAX) {
            return wrong("a ring accepts from at most 65535 listeners");
        }
        if self.index >= self.peers.len() || self.index > super::Token::MAX_KEY as usize {
            return wrong("the shard's index lies outside the registry of shards");
        }
        Ok(())
    }
}

/// A bare ring with the flags that this crate is built on. The second value says whether it works
/// without the array of indexes (`IORING_SETUP_NO_SQARRAY`, Linux 6.6), one memory access less per
/// request.
pub(super) fn build(entries: u32, completion_entries: u32) -> io::Result<(IoUring, bool)> {
    let build = |no_sqarray: bool| {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completion_entries);
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(entries)
    };
    match build(true) {
        Ok(ring) => Ok((ring, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((build(false)?, false)),
        Err(error) => Err(error),
    }
}

/// Gives the ring its table of direct descriptors. Of `slots`, the kernel hands out only the first
/// `slots - installed` by itself.
#[allow(unsafe_code)]
pub(super) fn register_table(ring: &IoUring, slots: u32, installed: u32) -> io::Result<()> {
    ring.submitter().register_files_sparse(slots)?;
    if installed == 0 {
        return Ok(());
    }
    /// `struct io_uring_file_index_range` of `linux/io_uring.h`.
    #[repr(C)]
    struct Range {
        off: u32,
        len: u32,
        reserved: u64,
    }
    /// `IORING_REGISTER_FILE_ALLOC_RANGE` (Linux 6.0), which the crate has no call for.
    const REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;
    let range = Range {
        off: 0,
        len: slots - installed,
        reserved: 0,
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(ring);
    // SAFETY: the descriptor is the ring's, and the kernel only reads `range`, during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            fd,
            REGISTER_FILE_ALLOC_RANGE,
            &raw const range,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs one step of the setup and says what to do when it fails.
pub(super) fn step<T>(step: Step, result: io::Result<T>) -> Result<T, ProbeError> {
    result.map_err(|error| super::probe::explain(step, &error))
}
