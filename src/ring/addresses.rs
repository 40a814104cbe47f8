//! Where the kernel writes the addresses of peers, and reads those to connect to.
//!
//! Beside the way of a message: an accept in flight owns the place that its peer's address will be
//! written to, so that 64 accepts cannot overwrite each other's.
#![allow(unsafe_code)]

use super::ACCEPTS_PER_RING;
use socket2::{SockAddr, SockAddrStorage};
use std::net::SocketAddr;
use std::ptr::NonNull;

const _: () = assert!(ACCEPTS_PER_RING <= u64::BITS, "one bit per accept");

struct Place {
    address: SockAddrStorage,
    len: libc::socklen_t,
}

/// The address storage of the accepts of one ring.
pub(super) struct AcceptAddresses {
    /// [`ACCEPTS_PER_RING`] places. Raw, because the kernel writes to them behind our back.
    places: NonNull<Place>,
    /// One bit per accept in flight, whose place is the kernel's.
    in_flight: u64,
}

impl AcceptAddresses {
    pub(super) fn new() -> Self {
        let places: Box<[Place]> = (0..ACCEPTS_PER_RING)
            .map(|_| Place {
                address: SockAddrStorage::zeroed(),
                len: 0,
            })
            .collect();
        Self {
            places: NonNull::from(Box::leak(places)).cast(),
            in_flight: 0,
        }
    }

    fn place(&self, number: u32) -> *mut Place {
        assert!(number < ACCEPTS_PER_RING, "no such accept: {number}");
        self.places.as_ptr().wrapping_add(number as usize)
    }

    /// The place of accept `number`, for the kernel to write to until [`Self::finish`].
    ///
    /// # Panics
    /// When there is no such number, or that accept is in flight.
    pub(super) fn start(&mut self, number: u32) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let place = self.place(number);
        assert!(
            self.in_flight & (1 << number) == 0,
            "accept {number} is already in flight"
        );
        self.in_flight |= 1 << number;
        let fresh = Place {
            address: SockAddrStorage::zeroed(),
            len: size_of::<SockAddrStorage>() as libc::socklen_t,
        };
        // SAFETY: `place` checked the number, and the place is ours: no accept of it is in flight.
        unsafe { place.write(fresh) };
        // SAFETY: the field lies in the allocation that `place` points into.
        let address = unsafe { &raw mut (*place).address };
        // SAFETY: as above.
        let len = unsafe { &raw mut (*place).len };
        (address.cast(), len)
    }

    /// Notes that accept `number` completed: the kernel writes to its place no more.
    #[inline]
    pub(super) fn finish(&mut self, number: u32) {
        debug_assert!(number < ACCEPTS_PER_RING);
        self.in_flight &= !(1 << (number % u64::BITS));
    }

    /// The address that the last accept of this number left. `None` while one is in flight, and
    /// for families that have no [`SocketAddr`].
    pub(super) fn get(&self, number: u32) -> Option<SocketAddr> {
        let place = self.place(number);
        if self.in_flight & (1 << number) != 0 {
            return None;
        }
        // SAFETY: `place` checked the number; the place is initialised, and no accept of it is in
        // flight, so nobody writes to it. (`Place` is plain data; the copy is ours.)
        let Place { address, len } = unsafe { place.read() };
        if len as usize > size_of::<SockAddrStorage>() {
            return None;
        }
        // SAFETY: the kernel wrote `len` bytes of an address of the family that it names, into a
        // storage that was zeroed before.
        unsafe { SockAddr::new(address, len) }.as_socket()
    }
}

impl Drop for AcceptAddresses {
    fn drop(&mut self) {
        let places = NonNull::slice_from_raw_parts(self.places, ACCEPTS_PER_RING as usize).as_ptr();
        // SAFETY: it is the leaked box of `new`; `Uring` drops it only when nothing is in flight.
        drop(unsafe { Box::from_raw(places) });
    }
}

/// The addresses of connects that are queued and not yet submitted: the kernel has copied an
/// address when it has consumed the entry that names it (`IORING_FEAT_SUBMIT_STABLE`).
#[derive(Default)]
pub(super) struct ConnectAddresses {
    #[expect(
        clippy::vec_box,
        reason = "growing must not move what the kernel was told of"
    )]
    queued: Vec<Box<SockAddr>>,
}

impl ConnectAddresses {
    /// Keeps an address until [`Self::clear`] and tells where it is.
    pub(super) fn push(&mut self, address: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        let address = Box::new(SockAddr::from(address));
        let place = (address.as_ptr().cast(), address.len());
        self.queued.push(address);
        place
    }

    /// Forgets the addresses: every queued request has been submitted.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.queued.clear();
    }
}
