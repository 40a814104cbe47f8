//! The simulated ring keeps to the rules of the real one (see `ring/tests`), and can be repeated.

use super::*;

fn setup(slots: u32) -> RingSetup {
    RingSetup {
        slots,
        listeners: vec![Kind::Tcp],
        buffers: 2,
        buffer_bytes: 16,
        large_buffers: 1,
        large_buffer_bytes: 64,
    }
}

fn ring(slots: u32) -> (Rc<RefCell<World>>, SimRing) {
    let world = Rc::new(RefCell::new(World::new(1)));
    let ring = SimRing::new(&world, &setup(slots));
    (world, ring)
}

fn token(op: Op) -> Token {
    Token::new(op, 1, 7)
}

fn turn(ring: &mut SimRing) -> Vec<Completion> {
    let mut completions = Vec::new();
    ring.turn(Wait::Look, &mut completions).unwrap();
    completions
}

fn connection(world: &Rc<RefCell<World>>, ring: &mut SimRing) -> (SocketId, Slot) {
    let client = world.borrow_mut().connect(0, 0, 1000).unwrap();
    ring.accept(0, Token::new(Op::Accept, 0, 0));
    let accepted = turn(ring);
    assert!(accepted[0].result >= 0);
    (client, Slot(accepted[0].result as u32))
}

#[test]
fn polls_tell_only_of_what_is_new() {
    let (world, mut ring) = ring(4);
    let (client, slot) = connection(&world, &mut ring);
    ring.poll(slot, token(Op::Poll));
    assert!(turn(&mut ring).is_empty());
    world.borrow_mut().write(client, b"one");
    let event = turn(&mut ring).remove(0);
    assert!(event.more && event.result == i32::from(libc::POLLIN));
    assert!(
        turn(&mut ring).is_empty(),
        "nothing new, though nobody read"
    );
    world.borrow_mut().write(client, b"two");
    world.borrow_mut().reset(client);
    let event = turn(&mut ring).remove(0);
    assert_ne!(event.result & i32::from(libc::POLLHUP), 0);

    ring.recv(slot, BufferClass::Small, token(Op::Recv));
    let received = turn(&mut ring).remove(0);
    assert!(!received.nonempty, "a reset shows only in the mask");
    let id = received.buffer.unwrap();
    assert_eq!(ring.buffer(id), b"onetwo");
    ring.recycle(id);
    ring.recv(slot, BufferClass::Small, token(Op::Recv));
    assert_eq!(turn(&mut ring)[0].result, -libc::ECONNRESET);
    ring.recv(slot, BufferClass::Small, token(Op::Recv));
    assert_eq!(turn(&mut ring)[0].result, 0);
}

#[test]
fn an_accept_into_a_full_table_loses_the_connection() {
    let (world, mut ring) = ring(1);
    connection(&world, &mut ring);
    let lost = world.borrow_mut().connect(0, 0, 1000).unwrap();
    ring.accept(0, Token::new(Op::Accept, 1, 0));
    assert_eq!(turn(&mut ring)[0].result, -libc::ENFILE);
    assert_eq!(world.borrow().ended(lost), Some(End::Reset));
    assert_eq!(world.borrow().counters.lost_accepts, 1);
}

#[test]
fn a_send_waits_for_the_client_and_a_close_cuts_it_short() {
    let (world, mut ring) = ring(1);
    let (client, slot) = connection(&world, &mut ring);
    ring.send(slot, Payload::own(vec![7; 1500]), 0, 1500, token(Op::Send));
    assert!(turn(&mut ring).is_empty());
    assert_eq!(world.borrow_mut().read(client, 100).len(), 100);
    assert!(turn(&mut ring).is_empty());
    ring.poll(slot, token(Op::Poll));
    ring.close(slot, 1, 7, &[Op::Poll, Op::Send]);
    let done = turn(&mut ring);
    let results: Vec<_> = done
        .iter()
        .map(|done| (done.token.op().unwrap(), done.result))
        .collect();
    let cancelled = -libc::ECANCELED;
    assert_eq!(
        results,
        [
            (Op::Poll, cancelled),
            (Op::Cancel, 0),
            (Op::Send, 1100),
            (Op::Cancel, 0),
            (Op::Close, 0)
        ]
    );
    assert_eq!(done[2].payload.as_ref().unwrap().len(), 1500);
    assert_eq!(world.borrow_mut().read(client, 9999).len(), 1000);
    assert_eq!(world.borrow().ended(client), Some(End::Fin));
    assert!(world.borrow().left_over(0).is_empty());
}

