//! The receive buffers of one class, with whose they are.

use std::collections::VecDeque;

enum Owner {
    /// The kernel may fill it.
    Kernel,
    /// Filled; the completion is on its way.
    Filled(Vec<u8>),
    /// The shard reads it.
    Lent(Vec<u8>),
    /// Given back, with the next turn.
    Returned,
}

pub(super) struct Buffers {
    size_bytes: usize,
    free: VecDeque<u16>,
    owners: Vec<Owner>,
    returned: Vec<u16>,
}

impl Buffers {
    pub(super) fn new(count: u16, size_bytes: usize) -> Self {
        Self {
            size_bytes,
            free: (0..count).collect(),
            owners: (0..count).map(|_| Owner::Kernel).collect(),
            returned: Vec::new(),
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Fills the next buffer. There is one, and the bytes fit.
    pub(super) fn fill(&mut self, bytes: Vec<u8>) -> u16 {
        assert!(bytes.len() <= self.size_bytes);
        let index = self.free.pop_front().expect("has_free was asked");
        self.owners[usize::from(index)] = Owner::Filled(bytes);
        index
    }

    /// The completion is returned: the shard may read.
    pub(super) fn lend(&mut self, index: u16) {
        let owner = &mut self.owners[usize::from(index)];
        *owner = match std::mem::replace(owner, Owner::Kernel) {
            Owner::Filled(bytes) => Owner::Lent(bytes),
            _ => panic!("buffer {index} was not filled"),
        };
    }

    pub(super) fn bytes(&mut self, index: u16) -> &mut [u8] {
        match &mut self.owners[usize::from(index)] {
            Owner::Lent(bytes) => bytes,
            _ => panic!("buffer {index} is not lent"),
        }
    }

    pub(super) fn recycle(&mut self, index: u16) {
        let owner = &mut self.owners[usize::from(index)];
        assert!(
            matches!(owner, Owner::Lent(_)),
            "buffer {index} is given back and was not lent"
        );
        *owner = Owner::Returned;
        self.returned.push(index);
    }

    /// The kernel sees what was given back.
    pub(super) fn commit(&mut self) {
        for index in self.returned.drain(..) {
            self.owners[usize::from(index)] = Owner::Kernel;
            self.free.push_back(index);
        }
    }

    /// Buffers that neither the kernel has nor were given back.
    pub(super) fn outside(&self) -> usize {
        self.owners
            .iter()
            .filter(|owner| matches!(owner, Owner::Filled(_) | Owner::Lent(_)))
            .count()
    }
}
