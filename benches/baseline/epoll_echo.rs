//! The peer that `/echo` is measured against: one thread, epoll, recv, send, and nothing else.
//!
//! It is written to be hard to beat: one receive buffer of 64 KiB for all connections; frames are
//! parsed, unmasked and turned into answers in place; all answers to one read leave with one
//! `send`; an idle or half-read connection costs no system call; edge-triggered, so that the kernel
//! does not look at a connection a second time after it was read (`--trigger level` does it the
//! other way, for comparison). Frames are echoed one by one, as they are; text is not validated.
//!
//! With `--hold` it answers upgrades and then leaves the sockets alone, outside of epoll: what a
//! bare socket costs the kernel.

mod frames;
mod upgrade;

use std::net::{Ipv4Addr, SocketAddr};

use clap::{Parser, ValueEnum};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use slab::Slab;
use socket2::{Domain, Socket, Type};

/// One read takes at most this many bytes.
const READ_BYTES: usize = 64 * 1024;
/// Events per `epoll_wait`.
const EVENTS: usize = 512;
/// `EventData` of the listener; connections have their key in the slab.
const LISTENER: u64 = u64::MAX;

#[derive(Parser)]
#[command(about = "A plain epoll echo of WebSocket frames, on one thread")]
struct Arguments {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// How epoll reports a connection that stays readable.
    #[arg(long, value_enum, default_value_t = Trigger::Edge)]
    trigger: Trigger,
    /// Answer upgrades, then hold the sockets outside of epoll.
    #[arg(long)]
    hold: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Trigger {
    Edge,
    Level,
}

struct Connection {
    socket: OwnedFd,
    /// The upgrade was answered.
    open: bool,
    /// Close it once everything was sent.
    closing: bool,
    /// The start of a frame whose rest has not arrived.
    partial: Vec<u8>,
    /// Answers that the socket did not take; nothing is read while there are some.
    unsent: Vec<u8>,
    /// Level-triggered: epoll waits until the socket takes more, instead of for input.
    blocked: bool,
}

/// Why a connection ends.
struct Gone;

impl From<Errno> for Gone {
    fn from(_: Errno) -> Self {
        Self
    }
}

struct Server {
    epoll: OwnedFd,
    arguments: Arguments,
    connections: Slab<Connection>,
    buffer: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listener = listen(arguments.listen)?;
    let address = listener
        .local_addr()?
        .as_socket()
        .unwrap_or(arguments.listen);
    println!("listening on ws://{address}/echo");

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut server = Server {
        epoll,
        arguments,
        connections: Slab::new(),
        buffer: vec![0; READ_BYTES],
    };
    let mut events = Vec::<Event>::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(
            &server.epoll,
            rustix::buffer::spare_capacity(&mut events),
            None,
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => server.accept(&listener)?,
                key => server.ready(key as usize, event.flags),
            }
        }
    }
}

/// A listener whose accepted sockets inherit `TCP_NODELAY`.
fn listen(address: SocketAddr) -> anyhow::Result<Socket> {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.set_tcp_nodelay(true)?;
    listener.set_nonblocking(true)?;
    listener.bind(&address.into())?;
    listener.listen(4096)?;
    Ok(listener)
}

impl Server {
    fn accept(&mut self, listener: &Socket) -> anyhow::Result<()> {
        loop {
            let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            let entry = self.connections.vacant_entry();
            let flags = match self.arguments.trigger {
                Trigger::Edge => {
                    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
                }
                Trigger::Level => EventFlags::IN,
            };
            epoll::add(
                &self.epoll,
                &socket,
                EventData::new_u64(entry.key() as u64),
                flags,
            )?;
            entry.insert(Connection {
                socket,
                open: false,
                closing: false,
                partial: Vec::new(),
                unsent: Vec::new(),
                blocked: false,
            });
        }
    }

    fn ready(&mut self, key: usize, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(key) else {
            return; // closed by an earlier event of the same batch
        };
        let outcome = if flags.contains(EventFlags::OUT) && !connection.unsent.is_empty() {
            connection.flush()
        } else {
            Ok(())
        };
        let outcome = outcome
            .and_then(|()| connection.read(&mut self.buffer, &self.arguments, flags))
            .and_then(|()| connection.settle(&self.epoll, key, &self.arguments));
        if outcome.is_err() {
            self.connections.remove(key); // closing the descriptor takes it out of epoll
        }
    }
}

