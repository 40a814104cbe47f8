//! TCP segments in IPv4 packets (RFC 9293, RFC 791), read and written whole, with their checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpFragOffset, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpOptionElement, TcpSlice, ip_number,
};

/// Largest packet that goes through the device, in bytes.
pub const MTU: usize = 1_500;
/// Largest payload of a segment, in bytes.
pub const MSS: usize = MTU - Ipv4Header::MIN_LEN - TcpHeader::MIN_LEN;
/// Routers on the way at most. There are none.
const TIME_TO_LIVE: u8 = 64;

/// A segment and the ends of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who sends it.
    pub from: SocketAddrV4,
    /// Whom it is for.
    pub to: SocketAddrV4,
    /// Sequence number of its first byte, or of its SYN.
    pub sequence: u32,
    /// The sequence number that its sender waits for, if it says so (ACK).
    pub acknowledgment: Option<u32>,
    /// It opens a connection.
    pub syn: bool,
    /// Nothing follows from its sender.
    pub fin: bool,
    /// The connection is over.
    pub rst: bool,
    /// Bytes that its sender has room for, beyond the acknowledged ones.
    pub window: u16,
    /// With a SYN: the largest payload that its sender takes, in bytes.
    pub mss: Option<u16>,
    /// At most [`MSS`] bytes when it is written.
    pub payload: &'a [u8],
}

/// A packet that holds no segment that anything could be done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSegment {
    /// Another protocol than TCP in IPv4, or a part of a packet.
    Other,
    /// It ends too early, or a length in it is wrong.
    Malformed,
    /// A checksum is wrong.
    Checksum,
}

impl<'a> Segment<'a> {
    /// Without flags and payload.
    #[must_use]
    pub const fn new(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Self {
        Self {
            from,
            to,
            sequence,
            acknowledgment: None,
            syn: false,
            fin: false,
            rst: false,
            window: 0,
            mss: None,
            payload: &[],
        }
    }

    /// Numbers of the sequence that it takes: its bytes, its SYN and its FIN.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.payload.len() as u32 + self.syn as u32 + self.fin as u32
    }

