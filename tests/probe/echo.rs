//! An echo server that does what RFC 6455 says, but for one thing.

use ringwire::wire::upgrade::AcceptKey;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// Nothing is wrong.
    None,
    WrongAcceptKey,
    UnaskedExtension,
    UnaskedSubprotocol,
    /// A status other than 101.
    Status(u16),
    /// Nothing at all in answer to the handshake.
    ClosesAtOnce,
    AcceptsBadHandshake,
    /// One of the messages is never sent back.
    DropsMessage(usize),
    /// Two messages change places.
    SwapsMessages(usize),
    ChangesByte(Kind),
    BinaryAsText,
    DropsEmpty,
    /// Parses JSON and writes it again.
    RewritesJson,
    /// Longer messages come back cut.
    Cuts(usize),
    NoPongBetweenFragments,
    WrongPong,
    ClosesAtPong,
    NeverAnswersClose,
    ClosesWith(u16),
    KeepsTcpOpen,
    TakesUnmasked,
    TakesReservedBits,
    TakesReservedOpcode,
    TakesInvalidUtf8,
    TakesFragmentedPing,
    TakesContinuation,
    /// Violations end the connection, but with this code.
    RefusesWith(u16),
    /// Violations end the connection without a word, which is allowed.
    RefusesSilently,
    /// Falls silent on a connection after so many messages of the shape the probe measures with.
    Tires(usize),
    /// Closes a connection on which nothing was said for so many milliseconds.
    ClosesIdle(u64),
    /// Serves only so many connections at a time.
    Full(usize),
    /// Serves nobody any more after a connection was reset.
    DiesOfReset,
    /// Serves nobody any more after so many connections.
    Ends(usize),
    /// Sends messages of its own after the handshake.
    Greets(usize),
    /// Answers nothing, and sends nothing.
    Mute,
    /// Sends an echo back while it still reads, in fragments.
    Streams,
}

/// Which message the byte is changed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Utf8,
    Binary,
}

/// A running server; it ends with the process.
#[derive(Clone, Debug)]
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    quirk: Quirk,
    dead: AtomicBool,
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
}

/// A connection, with TLS or without.
pub(crate) trait Link: Read + Write {
    /// Says that nothing more comes.
    fn finish(&mut self);
    /// The socket below.
    fn tcp(&self) -> &TcpStream;
}

