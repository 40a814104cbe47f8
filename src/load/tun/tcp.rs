//! The client's end of one TCP connection (RFC 9293), without I/O and without a clock.
//!
//! It is a small one, and honest: it opens connections, keeps what it sent until that is acknowledged and
//! sends it again if it is not, takes bytes in order only, sends no more than the peer has room for, and
//! answers whatever RFC 9293 wants answered. It does without what a benchmark on one machine does not need:
//! options other than the largest segment (so no window above 65,535 bytes), congestion control (what
//! clients send fits in a segment or two), a queue for what comes out of order (the peer sends it again),
//! ends other than a reset.
//!
//! [`Tcp`] is what every connection has. [`Flight`] is what one has only while something of it is on the way:
//! of a million connections that are held, almost none.

use super::segment::{MSS, Segment};

/// What this end has room for, in bytes. It takes everything at once, so it always has.
pub const WINDOW: u16 = u16::MAX;
/// What is not acknowledged is sent again after this time, in nanoseconds; each further time takes twice as
/// long. The least that RFC 6298 section 2.4 wants; nothing is measured. A peer may wait before it acknowledges
/// (0.2 s, on Linux), and what it sends may stand behind 100,000 other packets.
pub const AGAIN_NS: u64 = 1_000_000_000;
/// But not longer than this.
pub const AGAIN_NS_MAX: u64 = 8_000_000_000;
/// How often something is sent again before the connection counts as lost: after some 70 s in all.
pub const TRIES_MAX: u8 = 10;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not begun, or over.
    Closed,
    /// The SYN is sent, or about to be.
    Opening,
    /// Bytes flow.
    Open,
}

/// The client's end of a connection. 12 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Sequence number of the first byte that is not acknowledged (SND.UNA), and of the first one that has
    /// not come (RCV.NXT).
    unacknowledged: u32,
    expected: u32,
    /// What the peer has room for, in bytes (SND.WND).
    window: u16,
    /// How far it has come.
    state: State,
}

/// What a connection has on the way, and what it still has to send.
#[derive(Debug, Default)]
pub struct Flight {
    /// Bytes from the first one that is not acknowledged.
    bytes: Vec<u8>,
    /// How many of them have been sent.
    sent: usize,
    /// When it is time to send again; 0: nothing is on the way.
    due_ns: u64,
    tries: u8,
}

/// What a segment brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The connection is open now.
    pub opened: bool,
    /// The next bytes in order.
    pub bytes: &'a [u8],
    /// It brought bytes, but not the next ones: something before them was lost, or they have come before.
    pub out_of_order: bool,
    /// How the connection ended with it, if it did.
    pub end: Option<End>,
    /// What has to be sent because of it.
    pub reply: Reply,
}

/// How the peer ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It sends no more (FIN).
    Finished,
    /// A reset.
    Reset,
    /// A reset in answer to the SYN: nobody listens there.
    Refused,
}

/// What has to be sent in answer to a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    #[default]
    Nothing,
    /// An acknowledgement, with whatever else is to be sent.
    Acknowledge,
    /// A reset that belongs to the segment rather than to the connection.
    Reset,
}

