//! Whether the limits of the process are enough for what is configured: looked at before the first
//! ring is made, so that the answer is one sentence with the right number, not a shard's `ENOMEM`.

use crate::config::{Config, Listen};
use crate::ring::probe::{MEMLOCK_PER_EXECUTOR, kernel_version};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{
    CapabilitySet, capabilities, disable_transparent_huge_pages,
    transparent_huge_pages_are_disabled,
};

/// Descriptors of one shard beside its listeners and sockets. Measured: 8 (the rings of the executor,
/// the data ring, what wakes them); the rest is for tasks and timers of the executor.
const DESCRIPTORS_PER_SHARD: u64 = 12;
/// Descriptors of the process outside its shards. Measured: 7, without what it inherits.
const DESCRIPTORS_OF_PROCESS: u64 = 64;

/// From this kernel on the rings themselves count as locked memory; before, only registered buffers
/// do, and the executors go without those where they don't fit.
pub(crate) const RINGS_ARE_LOCKED: (u32, u32) = (6, 14);
const PAGE: u64 = 4096;
/// An executor's three rings: 16 KiB each, and 64 KiB that are registered with each of them.
const EXECUTOR_BYTES: u64 = 3 * (16 + 64) * 1024;
/// What the rings of the probe took may not have been given back yet.
const PROBE_BYTES: u64 = 64 * 1024;

/// A limit of the process that is too small for the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// RLIMIT_NOFILE caps the table of each shard's sockets.
    #[error(
        "client.connections_per_shard is {needed}, but the limit of open files, which caps it, is {limit}: set \
         `LimitNOFILE={needed}` in the systemd unit, run `ulimit -n {needed}` before, or have more shards with fewer \
         connections each"
    )]
    Connections {
        /// The soft limit, as raised.
        limit: u64,
        /// Connections per shard.
        needed: u64,
    },
    /// RLIMIT_NOFILE is too small for the shards themselves.
    #[error(
        "the limit of open files is {limit}, but {needed} are needed for {} with {}: set \
         `LimitNOFILE={needed}` in the systemd unit, run `ulimit -n {needed}` before, or use fewer shards",
        count(*.shards, "shard", "shards"),
        count(*.listeners, "TCP address", "TCP addresses")
    )]
    OpenFiles {
        /// The soft limit, as raised.
        limit: u64,
        /// What is needed.
        needed: u64,
        /// Shards.
        shards: u64,
        /// Listeners of each.
        listeners: u64,
    },
    /// RLIMIT_MEMLOCK is too small.
    #[error(
        "the limit of locked memory is {} KiB, but {} KiB are needed for {} ({} KiB each; a \
         smaller ring.completion_entries takes less): set `LimitMEMLOCK={needed_bytes}` or more in the systemd unit, run \
         `ulimit -l {}` before, or use fewer shards",
        .limit_bytes / 1024,
        .needed_bytes / 1024,
        count(*.shards, "shard", "shards"),
        .shard_bytes / 1024,
        .needed_bytes / 1024
    )]
    Memlock {
        /// The soft limit.
        limit_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
        /// Of this, one shard's part.
        shard_bytes: u64,
        /// Shards.
        shards: u64,
    },
    /// RLIMIT_MEMLOCK is less than an executor asks for, whether it needs it or not.
    #[error(
        "the limit of locked memory is {} KiB, but at least {} KiB are needed: set \
         `LimitMEMLOCK={MEMLOCK_PER_EXECUTOR}` or more in the systemd unit, or run `ulimit -l {}` before",
        .limit_bytes / 1024,
        MEMLOCK_PER_EXECUTOR / 1024,
        MEMLOCK_PER_EXECUTOR / 1024
    )]
    LeastMemlock {
        /// The soft limit.
        limit_bytes: u64,
    },
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// What the comparison knows of the process.
#[derive(Clone, Copy, Debug)]
struct Process {
    /// Soft limits; `None`: unlimited.
    memlock_bytes: Option<u64>,
    open_files: Option<u64>,
    /// Whether the kernel counts the rings of this process.
    counts_rings: bool,
}

impl Process {
    fn read(kernel: &str) -> Self {
        Self {
            memlock_bytes: getrlimit(Resource::Memlock).current,
            open_files: getrlimit(Resource::Nofile).current,
            counts_rings: !is_exempt() && kernel_version(kernel) >= Some(RINGS_ARE_LOCKED),
        }
    }
}

/// Whether nothing that this process locks is counted (CAP_IPC_LOCK). Where it cannot be asked: no.
fn is_exempt() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// Checks the limits of this process, on the kernel of this release, against what `shards` shards with
/// tables of `slots` sockets need.
///
/// # Errors
/// The limit that is too small, and what to set it to.
pub(super) fn check(
    config: &Config,
    shards: usize,
    slots: u32,
    kernel: &str,
) -> Result<(), LimitError> {
    compare(config, shards as u64, slots.into(), Process::read(kernel))
}

fn compare(config: &Config, shards: u64, slots: u64, process: Process) -> Result<(), LimitError> {
    if let Some(limit) = process.open_files {
        if limit < slots {
            return Err(LimitError::Connections {
                limit,
                needed: slots,
            });
        }
        let needed = descriptors(config, shards);
        if limit < needed {
            return Err(LimitError::OpenFiles {
                limit,
                needed,
                shards,
                listeners: tcp_listeners(config),
            });
        }
    }
    if let Some(limit_bytes) = process.memlock_bytes {
        let shard_bytes = shard_bytes(config);
        let needed_bytes = locked_bytes(config, shards);
        if process.counts_rings && limit_bytes < needed_bytes {
            return Err(LimitError::Memlock {
                limit_bytes,
                needed_bytes,
                shard_bytes,
                shards,
            });
        }
        if limit_bytes < MEMLOCK_PER_EXECUTOR {
            return Err(LimitError::LeastMemlock { limit_bytes });
        }
    }
    Ok(())
}

