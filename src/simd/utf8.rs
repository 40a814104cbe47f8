//! UTF-8 (RFC 3629) of a text that arrives in pieces, cut anywhere.
//!
//! The bulk of a piece goes through simdutf8; a sequence that a cut left open is kept in four
//! bytes of state. A piece fails when it holds the first byte that no valid text can have there,
//! even if the sequence is still open: `F4 90` fails at the `90`, without waiting for two more.

/// Texts up to this length, in bytes, are checked with the scalar code: short enough that the
/// vector code's set-up costs more than it saves.
const SMALL_BYTES: usize = 64;

/// The text is not valid UTF-8. Close code 1007 (RFC 6455 section 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not valid UTF-8")]
pub struct Utf8Error;

/// Checks a text piece by piece.
///
/// After an error the state is meaningless: start with a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// The open sequence's bytes so far: a valid beginning.
    open: [u8; 3],
    /// How many of them there are; 0 between two characters.
    length: u8,
}

const _: () = assert!(size_of::<Utf8>() <= 8);

impl Utf8 {
    /// The state before the first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            open: [0; 3],
            length: 0,
        }
    }

    /// Checks the next bytes of the text.
    ///
    /// # Errors
    /// `piece` contains a byte that makes the text invalid whatever follows.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Utf8Error> {
        self.push_with(piece, is_utf8)
    }

    /// The scalar twin of [`Utf8::push`].
    ///
    /// # Errors
    /// As [`Utf8::push`].
    pub fn push_scalar(&mut self, piece: &[u8]) -> Result<(), Utf8Error> {
        self.push_with(piece, is_utf8_scalar)
    }

    /// Checks that the text may end here.
    ///
    /// # Errors
    /// The last character is incomplete.
    pub fn finish(&self) -> Result<(), Utf8Error> {
        if self.length == 0 {
            Ok(())
        } else {
            Err(Utf8Error)
        }
    }

    #[inline]
    fn push_with(&mut self, piece: &[u8], check: fn(&[u8]) -> bool) -> Result<(), Utf8Error> {
        let piece = if self.length == 0 {
            piece
        } else {
            self.continue_open(piece)?
        };
        let (whole, open) = piece.split_at(piece.len() - open_length(piece));
        if !check(whole) {
            return Err(Utf8Error);
        }
        if !open.is_empty() {
            self.keep(open)?;
        }
        Ok(())
    }

    /// Completes the open sequence as far as `piece` goes; returns what follows it.
    #[cold]
    fn continue_open<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], Utf8Error> {
        let have = usize::from(self.length);
        let take = (width(self.open[0]) - have).min(piece.len());
        let (more, rest) = piece.split_at(take);
        let mut sequence = [0; 4];
        sequence[..have].copy_from_slice(&self.open[..have]);
        sequence[have..have + take].copy_from_slice(more);
        let sequence = &sequence[..have + take];
        if std::str::from_utf8(sequence).is_ok() {
            self.length = 0;
        } else {
            self.keep(sequence)?;
        }
        Ok(rest)
    }

    /// Remembers an open sequence, unless nothing valid can begin like it.
    fn keep(&mut self, open: &[u8]) -> Result<(), Utf8Error> {
        match std::str::from_utf8(open) {
            // Without a length the error is the end of the input, not one of its bytes. Then it
            // is at most three bytes: a fourth one would have completed the sequence.
            Err(error) if error.error_len().is_none() && open.len() <= self.open.len() => {
                self.open[..open.len()].copy_from_slice(open);
                self.length = open.len() as u8;
                Ok(())
            }
            _ => Err(Utf8Error),
        }
    }
}

