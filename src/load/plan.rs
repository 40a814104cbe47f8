//! What a run of the load generator does.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::channels::ChannelsPlan;
use super::tun::addresses;

/// Connections of one worker at most: its ring's table of direct descriptors is capped by
/// RLIMIT_NOFILE (20,000 on an ordinary machine), and a source address has some 28,000 ports.
pub const WORKER_CONNECTIONS_MAX: u32 = 19_000;
/// Messages or publishes outstanding at most.
pub const OUTSTANDING_MAX: u32 = 1_024;
/// The shortest payload of a publish, in bytes: it carries its publisher and its number.
pub const PUBLISH_BYTES_MIN: usize = 12;
/// In the value of a header: the connection's number.
pub const CONNECTION: &str = "{connection}";

/// A run: who connects to what, and what they do there.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// The path of the upgrade request.
    pub path: String,
    /// The `Host` of the upgrade request. `None`: the address.
    pub host: Option<String>,
    /// Subprotocols to offer, comma-separated. The server must choose one of them, or none.
    pub subprotocols: Option<String>,
    /// What the clients' ends of the connections are.
    pub ends: Ends,
    /// Connections in all, over all workers.
    pub connections: u32,
    /// Client threads, each with a ring of its own; at most [`WORKER_CONNECTIONS_MAX`] connections
    /// each.
    pub workers: u32,
    /// Cores (operating system indexes) that the workers are pinned to, in turn. Empty: anywhere.
    pub cores: Vec<usize>,
    /// Local addresses that connections come from, one per worker in turn. Empty: the kernel's
    /// choice. More than about 28,000 connections to one server need several.
    pub sources: Vec<IpAddr>,
    /// Handshakes in flight per worker, and as many connections whose subscriptions are. Default 64.
    pub connecting: u32,
    /// New connections per second over all workers, evenly spaced, as long as no more than `connecting`
    /// are in flight. `None`: as many as that allows.
    pub connect_rate: Option<u32>,
    /// How long a connection stays once it is ready, in milliseconds: then it ends as `endings` say, and
    /// another one takes its place, as `connecting` and `connect_rate` allow. `None`: all stay until the
    /// run ends. For [`Scenario::Idle`], and [`Scenario::Channels`] without publishers.
    pub stay_ms: Option<u32>,
    /// Read nothing more from a connection once it is ready. What the server makes of that (it closes the
    /// connection, or keeps it) is no failure; see [`super::Load::drain`].
    pub stall: bool,
    /// Size of each socket's receive buffer (SO_RCVBUF, socket(7)), in bytes; the kernel doubles it for its own
    /// bookkeeping. `None`: the kernel makes it as large as it finds useful.
    pub receive_buffer_bytes: Option<u32>,
    /// Connections that may fail: to connect, or later. One more fails the run.
    pub failures_max: u32,
    /// The number of the first connection; the others count on from there. Two runs against one server
    /// are told apart by it: in headers, and in what each connection subscribes to.
    pub first: u32,
    /// Further header lines of the upgrade request: names and values. [`CONNECTION`] in a value stands
    /// for the connection's number, with at least six digits.
    pub headers: Vec<(String, String)>,
    /// How connections end, in turn: the first one like the first of these, and so on. Never empty.
    pub endings: Vec<Ending>,
    /// Never sleep while traffic runs or connections are being opened. A client that sleeps makes the
    /// server pay for waking it, so measurements of a server's cost want this, on a core of the
    /// client's own.
    pub spin: bool,
    /// What the connections do once they are open.
    pub scenario: Scenario,
}

/// What the clients' ends of connections are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// Sockets of this machine.
    #[default]
    Sockets,
    /// In user space, behind a TUN device ([`super::Load::start_behind`]): the kernel has nothing of them. One
    /// worker; every connection ends with a reset.
    Tun,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With a TCP reset: as a process that is killed, and nothing stays in `TIME_WAIT`.
    Reset,
    /// With a close frame (1000), which the server must answer before it closes.
    Close,
    /// With a TCP reset in the middle of a message: a fragment of it and a part of the next frame were
    /// sent, and a ping between them was answered, so that the server is known to hold them.
    MidMessage,
}