/// No acknowledgement came, however often it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl Tcp {
    /// A connection that is not begun.
    pub const CLOSED: Self = Self {
        unacknowledged: 0,
        expected: 0,
        window: 0,
        state: State::Closed,
    };

    /// Begins a connection with this initial sequence number. [`Tcp::send`] sends the SYN.
    #[must_use]
    pub const fn open(sequence: u32) -> Self {
        Self {
            unacknowledged: sequence,
            state: State::Opening,
            ..Self::CLOSED
        }
    }

    /// How far it has come.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Takes a segment of the peer. While there is a `flight`, [`Tcp::send`] has to follow, whatever came.
    pub fn receive<'a>(
        &mut self,
        flight: Option<&mut Flight>,
        segment: &Segment<'a>,
    ) -> Arrival<'a> {
        match self.state {
            State::Closed => Arrival {
                reply: if segment.rst {
                    Reply::Nothing
                } else {
                    Reply::Reset
                },
                ..Arrival::default()
            },
            State::Opening => self.receive_opening(flight, segment),
            State::Open => self.receive_open(flight, segment),
        }
    }

    /// RFC 9293 section 3.10.7.3.
    fn receive_opening<'a>(
        &mut self,
        flight: Option<&mut Flight>,
        segment: &Segment<'a>,
    ) -> Arrival<'a> {
        let mut arrival = Arrival::default();
        let first = self.unacknowledged.wrapping_add(1);
        let acknowledged = segment.acknowledgment == Some(first);
        match (acknowledged, segment.rst) {
            (true, true) => {
                self.state = State::Closed;
                arrival.end = Some(End::Refused);
            }
            (true, false) if segment.syn => {
                self.unacknowledged = first;
                self.expected = segment.sequence.wrapping_add(1);
                self.window = segment.window;
                self.state = State::Open;
                if let Some(flight) = flight {
                    flight.rest();
                }
                arrival.opened = true;
                arrival.reply = Reply::Acknowledge;
            }
            // It belongs to an earlier connection of the same addresses.
            (false, false) if segment.acknowledgment.is_some() => arrival.reply = Reply::Reset,
            _ => {}
        }
        arrival
    }

    /// RFC 9293 section 3.10.7.4, with the answers to resets and SYNs of RFC 5961.
    fn receive_open<'a>(
        &mut self,
        flight: Option<&mut Flight>,
        segment: &Segment<'a>,
    ) -> Arrival<'a> {
        let mut arrival = Arrival::default();
        let acknowledge = Arrival {
            reply: Reply::Acknowledge,
            ..arrival
        };
        // How far the segment is ahead of what is expected, and how far its acknowledgement goes.
        let ahead = segment.sequence.wrapping_sub(self.expected) as i32;
        if segment.rst {
            if ahead == 0 {
                self.state = State::Closed;
                arrival.end = Some(End::Reset);
            } else if (0..i32::from(WINDOW)).contains(&ahead) {
                return acknowledge;
            }
            return arrival;
        }
        let Some(acknowledgment) = segment.acknowledgment.filter(|_| !segment.syn) else {
            // A SYN: the acknowledgement of an earlier one was lost.
            return if segment.syn { acknowledge } else { arrival };
        };
        let acknowledged = acknowledgment.wrapping_sub(self.unacknowledged) as i32;
        let sent = flight.as_ref().map_or(0, |flight| flight.sent);
        if acknowledged > 0 && acknowledged as usize > sent {
            return acknowledge; // of what was never sent
        }
        // What acknowledges something says what there is room for beyond that, also where the rest of it is old:
        // it was sent again.
        if acknowledged > 0 || acknowledged == 0 && ahead >= 0 {
            self.window = segment.window;
        }
        if let Some(flight) = flight {
            if acknowledged > 0 {
                self.unacknowledged = acknowledgment;
                flight.acknowledged(acknowledged as usize);
            } else if segment.window == 0 {
                // The peer lives, and has no room.
                flight.tries = 0;
            }
        }
        if segment.length() == 0 {
            // Of a peer that asks whether this end lives (keepalive), or of which something was lost.
            if ahead != 0 {
                arrival.reply = Reply::Acknowledge;
            }
            return arrival;
        }
        arrival.reply = Reply::Acknowledge;
        let known = ahead.unsigned_abs() as usize;
        if ahead > 0 || known >= segment.length() as usize {
            arrival.out_of_order = true;
            return arrival;
        }
        // What has come before is cut off. Of a FIN alone there is nothing to be cut off.
        arrival.bytes = segment.payload.get(known..).unwrap_or_default();
        self.expected = self.expected.wrapping_add(arrival.bytes.len() as u32);
        if segment.fin {
            self.expected = self.expected.wrapping_add(1);
            arrival.end = Some(End::Finished);
        }
        arrival
    }

    /// Sends what may be sent: as much of `flight` as the peer has room for, and, if `acknowledge` says so, at
    /// least one segment. `base` has the addresses.
    pub fn send(
        &self,
        flight: Option<&mut Flight>,
        acknowledge: bool,
        base: Segment<'_>,
        now_ns: u64,
        out: &mut impl FnMut(&Segment<'_>),
    ) {
        let mut acknowledge = acknowledge && self.state == State::Open;
        let mut sent = 0;
        if let Some(flight) = flight {
            match self.state {
                State::Opening if flight.due_ns == 0 => {
                    out(&self.syn(base));
                    flight.wait(now_ns);
                }
                State::Open => {
                    let room = usize::from(self.window).max(flight.sent);
                    let end = flight.bytes.len().min(room);
                    if end > flight.sent {
                        self.segments(flight, flight.sent..end, base, out);
                        flight.sent = end;
                        acknowledge = false;
                    }
                    if flight.due_ns == 0 && !flight.bytes.is_empty() {
                        flight.wait(now_ns);
                    }
                }
                _ => {}
            }
            sent = flight.sent;
        }
        if acknowledge {
            out(&self.segment(base, sent));
        }
    }

    /// Sends again what is not acknowledged, if it is time for that. True if something was sent.
    ///
    /// # Errors
    /// It was sent often enough.
    pub fn send_again(
        &self,
        flight: &mut Flight,
        base: Segment<'_>,
        now_ns: u64,
        out: &mut impl FnMut(&Segment<'_>),
    ) -> Result<bool, Lost> {
        if flight.due_ns == 0 || flight.due_ns > now_ns || self.state == State::Closed {
            return Ok(false);
        }
        if flight.tries == TRIES_MAX {
            return Err(Lost);
        }
        flight.tries += 1;
        flight.wait(now_ns);
        if self.state == State::Opening {
            out(&self.syn(base));
            return Ok(true);
        }
        // Where there is no room, a byte asks whether there is some again (RFC 9293 section 3.8.6.1).
        let end = flight.sent.min(usize::from(self.window)).max(1);
        let end = end.min(flight.bytes.len());
        flight.sent = flight.sent.max(end);
        self.segments(flight, 0..end, base, out);
        Ok(true)
    }

    /// Ends the connection; the reset that says so.
    pub fn reset<'a>(&mut self, flight: Option<&Flight>, base: Segment<'a>) -> Segment<'a> {
        let sent = flight.map_or(0, |flight| flight.sent);
        let mut reset = self.segment(base, sent);
        (reset.rst, reset.window) = (true, 0);
        if self.state == State::Opening {
            // Whatever the peer made of the SYN.
            reset.sequence = self.unacknowledged.wrapping_add(1);
            reset.acknowledgment = None;
        }
        self.state = State::Closed;
        reset
    }

    fn syn<'a>(&self, base: Segment<'a>) -> Segment<'a> {
        Segment {
            sequence: self.unacknowledged,
            syn: true,
            window: WINDOW,
            mss: Some(MSS as u16),
            ..base
        }
    }

    /// A segment that begins `after` what is acknowledged.
    fn segment<'a>(&self, base: Segment<'a>, after: usize) -> Segment<'a> {
        Segment {
            sequence: self.unacknowledged.wrapping_add(after as u32),
            acknowledgment: Some(self.expected),
            window: WINDOW,
            ..base
        }
    }

    fn segments(
        &self,
        flight: &Flight,
        range: std::ops::Range<usize>,
        base: Segment<'_>,
        out: &mut impl FnMut(&Segment<'_>),
    ) {
        for (at, payload) in flight.bytes[range.clone()].chunks(MSS).enumerate() {
            let segment = self.segment(base, range.start + at * MSS);
            out(&Segment { payload, ..segment });
        }
    }
}

