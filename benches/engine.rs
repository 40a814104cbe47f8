//! What a message costs between the parser and the outbox, without sockets: the envelope, the
//! channels, the way to another shard, the frame that all subscribers share.
//!
//! `cargo bench --bench engine` measures; `cargo test --bench engine` runs everything once.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::Handler;
use ringwire::config::Config;
use ringwire::hub::history::Time;
use ringwire::hub::home::{ChannelRef, Home, Interest, Listener};
use ringwire::hub::local::Local;
use ringwire::hub::rules::ChannelRules;
use ringwire::hub::subscribers::Subscribers;
use ringwire::hub::{Delivery, Publication, Shape};
use ringwire::mesh::{Links, Mesh, Message};
use ringwire::ring::{Payload, PayloadPool};
use ringwire::session::Session;
use ringwire::session::envelope;
use ringwire::session::form::Form;
use ringwire::shard::handler::Published;
use ringwire::wire::frame;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Messages of one turn.
const BATCHES: [u32; 3] = [1, 16, 256];
/// Subscribers of one channel on one shard.
const SUBSCRIBERS: [u32; 4] = [1, 64, 1_000, 10_000];
/// Bytes of published data.
const SIZES: [usize; 2] = [64, 1024];
const CHANNEL: &str = "room:42";
const NOW_MS: u64 = 1_760_000_000_123;
const NOW: Time = Time {
    elapsed_ms: 123,
    unix_ms: NOW_MS,
};

/// A JSON string of `size` bytes, quotes included; on the heap, as what a session publishes.
fn publication(size: usize) -> Publication {
    Publication {
        key: 0,
        meta: Bytes::from_static(b"null"),
        data: Bytes::from(format!("\"{}\"", "x".repeat(size - 2))),
    }
}

fn deliver(offset: u64, publication: &Publication) -> Message {
    Message::Deliver {
        channel: 0,
        serial: 0,
        delivery: Delivery {
            offset,
            timestamp_ms: NOW_MS,
            publication: publication.clone(),
        },
        exclude: None,
    }
}

/// What may wait for another shard: the default.
const PENDING_BYTES: usize = 64 << 20;

/// The two ends of a mesh of two shards.
fn meshes() -> [Mesh; 2] {
    let (links, inboxes) = Links::new(2);
    let mut meshes = inboxes
        .into_iter()
        .enumerate()
        .map(|(shard, inbox)| Mesh::new(shard, Arc::clone(&links), inbox, PENDING_BYTES));
    std::array::from_fn(|_| meshes.next().expect("two inboxes"))
}

/// One turn's messages to another shard. The wake-up of a sleeping shard is not in here: that is
/// the kernel's part.
fn mesh(c: &mut Criterion) {
    let mut group = c.benchmark_group("mesh");
    let publication = publication(64);
    for messages in BATCHES {
        group.throughput(Throughput::Elements(u64::from(messages)));
        // Without another thread: building, moving and dropping the messages.
        let [mut from, mut to] = meshes();
        group.bench_function(BenchmarkId::new("batch", messages), |b| {
            b.iter(|| {
                for offset in 0..messages {
                    from.post(1, deliver(u64::from(offset), &publication));
                }
                from.flush(|to| {
                    black_box(to);
                });
                for message in to.receive().expect("a batch was sent").messages {
                    black_box(message);
                }
            });
        });
        // Through another thread and back: twice the way, with the cache lines of both cores. Two
        // threads without a core each take turns, and the scheduler's time is measured.
        group.bench_function(BenchmarkId::new("two_threads_round_trip", messages), |b| {
            b.iter_custom(|rounds| {
                let [mut here, mut there] = meshes();
                let other = thread::spawn(move || {
                    for _ in 0..rounds {
                        for message in receive(&mut there) {
                            there.post(0, message);
                        }
                        there.flush(|_| ());
                    }
                });
                let start = Instant::now();
                for _ in 0..rounds {
                    for offset in 0..messages {
                        here.post(1, deliver(u64::from(offset), &publication));
                    }
                    here.flush(|_| ());
                    for message in receive(&mut here) {
                        black_box(message);
                    }
                }
                let elapsed = start.elapsed();
                other.join().expect("the other end");
                elapsed
            });
        });
    }
    // One way, as fast as it goes: the sender posts into a batch that grows while the inbox is full.
    const STREAM: u64 = 16;
    group.throughput(Throughput::Elements(STREAM));
    group.bench_function(BenchmarkId::new("two_threads_stream", STREAM), |b| {
        b.iter_custom(|batches| {
            let [mut here, mut there] = meshes();
            let total = batches * STREAM;
            let other = thread::spawn(move || {
                let mut received = 0;
                while received < total {
                    received += receive(&mut there).len() as u64;
                }
            });
            let start = Instant::now();
            for _ in 0..batches {
                for offset in 0..STREAM {
                    here.post(1, deliver(offset, &publication));
                }
                // A shard would turn to its sockets; here nothing else is to do.
                while here.flush(|_| ()) > 0 && here.backlog(1).is_some() {
                    thread::yield_now();
                }
            }
            while here.flush(|_| ()) > 0 {
                thread::yield_now();
            }
            other.join().expect("the other end");
            start.elapsed()
        });
    });
}

