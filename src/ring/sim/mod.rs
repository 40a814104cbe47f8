//! A data ring that exists only in memory, with faults drawn from a seed.
//!
//! Stands in for [`Uring`](super::Uring) in tests of the shard: the rings of several shards share one
//! [`World`] of sockets on one thread, and the test plays the clients. Requests take effect in
//! the order of their submission, as in the kernel; their completions come late and in any order
//! that the kernel may choose. What would corrupt memory or bytes with the real ring panics
//! here: two sends at once on a connection, a buffer used that is not lent, a payload changed
//! while it is sent, a request for somebody else's slot.

mod buffers;
mod client;
mod execute;
mod random;
mod socket;
mod tests;
mod world;

pub(crate) use client::End;
pub(crate) use random::Random;
pub(crate) use socket::{Kind, SocketId};
pub(crate) use world::{Faults, RingSetup, World, plain};

use super::{
    ACCEPTS_PER_RING, BufferClass, BufferId, Completion, Op, Payload, Ring, Slot, Token, Wait,
};
use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use world::{Request, Sending, sum};

/// One shard's ring in a shared world.
pub(crate) struct SimRing {
    world: Rc<RefCell<World>>,
    index: usize,
    /// Received bytes that the shard is looking at.
    looking_at: Option<(BufferId, Vec<u8>)>,
}

impl SimRing {
    /// Adds a ring to the world.
    pub(crate) fn new(world: &Rc<RefCell<World>>, setup: &RingSetup) -> Self {
        let index = world.borrow_mut().add_ring(setup);
        Self {
            world: Rc::clone(world),
            index,
            looking_at: None,
        }
    }

    fn push(&mut self, request: Request) {
        let mut world = self.world.borrow_mut();
        world.rings[self.index].queue.push_back(request);
        let early = world.faults.early_submits;
        if world.random.chance(early) {
            world.submit(self.index);
        }
    }

    /// Puts the bytes that the shard looked at (and possibly unmasked) back where they belong.
    fn look_away(&mut self) {
        if let Some((id, bytes)) = self.looking_at.take() {
            let mut world = self.world.borrow_mut();
            let buffers = world.rings[self.index].buffers(id.class);
            buffers.bytes(id.index).copy_from_slice(&bytes);
        }
    }
}

fn check(token: Token, op: Op) {
    assert_eq!(
        token.op(),
        Some(op),
        "a request's token must carry its operation"
    );
}

impl Ring for SimRing {
    fn slots(&self) -> u32 {
        self.world.borrow().rings[self.index].table.len() as u32
    }

    fn listeners(&self) -> u16 {
        self.world.borrow().rings[self.index].listeners.len() as u16
    }

    fn accept(&mut self, listener: u16, token: Token) {
        check(token, Op::Accept);
        let number = token.key();
        assert!(number < ACCEPTS_PER_RING, "no such accept: {number}");
        {
            let state = &mut self.world.borrow_mut().rings[self.index];
            assert!(
                state.accepting & (1 << number) == 0,
                "accept {number} is already in flight"
            );
            assert!(state.listening, "an accept after stop_accepting");
            state.accepting |= 1 << number;
        }
        self.push(Request::Accept { listener, token });
    }

    fn stop_accepting(&mut self) {
        self.push(Request::StopAccepting);
    }

    fn peer(&self, accept: Token) -> Option<SocketAddr> {
        let state = &self.world.borrow().rings[self.index];
        assert!(
            state.accepting & (1 << accept.key()) == 0,
            "the address of an accept in flight"
        );
        state.peers[accept.key() as usize]
    }

    fn poll(&mut self, slot: Slot, token: Token) {
        check(token, Op::Poll);
        self.push(Request::Poll { slot, token });
    }

    fn recv(&mut self, slot: Slot, class: BufferClass, token: Token) {
        check(token, Op::Recv);
        self.push(Request::Receive { slot, class, token });
    }

    fn send(&mut self, slot: Slot, payload: Payload, start: usize, end: usize, token: Token) {
        check(token, Op::Send);
        assert!(
            start < end && end <= payload.len(),
            "a send of {start}..{end} of {} bytes",
            payload.len()
        );
        let sending = Sending {
            checksum: sum(payload.as_slice()),
            payload: payload.clone(),
        };
        let before = self.world.borrow_mut().rings[self.index]
            .sends
            .insert(token.key(), sending);
        assert!(
            before.is_none(),
            "{token:?} while a send of this connection is in flight"
        );
        self.push(Request::Send {
            slot,
            payload,
            start,
            end,
            token,
        });
    }

    fn closes_late(&self) -> bool {
        self.world.borrow().closes_late
    }

    fn shutdown(&mut self, slot: Slot, how: Shutdown, token: Token) {
        check(token, Op::Shutdown);
        self.push(Request::Shutdown { slot, how, token });
    }

    fn close(&mut self, slot: Slot, key: u32, generation: u32, armed: &[Op]) {
        self.push(Request::Close {
            slot,
            key,
            generation,
            armed: armed.to_vec(),
        });
    }

    fn hand_over(&mut self, slot: Slot, to: usize, arrival: Token, token: Token) {
        check(token, Op::HandOver);
        check(arrival, Op::Arrived);
        self.push(Request::HandOver {
            slot,
            to,
            arrival,
            token,
        });
    }

    fn wake(&mut self, to: usize) {
        {
            let target = &mut self.world.borrow_mut().rings[to];
            if !target.parked || target.woken {
                return;
            }
            target.woken = true;
        }
        self.push(Request::Wake { to });
    }

    fn turn(&mut self, _wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.look_away();
        let mut world = self.world.borrow_mut();
        let state = &mut world.rings[self.index];
        state.turns += 1;
        state.small.commit();
        state.large.commit();
        world.submit(self.index);
        world.deliver(self.index, completions);
        Ok(())
    }

    /// Sleeping is the test's to do: this only says whether the shard would.
    fn sleep(
        &mut self,
        wait: Wait,
        recheck: impl FnOnce() -> bool,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.world.borrow_mut().set_parked(self.index, true);
        let awake = recheck();
        self.turn(wait, completions)?;
        let mut world = self.world.borrow_mut();
        if awake || !completions.is_empty() {
            world.set_parked(self.index, false);
        }
        Ok(())
    }

    fn buffer(&mut self, id: BufferId) -> &mut [u8] {
        self.look_away();
        let bytes = self.world.borrow_mut().rings[self.index]
            .buffers(id.class)
            .bytes(id.index)
            .to_vec();
        let (_, bytes) = self.looking_at.insert((id, bytes));
        bytes
    }

    fn recycle(&mut self, id: BufferId) {
        self.look_away();
        self.world.borrow_mut().rings[self.index]
            .buffers(id.class)
            .recycle(id.index);
    }
}
