//! The clients against a model of a server, with a network between them that loses, repeats, delays, mixes up
//! and damages packets. Time is virtual; everything is drawn from a seed.

mod network;
mod server;

use std::net::SocketAddrV4;
use std::sync::Arc;

use super::addresses;
use super::clients::Clients;
use crate::load::channels::{Board, Channels};
use crate::load::plan::{Ends, Plan, Scenario as Planned};
use crate::load::scenario::Scenario as _;
use crate::load::{ChannelGroup, ChannelsPlan};
use network::{Network, Random, Weather, Whither};
use server::{Fault, Server};

const SECOND_NS: u64 = 1_000_000_000;
/// How often both ends look for what has to be sent again.
const SWEEP_NS: u64 = SECOND_NS / 20;
const SUBSCRIBERS: u32 = 12;
/// Good enough for anything that can succeed.
const PLENTY_NS: u64 = 600 * SECOND_NS;

const CALM: Weather = Weather {
    lost: 0,
    twice: 0,
    damaged: 0,
    longest_ns: 0,
};
const STORM: Weather = Weather {
    lost: 15,
    twice: 10,
    damaged: 5,
    longest_ns: 30_000_000,
};

struct Run {
    clients: Clients<Channels>,
    board: Arc<Board>,
    server: Server,
    network: Network,
    random: Random,
    now_ns: u64,
    swept_ns: u64,
    failures: Vec<String>,
}

impl Run {
    fn new(weather: Weather, seed: u64) -> Self {
        let address = SocketAddrV4::new(addresses::SERVER, 9_000);
        let channels = ChannelsPlan {
            groups: vec![
                ChannelGroup::new("own", SUBSCRIBERS, 1),
                ChannelGroup::new("common", 1, 1),
            ],
            publishers: 1,
            size_bytes: 128,
            traffic: None,
            held_back: false,
        };
        let scenario = Planned::Channels(channels.clone());
        let mut plan = Plan::new(address.into(), "/ws", SUBSCRIBERS + 1, scenario);
        plan.ends = Ends::Tun;
        plan.connecting = 5;
        assert_eq!(plan.check(), Ok(()));
        let board = Arc::new(Board::new(&channels, &plan));
        let channels = Channels::new(channels, Arc::clone(&board), 1, 0, 3);
        Self {
            clients: Clients::new(&plan, address, channels).expect("random bytes"),
            board,
            server: Server::new(address),
            network: Network::new(weather),
            random: Random::new(seed),
            now_ns: 1,
            swept_ns: 0,
            failures: Vec::new(),
        }
    }

    /// Goes on until `done`, a connection failed, or it takes too long, which is said with `false`.
    fn until(&mut self, limit_ns: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end_ns = self.now_ns + limit_ns;
        while !done(self) && self.failures.is_empty() {
            if self.now_ns > end_ns {
                return false;
            }
            self.step();
        }
        done(self) && self.failures.is_empty()
    }

    fn step(&mut self) {
        let mut packets = Vec::new();
        self.clients.clock(self.now_ns);
        self.clients.turn(false);
        self.clients.flush(3, &mut |packet| {
            packets.push((Whither::Server, packet.to_vec()))
        });
        let mut answers = Vec::new();
        while let Some((whither, packet)) = self.network.arrived(self.now_ns) {
            match whither {
                Whither::Clients => self.clients.take(&packet),
                Whither::Server => self.server.take(&packet, &mut self.random, &mut answers),
            }
        }
        self.clients.flush(3, &mut |packet| {
            packets.push((Whither::Server, packet.to_vec()))
        });
        if self.now_ns >= self.swept_ns + SWEEP_NS {
            self.swept_ns = self.now_ns;
            self.clients.sweep(3, &mut |packet| {
                packets.push((Whither::Server, packet.to_vec()))
            });
        }
        self.server
            .flush(self.now_ns, &mut self.random, &mut answers);
        let answers = answers.into_iter().map(|packet| (Whither::Clients, packet));
        for (whither, packet) in packets.into_iter().chain(answers) {
            let network = &mut self.network;
            network.send(whither, &packet, self.now_ns, &mut self.random);
        }
        self.failures.extend(self.clients.failures());
        let next_ns = self.network.next_ns().unwrap_or(u64::MAX);
        let next_ns = if self.clients.is_waiting() {
            0
        } else {
            next_ns
        };
        self.now_ns = next_ns.clamp(self.now_ns + 1, self.swept_ns + SWEEP_NS);
    }

    fn ready(&self) -> bool {
        self.clients.counted.ready == SUBSCRIBERS + 1
    }

    fn messages(&self) -> u64 {
        self.clients.scenario.counts().messages
    }

    /// The recipe of the million. True if all of it held.
    fn recipe(&mut self) -> bool {
        let all = u64::from(SUBSCRIBERS);
        if !self.until(PLENTY_NS, Self::ready) {
            return false;
        }
        self.server.ping();
        if !self.until(PLENTY_NS, |run| run.server.pongs() == (1, 1)) {
            return false;
        }
        self.board.ask_round(0);
        if !self.until(PLENTY_NS, |run| run.messages() >= all) {
            return false;
        }
        self.board.ask_burst(1);
        if !self.until(PLENTY_NS, |run| {
            run.clients.scenario.counts().publishes >= 1
        }) {
            return false;
        }
        // What should not come would come now.
        self.until(SECOND_NS, |_| false);
        self.failures.is_empty() && self.messages() == 2 * all && self.server.published == all + 1
    }

