//! The data ring on the kernel's io_uring.
//!
//! First and last stop on the way of a message, as the kernel knows it. The order of calls follows "Rules of the ring" in the design page; each was settled by
//! an experiment. What a caller can rely on beyond [`super::Ring`]: nothing that the kernel reads or
//! writes is freed before the request's last completion, whatever the caller does.
#![allow(unsafe_code)]

mod completions;
mod requests;

pub use completions::RingCounters;

use super::addresses::{AcceptAddresses, ConnectAddresses};
use super::buffers::BufferRing;
use super::client::Installed;
use super::peers::Peers;
use super::probe::{ProbeError, Step, kernel_is_before};
use super::setup::{self, UringConfig, step};
use super::{BufferClass, Completion, Op, Slot, Token, Wait};
use completions::{Lent, Reaper};
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Enters per turn at most. One enter runs up to 20 pieces of deferred work, so a turn takes at
/// most some 1,300 completions before the caller gets to answer them.
const MAX_ENTERS_PER_TURN: u32 = 64;
/// Completions that a wait with `min_wait_us` stops at before its time is over.
const MIN_WAIT_COMPLETIONS: u32 = 256;
/// Sends of at most this many bytes nearly always find room in the socket's buffer.
const PROMPT_SEND_BYTES: u32 = 16 << 10;
/// Sends that are submitted together with the wait for what comes next. With more of them the call
/// returns when they are done, and the wait is another one.
const SENDS_PER_WAIT: u32 = 32;
/// How long dropping a ring waits for its requests before it leaks what they use.
const TEARDOWN: Duration = Duration::from_secs(5);
/// Generation of the token of a wake-up request itself (the message that it posts has 0).
const FAILED_WAKE: u32 = 1;
/// Key of the token of the first alarm (the regular tick has 0).
const FIRST_ALARM: u32 = 1;
/// How many alarms there are.
const ALARMS: usize = 2;

/// What an alarm is for. Each can be set once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Waiting on the ring ends.
    Wait,
    /// Something has to be done by then.
    Due,
}

/// One shard's data ring. It stays on the thread that made it.
pub struct Uring {
    ring: IoUring,
    lent: ManuallyDrop<Lent>,
    /// Requests that found the submission queue full and the kernel unwilling to take any.
    backlog: VecDeque<squeue::Entry>,
    /// Requests handed to the submission queue whose last completion has not been taken.
    in_flight: u64,
    pub(super) installed: Installed,
    listeners: Vec<OwnedFd>,
    pub(super) peers: Arc<Peers>,
    pub(super) index: usize,
    slots: u32,
    has_min_wait: bool,
    closes_late: bool,
    has_tick: bool,
    tick_armed: bool,
    alarms_armed: [bool; ALARMS],
    /// The number of this turn.
    turn: u64,
    /// For each shard the turn in which it was last sent a wake-up.
    woken_in: Box<[u64]>,
    /// Sends in the submission queue.
    queued_sends: u32,
    /// Those of them that are done, as a rule, by the time that they are submitted.
    prompt_sends: u32,
    /// Requests in the submission queue that wait for something: accepts, polls.
    queued_waits: u32,
    counters: RingCounters,
}

impl Uring {
    /// Makes the ring of shard `config.index` on the current thread and publishes it.
    ///
    /// # Errors
    /// When the kernel or a limit does not allow it; the message says what to change.
    pub fn new(config: UringConfig) -> Result<Self, ProbeError> {
        config.check()?;
        let (ring, _) = step(
            Step::Ring,
            setup::build(config.entries, config.completion_entries),
        )?;
        step(
            Step::Table {
                slots: config.slots,
            },
            setup::register_table(&ring, config.slots, config.installed_slots),
        )?;
        let small = BufferRing::new(&ring, BufferClass::Small, config.buffers);
        let large = BufferRing::new(&ring, BufferClass::Large, config.large_buffers);
        for listener in &config.listeners {
            step(Step::Other("preparing a listener"), set_blocking(listener))?;
        }
        let lent = Lent {
            small: step(Step::Buffers, small)?,
            large: step(Step::Buffers, large)?,
            // Reserved, not touched: a connection that never sends costs nothing here.
            sends: Vec::with_capacity(config.slots as usize),
            accepts: AcceptAddresses::new(),
            connects: ConnectAddresses::default(),
            tick: Box::new(Timespec::from(Duration::from_millis(config.tick_ms.into()))),
            alarms: Box::default(),
        };
        let shards = config.peers.len();
        let this = Self {
            has_min_wait: ring.params().is_feature_min_timeout(),
            closes_late: kernel_is_before((6, 13)),
            ring,
            lent: ManuallyDrop::new(lent),
            backlog: VecDeque::new(),
            in_flight: 0,
            installed: Installed::new(config.slots, config.installed_slots),
            listeners: config.listeners,
            peers: config.peers,
            index: config.index,
            slots: config.slots,
            has_tick: config.tick_ms > 0,
            tick_armed: false,
            alarms_armed: [false; ALARMS],
            turn: 1,
            woken_in: vec![0; shards].into_boxed_slice(),
            queued_sends: 0,
            prompt_sends: 0,
            queued_waits: 0,
            counters: RingCounters::default(),
        };
        // SAFETY: the ring's descriptor is open as long as the ring, which outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(this.ring.as_raw_fd()) };
        let published = this.peers.publish(this.index, fd);
        step(Step::Other("publishing a ring"), published)?;
        Ok(this)
    }

