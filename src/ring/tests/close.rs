//! Cancelling and closing.

use super::*;

#[test]
fn closing_an_armed_socket_sends_the_end_of_the_stream() {
    let (mut driver, address) = Driver::listening();
    let (mut client, slot) = driver.connection(address);
    driver.ring.poll(slot, token(Op::Poll, 1));
    driver.turn(Wait::Look);
    driver.ring.close(slot, 1, GENERATION, &[Op::Poll]);
    let cancel = driver.next(Op::Cancel);
    assert_eq!(cancel.token, token(Op::Cancel, 1));
    assert_eq!(cancel.result, 0);
    let close = driver.next(Op::Close);
    assert_eq!((close.token, close.result), (token(Op::Close, 1), 0));
    let poll = driver.next(Op::Poll);
    assert_eq!((poll.result, poll.more), (-libc::ECANCELED, false));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(driver.ring.in_flight(), 0);
}

#[test]
fn closing_one_socket_leaves_the_others_armed() {
    let (mut driver, address) = Driver::listening();
    let (_one, first) = driver.connection(address);
    let (mut two, second) = driver.connection(address);
    driver.ring.poll(first, token(Op::Poll, 1));
    driver.ring.poll(second, token(Op::Poll, 2));
    driver.turn(Wait::Look);
    driver.close(first);
    assert_eq!(driver.next(Op::Poll).token.key(), 1);
    two.write_all(b"x").unwrap();
    let event = driver.next(Op::Poll);
    assert_eq!(event.token.key(), 2);
    assert!(event.more);
}

#[test]
fn cancel_and_close_leave_in_one_submit() {
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.entries = 8;
        config.listeners = vec![listener];
    });
    let (_client, slot) = driver.connection(address);
    let before = driver.ring.counters().submitted;
    for key in 0..7 {
        driver
            .ring
            .recv(slot, BufferClass::Small, token(Op::Recv, key));
    }
    assert_eq!(driver.ring.counters().submitted, before);
    // One place is left, so the seven leave first.
    driver.ring.close(slot, 1, GENERATION, &[Op::Poll]);
    assert_eq!(driver.ring.counters().submitted, before + 7);
    driver.turn(Wait::Look);
    assert_eq!(driver.ring.counters().submitted, before + 9);
    assert_eq!(driver.next(Op::Close).result, 0);
}

#[test]
fn a_slot_that_is_not_open_cannot_be_closed() {
    let mut driver = Driver::new();
    driver.ring.close(Slot(5), 1, GENERATION, &[]);
    assert_eq!(driver.next(Op::Close).result, -libc::EBADF);
}

#[test]
#[should_panic(expected = "no such slot")]
fn a_slot_outside_the_table_is_refused() {
    Driver::new().ring.close(Slot(64), 1, GENERATION, &[]);
}
