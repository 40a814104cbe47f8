//! The load generator: the other end of every connection.
//!
//! It stands outside the way of a message and measures it: clients on rings of their own, on
//! threads of their own, that check every byte they get back ([`Load`] runs a [`Plan`]), and the
//! reading of what the server process used meanwhile ([`Process`]). [`tun`] has clients without sockets and
//! without rings, so that the kernel's memory is the server's alone. [`probe`] is a client of another
//! kind: over blocking sockets, it tests whether a server, any one, does what it should.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use ringwire::load::{EchoPlan, Load, Plan, Process, Scenario};
//! use std::time::Duration;
//!
//! let echo = EchoPlan::new(64, 1);
//! let plan = Plan::new("127.0.0.1:9000".parse()?, "/echo", 100, Scenario::Echo(echo));
//! let server = Process::new(4711)?;
//! let load = Load::start(&plan)?;
//! load.wait_ready(Duration::from_secs(10))?;
//! load.resume();
//! let (cpu, counts) = (server.cpu()?, load.counts());
//! std::thread::sleep(Duration::from_secs(3));
//! let (cpu, counts) = (server.cpu()?.since(cpu), load.counts().since(counts));
//! println!("{} ns per message", cpu.total_ns / counts.messages);
//! load.finish()?;
//! # Ok(())
//! # }
//! ```

pub mod bench;
mod channels;
mod closing;
mod connection;
mod echo;
mod explain;
mod fanout;
mod handshake;
mod idle;
pub mod launch;
pub mod machine;
mod plan;
pub mod probe;
pub mod process;
mod receiving;
mod run;
mod scenario;
pub mod statistics;
pub mod tun;
mod worker;

pub use channels::{
    CHANNEL_PUBLISH_BYTES_MIN, CHANNELS_MAX, ChannelGroup, ChannelsPlan, SUBSCRIPTIONS_MAX, Traffic,
};
pub use plan::{
    CONNECTION, EchoPlan, Ending, Ends, FanoutPlan, OUTSTANDING_MAX, PUBLISH_BYTES_MIN, Plan,
    PlanError, Scenario, WORKER_CONNECTIONS_MAX,
};
pub use process::{CpuTime, Process};
pub use run::{Counts, Lap, Live, Load, Network, Summary};
pub use statistics::{Latencies, LatencySummary};
