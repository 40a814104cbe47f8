//! What every test starts from: where the server is, what is known of it, and new connections to it.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Target;
use super::connection::{Connection, random_key};
use super::http::{Head, judge, read_head};
use super::options::Options;
use super::socket::Socket;
use super::stream::{Lost, Stream};
use super::tls::{HandshakeError, Tls};
use crate::wire::client::write_request;
use crate::wire::message::Kind;
use crate::wire::upgrade::AcceptKey;

/// A server that takes connections.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) options: &'a Options,
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Tls>,
    /// Where messages come back, if anywhere.
    pub(super) echo: Option<Echo>,
    /// Whether it speaks ringwire's protocol at the URL.
    pub(super) ringwire: bool,
}

/// Where messages come back.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    pub(super) target: Target,
    /// So many messages come unasked after the handshake; some public servers greet.
    pub(super) greetings: usize,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum OpenError {
    Tcp(io::Error),
    Tls(HandshakeError),
    /// The answer to the handshake's request is not one that makes a WebSocket.
    Upgrade(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(error) if error.kind() == ErrorKind::TimedOut => {
                write!(f, "cannot connect: no answer in time")
            }
            Self::Tcp(error) => write!(f, "cannot connect: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Upgrade(text) => write!(f, "the handshake failed: {text}"),
        }
    }
}

/// For tests, to which a connection that does not come about is just another fault.
impl From<OpenError> for String {
    fn from(error: OpenError) -> Self {
        error.to_string()
    }
}

impl Context<'_> {
    /// A connection without the handshake of WebSocket.
    pub(super) fn stream(&self) -> Result<Stream, OpenError> {
        let timeout = self.options.timeout;
        let socket = Socket::connect(self.address, timeout).map_err(OpenError::Tcp)?;
        match &self.tls {
            None => Ok(Stream::plain(socket, timeout)),
            Some(tls) => {
                let stream = tls.connect(socket).map_err(OpenError::Tls)?;
                Ok(Stream::tls(stream, timeout))
            }
        }
    }

    /// The handshake's request to this target, and the answer to its key.
    pub(super) fn request(&self, target: &Target) -> (Vec<u8>, AcceptKey) {
        let mut key = [0; 16];
        for part in key.as_chunks_mut::<4>().0 {
            *part = random_key();
        }
        let offers = self.options.subprotocols.join(", ");
        let offers = Some(offers.as_str()).filter(|offers| !offers.is_empty());
        let (host, extra) = self.headers(target);
        let mut request = Vec::new();
        let accept = write_request(&mut request, host, target.path(), &key, offers, &extra);
        (request, accept)
    }

    /// The Host header, which may have been replaced, and the other headers that were asked for.
    fn headers<'b>(&'b self, target: &'b Target) -> (&'b str, Vec<(&'b str, &'b str)>) {
        let mut host = target.authority();
        let mut extra = Vec::new();
        for (name, value) in &self.options.headers {
            if name.eq_ignore_ascii_case("host") {
                host = value;
            } else {
                extra.push((name.as_str(), value.as_str()));
            }
        }
        (host, extra)
    }

    /// Sends a request and reads the head of its answer.
    pub(super) fn ask(&self, request: &[u8]) -> Result<Head, String> {
        let mut stream = self.stream()?;
        stream.begin();
        stream
            .write_all(request)
            .and_then(|()| stream.flush())
            .map_err(|error| Lost::from_io(error, stream.timeout()).to_string())?;
        let (head, _) = read_head(&mut stream)?;
        Ok(head)
    }

    /// Asks for a plain page and returns the head of the answer.
    pub(super) fn get(&self, target: &Target) -> Result<Head, String> {
        let (host, extra) = self.headers(target);
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n",
            target.path()
        );
        for (name, value) in extra {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        self.ask(request.as_bytes())
    }

    /// Does the handshake over this stream; also returns the subprotocol that the server chose.
    pub(super) fn upgrade(
        &self,
        mut stream: Stream,
        target: &Target,
    ) -> Result<(Connection, Option<String>), OpenError> {
        let (request, accept) = self.request(target);
        stream.begin();
        stream
            .write_all(&request)
            .and_then(|()| stream.flush())
            .map_err(|error| {
                let lost = Lost::from_io(error, stream.timeout());
                OpenError::Upgrade(format!("cannot send the request: {lost}"))
            })?;
        let (head, rest) = read_head(&mut stream).map_err(OpenError::Upgrade)?;
        let subprotocol =
            judge(&head, &accept, &self.options.subprotocols).map_err(OpenError::Upgrade)?;
        // Room for an echo, and for what a server has to say at most where it does not echo.
        let message_bytes = (self.options.size_max_bytes as usize).max(16 * 1024 * 1024);
        let connection = Connection::new(stream, rest, message_bytes);
        Ok((connection, subprotocol))
    }

    /// A connection to the URL.
    pub(super) fn open(&self) -> Result<Connection, String> {
        let (connection, _) = self.upgrade(self.stream()?, &self.options.target)?;
        Ok(connection)
    }

    /// A connection to where messages come back, past the greetings; to the URL if there is no such
    /// place.
    pub(super) fn open_echo(&self) -> Result<Connection, String> {
        let Some(echo) = &self.echo else {
            return self.open();
        };
        let (mut connection, _) = self.upgrade(self.stream()?, &echo.target)?;
        for _ in 0..echo.greetings {
            connection
                .message()
                .map_err(|error| format!("the greeting is missing this time: {error}"))?;
        }
        Ok(connection)
    }

    /// That a connection of [`Self::open_echo`] works: a message comes back, or else a pong. Returns
    /// how long that took.
    pub(super) fn alive(&self, connection: &mut Connection) -> Result<Duration, String> {
        let mut payload = *b"probe 00000000";
        for part in payload[6..].as_chunks_mut::<4>().0 {
            *part = random_key().map(|byte| b'a' + byte % 26);
        }
        match &self.echo {
            Some(_) => connection.echo(Kind::Text, &payload),
            None => connection.ping(&payload),
        }
    }

    /// How [`Self::alive`] finds out, for reports.
    pub(super) const fn alive_by(&self) -> &'static str {
        match self.echo {
            Some(_) => "echo",
            None => "ping",
        }
    }

    /// The end of a step that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }
}
