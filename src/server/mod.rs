//! The library's entry, which the `ringwire` program uses too: a configuration and a handler
//! become a running server.
//!
//! ```no_run
//! use ringwire::Server;
//! use ringwire::config::Config;
//!
//! let server = Server::builder().config(Config::default()).build()?;
//! println!("{}", server.plan());
//! server.run()?; // until SIGTERM, SIGINT or SIGHUP
//! # Ok::<(), ringwire::StartError>(())
//! ```

pub(crate) mod limits;
mod publisher;
mod running;
mod signals;

use crate::config::{Config, ConfigError, Listen};
use crate::ring::probe::{self, Features, ProbeError};
use crate::session::Session;
use crate::shard::handler::Handler;
use crate::topology::{self, ListenError, Listener, NofileLimit, Plan, TopologyError};

pub use limits::LimitError;
pub use publisher::{PublishError, Publisher};
pub use running::Running;

/// Why a server could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself or the bounds.
    #[error("configuration: {}", join(.0))]
    Config(Vec<ConfigError>),
    /// The machine has no place for the shards.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The kernel does not allow what the ring needs.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A limit of the process is too small for the configuration.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// An address cannot be listened on.
    #[error("{}", join(.0))]
    Listen(Vec<ListenError>),
    /// A shard could not start.
    #[error("shard {shard} could not start: {problem}")]
    Shard {
        /// Which one.
        shard: usize,
        /// What is wrong.
        problem: String,
    },
    /// A shard ended although nobody asked it to.
    #[error("shard {shard} failed: {problem}")]
    Failed {
        /// Which one.
        shard: usize,
        /// What is wrong.
        problem: String,
    },
    /// Connections were still open when the time to drain was over.
    #[error(
        "{} still open after {drain_ms} ms and cut off; raise the drain timeout (timeouts.drain_ms) to give \
         clients longer",
        match .connections {
            1 => "1 connection was".to_owned(),
            connections => format!("{connections} connections were"),
        }
    )]
    DrainTimeout {
        /// How many.
        connections: u64,
        /// How long they had.
        drain_ms: u32,
    },
    /// The signals of the process cannot be handled.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The operating system refused something else.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}

fn join(errors: &[impl ToString]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Makes each shard's handler; called once per shard, on the shard's own thread.
pub type MakeHandler<H> = dyn Fn(usize, &Config) -> H + Send + Sync;

/// Collects what a server needs.
pub struct Builder<H: Handler = Session> {
    config: Config,
    handler: Box<MakeHandler<H>>,
}

impl<H: Handler> Builder<H> {
    /// Sets the configuration. Without it: [`Config::default`].
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets the application: `make` gets the number of a shard and the configuration, and returns
    /// the shard's handler. Without it: ringwire's own protocol.
    #[must_use]
    pub fn handler<N: Handler>(
        self,
        make: impl Fn(usize, &Config) -> N + Send + Sync + 'static,
    ) -> Builder<N> {
        Builder {
            config: self.config,
            handler: Box::new(make),
        }
    }

    /// Checks everything that can be checked before the first thread starts, and binds the
    /// listeners. Clients can connect from now on; they are served when the server runs.
    ///
    /// # Errors
    /// Says what is wrong and what to change.
    pub fn build(self) -> Result<Server<H>, StartError> {
        let config = self.config.check().map_err(StartError::Config)?;
        // Before anything is pinned: a pinned thread sees one core.
        let plan = topology::plan(&config)?;
        let nofile = topology::raise_nofile();
        let features = probe::probe()?;
        let slots = slots(&config, nofile);
        limits::check(&config, plan.shards.len(), slots, &features.kernel)?;
        let listeners =
            topology::bind_all(&config.listen, plan.shards.len()).map_err(StartError::Listen)?;
        Ok(Server {
            config,
            handler: self.handler,
            plan,
            nofile,
            features,
            slots,
            listeners,
        })
    }
}

/// Places of each shard's table of direct descriptors: as configured, or as many as the limit of
/// open files allows, which caps the table's size.
fn slots(config: &Config, nofile: NofileLimit) -> u32 {
    let most = crate::config::limits::MAX_CONNECTIONS_PER_SHARD;
    config
        .client
        .connections_per_shard
        .unwrap_or_else(|| u32::try_from(nofile.soft).unwrap_or(u32::MAX).min(most))
}

/// A server that is ready to run.
pub struct Server<H: Handler = Session> {
    config: Config,
    handler: Box<MakeHandler<H>>,
    plan: Plan,
    nofile: NofileLimit,
    features: Features,
    slots: u32,
    listeners: Vec<Listener>,
}

impl Server<Session> {
    /// A server with the default configuration and ringwire's own protocol, to be changed.
    #[must_use]
    pub fn builder() -> Builder<Session> {
        Builder {
            config: Config::default(),
            handler: Box::new(|_, config| Session::new(config)),
        }
    }
}

impl<H: Handler> Server<H> {
    /// The checked configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Which shard runs on which core.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the kernel can do.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// The limit of open files, as raised at start.
    #[must_use]
    pub const fn nofile(&self) -> NofileLimit {
        self.nofile
    }

    /// Connections that the server can hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.slots) * self.plan.shards.len() as u64
    }

    /// Where clients connect, with the ports that the system chose for port 0.
    pub fn addresses(&self) -> impl Iterator<Item = &Listen> {
        self.listeners.iter().map(|listener| &listener.address)
    }

    /// Starts the shards and returns. The server runs until it is told to end.
    ///
    /// # Errors
    /// When a shard cannot start; none runs then.
    pub fn start(self) -> Result<Running, StartError> {
        running::start(self, running::ExecutorTimers::default())
    }

    /// Runs until SIGTERM, SIGINT or SIGHUP, then drains: accepts nothing more, closes every connection
    /// with 1001 "server shutting down", and returns when the last one is gone. A second signal ends the
    /// process at once. SIGHUP counts only where the process was not started with it ignored (nohup(1)).
    ///
    /// # Errors
    /// When a shard cannot start or fails, or connections are left when the time to drain is over.
    pub fn run(self) -> Result<(), StartError> {
        self.run_and(|_| ())
    }

    /// Runs like [`Server::run`], and calls `started` when all shards run: the moment to say so.
    /// Signals are caught before the first shard starts.
    ///
    /// # Errors
    /// As [`Server::run`]; `started` is not called when a shard cannot start.
    pub fn run_and(self, started: impl FnOnce(&Running)) -> Result<(), StartError> {
        let drain_ms = self.config.timeouts.drain_ms;
        let signals = signals::Signals::catch()?;
        let running = self.start()?;
        signals.drain_with(running.drain_handle());
        started(&running);
        running.wait(drain_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_is_not_announced() {
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            shards: Some(2),
            ..Config::default()
        };
        let mut server = Server::builder().config(config).build().unwrap();
        // More than the kernel allows for one table: every check has passed, and no ring can be made.
        server.slots = 2 * crate::config::limits::MAX_CONNECTIONS_PER_SHARD;
        let mut announced = false;
        let error = server.run_and(|_| announced = true).unwrap_err();
        assert!(matches!(error, StartError::Shard { .. }), "{error}");
        assert!(!announced);
    }
}
