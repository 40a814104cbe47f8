//! Parking in the executor.

use super::*;
use crate::ring::{Parked, Parker};
use crossbeam_channel::unbounded;
use glommio::{LocalExecutorBuilder, Placement};
use std::future::Future;

/// Runs `test` in an executor of the kind that shards have.
fn in_executor<F: Future<Output = ()> + 'static>(
    test: impl FnOnce() -> F + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(64 << 10)
            .ring_depth(64)
            .preempt_timer(Duration::from_secs(3600))
            .make()
            .unwrap();
        executor.run(test());
    })
}

#[test]
fn work_that_came_while_signals_were_off_keeps_a_shard_awake() {
    in_executor(|| async {
        let peers = Peers::new(2).unwrap();
        let mut sender = Driver::at(peers.clone(), 0, |_| ());
        let mut target = Driver::at(peers.clone(), 1, |_| ());
        let mut parker = Parker::new(&mut target.ring).unwrap();
        peers.fall_asleep(1);
        sender.ring.wake(1);
        sender.turn(Wait::Look);
        peers.wake_up(1);
        // The message is deferred work of the target: neither a completion nor a signal.
        let parked = parker
            .park(&mut target.ring, || false, &mut target.waiting)
            .await
            .unwrap();
        assert_eq!(parked, Parked::No);
        assert!(target.take(Op::Wake).is_some());
        assert!(!peers.wake_needed(1));
    })
    .join()
    .unwrap();
}

#[test]
fn the_inbox_is_looked_at_when_others_see_the_shard_asleep() {
    in_executor(|| async {
        let mut driver = Driver::new();
        let peers = driver.ring.peers().clone();
        let mut parker = Parker::new(&mut driver.ring).unwrap();
        let recheck = || {
            assert!(peers.wake_needed(0));
            true
        };
        let parked = parker
            .park(&mut driver.ring, recheck, &mut driver.waiting)
            .await
            .unwrap();
        assert_eq!(parked, Parked::No);
        assert!(!peers.wake_needed(0));
    })
    .join()
    .unwrap();
}

#[test]
fn a_parked_shard_wakes_for_its_sockets() {
    let (listener, address) = listener();
    let (ready, is_ready) = unbounded();
    let shard = in_executor(move || async move {
        let peers = Peers::new(1).unwrap();
        ready.send(peers.clone()).unwrap();
        let mut driver = Driver::at(peers, 0, |config| config.listeners = vec![listener]);
        let mut parker = Parker::new(&mut driver.ring).unwrap();
        driver.ring.accept(0, token(Op::Accept, 0));
        while driver.take(Op::Accept).is_none() {
            parker
                .park(&mut driver.ring, || false, &mut driver.waiting)
                .await
                .unwrap();
            driver.turn(Wait::Look);
        }
    });
    let peers = is_ready.recv_timeout(DEADLINE).unwrap();
    let started = Instant::now();
    while !peers.wake_needed(0) {
        assert!(started.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    let _client = connect(address);
    shard.join().unwrap();
}

/// Ping-pong between a parked shard and `ask`, which sends a number and wakes the shard.
fn parked_shard_answers(ask: impl FnOnce(Arc<Peers>, &dyn Fn(u32), &dyn Fn() -> Option<u32>)) {
    let peers = Peers::new(2).unwrap();
    let (to_shard, inbox) = unbounded::<u32>();
    let (outbox, from_shard) = unbounded();
    let theirs = peers.clone();
    let shard = in_executor(move || async move {
        let mut driver = Driver::at(theirs, 1, |_| ());
        let mut parker = Parker::new(&mut driver.ring).unwrap();
        loop {
            while let Ok(number) = inbox.try_recv() {
                outbox.send(number).unwrap();
                if number == 0 {
                    return;
                }
            }
            parker
                .park(&mut driver.ring, || !inbox.is_empty(), &mut driver.waiting)
                .await
                .unwrap();
            driver.turn(Wait::Look);
            driver.waiting.clear();
        }
    });
    ask(peers, &|number| to_shard.send(number).unwrap(), &|| {
        from_shard.try_recv().ok()
    });
    shard.join().unwrap();
}

#[test]
fn a_parked_shard_is_woken_by_another() {
    parked_shard_answers(|peers, send, answer| {
        let mut driver = Driver::at(peers, 0, |_| ());
        for number in (0..500).rev() {
            send(number);
            driver.ring.wake(1);
            driver.turn(Wait::Look);
            let started = Instant::now();
            while answer() != Some(number) {
                assert!(started.elapsed() < DEADLINE, "a wake-up was lost");
                driver.turn(Wait::Look);
                std::thread::yield_now();
            }
        }
        assert_eq!(driver.ring.counters().wake_fallbacks, 0);
    });
}

#[test]
fn a_parked_shard_is_woken_from_outside() {
    parked_shard_answers(|peers, send, answer| {
        for number in (0..500).rev() {
            send(number);
            peers.wake_from_outside(1);
            let started = Instant::now();
            while answer() != Some(number) {
                assert!(started.elapsed() < DEADLINE, "a wake-up was lost");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn a_lost_wake_up_ends_with_the_tick() {
    in_executor(|| async {
        let mut driver = Driver::with(|config| config.tick_ms = 1);
        let mut parker = Parker::new(&mut driver.ring).unwrap();
        // Nobody wakes it; only its own tick does.
        for _ in 0..3 {
            while driver.take(Op::Tick).is_none() {
                parker
                    .park(&mut driver.ring, || false, &mut driver.waiting)
                    .await
                    .unwrap();
                driver.turn(Wait::Look);
            }
        }
    })
    .join()
    .unwrap();
}

#[test]
fn tasks_of_the_executor_run_while_the_shard_is_parked() {
    in_executor(|| async {
        let mut driver = Driver::new();
        let peers = driver.ring.peers().clone();
        let mut parker = Parker::new(&mut driver.ring).unwrap();
        let waker = glommio::spawn_local(async move {
            while !peers.wake_needed(0) {
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
            peers.wake_from_outside(0);
        });
        parker
            .park(&mut driver.ring, || false, &mut driver.waiting)
            .await
            .unwrap();
        waker.await;
    })
    .join()
    .unwrap();
}