/// How many bytes a sequence that begins with `lead` has; only for a valid lead byte above 7F.
const fn width(lead: u8) -> usize {
    match lead {
        0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

/// How many bytes at the end of `piece` belong to a sequence that goes on behind it (0 to 3).
/// They are not checked here.
#[inline]
fn open_length(piece: &[u8]) -> usize {
    match *piece {
        [.., last] if last < 0x80 => 0,
        [.., last] if last >= 0xc0 => 1,
        [.., lead, _] if lead >= 0xe0 => 2,
        [.., lead, _, _] if lead >= 0xf0 => 3,
        _ => 0,
    }
}

/// Whether a whole text is valid UTF-8.
#[inline]
#[must_use]
pub fn is_utf8(text: &[u8]) -> bool {
    if text.len() <= SMALL_BYTES {
        text.is_ascii() || is_utf8_scalar(text)
    } else {
        simdutf8::basic::from_utf8(text).is_ok()
    }
}

/// The scalar twin of [`is_utf8`]: the standard library.
#[must_use]
pub fn is_utf8_scalar(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a byte-at-a-time reader of RFC 3629 says: the position of the first wrong byte.
    fn first_wrong(bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let (width, second) = match bytes[at] {
                0x00..=0x7f => (1, 0..=0),
                0xc2..=0xdf => (2, 0x80..=0xbf),
                0xe0 => (3, 0xa0..=0xbf),
                0xe1..=0xec | 0xee..=0xef => (3, 0x80..=0xbf),
                0xed => (3, 0x80..=0x9f),
                0xf0 => (4, 0x90..=0xbf),
                0xf1..=0xf3 => (4, 0x80..=0xbf),
                0xf4 => (4, 0x80..=0x8f),
                _ => return Some(at),
            };
            for next in 1..width {
                let allowed = if next == 1 {
                    second.clone()
                } else {
                    0x80..=0xbf
                };
                match bytes.get(at + next) {
                    None => return None,
                    Some(byte) if allowed.contains(byte) => {}
                    Some(_) => return Some(at + next),
                }
            }
            at += width;
        }
        None
    }

    /// Both twins over the pieces that `cuts` make: the piece that failed, and the end.
    fn check_pieces(bytes: &[u8], cuts: &[usize]) {
        let wrong = first_wrong(bytes);
        let (mut fast, mut scalar) = (Utf8::new(), Utf8::new());
        let mut bounds = vec![0];
        bounds.extend(cuts.iter().map(|cut| cut % (bytes.len() + 1)));
        bounds.push(bytes.len());
        bounds.sort_unstable();
        for ends in bounds.windows(2) {
            let piece = &bytes[ends[0]..ends[1]];
            let expected = match wrong {
                Some(at) if at < ends[1] => Err(Utf8Error),
                _ => Ok(()),
            };
            assert_eq!(fast.push(piece), expected, "{bytes:x?} at {ends:?}");
            assert_eq!(
                scalar.push_scalar(piece),
                expected,
                "{bytes:x?} at {ends:?}"
            );
            assert_eq!(fast, scalar);
            if expected.is_err() {
                assert!(std::str::from_utf8(bytes).is_err());
                return;
            }
        }
        assert_eq!(
            fast.finish().is_ok(),
            std::str::from_utf8(bytes).is_ok(),
            "{bytes:x?}"
        );
        assert_eq!(fast.finish(), scalar.finish());
    }

    /// Mostly text, with wrong bytes and broken sequences in between.
    fn almost_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => any::<String>().prop_map(String::into_bytes),
            4 => "[a-z]{0,80}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..3),
            1 => proptest::sample::select(vec![
                vec![0xc0], vec![0xf4, 0x90], vec![0xed, 0xa0], vec![0xe0, 0x80], vec![0xf0, 0x8f],
                vec![0xf5], vec![0xe2, 0x82], vec![0xf0, 0x9f, 0x98], vec![0x80], vec![0xff],
            ]),
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_text_cut_anywhere_is_valid(text: String, cuts in proptest::collection::vec(0usize..1000, 0..8)) {
            prop_assert_eq!(first_wrong(text.as_bytes()), None);
            check_pieces(text.as_bytes(), &cuts);
        }

        #[test]
        fn the_piece_with_the_first_wrong_byte_fails(
            bytes in almost_text(),
            cuts in proptest::collection::vec(0usize..1000, 0..8),
        ) {
            check_pieces(&bytes, &cuts);
        }

        #[test]
        fn one_shot_equals_the_standard_library(bytes in almost_text()) {
            prop_assert_eq!(is_utf8(&bytes), std::str::from_utf8(&bytes).is_ok());
            prop_assert_eq!(is_utf8_scalar(&bytes), std::str::from_utf8(&bytes).is_ok());
        }
    }

    /// Every sequence of two bytes and a choice of third and fourth ones, one byte at a time,
    /// with enough text before it that the vector code sees its end.
    #[test]
    fn every_beginning_one_byte_at_a_time() {
        let third = [0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0xbf, 0xc2, 0xff];
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                for third in third {
                    let bytes = [first, second, third, 0x80];
                    check_pieces(&bytes, &[1, 2, 3]);
                }
            }
        }
    }

    #[test]
    fn an_error_at_every_position_of_a_long_text() {
        let text = "κόσμε, 世界, 🦀! ".repeat(12).into_bytes();
        for at in 0..text.len() {
            let mut bytes = text.clone();
            bytes[at] = 0xff;
            check_pieces(&bytes, &[at]);
            check_pieces(&bytes, &[at / 2, at + 1]);
            assert!(!is_utf8(&bytes));
            check_pieces(&text[..at], &[at / 3, at / 2]);
        }
    }

    #[test]
    fn autobahn_6_4_fails_fast() {
        // κόσμε, then an impossible code point, in three pieces of one message.
        let mut utf8 = Utf8::new();
        utf8.push(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4")
            .unwrap();
        assert_eq!(utf8.push(b"\x90"), Err(Utf8Error));
        let mut utf8 = Utf8::new();
        utf8.push(b"\xed").unwrap();
        assert_eq!(utf8.push(b"\xa0"), Err(Utf8Error), "a surrogate");
        let mut utf8 = Utf8::new();
        utf8.push(b"\xf0\x9f\x98").unwrap();
        assert_eq!(utf8.finish(), Err(Utf8Error));
        utf8.push(b"\x80").unwrap();
        utf8.finish().unwrap();
    }
}
