//! The floor of a fan-out: a bare loop of `send` over all subscribers, on one thread.
//!
//! It speaks just enough of the protocol for the same client that measures ringwire: a text message
//! with `"type":"subscribe"` makes its connection a subscriber and is acknowledged, one with
//! `"type":"publish"` sends the string in `"data"` to every subscriber as one text message of its
//! own, one `send` each, in the order of subscription, and is not
//! acknowledged. No channels, no queues, no JSON beyond finding those strings.

mod frames;
mod replies;
mod upgrade;

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;
use memchr::memmem;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use replies::{Gone, frame, send_all, string_after};

const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 512;
const LISTENER: u64 = u64::MAX;
/// FIN and the opcode of a text frame.
const TEXT: u8 = 0x81;

#[derive(Parser)]
#[command(about = "A bare loop of send over all subscribers, on one thread")]
struct Arguments {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
}

struct Connection {
    socket: OwnedFd,
    open: bool,
    subscribed: bool,
    partial: Vec<u8>,
}

/// What one connection's input asks for.
enum Command {
    Subscribe,
    /// The frame that goes to the subscribers.
    Publish(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

struct Server {
    epoll: OwnedFd,
    connections: Slab<Connection>,
    /// Keys of the subscribers, in the order of subscription.
    subscribers: Vec<usize>,
    buffer: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listener = Socket::new(Domain::for_address(arguments.listen), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.set_tcp_nodelay(true)?;
    listener.set_nonblocking(true)?;
    listener.bind(&arguments.listen.into())?;
    listener.listen(4096)?;
    let address = listener
        .local_addr()?
        .as_socket()
        .unwrap_or(arguments.listen);
    println!("listening on ws://{address}/ws");

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, data, EventFlags::IN)?;
    let mut server = Server {
        epoll,
        connections: Slab::new(),
        subscribers: Vec::new(),
        buffer: vec![0; READ_BYTES],
    };
    let mut events = Vec::<Event>::with_capacity(EVENTS);
    loop {
        events.clear();
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&server.epoll, room, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => server.accept(&listener)?,
                key => server.ready(key as usize),
            }
        }
    }
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
            let data = EventData::new_u64(entry.key() as u64);
            epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
            entry.insert(Connection {
                socket,
                open: false,
                subscribed: false,
                partial: Vec::new(),
            });
        }
    }

    fn ready(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mut commands = Vec::new();
        let outcome = connection
            .read(&mut self.buffer, &mut commands)
            .and_then(|()| {
                commands
                    .into_iter()
                    .try_for_each(|command| self.obey(key, command))
            });
        if outcome.is_err() {
            self.drop_connection(key);
        }
    }

    fn drop_connection(&mut self, key: usize) {
        if self.connections.remove(key).subscribed {
            self.subscribers.retain(|&subscriber| subscriber != key);
        }
    }

    fn obey(&mut self, key: usize, command: Command) -> Result<(), Gone> {
        let connection = self.connections.get_mut(key).ok_or(Gone)?;
        match command {
            Command::Subscribe => {
                if !connection.subscribed {
                    connection.subscribed = true;
                    self.subscribers.push(key);
                }
                send_all(
                    &connection.socket,
                    &frame(TEXT, br#"{"type":"subscribed"}"#),
                )
            }
            Command::Publish(frame) => {
                // The loop that everything above the floor is compared to.
                for &subscriber in &self.subscribers {
                    // A subscriber that is gone is noticed, and removed, by its own event.
                    let _ = send_all(&self.connections[subscriber].socket, &frame);
                }
                Ok(())
            }
            Command::Pong(frame) => send_all(&connection.socket, &frame),
            Command::Close => Err(Gone),
        }
    }
}

impl Connection {
    fn read(&mut self, buffer: &mut Vec<u8>, commands: &mut Vec<Command>) -> Result<(), Gone> {
        let carried = self.partial.len();
        if buffer.len() < carried + READ_BYTES {
            buffer.resize(carried + READ_BYTES, 0);
        }
        buffer[..carried].copy_from_slice(&self.partial);
        let received = match recv(&self.socket, &mut buffer[carried..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Gone),
            Ok((_, received)) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Gone),
        };
        self.partial.clear();
        let mut input = &mut buffer[..carried + received];
        if !self.open {
            match upgrade::read(input) {
                upgrade::Upgrade::Partial => {
                    self.partial.extend_from_slice(input);
                    return Ok(());
                }
                upgrade::Upgrade::Accepted { response, consumed } => {
                    self.open = true;
                    send_all(&self.socket, &response)?;
                    input = &mut input[consumed..];
                }
                upgrade::Upgrade::Refused(reason) => {
                    eprintln!("no upgrade: {reason}");
                    return Err(Gone);
                }
            }
        }
        while let Some(frame) = frames::read(input).map_err(|_| Gone)? {
            let (whole, rest) = input.split_at_mut(frame.len());
            let payload = &mut whole[frame.payload_at..];
            frames::unmask(payload, frame.mask);
            commands.extend(command(frame.opcode(), payload)?);
            input = rest;
        }
        self.partial.extend_from_slice(input);
        Ok(())
    }
}

/// What a message asks for. An unknown one ends the connection: a floor does not guess.
fn command(opcode: u8, payload: &[u8]) -> Result<Option<Command>, Gone> {
    match opcode {
        frames::PONG => return Ok(None),
        frames::PING => return Ok(Some(Command::Pong(frame(0x80 | frames::PONG, payload)))),
        frames::CLOSE => return Ok(Some(Command::Close)),
        _ => {}
    }
    if memmem::find(payload, br#""type":"publish""#).is_some() {
        let data = string_after(payload, br#""data":""#).ok_or(Gone)?;
        Ok(Some(Command::Publish(frame(TEXT, data))))
    } else if memmem::find(payload, br#""type":"subscribe""#).is_some() {
        Ok(Some(Command::Subscribe))
    } else {
        Err(Gone)
    }
}