impl Link for TcpStream {
    fn finish(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Echo {
    /// A server without TLS.
    pub(crate) fn start(quirk: Quirk) -> Self {
        Self::with(quirk, |stream| Ok(Box::new(stream)))
    }

    /// A server that does more on each connection first.
    pub(crate) fn with(
        quirk: Quirk,
        layer: impl Fn(TcpStream) -> io::Result<Box<dyn Link>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(State {
                quirk,
                dead: AtomicBool::new(false),
                connections: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                requests: AtomicUsize::new(0),
            }),
        };
        let (state, layer) = (server.state.clone(), Arc::new(layer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (state, layer) = (state.clone(), layer.clone());
                thread::spawn(move || {
                    let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
                    let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
                    // Only when the last connection has ended is it known how.
                    while state.quirk == Quirk::DiesOfReset && state.open.load(Ordering::SeqCst) > 1
                    {
                        thread::sleep(Duration::from_millis(1));
                    }
                    let refused = match state.quirk {
                        Quirk::Full(most) => open > most,
                        Quirk::Ends(most) => number > most,
                        _ => false,
                    };
                    if !refused && !state.dead.load(Ordering::SeqCst) {
                        let _ = stream.set_nodelay(true);
                        let result = layer(stream).and_then(|link| Peer::serve(link, &state));
                        let reset = result
                            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
                        if reset && state.quirk == Quirk::DiesOfReset {
                            state.dead.store(true, Ordering::SeqCst);
                        }
                    }
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

struct Peer<'a> {
    link: Box<dyn Link>,
    quirk: Quirk,
    state: &'a State,
    /// The message so far: its opcode and payload.
    message: Option<(u8, Vec<u8>)>,
    /// Messages that came back, or should have.
    count: usize,
    probes: usize,
    /// The message that waits to change places with the next.
    held: Option<(u8, Vec<u8>)>,
}

/// How a connection goes on after a frame.
#[derive(PartialEq, Eq)]
enum Next {
    Frame,
    Finish,
}

impl<'a> Peer<'a> {
    fn serve(link: Box<dyn Link>, state: &'a State) -> io::Result<()> {
        let mut peer = Self {
            link,
            quirk: state.quirk,
            state,
            message: None,
            count: 0,
            probes: 0,
            held: None,
        };
        if peer.handshake()? {
            if let Quirk::Greets(count) = peer.quirk {
                for number in 0..count {
                    peer.send(0x81, format!("welcome {number}").as_bytes())?;
                }
            }
            while peer.frame()? == Next::Frame {}
        }
        if peer.quirk == Quirk::KeepsTcpOpen {
            // Until the client has enough.
            io::copy(&mut peer.link, &mut io::sink())?;
        }
        peer.link.finish();
        io::copy(&mut peer.link, &mut io::sink())?;
        Ok(())
    }

    fn handshake(&mut self) -> io::Result<bool> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.link.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        self.state.requests.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8(head).expect("an ASCII request");
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (own, value) = line.split_once(": ")?;
                own.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let more = match self.quirk {
            Quirk::ClosesAtOnce => return Ok(false),
            Quirk::Status(status) => {
                write!(
                    self.link,
                    "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n"
                )?;
                return Ok(false);
            }
            Quirk::UnaskedExtension => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            Quirk::UnaskedSubprotocol => "Sec-WebSocket-Protocol: chat\r\n",
            _ => "",
        };
        let version = header("Sec-WebSocket-Version");
        if version.as_deref() != Some("13") && self.quirk != Quirk::AcceptsBadHandshake {
            write!(self.link, "HTTP/1.1 400 Bad Request\r\n\r\n")?;
            return Ok(false);
        }
        let mut key = header("Sec-WebSocket-Key").expect("a key");
        if self.quirk == Quirk::WrongAcceptKey {
            key = "dGhlIHNhbXBsZSBub25jZQ==".into();
        }
        let accept = AcceptKey::derive(key.as_bytes());
        write!(
            self.link,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{more}\r\n",
            String::from_utf8_lossy(accept.as_bytes())
        )?;
        Ok(true)
    }

    /// Sends a frame; `first` is its first byte.
    fn send(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length @ 126..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.link.write_all(&frame)?;
        self.link.flush()
    }

    fn read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.link.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Ends the connection because of what the client did.
    fn refuse(&mut self, code: u16) -> io::Result<Next> {
        let code = match self.quirk {
            Quirk::RefusesSilently => return Ok(Next::Finish),
            Quirk::RefusesWith(other) => other,
            _ => code,
        };
        self.send(0x88, &code.to_be_bytes())?;
        Ok(Next::Finish)
    }

    /// Reads a frame and answers it.
    fn frame(&mut self) -> io::Result<Next> {
        if let Quirk::ClosesIdle(ms) = self.quirk {
            let patience = Duration::from_millis(ms);
            self.link.tcp().set_read_timeout(Some(patience))?;
        }
        let head = match self.read(2) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.refuse(1001),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::Finish),
            head => head?,
        };
        let (first, masked) = (head[0], head[1] & 0x80 != 0);
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.read(2)?.try_into().unwrap())),
            127 => u64::from_be_bytes(self.read(8)?.try_into().unwrap()),
            length => length.into(),
        };
        let key = if masked { self.read(4)? } else { vec![0; 4] };
        if self.quirk == Quirk::Streams && first & 0xf == 2 && length > 1 << 20 {
            return self.stream(length as usize, &key);
        }
        let mut payload = self.read(length as usize)?;
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
        let (fin, opcode) = (first & 0x80 != 0, first & 0xf);
        if (first & 0x70 != 0 && self.quirk != Quirk::TakesReservedBits)
            || (!masked && self.quirk != Quirk::TakesUnmasked)
        {
            return self.refuse(1002);
        }
        match opcode {
            0..=2 => self.data(fin, opcode, payload),
            3 if self.quirk == Quirk::TakesReservedOpcode => self.data(fin, 1, payload),
            8..=10 if !fin && self.quirk != Quirk::TakesFragmentedPing => self.refuse(1002),
            8 => match self.quirk {
                Quirk::NeverAnswersClose => Ok(Next::Frame),
                Quirk::ClosesWith(code) => {
                    self.send(0x88, &code.to_be_bytes())?;
                    Ok(Next::Finish)
                }
                _ => {
                    self.send(0x88, &payload[..payload.len().min(2)])?;
                    Ok(Next::Finish)
                }
            },
            9 => {
                let between = self.message.is_some();
                if self.quirk == Quirk::WrongPong {
                    payload.push(b'!');
                    payload.truncate(125);
                    payload[0] = b'?';
                }
                if !(between && self.quirk == Quirk::NoPongBetweenFragments) {
                    self.send(0x8a, &payload)?;
                }
                Ok(Next::Frame)
            }
            10 if self.quirk == Quirk::ClosesAtPong => self.refuse(1002),
            10 => Ok(Next::Frame),
            _ => self.refuse(1002),
        }
    }

