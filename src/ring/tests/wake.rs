//! Waking other shards and handing sockets over to them.

use super::*;
use crossbeam_channel::{Receiver, Sender, unbounded};

const LONG: Wait = Wait::For {
    timeout_us: 60_000_000,
    min_wait_us: 0,
};

fn pair() -> (Driver, Driver) {
    let peers = Peers::new(2).unwrap();
    (
        Driver::at(peers.clone(), 0, |_| ()),
        Driver::at(peers, 1, |_| ()),
    )
}

/// Answers every number that comes in, sleeping on the ring in between, until the channel closes.
fn answer(mut driver: Driver, inbox: &Receiver<u32>, outbox: &Sender<u32>) {
    let started = Instant::now();
    loop {
        let mut took = false;
        while let Ok(number) = inbox.try_recv() {
            took = true;
            outbox.send(number + 1).unwrap();
            driver.ring.wake(0);
            if number == u32::MAX - 1 {
                driver.turn(Wait::Look);
                return;
            }
        }
        driver.waiting.clear();
        if took {
            driver.turn(Wait::Look);
        } else {
            let recheck = || !inbox.is_empty();
            driver
                .ring
                .sleep(LONG, recheck, &mut driver.waiting)
                .unwrap();
        }
        assert!(started.elapsed() < 4 * DEADLINE);
    }
}

#[test]
fn two_shards_that_sleep_on_their_rings_wake_each_other() {
    let peers = Peers::new(2).unwrap();
    let (to_other, inbox) = unbounded();
    let (outbox, from_other) = unbounded();
    let theirs = peers.clone();
    let other = std::thread::spawn(move || answer(Driver::at(theirs, 1, |_| ()), &inbox, &outbox));
    let mut driver = Driver::at(peers, 0, |_| ());
    let mut number = 0u32;
    for round in 0..2000 {
        if round == 1999 {
            number = u32::MAX - 1;
        }
        to_other.send(number).unwrap();
        driver.ring.wake(1);
        driver.turn(Wait::Look);
        let started = Instant::now();
        let answer = loop {
            if let Ok(answer) = from_other.try_recv() {
                break answer;
            }
            driver.waiting.clear();
            let recheck = || !from_other.is_empty();
            driver
                .ring
                .sleep(LONG, recheck, &mut driver.waiting)
                .unwrap();
            assert!(started.elapsed() < DEADLINE, "a wake-up was lost");
        };
        assert_eq!(answer, number + 1);
        number = answer;
    }
    other.join().unwrap();
    let counters = driver.ring.counters();
    assert!(
        counters.wakes <= 2000 && counters.wake_fallbacks == 0,
        "{counters:?}"
    );
}

