//! The limits of a process's cgroup and of those around it, each of which applies (cgroups(7),
//! cgroup-v2.rst; version 1 where a controller still hangs there).

use super::parse;
use super::tree::{Fact, Tree, Unknown, Why};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Version 1 says "unlimited" with the largest multiple of a page; no machine has an exabyte.
const UNLIMITED_V1_BYTES: u64 = 1 << 60;

/// The tightest limits on the way from the process's cgroup to the root. `None`: unlimited.
#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    /// Its path, as the process sees it.
    pub(super) path: Fact<String>,
    /// The one that leaves the least memory.
    pub(super) memory: Fact<Option<MemoryLimit>>,
    /// Whether its memory may be swapped out.
    pub(super) swaps: Fact<bool>,
    /// Threads that may still be started.
    pub(super) threads: Fact<Option<ThreadLimit>>,
    /// Processors' worth of time, in thousandths.
    pub(super) cpu_thousandths: Fact<Option<u64>>,
    /// Processors that the cpuset leaves; `None` where there is no cpuset.
    pub(super) cpus: Fact<Option<usize>>,
}

/// A limit of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryLimit {
    /// The file that sets it.
    pub(super) file: String,
    pub(super) limit_bytes: u64,
    /// What it leaves, with what the kernel can take back from its cache of files.
    pub(super) available_bytes: u64,
}

/// A limit of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ThreadLimit {
    /// The file that sets it.
    pub(super) file: String,
    pub(super) limit: u64,
    pub(super) available: u64,
}

/// One controller's hierarchy, as far as it concerns the process.
struct Hierarchy {
    v2: bool,
    /// Folders from the root of the hierarchy down to the process's group.
    groups: Vec<String>,
}

impl Cgroup {
    pub(super) fn read(tree: &Tree, process: &str) -> Self {
        let file = format!("/proc/{process}/cgroup");
        let text = tree.text(&file);
        let of = |controller: &str| hierarchy(tree, &file, &text, controller);
        Self {
            path: text.clone().and_then(|text| {
                paths(&text, "")
                    .or_else(|| paths(&text, "memory"))
                    .map(str::to_owned)
                    .ok_or_else(|| Unknown::malformed(&file, &text, "a list of cgroups"))
            }),
            memory: of("memory").and_then(|hierarchy| memory(tree, &hierarchy)),
            swaps: of("memory").and_then(|hierarchy| swaps(tree, &hierarchy)),
            threads: of("pids").and_then(|hierarchy| threads(tree, &hierarchy)),
            cpu_thousandths: of("cpu").and_then(|hierarchy| cpu(tree, &hierarchy)),
            cpus: of("cpuset").and_then(|hierarchy| cpus(tree, &hierarchy)),
        }
    }
}

/// The path of the line `N:CONTROLLERS:PATH` that has this controller; "" is that of version 2.
fn paths<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    })
}

fn hierarchy(tree: &Tree, file: &str, text: &Fact<String>, controller: &str) -> Fact<Hierarchy> {
    let text = text.as_ref().map_err(Clone::clone)?;
    let (v2, path, base) = match (paths(text, controller), paths(text, "")) {
        (Some(path), _) => (false, path, format!("{MOUNT}/{controller}")),
        (None, Some(path)) => (true, path, MOUNT.to_owned()),
        (None, None) => return Err(Unknown::malformed(file, text, "a list of cgroups")),
    };
    // Seen from inside another cgroup namespace (cgroup_namespaces(7)): those files are not ours to see.
    if path.split('/').any(|part| part == "..") {
        return Err(Unknown {
            path: format!("{MOUNT}{path}"),
            why: Why::Unreadable("it lies outside of this cgroup namespace".into()),
        });
    }
    // Says whether anything is mounted there at all.
    tree.list(&base)?;
    let mut groups = vec![base];
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let inner = format!("{}/{part}", groups[groups.len() - 1]);
        // In a container the path may be that of the host, while what is mounted is the container's part.
        if !tree.exists(&inner) {
            break;
        }
        groups.push(inner);
    }
    Ok(Hierarchy { v2, groups })
}

