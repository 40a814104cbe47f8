//! The bytes of a connection, with TLS or without, and how they end.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::socket::Socket;
use super::tls::TlsStream;
use crate::wire::WireError;

/// A connection to the server, with deadlines.
#[derive(Debug)]
pub(super) struct Stream {
    layer: Layer,
    timeout: Duration,
}

#[derive(Debug)]
enum Layer {
    Plain(Socket),
    Tls(TlsStream),
}

impl Stream {
    /// Without TLS.
    pub(super) const fn plain(socket: Socket, timeout: Duration) -> Self {
        Self {
            layer: Layer::Plain(socket),
            timeout,
        }
    }

    /// With TLS.
    pub(super) const fn tls(stream: TlsStream, timeout: Duration) -> Self {
        Self {
            layer: Layer::Tls(stream),
            timeout,
        }
    }

    /// How long one step may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins a step: reads and writes may take until now and the timeout.
    pub(super) fn begin(&mut self) {
        self.set_deadline(Instant::now() + self.timeout);
    }

    /// Reads and writes may take until then.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        match &mut self.layer {
            Layer::Plain(socket) => socket.set_deadline(deadline),
            Layer::Tls(stream) => stream.socket.set_deadline(deadline),
        }
    }

    /// Ends the connection in order, as far as the server takes part until `deadline`.
    pub(super) fn finish(mut self, deadline: Instant) {
        self.set_deadline(deadline);
        match self.layer {
            Layer::Plain(socket) => socket.finish(),
            Layer::Tls(mut stream) => {
                stream.notify_close();
                stream.socket.finish();
            }
        }
    }

    /// Ends the connection with a TCP reset.
    pub(super) fn reset(self) -> io::Result<()> {
        match self.layer {
            Layer::Plain(socket) => socket.reset(),
            Layer::Tls(stream) => stream.socket.reset(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.read(buffer),
            Layer::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.write(bytes),
            Layer::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.flush(),
            Layer::Tls(stream) => stream.flush(),
        }
    }
}

/// Why nothing more comes.
#[derive(Debug)]
pub(super) enum Lost {
    /// Nothing came for so long; the connection is still there.
    Silent(Duration),
    /// The server has closed the TCP connection (FIN).
    Ended,
    /// The server, or somebody between, has reset the TCP connection.
    Reset,
    /// The server broke RFC 6455.
    Broken(WireError),
    /// Something else.
    Io(io::Error),
}

impl Lost {
    /// What an error of [`Stream`] means to who waited for `waited`.
    pub(super) fn from_io(error: io::Error, waited: Duration) -> Self {
        match error.kind() {
            // As it would be said: what it took to come here does not count.
            ErrorKind::TimedOut => Self::Silent(Duration::from_millis(
                (waited.as_secs_f64() * 1_000.0).round() as u64,
            )),
            // TLS that ends without its own goodbye; the end is what matters here.
            ErrorKind::UnexpectedEof => Self::Ended,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(waited) => write!(f, "nothing came within {waited:?}"),
            Self::Ended => write!(
                f,
                "the server ended the TCP connection without a close frame"
            ),
            Self::Reset => write!(f, "the TCP connection was reset"),
            Self::Broken(error) => write!(f, "the server broke the protocol: {error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}
