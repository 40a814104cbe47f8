//! Which core gets which shard, and the sockets that the shards listen on.
//!
//! Before the way of a message begins: at start, once. [`plan()`] asks the machine ([`Machine`],
//! the only user of hwlocality) and decides by rules that need no machine; [`bind_all`] opens the
//! listening sockets; [`raise_nofile`] makes room for connections. Ask before anything is pinned: a
//! pinned thread sees only its own core.

mod listeners;
mod machine;
mod plan;
mod process;
mod sides;

pub use listeners::{ListenError, Listener, SocketFile, bind_all, listeners};
pub use machine::{Core, Machine, Pu};
pub use plan::{Plan, ShardPlace, plan_on};
pub use process::{NofileLimit, do_without_huge_pages, pin_current_thread, raise_nofile};
pub use sides::{Shared, Sides};

use crate::config::{Config, cores};

/// Why shards cannot be placed or a thread not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// hwloc could not tell what the machine looks like.
    #[error("the cores of this machine are not known: {0}; is /sys mounted?")]
    Unknown(String),
    /// Nothing is left to run on.
    #[error(
        "this process may not use any core of this machine; look at its cpuset (cpuset.cpus.effective) \
         and at its affinity (taskset -p)"
    )]
    NoCore,
    /// `cores` asks for cores that are not there, or not ours.
    #[error("cores: {}", describe_cores(missing, forbidden, allowed))]
    Cores {
        /// Listed, but this machine has no such core.
        missing: Vec<usize>,
        /// Listed, but excluded by the cgroup's cpuset or the process's affinity.
        forbidden: Vec<usize>,
        /// What could have been listed.
        allowed: Vec<usize>,
    },
    /// The system refused to pin a thread.
    #[error("cannot pin a thread to core {core}; is it in the cpuset of this process?")]
    Pin {
        /// The core, by the operating system's number.
        core: usize,
    },
}

fn describe_cores(missing: &[usize], forbidden: &[usize], allowed: &[usize]) -> String {
    let plural = |list: &[usize], one: &str, many: &str| {
        format!(
            "{} {}",
            cores::format(list),
            if list.len() == 1 { one } else { many }
        )
    };
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(plural(
            missing,
            "does not exist on this machine",
            "do not exist on this machine",
        ));
    }
    if !forbidden.is_empty() {
        parts.push(plural(
            forbidden,
            "is not allowed to this process (cpuset or taskset)",
            "are not allowed to this process (cpuset or taskset)",
        ));
    }
    format!(
        "{}; allowed here: {}",
        parts.join("; "),
        cores::format(allowed)
    )
}

/// Places the shards of this configuration on this machine.
///
/// Call it from a thread that nobody has pinned, before any shard starts.
///
/// # Errors
/// When the machine cannot be examined, has no core for this process, or lacks a core that the
/// configuration lists.
pub fn plan(config: &Config) -> Result<Plan, TopologyError> {
    plan_on(&Machine::detect()?, config)
}