    /// Reads a packet, which may have more bytes than it says.
    ///
    /// # Errors
    /// It holds no segment, or not what was sent.
    pub fn parse(packet: &'a [u8]) -> Result<Self, NoSegment> {
        if packet.first().is_none_or(|first| first >> 4 != 4) {
            return Err(NoSegment::Other);
        }
        let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| NoSegment::Malformed)?;
        if header.protocol() != ip_number::TCP || header.is_fragmenting_payload() {
            return Err(NoSegment::Other);
        }
        let body = packet
            .get(header.slice().len()..usize::from(header.total_len()))
            .ok_or(NoSegment::Malformed)?;
        let segment = TcpSlice::from_slice(body).map_err(|_| NoSegment::Malformed)?;
        let (source, destination) = (header.source(), header.destination());
        // Over all bytes, the sums themselves included: 0 has two forms, and either may stand there.
        let header_sum = Sum16BitWords::new().add_slice(header.slice());
        let sum = Sum16BitWords::new()
            .add_4bytes(source)
            .add_4bytes(destination)
            .add_2bytes([0, ip_number::TCP.0])
            .add_2bytes((body.len() as u16).to_be_bytes())
            .add_slice(body);
        if header_sum.ones_complement() != 0 || sum.ones_complement() != 0 {
            return Err(NoSegment::Checksum);
        }
        let mss =
            segment
                .options_iterator()
                .map_while(Result::ok)
                .find_map(|option| match option {
                    TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
                    _ => None,
                });
        Ok(Self {
            from: SocketAddrV4::new(Ipv4Addr::from(source), segment.source_port()),
            to: SocketAddrV4::new(Ipv4Addr::from(destination), segment.destination_port()),
            sequence: segment.sequence_number(),
            acknowledgment: segment.ack().then(|| segment.acknowledgment_number()),
            syn: segment.syn(),
            fin: segment.fin(),
            rst: segment.rst(),
            window: segment.window_size(),
            mss: mss.filter(|_| segment.syn()),
            payload: segment.payload(),
        })
    }

    /// Puts the packet into `out`, in place of what is there.
    ///
    /// # Panics
    /// With a payload that no packet holds.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        let (source, destination) = (self.from.ip().octets(), self.to.ip().octets());
        let mut header =
            TcpHeader::new(self.from.port(), self.to.port(), self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgment.unwrap_or(0);
        header.ack = self.acknowledgment.is_some();
        (header.syn, header.fin, header.rst) = (self.syn, self.fin, self.rst);
        header.psh = !self.payload.is_empty();
        if let Some(mss) = self.mss {
            header
                .set_options(&[TcpOptionElement::MaximumSegmentSize(mss)])
                .expect("one option fits");
        }
        header.checksum = header
            .calc_checksum_ipv4_raw(source, destination, self.payload)
            .expect("a payload of at most MSS bytes");
        let length = (header.header_len() + self.payload.len()) as u16;
        let mut packet = Ipv4Header::new(length, TIME_TO_LIVE, ip_number::TCP, source, destination)
            .expect("a payload of at most MSS bytes");
        packet.dont_fragment = true;
        packet.fragment_offset = IpFragOffset::ZERO;
        packet.header_checksum = packet.calc_header_checksum();
        out.extend_from_slice(&packet.to_bytes());
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(payload: &[u8]) -> Segment<'_> {
        let from = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 10_000);
        let to = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 9_000);
        Segment {
            acknowledgment: Some(7),
            window: 65_535,
            payload,
            ..Segment::new(from, to, 0xffff_fff0)
        }
    }

    fn packet(segment: &Segment<'_>) -> Vec<u8> {
        let mut packet = b"what was there before".to_vec();
        segment.write(&mut packet);
        packet
    }

    /// What a kernel sent: `SYN, ACK` with options that this end does not use.
    #[test]
    fn a_packet_of_a_kernel_is_read() {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 9_000);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 0), 10_000);
        let kernel = [
            0x45, 0x00, 0x00, 0x2c, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x26, 0xcb, 0x0a, 0x00,
            0x00, 0x01, 0x0a, 0x01, 0x00, 0x00, 0x23, 0x28, 0x27, 0x10, 0x12, 0x34, 0x56, 0x78,
            0x00, 0x00, 0x03, 0xe9, 0x60, 0x12, 0xfa, 0xf0, 0x00, 0x00, 0x00, 0x00, 0x02, 0x04,
            0x05, 0xb4,
        ];
        let expected = Segment {
            acknowledgment: Some(1_001),
            syn: true,
            window: 64_240,
            mss: Some(1_460),
            ..Segment::new(from, to, 0x1234_5678)
        };
        // The checksum of TCP as RFC 9293 section 3.1 adds it up, by hand.
        let mut with_sum = kernel;
        let mut sum = 0x0a00_u32 + 0x0001 + 0x0a01 + 6 + 24;
        for pair in kernel[20..].chunks_exact(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        with_sum[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        assert_eq!(Segment::parse(&with_sum), Ok(expected));
        assert_eq!(packet(&expected), with_sum);
        assert_eq!(Segment::parse(&kernel), Err(NoSegment::Checksum));
    }

    /// Both forms of zero are right, wherever the kernel got them from.
    #[test]
    fn a_checksum_of_zero_is_right_in_both_forms() {
        let found = (0..=u16::MAX).find_map(|word| {
            let payload = word.to_be_bytes();
            let packet = packet(&segment(&payload));
            matches!(packet[36..38], [0, 0] | [0xff, 0xff]).then_some(packet)
        });
        let mut packet = found.expect("one of all sums");
        for form in [0x00, 0xff] {
            packet[36..38].fill(form);
            assert!(Segment::parse(&packet).is_ok(), "{form}");
        }
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let good = packet(&segment(b"hello"));
        assert_eq!(Segment::parse(&[]), Err(NoSegment::Other));
        // IPv6, UDP, a fragment.
        for (at, byte) in [(0, 0x60), (9, 17), (6, 0x20)] {
            let mut other = good.clone();
            other[at] = byte;
            assert_eq!(Segment::parse(&other), Err(NoSegment::Other), "{at}");
        }
        for length in 1..good.len() {
            assert_eq!(
                Segment::parse(&good[..length]),
                Err(NoSegment::Malformed),
                "{length}"
            );
        }
        // A data offset beyond the end.
        let mut long = good.clone();
        long[32] = 0xf0;
        assert_eq!(Segment::parse(&long), Err(NoSegment::Malformed));
        let more = [&good[..], b"padding"].concat();
        assert_eq!(Segment::parse(&more), Ok(segment(b"hello")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            sequence: u32, acknowledgment: Option<u32>, flags in 0u8..8, window: u16, mss: Option<u16>,
            payload in proptest::collection::vec(any::<u8>(), 0..MSS),
        ) {
            let syn = flags & 1 != 0;
            let segment = Segment {
                sequence, acknowledgment, window, syn, fin: flags & 2 != 0, rst: flags & 4 != 0,
                mss: mss.filter(|_| syn), ..segment(&payload)
            };
            let packet = packet(&segment);
            prop_assert_eq!(Segment::parse(&packet), Ok(segment));
        }

        /// A sum of 16 bits in one's complement notices every changed bit.
        #[test]
        fn a_changed_bit_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut packet = packet(&segment(&payload));
            let at = at.index(packet.len());
            packet[at] ^= 1 << bit;
            prop_assert!(Segment::parse(&packet).is_err());
        }
    }
}