impl Connection {
    /// Reads what is there and answers it.
    fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        arguments: &Arguments,
        flags: EventFlags,
    ) -> Result<(), Gone> {
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        while self.unsent.is_empty() {
            let carried = self.partial.len();
            if buffer.len() < carried + READ_BYTES {
                buffer.resize(carried + READ_BYTES, 0);
            }
            buffer[..carried].copy_from_slice(&self.partial);
            let room = &mut buffer[carried..];
            let capacity = room.len();
            let received = match recv(&self.socket, room, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Gone),
                Ok((_, received)) => received,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Gone),
            };
            self.partial.clear();
            let filled = &mut buffer[..carried + received];
            if self.open {
                self.echo(filled)?;
            } else {
                self.upgrade(filled)?;
            }
            // A short read emptied the socket: what comes later is a new event.
            if arguments.trigger == Trigger::Level || (received < capacity && !ends) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn upgrade(&mut self, input: &mut [u8]) -> Result<(), Gone> {
        match upgrade::read(input) {
            upgrade::Upgrade::Partial => {
                self.partial.extend_from_slice(input);
                Ok(())
            }
            upgrade::Upgrade::Accepted { response, consumed } => {
                self.open = true;
                self.send(&response)?;
                match &mut input[consumed..] {
                    [] => Ok(()),
                    frames => self.echo(frames),
                }
            }
            upgrade::Upgrade::Refused(reason) => {
                eprintln!("no upgrade: {reason}");
                Err(Gone)
            }
        }
    }

    /// Turns all complete frames of `input` into one run of answers and sends it.
    fn echo(&mut self, input: &mut [u8]) -> Result<(), Gone> {
        let mut read = 0;
        // The answers: `input[start..end]`, always before `read`.
        let (mut start, mut end) = (0, 0);
        while !self.closing {
            let Some(frame) = frames::read(&input[read..]).map_err(|_| Gone)? else {
                break;
            };
            let payload_at = read + frame.payload_at;
            let payload = payload_at..payload_at + frame.payload_len;
            read += frame.len();
            let first = match frame.opcode() {
                frames::PING => 0x80 | frames::PONG,
                frames::PONG => continue,
                frames::CLOSE => {
                    self.closing = true;
                    frame.first
                }
                _ => frame.first,
            };
            frames::unmask(&mut input[payload.clone()], frame.mask);
            let header = frames::header_len(frame.payload_len);
            if start == end {
                // The answer's header is four bytes shorter: it fits right before the payload.
                start = payload.start - header;
                end = payload.end;
                frames::write_header(&mut input[start..payload.start], first, frame.payload_len);
            } else {
                frames::write_header(&mut input[end..end + header], first, frame.payload_len);
                input.copy_within(payload, end + header);
                end += header + frame.payload_len;
            }
        }
        self.partial.extend_from_slice(&input[read..]);
        if start < end {
            self.send(&input[start..end])?;
        }
        Ok(())
    }

    /// Sends `bytes`, or keeps what the socket does not take.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let sent = if self.unsent.is_empty() {
            send_some(&self.socket, bytes)?
        } else {
            0
        };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        let sent = send_some(&self.socket, &self.unsent)?;
        self.unsent.drain(..sent);
        Ok(())
    }

    /// After an event: ends a closing connection, and tells epoll what to wait for.
    fn settle(&mut self, epoll: &OwnedFd, key: usize, arguments: &Arguments) -> Result<(), Gone> {
        if self.closing && self.unsent.is_empty() {
            return Err(Gone);
        }
        if arguments.hold && self.open {
            epoll::delete(epoll, &self.socket)?;
            self.partial = Vec::new();
        } else if arguments.trigger == Trigger::Level && self.blocked == self.unsent.is_empty() {
            self.blocked = !self.blocked;
            let flags = if self.blocked {
                EventFlags::OUT
            } else {
                EventFlags::IN
            };
            epoll::modify(epoll, &self.socket, EventData::new_u64(key as u64), flags)?;
        }
        Ok(())
    }
}

fn send_some(socket: impl AsFd, bytes: &[u8]) -> Result<usize, Gone> {
    match send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(_) => Err(Gone),
    }
}
