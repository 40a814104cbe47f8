//! Poll, receive, buffers.

use super::*;

const READABLE: i32 = libc::POLLIN as i32;
const GONE: i32 = libc::POLLRDHUP as i32 | libc::POLLHUP as i32 | libc::POLLERR as i32;

/// Reads as the design page's rules say: one receive per event, again while there is more, and to
/// the end once the peer is gone. Gives the last result, the bytes, and the number of receives
/// after which there was more.
fn read_to_the_end(driver: &mut Driver, slot: Slot) -> (i32, Vec<u8>, u32) {
    let (mut all, mut nonempty) = (Vec::new(), 0);
    loop {
        let event = driver.next(Op::Poll);
        assert!(event.result > 0, "poll: {}", event.result);
        loop {
            let (result, bytes, more) = driver.receive(slot, BufferClass::Small);
            all.extend(bytes);
            nonempty += u32::from(more);
            if result <= 0 && result != -libc::EAGAIN {
                return (result, all, nonempty);
            }
            let gone = event.result & GONE != 0;
            assert!(!(gone && result == -libc::EAGAIN), "gone, yet no end");
            if !more && !gone {
                break;
            }
        }
    }
}

#[test]
fn an_echo_goes_there_and_back() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    client.write_all(b"hello").unwrap();
    let event = driver.next(Op::Poll);
    assert_eq!(event.result & (READABLE | GONE), READABLE);
    assert!(event.more);
    assert_eq!(event.token, token(Op::Poll, 1));
    let (result, bytes, more) = driver.receive(slot, BufferClass::Small);
    assert_eq!((result, &bytes[..], more), (5, &b"hello"[..], false));
    driver
        .ring
        .send(slot, payload(b"..hello!"), 2, 7, token(Op::Send, 1));
    let sent = driver.next(Op::Send);
    assert_eq!(sent.result, 5);
    assert_eq!(sent.payload.unwrap().as_slice(), b"..hello!");
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

#[test]
fn a_receive_from_an_empty_socket_answers_at_once() {
    let (mut driver, address) = Driver::listening();
    let (_client, slot) = driver.connection(address);
    for class in [BufferClass::Small, BufferClass::Large] {
        let (result, _, _) = driver.receive(slot, class);
        assert_eq!(result, -libc::EAGAIN);
    }
}

#[test]
fn nonempty_says_when_to_receive_again() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    let sent = pattern(5000);
    client.write_all(&sent).unwrap();
    delivered(&client);
    driver.next(Op::Poll);
    let mut received = Vec::new();
    for (expected, expect_more) in [(2048, true), (2048, true), (904, false)] {
        let (result, bytes, more) = driver.receive(slot, BufferClass::Small);
        assert_eq!((result, more), (expected, expect_more));
        received.extend(bytes);
    }
    assert_eq!(received, sent);
    client.write_all(&sent).unwrap();
    delivered(&client);
    let (result, bytes, more) = driver.receive(slot, BufferClass::Large);
    assert_eq!((result, bytes, more), (5000, sent, false));
}

#[test]
fn bytes_that_come_after_a_receive_make_a_new_event() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    for round in 0..100u8 {
        client.write_all(&[round]).unwrap();
        assert!(driver.next(Op::Poll).more);
        let (result, bytes, _) = driver.receive(slot, BufferClass::Small);
        assert_eq!((result, &bytes[..]), (1, &[round][..]));
    }
}

#[test]
fn bytes_that_come_before_poll_was_armed_make_an_event() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    client.write_all(b"early").unwrap();
    delivered(&client);
    driver.ring.poll(slot, token(Op::Poll, 1));
    driver.next(Op::Poll);
    assert_eq!(driver.receive(slot, BufferClass::Small).1, b"early");
}