    /// All disconnect.
    fn close(&mut self) {
        for key in 0..self.clients.count() {
            self.clients.close(key);
        }
        // A reset that was lost is asked for again when the server speaks next.
        for _ in 0..60 {
            self.server.ping();
            self.until(SECOND_NS, |run| run.server.open() == 0);
        }
        assert_eq!((self.server.open(), self.failures.len()), (0, 0));
        assert_eq!(self.clients.counted.ready, 0);
    }
}

fn seeds() -> u64 {
    let given = std::env::var("RINGWIRE_SEEDS").ok();
    given
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(1_000u64)
        .div_ceil(50)
}

#[test]
fn the_recipe_on_a_calm_network() {
    let mut run = Run::new(CALM, 1);
    assert!(run.recipe(), "{:?}", run.failures);
    assert_eq!(run.clients.counted.pings, u64::from(SUBSCRIBERS + 1));
    assert_eq!(run.clients.counted.sent_again, 0);
    assert_eq!(run.clients.counted.damaged, 0);
    assert_eq!(run.clients.held(), 0, "idle connections hold nothing more");
    run.close();
}

#[test]
fn the_recipe_in_every_storm() {
    let (mut sent_again, mut damaged, mut out_of_order) = (0, 0, 0);
    for seed in 0..seeds() {
        let mut run = Run::new(STORM, seed);
        assert!(run.recipe(), "seed {seed}: {:?}", run.failures);
        // The last acknowledgements.
        assert!(run.until(PLENTY_NS, |run| run.clients.held() == 0));
        run.close();
        sent_again += run.clients.counted.sent_again;
        out_of_order += run.clients.counted.out_of_order;
        damaged += run.clients.counted.damaged;
    }
    assert!(sent_again > 0 && damaged > 0 && out_of_order > 0);
}

/// A check that does not notice is worse than none.
#[test]
fn whatever_a_server_does_wrong_is_noticed() {
    let all = u64::from(SUBSCRIBERS);
    for fault in Fault::ALL {
        // What a connection said itself, and what was said to all: the first one, one between, the last one.
        for at in [1, all / 2, all, all + 1, all + all / 2, 2 * all] {
            for weather in [CALM, STORM] {
                let mut run = Run::new(weather, at);
                (run.server.fault, run.server.fault_at) = (fault, at);
                assert!(!run.recipe(), "{fault:?} at {at}");
            }
        }
    }
}

#[test]
fn a_server_without_room_is_waited_for() {
    let mut run = Run::new(STORM, 7);
    run.server.window = 90;
    assert!(run.until(PLENTY_NS, Run::ready), "{:?}", run.failures);
    run.server.window = 0;
    run.server.tell_window();
    run.until(SECOND_NS, |_| false);
    run.board.ask_round(0);
    // Longer than anything is sent again that is not acknowledged.
    run.until(200 * SECOND_NS, |_| false);
    assert_eq!((run.failures.len(), run.messages()), (0, 0));
    // Nobody is told that there is room again: they have to ask.
    run.server.window = 20_000;
    let all = u64::from(SUBSCRIBERS);
    assert!(run.until(PLENTY_NS, |run| run.messages() == all));
}

#[test]
fn a_server_that_does_not_answer_fails_the_run() {
    let mut run = Run::new(CALM, 1);
    run.server.dead = true;
    assert!(!run.until(200 * SECOND_NS, Run::ready));
    assert!(run.failures[0].contains("no answer to the SYN"));
    assert!(
        (30..90).contains(&(run.now_ns / SECOND_NS)),
        "{}",
        run.now_ns
    );

    let mut run = Run::new(CALM, 1);
    assert!(run.until(PLENTY_NS, Run::ready));
    run.server.dead = true;
    run.board.ask_round(0);
    assert!(!run.until(200 * SECOND_NS, |run| run.messages() > 0));
    assert!(run.failures[0].contains("never acknowledged"));
}

#[test]
fn a_server_that_does_not_listen_fails_the_run() {
    let mut run = Run::new(CALM, 1);
    run.server.refuses = true;
    assert!(!run.until(SECOND_NS, Run::ready));
    assert!(
        run.failures[0].contains("does not listen"),
        "{:?}",
        run.failures
    );
    assert_eq!(run.clients.held(), 0);
}

#[test]
fn a_connection_that_the_server_forgot_fails_the_run() {
    let mut run = Run::new(CALM, 1);
    assert!(run.until(PLENTY_NS, Run::ready));
    run.server = Server::new(SocketAddrV4::new(addresses::SERVER, 9_000));
    run.board.ask_round(0);
    assert!(!run.until(SECOND_NS, |run| run.messages() > 0));
    assert!(run.failures[0].contains("reset the connection"));
}

#[test]
fn a_million_clients_are_small() {
    assert!(Clients::<Channels>::connection_bytes() <= 64);
}
