//! The rules of the ring, each shown on the kernel over loopback TCP.
//!
//! Nothing here sleeps to let something happen: a test waits for the completion that it expects,
//! with a deadline that only a fault reaches. Rings tick only where the tick is what is tested, so
//! a lost wake-up fails.

use super::{
    BufferClass, Completion, Op, Payload, Peers, Ring, Slot, Token, Uring, UringConfig, Wait,
};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

mod accept;
mod client;
mod close;
mod park;
mod probe;
mod receive;
mod send;
mod turn;
mod wake;

/// Longer than anything takes here, however loaded the machine is.
const DEADLINE: Duration = Duration::from_secs(30);
const GENERATION: u32 = 7;

fn token(op: Op, key: u32) -> Token {
    Token::new(op, key, GENERATION)
}

/// A ring with the completions that have come and were not asked for yet.
struct Driver {
    ring: Uring,
    waiting: Vec<Completion>,
}

impl Driver {
    /// A ring without a tick, alone in its registry.
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut UringConfig)) -> Self {
        Self::at(Peers::new(1).unwrap(), 0, change)
    }

    fn at(peers: Arc<Peers>, index: usize, change: impl FnOnce(&mut UringConfig)) -> Self {
        let mut config = UringConfig {
            entries: 64,
            completion_entries: 256,
            slots: 64,
            tick_ms: 0,
            ..UringConfig::new(peers, index)
        };
        change(&mut config);
        Self {
            ring: Uring::new(config).unwrap(),
            waiting: Vec::new(),
        }
    }

    /// A ring that accepts from a listener of its own.
    fn listening() -> (Self, SocketAddr) {
        let (listener, address) = listener();
        (
            Self::with(|config| config.listeners = vec![listener]),
            address,
        )
    }

    fn turn(&mut self, wait: Wait) {
        self.ring.turn(wait, &mut self.waiting).unwrap();
    }

    /// The next completion of `op`; others stay for later.
    fn next(&mut self, op: Op) -> Completion {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(completion) = self.take(op) {
                return completion;
            }
            assert!(
                Instant::now() < deadline,
                "no {op:?} came; waiting: {:?}",
                self.waiting
            );
            self.turn(Wait::For {
                timeout_us: 100_000,
                min_wait_us: 0,
            });
        }
    }

    /// A completion of `op` that has come already.
    fn take(&mut self, op: Op) -> Option<Completion> {
        let position = self
            .waiting
            .iter()
            .position(|completion| completion.token.op() == Some(op))?;
        Some(self.waiting.remove(position))
    }

    /// Turns until `done`, without asking for completions.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what} did not happen");
            self.turn(Wait::For {
                timeout_us: 1000,
                min_wait_us: 0,
            });
        }
    }

    /// A client and the slot of its accepted socket.
    fn connection(&mut self, address: SocketAddr) -> (TcpStream, Slot) {
        self.ring.accept(0, token(Op::Accept, 0));
        self.turn(Wait::Look);
        let client = connect(address);
        let accepted = self.next(Op::Accept);
        assert!(accepted.result >= 0, "accept: {}", accepted.result);
        (client, Slot(accepted.result as u32))
    }

    /// Receives once and gives the result, the bytes and whether there is more.
    fn receive(&mut self, slot: Slot, class: BufferClass) -> (i32, Vec<u8>, bool) {
        self.ring.recv(slot, class, token(Op::Recv, 1));
        let completion = self.next(Op::Recv);
        let bytes = self.copy(&completion);
        (completion.result, bytes, completion.nonempty)
    }

    /// The bytes of a received buffer, which goes back.
    fn copy(&mut self, completion: &Completion) -> Vec<u8> {
        let Some(id) = completion.buffer else {
            return Vec::new();
        };
        let bytes = self.ring.buffer(id)[..completion.result as usize].to_vec();
        self.ring.recycle(id);
        bytes
    }

    /// Closes a slot and waits for both completions.
    fn close(&mut self, slot: Slot) {
        self.ring.close(slot, 1, GENERATION, &[Op::Poll, Op::Send]);
        self.next(Op::Cancel);
        self.next(Op::Cancel);
        assert_eq!(self.next(Op::Close).result, 0);
    }
}

/// A listening socket on a free port of loopback.
fn listener() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Ends a connection with a reset.
fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Bytes that differ from place to place, so that losing or swapping any shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index * 7 + index / 251) as u8)
        .collect()
}

fn payload(bytes: &[u8]) -> Payload {
    Payload::shared(Bytes::copy_from_slice(bytes))
}

/// Waits until everything that was written to `stream` has arrived at the other end.
#[allow(unsafe_code)]
fn delivered(stream: &TcpStream) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut unacknowledged: libc::c_int = 0;
        // SAFETY: the request writes one int to the place it is given.
        let result =
            unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
        assert_eq!(result, 0);
        if unacknowledged == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "the bytes did not arrive");
        std::thread::yield_now();
    }
}

/// Bytes that tell when they are dropped.
struct Watched {
    bytes: Vec<u8>,
    alive: Arc<AtomicBool>,
}

impl Watched {
    fn payload(len: usize) -> (Payload, Arc<AtomicBool>) {
        let alive = Arc::new(AtomicBool::new(true));
        let watched = Self {
            bytes: pattern(len),
            alive: alive.clone(),
        };
        (Payload::shared(Bytes::from_owner(watched)), alive)
    }
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::SeqCst);
    }
}
