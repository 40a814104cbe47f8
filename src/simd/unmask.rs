//! XOR with the 4-byte masking key of RFC 6455 section 5.3, in place or while copying.
//!
//! Masking and unmasking are the same operation. Payloads up to [`SMALL_BYTES`] take the vectors
//! that every processor of the architecture has, inlined and without a look at its features;
//! longer ones take the widest vectors that this processor has.

#![allow(unsafe_code)]

use std::mem::size_of;

/// Payloads up to this length, in bytes, are cheaper without wide vectors.
const SMALL_BYTES: usize = 64;

/// The vector that every processor of the architecture has. As wide as the loads of the UTF-8
/// check behind it: a load that spans two narrower stores waits for both to reach the cache.
const BLOCK_BYTES: usize = 16;

/// Unmasks `data` in place.
///
/// `offset` is the position of `data[0]` in the frame's payload; only `offset % 4` matters.
#[inline]
pub fn unmask(data: &mut [u8], key: [u8; 4], offset: usize) {
    let length = data.len();
    let pointer = data.as_mut_ptr();
    // SAFETY: the exclusive borrow makes `length` bytes readable and writable; source and
    // destination are the same bytes, which `xor` allows.
    unsafe { xor(pointer, pointer, length, Key::new(key, offset)) }
}

/// Appends the unmasked bytes of `source` to `destination`, in one pass.
///
/// `offset` is the position of `source[0]` in the frame's payload; only `offset % 4` matters.
#[inline]
pub fn unmask_copy(source: &[u8], destination: &mut Vec<u8>, key: [u8; 4], offset: usize) {
    let length = source.len();
    destination.reserve(length);
    let spare = destination.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: `source` is readable for `length` bytes and the spare capacity, just reserved, is
    // writable for as many; a shared and an exclusive borrow cannot overlap.
    unsafe { xor(source.as_ptr(), spare, length, Key::new(key, offset)) };
    let total = destination.len() + length;
    // SAFETY: `total` is within the capacity and `xor` has written every byte up to it.
    unsafe { destination.set_len(total) };
}

/// The scalar twin of [`unmask`]: byte by byte, as the RFC writes it.
pub fn unmask_scalar(data: &mut [u8], key: [u8; 4], offset: usize) {
    for (position, byte) in data.iter_mut().enumerate() {
        *byte ^= key[offset.wrapping_add(position) % 4];
    }
}

/// The masking key, rotated so that its first byte meets the payload's next byte.
#[derive(Clone, Copy)]
struct Key(u32);

impl Key {
    #[inline]
    fn new(key: [u8; 4], offset: usize) -> Self {
        Self(u32::from_le_bytes(key)).at(offset)
    }

    /// The key for the byte `position` bytes further on.
    #[inline]
    fn at(self, position: usize) -> Self {
        Self(self.0.rotate_right(8 * (position % 4) as u32))
    }

    /// Four bytes in memory order.
    #[inline]
    fn u32(self) -> u32 {
        self.0.to_le()
    }

    #[inline]
    fn u64(self) -> u64 {
        u64::from(self.u32()) * 0x0000_0001_0000_0001
    }
}

/// Writes `length` unmasked bytes of `source` to `destination`.
///
/// # Safety
/// `source` is readable and `destination` writable for `length` bytes; the two are either the
/// same pointer or do not overlap.
#[inline]
unsafe fn xor(source: *const u8, destination: *mut u8, length: usize, key: Key) {
    if length < BLOCK_BYTES {
        // SAFETY: the caller's promise, handed on; `length < BLOCK_BYTES`.
        unsafe { xor_tiny(source, destination, length, key) }
    } else if length <= SMALL_BYTES {
        // SAFETY: the caller's promise, handed on; `length >= BLOCK_BYTES`, and the feature is
        // part of the architecture.
        unsafe { xor_blocks(source, destination, length, key) }
    } else {
        // SAFETY: the caller's promise, handed on; `length > SMALL_BYTES`.
        unsafe { xor_large(source, destination, length, key) }
    }
}

/// One word from each end; the two may overlap in the middle. Both are read before either is
/// written, so an overlapped byte gets the same value twice.
macro_rules! both_ends {
    ($word:ty, $method:ident, $source:expr, $destination:expr, $length:expr, $key:expr) => {{
        let last = $length - size_of::<$word>();
        // SAFETY: the word starts `last` bytes in and ends at `length`, inside the source.
        let tail_from = unsafe { $source.add(last) };
        // SAFETY: as above, inside the destination.
        let tail_to = unsafe { $destination.add(last) };
        // SAFETY: `length` is at least one word, so the first word is readable.
        let head = unsafe { $source.cast::<$word>().read_unaligned() };
        // SAFETY: one word is readable at `last`.
        let tail = unsafe { tail_from.cast::<$word>().read_unaligned() };
        let (head, tail) = (head ^ $key.$method(), tail ^ $key.at(last).$method());
        // SAFETY: the first word is writable.
        unsafe { $destination.cast::<$word>().write_unaligned(head) };
        // SAFETY: one word is writable at `last`.
        unsafe { tail_to.cast::<$word>().write_unaligned(tail) };
    }};
}