/// What the connections of a run do.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// They open and stay.
    Idle,
    /// Each sends binary messages and expects every one of them back.
    Echo(EchoPlan),
    /// All but the publishers subscribe to one channel; every one of them expects every publish, in
    /// its publisher's order.
    Fanout(FanoutPlan),
    /// All but the publishers subscribe to several channels each; every delivery must be the next one
    /// of its channel.
    Channels(ChannelsPlan),
}

/// Echo traffic.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EchoPlan {
    /// Payload of a message, in bytes.
    pub size_bytes: usize,
    /// Messages that a connection has on the way: the next one leaves when one came back.
    pub outstanding: u32,
    /// Messages per second in all, evenly spaced. A round trip then counts from the time at which the
    /// message was due, also when every connection was waiting for an answer at that time: what a user
    /// who came then would have waited (no "coordinated omission"). `None`: as many as come back.
    pub rate: Option<u32>,
    /// Messages of each connection from one `Load::resume` to the next. Without a rate. `None`: until the
    /// run is paused.
    pub messages: Option<u32>,
}

impl EchoPlan {
    /// Messages of `size_bytes`, as many as come back, of which each connection has `outstanding` on the
    /// way.
    #[must_use]
    pub const fn new(size_bytes: usize, outstanding: u32) -> Self {
        Self {
            size_bytes,
            outstanding,
            rate: None,
            messages: None,
        }
    }
}

/// Publishes on one channel.
#[derive(Clone, Debug, Serialize)]
pub struct FanoutPlan {
    /// The channel. Letters, digits, `-`, `_`, `.`, `:` only: it is put into JSON as it is.
    pub channel: String,
    /// Connections (of the plan's) that publish; all others subscribe.
    pub publishers: u32,
    /// Length of the published string, in bytes.
    pub size_bytes: usize,
    /// Publishes that a publisher has on the way: one ends when every subscriber got it.
    pub outstanding: u32,
    /// Publishes per publisher. `None`: until the run is paused.
    pub publishes: Option<u32>,
    /// Publishes per second and publisher, evenly spaced, as long as no more than `outstanding` are on
    /// the way. `None`: as fast as they arrive.
    pub rate: Option<u32>,
}

/// A plan that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No connection at all, or fewer than the scenario needs.
    #[error("the plan has {have} connections and needs at least {need}")]
    TooFewConnections {
        /// Connections of the plan.
        have: u32,
        /// Connections that would do.
        need: u32,
    },
    /// More connections than the workers' rings hold.
    #[error(
        "{connections} connections do not fit in {workers} workers of {WORKER_CONNECTIONS_MAX} each; \
         use {need} workers"
    )]
    TooManyConnections {
        /// Connections of the plan.
        connections: u32,
        /// Workers of the plan.
        workers: u32,
        /// Workers that would do.
        need: u32,
    },
    /// A number lies outside its bounds.
    #[error("{name} is {value}, but must lie between {least} and {most}")]
    OutOfBounds {
        /// Which number.
        name: &'static str,
        /// What it is.
        value: u64,
        /// Lower bound.
        least: u64,
        /// Upper bound.
        most: u64,
    },
    /// The channel's name would need escaping.
    #[error("the channel {0:?} has characters other than letters, digits and -_.:")]
    Channel(String),
    /// A header that would break the request.
    #[error("the header {0:?} has a name that is no token, or a value with control characters")]
    Header(String),
    /// Two settings that exclude each other.
    #[error("{0} and {1} cannot be had together")]
    Both(&'static str, &'static str),
    /// Nothing says how connections end.
    #[error("the plan has no ending: name at least one")]
    NoEnding,
    /// A connection would subscribe twice to one channel.
    #[error("{channels} channels of {name:?} cannot be dealt out evenly by {each}: use a multiple")]
    Uneven {
        /// The group's name.
        name: String,
        /// Channels of the group.
        channels: u32,
        /// Subscriptions of a connection in it.
        each: u32,
    },
}

impl Plan {
    /// A plan for `connections` to `ws://address/path` from one worker, with the defaults.
    #[must_use]
    pub fn new(address: SocketAddr, path: &str, connections: u32, scenario: Scenario) -> Self {
        Self {
            address,
            path: path.to_owned(),
            host: None,
            subprotocols: None,
            ends: Ends::Sockets,
            connections,
            workers: connections.div_ceil(WORKER_CONNECTIONS_MAX).max(1),
            cores: Vec::new(),
            sources: Vec::new(),
            connecting: 64,
            connect_rate: None,
            stay_ms: None,
            stall: false,
            receive_buffer_bytes: None,
            failures_max: 0,
            first: 0,
            headers: Vec::new(),
            endings: vec![Ending::Reset],
            spin: false,
            scenario,
        }
    }