    /// What the ring has done so far.
    #[must_use]
    pub const fn counters(&self) -> RingCounters {
        self.counters
    }

    /// The registry that this ring belongs to.
    #[must_use]
    pub const fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Requests that have been queued and whose last completion has not been returned, the
    /// ring's own tick among them.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight + self.backlog.len() as u64
    }

    /// Whether something is queued that completes at once and brings work: a receive. Sends bring none,
    /// and what waits may as well be submitted with the wait for what comes next.
    #[must_use]
    pub fn has_urgent(&mut self) -> bool {
        let patient = (self.queued_sends + self.queued_waits) as usize;
        !self.backlog.is_empty() || self.ring.submission().len() > patient
    }

    /// Queues a request.
    ///
    /// # Safety
    /// What it points to must lie in `self.lent` and stay there until the request's last
    /// completion, or, for what the kernel copies, until a turn found both queues empty.
    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: as for this function.
        if self.backlog.is_empty() && unsafe { self.try_push(entry) } {
            return;
        }
        // SAFETY: as for this function.
        unsafe { self.push_slow(entry) };
    }

    /// Puts a request into the submission queue if there is room.
    ///
    /// # Safety
    /// As for [`Self::push`].
    #[inline]
    unsafe fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: by the condition of `push`, all parameters are valid for the whole operation.
        let pushed = unsafe { self.ring.submission().push(entry) }.is_ok();
        // A wake-up completes only when it fails, so nobody waits for it.
        let op = entry.get_user_data() >> 56;
        let completes = op != Op::Wake as u64;
        self.in_flight += u64::from(pushed & completes);
        self.queued_sends += u32::from(pushed & (op == Op::Send as u64));
        let waits = (op == Op::Accept as u64) | (op == Op::Poll as u64);
        self.queued_waits += u32::from(pushed & waits);
        pushed
    }

    /// # Safety
    /// As for [`Self::push`].
    #[cold]
    unsafe fn push_slow(&mut self, entry: &squeue::Entry) {
        if self.submit().is_ok() && self.drain_backlog() {
            // SAFETY: as for this function.
            if unsafe { self.try_push(entry) } {
                return;
            }
        }
        // The kernel is short of memory, or wants its completions taken first. The order stays.
        self.backlog.push_back(entry.clone());
    }

    /// Moves what waits into the submission queue. True when nothing waits any more.
    fn drain_backlog(&mut self) -> bool {
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: it came here through `push`, and waits for its last completion still.
            if !unsafe { self.try_push(&entry) } {
                self.backlog.push_front(entry);
                return false;
            }
        }
        true
    }

    /// Hands the submission queue to the kernel, without asking for completions.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.enter(EnterFlags::empty())
    }

    /// Makes room for `count` requests that must leave in one submit. `count` is at most the
    /// queue's size.
    #[inline]
    pub(super) fn reserve(&mut self, count: usize) {
        let queue = self.ring.submission();
        let free = queue.capacity() - queue.len();
        drop(queue);
        if free < count {
            // On failure the requests go to the backlog, one behind the other.
            let _ = self.submit();
        }
    }

    #[inline]
    fn enter(&mut self, flags: EnterFlags) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed; the requests are sound by the condition of `push`.
        let result = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(queued, 0, flags.bits(), None)
        };
        self.entered(queued, result)
    }

    #[inline]
    fn enter_and_wait(&mut self, timeout_us: Option<u32>, min_wait_us: u32) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let timeout = timeout_us.map(|us| Timespec::from(Duration::from_micros(us.into())));
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        // What is waited for comes after the sends that are done when they are submitted. One that blocks
        // after all makes this wait last for one more completion, or until the alarm: but an alarm
        // that went off before the wait begins is a completion like any other, and ends nothing. So
        // only few sends leave this way, and none when something is there already.
        let mut want = 1;
        if self.prompt_sends <= SENDS_PER_WAIT && !self.kernel_has_work() {
            want += self.prompt_sends as usize;
        }
        if min_wait_us > 0 && self.has_min_wait {
            args = args.min_wait_usec(min_wait_us);
            // No more can come than are in flight, save for messages from other rings.
            want += self.in_flight.min(u64::from(MIN_WAIT_COMPLETIONS)) as usize;
        }
        let result = self.ring.submitter().submit_with_args(want, &args);
        self.entered(queued, result)
    }

    #[inline]
    fn entered(&mut self, queued: u32, result: io::Result<usize>) -> io::Result<()> {
        self.counters.enters += 1;
        let left = self.ring.submission().len() as u32;
        self.counters.submitted += u64::from(queued - left.min(queued));
        // Should the kernel not have taken all: what is left is taken for urgent, which is always right.
        self.queued_sends = 0;
        self.prompt_sends = 0;
        self.queued_waits = 0;
        if left == 0 && self.backlog.is_empty() {
            self.installed.submitted();
        }
        result.map(drop)
    }

    /// Whether the kernel has something for us that only an enter brings out.
    #[inline]
    fn kernel_has_work(&mut self) -> bool {
        let queue = self.ring.submission();
        let (taskrun, overflow) = (queue.taskrun(), queue.cq_overflow());
        drop(queue);
        self.counters.overflows += u64::from(overflow);
        taskrun || overflow
    }

    /// Takes what stands in the completion queue.
    #[inline]
    fn reap(&mut self, completions: &mut Vec<Completion>) {
        loop {
            let mut queue = self.ring.completion();
            let ready = queue.len();
            if ready == 0 {
                return;
            }
            completions.reserve(ready);
            let mut failed_wakes = 0u32;
            let mut context = Reaper {
                lent: &mut self.lent,
                counters: &mut self.counters,
                in_flight: &mut self.in_flight,
                tick_armed: &mut self.tick_armed,
                alarms_armed: &mut self.alarms_armed,
                peers: &self.peers,
                failed_wakes: &mut failed_wakes,
            };
            for entry in &mut queue {
                if let Some(completion) = context.decode(&entry) {
                    completions.push(completion);
                }
            }
            drop(queue);
            self.counters.completions += ready as u64;
            self.counters.wake_fallbacks += u64::from(failed_wakes);
        }
    }

    /// One turn; `enter_first` enters the kernel even if it seems to have nothing.
    #[inline]
    fn run(
        &mut self,
        wait: Wait,
        enter_first: bool,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.turn += 1;
        self.lent.small.commit();
        self.lent.large.commit();
        if self.has_tick && !self.tick_armed {
            self.arm_tick();
        }
        // What submits between the turns have left. With that in hand there is nothing to wait for.
        let before = completions.len();
        self.reap(completions);
        let mut wait = if completions.len() > before {
            Wait::Look
        } else {
            wait
        };
        let mut forced = enter_first;
        for _ in 0..MAX_ENTERS_PER_TURN {
            if !self.backlog.is_empty() {
                self.drain_backlog();
            }
            let result = match wait {
                Wait::For {
                    timeout_us,
                    min_wait_us,
                } if timeout_us > 0 => self.enter_and_wait(Some(timeout_us), min_wait_us),
                Wait::Event => self.enter_and_wait(None, 0),
                _ => {
                    // The flags are in shared memory: a turn with nothing to do costs no call.
                    let work = self.kernel_has_work();
                    if !forced && !work && self.ring.submission().is_empty() {
                        break;
                    }
                    self.enter(EnterFlags::GETEVENTS)
                }
            };
            wait = Wait::Look;
            forced = false;
            self.reap(completions);
            if let Err(error) = result {
                match error.raw_os_error() {
                    // A signal; the end of the wait; completions to be taken first, which is done.
                    Some(libc::EINTR | libc::ETIME | libc::EBUSY) => {}
                    // Short of memory: what is queued stays, and leaves with a later turn.
                    Some(libc::EAGAIN) => break,
                    _ => return Err(error),
                }
            }
        }
        // Not where requests are submitted: that can happen between keeping an address and queueing
        // the request that names it.
        if self.backlog.is_empty() && self.ring.submission().is_empty() {
            self.lent.connects.clear();
        }
        Ok(())
    }

    /// A look that enters the kernel in any case (for [`super::Parker`]). True when nothing came
    /// and nothing is pending.
    pub(super) fn look_hard(&mut self, completions: &mut Vec<Completion>) -> io::Result<bool> {
        let before = completions.len();
        self.run(Wait::Look, true, completions)?;
        Ok(completions.len() == before
            && self.backlog.is_empty()
            && self.ring.submission().is_empty()
            && !self.kernel_has_work())
    }

    /// Registers `eventfd` to be signalled when work comes in, and switches that off.
    pub(super) fn register_eventfd(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.ring
            .submitter()
            .register_eventfd(eventfd.as_raw_fd())?;
        self.switch_eventfd(false);
        Ok(())
    }

    /// Whether work that comes in from now on signals the eventfd.
    pub(super) fn switch_eventfd(&mut self, on: bool) {
        let queue = self.ring.completion();
        if on {
            queue.enable_eventfd();
        } else {
            queue.disable_eventfd();
        }
    }

    pub(super) fn update_slot(&mut self, slot: Slot, fd: &OwnedFd) -> io::Result<()> {
        self.ring
            .submitter()
            .register_files_update(slot.0, &[fd.as_raw_fd()])
            .map(drop)
    }

    /// Cancels everything and waits for it. True when nothing is in flight any more.
    fn quiesce(&mut self) -> bool {
        self.backlog.clear();
        self.has_tick = false;
        let deadline = Instant::now() + TEARDOWN;
        let mut completions = Vec::new();
        while self.in_flight > 0 && Instant::now() < deadline {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all())
                .build()
                .user_data(Token::new(Op::Cancel, 0, 0).into_raw());
            // SAFETY: it points to no memory. Without room, the next round tries again.
            unsafe { self.try_push(&cancel) };
            let wait = Wait::For {
                timeout_us: 20_000,
                min_wait_us: 0,
            };
            if self.run(wait, false, &mut completions).is_err() {
                break;
            }
            completions.clear();
        }
        self.in_flight == 0
    }
}

