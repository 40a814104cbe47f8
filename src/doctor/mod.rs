//! Whether a host can hold a number of connections, and what to change: `ringwire doctor`.
//!
//! Before the way of a message begins, often before the server is installed. [`Host::read`] collects facts
//! from `/proc`, `/sys` and `/etc`, of this machine or of a copied tree; [`Host::examine`] compares them
//! with what the connections need, by formulas that need no machine (`need`); [`Report`] is printed or
//! written as JSON. Nothing here changes a setting.

mod cgroup;
mod checks;
mod facts;
mod finding;
mod need;
mod nics;
mod parse;
mod print;
mod systemd;
mod tree;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::ring::probe;
use facts::Facts;
use tree::Tree;

pub use finding::{Finding, How, Report, Status, Stop};
pub use print::Explain;

/// Connections of which one is asked about at most: as many as the largest number of shards holds.
pub const MAX_CONNECTIONS: u64 =
    crate::config::limits::SHARDS.max * crate::config::limits::MAX_CONNECTIONS_PER_SHARD as u64;

/// Where nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The root is no host's.
    #[error(
        "{} has no folder proc: --root takes the folder that holds a host's proc, sys and etc",
        .0.display()
    )]
    Root(PathBuf),
    /// There is no such process.
    #[error("there is no process {0}: pidof ringwire names those of the server")]
    Process(u32),
}

/// What the connections need of the server; the rest of it comes out of the host.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How many connections, 1 to [`MAX_CONNECTIONS`].
    pub connections: u64,
    /// Shards that they are spread over; at least 1.
    pub shards: u64,
    /// `client.connections_per_shard`, where it is configured.
    pub connections_per_shard: Option<u32>,
    /// Descriptors of the server beside its sockets.
    pub descriptors: u64,
    /// Memory that the rings of all shards lock, in bytes.
    pub locked_bytes: u64,
    /// The kernel from which on that counts against RLIMIT_MEMLOCK.
    pub rings_locked_since: (u32, u32),
    /// A page of memory, in bytes.
    pub page_bytes: u64,
}

/// What was read of a host.
#[derive(Clone, Debug)]
pub struct Host {
    facts: Facts,
    notes: Vec<String>,
    own_process: bool,
}

impl Host {
    /// Reads the host below `root` (`/`: this one), with the limits of the process `process`, or of this one.
    ///
    /// # Errors
    /// When `root` holds no host, or the process is not there. What else cannot be read is a finding.
    pub fn read(root: &Path, process: Option<u32>) -> Result<Self, DoctorError> {
        let tree = Tree::new(root);
        if !tree.exists("/proc") {
            return Err(DoctorError::Root(root.to_owned()));
        }
        let name = match process {
            Some(process) if !tree.exists(&format!("/proc/{process}")) => {
                return Err(DoctorError::Process(process));
            }
            Some(process) => process.to_string(),
            None => "self".to_owned(),
        };
        let facts = Facts::read(&tree, &name);
        let mut notes = Vec::new();
        if root != Path::new("/") {
            notes.push(format!(
                "Read below {}: whether a ring can be made was not tried.",
                root.display()
            ));
        }
        if let Some(process) = process {
            let command = tree
                .text(&format!("/proc/{process}/comm"))
                .unwrap_or_default();
            notes.push(format!(
                "Limits and cgroup are those of process {process} ({command})."
            ));
        }
        Ok(Self {
            facts,
            notes,
            own_process: process.is_none(),
        })
    }

    /// Tries whether this process can make a ring on the running kernel, which nothing else shows: seccomp,
    /// security modules and sandboxes have a say.
    pub fn try_ring(&mut self) {
        self.facts.ring = Some(match probe::probe() {
            Ok(features) => {
                let yes_no = |has| if has { "yes" } else { "no" };
                Ok(format!(
                    "works (tried); no_sqarray: {}, min_wait: {}",
                    yes_no(features.no_sqarray),
                    yes_no(features.min_wait)
                ))
            }
            Err(error) => Err(error.to_string()),
        });
    }

    /// Physical cores that are online, whoever may use them; `None` where the tree does not say.
    #[must_use]
    pub fn physical_cores(&self) -> Option<u64> {
        let cores = self.facts.cores.physical.as_ref().ok()?;
        Some(*cores as u64)
    }

    /// Compares it with what is needed.
    #[must_use]
    pub fn examine(&self, wanted: &Wanted) -> Report {
        let mut notes = self.notes.clone();
        if let (true, Ok(path)) = (self.own_process, &self.facts.cgroup.path) {
            notes.push(format!(
                "Limits and cgroup ({path}) are those of this command. A service has its own: look at a running \
                 server with --pid."
            ));
        }
        // A few sockets of a shell and of monitoring don't change the figures.
        if let Ok(sockets) = &self.facts.tcp.sockets
            && *sockets > wanted.connections / 100
            && *sockets > 100
        {
            notes.push(format!(
                "{} TCP sockets are open already; memory, files and tracked connections are computed for as many more as \
                 are asked for.",
                checks::number(*sockets)
            ));
        }
        Report::new(
            wanted.connections,
            wanted.shards,
            notes,
            checks::all(&self.facts, wanted),
        )
    }
}