/// [`xor`] for less than [`BLOCK_BYTES`] bytes: two words that overlap, no loop.
///
/// # Safety
/// As [`xor`]; `length < BLOCK_BYTES`.
#[inline]
unsafe fn xor_tiny(source: *const u8, destination: *mut u8, length: usize, key: Key) {
    debug_assert!(length < BLOCK_BYTES);
    if length >= 8 {
        both_ends!(u64, u64, source, destination, length, key);
    } else if length >= 4 {
        both_ends!(u32, u32, source, destination, length, key);
    } else {
        for position in 0..length {
            // SAFETY: `position < length`.
            let from = unsafe { source.add(position) };
            // SAFETY: `position < length`.
            let to = unsafe { destination.add(position) };
            // SAFETY: one byte is readable at `position`.
            let byte = unsafe { from.read() };
            // SAFETY: one byte is writable at `position`.
            unsafe { to.write(byte ^ key.at(position).0 as u8) };
        }
    }
}

/// Defines [`xor`] with one width of vectors, for lengths of at least one vector.
///
/// The last vector ends with the payload, so there is no tail loop. It is read before the first
/// write: where it overlaps the last full vector, both write the same bytes.
macro_rules! vectors {
    ($visibility:vis $name:ident, $(#[$attribute:meta],)? $width:literal, $load:ident, $store:ident, $xor:ident, $splat:ident) => {
        /// [`xor`](super::xor) with one width of vectors.
        ///
        /// # Safety
        /// As [`xor`](super::xor); `length` is at least one vector, and the processor has the
        /// feature.
        $(#[$attribute])?
        #[inline]
        $visibility unsafe fn $name(source: *const u8, destination: *mut u8, length: usize, key: Key) {
            debug_assert!(length >= $width);
            let last = length - $width;
            let mask = $splat(key.u32().cast_signed());
            let mask_last = $splat(key.at(last).u32().cast_signed());
            // SAFETY: one vector from `last` on ends at `length`.
            let tail_from = unsafe { source.add(last) };
            // SAFETY: one vector is readable there; the load is unaligned.
            let tail = unsafe { $load(tail_from.cast()) };
            let mut position = 0;
            while position < last {
                // SAFETY: `position < last`, so a whole vector is inside the source.
                let from = unsafe { source.add(position) };
                // SAFETY: as above, inside the destination.
                let to = unsafe { destination.add(position) };
                // SAFETY: one vector is readable there; the load is unaligned.
                let vector = unsafe { $load(from.cast()) };
                // SAFETY: one vector is writable there; the store is unaligned.
                unsafe { $store(to.cast(), $xor(vector, mask)) };
                position += $width;
            }
            // SAFETY: one vector from `last` on ends at `length`.
            let tail_to = unsafe { destination.add(last) };
            // SAFETY: one vector is writable there; the store is unaligned.
            unsafe { $store(tail_to.cast(), $xor(tail, mask_last)) };
        }
    };
}

/// [`xor`] for more than [`SMALL_BYTES`] bytes.
///
/// # Safety
/// As [`xor`]; `length > SMALL_BYTES`.
#[cfg(target_arch = "x86_64")]
unsafe fn xor_large(source: *const u8, destination: *mut u8, length: usize, key: Key) {
    // The standard library keeps what CPUID said in an atomic: a load and a bit test.
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512F; the rest is the caller's promise.
        unsafe { x86_64::xor_avx512(source, destination, length, key) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; the rest is the caller's promise.
        unsafe { x86_64::xor_avx2(source, destination, length, key) }
    } else {
        // SAFETY: every x86_64 processor has SSE2; the rest is the caller's promise.
        unsafe { x86_64::xor_sse2(source, destination, length, key) }
    }
}

#[cfg(target_arch = "x86_64")]
use x86_64::xor_sse2 as xor_blocks;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::Key;
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm_set1_epi32, _mm_storeu_si128, _mm_xor_si128, _mm256_loadu_si256,
        _mm256_set1_epi32, _mm256_storeu_si256, _mm256_xor_si256, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_storeu_si512, _mm512_xor_si512,
    };

    vectors!(
        pub(super) xor_avx512, #[target_feature(enable = "avx512f")], 64,
        _mm512_loadu_si512, _mm512_storeu_si512, _mm512_xor_si512, _mm512_set1_epi32
    );
    vectors!(
        pub(super) xor_avx2, #[target_feature(enable = "avx2")], 32,
        _mm256_loadu_si256, _mm256_storeu_si256, _mm256_xor_si256, _mm256_set1_epi32
    );
    vectors!(
        pub(super) xor_sse2, #[target_feature(enable = "sse2")], 16,
        _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128, _mm_set1_epi32
    );
}

