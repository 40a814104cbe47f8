//! One frame header. What is accepted is minimal, so encoding it again gives the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::wire::Role;
use ringwire::wire::frame::{
    MAX_CONTROL_BYTES, MAX_HEADER_BYTES, encode_header, encode_masked, header_len, parse_header,
};

/// Payloads above this are not made for the comparison.
const MAX_PAYLOAD_BYTES: usize = 70_000;

fuzz_target!(|bytes: &[u8]| {
    for role in [Role::Server, Role::Client] {
        let whole = parse_header(bytes, role);
        for length in 0..bytes.len().min(MAX_HEADER_BYTES + 2) {
            let part = parse_header(&bytes[..length], role);
            assert!(
                part == Ok(None) || part == whole,
                "{length}: {part:?}, {whole:?}"
            );
        }
        let header = match whole {
            Ok(Some(header)) => header,
            Ok(None) => {
                assert!(bytes.len() < MAX_HEADER_BYTES);
                continue;
            }
            Err(error) => {
                assert_eq!(error.close_code().get(), 1002);
                continue;
            }
        };
        assert_eq!(header.key.is_some(), role == Role::Server);
        assert_eq!(header.payload_bytes >> 63, 0);
        if header.opcode.is_control() {
            assert!(header.fin && header.payload_bytes <= MAX_CONTROL_BYTES as u64);
        }
        let payload = usize::try_from(header.payload_bytes).expect("64-bit");
        let length = usize::from(header.header_bytes);
        let mut again = Vec::new();
        match header.key {
            None => {
                assert_eq!(length, header_len(payload));
                encode_header(&mut again, header.opcode, payload);
                if !header.fin {
                    again[0] &= 0x7f;
                }
            }
            Some(key) => {
                assert_eq!(length, header_len(payload) + 4);
                if payload > MAX_PAYLOAD_BYTES {
                    continue;
                }
                let zeros = vec![0; payload];
                encode_masked(&mut again, header.opcode, header.fin, &zeros, key);
                again.truncate(length);
            }
        }
        assert_eq!(again, bytes[..length]);
    }
});