/// Waits for a batch as a busy shard would, but leaves the core to others that need it.
fn receive(mesh: &mut Mesh) -> Vec<Message> {
    let mut spins = 0_u32;
    loop {
        if let Some(batch) = mesh.receive() {
            return batch.messages;
        }
        spins += 1;
        if spins.is_multiple_of(1024) {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// A channel with subscribers on the shard that is also its home.
struct Room {
    home: Home,
    local: Local,
    channel: u32,
    number: u32,
}

impl Room {
    fn new(subscribers: u32) -> Self {
        let mut home = Home::new(1, 2, ChannelRules::new(&[]), 0);
        let mut local = Local::new(0, 1, 1, ChannelRules::new(&[]));
        let (channel, asked) = local.enter(CHANNEL);
        let (_, interest) = asked.expect("the first subscriber asks");
        local.join(channel, 0, Shape::PLAIN, Bytes::new());
        let (number, position) = home.interest(CHANNEL, interest);
        local.live(channel, interest.serial, number, position);
        for key in 1..subscribers {
            local.join(channel, key, Shape::PLAIN, Bytes::new());
        }
        Self {
            home,
            local,
            channel,
            number,
        }
    }

    /// Numbers a publication; what its interested shard gets.
    fn publish(&mut self, publication: Publication) -> (Interest, Delivery) {
        let mut sent = None;
        let channel = self.home.resolve(&ChannelRef::Number(self.number));
        self.home
            .publish(channel, publication, NOW, |to, delivery| {
                if let Listener::Channel(interest) = to {
                    sent = Some((interest, delivery));
                }
            });
        sent.expect("this shard is interested")
    }

    /// Appends the delivery's frame to what the channel's subscribers get.
    fn receive(
        &mut self,
        session: &mut Session,
        scratch: &mut Vec<u8>,
        interest: Interest,
        delivery: &Delivery,
    ) {
        let (name, channel) = self
            .local
            .receive(interest.channel, interest.serial, delivery.offset, 0)
            .expect("the channel has subscribers");
        scratch.clear();
        let published = Published {
            form: 0,
            wildcard: None,
            channel: name,
            offset: delivery.offset,
            timestamp_ms: delivery.timestamp_ms,
            publication: &delivery.publication,
        };
        let kind = session.encode(&published, scratch);
        let (turn, _) = channel.turn();
        frame::encode(&mut turn.part(Shape::PLAIN).frames, kind.into(), scratch);
    }
}

/// From a publish at its home to one shared payload per subscriber: what a fan-out costs besides
/// the connections' own memory and their sends.
fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out");
    let publication = publication(64);
    for subscribers in SUBSCRIBERS {
        group.throughput(Throughput::Elements(u64::from(subscribers)));
        let mut room = Room::new(subscribers);
        let mut session = Session::new(&Config::default());
        let mut scratch = Vec::new();
        let mut touched = Vec::new();
        group.bench_function(BenchmarkId::new("publish", subscribers), |b| {
            b.iter(|| {
                let (interest, delivery) = room.publish(publication.clone());
                room.receive(&mut session, &mut scratch, interest, &delivery);
                room.local.take_touched(&mut touched, 0);
                for &channel in &touched {
                    let mut turn = room.local.take_turn(channel).expect("touched");
                    let frames = std::mem::take(&mut turn.part(Shape::PLAIN).frames);
                    room.local.put_turn(turn);
                    let payload = Payload::own(frames);
                    let subscribers = room.local.subscribers(channel, Shape::PLAIN).expect("live");
                    subscribers.for_each(|key| {
                        black_box((key, payload.clone()));
                    });
                }
            });
        });
    }
    // The parts of it that don't depend on the number of subscribers.
    let mut room = Room::new(1);
    group.throughput(Throughput::Elements(1));
    group.bench_function("number", |b| {
        b.iter(|| black_box(room.publish(publication.clone())));
    });
    let mut room = Room::new(1);
    let mut session = Session::new(&Config::default());
    let mut scratch = Vec::new();
    group.throughput(Throughput::Elements(16));
    group.bench_function("receive_16_in_a_turn", |b| {
        b.iter(|| {
            for _ in 0..16 {
                let (interest, delivery) = room.publish(publication.clone());
                room.receive(&mut session, &mut scratch, interest, &delivery);
            }
            let channel = room.channel;
            black_box(room.local.take_turn(channel));
            room.local.take_touched(&mut Vec::new(), 0);
        });
    });
}

/// The set of subscribers beside the plainest thing that could hold them in order. `dense` has every
/// connection of the slab in the channel, `sparse` every sixteenth.
fn subscribers(c: &mut Criterion) {
    let mut group = c.benchmark_group("subscribers");
    for count in SUBSCRIBERS {
        group.throughput(Throughput::Elements(u64::from(count)));
        for (name, step) in [("dense", 1), ("sparse", 16)] {
            let plain: Vec<u32> = (0..count).map(|at| at * step).collect();
            let mut set = Subscribers::default();
            for &key in &plain {
                set.insert(key);
            }
            let id = |twin: &str| BenchmarkId::new(format!("{twin}_{name}"), count);
            group.bench_function(id("walk_set"), |b| {
                b.iter(|| {
                    black_box(&set).for_each(|key| {
                        black_box(key);
                    });
                });
            });
            group.bench_function(id("walk_vec"), |b| {
                b.iter(|| {
                    for &key in black_box(&plain) {
                        black_box(key);
                    }
                });
            });
        }
        // One leaves and comes back, somewhere in the first half.
        group.throughput(Throughput::Elements(1));
        let mut plain: Vec<u32> = (0..count).collect();
        let mut set = Subscribers::default();
        for &key in &plain {
            set.insert(key);
        }
        let key = count / 3;
        group.bench_function(BenchmarkId::new("churn_set", count), |b| {
            b.iter(|| (set.remove(black_box(key)), set.insert(black_box(key))));
        });
        group.bench_function(BenchmarkId::new("churn_vec", count), |b| {
            b.iter(|| {
                let at = plain.binary_search(black_box(&key)).expect("is there");
                plain.remove(at);
                let at = plain.binary_search(black_box(&key)).expect_err("is gone");
                plain.insert(at, key);
            });
        });
    }
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for size in SIZES {
        group.throughput(Throughput::Elements(1));
        let publication = publication(size);
        let published = Published {
            form: 0,
            wildcard: None,
            channel: CHANNEL,
            offset: 123_456,
            timestamp_ms: NOW_MS,
            publication: &publication,
        };
        let mut session = Session::new(&Config::default());
        let mut payload = Vec::new();
        let mut frames = Vec::new();
        group.bench_function(BenchmarkId::new("message", size), |b| {
            b.iter(|| {
                payload.clear();
                black_box(session.encode(black_box(&published), &mut payload));
            });
        });
        group.bench_function(BenchmarkId::new("message_frame", size), |b| {
            b.iter(|| {
                payload.clear();
                frames.clear();
                let kind = session.encode(black_box(&published), &mut payload);
                frame::encode(&mut frames, kind.into(), &payload);
                black_box(&frames);
            });
        });
    }
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope");
    let text = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
    // Data with structure, which the parser has to walk though it passes it on as it is.
    let objects = |size: usize| format!("[{}7]", "{\"x\":1.5},".repeat((size - 3) / 10));
    let publish = |data: &str| {
        format!("{{\"type\":\"publish\",\"channel\":\"{CHANNEL}\",\"data\":{data},\"id\":17}}")
    };
    let mut inputs = vec![(
        "subscribe".to_owned(),
        format!("{{\"type\":\"subscribe\",\"channel\":\"{CHANNEL}\",\"id\":1}}"),
    )];
    for size in SIZES {
        inputs.push((format!("publish_text/{size}"), publish(&text(size))));
        inputs.push((format!("publish_objects/{size}"), publish(&objects(size))));
    }
    inputs.push((
        "refused".to_owned(),
        "{\"type\":\"fly\",\"id\":1}".to_owned(),
    ));
    for (name, input) in inputs {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let _ = black_box(envelope::parse(
                    Form::Json,
                    black_box(input.as_bytes()),
                    255,
                ));
            });
        });
    }
}

