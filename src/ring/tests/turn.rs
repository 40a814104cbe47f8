//! Submitting, waiting, and taking all that is there.

use super::*;
use crate::ring::Alarm;

/// Posts `count` wake-ups to ring 1, which does not look.
fn post(from: &mut Driver, count: usize) {
    let peers = from.ring.peers().clone();
    peers.fall_asleep(1);
    for _ in 0..count {
        from.ring.wake(1);
        from.turn(Wait::Look);
    }
    peers.wake_up(1);
    assert_eq!(from.ring.counters().wakes, count as u64);
}

#[test]
fn a_turn_with_nothing_to_do_makes_no_system_call() {
    let mut driver = Driver::new();
    driver.turn(Wait::Look);
    assert_eq!(driver.ring.counters().enters, 0);
    assert_eq!(driver.ring.in_flight(), 0);
}

#[test]
fn one_turn_takes_more_than_one_enter_gives() {
    let peers = Peers::new(2).unwrap();
    let mut sender = Driver::at(peers.clone(), 0, |_| ());
    let mut target = Driver::at(peers, 1, |_| ());
    post(&mut sender, 100);
    // An enter that waits for nothing runs 20 pieces of deferred work (all of it on Linux 6.1).
    target.turn(Wait::Look);
    assert_eq!(target.waiting.len(), 100);
    assert!(target.ring.counters().enters <= 6);
    assert!(
        target
            .waiting
            .iter()
            .all(|c| c.token == Token::new(Op::Wake, 0, 0))
    );
}

#[test]
fn a_turn_ends_however_much_is_pending_and_the_next_goes_on() {
    let peers = Peers::new(2).unwrap();
    let mut sender = Driver::at(peers.clone(), 0, |_| ());
    let mut target = Driver::at(peers, 1, |_| ());
    post(&mut sender, 3000);
    target.turn(Wait::Look);
    assert!(target.ring.counters().enters <= 64);
    target.until("taking all", |target| target.waiting.len() == 3000);
}

#[test]
fn more_requests_than_both_queues_hold_lose_nothing_and_keep_their_order() {
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.entries = 16;
        config.completion_entries = 32;
        // Linux 6.1 takes a buffer for a receive that finds nothing, until its completion.
        config.buffers = 512;
        config.listeners = vec![listener];
    });
    let (_client, slot) = driver.connection(address);
    const COUNT: u32 = 500;
    for key in 0..COUNT {
        driver
            .ring
            .recv(slot, BufferClass::Small, token(Op::Recv, key));
    }
    driver.until("taking all", |driver| {
        driver.waiting.len() == COUNT as usize
    });
    for (key, completion) in driver.waiting.iter().enumerate() {
        assert_eq!(completion.token, token(Op::Recv, key as u32));
        assert_eq!(completion.result, -libc::EAGAIN);
    }
    assert!(driver.ring.counters().overflows > 0);
    assert_eq!(driver.ring.in_flight(), 0);
}

#[test]
fn a_wait_ends_with_its_time_or_with_the_first_completion() {
    let (mut driver, address) = Driver::listening();
    let wait = |timeout_us, min_wait_us| Wait::For {
        timeout_us,
        min_wait_us,
    };
    driver.turn(wait(1000, 0));
    driver.turn(wait(1000, 500));
    assert!(driver.waiting.is_empty());
    for min_wait_us in [0, 1000] {
        let started = Instant::now();
        driver.ring.accept(0, token(Op::Accept, 0));
        let client = connect(address);
        driver.turn(wait(60_000_000, min_wait_us));
        assert!(driver.take(Op::Accept).unwrap().result >= 0);
        assert!(started.elapsed() < DEADLINE);
        drop(client);
    }
}

#[test]
fn completions_at_hand_are_not_waited_for() {
    let (listener, address) = listener();
    let mut driver = Driver::with(|config| {
        config.entries = 8;
        config.listeners = vec![listener];
    });
    let (_client, slot) = driver.connection(address);
    // The ninth submits the first eight, whose completions then stand in the queue.
    for key in 0..9 {
        driver
            .ring
            .recv(slot, BufferClass::Small, token(Op::Recv, key));
    }
    let started = Instant::now();
    driver.turn(Wait::For {
        timeout_us: 60_000_000,
        min_wait_us: 0,
    });
    assert!(started.elapsed() < DEADLINE);
    assert_eq!(driver.waiting.len(), 9);
}

