//! Receive buffers lent to the kernel and back.
//!
//! Where the bytes of a message land. A buffer ring ([`io_uring_register_buf_ring(3)`]) hands
//! buffers to the kernel in the order in which they were recycled; a receive takes the next one
//! only when there are bytes to put in it. Each buffer is in one of two hands at any time: the
//! kernel's, or (while its bit in `lent` is set) ours.
//!
//! [`io_uring_register_buf_ring(3)`]: https://man7.org/linux/man-pages/man3/io_uring_register_buf_ring.3.html
#![allow(unsafe_code)]

use super::{BufferClass, BufferId};
use io_uring::{IoUring, types::BufRingEntry};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

/// Size of a buffer of [`BufferClass::Small`].
pub const SMALL_BUFFER_BYTES: usize = 2048;
/// Size of a buffer of [`BufferClass::Large`].
pub const LARGE_BUFFER_BYTES: usize = 64 * 1024;
/// Most buffers of one class: the kernel's limit for one buffer ring.
pub const MAX_BUFFERS: u16 = 1 << 15;

/// A completion names its buffer, but not the buffer's group, so the two classes number theirs
/// apart: the large ones have this bit.
const LARGE_BIT: u16 = 1 << 15;

/// Page-aligned, zeroed memory of our own.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing that points into it outlives `self`.
        // An error would mean that it was no mapping; there is nothing left to do about it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// One buffer ring and its buffers.
pub(super) struct BufferRing {
    entries: Mapping,
    data: Mapping,
    class: BufferClass,
    /// Number of buffers, less one. The number is a power of two.
    mask: u16,
    size_bytes: usize,
    /// Where the next recycled buffer goes; the kernel sees it after [`Self::commit`].
    tail: u16,
    committed: u16,
    /// One bit per buffer that is ours to read.
    lent: Box<[u64]>,
}

impl BufferRing {
    /// Maps `count` buffers and gives all of them to the kernel.
    ///
    /// # Errors
    /// `EINVAL` when `count` is no power of two or above [`MAX_BUFFERS`]; what `mmap` and the
    /// registration fail with.
    pub(super) fn new(ring: &IoUring, class: BufferClass, count: u16) -> io::Result<Self> {
        if !count.is_power_of_two() || count > MAX_BUFFERS {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let size_bytes = match class {
            BufferClass::Small => SMALL_BUFFER_BYTES,
            BufferClass::Large => LARGE_BUFFER_BYTES,
        };
        let mut this = Self {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            data: Mapping::new(usize::from(count) * size_bytes)?,
            class,
            mask: count - 1,
            size_bytes,
            tail: 0,
            committed: 0,
            lent: vec![0; usize::from(count).div_ceil(64)].into_boxed_slice(),
        };
        // SAFETY: the memory is page-aligned, holds `count` entries, and lives until the ring has
        // no receive in flight (`Uring` drops it then, or leaks it).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                this.entries.start.as_ptr() as u64,
                count,
                Self::group(class),
                0,
            )
        }?;
        for index in 0..count {
            this.push(index);
        }
        this.commit();
        Ok(this)
    }

    /// The buffer group that a receive of `class` names.
    #[inline]
    pub(super) const fn group(class: BufferClass) -> u16 {
        match class {
            BufferClass::Small => 1,
            BufferClass::Large => 2,
        }
    }

    /// The class and index of the buffer that a completion names.
    #[inline]
    pub(super) const fn decode(bid: u16) -> BufferId {
        BufferId {
            class: if bid & LARGE_BIT == 0 {
                BufferClass::Small
            } else {
                BufferClass::Large
            },
            index: bid & !LARGE_BIT,
        }
    }

    #[inline]
    fn buffer_start(&self, index: u16) -> *mut u8 {
        debug_assert!(index <= self.mask);
        self.data
            .start
            .as_ptr()
            .wrapping_add(usize::from(index) * self.size_bytes)
    }

    /// Writes the entry of a buffer behind the last one. The kernel does not look at it before
    /// [`Self::commit`].
    #[inline]
    fn push(&mut self, index: u16) {
        let start = self.buffer_start(index) as u64;
        let base: *mut BufRingEntry = self.entries.start.as_ptr().cast();
        // SAFETY: `tail & mask` is below the number of entries that the mapping holds.
        let entry = unsafe { base.add(usize::from(self.tail & self.mask)) };
        // SAFETY: the mapping is aligned to pages, and entries outside the committed range are
        // ours alone: at most `count` buffers exist, and each is in the ring at most once. Nothing
        // but address, length and id is written: the last field of entry 0 is the shared tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start);
        entry.set_len(self.size_bytes as u32);
        entry.set_bid(match self.class {
            BufferClass::Small => index,
            BufferClass::Large => index | LARGE_BIT,
        });
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel the buffers recycled since the last call.
    #[inline]
    pub(super) fn commit(&mut self) {
        if self.tail == self.committed {
            return;
        }
        self.committed = self.tail;
        let base: *const BufRingEntry = self.entries.start.as_ptr().cast();
        // SAFETY: `base` is the first of the initialised entries, in which the tail lies.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the field is aligned and lives as long as the mapping; the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Notes that a completion lent us a buffer.
    ///
    /// # Panics
    /// When the number is none that was given to the kernel.
    #[inline]
    pub(super) fn lend(&mut self, index: u16) {
        let (word, bit) = Self::bit(index);
        assert!(index <= self.mask, "the kernel named an unknown buffer");
        self.lent[word] |= bit;
    }

    #[inline]
    const fn bit(index: u16) -> (usize, u64) {
        (index as usize / 64, 1 << (index % 64))
    }

    /// The bytes of a lent buffer.
    ///
    /// # Panics
    /// When the buffer is not lent.
    #[inline]
    pub(super) fn bytes(&mut self, index: u16) -> &mut [u8] {
        self.assert_lent(index);
        let start = self.buffer_start(index);
        // SAFETY: `index` is in range (its bit is set), so the whole buffer lies in the mapping;
        // it was zeroed or written by the kernel, which does not touch it while it is lent; the
        // borrow of `self` keeps it lent.
        unsafe { std::slice::from_raw_parts_mut(start, self.size_bytes) }
    }

    /// Takes a lent buffer back; the kernel has it after the next [`Self::commit`].
    ///
    /// # Panics
    /// When the buffer is not lent.
    #[inline]
    pub(super) fn recycle(&mut self, index: u16) {
        self.assert_lent(index);
        let (word, bit) = Self::bit(index);
        self.lent[word] &= !bit;
        self.push(index);
    }

    #[inline]
    fn assert_lent(&self, index: u16) {
        let (word, bit) = Self::bit(index);
        assert!(
            self.lent.get(word).is_some_and(|bits| bits & bit != 0),
            "a buffer that is not lent was used"
        );
    }
}
