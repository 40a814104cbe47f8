//! What all simulated rings share: sockets, tables, requests in flight, faults.

use super::buffers::Buffers;
use super::random::Random;
use super::socket::{Kind, Poll, Socket, SocketId};
use crate::ring::{ACCEPTS_PER_RING, BufferClass, Completion, Op, Payload, Slot, Token};
use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, SocketAddr};

/// How often what goes wrong, each in a thousand. All 0: nothing does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A completion waits for a later turn.
    pub(crate) late: u32,
    /// Completions come in another order than their requests.
    pub(crate) reorder: u32,
    /// A receive gets less than there is.
    pub(crate) short_receives: u32,
    /// A receive finds no buffer although there are some.
    pub(crate) no_buffers: u32,
    /// A receive is interrupted.
    pub(crate) interrupted: u32,
    /// A receive fails.
    pub(crate) receive_errors: u32,
    /// A send fails, possibly after some bytes.
    pub(crate) send_errors: u32,
    /// A poll fails.
    pub(crate) poll_errors: u32,
    /// A multishot poll ends with an event.
    pub(crate) poll_ends: u32,
    /// An accept fails.
    pub(crate) accept_errors: u32,
    /// A hand-over fails.
    pub(crate) hand_over_errors: u32,
    /// A request leaves at once, not with the next turn.
    pub(crate) early_submits: u32,
    /// A shutdown takes its time.
    pub(crate) slow_shutdowns: u32,
}

/// Turns that a completion waits at most.
const MAX_LATE_TURNS: u32 = 12;
/// Time between two ticks of a ring, in milliseconds.
const TICK_MS: u64 = 200;
/// Events that the trace keeps.
const TRACE_LINES: usize = 2000;

/// What a ring was asked for.
pub(super) enum Request {
    Accept {
        listener: u16,
        token: Token,
    },
    StopAccepting,
    Poll {
        slot: Slot,
        token: Token,
    },
    Receive {
        slot: Slot,
        class: BufferClass,
        token: Token,
    },
    Send {
        slot: Slot,
        payload: Payload,
        start: usize,
        end: usize,
        token: Token,
    },
    Shutdown {
        slot: Slot,
        how: Shutdown,
        token: Token,
    },
    Close {
        slot: Slot,
        key: u32,
        generation: u32,
        armed: Vec<Op>,
    },
    HandOver {
        slot: Slot,
        to: usize,
        arrival: Token,
        token: Token,
    },
    Wake {
        to: usize,
    },
}

/// A completion on its way, or the sign that a poll will have one.
pub(super) struct Ready {
    pub(super) completion: Completion,
    /// The socket whose poll this is for: the mask is taken when it is delivered.
    pub(super) polled: Option<SocketId>,
    pub(super) age: u32,
}

/// The send in flight of a connection: its bytes when it was submitted.
pub(super) struct Sending {
    pub(super) payload: Payload,
    pub(super) checksum: u64,
}

/// A place in a ring's table.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) socket: SocketId,
    /// The connection that uses it, from its first request on.
    pub(super) owner: Option<(u32, u32)>,
}

pub(super) struct RingState {
    pub(super) table: Vec<Option<Place>>,
    /// Per listener: whether it is a Unix socket, and who waits to be accepted.
    pub(super) listeners: Vec<(Kind, VecDeque<SocketId>)>,
    pub(super) listening: bool,
    pub(super) queue: VecDeque<Request>,
    pub(super) ready: Vec<Ready>,
    /// Places that a failed handing over has taken for good.
    pub(super) lost: Vec<Slot>,
    /// Accepts that wait for a connection.
    pub(super) accepts: VecDeque<(u16, Token)>,
    /// Shutdowns that have not found their slot yet.
    pub(super) shutdowns: Vec<(Slot, Shutdown, Token)>,
    /// Numbers of accepts whose completion has not been returned.
    pub(super) accepting: u64,
    pub(super) peers: Vec<Option<SocketAddr>>,
    pub(super) sends: HashMap<u32, Sending>,
    pub(super) small: Buffers,
    pub(super) large: Buffers,
    pub(super) parked: bool,
    pub(super) woken: bool,
    pub(super) ticked_at_ms: u64,
    pub(super) turns: u64,
}