/// A file that is absent sets nothing: the root has none, nor has a group whose controller is off.
fn optional<T>(fact: Fact<T>) -> Fact<Option<T>> {
    match fact {
        Ok(value) => Ok(Some(value)),
        Err(unknown) if unknown.is_missing() => Ok(None),
        Err(unknown) => Err(unknown),
    }
}

fn memory(tree: &Tree, hierarchy: &Hierarchy) -> Fact<Option<MemoryLimit>> {
    let (limits, usage, caches): (&[&str], _, [&str; 2]) = if hierarchy.v2 {
        // Above `high` nothing fails, but every allocation waits.
        let limits = &["memory.max", "memory.high"];
        (limits, "memory.current", ["active_file", "inactive_file"])
    } else {
        let caches = ["total_active_file", "total_inactive_file"];
        (&["memory.limit_in_bytes"], "memory.usage_in_bytes", caches)
    };
    let mut least: Option<MemoryLimit> = None;
    for group in &hierarchy.groups {
        for name in limits {
            let file = format!("{group}/{name}");
            let Some(Some(limit_bytes)) = optional(tree.number_or_max(&file))? else {
                continue;
            };
            if !hierarchy.v2 && limit_bytes >= UNLIMITED_V1_BYTES {
                continue;
            }
            let used: u64 = tree.number(&format!("{group}/{usage}"))?;
            let stat = tree
                .text(&format!("{group}/memory.stat"))
                .unwrap_or_default();
            let cached: u64 = caches
                .iter()
                .filter_map(|name| parse::stat_number(&stat, name))
                .sum();
            let available_bytes = limit_bytes.saturating_sub(used.saturating_sub(cached));
            if least
                .as_ref()
                .is_none_or(|least| available_bytes < least.available_bytes)
            {
                least = Some(MemoryLimit {
                    file,
                    limit_bytes,
                    available_bytes,
                });
            }
        }
    }
    Ok(least)
}