fn tcp_listeners(config: &Config) -> u64 {
    let tcp = |listen: &&Listen| matches!(listen, Listen::Tcp(_));
    config.listen.iter().filter(tcp).count() as u64
}

/// Descriptors that the process needs beside its sockets.
pub(crate) fn descriptors(config: &Config, shards: u64) -> u64 {
    let tcp = tcp_listeners(config);
    let others = config.listen.len() as u64 - tcp;
    shards * (DESCRIPTORS_PER_SHARD + tcp) + others + DESCRIPTORS_OF_PROCESS
}

/// Memory that the rings of all shards lock, in bytes; it counts from [`RINGS_ARE_LOCKED`] on.
pub(crate) fn locked_bytes(config: &Config, shards: u64) -> u64 {
    shards * shard_bytes(config) + PROBE_BYTES
}

/// Locked memory of one shard. Measured on Linux 6.18, to the page, with all of these settings varied.
fn shard_bytes(config: &Config) -> u64 {
    let pages = |bytes: u64| bytes.next_multiple_of(PAGE);
    let ring = &config.ring;
    // A completion has 16 bytes and stands behind the rings' own fields, a submission has 64, a buffer 16.
    pages(u64::from(ring.completion_entries) * 16 + 1)
        + pages(u64::from(ring.entries) * 64)
        + pages(u64::from(ring.buffers) * 16)
        + pages(u64::from(ring.large_buffers) * 16)
        + EXECUTOR_BYTES
}

/// Keeps the process from getting huge pages while it lives, where locked memory is short.
///
/// The 64 KiB that an executor registers with its rings count as the 2 MiB of the huge page that they
/// may lie in: three times, and a few shards would use up what is there for all. Elsewhere huge pages
/// are welcome.
pub(super) struct SmallPages(bool);

impl SmallPages {
    pub(super) fn where_memory_is_short() -> Self {
        let unlimited = getrlimit(Resource::Memlock).current.is_none() || is_exempt();
        let disabled = transparent_huge_pages_are_disabled().unwrap_or(true);
        // Where the kernel refuses, the start may fail for want of memory, and will say so.
        Self(!unlimited && !disabled && disable_transparent_huge_pages(true).is_ok())
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        if self.0 {
            // It has been allowed once.
            let _ = disable_transparent_huge_pages(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Process = Process {
        memlock_bytes: Some(8 << 20),
        open_files: Some(20_000),
        counts_rings: true,
    };

    #[test]
    fn a_shard_locks_what_its_rings_take() {
        let mut config = Config::default();
        assert_eq!(shard_bytes(&config), 540 << 10);
        // 16 bytes for each of 48 Ki completions more.
        config.ring.completion_entries = 65_536;
        assert_eq!(shard_bytes(&config), (540 + 768) << 10);
        config.ring.buffers = 8192;
        assert_eq!(shard_bytes(&config), (540 + 768 + 124) << 10);
    }

    #[test]
    fn locked_memory_is_counted_per_shard() {
        let config = Config::default();
        compare(&config, 15, 100, ROOMY).unwrap();
        let error = compare(&config, 16, 100, ROOMY).unwrap_err();
        let text = error.to_string();
        for words in [
            "is 8192 KiB, but 8704 KiB are needed for 16 shards (540 KiB each",
            "LimitMEMLOCK=8912896`",
            "ulimit -l 8704`",
            "fewer shards",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        // Older kernels don't count rings, and nobody counts for the superuser.
        let uncounted = Process {
            counts_rings: false,
            ..ROOMY
        };
        compare(&config, 1000, 100, uncounted).unwrap();
        let tight = Process {
            memlock_bytes: Some(64 << 10),
            ..uncounted
        };
        let text = compare(&config, 1, 100, tight).unwrap_err().to_string();
        assert!(
            text.contains("is 64 KiB, but at least 512 KiB are needed")
                && !text.contains("fewer shards"),
            "{text}"
        );
    }

    #[test]
    fn advice_about_descriptors_fits_what_is_missing() {
        let mut config = Config::default();
        compare(&config, 2, 20_000, ROOMY).unwrap();
        let text = compare(&config, 2, 20_001, ROOMY).unwrap_err().to_string();
        assert!(
            text.contains("connections_per_shard is 20001") && text.contains("more shards"),
            "{text}"
        );
        let few = Process {
            open_files: Some(1024),
            memlock_bytes: None,
            ..ROOMY
        };
        compare(&config, 64, 1000, few).unwrap();
        config.listen = ["127.0.0.1:1", "[::1]:1", "127.0.0.1:2", "unix:/x"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let text = compare(&config, 64, 1000, few).unwrap_err().to_string();
        assert!(
            text.contains("1025 are needed for 64 shards with 3 TCP addresses")
                && text.contains("fewer shards"),
            "{text}"
        );
    }

    #[test]
    fn releases_of_kernels_compare() {
        assert!(kernel_version("6.18.44-fc") >= Some(RINGS_ARE_LOCKED));
        assert!(kernel_version("6.14.0") >= Some(RINGS_ARE_LOCKED));
        assert!(kernel_version("6.1.0-30-amd64") < Some(RINGS_ARE_LOCKED));
        assert!(kernel_version("linux") < Some(RINGS_ARE_LOCKED));
    }
}