#[test]
#[allow(unsafe_code)]
fn a_signal_ends_a_wait_without_an_error() {
    let _handler = signal_hook::flag::register(libc::SIGUSR2, Arc::default()).unwrap();
    // SAFETY: it has no preconditions.
    let sleeper = unsafe { libc::pthread_self() };
    let awake = Arc::new(AtomicBool::new(false));
    let seen = awake.clone();
    let thread = std::thread::spawn(move || {
        while !seen.load(Ordering::SeqCst) {
            // SAFETY: the sleeper waits for this thread before it ends.
            unsafe { libc::pthread_kill(sleeper, libc::SIGUSR2) };
            std::thread::yield_now();
        }
    });
    let mut driver = Driver::new();
    let started = Instant::now();
    driver.turn(Wait::For {
        timeout_us: 60_000_000,
        min_wait_us: 0,
    });
    awake.store(true, Ordering::SeqCst);
    thread.join().unwrap();
    assert!(started.elapsed() < DEADLINE);
    assert!(driver.waiting.is_empty());
}

#[test]
fn one_alarm_bounds_many_waits() {
    let (mut driver, address) = Driver::listening();
    let alarm = Duration::from_millis(500);
    assert!(driver.ring.arm_alarm(Alarm::Wait, alarm));
    let started = Instant::now();
    for number in 0..3 {
        driver.ring.accept(0, token(Op::Accept, number));
        let _client = connect(address);
        // Ends with the connection, not with the alarm: that is the same one still.
        driver.until("accepting", |driver| driver.take(Op::Accept).is_some());
    }
    if started.elapsed() < alarm / 2 {
        assert!(driver.ring.has_alarm(Alarm::Wait) && !driver.ring.arm_alarm(Alarm::Wait, alarm));
    }
    while driver.ring.has_alarm(Alarm::Wait) {
        driver.turn(Wait::Event);
        assert!(started.elapsed() < DEADLINE);
    }
    assert!(started.elapsed() >= alarm);
    assert_eq!(driver.take(Op::Tick).unwrap().result, -libc::ETIME);
    assert!(driver.ring.arm_alarm(Alarm::Wait, Duration::from_millis(1)));
    driver.turn(Wait::Event);
    assert!(!driver.ring.has_alarm(Alarm::Wait));
}

#[test]
fn the_tick_goes_on_by_itself() {
    let mut driver = Driver::with(|config| config.tick_ms = 1);
    for _ in 0..3 {
        assert_eq!(driver.next(Op::Tick).result, -libc::ETIME);
    }
}

#[test]
fn a_configuration_that_no_ring_can_have_is_refused() {
    let refused = |change: fn(&mut UringConfig)| {
        let mut config = UringConfig::new(Peers::new(1).unwrap(), 0);
        change(&mut config);
        Uring::new(config).err().unwrap().to_string()
    };
    assert!(refused(|config| config.entries = 0).contains("entries"));
    assert!(refused(|config| config.completion_entries = 64).contains("completion_entries"));
    assert!(refused(|config| config.buffers = 100).contains("powers of two"));
    assert!(refused(|config| config.slots = 0).contains("slot"));
    assert!(refused(|config| config.installed_slots = 2000).contains("slot"));
    assert!(refused(|config| config.index = 1).contains("registry"));
    assert!(refused(|config| config.slots = u32::MAX).contains("limit of open files"));
}

#[test]
fn an_index_belongs_to_one_ring() {
    let peers = Peers::new(1).unwrap();
    let _first = Driver::at(peers.clone(), 0, |_| ());
    assert!(peers.has_started(0));
    let second = Uring::new(UringConfig::new(peers, 0));
    assert!(second.err().unwrap().to_string().contains("its own index"));
}

#[test]
#[should_panic(expected = "must carry its operation")]
fn a_token_of_another_operation_is_refused() {
    Driver::new().ring.poll(Slot(0), token(Op::Send, 1));
}