#[test]
fn a_shard_that_waits_is_woken() {
    let peers = Peers::new(2).unwrap();
    let theirs = peers.clone();
    let sleeper = std::thread::spawn(move || {
        let mut driver = Driver::at(theirs, 1, |_| ());
        let started = Instant::now();
        driver
            .ring
            .sleep(LONG, || false, &mut driver.waiting)
            .unwrap();
        assert!(started.elapsed() < DEADLINE);
        driver.take(Op::Wake).unwrap().token
    });
    let mut driver = Driver::at(peers.clone(), 0, |_| ());
    let started = Instant::now();
    while !peers.wake_needed(1) {
        assert!(started.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    driver.ring.wake(1);
    driver.turn(Wait::Look);
    assert_eq!(sleeper.join().unwrap(), Token::new(Op::Wake, 0, 0));
    assert!(!peers.wake_needed(1));
}

#[test]
fn a_shard_that_is_awake_is_told_nothing() {
    let (mut sender, mut target) = pair();
    sender.ring.wake(1);
    sender.ring.wake(0);
    sender.turn(Wait::Look);
    target.turn(Wait::Look);
    assert_eq!(sender.ring.counters().wakes, 0);
    assert_eq!(sender.ring.counters().enters, 0);
    assert!(target.waiting.is_empty());
}

#[test]
fn a_target_gets_one_message_per_turn() {
    let (mut sender, mut target) = pair();
    sender.ring.peers().fall_asleep(1);
    for _ in 0..3 {
        sender.ring.wake(1);
        sender.ring.wake(1);
        sender.turn(Wait::Look);
    }
    assert_eq!(sender.ring.counters().wakes, 3);
    assert_eq!(sender.ring.in_flight(), 0);
    target.turn(Wait::Look);
    assert_eq!(target.waiting.len(), 3);
}

#[test]
fn work_found_at_the_last_moment_keeps_a_shard_awake() {
    let mut driver = Driver::new();
    let peers = driver.ring.peers().clone();
    let started = Instant::now();
    let recheck = || {
        assert!(peers.wake_needed(0), "others see it before the re-check");
        true
    };
    driver
        .ring
        .sleep(LONG, recheck, &mut driver.waiting)
        .unwrap();
    assert!(started.elapsed() < DEADLINE);
    assert!(!peers.wake_needed(0));
}

#[test]
fn a_wake_that_the_ring_refuses_goes_through_the_event_descriptor() {
    let peers = Peers::new(2).unwrap();
    let mut driver = Driver::at(peers.clone(), 0, |_| ());
    peers.fall_asleep(1);
    driver.ring.wake(1);
    driver.until("falling back", |driver| {
        driver.ring.counters().wake_fallbacks == 1
    });
    assert!(driver.waiting.is_empty());
    let mut count = [0; 8];
    rustix::io::read(peers.eventfd(1), &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn waking_a_ring_that_is_gone_harms_nobody() {
    let peers = Peers::new(2).unwrap();
    let theirs = peers.clone();
    std::thread::spawn(move || drop(Driver::at(theirs, 1, |_| ())))
        .join()
        .unwrap();
    let (listener, address) = listener();
    let mut driver = Driver::at(peers.clone(), 0, |config| config.listeners = vec![listener]);
    let (mut client, slot) = driver.connection(address);
    peers.fall_asleep(1);
    driver.ring.wake(1);
    driver.turn(Wait::Look);
    driver
        .ring
        .hand_over(slot, 1, token(Op::Arrived, 2), token(Op::HandOver, 1));
    assert!(driver.next(Op::HandOver).result < 0);
    client.write_all(b"still here").unwrap();
    delivered(&client);
    assert_eq!(driver.receive(slot, BufferClass::Small).1, b"still here");
}

#[test]
fn a_connection_moves_to_another_ring() {
    let peers = Peers::new(2).unwrap();
    let (listener, address) = listener();
    let mut from = Driver::at(peers.clone(), 0, |config| config.listeners = vec![listener]);
    let mut to = Driver::at(peers, 1, |_| ());
    // The target's table has other slots taken than the sender's.
    let (mut client, slot) = from.connection(address);
    from.ring
        .hand_over(slot, 1, token(Op::Arrived, 5), token(Op::HandOver, 1));
    from.turn(Wait::Look);
    let arrived = to.next(Op::Arrived);
    assert_eq!(arrived.token, token(Op::Arrived, 5));
    assert!(arrived.result >= 0);
    let there = Slot(arrived.result as u32);
    assert!(from.next(Op::HandOver).result >= 0);
    from.close(slot);
    to.ring.poll(there, token(Op::Poll, 1));
    client.write_all(b"moved").unwrap();
    to.next(Op::Poll);
    assert_eq!(to.receive(there, BufferClass::Small).1, b"moved");
    to.close(there);
    to.next(Op::Poll);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!((from.ring.in_flight(), to.ring.in_flight()), (0, 0));
}

#[test]
fn a_connection_stays_when_the_other_table_is_full() {
    let peers = Peers::new(2).unwrap();
    let (listener, address) = listener();
    let mut from = Driver::at(peers.clone(), 0, |config| config.listeners = vec![listener]);
    let mut to = Driver::at(peers, 1, |config| config.slots = 1);
    let (_first, first) = from.connection(address);
    let (mut client, second) = from.connection(address);
    from.ring
        .hand_over(first, 1, token(Op::Arrived, 1), token(Op::HandOver, 1));
    from.turn(Wait::Look);
    assert!(to.next(Op::Arrived).result >= 0);
    assert!(from.next(Op::HandOver).result >= 0);
    from.ring
        .hand_over(second, 1, token(Op::Arrived, 2), token(Op::HandOver, 2));
    from.turn(Wait::Look);
    to.turn(Wait::Look);
    let refused = from.next(Op::HandOver);
    assert_eq!((refused.result, refused.token.key()), (-libc::ENFILE, 2));
    client.write_all(b"here").unwrap();
    delivered(&client);
    assert_eq!(from.receive(second, BufferClass::Small).1, b"here");
}

#[test]
#[should_panic(expected = "must carry its operation")]
fn an_arrival_cannot_pose_as_something_else() {
    let mut driver = Driver::new();
    driver
        .ring
        .hand_over(Slot(0), 0, token(Op::Send, 1), token(Op::HandOver, 1));
}
