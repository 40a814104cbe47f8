//! The bytes of a send: built once, shared without atomics by all its receivers on a shard,
//! owned by the ring while the kernel reads them.

use bytes::Bytes;
use std::rc::Rc;

enum Body {
    /// Written for one connection; its buffer goes back to the pool.
    Own(Vec<u8>),
    /// Shared by many connections, or made on another shard.
    Shared(Bytes),
}

/// Immutable bytes with a non-atomic reference count. Cloning costs one increment.
///
/// A payload that nobody else holds can still be appended to: [`Payload::try_extend`].
#[derive(Clone)]
pub struct Payload(Rc<Body>);

impl Payload {
    /// Wraps bytes that several connections share, without copying them.
    #[must_use]
    pub fn shared(bytes: Bytes) -> Self {
        Self(Rc::new(Body::Shared(bytes)))
    }

    /// Wraps bytes that were just written, without copying them.
    #[must_use]
    pub fn own(bytes: Vec<u8>) -> Self {
        Self(Rc::new(Body::Own(bytes)))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &*self.0 {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The buffer to append to, if this payload was made by [`PayloadPool::take`] and nobody else
    /// (another connection, the kernel) holds it.
    pub fn try_extend(&mut self) -> Option<&mut Vec<u8>> {
        match Rc::get_mut(&mut self.0) {
            Some(Body::Own(bytes)) => Some(bytes),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

/// Buffers that finished sends leave behind, so that an answer costs no allocation.
pub struct PayloadPool {
    free: Vec<Payload>,
    /// Capacity of the buffers in `free`.
    held_bytes: usize,
}

impl PayloadPool {
    /// Buffers kept at most: what one turn's worth of answers needs.
    pub const MAX_BUFFERS: usize = 1024;
    /// Larger buffers are freed instead of kept: the largest receive fits in, and its answer.
    pub const MAX_BUFFER_BYTES: usize = 80 << 10;
    /// Bytes kept at most, per shard.
    pub const MAX_BYTES: usize = 4 << 20;

    /// An empty pool.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            free: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Frees all buffers.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// An empty payload to append to.
    #[must_use]
    pub fn take(&mut self) -> Payload {
        let Some(mut payload) = self.free.pop() else {
            return Payload(Rc::new(Body::Own(Vec::new())));
        };
        if let Some(bytes) = payload.try_extend() {
            self.held_bytes -= bytes.capacity();
        }
        payload
    }

    /// Takes a payload back. Its buffer is kept when nobody else holds it and the pool has room.
    pub fn put(&mut self, mut payload: Payload) {
        if self.free.len() < Self::MAX_BUFFERS
            && let Some(bytes) = payload.try_extend()
            && bytes.capacity() > 0
            && bytes.capacity() <= Self::MAX_BUFFER_BYTES
            && self.held_bytes + bytes.capacity() <= Self::MAX_BYTES
        {
            bytes.clear();
            self.held_bytes += bytes.capacity();
            self.free.push(payload);
        }
    }
}

impl Default for PayloadPool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_payload_cannot_change() {
        let mut pool = PayloadPool::new();
        let mut payload = pool.take();
        payload.try_extend().unwrap().extend_from_slice(b"one");
        let kernel = payload.clone();
        assert!(payload.try_extend().is_none());
        drop(kernel);
        payload.try_extend().unwrap().extend_from_slice(b" two");
        assert_eq!(payload.as_slice(), b"one two");
    }

    #[test]
    fn the_pool_reuses_and_bounds() {
        let mut pool = PayloadPool::new();
        let mut payload = pool.take();
        payload.try_extend().unwrap().extend_from_slice(&[1; 100]);
        let address = payload.as_slice().as_ptr();
        pool.put(payload);
        let mut again = pool.take();
        assert!(again.is_empty());
        again.try_extend().unwrap().push(1);
        assert_eq!(again.as_slice().as_ptr(), address);

        pool.put(Payload::shared(Bytes::from_static(b"shared")));
        assert!(pool.free.is_empty());
        let mut large = pool.take();
        large
            .try_extend()
            .unwrap()
            .reserve(PayloadPool::MAX_BUFFER_BYTES + 1);
        pool.put(large);
        assert!(pool.free.is_empty());
        for _ in 0..2 * PayloadPool::MAX_BUFFERS {
            let mut own = Payload(Rc::new(Body::Own(vec![0; 8])));
            own.try_extend().unwrap().push(1);
            pool.put(own);
        }
        assert_eq!(pool.free.len(), PayloadPool::MAX_BUFFERS);
        while !pool.free.is_empty() {
            drop(pool.take());
        }
        assert_eq!(pool.held_bytes, 0);
        for _ in 0..2 * PayloadPool::MAX_BYTES / PayloadPool::MAX_BUFFER_BYTES {
            pool.put(Payload::own(vec![0; PayloadPool::MAX_BUFFER_BYTES]));
        }
        assert!(pool.held_bytes <= PayloadPool::MAX_BYTES);
        assert!(!pool.free.is_empty());
        pool.clear();
        assert_eq!((pool.free.capacity(), pool.held_bytes), (0, 0));
    }
}