#[cfg(target_arch = "aarch64")]
use aarch64::{xor_neon as xor_blocks, xor_neon as xor_large};

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::Key;
    use std::arch::aarch64::{
        uint8x16_t, vdupq_n_s32, veorq_u8, vld1q_u8, vreinterpretq_u8_s32, vst1q_u8,
    };

    #[target_feature(enable = "neon")]
    #[inline]
    fn splat(key: i32) -> uint8x16_t {
        vreinterpretq_u8_s32(vdupq_n_s32(key))
    }

    // Every aarch64 processor that Linux runs on has NEON.
    vectors!(
        pub(super) xor_neon, #[target_feature(enable = "neon")], 16,
        vld1q_u8, vst1q_u8, veorq_u8, splat
    );
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use words::{xor_words as xor_blocks, xor_words as xor_large};

/// For processors without vectors here; compiled on all for the tests.
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod words {
    use super::Key;

    unsafe fn load(from: *const u128) -> u128 {
        // SAFETY: 16 bytes are readable at `from`, says the caller.
        unsafe { from.read_unaligned() }
    }

    unsafe fn store(to: *mut u128, word: u128) {
        // SAFETY: 16 bytes are writable at `to`, says the caller.
        unsafe { to.write_unaligned(word) }
    }

    fn splat(key: i32) -> u128 {
        u128::from(key.cast_unsigned()) * 0x0000_0001_0000_0001_0000_0001_0000_0001
    }

    fn xor(word: u128, mask: u128) -> u128 {
        word ^ mask
    }

    vectors!(pub(super) xor_words, 16, load, store, xor, splat);
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    fn expected(plain: &[u8], offset: usize) -> Vec<u8> {
        let mut masked = plain.to_vec();
        unmask_scalar(&mut masked, KEY, offset);
        masked
    }

    /// Lengths around every boundary: words, both ends, one and several vectors of each width.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..=if cfg!(miri) { 140 } else { 520 }).chain([1000, 1023, 1024, 1025, 4099])
    }

    #[test]
    fn every_length_and_offset_equals_the_scalar_twin() {
        for length in lengths() {
            let plain = sample(length);
            for offset in 0..4 {
                let expected = expected(&plain, offset);
                let mut data = plain.clone();
                unmask(&mut data, KEY, offset);
                assert_eq!(data, expected, "length {length}, offset {offset}");

                let mut copy = b"before".to_vec();
                unmask_copy(&plain, &mut copy, KEY, offset);
                assert_eq!(copy[..6], *b"before");
                assert_eq!(
                    copy[6..],
                    expected,
                    "copy, length {length}, offset {offset}"
                );
            }
        }
    }

    #[test]
    fn every_alignment_leaves_its_neighbours_alone() {
        let mut lengths: Vec<usize> = lengths().collect();
        lengths.retain(|length| length % 7 == 3 || *length < 70);
        for start in if cfg!(miri) { 1..3 } else { 0..64 } {
            for &length in &lengths {
                let mut around = sample(start + length + 64);
                let before = around.clone();
                unmask(&mut around[start..start + length], KEY, start);
                assert_eq!(around[..start], before[..start]);
                assert_eq!(around[start + length..], before[start + length..]);
                assert_eq!(
                    around[start..start + length],
                    expected(&before[start..start + length], start)
                );
            }
        }
    }

    #[test]
    fn offsets_count_modulo_four() {
        for offset in [4, 5, 127, 65_535, usize::MAX - 1, usize::MAX] {
            let plain = sample(100);
            let mut data = plain.clone();
            unmask(&mut data, KEY, offset);
            assert_eq!(data, expected(&plain, offset % 4), "offset {offset}");
        }
    }

    /// A payload cut into pieces comes out as it does whole.
    #[test]
    fn pieces_continue_the_key() {
        let plain = sample(300);
        let whole = expected(&plain, 0);
        for cut in 0..plain.len() {
            let mut copy = Vec::new();
            unmask_copy(&plain[..cut], &mut copy, KEY, 0);
            unmask_copy(&plain[cut..], &mut copy, KEY, cut);
            assert_eq!(copy, whole, "cut at {cut}");
        }
    }

    /// Every width that this processor has, not just the widest.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_vector_width_equals_the_scalar_twin() {
        type Kernel = unsafe fn(*const u8, *mut u8, usize, Key);
        let mut kernels: Vec<(&str, Kernel)> =
            vec![("words", words::xor_words), ("sse2", x86_64::xor_sse2)];
        if is_x86_feature_detected!("avx2") {
            kernels.push(("avx2", x86_64::xor_avx2));
        }
        if is_x86_feature_detected!("avx512f") {
            kernels.push(("avx512", x86_64::xor_avx512));
        }
        for (name, kernel) in kernels {
            for length in lengths().filter(|length| *length >= 64) {
                for offset in 0..4 {
                    let plain = sample(length);
                    let mut data = plain.clone();
                    let pointer = data.as_mut_ptr();
                    // SAFETY: `length >= 64` bytes of one buffer; the feature was just detected.
                    unsafe { kernel(pointer, pointer, length, Key::new(KEY, offset)) };
                    assert_eq!(data, expected(&plain, offset), "{name}, {length}, {offset}");
                }
            }
        }
    }
}
