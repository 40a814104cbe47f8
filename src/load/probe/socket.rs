//! A TCP connection with deadlines, that reads while it waits to write.
//!
//! A server may send an echo back before it has read all of the message. A client that only writes
//! then, and a server that only writes, wait for each other forever; so while a write waits, what
//! arrives is read into memory.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::options::SIZE_MAX_BYTES;

/// Most that is read ahead while a write waits, in bytes: the largest message, and what else a
/// server may have to say. Beyond it the write waits alone.
const AHEAD_MAX_BYTES: usize = SIZE_MAX_BYTES as usize + 1024 * 1024;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// A connected socket. Reads and writes end with [`ErrorKind::TimedOut`] at its deadline.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    deadline: Instant,
    /// What was read while a write waited, and how much of it is taken: `taken <= ahead.len()`.
    ahead: Vec<u8>,
    taken: usize,
}

impl Socket {
    /// Connects within `timeout`; that is also the first deadline.
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + timeout;
        let tcp = TcpStream::connect_timeout(&address, timeout)?;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self {
            tcp,
            deadline,
            ahead: Vec::new(),
            taken: 0,
        })
    }

    /// Until when reads and writes may take from now on.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Says that nothing more will be written (FIN), and reads what still comes until the server
    /// has closed too, or the deadline. Errors do not matter any more.
    pub(super) fn finish(mut self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
        let mut rest = [0; 4096];
        while matches!(self.read(&mut rest), Ok(1..)) {}
    }

    /// Ends the connection with a TCP reset instead of a FIN (`SO_LINGER` of 0, socket(7)).
    pub(super) fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO))
    }

    /// Waits until one of `events` is there; `TimedOut` at the deadline.
    fn wait(&self, events: PollFlags) -> io::Result<PollFlags> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.tcp, events)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(fds[0].revents()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what is there without waiting, for later.
    fn read_ahead(&mut self) -> io::Result<()> {
        if self.taken == self.ahead.len() {
            self.ahead.clear();
            self.taken = 0;
        }
        let start = self.ahead.len();
        self.ahead.resize(start + READ_BYTES, 0);
        let result = self.tcp.read(&mut self.ahead[start..]);
        self.ahead
            .truncate(start + result.as_ref().map_or(0, |read| *read));
        match result {
            // The write will find out by itself whether the connection still takes anything.
            Ok(0) => Err(ErrorKind::BrokenPipe.into()),
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken < self.ahead.len() {
            let waiting = &self.ahead[self.taken..];
            let count = waiting.len().min(buffer.len());
            buffer[..count].copy_from_slice(&waiting[..count]);
            self.taken += count;
            return Ok(count);
        }
        loop {
            match self.tcp.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.tcp.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => return result,
            }
            let room = self.ahead.len() - self.taken < AHEAD_MAX_BYTES;
            let events = if room {
                PollFlags::OUT | PollFlags::IN
            } else {
                PollFlags::OUT
            };
            if self.wait(events)?.contains(PollFlags::IN) && room {
                self.read_ahead()?;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = Socket::connect(address, Duration::from_secs(30)).unwrap();
        (socket, listener.accept().unwrap().0)
    }

    /// Far more than two socket buffers hold, echoed piece by piece: whoever only wrote would hang.
    #[test]
    fn a_server_that_answers_while_it_reads_does_not_block_the_writer() {
        let (mut socket, mut peer) = pair();
        let bytes: Vec<u8> = (0..20_000_000u32).map(|index| index as u8).collect();
        let server = thread::spawn(move || {
            let mut piece = vec![0; 10_000];
            loop {
                match peer.read(&mut piece).unwrap() {
                    0 => break,
                    count => peer.write_all(&piece[..count]).unwrap(),
                }
            }
        });
        socket.write_all(&bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        socket.read_exact(&mut back).unwrap();
        assert!(back == bytes);
        socket.finish();
        server.join().unwrap();
    }

    #[test]
    fn reads_end_at_the_deadline_and_go_on_after_it() {
        let (mut socket, mut peer) = pair();
        socket.set_deadline(Instant::now() + Duration::from_millis(1));
        let mut byte = [0];
        assert_eq!(
            socket.read(&mut byte).unwrap_err().kind(),
            ErrorKind::TimedOut
        );
        peer.write_all(b"x").unwrap();
        socket.set_deadline(Instant::now() + Duration::from_secs(30));
        assert_eq!((socket.read(&mut byte).unwrap(), byte), (1, *b"x"));
    }

    #[test]
    fn a_reset_is_one() {
        let (socket, mut peer) = pair();
        socket.reset().unwrap();
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