/// Switches a listener to blocking mode.
fn set_blocking(listener: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(listener)?;
    rustix::fs::fcntl_setfl(listener, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(())
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.quiesce() {
            // Closes the sockets now; the ring itself lives as long as the registry knows it.
            let _ = self.ring.submitter().unregister_files();
            // SAFETY: it is dropped nowhere else, and not used after this.
            unsafe { ManuallyDrop::drop(&mut self.lent) };
        }
        // Otherwise the kernel may still read or write what is lent: leaking it is the lesser evil.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Ring;

    #[test]
    fn what_the_kernel_would_not_take_leaves_later_and_in_order() {
        let mut ring = Uring::new(UringConfig {
            entries: 16,
            tick_ms: 0,
            ..UringConfig::new(Peers::new(1).unwrap(), 0)
        })
        .unwrap();
        const WAITING: u32 = 100;
        for key in 0..WAITING {
            let token = Token::new(Op::Recv, key, 0);
            let entry = opcode::Nop::new().build().user_data(token.into_raw());
            ring.backlog.push_back(entry);
        }
        assert_eq!(ring.in_flight(), u64::from(WAITING));
        // Later ones queue up behind.
        let last = Token::new(Op::Recv, WAITING, 0);
        ring.recv(Slot(0), BufferClass::Small, last);
        let behind = ring.backlog.back().unwrap().get_user_data();
        assert_eq!(behind, last.into_raw());
        let mut completions = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while ring.in_flight() > 0 {
            ring.turn(Wait::Look, &mut completions).unwrap();
            assert!(Instant::now() < deadline);
        }
        // The last one fails, and Linux 6.1 reports failures of a batch before successes.
        completions.retain(|completion| completion.token != last);
        let keys: Vec<_> = completions.iter().map(|c| c.token.key()).collect();
        assert_eq!(keys, (0..WAITING).collect::<Vec<_>>());
        assert_eq!(ring.counters().submitted, u64::from(WAITING) + 1);
    }
}
