//! The floor of a crowd: bare accepted sockets in an epoll set, with a ping and a pong each now and then,
//! and a message to all of them now and then.
//!
//! A process may hold no more sockets than RLIMIT_NOFILE says, so there are several: this program starts
//! itself as often as `--processes` says, all listen on the same port (`SO_REUSEPORT`), and what one of them is
//! given to publish goes to the others through this one.
//!
//! Each keeps five bytes per connection beside the kernel's: the descriptor and how far it is. A `subscribe`
//! is answered, a `publish` becomes the frame that ringwire would make of it, byte for byte as long, and
//! goes to every subscriber with a `send` of its own. Heartbeats leave from a cursor that goes round over all
//! connections in the time between two of them, in steps as long as those of ringwire's sweep; each is a `send` of
//! two bytes, and its answer a `recv` of six.

mod frames;
mod replies;
mod upgrade;

use std::collections::HashMap;
use std::io::{Stdin, stdin};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser;
use memchr::memmem;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, recv, send,
    socketpair,
};
use socket2::{Domain, Socket, Type};

use replies::{Gone, frame, send_all, string_after};

const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 512;
/// `EventData` of the listener and of the channel to the other processes; connections have their descriptor.
const LISTENER: u64 = u64::MAX;
const OTHERS: u64 = u64::MAX - 1;
/// FIN and the opcode of a text frame.
const TEXT: u8 = 0x81;
/// FIN and the opcode of a ping, and no payload.
const PING: [u8; 2] = [0x80 | frames::PING, 0];
/// Between two steps of the heartbeats.
const STEP: Duration = Duration::from_millis(50);
/// A process says this when it listens.
const READY: &[u8] = b"ready";

#[derive(Parser)]
#[command(about = "Bare sockets in epoll sets, with heartbeats and messages to all of them")]
struct Arguments {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// Processes that hold connections.
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// Time between two heartbeats of a connection, in milliseconds; 0: none.
    #[arg(long, default_value_t = 0)]
    heartbeat_ms: u32,
    /// Hold connections; what it shares with the others comes on standard input.
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.worker {
        return Worker::new(&arguments)?.run();
    }
    ringwire::topology::raise_nofile();
    // Bound and never listening: it keeps the port, and gets no connection.
    let place = bound(arguments.listen)?;
    let address = place.local_addr()?.as_socket().context("not an address")?;
    let (mut workers, mut channels) = (Vec::new(), Vec::new());
    for _ in 0..arguments.processes {
        let (worker, channel) = start(address, &arguments)?;
        workers.push(worker);
        channels.push(channel);
    }
    let mut buffer = vec![0; READ_BYTES];
    for channel in &channels {
        let (_, length) = recv(channel, &mut buffer[..], RecvFlags::empty())?;
        anyhow::ensure!(&buffer[..length] == READY, "a worker could not start");
    }
    println!("listening on ws://{address}/ws");
    // When this process ends, the workers read the end of their input and end as well.
    pass_on(&channels, &mut buffer)
}

/// Gives what one process says to all others.
fn pass_on(channels: &[OwnedFd], buffer: &mut [u8]) -> anyhow::Result<()> {
    loop {
        let mut polled: Vec<PollFd<'_>> = channels
            .iter()
            .map(|channel| PollFd::new(channel, PollFlags::IN))
            .collect();
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let from: Vec<usize> = (0..channels.len())
            .filter(|&channel| !polled[channel].revents().is_empty())
            .collect();
        for from in from {
            let (_, length) = recv(&channels[from], &mut *buffer, RecvFlags::empty())?;
            anyhow::ensure!(length > 0, "a worker ended");
            for (to, channel) in channels.iter().enumerate() {
                if to != from {
                    send(channel, &buffer[..length], SendFlags::NOSIGNAL)?;
                }
            }
        }
    }
}

