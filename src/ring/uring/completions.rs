//! Decoding completions, and taking back what their requests had lent to the kernel.

use super::{ALARMS, FAILED_WAKE, FIRST_ALARM};
use crate::ring::addresses::{AcceptAddresses, ConnectAddresses};
use crate::ring::buffers::BufferRing;
use crate::ring::peers::Peers;
use crate::ring::{BufferClass, BufferId, Completion, Op, Payload, Token};
use io_uring::cqueue;
use io_uring::types::Timespec;

/// What a ring has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// System calls that entered the ring.
    pub enters: u64,
    /// Requests submitted.
    pub submitted: u64,
    /// Completions taken.
    pub completions: u64,
    /// Receives that found no buffer (`ENOBUFS`).
    pub starved: u64,
    /// Times that the completion queue was found to have overflowed.
    pub overflows: u64,
    /// Wake-ups sent to other shards.
    pub wakes: u64,
    /// Wake-ups that the ring refused and that went through the event descriptor instead.
    pub wake_fallbacks: u64,
}

/// What the kernel may be using while requests are in flight.
pub(super) struct Lent {
    pub(super) small: BufferRing,
    pub(super) large: BufferRing,
    /// The payload of the send in flight of each key.
    pub(super) sends: Vec<Option<Payload>>,
    pub(super) accepts: AcceptAddresses,
    pub(super) connects: ConnectAddresses,
    pub(super) tick: Box<Timespec>,
    pub(super) alarms: Box<[Timespec; ALARMS]>,
}

/// The parts of a ring that a completion changes.
pub(super) struct Reaper<'a> {
    pub(super) lent: &'a mut Lent,
    pub(super) counters: &'a mut RingCounters,
    pub(super) in_flight: &'a mut u64,
    pub(super) tick_armed: &'a mut bool,
    pub(super) alarms_armed: &'a mut [bool; ALARMS],
    pub(super) peers: &'a Peers,
    pub(super) failed_wakes: &'a mut u32,
}

impl Reaper<'_> {
    /// One completion; `None` for what concerns only the ring.
    #[inline]
    pub(super) fn decode(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let token = Token::from_raw(entry.user_data());
        let flags = entry.flags();
        let mut completion = Completion {
            token,
            result: entry.result(),
            more: cqueue::more(flags),
            nonempty: cqueue::sock_nonempty(flags),
            buffer: None,
            payload: None,
        };
        match token.op() {
            Some(Op::Recv) => {
                if let Some(bid) = cqueue::buffer_select(flags) {
                    completion.buffer = self.lend(bid, completion.result);
                } else if completion.result == -libc::ENOBUFS {
                    self.counters.starved += 1;
                }
            }
            Some(Op::Send) => {
                let send = self.lent.sends.get_mut(token.key() as usize);
                completion.payload = send.and_then(Option::take);
            }
            Some(Op::Accept) => self.lent.accepts.finish(token.key()),
            Some(Op::Tick) => match token.key().checked_sub(FIRST_ALARM) {
                Some(alarm) => self.alarms_armed[alarm as usize % ALARMS] = false,
                None => *self.tick_armed = false,
            },
            Some(Op::Unlisten) => {
                *self.in_flight -= 1;
                return None;
            }
            // Posted by other rings: no request of ours is finished by them.
            Some(Op::Arrived) => return Some(completion),
            Some(Op::Wake) => {
                if token.generation() != FAILED_WAKE {
                    return Some(completion);
                }
                *self.failed_wakes += 1;
                self.peers.signal(token.key() as usize);
                return None;
            }
            _ => {}
        }
        *self.in_flight -= u64::from(!completion.more);
        Some(completion)
    }

    /// Notes whose a received buffer is. One that holds nothing goes straight back: Linux 6.1
    /// completes even a receive that found nothing with a buffer.
    #[inline]
    fn lend(&mut self, bid: u16, result: i32) -> Option<BufferId> {
        let id = BufferRing::decode(bid);
        let ring = match id.class {
            BufferClass::Small => &mut self.lent.small,
            BufferClass::Large => &mut self.lent.large,
        };
        ring.lend(id.index);
        if result > 0 {
            return Some(id);
        }
        ring.recycle(id.index);
        None
    }
}