#[test]
fn an_event_during_a_receive_is_reported() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    client.write_all(b"a").unwrap();
    driver.next(Op::Poll);
    // The receive's answer stands in the queue, not taken, while more comes.
    driver
        .ring
        .recv(slot, BufferClass::Small, token(Op::Recv, 1));
    driver.ring.submit().unwrap();
    client.write_all(b"b").unwrap();
    delivered(&client);
    let received = driver.next(Op::Recv);
    assert_eq!(driver.copy(&received), b"a");
    driver.next(Op::Poll);
    assert_eq!(driver.receive(slot, BufferClass::Small).1, b"b");
}

#[test]
fn the_end_of_the_stream_is_read_after_the_last_bytes() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    let sent = pattern(3000);
    client.write_all(&sent).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    delivered(&client);
    let (result, bytes, nonempty) = read_to_the_end(&mut driver, slot);
    assert_eq!((result, bytes), (0, sent));
    assert!(nonempty >= 1);
}

#[test]
fn a_reset_after_data_shows_in_the_mask() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    client.write_all(b"last words").unwrap();
    delivered(&client);
    reset(client);
    let (result, _, _) = read_to_the_end(&mut driver, slot);
    assert!(result == 0 || result == -libc::ECONNRESET, "{result}");
}

#[test]
fn a_receive_without_a_free_buffer_fails_and_the_next_finds_the_recycled_one() {
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.listeners = vec![listener];
        config.buffers = 2;
        config.large_buffers = 1;
    });
    let (mut client, slot) = driver.connection(address);
    let mut next = |driver: &mut Driver, class, byte: u8| {
        client.write_all(&[byte]).unwrap();
        delivered(&client);
        driver.ring.recv(slot, class, token(Op::Recv, 1));
        driver.next(Op::Recv)
    };
    let first = next(&mut driver, BufferClass::Small, 1);
    let second = next(&mut driver, BufferClass::Small, 2);
    assert_ne!(first.buffer, second.buffer);
    let starved = next(&mut driver, BufferClass::Small, 3);
    assert_eq!((starved.result, starved.buffer), (-libc::ENOBUFS, None));
    assert_eq!(driver.ring.counters().starved, 1);
    // The other class has its own.
    let large = next(&mut driver, BufferClass::Large, 4);
    assert_eq!(large.buffer.unwrap().class, BufferClass::Large);
    assert_eq!(driver.copy(&large), [3, 4]);
    assert_eq!(driver.copy(&second), [2]);
    let fifth = next(&mut driver, BufferClass::Small, 5);
    assert_eq!(fifth.buffer, second.buffer);
    assert_eq!(driver.copy(&fifth), [5]);
    assert_eq!(driver.copy(&first), [1]);
}

#[test]
fn receives_that_bring_nothing_take_no_buffer() {
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.listeners = vec![listener];
        config.buffers = 1;
    });
    let (client, slot) = driver.connection(address);
    for _ in 0..10 {
        let (result, _, _) = driver.receive(slot, BufferClass::Small);
        assert_eq!(result, -libc::EAGAIN);
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    driver.ring.poll(slot, token(Op::Poll, 1));
    driver.next(Op::Poll);
    for _ in 0..10 {
        let (result, _, _) = driver.receive(slot, BufferClass::Small);
        assert_eq!(result, 0);
    }
    let (mut other, slot) = driver.connection(address);
    other.write_all(b"x").unwrap();
    delivered(&other);
    assert_eq!(driver.receive(slot, BufferClass::Small).1, b"x");
}

#[test]
#[should_panic(expected = "not lent")]
fn a_buffer_is_given_back_once() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    client.write_all(b"x").unwrap();
    delivered(&client);
    driver
        .ring
        .recv(slot, BufferClass::Small, token(Op::Recv, 1));
    let id = driver.next(Op::Recv).buffer.unwrap();
    driver.ring.recycle(id);
    driver.ring.recycle(id);
}

#[test]
#[should_panic(expected = "not lent")]
fn a_buffer_of_the_kernel_cannot_be_read() {
    use crate::ring::BufferId;
    let class = BufferClass::Large;
    Driver::new().ring.buffer(BufferId { class, index: 0 });
}