/// Starts a process that holds connections, with a channel to it that keeps the bounds of messages.
fn start(address: SocketAddr, arguments: &Arguments) -> anyhow::Result<(Child, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let worker = Program::new(std::env::current_exe()?)
        .args(["--worker", "--listen", &address.to_string()])
        .args(["--heartbeat-ms", &arguments.heartbeat_ms.to_string()])
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start a worker")?;
    Ok((worker, ours))
}

/// A socket on an address that others share.
fn bound(address: SocketAddr) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    None,
    Upgrading,
    Open,
    Subscribed,
}

struct Worker {
    epoll: OwnedFd,
    listener: Socket,
    /// Where the other processes are heard and told.
    others: Stdin,
    /// By descriptor; of those without a connection there is none.
    sockets: Vec<Option<OwnedFd>>,
    stages: Vec<Stage>,
    /// What has come of a frame or a request that is not complete.
    partial: HashMap<usize, Vec<u8>>,
    buffer: Vec<u8>,
    /// Messages to all so far, by all processes.
    published: u64,
    heartbeat: Duration,
    cursor: usize,
    stepped: Instant,
}

impl Worker {
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let listener = bound(arguments.listen)?;
        listener.listen(4096)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, EventFlags::IN)?;
        let others = stdin();
        epoll::add(&epoll, &others, EventData::new_u64(OTHERS), EventFlags::IN)?;
        send(&others, READY, SendFlags::NOSIGNAL)?;
        Ok(Self {
            epoll,
            listener,
            others,
            sockets: Vec::new(),
            stages: Vec::new(),
            partial: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            published: 0,
            heartbeat: Duration::from_millis(arguments.heartbeat_ms.into()),
            cursor: 0,
            stepped: Instant::now(),
        })
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let mut events = Vec::<Event>::with_capacity(EVENTS);
        loop {
            let wait = (!self.heartbeat.is_zero()).then(|| {
                let left = STEP.saturating_sub(self.stepped.elapsed());
                Timespec {
                    tv_sec: 0,
                    tv_nsec: left.as_nanos() as _,
                }
            });
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    OTHERS => {
                        let (_, length) =
                            recv(&self.others, &mut self.buffer[..], RecvFlags::empty())?;
                        if length == 0 {
                            return Ok(());
                        }
                        let published = self.buffer[..length].to_vec();
                        self.send_to_all(&published);
                    }
                    descriptor => self.ready(descriptor as usize),
                }
            }
            if wait.is_some() && self.stepped.elapsed() >= STEP {
                self.step();
            }
        }
    }

    /// Sends the heartbeats that are due.
    fn step(&mut self) {
        let elapsed = self.stepped.elapsed();
        self.stepped = Instant::now();
        let all = self.sockets.len();
        let part = elapsed.as_secs_f64() / self.heartbeat.as_secs_f64();
        let due = (all as f64 * part).ceil() as usize;
        for _ in 0..due.min(all) {
            self.cursor = (self.cursor + 1) % all;
            let open = matches!(self.stages[self.cursor], Stage::Open | Stage::Subscribed);
            if let (true, Some(socket)) = (open, &self.sockets[self.cursor]) {
                // Who takes nothing, or is gone, is noticed by its own event.
                let _ = send(socket, &PING, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error).context("cannot accept"),
            };
            let descriptor = socket.as_raw_fd() as usize;
            let data = EventData::new_u64(descriptor as u64);
            epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
            while self.sockets.len() <= descriptor {
                self.sockets.push(None);
                self.stages.push(Stage::None);
            }
            self.sockets[descriptor] = Some(socket);
            self.stages[descriptor] = Stage::Upgrading;
        }
    }

    fn ready(&mut self, descriptor: usize) {
        if self.read(descriptor).is_err() {
            self.sockets[descriptor] = None; // which takes it out of epoll
            self.stages[descriptor] = Stage::None;
            self.partial.remove(&descriptor);
        }
    }

    fn read(&mut self, descriptor: usize) -> Result<(), Gone> {
        let socket = self.sockets[descriptor].as_ref().ok_or(Gone)?;
        let carried = self.partial.remove(&descriptor).unwrap_or_default();
        // A floor's clients send nothing long.
        let room = self.buffer.get_mut(carried.len()..).ok_or(Gone)?;
        let received = match recv(socket, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Gone),
            Ok((_, received)) => received,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return Err(Gone),
        };
        self.buffer[..carried.len()].copy_from_slice(&carried);
        let end = carried.len() + received;
        let mut read = 0;
        if self.stages[descriptor] == Stage::Upgrading {
            match upgrade::read(&self.buffer[..end]) {
                upgrade::Upgrade::Partial => {}
                upgrade::Upgrade::Accepted { response, consumed } => {
                    self.stages[descriptor] = Stage::Open;
                    send_all(socket, &response)?;
                    read = consumed;
                }
                upgrade::Upgrade::Refused(reason) => {
                    eprintln!("no upgrade: {reason}");
                    return Err(Gone);
                }
            }
        }
        while self.stages[descriptor] != Stage::Upgrading
            && let Some(frame) = frames::read(&self.buffer[read..end]).map_err(|_| Gone)?
        {
            let payload = read + frame.payload_at..read + frame.len();
            read = payload.end;
            if frame.opcode() == frames::PONG {
                continue;
            }
            frames::unmask(&mut self.buffer[payload.clone()], frame.mask);
            let payload = self.buffer[payload].to_vec();
            self.obey(descriptor, frame.opcode(), &payload)?;
        }
        if read < end {
            let rest = self.buffer[read..end].to_vec();
            self.partial.insert(descriptor, rest);
        }
        Ok(())
    }

    /// Does what a message asks for. An unknown one ends the connection: a floor does not guess.
    fn obey(&mut self, descriptor: usize, opcode: u8, payload: &[u8]) -> Result<(), Gone> {
        let socket = self.sockets[descriptor].as_ref().ok_or(Gone)?;
        if opcode == frames::PING {
            return send_all(socket, &frame(0x80 | frames::PONG, payload));
        }
        let channel = string_after(payload, br#""channel":""#).filter(|_| opcode != frames::CLOSE);
        let channel = String::from_utf8_lossy(channel.ok_or(Gone)?);
        if memmem::find(payload, br#""type":"subscribe""#).is_some() {
            self.stages[descriptor] = Stage::Subscribed;
            let answer = format!(
                r#"{{"type":"subscribed","channel":"{channel}","offset":{},"epoch":0}}"#,
                self.published
            );
            return send_all(socket, &frame(TEXT, answer.as_bytes()));
        }
        if memmem::find(payload, br#""type":"publish""#).is_none() {
            return Err(Gone);
        }
        let data = string_after(payload, br#""data":""#).ok_or(Gone)?;
        let ms = SystemTime::now().duration_since(UNIX_EPOCH);
        let ms = ms.map_or(0, |time| time.as_millis());
        let number = self.published + 1;
        let message = format!(
            r#"{{"type":"message","channel":"{channel}","from":null,"data":"{}","offset":{},"timestamp":{}.{:03}}}"#,
            String::from_utf8_lossy(data),
            number,
            ms / 1000,
            ms % 1000
        );
        let frame = frame(TEXT, message.as_bytes());
        send(&self.others, &frame, SendFlags::NOSIGNAL)?;
        self.send_to_all(&frame);
        Ok(())
    }

    /// The loop that a broadcast is compared with.
    fn send_to_all(&mut self, frame: &[u8]) {
        self.published += 1;
        for (socket, stage) in self.sockets.iter().zip(&self.stages) {
            if let (Some(socket), Stage::Subscribed) = (socket, stage) {
                // A subscriber that is gone is noticed, and removed, by its own event.
                let _ = send_all(socket, frame);
            }
        }
    }
}