    fn data(&mut self, fin: bool, opcode: u8, mut payload: Vec<u8>) -> io::Result<Next> {
        let (kind, message) = match (opcode, self.message.take()) {
            (0, None) if self.quirk == Quirk::TakesContinuation => (1, payload),
            (0, Some((kind, mut message))) => {
                message.append(&mut payload);
                (kind, message)
            }
            (0, None) | (1 | 2, Some(_)) => return self.refuse(1002),
            (kind, _) => (kind, payload),
        };
        if !fin {
            self.message = Some((kind, message));
            return Ok(Next::Frame);
        }
        let invalid = kind == 1 && std::str::from_utf8(&message).is_err();
        if invalid && self.quirk != Quirk::TakesInvalidUtf8 {
            return self.refuse(1007);
        }
        self.count += 1;
        self.echo(kind, message)?;
        Ok(Next::Frame)
    }

    /// Sends a message back, or does something else.
    fn echo(&mut self, mut kind: u8, mut message: Vec<u8>) -> io::Result<()> {
        let probe = message.starts_with(b"probe ");
        self.probes += usize::from(probe);
        match self.quirk {
            Quirk::Mute => return Ok(()),
            Quirk::DropsMessage(number) if self.count == number => return Ok(()),
            Quirk::DropsEmpty if message.is_empty() => return Ok(()),
            Quirk::Tires(most) if probe && self.probes > most => return Ok(()),
            Quirk::SwapsMessages(number) if self.count == number => {
                self.held = Some((kind, message));
                return Ok(());
            }
            Quirk::ChangesByte(changed) => {
                let this = match (kind, message.is_ascii()) {
                    (2, _) => Kind::Binary,
                    (_, true) => Kind::Text,
                    _ => Kind::Utf8,
                };
                // Not those that other tests send: JSON, fragments, numbers, nothing, what is large.
                let others = [&b"{"[..], b"in ", b"0", b"probe "];
                let chosen = this == changed
                    && (1..1_000).contains(&message.len())
                    && !others.iter().any(|start| message.starts_with(start));
                if chosen {
                    // Which leaves UTF-8 valid.
                    message[0] ^= 1;
                }
            }
            Quirk::BinaryAsText if kind == 2 && message.is_ascii() => kind = 1,
            Quirk::Cuts(most) => message.truncate(most),
            Quirk::RewritesJson => {
                if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&message)
                    && value.is_object()
                {
                    message = value.to_string().into_bytes();
                }
            }
            _ => {}
        }
        self.send(0x80 | kind, &message)?;
        if let Some((kind, message)) = self.held.take() {
            self.send(0x80 | kind, &message)?;
        }
        Ok(())
    }

    /// Sends a large binary message back while it comes, each piece as a fragment.
    fn stream(&mut self, length: usize, key: &[u8]) -> io::Result<Next> {
        const PIECE: usize = 64 * 1024;
        let mut done = 0;
        while done < length {
            let mut piece = self.read(PIECE.min(length - done))?;
            for (index, byte) in piece.iter_mut().enumerate() {
                *byte ^= key[(done + index) % 4];
            }
            let opcode = if done == 0 { 2 } else { 0 };
            done += piece.len();
            let fin = if done == length { 0x80 } else { 0 };
            self.send(fin | opcode, &piece)?;
        }
        Ok(Next::Frame)
    }
}
