//! Building requests. Each says why what it points to lives long enough.
#![allow(unsafe_code)]

use super::{Alarm, FAILED_WAKE, FIRST_ALARM, PROMPT_SEND_BYTES, Uring};
use crate::ring::buffers::BufferRing;
use crate::ring::{BufferClass, BufferId, Completion, Op, Payload, Ring, Slot, Token, Wait};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, Timespec};
use io_uring::{opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

#[inline]
fn check(token: Token, op: Op) {
    // A token with another operation would be taken for that one's completion, and free what the
    // kernel still uses.
    assert!(
        token.into_raw() >> 56 == op as u64,
        "a request's token must carry its operation"
    );
}

impl Uring {
    /// Starts the next tick.
    pub(super) fn arm_tick(&mut self) {
        let token = Token::new(Op::Tick, 0, 0);
        let entry = opcode::Timeout::new(&raw const *self.lent.tick)
            .build()
            .user_data(token.into_raw());
        self.tick_armed = true;
        // SAFETY: the time lives in `lent` until the last completion.
        unsafe { self.push(&entry) };
    }

    /// Makes sure that something completes within `timeout` (with [`Op::Tick`]): sets an alarm unless that
    /// one is set already. Returns whether it did. One timer for many waits: on a virtual machine, setting
    /// and cancelling a timer for each takes longer than echoing a message.
    pub(crate) fn arm_alarm(&mut self, alarm: Alarm, timeout: Duration) -> bool {
        let number = alarm as usize;
        if self.alarms_armed[number] {
            return false;
        }
        self.lent.alarms[number] = Timespec::from(timeout);
        let token = Token::new(Op::Tick, FIRST_ALARM + number as u32, 0);
        let entry = opcode::Timeout::new(&raw const self.lent.alarms[number])
            .build()
            .user_data(token.into_raw());
        self.alarms_armed[number] = true;
        // SAFETY: the time lives in `lent`, and is not changed before the completion.
        unsafe { self.push(&entry) };
        true
    }

    /// Whether an alarm is set and has not gone off.
    pub(crate) const fn has_alarm(&self, alarm: Alarm) -> bool {
        self.alarms_armed[alarm as usize]
    }

    /// Connects the socket of `slot` to `address`.
    pub(in crate::ring) fn push_connect(&mut self, slot: Slot, address: SocketAddr, token: Token) {
        check(token, Op::Connect);
        let (address, len) = self.lent.connects.push(address);
        let entry = opcode::Connect::new(Fixed(slot.0), address, len)
            .build()
            .user_data(token.into_raw());
        // SAFETY: the address lives in `lent` until a turn has submitted the request, and the kernel
        // copies it then.
        unsafe { self.push(&entry) };
    }
}

impl Ring for Uring {
    fn slots(&self) -> u32 {
        self.slots
    }

    fn listeners(&self) -> u16 {
        self.listeners.len() as u16
    }

    fn accept(&mut self, listener: u16, token: Token) {
        check(token, Op::Accept);
        let fd = Fd(self.listeners[usize::from(listener)].as_raw_fd());
        let (address, len) = self.lent.accepts.start(token.key());
        let entry = opcode::Accept::new(fd, address, len)
            .file_index(Some(DestinationSlot::auto_target()))
            .build()
            .user_data(token.into_raw());
        // SAFETY: the place in `lent` is this accept's alone until its completion.
        unsafe { self.push(&entry) };
    }

    fn stop_accepting(&mut self) {
        for listener in 0..self.listeners.len() {
            let listener = Fd(self.listeners[listener].as_raw_fd());
            let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(listener).all())
                .build()
                .user_data(Token::new(Op::Unlisten, 0, 0).into_raw());
            // SAFETY: it points to no memory.
            unsafe { self.push(&entry) };
        }
        // The descriptors are looked up when the requests are submitted, so they close after that. If
        // the kernel does not take them now, they stay open until the ring goes.
        if self.submit().is_ok() && self.backlog.is_empty() && self.ring.submission().is_empty() {
            self.listeners.clear();
        }
    }

    fn peer(&self, accept: Token) -> Option<SocketAddr> {
        self.lent.accepts.get(accept.key())
    }

    #[inline]
    fn poll(&mut self, slot: Slot, token: Token) {
        check(token, Op::Poll);
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(Fixed(slot.0), events)
            .multi(true)
            .build()
            .user_data(token.into_raw());
        // SAFETY: it points to no memory.
        unsafe { self.push(&entry) };
    }

    #[inline]
    fn recv(&mut self, slot: Slot, class: BufferClass, token: Token) {
        check(token, Op::Recv);
        // Without MSG_DONTWAIT a receive from an empty socket would wait, with a poll of its own.
        let entry = opcode::Recv::new(Fixed(slot.0), std::ptr::null_mut(), 0)
            .flags(libc::MSG_DONTWAIT)
            .buf_group(BufferRing::group(class))
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token.into_raw());
        // SAFETY: it points to no memory.
        unsafe { self.push(&entry) };
    }

    #[inline]
    fn send(&mut self, slot: Slot, payload: Payload, start: usize, end: usize, token: Token) {
        check(token, Op::Send);
        let bytes = &payload.as_slice()[start..end];
        let len = u32::try_from(bytes.len()).expect("a send of at most 4 GiB");
        let entry = opcode::Send::new(Fixed(slot.0), bytes.as_ptr(), len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(token.into_raw());
        let key = token.key() as usize;
        if key >= self.lent.sends.len() {
            self.lent.sends.resize_with(key + 1, || None);
        }
        let place = &mut self.lent.sends[key];
        assert!(
            place.is_none(),
            "a send of this connection is already in flight"
        );
        *place = Some(payload);
        // SAFETY: the payload stays in `lent`, unchanged, until the completion takes it out: nobody else
        // can write to it while this clone exists.
        unsafe { self.push(&entry) };
        self.prompt_sends += u32::from(len <= PROMPT_SEND_BYTES);
    }

    fn closes_late(&self) -> bool {
        self.closes_late
    }

    fn shutdown(&mut self, slot: Slot, how: Shutdown, token: Token) {
        check(token, Op::Shutdown);
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        let entry = opcode::Shutdown::new(Fixed(slot.0), how)
            .build()
            .user_data(token.into_raw());
        // SAFETY: it points to no memory.
        unsafe { self.push(&entry) };
    }

    fn close(&mut self, slot: Slot, key: u32, generation: u32, armed: &[Op]) {
        assert!(slot.0 < self.slots, "no such slot: {}", slot.0);
        // All in one submit: nothing may arm itself on the socket in between.
        self.reserve(armed.len() + 1);
        for &op in armed {
            let target = Token::new(op, key, generation).into_raw();
            let cancel = opcode::AsyncCancel::new(target)
                .build()
                .user_data(Token::new(Op::Cancel, key, generation).into_raw());
            // SAFETY: it points to no memory.
            unsafe { self.push(&cancel) };
        }
        let close = opcode::Close::new(Fixed(slot.0))
            .build()
            .user_data(Token::new(Op::Close, key, generation).into_raw());
        // SAFETY: it points to no memory.
        unsafe { self.push(&close) };
        self.installed.closing(slot);
    }

    fn hand_over(&mut self, slot: Slot, to: usize, arrival: Token, token: Token) {
        check(token, Op::HandOver);
        check(arrival, Op::Arrived);
        let entry = opcode::MsgRingSendFd::new(
            Fd(self.peers.ring_fd(to)),
            Fixed(slot.0),
            DestinationSlot::auto_target(),
            arrival.into_raw(),
        )
        .build()
        .user_data(token.into_raw());
        // SAFETY: it points to no memory.
        unsafe { self.push(&entry) };
    }

    fn wake(&mut self, to: usize) {
        if !self.peers.wake_needed(to) || self.woken_in[to] == self.turn {
            return;
        }
        self.woken_in[to] = self.turn;
        self.counters.wakes += 1;
        let message = Token::new(Op::Wake, self.index as u32, 0);
        let entry =
            opcode::MsgRingData::new(Fd(self.peers.ring_fd(to)), 0, message.into_raw(), None)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Token::new(Op::Wake, to as u32, FAILED_WAKE).into_raw());
        // SAFETY: it points to no memory.
        unsafe { self.push(&entry) };
    }

    #[inline]
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.run(wait, false, completions)
    }

    fn sleep(
        &mut self,
        wait: Wait,
        recheck: impl FnOnce() -> bool,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.peers.fall_asleep(self.index);
        let wait = if recheck() { Wait::Look } else { wait };
        let result = self.run(wait, false, completions);
        self.peers.wake_up(self.index);
        result
    }

    #[inline]
    fn buffer(&mut self, id: BufferId) -> &mut [u8] {
        match id.class {
            BufferClass::Small => self.lent.small.bytes(id.index),
            BufferClass::Large => self.lent.large.bytes(id.index),
        }
    }

    #[inline]
    fn recycle(&mut self, id: BufferId) {
        match id.class {
            BufferClass::Small => self.lent.small.recycle(id.index),
            BufferClass::Large => self.lent.large.recycle(id.index),
        }
    }

    fn give_back(&mut self) {
        let sends = &mut self.lent.sends;
        let used = sends
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |at| at + 1);
        sends.truncate(used);
        // Reserved and untouched again. Payloads in flight stand here by reference: they do not move.
        let mut fresh = Vec::with_capacity(self.slots as usize);
        fresh.append(sends);
        *sends = fresh;
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
    }
}
