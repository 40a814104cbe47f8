//! Accepting into direct descriptors.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

#[test]
fn accepts_in_flight_have_their_own_addresses() {
    let (mut driver, address) = Driver::listening();
    const COUNT: u32 = 16;
    for number in 0..COUNT {
        driver.ring.accept(0, token(Op::Accept, number));
    }
    driver.turn(Wait::Look);
    assert_eq!(driver.ring.peer(token(Op::Accept, 0)), None);
    let clients: Vec<_> = (0..COUNT).map(|_| connect(address)).collect();
    let mut peers = BTreeSet::new();
    let mut slots = BTreeSet::new();
    for _ in 0..COUNT {
        let accepted = driver.next(Op::Accept);
        assert!(accepted.result >= 0);
        slots.insert(accepted.result);
        peers.insert(driver.ring.peer(accepted.token).unwrap());
    }
    assert_eq!(slots.len(), COUNT as usize);
    let expected: BTreeSet<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    assert_eq!(peers, expected);
}

#[test]
fn more_clients_than_slots_are_all_served_in_turn() {
    const SLOTS: u32 = 4;
    const CLIENTS: usize = 20;
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.listeners = vec![listener];
        config.slots = SLOTS;
    });
    // Never more accepts in flight than free slots: the rest waits in the backlog.
    for number in 0..SLOTS {
        driver.ring.accept(0, token(Op::Accept, number));
    }
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(address)).collect();
    let mut open = BTreeMap::new();
    for _ in 0..CLIENTS {
        let accepted = driver.next(Op::Accept);
        assert!(accepted.result >= 0, "accept: {}", accepted.result);
        open.insert(accepted.token.key(), Slot(accepted.result as u32));
        if open.len() < SLOTS as usize {
            continue;
        }
        let (number, slot) = open.pop_first().unwrap();
        driver
            .ring
            .send(slot, payload(b"served"), 0, 6, token(Op::Send, 1));
        assert_eq!(driver.next(Op::Send).result, 6);
        driver.close(slot);
        driver.ring.accept(0, token(Op::Accept, number));
    }
    for (_, slot) in open {
        driver
            .ring
            .send(slot, payload(b"served"), 0, 6, token(Op::Send, 1));
        assert_eq!(driver.next(Op::Send).result, 6);
        driver.close(slot);
    }
    for client in &mut clients {
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"served");
    }
}

#[test]
fn a_non_blocking_listener_is_waited_for() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let mut driver = Driver::with(|config| config.listeners = vec![listener.into()]);
    let (client, _) = driver.connection(address);
    let peer = driver.ring.peer(token(Op::Accept, 0));
    assert_eq!(peer, Some(client.local_addr().unwrap()));
}

#[test]
fn a_unix_socket_has_no_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (tcp, _) = super::listener();
    let mut driver = Driver::with(|config| config.listeners = vec![tcp, listener.into()]);
    assert_eq!(driver.ring.listeners(), 2);
    driver.ring.accept(1, token(Op::Accept, 0));
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let accepted = driver.next(Op::Accept);
    assert!(accepted.result >= 0);
    assert_eq!(driver.ring.peer(accepted.token), None);
}

#[test]
#[should_panic(expected = "already in flight")]
fn an_accept_in_flight_keeps_its_number() {
    let (mut driver, _) = Driver::listening();
    driver.ring.accept(0, token(Op::Accept, 3));
    driver.ring.accept(0, token(Op::Accept, 3));
}

#[test]
#[should_panic(expected = "no such accept")]
fn the_numbers_of_accepts_are_bounded() {
    let (mut driver, _) = Driver::listening();
    driver
        .ring
        .accept(0, token(Op::Accept, crate::ring::ACCEPTS_PER_RING));
}