/// What a test makes a ring of.
#[derive(Clone, Debug)]
pub(crate) struct RingSetup {
    pub(crate) slots: u32,
    pub(crate) listeners: Vec<Kind>,
    pub(crate) buffers: u16,
    pub(crate) buffer_bytes: usize,
    pub(crate) large_buffers: u16,
    pub(crate) large_buffer_bytes: usize,
}

/// Counts of what happened, for the tests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorldCounters {
    /// Connections that an accept lost because the table was full.
    pub(crate) lost_accepts: u64,
    /// Descriptors that arrived at another ring.
    pub(crate) handed_over: u64,
    /// Receives that found no buffer.
    pub(crate) starved: u64,
    /// Requests executed.
    pub(crate) requests: u64,
    /// Most accepts that waited while fewer slots were free.
    pub(crate) accepts_beyond_slots: u64,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) counters: WorldCounters,
    pub(super) rings: Vec<RingState>,
    pub(super) sockets: Vec<Socket>,
    pub(crate) now_ms: u64,
    /// The next handing over that fails leaves its socket in the other table.
    pub(crate) overflow_next: bool,
    /// A socket that leaves a table is closed only in the end (Linux before 6.13).
    pub(crate) closes_late: bool,
    /// Completions of this operation are held back.
    pub(crate) hold: Option<Op>,
    trace: Option<VecDeque<String>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            faults: Faults::default(),
            counters: WorldCounters::default(),
            rings: Vec::new(),
            sockets: Vec::new(),
            now_ms: 0,
            overflow_next: false,
            closes_late: false,
            hold: None,
            trace: None,
        }
    }

    /// Keeps the last events for [`World::take_trace`].
    pub(crate) fn keep_trace(&mut self) {
        self.trace = Some(VecDeque::new());
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().into_iter().flatten().collect()
    }

    /// Notes an event. The text is made only when somebody will read it.
    pub(crate) fn note(&mut self, event: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:>7} ms  {}", self.now_ms, event()));
        }
    }

    pub(crate) fn add_ring(&mut self, setup: &RingSetup) -> usize {
        self.rings.push(RingState {
            table: vec![None; setup.slots as usize],
            listeners: setup
                .listeners
                .iter()
                .map(|&kind| (kind, VecDeque::new()))
                .collect(),
            listening: true,
            queue: VecDeque::new(),
            ready: Vec::new(),
            lost: Vec::new(),
            accepts: VecDeque::new(),
            shutdowns: Vec::new(),
            accepting: 0,
            peers: vec![None; ACCEPTS_PER_RING as usize],
            sends: HashMap::new(),
            small: Buffers::new(setup.buffers, setup.buffer_bytes),
            large: Buffers::new(setup.large_buffers, setup.large_buffer_bytes),
            parked: false,
            woken: false,
            ticked_at_ms: 0,
            turns: 0,
        });
        self.rings.len() - 1
    }

    pub(crate) fn socket(&self, socket: SocketId) -> &Socket {
        &self.sockets[socket.0]
    }

    /// Lets time pass; rings tick.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        for ring in 0..self.rings.len() {
            if self.now_ms - self.rings[ring].ticked_at_ms >= TICK_MS {
                self.rings[ring].ticked_at_ms = self.now_ms;
                self.complete(ring, plain(Token::new(Op::Tick, 0, 0), 0));
            }
        }
    }

    /// Queues a completion.
    pub(super) fn complete(&mut self, ring: usize, completion: Completion) {
        self.rings[ring].ready.push(Ready {
            completion,
            polled: None,
            age: 0,
        });
    }

    /// Delivers a completion that nobody asked for with the ring's next turn.
    pub(crate) fn inject(&mut self, ring: usize, completion: Completion) {
        self.complete(ring, completion);
    }

    /// Whether a turn of this ring would bring something, so that its sleep is over.
    pub(crate) fn has_completions(&self, ring: usize) -> bool {
        let state = &self.rings[ring];
        (!state.shutdowns.is_empty() && self.hold != Some(Op::Shutdown))
            || state
                .ready
                .iter()
                .any(|ready| self.hold.is_none() || ready.completion.token.op() != self.hold)
    }

    /// Places of a ring's table that nobody can use or free any more.
    pub(crate) fn lost_places(&self, ring: usize) -> usize {
        self.rings[ring].lost.len()
    }

    pub(crate) fn is_parked(&self, ring: usize) -> bool {
        self.rings[ring].parked
    }

    pub(crate) fn set_parked(&mut self, ring: usize, parked: bool) {
        self.rings[ring].parked = parked;
        self.rings[ring].woken = false;
    }

    /// What is still in flight at a ring; empty when it is at rest. Accepts are not counted.
    pub(crate) fn left_over(&self, ring: usize) -> Vec<String> {
        let state = &self.rings[ring];
        let mut left = Vec::new();
        if !state.shutdowns.is_empty() {
            left.push(format!("{} shutdowns not done", state.shutdowns.len()));
        }
        if !state.queue.is_empty() {
            left.push(format!("{} requests not submitted", state.queue.len()));
        }
        for ready in &state.ready {
            let token = ready.completion.token;
            if !matches!(token.op(), Some(Op::Tick | Op::Wake)) {
                left.push(format!("completion of {token:?} not taken"));
            }
        }
        for (slot, place) in state.table.iter().enumerate() {
            let is_lost = state.lost.contains(&Slot(slot as u32));
            if let (Some(Place { socket, owner }), false) = (place, is_lost) {
                let socket = &self.sockets[socket.0];
                left.push(format!(
                    "slot {slot} in use by {owner:?} (polls {}, sends {})",
                    socket.polls.len(),
                    socket.sends.len()
                ));
            }
        }
        if !state.sends.is_empty() {
            left.push(format!("sends in flight: {:?}", state.sends.keys()));
        }
        for (name, buffers) in [("small", &state.small), ("large", &state.large)] {
            if buffers.outside() > 0 {
                left.push(format!(
                    "{} {name} buffers not given back",
                    buffers.outside()
                ));
            }
        }
        left
    }

    /// The socket in a slot, for a request of `token`'s connection.
    ///
    /// # Panics
    /// When there is none, or another connection uses it.
    pub(super) fn in_slot(&mut self, ring: usize, slot: Slot, token: Token) -> SocketId {
        let place = self.rings[ring].table[slot.0 as usize].as_mut();
        let Some(place) = place else {
            panic!("ring {ring}: {token:?} for slot {}, which is empty", slot.0);
        };
        let this = (token.key(), token.generation());
        let owner = *place.owner.get_or_insert(this);
        assert_eq!(
            owner, this,
            "ring {ring}: {token:?} for slot {}, which another connection uses",
            slot.0
        );
        place.socket
    }

    /// Puts a socket into a free slot.
    pub(super) fn install(&mut self, ring: usize, socket: SocketId) -> Option<Slot> {
        let table = &mut self.rings[ring].table;
        let free = table.iter().position(Option::is_none)?;
        table[free] = Some(Place {
            socket,
            owner: None,
        });
        let slot = Slot(free as u32);
        self.sockets[socket.0].places.push((ring, slot));
        Some(slot)
    }

    /// Something happened to a socket: its polls will say so.
    pub(super) fn edge(&mut self, socket: SocketId, data: bool) {
        let Self { sockets, rings, .. } = self;
        for poll in &mut sockets[socket.0].polls {
            if !poll.edges.any() {
                rings[poll.ring].ready.push(Ready {
                    completion: Completion {
                        more: true,
                        ..plain(poll.token, 0)
                    },
                    polled: Some(socket),
                    age: 0,
                });
            }
            if data {
                poll.edges.data += 1;
            } else {
                poll.edges.state += 1;
            }
        }
    }

    /// Arms a poll.
    pub(super) fn arm(&mut self, ring: usize, slot: Slot, token: Token) {
        let socket = self.in_slot(ring, slot, token);
        self.note(|| format!("ring {ring} waits for {socket:?} with {token:?}"));
        let state = &mut self.sockets[socket.0];
        assert!(
            !state
                .polls
                .iter()
                .any(|poll| poll.ring == ring && poll.slot == slot),
            "ring {ring}: slot {} is polled twice",
            slot.0
        );
        state.polls.push(Poll {
            ring,
            slot,
            token,
            edges: super::socket::Edges::default(),
        });
        if state.mask() != 0 {
            self.edge(socket, false);
        }
    }

    /// Turns the sign of an event into its completion; `None` when nothing is there after all.
    fn polled(&mut self, ring: usize, socket: SocketId, ready: Completion) -> Option<Completion> {
        let Self {
            sockets,
            random,
            faults,
            ..
        } = self;
        let state = &mut sockets[socket.0];
        let at = state
            .polls
            .iter()
            .position(|poll| poll.ring == ring && poll.token == ready.token)?;
        let edges = std::mem::take(&mut state.polls[at].edges);
        // One arrival of data carries its own mask; otherwise the socket is looked at now.
        let mut mask = match (edges.data, edges.state) {
            (1, 0) => i32::from(libc::POLLIN),
            _ => state.mask(),
        };
        if random.chance(faults.poll_errors) {
            state.faulted = true;
            mask = -libc::ENOMEM;
        } else if mask == 0 {
            return None;
        }
        let ends = mask < 0 || random.chance(faults.poll_ends);
        if ends {
            state.polls.remove(at);
        }
        Some(Completion {
            result: mask,
            more: !ends,
            ..ready
        })
    }

    /// Hands out what is ready, some of it late, some of it in another order.
    pub(super) fn deliver(&mut self, ring: usize, completions: &mut Vec<Completion>) {
        let ready = std::mem::take(&mut self.rings[ring].ready);
        let mut now: Vec<(u32, Ready)> = Vec::with_capacity(ready.len());
        let mut held: Vec<Token> = Vec::new();
        for mut entry in ready {
            entry.age += 1;
            let token = entry.completion.token;
            let is_poll = token.op() == Some(Op::Poll);
            let late = entry.age <= MAX_LATE_TURNS && self.random.chance(self.faults.late);
            let is_held = self.hold.is_some() && token.op() == self.hold;
            if late || is_held || (is_poll && held.contains(&token)) {
                if is_poll {
                    held.push(token);
                }
                self.rings[ring].ready.push(entry);
            } else {
                now.push((now.len() as u32, entry));
            }
        }
        if self.random.chance(self.faults.reorder) {
            self.random.shuffle(&mut now);
            restore_poll_order(&mut now);
        }
        for (_, entry) in now {
            let completion = match entry.polled {
                Some(socket) => self.polled(ring, socket, entry.completion),
                None => Some(entry.completion),
            };
            if let Some(mut completion) = completion {
                self.hand_out(ring, &mut completion);
                self.note(|| format!("ring {ring} <- {}", describe(&completion)));
                completions.push(completion);
            }
        }
    }

    /// What the ring does as it returns a completion.
    fn hand_out(&mut self, ring: usize, completion: &mut Completion) {
        let state = &mut self.rings[ring];
        match completion.token.op() {
            Some(Op::Send) => {
                if let Some(Sending { payload, checksum }) =
                    state.sends.remove(&completion.token.key())
                {
                    assert_eq!(
                        checksum,
                        sum(payload.as_slice()),
                        "ring {ring}: the bytes of {:?} changed while the ring had them",
                        completion.token
                    );
                    completion.payload = Some(payload);
                }
            }
            Some(Op::Accept) => state.accepting &= !(1 << completion.token.key()),
            Some(Op::Recv) => {
                if let Some(id) = completion.buffer {
                    state.buffers(id.class).lend(id.index);
                }
            }
            _ => {}
        }
    }
}

