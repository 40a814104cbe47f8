//! Memory that a burst leaves behind.
//!
//! Beside the way of a message. It stands here because it needs a call into the allocator, and the
//! ring is one of the two places that may make one.

#![allow(unsafe_code)]

/// Returns to the operating system what the calling thread's allocator keeps of freed memory.
///
/// mimalloc returns pages when it is called for something else, which a shard full of idle
/// connections never does. Takes some milliseconds, so call it when a burst is over. Without mimalloc
/// as the global allocator (`ringwire` the program uses it; a user of the library may not) it does
/// nothing.
pub fn give_back() {
    // SAFETY: it touches only the calling thread's heap and memory that is free; it may be called
    // from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