#[test]
fn buffers_run_out_and_come_back_with_a_turn() {
    let (world, mut ring) = ring(1);
    let (client, slot) = connection(&world, &mut ring);
    world.borrow_mut().write(client, &[1; 100]);
    let mut ids = Vec::new();
    for more in [true, true] {
        ring.recv(slot, BufferClass::Small, token(Op::Recv));
        let received = turn(&mut ring).remove(0);
        assert_eq!((received.result, received.nonempty), (16, more));
        ids.push(received.buffer.unwrap());
    }
    ring.recv(slot, BufferClass::Small, token(Op::Recv));
    assert_eq!(turn(&mut ring)[0].result, -libc::ENOBUFS);
    ring.recycle(ids[0]);
    ring.recv(slot, BufferClass::Small, token(Op::Recv));
    let again = turn(&mut ring)[0].buffer.unwrap();
    assert_eq!(again, ids[0]);
}

#[test]
#[should_panic(expected = "was not lent")]
fn a_buffer_cannot_go_back_twice() {
    let (world, mut ring) = ring(1);
    let (client, slot) = connection(&world, &mut ring);
    world.borrow_mut().write(client, b"x");
    ring.recv(slot, BufferClass::Small, token(Op::Recv));
    let id = turn(&mut ring)[0].buffer.unwrap();
    ring.recycle(id);
    ring.recycle(id);
}

#[test]
#[should_panic(expected = "in flight")]
fn two_sends_of_one_connection_panic() {
    let (world, mut ring) = ring(1);
    let (_, slot) = connection(&world, &mut ring);
    for _ in 0..2 {
        ring.send(slot, Payload::own(vec![1]), 0, 1, token(Op::Send));
    }
}

#[test]
fn a_descriptor_handed_over_stays_open_until_both_close_it() {
    let (world, mut ring) = ring(1);
    let mut other = SimRing::new(&world, &setup(1));
    let (client, slot) = connection(&world, &mut ring);
    let arrival = Token::new(Op::Arrived, 3, 0);
    ring.hand_over(slot, 1, arrival, token(Op::HandOver));
    assert_eq!(turn(&mut ring)[0].result, 0);
    let arrived = turn(&mut other).remove(0);
    assert_eq!(arrived.token, arrival);
    ring.close(slot, 1, 7, &[]);
    turn(&mut ring);
    assert_eq!(world.borrow().ended(client), None);
    other.send(
        Slot(arrived.result as u32),
        Payload::own(b"hi".to_vec()),
        0,
        2,
        token(Op::Send),
    );
    turn(&mut other);
    assert_eq!(world.borrow_mut().read(client, 9), b"hi");
}

#[test]
fn faults_repeat_with_their_seed_and_spare_the_order_of_one_poll() {
    let run = |seed| {
        let world = Rc::new(RefCell::new(World::new(seed)));
        let mut ring = SimRing::new(&world, &setup(8));
        let mut sockets = Vec::new();
        for number in 0..4 {
            let client = world.borrow_mut().connect(0, 0, 1000).unwrap();
            ring.accept(0, Token::new(Op::Accept, number, 0));
            let slot = Slot(turn(&mut ring)[0].result as u32);
            ring.poll(slot, Token::new(Op::Poll, number, 0));
            sockets.push((client, slot, number));
        }
        world.borrow_mut().faults = Faults {
            late: 500,
            reorder: 900,
            ..Faults::default()
        };
        let mut log = Vec::new();
        for (client, slot, number) in sockets {
            world.borrow_mut().write(client, b"x");
            if number == 2 {
                ring.close(slot, number, 0, &[Op::Poll]);
            }
            for completion in turn(&mut ring) {
                log.push((completion.token, completion.more));
            }
        }
        for _ in 0..20 {
            log.extend(
                turn(&mut ring)
                    .iter()
                    .map(|completion| (completion.token, completion.more)),
            );
        }
        let polls = log
            .iter()
            .filter(|(token, _)| *token == Token::new(Op::Poll, 2, 0));
        assert!(
            polls.rev().skip(1).all(|(_, more)| *more),
            "the last one is the last: {log:?}"
        );
        log
    };
    assert_eq!(run(7), run(7));
    assert!((0..20).any(|seed| run(seed) != run(7)));
}