    /// Checks all bounds.
    ///
    /// # Errors
    /// Says what is out of bounds and what would do.
    pub fn check(&self) -> Result<(), PlanError> {
        let (publishers, outstanding, size_bytes, least_bytes) = match &self.scenario {
            Scenario::Idle => (0, 1, 0, 0),
            Scenario::Echo(echo) => {
                if echo.rate.is_some() && echo.messages.is_some() {
                    return Err(PlanError::Both("rate", "messages"));
                }
                (0, echo.outstanding, echo.size_bytes, 0)
            }
            Scenario::Fanout(fanout) => {
                check_channel(&fanout.channel)?;
                within("publishers", u64::from(fanout.publishers), 1, 64)?;
                (
                    fanout.publishers,
                    fanout.outstanding,
                    fanout.size_bytes,
                    PUBLISH_BYTES_MIN,
                )
            }
            Scenario::Channels(channels) => channels.check()?,
        };
        for (name, value) in &self.headers {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let name_is_good = !name.is_empty() && name.bytes().all(token);
            if !name_is_good || value.chars().any(char::is_control) {
                return Err(PlanError::Header(name.clone()));
            }
        }
        if let Some(subprotocols) = &self.subprotocols
            && subprotocols
                .chars()
                .any(|c| c.is_control() || !c.is_ascii())
        {
            return Err(PlanError::Header("Sec-WebSocket-Protocol".to_owned()));
        }
        if self.endings.is_empty() {
            return Err(PlanError::NoEnding);
        }
        if self.stay_ms.is_some() {
            let excluded = match &self.scenario {
                _ if self.stall => Some("stall"),
                Scenario::Idle => None,
                Scenario::Channels(channels) if channels.publishers == 0 => None,
                _ => Some("traffic of these connections"),
            };
            if let Some(excluded) = excluded {
                return Err(PlanError::Both("stay_ms", excluded));
            }
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            within("receive_buffer_bytes", bytes.into(), 4_096, 1 << 30)?;
        }
        if self.ends == Ends::Tun {
            self.check_tun()?;
        }
        if let Some(rate) = self.connect_rate {
            within("connect_rate", rate.into(), 1, 1_000_000)?;
        }
        // Numbers must not run over, neither here nor where they are multiplied in 64 bits.
        within("first", self.first.into(), 0, 1 << 30)?;
        within("workers", u64::from(self.workers), 1, 1_024)?;
        within("connecting", u64::from(self.connecting), 1, 4_096)?;
        let most = u64::from(OUTSTANDING_MAX);
        within("outstanding", u64::from(outstanding), 1, most)?;
        within(
            "size_bytes",
            size_bytes as u64,
            least_bytes as u64,
            16 << 20,
        )?;
        // The publishers are on the first worker.
        let need = (publishers + 1).max(self.workers);
        if self.connections < need || publishers > self.share(0).len() as u32 {
            return Err(PlanError::TooFewConnections {
                have: self.connections,
                need: need.max(publishers.saturating_mul(self.workers)),
            });
        }
        if self.ends == Ends::Sockets && self.share(0).len() as u32 > WORKER_CONNECTIONS_MAX {
            return Err(PlanError::TooManyConnections {
                connections: self.connections,
                workers: self.workers,
                need: self.connections.div_ceil(WORKER_CONNECTIONS_MAX),
            });
        }
        Ok(())
    }

    /// What clients behind a TUN device can do.
    fn check_tun(&self) -> Result<(), PlanError> {
        within("workers", self.workers.into(), 1, 1)?;
        let most = addresses::CONNECTIONS_MAX;
        within("connections", self.connections.into(), 1, most.into())?;
        let excluded = [
            ("stay_ms", self.stay_ms.is_some()),
            ("stall", self.stall),
            ("connect_rate", self.connect_rate.is_some()),
            ("sources", !self.sources.is_empty()),
            (
                "endings other than a reset",
                self.endings.iter().any(|ending| *ending != Ending::Reset),
            ),
        ];
        match excluded.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(PlanError::Both("clients behind a TUN device", name)),
            None => Ok(()),
        }
    }

    /// The connections of one worker; the first ones have one more when they don't divide evenly.
    #[must_use]
    pub fn share(&self, worker: u32) -> std::ops::Range<u32> {
        let (each, more) = (
            self.connections / self.workers,
            self.connections % self.workers,
        );
        let start = worker * each + worker.min(more);
        start..start + each + u32::from(worker < more)
    }
}

