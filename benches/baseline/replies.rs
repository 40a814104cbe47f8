//! What a bare baseline sends, and how it finds the strings that it needs in what comes.

use memchr::memmem;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::frames;

/// A connection is over.
pub(crate) struct Gone;

impl From<Errno> for Gone {
    fn from(_: Errno) -> Self {
        Self
    }
}

/// What stands between `before` and the next quotation mark: enough of JSON for a floor.
pub(crate) fn string_after<'a>(bytes: &'a [u8], before: &[u8]) -> Option<&'a [u8]> {
    let start = memmem::find(bytes, before)? + before.len();
    let end = memchr::memchr(b'"', &bytes[start..])?;
    Some(&bytes[start..start + end])
}

/// A server's frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let header = frames::header_len(payload.len());
    let mut frame = vec![0; header];
    frames::write_header(&mut frame, first, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// Sends all of `bytes`; waits for a socket that is full, so that nothing is lost.
pub(crate) fn send_all(socket: &OwnedFd, mut bytes: &[u8]) -> Result<(), Gone> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
            }
            Err(Errno::INTR) => {}
            Err(_) => return Err(Gone),
        }
    }
    Ok(())
}