impl RingState {
    pub(super) fn buffers(&mut self, class: BufferClass) -> &mut Buffers {
        match class {
            BufferClass::Small => &mut self.small,
            BufferClass::Large => &mut self.large,
        }
    }
}

/// Completions of one multishot poll keep their order.
fn restore_poll_order(now: &mut [(u32, Ready)]) {
    let mut polls: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, (_, entry)) in now.iter().enumerate() {
        if entry.completion.token.op() == Some(Op::Poll) {
            polls
                .entry(entry.completion.token.into_raw())
                .or_default()
                .push(at);
        }
    }
    for places in polls.into_values().filter(|places| places.len() > 1) {
        for end in (1..places.len()).rev() {
            for at in 0..end {
                if now[places[at]].0 > now[places[at + 1]].0 {
                    now.swap(places[at], places[at + 1]);
                }
            }
        }
    }
}

/// A completion with a result and nothing else.
pub(crate) fn plain(token: Token, result: i32) -> Completion {
    Completion {
        token,
        result,
        more: false,
        nonempty: false,
        buffer: None,
        payload: None,
    }
}

/// FNV-1a over words, good enough to see that bytes changed.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |word: u64| sum = (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    for chunk in &mut chunks {
        take(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    }
    for &byte in chunks.remainder() {
        take(u64::from(byte));
    }
    sum
}

fn describe(completion: &Completion) -> String {
    let mut text = format!("{:?} = {}", completion.token, completion.result);
    if completion.more {
        text.push_str(" more");
    }
    if completion.nonempty {
        text.push_str(" nonempty");
    }
    text
}