/// Whether a name can be put into JSON as it is.
pub(super) fn check_channel(name: &str) -> Result<(), PlanError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(PlanError::Channel(name.to_owned()));
    }
    Ok(())
}

pub(super) fn within(
    name: &'static str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), PlanError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(PlanError::OutOfBounds {
        name,
        value,
        least,
        most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn plan(connections: u32, workers: u32, scenario: Scenario) -> Plan {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9000));
        Plan {
            workers,
            ..Plan::new(address, "/echo", connections, scenario)
        }
    }

    fn fanout(publishers: u32, channel: &str) -> Scenario {
        Scenario::Fanout(FanoutPlan {
            channel: channel.to_owned(),
            publishers,
            size_bytes: 128,
            outstanding: 1,
            publishes: None,
            rate: None,
        })
    }

    #[test]
    fn what_cannot_run_is_refused() {
        assert_eq!(plan(1, 1, Scenario::Idle).check(), Ok(()));
        assert!(plan(0, 1, Scenario::Idle).check().is_err());
        assert!(plan(1, 2, Scenario::Idle).check().is_err());
        assert!(plan(5, 0, Scenario::Idle).check().is_err());
        assert!(plan(19_001, 1, Scenario::Idle).check().is_err());
        assert_eq!(plan(38_000, 2, Scenario::Idle).check(), Ok(()));
        assert_eq!(plan(2, 1, fanout(1, "c")).check(), Ok(()));
        assert!(plan(1, 1, fanout(1, "c")).check().is_err());
        assert!(plan(9, 1, fanout(1, "\"")).check().is_err());
        assert!(plan(9, 1, fanout(0, "c")).check().is_err());
        assert!(plan(4, 2, fanout(3, "c")).check().is_err());
        let behind = |connections, workers| Plan {
            ends: Ends::Tun,
            ..plan(connections, workers, Scenario::Idle)
        };
        assert_eq!(behind(1_000_001, 1).check(), Ok(()));
        assert!(behind(10_000_002, 1).check().is_err());
        assert!(behind(38_000, 2).check().is_err());
        let mut closing = behind(1, 1);
        closing.endings = vec![Ending::Reset, Ending::Close];
        assert!(matches!(closing.check(), Err(PlanError::Both(_, _))));
        let echo = |size_bytes, outstanding| {
            plan(1, 1, Scenario::Echo(EchoPlan::new(size_bytes, outstanding))).check()
        };
        assert_eq!(echo(0, 1), Ok(()));
        assert!(echo(64, 0).is_err());
        assert!(echo(usize::MAX, 1).is_err());
    }

    #[test]
    fn headers_that_would_break_the_request_are_refused() {
        let with = |name: &str, value: &str| {
            let mut plan = plan(1, 1, Scenario::Idle);
            plan.headers = vec![(name.to_owned(), value.to_owned())];
            plan.check()
        };
        assert_eq!(with("X-User-ID", "user-{connection}"), Ok(()));
        for (name, value) in [("", "a"), ("a b", "a"), ("a:", "a"), ("a", "a\r\nb: c")] {
            assert_eq!(with(name, value), Err(PlanError::Header(name.to_owned())));
        }
        let mut endless = plan(1, 1, Scenario::Idle);
        endless.endings.clear();
        assert_eq!(endless.check(), Err(PlanError::NoEnding));
    }

    #[test]
    fn the_default_number_of_workers_fits() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9000));
        let plan = Plan::new(address, "/ws", 100_000, Scenario::Idle);
        assert_eq!((plan.workers, plan.check()), (6, Ok(())));
    }

    proptest! {
        #[test]
        fn every_connection_has_one_worker(connections in 0u32..10_000, workers in 1u32..64) {
            let plan = plan(connections, workers, Scenario::Idle);
            let mut next = 0;
            for worker in 0..workers {
                let share = plan.share(worker);
                prop_assert_eq!(share.start, next);
                prop_assert!(share.len() as u32 - connections / workers <= 1);
                next = share.end;
            }
            prop_assert_eq!(next, connections);
        }
    }
}
