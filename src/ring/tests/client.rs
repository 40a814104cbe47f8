//! The client's side.

use super::*;

fn socket() -> OwnedFd {
    use socket2::{Domain, Socket, Type};
    Socket::new(Domain::IPV4, Type::STREAM, None)
        .unwrap()
        .into()
}

fn clients(installed_slots: u32) -> Driver {
    Driver::with(|config| {
        config.slots = installed_slots;
        config.installed_slots = installed_slots;
    })
}

#[test]
fn installed_sockets_connect_and_talk_and_their_slots_come_back() {
    const SLOTS: u32 = 4;
    let (mut server, address) = Driver::listening();
    let mut client = clients(SLOTS);
    for round in 0..20u32 {
        let slot = client.ring.install(socket()).unwrap();
        assert!(slot.0 < SLOTS);
        server.ring.accept(0, token(Op::Accept, 0));
        server.turn(Wait::Look);
        client
            .ring
            .connect(slot, address, token(Op::Connect, round));
        let connected = client.next(Op::Connect);
        assert_eq!((connected.result, connected.token.key()), (0, round));
        let accepted = Slot(server.next(Op::Accept).result as u32);
        let text = round.to_string();
        client.ring.send(
            slot,
            payload(text.as_bytes()),
            0,
            text.len(),
            token(Op::Send, round),
        );
        assert_eq!(client.next(Op::Send).result as usize, text.len());
        server.ring.poll(accepted, token(Op::Poll, 1));
        server.next(Op::Poll);
        assert_eq!(
            server.receive(accepted, BufferClass::Small).1,
            text.as_bytes()
        );
        // The close is only queued: the slot may be filled again when it has left, not before.
        client.ring.close(slot, round, GENERATION, &[]);
        server.close(accepted);
    }
    client.next(Op::Close);
}

#[test]
fn more_connects_than_the_queue_holds_reach_their_own_addresses() {
    const EACH: usize = 25;
    let mut servers: Vec<_> = (0..4).map(|_| listener()).collect();
    let count = servers.len() * EACH;
    let mut client = Driver::with(|config| {
        config.entries = 8;
        config.slots = count as u32;
        config.installed_slots = count as u32;
    });
    for key in 0..count {
        let slot = client.ring.install(socket()).unwrap();
        let (_, address) = servers[key % 4];
        client
            .ring
            .connect(slot, address, token(Op::Connect, key as u32));
    }
    let full = client.ring.install(socket()).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENFILE));
    for _ in 0..count {
        assert_eq!(client.next(Op::Connect).result, 0);
    }
    for (server, _) in servers.drain(..) {
        let server = TcpListener::from(server);
        for _ in 0..EACH {
            server.accept().unwrap();
        }
        server.set_nonblocking(true).unwrap();
        let none = server.accept().unwrap_err();
        assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_refused_connect_says_so() {
    let (listener, address) = listener();
    drop(listener);
    let mut client = clients(1);
    let slot = client.ring.install(socket()).unwrap();
    client.ring.connect(slot, address, token(Op::Connect, 0));
    assert_eq!(client.next(Op::Connect).result, -libc::ECONNREFUSED);
}

#[test]
fn accepts_leave_the_slots_for_installed_sockets_alone() {
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.listeners = vec![listener];
        config.slots = 4;
        config.installed_slots = 2;
    });
    let (_one, first) = driver.connection(address);
    let (_two, second) = driver.connection(address);
    let mut slots = vec![first.0, second.0];
    for _ in 0..2 {
        slots.push(driver.ring.install(socket()).unwrap().0);
    }
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3]);
    // A slot of the kernel's goes back to the kernel.
    driver.close(first);
    assert!(driver.ring.install(socket()).is_err());
}