/// The reset that answers a segment of a connection that there is not (RFC 9293 section 3.10.7.1).
#[must_use]
pub fn reset_for(segment: &Segment<'_>) -> Segment<'static> {
    let reset = Segment::new(segment.to, segment.from, 0);
    let past = segment.sequence.wrapping_add(segment.length());
    Segment {
        rst: true,
        sequence: segment.acknowledgment.unwrap_or(0),
        acknowledgment: segment.acknowledgment.is_none().then_some(past),
        ..reset
    }
}

impl Flight {
    /// With this buffer for what is sent; its content is dropped.
    #[must_use]
    pub fn with_buffer(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// The buffer, for another one.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes from the first one that is not acknowledged on. What is appended is sent after all others; what
    /// is there has to stay.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether everything is sent and acknowledged.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.bytes.is_empty() && self.due_ns == 0
    }

    fn acknowledged(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
        self.sent -= bytes;
        self.rest();
    }

    /// Something went well: nothing is due before the next call of [`Tcp::send`].
    fn rest(&mut self) {
        self.due_ns = 0;
        self.tries = 0;
    }

    fn wait(&mut self, now_ns: u64) {
        let wait_ns = AGAIN_NS << self.tries.min(TRIES_MAX);
        self.due_ns = now_ns + wait_ns.min(AGAIN_NS_MAX);
    }
}

#[cfg(test)]
mod tests;