fn payloads(c: &mut Criterion) {
    let mut group = c.benchmark_group("payload");
    for size in SIZES {
        let bytes = vec![b'x'; size];
        let mut pool = PayloadPool::new();
        group.bench_function(BenchmarkId::new("pooled", size), |b| {
            b.iter(|| {
                let mut payload = pool.take();
                let buffer = payload.try_extend().expect("a fresh one is nobody else's");
                frame::encode(buffer, frame::Opcode::Text, black_box(&bytes));
                pool.put(black_box(payload));
            });
        });
        group.bench_function(BenchmarkId::new("allocated", size), |b| {
            b.iter(|| {
                let mut buffer = Vec::new();
                frame::encode(&mut buffer, frame::Opcode::Text, black_box(&bytes));
                black_box(Payload::own(buffer));
            });
        });
        let shared = Bytes::from(bytes.clone());
        group.bench_function(BenchmarkId::new("shared", size), |b| {
            b.iter(|| black_box(Payload::shared(black_box(&shared).clone())));
        });
    }
    // What each subscriber adds: a reference without atomics, taken and given back.
    for clones in [1_u32, 1_000] {
        group.throughput(Throughput::Elements(u64::from(clones)));
        let payload = Payload::own(vec![b'x'; 64]);
        group.bench_function(BenchmarkId::new("clone", clones), |b| {
            b.iter_batched_ref(
                || Vec::with_capacity(clones as usize),
                |held| {
                    held.extend((0..clones).map(|_| payload.clone()));
                    black_box(&held);
                    held.clear();
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(
    benches,
    mesh,
    fan_out,
    subscribers,
    encoding,
    parsing,
    payloads
);
criterion_main!(benches);