/// Version 1 bounds memory and swap together; what is left for swap is not known there.
fn swaps(tree: &Tree, hierarchy: &Hierarchy) -> Fact<bool> {
    for group in &hierarchy.groups {
        let file = format!("{group}/memory.swap.max");
        if hierarchy.v2 && optional(tree.number_or_max(&file))? == Some(Some(0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn threads(tree: &Tree, hierarchy: &Hierarchy) -> Fact<Option<ThreadLimit>> {
    let mut least: Option<ThreadLimit> = None;
    for group in &hierarchy.groups {
        let file = format!("{group}/pids.max");
        let Some(Some(limit)) = optional(tree.number_or_max(&file))? else {
            continue;
        };
        let used: u64 = tree.number(&format!("{group}/pids.current"))?;
        let available = limit.saturating_sub(used);
        if least
            .as_ref()
            .is_none_or(|least| available < least.available)
        {
            least = Some(ThreadLimit {
                file,
                limit,
                available,
            });
        }
    }
    Ok(least)
}

fn cpu(tree: &Tree, hierarchy: &Hierarchy) -> Fact<Option<u64>> {
    let mut least: Option<u64> = None;
    for group in &hierarchy.groups {
        let share = if hierarchy.v2 {
            let file = format!("{group}/cpu.max");
            match optional(tree.text(&file))? {
                None => continue,
                Some(text) if text.starts_with("max") => continue,
                Some(_) => tree.numbers::<2>(&file)?,
            }
        } else {
            let quota: Option<i64> = optional(tree.number(&format!("{group}/cpu.cfs_quota_us")))?;
            match quota.map(u64::try_from) {
                Some(Ok(quota)) => [quota, tree.number(&format!("{group}/cpu.cfs_period_us"))?],
                // -1: no limit.
                _ => continue,
            }
        };
        let thousandths = share[0].saturating_mul(1000) / share[1].max(1);
        least = Some(least.map_or(thousandths, |least| least.min(thousandths)));
    }
    Ok(least)
}

/// The innermost group that says it; a set is always within that of the group around it.
fn cpus(tree: &Tree, hierarchy: &Hierarchy) -> Fact<Option<usize>> {
    let name = if hierarchy.v2 {
        "cpuset.cpus.effective"
    } else {
        "cpuset.effective_cpus"
    };
    for group in hierarchy.groups.iter().rev() {
        let file = format!("{group}/{name}");
        if let Some(text) = optional(tree.text(&file))? {
            return parse::cpu_list(&text)
                .map(|cpus| Some(cpus.len()))
                .ok_or_else(|| Unknown::malformed(&file, &text, "a list of processors"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("folders");
            fs::write(path, text).expect("written");
        }
        let tree = Tree::new(folder.path());
        (folder, tree)
    }

    #[test]
    fn every_group_around_the_process_counts() {
        let (_folder, tree) = tree(&[
            ("proc/self/cgroup", "0::/system.slice/ringwire.service\n"),
            ("sys/fs/cgroup/cgroup.controllers", "memory pids\n"),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "8000\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "5000\n"),
            (
                "sys/fs/cgroup/system.slice/memory.stat",
                "active_file 500\ninactive_file 500\nfile 9\n",
            ),
            (
                "sys/fs/cgroup/system.slice/ringwire.service/memory.max",
                "max\n",
            ),
            (
                "sys/fs/cgroup/system.slice/ringwire.service/memory.high",
                "9000\n",
            ),
            (
                "sys/fs/cgroup/system.slice/ringwire.service/memory.current",
                "100\n",
            ),
            ("sys/fs/cgroup/system.slice/memory.swap.max", "0\n"),
            (
                "sys/fs/cgroup/system.slice/ringwire.service/pids.max",
                "100\n",
            ),
            (
                "sys/fs/cgroup/system.slice/ringwire.service/pids.current",
                "30\n",
            ),
            ("sys/fs/cgroup/system.slice/cpu.max", "max 100000\n"),
            (
                "sys/fs/cgroup/system.slice/ringwire.service/cpu.max",
                "150000 100000\n",
            ),
        ]);
        let cgroup = Cgroup::read(&tree, "self");
        assert_eq!(cgroup.path, Ok("/system.slice/ringwire.service".into()));
        assert_eq!(
            cgroup.memory,
            Ok(Some(MemoryLimit {
                file: "/sys/fs/cgroup/system.slice/memory.max".into(),
                limit_bytes: 8000,
                available_bytes: 4000
            }))
        );
        let threads = cgroup.threads.expect("read").expect("limited");
        assert_eq!((threads.limit, threads.available), (100, 70));
        assert_eq!(cgroup.cpu_thousandths, Ok(Some(1500)));
        assert_eq!(cgroup.cpus, Ok(Some(8)));
        assert_eq!(cgroup.swaps, Ok(false));
    }

    #[test]
    fn version_1_counts_where_the_controller_hangs_there() {
        let (_folder, tree) = tree(&[
            (
                "proc/self/cgroup",
                "4:memory:/box\n3:cpuset:/\n1:cpu,cpuacct:/\n0::/\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "6000\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1000\n"),
            (
                "sys/fs/cgroup/memory/box/memory.stat",
                "total_inactive_file 200\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0,2\n"),
        ]);
        let cgroup = Cgroup::read(&tree, "self");
        let memory = cgroup.memory.expect("read").expect("limited");
        assert_eq!((memory.limit_bytes, memory.available_bytes), (6000, 5200));
        assert_eq!(cgroup.cpu_thousandths, Ok(None));
        assert_eq!(cgroup.cpus, Ok(Some(2)));
        // On the version 2 side, which has nothing here.
        assert_eq!(cgroup.threads, Ok(None));
    }

    #[test]
    fn what_cannot_be_seen_is_unknown() {
        let (_folder, unmounted) = tree(&[("proc/self/cgroup", "0::/a\n")]);
        let cgroup = Cgroup::read(&unmounted, "self");
        assert!(cgroup.memory.unwrap_err().is_missing());
        let (_folder, outside) = tree(&[
            ("proc/self/cgroup", "0::/../a\n"),
            ("sys/fs/cgroup/memory.max", "1\n"),
        ]);
        let error = Cgroup::read(&outside, "self").memory.unwrap_err();
        assert!(error.to_string().contains("outside"), "{error}");
        let (_folder, nonsense) = tree(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "lots\n"),
        ]);
        let error = Cgroup::read(&nonsense, "self").memory.unwrap_err();
        assert!(error.to_string().contains("\"lots\""), "{error}");
    }
}
