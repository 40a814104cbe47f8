//! Receives in flight, and connections that wait for a buffer.
//!
//! A shard never asks for more receives than there are buffers, so the kernel running out of them
//! (`ENOBUFS`) is the exception; both ways a connection waits in line, first come first served.

use crate::ring::BufferClass;
use std::collections::VecDeque;

/// One class of receive buffers.
struct Class {
    buffers: u32,
    in_flight: u32,
    /// Key and generation.
    line: VecDeque<(u32, u32)>,
}

/// The receives of one shard.
pub(super) struct Reading {
    small: Class,
    large: Class,
}

impl Reading {
    pub(super) fn new(buffers: u32, large_buffers: u32) -> Self {
        let class = |buffers| Class {
            buffers,
            in_flight: 0,
            line: VecDeque::new(),
        };
        Self {
            small: class(buffers),
            large: class(large_buffers),
        }
    }

    fn class(&mut self, class: BufferClass) -> &mut Class {
        match class {
            BufferClass::Small => &mut self.small,
            BufferClass::Large => &mut self.large,
        }
    }

    /// Whether a receive of this class would find a buffer that nobody has waited for longer.
    pub(super) fn has_room(&mut self, class: BufferClass) -> bool {
        let class = self.class(class);
        class.line.is_empty() && class.in_flight < class.buffers
    }

    /// A receive was submitted.
    pub(super) fn started(&mut self, class: BufferClass) {
        self.class(class).in_flight += 1;
    }

    /// A receive completed.
    pub(super) fn finished(&mut self, class: BufferClass) {
        self.class(class).in_flight -= 1;
    }

    /// Whether no receive is in flight.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.small.in_flight + self.large.in_flight == 0
    }

    /// A connection waits for a buffer.
    pub(super) fn wait_in_line(&mut self, class: BufferClass, key: u32, generation: u32) {
        self.class(class).line.push_back((key, generation));
    }

    /// The connection that waits longest, if there is a buffer for it.
    pub(super) fn next_in_line(&mut self, class: BufferClass) -> Option<(u32, u32)> {
        let class = self.class(class);
        if class.in_flight < class.buffers {
            class.line.pop_front()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served_and_never_more_than_there_are_buffers() {
        let mut reading = Reading::new(2, 1);
        for key in 0..4 {
            if reading.has_room(BufferClass::Small) {
                reading.started(BufferClass::Small);
            } else {
                reading.wait_in_line(BufferClass::Small, key, 0);
            }
        }
        assert_eq!(reading.next_in_line(BufferClass::Small), None);
        reading.finished(BufferClass::Small);
        assert!(
            !reading.has_room(BufferClass::Small),
            "that buffer is for those in line"
        );
        assert_eq!(reading.next_in_line(BufferClass::Small), Some((2, 0)));
        reading.started(BufferClass::Small);
        assert_eq!(reading.next_in_line(BufferClass::Small), None);
        assert!(reading.has_room(BufferClass::Large), "classes are apart");
    }
}
