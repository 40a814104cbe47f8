//! The thread of the clients: packets from the device to the clients, and theirs to the device.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::clients::Clients;
use super::device::Device;
use super::segment::MTU;
use crate::load::plan::Plan;
use crate::load::run::{Lap, Phase, Shared};
use crate::load::scenario::Scenario;

/// Packets that are taken before answers are sent.
const BATCH: usize = 128;
/// Connections for which something is sent before packets are looked at: answers come at once, and the device
/// does not hold everything.
const SEND_BATCH: usize = 64;
/// How often it is looked for what has to be sent again.
const SWEEP: Duration = Duration::from_millis(50);
/// How long a thread with nothing to do sleeps before it looks at the phase again.
const SLEEP: Duration = Duration::from_millis(2);
/// Connections that are closed before packets are looked at.
const CLOSE_BATCH: u32 = 256;
/// After the last reset, packets are answered until none has come for the first of these times, at most for
/// the second one: a reset that the server could not place is asked for again (RFC 5961 section 3.2).
const QUIET: Duration = Duration::from_millis(200);
const LINGER: Duration = Duration::from_secs(10);

/// The thread's world.
pub(in crate::load) struct Worker<S: Scenario> {
    clients: Clients<S>,
    device: Arc<Device>,
    shared: Arc<Shared>,
    spin: bool,
    failures_max: u32,
    swept: Instant,
    /// The last lap that was handed in.
    lap: u32,
    packet: Box<[u8]>,
}

impl<S: Scenario> Worker<S> {
    pub(in crate::load) fn new(
        plan: &Plan,
        scenario: S,
        shared: Arc<Shared>,
        device: Arc<Device>,
    ) -> anyhow::Result<Self> {
        let std::net::SocketAddr::V4(server) = plan.address else {
            anyhow::bail!("clients behind a TUN device speak IPv4 only");
        };
        Ok(Self {
            clients: Clients::new(plan, server, scenario)?,
            device,
            shared,
            spin: plan.spin,
            failures_max: plan.failures_max,
            swept: Instant::now(),
            lap: 0,
            packet: vec![0; MTU].into(),
        })
    }

    /// Runs until the coordinator says to close.
    pub(in crate::load) fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Close {
                return self.close_all();
            }
            let running = phase == Phase::Run;
            self.clock();
            self.clients.turn(running);
            self.flush()?;
            let packets = self.take_packets()?;
            self.publish_counts();
            self.end_lap();
            if packets == 0 && !self.clients.is_waiting() {
                let busy = running || self.clients.is_connecting();
                if busy && self.spin {
                    std::hint::spin_loop();
                } else {
                    self.device.wait(SLEEP)?;
                }
            }
        }
    }

    fn clock(&mut self) {
        let now = self.shared.began.elapsed();
        self.clients.clock(now.as_nanos() as u64);
    }

    /// Takes packets, at most [`BATCH`], and sends what follows from them. Says how many there were.
    fn take_packets(&mut self) -> anyhow::Result<usize> {
        let mut packets = 0;
        while packets < BATCH {
            let received = self.device.receive(&mut self.packet);
            let Some(length) = received.context("cannot read from the TUN device")? else {
                break;
            };
            if packets % 16 == 0 {
                self.clock();
            }
            packets += 1;
            self.clients.take(&self.packet[..length]);
        }
        self.flush()?;
        if self.swept.elapsed() >= SWEEP {
            self.clock();
            let mut sent = Ok(());
            let device = &self.device;
            let more = self.clients.sweep(SEND_BATCH, &mut |packet| {
                if sent.is_ok() {
                    sent = device.send(packet);
                }
            });
            sent.context("cannot write to the TUN device")?;
            if !more {
                self.swept = Instant::now();
            }
        }
        for reason in self.clients.failures() {
            self.shared.fail_connection(reason, self.failures_max);
        }
        Ok(packets)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let mut sent = Ok(());
        let device = &self.device;
        self.clients.flush(SEND_BATCH, &mut |packet| {
            if sent.is_ok() {
                sent = device.send(packet);
            }
        });
        sent.context("cannot write to the TUN device")
    }

    fn publish_counts(&self) {
        let counters = &self.shared.workers[0];
        let (counts, counted) = (self.clients.scenario.counts(), self.clients.counted);
        counters.messages.store(counts.messages, Ordering::Relaxed);
        counters.bytes.store(counts.bytes, Ordering::Relaxed);
        counters
            .publishes
            .store(counts.publishes, Ordering::Relaxed);
        counters.opened.store(counted.opened, Ordering::Release);
        counters.ready.store(counted.ready, Ordering::Release);
        counters.pings.store(counted.pings, Ordering::Relaxed);
        counters
            .sent_again
            .store(counted.sent_again, Ordering::Relaxed);
        counters
            .out_of_order
            .store(counted.out_of_order, Ordering::Relaxed);
        counters.damaged.store(counted.damaged, Ordering::Relaxed);
        let quiet = self.clients.scenario.is_quiet();
        counters.quiet.store(quiet, Ordering::Release);
    }

    /// Hands in what was measured since the last time, when the coordinator asks for it.
    fn end_lap(&mut self) {
        let lap = self.shared.lap.load(Ordering::Acquire);
        if lap != self.lap {
            self.lap = lap;
            self.hand_in_latencies();
            self.shared.workers[0].lap.store(lap, Ordering::Release);
        }
    }

    fn hand_in_latencies(&mut self) {
        let (messages, lasts) = self.clients.scenario.take_latencies();
        self.shared.add_lap(&Lap {
            messages,
            lasts,
            connects: std::mem::take(&mut self.clients.connects),
        });
    }

    /// Ends all connections, each with a reset, and hands in what was measured.
    fn close_all(&mut self) -> anyhow::Result<()> {
        for key in 0..self.clients.count() {
            self.clients.close(key);
            while key % CLOSE_BATCH == 0 && self.clients.is_waiting() {
                self.take_packets()?;
            }
        }
        let began = Instant::now();
        let mut last = Instant::now();
        while last.elapsed() < QUIET && began.elapsed() < LINGER {
            if self.take_packets()? > 0 || self.clients.is_waiting() {
                last = Instant::now();
            } else {
                self.device.wait(SLEEP)?;
            }
        }
        self.publish_counts();
        self.hand_in_latencies();
        Ok(())
    }
}
