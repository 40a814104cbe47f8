//! Sends and who owns their bytes.

use super::*;
use std::net::Shutdown;

/// More than the socket buffers of both ends take.
const TOO_MUCH: usize = 32 << 20;

/// A connection with a send in flight that its client does not read.
fn blocked(driver: &mut Driver, address: SocketAddr) -> (TcpStream, Slot, Arc<AtomicBool>) {
    let (client, slot) = driver.connection(address);
    let (payload, alive) = Watched::payload(TOO_MUCH);
    driver
        .ring
        .send(slot, payload, 0, TOO_MUCH, token(Op::Send, 1));
    driver.turn(Wait::Look);
    assert!(driver.take(Op::Send).is_none());
    (client, slot, alive)
}

#[test]
fn a_large_send_is_one_completion_when_the_peer_has_read_it() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot, alive) = blocked(&mut driver, address);
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; TOO_MUCH];
        client.read_exact(&mut received).unwrap();
        received
    });
    let sent = driver.next(Op::Send);
    assert_eq!(sent.result as usize, TOO_MUCH);
    assert!(alive.load(Ordering::SeqCst));
    let payload = sent.payload.unwrap();
    assert!(reader.join().unwrap() == payload.as_slice());
    drop(payload);
    assert!(!alive.load(Ordering::SeqCst));
    driver.close(slot);
}

#[test]
fn the_bytes_of_a_blocked_send_outlive_the_close() {
    let (mut driver, address) = Driver::listening();
    let (_client, slot, alive) = blocked(&mut driver, address);
    driver.ring.close(slot, 1, GENERATION, &[Op::Send]);
    assert!(alive.load(Ordering::SeqCst));
    let sent = driver.next(Op::Send);
    assert!((sent.result as i64) < TOO_MUCH as i64, "cancelled: short");
    assert!(alive.load(Ordering::SeqCst));
    drop(sent.payload);
    assert!(!alive.load(Ordering::SeqCst));
    assert_eq!(driver.next(Op::Close).result, 0);
}

#[test]
fn a_send_that_the_peer_resets_comes_back_short_or_failed() {
    let (mut driver, address) = Driver::listening();
    let (client, slot, _alive) = blocked(&mut driver, address);
    reset(client);
    let sent = driver.next(Op::Send);
    assert!((sent.result as i64) < TOO_MUCH as i64);
    assert!(sent.payload.is_some());
    // The next one fails outright, without a signal.
    driver
        .ring
        .send(slot, payload(b"x"), 0, 1, token(Op::Send, 1));
    let sent = driver.next(Op::Send);
    assert!(
        matches!(-sent.result, libc::EPIPE | libc::ECONNRESET),
        "{}",
        sent.result
    );
    assert!(sent.payload.is_some());
}

#[test]
fn a_send_to_a_slot_that_is_not_open_gives_its_payload_back() {
    let mut driver = Driver::new();
    for slot in [0, 1_000_000] {
        let (payload, _) = Watched::payload(10);
        driver
            .ring
            .send(Slot(slot), payload, 0, 10, token(Op::Send, 1));
        let sent = driver.next(Op::Send);
        assert_eq!(sent.result, -libc::EBADF);
        assert!(sent.payload.is_some());
    }
}

#[test]
fn shutdown_ends_the_stream_after_what_was_sent() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver
        .ring
        .send(slot, payload(b"bye"), 0, 3, token(Op::Send, 1));
    driver
        .ring
        .shutdown(slot, Shutdown::Write, token(Op::Shutdown, 1));
    assert_eq!(driver.next(Op::Shutdown).result, 0);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"bye");
    // The other direction is still open.
    client.write_all(b"and you").unwrap();
    delivered(&client);
    assert_eq!(driver.receive(slot, BufferClass::Small).1, b"and you");
}

#[test]
fn dropping_a_ring_waits_for_its_sends_and_closes_its_sockets() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot, alive) = blocked(&mut driver, address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    driver.ring.accept(0, token(Op::Accept, 3));
    driver.turn(Wait::Look);
    driver.ring.accept(0, token(Op::Accept, 4));
    let peers = driver.ring.peers().clone();
    drop(driver);
    assert!(!alive.load(Ordering::SeqCst));
    let mut received = Vec::new();
    // Ends, although the registry still knows the ring.
    let _ = client.read_to_end(&mut received);
    assert!(received.len() < TOO_MUCH);
    assert!(peers.has_started(0));
}

#[test]
#[should_panic(expected = "already in flight")]
fn a_connection_has_one_send_in_flight() {
    let (mut driver, address) = Driver::listening();
    let (_client, slot, _alive) = blocked(&mut driver, address);
    driver
        .ring
        .send(slot, payload(b"x"), 0, 1, token(Op::Send, 1));
}

#[test]
#[should_panic(expected = "out of range")]
fn a_send_stays_within_its_payload() {
    let mut driver = Driver::new();
    driver
        .ring
        .send(Slot(0), payload(b"x"), 0, 2, token(Op::Send, 1));
}
