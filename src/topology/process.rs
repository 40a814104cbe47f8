//! What the process asks of the system for itself: open files, and pinning threads.

use core_affinity::CoreId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::TopologyError;

/// The limit of open files (`RLIMIT_NOFILE`, getrlimit(2)); `u64::MAX` where there is none. Direct
/// descriptors do not count against it, but it caps the size of each ring's table of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NofileLimit {
    /// The soft limit before.
    pub old_soft: u64,
    /// The soft limit now; equal to `hard` unless the system refused.
    pub soft: u64,
    /// The hard limit. Only root or the service manager (`LimitNOFILE=`, `ulimit -Hn`) can raise it.
    pub hard: u64,
}

/// Raises the soft limit of open files to the hard one. Where the system refuses (a sandbox), the
/// soft limit stays and the result says so: the server runs with what there is.
pub fn raise_nofile() -> NofileLimit {
    let old = getrlimit(Resource::Nofile);
    if old.current != old.maximum {
        let wanted = Rlimit {
            current: old.maximum,
            maximum: old.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, "the soft limit of open files could not be raised to the hard one");
        }
    }
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    NofileLimit {
        old_soft: number(old.current),
        soft: number(getrlimit(Resource::Nofile).current),
        hard: number(old.maximum),
    }
}

/// Pins the calling thread to a core, by the operating system's number. For threads that are not
/// shards (those are pinned by their executor); a core out of [`super::Plan::spare`].
///
/// # Errors
/// When the core does not exist or the cpuset of the process excludes it.
pub fn pin_current_thread(core: usize) -> Result<(), TopologyError> {
    // `cpu_set_t` has room for no higher index.
    if core <= crate::config::limits::MAX_CORE
        && core_affinity::set_for_current(CoreId { id: core })
    {
        Ok(())
    } else {
        Err(TopologyError::Pin { core })
    }
}

/// Keeps this process from getting transparent huge pages (prctl(2), `PR_SET_THP_DISABLE`). A shard's
/// allocator touches a little of many pages: with huge ones, each of those keeps 2 MiB. Measured: 59 shards
/// without connections kept 366 MB, and 28 MB without huge pages, at the same cost of echo and fan-out.
pub fn do_without_huge_pages() {
    // Where the kernel has none, there is nothing to do without.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one_and_stays_there() {
        let first = raise_nofile();
        assert_eq!(first.soft, first.hard);
        let second = raise_nofile();
        assert_eq!(
            second,
            NofileLimit {
                old_soft: first.hard,
                ..first
            }
        );
    }

    #[test]
    fn pinning_to_a_core_that_is_not_there_fails() {
        for core in [crate::config::limits::MAX_CORE, usize::MAX] {
            let error = pin_current_thread(core).unwrap_err();
            assert!(error.to_string().contains(&core.to_string()), "{error}");
        }
    }
}
