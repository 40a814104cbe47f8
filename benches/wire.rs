//! What parsing costs, without sockets: unmasking, UTF-8, frames in and out.
//!
//! `cargo bench --bench wire` measures; `cargo test --bench wire` runs everything once.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::simd;
use ringwire::wire::Role;
use ringwire::wire::client::write_request;
use ringwire::wire::frame::{Opcode, encode, encode_masked};
use ringwire::wire::message::{Event, Flow, Kind, Rules, decode};
use ringwire::wire::upgrade::{HeadLimits, HeaderSpace, parse_head, write_accept};
use std::hint::black_box;

const SIZES: [usize; 3] = [64, 1024, 64 * 1024];
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const RULES: Rules = Rules {
    role: Role::Server,
    message_bytes: 1 << 20,
    fragments: 4096,
};

fn unmask(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut data = vec![0x5a; size];
        group.bench_function(BenchmarkId::new("scalar", size), |b| {
            b.iter(|| simd::unmask_scalar(black_box(&mut data), black_box(KEY), 0));
        });
        group.bench_function(BenchmarkId::new("simd", size), |b| {
            b.iter(|| simd::unmask(black_box(&mut data), black_box(KEY), 0));
        });
        let mut copy = Vec::with_capacity(size);
        group.bench_function(BenchmarkId::new("simd_copy", size), |b| {
            b.iter(|| {
                copy.clear();
                simd::unmask_copy(black_box(&data), &mut copy, black_box(KEY), 0);
                black_box(&copy);
            });
        });
    }
}

fn utf8(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    for (language, sample) in [("ascii", "plain text, "), ("mixed", "grüße, 世界 🦀 ")] {
        for size in SIZES {
            let mut text = sample.repeat(size / sample.len() + 1);
            let end = (0..=size).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or(0));
            let text = text.as_bytes();
            group.throughput(Throughput::Bytes(text.len() as u64));
            let id = |twin: &str| BenchmarkId::new(format!("{twin}_{language}"), size);
            group.bench_function(id("scalar"), |b| {
                b.iter(|| simd::is_utf8_scalar(black_box(text)));
            });
            group.bench_function(id("simd"), |b| b.iter(|| simd::is_utf8(black_box(text))));
            group.bench_function(id("simd_pieces"), |b| {
                b.iter(|| {
                    let mut utf8 = simd::Utf8::new();
                    for piece in black_box(text).chunks(2048) {
                        utf8.push(piece).expect("valid text");
                    }
                    utf8.finish()
                });
            });
        }
    }
}

/// `count` masked frames of `size` bytes each, as one read brings them.
fn read_of(opcode: Opcode, size: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        encode_masked(&mut bytes, opcode, true, &vec![b'x'; size], KEY);
    }
    bytes
}

/// Frames are unmasked in place, so each pass unmasks a fresh copy; the copy is measured apart
/// (`copy_only`) and has to be subtracted.
fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (size, count) in [(64, 1), (1024, 1), (64 * 1024, 1), (64, 16)] {
        for (name, opcode) in [("text", Opcode::Text), ("binary", Opcode::Binary)] {
            let bytes = read_of(opcode, size, count);
            group.throughput(Throughput::Elements(count as u64));
            let mut input = bytes.clone();
            let id = |name: &str| BenchmarkId::new(name, format!("{count}x{size}"));
            group.bench_function(id(name), |b| {
                let mut carry = None;
                b.iter(|| {
                    input.copy_from_slice(&bytes);
                    decode(&mut carry, black_box(&mut input), &RULES, &mut |event| {
                        black_box(event);
                        Flow::Continue
                    })
                });
            });
            if opcode == Opcode::Binary {
                group.bench_function(id("copy_only"), |b| {
                    b.iter(|| {
                        input.copy_from_slice(&bytes);
                        black_box(&mut input);
                    });
                });
            }
        }
    }
    // 16 KiB in receive buffers of 2 KiB: the path with a box.
    let bytes = read_of(Opcode::Text, 16 * 1024, 1);
    group.throughput(Throughput::Elements(1));
    group.bench_function("text_16384_in_2048", |b| {
        let mut carry = None;
        b.iter_batched_ref(
            || bytes.clone(),
            |input| {
                for piece in input.chunks_mut(2048) {
                    let consumed = decode(&mut carry, piece, &RULES, &mut |event| {
                        black_box(event);
                        Flow::Continue
                    });
                    black_box(consumed).expect("valid frames");
                }
            },
            BatchSize::LargeInput,
        );
    });
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let payload = vec![b'x'; size];
        let mut out = Vec::with_capacity(size + 16);
        group.bench_function(BenchmarkId::new("server", size), |b| {
            b.iter(|| {
                out.clear();
                encode(&mut out, Opcode::Binary, black_box(&payload));
                black_box(&out);
            });
        });
        group.bench_function(BenchmarkId::new("client", size), |b| {
            b.iter(|| {
                out.clear();
                encode_masked(&mut out, Opcode::Binary, true, black_box(&payload), KEY);
                black_box(&out);
            });
        });
    }
}

/// The whole user-space way of an echo: decode, then encode the answer.
fn echo(c: &mut Criterion) {
    let mut group = c.benchmark_group("echo");
    for (size, count) in [(64, 1), (64, 16), (1024, 1)] {
        let bytes = read_of(Opcode::Text, size, count);
        group.throughput(Throughput::Elements(count as u64));
        let mut input = bytes.clone();
        let mut out = Vec::with_capacity(bytes.len());
        group.bench_function(BenchmarkId::new("text", format!("{count}x{size}")), |b| {
            let mut carry = None;
            b.iter(|| {
                input.copy_from_slice(&bytes);
                out.clear();
                let consumed = decode(&mut carry, black_box(&mut input), &RULES, &mut |event| {
                    if let Event::Message { kind, payload } = event {
                        let opcode = match kind {
                            Kind::Text => Opcode::Text,
                            Kind::Binary => Opcode::Binary,
                        };
                        encode(&mut out, opcode, payload);
                    }
                    Flow::Continue
                });
                black_box(&out);
                consumed
            });
        });
    }
}

fn handshake(c: &mut Criterion) {
    let mut request = Vec::new();
    let extra = [
        ("Origin", "https://example.org"),
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0",
        ),
        ("Accept-Language", "en-US,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br"),
        ("Cache-Control", "no-cache"),
    ];
    write_request(
        &mut request,
        "example.org",
        "/ws?token=abc",
        &[7; 16],
        None,
        &extra,
    );
    let limits = HeadLimits {
        bytes: 8192,
        lines: 64,
    };
    let mut out = Vec::with_capacity(256);
    c.bench_function("handshake", |b| {
        b.iter(|| {
            let mut space = HeaderSpace::new();
            let head = parse_head(black_box(&request), &mut space, limits);
            if let Ok(ringwire::wire::upgrade::Head::Upgrade { accept, .. }) = head {
                out.clear();
                write_accept(&mut out, &accept, None);
            }
            black_box(&out);
        });
    });
}

criterion_group!(benches, unmask, utf8, frames, encoding, echo, handshake);
criterion_main!(benches);
